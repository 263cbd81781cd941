//! HTTP/2 by prior knowledge, in front of an HTTP/1.1 upstream.

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::raw::Proxy;

async fn connect(proxy: &Proxy) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(proxy.address).await.expect("the proxy accepts");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = handshake.expect("the proxy speaks HTTP/2");
    tokio::spawn(connection);
    sender
}

fn post(key: &str) -> Request<Full<Bytes>> {
    Request::post("http://api/a?b").header("idempotency-key", key).body(Full::from("x")).expect("a request")
}

async fn whole(response: Response<hyper::body::Incoming>) -> Response<Bytes> {
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.expect("a whole body").to_bytes())
}

#[tokio::test]
async fn a_key_takes_effect_once_over_many_streams() {
    let proxy = Proxy::start();
    proxy.upstream.answers("HTTP/1.1 201 Created\r\nx-a: 1\r\ncontent-length: 2\r\n\r\nok");
    let mut sender = connect(&proxy).await;
    let first = whole(sender.send_request(post("k")).await.expect("an answer")).await;
    assert_eq!((first.status().as_u16(), first.body().as_ref()), (201, &b"ok"[..]));
    assert_eq!(first.headers()["idempotency-status"], "executed");
    let streams: Vec<_> = (0..20).map(|_| sender.send_request(post("k"))).collect();
    for stream in streams {
        let replay = whole(stream.await.expect("an answer")).await;
        assert_eq!((replay.status().as_u16(), replay.body().as_ref()), (201, &b"ok"[..]));
        assert_eq!(replay.headers()["idempotency-replayed"], "true");
        assert!(!replay.headers().contains_key("connection"));
    }
    assert_eq!(proxy.upstream.count(), 1);
    let request = proxy.upstream.last();
    assert_eq!((request.start_line(), request.one("host")), ("POST /a?b HTTP/1.1", "api"));
    assert!(request.one("via").starts_with("2 onceproxy-"), "{}", request.head);
}

#[tokio::test]
async fn a_host_that_differs_from_the_authority_is_refused_h11() {
    let proxy = Proxy::start();
    let mut sender = connect(&proxy).await;
    let mut request = post("k");
    request.headers_mut().insert("host", HeaderValue::from_static("other"));
    let answer = whole(sender.send_request(request).await.expect("an answer")).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.headers()["idempotency-outcome"], "not-executed");
    assert_eq!(proxy.upstream.count(), 0);
}

#[tokio::test]
async fn cookie_crumbs_are_one_line_upstream_and_one_scope_h29() {
    let proxy = Proxy::start();
    let mut sender = connect(&proxy).await;
    let mut crumbs = post("k");
    crumbs.headers_mut().append("cookie", HeaderValue::from_static("a=1"));
    crumbs.headers_mut().append("cookie", HeaderValue::from_static("b=2"));
    let first = whole(sender.send_request(crumbs).await.expect("an answer")).await;
    assert_eq!(first.headers()["idempotency-status"], "executed");
    assert_eq!(proxy.upstream.last().one("cookie"), "a=1; b=2");
    let mut joined = post("k");
    joined.headers_mut().append("cookie", HeaderValue::from_static("a=1; b=2"));
    let second = whole(sender.send_request(joined).await.expect("an answer")).await;
    assert_eq!(second.headers()["idempotency-status"], "replayed");
}

#[tokio::test]
async fn a_stream_that_is_reset_still_records_h31() {
    let proxy = Proxy::start();
    let (asked, was_asked) = std::sync::mpsc::channel();
    let (answer, may_answer) = std::sync::mpsc::channel::<()>();
    proxy.upstream.acts(Box::new(move |_, stream| {
        asked.send(()).expect("the test waits");
        may_answer.recv().expect("the test answers");
        std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .expect("the proxy listens");
    }));
    let mut sender = connect(&proxy).await;
    let stream = tokio::spawn(sender.send_request(post("k")));
    tokio::task::spawn_blocking(move || was_asked.recv()).await.expect("a thread").expect("the upstream was asked");
    stream.abort();
    answer.send(()).expect("the upstream waits");
    let replayed = async {
        loop {
            let next = whole(sender.send_request(post("k")).await.expect("an answer")).await;
            if next.status() == 200 {
                return next;
            }
            assert_eq!(next.status(), 409);
        }
    };
    let replay = tokio::time::timeout(std::time::Duration::from_secs(5), replayed).await.expect("it was recorded");
    assert_eq!(replay.headers()["idempotency-replayed"], "true");
    assert_eq!(proxy.upstream.count(), 1);
}

