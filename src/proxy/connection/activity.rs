//! What a connection is doing, as its socket and its requests tell each other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Shared by a connection's socket and requests.
#[derive(Default)]
pub struct Activity {
    requests: AtomicUsize,
    has_unread_body: AtomicBool,
}

impl Activity {
    pub(super) fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 0
    }

    pub(in crate::proxy) fn request_begins(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
    }

    pub(in crate::proxy) fn request_ends(&self) {
        self.requests.fetch_sub(1, Ordering::AcqRel);
    }

    /// A request's body was given up before its end: what is left of it comes in and nobody reads it.
    pub(super) fn body_left_unread(&self) {
        self.has_unread_body.store(true, Ordering::Release);
    }

    pub(in crate::proxy) fn has_unread_body(&self) -> bool {
        self.has_unread_body.load(Ordering::Acquire)
    }
}
