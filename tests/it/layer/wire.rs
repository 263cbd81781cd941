//! A hyper server and clients over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onceproxy::http::body::ResponseBody;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::layer::stand::{Answer, Body, BoxError, Failed, Handler};

/// The version of HTTP that a test speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    Http1,
    Http2,
}

/// A server that hears when one of its exchanges is given up.
pub struct Server {
    pub address: SocketAddr,
    pub gone: Arc<Notify>,
}

/// Rings when it is dropped before the exchange has its answer.
struct Exchange(Option<Arc<Notify>>);

impl Exchange {
    fn is_answered(&mut self) {
        self.0 = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(gone) = self.0.take() {
            gone.notify_one();
        }
    }
}

type Answered = BoxFuture<'static, Result<Response<ResponseBody<Body>>, Failed>>;

fn boxed(body: Incoming) -> Body {
    body.map_err(|error| -> BoxError { Box::new(error) }).boxed_unsync()
}

/// Serves a layer on a free port, until the test's runtime ends.
pub async fn serve(service: onceproxy::Idempotency<Handler>, speech: Speech) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let gone = Arc::new(Notify::new());
    let rings = gone.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (service, rings) = (service.clone(), rings.clone());
            let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
                let mut exchange = Exchange(Some(rings.clone()));
                let answer: Answered = Box::pin(service.clone().oneshot(request.map(boxed)));
                async move {
                    let response = answer.await;
                    exchange.is_answered();
                    response
                }
            });
            let io = TokioIo::new(socket);
            tokio::spawn(async move {
                match speech {
                    Speech::Http1 => {
                        drop(hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await)
                    }
                    Speech::Http2 => drop(
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, answer)
                            .await,
                    ),
                }
            });
        }
    });
    Server { address, gone }
}

impl Server {
    /// Sends a request over a connection of its own and reads the whole answer.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        Answer::read(self.begin(request).await).await.expect("a whole body")
    }

    /// Sends a request over a connection of its own and reads the answer's head.
    pub async fn begin(&self, mut request: Request<Body>) -> Response<Incoming> {
        let host = self.address.to_string();
        request.headers_mut().insert("host", host.parse().expect("a host"));
        let socket = TcpStream::connect(self.address).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("a handshake");
        tokio::spawn(connection);
        sender.send_request(request).await.expect("an answer")
    }

    /// [`Server::send`] over HTTP/2.
    pub async fn send_http2(&self, mut request: Request<Body>) -> Answer {
        let target = format!("http://{}{}", self.address, request.uri());
        *request.uri_mut() = target.parse().expect("a target");
        let socket = TcpStream::connect(self.address).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
                .await
                .expect("a handshake");
        tokio::spawn(connection);
        let response = sender.send_request(request).await.expect("an answer");
        Answer::read::<Incoming>(response).await.expect("a whole body")
    }
}

/// The bytes of one data frame of a body, which may go on.
pub async fn next_chunk<B>(body: &mut B) -> Bytes
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let frame = body.frame().await.expect("a frame").expect("a frame that is whole");
    frame.into_data().expect("data")
}
