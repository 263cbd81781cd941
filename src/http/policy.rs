//! The policy: what is protected, whose key it is, what counts as the same request, and what when it goes wrong.

mod same;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, Method};

use crate::fingerprint::json::Pointer;
use crate::key::{KeySyntax, MAX_KEY_LENGTH};
use crate::ledger::terms::Terms;
use crate::record::OnUnknown;

/// The header that a key comes in unless the policy says otherwise.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The policy of one stack, fixed when the stack is built.
///
/// ```
/// use std::time::Duration;
/// use onceproxy::http::Policy;
///
/// let policy = Policy::required().lease(Duration::from_secs(10)).namespace("payments");
/// assert_eq!(policy.terms.lease, Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Enforce, observe, or neither.
    pub mode: Mode,
    /// Which methods are protected.
    pub methods: Methods,
    /// Whether a request may come without a key.
    pub key: KeyRule,
    /// Where the key is looked for; the first place that has one counts.
    pub key_from: Vec<KeySource>,
    /// The accepted spellings.
    pub key_syntax: KeySyntax,
    /// The longest key, in characters; at most [`MAX_KEY_LENGTH`].
    pub key_max_length: usize,
    /// A key is unique in a namespace and scope.
    pub namespace: Arc<str>,
    /// Whose key it is.
    pub scope: Vec<ScopeSource>,
    /// What counts as the same request.
    pub fingerprint: FingerprintRule,
    /// Lease, retention, what to do with an unknown outcome, how long a duplicate waits, and the route's name.
    pub terms: Terms,
    /// What to do when the store does not answer.
    pub store_down: StoreDown,
    /// Complete responses by which the service says that it did not act.
    pub release_status: StatusSet,
    /// Complete responses that leave open whether it acted.
    pub unknown_status: StatusSet,
    /// The largest body of a protected request, in bytes. Those above 64 KiB lie in files where the layer has a
    /// [`Spool`](super::spool::Spool), but not where they are read as JSON.
    pub max_request_body: usize,
    /// The largest response body that is recorded, in bytes.
    pub max_response_body: usize,
    /// Fields that are neither stored nor replayed.
    pub replay_drop_headers: Vec<HeaderName>,
    /// Where problem types point to.
    pub docs_url: Option<Arc<str>>,
}

/// Enforce, observe, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Keys take effect once.
    #[default]
    Enforce,
    /// Everything is forwarded; what would have happened is counted.
    Observe,
    /// Everything passes.
    Off,
}

/// Which methods are protected. Safe methods (RFC 9110 section 9.2.1) never are.
///
/// ```
/// use http::Method;
/// use onceproxy::http::policy::Methods;
///
/// assert!(Methods::default().protect(&Method::POST));
/// assert!(!Methods::default().protect(&Method::DELETE));
/// assert!(Methods::AllUnsafe.protect(&Method::DELETE));
/// assert!(!Methods::AllUnsafe.protect(&Method::GET));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Methods {
    /// These.
    Only(Vec<Method>),
    /// Every method that is not safe, known or not.
    AllUnsafe,
}

/// Whether a request may come without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyRule {
    /// 400 without one.
    Required,
    /// Without one a request passes unprotected.
    #[default]
    Optional,
}

/// A place where a key is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A header.
    Header(HeaderName),
    /// A parameter of the query.
    Query(String),
    /// A string or number of a JSON body.
    Json(Pointer),
}

/// A part of the scope.
#[derive(Clone)]
pub enum ScopeSource {
    /// The effective host.
    Host,
    /// Authorization, X-Api-Key and Cookie, those that are present.
    Credentials,
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// A parameter of the matched path.
    Path(String),
    /// A parameter of the query.
    Query(String),
    /// The subject of the client's certificate, which whoever ends TLS has verified: a
    /// [`ClientCert`](super::attempt::ClientCert) in the extensions.
    ClientCert,
    /// Whatever a function of the application finds, in the extensions too; `None` is a 400.
    Custom {
        /// What the part is called in the 400.
        name: Arc<str>,
        /// Finds the part's value.
        find: FindScope,
    },
    /// Everybody shares: adds nothing.
    Anonymous,
}

/// A function that finds a scope's part in a request's head.
pub type FindScope = Arc<dyn Fn(&Parts) -> Option<Vec<u8>> + Send + Sync>;

/// What counts as the same request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FingerprintRule {
    /// The parts that count.
    pub parts: Vec<FingerprintPart>,
    /// How the body counts.
    pub body: BodyForm,
}

/// A part of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FingerprintPart {
    /// The method.
    Method,
    /// The path, byte for byte.
    Path,
    /// The query, byte for byte.
    Query,
    /// The Content-Type.
    ContentType,
    /// The body.
    Body,
}

/// How the body counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyForm {
    /// Byte for byte.
    Bytes,
    /// As JSON: order and white space do not count, nor do the places in `omit`.
    Json {
        /// Places that do not count.
        omit: Vec<Pointer>,
    },
}

/// What to do when the store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreDown {
    /// 503.
    #[default]
    Reject,
    /// Forward unprotected, and say so.
    Bypass,
}

/// A set of status codes from 100 to 999.
///
/// ```
/// use http::StatusCode;
/// use onceproxy::http::policy::StatusSet;
///
/// let statuses = StatusSet::new([503, 429]);
/// assert!(statuses.contains(StatusCode::TOO_MANY_REQUESTS));
/// assert!(!statuses.contains(StatusCode::OK));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusSet(Vec<u16>);

