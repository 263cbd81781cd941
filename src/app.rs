//! The application: a configuration made into a store, a ledger, a stack per route, and servers, and drained.

mod changes;
pub mod listen;
mod observe;
pub mod reload;
mod workshop;

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::interval;
use tracing::{debug, info, warn};

use self::listen::{AdminListener, Inherited, Listeners, Origin, bind_later};
use self::reload::{Queue, Reloader, Reloads};
use self::workshop::{Workshop, desk};
use crate::admin::{self, Admin, SharedDesk};
use crate::config::{Config, StoreConfig};
use crate::http::budget::Budget;
use crate::http::drain::Drain;
use crate::http::spool::Spool;
use crate::ledger::Ledger;
use crate::ledger::store::{Severity, Store};
use crate::proxy::listener::ListenerSpec;
use crate::proxy::listener::address::Address;
use crate::proxy::router::RouteError;
use crate::proxy::server::{Blueprint, Server};
use crate::proxy::tls::{ServerTls, TlsError};
use crate::stores::late::LateStore;
use crate::stores::url::{OpenError, OpenStore};
use crate::telemetry::logs::Levels;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::timed::TimedStore;

/// How often records past their keep are removed where the store does not do it, and how many at once.
const PURGE_EVERY: Duration = Duration::from_secs(10);
const PURGE_BATCH: usize = 1000;
/// How often measured durations are sorted into their buckets.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// How often a store is tried again that the process before this one has.
const TRY_STORE_EVERY: Duration = Duration::from_millis(20);

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Store(#[from] OpenError),
    /// Large bodies cannot be put into the folder that is meant for them.
    #[error("`spool_dir`: no file can be made in {folder}: {error}", folder = .0.display(), error = .1)]
    Spool(PathBuf, #[source] io::Error),
    /// The store must not be used as it is set up.
    #[error("the store must not be used as it is: {0}")]
    Unfit(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Bind(Address, #[source] io::Error),
    /// There is no TLS with these certificates.
    #[error("cannot use the listener's certificates: {0}")]
    Tls(#[from] TlsError),
    /// A socket that was inherited is none that can be listened on.
    #[error("cannot use an inherited socket: {0}")]
    Inherit(#[source] io::Error),
    /// The admin listener can be reached from outside, and has no token.
    #[error("the inherited admin socket {0} can be reached from outside, and there is no token")]
    Unguarded(SocketAddr),
    /// No thread or runtime.
    #[error("cannot start a worker: {0}")]
    Worker(#[source] io::Error),
    /// The routes do not fit together.
    #[error("route {0}: {1}")]
    Route(usize, #[source] RouteError),
    /// No metrics.
    #[error("cannot set up metrics: {0}")]
    Metrics(String),
}

/// What is listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The data listener.
    pub data: Address,
    /// The admin listener.
    pub admin: Option<SocketAddr>,
}

/// What to do when a port is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortTaken {
    /// It is an error.
    Fail,
    /// Another free port will do.
    TakeAnother,
}

/// A moment in a proxy's life that a supervisor is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It takes requests.
    Ready,
    /// It reads its configuration again.
    Reloading,
    /// It takes no more requests.
    Stopping,
}

/// Reads the configuration again; an error is the report of what is wrong with it.
pub type Source = Arc<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// What a proxy finds where it is started.
pub struct Surroundings {
    /// What to do when the admin port is taken.
    pub admin_port: PortTaken,
    /// Sockets that are there already.
    pub inherited: Inherited,
    /// Where a reload gets its configuration from; without one there is none.
    pub source: Option<Source>,
    /// Changes what is logged.
    pub levels: Levels,
    /// Is told of the moments of its life.
    pub tell: Arc<dyn Fn(Moment) + Send + Sync>,
    reloads: Reloads,
    queue: Queue,
}

impl Surroundings {
    /// Nothing in particular.
    pub fn new(admin_port: PortTaken) -> Surroundings {
        let (reloads, queue) = reload::queue();
        Surroundings {
            admin_port,
            inherited: Inherited::default(),
            source: None,
            levels: Levels::default(),
            tell: Arc::new(|_| {}),
            reloads,
            queue,
        }
    }

    /// Asks the proxy for reloads.
    pub fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }
}

/// Runs the proxy until `shutdown`, then drains it. Says what it listens on once requests can come.
///
/// # Errors
/// An [`AppError`] when it cannot start.
pub async fn run(
    config: Config,
    admin_port: PortTaken,
    shutdown: impl Future<Output = ()>,
    started: impl FnOnce(Started),
) -> Result<(), AppError> {
    run_in(Surroundings::new(admin_port), config, shutdown, started).await
}

/// As [`run`], with sockets, reloads and a supervisor.
///
/// Where the data socket is inherited and another process has the store, that one is taken for the process before
/// this one: requests wait in the kernel's queue until it has drained, and `/ready` says so.
///
/// # Errors
/// As [`run`].
pub async fn run_in(
    surroundings: Surroundings,
    config: Config,
    shutdown: impl Future<Output = ()>,
    started: impl FnOnce(Started),
) -> Result<(), AppError> {
    let Surroundings { admin_port, inherited, source, levels, tell, reloads, queue } = surroundings;
    let mut shutdown = pin!(shutdown);
    let metrics = Metrics::new().map_err(|error| AppError::Metrics(error.to_string()))?;
    let spool = spool(&config.listener)?;
    let (store, late) = open(&config.store, inherited.data.is_some())?;
    let own_store = timed(&store, &metrics);
    if late.is_none() {
        preflight(&*own_store).await?;
    }
    let ledger = Ledger::over(own_store.clone()).patience(config.store.options.command_timeout * 2);
    let tls = config.listener.tls.clone().map(ServerTls::open).transpose()?.map(Arc::new);
    let Listeners { data, data_origin, admin: admin_listener } =
        Listeners::open(&config, inherited, admin_port).await?;
    let workshop = Workshop {
        budget: Budget::new(config.listener.max_buffered_bytes),
        drain: Drain::new(),
        metrics: metrics.clone(),
        spool,
    };
    let generation = workshop.generation(&config, &workshop.spool)?;
    let desk = SharedDesk::new(desk(&config, &generation));
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let server = Server::start(Blueprint {
        generation,
        tls: tls.clone(),
        drain: workshop.drain.clone(),
        ledger: ledger.clone(),
        ledgers: (0..workers).map(|_| ledger.through(timed(&store, &metrics))).collect(),
    })
    .map_err(AppError::Worker)?;
    let is_draining = Arc::new(AtomicBool::new(false));
    let (leaving, has_left) = watch::channel(());
    let admin_origin = admin_listener.origin();
    let told = Started { data: data.address().map_err(AppError::Inherit)?, admin: admin_listener.address()? };
    let admin = Admin {
        ledger,
        desk: desk.clone(),
        metrics: metrics.clone(),
        is_draining: is_draining.clone(),
        reload: reloads.for_admin(),
    };
    tokio::spawn(serve_admin(admin, admin_listener, has_left));
    tokio::spawn(purge(own_store.clone()));
    tokio::spawn(upkeep(metrics));
    if let Some(tls) = tls.clone() {
        tokio::spawn(tls.watch());
    }
    if let Some(late) = late {
        let admin = told.admin.map(|admin| admin.to_string());
        info!(admin, "another process has the store: requests wait until it has left");
        tokio::select! {
            opened = wait_for_store(&config.store, &late) => opened?,
            () = &mut shutdown => return Ok(()),
        }
        preflight(&*own_store).await?;
    }
    let switch = server.switch();
    let reloader =
        Reloader { config, source, workshop, switch, desk, tls, levels, data_origin, admin_origin, tell: tell.clone() };
    tokio::spawn(reloader.run(queue));
    let shutdown = async {
        shutdown.await;
        info!("draining");
        tell(Moment::Stopping);
        is_draining.store(true, Ordering::Release);
        drop(leaving);
    };
    started(told);
    tell(Moment::Ready);
    server.serve(data, shutdown).await;
    Ok(())
}

/// Opens the store. One that another process has is waited for where that process may be the one before this one.
fn open(config: &StoreConfig, has_forerunner: bool) -> Result<(OpenStore, Option<LateStore>), AppError> {
    match config.url.open(&config.options) {
        Ok(store) => Ok((store, None)),
        Err(error) if error.is_in_use() && has_forerunner => {
            let late = LateStore::new("another process has the store; it is waited for");
            Ok((OpenStore::over(Arc::new(late.clone())), Some(late)))
        }
        Err(error) => Err(error.into()),
    }
}

async fn wait_for_store(config: &StoreConfig, late: &LateStore) -> Result<(), AppError> {
    let mut ticks = interval(TRY_STORE_EVERY);
    loop {
        ticks.tick().await;
        let config = config.clone();
        let opened = tokio::task::spawn_blocking(move || config.url.open(&config.options)).await;
        match opened.map_err(|error| OpenError(error.into()))? {
            Ok(store) => {
                late.is_here(store.handle());
                info!("the store is here");
                return Ok(());
            }
            Err(error) if error.is_in_use() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Serves the admin listener; an inherited one is left to the next process when this one leaves.
async fn serve_admin(admin: Admin, listener: AdminListener, mut has_left: watch::Receiver<()>) {
    let left = async move { while has_left.changed().await.is_ok() {} };
    match listener {
        AdminListener::None => {}
        AdminListener::Here(listener, Origin::Inherited) => admin::serve(Arc::new(admin), listener, left).await,
        AdminListener::Here(listener, Origin::Bound) => {
            admin::serve(Arc::new(admin), listener, std::future::pending()).await;
        }
        AdminListener::Later(address) => {
            let listener = bind_later(address).await;
            info!("admin on {address}");
            admin::serve(Arc::new(admin), listener, std::future::pending()).await;
        }
    }
}

/// Opens the folder for large bodies.
pub(crate) fn spool(listener: &ListenerSpec) -> Result<Spool, AppError> {
    let folder = listener.spool_dir.clone().unwrap_or_else(std::env::temp_dir);
    Spool::open(&folder, listener.max_spooled_bytes).map_err(|error| AppError::Spool(folder, error))
}

fn timed(store: &OpenStore, metrics: &Metrics) -> Arc<dyn Store> {
    Arc::new(TimedStore::new(store.handle(), metrics.store()))
}

/// A store that is away, or not ready, may come; one that must not be used ends the program.
async fn preflight(store: &dyn Store) -> Result<(), AppError> {
    match store.preflight().await {
        Ok(findings) => {
            for finding in findings {
                match finding.severity {
                    Severity::Info => info!("store: {}", finding.text),
                    Severity::Warning => warn!("store: {}", finding.text),
                    Severity::Unready => warn!("store: {}; requests get 503 until it is ready", finding.text),
                    Severity::Unfit => return Err(AppError::Unfit(finding.text)),
                }
            }
        }
        Err(error) => warn!(%error, "the store does not answer yet; requests get 503 until it does"),
    }
    Ok(())
}

async fn purge(store: Arc<dyn Store>) {
    let mut ticks = interval(PURGE_EVERY);
    loop {
        ticks.tick().await;
        loop {
            match store.purge(PURGE_BATCH).await {
                Ok(PURGE_BATCH..) => {}
                Ok(_) => break,
                Err(error) => {
                    debug!(%error, "a purge failed");
                    break;
                }
            }
        }
    }
}

async fn upkeep(metrics: Metrics) {
    let mut ticks = interval(UPKEEP_EVERY);
    loop {
        ticks.tick().await;
        metrics.upkeep();
    }
}
