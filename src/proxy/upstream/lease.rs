//! A connection, lent for one exchange.

use std::time::Duration;

use futures_util::future::Either;
use http::Request;
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::multiplexed::Stream;
use super::pool::{Idle, Place, Pool};
use super::socket::Traffic;

/// A connection for one exchange. Dropped, it is closed; [`Lease::give_back`] keeps it.
pub struct Lease<B> {
    pub(super) sender: Option<Sender<B>>,
    pub(super) traffic: Traffic,
    pub(super) pool: Pool<B>,
    /// Whether it served an exchange before.
    pub is_reused: bool,
}

/// What a connection takes requests by.
pub(super) enum Sender<B> {
    Http1(SendRequest<B>),
    Http2(Stream<B>),
}

/// The version of HTTP that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseVersion {
    /// One exchange at a time.
    Http1,
    /// Many.
    Http2,
}

impl<B> Lease<B> {
    /// How many bytes were written on this connection so far, and when the last ones.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The version of HTTP that the connection speaks.
    pub fn version(&self) -> LeaseVersion {
        match &self.sender {
            Some(Sender::Http2(_)) => LeaseVersion::Http2,
            Some(Sender::Http1(_)) | None => LeaseVersion::Http1,
        }
    }

    /// A part of an answer was handed on, and nobody has asked for the next one yet. An HTTP/2 connection has room for
    /// all that its exchanges may hold: there the client's time limit is the only one.
    pub fn answer_is_held(&self) {
        if self.version() == LeaseVersion::Http1 {
            self.traffic.answer_is_held();
        }
    }

    /// The next part of an answer was asked for, or there is none.
    pub fn answer_is_taken(&self) {
        if self.version() == LeaseVersion::Http1 {
            self.traffic.answer_is_taken();
        }
    }

    /// The connection did not answer in time: it is of no more use to others either.
    pub fn retire(&self) {
        if let Some(Sender::Http2(stream)) = &self.sender
            && stream.retire()
        {
            self.traffic.cut();
        }
    }

    /// A place for what the connection becomes when it ends as one of HTTP. Its own place comes free then.
    pub(in crate::proxy) fn place_after(&self) -> Place<B> {
        self.pool.place_beside()
    }

    /// Keeps the connection for the next exchange, for at most this long.
    pub fn give_back(mut self, idle_for: Duration) {
        let upstream = self.pool.upstream.clone();
        match self.sender.take() {
            // One that still sends (the answer came early) or was closed is no use to anybody. It may finish, but not
            // take its place for ever.
            Some(Sender::Http1(sender)) if !sender.is_ready() => self.traffic.answer_is_held(),
            Some(Sender::Http1(sender)) => {
                let until = Instant::now() + idle_for.min(upstream.spec.idle_timeout);
                let mut idle = upstream.idle(self.pool.worker);
                if !upstream.is_retired() {
                    idle.push_back(Idle { sender, traffic: self.traffic.clone(), until });
                }
            }
            // It is still in the pool.
            Some(Sender::Http2(stream)) => drop(stream),
            None => {}
        }
        upstream.ring();
    }
}

impl<B> Lease<B>
where
    B: Body + 'static,
{
    /// Sends a request; an error has it back if it was never begun.
    pub fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<http::Response<Incoming>, TrySendError<Request<B>>>> + use<B> {
        match self.sender.as_mut().expect("a lease has its connection until it is given back") {
            Sender::Http1(sender) => Either::Left(sender.try_send_request(request)),
            Sender::Http2(stream) => Either::Right(stream.sender.try_send_request(request)),
        }
    }
}

impl<B> Drop for Lease<B> {
    fn drop(&mut self) {
        match self.sender.take() {
            Some(Sender::Http1(_)) => self.traffic.answer_is_held(),
            Some(Sender::Http2(stream)) => {
                drop(stream);
                self.pool.upstream.ring();
            }
            None => {}
        }
    }
}
