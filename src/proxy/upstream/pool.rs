//! The pool: connections that lie idle, and how many there are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use http::Request;
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::{ConnectError, Connected, connect};
use super::multiplexed::{Multiplexed, Stream};
use super::socket::Traffic;
use super::{UpstreamSpec, UpstreamVersion};
use crate::proxy::BoxError;

/// One upstream's connections, over all workers.
pub struct Upstream<B> {
    spec: Arc<UpstreamSpec>,
    /// Connections that are open or being opened.
    open: AtomicUsize,
    /// Where the next name look-up begins.
    turn: AtomicUsize,
    /// Rung when a connection comes back or ends.
    freed: Notify,
    waiting: AtomicUsize,
    /// The connections of each worker: a connection belongs to the runtime that made it.
    workers: Vec<Worker<B>>,
}

struct Worker<B> {
    idle: Mutex<VecDeque<Idle<B>>>,
    multiplexed: Mutex<Vec<Multiplexed<B>>>,
    /// Whoever makes a connection for many has this.
    opening: tokio::sync::Mutex<()>,
}

struct Idle<B> {
    sender: SendRequest<B>,
    traffic: Traffic,
    until: Instant,
}

/// One worker's handle of an upstream.
pub struct Pool<B> {
    upstream: Arc<Upstream<B>>,
    worker: usize,
}

/// A connection for one exchange. Dropped, it is closed; [`Lease::give_back`] keeps it.
pub struct Lease<B> {
    sender: Option<Sender<B>>,
    traffic: Traffic,
    pool: Pool<B>,
    /// Whether it served an exchange before.
    pub is_reused: bool,
}

enum Sender<B> {
    Http1(SendRequest<B>),
    Http2(Stream<B>),
}

/// Which connections will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// An idle one, else a new one.
    Any,
    /// One that was not there at this time.
    Newer(Instant),
}

/// What was free.
enum Taken<B> {
    /// A connection.
    Lease(Lease<B>),
    /// A place for one.
    Place(Place<B>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// It cannot be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// All that are allowed were busy for too long.
    #[error("all connections are busy")]
    Busy,
}

impl<B> Upstream<B> {
    /// An upstream with one place for idle connections per worker.
    pub fn new(spec: Arc<UpstreamSpec>, workers: usize) -> Arc<Upstream<B>> {
        Arc::new(Upstream {
            spec,
            open: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            workers: (0..workers).map(|_| Worker::new()).collect(),
        })
    }

    fn idle(&self, worker: usize) -> MutexGuard<'_, VecDeque<Idle<B>>> {
        // Nothing panics while it is held; should it, the queue is still whole.
        self.workers[worker].idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn multiplexed(&self, worker: usize) -> MutexGuard<'_, Vec<Multiplexed<B>>> {
        // Likewise.
        self.workers[worker].multiplexed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_place(&self) -> bool {
        let max = self.spec.max_connections;
        self.open.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |open| (open < max).then_some(open + 1)).is_ok()
    }

    fn free_place(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.ring();
    }

    fn ring(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.freed.notify_one();
        }
    }

    /// Closes a worker's connections that nobody may use any more.
    pub fn close_expired(&self, worker: usize) {
        let now = Instant::now();
        // The oldest come first; a shorter limit of one server's own is looked at when its turn comes.
        while self.idle(worker).front().is_some_and(|idle| idle.until <= now || idle.sender.is_closed()) {
            self.idle(worker).pop_front();
        }
        let limit = self.spec.idle_timeout;
        self.multiplexed(worker).retain(|connection| !connection.is_over() && !connection.has_been_idle(limit));
    }

    /// Ends the connection that has been idle the longest, of any worker. Its place comes free when it has ended.
    fn end_one_idle(&self) {
        let end_one = |worker| {
            if self.idle(worker).pop_front().is_some() {
                return true;
            }
            let mut multiplexed = self.multiplexed(worker);
            let idle = multiplexed.iter().position(Multiplexed::is_idle);
            idle.map(|idle| multiplexed.swap_remove(idle)).is_some()
        };
        (0..self.workers.len()).any(end_one);
    }
}

impl<B> Worker<B> {
    fn new() -> Worker<B> {
        Worker { idle: Mutex::default(), multiplexed: Mutex::default(), opening: tokio::sync::Mutex::default() }
    }
}

impl<B> Clone for Pool<B> {
    fn clone(&self) -> Pool<B> {
        Pool { upstream: self.upstream.clone(), worker: self.worker }
    }
}

impl<B> Pool<B> {
    /// The handle of a worker.
    pub fn new(upstream: Arc<Upstream<B>>, worker: usize) -> Pool<B> {
        Pool { upstream, worker }
    }

    /// The upstream's settings.
    pub fn spec(&self) -> &UpstreamSpec {
        &self.upstream.spec
    }

    /// The connection that was used last and still stands; older ones are the next to be given up.
    fn reuse(&self) -> Option<Lease<B>> {
        let now = Instant::now();
        loop {
            let idle = self.upstream.idle(self.worker).pop_back()?;
            if now < idle.until && idle.sender.is_ready() && idle.traffic.is_silent() {
                let Idle { sender, traffic, .. } = idle;
                return Some(self.leased(Sender::Http1(sender), traffic, true));
            }
        }
    }

