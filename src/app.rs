//! The application: a configuration made into a store, a ledger, a stack per route, and servers, and drained.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio::time::interval;
use tracing::{debug, info, warn};

use crate::admin::{self, Admin, AdminRoute};
use crate::config::{AdminConfig, Config};
use crate::http::budget::Budget;
use crate::http::drain::Drain;
use crate::http::layer::IdempotencyLayer;
use crate::http::spool::Spool;
use crate::ledger::Ledger;
use crate::ledger::store::{Severity, Store};
use crate::proxy::gateway::{Exchange, Observer};
use crate::proxy::listener::address::Address;
use crate::proxy::listener::{Listener, ListenerSpec};
use crate::proxy::router::{RouteError, RouteSpec, Router};
use crate::proxy::server::{self, Blueprint};
use crate::proxy::tls::{ServerTls, TlsError};
use crate::stores::url::{OpenError, OpenStore};
use crate::telemetry::logs::Access;
use crate::telemetry::metrics::{Metrics, RouteMetrics};
use crate::telemetry::timed::TimedStore;

/// How often records past their keep are removed where the store does not do it, and how many at once.
const PURGE_EVERY: Duration = Duration::from_secs(10);
const PURGE_BATCH: usize = 1000;
/// How often measured durations are sorted into their buckets.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

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
    let metrics = Metrics::new().map_err(|error| AppError::Metrics(error.to_string()))?;
    let spool = spool(&config.listener)?;
    let store = config.store.url.open(&config.store.options)?;
    let own_store = timed(&store, &metrics);
    preflight(&*own_store).await?;
    let ledger = Ledger::over(own_store.clone()).patience(config.store.options.command_timeout * 2);
    let tls = config.listener.tls.clone().map(ServerTls::open).transpose()?.map(Arc::new);
    let bound = |error| AppError::Bind(config.listener.address.clone(), error);
    let data = Listener::bind(&config.listener.address).await.map_err(bound)?;
    let admin_listener = match &config.admin {
        Some(admin) => Some(bind(admin.address, admin_port).await?),
        None => None,
    };
    let router = Arc::new(Router::new(&config.routes).map_err(|(index, error)| AppError::Route(index, error))?);
    let drain = Drain::new();
    let routes: Arc<[RouteSpec]> = config.routes.clone().into();
    let observer = Arc::new(Telemetry::new(&routes, &metrics, config.log.access));
    let blueprint = Blueprint {
        listener: config.listener.clone(),
        tls: tls.clone(),
        routes: routes.clone(),
        router: router.clone(),
        layers: layers(&config, spool, store.clone(), ledger.clone(), drain.clone(), observer.clone(), metrics.clone()),
        observer,
        drain,
        ledger: ledger.clone(),
        workers: std::thread::available_parallelism().map_or(1, NonZero::get),
    };
    let is_draining = Arc::new(AtomicBool::new(false));
    let address =
        |listener: &TcpListener, asked: SocketAddr| listener.local_addr().map_err(|e| AppError::Bind(asked.into(), e));
    let told = Started {
        data: data.address().map_err(bound)?,
        admin: match (&admin_listener, &config.admin) {
            (Some(listener), Some(admin)) => Some(address(listener, admin.address)?),
            _ => None,
        },
    };
    if let (Some(listener), Some(admin)) = (admin_listener, &config.admin) {
        let admin = admin_of(admin, &ledger, &routes, &router, &metrics, is_draining.clone());
        tokio::spawn(admin::serve(Arc::new(admin), listener, std::future::pending()));
    }
    if let Some(tls) = tls {
        tokio::spawn(tls.watch());
    }
    tokio::spawn(purge(own_store));
    tokio::spawn(upkeep(metrics));
    let shutdown = async {
        shutdown.await;
        info!("draining");
        is_draining.store(true, Ordering::Release);
    };
    started(told);
    server::serve(blueprint, data, shutdown).await.map_err(AppError::Worker)
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

