//! The pool: connections that lie idle, and how many there are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::UpstreamSpec;
use super::connect::{ConnectError, Connected, connect};
use super::socket::Traffic;
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
    /// The idle connections of each worker: a connection belongs to the runtime that made it.
    idle: Vec<Mutex<VecDeque<Idle<B>>>>,
    /// Set when no route leads here any more: nobody will come for an idle connection.
    is_retired: AtomicBool,
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
    sender: Option<SendRequest<B>>,
    traffic: Traffic,
    pool: Pool<B>,
    /// Whether it served an exchange before.
    pub is_reused: bool,
}

/// Which connections will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// An idle one, else a new one.
    Any,
    /// A new one.
    Fresh,
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
            idle: (0..workers).map(|_| Mutex::default()).collect(),
            is_retired: AtomicBool::new(false),
        })
    }

    /// The upstream's settings.
    pub fn spec(&self) -> &UpstreamSpec {
        &self.spec
    }

    /// Closes the idle connections, and every other one when its exchange has ended.
    pub fn retire(&self) {
        // Before the look: what is given back later sees it.
        self.is_retired.store(true, Ordering::Release);
        (0..self.idle.len()).for_each(|worker| drop(std::mem::take(&mut *self.idle(worker))));
    }

    fn idle(&self, worker: usize) -> MutexGuard<'_, VecDeque<Idle<B>>> {
        // Nothing panics while it is held; should it, the queue is still whole.
        self.idle[worker].lock().unwrap_or_else(PoisonError::into_inner)
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
    }

    /// Ends the connection that has been idle the longest, of any worker. Its place comes free when it has ended.
    fn end_one_idle(&self) {
        drop((0..self.idle.len()).find_map(|worker| self.idle(worker).pop_front()));
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
                return Some(Lease { sender: Some(sender), traffic, pool: self.clone(), is_reused: true });
            }
        }
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
            Some(Taken::Place(place)) => Box::pin(self.open(place)).await,
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
                Some(Taken::Place(place)) => return self.open(place).await,
                None => timeout_at(deadline, freed).await.map_err(|_| NoConnection::Busy)?,
            }
        }
    }

    /// Takes what is free at this moment.
    fn take(&self, want: Want) -> Option<Taken<B>> {
        let reused = if want == Want::Any { self.reuse() } else { None };
        if let Some(lease) = reused {
            return Some(Taken::Lease(lease));
        }
        if self.upstream.take_place() {
            return Some(Taken::Place(Place(self.upstream.clone())));
        }
        self.upstream.end_one_idle();
        None
    }

    /// Opens a connection in a place that was taken.
    async fn open(&self, place: Place<B>) -> Result<Lease<B>, NoConnection> {
        let Connected { sender, traffic } = connect(&self.upstream.spec, &self.upstream.turn, place).await?;
        Ok(Lease { sender: Some(sender), traffic, pool: self.clone(), is_reused: false })
    }
}

impl<B> Lease<B> {
    /// How many bytes were written on this connection so far, and when the last ones.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Keeps the connection for the next exchange, for at most this long.
    pub fn give_back(mut self, idle_for: Duration) {
        let Some(sender) = self.sender.take() else { return };
        let upstream = self.pool.upstream.clone();
        // One that still sends (the answer came early) or was closed is no use to anybody. It may finish, but not take
        // its place for ever.
        if !sender.is_ready() {
            return self.traffic.answer_is_held();
        }
        let until = Instant::now() + idle_for.min(upstream.spec.idle_timeout);
        let mut idle = upstream.idle(self.pool.worker);
        if !upstream.is_retired.load(Ordering::Acquire) {
            idle.push_back(Idle { sender, traffic: self.traffic.clone(), until });
        }
        drop(idle);
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
        let sender = self.sender.as_mut().expect("a lease has its connection until it is given back");
        sender.try_send_request(request)
    }
}

impl<B> Drop for Lease<B> {
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.traffic.answer_is_held();
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
