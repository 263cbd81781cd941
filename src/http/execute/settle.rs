//! The end of an execution: what its answer makes of the record, then the reply.

use std::time::Instant;

use http::Response;

use super::{Execution, note};
use crate::failpoint;
use crate::fingerprint::Fingerprint;
use crate::http::answer::Answer;
use crate::http::body::ResponseBody;
use crate::http::refusal::{Refusal, Refused};
use crate::ledger::claim::{Claim, NotRecorded, Released};
use crate::scope::RecordId;

impl<S> Execution<S> {
    /// Records, then replies.
    pub(super) async fn settle<R>(
        &mut self,
        claim: Claim,
        answer: Answer<R>,
        id: &RecordId,
        fingerprint: Fingerprint,
    ) -> Response<ResponseBody<R>> {
        let began = Instant::now();
        let (recorded, status, response) = match answer {
            Answer::NotExecuted { status, response } => {
                return self.give_back(claim, status, response, id, fingerprint).await;
            }
            Answer::Executed { outcome, response } => {
                failpoint::reach("response-read");
                (claim.complete(outcome).await, "executed", response)
            }
            Answer::Unknown { reason, response } => (claim.unknown(&reason).await, "unknown", response),
            Answer::Broken { reason, refusal } => {
                let response = refusal.into_response(self.settings.policy.docs_url.as_deref());
                (claim.unknown(reason).await, "unknown", response.map(ResponseBody::from))
            }
        };
        self.report.store_time += began.elapsed();
        failpoint::reach("recorded");
        match recorded {
            Ok(_) => self.with_status(status, response),
            // Another outcome stands in the record, or another attempt runs: never an answer beside it.
            Err(NotRecorded::AlreadyDone | NotRecorded::Superseded) => self.follow(id, fingerprint).await,
            Err(error) => {
                note(&self.settings.policy, Err(error));
                self.with_status(if status == "executed" { "unrecorded" } else { status }, response)
            }
        }
    }

    /// Releases the claim, then replies; that nothing was executed only when that is true of the key as well.
    pub(super) async fn give_back<R>(
        &mut self,
        claim: Claim,
        status: &'static str,
        response: Response<ResponseBody<R>>,
        id: &RecordId,
        fingerprint: Fingerprint,
    ) -> Response<ResponseBody<R>> {
        let is_first = claim.attempt() == 1;
        let ours = response.extensions().get::<Refused>().is_some();
        let began = Instant::now();
        let released = claim.release().await;
        self.report.store_time += began.elapsed();
        failpoint::reach("recorded");
        let free = match released {
            Ok(Released::Free) => true,
            Ok(Released::Unknown) => false,
            Ok(Released::Taken) if ours => return self.follow(id, fingerprint).await,
            Ok(Released::Taken) => false,
            Err(error) => {
                note(&self.settings.policy, Err(error));
                is_first
            }
        };
        match (free, ours) {
            (true, _) => self.with_status(status, response),
            (false, true) => {
                let response = self.refuse(Refusal::StillUnknown);
                self.with_status("unknown", response)
            }
            (false, false) => self.with_status("unknown", response),
        }
    }

    /// Answers with what stands under a key that another has taken.
    async fn follow<R>(&mut self, id: &RecordId, fingerprint: Fingerprint) -> Response<ResponseBody<R>> {
        let terms = self.settings.policy.terms.clone();
        let begun = Box::pin(self.settings.ledger.follow(id, fingerprint, &terms)).await;
        self.answer_duplicate(begun)
    }
}
