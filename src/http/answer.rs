//! What a service's response says of the execution.

use std::borrow::Cow;
use std::error::Error;
use std::io;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use tracing::warn;

use super::attempt::{Disposition, IDEMPOTENCY_OUTCOME, IDEMPOTENCY_REPLAYED, IDEMPOTENCY_STATUS, NOT_EXECUTED};
use super::body::ResponseBody;
use super::budget::Budget;
use super::collect::{Collected, Excess, Rewound, Room, Stopped, collect};
use super::policy::Policy;
use super::refusal::{Refusal, Refused};
use super::replay::{Recorded, Recording, keep_end_to_end, remove_hop_by_hop, split_dropped};
use crate::ledger::claim::Outcome;

type BoxError = Box<dyn Error + Send + Sync>;

/// Below this many bytes an outcome is no larger than what a store has to take anyway, and an answer is held whether or
/// not there is room: nobody shall lose it because others upload.
const SMALL: usize = 16 * 1024;

/// What a service's response says, and the response as it goes to the first client.
pub(super) enum Answer<R> {
    /// It took effect, and this is to be recorded.
    Executed { outcome: Outcome, response: Response<ResponseBody<R>> },
    /// It did not; the status says who knows.
    NotExecuted { status: &'static str, response: Response<ResponseBody<R>> },
    /// Nobody can tell.
    Unknown { reason: Cow<'static, str>, response: Response<ResponseBody<R>> },
    /// It ran, but the answer broke off.
    Broken { reason: &'static str, refusal: Refusal },
}

/// What the head of a response says of the execution.
pub(super) enum Word {
    /// It took effect.
    Executed,
    /// It did not; `released`, or the code of a refusal of ours.
    NotExecuted(&'static str),
    /// Nobody can tell, for this reason.
    Unknown(Cow<'static, str>),
}

/// Reads the head of a response: the handler's word first, then the header's, then what the policy takes a status for.
pub(super) fn word(policy: &Policy, response: &Response<impl Body>) -> Word {
    let ours = response.extensions().get::<Refused>();
    match response.extensions().get::<Disposition>() {
        Some(Disposition::NotExecuted) => return Word::NotExecuted(ours.map_or("released", |refused| refused.code)),
        Some(Disposition::Unknown(reason)) => return Word::Unknown(Cow::Borrowed(reason)),
        None => {}
    }
    if says_not_executed(response.headers()) || policy.release_status.contains(response.status()) {
        return Word::NotExecuted("released");
    }
    if policy.unknown_status.contains(response.status()) {
        return Word::Unknown(Cow::Owned(format!("status {}", response.status().as_u16())));
    }
    Word::Executed
}

fn says_not_executed(headers: &HeaderMap) -> bool {
    headers.get(IDEMPOTENCY_OUTCOME).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(NOT_EXECUTED.as_bytes()))
}

/// Reads a response as far as it is recorded.
pub(super) async fn capture<R>(response: Response<R>, policy: &Policy, budget: &Budget) -> Answer<R>
where
    R: Body<Data = Bytes> + Unpin,
    R::Error: Into<BoxError>,
{
    let word = word(policy, &response);
    let (head, body) = response.into_parts();
    let read = match is_event_stream(&head.headers) {
        // It has no end to wait for.
        true => Err(Stopped::TooMuch(
            Excess::Limit,
            Rewound { spooled: None, front: Vec::new(), reserved: budget.reserve_none(), rest: body },
        )),
        false => {
            let room = Room { limit: policy.max_response_body, budget, overdraft_bytes: SMALL, spool: None };
            collect(body, room, |_| {}).await
        }
    };
    match read {
        Ok(collected) => whole(word, head, collected, policy),
        Err(Stopped::TooMuch(excess, rewound)) => {
            if excess == Excess::Room {
                warn!(route = %policy.terms.route, "no room is left in the buffers to hold an answer: it is not stored");
            }
            too_large(word, head, rewound)
        }
        Err(Stopped::Failed(error)) => broken(error.into()),
    }
}

fn whole<R>(word: Word, mut head: Parts, collected: Collected, policy: &Policy) -> Answer<R> {
    let ours = head.extensions.get::<Refused>().is_some();
    let dropped = match ours {
        true => HeaderMap::new(),
        false => {
            keep_end_to_end(&mut head.headers);
            split_dropped(&mut head.headers, &policy.replay_drop_headers)
        }
    };
    let mut recording = Recording {
        status: head.status,
        headers: head.headers,
        chunks: collected.chunks,
        trailers: collected.trailers.map(|trailers| kept_trailers(trailers, policy)),
    };
    let bytes = match word {
        // Of what is recorded and sent, one copy is in memory.
        Word::Executed => recording.encode_and_share(),
        Word::NotExecuted(_) | Word::Unknown(_) => Bytes::new(),
    };
    let fallback = (bytes.len() > SMALL).then(|| Box::new(not_stored(head.status, &recording.headers)));
    let mut response = recording.deliver(Some(collected.reserved));
    response.headers_mut().extend(dropped);
    *response.extensions_mut() = head.extensions;
    word.of(Outcome { bytes, status: head.status.as_u16(), remark: "", fallback }, response)
}

fn not_stored(status: StatusCode, headers: &HeaderMap) -> Outcome {
    let bytes = Recorded::encode_not_stored(status, headers);
    Outcome { bytes, status: status.as_u16(), remark: "response-not-stored", fallback: None }
}

fn too_large<R>(word: Word, mut head: Parts, rewound: Rewound<R>) -> Answer<R> {
    remove_ours(&mut head.headers);
    let outcome = not_stored(head.status, &head.headers);
    word.of(outcome, Response::from_parts(head, ResponseBody::rewound(rewound)))
}

/// It ran, the answer is lost.
fn broken<R>(error: BoxError) -> Answer<R> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return Answer::Broken { reason: "upstream-timeout", refusal: Refusal::UpstreamTimeout };
        }
        cause = error.source();
    }
    Answer::Broken { reason: "upstream-lost", refusal: Refusal::UpstreamLost }
}

impl Word {
    fn of<R>(self, outcome: Outcome, response: Response<ResponseBody<R>>) -> Answer<R> {
        match self {
            Word::Executed => Answer::Executed { outcome, response },
            Word::NotExecuted(status) => Answer::NotExecuted { status, response },
            Word::Unknown(reason) => Answer::Unknown { reason, response },
        }
    }
}

/// Trailers are fields too: what is not kept of them is not kept there either.
fn kept_trailers(mut trailers: HeaderMap, policy: &Policy) -> HeaderMap {
    remove_ours(&mut trailers);
    remove_hop_by_hop(&mut trailers);
    split_dropped(&mut trailers, &policy.replay_drop_headers);
    trailers
}

/// Takes the fields out of a response that only this layer may set.
pub(super) fn remove_ours(headers: &mut HeaderMap) {
    // Most messages have none of them: one pass over the names is cheaper than to ask for each.
    if !headers.keys().any(|name| name.as_str().starts_with("idempotency-")) {
        return;
    }
    for name in [IDEMPOTENCY_REPLAYED, IDEMPOTENCY_STATUS, IDEMPOTENCY_OUTCOME] {
        headers.remove(name);
    }
}

/// Whether a response has no end to wait for.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let kind = value.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}
