//! TLS on the data listener: its certificates, read when it starts and whenever they change.

mod holder;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use crate::scope::add_part;

pub(super) use holder::holder;

/// How often the files are looked at. A change counts when two looks agree: a pair is written one file after the other.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The protocols that are offered, the best first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];

/// What TLS calls HTTP/2.
pub(super) const HTTP2: &[u8] = b"h2";

/// Where the listener's certificates are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    /// The certificate, with those that stand between it and its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs clients' certificates; without it clients have none.
    pub client_ca: Option<PathBuf>,
    /// Whether clients have to have one.
    pub client_auth: ClientAuth,
}

/// Whether a client has to have a certificate, where there is an authority for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// There is no connection without one.
    #[default]
    Required,
    /// One that is sent is checked.
    Optional,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} {problem}", .path.display())]
pub struct TlsError {
    /// What the file is for.
    pub part: Part,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: Problem,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The listener's certificate.
    Cert,
    /// Its key.
    Key,
    /// The authority of clients.
    ClientCa,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It is not there, or must not be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is damaged.
    #[error("is not PEM: {0}")]
    NotPem(#[source] pem::Error),
    /// There is nothing in it that is needed.
    #[error("has no {0}")]
    Nothing(&'static str),
    /// The key is another certificate's.
    #[error("is not the key of the certificate")]
    OtherKey,
    /// What is in it cannot be used.
    #[error("cannot be used: {0}")]
    Unusable(#[source] rustls::Error),
    /// The authority's certificates cannot be used.
    #[error("cannot be used: {0}")]
    Authority(#[source] VerifierBuilderError),
}

/// What came of reading the certificates again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// New connections get the new ones.
    Changed,
    /// They are the same as before.
    Unchanged,
}

/// The certificates of a listener. Connections keep what they began with.
pub struct ServerTls {
    current: ArcSwap<Loaded>,
}

/// Certificates that have been read and are not in force yet.
pub struct Prepared(Loaded);

/// What new connections begin with.
struct Loaded {
    spec: TlsSpec,
    config: Arc<ServerConfig>,
    digest: [u8; 32],
}

/// What is in the files.
struct Texts {
    cert: String,
    key: String,
    client_ca: Option<String>,
}

/// How a file is read.
type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

impl TlsSpec {
    /// Says whether the files can be used, as `read` finds them.
    ///
    /// # Errors
    /// The first file that cannot be used, and why.
    pub fn check(&self, read: ReadFile<'_>) -> Result<(), TlsError> {
        self.load(&self.read(read)?).map(drop)
    }

    fn read(&self, read: ReadFile<'_>) -> Result<Texts, TlsError> {
        let text = |part, path: &Path| {
            read(path).map_err(|error| TlsError { part, path: path.to_owned(), problem: Problem::Unreadable(error) })
        };
        Ok(Texts {
            cert: text(Part::Cert, &self.cert)?,
            key: text(Part::Key, &self.key)?,
            client_ca: self.client_ca.as_deref().map(|path| text(Part::ClientCa, path)).transpose()?,
        })
    }

    fn load(&self, texts: &Texts) -> Result<Loaded, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certified = self.certified(texts, &provider)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.wrong(Part::Cert, Problem::Unusable(error)))?;
        let builder = match &texts.client_ca {
            Some(text) => builder.with_client_cert_verifier(self.verifier(text, provider)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        if texts.client_ca.is_some() {
            // A session that is taken up again would not ask whether the client's certificate is still good.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer =
                aws_lc_rs::Ticketer::new().map_err(|error| self.wrong(Part::Cert, Problem::Unusable(error)))?;
        }
        Ok(Loaded { spec: self.clone(), config: Arc::new(config), digest: texts.digest() })
    }

    fn certified(&self, texts: &Texts, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let chain = self.certificates(Part::Cert, &texts.cert)?;
        let key = PrivateKeyDer::from_pem_slice(texts.key.as_bytes()).map_err(|error| {
            self.wrong(
                Part::Key,
                match error {
                    pem::Error::NoItemsFound => Problem::Nothing("private key"),
                    error => Problem::NotPem(error),
                },
            )
        })?;
        CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => self.wrong(Part::Key, Problem::OtherKey),
            error @ rustls::Error::InvalidCertificate(_) => self.wrong(Part::Cert, Problem::Unusable(error)),
            error => self.wrong(Part::Key, Problem::Unusable(error)),
        })
    }

    fn verifier(
        &self,
        text: &str,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(Part::ClientCa, text)? {
            roots.add(certificate).map_err(|error| self.wrong(Part::ClientCa, Problem::Unusable(error)))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match self.client_auth {
            ClientAuth::Required => builder,
            ClientAuth::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|error| self.wrong(Part::ClientCa, Problem::Authority(error)))
    }

    fn certificates(&self, part: Part, text: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let all = all.map_err(|error| self.wrong(part, Problem::NotPem(error)))?;
        match all.is_empty() {
            true => Err(self.wrong(part, Problem::Nothing("certificate"))),
            false => Ok(all),
        }
    }

    fn wrong(&self, part: Part, problem: Problem) -> TlsError {
        let path = match part {
            Part::Cert => &self.cert,
            Part::Key => &self.key,
            Part::ClientCa => self.client_ca.as_ref().unwrap_or(&self.cert),
        };
        TlsError { part, path: path.clone(), problem }
    }
}

impl Texts {
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        add_part(&mut hash, "cert", self.cert.as_bytes());
        add_part(&mut hash, "key", self.key.as_bytes());
        if let Some(text) = &self.client_ca {
            add_part(&mut hash, "client_ca", text.as_bytes());
        }
        hash.finalize().into()
    }
}

impl ServerTls {
    /// Reads the certificates of a listener.
    ///
    /// # Errors
    /// The first file that cannot be used, and why.
    pub fn open(spec: TlsSpec) -> Result<ServerTls, TlsError> {
        let loaded = spec.load(&spec.read(&read_file)?)?;
        Ok(ServerTls { current: ArcSwap::from_pointee(loaded) })
    }

