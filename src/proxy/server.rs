//! The server: one current-thread runtime per core behind one acceptor, and their end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{interval, timeout};
use tracing::{info, warn};

use crate::http::drain::{Drain, Running};
use crate::ledger::Ledger;
use crate::proxy::connection::activity::Activity;
use crate::proxy::connection::{self, Arrival, Leave};
use crate::proxy::generation::{Fleet, Generation, Seat, Switch};
use crate::proxy::listener::address::PeerAddress;
use crate::proxy::listener::places::Entry;
use crate::proxy::listener::{Detached, Listener, accept};
use crate::proxy::tls::ServerTls;

/// How long executions may take to record what they know when the time is over.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the last answers may take to leave.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How often idle upstream connections are looked at. No longer than a store's call has by default: each timer that would
/// end before all others costs a system call, and with this one there are few.
const SWEEP: Duration = Duration::from_millis(500);

/// Everything that a proxy is made of.
pub struct Blueprint {
    /// What requests are answered with at first.
    pub generation: Generation,
    /// The certificates of the data listener, where it speaks TLS.
    pub tls: Option<Arc<ServerTls>>,
    /// The executions under way; the layers have it too.
    pub drain: Drain,
    /// The ledger of the layers, which may write on when an execution has been answered.
    pub ledger: Ledger,
    /// For each worker a handle of that ledger, which is used on the worker's runtime only: a store's connections belong
    /// to one. One worker per core is best.
    pub ledgers: Vec<Ledger>,
}

/// A server whose workers stand by.
pub struct Server {
    workers: Workers,
    switch: Switch,
    connections: Drain,
    drain: Drain,
    ledger: Ledger,
    stage: watch::Sender<Stage>,
    is_leaving: Arc<AtomicBool>,
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
    pub(super) entry: Entry,
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

impl Server {
    /// Starts the workers.
    ///
    /// # Errors
    /// When no worker can be started.
    pub fn start(blueprint: Blueprint) -> io::Result<Server> {
        let Blueprint { generation, tls, drain, ledger, ledgers } = blueprint;
        let stage = watch::Sender::new(Stage::Serving);
        let is_leaving = Arc::new(AtomicBool::new(false));
        let switch = Switch::new(&generation, ledgers);
        let stages = || Stages { stage: stage.subscribe(), is_leaving: is_leaving.clone() };
        let workers = switch.seats().iter().enumerate();
        let workers = workers
            .map(|(worker, seat)| start(worker, seat.clone(), tls.clone(), switch.fleet().clone(), stages()))
            .collect::<io::Result<Vec<Worker>>>()?;
        Ok(Server { workers: Workers(workers), switch, connections: Drain::new(), drain, ledger, stage, is_leaving })
    }

    /// What exchanges the generation that requests are answered with.
    pub fn switch(&self) -> Switch {
        self.switch.clone()
    }

    /// Serves until `shutdown`, then drains: no new connections, requests under way are answered for as long as the
    /// grace lasts, and executions that are left record what they know. What the ledger writes in the background has
    /// as long.
    pub async fn serve(mut self, listener: Listener, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = accept(&listener, self.switch.capacity(), &self.workers, &self.connections) => {}
            () = shutdown => {}
        }
        drop(listener);
        self.is_leaving.store(true, Ordering::Release);
        self.stage.send_replace(Stage::Leaving);
        self.drain().await;
        self.stage.send_replace(Stage::Over);
        let threads: Vec<JoinHandle<()>> =
            self.workers.0.iter_mut().filter_map(|worker| worker.thread.take()).collect();
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        let _ = joined.await;
        info!("drained");
    }

    async fn drain(&self) {
        let Server { connections, drain, ledger, .. } = self;
        let recorded = async {
            drain.idle().await;
            ledger.idle().await;
        };
        let idle = async {
            connections.idle().await;
            drain.idle().await;
            ledger.idle().await;
        };
        if timeout(self.switch.listener().shutdown_grace, idle).await.is_ok() {
            return;
        }
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
}

fn start(
    index: usize,
    seat: Arc<Seat>,
    tls: Option<Arc<ServerTls>>,
    fleet: Arc<Fleet>,
    stages: Stages,
) -> io::Result<Worker> {
    let (inbox, accepted) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let count = connections.clone();
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        runtime.block_on(async move {
            tokio::spawn(sweep(fleet, index));
            work(seat, tls, accepted, count, stages).await;
        });
        // Whatever is left (a store's connection, a write that did not succeed) has had its time.
        runtime.shutdown_timeout(Duration::from_millis(100));
    })?;
    Ok(Worker { inbox, connections, thread: Some(thread) })
}

/// Serves the connections that are handed over, until all is over.
async fn work(
    seat: Arc<Seat>,
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
        let Some(Accepted { stream, address, activity, entry, open }) = next else { return };
        let (seat, tls, count, mut until) = (seat.clone(), tls.clone(), count.clone(), stages.stage.clone());
        let is_leaving = stages.is_leaving.clone();
        tokio::spawn(async move {
            let served = Served(count);
            let place = entry.place(&activity).await;
            if let Ok(socket) = stream.attach() {
                let told = async move { drop(until.wait_for(|stage| *stage >= Stage::Leaving).await) };
                let leave = Leave::new(is_leaving, told);
                connection::serve(seat, Arrival { socket, address, activity, tls }, leave).await;
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

async fn sweep(fleet: Arc<Fleet>, worker: usize) {
    let mut ticks = interval(SWEEP);
    loop {
        ticks.tick().await;
        fleet.load().iter().for_each(|upstream| upstream.close_expired(worker));
    }
}
