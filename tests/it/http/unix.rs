//! A listener on a path.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use onceproxy::proxy::listener::address::{Address, TrustedPeer};

use super::raw::{Message, Proxy, Setup, post, read_message};

fn start(path: &Path, trusted: Vec<TrustedPeer>) -> Proxy {
    let address = Address::Unix(path.to_owned());
    Setup::new()
        .listener(|listener| {
            listener.address = address;
            listener.trusted_proxies = trusted;
        })
        .start()
}

fn send(path: &Path) -> Message {
    let mut stream = UnixStream::connect(path).expect("the proxy accepts");
    let fields = "idempotency-key: k\r\nx-forwarded-for: 203.0.113.9\r\nconnection: close\r\n";
    stream.write_all(post("/pay", fields, "x").as_bytes()).expect("the proxy reads");
    let answer = read_message(&mut stream, true).expect("an answer");
    assert!(read_message(&mut stream, true).is_none(), "the proxy closes");
    answer
}

#[test]
fn a_path_is_listened_on_and_removed_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("once.sock");
    // What a killed process leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let mut proxy = start(&path, Vec::new());
    assert_eq!(send(&path).one("idempotency-status"), "executed");
    assert_eq!(send(&path).one("idempotency-status"), "replayed");
    assert_eq!(proxy.upstream.count(), 1);
    proxy.stop();
    assert!(!path.exists());
}

#[test]
fn a_peer_on_a_path_is_believed_only_when_the_path_is_trusted_h5() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("once.sock");
    let everywhere = ["0.0.0.0/0", "::/0"].map(|network| TrustedPeer::Network(network.parse().expect("a network")));
    let stranger = start(&path, everywhere.to_vec());
    send(&path);
    let request = stranger.upstream.last();
    assert!(!request.has("x-forwarded-for"), "{}", request.head);
    assert_eq!(request.one("forwarded"), "for=unknown;host=\"api\";proto=http");
    drop(stranger);
    let trusting = start(&path, vec![TrustedPeer::Unix]);
    send(&path);
    assert_eq!(trusting.upstream.last().one("x-forwarded-for"), "203.0.113.9");
}
