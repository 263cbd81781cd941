//! The configuration: one file, checked as a whole, made into types that cannot be wrong.
//!
//! text → [`file`](mod@file) (what is written, and where) → `check` (whether it can work) → [`Config`]. Everything that
//! is wrong with a file is found at once; what is missing in it comes from the `Default` of the type that it ends up in.

pub mod certificates;
mod check;
pub mod defaults;
pub mod diagnostic;
pub mod explain;
pub mod file;
pub mod lists;
pub mod load;
mod mask;
mod overlap;
mod patterns;
mod policies;
pub mod render;
mod routes;
pub mod schema;
pub mod secret;
pub mod section;
mod servers;
pub mod sources;
mod store;
pub mod upstreams;
pub mod values;
mod warnings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::proxy::listener::ListenerSpec;
use crate::proxy::router::RouteSpec;
use crate::proxy::upstream::UpstreamSpec;
use crate::stores::url::{StoreOptions, StoreUrl};
use crate::telemetry::logs::Format;

/// A configuration that can work.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data listener.
    pub listener: ListenerSpec,
    /// The admin listener, if any.
    pub admin: Option<AdminConfig>,
    /// The logs.
    pub log: LogConfig,
    /// The store.
    pub store: StoreConfig,
    /// The upstreams, in the order of the file.
    pub upstreams: Vec<Arc<UpstreamSpec>>,
    /// The routes, in the order of the file.
    pub routes: Vec<RouteSpec>,
}

/// The admin listener.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// The token of its API.
    pub token: Option<SecretString>,
}

/// The logs.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// A level or a filter.
    pub level: String,
    /// How lines look.
    pub format: Format,
    /// Whether each request gets a line.
    pub access: bool,
}

/// The store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Where it is.
    pub url: StoreUrl,
    /// How it is used.
    pub options: StoreOptions,
}

impl StoreConfig {
    /// A store with the usual options.
    pub fn new(url: StoreUrl) -> StoreConfig {
        let options = StoreOptions {
            prefix: "once".to_owned(),
            command_timeout: Duration::from_millis(500),
            allow_eviction: false,
        };
        StoreConfig { url, options }
    }
}

impl Default for AdminConfig {
    fn default() -> AdminConfig {
        AdminConfig { address: SocketAddr::from(([127, 0, 0, 1], 9180)), token: None }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: "info".to_owned(), format: Format::default(), access: true }
    }
}

/// The listener of a file that says nothing of it: a file is written for a server, so that it is reachable.
fn file_listener() -> ListenerSpec {
    ListenerSpec { address: SocketAddr::from(([0, 0, 0, 0], 8080)).into(), ..ListenerSpec::default() }
}
