//! What `--explain` says.

use onceproxy::config::explain::ExplainError;

use super::{GOOD, load_text};

const PAYMENTS: &str = include_str!("../../../config/payments.toml");

fn explain(text: &str, request: &str) -> String {
    load_text(text).explain(request).expect("it is a request, and the file is good")
}

/// The value and the source of one setting.
fn row(explained: &str, name: &str) -> String {
    let line = explained.lines().find(|line| line.split_whitespace().next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("{name} is not in {explained}"));
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_setting_has_its_value_and_its_line() {
    insta::assert_snapshot!(explain(PAYMENTS, "POST /v1/payments"), @r##"
    POST /v1/payments
      route                create-payment                   route line 26
      path                 /v1/payments                     route line 27
      upstream             ledger at http://127.0.0.1:9000
      protected            yes: the route protects ["POST"]
    policy
      mode                 "enforce"                        default
      key                  "required"                       route line 30
      namespace            "ledger"                         default: the name of upstream ledger
      key_from             ["header:idempotency-key"]       default
      key_syntax           "any"                            default
      key_max_length       255                              default
      scope                ["host", "header:x-account-id"]  [defaults] line 21
      fingerprint          { parts = ["method", "path", "query", "content-type", "body"], body = "bytes" } default
      lease                "30s"                            default
      retention            "7d"                             route line 30
      concurrent           "wait"                           route line 30
      wait_timeout         "10s"                            default
      unknown_outcome      "hold"                           default
      retry_grace          "30s"                            default: the response_timeout of upstream ledger
      store_down           "reject"                         default
      release_status       [401, 403, 425, 429]             default
      unknown_status       [408, 502, 503, 504]             default
      max_request_body     "1MiB"                           default
      max_response_body    "1MiB"                           default
      replay_drop_headers  ["set-cookie"]                   default
    upstream
      url                  "http://127.0.0.1:9000"          upstream line 16
      connect_timeout      "2s"                             default
      response_timeout     "30s"                            upstream line 17
      idle_timeout         "4s"                             default
      max_connections      256                              default
      preserve_host        true                             default
    "##);
}

#[test]
fn sources_follow_the_layers() {
    let text = GOOD.replace("[defaults]\n", "[defaults]\nlease = \"10s\"\nretention = \"2h\"\n");
    let text = text.replace("name = \"all\"\n", "name = \"all\"\npolicy = { lease = \"20s\" }\n");
    let explained = explain(&text, "POST /");
    assert_eq!(row(&explained, "lease"), "\"20s\" route line 25");
    assert_eq!(row(&explained, "retention"), "\"2h\" [defaults] line 20");
    assert_eq!(row(&explained, "scope"), "[\"host\", \"header:x-account-id\"] [defaults] line 21");
    assert_eq!(row(&explained, "mode"), "\"enforce\" default");
    assert_eq!(row(&explained, "namespace"), "\"api\" default: the name of upstream api");
    assert_eq!(row(&explained, "retry_grace"), "\"30s\" default: the response_timeout of upstream api");
    assert_eq!(row(&explained, "url"), "\"http://127.0.0.1:9000\" upstream line 16");
}

#[test]
fn the_most_specific_route_and_the_one_with_the_method_are_found() {
    for (request, route, protected) in [
        ("POST /v1/payments", "create-payment", "yes"),
        ("PUT /v1/payments", "create-payment", "no: the route protects [\"POST\"]"),
        ("GET /v1/payments", "create-payment", "no: GET is safe"),
        ("PUT /v1/payments/7/notes", "note", "yes"),
        ("POST /elsewhere", "rest", "no: the route's mode is \"off\""),
        ("POST /", "rest", "no"),
    ] {
        let explained = explain(PAYMENTS, request);
        assert!(row(&explained, "route").starts_with(route), "{request}: {explained}");
        assert!(row(&explained, "protected").starts_with(protected), "{request}: {explained}");
    }
    let shared =
        format!("{GOOD}[[routes]]\nname = \"b\"\npath = \"/{{*rest}}\"\nupstream = \"api\"\nmethods = [\"PUT\"]\n");
    assert!(row(&explain(&shared, "PUT /a"), "route").starts_with("b "));
    assert!(row(&explain(&shared, "POST /a"), "route").starts_with("all "));
}

#[test]
fn hosts_come_first() {
    let text =
        format!("{GOOD}[[routes]]\nname = \"b\"\npath = \"/{{*rest}}\"\nupstream = \"api\"\nhost = \"h.example\"\n");
    assert!(row(&explain(&text, "POST http://H.example:80/a"), "route").starts_with("b "));
    assert!(row(&explain(&text, "POST http://other.example/a"), "route").starts_with("all "));
    assert!(row(&explain(&text, "POST /a"), "route").starts_with("all "));
}

#[test]
fn a_request_without_a_route_gets_404() {
    let text = GOOD.replace("/{*rest}", "/a");
    assert_eq!(explain(&text, "POST /b"), "POST /b\n  no route matches: 404 no-route\n");
}

#[test]
fn a_spelling_that_leads_elsewhere_gets_400() {
    let explained = explain(PAYMENTS, "POST /v1//payments");
    assert!(explained.contains("400 bad-request"), "{explained}");
}

#[test]
fn what_is_no_request_is_refused() {
    let report = load_text(GOOD);
    for request in ["", "POST", "POST a b", "P@ST /a", "POST v1"] {
        assert_eq!(report.explain(request), Err(ExplainError::BadRequest(request.to_owned())), "{request:?}");
    }
    assert_eq!(load_text("").explain("POST /a"), Err(ExplainError::BadConfig));
}
