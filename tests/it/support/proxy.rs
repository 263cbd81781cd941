//! The program as a process of its own, with a configuration put together setting by setting.

mod output;
mod usage;

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::output::Output;
use super::client::{HOST, Request};
use super::waiting::{PATIENCE, eventually};

/// How a proxy is to be set up.
#[derive(Clone)]
pub struct Setup {
    upstream: SocketAddr,
    store: String,
    listener: Vec<(&'static str, String)>,
    upstream_settings: Vec<(&'static str, String)>,
    policy: Vec<(&'static str, String)>,
    routes: Vec<(&'static str, &'static str, String)>,
    failpoint: Option<&'static str>,
    more: Vec<(&'static str, String)>,
    environment: Vec<(&'static str, String)>,
    largest_file: Option<u64>,
}

/// A running proxy; killed when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    child: Running,
    output: Output,
    folder: TempDir,
}

/// A proxy that may not listen yet; killed when dropped.
pub struct Starting {
    child: Running,
    output: Output,
    folder: TempDir,
}

/// A process that does not outlive its test.
struct Running(Child);

/// A record, as the admin API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub state: String,
    pub attempt: u64,
    pub reason: String,
}

impl Setup {
    /// One route for everything under hold, with the shortest lease, before this upstream.
    pub fn new(upstream: SocketAddr, store: &str) -> Setup {
        Setup {
            upstream,
            store: store.to_owned(),
            listener: Vec::new(),
            upstream_settings: Vec::new(),
            policy: vec![("key", quoted("required")), ("scope", "[\"host\"]".to_owned()), ("lease", quoted("1s"))],
            routes: Vec::new(),
            failpoint: None,
            more: Vec::new(),
            environment: Vec::new(),
            largest_file: None,
        }
    }

    /// Sets something of `[listener]`, as TOML.
    pub fn listener(mut self, name: &'static str, value: impl Into<String>) -> Setup {
        set(&mut self.listener, name, value.into());
        self
    }

    /// Sets something of the upstream, as TOML.
    pub fn upstream(mut self, name: &'static str, value: impl Into<String>) -> Setup {
        set(&mut self.upstream_settings, name, value.into());
        self
    }

    /// Sets something of `[defaults]`, as TOML.
    pub fn policy(mut self, name: &'static str, value: impl Into<String>) -> Setup {
        set(&mut self.policy, name, value.into());
        self
    }

    pub fn lease(self, lease: Duration) -> Setup {
        self.policy("lease", millis(lease))
    }

    /// Lets a later duplicate execute again after an unknown outcome and this grace.
    pub fn retry(self, grace: Duration) -> Setup {
        self.policy("unknown_outcome", quoted("retry")).policy("retry_grace", millis(grace))
    }

    /// Lets duplicates wait.
    pub fn wait(self, timeout: Duration) -> Setup {
        self.policy("concurrent", quoted("wait")).policy("wait_timeout", millis(timeout))
    }

    /// Sets something of another section, as TOML: `log.level`.
    pub fn set(mut self, name: &'static str, value: impl Into<String>) -> Setup {
        set(&mut self.more, name, value.into());
        self
    }

    /// Sets a variable of the process's environment.
    pub fn environment(mut self, name: &'static str, value: &str) -> Setup {
        set(&mut self.environment, name, value.to_owned());
        self
    }

    /// How long a shutdown waits.
    pub fn grace(self, grace: Duration) -> Setup {
        self.listener("shutdown_grace", millis(grace))
    }

    /// Adds a route with a policy of its own, as an inline table's content.
    pub fn route(mut self, name: &'static str, path: &'static str, policy: &str) -> Setup {
        self.routes.push((name, path, policy.to_owned()));
        self
    }

    /// Stands still at this point.
    pub fn failpoint(mut self, name: &'static str) -> Setup {
        self.failpoint = Some(name);
        self
    }

    /// Lets no file of the process grow beyond so many bytes, as a full disk would not.
    pub fn largest_file(mut self, bytes: u64) -> Setup {
        self.largest_file = Some(bytes);
        self
    }

    /// Starts the program and waits until it listens.
    pub fn start(&self) -> Proxy {
        self.begin().listening()
    }

    /// Starts the program and does not wait.
    pub fn begin(&self) -> Starting {
        let program = env!("CARGO_BIN_EXE_onceproxy");
        let command = match self.largest_file {
            // The shell's blocks have 512 bytes; the signal that comes with the limit would end the process.
            Some(bytes) => {
                let mut shell = Command::new("sh");
                let line = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", bytes / 512);
                shell.args(["-c", &line, program]);
                shell
            }
            None => Command::new(program),
        };
        self.spawn(command, Stdio::null())
    }

    /// Starts the program with a socket that listens already, as systemd does, and does not wait.
    pub fn begin_on(&self, socket: &TcpListener) -> Starting {
        self.begin_with(socket.try_clone().expect("a descriptor").into())
    }

    /// Starts the program with a descriptor as its data socket.
    pub fn begin_with(&self, socket: OwnedFd) -> Starting {
        let mut shell = Command::new("sh");
        let line = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
        shell.args(["-c", line, env!("CARGO_BIN_EXE_onceproxy")]);
        self.spawn(shell, socket.into())
    }

    fn spawn(&self, command: Command, input: Stdio) -> Starting {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("onceproxy.toml");
        std::fs::write(&file, self.text()).expect("the configuration is written");
        let mut command = self.command(command, &file);
        let mut child = command.stdin(input).current_dir(folder.path()).spawn().expect("the program starts");
        // The descriptor in it would keep a socket open.
        drop(command);
        let output = Output::of(&mut child);
        Starting { child: Running(child), output, folder }
    }

    fn command(&self, mut command: Command, file: &Path) -> Command {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ONCEPROXY_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(["run", "-c"]).arg(file);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(name) = self.failpoint {
            command.env("ONCEPROXY_FAILPOINT", name);
        }
        command
    }

    /// The configuration.
    pub fn text(&self) -> String {
        let mut text = "version = 1\n[listener]\naddress = \"127.0.0.1:0\"\n".to_owned();
        settings(&mut text, &self.listener);
        text.push_str("[admin]\n");
        self.section(&mut text, "admin", &[("address", "\"127.0.0.1:0\"")]);
        text.push_str("[log]\n");
        self.section(&mut text, "log", &[("level", "\"info\""), ("access", "false")]);
        write!(text, "[store]\nurl = \"{}\"\n", self.store).expect("a string takes it");
        self.section(&mut text, "store", &[]);
        write!(text, "[upstreams.api]\nurl = \"http://{}\"\n", self.upstream).expect("a string takes it");
        settings(&mut text, &self.upstream_settings);
        text.push_str("[defaults]\n");
        settings(&mut text, &self.policy);
        let everything = [(ROUTE, "/{*rest}", String::new())];
        let routes = if self.routes.is_empty() { &everything[..] } else { &self.routes };
        for (name, path, policy) in routes {
            let route = format!("name = \"{name}\"\npath = \"{path}\"\nupstream = \"api\"\npolicy = {{ {policy} }}\n");
            write!(text, "[[routes]]\n{route}").expect("a string takes it");
        }
        text
    }
}

impl Setup {
    /// What was set of a section, and these where nothing was.
    fn section(&self, text: &mut String, section: &str, otherwise: &[(&'static str, &str)]) {
        let of_section = |(name, value): &(&'static str, String)| {
            let (of, name) = name.split_once('.')?;
            (of == section).then(|| (name, value.clone()))
        };
        let mut given: Vec<(&'static str, String)> = self.more.iter().filter_map(of_section).collect();
        for (name, value) in otherwise {
            if !given.iter().any(|(present, _)| present == name) {
                given.push((name, (*value).to_owned()));
            }
        }
        settings(text, &given);
    }
}

/// The name of the only route, where the test adds none.
const ROUTE: &str = "pay";

/// A string in TOML.
pub fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// A duration in TOML.
pub fn millis(duration: Duration) -> String {
    format!("\"{}ms\"", duration.as_millis())
}

fn set(settings: &mut Vec<(&'static str, String)>, name: &'static str, value: String) {
    settings.retain(|(present, _)| *present != name);
    settings.push((name, value));
}

fn settings(text: &mut String, settings: &[(&'static str, String)]) {
    for (name, value) in settings {
        writeln!(text, "{name} = {value}").expect("a string takes it");
    }
}

impl Starting {
    /// Waits until it listens.
    pub fn listening(self) -> Proxy {
        let Starting { child, output, folder } = self;
        let address = output.address("listening on ");
        let admin = output.address("admin on ");
        Proxy { address, admin, child, output, folder }
    }

    /// Waits until the process has said this.
    pub fn wait_for_line(&self, part: &str) -> String {
        self.output.wait_for(part)
    }
}

impl Proxy {
    /// The file that it runs with.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("onceproxy.toml")
    }

    /// Asks the process to read its file again.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Waits until the process stands still at its fail point.
    pub fn wait_for_failpoint(&self, name: &str) {
        self.output.wait_for(&format!("failpoint {name} reached"));
    }

    /// Waits until the process has said this.
    pub fn wait_for_line(&self, part: &str) -> String {
        self.output.wait_for(part)
    }

    /// Ends the process at once, as a power cut would, and waits for its end.
    pub fn kill(&mut self) {
        self.child.0.kill().expect("SIGKILL");
        self.child.0.wait().expect("the process has ended");
    }

    /// Stops the process in its tracks until [`Proxy::go_on`].
    pub fn stand_still(&self) {
        self.signal(Signal::STOP);
        let status = format!("/proc/{}/stat", self.child.0.id());
        eventually("the process to stand still", || {
            let text = std::fs::read_to_string(&status).expect("a process");
            // The state stands behind the name, which is in parentheses.
            text.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')).then_some(())
        });
    }

    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks the process to end.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the end of the process.
    pub fn end(&mut self) -> ExitStatus {
        eventually("the process to end", || self.child.0.try_wait().expect("a child"))
    }

    /// Everything that the process has said.
    pub fn said(&self) -> String {
        self.output.text()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child.0), signal).expect("the process is there");
    }

    /// What the admin API shows under a key of the only route.
    pub fn record(&self, key: &str) -> Option<Shown> {
        self.record_of(ROUTE, key)
    }

    /// What the admin API shows under a key of a route.
    pub fn record_of(&self, route: &str, key: &str) -> Option<Shown> {
        let asked = json!({ "route": route, "host": HOST, "headers": {}, "path": "/pay", "key": key });
        let answer =
            Request::post("/api/v1/lookup").body(asked.to_string()).send(self.admin).expect("the admin answers");
        let shown = answer.json();
        match answer.status {
            404 => None,
            200 => Some(Shown {
                state: text(&shown["state"]),
                attempt: shown["attempt"].as_u64().expect("a number"),
                reason: text(&shown["reason"]),
            }),
            status => panic!("{status}: {shown}"),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.0.kill();
        if std::thread::panicking() {
            eprintln!("-- what {} said:\n{}", self.address, self.output.text());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
