//! HTTP/2 to the upstream, by prior knowledge: what it proves, frame by frame, and that nothing is lost on the way.

mod frames;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onceproxy::proxy::upstream::tls::{ClientTls, Roots};
use onceproxy::proxy::upstream::{Transport, UpstreamSpec};
use tokio::net::{TcpListener, TcpStream};

use self::frames::{Act, FrameUpstream, Then};
use super::raw::{Proxy, Setup};
use crate::support::authority::Authority;
use crate::support::tls_upstream::{Version, server_config};

fn proxy_before(upstream: &FrameUpstream) -> Proxy {
    setup_before(upstream).start()
}

fn setup_before(upstream: &FrameUpstream) -> Setup {
    let port = upstream.address.port();
    Setup::new().upstream(|spec| speak_http2(spec, port))
}

fn speak_http2(spec: &mut UpstreamSpec, port: u16) {
    spec.transport = Transport::H2c;
    spec.port = port;
}

fn keyed(proxy: &Proxy, key: &str) -> super::raw::Message {
    proxy.post("/", &format!("idempotency-key: {key}\r\n"), "x")
}

#[test]
fn a_refused_stream_goes_over_another_connection_h27() {
    let upstream = FrameUpstream::start(|asked| match asked.number {
        // The second one comes over a connection that is used again.
        1 => Act::Refuse,
        _ => Act::Answer,
    });
    // Both requests by one worker.
    let proxy = proxy_before(&upstream);
    let mut connection = proxy.connect();
    for key in ["a", "b"] {
        let answer =
            super::raw::exchange(&mut connection, &super::raw::post("/", &format!("idempotency-key: {key}\r\n"), "x"));
        assert_eq!(answer.one("idempotency-status"), "executed", "{}", answer.text());
    }
    assert_eq!((upstream.asked(), upstream.acted(), upstream.connections()), (3, 2, 2));
}

#[test]
fn a_large_body_whose_stream_was_refused_is_sent_again_from_its_start_h27() {
    let upstream = FrameUpstream::start(|asked| match asked.number {
        1 => Act::Refuse,
        _ => Act::Answer,
    });
    let proxy = proxy_before(&upstream);
    let mut connection = proxy.connect();
    // So large that it lies in a file.
    let body: String = (0..60_000).map(|number| format!("{number},")).collect();
    for (key, body) in [("a", "x"), ("b", &body)] {
        let request = super::raw::post("/", &format!("idempotency-key: {key}\r\n"), body);
        let answer = super::raw::exchange(&mut connection, &request);
        assert_eq!(answer.one("idempotency-status"), "executed", "{}", answer.text());
        assert!(upstream.body() == body.as_bytes());
    }
    assert_eq!((upstream.asked(), upstream.acted()), (3, 2));
}

#[test]
fn a_stream_that_is_always_refused_frees_the_key() {
    let upstream = FrameUpstream::start(|_| Act::Refuse);
    let proxy = proxy_before(&upstream);
    let answer = keyed(&proxy, "k");
    assert_eq!((answer.status(), answer.code().as_str()), (502, "not-executed"));
    assert_eq!(answer.one("idempotency-outcome"), "not-executed");
    upstream.acts(|_| Act::Answer);
    assert_eq!(keyed(&proxy, "k").one("idempotency-status"), "executed");
    assert_eq!(upstream.acted(), 1);
}

#[test]
fn a_stream_behind_the_last_of_a_goaway_goes_over_another_connection_h27() {
    let upstream = FrameUpstream::start(|asked| match asked.number {
        1 => Act::GoAwayBefore,
        _ => Act::Answer,
    });
    let proxy = proxy_before(&upstream);
    let mut connection = proxy.connect();
    for key in ["a", "b"] {
        let request = super::raw::post("/", &format!("idempotency-key: {key}\r\n"), "x");
        let answer = super::raw::exchange(&mut connection, &request);
        assert_eq!(answer.one("idempotency-status"), "executed", "{}", answer.text());
    }
    assert_eq!((upstream.asked(), upstream.acted(), upstream.connections()), (3, 2, 2));
}

#[test]
fn a_stream_that_may_have_been_processed_is_unknown() {
    for (name, act) in [
        ("closed", Act::Close),
        ("a goaway that counts it in, then closed", Act::GoAwayAfterThenClose),
        ("reset by CANCEL", Act::Cancel),
    ] {
        let upstream = FrameUpstream::start(move |_| act);
        let proxy = proxy_before(&upstream);
        let answer = keyed(&proxy, "k");
        assert_eq!((answer.status(), answer.code().as_str()), (502, "upstream-lost"), "{name}");
        assert_eq!(answer.one("idempotency-status"), "unknown", "{name}");
        assert_eq!(keyed(&proxy, "k").code(), "outcome-unknown", "{name}");
        assert_eq!(upstream.asked(), 1, "{name}");
    }
}

