//! Where keys come from, and what bad ones get.

use http::Request;
use onceproxy::fingerprint::json::Pointer;
use onceproxy::http::policy::{KeyRule, KeySource, Methods};
use onceproxy::{KeySyntax, Policy};

use crate::layer::stand::{Effect, Stand, charge, counting, endless, full};

fn from(sources: impl IntoIterator<Item = KeySource>) -> Policy {
    Policy { key_from: sources.into_iter().collect(), ..Policy::required() }
}

fn json(pointer: &str) -> KeySource {
    KeySource::Json(Pointer::parse(pointer).expect("a pointer"))
}

#[tokio::test]
async fn a_missing_key_is_refused_before_the_body_is_read() {
    let stand = Stand::new(Policy::required(), counting());
    let request = Request::post("/charges").body(endless(b"1")).expect("a request");
    let answer = stand.send(request).await;
    answer.is_refusal(400, "key-missing", Effect::None);
    assert_eq!(stand.executions(), 0);
}

#[tokio::test]
async fn bad_keys_are_refused_and_nothing_is_looked_up_h39() {
    let stand = Stand::new(Policy::optional(), counting());
    let long = "k".repeat(256);
    let bad: [&[u8]; 13] = [
        b"",
        b"  ",
        b"a,b",
        b"\"a\", \"b\"",
        b"\"a",
        b"\"\"",
        b"\"a\";",
        b"\"a\\n\"",
        b"two words",
        b"a;b",
        b"k\xe9y",
        b"\"k\xc3\xa9y\"",
        long.as_bytes(),
    ];
    for key in bad {
        let request = Request::post("/charges").header("idempotency-key", key).body(endless(b"1")).expect("a request");
        let answer = stand.send(request).await;
        answer.is_refusal(400, "key-invalid", Effect::None);
    }
    let mut twice = charge("a", "100");
    twice.headers_mut().append("idempotency-key", "a".parse().expect("a value"));
    stand.send(twice).await.is_refusal(400, "key-invalid", Effect::None);
    assert_eq!(stand.executions(), 0);
    assert!(stand.records().await.is_empty());
}

#[tokio::test]
async fn a_key_on_a_switch_of_protocols_is_refused_and_nothing_is_looked_up_h26() {
    let switching = |mut request: Request<_>| {
        request.headers_mut().insert("connection", "upgrade".parse().expect("a value"));
        request.headers_mut().insert("upgrade", "websocket".parse().expect("a value"));
        request
    };
    let stand =
        Stand::new(from([json("/id"), KeySource::Header("idempotency-key".parse().expect("a name"))]), counting());
    let body = r#"{"id":"k"}"#;
    let in_body = Request::post("/charges").header("content-type", "application/json").body(full(body));
    for request in [charge("k", "100"), in_body.expect("a request")] {
        stand.send(switching(request)).await.is_refusal(400, "bad-request", Effect::None);
    }
    let stand = Stand::new(Policy::optional(), counting());
    stand.send(switching(charge("k", "100"))).await.is_refusal(400, "bad-request", Effect::None);
    assert_eq!(stand.executions(), 0);
    assert!(stand.records().await.is_empty());
    let unkeyed = Request::post("/charges").body(full("100")).expect("a request");
    assert_eq!(stand.send(switching(unkeyed)).await.status_field(), "");
    assert_eq!(stand.executions(), 1);
}

