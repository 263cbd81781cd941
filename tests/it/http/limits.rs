//! Bodies and time: what is bounded, and what the client hears of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use onceproxy::Policy;

use super::raw::{Setup, post, read_message, requests_total};
use crate::support::waiting::eventually;

#[test]
fn a_body_over_the_limit_is_refused_and_the_answer_arrives_h22() {
    let policy = Policy { max_request_body: 1000, ..Policy::optional().route("small") };
    let proxy = Setup::new().routes(vec![(None, "/{*rest}", policy)]).start();
    // The client goes on sending; what it sends is thrown away until it has read the answer.
    for body in [1001, 200_000] {
        let answer = proxy.post("/", "idempotency-key: k\r\n", &"x".repeat(body));
        assert_eq!((answer.status(), answer.code().as_str()), (413, "body-too-large"));
        assert_eq!(answer.one("idempotency-outcome"), "not-executed");
    }
    let chunked = format!(
        "POST / HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
        5000
    );
    assert_eq!(proxy.send(chunked + &"x".repeat(5000) + "\r\n0\r\n\r\n").code(), "body-too-large");
    assert_eq!(proxy.upstream.count(), 0);
    assert_eq!(proxy.post("/", "", &"x".repeat(5000)).status(), 200, "only protected requests are held");
}

#[test]
fn a_refused_request_gets_no_100_and_a_good_one_gets_one_h23_h24() {
    let policy = Policy::required().route("all");
    let proxy = Setup::new().routes(vec![(None, "/{*rest}", policy)]).start();
    let expect = "expect: 100-continue\r\n";
    let refused = proxy.send(format!("POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 1\r\n{expect}\r\n"));
    assert_eq!((refused.status(), refused.code().as_str()), (400, "key-missing"));
    let mut stream = proxy.connect();
    let head = format!("POST / HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\ncontent-length: 1\r\n{expect}\r\n");
    stream.write_all(head.as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut stream, false).expect("an interim answer").status(), 100);
    stream.write_all(b"x").expect("the proxy reads");
    assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    assert!(!proxy.upstream.last().has("expect"));
}

#[test]
fn a_connection_is_idle_after_a_request_that_came_in_one_piece_however_it_is_framed() {
    let limit = Duration::from_millis(100);
    let proxy =
        Setup::new().listener(|listener| (listener.header_timeout, listener.idle_timeout) = (limit, limit)).start();
    let head = "POST / HTTP/1.1\r\nhost: api\r\n";
    for rest in [
        "content-length: 1\r\n\r\nx",
        "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-last: 1\r\n\r\n",
    ] {
        let mut stream = proxy.connect();
        stream.write_all(format!("{head}{rest}").as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200, "{rest:?}");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "{rest:?}");
    }
}

#[test]
fn a_slow_head_is_a_408_and_an_idle_connection_lives_longer() {
    let proxy = Setup::new()
        .listener(|listener| {
            listener.header_timeout = Duration::from_millis(300);
            listener.idle_timeout = Duration::from_millis(1200);
        })
        .start();
    let mut stream = proxy.connect();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a").expect("the proxy reads");
    let answer = read_message(&mut stream, true).expect("an answer");
    assert_eq!((answer.status(), answer.code().as_str()), (408, "request-timeout"));
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    let mut stream = proxy.connect();
    stream.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    let idle_since = Instant::now();
    // Well past the head's limit the connection still serves.
    stream.set_read_timeout(Some(Duration::from_millis(600))).expect("a time limit");
    assert!(stream.read(&mut [0]).is_err(), "nothing comes and nothing ends");
    stream.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
    assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "the idle limit ends it");
    assert!(idle_since.elapsed() >= Duration::from_millis(1200));
}

