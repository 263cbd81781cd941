//! A server process: started on its cores, waited for by a line that it prints, looked at through /proc.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// How long a server may take to start or to stop. Under callgrind both are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; killed when dropped.
pub struct Process {
    name: &'static str,
    child: Child,
    /// What it prints, until it and whatever holds its output have ended.
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command` on the cores of the list, and waits for a line that contains `ready`, which is returned.
    pub fn start(name: &'static str, command: &[&str], cores: &str, ready: &str) -> Result<(Process, String)> {
        let (reader, writer) = std::io::pipe()?;
        let child = Command::new("taskset")
            .args(["-c", cores])
            .args(command)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .map_err(|error| format!("{name}: taskset: {error}"))?;
        let process = Process { name, child, lines: read_lines(reader) };
        let line = process.wait_for(ready)?;
        Ok((process, line))
    }

    fn wait_for(&self, ready: &str) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(ready) => return Ok(line),
                Ok(line) => seen.push(line),
                Err(_) => {
                    return Err(format!("{} did not say {ready:?}; it said:\n{}", self.name, seen.join("\n")).into());
                }
            }
        }
    }

    /// CPU time of the process and its children until now, that of threads that have ended too.
    pub fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for pid in self.family()? {
            let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The name may hold blanks; it ends with the last parenthesis, and utime and stime are 11 fields behind.
            let (_, fields) = text.rsplit_once(") ").ok_or("no name in /proc")?;
            for field in fields.split(' ').skip(11).take(2) {
                ticks += field.parse::<u64>()?;
            }
        }
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Resident memory of the process and its children, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The most that was resident since [`Process::forget_peak`], in bytes.
    pub fn peak_bytes(&self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// Lets the peak begin at what is resident now.
    pub fn forget_peak(&self) -> Result<()> {
        for pid in self.family()? {
            fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        }
        Ok(())
    }

    fn status_bytes(&self, name: &str) -> Result<u64> {
        let mut total_kib = 0;
        for pid in self.family()? {
            let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no memory in /proc")?;
            total_kib += line.trim().trim_end_matches(" kB").parse::<u64>()?;
        }
        Ok(total_kib << 10)
    }

    /// Whom to send a signal.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn family(&self) -> Result<Vec<u32>> {
        let pid = self.child.id();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = text.split_whitespace().map(str::parse).collect::<std::result::Result<Vec<u32>, _>>()?;
        Ok(std::iter::once(pid).chain(children).collect())
    }

    /// Asks it to end, and waits until it has, and also whatever shares its output.
    pub fn stop(mut self) -> Result<()> {
        kill_process(self.pid(), Signal::TERM)?;
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(format!("{} does not stop", self.name).into()),
            }
        }
        let status = self.child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("{} ended with {status}; it said:\n{}", self.name, seen.join("\n")).into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx's workers go with their master only when it is asked.
        if matches!(self.child.try_wait(), Ok(None)) && kill_process(self.pid(), Signal::TERM).is_ok() {
            while self.lines.recv_timeout(PATIENCE).is_ok() {}
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read_lines(reader: PipeReader) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // Whoever no longer listens has what it wanted; the pipe is read on, so that the server never blocks on it.
        for line in BufReader::new(reader).lines().map_while(std::result::Result::ok) {
            drop(sender.send(line));
        }
    });
    receiver
}

/// A path as text, for a command line or a configuration.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
