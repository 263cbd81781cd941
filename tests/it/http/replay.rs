//! H32 to H37: a replay equals the first answer.

use std::io::{Read, Write};

use super::raw::{Message, Proxy, post, read_message};

/// The fields that tell nothing of the first answer.
fn end_to_end(message: &Message) -> Vec<String> {
    let ours = ["idempotency-replayed", "idempotency-status", "cache-control", "set-cookie", "connection"];
    message
        .head
        .lines()
        .skip(1)
        .filter(|line| !line.is_empty())
        .filter(|line| !ours.iter().any(|name| line.to_ascii_lowercase().starts_with(&format!("{name}:"))))
        .map(str::to_owned)
        .collect()
}

#[test]
fn status_body_and_fields_are_those_of_the_first_answer_h32_h33_h34_h36_h37() {
    let proxy = Proxy::start();
    proxy.upstream.answers(
        "HTTP/1.1 207 Multi\r\nx-a: 1\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nx-a: 2\r\ncontent-encoding: gzip\r\nset-cookie: s=1\r\nproxy-authenticate: Basic\r\nconnection: x-hop\r\nx-hop: 1\r\ntransfer-encoding: chunked\r\n\r\n3\r\n\x00\x01\x02\r\n2\r\nab\r\n0\r\n\r\n",
    );
    let first = proxy.post("/", "idempotency-key: k\r\n", "x");
    let second = proxy.post("/", "idempotency-key: \"k\"\r\n", "x");
    assert_eq!(proxy.upstream.count(), 1);
    assert_eq!((first.status(), second.status()), (207, 207));
    assert_eq!(first.body, b"\x00\x01\x02ab");
    assert_eq!(second.body, first.body);
    assert_eq!(end_to_end(&second), end_to_end(&first));
    assert_eq!(second.all("x-a"), ["1", "2"]);
    assert_eq!(second.one("date"), "Tue, 15 Nov 1994 08:12:31 GMT");
    assert_eq!(second.one("content-length"), "5");
    assert_eq!(second.one("content-encoding"), "gzip");
    assert_eq!((first.one("idempotency-status"), second.one("idempotency-status")), ("executed", "replayed"));
    assert!(!first.has("idempotency-replayed"));
    assert_eq!(second.one("idempotency-replayed"), "true");
    assert_eq!((first.has("cache-control"), second.one("cache-control")), (false, "no-store"));
    assert_eq!((first.all("set-cookie"), second.has("set-cookie")), (vec!["s=1"], false));
    for name in ["age", "x-hop", "proxy-authenticate", "transfer-encoding"] {
        assert!(!second.has(name), "{name}");
    }
}

#[test]
fn a_retry_with_other_preconditions_replays_unchanged_h35() {
    let proxy = Proxy::start();
    let first = proxy.post("/", "idempotency-key: k\r\naccept-encoding: gzip\r\n", "x");
    let second =
        proxy.post("/", "idempotency-key: k\r\nrange: bytes=0-0\r\nif-none-match: *\r\naccept-encoding: br\r\n", "x");
    assert_eq!((second.status(), &second.body), (first.status(), &first.body));
    assert_eq!(proxy.upstream.count(), 1);
}

#[test]
fn an_empty_answer_is_replayed_empty_h20() {
    let proxy = Proxy::start();
    proxy.upstream.answers("HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n");
    for _ in 0..2 {
        // The next answer on the same connection shows that no body was sent.
        let mut stream = proxy.connect();
        let request = post("/", "idempotency-key: k\r\n", "x");
        stream.write_all(format!("{request}{request}").as_bytes()).expect("the proxy reads");
        for _ in 0..2 {
            let answer = read_message(&mut stream, true).expect("an answer");
            assert_eq!((answer.status(), answer.one("x-a")), (204, "1"));
            assert!(!answer.has("content-length") && !answer.has("transfer-encoding"), "{}", answer.head);
        }
    }
    assert_eq!(proxy.upstream.count(), 1);
}

