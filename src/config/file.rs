//! The mirror of the file: every setting, its kind, and a sentence. Nothing here has a default.

use std::net::SocketAddr;

use http::HeaderName;
use serde_json::{Value, json};
use toml::Spanned;
use toml::de::DeValue;

use super::certificates::CertAndKey;
use super::diagnostic::{Diagnostic, Findings};
use super::lists::{List, Named};
use super::secret::Secret;
use super::section::{Given, Setting, section};
use super::sources::{DocsUrl, MethodWord};
use super::upstreams::UpstreamUrl;
use super::values::{Count, DAY, NotBuilt, Retention, Size, Timeout, Within, choice, parsed};
use crate::fingerprint::json::Pointer;
use crate::http::policy::{FingerprintPart, KeyRule, KeySource, Mode, ScopeSource, StoreDown};
use crate::key::KeySyntax;
use crate::proxy::listener::address::{Address, TrustedPeer};
use crate::proxy::tls::ClientAuth;
use crate::record::OnUnknown;
use crate::telemetry::logs::Format;

section! {
    /// The whole file.
    File {
        /// The version of this format: 1.
        version: Version,
        /// Where problem types and Link headers point; a problem's code is put behind it.
        docs_url: DocsUrl,
        /// The data listener.
        listener: ListenerFile,
        /// The admin listener; without this section there is none.
        admin: AdminFile,
        /// The logs.
        log: LogFile,
        /// Where records are kept.
        store: StoreFile,
        /// Where requests go, by name.
        upstreams: Named<UpstreamFile>,
        /// The policy of every route, setting by setting, unless the route says otherwise.
        defaults: PolicyFile,
        /// What is protected, and how.
        routes: Vec<Given<RouteFile>>,
    }
}

section! {
    /// The data listener.
    ListenerFile {
        /// The address and port to listen on, or unix:/PATH.
        address: Address,
        /// Certificate and key for TLS, and the authority of clients' certificates.
        tls: TlsFile,
        /// The longest time for a TLS handshake and a request's head together.
        header_timeout: Timeout,
        /// The longest time between two chunks of a request's body.
        body_timeout: Timeout,
        /// The longest time between two requests of a connection.
        idle_timeout: Timeout,
        /// How long a shutdown waits for the requests under way.
        shutdown_grace: Timeout,
        /// Connections at once.
        max_connections: Count<1, 1_000_000>,
        /// All request and response buffers together; above it requests get 503.
        max_buffered: Size<{ 64 << 10 }, { 1 << 40 }>,
        /// A folder for bodies of protected requests above 64 KiB, in files without a name; the system's folder for
        /// temporary files unless it is given.
        spool_dir: String,
        /// All bodies in that folder together; above it, and on a full disk, requests get 503.
        max_spooled: Size<{ 64 << 10 }, { 1 << 50 }>,
        /// Addresses, networks, or "unix", that may set X-Forwarded-* and Forwarded.
        trusted_proxies: Vec<Given<TrustedPeer>>,
    }
}

section! {
    /// TLS on the data listener. The files are read again when they change.
    TlsFile {
        /// The certificate in PEM, with those between it and its authority.
        cert: String,
        /// Its private key in PEM.
        key: String,
        /// Who signs clients' certificates, in PEM; with it a client has to have one.
        client_ca: String,
        /// Whether a client has to have a certificate, or one is only checked when it is sent.
        client_auth: ClientAuth,
    }
}

section! {
    /// The admin listener: never the data port.
    AdminFile {
        /// The address and port; one that is not loopback needs a token.
        address: SocketAddr,
        /// The token of the records API; without it nothing can be changed.
        token: Secret,
    }
}

section! {
    /// The logs.
    LogFile {
        /// A level (error, warn, info, debug, trace) or a filter such as "info,onceproxy=debug".
        level: String,
        /// Text on a terminal and JSON otherwise, or always one of them.
        format: Format,
        /// Whether each request gets a line.
        access: bool,
    }
}

section! {
    /// The store.
    StoreFile {
        /// memory:, sqlite:PATH, redis://… or rediss://…; as a secret where it holds a password.
        url: Secret,
        /// The first part of every name in the store.
        prefix: String,
        /// The longest time of one call to the store.
        command_timeout: Within<1, 60_000>,
        /// What an acknowledged write means.
        durability: Durability,
        /// Starts although Redis is set up to evict records.
        unsafe_allow_eviction: bool,
        /// Encryption of stored responses.
        encryption: NotBuilt,
        /// A key for record ids and fingerprints.
        hmac_key: NotBuilt,
        /// Compression of stored bodies.
        compression: NotBuilt,
    }
}

section! {
    /// An upstream.
    UpstreamFile {
        /// http://HOST, http://HOST:PORT, https://HOST, https://HOST:PORT or unix:/PATH.
        url: UpstreamUrl,
        /// A PEM file: the authorities of an https upstream, and no others; without it the system's roots.
        ca: String,
        /// Who we are to an https upstream.
        client_cert: CertAndKey,
        /// The longest time for name, TCP and TLS together.
        connect_timeout: Timeout,
        /// From the last request byte to the response head, then between two chunks; of a protected request the
        /// whole exchange.
        response_timeout: Timeout,
        /// How long a pooled connection may lie idle; shorter than the server's own time.
        idle_timeout: Timeout,
        /// Connections at once.
        max_connections: Count<1, 1_000_000>,
        /// Passes the client's Host on; otherwise the upstream's.
        preserve_host: bool,
    }
}

