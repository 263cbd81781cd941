//! Large bodies of requests lie in files without a name, whoever uses the layer.

use std::fs::File;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use onceproxy::fingerprint::json::Pointer;
use onceproxy::http::budget::Budget;
use onceproxy::http::policy::{BodyForm, FingerprintRule, KeySource, Mode};
use onceproxy::http::spool::Spool;
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Ledger, Policy};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::layer::stand::{Asked, Body, Effect, Failed, PATIENCE, Stand, created, endless, frames, full};
use crate::layer::wire::next_chunk;

const LARGE: usize = 3 << 20;
/// Too little for a large body.
const BUDGET: usize = 300_000;

/// A layer with a spool, and what it has taken.
struct Spooling {
    folder: TempDir,
    spool: Spool,
    budget: Budget,
    stand: Stand,
}

impl Spooling {
    /// Around a handler that gets hold of the spool.
    fn new<F, A>(policy: Policy, max_spooled: u64, handler: F) -> Spooling
    where
        F: Fn(Asked, Spool) -> A + Clone + Send + 'static,
        A: Future<Output = Result<Response<Body>, Failed>> + Send + 'static,
    {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool::open(folder.path(), max_spooled).expect("a spool");
        let budget = Budget::new(BUDGET);
        let (store, in_handler) = (MemoryStore::new(), spool.clone());
        let stand = Stand::with(
            store.clone(),
            Ledger::new(store),
            |layer| layer.policy(policy).spool(spool.clone()).budget(budget.clone()),
            move |request| handler(request, in_handler.clone()),
        );
        Spooling { folder, spool, budget, stand }
    }

    async fn everything_comes_back(&self) {
        until(|| self.spool.used_bytes() == 0 && self.budget.free_bytes() == BUDGET).await;
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.folder.path()).expect("a folder").count()
    }
}

/// The way to the only open file of a folder, which has no name there.
fn open_file(folder: &Path) -> Option<PathBuf> {
    let mut open = std::fs::read_dir("/proc/self/fd").expect("a process").flatten().map(|entry| entry.path());
    let is_there = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|target| target.starts_with(folder));
    open.find(is_there)
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it becomes so");
}

fn large_policy() -> Policy {
    Policy { max_request_body: LARGE, ..Policy::required() }
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at / 7 + at % 251) as u8).collect()
}

/// A body in chunks of an odd size, which does not say how long it is.
fn in_chunks(bytes: &Bytes) -> Body {
    in_chunks_of(10_001, bytes)
}

fn in_chunks_of(length: usize, bytes: &Bytes) -> Body {
    frames(bytes.chunks(length).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect())
}

fn upload(key: &str, body: Body) -> Request<Body> {
    Request::post("/files").header("idempotency-key", key).body(body).expect("a request")
}

async fn read(request: Asked) -> Bytes {
    request.into_body().collect().await.expect("a whole body").to_bytes()
}

#[tokio::test]
async fn a_large_body_is_in_a_file_and_comes_as_it_was() {
    let spooling = Spooling::new(large_policy(), 10 << 20, |request, spool| async move {
        let in_file = usize::try_from(spool.used_bytes()).expect("a small number");
        assert!((LARGE - (64 << 10)..=LARGE).contains(&in_file), "{in_file} bytes are in a file");
        assert_eq!(http_body::Body::size_hint(request.body()).exact(), Some(LARGE as u64));
        Ok(created(read(request).await.slice(LARGE - 5..)))
    });
    let bytes = pattern(LARGE);
    for length in [500, 10_001, 64 << 10, 250_000] {
        let answer = spooling.stand.send(upload(&format!("in-{length}"), in_chunks_of(length, &bytes))).await;
        answer.is_executed();
        assert_eq!(answer.body, bytes.slice(LARGE - 5..));
        spooling.everything_comes_back().await;
    }
    assert_eq!(spooling.files(), 0);
}

