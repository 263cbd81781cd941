//! The Redis store on a healthy server: values, round trips, scripts.

use std::sync::Arc;
use std::time::Duration;

use onceproxy::ledger::store::{Created, Draft, Entry, Filter, Notice, Replaced, Store, StoreError};
use onceproxy::stores::redis::RedisStore;
use onceproxy::{Record, RecordId, State};

use super::specimens::patient;
use super::{completed, fresh_id, in_flight};
use crate::support::redis::RedisServer;
use crate::support::tcp_proxy::{TcpProxy, Weather};

fn store_at(port: u16) -> RedisStore {
    RedisStore::new(&format!("redis://127.0.0.1:{port}/0"), patient()).expect("a good URL")
}

fn key(id: &RecordId) -> String {
    format!("once:1:{{{id}}}")
}

fn existing(created: Result<Created, StoreError>) -> Entry {
    match created.expect("it answers") {
        Created::Existing(entry) => entry,
        Created::New => panic!("it was new"),
    }
}

#[tokio::test]
async fn reserve_and_replay_take_one_round_trip_each() {
    let server = RedisServer::start();
    let proxy = TcpProxy::start(server.port()).await;
    let store = store_at(proxy.port());
    // Connects, and makes the script known.
    store.remove(&fresh_id(), &in_flight().version, Notice::Skip).await.expect("it answers");
    let counts = || {
        let of = |command| server.calls(command);
        (proxy.client_chunks(), [of("set"), of("pttl"), of("get"), of("evalsha"), of("eval"), of("multi")])
    };
    let since = |(chunks, calls): (usize, [u64; 6])| {
        let (chunks_now, calls_now) = counts();
        (chunks_now - chunks, std::array::from_fn::<u64, 6, _>(|at| calls_now[at] - calls[at]))
    };
    let (id, claim, outcome) = (fresh_id(), in_flight(), completed("receipt"));

    let before = counts();
    assert_eq!(store.create(&id, &claim).await.expect("it answers"), Created::New);
    assert_eq!(since(before), (1, [1, 1, 0, 0, 0, 0]), "a reserve");

    let before = counts();
    assert_eq!(existing(store.create(&id, &in_flight()).await).version, claim.version);
    assert_eq!(since(before), (1, [1, 1, 0, 0, 0, 0]), "a duplicate of what is running");

    let before = counts();
    let replaced = store.replace(&id, &claim.version, &outcome, Notice::Skip).await.expect("it answers");
    assert_eq!(replaced, Replaced::Done);
    assert_eq!(since(before), (1, [1, 0, 0, 1, 0, 0]), "a completion");

    let before = counts();
    assert_eq!(existing(store.create(&id, &in_flight()).await).record, outcome.record);
    assert_eq!(since(before), (1, [1, 1, 0, 0, 0, 0]), "a replay");
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn completion_between_the_parts_of_a_create_is_seen_as_what_it_is() {
    let server = RedisServer::start();
    let proxy = TcpProxy::start(server.port()).await;
    let (through, direct) = (store_at(proxy.port()), store_at(server.port()));
    // What another proxy writes between the two commands: with a keep that is far shorter, or gone at once.
    type Between = (&'static str, Option<Duration>);
    let between: [Between; 2] = [("completed", Some(Duration::from_secs(60))), ("removed", None)];
    for (name, keep) in between {
        let id = fresh_id();
        let claim = Draft::new(Record { keep: Duration::from_secs(86_400), ..in_flight().record });
        direct.create(&id, &claim).await.expect("it writes");
        through.load(&id).await.expect("it connects");
        let sets = server.calls("set");
        proxy.set(Weather::HoldBefore(b"*2\r\n$4\r\nPTTL"));
        let duplicate = Draft::new(Record { attempt: 1, ..in_flight().record });
        let looking = tokio::spawn({
            let (through, duplicate) = (through.clone(), duplicate.clone());
            async move { through.create(&id, &duplicate).await }
        });
        proxy.holding().await;
        while server.calls("set") == sets {
            tokio::task::yield_now().await;
        }
        let outcome = Draft::new(Record { keep: keep.unwrap_or_default(), ..completed("receipt").record });
        match keep {
            Some(_) => direct.replace(&id, &claim.version, &outcome, Notice::Skip).await.expect("it writes"),
            None => direct.remove(&id, &claim.version, Notice::Skip).await.expect("it writes"),
        };
        proxy.set(Weather::Fair);
        match (name, looking.await.expect("no panic").expect("it answers")) {
            // The first part showed it in flight, with the time to live of the second it would be a day old.
            ("completed", Created::Existing(entry)) => {
                assert_eq!((entry.version, entry.record), (outcome.version, outcome.record));
            }
            ("removed", Created::New) => {
                let present = direct.load(&id).await.expect("it reads").expect("it is there");
                assert_eq!(present.version, duplicate.version);
            }
            (name, other) => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn repeat_after_a_lost_answer_finds_its_own_write() {
    let server = RedisServer::start();
    let proxy = TcpProxy::start(server.port()).await;
    let options = onceproxy::stores::redis::RedisOptions { command_timeout: Duration::from_millis(300), ..patient() };
    let store = RedisStore::new(&format!("redis://127.0.0.1:{}/0", proxy.port()), options).expect("a good URL");
    let (id, claim, outcome) = (fresh_id(), in_flight(), completed("receipt"));
    store.load(&id).await.expect("it connects");

    proxy.set(Weather::Mute);
    assert!(matches!(store.create(&id, &claim).await, Err(StoreError::MaybeApplied(_))));
    proxy.swallowed().await;
    // The answers of this connection are out of step for good now; whoever repeats gets a new one in the end.
    proxy.set(Weather::Cut);
    proxy.set(Weather::Fair);
    let created = repeat(async || store.create(&id, &claim).await).await;
    assert_eq!(created, Created::New);
    let mut direct = server.connection();
    let bytes: Vec<u8> = redis::cmd("GET").arg(key(&id)).query(&mut direct).expect("it reads");
    assert_eq!(bytes, claim.record.encode(&claim.version));

    proxy.set(Weather::Mute);
    let lost = store.replace(&id, &claim.version, &outcome, Notice::Skip).await;
    assert!(matches!(lost, Err(StoreError::MaybeApplied(_))), "{lost:?}");
    proxy.set(Weather::Cut);
    proxy.set(Weather::Fair);
    assert_eq!(repeat(async || store.replace(&id, &claim.version, &outcome, Notice::Skip).await).await, Replaced::Done);
    assert_eq!(existing(store.create(&id, &in_flight()).await).record, outcome.record);
}

/// Repeats a call until it is answered.
async fn repeat<T>(call: impl AsyncFn() -> Result<T, StoreError>) -> T {
    let answered = async {
        loop {
            match call().await {
                Ok(value) => return value,
                Err(StoreError::MaybeApplied(_) | StoreError::NotApplied(_)) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answered).await.expect("it is answered in the end")
}

#[tokio::test]
async fn flushed_script_is_sent_again() {
    let server = RedisServer::start();
    let store = store_at(server.port());
    let (id, mut present) = (fresh_id(), in_flight());
    store.create(&id, &present).await.expect("it writes");
    for flushes in 0..3 {
        server.command::<()>(&["SCRIPT", "FLUSH"]);
        let next = in_flight();
        let replaced = store.replace(&id, &present.version, &next, Notice::Skip).await.expect("it writes");
        assert_eq!(replaced, Replaced::Done, "after {flushes} flushes");
        present = next;
    }
    assert_eq!(server.calls("eval"), 3);
}

#[tokio::test]
async fn keys_of_another_type_are_an_error_and_stay() {
    let server = RedisServer::start();
    let store = store_at(server.port());
    for (command, arguments) in [("RPUSH", vec!["a", "b"]), ("HSET", vec!["a", "b"]), ("SADD", vec!["a"])] {
        let id = fresh_id();
        let key = key(&id);
        server.command::<i64>(&[&[command, key.as_str()], arguments.as_slice()].concat());
        let dump =
            || server.command::<String>(&["OBJECT", "ENCODING", &key]) + &server.command::<String>(&["TYPE", &key]);
        let before = dump();
        assert_all_corrupt(&store, &id, command).await;
        assert_eq!(dump(), before);
    }
}

#[tokio::test]
async fn value_without_a_time_to_live_is_an_error_and_stays() {
    let server = RedisServer::start();
    let store = store_at(server.port());
    for record in [in_flight(), completed("receipt")] {
        let id = fresh_id();
        let value = record.record.encode(&record.version);
        let mut direct = server.connection();
        redis::cmd("SET").arg(key(&id)).arg(&*value).exec(&mut direct).expect("it writes");
        assert_all_corrupt(&store, &id, "without a time to live").await;
        let left: Vec<u8> = redis::cmd("GET").arg(key(&id)).query(&mut direct).expect("it reads");
        assert_eq!(left, value);
        assert_eq!(server.command::<i64>(&["PTTL", &key(&id)]), -1);
    }
}

async fn assert_all_corrupt(store: &RedisStore, id: &RecordId, what: &str) {
    let draft = in_flight();
    let create = store.create(id, &draft).await;
    assert!(matches!(create, Err(StoreError::Corrupt)), "{what}: create gave {create:?}");
    let load = store.load(id).await;
    assert!(matches!(load, Err(StoreError::Corrupt)), "{what}: load gave {load:?}");
    let replace = store.replace(id, &draft.version, &draft, Notice::Skip).await;
    assert!(matches!(replace, Err(StoreError::Corrupt)), "{what}: replace gave {replace:?}");
    let remove = store.remove(id, &draft.version, Notice::Skip).await;
    assert!(matches!(remove, Err(StoreError::Corrupt)), "{what}: remove gave {remove:?}");
    let page = store.list(Filter { state: None, limit: 1000 }, None).await.expect("it lists");
    assert!(page.unreadable > 0, "{what}: the list does not count it");
}

#[tokio::test]
async fn keys_of_others_are_neither_listed_nor_touched() {
    let server = RedisServer::start();
    let store = store_at(server.port());
    let id = fresh_id();
    for key in ["once:1:{abc}", "once:1:done", "once:2:{00}", "twice:1:{00}", &format!("x-once:1:{{{id}}}")] {
        server.command::<()>(&["SET", key, "theirs"]);
    }
    store.create(&id, &in_flight()).await.expect("it writes");
    let mut cursor = None;
    let mut shown = Vec::new();
    loop {
        let page =
            store.list(Filter { state: Some(State::InFlight), limit: 2 }, cursor.as_deref()).await.expect("it lists");
        assert_eq!(page.unreadable, 0);
        shown.extend(page.entries.into_iter().map(|(id, _)| id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    shown.dedup();
    assert_eq!(shown, [id]);
    assert_eq!(server.command::<String>(&["GET", "once:1:done"]), "theirs");
}

#[tokio::test]
async fn clones_share_a_connection_and_siblings_do_not() {
    let server = RedisServer::start();
    let proxy = TcpProxy::start(server.port()).await;
    let store = store_at(proxy.port());
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let store = Arc::new(store.clone());
            tokio::spawn(async move { store.create(&fresh_id(), &in_flight()).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.expect("no panic").expect("it writes"), Created::New);
    }
    assert_eq!(proxy.connections(), 1);
    store.sibling().load(&fresh_id()).await.expect("it reads");
    assert_eq!(proxy.connections(), 2);
}
