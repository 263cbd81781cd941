//! TLS to an upstream: who is believed, and what a handshake that fails says of the execution.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use onceproxy::proxy::upstream::Transport;
use onceproxy::proxy::upstream::tls::{ClientTls, Identity, Roots};

use super::raw::{Message, Proxy, Setup, post, read_message};
use crate::support::authority::{Authority, Signed};
use crate::support::tls_upstream::{Secured, TlsUpstream, Version, server_config};

const KEY: &str = "idempotency-key: k\r\n";
const VERSIONS: [Version; 2] = [Version::Tls12, Version::Tls13];

/// An upstream that answers everything and counts what it got.
struct Counting {
    tls: TlsUpstream,
    count: Arc<AtomicUsize>,
}

impl Counting {
    fn start(config: rustls::ServerConfig) -> Counting {
        Counting::then(config, |_| true)
    }

    /// Does something after each answer, and goes on if that says so.
    fn then(
        config: rustls::ServerConfig,
        afterwards: impl Fn(&mut Secured) -> bool + Send + Sync + 'static,
    ) -> Counting {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let tls = TlsUpstream::start(config, move |stream| {
            while read_message(stream, true).is_some() {
                let number = counted.fetch_add(1, Ordering::AcqRel) + 1;
                let body = format!("execution {number}");
                let answer = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).is_err() || !afterwards(stream) {
                    return;
                }
            }
        });
        Counting { tls, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }
}

/// A proxy before a TLS server, which it calls by this host.
fn proxy_to(port: u16, host: &'static str, ca: &str, identity: Option<&Signed>) -> Proxy {
    let identity = identity.map(|signed| Identity { cert: &signed.cert, key: &signed.key });
    let tls = ClientTls::new(host, Roots::Only(ca), identity).expect("TLS can be set up");
    let setup = Setup::new().upstream(|upstream| {
        upstream.host = host.into();
        upstream.port = port;
        upstream.transport = Transport::Tls(Arc::new(tls));
    });
    setup.start()
}

fn assert_not_executed(answer: &Message) {
    assert_eq!((answer.status(), answer.code().as_str()), (502, "not-executed"), "{}", answer.head);
    assert_eq!(answer.one("idempotency-status"), "not-executed");
}

#[test]
fn a_keyed_request_is_executed_over_tls_and_replayed() {
    let authority = Authority::new();
    for version in VERSIONS {
        let upstream = Counting::start(server_config(&authority.sign("localhost"), version, None));
        let proxy = proxy_to(upstream.tls.address.port(), "localhost", &authority.pem(), None);
        let first = proxy.post("/", KEY, "x");
        assert_eq!((first.status(), first.text().as_str()), (201, "execution 1"), "{version:?}");
        let second = proxy.post("/", KEY, "x");
        assert_eq!((second.text().as_str(), second.one("idempotency-status")), ("execution 1", "replayed"));
        assert_eq!(upstream.count(), 1);
    }
}

#[test]
fn an_address_is_verified_as_an_address() {
    let authority = Authority::new();
    let upstream = Counting::start(server_config(&authority.sign("127.0.0.1"), Version::Tls13, None));
    let proxy = proxy_to(upstream.tls.address.port(), "127.0.0.1", &authority.pem(), None);
    assert_eq!(proxy.post("/", KEY, "x").status(), 201);
    // A name is not the address that it leads to.
    upstream.tls.become_another(server_config(&authority.sign("localhost"), Version::Tls13, None));
    let proxy = proxy_to(upstream.tls.address.port(), "127.0.0.1", &authority.pem(), None);
    assert_not_executed(&proxy.post("/", KEY, "x"));
}

#[test]
fn a_certificate_that_proves_nothing_leaves_the_key_free() {
    let authority = Authority::new();
    let wrong = [
        authority.sign("elsewhere.test"),
        authority.sign_expired("localhost"),
        // An authority of the same name, with another key.
        Authority::new().sign("localhost"),
    ];
    for version in VERSIONS {
        for wrong in &wrong {
            let upstream = Counting::start(server_config(wrong, version, None));
            let proxy = proxy_to(upstream.tls.address.port(), "localhost", &authority.pem(), None);
            for _ in 0..2 {
                assert_not_executed(&proxy.post("/", KEY, "x"));
            }
            assert_eq!((upstream.count(), upstream.tls.connections()), (0, 2));
            upstream.tls.become_another(server_config(&authority.sign("localhost"), version, None));
            assert_eq!(proxy.post("/", KEY, "x").text(), "execution 1");
        }
    }
}

#[test]
fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (us, strangers) = (clients.sign("onceproxy"), Authority::new().sign("onceproxy"));
    for version in VERSIONS {
        let config = server_config(&authority.sign("localhost"), version, Some(&clients.pem()));
        let upstream = Counting::start(config);
        let port = upstream.tls.address.port();
        let proxy = proxy_to(port, "localhost", &authority.pem(), Some(&us));
        assert_eq!(proxy.post("/", KEY, "x").status(), 201, "{version:?}");
        assert_eq!((upstream.count(), upstream.tls.handshakes()), (1, 1));
        // Under TLS 1.3 the refusal comes when the request may be on its way; nobody has read it.
        for identity in [None, Some(&strangers)] {
            let proxy = proxy_to(port, "localhost", &authority.pem(), identity);
            for _ in 0..2 {
                assert_not_executed(&proxy.post("/", KEY, "x"));
            }
        }
        assert_eq!((upstream.count(), upstream.tls.handshakes()), (1, 1), "{version:?}");
    }
}