#[test]
fn a_connection_that_does_not_answer_is_used_no_more() {
    let upstream = FrameUpstream::start(|asked| match asked.number {
        0 => Act::Silence,
        _ => Act::Answer,
    });
    let proxy = setup_before(&upstream).upstream(|spec| spec.response_timeout = Duration::from_millis(300)).start();
    let mut connection = proxy.connect();
    let request = |key| super::raw::post("/", &format!("idempotency-key: {key}\r\n"), "x");
    let silent = super::raw::exchange(&mut connection, &request("a"));
    assert_eq!((silent.status(), silent.code().as_str()), (504, "upstream-timeout"));
    assert_eq!(silent.one("idempotency-status"), "unknown");
    let answer = super::raw::exchange(&mut connection, &request("b"));
    assert_eq!(answer.one("idempotency-status"), "executed");
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_allows_one_stream_gets_one_per_connection() {
    let upstream = FrameUpstream::with_streams(1, |asked| match asked.number {
        // What it allows is known from the first answer on.
        0 => Act::Answer,
        // Each answer waits for the other request.
        _ => Act::AnswerWith(Then::WhenAsked(3)),
    });
    let proxy = proxy_before(&upstream);
    let mut sender = client(&proxy).await;
    let mut send = |key| sender.send_request(post(Some(key)).body(Full::from("x")).expect("a request"));
    assert_eq!(send("first").await.expect("an answer").headers()["idempotency-status"], "executed");
    let (one, other) = tokio::join!(send("a"), send("b"));
    for answer in [one, other] {
        assert_eq!(answer.expect("an answer").headers()["idempotency-status"], "executed");
    }
    assert_eq!((upstream.acted(), upstream.connections()), (3, 2));
}

/// An upstream of a real library, which answers by this function.
async fn serve<F>(answer: impl Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static) -> u16
where
    F: Future<Output = Response<BoxBody<Bytes, std::io::Error>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let answer = answer.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let answer = answer.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let whole = body.collect().await?.to_bytes();
                    Ok::<_, hyper::Error>(answer(Request::from_parts(parts, whole)).await)
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    port
}

fn frames(parts: Vec<http_body::Frame<Bytes>>) -> BoxBody<Bytes, std::io::Error> {
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(parts.into_iter().map(Ok))))
}

async fn client(proxy: &Proxy) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(proxy.address).await.expect("the proxy accepts");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.expect("the proxy speaks HTTP/2");
    tokio::spawn(connection);
    sender
}

