//! `records` and `healthcheck` against an admin listener with real records.

use std::fs;
use std::path::Path;

use onceproxy::Begun;
use serde_json::Value;

use super::office::{Office, ROUTE, Setup, TOKEN, id};
use super::process::{Ended, command, onceproxy, output};

fn json(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error} in {ended:?}"))
}

#[test]
fn a_list_shows_each_unknown_once_under_a_head() {
    let office = Office::open(Setup::Usual);
    let first = office.unknown("order-1");
    office.unknown("order-2");
    let (_, claim) = office.at_work("order-3");
    let listed = office.records(&["list", "--state", "unknown"]);
    assert_eq!((listed.code, listed.err.as_str()), (0, ""));
    let lines: Vec<&str> = listed.out.lines().collect();
    assert_eq!(lines.len(), 3, "{listed:?}");
    assert!(lines[0].starts_with("ID            STATE    ATTEMPT  AGE"), "{listed:?}");
    let line = lines.iter().find(|line| line.starts_with(&first.prefix().to_string())).expect("the first is there");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!([words[1], words[2], words[4], words[5], words[6]], ["unknown", "1", "-", ROUTE, "upstream-lost"]);
    drop(claim);
}

#[test]
fn all_pages_are_merged_and_a_limit_is_told() {
    let office = Office::open(Setup::Usual);
    let count = 1200;
    for number in 0..count {
        office.unknown(&format!("order-{number}"));
    }
    let all = json(&office.records(&["list", "--state", "unknown", "--json", "--limit", "5000"]));
    let mut ids: Vec<&str> =
        all["records"].as_array().expect("a list").iter().filter_map(|record| record["id"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), &all["has_more"]), (count, &Value::Bool(false)));
    let some = office.records(&["list", "--limit", "700"]);
    assert_eq!(some.out.lines().count(), 701);
    assert_eq!(some.err, "the first 700; there are more, see --limit\n");
    // The last of 1,200 is found by its first digits too.
    let last = id("order-1199");
    let shown = json(&office.records(&["--json", "show", &last.prefix().to_string()]));
    assert_eq!(shown["id"], last.to_string());
}

#[test]
fn no_records_are_said_in_words() {
    let listed = Office::open(Setup::Usual).records(&["list"]);
    assert_eq!((listed.code, listed.out.as_str()), (0, "no records\n"));
}

