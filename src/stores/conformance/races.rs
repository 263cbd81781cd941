//! Races between writers of one record: one wins, and nobody is misled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::bench::{Bench, LONG, completed, ensure, fresh_id, in_flight};
use crate::ledger::store::{Created, Draft, Replaced};
use crate::record::{Record, State, Version};
use crate::scope::RecordId;

const ROUNDS: usize = 50;
const TAKE_OVERS: u32 = 100;
const COMPLETIONS: usize = 150;

pub(super) async fn take_over_against_renewal(bench: Bench) -> Result<(), String> {
    for round in 0..ROUNDS {
        let first = Draft::new(in_flight());
        let id = bench.put(&first).await?;
        let renewal = Draft::new(in_flight());
        let take_over = Draft::new(Record { attempt: 2, ..in_flight() });
        // Each goes first in turn.
        let (one, other) = if round % 2 == 0 { (&renewal, &take_over) } else { (&take_over, &renewal) };
        let (first_reply, second_reply) =
            tokio::join!(bench.replace(&id, &first.version, one), bench.replace(&id, &first.version, other));
        let (winner, seen) = match (first_reply?, second_reply?) {
            (Replaced::Done, Replaced::Stale(Some(entry))) => (one, entry),
            (Replaced::Stale(Some(entry)), Replaced::Done) => (other, entry),
            replies => return Err(format!("round {round}: {replies:?}")),
        };
        ensure!(seen.version == winner.version, "round {round}: the loser saw {seen:?}");
        bench.must_hold(&id, winner).await?;
    }
    Ok(())
}

pub(super) async fn hundred_take_overs(bench: Bench) -> Result<(), String> {
    let first = Draft::new(in_flight());
    let id = bench.put(&first).await?;
    let rivals: Vec<_> = (0..TAKE_OVERS)
        .map(|number| {
            let bench = bench.clone();
            tokio::spawn(async move {
                let draft = Draft::new(Record { attempt: number + 2, ..in_flight() });
                bench.replace(&id, &first.version, &draft).await.map(|replaced| (draft, replaced))
            })
        })
        .collect();
    let mut winners = Vec::new();
    let mut seen = Vec::new();
    for rival in rivals {
        match rival.await.map_err(|error| error.to_string())?? {
            (draft, Replaced::Done) => winners.push(draft),
            (_, Replaced::Stale(Some(entry))) => seen.push(entry.version),
            (_, Replaced::Stale(None)) => return Err("a loser saw nothing".to_owned()),
        }
    }
    ensure!(winners.len() == 1, "{} take-overs won", winners.len());
    ensure!(seen.iter().all(|version| *version == winners[0].version), "a loser saw a version that never won");
    bench.must_hold(&id, &winners[0]).await?;
    Ok(())
}

/// The record is all the while either in flight under a lease that has just begun, or completed with a keep that is far
/// shorter. A store that mixes the age of the one with the keep of the other makes it look dead.
pub(super) async fn completion_beside_create(bench: Bench) -> Result<(), String> {
    let id = fresh_id();
    let mut present = Draft::new(in_flight());
    bench.create(&id, &present).await?;
    let finished = Arc::new(AtomicBool::new(false));
    let looker = tokio::spawn(look(bench.clone(), id, finished.clone()));
    for round in 0..COMPLETIONS {
        let record = match round % 2 {
            0 => Record { keep: LONG / 10, ..completed("done") },
            _ => in_flight(),
        };
        let next = Draft::new(record);
        bench.must_replace(&id, &present.version, &next).await?;
        present = next;
    }
    finished.store(true, Ordering::Relaxed);
    looker.await.map_err(|error| error.to_string())?
}

async fn look(bench: Bench, id: RecordId, finished: Arc<AtomicBool>) -> Result<(), String> {
    let mut reserve = Draft::new(in_flight());
    while !finished.load(Ordering::Relaxed) {
        reserve.version = Version::random();
        let entry = match bench.create(&id, &reserve).await? {
            Created::Existing(entry) => entry,
            Created::New => return Err("the record was gone".to_owned()),
        };
        let looks_dead = entry.record.state == State::InFlight && entry.lease_left().is_none();
        ensure!(!looks_dead, "it looks {:?} old under a lease of {:?}", entry.age, entry.record.lease);
        tokio::time::sleep(Duration::ZERO).await;
    }
    Ok(())
}
