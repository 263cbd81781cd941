//! What a process says on standard output and standard error, line by line.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use super::PATIENCE;

pub(super) struct Output(Arc<Shared>);

#[derive(Default)]
struct Shared {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    /// How many of the two streams have ended.
    ended: usize,
}

impl Output {
    pub(super) fn of(child: &mut Child) -> Output {
        let output = Output(Arc::default());
        output.listen(child.stdout.take().expect("standard output is piped"));
        output.listen(child.stderr.take().expect("standard error is piped"));
        output
    }

    fn listen(&self, stream: impl Read + Send + 'static) {
        let shared = self.0.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                shared.lock().lines.push(line);
                shared.more.notify_all();
            }
            shared.lock().ended += 1;
            shared.more.notify_all();
        });
    }

    /// Waits for a line with this in it.
    pub(super) fn wait_for(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut said = self.0.lock();
        loop {
            if let Some(line) = said.lines.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let over = said.ended == 2 || left.is_zero();
            assert!(!over, "the process never said {part:?}, but:\n{}", said.lines.join("\n"));
            said = self.0.more.wait_timeout(said, left).expect("nobody panics in here").0;
        }
    }

    /// Waits for a line with an address behind these words.
    pub(super) fn address(&self, words: &str) -> SocketAddr {
        let line = self.wait_for(words);
        let rest = line.split(words).nth(1).unwrap_or_default();
        let rest = rest.strip_prefix("http://").unwrap_or(rest);
        let address: String = rest.chars().take_while(|c| c.is_ascii_hexdigit() || ".:[]".contains(*c)).collect();
        address.parse().unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    pub(super) fn text(&self) -> String {
        self.0.lock().lines.join("\n")
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Said> {
        // A failed assertion is no reason to hide the others.
        self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
