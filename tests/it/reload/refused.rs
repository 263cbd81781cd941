//! Configurations that do not take over, and those that are told of.

use std::fs;

use super::{apply, keyed, reload, reloads, setup, unkeyed, write};
use crate::support::proxy::quoted;
use crate::support::upstream::Upstream;

#[test]
fn a_wrong_file_keeps_the_old_configuration_and_is_reported_in_full() {
    let upstream = Upstream::start();
    let setup = setup(upstream.address, "memory:");
    let proxy = setup.start();
    let wrong =
        setup.text().replace("[[routes]]\nname", "[[routes]]\nnam").replace("lease = \"1s\"", "lease = \"1ms\"");
    fs::write(proxy.file(), wrong).expect("it is written");
    let answer = reload(&proxy);
    assert_eq!((answer.status, answer.field("content-type")), (422, "application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["code"], "configuration-wrong");
    let report = problem["detail"].as_str().expect("a text");
    assert!(report.contains("did you mean `name`?") && report.contains("lease"), "{report}");
    assert_eq!(unkeyed().send(proxy.address).expect("an answer").status, 201);
    assert_eq!((reloads(&proxy, "rejected"), reloads(&proxy, "applied")), (1.0, 0.0));
    let line = proxy.wait_for_line("the new configuration is wrong");
    assert!(line.contains("ERROR") && line.contains("did you mean"), "{line}");
    // What is gone keeps the old one, too.
    fs::remove_file(proxy.file()).expect("it goes");
    let answer = reload(&proxy);
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("cannot read the configuration file"), "{}", answer.text());
}

#[test]
fn what_the_machine_cannot_do_keeps_the_old_configuration() {
    let upstream = Upstream::start();
    let before = setup(upstream.address, "memory:");
    let proxy = before.start();
    let stricter = before.policy("key", quoted("required"));
    write(&proxy, &stricter.clone().listener("spool_dir", quoted("/there/is/no/such/folder")));
    let answer = reload(&proxy);
    assert_eq!((answer.status, &answer.json()["code"]), (422, &"configuration-wrong".into()));
    assert!(answer.text().contains("/there/is/no/such/folder"), "{}", answer.text());
    assert_eq!(unkeyed().send(proxy.address).expect("an answer").status, 201);
    let folder = tempfile::tempdir().expect("a folder");
    let changes = apply(&proxy, &stricter.listener("spool_dir", quoted(&folder.path().display().to_string())));
    assert_eq!(changes, ["listener.spool_dir", "routes.pay.policy.key"]);
}

#[test]
fn what_needs_a_restart_is_named_and_nothing_else_changes() {
    let upstream = Upstream::start();
    let setup = setup(upstream.address, "memory:");
    let proxy = setup.start();
    let stricter = setup.clone().policy("key", quoted("required"));
    for (text, names) in [
        (stricter.text().replacen("127.0.0.1:0", "127.0.0.1:1", 1), vec!["listener.address"]),
        (stricter.clone().set("log.format", quoted("text")).text(), vec!["log.format"]),
        (
            stricter.clone().set("store.prefix", quoted("other")).set("store.command_timeout", quoted("2s")).text(),
            vec!["store.prefix", "store.command_timeout"],
        ),
        (stricter.text().replace("memory:", "sqlite:other.db"), vec!["store.url"]),
    ] {
        fs::write(proxy.file(), text).expect("it is written");
        let answer = reload(&proxy);
        assert_eq!((answer.status, &answer.json()["code"]), (409, &"restart-needed".into()), "{}", answer.text());
        for name in names {
            assert!(answer.text().contains(name), "{name}: {}", answer.text());
        }
        assert_eq!(unkeyed().send(proxy.address).expect("an answer").status, 201);
    }
    assert_eq!(apply(&proxy, &stricter), ["routes.pay.policy.key"]);
    assert_eq!(unkeyed().send(proxy.address).expect("an answer").status, 400);
}

#[test]
fn a_route_that_loses_sight_of_its_records_is_told_of() {
    let upstream = Upstream::start();
    let before = setup(upstream.address, "memory:");
    let proxy = before.start();
    assert_eq!(keyed("k").send(proxy.address).expect("an answer").outcome(), "executed");
    let elsewhere = before.clone().policy("namespace", quoted("elsewhere"));
    assert_eq!(apply(&proxy, &elsewhere), ["routes.pay.policy.namespace"]);
    let line = proxy.wait_for_line("earlier records are unreachable");
    assert!(line.contains("pay") && line.contains("namespace") && line.contains("WARN"), "{line}");
    assert_eq!(keyed("k").send(proxy.address).expect("an answer").outcome(), "executed");
    // Back, the first record is there again; with another fingerprint it does not match.
    let printed = before.clone().policy("fingerprint", "{ parts = [\"path\"] }");
    apply(&proxy, &printed);
    let line = proxy.wait_for_line("of another fingerprint");
    assert!(line.contains("pay") && line.contains("fingerprint"), "{line}");
    assert_eq!(keyed("k").send(proxy.address).expect("an answer").outcome(), "key-reused");
    write(&proxy, &before);
    reload(&proxy);
    assert_eq!(keyed("k").send(proxy.address).expect("an answer").outcome(), "replayed");
}
