//! What layer and handler tell each other through a message's extensions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;

use crate::key::Key;
use crate::scope::RecordId;

/// The header that carries the attempt's number upstream.
pub const IDEMPOTENCY_ATTEMPT: HeaderName = HeaderName::from_static("idempotency-attempt");
/// The header that marks an answer which was given before.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The header that says what became of a protected request.
pub const IDEMPOTENCY_STATUS: HeaderName = HeaderName::from_static("idempotency-status");
/// The header by which an upstream says that it did not act.
pub const IDEMPOTENCY_OUTCOME: HeaderName = HeaderName::from_static("idempotency-outcome");
/// The only value of [`IDEMPOTENCY_OUTCOME`].
pub const NOT_EXECUTED: &str = "not-executed";

/// The claim under which a handler runs; found in the request's extensions.
///
/// ```
/// use axum::{Extension, Router, body::Body, http::Request, routing::post};
/// use onceproxy::stores::memory::MemoryStore;
/// use onceproxy::{Attempt, IdempotencyLayer, Ledger};
/// use tower::ServiceExt;
///
/// async fn pay(Extension(attempt): Extension<Attempt>) -> String {
///     format!("attempt {} of {}", attempt.number(), attempt.key().as_str())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = IdempotencyLayer::new(Ledger::new(MemoryStore::new()));
/// let app: Router = Router::new().route("/", post(pay).layer(layer));
/// let response = app.oneshot(Request::post("/").header("idempotency-key", "42").body(Body::empty())?).await?;
/// assert_eq!(axum::body::to_bytes(response.into_body(), 64).await?, "attempt 1 of 42");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Attempt {
    pub(crate) key: Key,
    pub(crate) id: RecordId,
    pub(crate) number: u32,
    pub(crate) gate: Arc<Gate>,
}

/// Whether the effect may begin, and whether it was let begin.
pub(crate) struct Gate {
    pub(crate) holds: Box<dyn Fn() -> bool + Send + Sync>,
    pub(crate) passed: AtomicBool,
}

impl Attempt {
    /// The key that the client sent.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The record's name in the store.
    pub fn record_id(&self) -> &RecordId {
        &self.id
    }

    /// The number of the attempt, from 1. A system behind the handler that remembers the highest number it saw can
    /// turn an older attempt away.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Says whether the claim still holds, so that an effect may begin now. Asked right before the first byte is sent:
    /// when it says no, send nothing and answer with [`Disposition::NotExecuted`].
    pub fn may_start(&self) -> bool {
        let holds = (self.gate.holds)();
        if holds {
            self.gate.passed.store(true, Ordering::Release);
        }
        holds
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("id", &self.id).field("number", &self.number).finish()
    }
}

/// What a handler knows better than its status says; it goes into the response's extensions.
///
/// ```
/// use axum::{Extension, Router, body::Body, http::Request, routing::post};
/// use onceproxy::stores::memory::MemoryStore;
/// use onceproxy::{Disposition, IdempotencyLayer, Ledger};
/// use tower::ServiceExt;
///
/// async fn pay() -> (Extension<Disposition>, &'static str) {
///     (Extension(Disposition::NotExecuted), "the till is closed")
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = IdempotencyLayer::new(Ledger::new(MemoryStore::new()));
/// let app: Router = Router::new().route("/", post(pay).layer(layer));
/// let response = app.oneshot(Request::post("/").header("idempotency-key", "42").body(Body::empty())?).await?;
/// assert_eq!(response.headers()["idempotency-status"], "released");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing was executed, and that is proven: the key is given back.
    NotExecuted,
    /// Nobody can tell whether it was executed; the text is the reason in the record, e.g. `upstream-lost`.
    Unknown(&'static str),
}

/// How long the upstream took for this response; a proxy's forwarder leaves it in the response's extensions.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamTime(pub Duration);

/// The parameters of the matched path, by name; a router leaves them in the request's extensions for `path:` scopes.
#[derive(Debug, Clone, Default)]
pub struct PathParams(pub Vec<(String, String)>);

/// Who the client is by its certificate; whoever ends TLS and has verified it leaves it in the request's extensions for
/// the scope [`ScopeSource::ClientCert`](super::policy::ScopeSource::ClientCert).
///
/// The proxy takes the certificate's subject, as DER and byte for byte, or its alternative names where the subject is
/// empty. An application may take what it likes, as long as it is another's for nobody else.
///
/// ```
/// use onceproxy::http::policy::ScopeSource;
/// use onceproxy::http::{ClientCert, Policy};
///
/// let policy = Policy::required().scope([ScopeSource::ClientCert]);
/// let mut request = http::Request::post("/payments").body(())?;
/// request.extensions_mut().insert(ClientCert("CN=till 7".into()));
/// assert_eq!(policy.scope[0].to_string(), "client-cert");
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCert(pub Bytes);