#[test]
fn a_client_certificate_that_is_missing_is_not_executed_over_http_2() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let mut config = server_config(&authority.sign("localhost"), Version::Tls13, Some(&clients.pem()));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let upstream = Counting::start(config);
    let proxy = proxy_to(upstream.tls.address.port(), "localhost", &authority.pem(), None);
    // At once, so that some share a connection that has not answered yet.
    thread::scope(|scope| {
        for n in 0..8 {
            let proxy = &proxy;
            scope.spawn(move || assert_not_executed(&proxy.post("/", &format!("idempotency-key: k{n}\r\n"), "x")));
        }
    });
    assert_eq!((upstream.count(), upstream.tls.handshakes()), (0, 0));
}

#[test]
fn a_server_that_speaks_no_tls_or_nothing_at_all_is_not_executed_within_the_time_limit() {
    let authority = Authority::new();
    let plain = Proxy::start();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (plain, silent) = (plain.upstream.address.port(), silent.local_addr().expect("its address").port());
    for port in [plain, silent] {
        let tls = ClientTls::new("127.0.0.1", Roots::Only(&authority.pem()), None).expect("TLS can be set up");
        let setup = Setup::new().upstream(|upstream| {
            upstream.port = port;
            upstream.connect_timeout = Duration::from_millis(400);
            upstream.transport = Transport::Tls(Arc::new(tls));
        });
        let (proxy, began) = (setup.start(), Instant::now());
        assert_not_executed(&proxy.post("/", KEY, "x"));
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_server_without_http_1_is_not_executed() {
    let authority = Authority::new();
    let mut config = server_config(&authority.sign("localhost"), Version::Tls13, None);
    config.alpn_protocols = vec![b"spdy/1".to_vec()];
    let upstream = Counting::start(config);
    let proxy = proxy_to(upstream.tls.address.port(), "localhost", &authority.pem(), None);
    assert_not_executed(&proxy.post("/", KEY, "x"));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn tls_connections_are_used_again_whatever_tls_says_in_between() {
    let authority = Authority::new();
    let config = server_config(&authority.sign("localhost"), Version::Tls13, None);
    // New keys after every answer: they lie unread on the idle connection.
    let upstream = Counting::then(config, |stream| {
        stream.conn.refresh_traffic_keys().expect("TLS 1.3");
        stream.flush().is_ok()
    });
    let proxy = proxy_to(upstream.tls.address.port(), "localhost", &authority.pem(), None);
    let mut client = proxy.connect();
    for n in 0..20 {
        client.write_all(post("/", &format!("idempotency-key: k{n}\r\n"), "x").as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut client, true).expect("an answer").status(), 201);
    }
    assert_eq!((upstream.count(), upstream.tls.connections()), (20, 1));
}

#[test]
fn an_idle_tls_connection_that_the_upstream_closed_is_not_used_h27() {
    let authority = Authority::new();
    let config = server_config(&authority.sign("localhost"), Version::Tls13, None);
    let upstream = Counting::then(config, |stream| {
        stream.conn.send_close_notify();
        let _ = stream.flush();
        false
    });
    let proxy = proxy_to(upstream.tls.address.port(), "localhost", &authority.pem(), None);
    let mut executed = 0;
    for n in 0..50 {
        let answer = proxy.post("/", &format!("idempotency-key: k{n}\r\n"), "x");
        // A close that crosses the request on the wire may cost an answer, but never a second execution.
        match answer.status() {
            201 => executed += 1,
            _ => assert_eq!(answer.code(), "upstream-lost"),
        }
    }
    assert_eq!(upstream.count(), executed);
}

#[test]
fn large_bodies_pass_both_ways_over_tls() {
    const BYTES: usize = 3 << 20;
    let authority = Authority::new();
    let config = server_config(&authority.sign("localhost"), Version::Tls13, None);
    let upstream = TlsUpstream::start(config, |stream| {
        let request = read_large(stream);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.len());
        let echoed = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&request));
        echoed.and_then(|()| stream.flush()).expect("the proxy reads");
        // Held open until the proxy closes.
        let _ = stream.read(&mut [0]);
    });
    let proxy = proxy_to(upstream.address.port(), "localhost", &authority.pem(), None);
    let body: Vec<u8> = (0..BYTES).map(|at| b'a' + u8::try_from(at % 23).expect("it is small")).collect();
    let mut client = proxy.connect();
    let mut sending = client.try_clone().expect("a file descriptor");
    let request =
        [format!("POST / HTTP/1.1\r\nhost: api\r\ncontent-length: {BYTES}\r\n\r\n").into_bytes(), body].concat();
    let sent = thread::spawn(move || {
        sending.write_all(&request).expect("the proxy reads");
        request
    });
    let answer = read_message(&mut client, true).expect("an answer");
    let request = sent.join().expect("the request is sent");
    assert_eq!(answer.status(), 200);
    assert!(request.ends_with(&answer.body) && answer.body.len() == BYTES, "the bytes came back");
}

/// Reads a request with a body of a known length, in large pieces.
fn read_large(stream: &mut Secured) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            let length: usize = length.expect("a length");
            let mut body = bytes.split_off(end + 4);
            let begun = body.len();
            body.resize(length, 0);
            stream.read_exact(&mut body[begun..]).expect("the proxy sends");
            return body;
        }
        let read = stream.read(&mut piece).expect("the proxy sends");
        assert_ne!(read, 0, "the head ended early");
        bytes.extend_from_slice(&piece[..read]);
    }
}
