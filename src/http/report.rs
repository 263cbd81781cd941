//! What became of a protected request, for logs and metrics.

use std::time::Duration;

use crate::scope::RecordId;

/// What became of a protected request; found in the extensions of its response. Requests that passed have none.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// The `Idempotency-Status` value or the problem's code.
    pub outcome: &'static str,
    /// The record, once it was looked up.
    pub record: Option<RecordId>,
    /// Whether the request waited for another's execution.
    pub waited: bool,
    /// How long the ledger took before and after the execution.
    pub store_time: Duration,
}
