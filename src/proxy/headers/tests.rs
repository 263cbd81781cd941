use super::*;

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

fn peer(trusted: &[TrustedPeer]) -> Peer {
    Peer::new(PeerAddress::Socket("192.0.2.7:80".parse().expect("an address")), trusted, Scheme::Http)
}

fn host(name: &str) -> EffectiveHost {
    checked_host(&HeaderValue::from_str(name).expect("a value"), &peer(&[])).expect("a host")
}

#[test]
fn nominated_and_connection_fields_are_removed_h1_h2() {
    let mut fields = headers(&[
        ("connection", "close, X-Secret"),
        ("connection", "x-other"),
        ("x-secret", "1"),
        ("x-other", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
        ("x-kept", "1"),
    ]);
    remove_hop_by_hop(&mut fields);
    assert_eq!(fields.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
}

#[test]
fn a_connection_that_nominates_a_guarded_field_is_refused_h3() {
    let guarded = [HeaderName::from_static("idempotency-key")];
    for bad in ["Host", "content-length", "close, Idempotency-Key"] {
        assert!(check_nominated(&headers(&[("connection", bad)]), &guarded).is_err(), "{bad}");
    }
    assert!(check_nominated(&headers(&[("connection", "close, x-a")]), &guarded).is_ok());
}

#[test]
fn our_own_via_is_a_loop_and_another_ones_is_not_h4() {
    let via = Via::named("onceproxy-1234");
    let peer = peer(&[]);
    let run = |line| {
        let mut fields = headers(&[("via", line)]);
        prepare_request(&mut fields, http::Version::HTTP_11, &peer, None, &via).map(|()| fields)
    };
    assert_eq!(run("1.0 a, 1.1 onceproxy-1234 (x)").expect_err("a loop"), Refusal::Loop);
    let fields = run("1.1 onceproxy-9999").expect("another proxy");
    assert_eq!(fields.get_all(VIA).iter().collect::<Vec<_>>(), ["1.1 onceproxy-9999", "1.1 onceproxy-1234"]);
}

#[test]
fn only_trusted_peers_are_believed_h5() {
    let network = TrustedPeer::Network("192.0.2.0/24".parse().expect("a network"));
    let sent = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "api.example"),
        ("forwarded", "for=203.0.113.9"),
    ];
    let run = |trusted: &[TrustedPeer]| {
        let mut fields = headers(&sent);
        write_forwarded(&mut fields, &peer(trusted), Some(&host("inner:8080")));
        fields
    };
    let trusted = run(&[network]);
    assert_eq!(trusted["x-forwarded-for"], "203.0.113.9, 192.0.2.7");
    assert_eq!(trusted["x-forwarded-proto"], "https");
    assert_eq!(trusted["x-forwarded-host"], "api.example");
    assert_eq!(trusted["forwarded"], "for=203.0.113.9, for=192.0.2.7;host=\"inner:8080\";proto=http");
    let stranger = run(&[]);
    assert_eq!(stranger["x-forwarded-for"], "192.0.2.7");
    assert_eq!(stranger["x-forwarded-proto"], "http");
    assert_eq!(stranger["x-forwarded-host"], "inner:8080");
    assert_eq!(stranger["forwarded"], "for=192.0.2.7;host=\"inner:8080\";proto=http");
}

#[test]
fn a_peer_without_an_address_is_unknown_and_tls_is_told_h5() {
    let run = |trusted: &[TrustedPeer]| {
        let peer = Peer::new(PeerAddress::Unix, trusted, Scheme::Https);
        let host = checked_host(&HeaderValue::from_static("api"), &peer).expect("a host");
        let mut fields = headers(&[("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=203.0.113.9")]);
        write_forwarded(&mut fields, &peer, Some(&host));
        fields
    };
    let stranger = run(&[TrustedPeer::Network("0.0.0.0/0".parse().expect("a network"))]);
    assert!(!stranger.contains_key("x-forwarded-for"));
    assert_eq!(stranger["forwarded"], "for=unknown;host=\"api\";proto=https");
    assert_eq!(stranger["x-forwarded-proto"], "https");
    let trusted = run(&[TrustedPeer::Unix]);
    assert_eq!(trusted["x-forwarded-for"], "203.0.113.9");
    assert_eq!(trusted["forwarded"], "for=203.0.113.9, for=unknown;host=\"api\";proto=https");
}

#[test]
fn cookie_crumbs_become_one_line_h29() {
    let mut fields = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
    join_cookies(&mut fields);
    assert_eq!(fields.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
}

#[test]
fn hosts_that_are_not_are_refused_h10() {
    for bad in ["", "a b", "user@host", "host:port", "host:99999", "a/b", "a\"b", "a,b"] {
        let value = HeaderValue::from_str(bad).expect("a value");
        assert!(checked_host(&value, &peer(&[])).is_err(), "{bad:?}");
    }
    for good in ["h", "H:80", "[::1]:80", "192.0.2.1", "h:"] {
        assert!(checked_host(&HeaderValue::from_str(good).expect("a value"), &peer(&[])).is_ok(), "{good:?}");
    }
    assert_eq!(host("API.Example:80").name, "api.example");
    assert_eq!(host("api.example.:80").name, "api.example");
}
