//! The admin listener's server.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use super::Admin;
use super::problem::Problem;
use crate::ledger::store::Severity;
use crate::scope::RecordId;

/// The largest body of a call, in bytes: an outcome in base64 and some more.
const MAX_BODY_BYTES: usize = 16 << 20;
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest life of a connection; who has more to ask connects again.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);

const INDEX: &str = "onceproxy admin\n\n/live\n/ready\n/metrics\n/api/v1/records?state=unknown\n";

/// Serves until `shutdown`.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => return,
        };
        let Ok((socket, _)) = accepted else {
            // Out of file descriptors, most likely: they come back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let admin = admin.clone();
                async move { Ok::<_, Infallible>(admin.answer(request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(socket), service);
            // A client that reads nothing must not keep others away for ever.
            if let Ok(Err(error)) = timeout(CONNECTION_LIFE, served).await {
                debug!(%error, "an admin connection ended early");
            }
            drop(place);
        });
    }
}

impl Admin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.route(request).await.unwrap_or_else(Problem::into_response)
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Problem> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let Some(call) = path.strip_prefix("/api/v1/") else {
            let page = match path {
                "/" => text(StatusCode::OK, INDEX.to_owned()),
                "/live" => text(StatusCode::OK, "live\n".to_owned()),
                "/ready" => self.ready().await,
                "/metrics" => self.exposition(),
                _ => return Err(Problem::NotFound),
            };
            return match parts.method {
                Method::GET | Method::HEAD => Ok(page),
                _ => Err(Problem::MethodNotAllowed("GET")),
            };
        };
        self.authorize(&parts.headers)?;
        let steps: Vec<&str> = call.split('/').collect();
        let (allowed, change) = match steps.as_slice() {
            ["records"] | ["records", _] => ("GET", false),
            ["lookup"] => ("POST", false),
            ["records", _, "release" | "settle"] | ["reload"] => ("POST", true),
            _ => return Err(Problem::NotFound),
        };
        if parts.method.as_str() != allowed {
            return Err(Problem::MethodNotAllowed(allowed));
        }
        if change && self.desk.now().token.is_none() {
            return Err(Problem::ChangesNeedToken);
        }
        let body = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await;
        let body = body.map_err(|_| Problem::TooSlow)?.map_err(|_| Problem::TooLarge)?.to_bytes();
        let id = |text: &str| text.parse::<RecordId>().map_err(|_| Problem::NotFound);
        let value = match steps.as_slice() {
            ["records"] => self.list(parts.uri.query().unwrap_or_default()).await?,
            ["lookup"] => self.lookup(&body).await?,
            ["records", text] => self.show(&id(text)?).await?,
            ["records", text, "release"] => self.release(&id(text)?, &body).await?,
            ["records", text, "settle"] => self.settle(&id(text)?, &body).await?,
            _ => self.reload().await?,
        };
        Ok(json(StatusCode::OK, &value))
    }

    fn authorize(&self, headers: &http::HeaderMap) -> Result<(), Problem> {
        let desk = self.desk.now();
        let Some(token) = &desk.token else { return Ok(()) };
        let sent = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let sent = sent.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        match sent.is_some_and(|(_, sent)| bool::from(sent.ct_eq(token.as_bytes()))) {
            true => Ok(()),
            false => Err(Problem::Unauthorized),
        }
    }

    /// Looks at the store now: reachable, and set up so that it may be used.
    async fn ready(&self) -> Response<Full<Bytes>> {
        if self.is_draining.load(Ordering::Acquire) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "not ready: draining\n".to_owned());
        }
        match self.ledger.store().preflight().await {
            Ok(findings) => match findings.iter().find(|finding| finding.severity >= Severity::Unready) {
                None => text(StatusCode::OK, "ready\n".to_owned()),
                Some(finding) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", finding.text)),
            },
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")),
        }
    }

    fn exposition(&self) -> Response<Full<Bytes>> {
        self.metrics.tell_alarms(self.ledger.alarms());
        let mut response = text(StatusCode::OK, self.metrics.render());
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
        response
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text)
}

fn json(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", value.to_string())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
