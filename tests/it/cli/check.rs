//! `check`, as a process.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Api, Ended, onceproxy};
use crate::support::redis::RedisServer;

const FILE: &str = "onceproxy.toml";

/// A file that can work, but for what the test puts in.
fn file(upstream: &str, scope: &str, more: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "version = 1\n\n[listener]\naddress = \"127.0.0.1:0\"\n\n[store]\nurl = \"memory:\"\n{more}\n\
         [upstreams.bank]\nurl = \"{upstream}\"\n\n[[routes]]\nname = \"create-payment\"\npath = \"/v1/payments\"\n\
         upstream = \"bank\"\npolicy = {{ key = \"required\"{scope} }}\n"
    );
    fs::write(folder.path().join(FILE), text).expect("it is written");
    folder
}

fn good(upstream: &str) -> TempDir {
    file(upstream, ", scope = [\"header:x-account\"]", "")
}

fn check(folder: &TempDir, more: &[&str]) -> Ended {
    onceproxy(folder.path(), &[&["check", FILE], more].concat())
}

#[test]
fn a_good_file_is_said_to_be_good() {
    let checked = check(&good("http://127.0.0.1:9"), &["--deny-warnings"]);
    assert_eq!((checked.code, checked.out.as_str()), (0, ""));
    assert_eq!(checked.err, "onceproxy.toml: no errors\n");
}

#[test]
fn every_problem_is_told_with_its_line_and_a_guess() {
    let checked = check(&file("http://127.0.0.1:9", ", leese = \"1s\"", "prefx = \"a\"\n"), &[]);
    assert_eq!(checked.code, 2);
    for words in ["did you mean `prefix`?", "did you mean `lease`?", "onceproxy.toml:8:", "2 errors", "cannot work"] {
        assert!(checked.err.contains(words), "{words:?} is not in\n{}", checked.err);
    }
}

#[test]
fn json_is_on_standard_output() {
    let checked = check(&file("http://127.0.0.1:9", "", "prefx = \"a\"\n"), &["--format", "json"]);
    assert_eq!(checked.code, 2);
    let document: Value = serde_json::from_str(&checked.out).expect("JSON");
    assert_eq!(document["file"], FILE);
    let finding = &document["findings"][0];
    assert_eq!((&finding["severity"], &finding["line"]), (&Value::from("error"), &Value::from(8)), "{document:#}");
    assert_eq!(document["explanation"], Value::Null);
}

#[test]
fn a_warning_counts_when_it_is_asked_to() {
    let folder = file("http://127.0.0.1:9", "", "");
    let checked = check(&folder, &[]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.err.contains("1 warning"), "{checked:?}");
    let denied = check(&folder, &["--deny-warnings"]);
    assert_eq!(denied.code, 2);
    assert!(denied.err.contains("--deny-warnings forbids them"), "{denied:?}");
}

#[test]
fn a_request_is_explained() {
    let explained = check(&good("http://127.0.0.1:9"), &["--explain", "POST /v1/payments"]);
    assert_eq!(explained.code, 0, "{explained:?}");
    for words in ["create-payment", "\"required\"", "line 16", "retention"] {
        assert!(explained.out.contains(words), "{words:?} is not in\n{}", explained.out);
    }
    let mistake = check(&good("http://127.0.0.1:9"), &["--explain", "payments"]);
    assert_eq!(mistake.code, 2);
    assert!(mistake.err.contains("is not a request"), "{mistake:?}");
}

#[test]
fn online_reaches_store_and_upstream() {
    let api = Api::start();
    let reached = check(&good(&api.url()), &["--online"]);
    assert_eq!(reached.code, 0, "{reached:?}");
    assert!(reached.err.contains("store memory:: ok"), "{reached:?}");
    assert!(
        reached.err.contains(&format!("upstream bank at http://{}: ok: takes connections", api.address)),
        "{reached:?}"
    );
}

#[test]
fn an_upstream_that_is_away_is_a_failure_of_its_own() {
    let checked = check(&good("http://127.0.0.1:1"), &["--online", "--format", "json"]);
    assert_eq!(checked.code, 1, "{checked:?}");
    let document: Value = serde_json::from_str(&checked.out).expect("JSON");
    let online = document["online"].as_array().expect("a list");
    let away = online.iter().find(|reached| reached["severity"] == "error").expect("one is away");
    assert_eq!(away["what"], "upstream bank at http://127.0.0.1:1");
}

#[test]
fn a_store_that_is_not_ready_is_an_error() {
    let api = Api::start();
    let primary = RedisServer::start();
    let replica = primary.replica();
    let folder = good(&api.url());
    let path = folder.path().join(FILE);
    let text = fs::read_to_string(&path).expect("it is there").replace("memory:", &replica.url());
    fs::write(&path, text).expect("it is written");
    let checked = check(&folder, &["--online"]);
    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(checked.err.contains("error: this Redis is a slave, not the primary"), "{checked:?}");
}

#[test]
fn a_check_makes_no_database() {
    let api = Api::start();
    let folder = good(&api.url());
    let path = folder.path().join(FILE);
    let text = fs::read_to_string(&path).expect("it is there").replace("memory:", "sqlite:records.db");
    fs::write(&path, &text).expect("it is written");
    let checked = check(&folder, &["--online"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.err.contains("does not exist yet"), "{checked:?}");
    assert!(!folder.path().join("records.db").exists());
    fs::write(&path, text.replace("sqlite:", "sqlite:nowhere/")).expect("it is written");
    assert_eq!(check(&folder, &["--online"]).code, 1);
}

#[test]
fn a_file_that_is_not_there_is_a_mistake() {
    let missing = onceproxy(Path::new("/"), &["check", "/nothing/here.toml"]);
    assert_eq!(missing.code, 2);
    assert!(missing.err.contains("cannot read the configuration file /nothing/here.toml"), "{missing:?}");
}
