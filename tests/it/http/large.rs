//! Bodies larger than memory: the program as a process of its own, and how much memory it takes for them.

mod sink;

use std::fs;
use std::path::Path;
use std::thread;

use tempfile::TempDir;

use self::sink::{Pattern, Sink, Taken, Upload, upload};
use crate::support::proxy::{Setup, quoted};
use crate::support::waiting::eventually;

const MIB: u64 = 1 << 20;
/// What the process may take more than when it is idle: a small part of what is uploaded.
const MORE_BYTES: usize = 64 << 20;

/// A proxy for large bodies, with a folder for them.
fn setup(sink: &Sink, folder: &TempDir) -> Setup {
    Setup::new(sink.address, "memory:")
        .listener("spool_dir", quoted(&folder.path().display().to_string()))
        .listener("max_buffered", quoted("32MiB"))
        .policy("max_request_body", quoted("1GiB"))
        .policy("max_response_body", quoted("1MiB"))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("a folder").next().is_none()
}

#[test]
fn uploads_far_above_the_buffers_take_constant_memory() {
    const LARGE: u64 = 300 * MIB;
    let (sink, folder) = (Sink::start(), tempfile::tempdir().expect("a folder"));
    let proxy = setup(&sink, &folder).start();
    assert_eq!(upload(proxy.address, "idle", 0, 10).status, 201);
    let (address, idle) = (proxy.address, proxy.peak_bytes());
    let small: Vec<_> = (0..50)
        .map(|number: u8| thread::spawn(move || upload(address, &format!("small-{number}"), number, MIB)))
        .collect();
    let answer = upload(address, "large", 7, LARGE);
    assert_eq!((answer.status, answer.outcome().as_str()), (201, "executed"));
    let digest = Pattern::new(7).digest(LARGE);
    assert_eq!(answer.text(), digest);
    for (number, small) in small.into_iter().enumerate() {
        let answer = small.join().expect("a client does not panic");
        assert_eq!((answer.status, answer.outcome().as_str()), (201, "executed"), "{number}: {}", answer.text());
        assert_eq!(answer.text(), Pattern::new(number as u8).digest(MIB));
    }
    let taken = sink.taken();
    assert_eq!(taken.len(), 52);
    let large = taken.iter().find(|taken| taken.key == "large").expect("the upstream got it");
    assert_eq!((large.length, &large.digest), (Some(LARGE), &digest));
    let again = upload(address, "large", 7, LARGE);
    assert_eq!((again.status, again.outcome().as_str(), again.text()), (201, "replayed", digest));
    let other = upload(address, "large", 8, LARGE);
    assert_eq!((other.status, other.outcome().as_str()), (422, "key-reused"));
    assert_eq!(sink.taken().len(), 52);
    let peak = proxy.peak_bytes();
    assert!(peak < idle + MORE_BYTES, "{idle} bytes when idle, then {peak}");
    assert!(is_empty(folder.path()));
    eventually("the files to be closed", || (proxy.spooled_bytes(folder.path()) == 0).then_some(()));
}

#[test]
fn answers_far_above_the_limit_stream_with_back_pressure_and_are_not_stored() {
    const LARGE: u64 = 200 * MIB;
    let digest = Pattern::new(0).digest(LARGE);
    for path in ["/large", "/grown"] {
        let (sink, folder) = (Sink::start(), tempfile::tempdir().expect("a folder"));
        let proxy = setup(&sink, &folder).start();
        let path = format!("{path}/{LARGE}");
        assert_eq!(upload(proxy.address, "idle", 0, 10).status, 201);
        let idle = proxy.peak_bytes();
        let request = Upload::announce(proxy.address, &path, "k", 2);
        request.send(Pattern::new(0), 2);
        let (head, received) = request.answer_digest(&sink.blocked, LARGE);
        assert_eq!((head.first("idempotency-status"), received), (Some("executed"), digest.clone()), "{path}");
        let peak = proxy.peak_bytes();
        assert!(peak < idle + MORE_BYTES / 4, "{path}: {idle} bytes when idle, then {peak}");
        let request = Upload::announce(proxy.address, &path, "k", 2);
        request.send(Pattern::new(0), 2);
        let again = request.answer();
        assert_eq!((again.status, again.outcome().as_str()), (409, "response-not-stored"), "{path}");
        assert_eq!(again.json()["original_status"], 201);
        assert_eq!(sink.taken().len(), 2);
    }
}

