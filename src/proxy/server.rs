//! The server: one current-thread runtime per core behind one acceptor, and their end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{interval, timeout};
use tracing::{info, warn};

use crate::http::drain::{Drain, Running};
use crate::http::layer::IdempotencyLayer;
use crate::ledger::Ledger;
use crate::proxy::connection::activity::Activity;
use crate::proxy::connection::{self, Arrival, Leave};
use crate::proxy::forward::Forward;
use crate::proxy::gateway::{Gateway, Observer};
use crate::proxy::headers::Via;
use crate::proxy::listener::address::PeerAddress;
use crate::proxy::listener::{Detached, Listener, ListenerSpec, accept};
use crate::proxy::router::{RouteSpec, Router};
use crate::proxy::tls::ServerTls;
use crate::proxy::upstream::UpstreamSpec;
use crate::proxy::upstream::body::Sent;
use crate::proxy::upstream::pool::{Pool, Upstream};

/// How long executions may take to record what they know when the time is over.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the last answers may take to leave.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How often idle upstream connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Everything that a proxy is made of.
#[derive(Clone)]
pub struct Blueprint {
    /// The data listener.
    pub listener: ListenerSpec,
    /// Its certificates, where it speaks TLS.
    pub tls: Option<Arc<ServerTls>>,
    /// The routes.
    pub routes: Arc<[RouteSpec]>,
    /// How requests find them.
    pub router: Arc<Router>,
    /// Makes the layers, one per route, on each worker's runtime: a store's connections belong to one.
    pub layers: Arc<dyn Fn() -> Vec<IdempotencyLayer> + Send + Sync>,
    /// Hears of every request.
    pub observer: Arc<dyn Observer>,
    /// The executions under way; the layers have it too.
    pub drain: Drain,
    /// The ledger of the layers, which may write on when an execution has been answered.
    pub ledger: Ledger,
    /// How many workers there are; one per core is best.
    pub workers: usize,
}

/// How far a shutdown has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// Requests under way are answered, connections end after them.
    Leaving,
    Over,
}

/// How a worker hears of the shutdown.
struct Stages {
    stage: watch::Receiver<Stage>,
    /// Set when the stage is about to be [`Stage::Leaving`].
    is_leaving: Arc<AtomicBool>,
}

/// A connection on its way to a worker.
pub(super) struct Accepted {
    pub(super) stream: Detached,
    pub(super) address: PeerAddress,
    pub(super) activity: Arc<Activity>,
    pub(super) place: OwnedSemaphorePermit,
    pub(super) open: Running,
}

