//! Bodies on their way through the layer.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::budget::Reserved;
use super::collect::{Collected, Rewound};

/// How much of a kept body is handed on at once.
const PIECE_BYTES: usize = 64 << 10;

/// Why a client's body cannot be read to its end. A server whose bodies fail with this error lets the layer answer by
/// it; any other error counts as [`ClientBodyError::Broken`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientBodyError {
    /// It came too slowly.
    #[error("the request body came too slowly")]
    TooSlow,
    /// It is not what its framing promised.
    #[error("the request body is broken: {0}")]
    Broken(String),
    /// The client went away.
    #[error("the client went away")]
    Gone,
}

/// The body that the service behind the layer gets.
///
/// It is the client's own body where the request is not protected. Where it is, it has been read already, and
/// [`RequestBody::try_clone`] gives it once more.
pub struct RequestBody<B>(Parts<B>);

/// The body that the client gets: the service's own, or one that was recorded.
pub struct ResponseBody<B>(Parts<B>);

enum Parts<B> {
    /// As it comes.
    Passed(B),
    /// Read already.
    Kept(KeptBody),
    /// Read in part.
    Rewound(KeptBody, B),
}

/// A body that has been read, chunk by chunk as it came. Clones share the bytes.
#[derive(Clone)]
pub(super) struct KeptBody {
    chunks: VecDeque<Bytes>,
    trailers: Option<Box<HeaderMap>>,
    left_bytes: u64,
    /// Holds the bytes' place in the budget until the last clone is gone.
    _reserved: Option<Arc<Reserved>>,
}

impl KeptBody {
    pub(super) fn new(chunks: Vec<Bytes>, trailers: Option<HeaderMap>, reserved: Option<Reserved>) -> KeptBody {
        let chunks = VecDeque::from(chunks);
        let left_bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        KeptBody { chunks, trailers: trailers.map(Box::new), left_bytes, _reserved: reserved.map(Arc::new) }
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        match self.chunks.front_mut() {
            Some(chunk) => {
                // In pieces: what a slow reader has not asked for stays here, where it is counted.
                let piece = match chunk.len() > PIECE_BYTES {
                    true => chunk.split_to(PIECE_BYTES),
                    false => self.chunks.pop_front().unwrap_or_default(),
                };
                self.left_bytes -= piece.len() as u64;
                Some(Frame::data(piece))
            }
            None => self.trailers.take().map(|trailers| Frame::trailers(*trailers)),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::with_exact(self.left_bytes);
        if self.trailers.is_some() {
            // An exact length becomes a Content-Length, after which HTTP/1 has no place for trailers.
            hint = SizeHint::new();
            hint.set_lower(self.left_bytes);
        }
        hint
    }
}

impl From<Collected> for KeptBody {
    fn from(collected: Collected) -> KeptBody {
        KeptBody::new(collected.chunks, collected.trailers, Some(collected.reserved))
    }
}

impl<B> RequestBody<B> {
    pub(super) fn passed(body: B) -> RequestBody<B> {
        RequestBody(Parts::Passed(body))
    }

    pub(super) fn kept(body: KeptBody) -> RequestBody<B> {
        RequestBody(Parts::Kept(body))
    }

    pub(super) fn rewound(body: Rewound<B>) -> RequestBody<B> {
        RequestBody(Parts::rewound(body))
    }

    /// The same body once more, from where this one stands; `None` where it is the client's own.
    pub fn try_clone(&self) -> Option<RequestBody<B>> {
        match &self.0 {
            Parts::Kept(body) => Some(RequestBody(Parts::Kept(body.clone()))),
            Parts::Passed(_) | Parts::Rewound(..) => None,
        }
    }
}

impl<B> ResponseBody<B> {
    /// The service's own body, where it goes on as it comes.
    pub fn passed_through(&self) -> Option<&B> {
        match &self.0 {
            Parts::Passed(body) | Parts::Rewound(_, body) => Some(body),
            Parts::Kept(_) => None,
        }
    }

    pub(super) fn passed(body: B) -> ResponseBody<B> {
        ResponseBody(Parts::Passed(body))
    }

    pub(super) fn kept(body: KeptBody) -> ResponseBody<B> {
        ResponseBody(Parts::Kept(body))
    }

    pub(super) fn rewound(body: Rewound<B>) -> ResponseBody<B> {
        ResponseBody(Parts::rewound(body))
    }
}

/// Says how it stands, nothing of its bytes.
impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestBody").field(&self.0.name()).finish()
    }
}

/// Says how it stands, nothing of its bytes.
impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResponseBody").field(&self.0.name()).finish()
    }
}

/// A whole body in one piece, e.g. a refusal's.
impl<B> From<Bytes> for ResponseBody<B> {
    fn from(bytes: Bytes) -> ResponseBody<B> {
        let chunks = if bytes.is_empty() { Vec::new() } else { vec![bytes] };
        ResponseBody::kept(KeptBody::new(chunks, None, None))
    }
}

impl<B> Parts<B> {
    fn name(&self) -> &'static str {
        match self {
            Parts::Passed(_) => "passed",
            Parts::Kept(_) => "kept",
            Parts::Rewound(..) => "rewound",
        }
    }

    fn rewound(body: Rewound<B>) -> Parts<B> {
        Parts::Rewound(KeptBody::new(body.front, None, Some(body.reserved)), body.rest)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Parts<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self {
            Parts::Passed(body) => Pin::new(body).poll_frame(cx),
            Parts::Kept(kept) => Poll::Ready(kept.next().map(Ok)),
            Parts::Rewound(front, rest) => match front.next() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Pin::new(rest).poll_frame(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Parts::Passed(body) => body.is_end_stream(),
            Parts::Kept(kept) => kept.chunks.is_empty() && kept.trailers.is_none(),
            Parts::Rewound(front, rest) => front.chunks.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Parts::Passed(body) => body.size_hint(),
            Parts::Kept(kept) => kept.size_hint(),
            Parts::Rewound(front, rest) => {
                let rest = rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(front.left_bytes));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(front.left_bytes));
                }
                hint
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.0.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.0.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
