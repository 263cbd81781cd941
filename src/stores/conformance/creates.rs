//! Checks of `create`, and of what is read back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::bench::{Bench, PRECISION, completed, ensure, fresh_id, in_flight};
use crate::ledger::store::{Created, Draft, Notice, Replaced};
use crate::record::{OnUnknown, Record, State};

const CALLERS: usize = 1000;
/// How far a call is driven before it is dropped.
const MAX_POLLS: usize = 4;

pub(super) async fn fresh_is_new(bench: Bench) -> Result<(), String> {
    let id = fresh_id();
    ensure!(bench.load(&id).await?.is_none(), "an id that was never used holds something");
    let draft = Draft::new(in_flight());
    let created = bench.create(&id, &draft).await?;
    ensure!(created == Created::New, "{created:?}");
    bench.must_hold(&id, &draft).await?;
    Ok(())
}

pub(super) async fn repeat_is_new(bench: Bench) -> Result<(), String> {
    let draft = Draft::new(in_flight());
    let id = bench.put(&draft).await?;
    let again = bench.create(&id, &draft).await?;
    ensure!(again == Created::New, "{again:?}");
    bench.must_hold(&id, &draft).await?;
    Ok(())
}

pub(super) async fn duplicate_sees_the_entry(bench: Bench) -> Result<(), String> {
    let draft = Draft::new(in_flight());
    let sent = Instant::now();
    let id = bench.put(&draft).await?;
    for _ in 0..3 {
        tokio::time::sleep(PRECISION * 2).await;
        // The record is written between `sent` and here.
        let least = (PRECISION * 2).saturating_sub(PRECISION);
        let entry = match bench.create(&id, &Draft::new(completed("another"))).await? {
            Created::Existing(entry) => entry,
            Created::New => return Err("a second create was new".to_owned()),
        };
        ensure!(entry.version == draft.version, "the duplicate saw version {:?}", entry.version);
        ensure!(entry.record == draft.record, "the duplicate saw {:?}", entry.record);
        let most = sent.elapsed() + PRECISION;
        ensure!(entry.age >= least && entry.age <= most, "age {:?}, not in {least:?} to {most:?}", entry.age);
    }
    bench.must_hold(&id, &draft).await?;
    Ok(())
}

pub(super) async fn record_is_byte_exact(bench: Bench) -> Result<(), String> {
    let outcomes: [Bytes; 5] = [
        Bytes::new(),
        Bytes::from_static(&[0]),
        Bytes::from_static(b"\xff\xfe\0\r\n$-1\r\n'; --"),
        Bytes::from((0..=255).collect::<Vec<u8>>()),
        Bytes::from((0..1 << 20).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect::<Vec<u8>>()),
    ];
    for outcome in outcomes {
        let first = Draft::new(in_flight());
        let id = bench.put(&first).await?;
        let draft = Draft::new(completed(outcome.clone()));
        bench.must_replace(&id, &first.version, &draft).await?;
        bench.must_hold(&id, &draft).await?;
        match bench.create(&id, &first).await? {
            Created::Existing(entry) if entry.record == draft.record => {}
            other => return Err(format!("an outcome of {} bytes was shown as {other:?}", outcome.len())),
        }
    }
    for state in State::ALL {
        let draft = Draft::new(Record {
            state,
            attempt: u32::MAX,
            on_unknown: OnUnknown::Retry,
            lease: Duration::from_millis(1),
            grace: Duration::from_millis(u64::from(u32::MAX)),
            status: u16::MAX,
            route: Arc::from("zahlung-\u{fc}\u{1f980}"),
            reason: Arc::from("r".repeat(255)),
            ..in_flight()
        });
        let id = bench.put(&draft).await?;
        bench.must_hold(&id, &draft).await?;
    }
    Ok(())
}

pub(super) async fn thousand_give_one_new(bench: Bench) -> Result<(), String> {
    let id = fresh_id();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let bench = bench.clone();
            tokio::spawn(async move {
                let draft = Draft::new(in_flight());
                let created = bench.create(&id, &draft).await?;
                Ok::<_, String>((draft.version, created))
            })
        })
        .collect();
    let mut winners = Vec::new();
    let mut seen = Vec::new();
    for caller in callers {
        match caller.await.map_err(|error| error.to_string())?? {
            (version, Created::New) => winners.push(version),
            (_, Created::Existing(entry)) => seen.push(entry.version),
        }
    }
    ensure!(winners.len() == 1, "{} creates were new", winners.len());
    ensure!(seen.iter().all(|version| *version == winners[0]), "a duplicate saw a version that never won");
    Ok(())
}

pub(super) async fn cancelled_call_corrupts_nothing(bench: Bench) -> Result<(), String> {
    for polls in 0..=MAX_POLLS {
        let id = fresh_id();
        let cancelled = Draft::new(in_flight());
        drive(polls, bench.store.create(&id, &cancelled)).await;
        let other = Draft::new(in_flight());
        let mut present = match bench.create(&id, &other).await? {
            Created::New => other,
            Created::Existing(entry) => {
                let whole = entry.version == cancelled.version && entry.record == cancelled.record;
                ensure!(whole, "a create dropped after {polls} polls left {entry:?}");
                cancelled
            }
        };
        let cancelled = Draft::new(completed("dropped"));
        drive(polls, bench.store.replace(&id, &present.version, &cancelled, Notice::Skip)).await;
        let last = Draft::new(completed("kept"));
        // The dropped call may still be on its way, and may come before this one once.
        for _ in 0..2 {
            match bench.replace(&id, &present.version, &last).await? {
                Replaced::Done => break,
                Replaced::Stale(Some(entry))
                    if entry.version == cancelled.version && entry.record == cancelled.record =>
                {
                    present = cancelled.clone();
                }
                other => return Err(format!("a replace dropped after {polls} polls left {other:?}")),
            }
        }
        bench.must_hold(&id, &last).await?;
        drive(polls, bench.store.remove(&id, &last.version, Notice::Skip)).await;
        let removed = bench.remove(&id, &last.version).await?;
        ensure!(removed == Replaced::Done, "after a remove dropped after {polls} polls: {removed:?}");
        ensure!(bench.load(&id).await?.is_none(), "a removed record is there");
    }
    Ok(())
}

/// Polls a call some times, and drops it.
async fn drive<T>(polls: usize, mut call: impl Future<Output = T> + Unpin) {
    for _ in 0..polls {
        if (&mut call).now_or_never().is_some() {
            return;
        }
        tokio::task::yield_now().await;
    }
}
