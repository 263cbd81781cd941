//! What makes a proxy read its configuration again.

use std::fs;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{apply, connect, keyed, reload, reloads, setup, unkeyed, write};
use crate::support::client::Request;
use crate::support::proxy::{Proxy, Setup, quoted};
use crate::support::upstream::{Reply, Upstream};
use crate::support::waiting::{Signal, eventually};

/// The proxy turns requests without a key away.
fn requires_keys(proxy: &Proxy) -> bool {
    unkeyed().send(proxy.address).expect("an answer").status == 400
}

fn pair(upstream: &Upstream) -> (Setup, Setup) {
    let before = setup(upstream.address, "memory:");
    let after = before.clone().policy("key", quoted("required"));
    (before, after)
}

#[test]
fn a_hangup_reloads() {
    let upstream = Upstream::start();
    let (before, after) = pair(&upstream);
    let proxy = before.start();
    assert!(!requires_keys(&proxy));
    write(&proxy, &after);
    proxy.hang_up();
    eventually("the new policy", || requires_keys(&proxy).then_some(()));
    assert!(proxy.wait_for_line("the configuration was reloaded").contains("routes.pay.policy.key"));
    assert_eq!(reloads(&proxy, "applied"), 1.0);
}

#[test]
fn the_admin_api_reloads_and_says_what_changed() {
    let upstream = Upstream::start();
    let (before, after) = pair(&upstream);
    let proxy = before.start();
    assert_eq!(apply(&proxy, &after), ["routes.pay.policy.key"]);
    assert!(requires_keys(&proxy));
    let again = reload(&proxy);
    assert_eq!((again.status, &again.json()["result"]), (200, &"unchanged".into()));
    assert_eq!(
        (reloads(&proxy, "applied"), reloads(&proxy, "unchanged"), reloads(&proxy, "rejected")),
        (1.0, 1.0, 0.0)
    );
    let stranger = Request::post("/api/v1/reload").send(proxy.admin).expect("an answer");
    assert_eq!(stranger.status, 401);
}

#[test]
fn a_file_that_is_renamed_over_reloads() {
    let upstream = Upstream::start();
    let (before, after) = pair(&upstream);
    let proxy = before.start();
    let new = proxy.file().with_extension("new");
    fs::write(&new, after.text()).expect("it is written");
    fs::rename(new, proxy.file()).expect("it is moved");
    eventually("the new policy", || requires_keys(&proxy).then_some(()));
    assert_eq!(reloads(&proxy, "applied"), 1.0);
}

/// As a volume of Kubernetes does it: the file is a link into a folder that is a link.
#[test]
fn a_link_that_is_turned_reloads() {
    use std::os::unix::fs::symlink;
    let upstream = Upstream::start();
    let (before, after) = pair(&upstream);
    let proxy = before.start();
    let folder = proxy.file().parent().expect("a folder").to_owned();
    for (name, setup) in [("first", &before), ("second", &after)] {
        fs::create_dir(folder.join(name)).expect("a folder");
        fs::write(folder.join(name).join("onceproxy.toml"), setup.text()).expect("it is written");
    }
    symlink("first", folder.join("..data")).expect("a link");
    fs::remove_file(proxy.file()).expect("it goes");
    symlink("..data/onceproxy.toml", proxy.file()).expect("a link");
    symlink("second", folder.join("..next")).expect("a link");
    fs::rename(folder.join("..next"), folder.join("..data")).expect("the link is turned");
    eventually("the new policy", || requires_keys(&proxy).then_some(()));
    assert_eq!(reloads(&proxy, "applied"), 1.0);
}

#[test]
fn a_bad_file_is_read_once_and_forgotten_when_it_is_mended() {
    let upstream = Upstream::start();
    let (before, after) = pair(&upstream);
    let proxy = before.start();
    fs::write(proxy.file(), "version = 1\n[listner]\n").expect("it is written");
    eventually("the rejection", || (reloads(&proxy, "rejected") > 0.0).then_some(()));
    write(&proxy, &after);
    eventually("the new policy", || requires_keys(&proxy).then_some(()));
    assert_eq!((reloads(&proxy, "applied"), reloads(&proxy, "rejected")), (1.0, 1.0));
}

#[test]
fn open_connections_get_the_new_configuration() {
    let upstream = Upstream::start();
    let (before, after) = pair(&upstream);
    let proxy = before.start();
    let mut connection = connect(proxy.address);
    assert_eq!(unkeyed().send_over(&mut connection).expect("an answer").status, 201);
    apply(&proxy, &after);
    // Without a body, so that the refusal does not end the connection.
    let empty = Request::post("/pay");
    assert_eq!(empty.send_over(&mut connection).expect("an answer").status, 400);
    assert_eq!(keyed("k").send_over(&mut connection).expect("an answer").outcome(), "executed");
    apply(&proxy, &before.route("only", "/only", ""));
    assert_eq!(unkeyed().send_over(&mut connection).expect("an answer").status, 404);
}

#[test]
fn logs_and_trust_change_too() {
    let upstream = Upstream::start();
    let before = setup(upstream.address, "memory:").set("log.level", quoted("error"));
    let proxy = before.start();
    let mut connection = connect(proxy.address);
    let said = "203.0.113.9";
    let forwarded = |upstream: &Upstream| {
        let received = upstream.received();
        received.last().expect("a request").head.all("x-forwarded-for").join(", ")
    };
    unkeyed().field("x-forwarded-for", said).send_over(&mut connection).expect("an answer");
    assert_eq!(forwarded(&upstream), "127.0.0.1");
    let after = before.set("log.level", quoted("info")).set("log.access", "true");
    let after = after.listener("trusted_proxies", "[\"127.0.0.0/8\"]");
    assert_eq!(apply(&proxy, &after), ["listener.trusted_proxies", "log.level", "log.access"]);
    unkeyed().field("x-forwarded-for", said).send_over(&mut connection).expect("an answer");
    assert_eq!(forwarded(&upstream), format!("{said}, 127.0.0.1"));
    proxy.wait_for_line("onceproxy::access");
}

#[test]
fn the_token_changes() {
    let upstream = Upstream::start();
    let before = setup(upstream.address, "memory:");
    let proxy = before.start();
    let after = before.set("admin.token", quoted("another-one"));
    assert_eq!(apply(&proxy, &after), ["admin.token"]);
    assert_eq!(reload(&proxy).status, 401);
}

#[test]
fn streams_of_one_connection_get_the_configuration_of_their_beginning() {
    let upstream = Upstream::start();
    let (before, after) = pair(&upstream);
    let proxy = before.start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut sender = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(proxy.address).await.expect("the proxy accepts");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake.expect("the proxy speaks HTTP/2");
        tokio::spawn(connection);
        sender
    });
    let mut post = || {
        let request = http::Request::post("http://api.test/pay").body(Full::<Bytes>::from("x")).expect("a request");
        sender.send_request(request)
    };
    let answer = Signal::default();
    upstream.then(Reply::status(201).after(&answer));
    let old = runtime.spawn(post());
    runtime.block_on(async {
        while upstream.received().is_empty() {
            tokio::task::yield_now().await
        }
    });
    apply(&proxy, &after);
    let new: http::Response<Incoming> = runtime.block_on(post()).expect("an answer");
    assert_eq!(new.status(), 400);
    answer.give();
    let old = runtime.block_on(old).expect("it ends").expect("an answer");
    assert_eq!(old.status(), 201);
}
