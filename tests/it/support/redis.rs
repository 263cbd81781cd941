//! Private Redis servers on free ports.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis server in a folder of its own, which ends when dropped.
pub struct RedisServer {
    port: u16,
    child: Child,
    settings: Vec<String>,
    folder: tempfile::TempDir,
}

impl RedisServer {
    /// A server that keeps everything in memory only.
    pub fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// A server with settings as on redis-server's command line: `["--maxmemory", "2mb"]`.
    pub fn start_with(settings: &[&str]) -> RedisServer {
        let folder = tempfile::tempdir().expect("a folder");
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        loop {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
            if let Some(child) = launch(port, folder.path(), &settings) {
                return RedisServer { port, child, settings, folder };
            }
            // Somebody else took the port in between.
        }
    }

    /// A replica of this server, which has taken over all that is there.
    pub fn replica(&self) -> RedisServer {
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &self.port.to_string()]);
        let deadline = Instant::now() + PATIENCE;
        while !replica.info("replication").contains("master_link_status:up") {
            assert!(Instant::now() < deadline, "the replica does not follow");
            std::thread::sleep(Duration::from_millis(10));
        }
        replica
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Sends a command beside everything that is tested.
    pub fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        ask(self.port, words)
    }

    pub fn set(&self, setting: &str, value: &str) {
        self.command::<()>(&["CONFIG", "SET", setting, value]);
    }

    pub fn info(&self, section: &str) -> String {
        self.command(&["INFO", section])
    }

    /// How often a command was called, as the server counts; inside of scripts too.
    pub fn calls(&self, command: &str) -> u64 {
        let start = format!("cmdstat_{command}:calls=");
        let info = self.info("commandstats");
        let line = info.lines().find_map(|line| line.strip_prefix(&start));
        line.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().expect("a number"))
    }

    /// Ends the server without a word to it.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it was a child");
    }

    /// Starts the server again on its port, after [`RedisServer::kill`].
    pub fn start_again(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(child) = launch(self.port, self.folder.path(), &self.settings) {
                self.child = child;
                return;
            }
            assert!(Instant::now() < deadline, "the port {} is not free again", self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the server's process, which leaves its connections open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the server is there");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}/0")
}

fn ask<T: FromRedisValue>(port: u16, words: &[&str]) -> RedisResult<T> {
    let client = redis::Client::open(url(port))?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query(&mut connection)
}

/// Starts a server, and waits until it answers; `None` when it ended instead.
fn launch(port: u16, folder: &std::path::Path, settings: &[String]) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--repl-diskless-sync-delay", "0"])
        .args(settings)
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server has to be installed: the tests of the Redis store need it");
    let deadline = Instant::now() + PATIENCE;
    loop {
        if child.try_wait().expect("it is a child").is_some() {
            return None;
        }
        // Another server on the port answers with another process id.
        if let Ok(info) = ask::<String>(port, &["INFO", "server"])
            && info.contains(&format!("process_id:{}\r", child.id()))
        {
            return Some(child);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("redis-server does not come up");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
