//! TLS to an upstream: whom we trust, who we are, and what is offered. Certificates are always verified; there is no
//! way to leave that out.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, InconsistentKeys, RootCertStore};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::stream::Raw;

/// The name of HTTP/2 where versions are offered (RFC 9113 section 3.1).
pub(super) const HTTP2: &[u8] = b"h2";
/// What is offered to the server, which chooses (RFC 7301).
const OFFERED: [&[u8]; 2] = [HTTP2, b"http/1.1"];

/// How an upstream is spoken to by TLS. Two are equal when the certificates they were made from are.
pub struct ClientTls {
    server_name: ServerName<'static>,
    config: Arc<ClientConfig>,
    /// Of everything that it was made from.
    digest: [u8; 32],
}

/// Whose certificates are believed.
#[derive(Debug, Clone, Copy)]
pub enum Roots<'a> {
    /// Those of the system's roots.
    System,
    /// Those of this PEM text's certificates, and of no others.
    Only(&'a str),
}

/// Who we are: PEM texts.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// Our certificate, and those between it and a root.
    pub cert: &'a str,
    /// Its private key.
    pub key: &'a str,
}

/// Why TLS cannot be set up. Each text follows the name of what it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// No certificate can be for this host.
    #[error("has a host that no certificate can be for")]
    Host,
    /// The system has no roots.
    #[error("needs the system's root certificates, but {0}")]
    System(String),
    /// The authority's text.
    #[error("{0}")]
    Ca(String),
    /// Our certificate.
    #[error("{0}")]
    Cert(String),
    /// Our key.
    #[error("{0}")]
    Key(String),
}

impl ClientTls {
    /// Sets TLS up for a host: a name, or an address without brackets.
    ///
    /// # Errors
    /// A [`TlsError`] that says which part is at fault.
    pub fn new(host: &str, roots: Roots<'_>, identity: Option<Identity<'_>>) -> Result<ClientTls, TlsError> {
        let server_name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host)?;
        let mut content = Content(Sha256::new());
        content.add(host.as_bytes());
        let store = root_store(roots, &mut content)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for the versions that rustls holds safe")
            .with_root_certificates(store);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                content.add(identity.cert.as_bytes());
                content.add(identity.key.as_bytes());
                let chain = certificates(identity.cert).map_err(TlsError::Cert)?;
                builder.with_client_auth_cert(chain, private_key(identity.key)?).map_err(|error| match error {
                    rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                        TlsError::Key("does not belong to the certificate".to_owned())
                    }
                    rustls::Error::InvalidCertificate(error) => {
                        TlsError::Cert(format!("holds a certificate that is none: {error:?}"))
                    }
                    error => TlsError::Key(format!("holds a key that cannot be used: {error}")),
                })?
            }
        };
        config.alpn_protocols = OFFERED.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(ClientTls { server_name, config: Arc::new(config), digest: content.0.finalize().into() })
    }

    /// Shakes hands over a TCP connection.
    pub(super) async fn secure(&self, stream: TcpStream) -> io::Result<TlsStream<Raw>> {
        TlsConnector::from(self.config.clone()).connect(self.server_name.clone(), Raw::new(stream)).await
    }
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &ClientTls) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ClientTls {}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// What TLS is made from, part by part.
struct Content(Sha256);

impl Content {
    fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }
}

fn root_store(roots: Roots<'_>, content: &mut Content) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::Only(text) => {
            for certificate in certificates(text).map_err(TlsError::Ca)? {
                content.add(&certificate);
                store
                    .add(certificate)
                    .map_err(|error| TlsError::Ca(format!("holds a certificate that cannot be trusted: {error}")))?;
            }
        }
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            found.certs.iter().for_each(|certificate| content.add(certificate));
            // Old and odd ones among them are left out: the others still serve.
            if store.add_parsable_certificates(found.certs).0 == 0 {
                let reason = found.errors.first().map_or("there are none".to_owned(), ToString::to_string);
                return Err(TlsError::System(reason));
            }
        }
    }
    Ok(store)
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate: it has to be PEM".to_owned()),
        found => found.map_err(|error| format!("is not PEM: {error}")),
    }
}

fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            TlsError::Key("holds no private key: it has to be PEM, and not encrypted".to_owned())
        }
        error => TlsError::Key(format!("is not PEM: {error}")),
    })
}

/// The server's word that it does not take our certificate, or wants one, if that is what ended a connection.
pub(super) fn refusal_of_us(error: &io::Error) -> Option<rustls::Error> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        error @ rustls::Error::AlertReceived(alert) if is_of_the_handshake(*alert) => Some(error.clone()),
        _ => None,
    }
}

/// Whether an alert is about a handshake and nothing else (RFC 8446 section 6.2).
fn is_of_the_handshake(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::HandshakeFailure
            | AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            // A signature, not a record.
            | AlertDescription::DecryptError
    )
}
