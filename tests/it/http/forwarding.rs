//! What a failed exchange says of the execution, and what is sent again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use onceproxy::Policy;

use super::raw::{Proxy, Setup, post, read_message};

const KEY: &str = "idempotency-key: k\r\n";

/// Ends the connection with a reset.
fn reset(stream: &std::net::TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).expect("a socket option");
    let _ = socket.shutdown(Shutdown::Both);
}

#[test]
fn an_upstream_that_refuses_leaves_the_key_free() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port();
    let proxy = Setup::new().upstream(|upstream| upstream.port = closed).start();
    for _ in 0..2 {
        let answer = proxy.post("/", KEY, "x");
        assert_eq!((answer.status(), answer.code().as_str()), (502, "not-executed"));
        assert_eq!(answer.one("idempotency-status"), "not-executed");
        assert_eq!(answer.one("idempotency-outcome"), "not-executed");
    }
    let unkeyed = proxy.post("/", "", "x");
    assert_eq!((unkeyed.status(), unkeyed.has("idempotency-status")), (502, false));
}

#[test]
fn a_reset_after_the_request_is_unknown_and_never_sent_again() {
    let proxy = Proxy::start();
    proxy.upstream.acts(Box::new(|_, stream| reset(stream)));
    let first = proxy.post("/", KEY, "x");
    assert_eq!((first.status(), first.code().as_str()), (502, "upstream-lost"));
    assert_eq!(first.one("idempotency-status"), "unknown");
    assert!(!first.has("idempotency-outcome"));
    let second = proxy.post("/", KEY, "x");
    assert_eq!((second.status(), second.code().as_str()), (409, "outcome-unknown"));
    assert!(!second.has("retry-after"));
    assert_eq!(proxy.upstream.count(), 1);
    assert_eq!(proxy.post("/", KEY, "y").code(), "key-reused");
}

#[test]
fn a_silent_upstream_is_a_timeout_and_unknown() {
    let proxy = Setup::new().upstream(|upstream| upstream.response_timeout = Duration::from_millis(300)).start();
    proxy.upstream.acts(Box::new(|_, stream| {
        // Reads until the proxy gives up.
        let _ = stream.read(&mut [0]);
    }));
    let answer = proxy.post("/", KEY, "x");
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream-timeout"));
    assert_eq!(answer.one("idempotency-status"), "unknown");
    assert_eq!(proxy.post("/", KEY, "x").code(), "outcome-unknown");
}

#[test]
fn a_held_answer_that_drips_ends_with_the_time_limit() {
    let proxy = Setup::new().upstream(|upstream| upstream.response_timeout = Duration::from_millis(400)).start();
    proxy.upstream.acts(Box::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n");
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
        while stream.write_all(b"x").is_ok() {
            // The proxy sends nothing more: a pause, until it closes.
            let _ = stream.read(&mut [0]);
        }
    }));
    let answer = proxy.post("/", KEY, "x");
    assert_eq!((answer.status(), answer.code().as_str()), (504, "upstream-timeout"));
}

#[test]
fn a_cut_answer_is_never_passed_on_as_whole_h19() {
    let proxy = Proxy::start();
    for cut in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
        "HTTP/1.1 20",
    ] {
        proxy.upstream.acts(Box::new(move |_, stream| {
            let _ = stream.write_all(cut.as_bytes());
            let _ = stream.shutdown(Shutdown::Both);
        }));
        let key = format!("idempotency-key: {}\r\n", cut.len());
        let answer = proxy.post("/", &key, "x");
        assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream-lost"), "{cut}");
        assert_eq!(proxy.post("/", &key, "x").code(), "outcome-unknown");
    }
}

#[test]
fn an_idle_connection_that_the_upstream_closed_is_not_used_h27() {
    let proxy = Proxy::start();
    // Answers once and closes, without saying that it will.
    proxy.upstream.acts(Box::new(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        let _ = stream.shutdown(Shutdown::Both);
    }));
    for n in 0..50 {
        let answer = proxy.post("/", &format!("idempotency-key: k{n}\r\n"), "x");
        // A close that crosses the request on the wire may cost an answer, but never a second execution.
        assert!(matches!(answer.status(), 200 | 502), "{}", answer.head);
    }
    let mut keys: Vec<String> =
        proxy.upstream.seen().iter().map(|request| request.one("idempotency-key").to_owned()).collect();
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count, "a key was sent twice");
}

