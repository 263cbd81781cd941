//! The terms of an execution: how long, how often, and what when nobody knows.

use std::sync::Arc;
use std::time::Duration;

use crate::record::OnUnknown;

/// The shortest lease: below it a renewal every third of it would be all that a store does.
pub const MIN_LEASE: Duration = Duration::from_secs(1);

/// The terms under which a key is claimed.
///
/// ```
/// use std::time::Duration;
/// use onceproxy::Terms;
///
/// let terms = Terms { lease: Duration::from_secs(10), ..Terms::default() };
/// assert_eq!(terms.retention, Duration::from_secs(24 * 3600));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// How long a claim lives without a renewal; it is renewed every third of it. At least [`MIN_LEASE`] counts.
    pub lease: Duration,
    /// How long a record is kept, from its completion. While the claim lives at least four leases count, or lease and
    /// grace together.
    pub retention: Duration,
    /// What becomes of an unknown outcome.
    pub on_unknown: OnUnknown,
    /// Under [`OnUnknown::Retry`]: how long to wait after a dead lease or an unknown, since the first may still run.
    pub retry_grace: Duration,
    /// How long a duplicate waits for the first; none: it is turned away at once.
    pub wait: Option<Duration>,
    /// A name for the operator.
    pub route: Arc<str>,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms {
            lease: Duration::from_secs(30),
            retention: Duration::from_secs(24 * 3600),
            on_unknown: OnUnknown::Hold,
            retry_grace: Duration::from_secs(30),
            wait: None,
            route: Arc::from(""),
        }
    }
}
