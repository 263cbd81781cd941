//! One mistake, one error, at its place; many mistakes, all of them at once.

mod certificates;
mod secrets;

use onceproxy::config::diagnostic::{Position, Severity};
use onceproxy::config::load::Overrides;

use super::{GOOD, assert_one, edited, load_text, load_with, marked, position, related};

/// What is replaced in the good file, by what (the expected place between marks), and what is said.
type Case<'a> = (&'static str, &'a str, &'static str);

const VERSION: &str = "version = 1\n";
const LISTENER: &str = "[listener]\n";
const ADMIN: &str = "[admin]\n";
const LOG: &str = "level = \"info\"\n";
const STORE: &str = "[store]\n";
const STORE_URL: &str = "url = \"sqlite:a.db\"\n";
const UPSTREAM: &str = "[upstreams.api]\n";
const UPSTREAM_URL: &str = "url = \"http://127.0.0.1:9000\"\n";
const DEFAULTS: &str = "[defaults]\n";
const SCOPE: &str = "scope = [\"host\", \"header:x-account-id\"]\n";
const NAME: &str = "name = \"all\"\n";
const PATH: &str = "path = \"/{*rest}\"\n";

#[track_caller]
fn assert_errors(cases: &[Case<'_>]) {
    for (from, to, message) in cases {
        assert_one(from, to, Severity::Error, message, None);
    }
}

#[track_caller]
fn assert_helped(cases: &[(&str, &str, &str, &str)]) {
    for (from, to, message, help) in cases {
        assert_one(from, to, Severity::Error, message, Some(help));
    }
}

#[test]
fn good_file_has_no_findings() {
    let report = load_text(GOOD);
    assert_eq!(report.diagnostics, []);
    assert!(report.config.is_some());
}

#[test]
fn a_syntax_error_is_one_error_at_its_place() {
    assert_errors(&[
        (LOG, "level = «info»\n", "this is not TOML"),
        (STORE, "[store«»\n", "this is not TOML"),
        (LOG, "level = \"info\"\n«level» = \"warn\"\n", "this is not TOML: duplicate key"),
    ]);
}

#[test]
fn unknown_settings_are_refused_with_a_suggestion() {
    assert_helped(&[
        (VERSION, "version = 1\n«docs_ulr» = \"x\"\n", "unknown setting `docs_ulr` at the top", "`docs_url`"),
        (LISTENER, "[listener]\n«adress» = \"x\"\n", "unknown setting `adress` in [listener]", "`address`"),
        (ADMIN, "[admin]\n«tokn» = \"x\"\n", "unknown setting `tokn` in [admin]", "`token`"),
        (STORE, "[store]\n«prefx» = \"x\"\n", "unknown setting `prefx` in [store]", "`prefix`"),
        (
            UPSTREAM,
            "[upstreams.api]\n«timeout» = \"1s\"\n",
            "unknown setting `timeout` in an upstream",
            "known here: url",
        ),
        (DEFAULTS, "[defaults]\n«leese» = \"1s\"\n", "unknown setting `leese` in [defaults]", "`lease`"),
        (NAME, "name = \"all\"\n«methodes» = []\n", "unknown setting `methodes` in [[routes]]", "`methods`"),
        (NAME, "name = \"all\"\npolicy = { «Key» = \"required\" }\n", "unknown setting `Key` in `policy`", "`key`"),
        (
            DEFAULTS,
            "[defaults]\nfingerprint = { «omitt» = [\"/a\"] }\n",
            "unknown setting `omitt` in `fingerprint`",
            "`omit`",
        ),
        (ADMIN, "[admin]\ntoken = { «enf» = \"SET\" }\n", "unknown setting `enf` in [token]", "`env`"),
        (
            NAME,
            "name = \"all\"\n«retention» = \"1h\"\n",
            "`retention` in [[routes]]",
            "in [defaults] or a route's `policy`",
        ),
        (DEFAULTS, "[defaults]\n«max_buffered» = 1\n", "`max_buffered` in [defaults]", "belongs in [listener]"),
        (LISTENER, "[«lissener»]\n[listener]\n", "unknown setting `lissener` at the top", "`listener`"),
    ]);
}

#[test]
fn values_of_another_kind_are_refused() {
    assert_errors(&[
        (DEFAULTS, "[defaults]\nlease = «30»\n", "`lease` is a duration such as \"30s\", not an integer"),
        (DEFAULTS, "[defaults]\nmode = «true»\n", "`mode` is a text, not a boolean"),
        (DEFAULTS, "[defaults]\nkey_max_length = «\"9\"»\n", "`key_max_length` is an integer, not a string"),
        (
            DEFAULTS,
            "[defaults]\nmax_request_body = «1.5»\n",
            "`max_request_body` is a size such as \"64KiB\", not a float",
        ),
        (DEFAULTS, "[defaults]\nrelease_status = «401»\n", "`release_status` is a list, not an integer"),
        (DEFAULTS, "[defaults]\nfingerprint = «\"body\"»\n", "`fingerprint` is a table of settings, not a string"),
        (UPSTREAM, "[upstreams.api]\npreserve_host = «\"yes\"»\n", "`preserve_host` is true or false, not a string"),
        (ADMIN, "[admin]\ntoken = «7»\n", "`token` is a text or a table, not an integer"),
        (NAME, "name = \"all\"\npolicy = «[]»\n", "`policy` is a table of settings, not an array"),
        (VERSION, "version = «2»\n", "`version` has to be 1"),
    ]);
}

#[test]
fn words_that_mean_nothing_are_refused() {
    assert_helped(&[
        (DEFAULTS, "[defaults]\nmode = «\"enforced\"»\n", "none of \"enforce\", \"observe\", \"off\"", "\"enforce\""),
        (DEFAULTS, "[defaults]\nkey = «\"requird\"»\n", "none of \"required\", \"optional\"", "\"required\""),
        (DEFAULTS, "[defaults]\nkey_syntax = «\"uid\"»\n", "none of \"any\"", "\"uuid\""),
        (DEFAULTS, "[defaults]\nconcurrent = «\"waits\"»\n", "none of \"reject\", \"wait\"", "\"wait\""),
        (DEFAULTS, "[defaults]\nunknown_outcome = «\"rety\"»\n", "none of \"hold\", \"retry\"", "\"retry\""),
        (DEFAULTS, "[defaults]\nstore_down = «\"bypas\"»\n", "none of \"reject\", \"bypass\"", "\"bypass\""),
        (DEFAULTS, "[defaults]\nfingerprint = { body = «\"jsn\"» }\n", "none of \"bytes\", \"json\"", "\"json\""),
        (DEFAULTS, "[defaults]\nfingerprint = { parts = [«\"pat\"»] }\n", "none of \"method\"", "\"path\""),
        (LOG, "format = «\"jsom\"»\n", "none of \"auto\", \"text\", \"json\"", "\"json\""),
        (LOG, "level = «\"inof\"»\n", "neither a level nor a filter", "`info`"),
    ]);
}

#[test]
fn durations_sizes_and_counts_have_limits() {
    assert_errors(&[
        (DEFAULTS, "[defaults]\nlease = «\"soon\"»\n", "`lease` is not a duration"),
        (DEFAULTS, "[defaults]\nlease = «\"30\"»\n", "`lease` is not a duration"),
        (DEFAULTS, "[defaults]\nlease = «\"999ms\"»\n", "has to be from 1s to 24h"),
        (DEFAULTS, "[defaults]\nlease = «\"0\"»\n", "has to be from 1s to 24h"),
        (DEFAULTS, "[defaults]\nretention = «\"0s\"»\n", "`retention` is \"0s\""),
        (DEFAULTS, "[defaults]\nretention = «\"11years\"»\n", "to 3653d"),
        (DEFAULTS, "[defaults]\nwait_timeout = «\"0s\"»\n", "`wait_timeout` is \"0s\""),
        (DEFAULTS, "[defaults]\nretry_grace = «\"2d\"»\n", "has to be from 1ms to 24h"),
        (LISTENER, "[listener]\nheader_timeout = «\"0s\"»\n", "`header_timeout` is \"0s\""),
        (LISTENER, "[listener]\nmax_connections = «0»\n", "`max_connections` is 0, but it has to be from 1 to 1000000"),
        (
            LISTENER,
            "[listener]\nmax_buffered = «\"12 apples\"»\n",
            "`max_buffered` is \"12 apples\", which is not a size",
        ),
        (STORE, "[store]\ncommand_timeout = «\"2m\"»\n", "has to be from 1ms to 60s"),
        (UPSTREAM, "[upstreams.api]\nresponse_timeout = «\"99days\"»\n", "has to be from 1ms to 24h"),
        (UPSTREAM, "[upstreams.api]\nmax_connections = «-1»\n", "negative or too large"),
        (DEFAULTS, "[defaults]\nkey_max_length = «0»\n", "`key_max_length` is 0, but it has to be from 1 to 255"),
        (DEFAULTS, "[defaults]\nkey_max_length = «256»\n", "`key_max_length` is 256, but it has to be from 1 to 255"),
        (DEFAULTS, "[defaults]\nmax_request_body = «0»\n", "`max_request_body` is 0B"),
        (DEFAULTS, "[defaults]\nmax_response_body = «\"1GiB\"»\n", "from 1B to 256MiB"),
        (DEFAULTS, "[defaults]\nunknown_status = [502, «1000»]\n", "has to be from 200 to 599"),
    ]);
}

#[test]
fn sources_headers_and_pointers_are_checked() {
    assert_helped(&[
        (SCOPE, "scope = [\"host\", «\"heder:x-a\"»]\n", "which is no source", "\"header:x-a\""),
        (SCOPE, "scope = [«\"credential\"»]\n", "which is no source", "\"credentials\""),
        (DEFAULTS, "[defaults]\nkey_from = [«\"jsn:/id\"»]\n", "which is no source", "\"json:/id\""),
        (DEFAULTS, "[defaults]\nkey_from = [«\"json:id\"»]\n", "not a JSON pointer", "\"/id\""),
        (
            DEFAULTS,
            "[defaults]\nfingerprint = { body = \"json\", omit = [«\"meta/at\"»] }\n",
            "`omit` has \"meta/at\", which is not a JSON pointer",
            "\"/meta/at\"",
        ),
        (DEFAULTS, "[defaults]\nfingerprint = { body = \"json\", omit = [«\"/a~b\"»] }\n", "pointer", "`~0`"),
    ]);
    assert_errors(&[
        (SCOPE, "scope = [«\"header:x y\"»]\n", "\"x y\", which is not a header's name"),
        (SCOPE, "scope = [«\"cookie:\"»]\n", "which is no source"),
        (SCOPE, "scope = [«\"header\"»]\n", "which is no source"),
        (SCOPE, "scope = «[]»\n", "`scope` is empty"),
        (DEFAULTS, "[defaults]\nkey_from = «[]»\n", "`key_from` is empty"),
        (DEFAULTS, "[defaults]\nkey_from = [«\"header:\"»]\n", "not a header's name"),
        (DEFAULTS, "[defaults]\nreplay_drop_headers = [«\"set cookie\"»]\n", "not a header's name"),
        (DEFAULTS, "[defaults]\nfingerprint = { parts = «[]» }\n", "`parts` is empty"),
        (DEFAULTS, "[defaults]\nnamespace = «\" \"»\n", "`namespace` is empty"),
        (VERSION, "version = 1\ndocs_url = «\"example.com\"»\n", "not an http or https URL"),
    ]);
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    assert_errors(&[
        (STORE, "[store]\ndurability = «\"replicas:2\"»\n", "is not built yet: this release has \"primary\" only"),
        (STORE, "[store]\ndurability = «\"fsync\"»\n", "is not built yet: this release has \"primary\" only"),
        (STORE, "[store]\nencryption = «{ active = \"a\", keys = [] }»\n", "`encryption` is not built yet"),
        (STORE, "[store]\ncompression = «\"zstd\"»\n", "`compression` is not built yet"),
        (STORE, "[store]\nhmac_key = «{ env = \"K\" }»\n", "`hmac_key` is not built yet"),
        (UPSTREAM_URL, "url = «\"h2c:h:1\"»\n", "is not a URL"),
        (SCOPE, "scope = [«\"jwt:sub\"»]\n", "\"jwt:sub\" is not built yet"),
        (STORE_URL, "url = «\"postgres://h/db\"»\n", "postgres are not built yet"),
        (STORE_URL, "url = «\"redis-cluster://a:1,b:2\"»\n", "redis-cluster are not built yet"),
        (STORE_URL, "url = «\"redis-sentinel://a:1/m/0\"»\n", "redis-sentinel are not built yet"),
    ]);
}

#[test]
fn certificates_have_to_be_there_and_fit_together() {
    let tls = |settings: &str| format!("[listener]\ntls = {settings}\n");
    for (settings, message) in [
        ("«{ cert = \"cert.pem\" }»", "`tls` has no `key`"),
        ("«{ key = \"key.pem\" }»", "`tls` has no `cert`"),
        ("«\"cert.pem\"»", "`tls` is a table of settings"),
        ("{ cert = \"cert.pem\", key = \"key.pem\", «ca» = \"clients.pem\" }", "unknown setting `ca` in `tls`"),
        ("{ cert = «\"gone.pem\"», key = \"key.pem\" }", "`cert`: gone.pem cannot be read"),
        ("{ cert = «\"token.txt\"», key = \"key.pem\" }", "`cert`: token.txt has no certificate"),
        ("{ cert = \"cert.pem\", key = «\"cert.pem\"» }", "`key`: cert.pem has no private key"),
        (
            "{ cert = \"cert.pem\", key = «\"other-key.pem\"» }",
            "`key`: other-key.pem is not the key of the certificate",
        ),
        (
            "{ cert = \"cert.pem\", key = \"key.pem\", client_ca = «\"empty.txt\"» }",
            "`client_ca`: empty.txt has no cert",
        ),
        (
            "{ cert = \"cert.pem\", key = \"key.pem\", client_auth = «\"optional\"» }",
            "`client_auth` says who has to have a certificate, but there is no `client_ca`",
        ),
        (
            "{ cert = \"cert.pem\", key = \"key.pem\", client_ca = \"clients.pem\", client_auth = «\"maybe\"» }",
            "none of \"required\", \"optional\"",
        ),
    ] {
        assert_one(LISTENER, &tls(settings), Severity::Error, message, None);
    }
}

#[test]
fn addresses_and_urls_are_checked() {
    assert_helped(&[
        ("address = \"127.0.0.1:8080\"", "address = «\":8080\"»", "not an address and a port", "\"0.0.0.0:8080\""),
        ("address = \"127.0.0.1:9180\"", "address = «\"localhost\"»", "not an address and a port", "127.0.0.1:8080"),
        ("address = \"127.0.0.1:9180\"", "address = «\"0.0.0.0:9180\"»", "there is no token", "ONCEPROXY_ADMIN_TOKEN"),
        (LISTENER, "[listener]\ntrusted_proxies = [«\"10.0.0.0/99\"»]\n", "neither an address nor a network", "/8"),
    ]);
    assert_errors(&[
        ("address = \"127.0.0.1:8080\"", "address = «\"unix:once.sock\"»", "but a socket has a whole path"),
        ("address = \"127.0.0.1:8080\"", "address = «\"unix:\"»", "but a socket has a whole path"),
        ("address = \"127.0.0.1:9180\"", "address = «\"unix:/run/a.sock\"»", "not an address and a port"),
    ]);
    let long = format!("address = «\"unix:/{}\"»", "x".repeat(103));
    assert_one("address = \"127.0.0.1:8080\"", &long, Severity::Error, "has at most 103 bytes", None);
    assert_errors(&[
        (UPSTREAM_URL, "url = «\"127.0.0.1:9000\"»\n", "is not an http URL"),
        (UPSTREAM_URL, "url = «\"http://\"»\n", "has no valid host"),
        (UPSTREAM_URL, "url = «\"http://h:port\"»\n", "has no valid port"),
        (UPSTREAM_URL, "url = «\"http://h:\"»\n", "has no valid port"),
        (UPSTREAM_URL, "url = «\"http://h:0\"»\n", "has no valid port"),
        (UPSTREAM_URL, "url = «\"http://[::g]:1\"»\n", "has no valid host"),
        (UPSTREAM_URL, "url = «\"http://a b\"»\n", "has no valid host"),
        (UPSTREAM_URL, "url = «\"http://h:99999\"»\n", "has no valid port"),
        (UPSTREAM_URL, "url = «\"http://h/v1\"»\n", "has a path"),
        (UPSTREAM_URL, "url = «\"http://user:secret@h\"»\n", "`url`: this URL holds a user"),
        (UPSTREAM_URL, "url = «\"https:h\"»\n", "is not a URL"),
        (UPSTREAM_URL, "url = «\"https://h/v1\"»\n", "has a path"),
        (UPSTREAM_URL, "url = «\"unix:run/a.sock\"»\n", "has no absolute path of a socket"),
        (UPSTREAM_URL, "url = «\"unix:/\"»\n", "has no absolute path of a socket"),
        (STORE_URL, "url = «\"mysql://h\"»\n", "is not a store URL"),
        (STORE_URL, "url = «\"sqlite:\"»\n", "needs the path of a file"),
        (STORE, "[store]\nprefix = «\"a-b\"»\n", "`prefix` is \"a-b\""),
        (STORE_URL, "url = \"redis://127.0.0.1\"\nprefix = «\"a{b}\"»\n", "`prefix` is \"a{b}\""),
    ]);
}

#[test]
fn admin_listener_is_never_the_data_port() {
    let to = "[admin]\naddress = «\"127.0.0.1:8080\"»";
    let from = "[admin]\naddress = \"127.0.0.1:9180\"";
    let (text, found) = assert_one(from, to, Severity::Error, "the data listener's port, 8080", None);
    assert_eq!(related(&text, &found), "\"127.0.0.1:8080\"");
}

#[test]
fn secrets_that_cannot_be_found_are_errors() {
    assert_errors(&[
        (ADMIN, "[admin]\ntoken = «{ env = \"UNSET\" }»\n", "the environment variable UNSET is not set"),
        (ADMIN, "[admin]\ntoken = «{ file = \"no.txt\" }»\n", "no.txt cannot be read"),
        (ADMIN, "[admin]\ntoken = «{ file = \"empty.txt\" }»\n", "the secret is empty"),
        (ADMIN, "[admin]\ntoken = «\"\"»\n", "`token` is empty"),
        (ADMIN, "[admin]\ntoken = «{}»\n", "neither or both"),
        (ADMIN, "[admin]\ntoken = «{ env = \"SET\", file = \"token.txt\" }»\n", "neither or both"),
    ]);
}

#[test]
fn routes_are_checked_each_for_itself() {
    assert_helped(&[
        ("upstream = \"api\"", "upstream = «\"apy\"»", "there is no upstream `apy`", "`api`"),
        (PATH, "path = «\"v1\"»\n", "does not begin with `/`", "\"/v1\""),
        (PATH, "path = «\"/a/{\"»\n", "braces", "/v1/payments/{id}"),
        (PATH, "path = «\"/{a}-{b}\"»\n", "one parameter at most", "/v1/payments/{id}"),
        (PATH, "path = «\"/{*all}/b\"»\n", "at the end", "/{*rest}"),
        (NAME, "name = \"all\"\nmethods = [«\"post\"»]\n", "case-sensitive", "\"POST\""),
        (NAME, "name = \"all\"\nmethods = [«\"GET\"»]\n", "safe methods are never protected", "always pass"),
        (NAME, "name = \"all\"\nhost = «\"h:80\"»\n", "without its port", "\"h\""),
        (NAME, "name = \"all\"\nhost = «\"*.example.com\"»\n", "not a host's name", "no wildcards"),
    ]);
    assert_errors(&[
        (PATH, "path = «\"/a?b=c\"»\n", "no query"),
        (PATH, "path = «\"/a/../b\"»\n", "never matches"),
        (PATH, "path = «\"/a//b\"»\n", "never matches"),
        (PATH, "path = «\"/a/\"»\n", "never matches"),
        (PATH, "path = «\"/%61\"»\n", "never matches"),
        (PATH, "path = «\"/ü\"»\n", "percent-encoded"),
        (NAME, "name = «\"a b\"»\n", "a route's name is 1 to 64"),
        (NAME, "name = \"all\"\nmethods = «[]»\n", "`methods` is empty"),
        (NAME, "name = \"all\"\nmethods = [«\"P OST\"»]\n", "which is not a method"),
        (NAME, "name = \"all\"\nmethods = [«\"CONNECT\"»]\n", "never forwarded"),
        (NAME, "name = \"all\"\nmethods = [\"POST\", «\"*\"»]\n", "stands alone"),
    ]);
}

#[test]
fn what_has_to_be_there_is_missed() {
    let cases = [
        (VERSION, "does not say which format", None),
        ("[store]\nurl = \"sqlite:a.db\"\n", "no [store]", None),
        (STORE_URL, "[store] has no `url`", Some((12, 1))),
        (NAME, "a route has no `name`", Some((21, 1))),
        (PATH, "a route has no `path`", Some((21, 1))),
        ("upstream = \"api\"\n", "a route has no `upstream`", Some((21, 1))),
        (UPSTREAM_URL, "upstream `api` has no `url`", Some((15, 12))),
    ];
    for (gone, message, place) in cases {
        let text = edited(gone, "");
        let report = load_text(&text);
        assert_eq!(report.diagnostics.len(), 1, "{message}: {:#?}", report.diagnostics);
        assert!(report.diagnostics[0].message.contains(message), "{:?}", report.diagnostics[0]);
        assert_eq!(position(&text, &report.diagnostics[0]), place, "{message}");
    }
    let routeless = GOOD.split("[[routes]]").next().expect("it begins");
    assert!(load_text(routeless).diagnostics.iter().any(|found| found.message.contains("no routes")));
    let empty = load_text("");
    let messages: Vec<&str> = empty.diagnostics.iter().map(|found| found.message.as_str()).collect();
    for expected in ["which format", "[store]", "no upstreams", "no routes"] {
        assert!(messages.iter().any(|message| message.contains(expected)), "{expected} in {messages:?}");
    }
}

#[test]
fn every_mistake_of_a_file_is_reported_at_once() {
    let text = GOOD
        .replace("version = 1", "version = 3")
        .replace("127.0.0.1:8080", "here")
        .replace("level", "levle")
        .replace("sqlite:a.db", "mysql:")
        .replace("http://127.0.0.1:9000", "ftp://h")
        .replace("\"host\"", "\"hots\", \"jwt:sub\"")
        .replace("/{*rest}", "/{");
    let report = load_text(&text);
    let found: Vec<(usize, &str)> = report
        .diagnostics
        .iter()
        .map(|found| (position(&text, found).map_or(0, |(line, _)| line), found.message.as_str()))
        .collect();
    let expected = [
        (1, "`version` has to be 1"),
        (4, "`address` is \"here\""),
        (10, "unknown setting `levle`"),
        (13, "not a store URL"),
        (16, "not an http URL"),
        (19, "no source"),
        (19, "not built yet"),
        (23, "braces"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((line, message), (expected_line, part)) in found.iter().zip(expected) {
        assert!(*line == expected_line && message.contains(part), "{found:#?}");
    }
}

#[test]
fn columns_count_characters() {
    let (text, place) = marked("version = 1\ndocs_url = \"https://é.example/\" # ü\n«unknown» = 1\n'ää' = 1\n");
    assert_eq!(Position::of(&text, place.start), Position { line: 3, column: 1 });
    let (text, place) = marked("a = { 'ää' = «1» }");
    assert_eq!(Position::of(&text, place.start), Position { line: 1, column: 14 });
}

#[test]
fn overrides_are_checked_like_the_file() {
    let here = Overrides { listen: Some("here".into()), ..Overrides::default() };
    let cases: [(Overrides, &str); 5] = [
        (here, "`--listen or ONCEPROXY_LISTEN` is \"here\""),
        (Overrides { store: Some("mysql:".into()), ..Overrides::default() }, "`--store or ONCEPROXY_STORE`"),
        (Overrides { admin: Some("0.0.0.0:1".into()), ..Overrides::default() }, "there is no token"),
        (Overrides { log: Some("inof".into()), ..Overrides::default() }, "`ONCEPROXY_LOG` is \"inof\""),
        (Overrides { upstream: Some("http://h".into()), ..Overrides::default() }, "says two things at once"),
    ];
    for (overrides, message) in cases {
        let report = load_with(GOOD, &overrides);
        assert_eq!(report.diagnostics.len(), 1, "{message}: {:#?}", report.diagnostics);
        assert!(report.diagnostics[0].message.contains(message), "{:?}", report.diagnostics[0]);
    }
}
