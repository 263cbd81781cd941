//! Redis set up in a way that must not be used: refused, and said why; what is finished is replayed all the same.

use std::time::Duration;

use onceproxy::ledger::store::{Created, Notice, Replaced, Severity, Store, StoreError};
use onceproxy::stores::redis::{Eviction, RedisOptions, RedisStore};

use super::specimens::patient;
use super::{completed, fresh_id, in_flight};
use crate::support::redis::RedisServer;

fn store_on(server: &RedisServer) -> RedisStore {
    RedisStore::new(&server.url(), patient()).expect("a good URL")
}

fn is_denied<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Denied(_)))
}

/// Asks until a call ends as wanted.
async fn until<T>(call: impl AsyncFn() -> Result<T, StoreError>, wanted: impl Fn(&Result<T, StoreError>) -> bool) {
    let reached = async {
        while !wanted(&call().await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("it comes to that");
}

/// What is found of this severity; nothing may be worse.
async fn worst(store: &RedisStore, severity: Severity) -> Vec<String> {
    let findings = store.preflight().await.expect("it answers");
    assert!(findings.iter().all(|finding| finding.severity <= severity), "{findings:?}");
    findings.into_iter().filter(|finding| finding.severity == severity).map(|finding| finding.text).collect()
}

#[tokio::test]
async fn evicting_redis_is_refused_until_it_is_set_right() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let connected = RedisStore::connect(&server.url()).await;
    assert!(is_denied(&connected), "{:?}", connected.err());
    let store = store_on(&server);
    let created = store.create(&fresh_id(), &in_flight()).await;
    assert!(is_denied(&created), "{created:?}");
    assert_eq!(server.command::<i64>(&["DBSIZE"]), 0);
    let unfit = worst(&store, Severity::Unfit).await;
    assert!(unfit.len() == 1 && unfit[0].contains("allkeys-lru") && unfit[0].contains("noeviction"), "{unfit:?}");
    server.set("maxmemory-policy", "noeviction");
    until(async || store.create(&fresh_id(), &in_flight()).await, |created| matches!(created, Ok(Created::New))).await;
    RedisStore::connect(&server.url()).await.expect("it is fit");
}

#[tokio::test]
async fn evicting_redis_is_used_at_the_operators_risk() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "volatile-ttl"]);
    let store = RedisStore::new(&server.url(), RedisOptions { eviction: Eviction::Allow, ..patient() }).expect("a URL");
    assert_eq!(store.create(&fresh_id(), &in_flight()).await.expect("it writes"), Created::New);
    let findings = store.preflight().await.expect("it answers");
    assert!(findings.iter().all(|finding| finding.severity <= Severity::Warning), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.text.contains("volatile-ttl")), "{findings:?}");
}

#[tokio::test]
async fn policy_that_changes_is_found_at_the_next_connection() {
    let server = RedisServer::start();
    let store = store_on(&server);
    store.create(&fresh_id(), &in_flight()).await.expect("it writes");
    server.set("maxmemory-policy", "allkeys-random");
    server.command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until(async || store.load(&fresh_id()).await, is_denied).await;
}

#[tokio::test]
async fn policy_that_changes_is_found_within_a_minute() {
    let server = RedisServer::start();
    let store = store_on(&server);
    store.create(&fresh_id(), &in_flight()).await.expect("it writes");
    server.set("maxmemory-policy", "volatile-lfu");
    store.load(&fresh_id()).await.expect("the last look was a moment ago");
    // A minute later, for the store.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    until(async || store.load(&fresh_id()).await, is_denied).await;
    server.set("maxmemory-policy", "noeviction");
    until(async || store.load(&fresh_id()).await, Result::is_ok).await;
}

#[tokio::test]
async fn replica_refuses_new_keys_and_still_replays() {
    let primary = RedisServer::start();
    let (finished, running) = (fresh_id(), fresh_id());
    let (outcome, claim) = (completed("receipt"), in_flight());
    let store = store_on(&primary);
    store.create(&finished, &outcome).await.expect("it writes");
    store.create(&running, &claim).await.expect("it writes");
    let server = primary.replica();
    let store = store_on(&server);
    let created = store.create(&fresh_id(), &in_flight()).await;
    assert!(matches!(created, Err(StoreError::NotApplied(_))), "{created:?}");
    match store.create(&finished, &in_flight()).await.expect("a finished record is told") {
        Created::Existing(entry) => assert_eq!(entry.record, outcome.record),
        Created::New => panic!("it was new"),
    }
    let replaced = store.replace(&running, &claim.version, &completed("x"), Notice::Skip).await;
    assert!(matches!(replaced, Err(StoreError::NotApplied(_))), "{replaced:?}");
    let unready = worst(&store, Severity::Unready).await;
    assert!(unready.len() == 1 && unready[0].contains("slave"), "{unready:?}");
    let connected = RedisStore::connect(&server.url()).await;
    assert!(matches!(connected, Err(StoreError::NotApplied(_))), "{:?}", connected.err());
    // It becomes the primary: the store works on without being told.
    server.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    let replaced = store.replace(&running, &claim.version, &completed("x"), Notice::Skip).await;
    assert_eq!(replaced.expect("it writes"), Replaced::Done);
    assert_eq!(store.create(&fresh_id(), &in_flight()).await.expect("it writes"), Created::New);
}

