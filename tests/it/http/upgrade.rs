//! H26: a switch of protocols, in raw bytes.

mod shutdown;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use onceproxy::Policy;
use onceproxy::fingerprint::json::Pointer;
use onceproxy::http::policy::{KeySource, Mode};

use super::raw::{Message, Proxy, Setup, post, read_message, requests_total};
use crate::support::waiting::{Signal, eventually};

const KEY: &str = "idempotency-key: k\r\n";
const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// An upstream that does as it is told with each request, on as many connections at once as there are.
struct Upstream {
    port: u16,
    seen: Receiver<Message>,
}

impl Upstream {
    fn start(acts: impl Fn(TcpStream) + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (told, seen) = mpsc::channel();
        let acts = Arc::new(acts);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
                let (told, acts) = (told.clone(), acts.clone());
                thread::spawn(move || {
                    if let Some(message) = read_message(&mut stream, true) {
                        // A test that has seen enough listens no more.
                        let _ = told.send(message);
                        acts(stream);
                    }
                });
            }
        });
        Upstream { port, seen }
    }

    /// Switches, sends back what comes, and says so at the end of it.
    fn echo() -> Upstream {
        Upstream::start(|mut stream| {
            stream.write_all(SWITCHED.as_bytes()).expect("the proxy listens");
            let mut buffer = [0; 4096];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(length) if stream.write_all(&buffer[..length]).is_err() => break,
                    Ok(_) => {}
                }
            }
            let _ = stream.write_all(b"that was all");
        })
    }

    fn proxy(&self, change: impl FnOnce(Setup) -> Setup) -> Proxy {
        change(Setup::new().upstream(|upstream| upstream.port = self.port)).start()
    }

    fn next(&self) -> Message {
        self.seen.recv_timeout(Duration::from_secs(10)).expect("the upstream got a request")
    }
}

/// Asks for a switch and gets it.
fn switched(proxy: &Proxy) -> TcpStream {
    let mut stream = proxy.connect();
    stream.write_all(get(UPGRADE).as_bytes()).expect("the proxy reads");
    let answer = read_message(&mut stream, false).expect("an answer");
    assert_eq!(answer.status(), 101, "{}", answer.head);
    stream
}

fn get(fields: &str) -> String {
    format!("GET /chat HTTP/1.1\r\nhost: api\r\n{fields}\r\n")
}

fn expect_echo(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("the proxy reads");
    let mut echo = vec![0; text.len()];
    stream.read_exact(&mut echo).expect("an echo");
    assert_eq!(String::from_utf8_lossy(&echo), text);
}

/// Reads to the end, which may be a reset.
fn rest_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("no end: {error}"),
        _ => rest,
    }
}

