//! Whose key it is.

use http::Request;
use onceproxy::Policy;
use onceproxy::http::ClientCert;
use onceproxy::http::attempt::PathParams;
use onceproxy::http::policy::ScopeSource;

use crate::layer::stand::{Body, Effect, Stand, charge, charge_with, counting, endless, full};

fn scoped(source: ScopeSource) -> Stand {
    Stand::new(Policy::required().scope([source]), counting())
}

/// Sends the requests and compares how many executions they make, each request twice.
async fn assert_executions(stand: &Stand, make: &[&dyn Fn() -> Request<Body>], executions: usize) {
    for make in make {
        stand.send(make()).await;
        stand.send(make()).await.is_replayed();
    }
    assert_eq!(stand.executions(), executions);
}

#[tokio::test]
async fn another_scopes_key_is_unseen_and_tells_nothing() {
    let stand = Stand::new(Policy::required(), counting());
    let mine = || charge_with("k", "authorization", "Bearer A");
    let theirs = || {
        let mut request = charge("k", "another body");
        request.headers_mut().insert("authorization", "Bearer B".parse().expect("a value"));
        request
    };
    stand.send(mine()).await.is_executed();
    let answer = stand.send(theirs()).await;
    answer.is_executed();
    assert_eq!(answer.body, "charge 2");
    assert_eq!(stand.send(mine()).await.body, "charge 1");
}

#[tokio::test]
async fn by_default_host_and_all_credentials_count() {
    let stand = Stand::new(Policy::required(), counting());
    let with = |name: &'static str, value: &'static str| move || charge_with("k", name, value);
    assert_executions(
        &stand,
        &[
            &with("accept", "a/b"),
            &with("host", "a.example"),
            &with("host", "b.example"),
            &with("authorization", "Bearer A"),
            &with("authorization", "Bearer B"),
            &with("x-api-key", "A"),
            &with("cookie", "A"),
        ],
        7,
    )
    .await;
}

#[tokio::test]
async fn the_host_of_the_target_wins_and_case_does_not_count_h9_h44() {
    let stand = scoped(ScopeSource::Host);
    let field = |host: &str| charge_with("k", "host", host);
    let target = || {
        let request = Request::post("http://A.example/charges").header("idempotency-key", "k");
        request.header("host", "b.example").body(full("100")).expect("a request")
    };
    stand.send(field("a.example")).await.is_executed();
    for same in ["A.EXAMPLE", "a.example.", "a.example:80", "a.example:443"] {
        stand.send(field(same)).await.is_replayed();
    }
    stand.send(target()).await.is_replayed();
    stand.send(field("b.example")).await.is_executed();
}

#[tokio::test]
async fn cookies_in_crumbs_are_the_same_cookies_h29() {
    for source in [ScopeSource::Credentials, ScopeSource::Cookie("b".into())] {
        let stand = scoped(source);
        let mut crumbs = charge_with("k", "cookie", "a=1");
        crumbs.headers_mut().append("cookie", "b=2".parse().expect("a value"));
        stand.send(charge_with("k", "cookie", "a=1; b=2")).await.is_executed();
        stand.send(crumbs).await.is_replayed();
        stand.send(charge_with("k", "cookie", "a=1; b=3")).await.is_executed();
    }
}