/// What a server that refuses all writes does to each call, and that it heals.
async fn refuses_writes_but_tells(server: &RedisServer, refuse: impl FnOnce(), heal: impl FnOnce()) {
    let store = store_on(server);
    let (finished, running, outcome, claim) = (fresh_id(), fresh_id(), completed("receipt"), in_flight());
    store.create(&finished, &outcome).await.expect("it writes");
    store.create(&running, &claim).await.expect("it writes");
    refuse();
    let created = store.create(&fresh_id(), &in_flight()).await;
    assert!(matches!(created, Err(StoreError::NotApplied(_))), "{created:?}");
    match store.create(&finished, &in_flight()).await.expect("a finished record is told") {
        Created::Existing(entry) => assert_eq!(entry.record, outcome.record),
        Created::New => panic!("it was new"),
    }
    match store.create(&running, &in_flight()).await.expect("a running one too") {
        Created::Existing(entry) => assert!(entry.lease_left().is_some()),
        Created::New => panic!("it was new"),
    }
    let replaced = store.replace(&running, &claim.version, &completed("x"), Notice::Skip).await;
    assert!(matches!(replaced, Err(StoreError::NotApplied(_))), "{replaced:?}");
    assert_eq!(store.load(&running).await.expect("it reads").expect("it is there").version, claim.version);
    heal();
    let replaced = store.replace(&running, &claim.version, &completed("x"), Notice::Skip).await;
    assert_eq!(replaced.expect("it writes again"), Replaced::Done);
    assert_eq!(store.create(&fresh_id(), &in_flight()).await.expect("it writes again"), Created::New);
}

#[tokio::test]
async fn redis_without_enough_replicas_refuses_and_still_replays() {
    let server = RedisServer::start();
    let set = |replicas| server.set("min-replicas-to-write", replicas);
    refuses_writes_but_tells(&server, || set("1"), || set("0")).await;
}

#[tokio::test]
async fn redis_that_cannot_save_refuses_and_still_replays() {
    let server = RedisServer::start();
    let heal = || server.set("stop-writes-on-bgsave-error", "no");
    refuses_writes_but_tells(&server, || server.break_saving(), heal).await;
}

#[tokio::test]
async fn wrong_password_is_denied() {
    let server = RedisServer::start();
    server.set("requirepass", "secret");
    for url in [server.url(), server.url().replace("redis://", "redis://:wrong@")] {
        let store = RedisStore::new(&url, patient()).expect("a good URL");
        let created = store.create(&fresh_id(), &in_flight()).await;
        assert!(is_denied(&created), "{created:?}");
    }
    let url = server.url().replace("redis://", "redis://:secret@");
    let store = RedisStore::new(&url, patient()).expect("a good URL");
    assert_eq!(store.create(&fresh_id(), &in_flight()).await.expect("it writes"), Created::New);
}

#[tokio::test]
async fn user_without_the_right_to_write_is_denied() {
    let server = RedisServer::start();
    server.command::<()>(&["ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+info", "+multi", "+exec"]);
    let url = server.url().replace("redis://", "redis://reader:pw@");
    let store = RedisStore::new(&url, patient()).expect("a good URL");
    let created = store.create(&fresh_id(), &in_flight()).await;
    assert!(is_denied(&created), "{created:?}");
}

#[tokio::test]
async fn redis_that_may_lose_the_last_writes_is_warned_of() {
    let server = RedisServer::start();
    let findings = store_on(&server).preflight().await.expect("it answers");
    assert!(
        findings.iter().any(|finding| finding.severity == Severity::Warning && finding.text.contains("append-only"))
    );
    let server = RedisServer::start_with(&["--appendonly", "yes"]);
    let findings = store_on(&server).preflight().await.expect("it answers");
    assert!(findings.iter().all(|finding| finding.severity == Severity::Info), "{findings:?}");
}
