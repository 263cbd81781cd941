//! A client of a running proxy's admin listener: one connection per call, and a time limit on all of it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Failure, output};

/// The longest time of one call.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes: a page of records with room to spare.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A client of one admin listener.
pub(super) struct Client {
    authority: Authority,
    authorization: Option<HeaderValue>,
}

/// What it answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Client {
    /// A client of the listener at an address, `HOST:PORT`.
    pub(super) fn new(address: &str, token: Option<&SecretString>) -> Result<Client, Failure> {
        let bare = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        let authority = bare
            .parse()
            .ok()
            .filter(|authority: &Authority| authority.port_u16().is_some() && !bare.contains('@'))
            .ok_or_else(|| {
                Failure::Wrong(format!("`--admin`: {address:?} is not an address such as 127.0.0.1:9180"))
            })?;
        let authorization = token
            .map(|token| HeaderValue::try_from(format!("Bearer {}", token.expose_secret())))
            .transpose()
            .map_err(|_| Failure::Wrong("the admin token has characters that no header can carry".to_owned()))?;
        Ok(Client { authority, authorization })
    }

    /// Who is asked.
    pub(super) fn address(&self) -> &str {
        self.authority.as_str()
    }

    /// Reads a page.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.call(Method::GET, path, None).await
    }

    /// Sends a document.
    pub(super) async fn post(&self, path: &str, document: &Value) -> Result<Answer, Failure> {
        self.call(Method::POST, path, Some(document)).await
    }

    async fn call(&self, method: Method, path: &str, document: Option<&Value>) -> Result<Answer, Failure> {
        match timeout(TIME_LIMIT, self.exchange(method, path, document)).await {
            Ok(answered) => answered,
            Err(_) => Err(Failure::Failed(format!("{} did not answer within {TIME_LIMIT:?}", self.address()))),
        }
    }

    async fn exchange(&self, method: Method, path: &str, document: Option<&Value>) -> Result<Answer, Failure> {
        let broken = |error: &dyn std::error::Error| {
            Failure::Failed(format!("{} did not answer as an admin listener does: {error}", self.address()))
        };
        let host = self.authority.host().trim_matches(['[', ']']);
        let port = self.authority.port_u16().unwrap_or_default();
        let stream = TcpStream::connect((host, port)).await.map_err(|error| {
            Failure::Failed(format!("cannot reach the admin listener at {}: {error}", self.address()))
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // It ends with the exchange; what went wrong with it is told by the sender.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.authority.as_str());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if document.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(document.map(|document| Bytes::from(document.to_string())).unwrap_or_default());
        let request = request.body(body).map_err(|error| broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| broken(&*error))?
            .to_bytes();
        Ok(Answer { status, body })
    }
}

impl Answer {
    /// The document of an answer that went well; another one is a failure that says why.
    pub(super) fn document(&self, client: &Client) -> Result<Value, Failure> {
        let document: Value = serde_json::from_slice(&self.body).map_err(|_| {
            Failure::Failed(format!(
                "{} answers {} and no JSON: it is not an admin listener of onceproxy",
                client.address(),
                self.status
            ))
        })?;
        match self.status.is_success() {
            true => Ok(document),
            false => Err(Failure::Failed(refusal(self.status, &document))),
        }
    }
}

/// A problem document in a sentence, with the present state of the record that it is about.
fn refusal(status: StatusCode, problem: &Value) -> String {
    let detail = problem["detail"].as_str().unwrap_or("no reason was given");
    let mut text = format!("refused ({}): {}", status.as_u16(), output::plain(detail));
    if status == StatusCode::UNAUTHORIZED {
        text.push_str("\nthe token is read from ONCEPROXY_ADMIN_TOKEN, else from ./onceproxy.token");
    }
    let record = &problem["record"];
    if let (Some(state), Some(attempt)) = (record["state"].as_str(), record["attempt"].as_u64()) {
        text.push_str(&format!("\nthe record is {} now, at attempt {attempt}", output::plain(state)));
    }
    text
}