struct Worker {
    inbox: mpsc::UnboundedSender<Accepted>,
    connections: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// The worker threads.
pub(super) struct Workers(Vec<Worker>);

impl Workers {
    /// Hands a connection to the worker with the fewest.
    pub(super) fn hand_over(&self, accepted: Accepted) {
        let least = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        if let Some(worker) = least {
            worker.connections.fetch_add(1, Ordering::Relaxed);
            // A worker that is gone takes no connection; it is closed.
            let _ = worker.inbox.send(accepted);
        }
    }
}

/// Serves until `shutdown`, then drains: no new connections, requests under way are answered for as long as the grace
/// lasts, and executions that are left record what they know. What the ledger writes in the background has as long.
///
/// # Errors
/// When no worker can be started.
pub async fn serve(blueprint: Blueprint, listener: Listener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let stage = watch::Sender::new(Stage::Serving);
    let is_leaving = Arc::new(AtomicBool::new(false));
    let connections = Drain::new();
    let upstreams = Upstreams::new(&blueprint);
    let via = Via::random();
    let workers = (0..blueprint.workers)
        .map(|worker| {
            start(
                worker,
                &blueprint,
                &upstreams,
                &via,
                Stages { stage: stage.subscribe(), is_leaving: is_leaving.clone() },
            )
        })
        .collect::<io::Result<Vec<Worker>>>()?;
    let mut workers = Workers(workers);
    tokio::select! {
        () = accept(&listener, blueprint.listener.max_connections, &workers, &connections) => {}
        () = shutdown => {}
    }
    drop(listener);
    is_leaving.store(true, Ordering::Release);
    stage.send_replace(Stage::Leaving);
    let (drain, ledger) = (&blueprint.drain, &blueprint.ledger);
    let recorded = async {
        drain.idle().await;
        ledger.idle().await;
    };
    let idle = async {
        connections.idle().await;
        drain.idle().await;
        ledger.idle().await;
    };
    if timeout(blueprint.listener.shutdown_grace, idle).await.is_err() {
        warn!(
            executions = drain.running(),
            writes = ledger.background(),
            connections = connections.running(),
            "the time for a quiet end is over"
        );
        drain.time_is_over();
        if timeout(LAST_WORDS, recorded).await.is_err() {
            warn!(executions = drain.running(), writes = ledger.background(), "executions were left behind");
        }
        // Their answers are on the way to whoever still listens.
        let _ = timeout(LAST_ANSWERS, connections.idle()).await;
    }
    stage.send_replace(Stage::Over);
    let threads: Vec<JoinHandle<()>> = workers.0.iter_mut().filter_map(|worker| worker.thread.take()).collect();
    let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    let _ = joined.await;
    info!("drained");
    Ok(())
}

/// The upstreams of the routes, each once.
struct Upstreams {
    by_route: Vec<Arc<Upstream<Sent>>>,
}

impl Upstreams {
    fn new(blueprint: &Blueprint) -> Upstreams {
        let mut known: Vec<(Arc<UpstreamSpec>, Arc<Upstream<Sent>>)> = Vec::new();
        let by_route = blueprint
            .routes
            .iter()
            .map(|route| match known.iter().find(|(spec, _)| spec.name == route.upstream.name) {
                Some((_, upstream)) => upstream.clone(),
                None => {
                    let upstream = Upstream::new(route.upstream.clone(), blueprint.workers);
                    known.push((route.upstream.clone(), upstream.clone()));
                    upstream
                }
            })
            .collect();
        Upstreams { by_route }
    }
}

fn start(index: usize, blueprint: &Blueprint, upstreams: &Upstreams, via: &Via, stages: Stages) -> io::Result<Worker> {
    let (inbox, accepted) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (blueprint, via, count) = (blueprint.clone(), via.clone(), connections.clone());
    let by_route = upstreams.by_route.clone();
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        runtime.block_on(async move {
            let forwards = blueprint
                .routes
                .iter()
                .zip(&by_route)
                .map(|(route, upstream)| Forward::new(Pool::new(upstream.clone(), index), route.policy.clone()))
                .collect();
            let layers = (blueprint.layers)();
            let Blueprint { listener, tls, routes, router, observer, .. } = blueprint;
            let gateway = Arc::new(Gateway::new(listener, router, &routes, &layers, forwards, via, observer));
            tokio::spawn(sweep(by_route, index));
            work(gateway, tls, accepted, count, stages).await;
        });
        // Whatever is left (a store's connection, a write that did not succeed) has had its time.
        runtime.shutdown_timeout(Duration::from_millis(100));
    })?;
    Ok(Worker { inbox, connections, thread: Some(thread) })
}

/// Serves the connections that are handed over, until all is over.
async fn work(
    gateway: Arc<Gateway>,
    tls: Option<Arc<ServerTls>>,
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    count: Arc<AtomicUsize>,
    mut stages: Stages,
) {
    loop {
        let next = tokio::select! {
            next = accepted.recv() => next,
            _ = stages.stage.wait_for(|stage| *stage == Stage::Over) => return,
        };
        let Some(Accepted { stream, address, activity, place, open }) = next else { return };
        let (gateway, tls, count, mut until) = (gateway.clone(), tls.clone(), count.clone(), stages.stage.clone());
        let is_leaving = stages.is_leaving.clone();
        tokio::spawn(async move {
            let served = Served(count);
            if let Ok(socket) = stream.attach() {
                let told = async move { drop(until.wait_for(|stage| *stage >= Stage::Leaving).await) };
                let leave = Leave::new(is_leaving, told);
                connection::serve(gateway, Arrival { socket, address, activity, tls }, leave).await;
            }
            drop((open, place, served));
        });
    }
}

/// A connection that a worker serves; it counts until it is dropped, also by a panic.
struct Served(Arc<AtomicUsize>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn sweep(upstreams: Vec<Arc<Upstream<Sent>>>, worker: usize) {
    let mut ticks = interval(SWEEP);
    loop {
        ticks.tick().await;
        upstreams.iter().for_each(|upstream| upstream.close_expired(worker));
    }
}
