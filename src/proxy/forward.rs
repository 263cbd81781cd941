//! Forwarding: one request, one exchange with the upstream, and what a failure says of the execution.
//!
//! | what happened | what is known |
//! |---|---|
//! | no connection | not executed |
//! | a new connection ended, since the upstream did not take our certificate | not executed |
//! | HTTP/1: the connection ended, and no byte was written since it was taken | not executed: once more on a new connection |
//! | HTTP/2: the upstream says that the stream was not processed, or it was never begun | likewise |
//! | anything else before the response's head | unknown |

use std::convert::Infallible;
use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;
use tracing::{debug, warn};

use crate::failpoint;
use crate::http::answer::is_event_stream;
use crate::http::attempt::{Attempt, Disposition, Hold, IDEMPOTENCY_OUTCOME, UpstreamTime};
use crate::http::body::{ClientBodyError, RequestBody};
use crate::http::policy::Policy;
use crate::http::refusal::Refusal;
use crate::http::upgrade;
use crate::proxy::connection::body::ClientBody;
use crate::proxy::headers::{KEEP_ALIVE, remove_hop_by_hop};
use crate::proxy::tunnel::{Switched, UpstreamEnd};
use crate::proxy::upstream::body::{Patience, Progress, Sent, UpstreamBody};
use crate::proxy::upstream::frame::{TakesTrailers, frame};
use crate::proxy::upstream::lease::{Lease, LeaseVersion};
use crate::proxy::upstream::pool::{NoConnection, Pool, Want};

/// Forwards requests to one upstream.
#[derive(Clone)]
pub struct Forward {
    pool: Pool<Sent>,
    policy: Arc<Policy>,
}

/// How often a request is tried that is proven not to have been sent.
const TRIES: u32 = 3;

enum Failure {
    /// The response's head did not come in time.
    Timeout,
    /// The connection failed.
    Broken(Box<TrySendError<Request<Sent>>>),
}

impl Forward {
    /// Forwards a route's requests over a pool.
    pub fn new(pool: Pool<Sent>, policy: Arc<Policy>) -> Forward {
        Forward { pool, policy }
    }

