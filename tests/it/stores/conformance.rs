//! All stores and all wrappers pass all of the suite, and nothing is left out but what a store has no way for.

use std::sync::Arc;

use onceproxy::stores::conformance::{self, Specimen};

use super::specimens::{Memory, Redis, Sqlite, Wrapped};
use crate::support::redis::RedisServer;

const CHECKS: usize = 25;
/// A map holds records, not bytes.
const MEMORY: [&str; 1] = ["an unreadable value is an error and stays as it is"];
/// It has no limit of its own but the disk's; `sqlite_commits` has the full disk.
const SQLITE: [&str; 1] = ["a full store still tells, records and frees"];

async fn conforms<S: Specimen>(left_out: &[&str], open: impl AsyncFn() -> S) {
    let report = conformance::run(open).await.expect("the store conforms");
    assert_eq!(report.left_out, left_out);
    assert_eq!(report.passed.len() + report.left_out.len(), CHECKS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_conforms() {
    conforms(&MEMORY, async || Memory::open()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_conforms() {
    conforms(&SQLITE, async || Sqlite::open()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_conforms() {
    let server = Arc::new(RedisServer::start());
    conforms(&[], async || Redis::open(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_whose_answers_get_lost_conforms() {
    conforms(&MEMORY, async || Wrapped::swallowing(Memory::open())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_whose_requests_get_lost_conforms() {
    conforms(&MEMORY, async || Wrapped::losing(Memory::open())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_whose_answers_get_lost_conforms() {
    conforms(&SQLITE, async || Wrapped::swallowing(Sqlite::open())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_whose_answers_get_lost_conforms() {
    let server = Arc::new(RedisServer::start());
    conforms(&[], async || Wrapped::swallowing(Redis::open(&server))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timed_memory_conforms() {
    conforms(&MEMORY, async || Wrapped::timed(Memory::open())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timed_redis_conforms() {
    let server = Arc::new(RedisServer::start());
    conforms(&[], async || Wrapped::timed(Redis::open(&server))).await;
}
