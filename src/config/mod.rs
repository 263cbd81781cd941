//! The configuration: one file, checked as a whole, made into types that cannot be wrong.

use std::net::SocketAddr;
use std::sync::Arc;

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
