//! Reloads while requests come without a pause.

use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use super::{apply, connect, keyed, reloads, setup, unkeyed, write};
use crate::support::client::{Answer, Request};
use crate::support::proxy::{Setup, quoted};
use crate::support::upstream::Upstream;
use crate::support::waiting::eventually;

/// Clients that send until they are told to stop. Whatever is not the answer that it should be ends the test.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

/// How a client connects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Connections {
    /// One for all requests, until the server says that it closes it.
    Kept,
    /// One for each request.
    Fresh,
}

impl Load {
    pub(super) fn start(address: SocketAddr, clients: &[Connections]) -> Load {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |(number, connections): (usize, &Connections)| {
            let (stop, rounds, connections) = (stop.clone(), rounds.clone(), *connections);
            thread::spawn(move || {
                let mut client = Client { address, connections, connection: None };
                let mut keys = Vec::new();
                while !stop.load(Ordering::Acquire) {
                    let key = format!("client-{number}-{}", keys.len());
                    client.round(&key);
                    keys.push(key);
                    rounds.fetch_add(1, Ordering::AcqRel);
                }
                keys
            })
        };
        let clients = clients.iter().enumerate().map(client).collect();
        Load { stop, rounds, clients }
    }

    /// Waits for so many rounds more.
    pub(super) fn go_on(&self, rounds: usize) {
        let until = self.rounds.load(Ordering::Acquire) + rounds;
        eventually("the clients to go on", || {
            assert!(self.clients.iter().all(|client| !client.is_finished()), "a client has failed");
            (self.rounds.load(Ordering::Acquire) >= until).then_some(())
        });
    }

    /// Stops; the keys that were used.
    pub(super) fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Release);
        self.clients.into_iter().flat_map(|client| client.join().expect("every request was answered")).collect()
    }
}

struct Client {
    address: SocketAddr,
    connections: Connections,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A request without a key, one with a new key, and that one again.
    fn round(&mut self, key: &str) {
        let passed = self.send(&unkeyed());
        assert_eq!(passed.status, 201, "{}", passed.text());
        let first = self.send(&keyed(key));
        assert_eq!((first.status, first.outcome().as_str()), (201, "executed"), "{}", first.text());
        let again = self.send(&keyed(key));
        assert_eq!((again.outcome().as_str(), again.text()), ("replayed", first.text()));
    }

    fn send(&mut self, request: &Request) -> Answer {
        let answer = self.try_send(request);
        answer.unwrap_or_else(|error| panic!("a request failed: {error}"))
    }

    fn try_send(&mut self, request: &Request) -> io::Result<Answer> {
        let mut connection = self.connection.take().unwrap_or_else(|| connect(self.address));
        let answer = request.send_over(&mut connection)?;
        let is_over = answer.field("connection").eq_ignore_ascii_case("close");
        if self.connections == Connections::Kept && !is_over {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

/// What the proxy is told to be, one after the other. No two are the same: one that came back while the file is written
/// anew would look like a file that stays.
fn variant(before: &Setup, number: usize) -> Setup {
    let setup = before.clone();
    match number % 5 {
        0 => setup.upstream("response_timeout", format!("\"{}s\"", 20 + number)),
        1 => setup.policy("concurrent", quoted("wait")).policy("retention", format!("\"{}h\"", 20 + number)),
        2 => setup.listener("max_connections", format!("{}", 100 + number)).listener("max_buffered", quoted("64MiB")),
        3 => {
            let one = format!("retention = \"{}h\"", 20 + number);
            setup.route("one", "/pay", &one).route("other", "/{*rest}", "mode = \"off\"")
        }
        _ => setup.listener("body_timeout", format!("\"{}s\"", 10 + number)),
    }
}

#[test]
fn no_request_fails_while_the_configuration_changes() {
    let upstream = Upstream::start();
    let before = setup(upstream.address, "memory:");
    let proxy = before.start();
    let load = Load::start(proxy.address, &[Connections::Kept, Connections::Kept, Connections::Fresh]);
    load.go_on(30);
    for number in 0..20 {
        let next = variant(&before, number);
        if number % 2 == 0 {
            apply(&proxy, &next);
        } else {
            let applied = reloads(&proxy, "applied");
            write(&proxy, &next);
            proxy.hang_up();
            eventually("the reload", || (reloads(&proxy, "applied") > applied).then_some(()));
        }
        load.go_on(10);
    }
    let keys = load.end();
    assert_eq!((reloads(&proxy, "applied"), reloads(&proxy, "rejected")), (20.0, 0.0));
    for key in keys {
        assert_eq!(upstream.executions_of(&key).len(), 1, "{key}");
    }
}
