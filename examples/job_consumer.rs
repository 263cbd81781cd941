//! A queue consumer whose jobs take effect once, without HTTP.
//!
//! Queues deliver at least once. The job's id is the key; what the ledger says of it decides what becomes of the
//! delivery.
//!
//! ```sh
//! cargo run --example job_consumer --no-default-features
//! ```

use std::time::Duration;

use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Begun, Fingerprint, Key, Ledger, RecordId, Scope, Terms};

/// What the queue delivers.
#[derive(Debug, Clone)]
pub struct Job {
    /// The producer's name for it.
    pub id: String,
    /// What to do.
    pub payload: String,
}

/// What becomes of a delivery.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Done, now or before: here is the receipt.
    Acknowledged(String),
    /// Another consumer has it: not before so long.
    Redelivered(Duration),
    /// The id was used for another job.
    DeadLettered,
    /// Nobody knows whether it was done: for somebody to look at.
    Parked,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let ledger = Ledger::new(MemoryStore::new());
    let job = |id: &str, payload: &str| Job { id: id.into(), payload: payload.into() };
    for job in [job("job-1", "charge 100"), job("job-1", "charge 100"), job("job-1", "charge 900")] {
        let delivery = consume(&ledger, &job, async |job, attempt| {
            println!("  {} takes effect, attempt {attempt}", job.payload);
            Ok(format!("receipt for {}", job.payload))
        });
        println!("{} {:?}: {:?}", job.id, job.payload, delivery.await?);
    }
    Ok(())
}

/// Handles one delivery of a job.
///
/// # Errors
/// When the id is not a key, or the store does not answer: nothing was done, and the queue delivers again.
pub async fn consume(
    ledger: &Ledger,
    job: &Job,
    execute: impl AsyncFnOnce(&Job, u32) -> Result<String, BoxError>,
) -> Result<Delivery, BoxError> {
    let id = RecordId::new(&Scope::new("jobs/charge"), &Key::parse(&job.id)?);
    let terms = Terms { lease: Duration::from_secs(10), ..Terms::default() };
    Ok(match ledger.begin(&id, Fingerprint::of(&job.payload), &terms).await? {
        // The claim renews itself while this runs, however long it takes.
        Begun::Execute(claim) => match execute(job, claim.attempt()).await {
            Ok(receipt) => {
                claim.complete(receipt.clone()).await?;
                Delivery::Acknowledged(receipt)
            }
            // It may have taken effect before it failed.
            Err(error) => {
                claim.unknown(&error.to_string()).await?;
                Delivery::Parked
            }
        },
        Begun::Replay(receipt) => Delivery::Acknowledged(String::from_utf8(receipt.to_vec())?),
        Begun::InFlight { retry_after } => Delivery::Redelivered(retry_after),
        Begun::Mismatch => Delivery::DeadLettered,
        Begun::Unknown { .. } => Delivery::Parked,
    })
}
