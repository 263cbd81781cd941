//! The pool: connections that lie idle, and how many there are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::addresses::Addresses;
use super::connect::{ConnectError, Connected, connect};
use super::lease::{Lease, Sender};
use super::multiplexed::Multiplexed;
use super::socket::Traffic;
use super::{Transport, UpstreamSpec};
use crate::proxy::BoxError;

/// One upstream's connections, over all workers.
pub struct Upstream<B> {
    pub(super) spec: Arc<UpstreamSpec>,
    /// Connections that are open or being opened.
    open: AtomicUsize,
    /// Which of its name's addresses are next.
    addresses: Addresses,
    /// Rung when a connection comes back or ends.
    freed: Notify,
    waiting: AtomicUsize,
    /// What the last new connection speaks.
    chose_http1: AtomicBool,
    /// The connections of each worker: a connection belongs to the runtime that made it.
    workers: Vec<Worker<B>>,
    /// Set when no route leads here any more: nobody will come for an idle connection.
    is_retired: AtomicBool,
}

struct Worker<B> {
    idle: Mutex<VecDeque<Idle<B>>>,
    multiplexed: Mutex<Vec<Multiplexed<B>>>,
    /// Whoever makes a connection for many has this.
    opening: tokio::sync::Mutex<()>,
}

/// A connection that waits for its next exchange.
pub(super) struct Idle<B> {
    pub(super) sender: SendRequest<B>,
    pub(super) traffic: Traffic,
    pub(super) until: Instant,
}

/// One worker's handle of an upstream.
pub struct Pool<B> {
    pub(super) upstream: Arc<Upstream<B>>,
    pub(super) worker: usize,
}

/// Which connections will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// An idle one, else a new one.
    Any,
    /// The same, but an idle one is looked at when its first byte is written, not before: what ends in between costs
    /// another try and no answer. The request has to be kept for that.
    AnyUnseen,
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
            addresses: Addresses::default(),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            chose_http1: AtomicBool::new(false),
            workers: (0..workers).map(|_| Worker::new()).collect(),
            is_retired: AtomicBool::new(false),
        })
    }

    /// The upstream's settings.
    pub fn spec(&self) -> &UpstreamSpec {
        &self.spec
    }

    /// Closes the idle connections, and every other one when its exchanges have ended.
    pub fn retire(&self) {
        // Before the look: what is given back or made later sees it.
        self.is_retired.store(true, Ordering::Release);
        for worker in 0..self.workers.len() {
            drop(std::mem::take(&mut *self.idle(worker)));
            drop(std::mem::take(&mut *self.multiplexed(worker)));
        }
    }

    /// Whether nobody will come for an idle connection. To be asked under the lock of those that there are.
    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    pub(super) fn idle(&self, worker: usize) -> MutexGuard<'_, VecDeque<Idle<B>>> {
        // Nothing panics while it is held; should it, the queue is still whole.
        self.workers[worker].idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn multiplexed(&self, worker: usize) -> MutexGuard<'_, Vec<Multiplexed<B>>> {
        // Likewise.
        self.workers[worker].multiplexed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a new connection may be one for many.
    fn may_speak_http2(&self) -> bool {
        match &self.spec.transport {
            Transport::Tcp | Transport::Unix(_) => false,
            Transport::H2c => true,
            Transport::Tls(_) => !self.chose_http1.load(Ordering::Relaxed),
        }
    }

    fn take_place(&self) -> bool {
        let max = self.spec.max_connections;
        self.open.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |open| (open < max).then_some(open + 1)).is_ok()
    }

    fn free_place(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.ring();
    }

    pub(super) fn ring(&self) {
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

    /// A place for a connection that stands already.
    pub(super) fn place_beside(&self) -> Place<B> {
        self.upstream.open.fetch_add(1, Ordering::AcqRel);
        Place(self.upstream.clone())
    }

    /// The upstream's settings.
    pub fn spec(&self) -> &UpstreamSpec {
        &self.upstream.spec
    }

    /// The connection that was used last and still stands; older ones are the next to be given up.
    fn reuse(&self, want: Want) -> Option<Lease<B>> {
        let stands = match want {
            Want::Any => Traffic::is_silent,
            Want::AnyUnseen => Traffic::will_be_looked_at,
            Want::Newer(_) => return None,
        };
        let now = Instant::now();
        loop {
            let idle = self.upstream.idle(self.worker).pop_back()?;
            if now < idle.until && idle.sender.is_ready() && stands(&idle.traffic) {
                let Idle { sender, traffic, .. } = idle;
                return Some(self.leased(Sender::Http1(sender), traffic, true));
            }
        }
    }

    /// A part of a connection that others use too. Those of other workers will do where there is no place for one
    /// here.
    fn share(&self, want: Want, workers: impl IntoIterator<Item = usize>) -> Option<Lease<B>> {
        let opened_after = match want {
            Want::Any | Want::AnyUnseen => None,
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
        if let Some(lease) = self.reuse(want).or_else(|| self.share(want, [self.worker])) {
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
        if !self.upstream.may_speak_http2() {
            return self.connect(place).await;
        }
        // One is made at a time: those who come meanwhile mostly share it.
        let opening = timeout(spec.connect_timeout, self.upstream.workers[self.worker].opening.lock()).await;
        let opening = opening.map_err(|_| ConnectError::Timeout(spec.connect_timeout))?;
        if !self.upstream.may_speak_http2() {
            // It chose HTTP/1.1 meanwhile: everybody needs one.
            drop(opening);
            return self.connect(place).await;
        }
        match self.share(want, [self.worker]) {
            Some(lease) => Ok(lease),
            None => self.connect(place).await,
        }
    }

    async fn connect(&self, place: Place<B>) -> Result<Lease<B>, NoConnection> {
        match connect(&self.upstream.spec, &self.upstream.addresses, place).await? {
            Connected::Http1(sender, traffic) => {
                self.upstream.chose_http1.store(true, Ordering::Relaxed);
                Ok(self.leased(Sender::Http1(sender), traffic, false))
            }
            Connected::Http2(connection) => {
                self.upstream.chose_http1.store(false, Ordering::Relaxed);
                let mut multiplexed = self.upstream.multiplexed(self.worker);
                let (stream, traffic) = connection.share(None).ok_or(NoConnection::Busy)?;
                if !self.upstream.is_retired() {
                    multiplexed.push(connection);
                }
                drop(multiplexed);
                self.upstream.freed.notify_waiters();
                Ok(self.leased(Sender::Http2(stream), traffic, false))
            }
        }
    }
}

/// A place for a connection; it is free again when the connection has ended, whoever used it.
pub(in crate::proxy) struct Place<B>(Arc<Upstream<B>>);

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

#[cfg(test)]
mod tests;
