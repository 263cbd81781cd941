//! The admin listener: health, metrics, and an operator's decisions.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onceproxy::admin::reload::Reloaded;
use onceproxy::admin::{self, Admin, AdminRoute, SharedDesk};
use onceproxy::http::attempt::PathParams;
use onceproxy::http::policy::ScopeSource;
use onceproxy::ledger::store::Store;
use onceproxy::stores::memory::MemoryStore;
use onceproxy::telemetry::metrics::Metrics;
use onceproxy::{Begun, Fingerprint, Key, Ledger, Policy, RecordId, Scope, Terms};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::http::raw::{Message, read_message};

struct Desk {
    address: SocketAddr,
    ledger: Ledger,
    is_draining: Arc<AtomicBool>,
    /// What comes of the next reload.
    reloaded: Arc<Mutex<Reloaded>>,
}

const TOKEN: &str = "let-me-in";

async fn desk(token: Option<&str>) -> Desk {
    desk_over(Arc::new(MemoryStore::new()), token).await
}

async fn desk_over(store: Arc<dyn Store>, token: Option<&str>) -> Desk {
    let ledger = Ledger::over(store);
    let is_draining = Arc::new(AtomicBool::new(false));
    let scope = [ScopeSource::Host, ScopeSource::Path("tenant".to_owned())];
    let policy = Policy::required().namespace("ledger").route("create-payment").scope(scope);
    let route = AdminRoute {
        name: "create-payment".to_owned(),
        policy: Arc::new(policy),
        params: Box::new(|path| {
            let tenant = path.strip_prefix("/v1/")?.strip_suffix("/payments")?;
            Some(PathParams(vec![("tenant".to_owned(), tenant.to_owned())]))
        }),
    };
    let reloaded = Arc::new(Mutex::new(Reloaded::Unchanged));
    let next = reloaded.clone();
    let admin = Admin {
        ledger: ledger.clone(),
        desk: SharedDesk::new(admin::Desk { routes: vec![route], token: token.map(str::to_owned) }),
        metrics: Metrics::new().expect("metrics"),
        is_draining: is_draining.clone(),
        reload: Arc::new(move || Box::pin(std::future::ready(next.lock().expect("nobody panics in here").clone()))),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(admin::serve(Arc::new(admin), listener, std::future::pending()));
    Desk { address, ledger, is_draining, reloaded }
}

impl Desk {
    async fn send(&self, request: String) -> Message {
        let address = self.address;
        let exchange = move || {
            let mut stream = TcpStream::connect(address).expect("the desk accepts");
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
            stream.write_all(request.as_bytes()).expect("the desk reads");
            read_message(&mut stream, true).expect("an answer")
        };
        tokio::task::spawn_blocking(exchange).await.expect("an exchange")
    }

    async fn get(&self, path: &str) -> Message {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {TOKEN}\r\n\r\n")).await
    }

    async fn post(&self, path: &str, body: &Value) -> Message {
        let body = body.to_string();
        let length = body.len();
        let fields = format!("host: admin\r\nauthorization: bearer {TOKEN}\r\ncontent-length: {length}");
        self.send(format!("POST {path} HTTP/1.1\r\n{fields}\r\n\r\n{body}")).await
    }

    /// Leaves an unknown outcome under a key.
    async fn unknown(&self, key: &str) -> RecordId {
        let id = id(key);
        let terms = Terms { route: "create-payment".into(), ..Terms::default() };
        let begun = self.ledger.begin(&id, Fingerprint::of("x"), &terms).await.expect("the store answers");
        let Begun::Execute(claim) = begun else { panic!("it is new") };
        claim.unknown("upstream-lost").await.expect("it is written");
        id
    }
}

fn id(key: &str) -> RecordId {
    let scope = Scope::new("ledger").with("host", b"api.example.com").with("path:tenant", b"acme");
    RecordId::new(&scope, &Key::parse(key).expect("a key"))
}

fn value(message: &Message) -> Value {
    serde_json::from_slice(&message.body).unwrap_or_else(|error| panic!("{error}: {}", message.text()))
}

#[tokio::test]
async fn health_and_metrics_are_open_and_a_draining_proxy_is_not_ready() {
    let desk = desk(Some(TOKEN)).await;
    let open = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n");
    for path in ["/", "/live", "/ready", "/metrics"] {
        assert_eq!(desk.send(open(path)).await.status(), 200, "{path}");
    }
    let metrics = desk.send(open("/metrics")).await.text();
    assert!(metrics.contains("onceproxy_build_info{version="), "{metrics}");
    assert!(
        metrics
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .all(|line| line.starts_with("onceproxy_"))
    );
    desk.is_draining.store(true, Ordering::Release);
    assert_eq!(desk.send(open("/ready")).await.status(), 503);
    assert_eq!(desk.send(open("/live")).await.status(), 200);
    assert_eq!(desk.send(open("/nothing")).await.status(), 404);
    assert_eq!(desk.send("POST /live HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()).await.status(), 405);
}

#[tokio::test]
async fn the_api_wants_the_token_and_without_one_only_reads() {
    let locked = desk(Some(TOKEN)).await;
    for authorization in ["", "authorization: Bearer wrong\r\n", "authorization: Basic bGV0\r\n"] {
        let answer = locked.send(format!("GET /api/v1/records HTTP/1.1\r\nhost: a\r\n{authorization}\r\n")).await;
        assert_eq!((answer.status(), answer.one("www-authenticate")), (401, "Bearer"), "{authorization}");
    }
    assert_eq!(locked.get("/api/v1/records").await.status(), 200);
    let open = desk(None).await;
    let id = open.unknown("k").await;
    assert_eq!(open.get("/api/v1/records").await.status(), 200);
    let change = json!({"attempt": 1, "by": "alice", "reason": "r"});
    assert_eq!(open.post(&format!("/api/v1/records/{id}/release"), &change).await.status(), 403);
}

#[tokio::test]
async fn unknown_outcomes_are_listed_and_found_by_what_the_client_sent() {
    let desk = desk(Some(TOKEN)).await;
    let record = desk.unknown("k").await;
    let list = value(&desk.get("/api/v1/records?state=unknown").await);
    let mut records = list["records"].as_array().expect("a list").clone();
    let mut next = list["next"].as_str().map(str::to_owned);
    while let Some(cursor) = next {
        let page = value(&desk.get(&format!("/api/v1/records?state=unknown&cursor={cursor}")).await);
        records.extend(page["records"].as_array().expect("a list").iter().cloned());
        next = page["next"].as_str().map(str::to_owned);
    }
    assert_eq!(records.len(), 1, "{records:?}");
    let shown = &records[0];
    assert_eq!(shown["id"], record.to_string());
    assert_eq!(
        (&shown["state"], &shown["attempt"], &shown["reason"]),
        (&json!("unknown"), &json!(1), &json!("upstream-lost"))
    );
    assert_eq!(shown["route"], "create-payment");
    let lookup = json!({
        "route": "create-payment", "host": "API.example.com", "headers": {}, "path": "/v1/acme/payments", "key": "\"k\"",
    });
    assert_eq!(value(&desk.post("/api/v1/lookup", &lookup).await)["id"], record.to_string());
    let mut other = lookup.clone();
    other["path"] = json!("/v1/other/payments");
    assert_eq!(desk.post("/api/v1/lookup", &other).await.status(), 404);
    other["route"] = json!("nope");
    assert_eq!(desk.post("/api/v1/lookup", &other).await.status(), 400);
    assert_eq!(desk.get("/api/v1/records?state=completed").await.status(), 200);
    assert_eq!(desk.get("/api/v1/records?state=odd").await.status(), 400);
    assert_eq!(desk.get("/api/v1/records?limit=0").await.status(), 400);
    assert_eq!(desk.get(&format!("/api/v1/records/{}", "0".repeat(64))).await.status(), 404);
    assert_eq!(desk.get("/api/v1/records/xyz").await.status(), 404);
}

#[tokio::test]
async fn a_settled_outcome_is_replayed_and_a_released_key_is_free() {
    let desk = desk(Some(TOKEN)).await;
    let settled = desk.unknown("settled").await;
    let settle = json!({
        "attempt": 1, "by": "alice", "reason": "seen in the bank's list", "status": 201,
        "headers": [["content-type", "application/json"]], "body": "{\"id\":7}",
    });
    let path = format!("/api/v1/records/{settled}/settle");
    let answer = desk.post(&path, &settle).await;
    assert_eq!((answer.status(), &value(&answer)["state"]), (200, &json!("completed")), "{}", answer.text());
    let again = desk.post(&path, &settle).await;
    assert_eq!((again.status(), &value(&again)["record"]["state"]), (409, &json!("completed")));
    let terms = Terms::default();
    let begun = desk.ledger.begin(&settled, Fingerprint::of("x"), &terms).await.expect("the store answers");
    assert!(matches!(begun, Begun::Replay(bytes) if bytes.ends_with(b"{\"id\":7}")));
    let released = desk.unknown("released").await;
    let release = json!({"attempt": 1, "by": "bob", "reason": "not in the list"});
    let answer = desk.post(&format!("/api/v1/records/{released}/release"), &release).await;
    assert_eq!((answer.status(), &value(&answer)["state"]), (200, &json!("released")));
    let begun = desk.ledger.begin(&released, Fingerprint::of("other"), &terms).await.expect("the store answers");
    assert!(matches!(begun, Begun::Execute(claim) if claim.attempt() == 2));
}

#[tokio::test]
async fn a_change_that_comes_too_late_or_is_wrong_is_refused() {
    let desk = desk(Some(TOKEN)).await;
    let record = desk.unknown("k").await;
    let release = |attempt: u32, by: &str| json!({"attempt": attempt, "by": by, "reason": "r"});
    let path = format!("/api/v1/records/{record}/release");
    assert_eq!(desk.post(&path, &release(2, "a")).await.status(), 409, "another attempt");
    for by in ["", " ", "a\nb", &"x".repeat(300)] {
        assert_eq!(desk.post(&path, &release(1, by)).await.status(), 400, "{by:?}");
    }
    assert_eq!(desk.post(&path, &json!({"attempt": 1})).await.status(), 400);
    let settle = |status: u16, more: Value| {
        let mut change = json!({"attempt": 1, "by": "a", "reason": "r", "status": status});
        change.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        change
    };
    let path = format!("/api/v1/records/{record}/settle");
    for change in [
        settle(199, json!({})),
        settle(600, json!({})),
        settle(200, json!({"body": "a", "body_base64": "YQ=="})),
        settle(200, json!({"body_base64": "*"})),
        settle(200, json!({"headers": [["a b", "c"]]})),
    ] {
        assert_eq!(desk.post(&path, &change).await.status(), 400, "{change}");
    }
    let absent = format!("/api/v1/records/{}/release", "0".repeat(64));
    assert_eq!(desk.post(&absent, &release(1, "a")).await.status(), 404);
    let running = id("running");
    let terms = Terms::default();
    let begun = desk.ledger.begin(&running, Fingerprint::of("x"), &terms).await.expect("the store answers");
    let Begun::Execute(claim) = begun else { panic!("it is new") };
    let answer = desk.post(&format!("/api/v1/records/{running}/release"), &release(1, "a")).await;
    assert_eq!((answer.status(), &value(&answer)["record"]["state"]), (409, &json!("in-flight")));
    drop(claim);
}

#[tokio::test]
async fn a_reload_says_what_came_of_it() {
    let desk = desk(Some(TOKEN)).await;
    let report = "error: unknown setting `nam`\n  help: did you mean `name`?".to_owned();
    for (reloaded, status, member, told) in [
        (Reloaded::Applied(vec!["log.level".to_owned()]), 200, "changes", json!(["log.level"])),
        (Reloaded::Unchanged, 200, "result", json!("unchanged")),
        (Reloaded::Wrong(report.clone()), 422, "detail", json!(report)),
        (Reloaded::Refused("restart".to_owned()), 409, "code", json!("restart-needed")),
    ] {
        *desk.reloaded.lock().expect("nobody panics in here") = reloaded;
        let answer = desk.post("/api/v1/reload", &json!({})).await;
        assert_eq!((answer.status(), &value(&answer)[member]), (status, &told));
    }
    assert_eq!(desk.get("/api/v1/reload").await.status(), 405);
}

#[tokio::test]
async fn a_reload_needs_a_token() {
    let desk = desk(None).await;
    let answer = desk.post("/api/v1/reload", &json!({})).await;
    assert_eq!((answer.status(), &value(&answer)["code"]), (403, &json!("changes-need-token")));
}
