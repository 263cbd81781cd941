//! Many at once, and clients that go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use onceproxy::Policy;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::layer::stand::{Answer, Asked, Body, Effect, Failed, PATIENCE, Stand, charge, created};
use crate::layer::wire::{Server, Speech, serve};

const CROWD: usize = 200;
/// How many may wait for one key.
const WAITERS: usize = 64;

/// A handler that stands still until the test lets it go on.
#[derive(Clone)]
struct Gate {
    entered: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Gate {
        Gate { entered: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    fn handler(
        &self,
    ) -> impl Fn(Asked) -> futures_util::future::BoxFuture<'static, Result<Response<Body>, Failed>> + Clone + Send + 'static
    {
        let gate = self.clone();
        move |_| {
            let gate = gate.clone();
            Box::pin(async move {
                gate.entered.add_permits(1);
                gate.open.acquire().await.expect("nobody closes it").forget();
                Ok(created("the only charge"))
            })
        }
    }

    /// Waits until an execution has begun.
    async fn entered(&self) {
        timeout(PATIENCE, self.entered.acquire()).await.expect("an execution begins").expect("open").forget();
    }

    fn open(&self) {
        self.open.add_permits(1);
    }
}

/// Sends the same request many times at once. Opens the gate when `refused` of them have been turned away.
async fn crowd(server: Arc<Server>, gate: &Gate, refused: usize) -> Vec<Answer> {
    let turned_away = Arc::new(AtomicUsize::new(0));
    let mut sent = JoinSet::new();
    for _ in 0..CROWD {
        let (server, turned_away, gate) = (server.clone(), turned_away.clone(), gate.clone());
        sent.spawn(async move {
            let answer = server.send(charge("k", "100")).await;
            if answer.status.as_u16() == 409 && turned_away.fetch_add(1, Ordering::SeqCst) + 1 == refused {
                gate.open();
            }
            answer
        });
    }
    timeout(PATIENCE, sent.join_all()).await.expect("everybody is answered")
}

fn count(answers: &[Answer], status: &str) -> usize {
    answers.iter().filter(|answer| answer.status_field() == status).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_one_executes_and_the_others_are_told() {
    let gate = Gate::new();
    let stand = Stand::new(Policy::required(), gate.handler());
    let server = Arc::new(serve(stand.service.clone(), Speech::Http1).await);
    let answers = crowd(server.clone(), &gate, CROWD - 1).await;
    assert_eq!(stand.executions(), 1);
    assert_eq!(count(&answers, "executed"), 1);
    for answer in answers.iter().filter(|answer| answer.status.as_u16() == 409) {
        answer.is_refusal(409, "in-flight", Effect::Perhaps);
        assert_eq!(answer.field("retry-after"), "1");
    }
    let again = server.send(charge("k", "100")).await;
    again.is_replayed();
    assert_eq!(again.body, "the only charge");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_wait_one_executes_and_the_line_gets_its_answer() {
    let gate = Gate::new();
    let stand = Stand::new(Policy::required().wait(PATIENCE), gate.handler());
    let server = Arc::new(serve(stand.service.clone(), Speech::Http1).await);
    // Those for whom there is no place in the line are turned away at once.
    let answers = crowd(server, &gate, CROWD - 1 - WAITERS).await;
    assert_eq!(stand.executions(), 1);
    assert_eq!((count(&answers, "executed"), count(&answers, "replayed")), (1, WAITERS));
    for answer in answers.iter().filter(|answer| answer.status.as_u16() != 409) {
        assert_eq!((answer.status.as_u16(), &*answer.body), (201, &b"the only charge"[..]));
    }
    assert_eq!(answers.iter().filter(|answer| answer.status.as_u16() == 409).count(), CROWD - 1 - WAITERS);
}

#[tokio::test]
async fn who_waits_too_long_is_told_that_it_runs() {
    let gate = Gate::new();
    let stand = Stand::new(Policy::required().wait(Duration::from_millis(150)), gate.handler());
    let first = tokio::spawn({
        let service = stand.service.clone();
        tower::ServiceExt::oneshot(service, charge("k", "100"))
    });
    gate.entered().await;
    let began = std::time::Instant::now();
    stand.send(charge("k", "100")).await.is_refusal(409, "in-flight", Effect::Perhaps);
    assert!(began.elapsed() >= Duration::from_millis(150));
    // Another request does not wait: it is wrong now and will be later.
    stand.send(charge("k", "900")).await.is_refusal(422, "key-reused", Effect::Perhaps);
    gate.open();
    let response = first.await.expect("no panic").expect("an answer");
    assert_eq!(response.headers()["idempotency-status"], "executed");
    assert_eq!(stand.executions(), 1);
}

#[tokio::test]
async fn who_waits_takes_over_what_the_first_gives_back() {
    let gate = Gate::new();
    let slow = gate.handler();
    let first_call = Arc::new(AtomicUsize::new(0));
    let stand = Stand::new(Policy::required().wait(PATIENCE), move |request: Asked| {
        let (slow, number) = (slow.clone(), first_call.fetch_add(1, Ordering::SeqCst));
        async move {
            let response = slow(request).await?;
            Ok(match number {
                0 => Response::builder().status(429).body(response.into_body()).expect("a response"),
                _ => response,
            })
        }
    });
    let send = || tokio::spawn(tower::ServiceExt::oneshot(stand.service.clone(), charge("k", "100")));
    let first = send();
    gate.entered().await;
    let second = send();
    gate.open();
    gate.open();
    let status = |response: &Response<_>| response.headers()["idempotency-status"].clone();
    assert_eq!(status(&first.await.expect("no panic").expect("an answer")), "released");
    assert_eq!(status(&second.await.expect("no panic").expect("an answer")), "executed");
    assert_eq!(stand.executions(), 2);
}

#[tokio::test]
async fn a_client_that_hangs_up_loses_nothing() {
    let gate = Gate::new();
    let stand = Stand::new(Policy::required().wait(PATIENCE), gate.handler());
    let server = serve(stand.service.clone(), Speech::Http1).await;
    let mut socket = TcpStream::connect(server.address).await.expect("a connection");
    let head = format!("POST /charges HTTP/1.1\r\nhost: {}\r\nidempotency-key: k\r\n", server.address);
    socket.write_all(format!("{head}content-length: 3\r\n\r\n100").as_bytes()).await.expect("it is sent");
    gate.entered().await;
    drop(socket);
    // The server has given the exchange up; the execution goes on without it.
    timeout(PATIENCE, server.gone.notified()).await.expect("the server notices");
    gate.open();
    let retry = server.send(charge("k", "100")).await;
    retry.is_replayed();
    assert_eq!(retry.body, "the only charge");
    assert_eq!(stand.executions(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_while_it_sends_executes_nothing() {
    let stand = Stand::new(Policy::required(), |_| async { Ok(created("the only charge")) });
    let server = serve(stand.service.clone(), Speech::Http1).await;
    let mut socket = TcpStream::connect(server.address).await.expect("a connection");
    let head = format!("POST /charges HTTP/1.1\r\nhost: {}\r\nidempotency-key: k\r\n", server.address);
    socket.write_all(format!("{head}content-length: 3\r\n\r\n10").as_bytes()).await.expect("it is sent");
    socket.shutdown().await.expect("it ends");
    // Refused or given up, whichever the server sees first: the connection ends.
    let mut rest = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut rest);
    timeout(PATIENCE, end).await.expect("the connection ends").expect("it is read");
    assert_eq!(stand.executions(), 0);
    assert!(stand.records().await.is_empty());
    server.send(charge("k", "100")).await.is_executed();
}