#[test]
fn connections_are_used_again() {
    let proxy = Proxy::start();
    let mut stream = proxy.connect();
    for n in 0..20 {
        stream.write_all(post("/", &format!("idempotency-key: k{n}\r\n"), "x").as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    }
    assert_eq!(proxy.upstream.connections(), 1);
}

#[test]
fn more_than_the_allowed_connections_are_never_opened() {
    let proxy = Setup::new()
        .upstream(|upstream| {
            upstream.max_connections = 1;
            upstream.connect_timeout = Duration::from_millis(200);
        })
        .start();
    proxy.upstream.acts(Box::new(|request, stream| {
        if request.start_line().contains("/slow") {
            let _ = stream.read(&mut [0]);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    }));
    assert_eq!(proxy.post("/", "", "x").status(), 200);
    let mut slow = proxy.connect();
    slow.write_all(post("/slow", "", "x").as_bytes()).expect("the proxy reads");
    while proxy.upstream.count() < 2 {
        std::thread::yield_now();
    }
    let answer = proxy.post("/", KEY, "x");
    assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
    assert_eq!(answer.one("idempotency-outcome"), "not-executed");
    assert!(answer.has("retry-after") && !answer.has("idempotency-status"));
    drop(slow);
}

#[test]
fn statuses_that_leave_it_open_are_unknown_and_those_that_say_no_release() {
    let proxy = Proxy::start();
    proxy.upstream.answers("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n");
    let first = proxy.post("/", KEY, "x");
    assert_eq!((first.status(), first.one("idempotency-status")), (503, "unknown"));
    assert_eq!(proxy.post("/", KEY, "x").code(), "outcome-unknown");
    proxy.upstream.answers("HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n");
    for _ in 0..2 {
        let answer = proxy.post("/", "idempotency-key: r\r\n", "x");
        assert_eq!((answer.status(), answer.one("idempotency-status")), (429, "released"));
    }
    proxy.upstream.answers("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(proxy.post("/", "idempotency-key: e\r\n", "x").one("idempotency-status"), "executed");
    let replay = proxy.post("/", "idempotency-key: e\r\n", "x");
    assert_eq!((replay.status(), replay.one("idempotency-status")), (500, "replayed"));
}

#[test]
fn a_request_waits_for_a_connection_that_comes_back() {
    let proxy = Setup::new()
        .upstream(|upstream| {
            upstream.max_connections = 1;
            upstream.connect_timeout = Duration::from_secs(8);
        })
        .start();
    let (release, released) = std::sync::mpsc::channel::<()>();
    proxy.upstream.acts(Box::new(move |request, stream| {
        if request.start_line().contains("/slow") {
            released.recv().expect("the test releases");
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    }));
    let mut streams: Vec<_> = (0..20).map(|_| proxy.connect()).collect();
    for (n, stream) in streams.iter_mut().enumerate() {
        let path = if n == 0 { "/slow" } else { "/" };
        stream.write_all(post(path, "", "x").as_bytes()).expect("the proxy reads");
        while n == 0 && proxy.upstream.count() == 0 {
            std::thread::yield_now();
        }
    }
    release.send(()).expect("the upstream waits");
    for stream in &mut streams {
        assert_eq!(read_message(stream, true).expect("an answer").status(), 200);
    }
    assert_eq!(proxy.upstream.count(), 20);
}

#[test]
fn a_chunked_get_keeps_its_body_and_an_old_client_makes_no_old_request() {
    let proxy = Proxy::start();
    proxy.send("GET / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n");
    assert_eq!(proxy.upstream.last().text(), "ab");
    proxy.send("POST / HTTP/1.0\r\nhost: api\r\ncontent-length: 2\r\n\r\nab");
    assert_eq!(proxy.upstream.last().start_line(), "POST / HTTP/1.1");
}

#[test]
fn an_answer_that_tells_its_length_twice_is_passed_on_whole_h19() {
    let proxy = Proxy::start();
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nabcde",
    ] {
        proxy.upstream.answers(response);
        let answer = proxy.post("/", "", "x");
        assert_eq!(answer.text(), "abcde", "{response}");
        assert!(answer.all("content-length").len() <= 1, "{}", answer.head);
    }
}

#[test]
fn a_switch_of_protocols_that_nobody_asked_for_is_a_lost_answer_h25() {
    let proxy = Proxy::start();
    proxy.upstream.answers("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n");
    let answer = proxy.post("/", KEY, "x");
    assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream-lost"));
    assert_eq!(proxy.post("/", KEY, "x").code(), "outcome-unknown");
}

#[test]
fn a_cut_answer_cuts_the_clients_connection_h19() {
    let small = Policy { max_response_body: 10, ..Policy::optional().route("small") };
    let proxy = Setup::new()
        .routes(vec![(None, "/small", small), (None, "/{*rest}", Policy::optional().route("rest"))])
        .start();
    let long = "content-length: 30\r\n\r\n01234567890123456789";
    let cases = [
        ("/", "", "content-length: 10\r\n\r\nabc", "abc"),
        ("/", "", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nde", "abc"),
        ("/", "", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", "abc"),
        // Of a protected request, too large to be held.
        ("/small", KEY, long, "01234567890123456789"),
    ];
    for (path, key, rest, body) in cases {
        proxy.upstream.acts(Box::new(move |_, stream| {
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{rest}").as_bytes());
            let _ = stream.shutdown(Shutdown::Both);
        }));
        let mut stream = proxy.connect();
        stream.write_all(post(path, key, "x").as_bytes()).expect("the proxy reads");
        let mut answer = Vec::new();
        // A reset is an end too.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{rest:?}: {answer}");
        let (_, sent) = answer.split_once("\r\n\r\n").expect("a whole head");
        assert!(sent.contains(body) || body.contains(sent), "{rest:?}: {answer}");
        assert!(!sent.ends_with("0\r\n\r\n"), "it looks whole: {answer}");
    }
    let again = proxy.post("/small", KEY, "x");
    assert_eq!((again.status(), again.code().as_str()), (409, "response-not-stored"));
    assert_eq!(proxy.upstream.count(), 4);
}

#[test]
fn a_broken_chunk_of_an_answer_is_a_lost_answer_h19() {
    let proxy = Proxy::start();
    for (n, rest) in ["zz\r\nab\r\n", "2\r\nabc\r\n0\r\n\r\n", "5\r\nhello\r\n"].into_iter().enumerate() {
        proxy.upstream.acts(Box::new(move |_, stream| {
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{rest}").as_bytes());
            let _ = stream.shutdown(Shutdown::Both);
        }));
        let key = format!("idempotency-key: k{n}\r\n");
        assert_eq!(proxy.post("/", &key, "x").code(), "upstream-lost", "{rest:?}");
        assert_eq!(proxy.post("/", &key, "x").code(), "outcome-unknown", "{rest:?}");
    }
}

#[test]
fn what_was_written_is_never_written_again_h27() {
    let proxy = Proxy::start();
    for (n, method) in ["POST", "PUT", "DELETE", "PATCH", "X-PAY"].into_iter().enumerate() {
        for key in [String::new(), format!("idempotency-key: k{n}\r\n")] {
            // A connection that has served before, and breaks when it has read the second request.
            proxy.upstream.acts(Box::new(|request, stream| match request.start_line().contains("/first") {
                true => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("the proxy listens"),
                false => reset(stream),
            }));
            assert_eq!(proxy.post("/first", "", "x").status(), 200);
            let before = proxy.upstream.count();
            let request = format!("{method} / HTTP/1.1\r\nhost: api\r\n{key}content-length: 1\r\n\r\nx");
            let answer = proxy.send(request);
            assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream-lost"), "{method} {key}");
            assert_eq!(proxy.upstream.count(), before + 1, "{method} {key}");
        }
    }
}

#[test]
fn interim_answers_are_neither_passed_on_nor_kept_h25() {
    let proxy = Proxy::start();
    proxy.upstream.answers(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\nHTTP/1.1 201 Created\r\nx-a: 1\r\ncontent-length: 2\r\n\r\nok",
    );
    for (key, status) in [("", ""), (KEY, "executed"), (KEY, "replayed")] {
        let answer = proxy.post("/", key, "x");
        assert_eq!((answer.status(), answer.text().as_str(), answer.one("x-a")), (201, "ok", "1"));
        assert!(!answer.has("link"), "{}", answer.head);
        assert_eq!(answer.all("idempotency-status").concat(), status);
    }
    assert_eq!(proxy.upstream.count(), 2);
}
