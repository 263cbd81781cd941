//! What counts as the same request.

use http::Request;
use onceproxy::Policy;
use onceproxy::fingerprint::json::Pointer;
use onceproxy::http::policy::{BodyForm, FingerprintPart, FingerprintRule};

use crate::layer::stand::{Body, Effect, Stand, counting, full};

fn request(method: &str, target: &str, kind: &str, body: &'static str) -> Request<Body> {
    let request = Request::builder().method(method).uri(target).header("idempotency-key", "k");
    request.header("content-type", kind).body(full(body)).expect("a request")
}

fn json(omit: &[&str]) -> Policy {
    let mut policy = Policy::required();
    let omit = omit.iter().map(|text| Pointer::parse(text).expect("a pointer")).collect();
    policy.fingerprint.body = BodyForm::Json { omit };
    policy
}

#[tokio::test]
async fn another_request_under_the_key_is_refused_and_the_record_stays_h44_h45() {
    let stand = Stand::new(Policy::required(), counting());
    stand.send(request("POST", "/a?x=1", "a/b", "100")).await.is_executed();
    let before = stand.record().await;
    for other in [
        request("PATCH", "/a?x=1", "a/b", "100"),
        request("POST", "/b?x=1", "a/b", "100"),
        request("POST", "/a?x=2", "a/b", "100"),
        request("POST", "/a", "a/b", "100"),
        request("POST", "/a?x=1", "a/c", "100"),
        request("POST", "/a?x=1", "a/b", "900"),
        request("POST", "/a?x=1", "a/b", ""),
    ] {
        stand.send(other).await.is_refusal(422, "key-reused", Effect::Perhaps);
    }
    assert_eq!(stand.record().await, before);
    stand.send(request("POST", "/a?x=1", "a/b", "100")).await.is_replayed();
    assert_eq!(stand.executions(), 1);
}

#[tokio::test]
async fn other_fields_do_not_count_h35() {
    let stand = Stand::new(Policy::required(), counting());
    stand.send(request("POST", "/a", "a/b", "100")).await.is_executed();
    for (name, value) in
        [("accept-encoding", "gzip"), ("range", "bytes=0-1"), ("if-none-match", "*"), ("user-agent", "b")]
    {
        let mut retry = request("POST", "/a", "a/b", "100");
        retry.headers_mut().insert(name, value.parse().expect("a value"));
        let answer = stand.send(retry).await;
        answer.is_replayed();
        assert_eq!((answer.status.as_u16(), &*answer.body), (201, &b"charge 1"[..]));
    }
}

#[tokio::test]
async fn a_policy_may_leave_parts_out() {
    let rule = FingerprintRule { parts: vec![FingerprintPart::Path], body: BodyForm::Bytes };
    let stand = Stand::new(Policy { fingerprint: rule, ..Policy::required() }, counting());
    stand.send(request("POST", "/a?x=1", "a/b", "100")).await.is_executed();
    stand.send(request("PATCH", "/a?x=2", "a/c", "900")).await.is_replayed();
    stand.send(request("POST", "/b", "a/b", "100")).await.is_refusal(422, "key-reused", Effect::Perhaps);
}

#[tokio::test]
async fn as_json_order_and_white_space_do_not_count() {
    let stand = Stand::new(json(&[]), counting());
    let post = |body| request("POST", "/", "application/json", body);
    stand.send(post(r#"{"a":1,"b":[1,{"c":"é"}]}"#)).await.is_executed();
    stand.send(post("{ \"b\" : [1, {\"c\":\"\\u00e9\"}],\n\"a\":1 }")).await.is_replayed();
    for other in [r#"{"a":1,"b":[{"c":"é"},1]}"#, r#"{"a":"1","b":[1,{"c":"é"}]}"#, r#"{"a":1}"#] {
        stand.send(post(other)).await.is_refusal(422, "key-reused", Effect::Perhaps);
    }
}

#[tokio::test]
async fn as_json_omitted_places_do_not_count() {
    let stand = Stand::new(json(&["/meta/sent_at", "/items/*/trace"]), counting());
    let post = |body| request("POST", "/", "application/json", body);
    stand.send(post(r#"{"meta":{"sent_at":1,"by":"a"},"items":[{"n":1,"trace":"x"}]}"#)).await.is_executed();
    stand.send(post(r#"{"items":[{"n":1}],"meta":{"by":"a","sent_at":2}}"#)).await.is_replayed();
    let other = post(r#"{"items":[{"n":2}],"meta":{"by":"a"}}"#);
    stand.send(other).await.is_refusal(422, "key-reused", Effect::Perhaps);
}

#[tokio::test]
async fn as_json_numbers_count_as_written() {
    for (first, other) in [("9007199254740993", "9007199254740992"), ("1.0", "1"), ("1e2", "100")] {
        let stand = Stand::new(json(&[]), counting());
        stand.send(request("POST", "/", "a/b", first)).await.is_executed();
        stand.send(request("POST", "/", "a/b", other)).await.is_refusal(422, "key-reused", Effect::Perhaps);
    }
}

#[tokio::test]
async fn what_has_no_canonical_form_counts_byte_for_byte() {
    for (body, spaced) in [("{\"a\":1,\"a\":2}", "{\"a\":1, \"a\":2}"), ("not json", "not  json"), ("{", "{ ")] {
        let stand = Stand::new(json(&[]), counting());
        stand.send(request("POST", "/", "a/b", body)).await.is_executed();
        stand.send(request("POST", "/", "a/b", body)).await.is_replayed();
        stand.send(request("POST", "/", "a/b", spaced)).await.is_refusal(422, "key-reused", Effect::Perhaps);
    }
}

#[tokio::test]
async fn the_borders_of_chunks_do_not_count() {
    use crate::layer::stand::frames;
    use bytes::Bytes;
    use http_body::Frame;

    let stand = Stand::new(Policy::required(), counting());
    let post = |parts: &[&'static str]| {
        let parts = parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))).collect();
        Request::post("/").header("idempotency-key", "k").body(frames(parts)).expect("a request")
    };
    stand.send(post(&["char", "ge"])).await.is_executed();
    stand.send(post(&["c", "h", "", "arge"])).await.is_replayed();
}
