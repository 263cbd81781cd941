//! TLS on the data port: what is spoken through it, and that every rule holds as in clear text.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onceproxy::Policy;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::raw::{Proxy, Setup, post, read_message, requests_total};
use crate::support::authority::Authority;
use crate::support::certificates::{Files, client};
use crate::support::waiting::eventually;

pub type TlsClient = StreamOwned<ClientConnection, TcpStream>;

/// A connection through TLS; the handshake is done with the first bytes.
pub fn connect(proxy: &Proxy, config: &Arc<ClientConfig>) -> TlsClient {
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(config.clone(), name).expect("a client");
    StreamOwned::new(connection, proxy.connect())
}

/// A proxy behind TLS, who signed its certificate, and its files.
fn start(change: impl FnOnce(Setup) -> Setup) -> (Proxy, Authority, Files) {
    let authority = Authority::new();
    let files = Files::new(&authority.issue("proxy"));
    let spec = files.spec();
    let proxy = change(Setup::new().listener(|listener| listener.tls = Some(spec))).start();
    files.write("ca.pem", &authority.pem());
    (proxy, authority, files)
}

/// Runs curl, and gives what it prints.
fn curl(files: &Files, proxy: &Proxy, arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "10", "--cacert"])
        .arg(files.path("ca.pem"))
        .args(arguments)
        .args(["--resolve", &format!("localhost:{}:127.0.0.1", proxy.address.port())])
        .arg(format!("https://localhost:{}/pay", proxy.address.port()))
        .output()
        .expect("curl has to be installed: the tests of TLS need it");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a text")
}

#[test]
fn curl_speaks_http_1_and_2_over_tls_1_2_and_1_3() {
    let (proxy, _, files) = start(|setup| setup);
    let told = "%{http_version} %{http_code}";
    for (protocol, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for tls in ["1.2", "1.3"] {
            let key = format!("idempotency-key: {version}-{tls}");
            let flags = [protocol, "--tls-max", tls, "-H", &key, "-d", "x", "-o", "/dev/null", "-w", told];
            assert_eq!(curl(&files, &proxy, &flags), format!("{version} 200"));
            let request = proxy.upstream.last();
            assert_eq!(request.one("x-forwarded-proto"), "https");
            assert!(request.one("forwarded").ends_with(";proto=https"), "{}", request.head);
            let count = proxy.upstream.count();
            let again = ["--http1.1", "-H", &key, "-d", "x", "-i"];
            assert!(curl(&files, &proxy, &again).contains("idempotency-replayed: true"));
            assert_eq!(proxy.upstream.count(), count);
        }
    }
}

#[test]
fn a_client_without_alpn_is_told_apart_by_its_first_bytes() {
    let (proxy, authority, _files) = start(|setup| setup);
    let config = client(&authority, None, &[]);
    let mut stream = connect(&proxy, &config);
    for byte in post("/", "", "x").as_bytes() {
        stream.write_all(&[*byte]).expect("the proxy reads");
    }
    assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    let mut stream = connect(&proxy, &config);
    let (preface, settings) = (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [0, 0, 0, 4, 0, 0, 0, 0, 0]);
    stream.write_all(preface).expect("the proxy reads");
    stream.write_all(&settings).expect("the proxy reads");
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).expect("a frame");
    assert_eq!(frame[3], 4, "HTTP/2 begins with settings: {frame:?}");
}

#[test]
fn a_request_in_clear_text_is_told_to_ask_for_https_and_garbage_is_closed() {
    let (proxy, _, _files) = start(|setup| setup);
    let answer = proxy.post("/", "idempotency-key: k\r\n", &"x".repeat(30_000));
    assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"));
    assert!(answer.text().contains("https"), "{}", answer.text());
    let mut stream = proxy.connect();
    stream.write_all(&[0; 100]).expect("the proxy reads");
    let end = stream.read(&mut [0]);
    assert!(matches!(&end, Ok(0)) || end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "{end:?}");
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn a_request_in_clear_text_is_counted() {
    let files = Files::new(&Authority::new().issue("proxy"));
    let spec = format!("{{ cert = {:?}, key = {:?} }}", files.path("cert.pem"), files.path("key.pem"));
    let nobody = ([127, 0, 0, 1], 1).into();
    let proxy = crate::support::proxy::Setup::new(nobody, "memory:").listener("tls", spec).start();
    let mut stream = TcpStream::connect(proxy.address).expect("the proxy accepts");
    stream.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 400);
    drop(stream);
    eventually("it is counted", || (requests_total(proxy.admin, "bad_request") == 1).then_some(()));
}

#[test]
fn handshake_and_head_have_one_time_limit_together() {
    let limit = Duration::from_millis(600);
    let (proxy, authority, _files) = start(|setup| setup.listener(|listener| listener.header_timeout = limit));
    let config = client(&authority, None, &["http/1.1"]);
    // Silent; in the middle of its first message; through with it, but without a request; with half of one.
    let mut silent = proxy.connect();
    let mut halfway = proxy.connect();
    halfway.write_all(&[22, 3, 1, 2, 0, 1]).expect("the proxy reads");
    let began = Instant::now();
    for stream in [&mut silent, &mut halfway] {
        let end = stream.read(&mut [0]);
        let is_end = matches!(&end, Ok(0)) || end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset);
        assert!(is_end, "{end:?}");
    }
    assert!(began.elapsed() < limit * 3, "{:?}", began.elapsed());
    for begun in ["", "POST / HTTP/1.1\r\nhost: a"] {
        let began = Instant::now();
        let mut stream = connect(&proxy, &config);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).expect("a handshake");
        }
        stream.write_all(begun.as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut stream, true).expect("an answer").code(), "request-timeout");
        assert_eq!(stream.read(&mut [0]).expect("a close_notify"), 0);
        assert!((limit / 2..limit * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}

#[test]
fn a_client_that_has_no_request_after_all_gets_a_close_notify() {
    let (proxy, authority, _files) = start(|setup| setup);
    for protocols in [&["http/1.1"][..], &[]] {
        let config = client(&authority, None, protocols);
        for says_goodbye in [true, false] {
            let mut stream = connect(&proxy, &config);
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).expect("a handshake");
            }
            if says_goodbye {
                stream.conn.send_close_notify();
                stream.flush().expect("the proxy reads");
            }
            stream.sock.shutdown(Shutdown::Write).expect("half of the connection");
            assert_eq!(stream.read(&mut [0]).expect("a close_notify, not just an end"), 0, "{protocols:?}");
        }
    }
}

