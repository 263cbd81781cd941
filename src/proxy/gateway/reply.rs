//! An answer on its way to the client, and the request that it belongs to.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{Connection, Gateway};
use crate::http::body::ResponseBody;
use crate::proxy::BoxError;
use crate::proxy::upstream::body::UpstreamBody;

/// A request that is under way, until its answer's body has gone.
pub(super) struct Active {
    pub(super) connection: Arc<Connection>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) route: Option<usize>,
    pub(super) number: usize,
    /// Whether the client waited for the answer's head.
    pub(super) is_answered: bool,
}

impl Drop for Active {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connection.activity.request_is_given_up();
        }
        self.connection.activity.request_ends();
        if let Some(route) = self.route {
            self.gateway.observer.ended(route);
        }
    }
}

/// An answer's body.
pub(in crate::proxy) struct ReplyBody {
    pub(super) body: ResponseBody<UpstreamBody>,
    pub(super) active: Active,
    /// Whether the client can hold this answer back without holding the connection.
    pub(super) is_watched: bool,
}

impl ReplyBody {
    /// Tells whether the next part of the answer is waited for by the client or the other way round.
    fn watch(&self, polled: &Poll<Option<Result<Frame<Bytes>, BoxError>>>) {
        let activity = &self.active.connection.activity;
        match polled {
            // The last part too: it may wait for the client's window like any other. The end is this body's drop.
            Poll::Ready(Some(Ok(_))) => activity.answer_is_held(self.active.number),
            _ => activity.answer_is_taken(self.active.number),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        if self.is_watched {
            self.active.connection.activity.answer_is_taken(self.active.number);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if self.is_watched {
            self.watch(&polled);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
