//! What fuzzing begins with, run through the same checks as the fuzzer's own inputs.

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::panic::{catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use onceproxy::record::Record;

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs every file of a folder through a check.
fn run(folder: &str, check: fn(&[u8])) {
    let files = fs::read_dir(in_project(folder)).expect("a folder").map(|file| file.expect("a file").path());
    let mut count = 0;
    for file in files {
        let bytes = fs::read(&file).expect("a file");
        if let Err(panic) = catch_unwind(|| check(&bytes)) {
            eprintln!("it was {}", file.display());
            resume_unwind(panic);
        }
        count += 1;
    }
    assert!(count > 2, "{folder} has {count} files");
}

#[test]
fn seeds_of_keys_hold() {
    run("fuzz/seeds/key", fuzz::key::check);
}

#[test]
fn seeds_of_records_hold_and_the_good_ones_are_read() {
    run("fuzz/seeds/record", fuzz::record::check);
    for good in ["completed", "in-flight", "unknown", "released", "longest-label"] {
        let bytes = fs::read(in_project("fuzz/seeds/record").join(good)).expect("a seed");
        assert!(Record::decode(&Bytes::from(bytes)).is_ok(), "{good}");
    }
}

#[test]
fn seeds_of_recorded_answers_hold() {
    run("fuzz/seeds/answer", fuzz::answer::check);
}

#[test]
fn seeds_of_requests_hold() {
    run("fuzz/seeds/request", fuzz::request::check);
}

#[test]
fn seeds_of_bytes_on_the_wire_hold() {
    run("fuzz/seeds/wire", fuzz::wire::check);
}

#[test]
fn seeds_of_json_documents_hold() {
    run("fuzz/seeds/canonical_json", fuzz::canonical_json::check);
}

#[test]
fn seeds_of_configurations_hold() {
    run("fuzz/seeds/config", fuzz::config::check);
    run("config", fuzz::config::check);
}
