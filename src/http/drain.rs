//! The end of a process that has executions under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// Counts what is under way, and tells it when there is no more time. Clones share everything.
///
/// ```
/// use onceproxy::http::drain::Drain;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let drain = Drain::new();
/// let running = drain.begin();
/// assert_eq!(drain.running(), 1);
/// drop(running);
/// drain.idle().await;
/// # }
/// ```
#[derive(Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

struct Shared {
    running: AtomicUsize,
    idle: Notify,
    over: watch::Sender<bool>,
}

/// Something under way; dropped when it has ended.
pub struct Running(Arc<Shared>);

impl Drain {
    /// Nothing is under way.
    pub fn new() -> Drain {
        let shared = Shared { running: AtomicUsize::new(0), idle: Notify::new(), over: watch::Sender::new(false) };
        Drain { shared: Arc::new(shared) }
    }

    /// Something begins.
    pub fn begin(&self) -> Running {
        self.shared.running.fetch_add(1, Ordering::AcqRel);
        Running(self.shared.clone())
    }

    /// How much is under way.
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::Acquire)
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.shared.idle.notified());
            idle.as_mut().enable();
            if self.running() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Says that the time is over: executions record what they know and end.
    pub fn time_is_over(&self) {
        self.shared.over.send_replace(true);
    }

    /// Whether the time is over: nothing may begin any more.
    pub fn is_over(&self) -> bool {
        *self.shared.over.borrow()
    }

    /// Waits until the time is over.
    pub async fn over(&self) {
        let mut over = self.shared.over.subscribe();
        // The sender lives in what we hold, so the wait cannot fail.
        let _ = over.wait_for(|over| *over).await;
    }
}

impl Default for Drain {
    fn default() -> Drain {
        Drain::new()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