#[test]
fn a_used_up_spool_is_a_503_and_is_free_again_when_its_client_hangs_up() {
    let (sink, folder) = (Sink::start(), tempfile::tempdir().expect("a folder"));
    let limit = quoted("2MiB");
    let proxy = setup(&sink, &folder).listener("max_spooled", &limit).policy("max_request_body", &limit).start();
    let first = Upload::announce(proxy.address, "/pay", "first", 2 * MIB);
    first.send(Pattern::new(1), MIB + MIB / 2);
    let lies_there = || proxy.spooled_bytes(folder.path());
    // Its end is still in memory.
    let spooled = MIB + MIB / 2 - (64 << 10);
    eventually("the first upload to be spooled", || (lies_there() >= spooled).then_some(()));
    assert!(is_empty(folder.path()), "it has no name");
    // One that says how large it is needs to send nothing; one that does not is found out.
    let announced = Upload::announce(proxy.address, "/pay", "second", MIB).answer();
    let grown = Upload::begin_chunked(proxy.address, "/pay", "second");
    let grown = grown.send_chunk(&[b'x'; 760_000]).answer();
    for answer in [announced, grown] {
        assert_eq!((answer.status, answer.outcome().as_str()), (503, "overloaded"));
        assert_eq!((answer.field("idempotency-outcome"), answer.field("retry-after")), ("not-executed", "1"));
    }
    assert_eq!(proxy.record("second"), None);
    assert_eq!(sink.taken(), []);
    assert_eq!(upload(proxy.address, "small", 0, 60_000).status, 201, "a small one needs no spool");
    drop(first);
    eventually("the first upload's file to be gone", || (lies_there() == 0).then_some(()));
    eventually("the first upload's room", || (upload(proxy.address, "second", 2, MIB).status == 201).then_some(()));
    assert_eq!(proxy.record("first"), None);
}

#[test]
fn an_upload_that_does_not_say_how_long_it_is_goes_on_with_its_length() {
    let (sink, folder) = (Sink::start(), tempfile::tempdir().expect("a folder"));
    let proxy = setup(&sink, &folder).start();
    let upload = Upload::begin_chunked(proxy.address, "/pay", "k");
    let upload = (0..30).fold(upload, |upload, number| upload.send_chunk(&[number; 10_001]));
    let answer = upload.end_chunks().answer();
    assert_eq!(answer.status, 201, "{}", answer.text());
    let bytes: Vec<u8> = (0..30).flat_map(|number| [number; 10_001]).collect();
    let whole = Taken { key: "k".to_owned(), length: Some(300_030), digest: sink::digest(&bytes) };
    assert_eq!(sink.taken(), [whole]);
}

#[test]
fn a_full_disk_is_a_503_and_leaves_nothing_behind() {
    let (sink, folder) = (Sink::start(), tempfile::tempdir().expect("a folder"));
    let proxy = setup(&sink, &folder).largest_file(MIB).start();
    let answer = upload(proxy.address, "k", 0, MIB + MIB / 8);
    assert_eq!((answer.status, answer.outcome().as_str()), (503, "overloaded"));
    assert_eq!(answer.field("idempotency-outcome"), "not-executed");
    proxy.wait_for_line("cannot be written to the spool");
    assert_eq!((proxy.record("k"), sink.taken().len()), (None, 0));
    eventually("the file to be closed", || (proxy.spooled_bytes(folder.path()) == 0).then_some(()));
    assert!(is_empty(folder.path()));
    assert_eq!(upload(proxy.address, "k", 0, MIB / 2).status, 201, "what fits is taken");
}

#[test]
fn a_killed_process_leaves_no_file() {
    let (sink, folder) = (Sink::start(), tempfile::tempdir().expect("a folder"));
    let mut proxy = setup(&sink, &folder).start();
    let upload = Upload::announce(proxy.address, "/pay", "k", 2 * MIB);
    upload.send(Pattern::new(0), MIB);
    eventually("the upload to be spooled", || (proxy.spooled_bytes(folder.path()) > 0).then_some(()));
    proxy.kill();
    assert!(is_empty(folder.path()));
}

#[test]
fn silent_uploads_take_no_room_from_others() {
    let (sink, folder) = (Sink::start(), tempfile::tempdir().expect("a folder"));
    let proxy = setup(&sink, &folder).listener("max_buffered", quoted("2MiB")).start();
    let silent: Vec<_> = (0..256)
        .map(|number| {
            let bytes = if number % 2 == 0 { 60_000 } else { 1 << 30 };
            Upload::announce(proxy.address, "/pay", &format!("silent-{number}"), bytes)
        })
        .collect();
    assert_eq!(upload(proxy.address, "k", 0, 2 * MIB).status, 201);
    drop(silent);
}
