//! Tunnels when the proxy shuts down.

use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::{Upstream, expect_echo, rest_of, switched};
use crate::support::waiting::eventually;

#[test]
fn a_shutdown_leaves_it_the_whole_grace_and_no_more_h26() {
    let upstream = Upstream::echo();
    let grace = Duration::from_millis(1500);
    let mut proxy = upstream.proxy(|setup| setup.listener(|listener| listener.shutdown_grace = grace));
    let mut stream = switched(&proxy);
    let address = proxy.address;
    let began = Instant::now();
    let stopping = thread::spawn(move || proxy.stop());
    eventually("the listener to close", || TcpStream::connect(address).is_err().then_some(()));
    expect_echo(&mut stream, "in the grace");
    assert!(!stopping.is_finished());
    assert_eq!(rest_of(&mut stream), b"");
    assert!(began.elapsed() >= grace, "{:?}", began.elapsed());
    stopping.join().expect("the proxy ends well");
}

#[test]
fn a_shutdown_is_over_when_it_ends_h26() {
    let upstream = Upstream::echo();
    let mut proxy =
        upstream.proxy(|setup| setup.listener(|listener| listener.shutdown_grace = Duration::from_secs(60)));
    let mut stream = switched(&proxy);
    let address = proxy.address;
    let stopping = thread::spawn(move || proxy.stop());
    eventually("the listener to close", || TcpStream::connect(address).is_err().then_some(()));
    stream.shutdown(Shutdown::Write).expect("an end");
    assert_eq!(rest_of(&mut stream), b"that was all");
    drop(stream);
    eventually("the proxy to end", || stopping.is_finished().then_some(()));
    stopping.join().expect("the proxy ends well");
}
