//! Checks of what is not on the way of a request: lists and notices.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;

use super::bench::{Bench, completed, ensure, in_flight};
use crate::ledger::store::{Draft, Filter, Notice, Notices};
use crate::record::State;
use crate::scope::RecordId;

const RUNNING: usize = 30;
const FINISHED: usize = 12;
const PAGE: usize = 7;
const MAX_PAGES: usize = 10_000;
/// Notices may get lost, so each change is made a few times.
const CHANGES: usize = 5;
const HEARD: Duration = Duration::from_secs(2);

pub(super) async fn list(bench: Bench) -> Result<(), String> {
    let mut written = HashMap::new();
    for number in 0..RUNNING + FINISHED {
        let record = if number < RUNNING { in_flight() } else { completed("done") };
        let draft = Draft::new(record);
        written.insert(bench.put(&draft).await?, draft);
    }
    // One of them is renewed between the pages: it lives all the while.
    let (&renewed, _) = written.iter().find(|(_, draft)| draft.record.state == State::InFlight).expect("some run");
    for state in [None, Some(State::Completed), Some(State::InFlight), Some(State::Unknown)] {
        let mut shown = HashSet::new();
        let mut cursor: Option<String> = None;
        for pages in 1.. {
            ensure!(pages <= MAX_PAGES, "the list has no end");
            let page = bench.store.list(Filter { state, limit: PAGE }, cursor.as_deref()).await;
            let page = page.map_err(|error| format!("list failed: {error}"))?;
            for (id, entry) in page.entries {
                let wanted = state.is_none_or(|state| state == entry.record.state);
                ensure!(wanted, "a list of {state:?} shows {:?}", entry.record.state);
                let same = written.get(&id).is_some_and(|draft| draft.record == entry.record);
                ensure!(same, "a list shows what was not written: {entry:?}");
                shown.insert(id);
            }
            let Some(next) = page.next else { break };
            cursor = Some(next);
            let next = Draft::new(in_flight());
            bench.must_replace(&renewed, &written[&renewed].version, &next).await?;
            written.insert(renewed, next);
        }
        for (id, draft) in &written {
            let wanted = state.is_none_or(|state| state == draft.record.state);
            ensure!(!wanted || shown.contains(id), "a list of {state:?} misses a record");
        }
    }
    Ok(())
}

pub(super) async fn notice(bench: Bench) -> Result<(), String> {
    let mut notices = bench.store.notices().await.map_err(|error| format!("notices failed: {error}"))?;
    let mut present = Draft::new(in_flight());
    let id = bench.put(&present).await?;
    let mut heard = false;
    for _ in 0..CHANGES {
        let next = Draft::new(completed("done"));
        let replaced = bench.store.replace(&id, &present.version, &next, Notice::Send).await;
        if replaced.is_err() {
            bench.must_replace(&id, &present.version, &next).await?;
        }
        present = next;
        heard = heard || hears(&mut notices, &id).await?;
        if heard {
            break;
        }
    }
    ensure!(heard, "no notice of a replace came");
    for _ in 0..CHANGES {
        // One that is repeated may find nothing to remove and still tells.
        let _ = bench.store.remove(&id, &present.version, Notice::Send).await;
        if hears(&mut notices, &id).await? {
            return Ok(());
        }
        present = Draft::new(in_flight());
        bench.create(&id, &present).await?;
    }
    Err("no notice of a remove came".to_owned())
}

async fn hears(notices: &mut Notices, id: &RecordId) -> Result<bool, String> {
    let wanted = async {
        while let Some(noticed) = notices.next().await {
            if noticed == *id {
                return Ok(true);
            }
        }
        Err("the notices ended".to_owned())
    };
    timeout(HEARD, wanted).await.unwrap_or(Ok(false))
}