/// A body of which nobody tells the length, in these chunks.
fn stream_of(chunks: &'static [&'static str]) -> http_body_util::combinators::BoxBody<Bytes, std::io::Error> {
    let frames = chunks.iter().map(|chunk| Ok(http_body::Frame::data(Bytes::from_static(chunk.as_bytes()))));
    BodyExt::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn a_body_without_a_length_reaches_the_upstream_whole() {
    let proxy = Proxy::start();
    let stream = TcpStream::connect(proxy.address).await.expect("the proxy accepts");
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("the proxy speaks HTTP/2");
    tokio::spawn(connection);
    for key in [None, Some("k")] {
        let mut request = Request::post("http://api/");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(stream_of(&["amount", "=100"])).expect("a request");
        let answer = whole(sender.send_request(request).await.expect("an answer")).await;
        assert_eq!(answer.status(), 200);
        let seen = proxy.upstream.last();
        assert_eq!(
            (seen.text().as_str(), seen.start_line()),
            ("amount=100", "POST / HTTP/1.1"),
            "{key:?}: {}",
            seen.head
        );
    }
}

#[tokio::test]
async fn an_upload_that_is_reset_without_an_error_is_never_executed() {
    let proxy = Proxy::start();
    let stream = TcpStream::connect(proxy.address).await.expect("the proxy accepts");
    let (sender, mut connection) = h2::client::handshake(stream).await.expect("the proxy speaks HTTP/2");
    let mut pings = connection.ping_pong().expect("nobody pings yet");
    tokio::spawn(connection);
    for length in [None, Some("100")] {
        let mut sender = sender.clone().ready().await.expect("a stream");
        let mut request = Request::post("http://api/").header("idempotency-key", "k");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let (answer, mut body) =
            sender.send_request(request.body(()).expect("a request"), false).expect("the stream opens");
        body.send_data(Bytes::from_static(b"first half"), false).expect("it is taken");
        // Answered when the proxy has read what came before.
        pings.ping(h2::Ping::opaque()).await.expect("a pong");
        body.send_reset(h2::Reason::NO_ERROR);
        assert!(answer.await.is_err());
    }
    // The key is free: the whole request is the first one.
    let mut sender = connect(&proxy).await;
    let answer = whole(sender.send_request(post("k")).await.expect("an answer")).await;
    assert_eq!(answer.headers()["idempotency-status"], "executed");
    assert_eq!(proxy.upstream.count(), 1);
}

#[tokio::test]
async fn a_refusal_to_head_has_no_body_h20() {
    let policy = onceproxy::Policy::optional().route("only");
    let proxy = super::raw::Setup::new().routes(vec![(None, "/only", policy)]).start();
    let stream = TcpStream::connect(proxy.address).await.expect("the proxy accepts");
    let (sender, connection) = h2::client::handshake(stream).await.expect("the proxy speaks HTTP/2");
    tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("a stream");
    let request = Request::head("http://api/nothing").body(()).expect("a request");
    let (answer, _) = sender.send_request(request, true).expect("the stream opens");
    let mut answer = answer.await.expect("an answer");
    assert_eq!(answer.status(), 404);
    assert!(answer.headers().contains_key("content-length"));
    assert!(answer.body_mut().data().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_window_does_not_hold_the_upstream() {
    let proxy = super::raw::Setup::new()
        .upstream(|upstream| {
            upstream.max_connections = 1;
            upstream.connect_timeout = std::time::Duration::from_secs(9);
            upstream.response_timeout = std::time::Duration::from_millis(400);
        })
        .start();
    proxy.upstream.acts(Box::new(|request, stream| {
        let answer: &[u8] = match request.start_line().contains("/large") {
            true => b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n",
            false => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        };
        let _ = std::io::Write::write_all(stream, answer);
        if request.start_line().contains("/large") {
            let _ = std::io::Write::write_all(stream, &[b'x'; 50_000]);
        }
    }));
    let stream = TcpStream::connect(proxy.address).await.expect("the proxy accepts");
    let handshake = h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(stream).await;
    let (sender, connection) = handshake.expect("the proxy speaks HTTP/2");
    tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("a stream");
    let request = Request::get("http://api/large").body(()).expect("a request");
    let (answer, _) = sender.send_request(request, true).expect("the stream opens");
    let stalled = answer.await.expect("an answer's head");
    let answer = tokio::task::block_in_place(|| proxy.post("/", "", "x"));
    assert_eq!(answer.status(), 200);
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_answer_that_is_held_back_is_given_up_and_its_room_comes_back() {
    let proxy = super::raw::Setup::new()
        .listener(|listener| {
            listener.body_timeout = std::time::Duration::from_millis(400);
            listener.max_buffered_bytes = 250_000;
        })
        .start();
    proxy.upstream.acts(Box::new(|_, stream| {
        let _ = std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n");
        let _ = std::io::Write::write_all(stream, &[b'x'; 200_000]);
    }));
    let first = tokio::task::block_in_place(|| proxy.post("/", "idempotency-key: k\r\n", "x"));
    assert_eq!(first.body.len(), 200_000);
    let stream = TcpStream::connect(proxy.address).await.expect("the proxy accepts");
    let handshake = h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(stream).await;
    let (sender, connection) = handshake.expect("the proxy speaks HTTP/2");
    let ended = tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("a stream");
    let request = Request::post("http://api/").header("idempotency-key", "k").body(()).expect("a request");
    let (answer, mut body) = sender.send_request(request, false).expect("the stream opens");
    body.send_data(Bytes::from_static(b"x"), true).expect("it is taken");
    let held = answer.await.expect("an answer's head");
    assert_eq!(held.headers()["idempotency-replayed"], "true");
    assert_eq!(tokio::task::block_in_place(|| proxy.post("/", "idempotency-key: k\r\n", "x")).code(), "overloaded");
    let _ = ended.await;
    let again = tokio::task::block_in_place(|| proxy.post("/", "idempotency-key: k\r\n", "x"));
    assert_eq!((again.status(), again.body.len()), (200, 200_000));
}

/// A client that takes nothing of any answer until it says so.
async fn closed_windows(
    proxy: &Proxy,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(proxy.address).await.expect("the proxy accepts");
    let handshake = h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(stream).await;
    let (sender, connection) = handshake.expect("the proxy speaks HTTP/2");
    (sender, tokio::spawn(connection))
}

fn get(sender: &mut h2::client::SendRequest<Bytes>, path: &str) -> h2::client::ResponseFuture {
    let request = Request::get(format!("http://api{path}")).body(()).expect("a request");
    sender.send_request(request, true).expect("the stream opens").0
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_one_piece_that_is_held_back_ends_the_connection() {
    let proxy =
        super::raw::Setup::new().listener(|spec| spec.body_timeout = std::time::Duration::from_millis(300)).start();
    let (sender, ended) = closed_windows(&proxy).await;
    let mut sender = sender.ready().await.expect("a stream");
    let held = get(&mut sender, "/").await.expect("an answer's head");
    let patience = std::time::Duration::from_secs(10);
    let _ = tokio::time::timeout(patience, ended).await.expect("the proxy does not wait for ever");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_held_back_does_not_end_those_beside_it() {
    let proxy =
        super::raw::Setup::new().listener(|spec| spec.body_timeout = std::time::Duration::from_millis(400)).start();
    proxy.upstream.acts(Box::new(|request, stream| {
        if request.start_line().contains("/slow") {
            // Longer than the held one may wait, and not as long as one beside it may take.
            std::thread::sleep(std::time::Duration::from_millis(900));
            let _ = std::io::Write::write_all(stream, b"HTTP/1.1 204 No Content\r\n\r\n");
        } else {
            let _ = std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    }));
    let (sender, _connection) = closed_windows(&proxy).await;
    let mut sender = sender.ready().await.expect("a stream");
    let held = get(&mut sender, "/held").await.expect("an answer's head");
    let answer = get(&mut sender, "/slow").await.expect("an answer beside it");
    assert_eq!(answer.status(), 204);
    drop(held);
}
