//! What is still to be written after its caller has gone on, or was given up: a process waits for it before it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::ledger::Shared;

#[derive(Default)]
pub(super) struct Background {
    writes: AtomicUsize,
    idle: Notify,
}

/// A write that is not done with yet; dropped when it is.
pub(super) struct Underway(Arc<Shared>);

impl Background {
    pub(super) fn writes(&self) -> usize {
        self.writes.load(Ordering::Acquire)
    }

    pub(super) async fn idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.writes() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Underway {
    pub(super) fn begin(shared: &Arc<Shared>) -> Underway {
        shared.background.writes.fetch_add(1, Ordering::AcqRel);
        Underway(shared.clone())
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let background = &self.0.background;
        if background.writes.fetch_sub(1, Ordering::AcqRel) == 1 {
            background.idle.notify_waiters();
        }
    }
}
