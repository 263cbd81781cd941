//! gRPC through the proxy, with a real client and a real server (H30).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onceproxy::proxy::upstream::Transport;
use tokio::net::TcpListener;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::raw::{Proxy, Setup};

/// Messages that are bytes, so that no schema is compiled.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// What the server does with a call.
#[derive(Clone, Default)]
struct Bank {
    charges: Arc<AtomicUsize>,
}

impl tower::Service<Request<Bytes>> for Bank {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let number = self.charges.fetch_add(1, Ordering::AcqRel) + 1;
        std::future::ready(match request.get_ref().as_ref() {
            b"broke" => Err(Status::failed_precondition("no money")),
            _ => Ok(Response::new(Bytes::from(format!("charge {number}")))),
        })
    }
}

/// Counts to the number that is asked for.
#[derive(Clone)]
struct Counter;

impl tower::Service<Request<Bytes>> for Counter {
    type Response = Response<Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let count: u32 = String::from_utf8_lossy(request.get_ref()).parse().unwrap_or_default();
        let messages = (0..count).map(|n| Ok(Bytes::from(n.to_string())));
        std::future::ready(Ok(Response::new(Box::pin(stream::iter(messages)))))
    }
}

async fn serve(bank: Bank) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            let bank = bank.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let bank = bank.clone();
                async move {
                    let mut grpc = tonic::server::Grpc::new(Raw);
                    Ok::<_, std::convert::Infallible>(match request.uri().path() {
                        "/bank.Bank/Charge" => grpc.unary(bank, request).await,
                        _ => grpc.server_streaming(Counter, request).await,
                    })
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
        }
    });
    port
}

async fn proxied(bank: &Bank) -> (Proxy, Grpc<Channel>) {
    let port = serve(bank.clone()).await;
    let proxy = Setup::new()
        .upstream(|spec| {
            spec.transport = Transport::H2c;
            spec.port = port;
        })
        .start();
    let endpoint = Endpoint::from_shared(format!("http://{}", proxy.address)).expect("an address");
    let client = Grpc::new(endpoint.connect().await.expect("the proxy speaks HTTP/2"));
    (proxy, client)
}

async fn charge(client: &mut Grpc<Channel>, key: &str, message: &'static str) -> Result<Response<Bytes>, Status> {
    client.ready().await.expect("the channel stands");
    let mut request = Request::new(Bytes::from_static(message.as_bytes()));
    request.metadata_mut().insert("idempotency-key", key.parse().expect("ASCII"));
    client.unary(request, PathAndQuery::from_static("/bank.Bank/Charge"), Raw).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unary_call_takes_effect_once_and_its_replay_has_its_trailers_h30() {
    let bank = Bank::default();
    let (_proxy, mut client) = proxied(&bank).await;
    for status in ["executed", "replayed", "replayed"] {
        let answer = charge(&mut client, "k", "100").await.expect("grpc-status 0 arrives");
        assert_eq!(answer.get_ref(), "charge 1");
        assert_eq!(answer.metadata().get("idempotency-status").expect("a status"), status);
    }
    assert_eq!(bank.charges.load(Ordering::Acquire), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_service_is_replayed_as_that_error_h30() {
    let bank = Bank::default();
    let (_proxy, mut client) = proxied(&bank).await;
    for _ in 0..2 {
        let error = charge(&mut client, "k", "broke").await.expect_err("an error");
        assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "no money"));
    }
    assert_eq!(bank.charges.load(Ordering::Acquire), 1);
    let reused = charge(&mut client, "k", "100").await.expect_err("another message");
    // A problem document is no gRPC message: the client says so, and which status it came with.
    assert_eq!(reused.code(), Code::Internal);
    assert!(reused.message().contains("422"), "{reused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_the_server_passes_h30() {
    let (_proxy, mut client) = proxied(&Bank::default()).await;
    client.ready().await.expect("the channel stands");
    let request = Request::new(Bytes::from_static(b"1000"));
    let answer = client.server_streaming(request, PathAndQuery::from_static("/bank.Bank/Count"), Raw).await;
    let messages: Vec<_> =
        answer.expect("a stream").into_inner().map(|message| message.expect("a message")).collect().await;
    assert_eq!(messages.len(), 1000);
    assert_eq!(messages[999], "999");
}
