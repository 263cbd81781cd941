//! An upstream that takes offence at whatever is not well-formed, and says what it saw.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::message::{Request, SEEN, Wrong};

pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    count: AtomicUsize,
    offences: Mutex<Vec<String>>,
}

impl Upstream {
    pub(super) fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let upstream = Upstream { address: listener.local_addr().expect("its address"), shared: Arc::default() };
        let shared = upstream.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || serve(stream, &shared));
            }
        });
        upstream
    }

    /// How many whole requests came so far.
    pub(super) fn count(&self) -> usize {
        self.shared.count.load(Ordering::Acquire)
    }

    pub(super) fn assert_well_formed(&self) {
        let offences = self.shared.offences.lock().expect("nobody panics in here");
        assert!(offences.is_empty(), "the upstream got {offences:?}");
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        while let Ok((request, rest)) = Request::read(&bytes) {
            shared.count.fetch_add(1, Ordering::AcqRel);
            bytes = rest.to_vec();
            let body = if request.method == "HEAD" { "" } else { "ok" };
            let head = format!("HTTP/1.1 200 OK\r\n{SEEN}: {}\r\ncontent-length: 2\r\n\r\n{body}", request.seen());
            if stream.write_all(head.as_bytes()).is_err() {
                return;
            }
        }
        if Request::read(&bytes) == Err(Wrong::Malformed) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            shared.offences.lock().expect("nobody panics in here").push(text);
            return;
        }
        match stream.read(&mut part) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A request that was given up.
            Ok(0) | Err(_) => return,
            Ok(length) => bytes.extend_from_slice(&part[..length]),
        }
    }
}
