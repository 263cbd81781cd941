//! What the ledger promises on top of a store whose answers get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::bench::{Bench, ensure, fresh_id};
use super::faulty::{Call, Fault, FaultyStore};
use crate::fingerprint::Fingerprint;
use crate::ledger::store::Store;
use crate::ledger::terms::Terms;
use crate::ledger::{Begun, Ledger};

const CALLERS: usize = 20;
const SOON: Duration = Duration::from_secs(5);

pub(super) async fn lost_answers(bench: Bench) -> Result<(), String> {
    let faulty = Arc::new(FaultyStore::new(bench.store.clone()));
    faulty.fault_every(2, Fault::Swallow);
    // Several callers in turn may let one of them meet every fault for a while.
    let ledger = Ledger::over(faulty.clone()).patience(Duration::from_secs(20));
    let id = fresh_id();
    let executions = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (ledger, executions) = (ledger.clone(), executions.clone());
            tokio::spawn(async move {
                let terms = Terms { wait: Some(Duration::from_secs(30)), ..Terms::default() };
                match ledger.begin(&id, Fingerprint::of("charge"), &terms).await.map_err(|error| error.to_string())? {
                    Begun::Execute(claim) => {
                        let number = executions.fetch_add(1, Ordering::SeqCst);
                        let receipt = format!("receipt {number}");
                        claim.complete(receipt.clone()).await.map_err(|error| error.to_string())?;
                        Ok(receipt.into())
                    }
                    Begun::Replay(receipt) => Ok(receipt),
                    other => Err(format!("a caller got {other:?}")),
                }
            })
        })
        .collect();
    for caller in callers {
        let receipt = caller.await.map_err(|error| error.to_string())??;
        ensure!(receipt == "receipt 0", "a caller got {receipt:?}");
    }
    let executions = executions.load(Ordering::SeqCst);
    ensure!(executions == 1, "{executions} executions");
    ensure!(faulty.count(Fault::Swallow) > 0, "no answer was lost");
    Ok(())
}

pub(super) async fn swallowed_create(bench: Bench) -> Result<(), String> {
    let faulty = Arc::new(FaultyStore::new(bench.store.clone()));
    faulty.fault_all(Call::Create, Fault::Swallow);
    let ledger = Ledger::over(faulty.clone()).patience(Duration::from_millis(50));
    let id = fresh_id();
    let terms = Terms::default();
    let begun = ledger.begin(&id, Fingerprint::of("charge"), &terms).await;
    ensure!(begun.is_err(), "a begin without an answer gave {begun:?}");
    faulty.heal();
    let free = async {
        while bench.load(&id).await?.is_some() {
            sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, String>(())
    };
    timeout(SOON, free).await.map_err(|_| format!("the key is not free after {SOON:?}"))??;
    match ledger.begin(&id, Fingerprint::of("charge"), &terms).await {
        Ok(Begun::Execute(claim)) => {
            ensure!(claim.attempt() == 1, "the next attempt is number {}", claim.attempt());
            claim.release().await.map_err(|error| error.to_string())?;
            let left = faulty.load(&id).await.map_err(|error| error.to_string())?;
            ensure!(left.is_none(), "a release left {left:?}");
            Ok(())
        }
        other => Err(format!("the next begin gave {other:?}")),
    }
}
