//! What a good file becomes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use onceproxy::OnUnknown;
use onceproxy::config::Config;
use onceproxy::config::load::Overrides;
use onceproxy::http::policy::{KeyRule, Methods, Mode, Policy};
use onceproxy::proxy::tls::ClientAuth;
use onceproxy::proxy::upstream::Transport;
use onceproxy::stores::url::StoreUrl;
use secrecy::ExposeSecret;

use super::{GOOD, edited, load_text, load_with};

fn config(text: &str) -> Config {
    let report = load_text(text);
    report.config.unwrap_or_else(|| panic!("{:#?}", report.diagnostics))
}

fn only_policy(text: &str) -> Arc<Policy> {
    config(text).routes[0].policy.clone()
}

#[test]
fn a_route_overrides_the_defaults_setting_by_setting() {
    let text = edited("[defaults]\n", "[defaults]\nkey = \"required\"\nlease = \"10s\"\nretention = \"2h\"\n");
    let text =
        text.replace("name = \"all\"\n", "name = \"all\"\npolicy = { lease = \"20s\", concurrent = \"wait\" }\n");
    let policy = only_policy(&text);
    assert_eq!(policy.key, KeyRule::Required);
    assert_eq!(policy.terms.lease, Duration::from_secs(20));
    assert_eq!(policy.terms.retention, Duration::from_secs(7200));
    assert_eq!(policy.terms.wait, Some(Duration::from_secs(10)));
    assert_eq!(policy.mode, Mode::Enforce);
    assert_eq!(&*policy.terms.route, "all");
}

#[test]
fn a_route_can_take_back_what_the_defaults_say() {
    let text = edited("[defaults]\n", "[defaults]\nconcurrent = \"wait\"\nwait_timeout = \"3s\"\n");
    assert_eq!(only_policy(&text).terms.wait, Some(Duration::from_secs(3)));
    let text = text.replace("name = \"all\"\n", "name = \"all\"\npolicy = { concurrent = \"reject\" }\n");
    assert_eq!(only_policy(&text).terms.wait, None);
}

#[test]
fn grace_and_namespace_come_from_the_upstream_unless_they_are_given() {
    let text = edited("[upstreams.api]\n", "[upstreams.api]\nresponse_timeout = \"7s\"\n");
    let policy = only_policy(&text);
    assert_eq!((policy.terms.retry_grace, &*policy.namespace), (Duration::from_secs(7), "api"));
    let more = "[defaults]\nretry_grace = \"9s\"\nnamespace = \"n\"\nunknown_outcome = \"retry\"\n";
    let policy = only_policy(&text.replace("[defaults]\n", more));
    assert_eq!((policy.terms.retry_grace, &*policy.namespace), (Duration::from_secs(9), "n"));
    assert_eq!(policy.terms.on_unknown, OnUnknown::Retry);
}

#[test]
fn docs_url_reaches_every_policy_and_ends_with_a_slash() {
    for url in ["https://d.example/p", "https://d.example/p/"] {
        let text = edited("version = 1\n", &format!("version = 1\ndocs_url = \"{url}\"\n"));
        assert_eq!(only_policy(&text).docs_url.as_deref(), Some("https://d.example/p/"));
    }
}

#[test]
fn methods_and_hosts_are_read() {
    let policy = only_policy(&edited("name = \"all\"\n", "name = \"all\"\nmethods = [\"*\"]\n"));
    assert_eq!(policy.methods, Methods::AllUnsafe);
    let config =
        config(&edited("name = \"all\"\n", "name = \"all\"\nmethods = [\"PUT\"]\nhost = \"API.Example.com\"\n"));
    assert_eq!(config.routes[0].policy.methods, Methods::Only(vec![Method::PUT]));
    assert_eq!(config.routes[0].host.as_deref(), Some("api.example.com"));
}

#[test]
fn upstream_urls_are_read() {
    for (url, host, port, authority) in [
        ("http://h", "h", 80, "h"),
        ("http://h:9000/", "h", 9000, "h:9000"),
        ("http://[::1]:9000", "::1", 9000, "[::1]:9000"),
    ] {
        let config = config(&edited("http://127.0.0.1:9000", url));
        let upstream = &config.upstreams[0];
        assert_eq!((&*upstream.host, upstream.port, &*upstream.authority), (host, port, authority));
        assert_eq!(&*upstream.name, "api");
    }
}