#[test]
fn an_http_1_0_client_never_gets_chunks_h21() {
    let proxy = Proxy::start();
    proxy.upstream.answers("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n");
    let mut stream = proxy.connect();
    stream.write_all(b"GET / HTTP/1.0\r\nhost: api\r\n\r\n").expect("the proxy reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer ends with the connection");
    assert!(answer.ends_with("\r\n\r\nab"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
}

#[test]
fn a_key_of_another_caller_is_unseen() {
    let proxy = Proxy::start();
    for fields in
        ["authorization: Bearer a\r\n", "authorization: Bearer b\r\n", "x-api-key: a\r\n", "cookie: a=1\r\n", ""]
    {
        let answer = proxy.post("/", &format!("idempotency-key: k\r\n{fields}"), "x");
        assert_eq!(answer.one("idempotency-status"), "executed", "{fields}");
    }
    for host in ["api.", "API:80", "api:"] {
        let request = format!("POST / HTTP/1.1\r\nhost: {host}\r\nidempotency-key: k\r\ncontent-length: 1\r\n\r\nx");
        assert_eq!(proxy.send(request).one("idempotency-status"), "replayed", "{host} is the same host");
    }
    let other_host = "POST / HTTP/1.1\r\nhost: other\r\nidempotency-key: k\r\ncontent-length: 1\r\n\r\nx";
    assert_eq!(proxy.send(other_host).one("idempotency-status"), "executed", "H44");
    assert_eq!(proxy.post("/", "idempotency-key: k\r\n", "y").code(), "key-reused");
}

#[test]
fn what_has_no_body_gets_none_and_the_connection_goes_on_h20() {
    let proxy = Proxy::start();
    let mut stream = proxy.connect();
    for (method, response, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nx-a: 1\r\n\r\n", vec!["10"]),
        ("HEAD", "HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\nx-a: 1\r\n\r\n", vec![]),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\nx-a: 1\r\n\r\n", vec![]),
        ("GET", "HTTP/1.1 304 Not Modified\r\nx-a: 1\r\n\r\n", vec![]),
        ("GET", "HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n", vec![]),
        ("POST", "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\nx-a: 1\r\n\r\n", vec![]),
        ("POST", "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\nx-a: 1\r\n\r\n", vec![]),
    ] {
        proxy.upstream.answers(response);
        let request = format!("{method} / HTTP/1.1\r\nhost: api\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        let answer = read_message(&mut stream, false).expect("an answer");
        assert_eq!((answer.one("x-a"), answer.all("content-length")), ("1", length), "{method} {response}");
        // What comes next is the next answer, not a body.
        proxy.upstream.answers("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        stream.write_all(b"GET /next HTTP/1.1\r\nhost: api\r\n\r\n").expect("the proxy reads");
        assert_eq!(read_message(&mut stream, true).expect("an answer").text(), "ok", "{method} {response}");
    }
    let refused = proxy.send("HEAD / HTTP/1.1\r\n\r\n");
    assert_eq!((refused.status(), refused.has("content-length")), (400, true));
}

#[test]
fn an_answer_without_a_date_gets_one_and_keeps_it_h33() {
    let proxy = Proxy::start();
    let first = proxy.post("/", "idempotency-key: k\r\n", "x");
    let date = first.one("date").to_owned();
    // A clock that shows another second is the only thing that could tell a new date from the old one.
    crate::support::waiting::eventually("another second", || {
        let now = proxy.send("GET / HTTP/1.1\r\nhost: api\r\n\r\n");
        (now.one("date") != date).then_some(())
    });
    let second = proxy.post("/", "idempotency-key: k\r\n", "x");
    assert_eq!((second.one("date"), second.has("age")), (date.as_str(), false));
}

#[test]
fn an_answer_that_says_how_it_is_cached_keeps_its_word_h37() {
    let proxy = Proxy::start();
    proxy.upstream.answers("HTTP/1.1 200 OK\r\ncache-control: max-age=5\r\nage: 3\r\ncontent-length: 0\r\n\r\n");
    for status in ["executed", "replayed"] {
        let answer = proxy.post("/", "idempotency-key: k\r\n", "x");
        assert_eq!(answer.one("idempotency-status"), status);
        assert_eq!((answer.one("cache-control"), answer.one("age")), ("max-age=5", "3"));
    }
}
