//! An upstream behind TLS that is as strict or as wrong as its certificate.

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::authority::Signed;

/// A connection after its handshake.
pub type Secured = StreamOwned<ServerConnection, TcpStream>;

/// What the upstream does with a connection.
type Serve = Arc<dyn Fn(&mut Secured) + Send + Sync>;

/// A TLS server in the test's process.
pub struct TlsUpstream {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    config: Mutex<Arc<ServerConfig>>,
    serve: Serve,
    /// Connections that came, and handshakes that were brought to their end.
    connections: AtomicUsize,
    handshakes: AtomicUsize,
}

/// Which version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

/// A server's settings: who it is, and whose certificates it asks for.
pub fn server_config(signed: &Signed, version: Version, client_ca: Option<&str>) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let version = match version {
        Version::Tls12 => &TLS12,
        Version::Tls13 => &TLS13,
    };
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(&[version]).expect("a version");
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("an authority"))
        }
    };
    builder.with_single_cert(signed.chain(), signed.private_key()).expect("they belong together")
}

impl TlsUpstream {
    pub fn start(config: ServerConfig, serve: impl Fn(&mut Secured) + Send + Sync + 'static) -> TlsUpstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            config: Mutex::new(Arc::new(config)),
            serve: Arc::new(serve),
            connections: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepting.connections.fetch_add(1, Ordering::AcqRel);
                let shared = accepting.clone();
                thread::spawn(move || shared.talk(stream));
            }
        });
        TlsUpstream { address, shared }
    }

    /// Is somebody else from the next connection on.
    pub fn become_another(&self, config: ServerConfig) {
        *self.shared.config.lock().expect("nobody panics in here") = Arc::new(config);
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    pub fn handshakes(&self) -> usize {
        self.shared.handshakes.load(Ordering::Acquire)
    }
}

impl Shared {
    fn talk(&self, mut socket: TcpStream) {
        let _ = socket.set_nodelay(true);
        let config = self.config.lock().expect("nobody panics in here").clone();
        let mut session = ServerConnection::new(config).expect("a session");
        while session.is_handshaking() || session.wants_write() {
            if session.complete_io(&mut socket).is_err() {
                // The alert is out. What the other side has sent is read, so that no reset overtakes it.
                let _ = socket.shutdown(Shutdown::Write);
                let _ = socket.read_to_end(&mut Vec::new());
                return;
            }
        }
        self.handshakes.fetch_add(1, Ordering::AcqRel);
        (self.serve)(&mut StreamOwned::new(session, socket));
    }
}