#[test]
fn https_and_unix_upstreams_are_read() {
    let spec = |url: &str| config(&edited("url = \"http://127.0.0.1:9000\"", url)).upstreams[0].clone();
    let https = spec("url = \"https://h\"\nca = \"ca.pem\"");
    assert_eq!((&*https.host, https.port, &*https.authority, https.url().as_str()), ("h", 443, "h", "https://h"));
    assert!(matches!(https.transport, Transport::Tls(_)));
    let address = spec("url = \"https://[::1]:8443\"\nca = \"ca.pem\"");
    assert_eq!((&*address.host, address.port, &*address.authority), ("::1", 8443, "[::1]:8443"));
    let unix = spec("url = \"unix:/run/api.sock\"");
    assert_eq!(unix.transport, Transport::Unix(Path::new("/run/api.sock").into()));
    assert_eq!((&*unix.authority, unix.url().as_str()), ("localhost", "unix:/run/api.sock"));
}

#[test]
fn upstreams_are_equal_when_their_certificates_are() {
    let spec = |more: &str| {
        config(&edited("url = \"http://127.0.0.1:9000\"", &format!("url = \"https://h\"\n{more}"))).upstreams[0].clone()
    };
    let (ca, us) = ("ca = \"ca.pem\"", "client_cert = { cert = \"cert.pem\", key = \"key.pem\" }");
    assert_eq!(spec(ca), spec(ca));
    assert_eq!(spec("ca = \"/etc/onceproxy/internal-ca.pem\""), spec(ca), "the files say the same");
    assert_ne!(spec("ca = \"cert.pem\""), spec(ca));
    assert_ne!(spec(&format!("{ca}\n{us}")), spec(ca));
    assert_eq!(spec(&format!("{ca}\n{us}")), spec(&format!("{us}\n{ca}")));
}

#[test]
fn upstreams_keep_the_order_of_the_file() {
    let text = format!("{GOOD}[upstreams.zeta]\nurl = \"http://z\"\n[upstreams.alpha]\nurl = \"http://a\"\n");
    let config = config(&text);
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| &*upstream.name).collect();
    assert_eq!(names, ["api", "zeta", "alpha"]);
}

#[test]
fn a_file_without_a_listener_is_reachable_and_one_without_admin_has_none() {
    let text = GOOD.replace("[listener]\naddress = \"127.0.0.1:8080\"\n", "");
    let text = text.replace("[admin]\naddress = \"127.0.0.1:9180\"\n", "");
    let config = config(&text);
    assert_eq!(config.listener.address.to_string(), "0.0.0.0:8080");
    assert!(config.admin.is_none());
    let listening = load_with(&text, &Overrides { admin: Some("127.0.0.1:1".into()), ..Overrides::default() });
    assert!(listening.config.is_some_and(|config| config.admin.is_some()));
}

#[test]
fn secrets_come_from_the_environment_or_a_file() {
    for (token, expected) in [("{ env = \"SET\" }", "from-environment"), ("{ file = \"token.txt\" }", "from-file")] {
        let config = config(&edited("[admin]\n", &format!("[admin]\ntoken = {token}\n")));
        let token = config.admin.and_then(|admin| admin.token).expect("there is one");
        assert_eq!(token.expose_secret(), expected);
    }
}

#[test]
fn overrides_beat_the_file() {
    let overrides = Overrides {
        listen: Some("127.0.0.1:0".into()),
        store: Some("memory:".into()),
        admin: Some("127.0.0.1:1".into()),
        admin_token: Some("t".into()),
        log: Some("debug".into()),
        upstream: None,
    };
    // An override beats even what the file gets wrong by itself.
    let text = edited("[admin]\n", "[admin]\ntoken = { env = \"UNSET\" }\n");
    let text = text.replace("[store]\nurl = \"sqlite:a.db\"\n", "");
    let report = load_with(&text, &overrides);
    assert_eq!(report.diagnostics, []);
    let config = report.config.expect("no errors");
    assert_eq!(config.listener.address.to_string(), "127.0.0.1:0");
    assert_eq!(config.store.url, StoreUrl::Memory);
    assert_eq!(config.log.level, "debug");
    let admin = config.admin.expect("it is there");
    assert_eq!(admin.address.to_string(), "127.0.0.1:1");
    assert_eq!(admin.token.expect("it is given").expose_secret(), "t");
}