#[test]
fn the_handshake_passes_and_the_bytes_around_it_are_not_lost_h26() {
    let upstream = Upstream::start(|mut stream| {
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=9\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: chat\r\nidempotency-status: x\r\n\r\nwelcome";
        stream.write_all(head.as_bytes()).expect("the proxy listens");
        let mut early = [0; 5];
        stream.read_exact(&mut early).expect("what came with the request");
        stream.write_all(&early).expect("the proxy listens");
    });
    let proxy = upstream.proxy(|setup| setup);
    let mut stream = proxy.connect();
    let fields = "connection: keep-alive, Upgrade, x-mine\r\nx-mine: 1\r\nupgrade: h2c, websocket\r\nhttp2-settings: AAMAAABk\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: chat, x\r\nsec-websocket-extensions: permessage-deflate\r\n";
    stream.write_all((get(fields) + "early").as_bytes()).expect("the proxy reads");
    let answer = read_message(&mut stream, false).expect("an answer");
    let request = upstream.next();
    assert_eq!(request.start_line(), "GET /chat HTTP/1.1");
    assert_eq!((request.one("connection"), request.one("upgrade")), ("upgrade", "websocket"));
    assert!(!request.has("http2-settings") && !request.has("x-mine"), "{}", request.head);
    assert_eq!(request.one("sec-websocket-key"), "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(request.one("sec-websocket-version"), "13");
    assert_eq!(request.one("sec-websocket-protocol"), "chat, x");
    assert_eq!(request.one("sec-websocket-extensions"), "permessage-deflate");
    assert_eq!(answer.start_line(), "HTTP/1.1 101 Switching Protocols");
    assert_eq!((answer.one("connection"), answer.one("upgrade")), ("upgrade", "WebSocket"));
    assert_eq!(answer.one("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(answer.one("sec-websocket-protocol"), "chat");
    for name in ["x-hop", "keep-alive", "content-length", "transfer-encoding", "idempotency-status"] {
        assert!(!answer.has(name), "{name} in {}", answer.head);
    }
    assert_eq!(rest_of(&mut stream), b"welcomeearly");
}

#[test]
fn one_side_may_end_before_the_other_h26() {
    let upstream = Upstream::echo();
    let proxy = upstream.proxy(|setup| setup);
    let mut stream = switched(&proxy);
    expect_echo(&mut stream, "one");
    stream.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(rest_of(&mut stream), b"that was all");

    let (told, heard) = mpsc::channel();
    let upstream = Upstream::start(move |mut stream| {
        stream.write_all(SWITCHED.as_bytes()).expect("the proxy listens");
        stream.shutdown(Shutdown::Write).expect("an end");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("an end");
        told.send(rest).expect("the test waits");
    });
    let proxy = upstream.proxy(|setup| setup);
    let mut stream = switched(&proxy);
    assert_eq!(rest_of(&mut stream), b"");
    let much = vec![b'x'; 1 << 20];
    stream.write_all(&much).expect("the proxy still reads");
    drop(stream);
    assert_eq!(heard.recv_timeout(Duration::from_secs(10)).expect("all of it").len(), much.len());
}

#[test]
fn what_carries_no_key_or_is_not_protected_may_switch_h26() {
    let mode = |mode| Policy { mode, ..Policy::required().route("route") };
    let body = "content-length: 2\r\n";
    let table = [
        (Policy::optional().route("get"), get(&format!("{KEY}{UPGRADE}"))),
        (Policy::required().route("get"), get(UPGRADE)),
        (Policy::optional().route("unkeyed"), format!("POST / HTTP/1.1\r\nhost: api\r\n{UPGRADE}{body}\r\nab")),
        (mode(Mode::Off), format!("POST / HTTP/1.1\r\nhost: api\r\n{KEY}{UPGRADE}{body}\r\nab")),
        (mode(Mode::Observe), format!("POST / HTTP/1.1\r\nhost: api\r\n{KEY}{UPGRADE}{body}\r\nab")),
    ];
    for (policy, request) in table {
        let upstream = Upstream::echo();
        let proxy = upstream.proxy(|setup| setup.routes(vec![(None, "/{*rest}", policy)]));
        let mut stream = proxy.connect();
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut stream, false).expect("an answer").status(), 101, "{request}");
        expect_echo(&mut stream, "as before");
        let seen = upstream.next();
        assert_eq!(seen.text(), if request.starts_with("POST") { "ab" } else { "" });
    }
}

#[test]
fn a_key_and_a_switch_are_refused_and_nothing_happens_h26() {
    let in_body = KeySource::Json(Pointer::parse("/id").expect("a pointer"));
    let routes = vec![
        (None, "/pay", Policy::required().route("pay")),
        (None, "/open", Policy::optional().route("open")),
        (None, "/json", Policy { key_from: vec![in_body], ..Policy::optional().route("json") }),
    ];
    let proxy = Setup::new().routes(routes).start();
    for upgrade in [UPGRADE, "connection: close, upgrade\r\nupgrade: h2c, x/1\r\n"] {
        for (path, key, body) in
            [("/pay", KEY, "x".repeat(200_000)), ("/open", KEY, "x".into()), ("/json", "", "{\"id\":\"k\"}".into())]
        {
            let json = "content-type: application/json\r\n";
            let answer = proxy.post(path, &format!("{key}{json}{upgrade}"), &body);
            assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"), "{path} {upgrade}");
            assert_eq!(answer.one("idempotency-outcome"), "not-executed");
        }
    }
    assert_eq!(proxy.post("/pay", UPGRADE, "x").code(), "key-missing");
    assert_eq!(proxy.upstream.count(), 0);
    // The key was not looked up either: this is its first request.
    assert_eq!(proxy.post("/pay", KEY, "y").one("idempotency-status"), "executed");
}

#[test]
fn what_asks_for_nothing_that_passes_is_served_without_it_h26() {
    let proxy = Proxy::start();
    let settings = "http2-settings: AAMAAABk\r\n";
    let table = [
        format!("connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n{settings}"),
        format!("connection: upgrade\r\nupgrade: h2c\r\n{settings}"),
        "connection: upgrade\r\nupgrade: H2C, HTTP/2.0, TLS/1.2\r\n".to_owned(),
        "upgrade: websocket\r\n".to_owned(),
        "connection: keep-alive\r\nupgrade: websocket\r\n".to_owned(),
        "connection: upgrade\r\n".to_owned(),
        "connection: upgrade\r\nupgrade: \r\n".to_owned(),
    ];
    for (n, fields) in table.into_iter().enumerate() {
        let mut stream = proxy.connect();
        for key in [String::new(), format!("idempotency-key: k{n}\r\n")] {
            stream.write_all(post("/", &format!("{key}{fields}"), "x").as_bytes()).expect("the proxy reads");
            let answer = read_message(&mut stream, true).expect("an answer");
            assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "{fields}");
            let seen = proxy.upstream.last();
            for name in ["upgrade", "connection", "http2-settings"] {
                assert!(!seen.has(name), "{name} in {}", seen.head);
            }
        }
    }
    proxy.send("GET / HTTP/1.0\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    assert!(!proxy.upstream.last().has("upgrade"), "HTTP/1.0 knows no switch");
}

#[test]
fn an_upstream_that_says_no_is_passed_on_and_all_stays_http_h26() {
    let proxy = Proxy::start();
    let mut stream = proxy.connect();
    for (status, response) in [
        (200, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"),
        (403, "HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"),
        (426, "HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: x/1\r\ncontent-length: 2\r\n\r\nno"),
    ] {
        proxy.upstream.answers(response);
        stream.write_all(get(UPGRADE).as_bytes()).expect("the proxy reads");
        let answer = read_message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.text().as_str()), (status, "no"));
        assert!(!answer.has("connection") && !answer.has("upgrade"), "{}", answer.head);
    }
    assert_eq!(proxy.upstream.connections(), 1);
    // A connection that once asked ends like any other: after the whole answer.
    stream.write_all(get("connection: close\r\n").as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 426);
    assert_eq!(rest_of(&mut stream), b"");
}