#[tokio::test]
async fn each_copy_of_a_large_body_is_read_on_its_own() {
    let spooling = Spooling::new(large_policy(), 10 << 20, |request, _| async move {
        let bytes = pattern(LARGE);
        let mut body = request.into_body();
        let from_start = body.try_clone().expect("it was read");
        let first = next_chunk(&mut body).await;
        let from_there = body.try_clone().expect("it was read");
        for (copy, from) in [(from_there, first.len()), (from_start, 0), (body, first.len())] {
            assert_eq!(copy.collect().await.expect("a whole body").to_bytes(), bytes.slice(from..));
        }
        Ok(created("read three times"))
    });
    spooling.stand.send(upload("k", in_chunks(&pattern(LARGE)))).await.is_executed();
    spooling.everything_comes_back().await;
}

#[tokio::test]
async fn a_large_body_is_compared_to_its_last_byte_and_replayed() {
    let spooling = Spooling::new(large_policy(), 10 << 20, |request, _| async move {
        read(request).await;
        Ok(created("done"))
    });
    let bytes = pattern(LARGE);
    let other: Bytes = [&bytes[..LARGE - 1], b"?"].concat().into();
    spooling.stand.send(upload("k", in_chunks(&bytes))).await.is_executed();
    spooling.stand.send(upload("k", in_chunks_of(70_000, &bytes))).await.is_replayed();
    spooling.stand.send(upload("k", in_chunks(&other))).await.is_refusal(422, "key-reused", Effect::Perhaps);
    assert_eq!(spooling.stand.executions(), 1);
    spooling.everything_comes_back().await;
}

#[tokio::test]
async fn trailers_come_behind_a_large_body() {
    let spooling = Spooling::new(large_policy(), 10 << 20, |request, _| async move {
        assert_eq!(http_body::Body::size_hint(request.body()).exact(), None);
        let read = request.into_body().collect().await.expect("a whole body");
        assert_eq!(read.trailers().expect("trailers")["x-sum"], "1");
        assert_eq!(read.to_bytes(), pattern(200_000));
        Ok(created("done"))
    });
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().expect("a value"));
    let body = vec![Ok(Frame::data(pattern(200_000))), Ok(Frame::trailers(trailers))];
    spooling.stand.send(upload("k", frames(body))).await.is_executed();
}

#[tokio::test]
async fn a_small_body_needs_no_file() {
    let spooling = Spooling::new(large_policy(), 10 << 20, |request, spool| async move {
        assert_eq!(spool.used_bytes(), 0);
        Ok(created(read(request).await))
    });
    // Not even a folder.
    std::fs::remove_dir(spooling.folder.path()).expect("it is empty");
    let bytes = pattern(64 << 10);
    let answer = spooling.stand.send(upload("k", in_chunks(&bytes))).await;
    answer.is_executed();
    assert_eq!(answer.body, bytes);
    let answer = spooling.stand.send(upload("l", full(pattern((64 << 10) + 1)))).await;
    answer.is_refusal(503, "overloaded", Effect::None);
    spooling.everything_comes_back().await;
}

#[tokio::test]
async fn a_used_up_spool_is_overload_and_nothing_is_left_of_it() {
    let spooling = Spooling::new(large_policy(), 150_000, |_, _| async { Ok(created("done")) });
    let bytes = pattern(300_000);
    for body in [full(bytes.clone()), in_chunks(&bytes)] {
        let answer = spooling.stand.send(upload("k", body)).await;
        answer.is_refusal(503, "overloaded", Effect::None);
        assert_eq!(answer.field("retry-after"), "1");
        spooling.everything_comes_back().await;
    }
    assert_eq!((spooling.stand.executions(), spooling.stand.records().await.len()), (0, 0));
    spooling.stand.send(upload("k", in_chunks(&pattern(140_000)))).await.is_executed();
}

