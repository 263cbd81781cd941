//! H7 to H13: targets, hosts, methods.

use onceproxy::Policy;
use onceproxy::http::policy::{Methods, Mode};

use super::raw::{Proxy, Setup};

#[test]
fn path_and_query_reach_the_upstream_byte_for_byte_h7() {
    let proxy = Proxy::start();
    for target in ["/a/../b//c;x=1", "/%2e/a", "/a%2Fb", "/a%2fb?q=%20+&&=?/", "/?", "/a?b?c#d"] {
        proxy.send(format!("GET {target} HTTP/1.1\r\nhost: api\r\n\r\n"));
        let sent = target.split('#').next().expect("a target");
        assert_eq!(proxy.upstream.last().start_line(), format!("GET {sent} HTTP/1.1"), "H8: a fragment is dropped");
    }
}

#[test]
fn the_absolute_forms_host_wins_h9() {
    let proxy = Proxy::start();
    proxy.send("GET http://shop.example:81/a?b HTTP/1.1\r\nhost: other\r\n\r\n");
    let request = proxy.upstream.last();
    assert_eq!(request.start_line(), "GET /a?b HTTP/1.1");
    assert_eq!(request.one("host"), "shop.example:81");
}

#[test]
fn a_request_needs_one_good_host_h10() {
    let proxy = Proxy::start();
    for fields in ["", "host: a\r\nhost: a\r\n", "host: a b\r\n", "host: u@a\r\n", "host:\r\n", "host: a:b\r\n"] {
        // The body is announced and never comes: the answer does not wait for it.
        let answer = proxy.send(format!("POST / HTTP/1.1\r\n{fields}content-length: 5\r\n\r\n"));
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"), "{fields:?}");
        assert_eq!(answer.one("connection"), "close");
    }
    let absolute = proxy.send("GET http://api/ HTTP/1.1\r\n\r\n");
    assert_eq!(absolute.status(), 400, "the absolute form needs one too");
    assert_eq!(proxy.upstream.count(), 0);
    assert_eq!(proxy.send("GET / HTTP/1.0\r\n\r\n").status(), 200, "HTTP/1.0 knows no Host");
}

#[test]
fn the_upstreams_own_host_is_sent_where_the_clients_is_not_passed_on() {
    let proxy = Setup::new().upstream(|upstream| upstream.preserve_host = false).start();
    proxy.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n");
    let request = proxy.upstream.last();
    assert_eq!(request.one("host"), proxy.upstream.address.to_string());
    assert_eq!(request.one("x-forwarded-host"), "shop");
}

#[test]
fn methods_that_end_here_h12() {
    let proxy = Proxy::start();
    for request in ["CONNECT api:80 HTTP/1.1", "TRACE / HTTP/1.1"] {
        let answer = proxy.send(format!("{request}\r\nhost: api:80\r\n\r\n"));
        assert_eq!((answer.status(), answer.code().as_str()), (405, "method-not-allowed"), "{request}");
        assert!(answer.one("allow").contains("POST"));
    }
    for request in ["OPTIONS * HTTP/1.1\r\n", "OPTIONS /a HTTP/1.1\r\nmax-forwards: 0\r\n"] {
        let answer = proxy.send(format!("{request}host: api\r\n\r\n"));
        assert_eq!(answer.status(), 204, "{request}");
        assert!(answer.has("allow"));
    }
    assert_eq!(proxy.upstream.count(), 0);
    proxy.send("OPTIONS /a HTTP/1.1\r\nhost: api\r\nmax-forwards: 3\r\n\r\n");
    assert_eq!(proxy.upstream.last().one("max-forwards"), "2");
    assert_eq!(proxy.send("OPTIONS /a HTTP/1.1\r\nhost: api\r\nmax-forwards: x\r\n\r\n").status(), 400);
}

#[test]
fn methods_are_case_sensitive_h13() {
    let every = Policy { methods: Methods::AllUnsafe, ..Policy::optional().route("every") };
    let proxy = Setup::new()
        .routes(vec![(None, "/every", every), (None, "/{*rest}", Policy::optional().route("rest"))])
        .start();
    let status = |path: &str, method: &str| {
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: api\r\nidempotency-key: {method}\r\ncontent-length: 1\r\n\r\nx");
        proxy.send(request).all("idempotency-status").first().map(ToString::to_string)
    };
    assert_eq!(status("/a", "post"), None, "`post` is another method");
    for method in ["post", "DELETE", "PURGE"] {
        assert_eq!(status("/every", method).as_deref(), Some("executed"), "{method}");
    }
    assert_eq!(status("/every", "GET"), None);
}