#[test]
fn a_large_answer_arrives_whole_also_where_a_switch_was_asked_for_h26() {
    const LENGTH: usize = 8 << 20;
    let upstream = Upstream::start(|mut stream| {
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n").as_bytes());
        let _ = stream.write_all(&vec![b'x'; LENGTH]);
    });
    let proxy = upstream.proxy(|setup| setup);
    for upgrade in ["websocket", "h2c"] {
        let mut stream = proxy.connect();
        let request = get(&format!("connection: close, upgrade\r\nupgrade: {upgrade}\r\n"));
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        // The proxy has more to say than the socket takes.
        eventually("a full socket", || {
            let mut bytes = vec![0; 1 << 20];
            (stream.peek(&mut bytes).expect("an answer") > 100_000).then_some(())
        });
        let answer = read_message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.body.len()), (200, LENGTH), "{upgrade}");
        assert_eq!(rest_of(&mut stream), b"");
    }
}

#[test]
fn a_switch_to_what_was_not_asked_for_is_a_lost_answer_h26() {
    let proxy = Proxy::start();
    let to = |protocol: &'static str| match protocol {
        "" => "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n",
        "x/1" => "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x/1\r\n\r\n",
        _ => "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    };
    for (asked, given) in [
        ("", "x/1"),
        (UPGRADE, ""),
        (UPGRADE, "x/1"),
        ("connection: upgrade\r\nupgrade: h2c\r\n", "h2c"),
        ("connection: upgrade\r\nupgrade: websocket, h2c\r\n", "h2c"),
    ] {
        proxy.upstream.answers(to(given));
        let mut stream = proxy.connect();
        stream.write_all(get(asked).as_bytes()).expect("the proxy reads");
        let answer = read_message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream-lost"), "{asked} {given}");
        // It is still HTTP that is spoken with the client.
        proxy.upstream.answers("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(get("").as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    }
}

#[test]
fn only_silence_of_both_sides_ends_it_h26() {
    let limit = Duration::from_millis(600);
    let upstream = Upstream::echo();
    let proxy = upstream.proxy(|setup| {
        let setup = setup.upstream(|upstream| upstream.response_timeout = limit);
        setup.listener(|listener| {
            // None of these has a say in it.
            listener.header_timeout = Duration::from_millis(100);
            listener.body_timeout = Duration::from_millis(100);
            listener.idle_timeout = Duration::from_millis(200);
        })
    });
    let mut stream = switched(&proxy);
    let began = Instant::now();
    while began.elapsed() < limit * 2 {
        expect_echo(&mut stream, "still here");
        stream.set_read_timeout(Some(limit / 2)).expect("a time limit");
        assert!(stream.read(&mut [0]).is_err(), "nothing comes and nothing ends");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
    }
    expect_echo(&mut stream, "once more");
    let silent_since = Instant::now();
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    assert!(silent_since.elapsed() >= limit - Duration::from_millis(50), "{:?}", silent_since.elapsed());
}

#[test]
fn a_client_that_reads_nothing_for_a_while_keeps_its_connection_h26() {
    let full = Signal::default();
    let is_full = full.clone();
    let upstream = Upstream::start(move |mut stream| {
        stream.write_all(SWITCHED.as_bytes()).expect("the proxy listens");
        // Longer than a client of HTTP may take nothing of its answer.
        stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a time limit");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
        is_full.give();
    });
    let proxy = upstream.proxy(|setup| setup.listener(|listener| listener.body_timeout = Duration::from_millis(100)));
    let mut stream = switched(&proxy);
    assert!(full.wait(), "the upstream can send no more");
    assert!(rest_of(&mut stream).len() > 100_000);
}

#[test]
fn it_takes_a_place_of_the_upstream_until_it_ends_h26() {
    let upstream = Upstream::start(|mut stream| {
        stream.write_all(SWITCHED.as_bytes()).expect("the proxy listens");
        let _ = stream.read(&mut [0]);
    });
    let proxy = upstream.proxy(|setup| {
        setup.upstream(|upstream| {
            upstream.max_connections = 1;
            upstream.connect_timeout = Duration::from_millis(200);
        })
    });
    let first = switched(&proxy);
    assert_eq!(proxy.post("/", "", "x").code(), "overloaded");
    drop(first);
    let again = eventually("a place", || {
        let mut stream = proxy.connect();
        stream.write_all(get(UPGRADE).as_bytes()).expect("the proxy reads");
        let answer = read_message(&mut stream, true).expect("an answer");
        (answer.status() == 101).then_some(stream)
    });
    drop(again);
}

#[test]
fn it_counts_as_passed_h26() {
    let upstream = Upstream::echo();
    let address = ([127, 0, 0, 1], upstream.port).into();
    let proxy = crate::support::proxy::Setup::new(address, "memory:").start();
    let mut stream = TcpStream::connect(proxy.address).expect("the proxy accepts");
    stream.write_all(get(UPGRADE).as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut stream, false).expect("an answer").status(), 101);
    expect_echo(&mut stream, "counted");
    assert_eq!(requests_total(proxy.admin, "passed"), 1);
}
