//! Reading a body up to a limit, inside the budget, and into a file where it is large.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use tracing::warn;

use super::budget::{Budget, Reserved};
use super::spool::{BESIDE_FILE_BYTES, IN_MEMORY_BYTES, PIECE_BYTES, Spool, Spooled, Spooling};

/// Chunks below this size are joined, so that a body of many crumbs does not cost more than its bytes.
const CRUMB_BYTES: usize = 1024;

/// Where a body goes.
pub(super) struct Room<'a> {
    /// The most that is read, in bytes.
    pub(super) limit: usize,
    /// What is in memory counts here, as it comes: what is only announced takes no room from others.
    pub(super) budget: &'a Budget,
    /// Up to so many bytes are taken also when the budget has no more.
    pub(super) overdraft_bytes: usize,
    /// Takes what is above [`IN_MEMORY_BYTES`]; without one everything is in memory.
    pub(super) spool: Option<&'a Spool>,
}

/// A body that was read to its end: first what is in a file, then the chunks.
pub(super) struct Collected {
    pub(super) spooled: Option<Spooled>,
    pub(super) chunks: Vec<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) reserved: Reserved,
}

/// Why reading ended early.
pub(super) enum Stopped<B: Body> {
    /// There is more than the limit, or than there is room for. Nothing is lost: front and rest are the body.
    TooMuch(Excess, Rewound<B>),
    /// The body broke.
    Failed(B::Error),
}

/// What there was too much for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    Limit,
    Room,
}

/// A body of which the front has been read: first what is in a file, then the chunks.
pub(super) struct Rewound<B> {
    pub(super) spooled: Option<Spooled>,
    pub(super) front: Vec<Bytes>,
    pub(super) reserved: Reserved,
    pub(super) rest: B,
}

/// Reads a body and shows each chunk to `look`.
pub(super) async fn collect<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
    room: Room<'_>,
    mut look: impl FnMut(&[u8]),
) -> Result<Collected, Stopped<B>> {
    let mut held = Held::new(&room);
    let mut trailers = None;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > room.limit {
        return Err(held.stop(Excess::Limit, body));
    }
    if !room.may_hold(announced) {
        return Err(held.stop(Excess::Room, body));
    }
    let mut length = 0_usize;
    loop {
        let frame = match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(Stopped::Failed(error)),
            None => return Ok(held.finish(trailers)),
        };
        let chunk = match frame.into_data() {
            Ok(chunk) => chunk,
            Err(frame) => {
                trailers = frame.into_trailers().ok();
                continue;
            }
        };
        look(&chunk);
        length = length.saturating_add(chunk.len());
        held.chunks.push(chunk);
        if length > room.limit {
            return Err(held.stop(Excess::Limit, body));
        }
        if !held.settle().await {
            return Err(held.stop(Excess::Room, body));
        }
    }
}

impl Room<'_> {
    /// Whether there is room for so many bytes as things are now: who announces more need not send them.
    fn may_hold(&self, bytes: usize) -> bool {
        match self.spool {
            Some(spool) if bytes > IN_MEMORY_BYTES => bytes <= spool.free_bytes(),
            _ => bytes <= self.overdraft_bytes || bytes <= self.budget.free_bytes(),
        }
    }
}

/// What has been read of a body.
struct Held<'a> {
    room: &'a Room<'a>,
    chunks: Chunks,
    reserved: Reserved,
    spooling: Option<Spooling>,
}

impl<'a> Held<'a> {
    fn new(room: &'a Room<'a>) -> Held<'a> {
        Held { room, chunks: Chunks::default(), reserved: room.budget.reserve_none(), spooling: None }
    }

    /// Counts what has come, and writes it to a file where it is more than is held in memory. Says whether there was
    /// room.
    async fn settle(&mut self) -> bool {
        let spool = self.room.spool.filter(|_| self.chunks.bytes > IN_MEMORY_BYTES);
        let needed = if spool.is_some() { self.chunks.bytes.max(BESIDE_FILE_BYTES) } else { self.chunks.bytes };
        let more = needed.saturating_sub(self.reserved.bytes());
        if !self.reserved.grow(more) {
            if self.chunks.bytes > self.room.overdraft_bytes {
                return false;
            }
            self.reserved.grow_beyond(more);
        }
        match spool {
            // Boxed: few bodies are large, and the others would carry the room for it.
            Some(spool) => Box::pin(self.write_out(spool)).await,
            None => true,
        }
    }

    async fn write_out(&mut self, spool: &Spool) -> bool {
        let chunks = self.chunks.take();
        let spooling = self.spooling.get_or_insert_with(|| Spooling::new(spool.clone()));
        match spooling.write(chunks.clone()).await {
            Ok(()) => true,
            Err(error) => {
                warn!(%error, "a request's body cannot be written to the spool");
                self.chunks = Chunks::from(chunks);
                false
            }
        }
    }

    fn finish(self, trailers: Option<HeaderMap>) -> Collected {
        let (spooled, chunks, reserved) = self.parts();
        Collected { spooled, chunks, trailers, reserved }
    }

    fn stop<B: Body>(self, excess: Excess, rest: B) -> Stopped<B> {
        let (spooled, front, reserved) = self.parts();
        Stopped::TooMuch(excess, Rewound { spooled, front, reserved, rest })
    }

    fn parts(self) -> (Option<Spooled>, Vec<Bytes>, Reserved) {
        let Held { chunks, mut reserved, spooling, .. } = self;
        let bytes = chunks.bytes;
        let mut chunks = chunks.finish();
        let spooled = spooling.and_then(Spooling::finish);
        if spooled.is_some() {
            // A piece will be in memory when it is read. The end of a large body is a small part of a larger buffer.
            reserved.shrink_to(bytes + PIECE_BYTES);
            chunks = if bytes == 0 { Vec::new() } else { vec![Bytes::from(chunks.concat())] };
        }
        (spooled, chunks, reserved)
    }
}

#[derive(Default)]
struct Chunks {
    whole: Vec<Bytes>,
    crumbs: BytesMut,
    bytes: usize,
}

impl From<Vec<Bytes>> for Chunks {
    fn from(whole: Vec<Bytes>) -> Chunks {
        Chunks { bytes: whole.iter().map(Bytes::len).sum(), whole, crumbs: BytesMut::new() }
    }
}

impl Chunks {
    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
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

    /// Takes everything out.
    fn take(&mut self) -> Vec<Bytes> {
        std::mem::take(self).finish()
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.flush();
        self.whole
    }
}
