//! Reading a body up to a limit, inside the budget.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;

use super::budget::{Budget, Reserved};

/// Chunks below this size are joined, so that a body of many crumbs does not cost more than its bytes.
const CRUMB_BYTES: usize = 1024;

/// A body that was read to its end.
pub(super) struct Collected {
    pub(super) chunks: Vec<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) reserved: Reserved,
}

/// Why reading ended early.
pub(super) enum Stopped<B: Body> {
    /// There is more than the limit, or than the budget has left. Nothing is lost: front and rest are the body.
    TooMuch(Excess, Rewound<B>),
    /// The body broke.
    Failed(B::Error),
}

/// What there was too much for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    Limit,
    Budget,
}

/// What to do when the budget has no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdraft {
    /// Stop.
    Never,
    /// Go on: what has taken effect has to be recorded.
    UpToLimit,
}

/// A body of which the front has been read.
pub(super) struct Rewound<B> {
    pub(super) front: Vec<Bytes>,
    pub(super) reserved: Reserved,
    pub(super) rest: B,
}

/// Reads a body of at most `limit` bytes and shows each chunk to `look`.
pub(super) async fn collect<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
    limit: usize,
    budget: &Budget,
    overdraft: Overdraft,
    mut look: impl FnMut(&[u8]),
) -> Result<Collected, Stopped<B>> {
    let mut chunks = Chunks::default();
    let mut trailers = None;
    let mut reserved = budget.reserve_none();
    let stop = |excess, chunks: Chunks, reserved, rest| {
        Err(Stopped::TooMuch(excess, Rewound { front: chunks.finish(), reserved, rest }))
    };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return stop(Excess::Limit, chunks, reserved, body);
    }
    if !take(&mut reserved, announced, overdraft) {
        return stop(Excess::Budget, chunks, reserved, body);
    }
    let mut length = 0_usize;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let chunk = match frame.map_err(Stopped::Failed)?.into_data() {
            Ok(chunk) => chunk,
            Err(frame) => {
                trailers = frame.into_trailers().ok();
                continue;
            }
        };
        look(&chunk);
        length = length.saturating_add(chunk.len());
        chunks.push(chunk);
        if length > limit {
            return stop(Excess::Limit, chunks, reserved, body);
        }
        let more = length.saturating_sub(reserved.bytes());
        if !take(&mut reserved, more, overdraft) {
            return stop(Excess::Budget, chunks, reserved, body);
        }
    }
    Ok(Collected { chunks: chunks.finish(), trailers, reserved })
}

fn take(reserved: &mut Reserved, bytes: usize, overdraft: Overdraft) -> bool {
    match overdraft {
        Overdraft::Never => reserved.grow(bytes),
        Overdraft::UpToLimit => {
            reserved.grow_beyond(bytes);
            true
        }
    }
}

#[derive(Default)]
struct Chunks {
    whole: Vec<Bytes>,
    crumbs: BytesMut,
}

impl Chunks {
    fn push(&mut self, chunk: Bytes) {
        // The first one stays as it is: most small bodies come in one piece.
        if chunk.len() < CRUMB_BYTES && !self.whole.is_empty() {
            self.crumbs.extend_from_slice(&chunk);
        } else {
            self.flush();
            self.whole.push(chunk);
        }
    }

    fn flush(&mut self) {
        if !self.crumbs.is_empty() {
            self.whole.push(self.crumbs.split().freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.flush();
        self.whole
    }
}
