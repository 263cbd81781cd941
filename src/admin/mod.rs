//! The admin listener: health, metrics, and the records API by which an operator puts a held unknown right.

mod api;
mod problem;
mod server;
mod view;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::http::policy::Policy;
use crate::ledger::Ledger;
use crate::telemetry::metrics::Metrics;

pub use server::serve;

/// What the admin listener works on.
pub struct Admin {
    /// The ledger, through a store handle of the listener's own runtime.
    pub ledger: Ledger,
    /// The routes, for look-ups by what a client sent.
    pub routes: Vec<AdminRoute>,
    /// The metrics.
    pub metrics: Metrics,
    /// The token that every call of the API carries. Without one reads are open and changes are refused.
    pub token: Option<String>,
    /// Whether the proxy is on its way out: not ready any more.
    pub is_draining: Arc<AtomicBool>,
}

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