#[test]
fn what_can_become_no_head_is_refused_at_once() {
    let proxy = Setup::new().listener(|listener| listener.header_timeout = Duration::from_secs(60)).start();
    // A TLS handshake, a mail client, a control character, a version that there is not: none waits for the end of a head.
    let all: [&[u8]; 4] = [b"\x16\x03\x01\x02\0\x01", b"EHLO there\r\n", b"GET /\0", b"GET / HTTP/9.9\r\n"];
    for bytes in all {
        let mut stream = proxy.connect();
        stream.write_all(bytes).expect("the proxy reads");
        let answer = read_message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"), "{bytes:?}");
    }
}

#[test]
fn a_head_that_stays_unfinished_is_a_408_however_long_it_is_and_an_unfinished_preface_is_closed() {
    let proxy = Setup::new().listener(|listener| listener.header_timeout = Duration::from_millis(300)).start();
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}", "v".repeat(6000));
    let many: String = (0..90).map(|n| format!("x-{n}: v\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{many}");
    for head in [long, many] {
        let mut stream = proxy.connect();
        stream.write_all(head.as_bytes()).expect("the proxy reads");
        let answer = read_message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.code().as_str()), (408, "request-timeout"));
    }
    let mut stream = proxy.connect();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nS").expect("the proxy reads");
    assert!(read_message(&mut stream, true).is_none(), "it speaks no HTTP/1");
}

#[test]
fn a_head_that_comes_in_pieces_is_served_however_small_they_are_and_however_long_it_is() {
    let proxy = Setup::new().start();
    let long = format!("x-long: {}\r\n", "v".repeat(6000));
    let many: String = (0..80).map(|n| format!("x-{n}: v\r\n")).collect();
    for (field, piece) in [("", 1), (long.as_str(), 500), (many.as_str(), 40)] {
        let mut stream = proxy.connect();
        stream.set_nodelay(true).expect("an option of TCP");
        for bytes in post("/", field, "x").as_bytes().chunks(piece) {
            stream.write_all(bytes).expect("the proxy reads");
        }
        assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200, "{piece}");
        // The next one comes in the same way.
        stream.write_all(post("/", field, "x").as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200, "{piece}");
    }
}

