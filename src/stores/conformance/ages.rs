//! Checks of time: age, keep, purge. The clock is the store's, so these wait for real.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::bench::{Bench, LONG, PRECISION, completed, ensure, in_flight};
use crate::ledger::store::{Created, Draft, Replaced};
use crate::record::Record;
use crate::scope::RecordId;

/// A keep that ends within a check.
const SHORT: Duration = Duration::from_millis(400);
const LOOK: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(10);
const PAST: usize = 20;
const LIVING: usize = 5;
const PURGE: usize = 6;

pub(super) async fn renewal(bench: Bench) -> Result<(), String> {
    // Long enough that a busy machine renews in time.
    let keep = Duration::from_millis(1500);
    let first = Draft::new(Record { keep, ..in_flight() });
    let id = bench.put(&first).await?;
    let written = Instant::now();
    sleep(Duration::from_millis(200)).await;
    let sent = Instant::now();
    let second = Draft::new(Record { keep: LONG, ..in_flight() });
    bench.must_replace(&id, &first.version, &second).await?;
    let age = bench.must_hold(&id, &second).await?.age;
    let most = sent.elapsed() + PRECISION;
    ensure!(age <= most, "{age:?} old, {most:?} after the renewal");
    sleep_until(written + keep + PRECISION).await;
    bench.must_hold(&id, &second).await.map_err(|seen| format!("after the first keep: {seen}"))?;
    Ok(())
}

pub(super) async fn keep_ends(bench: Bench) -> Result<(), String> {
    let draft = Draft::new(Record { keep: SHORT, ..in_flight() });
    let sent = Instant::now();
    let id = bench.put(&draft).await?;
    ends(&bench, &id, sent, Instant::now()).await?;
    let replaced = bench.replace(&id, &draft.version, &Draft::new(completed("late"))).await?;
    ensure!(replaced == Replaced::Stale(None), "a replace after the keep gave {replaced:?}");
    let removed = bench.remove(&id, &draft.version).await?;
    ensure!(removed == Replaced::Done, "a remove after the keep gave {removed:?}");
    let other = Draft::new(in_flight());
    let created = bench.create(&id, &other).await?;
    ensure!(created == Created::New, "a create after the keep gave {created:?}");
    bench.must_hold(&id, &other).await?;
    Ok(())
}

pub(super) async fn shorter_keep(bench: Bench) -> Result<(), String> {
    let first = Draft::new(in_flight());
    let id = bench.put(&first).await?;
    let sent = Instant::now();
    let last = Draft::new(Record { keep: SHORT, ..completed("done") });
    bench.must_replace(&id, &first.version, &last).await?;
    ends(&bench, &id, sent, Instant::now()).await
}

/// Waits for the end of a [`SHORT`] keep that was written between two instants.
async fn ends(bench: &Bench, id: &RecordId, sent: Instant, answered: Instant) -> Result<(), String> {
    loop {
        let asked = Instant::now();
        if bench.load(id).await?.is_none() {
            let lived = sent.elapsed();
            ensure!(lived + PRECISION >= SHORT, "kept for {SHORT:?}, gone after {lived:?}");
            return Ok(());
        }
        let lived = asked - answered;
        ensure!(lived <= SHORT + PRECISION, "kept for {SHORT:?}, there after {lived:?}");
        sleep(LOOK).await;
    }
}

pub(super) async fn purge(bench: Bench) -> Result<(), String> {
    let mut living = Vec::new();
    for _ in 0..LIVING {
        let draft = Draft::new(in_flight());
        living.push((bench.put(&draft).await?, draft));
    }
    let mut past = Vec::new();
    for _ in 0..PAST {
        past.push(bench.put(&Draft::new(Record { keep: SHORT / 4, ..in_flight() })).await?);
    }
    // The last one ends last. Only counting tells whether the others are still stored.
    let all_past = async {
        while bench.load(&past[PAST - 1]).await?.is_some() {
            sleep(LOOK).await;
        }
        Ok::<_, String>(())
    };
    timeout(PATIENCE, all_past).await.map_err(|_| "a record outlives its keep".to_owned())??;
    let mut total = 0;
    loop {
        let removed = bench.store.purge(PURGE).await.map_err(|error| format!("purge failed: {error}"))?;
        ensure!(removed <= PURGE, "{removed} removed, at most {PURGE} asked for");
        total += removed;
        ensure!(total <= PAST, "{total} removed, {PAST} were past their keep");
        if removed == 0 {
            break;
        }
    }
    for id in past {
        ensure!(bench.load(&id).await?.is_none(), "a record is there after the purge");
    }
    for (id, draft) in living {
        bench.must_hold(&id, &draft).await?;
    }
    Ok(())
}
