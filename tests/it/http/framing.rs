//! H14 to H18: how messages are framed.

use std::io::{Read, Write};
use std::net::Shutdown;

use super::raw::{Proxy, begin_chunks, read_message};

const KEY: &str = "idempotency-key: k\r\n";

/// Sends bytes and reads all that comes until the proxy closes.
fn until_close(proxy: &Proxy, request: &str) -> String {
    let mut stream = proxy.connect();
    stream.write_all(request.as_bytes()).expect("the proxy reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the proxy closes");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn length_and_coding_together_go_by_the_coding_and_close_h14() {
    let proxy = Proxy::start();
    for key in ["", KEY] {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: api\r\n{key}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: api\r\n\r\n"
        );
        let answer = until_close(&proxy, &request);
        assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "nothing behind it is a request: {answer}");
    }
    for request in proxy.upstream.seen() {
        assert_eq!(request.body, b"ab");
        assert!(!request.start_line().contains("smuggled"));
        assert!(request.has("content-length") != request.has("transfer-encoding"), "{}", request.head);
    }
}

#[test]
fn a_bad_length_is_refused_h15() {
    let proxy = Proxy::start();
    for length in [
        "content-length: 1\r\ncontent-length: 2",
        "content-length: 1, 2",
        "content-length: x",
        "content-length: -1",
        "content-length: +1",
        "content-length: 99999999999999999999",
    ] {
        let answer = proxy.send(format!("POST / HTTP/1.1\r\nhost: api\r\n{KEY}{length}\r\n\r\nab"));
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"), "{length}");
        assert_eq!(answer.one("idempotency-outcome"), "not-executed");
    }
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn codings_that_are_not_chunked_once_are_refused_h16() {
    let proxy = Proxy::start();
    for coding in
        ["gzip, chunked", "chunked, chunked", "gzip", "chunked, gzip", "x", "chunked\r\ntransfer-encoding: chunked"]
    {
        let answer = proxy.send(format!(
            "POST / HTTP/1.1\r\nhost: api\r\n{KEY}transfer-encoding: {coding}\r\n\r\n2\r\nab\r\n0\r\n\r\n"
        ));
        assert!(matches!(answer.status(), 400 | 501), "{coding}: {}", answer.head);
        assert!(matches!(answer.code().as_str(), "bad-request" | "not-implemented"), "{coding}");
    }
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn a_broken_chunk_is_answered_before_the_close_h17() {
    let proxy = Proxy::start();
    for key in ["", KEY] {
        for body in ["zz\r\nab\r\n0\r\n\r\n", "2\r\nabc\r\n0\r\n\r\n", "2\nab\r\n0\r\n\r\n", "ffffffffffffffffff\r\nab"]
        {
            let request = format!("POST / HTTP/1.1\r\nhost: api\r\n{key}transfer-encoding: chunked\r\n\r\n{body}");
            let answer = until_close(&proxy, &request);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
            assert!(answer.contains("\"code\":\"bad-request\""), "{body:?}: {answer}");
        }
    }
}

#[test]
fn what_was_sent_in_part_is_never_called_not_executed() {
    let (_proxy, mut client, mut upstream) = begin_chunks();
    let (mut sent, mut byte) = (Vec::new(), [0]);
    while !sent.ends_with(b"ab\r\n") {
        upstream.read_exact(&mut byte).expect("the proxy sends");
        sent.push(byte[0]);
    }
    client.write_all(b"zz\r\n").expect("the proxy reads");
    let answer = read_message(&mut client, true).expect("an answer");
    assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"));
    assert!(!answer.has("idempotency-outcome"), "{}", answer.head);
}

#[test]
fn bytes_that_are_no_request_are_answered_as_a_problem() {
    let proxy = Proxy::start();
    for request in [
        "hello\r\n\r\n",
        "GET / HTTP/3.0\r\n\r\n",
        "GET / HTTP/1.1\r\nbad field: 1\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let answer = proxy.send(request);
        assert!(matches!(answer.status(), 400 | 505), "{request:?}: {}", answer.head);
        assert_eq!(answer.code(), "bad-request", "{request:?}");
        assert_eq!(answer.one("connection"), "close");
    }
    let many = (0..300).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let answer = proxy.send(format!("GET / HTTP/1.1\r\nhost: api\r\n{many}\r\n"));
    assert_eq!((answer.status(), answer.code().as_str()), (431, "bad-request"));
}

#[test]
fn trailers_never_become_fields_h18() {
    let proxy = Proxy::start();
    let request = "POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nab\r\n0\r\nidempotency-key: k\r\nauthorization: x\r\nx-sum: 1\r\n\r\n";
    for _ in 0..2 {
        let mut stream = proxy.connect();
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        let answer = read_message(&mut stream, true).expect("an answer");
        assert_eq!(answer.status(), 200);
        assert!(!answer.has("idempotency-status"), "{}", answer.head);
    }
    assert_eq!(proxy.upstream.count(), 2);
    assert!(!proxy.upstream.last().has("idempotency-key") && !proxy.upstream.last().has("authorization"));
}

#[test]
fn an_answer_in_a_coding_that_nobody_asked_for_is_not_passed_on_as_whole_h19() {
    let proxy = Proxy::start();
    let codings = ["gzip, chunked", "chunked, gzip", "xchunked", "gzip\r\ntransfer-encoding: chunked"];
    for (number, coding) in codings.into_iter().enumerate() {
        proxy.upstream.acts(Box::new(move |_, stream| {
            let answer = format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\nconnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).expect("the proxy listens");
            let _ = stream.shutdown(Shutdown::Both);
        }));
        for key in [String::new(), format!("idempotency-key: coded-{number}\r\n")] {
            let answer = proxy.post("/", &key, "x");
            assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream-lost"), "{coding}: {}", answer.head);
            assert!(!answer.has("idempotency-outcome"), "{coding}");
        }
    }
}

#[test]
fn an_answer_of_many_fields_comes_whole_h6() {
    let proxy = Proxy::start();
    proxy.upstream.acts(Box::new(|_, stream| {
        let fields = (0..200).map(|n| format!("x-many: {n}\r\n")).collect::<String>();
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok");
        stream.write_all(answer.as_bytes()).expect("the proxy listens");
    }));
    for _ in 0..2 {
        let answer = proxy.post("/", "idempotency-key: many\r\n", "x");
        assert_eq!((answer.status(), answer.all("x-many").len()), (200, 200), "{}", answer.head);
    }
}
