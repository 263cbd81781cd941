//! H38 to H44: keys and bodies, in raw bytes.

use super::raw::{Message, Proxy};

fn keyed(proxy: &Proxy, key: &[u8], body: &str) -> Message {
    let mut request = b"POST / HTTP/1.1\r\nhost: api\r\nidempotency-key:".to_vec();
    request.extend_from_slice(key);
    request.extend_from_slice(format!("\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    proxy.send(request)
}

#[test]
fn spellings_of_one_key_are_one_key_and_others_are_not_h38_h41() {
    let proxy = Proxy::start();
    for (key, status) in [
        (&br#" "a-1""#[..], "executed"),
        (b" a-1", "replayed"),
        (b"a-1", "replayed"),
        (b"\t a-1 \t", "replayed"),
        (br#" "a-1";x=1; y="z\"";v"#, "replayed"),
        (b" A-1", "executed"),
        (br#" "say \"hi\" \\""#, "executed"),
        (br#" "say \"hi\" \\"; x"#, "replayed"),
        (b" 'a-1'", "executed"),
    ] {
        let answer = keyed(&proxy, key, "x");
        assert_eq!(answer.one("idempotency-status"), status, "{}", String::from_utf8_lossy(key));
    }
}

#[test]
fn bare_keys_are_visible_characters_but_four_h40() {
    let proxy = Proxy::start();
    let visible: String = ('!'..='~').filter(|character| !"\",;\\".contains(*character)).collect();
    for key in [visible.as_str(), "!", &"k".repeat(255)] {
        assert_eq!(keyed(&proxy, key.as_bytes(), "x").one("idempotency-status"), "executed", "{key}");
        assert_eq!(proxy.upstream.last().one("idempotency-key"), key, "it goes on as it came");
    }
}

#[test]
fn what_is_no_key_reaches_nobody_h38_h39() {
    let proxy = Proxy::start();
    let long = "k".repeat(256);
    let bad: [&[u8]; 24] = [
        b"",
        b" ",
        b" \"\"",
        b" a,b",
        b" a b",
        b" a;b",
        b" a\\b",
        b" a\"b",
        b" \"a\", \"b\"",
        b" \"a\" \"b\"",
        b" \"a",
        b" a\"",
        b" \"a\\n\"",
        b" \"a\";",
        b" \"a\"; ",
        b" \"a\";X=1",
        b" \"a\"x",
        b" k\xc3\xa9y",
        b" \"k\xe9y\"",
        b" k\x80",
        b" k\xff",
        b" k\x7f",
        b" \"a\tb\"",
        long.as_bytes(),
    ];
    for key in bad {
        let answer = keyed(&proxy, key, "x");
        let name = String::from_utf8_lossy(key);
        assert_eq!(answer.status(), 400, "{name}");
        assert!(matches!(answer.code().as_str(), "key-invalid" | "bad-request"), "{name}: {}", answer.text());
        assert_eq!(answer.one("idempotency-outcome"), "not-executed", "{name}");
    }
    for control in [0_u8, 1, 8, 11, 12, 27, 31] {
        let answer = keyed(&proxy, &[b' ', b'k', control], "x");
        assert_eq!(answer.status(), 400, "{control}");
    }
    let twice = proxy.post("/", "idempotency-key: a\r\nidempotency-key: a\r\n", "x");
    assert_eq!((twice.status(), twice.code().as_str()), (400, "key-invalid"));
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn coded_bodies_are_hashed_and_forwarded_as_they_come_h43() {
    let proxy = Proxy::start();
    // Both say "hello" to whoever unpacks them: stored, and deflated.
    let stored: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x01\x05\0\xfa\xffhello\x86\xa6\x10\x36\x05\0\0\0";
    let deflated: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xcbH\xcd\xc9\xc9\x07\0\x86\xa6\x10\x36\x05\0\0\0";
    let send = |body: &[u8]| {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: api\r\nidempotency-key: k\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        proxy.send([head.as_bytes(), body].concat())
    };
    assert_eq!(send(stored).one("idempotency-status"), "executed");
    let seen = proxy.upstream.last();
    assert_eq!((seen.body.as_slice(), seen.one("content-encoding")), (stored, "gzip"));
    assert_eq!(send(stored).one("idempotency-status"), "replayed");
    assert_eq!(send(deflated).code(), "key-reused");
    assert_eq!(proxy.upstream.count(), 1);
}

#[test]
fn another_request_leaves_the_record_as_it_was_h45() {
    let proxy = Proxy::start();
    let first = proxy.post("/a", "idempotency-key: k\r\n", "x");
    for (path, body) in [("/a", "y"), ("/b", "x"), ("/a?b", "x"), ("/A", "x"), ("/a/", "x"), ("/%61", "x")] {
        let answer = proxy.post(path, "idempotency-key: k\r\n", body);
        assert_eq!((answer.status(), answer.code().as_str()), (422, "key-reused"), "{path}");
        assert!(!answer.has("idempotency-outcome"), "it may have been executed");
    }
    let replay = proxy.post("/a", "idempotency-key: k\r\n", "x");
    assert_eq!((replay.one("idempotency-replayed"), &replay.body), ("true", &first.body));
    assert_eq!(proxy.upstream.count(), 1);
}
