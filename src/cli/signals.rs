//! Signals: the first asks for a quiet end, and somebody at the keyboard can cut it short.

use std::io;
use std::time::{Duration, Instant};

use super::Failure;
use super::output;

/// Signals so soon after the first are the same wish: wrappers pass on what the terminal has sent to all.
const SAME_WISH: Duration = Duration::from_millis(500);

/// What asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// SIGTERM: a supervisor, which may well repeat itself.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
}

/// A future that is ready when the process is asked to end. Signals that come from now on are not lost.
///
/// A Ctrl-C after that ends the process at once, with exit code 1.
pub(super) fn shutdown() -> Result<impl Future<Output = ()>, Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::Failed(format!("cannot wait for signals: {error}")))?;
    Ok(async move {
        signals.next().await;
        let first = Instant::now();
        tokio::spawn(async move {
            while !ends_at_once(signals.next().await, first.elapsed()) {}
            output::complain("ended at once, without draining");
            std::process::exit(1);
        });
    })
}

/// Whether a further signal cuts the quiet end short.
fn ends_at_once(asked: Asked, since_first: Duration) -> bool {
    asked == Asked::Interrupt && since_first > SAME_WISH
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.interrupt.recv() => Asked::Interrupt,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) -> Asked {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Asked::Interrupt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_interrupt_cuts_a_quiet_end_short() {
        let later = SAME_WISH * 2;
        assert!(ends_at_once(Asked::Interrupt, later));
        assert!(!ends_at_once(Asked::Interrupt, SAME_WISH));
        assert!(!ends_at_once(Asked::Terminate, later));
    }
}
