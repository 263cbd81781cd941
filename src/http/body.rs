//! Bodies on their way through the layer.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::budget::Reserved;
use super::collect::{Collected, Rewound};
use super::spool::Spooled;

type BoxError = Box<dyn Error + Send + Sync>;

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
/// [`RequestBody::try_clone`] gives it once more; a large one may lie in a file, which can fail to be read.
pub struct RequestBody<B: Body> {
    /// What comes first, where that is in a file.
    spooled: Option<Box<Spooled>>,
    rest: Parts<B>,
    /// Kept here rather than asked of whoever names the type: `Into` of an error that is boxed already does not hold for
    /// every lifetime, and the compiler would not take a handler's future for `Send`.
    boxed: fn(B::Error) -> BoxError,
}

/// The body that the client gets: the service's own, or one that was recorded.
pub struct ResponseBody<B>(Parts<B>);

enum Parts<B> {
    /// As it comes.
    Passed(B),
    /// Read already.
    Kept(KeptBody),
    /// Read in part. Boxed: few are, and the others would carry the room for it.
    Rewound(Box<(KeptBody, B)>),
}

/// A request's body that has been read: first what is in a file, then what is in memory.
pub(super) struct ReadBody {
    spooled: Option<Box<Spooled>>,
    kept: KeptBody,
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

impl From<Collected> for ReadBody {
    fn from(collected: Collected) -> ReadBody {
        let Collected { spooled, chunks, trailers, reserved } = collected;
        ReadBody { spooled: spooled.map(Box::new), kept: KeptBody::new(chunks, trailers, Some(reserved)) }
    }
}

impl<B: Body> RequestBody<B>
where
    B::Error: Into<BoxError>,
{
    pub(super) fn passed(body: B) -> RequestBody<B> {
        RequestBody { spooled: None, rest: Parts::Passed(body), boxed: B::Error::into }
    }

    pub(super) fn read(body: ReadBody) -> RequestBody<B> {
        RequestBody { spooled: body.spooled, rest: Parts::Kept(body.kept), boxed: B::Error::into }
    }

    pub(super) fn rewound(mut body: Rewound<B>) -> RequestBody<B> {
        let spooled = body.spooled.take().map(Box::new);
        RequestBody { spooled, rest: Parts::rewound(body), boxed: B::Error::into }
    }
}

impl<B: Body> RequestBody<B> {
    /// The same body once more, from where this one stands; `None` where it is the client's own.
    pub fn try_clone(&self) -> Option<RequestBody<B>> {
        match &self.rest {
            Parts::Kept(body) => {
                Some(RequestBody { spooled: self.spooled.clone(), rest: Parts::Kept(body.clone()), boxed: self.boxed })
            }
            Parts::Passed(_) | Parts::Rewound(..) => None,
        }
    }

    fn left_in_file(&self) -> u64 {
        self.spooled.as_ref().map_or(0, |spooled| spooled.left_bytes())
    }

    /// Whether what comes next has to come from the client.
    #[cfg(feature = "proxy")]
    pub(crate) fn waits_for_client(&self) -> bool {
        match &self.rest {
            Parts::Kept(_) => false,
            Parts::Passed(_) | Parts::Rewound(..) => self.spooled.is_none(),
        }
    }
}

impl<B> ResponseBody<B> {
    /// The service's own body, where it goes on as it comes.
    pub fn passed_through(&self) -> Option<&B> {
        match &self.0 {
            Parts::Passed(body) => Some(body),
            Parts::Rewound(rewound) => Some(&rewound.1),
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
impl<B: Body> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.spooled.is_some() { "spooled" } else { self.rest.name() };
        f.debug_tuple("RequestBody").field(&name).finish()
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
        Parts::Rewound(Box::new((KeptBody::new(body.front, None, Some(body.reserved)), body.rest)))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Parts<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self {
            Parts::Passed(body) => Pin::new(body).poll_frame(cx),
            Parts::Kept(kept) => Poll::Ready(kept.next().map(Ok)),
            Parts::Rewound(rewound) => match rewound.0.next() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Pin::new(&mut rewound.1).poll_frame(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Parts::Passed(body) => body.is_end_stream(),
            Parts::Kept(kept) => kept.chunks.is_empty() && kept.trailers.is_none(),
            Parts::Rewound(rewound) => rewound.0.chunks.is_empty() && rewound.1.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Parts::Passed(body) => body.size_hint(),
            Parts::Kept(kept) => kept.size_hint(),
            Parts::Rewound(rewound) => behind(rewound.0.left_bytes, &rewound.1.size_hint()),
        }
    }
}

/// The length of a body of which the front is so long, and this is known of the rest.
fn behind(front_bytes: u64, rest: &SizeHint) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(rest.lower().saturating_add(front_bytes));
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper.saturating_add(front_bytes));
    }
    hint
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    /// The client's body's own error, or a [`std::io::Error`] of the file.
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(spooled) = &mut self.spooled {
            let piece = ready!(spooled.poll_next(cx));
            if spooled.left_bytes() == 0 {
                self.spooled = None;
            }
            if let Some(piece) = piece {
                return Poll::Ready(Some(piece.map(Frame::data).map_err(BoxError::from)));
            }
        }
        self.rest.poll_frame(cx).map_err(self.boxed)
    }

    fn is_end_stream(&self) -> bool {
        self.left_in_file() == 0 && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        behind(self.left_in_file(), &self.rest.size_hint())
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