impl StatusSet {
    /// A set of these.
    pub fn new(statuses: impl IntoIterator<Item = u16>) -> StatusSet {
        let mut statuses: Vec<u16> = statuses.into_iter().collect();
        statuses.sort_unstable();
        statuses.dedup();
        StatusSet(statuses)
    }

    /// Says whether a status is in the set.
    pub fn contains(&self, status: http::StatusCode) -> bool {
        self.0.binary_search(&status.as_u16()).is_ok()
    }

    /// The statuses, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied()
    }
}

impl Default for Methods {
    fn default() -> Methods {
        Methods::Only(vec![Method::POST, Method::PATCH])
    }
}

impl Methods {
    /// Says whether a method is protected.
    pub fn protect(&self, method: &Method) -> bool {
        match self {
            // `TRACE`, `GET`, `HEAD` and `OPTIONS`, whatever the list says.
            _ if method.is_safe() => false,
            Methods::Only(methods) => methods.contains(method),
            Methods::AllUnsafe => true,
        }
    }
}

impl Default for FingerprintRule {
    fn default() -> FingerprintRule {
        use FingerprintPart::{Body, ContentType, Method, Path, Query};
        FingerprintRule { parts: vec![Method, Path, Query, ContentType, Body], body: BodyForm::Bytes }
    }
}

impl fmt::Debug for ScopeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_string())
    }
}

impl fmt::Display for ScopeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScopeSource::Host => f.write_str("host"),
            ScopeSource::Credentials => f.write_str("credentials"),
            ScopeSource::Header(name) => write!(f, "header:{name}"),
            ScopeSource::Cookie(name) => write!(f, "cookie:{name}"),
            ScopeSource::Path(name) => write!(f, "path:{name}"),
            ScopeSource::Query(name) => write!(f, "query:{name}"),
            ScopeSource::ClientCert => f.write_str("client-cert"),
            ScopeSource::Custom { name, .. } => f.write_str(name),
            ScopeSource::Anonymous => f.write_str("anonymous"),
        }
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            mode: Mode::default(),
            methods: Methods::default(),
            key: KeyRule::default(),
            key_from: vec![KeySource::Header(IDEMPOTENCY_KEY)],
            key_syntax: KeySyntax::default(),
            key_max_length: MAX_KEY_LENGTH,
            namespace: Arc::from("default"),
            scope: vec![ScopeSource::Host, ScopeSource::Credentials],
            fingerprint: FingerprintRule::default(),
            terms: Terms::default(),
            store_down: StoreDown::default(),
            release_status: StatusSet::new([401, 403, 425, 429]),
            unknown_status: StatusSet::new([408, 502, 503, 504]),
            max_request_body: 1 << 20,
            max_response_body: 1 << 20,
            replay_drop_headers: vec![http::header::SET_COOKIE],
            docs_url: None,
        }
    }
}

/// The settings that an application sets most; the others are fields.
impl Policy {
    /// The default policy, with a key required.
    pub fn required() -> Policy {
        Policy { key: KeyRule::Required, ..Policy::default() }
    }

    /// Whether a request's body may have to be in memory as a whole: where it, or the key in it, is read as JSON.
    pub fn needs_whole_body(&self) -> bool {
        let is_compared =
            self.fingerprint.parts.contains(&FingerprintPart::Body) && self.fingerprint.body != BodyForm::Bytes;
        is_compared || self.key_from.iter().any(|source| matches!(source, KeySource::Json(_)))
    }

    /// The default policy: a request without a key passes unprotected.
    pub fn optional() -> Policy {
        Policy::default()
    }

    /// Names the namespace in which keys are unique.
    ///
    /// Stacks that serve different things over one ledger need different ones. The path tells them apart only as far
    /// as the layer sees it: a router that nests another hands it a path without the prefix.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Policy {
        self.namespace = Arc::from(namespace);
        self
    }

    /// Names the route, for logs and for the operator.
    #[must_use]
    pub fn route(mut self, route: &str) -> Policy {
        self.terms.route = Arc::from(route);
        self
    }

    /// Sets how long a claim lives without a renewal.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Policy {
        self.terms.lease = lease;
        self
    }

    /// Sets how long a record is kept, from its completion.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Policy {
        self.terms.retention = retention;
        self
    }

    /// Lets a duplicate wait for the first, for so long at most.
    #[must_use]
    pub fn wait(mut self, timeout: Duration) -> Policy {
        self.terms.wait = Some(timeout);
        self
    }

    /// Lets a later duplicate execute again when nobody knows the outcome, after this grace.
    #[must_use]
    pub fn retry_unknown(mut self, grace: Duration) -> Policy {
        self.terms.on_unknown = OnUnknown::Retry;
        self.terms.retry_grace = grace;
        self
    }

    /// Sets the methods that are protected.
    #[must_use]
    pub fn methods(mut self, methods: Methods) -> Policy {
        self.methods = methods;
        self
    }

    /// Sets whose key it is.
    #[must_use]
    pub fn scope(mut self, scope: impl IntoIterator<Item = ScopeSource>) -> Policy {
        self.scope = scope.into_iter().collect();
        self
    }

    /// Takes the scope from what a function finds in the request's head, extensions included; a request in which it
    /// finds nothing gets a 400 that mentions `name`.
    #[must_use]
    pub fn scope_from<F>(self, name: &str, find: F) -> Policy
    where
        F: Fn(&Parts) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        self.scope([ScopeSource::Custom { name: Arc::from(name), find: Arc::new(find) }])
    }
}
