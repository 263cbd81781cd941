//! Forwarding: one request, one exchange with the upstream, and what a failure says of the execution.
//!
//! | what happened | what is known |
//! |---|---|
//! | no connection | not executed |
//! | the connection ended, and no byte was written since it was taken | not executed: once more on a new connection |
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
use crate::http::attempt::{Attempt, Disposition, IDEMPOTENCY_OUTCOME, UpstreamTime};
use crate::http::body::{ClientBodyError, RequestBody};
use crate::http::policy::Policy;
use crate::http::refusal::Refusal;
use crate::http::upgrade;
use crate::proxy::connection::body::ClientBody;
use crate::proxy::headers::remove_hop_by_hop;
use crate::proxy::tunnel::{Switched, UpstreamEnd};
use crate::proxy::upstream::body::{Patience, Progress, Sent, UpstreamBody};
use crate::proxy::upstream::pool::{Lease, NoConnection, Pool, Want};
use crate::proxy::upstream::socket::Traffic;

/// Forwards requests to one upstream.
#[derive(Clone)]
pub struct Forward {
    pool: Pool<Sent>,
    policy: Arc<Policy>,
}

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
        frame_as_http1(&mut request);
        let protocols = request.headers().get(UPGRADE).cloned();
        let began = Instant::now();
        let mut want = Want::Any;
        loop {
            let mut lease = match self.pool.lease(want).await {
                Ok(lease) => lease,
                Err(error) => return self.not_reached(&error),
            };
            failpoint::reach("connected");
            if attempt.as_ref().is_some_and(|attempt| !attempt.may_start()) {
                return self.refuse(Refusal::ClaimLost, Disposition::NotExecuted);
            }
            let spare = if lease.is_reused && attempt.is_some() { copy_of(&request) } else { None };
            let written_bytes = lease.traffic().written_bytes();
            let progress = request.body().progress();
            let answer = lease.send(*request);
            let failure = match head(lease.traffic(), progress, answer, spec.response_timeout).await {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return self.switch(response, lease, began, protocols);
                }
                Ok(response) => return self.deliver(response, lease, began, attempt.is_some()),
                Err(failure) => failure,
            };
            let is_unsent = lease.traffic().written_bytes() == written_bytes;
            let mut error = match failure {
                // Also when no byte has left yet: the connection still stands, and what it holds may leave later.
                Failure::Timeout => {
                    warn!(upstream = %spec.name, "no answer in time");
                    return self.refuse(Refusal::UpstreamTimeout, Disposition::Unknown("upstream-timeout"));
                }
                Failure::Broken(error) => error,
            };
            match error.take_message().or(spare) {
                Some(unsent) if is_unsent && lease.is_reused => {
                    debug!(upstream = %spec.name, "an idle connection had ended; the request goes over a new one");
                    *request = unsent;
                    want = Want::Fresh;
                }
                _ => return self.broken(error.error(), is_unsent),
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

    fn broken(&self, error: &hyper::Error, is_unsent: bool) -> Response<UpstreamBody> {
        if let Some(refusal) = clients_fault(error) {
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
        began: Instant,
        is_protected: bool,
    ) -> Response<UpstreamBody> {
        let spec = self.pool.spec();
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
        let max_held_bytes = self.policy.max_response_body as u64;
        let is_held =
            is_protected && incoming.size_hint().lower() <= max_held_bytes && !is_event_stream(&parts.headers);
        let deadline = lease.traffic().last_write() + spec.response_timeout;
        let patience =
            Patience { between_chunks: spec.response_timeout, held: is_held.then_some((deadline, max_held_bytes)) };
        Response::from_parts(parts, UpstreamBody::new(incoming, lease, idle_for, patience, took))
    }
}

/// The version and framing of the connection that a request goes out on, whichever it came in on: a body of a length
/// that nobody told is chunked. hyper would leave it out.
fn frame_as_http1(request: &mut Request<Sent>) {
    *request.version_mut() = Version::HTTP_11;
    let body = request.body();
    let has_length = body.is_end_stream() || body.size_hint().exact().is_some();
    if !has_length {
        request.headers_mut().remove(CONTENT_LENGTH);
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
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

/// Waits for the response's head, for so long from the last byte that was written.
async fn head(
    traffic: &Traffic,
    progress: Progress,
    answer: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Sent>>>>,
    limit: Duration,
) -> Result<Response<Incoming>, Failure> {
    let mut deadline = Instant::now() + limit;
    let mut answer = pin!(answer);
    loop {
        match timeout_at(deadline, answer.as_mut()).await {
            Ok(answer) => return answer.map_err(|error| Failure::Broken(Box::new(error))),
            // The client's own time limit ends this.
            Err(_) if progress.waits_for_client() => deadline = Instant::now() + limit,
            Err(_) => {
                let counted_from_last_byte = traffic.last_write() + limit;
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
    Some(copy)
}

/// The refusal for a body that the client did not bring to its end.
fn clients_fault(error: &hyper::Error) -> Option<Refusal> {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(fault) = error.downcast_ref::<ClientBodyError>() {
            return Some(match fault {
                ClientBodyError::TooSlow => Refusal::RequestTimeout,
                ClientBodyError::Broken(_) | ClientBodyError::Gone => {
                    Refusal::BadRequest("The request body is not what its framing promised.".into())
                }
            });
        }
        cause = error.source();
    }
    None
}

/// How long the server keeps an idle connection, less a second so that it is not the first to close it.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("keep-alive")?.to_str().ok()?;
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
