//! Signals: the first asks for a quiet end, and somebody at the keyboard can cut it short. SIGHUP reloads.

use std::io;
use std::time::{Duration, Instant};

use super::Failure;
use super::output;
use crate::app::reload::{Cause, Reloads};

/// Signals so soon after the first are the same wish: wrappers pass on what the terminal has sent to all.
const SAME_WISH: Duration = Duration::from_millis(500);

/// What asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// SIGTERM, or SIGHUP where that is an end: a supervisor, which may well repeat itself.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
}

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hangup {
    /// The configuration is read again: see [`hangups`].
    Reloads,
    /// The terminal was closed.
    Ends,
}

/// A future that is ready when the process is asked to end. Signals that come from now on are not lost.
///
/// A Ctrl-C after that ends the process at once, with exit code 1.
pub(super) fn shutdown(hangup: Hangup) -> Result<impl Future<Output = ()>, Failure> {
    let mut signals = Signals::new(hangup).map_err(failed)?;
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

/// Asks for a reload at each SIGHUP. One that comes from now on is not lost.
#[cfg(unix)]
pub(super) fn hangups(reloads: Reloads) -> Result<impl Future<Output = ()> + Send, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = signal(SignalKind::hangup()).map_err(failed)?;
    Ok(async move {
        while hangups.recv().await.is_some() {
            reloads.ask(Cause::Signal).await;
        }
    })
}

#[cfg(not(unix))]
pub(super) fn hangups(_: Reloads) -> Result<impl Future<Output = ()> + Send, Failure> {
    Ok(std::future::ready(()))
}

fn failed(error: io::Error) -> Failure {
    Failure::Failed(format!("cannot wait for signals: {error}"))
}

/// Whether a further signal cuts the quiet end short.
fn ends_at_once(asked: Asked, since_first: Duration) -> bool {
    asked == Asked::Interrupt && since_first > SAME_WISH
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new(hangup: Hangup) -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: match hangup {
                Hangup::Ends => Some(signal(SignalKind::hangup())?),
                Hangup::Reloads => None,
            },
        })
    }

    async fn next(&mut self) -> Asked {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Asked::Terminate,
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = hangup => Asked::Terminate,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new(_: Hangup) -> io::Result<Signals> {
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