fn post(key: Option<&str>) -> http::request::Builder {
    let request = Request::post("http://api.test/pay?b=%2F");
    match key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_and_trailers_pass_in_the_form_of_http2_h2_h18_h30() {
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let port = serve(move |request| {
        seen.send(request).expect("the test listens");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = frames(vec![
            http_body::Frame::data(Bytes::from_static(b"one")),
            http_body::Frame::data(Bytes::from_static(b"two")),
            http_body::Frame::trailers(trailers),
        ]);
        async move { Response::builder().header("x-a", "1").header("x-a", "2").body(body).expect("a response") }
    })
    .await;
    let proxy = Setup::new().upstream(|spec| speak_http2(spec, port)).start();
    let mut sender = client(&proxy).await;
    for (key, status) in [(None, None), (Some("k"), Some("executed")), (Some("k"), Some("replayed"))] {
        let request = post(key).header("te", "trailers").body(Full::from("body")).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.headers().get("idempotency-status").map(HeaderValue::as_bytes), status.map(str::as_bytes));
        assert_eq!(answer.headers().get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        let body = answer.into_body().collect().await.expect("a whole body");
        assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0");
        assert_eq!(body.to_bytes(), "onetwo");
        if status == Some("replayed") {
            assert!(requests.try_recv().is_err(), "a replay asks nobody");
            continue;
        }
        let seen = requests.recv().await.expect("a request");
        assert_eq!(
            (seen.uri().to_string().as_str(), seen.body().as_ref()),
            ("http://api.test/pay?b=%2F", &b"body"[..])
        );
        assert_eq!(seen.headers()["te"], "trailers");
        assert_eq!(seen.headers()["content-length"], "4");
        for absent in ["host", "connection", "transfer-encoding"] {
            assert!(!seen.headers().contains_key(absent), "{absent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_few_connections() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate, is_open) = tokio::sync::watch::channel(false);
    let port = serve({
        let (running, most) = (running.clone(), most.clone());
        move |_| {
            let (running, most, mut is_open) = (running.clone(), most.clone(), is_open.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
                is_open.wait_for(|open| *open).await.expect("the test opens");
                Response::new(frames(Vec::new()))
            }
        }
    })
    .await;
    let proxy = Setup::new()
        .upstream(|spec| {
            speak_http2(spec, port);
            spec.max_connections = 2;
        })
        .start();
    let mut sender = client(&proxy).await;
    let answers: Vec<_> = (0..64)
        .map(|n| {
            let key = n.to_string();
            sender.send_request(post(Some(&key)).body(Full::from("x")).expect("a request"))
        })
        .collect();
    let answers = tokio::spawn(futures_util::future::join_all(answers));
    tokio::time::timeout(Duration::from_secs(10), async {
        while running.load(Ordering::Acquire) < 64 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("64 run at once over two connections");
    gate.send_replace(true);
    for answer in answers.await.expect("they are answered") {
        assert_eq!(answer.expect("an answer").headers()["idempotency-status"], "executed");
    }
    assert_eq!(most.load(Ordering::Acquire), 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_upstream_chooses_the_version() {
    let authority = Authority::new();
    for (offered, version) in
        [(&[&b"h2"[..], b"http/1.1"][..], "HTTP/2.0"), (&[b"http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")]
    {
        let mut config = server_config(&authority.sign("localhost"), Version::Tls13, None);
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let stream = acceptor.accept(stream).await.expect("a handshake");
                let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let seen = format!("{:?} {}", request.version(), request.uri());
                    Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(seen)))
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { drop(server.serve_connection(TokioIo::new(stream), service).await) });
            }
        });
        let tls = ClientTls::new("localhost", Roots::Only(&authority.pem()), None).expect("TLS can be set up");
        let proxy = Setup::new()
            .upstream(|spec| {
                spec.host = "localhost".into();
                spec.port = port;
                spec.transport = Transport::Tls(Arc::new(tls));
            })
            .start();
        for status in ["executed", "replayed"] {
            let answer = tokio::task::block_in_place(|| keyed(&proxy, "k"));
            assert_eq!(answer.one("idempotency-status"), status);
            let target = if version == "HTTP/2.0" { "https://api/" } else { "/" };
            assert_eq!(answer.text(), format!("{version} {target}"));
        }
    }
}

#[test]
fn a_client_that_breaks_its_body_off_is_told_so_and_not_that_the_upstream_is_lost() {
    let upstream = FrameUpstream::start(|_| Act::Answer);
    let proxy = proxy_before(&upstream);
    let answer =
        proxy.send("POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n");
    assert_eq!((answer.status(), answer.code().as_str()), (400, "bad-request"));
    assert_eq!(upstream.acted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_beyond_the_servers_limit_never_begins_after_it_was_given_up() {
    let upstream = FrameUpstream::with_streams(1, |asked| match asked.number {
        0 => Act::AnswerLate(Duration::from_millis(1200)),
        _ => Act::Answer,
    });
    let proxy = setup_before(&upstream)
        .upstream(|spec| {
            spec.response_timeout = Duration::from_millis(500);
            spec.connect_timeout = Duration::from_millis(200);
            spec.max_connections = 1;
        })
        .start();
    let mut sender = client(&proxy).await;
    let mut send = |key| sender.send_request(post(Some(key)).body(Full::from("x")).expect("a request"));
    let first = tokio::spawn(send("first"));
    tokio::time::timeout(Duration::from_secs(10), async {
        while upstream.asked() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the first one comes");
    // There is no place for it, neither on the connection nor for another one.
    let second = send("second").await.expect("an answer");
    assert_eq!(second.status(), 503);
    assert_eq!(second.headers()["idempotency-outcome"], "not-executed");
    assert_eq!(first.await.expect("no panic").expect("an answer").status(), 504);
    // What was to come over the connection has come when it has ended.
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    tokio::time::timeout(Duration::from_secs(10), async {
        while upstream.ended() == 0 {
            ticks.tick().await;
        }
    })
    .await
    .expect("the connection ends");
    assert_eq!((upstream.asked(), upstream.connections()), (1, 1));
}