    async fn exchange(self, mut request: Box<Request<Sent>>) -> Response<UpstreamBody> {
        let spec = self.pool.spec();
        let attempt = request.extensions_mut().remove::<Attempt>();
        if !spec.preserve_host || !request.headers().contains_key(HOST) {
            match HeaderValue::from_str(&spec.authority) {
                Ok(host) => drop(request.headers_mut().insert(HOST, host)),
                Err(_) => return self.refuse(Refusal::UpstreamNotReached, Disposition::NotExecuted),
            }
        }
        let began = Instant::now();
        let mut want = Want::Any;
        let mut tries_left = TRIES;
        loop {
            tries_left -= 1;
            // Kept, in case that the connection turns out to have ended.
            let spare = if tries_left > 0 && attempt.is_some() { copy_of(&request) } else { None };
            if spare.is_some() && want == Want::Any {
                want = Want::AnyUnseen;
            }
            let mut lease = match self.pool.lease(want).await {
                Ok(lease) => lease,
                Err(error) => return self.not_reached(&error),
            };
            failpoint::reach("connected");
            let taken = Instant::now();
            if attempt.as_ref().is_some_and(|attempt| !attempt.may_start()) {
                return self.refuse(Refusal::ClaimLost, Disposition::NotExecuted);
            }
            let may_repeat = lease.is_reused && tries_left > 0;
            frame(&mut request, lease.version(), spec);
            let protocols = request.headers().get(UPGRADE).cloned();
            let written_bytes = lease.traffic().written_bytes();
            let progress = request.body().progress();
            let answer = lease.send(*request);
            let failure = match head(&lease, &progress, answer, taken, spec.response_timeout).await {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return self.switch(response, lease, began, protocols);
                }
                Ok(response) => return self.deliver(response, lease, &progress, began, attempt.is_some()),
                Err(failure) => failure,
            };
            let mut error = match failure {
                // Also when no byte has left yet: the connection still stands, and what it holds may leave later.
                Failure::Timeout => {
                    warn!(upstream = %spec.name, "no answer in time");
                    lease.retire();
                    return self.refuse(Refusal::UpstreamTimeout, Disposition::Unknown("upstream-timeout"));
                }
                Failure::Broken(error) => error,
            };
            let is_unsent = match lease.version() {
                LeaseVersion::Http1 => lease.traffic().written_bytes() == written_bytes,
                // Others write on the connection too: a request that comes back was never begun.
                LeaseVersion::Http2 => error.message().is_some() || is_refused_stream(error.error()),
            };
            match error.take_message().or(spare) {
                Some(unsent) if is_unsent && may_repeat => {
                    debug!(upstream = %spec.name, "the connection took no more requests; this one goes over another");
                    *request = unsent;
                    want = Want::Newer(taken);
                }
                _ => match lease.traffic().refusal_of_us() {
                    Some(error) => return self.turned_away(&error),
                    None => return self.broken(error.error(), progress.clients_fault(), is_unsent),
                },
            }
        }
    }

    fn refuse(&self, refusal: Refusal, disposition: Disposition) -> Response<UpstreamBody> {
        let mut response = refusal.into_response(self.policy.docs_url.as_deref()).map(UpstreamBody::refusal);
        if matches!(disposition, Disposition::Unknown(_)) {
            // A part was sent: a proxy before this one must not take its key for free.
            response.headers_mut().remove(IDEMPOTENCY_OUTCOME);
        }
        response.extensions_mut().insert(disposition);
        response
    }

    fn not_reached(&self, error: &NoConnection) -> Response<UpstreamBody> {
        warn!(upstream = %self.pool.spec().name, %error, "the upstream was not reached");
        let refusal = match error {
            NoConnection::Connect(_) => Refusal::UpstreamNotReached,
            NoConnection::Busy => Refusal::Overloaded,
        };
        self.refuse(refusal, Disposition::NotExecuted)
    }

    fn turned_away(&self, error: &rustls::Error) -> Response<UpstreamBody> {
        warn!(upstream = %self.pool.spec().name, %error, "the upstream does not take our certificate, or wants one");
        self.refuse(Refusal::UpstreamNotReached, Disposition::NotExecuted)
    }

    fn broken(&self, error: &hyper::Error, fault: Option<&ClientBodyError>, is_unsent: bool) -> Response<UpstreamBody> {
        if let Some(fault) = fault {
            let refusal = refusal_for_fault(fault);
            let disposition = if is_unsent { Disposition::NotExecuted } else { Disposition::Unknown("client-body") };
            return self.refuse(refusal, disposition);
        }
        warn!(upstream = %self.pool.spec().name, %error, is_unsent, "the exchange broke off");
        match is_unsent {
            true => self.refuse(Refusal::UpstreamNotReached, Disposition::NotExecuted),
            false => self.refuse(Refusal::UpstreamLost, Disposition::Unknown("upstream-lost")),
        }
    }

    /// The head of an answer after which the connection speaks another protocol.
    fn switch(
        &self,
        mut response: Response<Incoming>,
        lease: Lease<Sent>,
        began: Instant,
        protocols: Option<HeaderValue>,
    ) -> Response<UpstreamBody> {
        let spec = self.pool.spec();
        let socket = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        if !protocols.is_some_and(|protocols| upgrade::is_one_of(&protocols, &parts.headers)) {
            // Nobody asked for it: what follows is not HTTP.
            warn!(upstream = %spec.name, "the upstream switched protocols unasked");
            return self.refuse(Refusal::UpstreamLost, Disposition::Unknown("upstream-lost"));
        }
        let chosen: Vec<HeaderValue> = parts.headers.get_all(UPGRADE).iter().cloned().collect();
        remove_hop_by_hop(&mut parts.headers);
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.extend(chosen.into_iter().map(|protocol| (UPGRADE, protocol)));
        parts.extensions.insert(Switched::new(UpstreamEnd::new(socket, lease, spec.response_timeout)));
        Response::from_parts(parts, UpstreamBody::empty(began.elapsed()))
    }

    fn deliver(
        &self,
        response: Response<Incoming>,
        lease: Lease<Sent>,
        progress: &Progress,
        began: Instant,
        is_protected: bool,
    ) -> Response<UpstreamBody> {
        let spec = self.pool.spec();
        if has_unknown_coding(response.headers()) {
            warn!(upstream = %spec.name, "the upstream's answer is in a transfer coding that nobody asked for");
            return self.refuse(Refusal::UpstreamLost, Disposition::Unknown("upstream-lost"));
        }
        lease.traffic().answered();
        let (mut parts, incoming) = response.into_parts();
        parts.version = Version::HTTP_11;
        settle_length(&mut parts.headers, &incoming);
        let idle_for = keep_alive(&parts.headers).unwrap_or(spec.idle_timeout);
        remove_hop_by_hop(&mut parts.headers);
        let took = began.elapsed();
        if is_protected {
            // The layer keeps the body and hands on the rest.
            parts.extensions.insert(UpstreamTime(took));
        }
        let is_small = incoming.size_hint().lower() <= self.policy.max_response_body as u64;
        let is_held = is_protected && is_small && !is_event_stream(&parts.headers);
        let deadline = last_byte(&lease, progress) + spec.response_timeout;
        let held = is_held.then(Hold::new);
        if let Some(hold) = &held {
            parts.extensions.insert(hold.clone());
        }
        let patience = Patience { between_chunks: spec.response_timeout, held: held.map(|hold| (deadline, hold)) };
        Response::from_parts(parts, UpstreamBody::new(incoming, lease, idle_for, patience, took))
    }
}

