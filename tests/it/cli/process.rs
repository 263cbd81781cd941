//! The program as a child process, and a small API for it to stand before.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for a process before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A command of the program, in a folder, with nothing of the tester's own settings.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onceproxy"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ONCEPROXY_")) {
        command.env_remove(name);
    }
    command
}

/// What a process left behind.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Ended {
    let output = command.output().expect("it starts");
    Ended {
        code: output.status.code().expect("no signal ended it"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs the program to its end.
pub fn onceproxy(folder: &Path, arguments: &[&str]) -> Ended {
    output(&mut command(folder, arguments))
}

/// Runs a line of a shell to its end.
pub fn shell(folder: &Path, line: &str) -> Ended {
    output(Command::new("sh").args(["-c", line]).current_dir(folder).stdin(Stdio::null()))
}

/// A program that runs on; killed when dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let (told, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for stream in streams {
            let told = told.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = told.send(line);
                }
            });
        }
        Running { child, lines, seen: Vec::new() }
    }

    /// Waits for a line with these words, and gives what is behind them.
    pub fn wait_for(&mut self, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let behind = |line: &String| line.split_once(words).map(|(_, rest)| rest.to_owned());
        loop {
            if let Some(rest) = self.seen.iter().find_map(behind) {
                return rest;
            }
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("{words:?} did not come; this did:\n{}", self.seen.join("\n")),
            }
        }
    }

    pub fn address(&mut self) -> String {
        self.wait_for("listening on ")
    }

    pub fn admin(&mut self) -> String {
        self.wait_for("admin on ")
    }

    /// The lines up to now.
    pub fn seen(&self) -> String {
        self.seen.join("\n")
    }

    /// Ends it by SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name]).arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Asks it to end, and gives its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().expect("it ends").code()
    }

    /// Presses Ctrl-C until it has ended, and gives its exit code.
    pub fn interrupt(mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => self.signal("INT"),
                Err(RecvTimeoutError::Timeout) => panic!("it does not end; it said:\n{}", self.seen()),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().expect("it ends").code(),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An API that counts its POSTs: the answer to the first is `effect 1`.
pub struct Api {
    pub address: SocketAddr,
    effects: Arc<AtomicUsize>,
}

impl Api {
    pub fn start() -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let effects = Arc::new(AtomicUsize::new(0));
        let counted = effects.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let effects = counted.clone();
                thread::spawn(move || answer(stream, &effects));
            }
        });
        Api { address, effects }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn effects(&self) -> usize {
        self.effects.load(Ordering::SeqCst)
    }
}

fn answer(stream: TcpStream, effects: &AtomicUsize) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let is_post = line.starts_with("POST");
        let mut length = 0;
        loop {
            let mut field = String::new();
            reader.read_line(&mut field).ok()?;
            match field.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
                Some(_) => {}
                None => break,
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        let number = if is_post { effects.fetch_add(1, Ordering::SeqCst) + 1 } else { effects.load(Ordering::SeqCst) };
        let body = format!("effect {number}");
        write!(writer, "HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{body}", body.len()).ok()?;
    }
}

/// An HTTP answer as curl prints it.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: HashMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    pub fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).expect("a problem document");
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Reads what `curl -i` printed.
pub fn answer_of(ended: &Ended) -> Answer {
    assert_eq!(ended.code, 0, "{ended:?}");
    let (head, body) = ended.out.split_once("\r\n\r\n").expect("a head and a body");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status").parse().expect("a number");
    let fields = lines.filter_map(|line| line.split_once(": "));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Answer { status, fields, body: body.to_owned() }
}

/// A POST with a key to a host of its own name, so that its scope does not depend on the port.
pub fn post(address: &str, key: &str, more: &[&str]) -> Answer {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-i", "-m", "10", "-H", "Host: api.example.com", "-d", "pay", "-H"]);
    curl.arg(format!("Idempotency-Key: {key}")).args(more).arg(format!("http://{address}/payments?a=1"));
    answer_of(&output(&mut curl))
}
