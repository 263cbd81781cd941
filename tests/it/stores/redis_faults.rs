//! The Redis store when Redis is away, slow, restarted or cut off: an error in time, nothing guessed, and healed by itself.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use onceproxy::ledger::claim::Recorded;
use onceproxy::ledger::store::{Created, Notice, Replaced, Store, StoreError};
use onceproxy::stores::redis::{RedisOptions, RedisStore};
use onceproxy::{Begun, Fingerprint, Ledger, State, Terms};

use super::{completed, fresh_id, in_flight};
use crate::support::redis::RedisServer;
use crate::support::tcp_proxy::{TcpProxy, Weather};

const LIMIT: Duration = Duration::from_millis(300);
/// Far above the limit, for a busy machine.
const IN_TIME: Duration = Duration::from_secs(5);

fn store_at(port: u16) -> RedisStore {
    let options = RedisOptions { command_timeout: LIMIT, ..RedisOptions::default() };
    RedisStore::new(&format!("redis://127.0.0.1:{port}/0"), options).expect("a good URL")
}

/// Asks until the store answers again.
async fn heals(store: &RedisStore) {
    let healed = async {
        while store.load(&fresh_id()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), healed).await.expect("it heals by itself");
}

fn is_doubtful<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::MaybeApplied(_)))
}

fn is_not_applied<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotApplied(_)))
}

#[tokio::test]
async fn redis_that_is_away_fails_in_time_and_heals_when_it_comes() {
    let mut server = RedisServer::start();
    server.kill();
    let store = store_at(server.port());
    let began = Instant::now();
    for _ in 0..20 {
        let created = store.create(&fresh_id(), &in_flight()).await;
        assert!(is_not_applied(&created), "{created:?}");
    }
    assert!(began.elapsed() < IN_TIME);
    assert!(store.preflight().await.is_err());
    server.start_again();
    heals(&store).await;
    assert_eq!(store.create(&fresh_id(), &in_flight()).await.expect("it writes"), Created::New);
}

#[tokio::test]
async fn redis_that_is_silent_costs_a_call_its_limit_and_no_more() {
    let server = RedisServer::start();
    let store = store_at(server.port());
    let (id, draft) = (fresh_id(), in_flight());
    store.load(&id).await.expect("it connects");
    server.freeze();
    let began = Instant::now();
    let created = store.create(&id, &draft).await;
    assert!(is_doubtful(&created), "{created:?}");
    assert!(began.elapsed() >= LIMIT && began.elapsed() < IN_TIME, "{:?}", began.elapsed());
    // New connections are accepted by the kernel, and silent too.
    for _ in 0..4 {
        assert!(store.load(&fresh_id()).await.is_err());
    }
    server.thaw();
    heals(&store).await;
    // The first command was only late.
    assert_eq!(store.create(&id, &draft).await.expect("it answers"), Created::New);
}

