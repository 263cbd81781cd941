//! The router: from host, path and method to a route.

use std::sync::Arc;

use crate::http::policy::Policy;
use crate::proxy::upstream::UpstreamSpec;

/// A route, as configured. Its name is the policy's `terms.route`.
#[derive(Debug, Clone)]
pub struct RouteSpec {
    /// Only this host, in lower case, without a port; every host without.
    pub host: Option<Arc<str>>,
    /// A matchit pattern.
    pub path: Arc<str>,
    /// What is protected, and how.
    pub policy: Arc<Policy>,
    /// Where its requests go.
    pub upstream: Arc<UpstreamSpec>,
}

/// Why a route cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The pattern is not one.
    #[error("the path is not a pattern: {0}")]
    BadPattern(String),
    /// It matches what another one matches, with common methods or another upstream.
    #[error("it collides with route {other}")]
    Collision {
        /// The index of the other route.
        other: usize,
    },
}
