use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::task::Waker;
use std::thread;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::proxy::upstream::tls::{ClientTls, Roots};

/// A stream to a server of ours, whose side of the connection the test has in its hand.
struct Pair {
    stream: Stream,
    /// The client's side of the TCP connection once more.
    witness: std::net::TcpStream,
    server: ServerConnection,
    server_side: std::net::TcpStream,
}

async fn pair() -> Pair {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let tls = ClientTls::new("localhost", Roots::Only(&certificate.pem()), None).expect("an authority");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("they belong together");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (shaken, server) = mpsc::channel();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a connection");
        let mut server = ServerConnection::new(Arc::new(config)).expect("a session");
        while server.is_handshaking() || server.wants_write() {
            server.complete_io(&mut socket).expect("a handshake");
        }
        shaken.send((server, socket)).expect("the test waits");
    });
    let client = std::net::TcpStream::connect(address).expect("the server accepts");
    client.set_nonblocking(true).expect("a socket option");
    let witness = client.try_clone().expect("a file descriptor");
    let secured = tls.secure(TcpStream::from_std(client).expect("a socket")).await.expect("a handshake");
    let (server, server_side) = server.recv().expect("the server's side");
    Pair { stream: Stream::tls(secured), witness, server, server_side }
}

impl Pair {
    /// Waits until something has come that nobody has read.
    fn wait_for_bytes(&self) {
        while self.witness.peek(&mut [0]).is_err() {
            thread::yield_now();
        }
    }

    fn send(&mut self) {
        while self.server.wants_write() {
            self.server.write_tls(&mut self.server_side).expect("the client reads");
        }
    }

    /// Writes and says what became of it, and what was counted.
    fn write(&self, bytes: &[u8]) -> (Poll<io::Result<usize>>, usize) {
        let mut counted = 0;
        let written = self.stream.poll_write(&mut Context::from_waker(Waker::noop()), bytes, |bytes| counted += bytes);
        (written, counted)
    }
}

#[tokio::test]
async fn tickets_and_new_keys_do_not_end_an_idle_connection() {
    let mut pair = pair().await;
    // The server's tickets have come with the end of the handshake.
    pair.wait_for_bytes();
    assert!(pair.stream.is_silent());
    pair.server.refresh_traffic_keys().expect("TLS 1.3");
    pair.send();
    pair.wait_for_bytes();
    assert!(pair.stream.is_silent());
    assert!(pair.stream.is_silent(), "and once more with nothing there");
    let (written, counted) = pair.write(b"GET /");
    assert!(matches!(written, Poll::Ready(Ok(5))), "{written:?}");
    assert_eq!(counted, 5);
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_end_an_idle_connection() {
    let mut pair = pair().await;
    assert!(pair.stream.is_silent());
    pair.server.writer().write_all(b"HTTP/1.1 408 Slow\r\n\r\n").expect("the session takes it");
    pair.send();
    pair.wait_for_bytes();
    assert!(!pair.stream.is_silent());
    assert!(!pair.stream.is_silent(), "also when they were taken in before");
}

#[tokio::test]
async fn the_end_of_an_idle_connection_is_seen() {
    let mut polite = pair().await;
    assert!(polite.stream.is_silent());
    polite.server.send_close_notify();
    polite.send();
    polite.wait_for_bytes();
    assert!(!polite.stream.is_silent());

    let rude = pair().await;
    assert!(rude.stream.is_silent());
    rude.server_side.shutdown(Shutdown::Both).expect("it is open");
    rude.wait_for_bytes();
    assert!(!rude.stream.is_silent());
}

#[tokio::test]
async fn a_write_to_a_connection_that_was_reset_counts_nothing_and_leaves_nothing_behind() {
    let pair = pair().await;
    assert!(pair.stream.is_silent());
    SockRef::from(&pair.server_side).set_linger(Some(std::time::Duration::ZERO)).expect("a socket option");
    let Pair { stream, witness, server, server_side } = pair;
    drop(server_side);
    // The reset has come when the socket tells of it; looking takes the error away.
    let reset = loop {
        match witness.peek(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
            ended => break ended,
        }
    };
    assert!(!matches!(reset, Ok(1..)), "{reset:?}");
    let again = Pair { stream, server_side: witness.try_clone().expect("a file descriptor"), witness, server };
    let (written, counted) = again.write(b"POST /");
    assert!(matches!(written, Poll::Ready(Err(_))), "{written:?}");
    assert_eq!(counted, 0, "no byte has left");
    let mut told = 0;
    let flushed = again.stream.poll_flush(&mut Context::from_waker(Waker::noop()), |_| told += 1);
    assert!(matches!(flushed, Poll::Ready(Err(_))), "{flushed:?}");
    assert_eq!((again.write(b"POST /").1, told), (0, 0));
}

#[tokio::test]
async fn what_the_session_keeps_for_now_counts_as_sent() {
    let pair = pair().await;
    let chunk = [b'x'; 16 << 10];
    let (mut taken, mut counted) = (0, 0);
    // Nobody reads on the other side: in the end neither the kernel nor the session takes any more.
    loop {
        let (written, bytes) = pair.write(&chunk);
        counted += bytes;
        match written {
            Poll::Ready(written) => taken += written.expect("the connection stands"),
            Poll::Pending => break,
        }
    }
    assert!(taken > 0);
    assert_eq!(counted, taken);
    let Stream::Tls(secured) = &pair.stream else { panic!("it is TLS") };
    assert!(lock(secured).stream.get_ref().1.wants_write(), "the session keeps some of it");
}