#[test]
fn a_slow_body_is_a_408_and_nothing_is_sent() {
    let proxy = Setup::new().listener(|listener| listener.body_timeout = Duration::from_millis(300)).start();
    let mut stream = proxy.connect();
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\ncontent-length: 9\r\n\r\nabc")
        .expect("the proxy reads");
    let answer = read_message(&mut stream, true).expect("an answer");
    assert_eq!((answer.status(), answer.code().as_str()), (408, "request-timeout"));
    assert_eq!(answer.one("connection"), "close");
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn an_answer_over_the_limit_streams_and_is_not_executed_again() {
    let policy = Policy { max_response_body: 10, ..Policy::optional().route("small") };
    let proxy = Setup::new().routes(vec![(None, "/{*rest}", policy)]).start();
    proxy.upstream.answers("HTTP/1.1 201 Created\r\nlocation: /p/1\r\ncontent-length: 20\r\n\r\n01234567890123456789");
    let first = proxy.post("/", "idempotency-key: k\r\n", "x");
    assert_eq!((first.status(), first.text().as_str()), (201, "01234567890123456789"));
    assert_eq!(first.one("idempotency-status"), "executed");
    let second = proxy.post("/", "idempotency-key: k\r\n", "x");
    assert_eq!((second.status(), second.code().as_str()), (409, "response-not-stored"));
    assert!(second.text().contains("\"original_status\":201") && second.text().contains("\"location\":\"/p/1\""));
    assert_eq!(proxy.upstream.count(), 1);
}

#[test]
fn all_buffers_together_are_bounded() {
    let proxy = Setup::new().listener(|listener| listener.max_buffered_bytes = 10_000).start();
    let answer = proxy.post("/", "idempotency-key: k\r\n", &"x".repeat(20_000));
    assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
    assert!(answer.has("retry-after"));
    assert_eq!(proxy.post("/", "idempotency-key: k\r\n", "x").status(), 200);
}

#[test]
fn the_idle_clock_runs_after_a_long_request_and_after_one_that_was_answered_at_once() {
    let policy = Policy::optional().route("only");
    let proxy = Setup::new()
        .routes(vec![(None, "/{id}", policy)])
        .listener(|listener| {
            listener.header_timeout = Duration::from_millis(200);
            listener.idle_timeout = Duration::from_millis(700);
        })
        .start();
    proxy.upstream.acts(Box::new(|_, stream| {
        // Longer than a head may take.
        stream.set_read_timeout(Some(Duration::from_millis(400))).expect("a time limit");
        let _ = stream.read(&mut [0]);
        stream.set_read_timeout(None).expect("no time limit");
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    }));
    for (path, status) in [("/slow", 200), ("/no/route", 404)] {
        let mut stream = proxy.connect();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: api\r\n\r\n").as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut stream, true).expect("an answer").status(), status);
        let idle_since = Instant::now();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the proxy closes");
        assert_eq!(String::from_utf8_lossy(&rest), "", "nothing that could pass for another request's answer");
        let idle = idle_since.elapsed();
        assert!((Duration::from_millis(600)..Duration::from_secs(3)).contains(&idle), "{path}: {idle:?}");
    }
}

#[test]
fn an_idle_time_that_is_shorter_than_the_heads_counts_from_the_last_answer() {
    let proxy = Setup::new()
        .listener(|listener| {
            listener.header_timeout = Duration::from_secs(9);
            listener.idle_timeout = Duration::from_millis(500);
        })
        .start();
    let mut stream = proxy.connect();
    // One answer with a body, and one without.
    stream.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    proxy.upstream.answers("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    let idle_since = Instant::now();
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    let idle = idle_since.elapsed();
    assert!((Duration::from_millis(400)..Duration::from_secs(4)).contains(&idle), "{idle:?}");
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_does_not_hold_the_upstream() {
    let proxy = Setup::new()
        .listener(|listener| listener.body_timeout = Duration::from_millis(400))
        .upstream(|upstream| {
            upstream.max_connections = 1;
            upstream.connect_timeout = Duration::from_secs(9);
        })
        .start();
    proxy.upstream.acts(Box::new(|request, stream| {
        if request.start_line().contains("/large") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
            while stream.write_all(&[b'x'; 65536]).is_ok() {}
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    }));
    let mut stalled = proxy.connect();
    stalled.write_all(b"GET /large HTTP/1.1\r\nhost: api\r\n\r\n").expect("the proxy reads");
    while proxy.upstream.count() == 0 {
        std::thread::yield_now();
    }
    assert_eq!(proxy.post("/", "", "x").status(), 200);
    drop(stalled);
}

#[test]
fn an_answer_for_which_there_is_no_room_has_the_time_of_one_that_streams() {
    let proxy = Setup::new()
        .listener(|listener| listener.max_buffered_bytes = 64 << 10)
        .upstream(|upstream| upstream.response_timeout = Duration::from_millis(500))
        .start();
    proxy.upstream.acts(Box::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n").expect("the proxy listens");
        for _ in 0..4 {
            // Each wait is short, all of them together are longer than one that is held may take.
            std::thread::sleep(Duration::from_millis(250));
            stream.write_all(&[b'x'; 50_000]).expect("the proxy listens");
        }
    }));
    let answer = proxy.post("/", "idempotency-key: k\r\n", "x");
    assert_eq!((answer.status(), answer.body.len()), (200, 200_000));
    assert_eq!(proxy.post("/", "idempotency-key: k\r\n", "x").code(), "response-not-stored");
}

#[test]
fn early_refusals_arrive_though_the_client_sends_on_h22() {
    let policy = Policy::required().route("pay");
    let proxy = Setup::new().routes(vec![(None, "/pay", policy)]).start();
    let body = "x".repeat(220_000);
    let length = format!("content-length: {}\r\n", body.len());
    for (head, status) in [
        ("POST / HTTP/1.1\r\nhost: api\r\n", 404),
        ("POST /pay HTTP/1.1\r\n", 400),
        ("POST /pay HTTP/1.1\r\nhost: api\r\n", 400),
        ("POST /pay HTTP/1.1\r\nhost: api\r\nidempotency-key: a,b\r\n", 400),
        ("TRACE /pay HTTP/1.1\r\nhost: api\r\n", 405),
        ("POST /pay HTTP/1.1\r\nhost: api\r\nconnection: idempotency-key\r\n", 400),
        ("POST /pay HTTP/1.1\r\nhost: api\r\nbad field: 1\r\n", 400),
        ("POST /pay HTTP/1.1\r\nhost: api\r\ncontent-length: 1\r\n", 400),
    ] {
        let answer = proxy.send(format!("{head}{length}\r\n{body}"));
        assert_eq!((answer.status(), answer.one("connection")), (status, "close"), "{head}");
    }
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn no_refusal_comes_behind_a_100_h23() {
    let small = Policy { max_request_body: 10, ..Policy::required().route("pay") };
    let proxy = Setup::new().routes(vec![(None, "/pay", small)]).start();
    for (head, status, code) in [
        ("POST /pay HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\ncontent-length: 11\r\n", 413, "body-too-large"),
        ("POST /pay HTTP/1.1\r\nhost: api\r\nidempotency-key: a,b\r\ncontent-length: 1\r\n", 400, "key-invalid"),
        ("POST /pay HTTP/1.1\r\nidempotency-key: k\r\ncontent-length: 1\r\n", 400, "bad-request"),
        ("POST /no HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\ncontent-length: 1\r\n", 404, "no-route"),
        ("POST /pay HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\ncontent-length: x\r\n", 400, "bad-request"),
        (
            "POST /pay HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\ncontent-length: 1\r\nconnection: upgrade\r\nupgrade: x\r\n",
            400,
            "bad-request",
        ),
    ] {
        let mut stream = proxy.connect();
        stream.write_all(format!("{head}expect: 100-Continue\r\n\r\n").as_bytes()).expect("the proxy reads");
        let answer = read_message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{head}");
    }
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn who_waits_for_a_100_gets_one_and_only_one_h24() {
    let proxy = Setup::new().start();
    // The upstream says it too, which concerns nobody but us.
    proxy.upstream.answers("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    for (key, status) in [("", ""), ("idempotency-key: k\r\n", "executed"), ("idempotency-key: k\r\n", "replayed")] {
        let mut stream = proxy.connect();
        let head = format!("POST / HTTP/1.1\r\nhost: api\r\n{key}content-length: 1\r\nexpect: 100-continue\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut stream, false).expect("an interim answer").status(), 100);
        stream.write_all(b"x").expect("the proxy reads");
        let answer = read_message(&mut stream, true).expect("an answer");
        assert_eq!((answer.status(), answer.all("idempotency-status").concat().as_str()), (200, status));
        // Whoever does not wait gets none.
        stream.write_all(post("/", key, "x").as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    }
}

#[test]
fn what_is_no_request_is_counted() {
    let proxy = crate::support::proxy::Setup::new(([127, 0, 0, 1], 1).into(), "memory:").start();
    let malformed = "GET  / HTTP/1.1\r\nhost: api\r\n\r\n".to_owned();
    let too_large = format!("GET / HTTP/1.1\r\nhost: api\r\nx-a: {}", "a".repeat(100_000));
    for (bytes, status, count) in [(malformed, 400, 1), (too_large, 431, 2)] {
        let mut stream = TcpStream::connect(proxy.address).expect("the proxy accepts");
        let _ = stream.write_all(bytes.as_bytes());
        assert_eq!(read_message(&mut stream, true).expect("an answer").status(), status);
        drop(stream);
        eventually("it is counted", || (requests_total(proxy.admin, "bad_request") == count).then_some(()));
    }
}
