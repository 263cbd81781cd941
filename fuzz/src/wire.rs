//! HTTP/1.1 as bytes, through a whole proxy on real sockets: what comes out behind it is as well-formed as it gets, and
//! of a client that leaves no doubt the upstream gets just the requests that it sent.

mod message;
mod upstream;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use onceproxy::app::{self, PortTaken};
use onceproxy::config::load::{Overrides, load};
use onceproxy::config::secret::Lookups;

use self::message::{Request, Response};
use self::upstream::Upstream;

/// The last request of every connection.
const LAST: &str = "GET /last HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";
/// Longer than the proxy waits for anybody.
const PATIENCE: Duration = Duration::from_secs(5);

static STAGE: LazyLock<Stage> = LazyLock::new(Stage::new);

/// Takes the bytes for what a client sends on one connection.
pub fn check(data: &[u8]) {
    let sent = [data, LAST.as_bytes()].concat();
    let before = STAGE.upstream.count();
    let answer = STAGE.send(&sent);
    STAGE.upstream.assert_well_formed();
    let Some(requests) = message::requests(&sent) else { return };
    let responses = message::responses(&answer, &requests);
    let mut forwarded = 0;
    for (request, response) in requests.iter().zip(&responses) {
        if let Some(seen) = response.seen() {
            assert_eq!(seen, request.seen(), "the upstream saw another request");
            forwarded += 1;
        }
    }
    assert!(responses.len() <= requests.len(), "{responses:?}");
    if responses.len() < requests.len() {
        let ends = requests.iter().any(Request::ends) || responses.last().is_none_or(Response::ends);
        assert!(ends, "{} requests, {} answers", requests.len(), responses.len());
    }
    // What one client had left behind may still have come in.
    let seen = STAGE.upstream.count() - before;
    if seen > forwarded {
        let before = STAGE.upstream.count();
        STAGE.send(&sent);
        assert!(STAGE.upstream.count() - before <= forwarded, "the upstream got more than was answered");
    }
}

/// A proxy in this process, and what stands behind it.
struct Stage {
    address: SocketAddr,
    upstream: Upstream,
    /// Whose turn it is: each connection comes from another address, of which one has only so many ports.
    turn: AtomicU8,
}

impl Stage {
    fn new() -> Stage {
        let upstream = Upstream::start();
        let text = format!(
            "version = 1\n[listener]\naddress = \"127.0.0.1:0\"\nheader_timeout = \"60ms\"\nbody_timeout = \"60ms\"\n\
            idle_timeout = \"60ms\"\n[log]\nlevel = \"off\"\naccess = false\n[store]\nurl = \"memory:\"\n\
            [upstreams.api]\nurl = \"http://{}\"\n[[routes]]\nname = \"all\"\npath = \"/{{*rest}}\"\nupstream = \"api\"\n\
            policy = {{ scope = [\"host\"] }}\n",
            upstream.address
        );
        let nothing = Lookups { environment: &|_| None, file: &|_| Err(ErrorKind::NotFound.into()) };
        let report = load(&text, "wire.toml", &Overrides::default(), &nothing);
        let config = report.config.unwrap_or_else(|| panic!("{:?}", report.diagnostics));
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let run = app::run(config, PortTaken::Fail, std::future::pending(), |started| {
                tell.send(started.data.socket().expect("it listens on a port")).expect("somebody waits");
            });
            runtime.block_on(run).expect("the proxy runs");
        });
        Stage { address: told.recv().expect("the proxy starts"), upstream, turn: AtomicU8::new(0) }
    }

    /// Sends bytes over a connection and reads to its end.
    fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // The proxy may close before all is written.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            match stream.read(&mut part) {
                Ok(0) => return answer,
                Ok(length) => answer.extend_from_slice(&part[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return answer,
                // The fuzzer's clock.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the proxy neither answers nor closes: {error}"),
            }
        }
    }

    fn connect(&self) -> TcpStream {
        use socket2::{Domain, Socket, Type};
        let socket = loop {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&SocketAddr::from(([127, 0, 1, turn], 0)).into()).expect("an address of this machine");
            match socket.connect(&self.address.into()) {
                // The fuzzer's clock.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                connected => break connected.map(|()| socket).expect("the proxy accepts"),
            }
        };
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        socket.set_write_timeout(Some(PATIENCE)).expect("a time limit");
        socket.set_tcp_nodelay(true).expect("an option");
        socket.into()
    }
}
