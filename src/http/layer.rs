//! The layer: a policy over a ledger, to be put around a service.

use std::sync::Arc;

use tower_layer::Layer;

use super::budget::Budget;
use super::collect::Room;
use super::drain::Drain;
use super::keyed::WholeBody;
use super::observe::Observation;
use super::policy::Policy;
use super::service::Idempotency;
use super::spool::Spool;
use crate::ledger::Ledger;

/// Puts [`Idempotency`] around a service.
///
/// Where two of these layers stand around one service, the outer one claims the key and the inner one lets the request
/// pass: a route's own layer does not get in the way of one around the whole application, nor override it.
///
/// The layer is called within a tokio runtime.
///
/// ```
/// use onceproxy::Ledger;
/// use onceproxy::http::{IdempotencyLayer, Policy};
/// use onceproxy::stores::memory::MemoryStore;
///
/// let ledger = Ledger::new(MemoryStore::new());
/// let layer = IdempotencyLayer::new(ledger).policy(Policy::required());
/// assert!(format!("{layer:?}").contains("Required"));
/// ```
#[derive(Debug, Clone)]
pub struct IdempotencyLayer {
    pub(super) settings: Settings,
}

type Observer = Arc<dyn Fn(&Observation) + Send + Sync>;

/// What every request of one stack needs.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) ledger: Ledger,
    pub(super) policy: Arc<Policy>,
    pub(super) budget: Budget,
    pub(super) spool: Option<Spool>,
    pub(super) drain: Option<Drain>,
    pub(super) observer: Option<Observer>,
}

impl Settings {
    /// Where the body of a request goes.
    pub(super) fn room_for_request(&self, whole: WholeBody) -> Room<'_> {
        Room {
            limit: self.policy.max_request_body,
            budget: &self.budget,
            overdraft_bytes: 0,
            spool: match whole {
                WholeBody::Needed => None,
                WholeBody::NotNeeded => self.spool.as_ref(),
            },
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl IdempotencyLayer {
    /// A layer with the default policy.
    pub fn new(ledger: Ledger) -> IdempotencyLayer {
        let settings = Settings {
            ledger,
            policy: Arc::new(Policy::default()),
            budget: Budget::default(),
            spool: None,
            drain: None,
            observer: None,
        };
        IdempotencyLayer { settings }
    }

    /// Sets the policy.
    #[must_use]
    pub fn policy(mut self, policy: impl Into<Arc<Policy>>) -> IdempotencyLayer {
        self.settings.policy = policy.into();
        self
    }

    /// Shares a cap over all buffers with other stacks.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> IdempotencyLayer {
        self.settings.budget = budget;
        self
    }

    /// Puts large bodies of requests into files, those that have to be read as JSON excepted. Without this all are held
    /// in memory.
    #[must_use]
    pub fn spool(mut self, spool: Spool) -> IdempotencyLayer {
        self.settings.spool = Some(spool);
        self
    }

    /// Ties executions to the end of the process.
    ///
    /// When the time is over, an execution that was not let start by [`Attempt::may_start`] gives its key back: use it
    /// only around a service that asks.
    ///
    /// [`Attempt::may_start`]: super::attempt::Attempt::may_start
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> IdempotencyLayer {
        self.settings.drain = Some(drain);
        self
    }

    /// Tells of every observed request what would have become of it, when that is known: after the answer's head, or
    /// at once where it would not have been executed.
    #[must_use]
    pub fn on_observed(mut self, observer: impl Fn(&Observation) + Send + Sync + 'static) -> IdempotencyLayer {
        self.settings.observer = Some(Arc::new(observer));
        self
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency::new(inner, Arc::new(self.settings.clone()))
    }
}
