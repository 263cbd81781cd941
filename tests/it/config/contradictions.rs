//! What is right by itself, but not beside something else: one error with both places.

use onceproxy::config::diagnostic::Severity;

use super::{assert_one, edited, load_text, related};

const LISTENER: &str = "[listener]\n";
const UPSTREAM_URL: &str = "url = \"http://127.0.0.1:9000\"\n";
const DEFAULTS: &str = "[defaults]\n";
const SCOPE: &str = "scope = [\"host\", \"header:x-account-id\"]\n";
const NAME: &str = "name = \"all\"\n";

#[test]
fn retention_shorter_than_four_leases_is_refused_with_both_places() {
    let to = "[defaults]\nlease = \"30s\"\nretention = «\"119s\"»\n";
    let (text, found) = assert_one(DEFAULTS, to, Severity::Error, "shorter than four leases (4 × 30s = 120s)", None);
    assert_eq!(related(&text, &found), "\"30s\"");
    assert_eq!(load_text(&edited(DEFAULTS, "[defaults]\nretention = \"2m\"\n")).diagnostics, []);
}

#[test]
fn retention_shorter_than_a_late_retry_is_refused_with_both_places() {
    let to = "[defaults]\nretention = «\"5m\"»\nretry_grace = \"4m\"\nlease = \"31s\"\n";
    let message = "the retention of 5m is shorter than lease + retry_grace + response_timeout (31s + 4m + 30s)";
    let (text, found) = assert_one(DEFAULTS, to, Severity::Error, message, None);
    assert_eq!(related(&text, &found), "\"31s\"");
    // The grace is the upstream's response timeout, unless something else is said.
    let to = "url = \"http://127.0.0.1:9000\"\nresponse_timeout = «\"12h\"»\n";
    assert_one(UPSTREAM_URL, to, Severity::Error, "(30s + 12h + 12h)", None);
}

#[test]
fn a_route_is_blamed_for_its_own_retention() {
    let to = "name = \"all\"\npolicy = { retention = «\"1m\"» }\n";
    assert_one(NAME, to, Severity::Error, "shorter than four leases", None);
}

#[test]
fn a_status_cannot_be_both_released_and_unknown() {
    let to = "[defaults]\nunknown_status = [502, 503]\nrelease_status = [401, «503»]\n";
    let (text, found) = assert_one(DEFAULTS, to, Severity::Error, "status 503 is in `release_status` and in", None);
    assert_eq!(related(&text, &found), "503");
    assert_ne!(found.related.as_ref().map(|related| related.place.clone()), found.place);
    // 503 is unknown by default.
    assert_one(DEFAULTS, "[defaults]\nrelease_status = [«503»]\n", Severity::Error, "status 503", None);
}

#[test]
fn a_scope_needs_its_parameter_in_the_path() {
    let to = "scope = [«\"path:account\"»]\n";
    let (text, found) = assert_one(SCOPE, to, Severity::Error, "the path has no such parameter", Some("rest"));
    assert_eq!(related(&text, &found), "\"/{*rest}\"");
}

#[test]
fn a_scope_of_certificates_needs_an_authority() {
    let message = "the scope takes the client's certificate, but the listener has no `client_ca`";
    assert_one(SCOPE, "scope = [\"host\", «\"client-cert\"»]\n", Severity::Error, message, Some("client_ca = "));
    let scoped = edited(SCOPE, "scope = [\"client-cert\"]\n");
    let with_tls = |tls: &str| load_text(&scoped.replace(LISTENER, &format!("[listener]\ntls = {tls}\n")));
    let found = with_tls("{ cert = \"cert.pem\", key = \"key.pem\" }").diagnostics;
    assert!(found.len() == 1 && found[0].message.contains(message), "{found:#?}");
    let good = with_tls("{ cert = \"cert.pem\", key = \"key.pem\", client_ca = \"clients.pem\" }");
    assert_eq!(good.diagnostics, []);
}

#[test]
fn a_body_that_does_not_count_cannot_have_a_form() {
    let to = "[defaults]\nfingerprint = { parts = [\"path\"], body = «\"json\"» }\n";
    assert_one(DEFAULTS, to, Severity::Error, "`parts` leaves the body out", None);
    let to = "[defaults]\nfingerprint = { omit = «[\"/a\"]» }\n";
    assert_one(DEFAULTS, to, Severity::Error, "the body counts byte for byte", Some("body = \"json\""));
}

#[test]
fn buffers_have_to_hold_one_request_and_its_response() {
    // Of a request only the beginning is in memory.
    let to = "[listener]\nmax_buffered = «\"1MiB\"»\n";
    let message = "`max_buffered` is 1MiB, but one request and its response may take 1152KiB";
    assert_one(LISTENER, to, Severity::Error, message, None);
    // But all of it where it is read as JSON.
    let to = "[defaults]\nmax_request_body = «\"8MiB\"»\nmax_response_body = \"256MiB\"\nfingerprint = { body = \"json\" }\n";
    let text = edited(DEFAULTS, &to.replace(['«', '»'], ""));
    let found = load_text(&text).diagnostics;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].message.contains("one request and its response may take 264MiB"), "{found:#?}");
}