#[tokio::test]
async fn named_sources_are_taken_from_where_they_say() {
    let header = scoped(ScopeSource::Header("x-account".parse().expect("a name")));
    let with = |value: &'static str| move || charge_with("k", "x-account", value);
    assert_executions(&header, &[&with("alice"), &with("bob"), &with("Alice")], 3).await;

    let cookie = scoped(ScopeSource::Cookie("session".into()));
    let with = |value: &'static str| move || charge_with("k", "cookie", value);
    assert_executions(&cookie, &[&with("a=1; session=x"), &with("session=y"), &with("session=")], 3).await;
    // Another cookie does not count.
    cookie.send(charge_with("k", "cookie", "session=x; a=2")).await.is_replayed();

    let mut policy = Policy::required().scope([ScopeSource::Query("account".into())]);
    policy.fingerprint.parts.clear();
    let query = Stand::new(policy, counting());
    let with = |target: &'static str| {
        move || Request::post(target).header("idempotency-key", "k").body(full("")).expect("a request")
    };
    assert_executions(&query, &[&with("/?account=a"), &with("/?account=b&c=d")], 2).await;
    query.send(with("/?x=y&account=%61")()).await.is_replayed();

    let path = scoped(ScopeSource::Path("account".into()));
    let with = |account: &'static str| {
        move || {
            let mut request = charge("k", "100");
            request.extensions_mut().insert(PathParams(vec![("account".into(), account.into())]));
            request
        }
    };
    assert_executions(&path, &[&with("a"), &with("b")], 2).await;
}

#[tokio::test]
async fn a_function_finds_the_scope_in_the_extensions() {
    #[derive(Clone)]
    struct User(&'static str);

    let policy = Policy::required()
        .scope_from("login", |parts| parts.extensions.get::<User>().map(|user| user.0.as_bytes().to_vec()));
    let stand = Stand::new(policy, counting());
    let of = |user: &'static str| {
        move || {
            let mut request = charge("k", "100");
            request.extensions_mut().insert(User(user));
            request
        }
    };
    assert_executions(&stand, &[&of("alice"), &of("bob")], 2).await;
    let answer = stand.send(charge("k", "100")).await;
    answer.is_refusal(400, "scope-missing", Effect::None);
    assert!(answer.problem()["detail"].as_str().expect("a text").contains("login"));
}

#[tokio::test]
async fn the_certificates_subject_is_found_in_the_extensions() {
    let stand = scoped(ScopeSource::ClientCert);
    let of = |subject: &'static str| {
        move || {
            let mut request = charge("k", "100");
            request.extensions_mut().insert(ClientCert(subject.into()));
            request
        }
    };
    assert_executions(&stand, &[&of("CN=alice"), &of("CN=bob")], 2).await;
    let answer = stand.send(charge("k", "100")).await;
    answer.is_refusal(400, "scope-missing", Effect::None);
    assert!(answer.problem()["detail"].as_str().expect("a text").contains("client certificate"));
}

#[tokio::test]
async fn a_missing_source_is_refused_before_the_body_is_read() {
    for source in [
        ScopeSource::Header("x-account".parse().expect("a name")),
        ScopeSource::Cookie("session".into()),
        ScopeSource::Query("account".into()),
        ScopeSource::Path("account".into()),
        ScopeSource::ClientCert,
    ] {
        let stand = scoped(source);
        let request = Request::post("/charges").header("idempotency-key", "k").body(endless(b"1")).expect("a request");
        stand.send(request).await.is_refusal(400, "scope-missing", Effect::None);
        assert_eq!(stand.executions(), 0);
        assert!(stand.records().await.is_empty());
    }
}

#[tokio::test]
async fn anonymous_callers_share_their_keys() {
    let stand = scoped(ScopeSource::Anonymous);
    stand.send(charge_with("k", "authorization", "A")).await.is_executed();
    stand.send(charge_with("k", "host", "b.example")).await.is_replayed();
}

#[tokio::test]
async fn namespaces_do_not_share_keys_and_routes_of_one_do() {
    let stand = Stand::new(Policy::required().namespace("a").route("one"), counting());
    let layer = |policy: Policy| onceproxy::IdempotencyLayer::new(stand.ledger.clone()).policy(policy);
    let handler = || tower::util::BoxCloneService::new(tower::service_fn(counting())) as crate::layer::stand::Handler;
    stand.send(charge("k", "100")).await.is_executed();
    let mut same = tower::Layer::layer(&layer(Policy::required().namespace("a").route("two")), handler());
    crate::layer::stand::call(&mut same, charge("k", "100")).await.is_replayed();
    let mut other = tower::Layer::layer(&layer(Policy::required().namespace("b")), handler());
    crate::layer::stand::call(&mut other, charge("k", "100")).await.is_executed();
}
