//! The admin listener: health, metrics, and the records API by which an operator puts a held unknown right.

mod api;
mod problem;
pub mod reload;
mod server;
mod view;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;

use self::reload::Reload;
use crate::http::policy::Policy;
use crate::ledger::Ledger;
use crate::telemetry::metrics::Metrics;

pub use server::serve;

/// What the admin listener works on.
pub struct Admin {
    /// The ledger, through a store handle of the listener's own runtime.
    pub ledger: Ledger,
    /// What the configuration says of it; another one after a reload.
    pub desk: SharedDesk,
    /// The metrics.
    pub metrics: Metrics,
    /// Whether the proxy is on its way out: not ready any more.
    pub is_draining: Arc<AtomicBool>,
    /// Reads the configuration again.
    pub reload: Reload,
}

/// What a reload may change of the admin listener.
pub struct Desk {
    /// The routes, for look-ups by what a client sent.
    pub routes: Vec<AdminRoute>,
    /// The token that every call of the API carries. Without one reads are open and changes are refused.
    pub token: Option<String>,
}

/// A desk that others may exchange while the listener serves. Clones are the same.
#[derive(Clone)]
pub struct SharedDesk(Arc<ArcSwap<Desk>>);

/// A route as a look-up needs it.
pub struct AdminRoute {
    /// Its name.
    pub name: String,
    /// Its policy.
    pub policy: Arc<Policy>,
    /// Finds the parameters of a path of this route.
    pub params: PathParamsOf,
}

/// Finds the parameters of a path; `None` when the path is not the route's.
pub type PathParamsOf = Box<dyn Fn(&str) -> Option<crate::http::attempt::PathParams> + Send + Sync>;

impl SharedDesk {
    /// Begins with this one.
    pub fn new(desk: Desk) -> SharedDesk {
        SharedDesk(Arc::new(ArcSwap::from_pointee(desk)))
    }

    /// Exchanges it: the next call has this one.
    pub fn exchange(&self, desk: Desk) {
        self.0.store(Arc::new(desk));
    }

    /// The present one.
    fn now(&self) -> Arc<Desk> {
        self.0.load_full()
    }
}
