//! The first answer and the replay, over real sockets: equal but for the marks.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use onceproxy::Policy;

use crate::layer::stand::{Answer, Asked, Body, Failed, Stand, charge, frames, full};
use crate::layer::wire::{Server, Speech, serve};

/// What may differ between the first answer and a replay.
const MARKS: [&str; 2] = ["idempotency-status", "idempotency-replayed"];

fn fields(answer: &Answer, except: &[&str]) -> Vec<(HeaderName, HeaderValue)> {
    let fields = answer.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
    fields.filter(|(name, _)| !MARKS.contains(&name.as_str()) && !except.contains(&name.as_str())).collect()
}

async fn twice<A>(policy: Policy, handler: impl Fn(Asked) -> A + Clone + Send + 'static) -> (Answer, Answer)
where
    A: Future<Output = Result<Response<Body>, Failed>> + Send + 'static,
{
    let stand = Stand::new(policy, handler);
    let server: Server = serve(stand.service.clone(), Speech::Http1).await;
    let (first, again) = (server.send(charge("k", "100")).await, server.send(charge("k", "100")).await);
    first.is_executed();
    again.is_replayed();
    assert_eq!(stand.executions(), 1);
    (first, again)
}

#[tokio::test]
async fn status_body_and_fields_are_the_first_answers_h32() {
    let body: &'static [u8] = b"\x00\xff\r\n\r\nbinary\x1f\x8b";
    let (first, again) = twice(Policy::required(), move |_| async move {
        let response = Response::builder().status(202);
        let response = response.header("x-list", "1").header("content-encoding", "x-odd").header("x-list", "2, 3");
        let response =
            response.header("x-bytes", &b"\xe9\xff"[..]).header("cache-control", "private").header("x-list", "1");
        Ok(response.header("etag", "\"a\"").body(full(body)).expect("a response"))
    })
    .await;
    assert_eq!((first.status.as_u16(), &*first.body), (202, body));
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(fields(&again, &[]), fields(&first, &[]));
    let list: Vec<_> = again.headers.get_all("x-list").iter().collect();
    assert_eq!(list, ["1", "2, 3", "1"]);
    assert_eq!(again.headers["x-bytes"].as_bytes(), b"\xe9\xff");
    assert_eq!((again.field("content-encoding"), again.field("etag")), ("x-odd", "\"a\""));
    assert_eq!(again.field("content-length"), body.len().to_string());
}

#[tokio::test]
async fn a_replay_is_not_cached_unless_the_answer_says_how_h37() {
    let (first, again) = twice(Policy::required(), |_| async { Ok(Response::new(full("a"))) }).await;
    assert_eq!((first.field("cache-control"), again.field("cache-control")), ("", "no-store"));
    let (_, again) = twice(Policy::required(), |_| async {
        Ok(Response::builder().header("cache-control", "max-age=5").body(full("a")).expect("a response"))
    })
    .await;
    assert_eq!(again.field("cache-control"), "max-age=5");
}

#[tokio::test]
async fn dropped_fields_go_to_the_first_client_only_h37() {
    let handler = |_| async {
        let response = Response::builder().header("set-cookie", "a=1").header("set-cookie", "b=2").header("x-a", "1");
        Ok(response.body(full("a")).expect("a response"))
    };
    let (first, again) = twice(Policy::required(), handler).await;
    let cookies: Vec<_> = first.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert!(!again.headers.contains_key("set-cookie"));
    assert_eq!(again.field("x-a"), "1");
    let all = Policy { replay_drop_headers: vec!["x-a".parse().expect("a name")], ..Policy::required() };
    let (first, again) = twice(all, handler).await;
    assert_eq!((first.field("x-a"), again.field("x-a")), ("1", ""));
    assert_eq!(again.headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn the_date_is_the_first_ones_and_stands_there_once_h33() {
    let old = "Tue, 15 Nov 1994 08:12:31 GMT";
    let (first, again) = twice(Policy::required(), move |_| async move {
        Ok(Response::builder().header("date", old).body(full("a")).expect("a response"))
    })
    .await;
    assert_eq!((first.field("date"), again.field("date"), again.field("age")), (old, old, ""));
    // Without one, ours is recorded: a server would write another into each answer.
    let stand = Stand::new(Policy::required(), |_| async { Ok(Response::new(full("a"))) });
    let first = stand.send(charge("k", "100")).await;
    let again = stand.send(charge("k", "100")).await;
    assert!(!first.field("date").is_empty());
    assert_eq!(first.field("date"), again.field("date"));
}

#[tokio::test]
async fn fields_of_one_connection_are_never_kept_h36() {
    let stand = Stand::new(Policy::required(), |_| async {
        let response = Response::builder().header("connection", "x-hop, keep-alive").header("keep-alive", "timeout=5");
        let response = response.header("x-hop", "1").header("proxy-authenticate", "Basic").header("upgrade", "x");
        Ok(response.header("te", "trailers").header("x-kept", "1").body(full("a")).expect("a response"))
    });
    for _ in 0..2 {
        let answer = stand.send(charge("k", "100")).await;
        for name in ["connection", "keep-alive", "x-hop", "proxy-authenticate", "upgrade", "te"] {
            assert!(!answer.headers.contains_key(name), "{name}");
        }
        assert_eq!(answer.field("x-kept"), "1");
    }
}

#[tokio::test]
async fn an_answer_without_a_body_is_replayed_without_one_h20() {
    let (first, again) = twice(Policy::required(), |_| async {
        Ok(Response::builder().status(204).body(full("")).expect("a response"))
    })
    .await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (204, 204));
    assert_eq!((first.field("content-length"), again.field("content-length")), ("", ""));
    let (_, again) = twice(Policy::required(), |_| async { Ok(Response::new(full(""))) }).await;
    assert_eq!(again.field("content-length"), "0");
}

fn with_trailers() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.append("grpc-status", HeaderValue::from_static("0"));
    trailers.append("x-sum", HeaderValue::from_static("1"));
    trailers.append("x-sum", HeaderValue::from_static("2"));
    let body = frames(vec![
        Ok(Frame::data(Bytes::from_static(b"one"))),
        Ok(Frame::data(Bytes::from_static(b"two"))),
        Ok(Frame::trailers(trailers)),
    ]);
    Response::builder().header("trailer", "grpc-status, x-sum").body(body).expect("a response")
}

fn assert_trailers(answer: &Answer) {
    assert_eq!(answer.body, "onetwo");
    let trailers = answer.trailers.as_ref().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    let sums: Vec<_> = trailers.get_all("x-sum").iter().collect();
    assert_eq!(sums, ["1", "2"]);
}

#[tokio::test]
async fn trailers_are_replayed_over_http2_h30() {
    let stand = Stand::new(Policy::required(), |_| async { Ok(with_trailers()) });
    let server = serve(stand.service.clone(), Speech::Http2).await;
    let first = server.send_http2(charge("k", "100")).await;
    let again = server.send_http2(charge("k", "100")).await;
    first.is_executed();
    again.is_replayed();
    assert_trailers(&first);
    assert_trailers(&again);
    assert_eq!(fields(&again, &["cache-control"]), fields(&first, &[]));
}

#[tokio::test]
async fn trailers_are_replayed_over_http1_when_they_are_asked_for_h18() {
    let stand = Stand::new(Policy::required(), |_| async { Ok(with_trailers()) });
    let server = serve(stand.service.clone(), Speech::Http1).await;
    let ask = || {
        let request = Request::post("/charges").header("idempotency-key", "k").header("te", "trailers");
        request.body(full("100")).expect("a request")
    };
    let first = server.send(ask()).await;
    let again = server.send(ask()).await;
    again.is_replayed();
    assert_trailers(&first);
    assert_trailers(&again);
}

#[tokio::test]
async fn trailers_of_the_request_reach_the_service() {
    let stand = Stand::new(Policy::required(), |request: Asked| async move {
        let body = http_body_util::BodyExt::collect(request.into_body()).await.expect("a body");
        assert_eq!(body.trailers().expect("trailers")["x-sum"], "7");
        Ok(Response::new(full("a")))
    });
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let body = frames(vec![Ok(Frame::data(Bytes::from_static(b"100"))), Ok(Frame::trailers(trailers))]);
    stand.send(Request::post("/").header("idempotency-key", "k").body(body).expect("a request")).await.is_executed();
}

#[tokio::test]
async fn a_large_body_in_crumbs_is_replayed_byte_for_byte() {
    let crumbs: Vec<Bytes> = (0..20_000_u32).map(|n| Bytes::from(n.to_be_bytes()[..n as usize % 5].to_vec())).collect();
    let whole = crumbs.concat();
    let (first, again) = twice(Policy::required(), move |_| {
        let body = frames(crumbs.iter().map(|crumb| Ok(Frame::data(crumb.clone()))).collect());
        async move { Ok(Response::new(body)) }
    })
    .await;
    assert!(first.body == whole && again.body == whole);
}
