//! A configuration that takes over, and a process that does, while requests come.

mod kept;
mod load;
mod refused;
mod restart;
mod triggers;

use std::io::BufReader;
use std::net::{SocketAddr, TcpStream};

use crate::support::client::{Answer, HOST, Request};
use crate::support::proxy::{Proxy, Setup, quoted};
use crate::support::waiting::PATIENCE;

const TOKEN: &str = "let-me-in";

/// A setup in which requests without a key pass.
fn setup(upstream: SocketAddr, store: &str) -> Setup {
    Setup::new(upstream, store).policy("key", quoted("optional")).set("admin.token", quoted(TOKEN))
}

/// Writes a configuration over the one that the proxy runs with.
fn write(proxy: &Proxy, setup: &Setup) {
    std::fs::write(proxy.file(), setup.text()).expect("it is written");
}

/// Asks the admin API for a reload.
fn reload(proxy: &Proxy) -> Answer {
    Request::post("/api/v1/reload")
        .field("authorization", &format!("Bearer {TOKEN}"))
        .send(proxy.admin)
        .expect("an answer")
}

/// Writes a configuration and reloads it; the settings that are other ones now.
fn apply(proxy: &Proxy, setup: &Setup) -> Vec<String> {
    write(proxy, setup);
    let answer = reload(proxy);
    assert_eq!((answer.status, &answer.json()["result"]), (200, &"applied".into()), "{}", answer.text());
    serde_json::from_value(answer.json()["changes"].clone()).expect("a list of texts")
}

/// The value of a line of the metrics; 0 without one.
fn metric(proxy: &Proxy, line: &str) -> f64 {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(proxy.admin).expect("the admin accepts");
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

fn reloads(proxy: &Proxy, result: &str) -> f64 {
    metric(proxy, &format!("onceproxy_config_reloads_total{{result=\"{result}\"}}"))
}

/// A connection that stays.
fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the proxy accepts");
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    BufReader::new(stream)
}

fn unkeyed() -> Request {
    Request::post("/pay").body("amount=7")
}

fn keyed(key: &str) -> Request {
    unkeyed().key(key)
}
