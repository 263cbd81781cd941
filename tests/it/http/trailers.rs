//! H18: trailers go on as trailers, and have no say in anything.

use std::io::{Read, Write};

use super::raw::{Message, Proxy, begin_chunks, read_message};

const KEY: &str = "idempotency-key: k\r\n";

fn chunked(fields: &str, trailers: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n{fields}\r\n2\r\nab\r\n0\r\n{trailers}\r\n")
}

/// The lines of a message's trailers.
fn trailers(message: &Message) -> Vec<String> {
    message.trailers.lines().filter(|line| !line.is_empty()).map(str::to_ascii_lowercase).collect()
}

#[test]
fn a_requests_trailers_go_on_when_they_are_announced_h18() {
    let proxy = Proxy::start();
    for key in ["", KEY] {
        let request = chunked(
            &format!("{key}trailer: x-sum, x-more\r\n"),
            "x-sum: 1\r\nx-more: a\r\nx-more: b\r\nx-unsaid: 1\r\n",
        );
        assert_eq!(proxy.send(request).status(), 200);
        let seen = proxy.upstream.last();
        assert_eq!(seen.text(), "ab");
        assert_eq!(trailers(&seen), ["x-sum: 1", "x-more: a", "x-more: b"], "{}", seen.head);
        assert!(!seen.has("x-sum") && !seen.has("x-more"), "{}", seen.head);
    }
}

#[test]
fn a_key_or_a_framing_field_in_the_trailers_has_no_effect_h18() {
    let proxy = Proxy::start();
    let names = "idempotency-key, authorization, content-length, transfer-encoding, host, cookie, x-api-key, connection, x-forwarded-for";
    let lines = "idempotency-key: other\r\nauthorization: x\r\ncontent-length: 0\r\ntransfer-encoding: x\r\nhost: other\r\ncookie: a=1\r\nx-api-key: x\r\nconnection: close\r\nx-forwarded-for: 203.0.113.9\r\n";
    for _ in 0..2 {
        let answer = proxy.send(chunked(&format!("trailer: {names}\r\n"), lines));
        assert_eq!((answer.status(), answer.has("idempotency-status")), (200, false), "{}", answer.head);
    }
    assert_eq!(proxy.upstream.count(), 2, "no key, no replay");
    let seen = proxy.upstream.last();
    assert!(!seen.has("idempotency-key") && !seen.has("authorization") && !seen.has("content-length"), "{}", seen.head);
    assert_eq!((seen.one("host"), seen.one("x-forwarded-for")), ("api", "127.0.0.1"));
    for name in ["authorization", "content-length", "transfer-encoding", "host"] {
        assert!(!trailers(&seen).iter().any(|line| line.starts_with(name)), "{name} in {}", seen.trailers);
    }
    // The head's key counts, whoever the trailers say is asking and whatever they say besides.
    let first = proxy.send(chunked(&format!("{KEY}trailer: {names}\r\n"), lines));
    let second = proxy.send(chunked(KEY, ""));
    assert_eq!((first.one("idempotency-status"), second.one("idempotency-status")), ("executed", "replayed"));
}

#[test]
fn an_answers_trailers_reach_and_reach_again_who_asks_for_them_h18() {
    let proxy = Proxy::start();
    proxy.upstream.answers(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nab\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    for (key, statuses) in [("", ["", ""]), (KEY, ["executed", "replayed"])] {
        for status in statuses {
            let asks = format!("{key}te: trailers\r\nconnection: te\r\n");
            let answer = proxy.post("/", &asks, "x");
            assert_eq!((answer.status(), answer.text().as_str()), (200, "ab"));
            assert_eq!(answer.all("idempotency-status").concat(), status);
            assert_eq!(trailers(&answer), ["x-sum: 7"], "{}", answer.head);
            assert!(!answer.has("x-sum"), "{}", answer.head);
        }
        let answer = proxy.post("/", key, "x");
        assert_eq!((answer.text().as_str(), answer.trailers.trim()), ("ab", ""), "{}", answer.head);
    }
}

#[test]
fn an_old_client_gets_neither_trailers_nor_chunks_h18_h21() {
    let proxy = Proxy::start();
    proxy.upstream.answers(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nab\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    for status in ["executed", "replayed"] {
        let mut stream = proxy.connect();
        let request = format!("POST / HTTP/1.0\r\nhost: api\r\nte: trailers\r\n{KEY}content-length: 1\r\n\r\nx");
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the answer ends with the connection");
        assert!(answer.ends_with("\r\n\r\nab"), "{answer}");
        assert!(answer.contains(&format!("idempotency-status: {status}\r\n")), "{answer}");
        assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
    }
    assert_eq!(proxy.upstream.count(), 1);
}

#[test]
fn nothing_follows_trailers_that_ended_somewhere_else_for_a_proxy_before_this_one_h17() {
    let proxy = Proxy::start();
    for key in ["", "idempotency-key: other\r\n"] {
        for end in ["\nx: y\r\n", "x: y\n"] {
            let next = "GET /next HTTP/1.1\r\nhost: api\r\n\r\n";
            let mut stream = proxy.connect();
            stream.write_all((chunked(key, end) + next + next).as_bytes()).expect("the proxy reads");
            let answer = read_message(&mut stream, true).expect("an answer");
            assert!(answer.status() == 400 || answer.one("connection") == "close", "{end:?}: {}", answer.head);
            let mut more = Vec::new();
            let _ = stream.read_to_end(&mut more);
            assert!(more.is_empty(), "{end:?}: {}", String::from_utf8_lossy(&more));
        }
    }
}

#[test]
fn an_answer_that_comes_before_the_end_of_chunks_ends_the_connection_h17() {
    let (_proxy, mut client, mut upstream) = begin_chunks();
    upstream.read_exact(&mut [0]).expect("the proxy sends");
    upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").expect("the proxy listens");
    let answer = read_message(&mut client, true).expect("an answer");
    assert_eq!((answer.status(), answer.one("connection"), answer.text().as_str()), (200, "close", "ok"));
}