#[tokio::test]
async fn a_body_that_a_service_may_read_as_json_does_not_pass_without_its_key() {
    let policy = Policy { key_from: vec![json("/id")], ..Policy::optional() };
    let stand = Stand::new(policy, counting());
    let of = |field: Option<(&str, &str)>, body: &'static str| {
        let request = Request::post("/charges");
        let request = field.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        request.body(full(body)).expect("a request")
    };
    for request in [
        of(None, r#"{"id":"k","id":"k"}"#),
        of(None, r#" {"id":"k","v":NaN}"#),
        of(Some(("content-type", "text/plain")), "\u{feff}{\"id\":\"k\"}"),
        of(Some(("content-type", "text/json")), "x"),
        of(Some(("content-encoding", "gzip")), "\u{1f}\u{8b}"),
    ] {
        stand.send(request).await.is_refusal(400, "key-invalid", Effect::None);
    }
    assert_eq!(stand.executions(), 0);
    for field in [None, Some(("content-type", "application/x-www-form-urlencoded"))] {
        assert_eq!(stand.send(of(field, "id=k")).await.status_field(), "");
    }
    assert_eq!(stand.executions(), 2);
}

#[tokio::test]
async fn both_spellings_of_a_key_are_one_key_and_case_matters_h38_h41() {
    let stand = Stand::new(Policy::required(), counting());
    stand.send(charge("abc", "100")).await.is_executed();
    stand.send(charge("\"abc\"", "100")).await.is_replayed();
    stand.send(charge("\"abc\";a=1;b", "100")).await.is_replayed();
    stand.send(charge("ABC", "100")).await.is_executed();
    stand.send(charge("\"a\\\"c\"", "100")).await.is_executed();
    assert_eq!(stand.executions(), 3);
}

#[tokio::test]
async fn a_policy_may_narrow_the_spelling() {
    let structured = Stand::new(Policy { key_syntax: KeySyntax::Structured, ..Policy::required() }, counting());
    structured.send(charge("abc", "100")).await.is_refusal(400, "key-invalid", Effect::None);
    structured.send(charge("\"abc\"", "100")).await.is_executed();
    let uuid = Stand::new(Policy { key_syntax: KeySyntax::Uuid, ..Policy::required() }, counting());
    uuid.send(charge("abc", "100")).await.is_refusal(400, "key-invalid", Effect::None);
    uuid.send(charge("8e03978e-40d5-43dd-bc93-6894a57f9324", "100")).await.is_executed();
    let short = Stand::new(Policy { key_max_length: 3, ..Policy::required() }, counting());
    short.send(charge("abcd", "100")).await.is_refusal(400, "key-invalid", Effect::None);
    short.send(charge("\"abc\"", "100")).await.is_executed();
}

#[tokio::test]
async fn the_first_source_that_is_present_has_the_key() {
    let sources = [KeySource::Header("x-request-id".parse().expect("a name")), KeySource::Query("key".into())];
    let stand = Stand::new(from(sources), counting());
    let with = |header: Option<&str>, target: &str| {
        let request = Request::post(target.to_owned());
        let request = header.into_iter().fold(request, |request, key| request.header("x-request-id", key));
        request.body(full("100")).expect("a request")
    };
    stand.send(with(Some("a"), "/charges?key=b")).await.is_executed();
    stand.send(with(Some("a"), "/charges?key=b")).await.is_replayed();
    // Another key, so not the first one's record.
    stand.send(with(None, "/charges?key=b")).await.is_executed();
    stand.send(with(None, "/charges?key=b&key=b")).await.is_refusal(400, "key-invalid", Effect::None);
    stand.send(with(None, "/charges?key=")).await.is_refusal(400, "key-invalid", Effect::None);
    stand.send(with(None, "/charges?key=%C3%A9")).await.is_refusal(400, "key-invalid", Effect::None);
    stand.send(with(None, "/charges")).await.is_refusal(400, "key-missing", Effect::None);
    // A present but bad one is not passed over for the next.
    stand.send(with(Some(""), "/charges?key=b")).await.is_refusal(400, "key-invalid", Effect::None);
    assert_eq!(stand.executions(), 2);
}

#[tokio::test]
async fn a_key_in_the_query_is_decoded() {
    let mut policy = from([KeySource::Query("key".into())]);
    policy.fingerprint.parts.clear();
    let stand = Stand::new(policy, counting());
    let at = |target: &str| Request::post(target.to_owned()).body(full("")).expect("a request");
    stand.send(at("/?key=a+b")).await.is_executed();
    stand.send(at("/?x=1&%6bey=%61%20b")).await.is_replayed();
}

#[tokio::test]
async fn a_key_may_come_in_a_json_body() {
    let stand = Stand::new(from([json("/meta/id"), KeySource::Header("x-key".parse().expect("a name"))]), counting());
    let post = |body: &'static str| Request::post("/charges").body(full(body)).expect("a request");
    stand.send(post(r#"{"meta":{"id":"a"}}"#)).await.is_executed();
    stand.send(post(r#"{"meta":{"id":"a"}}"#)).await.is_replayed();
    stand.send(post(r#"{"meta":{"id":9007199254740993}}"#)).await.is_executed();
    stand.send(post(r#"{"meta":{"id":9007199254740992}}"#)).await.is_executed();
    assert_eq!(stand.executions(), 3);
    for bad in [r#"{"meta":{"id":1.5}}"#, r#"{"meta":{"id":1e3}}"#, r#"{"meta":{"id":""}}"#, r#"{"meta":{"id":"é"}}"#]
    {
        stand.send(post(bad)).await.is_refusal(400, "key-invalid", Effect::None);
    }
    for bad in [r#"{"meta":{"id":true}}"#, r#"{"meta":{"id":["a"]}}"#, r#"{"meta":{"id":{"a":"a"}}}"#] {
        stand.send(post(bad)).await.is_refusal(400, "key-invalid", Effect::None);
    }
    for missing in ["", "{}", "not json", r#"{"meta":{"id":null}}"#, r#"{"meta":1}"#] {
        stand.send(post(missing)).await.is_refusal(400, "key-missing", Effect::None);
    }
    // Readers may disagree about these, so that nobody knows which key they carry: never past the protection.
    for unsure in [r#"{"meta":{"id":"a"},"x":1,"x":2}"#, "\u{feff}{\"meta\":{\"id\":\"a\"}}", "{", "not json"] {
        let request = Request::post("/charges").header("content-type", "application/merge-patch+json; charset=utf-8");
        let request = request.body(full(unsure)).expect("a request");
        stand.send(request).await.is_refusal(400, "key-invalid", Effect::None);
    }
    // The next source has its turn when the body has none.
    let request = Request::post("/charges").header("x-key", "b").body(full("{}")).expect("a request");
    stand.send(request).await.is_executed();
    assert_eq!(stand.executions(), 4);
}

#[tokio::test]
async fn a_body_without_an_optional_key_goes_on_unprotected_and_whole() {
    let policy = Policy { key: KeyRule::Optional, ..from([json("/id")]) };
    let policy = policy.scope_from("account", |_| None);
    let stand = Stand::new(policy, |request| async move {
        let body = http_body_util::BodyExt::collect(request.into_body()).await.expect("a body").to_bytes();
        Ok(http::Response::new(full(body)))
    });
    let answer = stand.send(Request::post("/").body(full(r#"{"a":1}"#)).expect("a request")).await;
    assert_eq!(answer.body, r#"{"a":1}"#);
    assert_eq!(answer.status_field(), "");
    assert_eq!(stand.executions(), 1);
    // With one, somebody has to own it.
    let answer = stand.send(Request::post("/").body(full(r#"{"id":"a"}"#)).expect("a request")).await;
    answer.is_refusal(400, "scope-missing", Effect::None);
}

#[tokio::test]
async fn methods_are_protected_as_the_policy_says_h13() {
    let send = |method: &'static str| {
        Request::builder().method(method).uri("/").header("idempotency-key", "k").body(full("")).expect("a request")
    };
    for (method, in_some, in_all) in [
        ("POST", "executed", "executed"),
        ("PATCH", "executed", "executed"),
        ("PUT", "", "executed"),
        ("DELETE", "", "executed"),
        ("post", "", "executed"),
        ("GET", "", ""),
        ("HEAD", "", ""),
        ("OPTIONS", "", ""),
        ("TRACE", "", ""),
    ] {
        // A fresh stand for each: the methods are part of the fingerprint, the key is the same.
        let some = Stand::new(Policy::optional(), counting());
        assert_eq!(some.send(send(method)).await.status_field(), in_some, "{method}");
        let all = Stand::new(Policy::optional().methods(Methods::AllUnsafe), counting());
        assert_eq!(all.send(send(method)).await.status_field(), in_all, "{method} under *");
    }
}