    /// Reads the certificates of what may be another setting; `None` when all is as it was.
    ///
    /// # Errors
    /// The first file that cannot be used, and why.
    pub fn prepare(&self, spec: &TlsSpec) -> Result<Option<Prepared>, TlsError> {
        let (texts, current) = (spec.read(&read_file)?, self.current.load());
        match texts.digest() == current.digest && *spec == current.spec {
            true => Ok(None),
            false => Ok(Some(Prepared(spec.load(&texts)?))),
        }
    }

    /// Gives new connections what was prepared.
    pub fn take_over(&self, prepared: Prepared) {
        info!(cert = %prepared.0.spec.cert.display(), "new connections get the certificates that were read now");
        self.current.store(Arc::new(prepared.0));
    }

    /// Reads the certificates again. All or nothing: when one file cannot be used, the old ones of all stay.
    ///
    /// # Errors
    /// The first file that cannot be used, and why.
    pub fn reload(&self) -> Result<Reloaded, TlsError> {
        match self.prepare(&self.current.load().spec)? {
            None => Ok(Reloaded::Unchanged),
            Some(prepared) => {
                self.take_over(prepared);
                Ok(Reloaded::Changed)
            }
        }
    }

    /// Reads the certificates again whenever their files have changed, for ever.
    ///
    /// It looks at what is in the files: a change of a link in their path is one too, and a clock plays no part.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Some(self.current.load().digest);
        let mut is_taken = true;
        loop {
            ticks.tick().await;
            let this = self.clone();
            let look = move || this.current.load().spec.read(&read_file).ok().map(|texts| texts.digest());
            let Ok(found) = tokio::task::spawn_blocking(look).await else { continue };
            if found != last {
                last = found;
                is_taken = false;
            } else if !is_taken {
                is_taken = true;
                if let Err(error) = self.reload() {
                    error!(%error, "the certificates have changed, and cannot be used: the old ones stay");
                }
            }
        }
    }

    /// What a new connection begins with.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerTls").field(&self.current.load().spec).finish()
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}
