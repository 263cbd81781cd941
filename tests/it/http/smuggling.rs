//! H14 to H17: what two readers could take for different messages is refused, or reaches the upstream in one form only.

use std::io::{Read, Write};

use super::raw::{Message, Proxy};

const NEXT: &str = "GET /next HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";

/// What is to become of a request, and of the one behind it.
enum Expected {
    /// A refusal, and nothing of either reaches the upstream.
    Refused,
    /// This body, and then the next request.
    Taken(&'static str),
    /// This body, and then nothing.
    TakenLast(&'static str),
}

use Expected::{Refused, Taken, TakenLast};

/// Sends a request with another one behind it, and reads to the end.
fn answers_to(proxy: &Proxy, request: &[u8]) -> String {
    let mut stream = proxy.connect();
    stream.write_all(request).expect("the proxy reads");
    stream.write_all(NEXT.as_bytes()).expect("the proxy reads");
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).expect("the proxy closes");
    String::from_utf8_lossy(&answers).into_owned()
}

fn assert_becomes(proxy: &Proxy, request: &[u8], expected: &Expected) {
    let name = String::from_utf8_lossy(request).into_owned();
    let before = proxy.upstream.count();
    let answers = answers_to(proxy, request);
    let seen = proxy.upstream.seen().split_off(before);
    match expected {
        Refused => {
            assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{name:?}: {answers}");
            let is_refusal =
                ["400 ", "501 ", "505 "].iter().any(|status| answers["HTTP/1.1 ".len()..].starts_with(status));
            assert!(is_refusal, "{name:?}: {answers}");
            assert!(answers.to_ascii_lowercase().contains("connection: close"), "{name:?}: {answers}");
            assert!(seen.is_empty(), "{name:?} became {}", seen[0].head);
        }
        Taken(body) => {
            assert_taken(&answers, &seen, 2, body, &name);
            let framings = seen[0].all("content-length").len() + seen[0].all("transfer-encoding").len();
            assert_eq!(framings, 1, "{name:?} became {}", seen[0].head);
            assert_eq!(seen[1].start_line(), "GET /next HTTP/1.1", "{name:?}");
        }
        TakenLast(body) => assert_taken(&answers, &seen, 1, body, &name),
    }
}

fn assert_taken(answers: &str, seen: &[Message], count: usize, first: &str, name: &str) {
    assert_eq!(answers.matches("HTTP/1.1 200").count(), count, "{name:?}: {answers}");
    assert_eq!(seen.len(), count, "{name:?}: {answers}");
    assert_eq!(seen[0].text(), first, "{name:?}");
}

#[test]
fn a_length_is_digits_and_there_is_one_h15() {
    let proxy = Proxy::start();
    let table = [
        ("content-length: 5", Taken("hello")),
        ("content-length:\t 5 \t", Taken("hello")),
        ("content-length: 05", Taken("hello")),
        ("content-length: 5\r\ncontent-length: 5", Taken("hello")),
        ("content-length: 5\r\ncontent-length: 6", Refused),
        ("content-length: 5, 6", Refused),
        ("content-length: 5,", Refused),
        ("content-length: +5", Refused),
        ("content-length: -5", Refused),
        ("content-length: 0x5", Refused),
        ("content-length: 5 5", Refused),
        ("content-length: 5;", Refused),
        ("content-length: 5.0", Refused),
        ("content-length: \"5\"", Refused),
        ("content-length:", Refused),
        ("content-length: 18446744073709551616", Refused),
        ("content-length : 5", Refused),
        ("content-length\t: 5", Refused),
        (" content-length: 5", Refused),
        ("x-a: 1\r\n content-length: 5", Refused),
        ("x-a: 1\r\n\tcontent-length: 5", Refused),
        ("x-a: 1\rcontent-length: 5", Refused),
        ("x-a: \0\r\ncontent-length: 5", Refused),
    ];
    for (n, (length, expected)) in table.into_iter().enumerate() {
        let request = format!("POST / HTTP/1.1\r\nhost: api\r\nidempotency-key: k{n}\r\n{length}\r\n\r\nhello");
        assert_becomes(&proxy, request.as_bytes(), &expected);
    }
    let list = b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 5, 5\r\n\r\nhello";
    assert_becomes(&proxy, list, &Refused);
    assert_becomes(&proxy, b"POST / HTTP/1.1\nhost: api\ncontent-length: 5\n\nhello", &Taken("hello"));
}

#[test]
fn a_coding_is_chunked_and_nothing_else_h14_h16() {
    let proxy = Proxy::start();
    let table = [
        ("transfer-encoding: chunked", Taken("hello")),
        ("Transfer-Encoding:\tCHUNKED ", Taken("hello")),
        ("transfer-encoding: xchunked", Refused),
        ("transfer-encoding: chunkedx", Refused),
        ("transfer-encoding: chunked, identity", Refused),
        ("transfer-encoding: identity, chunked", Refused),
        ("transfer-encoding: identity", Refused),
        ("transfer-encoding: chunked;q=1", Refused),
        ("transfer-encoding: \"chunked\"", Refused),
        ("transfer-encoding: 'chunked'", Refused),
        ("transfer-encoding: chun ked", Refused),
        ("transfer-encoding: chunked,", Refused),
        ("transfer-encoding: ,chunked", Refused),
        ("transfer-encoding: \x0bchunked", Refused),
        ("transfer-encoding:", Refused),
        ("transfer-encoding: x\r\ntransfer-encoding: chunked", Refused),
        ("transfer-encoding: chunked\r\ntransfer-encoding: x", Refused),
        ("transfer-encoding : chunked", Refused),
        ("transfer-encoding\t: chunked", Refused),
        (" transfer-encoding: chunked", Refused),
        ("x-a: 1\r\n transfer-encoding: chunked", Refused),
        ("x-a: 1\rtransfer-encoding: chunked", Refused),
        ("transfer-encoding: chunked\r\n x", Refused),
    ];
    for (n, (coding, expected)) in table.into_iter().enumerate() {
        for length in ["", "content-length: 3\r\n"] {
            if let (Taken(_), "content-length: 3\r\n") = (&expected, length) {
                // Together they are in a test of their own.
                continue;
            }
            for key in [String::new(), format!("idempotency-key: k{n}\r\n")] {
                let request =
                    format!("POST / HTTP/1.1\r\nhost: api\r\n{key}{length}{coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
                assert_becomes(&proxy, request.as_bytes(), &expected);
            }
        }
    }
    let old = b"POST / HTTP/1.0\r\nhost: api\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_becomes(&proxy, old, &Refused);
}

#[test]
fn chunks_are_read_in_one_way_only_h17() {
    let proxy = Proxy::start();
    let table = [
        ("5\r\nhello\r\n0\r\n\r\n", Taken("hello")),
        ("5;x=1\r\nhello\r\n0;y\r\n\r\n", Taken("hello")),
        ("5;x=\"a;b\"\r\nhello\r\n0\r\n\r\n", Taken("hello")),
        ("0005\r\nhello\r\n000\r\n\r\n", Taken("hello")),
        ("2\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 1\r\n\r\n", TakenLast("hello")),
        ("0x5\r\nhello\r\n0\r\n\r\n", Refused),
        ("+5\r\nhello\r\n0\r\n\r\n", Refused),
        ("-5\r\nhello\r\n0\r\n\r\n", Refused),
        (" 5\r\nhello\r\n0\r\n\r\n", Refused),
        ("5 5\r\nhello\r\n0\r\n\r\n", Refused),
        ("\r\n5\r\nhello\r\n0\r\n\r\n", Refused),
        ("g\r\nhello\r\n0\r\n\r\n", Refused),
        ("5\nhello\r\n0\r\n\r\n", Refused),
        ("5\rhello\r\n0\r\n\r\n", Refused),
        ("5;x\nhello\r\n0\r\n\r\n", Refused),
        ("5;x\rhello\r\n0\r\n\r\n", Refused),
        ("5\r\nhello\n0\r\n\r\n", Refused),
        ("5\r\nhello0\r\n\r\n", Refused),
        ("5\r\nhelloo\r\n0\r\n\r\n", Refused),
        ("5\r\nhello\r\n0\n\r\n", Refused),
        ("5\r\nhello\r\n0\r\nx sum: 1\r\n\r\n", Refused),
        ("5\r\nhello\r\n0\r\n x-sum: 1\r\n\r\n", Refused),
        ("10000000000000005\r\nhello\r\n0\r\n\r\n", Refused),
    ];
    for (n, (body, expected)) in table.into_iter().enumerate() {
        let head =
            format!("POST / HTTP/1.1\r\nhost: api\r\nidempotency-key: k{n}\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_becomes(&proxy, format!("{head}{body}").as_bytes(), &expected);
    }
}

#[test]
fn a_chunk_of_any_size_ends_at_the_limit_or_with_the_client_h17() {
    let proxy = Proxy::start();
    let head = "POST / HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n";
    for size in ["7fffffffffffffff", "ffffffffffffffff", "100000000"] {
        let answer = proxy.send(format!("{head}{size}\r\n{}", "x".repeat((1 << 20) + 1)));
        assert_eq!((answer.status(), answer.code().as_str()), (413, "body-too-large"), "{size}");
    }
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn a_body_that_the_client_does_not_bring_to_its_end_is_never_sent_as_whole_h17() {
    let proxy = Proxy::start();
    for framing in [
        "content-length: 9\r\n\r\nhello",
        "transfer-encoding: chunked\r\n\r\n9\r\nhello",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ] {
        let mut stream = proxy.connect();
        let request = format!("POST / HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\n{framing}");
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        stream.shutdown(std::net::Shutdown::Write).expect("an end");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the proxy closes");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{framing:?}: {answer}");
    }
    assert_eq!(proxy.upstream.count(), 0);
    let whole = proxy.post("/", "idempotency-key: k\r\n", "hello");
    assert_eq!(whole.one("idempotency-status"), "executed");
}

#[test]
fn a_start_line_has_three_parts_h15() {
    let proxy = Proxy::start();
    let length = "host: api\r\ncontent-length: 5\r\n\r\nhello";
    for (line, expected) in [
        ("\r\nPOST / HTTP/1.1\r\n", Taken("hello")),
        ("POST /a b HTTP/1.1\r\n", Refused),
        ("POST / HTTP/1.1 x\r\n", Refused),
        ("POST / HTTP/2.0\r\n", Refused),
        ("POST / http/1.1\r\n", Refused),
        ("POST /\r\n", Refused),
        ("PO ST / HTTP/1.1\r\n", Refused),
        ("P(ST / HTTP/1.1\r\n", Refused),
        ("POST /\x7f HTTP/1.1\r\n", Refused),
        (" POST / HTTP/1.1\r\n", Refused),
        ("POST / HTTP/1.1\r\n: x\r\n", Refused),
        ("POST / HTTP/1.1\r\nx(y): 1\r\n", Refused),
        ("POST / HTTP/1.1\r\nno colon\r\n", Refused),
    ] {
        assert_becomes(&proxy, format!("{line}{length}").as_bytes(), &expected);
    }
}
