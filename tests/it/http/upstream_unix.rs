//! Upstreams behind a Unix socket.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use onceproxy::proxy::upstream::Transport;
use tempfile::TempDir;

use super::raw::{Message, Proxy, Setup, read_message};

const KEY: &str = "idempotency-key: k\r\n";

/// A server on a socket that records what it gets.
struct Server {
    folder: TempDir,
    seen: Arc<Mutex<Vec<Message>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("api.sock")).expect("a socket");
        let server = Server { folder, seen: Arc::default(), connections: Arc::default() };
        let (seen, connections) = (server.seen.clone(), server.connections.clone());
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                *connections.lock().expect("the count") += 1;
                let seen = seen.clone();
                thread::spawn(move || {
                    while let Some(message) = read_message(&mut stream, true) {
                        seen.lock().expect("the list").push(message);
                        let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok";
                        stream.write_all(answer).expect("the proxy reads");
                    }
                });
            }
        });
        server
    }

    fn seen(&self) -> Vec<Message> {
        self.seen.lock().expect("the list").clone()
    }
}

fn proxy_to(path: &Path, preserve_host: bool) -> Proxy {
    let transport = Transport::Unix(path.into());
    let setup = Setup::new().upstream(|upstream| {
        upstream.host = "localhost".into();
        upstream.authority = "localhost".into();
        upstream.transport = transport;
        upstream.preserve_host = preserve_host;
    });
    setup.start()
}

#[test]
fn a_keyed_request_is_executed_over_a_unix_socket_and_replayed() {
    let server = Server::start();
    let proxy = proxy_to(&server.folder.path().join("api.sock"), true);
    let first = proxy.post("/pay", KEY, "x");
    assert_eq!((first.status(), first.one("idempotency-status")), (201, "executed"));
    let second = proxy.post("/pay", KEY, "x");
    assert_eq!((second.status(), second.one("idempotency-status")), (201, "replayed"));
    let seen = server.seen();
    assert_eq!((seen.len(), seen[0].start_line(), seen[0].one("host")), (1, "POST /pay HTTP/1.1", "api"));
    assert_eq!(seen[0].body, b"x");
}

#[test]
fn unix_connections_are_used_again() {
    let server = Server::start();
    let proxy = proxy_to(&server.folder.path().join("api.sock"), true);
    let mut client = proxy.connect();
    for _ in 0..20 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n").expect("the proxy reads");
        assert_eq!(read_message(&mut client, true).expect("an answer").status(), 201);
    }
    assert_eq!((server.seen().len(), *server.connections.lock().expect("the count")), (20, 1));
}

#[test]
fn a_socket_that_nobody_listens_on_leaves_the_key_free() {
    let server = Server::start();
    let path = server.folder.path().join("later.sock");
    let proxy = proxy_to(&path, true);
    for _ in 0..2 {
        let answer = proxy.post("/", KEY, "x");
        assert_eq!((answer.status(), answer.code().as_str()), (502, "not-executed"));
    }
    std::fs::rename(server.folder.path().join("api.sock"), &path).expect("the socket moves");
    assert_eq!(proxy.post("/", KEY, "x").status(), 201);
}

#[test]
fn the_upstreams_own_host_is_localhost() {
    let server = Server::start();
    let proxy = proxy_to(&server.folder.path().join("api.sock"), false);
    assert_eq!(proxy.post("/", KEY, "x").status(), 201);
    assert_eq!(server.seen()[0].one("host"), "localhost");
}