async fn bind(address: SocketAddr, taken: PortTaken) -> Result<TcpListener, AppError> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && taken == PortTaken::TakeAnother => {
            let any = SocketAddr::new(address.ip(), 0);
            TcpListener::bind(any).await.map_err(|error| AppError::Bind(any.into(), error))
        }
        Err(error) => Err(AppError::Bind(address.into(), error)),
    }
}

/// Makes each worker's layers, one per route, over a store handle of its own.
fn layers(
    config: &Config,
    spool: Spool,
    store: OpenStore,
    ledger: Ledger,
    drain: Drain,
    observer: Arc<Telemetry>,
    metrics: Metrics,
) -> Arc<dyn Fn() -> Vec<IdempotencyLayer> + Send + Sync> {
    let budget = Budget::new(config.listener.max_buffered_bytes);
    let routes = config.routes.clone();
    Arc::new(move || {
        let ledger = ledger.through(timed(&store, &metrics));
        let layer = |(index, route): (usize, &RouteSpec)| {
            let observer = observer.clone();
            IdempotencyLayer::new(ledger.clone())
                .policy(route.policy.clone())
                .budget(budget.clone())
                .spool(spool.clone())
                .drain(drain.clone())
                .on_observed(move |observation| observer.routes[index].metrics.observed(observation.would))
        };
        routes.iter().enumerate().map(layer).collect()
    })
}

fn admin_of(
    admin: &AdminConfig,
    ledger: &Ledger,
    routes: &[RouteSpec],
    router: &Arc<Router>,
    metrics: &Metrics,
    is_draining: Arc<AtomicBool>,
) -> Admin {
    let routes = routes.iter().enumerate().map(|(index, route)| {
        let (router, host) = (router.clone(), route.host.clone());
        AdminRoute {
            name: route.policy.terms.route.to_string(),
            policy: route.policy.clone(),
            params: Box::new(move |path| router.params_of(index, host.as_deref(), path)),
        }
    });
    Admin {
        ledger: ledger.clone(),
        routes: routes.collect(),
        metrics: metrics.clone(),
        token: admin.token.as_ref().map(|token| token.expose_secret().to_owned()),
        is_draining,
    }
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

/// Turns what the proxy tells into metrics and access lines.
struct Telemetry {
    routes: Vec<Observed>,
    /// Requests that no route matches.
    none: Observed,
    access: bool,
}

struct Observed {
    name: Arc<str>,
    metrics: RouteMetrics,
}

impl Telemetry {
    fn new(routes: &[RouteSpec], metrics: &Metrics, access: bool) -> Telemetry {
        let observed = |name: Arc<str>| Observed { metrics: metrics.route(&name), name };
        let routes = routes.iter().map(|route| observed(route.policy.terms.route.clone())).collect();
        Telemetry { routes, none: observed("-".into()), access }
    }
}

impl Observer for Telemetry {
    fn began(&self, route: usize) {
        self.routes[route].metrics.begin();
    }

    fn answered(&self, exchange: &Exchange<'_>) {
        let observed = exchange.route.map_or(&self.none, |route| &self.routes[route]);
        observed.metrics.answered(exchange.outcome, exchange.total, exchange.upstream);
        if exchange.report.is_some_and(|report| report.waited) {
            observed.metrics.waited();
        }
        if self.access {
            let access = Access {
                peer: exchange.peer.address,
                method: exchange.method,
                target: exchange.target,
                status: exchange.status,
                route: &observed.name,
                outcome: exchange.outcome,
                record: exchange.report.and_then(|report| report.record),
                total: exchange.total,
                upstream: exchange.upstream,
                store: exchange.report.map_or(Duration::ZERO, |report| report.store_time),
            };
            access.log();
        }
    }

    fn ended(&self, route: usize) {
        self.routes[route].metrics.end();
    }
}
