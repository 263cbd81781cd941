//! A Redis of our own, without persistence, and its counts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use crate::Result;
use crate::cores::Cores;
use crate::process::{Process, free_port, text};

/// A running Redis.
pub struct Redis {
    address: SocketAddr,
    /// For questions; kept open, because an end is a read too.
    questions: TcpStream,
    _process: Process,
}

/// What Redis has counted since it was started.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// How often it read from a connection.
    pub reads: u64,
    /// Calls by command, those from scripts too.
    pub calls: BTreeMap<String, u64>,
}

impl Redis {
    pub fn start(folder: &Path, cores: Cores) -> Result<Redis> {
        let port = free_port()?;
        let number = port.to_string();
        let command = [
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--port",
            &number,
            "--dir",
            text(folder)?,
            "--save",
            "",
            "--appendonly",
            "no",
            "--maxmemory-policy",
            "noeviction",
        ];
        let (process, _) = Process::start("redis-server", &command, cores.other_list(), "Ready to accept connections")?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Redis { address, questions: TcpStream::connect(address)?, _process: process })
    }

    /// As `[store] url` takes it.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Asks for the counts.
    pub fn counts(&self) -> Result<Counts> {
        let info = self.info()?;
        let mut counts = Counts::default();
        for line in info.lines() {
            if let Some(value) = line.strip_prefix("total_reads_processed:") {
                counts.reads = value.parse()?;
            } else if let Some((command, rest)) = line.strip_prefix("cmdstat_").and_then(|rest| rest.split_once(':')) {
                let calls = rest.strip_prefix("calls=").and_then(|rest| rest.split(',').next()).unwrap_or_default();
                counts.calls.insert(command.to_uppercase(), calls.parse()?);
            }
        }
        Ok(counts)
    }

    fn info(&self) -> Result<String> {
        (&self.questions).write_all(b"INFO all\r\n")?;
        let mut reader = BufReader::new(&self.questions);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length: usize = line.trim_end().strip_prefix('$').ok_or_else(|| format!("INFO said {line:?}"))?.parse()?;
        // The line's end behind the text belongs to the answer.
        let mut text = vec![0; length + 2];
        reader.read_exact(&mut text)?;
        text.truncate(length);
        Ok(String::from_utf8(text)?)
    }
}

impl Counts {
    /// What was counted from `earlier` to `self`, without the asking.
    pub fn since(&self, earlier: &Counts) -> Counts {
        let mut calls = self.calls.clone();
        calls.remove("INFO");
        for (command, count) in &mut calls {
            *count -= earlier.calls.get(command).copied().unwrap_or(0);
        }
        calls.retain(|_, count| *count > 0);
        // Each question is counted as a read just before it is answered.
        Counts { reads: self.reads - earlier.reads - 1, calls }
    }
}
