//! The memory store's limits: full means full, and nothing that lives is dropped.

use std::time::{Duration, Instant};

use onceproxy::Record;
use onceproxy::ledger::store::{Created, Draft, Notice, Replaced, Store, StoreError};
use onceproxy::stores::memory::{Limits, MemoryStore};

use super::{completed, fresh_id, in_flight};

fn is_full<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Full(_)))
}

#[tokio::test]
async fn cap_of_records_means_full_and_a_removed_one_makes_room() {
    let store = MemoryStore::with_limits(Limits { max_entries: 3, ..Limits::default() });
    let mut written = Vec::new();
    for _ in 0..3 {
        let (id, draft) = (fresh_id(), in_flight());
        assert_eq!(store.create(&id, &draft).await.expect("there is room"), Created::New);
        written.push((id, draft));
    }
    assert!(is_full(&store.create(&fresh_id(), &in_flight()).await));
    for (id, draft) in &written {
        assert_eq!(store.load(id).await.expect("it reads").expect("it lives").version, draft.version);
    }
    let (id, draft) = &written[0];
    assert_eq!(store.remove(id, &draft.version, Notice::Skip).await.expect("it removes"), Replaced::Done);
    assert_eq!(store.create(&fresh_id(), &in_flight()).await.expect("there is room again"), Created::New);
    assert!(is_full(&store.create(&fresh_id(), &in_flight()).await));
}

#[tokio::test]
async fn cap_of_bytes_means_full_for_creates_only() {
    let store = MemoryStore::with_limits(Limits { max_bytes: 4096, ..Limits::default() });
    let (id, draft) = (fresh_id(), in_flight());
    assert_eq!(store.create(&id, &draft).await.expect("there is room"), Created::New);
    let large = Draft::new(Record { outcome: vec![1; 10_000].into(), ..completed("").record });
    let replaced = store.replace(&id, &draft.version, &large, Notice::Skip).await.expect("work is recorded");
    assert_eq!(replaced, Replaced::Done);
    assert!(is_full(&store.create(&fresh_id(), &in_flight()).await));
    assert_eq!(store.remove(&id, &large.version, Notice::Skip).await.expect("it removes"), Replaced::Done);
    assert_eq!(store.create(&fresh_id(), &in_flight()).await.expect("there is room again"), Created::New);
}

#[tokio::test(start_paused = true)]
async fn full_store_makes_room_from_what_is_past_its_keep() {
    let store = MemoryStore::with_limits(Limits { max_entries: 100, ..Limits::default() });
    let past = Draft::new(Record { keep: Duration::from_secs(5), ..in_flight().record });
    for _ in 0..99 {
        store.create(&fresh_id(), &past).await.expect("there is room");
    }
    let (living, draft) = (fresh_id(), in_flight());
    store.create(&living, &draft).await.expect("there is room");
    tokio::time::advance(Duration::from_millis(4999)).await;
    assert!(is_full(&store.create(&fresh_id(), &in_flight()).await));
    tokio::time::advance(Duration::from_millis(1)).await;
    for _ in 0..99 {
        assert_eq!(store.create(&fresh_id(), &in_flight()).await.expect("there is room"), Created::New);
    }
    assert!(is_full(&store.create(&fresh_id(), &in_flight()).await));
    assert!(store.load(&living).await.expect("it reads").is_some());
}

#[tokio::test]
async fn full_store_refuses_without_looking_at_each_record() {
    const RECORDS: usize = 50_000;
    let store = MemoryStore::with_limits(Limits { max_entries: RECORDS, ..Limits::default() });
    let draft = in_flight();
    let began = Instant::now();
    for _ in 0..RECORDS {
        store.create(&fresh_id(), &draft).await.expect("there is room");
    }
    let filled = began.elapsed();
    // As many refusals take about as long; with a look at each record, a thousand times that.
    let began = Instant::now();
    for _ in 0..RECORDS {
        assert!(is_full(&store.create(&fresh_id(), &draft).await));
        assert!(began.elapsed() < filled * 20 + Duration::from_secs(1), "a refusal looks at too much");
    }
}

#[tokio::test(start_paused = true)]
async fn record_that_was_renewed_is_kept_for_as_long_as_its_last_write_says() {
    let store = MemoryStore::new();
    let (renewed, other) = (fresh_id(), fresh_id());
    let first = Draft::new(Record { keep: Duration::from_secs(5), ..in_flight().record });
    let for_ever = Draft::new(Record { keep: Duration::MAX, ..completed("x").record });
    store.create(&renewed, &first).await.expect("there is room");
    store.create(&other, &for_ever).await.expect("there is room");
    tokio::time::advance(Duration::from_secs(4)).await;
    let second = Draft::new(first.record.clone());
    let replaced = store.replace(&renewed, &first.version, &second, Notice::Skip).await.expect("it writes");
    assert_eq!(replaced, Replaced::Done);
    tokio::time::advance(Duration::from_millis(4999)).await;
    assert_eq!(store.purge(10).await.expect("it purges"), 0);
    assert!(store.load(&renewed).await.expect("it reads").is_some());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(store.purge(10).await.expect("it purges"), 1);
    assert!(store.load(&other).await.expect("it reads").is_some());
}