#[tokio::test]
async fn slow_redis_is_waited_for_within_the_limit() {
    let server = RedisServer::start();
    let proxy = TcpProxy::start(server.port()).await;
    let options = RedisOptions { command_timeout: Duration::from_secs(10), ..RedisOptions::default() };
    let store = RedisStore::new(&format!("redis://127.0.0.1:{}/0", proxy.port()), options).expect("a good URL");
    store.load(&fresh_id()).await.expect("it connects");
    proxy.set(Weather::Slow(Duration::from_millis(100)));
    let began = Instant::now();
    assert_eq!(store.create(&fresh_id(), &in_flight()).await.expect("it waits"), Created::New);
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn call_of_many_commands_ends_within_one_limit() {
    let server = RedisServer::start();
    let proxy = TcpProxy::start(server.port()).await;
    let limit = Duration::from_millis(1500);
    let options = RedisOptions { command_timeout: limit, ..RedisOptions::default() };
    let store = RedisStore::new(&format!("redis://127.0.0.1:{}/0", proxy.port()), options).expect("a good URL");
    // An unknown is read twice, and the script is not known yet.
    let (id, mut draft) = (fresh_id(), in_flight());
    draft.record.state = State::Unknown;
    store.create(&id, &draft).await.expect("it writes");
    server.command::<()>(&["SCRIPT", "FLUSH"]);
    // Each of the three round trips would take most of the limit.
    proxy.set(Weather::Slow(Duration::from_millis(500)));
    let began = Instant::now();
    let created = store.create(&id, &in_flight()).await;
    assert!(is_doubtful(&created), "{created:?}");
    assert!(began.elapsed() >= limit && began.elapsed() < limit + Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn cut_connection_leaves_a_write_in_doubt_and_a_repeat_settles_it() {
    let server = RedisServer::start();
    let proxy = TcpProxy::start(server.port()).await;
    let store = store_at(proxy.port());
    let (id, draft) = (fresh_id(), in_flight());
    store.load(&id).await.expect("it connects");
    proxy.set(Weather::HoldBefore(b"*"));
    let creating = tokio::spawn({
        let (store, draft) = (store.clone(), draft.clone());
        async move { store.create(&id, &draft).await }
    });
    proxy.holding().await;
    proxy.set(Weather::Cut);
    let created = creating.await.expect("no panic");
    assert!(is_doubtful(&created), "{created:?}");
    let refused = store.create(&fresh_id(), &in_flight()).await;
    assert!(refused.is_err(), "{refused:?}");
    proxy.set(Weather::Fair);
    heals(&store).await;
    assert_eq!(store.create(&id, &draft).await.expect("it answers"), Created::New);
}

#[tokio::test]
async fn restart_with_a_log_of_all_writes_keeps_the_claim() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = store_at(server.port());
    let ledger = Ledger::new(store.clone()).patience(Duration::from_secs(20));
    let (id, terms) = (fresh_id(), Terms::default());
    let Begun::Execute(claim) = ledger.begin(&id, Fingerprint::of("a"), &terms).await.expect("it answers") else {
        panic!("it is new");
    };
    server.kill();
    // The last word is written as soon as Redis is back.
    let completing = tokio::spawn(claim.complete("receipt"));
    assert!(store.load(&id).await.is_err());
    server.start_again();
    assert_eq!(completing.await.expect("no panic").expect("it is recorded"), Recorded::Yes);
    heals(&store).await;
    match ledger.begin(&id, Fingerprint::of("a"), &terms).await.expect("it answers") {
        Begun::Replay(receipt) => assert_eq!(receipt, "receipt"),
        other => panic!("{other:?}"),
    }
    assert_eq!(ledger.alarms(), Default::default());
}

#[tokio::test]
async fn restart_that_forgets_everything_is_noticed_by_the_owner() {
    let mut server = RedisServer::start();
    let store = store_at(server.port());
    let ledger = Ledger::new(store.clone()).patience(Duration::from_secs(20));
    let (id, terms) = (fresh_id(), Terms::default());
    let Begun::Execute(claim) = ledger.begin(&id, Fingerprint::of("a"), &terms).await.expect("it answers") else {
        panic!("it is new");
    };
    server.kill();
    server.start_again();
    assert_eq!(claim.complete("receipt").await.expect("it is recorded"), Recorded::Recreated);
    assert_eq!(ledger.alarms().recreated, 1);
    match ledger.begin(&id, Fingerprint::of("a"), &terms).await.expect("it answers") {
        Begun::Replay(receipt) => assert_eq!(receipt, "receipt"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn replace_and_remove_fail_in_doubt_when_the_answer_is_lost() {
    let server = RedisServer::start();
    let proxy = TcpProxy::start(server.port()).await;
    let store = store_at(proxy.port());
    let (id, draft, outcome) = (fresh_id(), in_flight(), completed("receipt"));
    store.create(&id, &draft).await.expect("it writes");
    proxy.set(Weather::Mute);
    let replaced = store.replace(&id, &draft.version, &outcome, Notice::Skip).await;
    assert!(is_doubtful(&replaced), "{replaced:?}");
    proxy.set(Weather::Cut);
    proxy.set(Weather::Fair);
    heals(&store).await;
    let replaced = store.replace(&id, &draft.version, &outcome, Notice::Skip).await.expect("it answers");
    assert_eq!(replaced, Replaced::Done);
    proxy.set(Weather::Mute);
    let removed = store.remove(&id, &outcome.version, Notice::Skip).await;
    assert!(is_doubtful(&removed), "{removed:?}");
    proxy.set(Weather::Cut);
    proxy.set(Weather::Fair);
    heals(&store).await;
    assert_eq!(store.remove(&id, &outcome.version, Notice::Skip).await.expect("it answers"), Replaced::Done);
    assert_eq!(store.load(&id).await.expect("it reads"), None);
}

#[tokio::test]
async fn notices_end_with_their_connection() {
    let server = RedisServer::start();
    let proxy = TcpProxy::start(server.port()).await;
    let store = store_at(proxy.port());
    let mut notices = store.notices().await.expect("it subscribes");
    proxy.set(Weather::Cut);
    let ended = tokio::time::timeout(IN_TIME, notices.next()).await.expect("the end is told");
    assert_eq!(ended, None);
    assert!(store.notices().await.is_err());
    proxy.set(Weather::Fair);
    let mut notices = store.notices().await.expect("it subscribes again");
    let (id, draft) = (fresh_id(), in_flight());
    heals(&store).await;
    store.create(&id, &draft).await.expect("it writes");
    store.replace(&id, &draft.version, &completed("x"), Notice::Send).await.expect("it writes");
    let noticed = tokio::time::timeout(IN_TIME, notices.next()).await.expect("it is told");
    assert_eq!(noticed, Some(id));
}