#[test]
fn a_settled_unknown_is_replayed() {
    let office = Office::open(Setup::Usual);
    let record = office.unknown("order-1");
    let digits = record.prefix().to_string();
    let arguments = ["settle", &digits, "--attempt", "1", "--status", "201", "--body", "{\"id\":\"ch_1\"}"];
    let more = ["--header", "content-type: application/json", "--reason", "in the bank's list", "--by", "alice"];
    let settled = office.records(&[&arguments[..], &more[..]].concat());
    assert_eq!(settled.code, 0, "{settled:?}");
    assert!(settled.out.starts_with("settled\n"), "{settled:?}");
    assert!(settled.out.contains("settle by alice: in the bank's list"), "{settled:?}");
    match office.duplicate("order-1") {
        Begun::Replay(outcome) => {
            let outcome = String::from_utf8_lossy(&outcome).into_owned();
            assert!(outcome.ends_with("{\"id\":\"ch_1\"}") && outcome.contains("application/json"), "{outcome}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_body_comes_from_a_file_byte_for_byte() {
    let office = Office::open(Setup::Usual);
    let record = office.unknown("order-1").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("body"), b"\x00\xff\n").expect("it is written");
    let arguments = ["settle", &record, "--attempt", "1", "--status", "200", "--body-file", "body", "--reason", "seen"];
    let settled = output(office.records_in(folder.path(), &arguments).env("ONCEPROXY_ADMIN_TOKEN", TOKEN));
    assert_eq!(settled.code, 0, "{settled:?}");
    assert!(matches!(office.duplicate("order-1"), Begun::Replay(outcome) if outcome.ends_with(b"\x00\xff\n")));
    let arguments = [&arguments[..7], &["nothing-here", "--reason", "seen"]].concat();
    let missing = output(office.records_in(folder.path(), &arguments).env("ONCEPROXY_ADMIN_TOKEN", TOKEN));
    assert_eq!(missing.code, 2, "{missing:?}");
}

#[test]
fn a_released_key_is_free_for_the_next_attempt() {
    let office = Office::open(Setup::Usual);
    let digits = office.unknown("order-1").prefix().to_string();
    let released = office.records(&["release", &digits, "--attempt", "1", "--reason", "not in the bank's list"]);
    assert_eq!(released.code, 0, "{released:?}");
    assert!(matches!(office.duplicate("order-1"), Begun::Execute(claim) if claim.attempt() == 2));
}

#[test]
fn a_change_is_signed_with_the_login_name() {
    let office = Office::open(Setup::Usual);
    let record = office.unknown("order-1").to_string();
    let mut release = office.records_in(Path::new("."), &["release", &record, "--attempt", "1", "--reason", "why"]);
    release.env("ONCEPROXY_ADMIN_TOKEN", TOKEN).env("LOGNAME", "bob").arg("--json");
    assert_eq!(json(&output(&mut release))["reason"], "release by bob: why");
}

#[test]
fn what_is_not_unknown_is_refused_with_its_state() {
    let office = Office::open(Setup::Usual);
    let (record, claim) = office.at_work("order-1");
    let refused = office.records(&["release", &record.to_string(), "--attempt", "1", "--reason", "why"]);
    assert_eq!((refused.code, refused.out.as_str()), (1, ""));
    assert!(refused.err.starts_with("error: refused (409): Only an unknown outcome"), "{refused:?}");
    assert!(refused.err.ends_with("the record is in-flight now, at attempt 1\n"), "{refused:?}");
    drop(claim);
}

#[test]
fn another_attempt_than_the_present_one_is_refused() {
    let office = Office::open(Setup::Usual);
    let record = office.unknown("order-1").to_string();
    let refused = office.records(&["settle", &record, "--attempt", "7", "--status", "200", "--reason", "why"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.ends_with("the record is unknown now, at attempt 1\n"), "{refused:?}");
    assert!(matches!(office.duplicate("order-1"), Begun::Unknown { attempt: 1, .. }));
}

#[test]
fn a_record_is_found_by_what_a_client_sent() {
    let office = Office::open(Setup::Usual);
    let record = office.unknown("order-1");
    let arguments = ["lookup", "--route", ROUTE, "--path", "/payments", "--host", "api", "--key"];
    let found = json(&office.records(&[&arguments[..], &["order-1", "--json"]].concat()));
    assert_eq!(found["id"], record.to_string());
    let missing = office.records(&[&arguments[..], &["order-2"]].concat());
    assert_eq!((missing.code, missing.err.as_str()), (1, "error: refused (404): There is no such page or record.\n"));
    let lost = office.records(&["lookup", "--route", "x", "--path", "/payments", "--key", "order-1"]);
    assert_eq!(lost.code, 1);
    assert!(lost.err.contains("the routes are create-payment"), "{lost:?}");
}

#[test]
fn unknown_ids_and_half_ids_are_refused() {
    let office = Office::open(Setup::Usual);
    office.unknown("order-1");
    let nobody = office.records(&["show", "000000000000"]);
    assert_eq!(nobody.code, 1);
    assert_eq!(nobody.err, "error: there is no record whose id begins with 000000000000\n");
    assert_eq!(office.records(&["show", &"0".repeat(64)]).code, 1);
    let half = office.records(&["show", "00"]);
    assert_eq!(half.code, 2);
    assert!(half.err.contains("at least its first 12"), "{half:?}");
}

#[test]
fn a_token_comes_from_the_environment_or_the_folder() {
    let office = Office::open(Setup::Usual);
    let folder = tempfile::tempdir().expect("a folder");
    let list = || output(&mut office.records_in(folder.path(), &["list"]));
    let refused = list();
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("refused (401)") && refused.err.contains("./onceproxy.token"), "{refused:?}");
    fs::write(folder.path().join("onceproxy.token"), format!("{TOKEN}\n")).expect("it is written");
    assert_eq!(list().code, 0);
    let wrong = output(office.records_in(folder.path(), &["list"]).env("ONCEPROXY_ADMIN_TOKEN", "wrong"));
    assert_eq!(wrong.code, 1, "the environment beats the file: {wrong:?}");
}

#[test]
fn without_a_token_at_the_listener_reads_are_open_and_changes_refused() {
    let office = Office::open(Setup::WithoutToken);
    let record = office.unknown("order-1").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(output(&mut office.records_in(folder.path(), &["show", &record])).code, 0);
    let arguments = ["release", &record, "--attempt", "1", "--reason", "why"];
    let refused = output(&mut office.records_in(folder.path(), &arguments));
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("No admin token is configured"), "{refused:?}");
}

#[test]
fn health_is_an_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let ask = |office: &Office, more: &[&str]| {
        let address = office.address.to_string();
        onceproxy(folder.path(), &[&["healthcheck", "--admin", &address], more].concat())
    };
    let office = Office::open(Setup::Usual);
    assert_eq!(ask(&office, &[]).code, 0);
    assert_eq!(ask(&office, &["--ready"]).out, "ready\n");
    let leaving = Office::open(Setup::Draining);
    assert_eq!(ask(&leaving, &[]).code, 0);
    let not_ready = ask(&leaving, &["--ready"]);
    assert_eq!(not_ready.code, 1);
    assert!(not_ready.err.contains("503") && not_ready.err.contains("draining"), "{not_ready:?}");
}

#[test]
fn nobody_at_the_address_is_a_failure_and_no_address_is_a_mistake() {
    let folder = tempfile::tempdir().expect("a folder");
    let gone = output(command(folder.path(), &["healthcheck"]).env("ONCEPROXY_ADMIN", "127.0.0.1:1"));
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains("cannot reach the admin listener at 127.0.0.1:1"), "{gone:?}");
    let mistake = onceproxy(folder.path(), &["records", "--admin", "nowhere", "list"]);
    assert_eq!(mistake.code, 2);
    assert!(mistake.err.contains("is not an address such as 127.0.0.1:9180"), "{mistake:?}");
}
