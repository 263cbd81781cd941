//! The examples do what they say.

#[allow(dead_code, reason = "its main function is for those who run it")]
#[path = "../../examples/axum.rs"]
mod axum_example;
#[allow(dead_code, reason = "its main function is for those who run it")]
#[path = "../../examples/custom_store.rs"]
mod custom_store;
#[allow(dead_code, reason = "its main function is for those who run it")]
#[path = "../../examples/hyper.rs"]
mod hyper_example;
#[allow(dead_code, reason = "its main function is for those who run it")]
#[path = "../../examples/job_consumer.rs"]
mod job_consumer;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use onceproxy::{Begun, Fingerprint, Key, Ledger, RecordId, Scope, StoreError, Terms};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use job_consumer::{Delivery, Job, consume};

struct Client(SocketAddr);

impl Client {
    async fn send(&self, method: Method, path: &str, fields: &[(&'static str, &str)], body: &'static str) -> Got {
        let socket = TcpStream::connect(self.0).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("a handshake");
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", self.0.to_string());
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        Got::read(sender.send_request(request).await.expect("an answer")).await
    }

    async fn post(&self, path: &str, fields: &[(&'static str, &str)], body: &'static str) -> Got {
        self.send(Method::POST, path, fields, body).await
    }
}

struct Got {
    status: u16,
    idempotency_status: String,
    body: String,
}

impl Got {
    async fn read(response: Response<Incoming>) -> Got {
        let field = response.headers().get("idempotency-status").map(|value| value.to_str().expect("a text"));
        let (status, idempotency_status) = (response.status().as_u16(), field.unwrap_or_default().to_owned());
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        Got { status, idempotency_status, body: String::from_utf8(body.to_vec()).expect("a text") }
    }

    fn is(&self, status: u16, idempotency_status: &str, body: &str) {
        let got = (self.status, self.idempotency_status.as_str(), self.body.as_str());
        assert_eq!(got, (status, idempotency_status, body));
    }
}

async fn listener() -> (TcpListener, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let client = Client(listener.local_addr().expect("an address"));
    (listener, client)
}

const ALICE: (&str, &str) = ("authorization", "Bearer alice-token");
const BOB: (&str, &str) = ("authorization", "Bearer bob-token");
const KEY: (&str, &str) = ("idempotency-key", "42");

#[tokio::test]
async fn the_axum_example_charges_once_per_account_and_key() {
    let (listener, client) = listener().await;
    tokio::spawn(axum_example::serve(listener));
    client.post("/charges", &[KEY], "100").await.is(401, "", "");
    let charged = "1: 100 of alice in attempt 1";
    client.post("/charges", &[ALICE, KEY], "100").await.is(201, "executed", charged);
    client.post("/charges", &[ALICE, KEY], "100").await.is(201, "replayed", charged);
    client.post("/charges", &[BOB, KEY], "900").await.is(201, "executed", "2: 900 of bob in attempt 1");
    assert_eq!(client.post("/charges", &[ALICE, KEY], "900").await.status, 422);
    assert_eq!(client.post("/charges", &[ALICE], "100").await.status, 400);
    // The other route has another policy, and a namespace of its own.
    client.post("/notes", &[ALICE], "hello").await.is(200, "", "3: hello");
    client.post("/notes", &[ALICE, KEY], "100").await.is(200, "executed", "4: 100");
    let list = client.send(Method::GET, "/charges", &[ALICE], "").await;
    assert_eq!(list.body.lines().count(), 4);
}

#[tokio::test]
async fn the_hyper_example_charges_once_and_frees_the_key_of_what_it_did_not_do() {
    let (listener, client) = listener().await;
    tokio::spawn(hyper_example::serve(listener));
    client.post("/", &[KEY], "").await.is(409, "released", "the till is closed");
    client.post("/", &[KEY], "100").await.is(201, "executed", "charge 1");
    client.post("/", &[KEY], "100").await.is(201, "replayed", "charge 1");
    assert_eq!(client.post("/", &[], "100").await.status, 400);
}

#[tokio::test]
async fn the_job_consumer_does_each_job_once() {
    let ledger = Ledger::new(onceproxy::stores::memory::MemoryStore::new());
    let job = |id: &str, payload: &str| Job { id: id.into(), payload: payload.into() };
    let mut charges = Vec::new();
    for _ in 0..3 {
        let job = job("1", "100");
        let done = consume(&ledger, &job, async |job, attempt| {
            charges.push((job.payload.clone(), attempt));
            Ok("receipt 1".into())
        });
        assert_eq!(done.await.expect("the store answers"), Delivery::Acknowledged("receipt 1".into()));
    }
    assert_eq!(charges, [("100".to_owned(), 1)]);
    let never = async |_: &Job, _| panic!("nothing may be executed here");
    let other = consume(&ledger, &job("1", "900"), never).await;
    assert_eq!(other.expect("the store answers"), Delivery::DeadLettered);
    let failed = consume(&ledger, &job("2", "100"), async |_, _| Err("the line went dead".into())).await;
    assert_eq!(failed.expect("the store answers"), Delivery::Parked);
    let again = consume(&ledger, &job("2", "100"), never).await;
    assert_eq!(again.expect("the store answers"), Delivery::Parked);
    // While one consumer has a job, another leaves it alone.
    let third = job("3", "100");
    let nested = consume(&ledger, &third, async |job, _| {
        let second = consume(&ledger, job, never).await?;
        assert!(matches!(second, Delivery::Redelivered(_)), "{second:?}");
        Ok("receipt 3".into())
    });
    assert_eq!(nested.await.expect("the store answers"), Delivery::Acknowledged("receipt 3".into()));
    consume(&ledger, &job("", "100"), never).await.expect_err("an empty id is no key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_custom_store_gives_a_key_to_one_of_many() {
    let ledger = Ledger::new(custom_store::TableStore::default());
    let id = RecordId::new(&Scope::new("mail"), &Key::parse("k").expect("a key"));
    let mut begun = JoinSet::new();
    for _ in 0..100 {
        let ledger = ledger.clone();
        begun.spawn(async move { ledger.begin(&id, Fingerprint::of("a"), &Terms::default()).await });
    }
    let mut claims = Vec::new();
    for begun in begun.join_all().await {
        match begun.expect("the store answers") {
            Begun::Execute(claim) => claims.push(claim),
            Begun::InFlight { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let claim = claims.pop().expect("somebody won");
    assert!(claims.is_empty());
    claim.complete("sent").await.expect("it is recorded");
    let again = ledger.begin(&id, Fingerprint::of("a"), &Terms::default()).await.expect("the store answers");
    assert!(matches!(again, Begun::Replay(outcome) if outcome == "sent"));
}

#[tokio::test]
async fn the_custom_store_leaves_what_it_cannot_read() {
    let store = custom_store::TableStore::default();
    let ledger = Ledger::new(store.clone());
    let id = RecordId::new(&Scope::new("mail"), &Key::parse("k").expect("a key"));
    store.overwrite(&id, b"something else");
    for _ in 0..2 {
        let begun = ledger.begin(&id, Fingerprint::of("a"), &Terms::default()).await;
        assert!(matches!(begun, Err(StoreError::Corrupt)), "{begun:?}");
    }
}

/// The examples that end by themselves, as those who try them start them.
#[test]
fn the_short_examples_run() {
    let built = |name: &str| {
        let tests = std::env::current_exe().expect("this test has a path");
        let target: PathBuf = tests.ancestors().nth(2).expect("it is in deps").into();
        target.join("examples").join(name)
    };
    for (name, lines) in [("job_consumer", 4), ("custom_store", 2)] {
        let mut child = Command::new(built(name))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("the example {name} is built along with the tests: {error}"));
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let printed: Vec<String> = output.lines().map(|line| line.expect("a text")).collect();
        assert!(child.wait().expect("it ends").success());
        assert_eq!(printed.len(), lines, "{printed:#?}");
    }
}