#[test]
fn an_upstream_alone_is_a_whole_configuration() {
    let config = Config::for_upstream("http://127.0.0.1:3000", &Overrides::default()).expect("it is enough");
    assert_eq!(config.listener.address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.store.url, StoreUrl::Sqlite("./onceproxy.db".into()));
    let admin = config.admin.expect("there is one");
    assert_eq!((admin.address.to_string().as_str(), admin.token.is_none()), ("127.0.0.1:9180", true));
    let route = &config.routes[0];
    assert_eq!((config.routes.len(), &*route.path, &*route.policy.terms.route), (1, "/{*rest}", "all"));
    assert_eq!(route.policy.methods, Methods::Only(vec![Method::POST, Method::PATCH]));
    assert_eq!((&*route.upstream.name, route.upstream.port), ("upstream", 3000));
    assert_eq!(&*route.policy.namespace, "upstream");
}

#[test]
fn a_route_that_is_off_needs_no_policy_that_can_work() {
    let text = edited("scope = [\"host\", \"header:x-account-id\"]\n", "scope = [\"path:account\"]\nmode = \"off\"\n");
    let text = text.replace("[upstreams.api]\n", "[upstreams.api]\nresponse_timeout = \"24h\"\n");
    assert_eq!(load_text(&text).diagnostics, []);
}

#[test]
fn what_a_flag_says_is_not_looked_for_in_the_file() {
    let overrides = Overrides { admin: Some("127.0.0.1:8080".into()), ..Overrides::default() };
    let report = load_with(GOOD, &overrides);
    assert!(report.diagnostics[0].message.contains("the data listener's port"), "{report:?}");
    let overrides = Overrides { store: Some("memory:".into()), listen: Some("0.0.0.0:80".into()), ..overrides };
    let overrides = Overrides { admin: None, ..overrides };
    let report = load_with(GOOD, &overrides);
    assert_eq!((report.diagnostics.len(), &report.diagnostics[0].place), (1, &None), "{report:?}");
    assert_eq!(report.diagnostics[0].related, None);
}

#[test]
fn an_upstream_that_is_none_is_refused() {
    let report = Config::for_upstream("h2c://h/path", &Overrides::default()).expect_err("a path");
    assert!(report.to_text(onceproxy::config::render::Style::Plain).contains("`--upstream`: h2c://h/path has a path"));
    assert!(report.has_errors());
}

#[test]
fn a_file_without_upstreams_takes_the_one_of_the_flag() {
    let text = GOOD.replace("[upstreams.api]\nurl = \"http://127.0.0.1:9000\"\n", "");
    let text = text.replace("upstream = \"api\"", "upstream = \"upstream\"");
    let report = load_with(&text, &Overrides { upstream: Some("http://h:1".into()), ..Overrides::default() });
    assert_eq!(report.diagnostics, []);
    assert_eq!(report.config.map(|config| config.upstreams[0].port), Some(1));
}

#[test]
fn a_listener_may_speak_tls_on_a_path_and_trust_it() {
    let text = edited("address = \"127.0.0.1:8080\"", "address = \"unix:/run/once.sock\"");
    let tls =
        "tls = { cert = \"cert.pem\", key = \"key.pem\", client_ca = \"clients.pem\", client_auth = \"optional\" }";
    let more = format!("[listener]\n{tls}\ntrusted_proxies = [\"unix\", \"10.0.0.0/8\"]\n");
    let listener = config(&text.replace("[listener]\n", &more)).listener;
    assert_eq!(listener.address.to_string(), "unix:/run/once.sock");
    let tls = listener.tls.expect("it speaks TLS");
    assert_eq!((tls.cert.to_str(), tls.client_auth), (Some("cert.pem"), ClientAuth::Optional));
    assert_eq!(listener.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(), ["unix", "10.0.0.0/8"]);
}
