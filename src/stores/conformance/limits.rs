//! Checks at the limits: no room, and bytes that are not a record.

use bytes::Bytes;

use super::bench::{Bench, completed, ensure, fresh_id, in_flight};
use super::{Able, Specimen};
use crate::ledger::store::{Created, Draft, Filter, Replaced, StoreError};
use crate::record::Version;

/// Where a record's bytes say their format.
const FORMAT_AT: usize = 18;
/// More than what a full store has left by chance.
const OUTCOME: usize = 10_000;

pub(super) async fn full<S: Specimen>(specimen: &S, bench: Bench) -> Result<Able, String> {
    let running = Draft::new(in_flight());
    let running_id = bench.put(&running).await?;
    let second = Draft::new(in_flight());
    let second_id = bench.put(&second).await?;
    let finished = Draft::new(completed("done"));
    let finished_id = bench.put(&finished).await?;
    if specimen.fill().await == Able::No {
        return Ok(Able::No);
    }
    match bench.try_create(&fresh_id(), &Draft::new(in_flight())).await {
        Err(StoreError::Full(_)) => {}
        other => return Err(format!("a create gave {other:?}")),
    }
    match bench.create(&finished_id, &Draft::new(in_flight())).await? {
        Created::Existing(entry) if entry.record == finished.record => {}
        other => return Err(format!("a duplicate of a finished record saw {other:?}")),
    }
    let outcome = Draft::new(completed(vec![7; OUTCOME]));
    bench.must_replace(&running_id, &running.version, &outcome).await?;
    bench.must_hold(&running_id, &outcome).await?;
    let removed = bench.remove(&second_id, &second.version).await?;
    ensure!(removed == Replaced::Done, "a remove gave {removed:?}");
    ensure!(bench.load(&second_id).await?.is_none(), "a removed record is there");
    Ok(Able::Yes)
}

pub(super) async fn unreadable<S: Specimen>(specimen: &S, bench: Bench) -> Result<Able, String> {
    let whole = completed("done").encode(&Version::random());
    let mut other_format = whole.to_vec();
    other_format[FORMAT_AT] = 9;
    let mut flipped = whole.to_vec();
    flipped[40] ^= 1;
    let values: [(&str, Bytes); 7] = [
        ("another format", other_format.into()),
        ("a flipped bit", flipped.into()),
        ("a cut value", whole.slice(..whole.len() - 1)),
        ("a value cut within its version", whole.slice(..7)),
        ("a version and nothing else", whole.slice(..16)),
        ("foreign text", Bytes::from_static(b"{\"status\":\"done\"}")),
        ("nothing", Bytes::new()),
    ];
    for (name, value) in &values {
        // First a record, so that the store has whatever it keeps beside the bytes.
        let id = bench.put(&Draft::new(in_flight())).await?;
        if specimen.plant(&id, value).await == Able::No {
            return Ok(Able::No);
        }
        let draft = Draft::new(in_flight());
        let errors = [
            ("create", bench.try_create(&id, &draft).await.map(|reply| format!("{reply:?}"))),
            ("load", bench.try_load(&id).await.map(|reply| format!("{reply:?}"))),
            ("replace", bench.try_replace(&id, &draft.version, &draft).await.map(|reply| format!("{reply:?}"))),
            ("remove", bench.try_remove(&id, &draft.version).await.map(|reply| format!("{reply:?}"))),
        ];
        for (call, result) in errors {
            match (result, *name) {
                (Err(StoreError::UnknownFormat(9)), "another format") => {}
                (Err(StoreError::Corrupt), name) if name != "another format" => {}
                (other, _) => return Err(format!("{call} of {name} gave {other:?}")),
            }
        }
        let left = specimen.peek(&id).await;
        ensure!(left.as_deref() == Some(value), "{name} did not stay as it was: {left:?}");
    }
    let mut cursor = None;
    let mut counted = 0;
    loop {
        let page = bench.store.list(Filter { state: None, limit: 100 }, cursor.as_deref()).await;
        let page = page.map_err(|error| format!("list failed: {error}"))?;
        counted += page.unreadable;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    ensure!(counted >= values.len(), "a list counted {counted} unreadable values of {}", values.len());
    Ok(Able::Yes)
}