#[test]
fn the_spool_has_to_hold_one_request() {
    let to = "[defaults]\nmax_request_body = «\"11GiB\"»\n";
    assert_one(DEFAULTS, to, Severity::Error, "`max_spooled` is 10GiB, but one request may take 11GiB", None);
    let text = edited(DEFAULTS, "[defaults]\nmax_request_body = \"10GiB\"\n");
    assert_eq!(load_text(&text).diagnostics, []);
    let text = text.replace(LISTENER, "[listener]\nmax_spooled = \"1GiB\"\n");
    let found = load_text(&text).diagnostics;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(&text[found[0].place.clone().expect("a place")], "\"1GiB\"");
    assert_eq!(related(&text, &found[0]), "\"10GiB\"");
}

#[test]
fn a_body_that_is_read_as_json_has_a_lower_limit() {
    let message = "`max_request_body` is 9MiB, but a body that is read as JSON has at most 8MiB";
    let to = "[defaults]\nmax_request_body = «\"9MiB\"»\nfingerprint = { body = \"json\" }\n";
    let (text, found) = assert_one(DEFAULTS, to, Severity::Error, message, None);
    assert_eq!(related(&text, &found), "\"json\"");
    let to = "[defaults]\nmax_request_body = «\"9MiB\"»\nkey_from = [\"header:a\", \"json:/id\"]\n";
    let (text, found) = assert_one(DEFAULTS, to, Severity::Error, message, None);
    assert_eq!(related(&text, &found), "\"json:/id\"");
    let to = "[defaults]\nmax_request_body = \"8MiB\"\nfingerprint = { body = \"json\" }\n";
    assert_eq!(load_text(&edited(DEFAULTS, to)).diagnostics, []);
}

const SECOND: &str = "upstream = \"api\"\n";

fn second_route(rest: &str) -> String {
    format!("upstream = \"api\"\n\n[[routes]]\nupstream = \"api\"\n{rest}")
}

#[test]
fn routes_that_match_the_same_requests_collide() {
    let cases = [
        "name = \"b\"\npath = «\"/{*other}\"»\n",
        "name = \"b\"\npath = «\"/{*rest}\"»\nmethods = [\"PATCH\", \"PUT\"]\n",
        "name = \"b\"\npath = «\"/{*rest}\"»\nmethods = [\"*\"]\n",
    ];
    for case in cases {
        let to = second_route(case);
        let (text, found) =
            assert_one(SECOND, &to, Severity::Error, "routes `all` and `b` match the same requests", None);
        assert_eq!(related(&text, &found), "\"/{*rest}\"");
    }
}

#[test]
fn routes_share_a_path_with_disjoint_methods_and_one_upstream() {
    let shared = second_route("name = \"b\"\npath = \"/{*rest}\"\nmethods = [\"PUT\"]\n");
    assert_eq!(load_text(&edited(SECOND, &shared)).diagnostics, []);
    let other_host = second_route("name = \"b\"\npath = \"/{*rest}\"\nhost = \"a.example\"\n");
    assert_eq!(load_text(&edited(SECOND, &other_host)).diagnostics, []);
    let other_upstream = "[upstreams.other]\nurl = \"http://127.0.0.1:1\"\n";
    let text =
        edited(SECOND, &shared.replacen("[[routes]]\nupstream = \"api\"", "[[routes]]\nupstream = \"other\"", 1));
    let report = load_text(&format!("{text}{other_upstream}"));
    assert_eq!(report.diagnostics.len(), 1, "{:#?}", report.diagnostics);
    assert!(report.diagnostics[0].message.contains("match the same requests"));
}

#[test]
fn paths_that_cannot_stand_beside_each_other_collide() {
    let to = second_route("name = \"b\"\npath = «\"/{id}\"»\n");
    let (text, found) = assert_one(SECOND, &to, Severity::Error, "cannot stand beside each other", None);
    assert_eq!(related(&text, &found), "\"/{*rest}\"");
}

#[test]
fn two_routes_with_one_name_are_refused() {
    let to = second_route("path = \"/a\"\nname = «\"all\"»\n");
    let (text, found) = assert_one(SECOND, &to, Severity::Error, "two routes are called `all`", None);
    assert_eq!(related(&text, &found), "\"all\"");
}

#[test]
fn what_is_wrong_in_the_defaults_is_said_once() {
    let to = format!("{}path = \"/a\"\nname = \"b\"\n", second_route(""));
    let text = edited(SECOND, &to).replace("[defaults]\n", "[defaults]\nretention = \"1m\"\n");
    assert_eq!(load_text(&text).diagnostics.len(), 1);
}
