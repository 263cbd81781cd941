use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Full};

use super::*;

/// A server that answers one request of each connection, and then hands the connection over.
fn server() -> (Arc<UpstreamSpec>, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let (answered, connections) = mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a head");
                bytes.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("the client reads");
            if answered.send(stream).is_err() {
                return;
            }
        }
    });
    (Arc::new(UpstreamSpec { port, ..UpstreamSpec::example() }), connections)
}

fn pool() -> (Pool<Full<Bytes>>, mpsc::Receiver<TcpStream>) {
    let (spec, connections) = server();
    (Pool::new(Upstream::new(spec, 1), 0), connections)
}

fn request() -> Request<Full<Bytes>> {
    Request::builder().uri("/").header("host", "api").body(Full::default()).expect("a request")
}

/// Leases a connection, has one exchange over it, and gives it back.
async fn exchange(pool: &Pool<Full<Bytes>>, want: Want) -> bool {
    let mut lease = pool.lease(want).await.expect("a connection");
    let is_reused = lease.is_reused;
    let response = lease.send(request()).await.map_err(|error| error.into_error()).expect("an answer");
    response.into_body().collect().await.expect("a body");
    lease.give_back(Duration::from_secs(4));
    is_reused
}

#[tokio::test]
async fn a_connection_that_ends_between_lease_and_write_has_sent_nothing() {
    let (pool, connections) = pool();
    assert!(!exchange(&pool, Want::Any).await);
    let mut lease = pool.lease(Want::AnyUnseen).await.expect("a connection");
    assert!(lease.is_reused);
    let written_bytes = lease.traffic().written_bytes();
    // The end comes while this thread holds the runtime: no task can have seen it.
    drop(connections.recv().expect("the server's side"));
    lease.send(request()).await.expect_err("the connection has ended");
    assert_eq!(lease.traffic().written_bytes(), written_bytes);
    drop(lease);
    assert!(!exchange(&pool, Want::Newer(Instant::now())).await);
}

#[tokio::test]
async fn a_connection_that_has_ended_is_not_leased() {
    let (pool, connections) = pool();
    assert!(!exchange(&pool, Want::Any).await);
    drop(connections.recv().expect("the server's side"));
    assert!(!exchange(&pool, Want::Any).await);
}

#[tokio::test]
async fn a_fresh_connection_leaves_the_idle_ones_alone() {
    let (pool, connections) = pool();
    assert!(!exchange(&pool, Want::Any).await);
    assert!(!exchange(&pool, Want::Newer(Instant::now())).await);
    assert_eq!(pool.upstream.idle(0).len(), 2);
    drop(connections);
}