#[tokio::test]
async fn a_file_that_cannot_be_read_to_its_end_is_an_error_and_no_shorter_body() {
    let spooling = Spooling::new(large_policy(), 10 << 20, |request, spool| async move {
        let file = open_file(spool.folder()).expect("it is open");
        let file = File::options().write(true).open(file).expect("it can be written");
        file.set_len(150_000).expect("it gets shorter");
        let error = request.into_body().collect().await.expect_err("bytes are missing");
        let error = error.downcast::<std::io::Error>().expect("an error of the file");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        Err(Failed)
    });
    let request = upload("k", in_chunks(&pattern(300_000)));
    assert_eq!(spooling.stand.try_send(request).await.expect_err("the handler fails"), Failed);
    spooling.everything_comes_back().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_takes_its_file_along() {
    let spooling = Spooling::new(large_policy(), 10 << 20, |_, _| async { Ok(created("done")) });
    let first: &'static [u8] = pattern(200_000).to_vec().leak();
    {
        let mut sending = pin!(spooling.stand.service.clone().oneshot(upload("k", endless(first))));
        let used = until(|| open_file(spooling.folder.path()).is_some());
        tokio::select! {
            answer = &mut sending => panic!("the body has not ended, but: {answer:?}"),
            () = used => {}
        }
        assert_eq!(spooling.files(), 0, "its file has no name");
        let file = open_file(spooling.folder.path()).expect("it is open");
        let file = std::fs::metadata(file).expect("a file");
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }
    spooling.everything_comes_back().await;
    assert_eq!((spooling.stand.executions(), spooling.stand.records().await.len()), (0, 0));
}

#[tokio::test]
async fn a_body_that_is_read_as_json_stays_in_memory() {
    let json = FingerprintRule { body: BodyForm::Json { omit: Vec::new() }, ..FingerprintRule::default() };
    let key = Pointer::parse("/id").expect("a pointer");
    let policies = [
        Policy { fingerprint: json, ..large_policy() },
        Policy { key_from: vec![KeySource::Json(key)], ..large_policy() },
    ];
    for policy in policies {
        let spooling = Spooling::new(policy, 10 << 20, |request, spool| async move {
            assert_eq!(spool.used_bytes(), 0);
            read(request).await;
            Ok(created("done"))
        });
        let text = |spaces| format!("{{\"id\":{}\"k\",\"more\":\"{}\"}}", " ".repeat(spaces), "x".repeat(100_000));
        spooling.stand.send(upload("k", full(text(0)))).await.is_executed();
        spooling.everything_comes_back().await;
        let answer = spooling.stand.send(upload("l", full(text(LARGE)))).await;
        answer.is_refusal(413, "body-too-large", Effect::None);
    }
}

#[tokio::test]
async fn an_observed_upload_goes_on_whole_where_it_is_above_the_limit_or_the_spool() {
    let bytes = pattern(500_000);
    for (limit, max_spooled) in [(300_000, 10 << 20), (LARGE, 150_000), (LARGE, 10 << 20)] {
        let policy = Policy { mode: Mode::Observe, max_request_body: limit, ..Policy::required() };
        let spooling = Spooling::new(policy, max_spooled, |request, _| async move { Ok(created(read(request).await)) });
        let answer = spooling.stand.send(upload("k", in_chunks(&bytes))).await;
        assert_eq!((answer.status_field(), answer.body == bytes), ("observed", true), "{limit}, {max_spooled}");
        spooling.everything_comes_back().await;
    }
}

#[tokio::test]
async fn an_answer_for_which_no_room_is_left_is_not_stored_but_comes_whole() {
    let others = Arc::new(std::sync::Mutex::new(None));
    let budget = Budget::new(BUDGET);
    let (in_service, taken) = (budget.clone(), others.clone());
    let store = MemoryStore::new();
    let answer = pattern(100_000);
    let given = answer.clone();
    let stand = Stand::with(
        store.clone(),
        Ledger::new(store),
        |layer| layer.policy(Policy::required()).budget(budget.clone()),
        move |_| {
            // Others take nearly all the room while this one is at work.
            *taken.lock().expect("nobody panics") = in_service.reserve(BUDGET - 50_000);
            let body = in_chunks(&given);
            async { Ok(Response::new(body)) }
        },
    );
    let first = stand.send(upload("k", full("x"))).await;
    first.is_executed();
    assert_eq!(first.body, answer);
    assert!(others.lock().expect("nobody panics").take().is_some());
    assert_eq!(budget.free_bytes(), BUDGET, "the buffers were never overdrawn, and are free");
    stand.send(upload("k", full("x"))).await.is_refusal(409, "response-not-stored", Effect::Perhaps);
}

#[test]
fn a_folder_in_which_no_file_can_be_made_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(Spool::open(folder.path().join("missing"), 1 << 20).is_err());
    let file = folder.path().join("file");
    std::fs::write(&file, "x").expect("it is written");
    assert!(Spool::open(&file, 1 << 20).is_err());
    assert!(Spool::open(folder.path(), 1 << 20).is_ok());
}
