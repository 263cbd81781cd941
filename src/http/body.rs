//! Bodies on their way to the service: passed on as they come, or kept so that they can be sent again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::budget::Reserved;

/// The body that the service behind the layer gets.
///
/// It is the client's own body where the request is not protected. Where it is, it has been read already, and
/// [`RequestBody::try_clone`] gives it once more.
pub struct RequestBody<B>(Inner<B>);

enum Inner<B> {
    Passed(B),
    Kept(KeptBody),
}

/// A body that has been read, chunk by chunk as it came. Clones share the bytes.
#[derive(Clone)]
pub struct KeptBody {
    chunks: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    left_bytes: u64,
    /// Holds the bytes' place in the budget until the last clone is gone.
    _reserved: Option<Arc<Reserved>>,
}

impl KeptBody {
    /// Keeps these chunks and trailers.
    pub fn new(
        chunks: impl IntoIterator<Item = Bytes>,
        trailers: Option<HeaderMap>,
        reserved: Option<Reserved>,
    ) -> KeptBody {
        let chunks: VecDeque<Bytes> = chunks.into_iter().collect();
        let left_bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        KeptBody { chunks, trailers, left_bytes, _reserved: reserved.map(Arc::new) }
    }
}

impl<B> RequestBody<B> {
    /// Passes the client's own body.
    pub fn passed(body: B) -> RequestBody<B> {
        RequestBody(Inner::Passed(body))
    }

    /// Gives a body that has been read already.
    pub fn kept(body: KeptBody) -> RequestBody<B> {
        RequestBody(Inner::Kept(body))
    }

    /// The same body once more, from where this one stands; `None` where it is the client's own.
    pub fn try_clone(&self) -> Option<RequestBody<B>> {
        match &self.0 {
            Inner::Passed(_) => None,
            Inner::Kept(body) => Some(RequestBody(Inner::Kept(body.clone()))),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let kept = match &mut self.0 {
            Inner::Passed(body) => return Pin::new(body).poll_frame(cx),
            Inner::Kept(body) => body,
        };
        if let Some(chunk) = kept.chunks.pop_front() {
            kept.left_bytes -= chunk.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        Poll::Ready(kept.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Passed(body) => body.is_end_stream(),
            Inner::Kept(body) => body.chunks.is_empty() && body.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Passed(body) => body.size_hint(),
            Inner::Kept(body) => SizeHint::with_exact(body.left_bytes),
        }
    }
}
