//! The files of a listener that speaks TLS, and the clients that speak to it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use onceproxy::proxy::tls::{ClientAuth, TlsSpec};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use super::authority::{Authority, Signed};

/// A listener's files in a folder of their own.
pub struct Files {
    folder: TempDir,
}

impl Files {
    pub fn new(signed: &Signed) -> Files {
        let files = Files { folder: tempfile::tempdir().expect("a folder") };
        files.write("cert.pem", &signed.cert);
        files.write("key.pem", &signed.key);
        files
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The listener's settings.
    pub fn spec(&self) -> TlsSpec {
        TlsSpec {
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
            client_ca: None,
            client_auth: ClientAuth::Required,
        }
    }

    /// The listener's settings where clients have certificates of this authority.
    pub fn spec_with(&self, clients: &Authority, client_auth: ClientAuth) -> TlsSpec {
        TlsSpec { client_ca: Some(self.write("clients.pem", &clients.pem())), client_auth, ..self.spec() }
    }
}

/// A client that trusts an authority, and shows a certificate if it has one.
pub fn client(authority: &Authority, signed: Option<&Signed>, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let mut config = match signed {
        Some(signed) => builder.with_client_auth_cert(signed.chain(), signed.private_key()).expect("a pair"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}
