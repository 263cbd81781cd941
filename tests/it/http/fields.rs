//! H1 to H6: fields on their way through.

use super::raw::{Proxy, Setup};

#[test]
fn nominated_fields_end_here_in_both_directions_h1() {
    let proxy = Proxy::start();
    proxy
        .upstream
        .answers("HTTP/1.1 200 OK\r\nconnection: X-Secret\r\nx-secret: 1\r\nx-kept: 1\r\ncontent-length: 2\r\n\r\nok");
    let answer = proxy.send(
        "GET / HTTP/1.1\r\nhost: api\r\nconnection: X-Mine, x-other\r\nx-mine: 1\r\nx-other: 2\r\nx-kept: 3\r\n\r\n",
    );
    let request = proxy.upstream.last();
    assert!(!request.has("x-mine") && !request.has("x-other") && !request.has("connection"), "{}", request.head);
    assert_eq!(request.one("x-kept"), "3");
    assert!(!answer.has("x-secret"), "{}", answer.head);
    assert_eq!(answer.one("x-kept"), "1");
}

#[test]
fn connection_fields_end_here_h2() {
    let proxy = Proxy::start();
    proxy
        .upstream
        .answers("HTTP/1.1 200 OK\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\ncontent-length: 0\r\n\r\n");
    let answer = proxy.send(
        "GET / HTTP/1.1\r\nhost: api\r\nkeep-alive: timeout=9\r\nproxy-connection: keep-alive\r\nte: trailers\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
    );
    let request = proxy.upstream.last();
    for name in ["keep-alive", "proxy-connection", "te", "upgrade", "http2-settings", "transfer-encoding"] {
        assert!(!request.has(name), "{name} in {}", request.head);
    }
    assert!(!answer.has("keep-alive") && !answer.has("proxy-connection"), "{}", answer.head);
}

#[test]
fn a_connection_field_cannot_switch_enforcement_off_h3() {
    let proxy = Proxy::start();
    for name in ["Host", "Content-Length", "Idempotency-Key", "Authorization", "X-Api-Key", "cookie"] {
        let answer = proxy.post("/", &format!("idempotency-key: k\r\nconnection: close, {name}\r\n"), "x");
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"), "{name}");
        assert_eq!(answer.one("idempotency-outcome"), "not-executed");
    }
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn via_is_appended_and_our_own_is_a_loop_h4() {
    let mut proxy = Proxy::start();
    proxy.send("GET / HTTP/1.0\r\nvia: 1.1 other\r\n\r\n");
    let via: Vec<String> = proxy.upstream.last().all("via").iter().map(ToString::to_string).collect();
    assert_eq!(via.len(), 2, "{via:?}");
    assert_eq!(via[0], "1.1 other");
    assert!(via[1].starts_with("1.1 onceproxy-"), "{via:?}");
    let answer = proxy.send(format!("GET / HTTP/1.1\r\nhost: api\r\nvia: 1.1 other, {}\r\n\r\n", via[1]));
    assert_eq!((answer.status(), answer.code().as_str()), (508, "loop"));
    assert_eq!(proxy.upstream.count(), 1);
    proxy.stop();
    // Another process has another name, so that two proxies in a row work.
    let other = Proxy::start();
    let answer = other.send(format!("GET / HTTP/1.1\r\nhost: api\r\nvia: {}\r\n\r\n", via[1]));
    assert_eq!(answer.status(), 200);
}

#[test]
fn only_trusted_peers_are_believed_h5() {
    let sent = "GET / HTTP/1.1\r\nhost: api:80\r\nx-forwarded-for: 203.0.113.9\r\nx-forwarded-proto: https\r\nx-forwarded-host: shop\r\nforwarded: for=203.0.113.9\r\n\r\n";
    let stranger = Proxy::start();
    stranger.send(sent);
    let request = stranger.upstream.last();
    assert_eq!(request.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(request.one("x-forwarded-proto"), "http");
    assert_eq!(request.one("x-forwarded-host"), "api:80");
    assert_eq!(request.one("forwarded"), "for=127.0.0.1;host=\"api:80\";proto=http");
    let network: ipnet::IpNet = "127.0.0.0/8".parse().expect("a network");
    let trusting = Setup::new().listener(|listener| listener.trusted_proxies = vec![network.into()]).start();
    trusting.send(sent);
    let request = trusting.upstream.last();
    assert_eq!(request.one("x-forwarded-for"), "203.0.113.9, 127.0.0.1");
    assert_eq!(request.one("x-forwarded-proto"), "https");
    assert_eq!(request.one("x-forwarded-host"), "shop");
    assert_eq!(request.one("forwarded"), "for=203.0.113.9, for=127.0.0.1;host=\"api:80\";proto=http");
}

#[test]
fn unknown_fields_pass_in_order_and_set_cookie_is_never_joined_h6() {
    let proxy = Proxy::start();
    proxy.upstream.answers(
        "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nx-new: 1\r\nset-cookie: b=2, c\r\nx-new: 2\r\ncontent-length: 0\r\n\r\n",
    );
    let answer = proxy.send("GET / HTTP/1.1\r\nhost: api\r\nx-a: 1\r\nx-b: é\r\nx-a: 2, 3\r\nx-a:\r\n\r\n");
    let request = proxy.upstream.last();
    assert_eq!(request.all("x-a"), ["1", "2, 3", ""]);
    assert_eq!(request.one("x-b"), "é");
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2, c"]);
    assert_eq!(answer.all("x-new"), ["1", "2"]);
}

#[test]
fn marks_of_ours_cannot_be_sent_in() {
    let proxy = Proxy::start();
    proxy.upstream.answers(
        "HTTP/1.1 200 OK\r\nidempotency-replayed: true\r\nidempotency-status: x\r\nidempotency-outcome: y\r\ncontent-length: 0\r\n\r\n",
    );
    for key in ["", "idempotency-key: k\r\n"] {
        let fields = format!("{key}idempotency-replayed: true\r\nidempotency-status: x\r\nidempotency-attempt: 9\r\n");
        let answer = proxy.post("/", &fields, "x");
        let request = proxy.upstream.last();
        assert!(!request.has("idempotency-replayed") && !request.has("idempotency-status"), "{}", request.head);
        assert!(!answer.has("idempotency-replayed") && !answer.has("idempotency-outcome"), "{}", answer.head);
        match key {
            "" => assert!(!request.has("idempotency-attempt") && !answer.has("idempotency-status")),
            _ => assert_eq!((request.one("idempotency-attempt"), answer.one("idempotency-status")), ("1", "executed")),
        }
    }
}