/// Whether a response's body is anything but chunked or plain: to pass it on as it is would pass it on broken (RFC 9112
/// section 6.1).
fn has_unknown_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    // Some servers say it twice and do it once, which is how it is read.
    codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// What a response's head says of its length, where it says it twice (RFC 9112 section 6.3).
fn settle_length(headers: &mut HeaderMap, body: &Incoming) {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let is_plain = match (lengths.next(), lengths.next()) {
        (Some(length), None) => !length.as_bytes().contains(&b','),
        (None, _) => true,
        (Some(_), Some(_)) => false,
    };
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    } else if !is_plain {
        match body.size_hint().exact() {
            Some(length) => drop(headers.insert(CONTENT_LENGTH, length.into())),
            None => drop(headers.remove(CONTENT_LENGTH)),
        }
    }
}

/// When the last part of a request was handed on.
fn last_byte(lease: &Lease<Sent>, progress: &Progress) -> Instant {
    match lease.version() {
        LeaseVersion::Http1 => lease.traffic().last_write(),
        LeaseVersion::Http2 => progress.last_move(),
    }
}

/// Waits for the response's head, for so long from the last byte that was written.
async fn head(
    lease: &Lease<Sent>,
    progress: &Progress,
    answer: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Sent>>>>,
    began: Instant,
    limit: Duration,
) -> Result<Response<Incoming>, Failure> {
    let mut deadline = began + limit;
    let mut answer = pin!(answer);
    loop {
        match timeout_at(deadline, answer.as_mut()).await {
            Ok(answer) => return answer.map_err(|error| Failure::Broken(Box::new(error))),
            // The client's own time limit ends this.
            Err(_) if progress.waits_for_client() => deadline = Instant::now() + limit,
            Err(_) => {
                let counted_from_last_byte = last_byte(lease, progress) + limit;
                if counted_from_last_byte <= Instant::now() {
                    return Err(Failure::Timeout);
                }
                deadline = counted_from_last_byte;
            }
        }
    }
}

/// The request once more, where its body has been kept.
fn copy_of(request: &Request<Sent>) -> Option<Request<Sent>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    if let Some(takes_trailers) = request.extensions().get::<TakesTrailers>() {
        copy.extensions_mut().insert(*takes_trailers);
    }
    Some(copy)
}

/// The refusal for a body that the client did not bring to its end.
fn refusal_for_fault(fault: &ClientBodyError) -> Refusal {
    match fault {
        ClientBodyError::TooSlow => Refusal::RequestTimeout,
        ClientBodyError::Broken(_) | ClientBodyError::Gone => {
            Refusal::BadRequest("The request body is not what its framing promised.".into())
        }
    }
}

/// Whether the upstream says of an HTTP/2 stream that it was not processed: by REFUSED_STREAM, or by a GOAWAY whose last
/// stream comes before it (RFC 9113 section 8.7).
fn is_refused_stream(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (is_refused || error.is_go_away());
        }
        cause = error.source();
    }
    false
}

/// How long the server keeps an idle connection, less a second so that it is not the first to close it.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let seconds = text.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u64>().ok())?;
    Some(Duration::from_secs(seconds.saturating_sub(1)))
}

impl Service<Request<RequestBody<ClientBody>>> for Forward {
    type Response = Response<UpstreamBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<UpstreamBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<ClientBody>>) -> Self::Future {
        // Boxed by itself: a future has room for each place that a request passes through.
        let request = Box::new(request.map(Sent::new));
        let forward = self.clone();
        Box::pin(async move { Ok(forward.exchange(request).await) })
    }
}