#[test]
fn an_early_refusal_arrives_through_tls_and_ends_with_a_close_notify_h22() {
    let policy = Policy { max_request_body: 1000, ..Policy::optional().route("small") };
    let (proxy, authority, _files) = start(|setup| setup.routes(vec![(None, "/{*rest}", policy)]));
    let config = client(&authority, None, &["http/1.1"]);
    for body in [1001, 200_000] {
        let mut stream = connect(&proxy, &config);
        let request = post("/", "idempotency-key: k\r\n", &"x".repeat(body));
        stream.write_all(request.as_bytes()).expect("what is sent too much is thrown away");
        let answer = read_message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.code().as_str()), (413, "body-too-large"));
        assert_eq!(stream.read(&mut [0]).expect("a close_notify, not just an end"), 0);
    }
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn a_client_that_just_hangs_up_after_its_request_is_as_good_as_one_that_says_so() {
    let (proxy, authority, _files) = start(|setup| setup);
    let config = client(&authority, None, &["http/1.1"]);
    let mut cut = connect(&proxy, &config);
    cut.write_all(b"POST / HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\ncontent-length: 9\r\n\r\nabc")
        .expect("the proxy reads");
    cut.sock.shutdown(Shutdown::Write).expect("a half-close");
    let mut rest = Vec::new();
    let _ = cut.read_to_end(&mut rest);
    assert_eq!(proxy.upstream.count(), 0, "what is cut is never whole");
    // The proxy's own end is orderly: an idle connection that is told goodbye is told goodbye.
    let mut polite = connect(&proxy, &config);
    polite.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut polite, true).expect("an answer").status(), 200);
    polite.conn.send_close_notify();
    polite.flush().expect("the proxy reads");
    assert_eq!(polite.read(&mut [0]).expect("a close_notify"), 0);
}

#[test]
fn the_idle_and_the_write_clock_run_above_tls() {
    let (proxy, authority, _files) = start(|setup| {
        setup
            .listener(|listener| {
                listener.header_timeout = Duration::from_secs(9);
                listener.idle_timeout = Duration::from_millis(500);
                listener.body_timeout = Duration::from_millis(400);
            })
            .upstream(|upstream| {
                upstream.max_connections = 1;
                upstream.connect_timeout = Duration::from_secs(9);
            })
    });
    proxy.upstream.acts(Box::new(|request, stream| {
        if request.start_line().contains("/large") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
            while stream.write_all(&[b'x'; 65536]).is_ok() {}
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    }));
    let config = client(&authority, None, &["http/1.1"]);
    let mut stalled = connect(&proxy, &config);
    stalled.write_all(b"GET /large HTTP/1.1\r\nhost: api\r\n\r\n").expect("the proxy reads");
    while proxy.upstream.count() == 0 {
        std::thread::yield_now();
    }
    let stalled_since = Instant::now();
    // The only upstream connection comes free when the proxy has lost its patience with the other client.
    let mut stream = connect(&proxy, &config);
    stream.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    assert!(stalled_since.elapsed() < Duration::from_secs(4), "{:?}", stalled_since.elapsed());
    let idle_since = Instant::now();
    assert_eq!(stream.read(&mut [0]).expect("a close_notify"), 0);
    let idle = idle_since.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_secs(4)).contains(&idle), "{idle:?}");
    drop(stalled);
}

#[test]
fn a_large_answer_comes_whole_to_a_slow_reader() {
    let (proxy, authority, _files) = start(|setup| setup);
    const LENGTH: usize = 3_000_000;
    proxy.upstream.acts(Box::new(|_, stream| {
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").as_bytes());
        let _ = stream.write_all(&vec![b'x'; LENGTH]);
    }));
    let config = client(&authority, None, &["http/1.1"]);
    let mut stream = connect(&proxy, &config);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n").expect("the proxy reads");
    let answer = read_message(&mut stream, true).expect("an answer");
    assert_eq!(answer.body.len(), LENGTH);
    assert_eq!(stream.read(&mut [0]).expect("a close_notify"), 0);
}

#[test]
fn another_protocol_passes_through_tls_h26() {
    let (proxy, authority, _files) = start(|setup| setup);
    proxy.upstream.acts(Box::new(|_, stream| {
        let switched = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n";
        stream.write_all(switched.as_bytes()).expect("the proxy listens");
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length]).expect("the proxy listens");
        }
    }));
    let mut stream = connect(&proxy, &client(&authority, None, &["http/1.1"]));
    let ask = "GET /socket HTTP/1.1\r\nhost: api\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(ask.as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut stream, false).expect("an answer").status(), 101);
    for frame in [&b"x"[..], &[b'y'; 100_000]] {
        stream.write_all(frame).expect("the proxy reads");
        let mut echo = vec![0; frame.len()];
        stream.read_exact(&mut echo).expect("an echo");
        assert!(echo == frame);
    }
}