section! {
    /// A policy.
    PolicyFile {
        /// Enforce keys, only observe what would happen, or neither.
        mode: Mode,
        /// Whether a request may come without a key.
        key: KeyRule,
        /// A key is unique per namespace and scope; the upstream's name by default.
        namespace: String,
        /// Where the key is looked for; the first that is present counts.
        key_from: List<KeySource>,
        /// The accepted spellings of a key.
        key_syntax: KeySyntax,
        /// The longest key, in characters.
        key_max_length: Count<1, 255>,
        /// Whose key it is.
        scope: List<ScopeSource>,
        /// What counts as the same request.
        fingerprint: FingerprintFile,
        /// How long a claim lives without a renewal; it is renewed while the upstream works.
        lease: Within<1000, DAY>,
        /// How long a record is kept and replayed, from its completion.
        retention: Retention,
        /// What a duplicate gets while the first runs: 409 at once, or it waits for the answer.
        concurrent: Concurrent,
        /// How long a duplicate waits.
        wait_timeout: Timeout,
        /// What becomes of an outcome that nobody knows: held until it is settled, or run again.
        unknown_outcome: OnUnknown,
        /// Under "retry": how much longer to wait, since the first may still run.
        retry_grace: Timeout,
        /// Without a store: 503, or forwarded unprotected.
        store_down: StoreDown,
        /// Statuses by which the upstream says that it did not act.
        release_status: Vec<Given<Count<200, 599>>>,
        /// Statuses after which nobody knows whether it acted.
        unknown_status: Vec<Given<Count<200, 599>>>,
        /// The largest body of a protected request.
        max_request_body: Size<1, { 1 << 40 }>,
        /// The largest response body that is recorded.
        max_response_body: Size<1, { 256 << 20 }>,
        /// Fields that are never stored.
        replay_drop_headers: Vec<Given<HeaderName>>,
    }
}

section! {
    /// What counts as the same request.
    FingerprintFile {
        /// The parts that count.
        parts: List<FingerprintPart>,
        /// How the body counts: byte for byte, or as JSON, whose order and white space do not count.
        body: BodyKind,
        /// JSON pointers to what does not count.
        omit: Vec<Given<Pointer>>,
    }
}

section! {
    /// A route.
    RouteFile {
        /// Its name, for metrics, logs and the operator.
        name: String,
        /// A pattern: /v1/payments/{id}, /{*rest}; the most specific one wins.
        path: String,
        /// Only this host.
        host: String,
        /// The methods that the policy protects.
        methods: List<MethodWord>,
        /// The name of an upstream.
        upstream: String,
        /// What differs from `[defaults]`.
        policy: PolicyFile,
    }
}

/// The version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version;

/// What an acknowledged write means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The primary has it.
    Primary,
}

/// What a duplicate does while the first runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrent {
    /// It is turned away.
    Reject,
    /// It waits.
    Wait,
}

/// How the body counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// Byte for byte.
    Bytes,
    /// As JSON.
    Json,
}

choice!(Mode { "enforce" => Mode::Enforce, "observe" => Mode::Observe, "off" => Mode::Off });
choice!(KeyRule { "required" => KeyRule::Required, "optional" => KeyRule::Optional });
choice!(KeySyntax { "any" => KeySyntax::Any, "structured" => KeySyntax::Structured, "uuid" => KeySyntax::Uuid });
choice!(Concurrent { "reject" => Concurrent::Reject, "wait" => Concurrent::Wait });
choice!(OnUnknown { "hold" => OnUnknown::Hold, "retry" => OnUnknown::Retry });
choice!(StoreDown { "reject" => StoreDown::Reject, "bypass" => StoreDown::Bypass });
choice!(BodyKind { "bytes" => BodyKind::Bytes, "json" => BodyKind::Json });
choice!(ClientAuth { "required" => ClientAuth::Required, "optional" => ClientAuth::Optional });
choice!(Format { "auto" => Format::Auto, "text" => Format::Text, "json" => Format::Json });
choice!(FingerprintPart {
    "method" => FingerprintPart::Method,
    "path" => FingerprintPart::Path,
    "query" => FingerprintPart::Query,
    "content-type" => FingerprintPart::ContentType,
    "body" => FingerprintPart::Body,
});

impl Setting for Version {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<Version> {
        let one = value.get_ref().as_integer().is_some_and(|found| found.as_str() == "1");
        if !one {
            findings.push(Diagnostic::error(format!("`{name}` has to be 1")).at(value.span()));
        }
        one.then_some(Version)
    }

    fn schema() -> Value {
        json!({ "const": 1 })
    }
}

impl Setting for Durability {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<Durability> {
        parsed(value, name, findings, |name, text| match text {
            "primary" => Ok(Durability::Primary),
            text if text == "fsync" || text.starts_with("replicas:") => Err(Diagnostic::error(format!(
                "`{name} = {text:?}` is not built yet: this release has \"primary\" only"
            ))),
            text => Err(Diagnostic::error(format!("`{name}` is {text:?}, which is none of \"primary\""))),
        })
    }

    fn schema() -> Value {
        json!({ "enum": ["primary"] })
    }
}