    /// A part of a connection that others use too. Those of other workers will do where there is no place for one
    /// here.
    fn share(&self, want: Want, workers: impl IntoIterator<Item = usize>) -> Option<Lease<B>> {
        let opened_after = match want {
            Want::Any => None,
            Want::Newer(than) => Some(than),
        };
        let shared =
            |worker| self.upstream.multiplexed(worker).iter().find_map(|connection| connection.share(opened_after));
        let (stream, traffic) = workers.into_iter().find_map(shared)?;
        Some(self.leased(Sender::Http2(stream), traffic, true))
    }

    fn leased(&self, sender: Sender<B>, traffic: Traffic, is_reused: bool) -> Lease<B> {
        Lease { sender: Some(sender), traffic, pool: self.clone(), is_reused }
    }
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Takes a connection. Waits for a place for as long as connecting may take.
    ///
    /// # Errors
    /// [`NoConnection`]; then nothing was sent.
    pub async fn lease(&self, want: Want) -> Result<Lease<B>, NoConnection> {
        match self.take(want) {
            Some(Taken::Lease(lease)) => Ok(lease),
            // Boxed: most exchanges find a connection, and would carry the room for one that is made.
            Some(Taken::Place(place)) => Box::pin(self.open(place, want)).await,
            None => Box::pin(self.wait(want)).await,
        }
    }

    async fn wait(&self, want: Want) -> Result<Lease<B>, NoConnection> {
        let deadline = Instant::now() + self.spec().connect_timeout;
        let _waiting = Waiting::new(&self.upstream.waiting);
        loop {
            // Listening before the look: what comes back between look and wait still rings.
            let mut freed = std::pin::pin!(self.upstream.freed.notified());
            freed.as_mut().enable();
            match self.take(want) {
                Some(Taken::Lease(lease)) => return Ok(lease),
                Some(Taken::Place(place)) => return self.open(place, want).await,
                None => timeout_at(deadline, freed).await.map_err(|_| NoConnection::Busy)?,
            }
        }
    }

    /// Takes what is free at this moment.
    fn take(&self, want: Want) -> Option<Taken<B>> {
        let reused = match (self.spec().version, want) {
            (UpstreamVersion::Http1, Want::Any) => self.reuse(),
            (UpstreamVersion::Http1, Want::Newer(_)) => None,
            (UpstreamVersion::Http2, want) => self.share(want, [self.worker]),
        };
        if let Some(lease) = reused {
            return Some(Taken::Lease(lease));
        }
        if self.upstream.take_place() {
            return Some(Taken::Place(Place(self.upstream.clone())));
        }
        if let Some(lease) = self.share(want, 0..self.upstream.workers.len()) {
            return Some(Taken::Lease(lease));
        }
        self.upstream.end_one_idle();
        None
    }

    /// Opens a connection in a place that was taken.
    async fn open(&self, place: Place<B>, want: Want) -> Result<Lease<B>, NoConnection> {
        let spec = self.spec();
        if spec.version == UpstreamVersion::Http1 {
            return self.connect(place).await;
        }
        // One is made at a time: those who come meanwhile mostly share it.
        let opening = timeout(spec.connect_timeout, self.upstream.workers[self.worker].opening.lock()).await;
        let _opening = opening.map_err(|_| ConnectError::Timeout(spec.connect_timeout))?;
        match self.share(want, [self.worker]) {
            Some(lease) => Ok(lease),
            None => self.connect(place).await,
        }
    }

    async fn connect(&self, place: Place<B>) -> Result<Lease<B>, NoConnection> {
        match connect(&self.upstream.spec, &self.upstream.turn, place).await? {
            Connected::Http1(sender, traffic) => Ok(self.leased(Sender::Http1(sender), traffic, false)),
            Connected::Http2(connection) => {
                let mut multiplexed = self.upstream.multiplexed(self.worker);
                let (stream, traffic) = connection.share(None).ok_or(NoConnection::Busy)?;
                multiplexed.push(connection);
                drop(multiplexed);
                self.upstream.freed.notify_waiters();
                Ok(self.leased(Sender::Http2(stream), traffic, false))
            }
        }
    }
}

impl<B> Lease<B> {
    /// How many bytes were written on this connection so far, and when the last ones.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The version of HTTP that the connection speaks.
    pub fn version(&self) -> UpstreamVersion {
        match &self.sender {
            Some(Sender::Http2(_)) => UpstreamVersion::Http2,
            Some(Sender::Http1(_)) | None => UpstreamVersion::Http1,
        }
    }

    /// A part of an answer was handed on, and nobody has asked for the next one yet. An HTTP/2 connection has room for
    /// all that its exchanges may hold: there the client's time limit is the only one.
    pub fn answer_is_held(&self) {
        if self.version() == UpstreamVersion::Http1 {
            self.traffic.answer_is_held();
        }
    }

    /// The next part of an answer was asked for, or there is none.
    pub fn answer_is_taken(&self) {
        if self.version() == UpstreamVersion::Http1 {
            self.traffic.answer_is_taken();
        }
    }

    /// The connection did not answer in time: it is of no more use to others either.
    pub fn retire(&self) {
        if let Some(Sender::Http2(stream)) = &self.sender {
            stream.retire();
        }
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
                upstream.idle(self.pool.worker).push_back(Idle { sender, traffic: self.traffic.clone(), until });
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

/// A place for a connection; it is free again when the connection has ended, whoever used it.
pub(super) struct Place<B>(Arc<Upstream<B>>);

impl<B> Drop for Place<B> {
    fn drop(&mut self) {
        self.0.free_place();
    }
}

/// Counts one that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Waiting<'a> {
        count.fetch_add(1, Ordering::AcqRel);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