#[test]
fn no_route_is_a_404_and_an_ambiguous_one_a_400() {
    let off = Policy { mode: Mode::Off, ..Policy::optional().route("rest") };
    let proxy = Setup::new()
        .routes(vec![(None, "/v1/payments", Policy::optional().route("pay")), (Some("api"), "/{*rest}", off)])
        .start();
    let answer = proxy.send("GET /v1/x HTTP/1.1\r\nhost: other\r\n\r\n");
    assert_eq!((answer.status(), answer.code().as_str()), (404, "no-route"));
    assert_eq!(proxy.send("GET /v1/x HTTP/1.1\r\nhost: API.:80\r\n\r\n").status(), 200, "the same host");
    let proxy = Setup::new()
        .routes(vec![
            (None, "/v1/payments", Policy::required().route("pay")),
            (None, "/{*rest}", Policy { mode: Mode::Off, ..Policy::optional().route("rest") }),
        ])
        .start();
    for path in ["/v1//payments", "/v1/%70ayments", "/x/../v1/payments", "/v1/payments/"] {
        let answer = proxy.post(path, "idempotency-key: k\r\n", "x");
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"), "{path}");
    }
    assert_eq!(proxy.post("/v1/payments", "", "x").code(), "key-missing");
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn a_fragment_has_no_say_in_key_or_route_h8() {
    let off = Policy { mode: Mode::Off, ..Policy::optional().route("off") };
    let proxy = Setup::new().routes(vec![(None, "/pay", Policy::required().route("pay")), (None, "/off", off)]).start();
    for (target, status) in
        [("/pay", "executed"), ("/pay#x", "replayed"), ("/pay#/off", "replayed"), ("/pay#?y=1", "replayed")]
    {
        assert_eq!(proxy.post(target, "idempotency-key: k\r\n", "x").one("idempotency-status"), status, "{target}");
    }
    assert_eq!(proxy.post("/pay#/off", "", "x").code(), "key-missing");
    assert_eq!(proxy.upstream.count(), 1);
}

#[test]
fn the_absolute_form_is_the_same_request_as_the_origin_form_h9() {
    let proxy = Proxy::start();
    let post = |target: &str, host: &str| {
        let fields = format!("host: {host}\r\nidempotency-key: k\r\ncontent-length: 1\r\n");
        proxy.send(format!("POST {target} HTTP/1.1\r\n{fields}\r\nx"))
    };
    assert_eq!(post("/a?b", "shop").one("idempotency-status"), "executed");
    assert_eq!(post("http://shop/a?b", "other").one("idempotency-status"), "replayed");
    assert_eq!(post("HTTP://SHOP:80/a?b", "shop").one("idempotency-status"), "replayed");
    assert_eq!(
        post("http://other/a?b", "shop").one("idempotency-status"),
        "executed",
        "the target's host is the scope"
    );
    assert_eq!(proxy.upstream.last().one("host"), "other");
    for target in ["http://u@shop/a", "http:///a", "http://shop:x/a", "http://shop:99999/a", "http://a,b/", "a/b", "*"]
    {
        let answer = post(target, "shop");
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"), "{target}");
    }
    assert_eq!(post("http://shop/a", "a b").status(), 400, "the Host that counts for nothing must be one too");
    assert_eq!(proxy.upstream.count(), 2);
    for (target, sent) in [("http://shop", "/"), ("http://shop?q", "/?q"), ("http://shop/%2e//x", "/%2e//x")] {
        proxy.send(format!("GET {target} HTTP/1.1\r\nhost: shop\r\n\r\n"));
        assert_eq!(proxy.upstream.last().start_line(), format!("GET {sent} HTTP/1.1"));
    }
}

#[test]
fn an_old_request_may_lack_a_host_but_not_have_two_or_a_bad_one_h10() {
    let proxy = Proxy::start();
    for fields in ["host: a\r\nhost: a\r\n", "host: a b\r\n", "host: u@a\r\n", "host:\r\n"] {
        let answer = proxy.send(format!("POST / HTTP/1.0\r\n{fields}content-length: 5\r\n\r\n"));
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"), "{fields:?}");
    }
    assert_eq!(proxy.upstream.count(), 0);
    for status in ["executed", "replayed"] {
        let answer = proxy.send("POST / HTTP/1.0\r\nidempotency-key: k\r\ncontent-length: 1\r\n\r\nx");
        assert_eq!(answer.one("idempotency-status"), status);
    }
    let request = proxy.upstream.last();
    assert_eq!(request.start_line(), "POST / HTTP/1.1");
    assert_eq!(request.one("host"), proxy.upstream.address.to_string(), "the upstream's own");
    assert!(!request.has("x-forwarded-host"), "{}", request.head);
    proxy.send("GET http://shop/ HTTP/1.0\r\n\r\n");
    assert_eq!(proxy.upstream.last().one("host"), "shop");
}

#[test]
fn max_forwards_counts_down_on_options_only_h12() {
    let proxy = Proxy::start();
    let options = |fields: &str| proxy.send(format!("OPTIONS /a HTTP/1.1\r\nhost: api\r\n{fields}\r\n"));
    for bad in ["", "x", "-1", "+1", "1.0", "1, 2", "1\r\nmax-forwards: 1"] {
        let answer = options(&format!("max-forwards: {bad}\r\n"));
        assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"), "{bad}");
    }
    assert_eq!(options("max-forwards: 00\r\n").status(), 204);
    assert_eq!(proxy.upstream.count(), 0);
    // More than anybody counts is still a number.
    for (sent, forwarded) in [("1", "0"), ("010", "9"), ("99999999999999999999", "4294967294")] {
        assert_eq!(options(&format!("max-forwards: {sent}\r\n")).status(), 200);
        assert_eq!(proxy.upstream.last().one("max-forwards"), forwarded);
    }
    options("");
    assert!(!proxy.upstream.last().has("max-forwards"));
    proxy.send("GET /a HTTP/1.1\r\nhost: api\r\nmax-forwards: 0\r\n\r\n");
    assert_eq!(proxy.upstream.last().one("max-forwards"), "0");
    for request in [
        "OPTIONS * HTTP/1.1\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: a b\r\n\r\n",
        "TRACE / HTTP/1.1\r\nmax-forwards: 0\r\n\r\n",
    ] {
        assert!(matches!(proxy.send(request).status(), 400 | 405), "{request}");
    }
}

#[test]
fn an_absolute_target_without_a_path_is_the_root_h8_h9() {
    let proxy = Proxy::start();
    for target in ["http://other", "http://other#fragment", "http://other/#fragment"] {
        let answer = proxy.send(format!("GET {target} HTTP/1.1\r\nhost: api\r\n\r\n"));
        assert_eq!(answer.status(), 200, "{target}");
        assert_eq!(proxy.upstream.last().start_line(), "GET / HTTP/1.1", "{target}");
    }
}
