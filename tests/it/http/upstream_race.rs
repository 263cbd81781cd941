//! The keep-alive race: an upstream that closes idle connections at the worst moment, and what becomes of the requests
//! that were just about to use them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use onceproxy::proxy::upstream::Transport;
use onceproxy::proxy::upstream::tls::{ClientTls, Roots};

use super::raw::{Setup, post, read_message};
use crate::support::authority::Authority;
use crate::support::tls_upstream::{TlsUpstream, Version, server_config};

const CLIENTS: usize = 8;

/// What the upstream knows. Clones are the same.
#[derive(Clone, Default)]
struct Counts {
    /// How often each key was executed.
    executions: Arc<Mutex<HashMap<String, usize>>>,
    /// Connections that were closed when a request had come, or was about to: nobody reads it.
    crossed: Arc<AtomicUsize>,
}

impl Counts {
    fn executions_of(&self, key: &str) -> usize {
        self.executions.lock().expect("the counts").get(key).copied().unwrap_or_default()
    }

    /// The connection is closed now; has something come before?
    fn closed(&self, socket: &TcpStream) {
        let _ = socket.set_nonblocking(true);
        if matches!(socket.peek(&mut [0]), Ok(1)) {
            self.crossed.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// What the upstream does after an answer.
#[derive(Debug, Clone, Copy)]
enum Then {
    Keep,
    Close,
    Reset,
    /// Closes after so many microseconds: about when the next request is put together.
    CloseIn(u64),
    /// Waits for the next request's first byte and resets: whoever wrote it cannot know what became of it.
    ResetNext,
}

/// Numbers that look like chance and are the same in every run.
struct Dice(u64);

impl Dice {
    /// The dice of a connection.
    fn of(number: u64) -> Dice {
        Dice(0x9E37_79B9 * number)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn then(&mut self) -> Then {
        match self.roll(16) {
            0..6 => Then::Keep,
            6..8 => Then::Close,
            8..10 => Then::Reset,
            10..15 => Then::CloseIn(self.roll(400)),
            _ => Then::ResetNext,
        }
    }
}

/// Serves a connection until its time is over.
fn serve(stream: &mut (impl Read + Write), socket: &TcpStream, mut dice: Dice, counts: &Counts) {
    let _ = socket.set_nodelay(true);
    while let Some(request) = read_message(stream, true) {
        let key = request.one("idempotency-key").to_owned();
        *counts.executions.lock().expect("the counts").entry(key.clone()).or_default() += 1;
        let answer = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{key}", key.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
        match dice.then() {
            Then::Keep => {}
            Then::Close => return counts.closed(socket),
            Then::Reset => {
                counts.closed(socket);
                return reset(socket);
            }
            Then::CloseIn(micros) => {
                let until = Instant::now() + Duration::from_micros(micros);
                while Instant::now() < until {
                    thread::yield_now();
                }
                let _ = socket.shutdown(Shutdown::Write);
                return counts.closed(socket);
            }
            Then::ResetNext => {
                if matches!(socket.peek(&mut [0]), Ok(1)) {
                    counts.crossed.fetch_add(1, Ordering::AcqRel);
                }
                return reset(socket);
            }
        }
    }
}

fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// How many requests were answered, and how many nobody knows of.
#[derive(Debug, Default, Clone, Copy)]
struct Split {
    executed: usize,
    unknown: usize,
}

/// One client with a connection of its own and keys of its own.
fn client(proxy: SocketAddr, number: usize, requests: usize, counts: &Counts) -> Split {
    let mut stream = TcpStream::connect(proxy).expect("the proxy accepts");
    stream.set_nodelay(true).expect("a socket option");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    let mut split = Split::default();
    for n in 0..requests {
        let key = format!("k-{number}-{n}");
        let request = post("/", &format!("idempotency-key: {key}\r\n"), &key);
        stream.write_all(request.as_bytes()).expect("the proxy reads");
        let answer = read_message(&mut stream, true).expect("an answer");
        let executions = counts.executions_of(&key);
        match answer.status() {
            201 => {
                assert_eq!((answer.text(), executions), (key, 1));
                split.executed += 1;
            }
            // New connections are always taken: where nothing was written, the request went over another one.
            502 => {
                assert_eq!((answer.code().as_str(), answer.one("idempotency-status")), ("upstream-lost", "unknown"));
                assert!(executions <= 1, "{key} was executed {executions} times");
                split.unknown += 1;
            }
            status => panic!("{status}: {}", answer.text()),
        }
    }
    split
}

/// Sends so many requests through a proxy, and holds what became of them against the upstream's own count.
fn race(proxy: SocketAddr, requests: usize, counts: &Counts) {
    let splits: Vec<Split> = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || client(proxy, number, requests / CLIENTS, counts))).collect();
        clients.into_iter().map(|client| client.join().expect("the client's checks hold")).collect()
    });
    let executed: usize = splits.iter().map(|split| split.executed).sum();
    let unknown: usize = splits.iter().map(|split| split.unknown).sum();
    let crossed = counts.crossed.load(Ordering::Acquire);
    println!("of {requests}: {executed} executed, {unknown} unknown; {crossed} crossed a close");
    assert_eq!(executed + unknown, requests);
    let executions = counts.executions.lock().expect("the counts");
    assert!(executions.values().all(|count| *count == 1), "a key was executed twice");
    assert!(executions.len() >= executed);
    // What is unknown came before the close and was not read, or came right behind it.
    assert!(unknown > 0, "the upstream did reset under requests");
    assert!(unknown <= crossed + requests / 100, "{unknown} are unknown, {crossed} crossed a close");
    assert!(executed >= requests / 2, "{executed} of {requests}");
}

#[test]
fn no_key_runs_twice_however_the_upstream_closes_idle_connections_h27() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let counts = Counts::default();
    let counted = counts.clone();
    thread::spawn(move || {
        for (number, mut stream) in (1..).zip(listener.incoming().flatten()) {
            let counted = counted.clone();
            thread::spawn(move || {
                let socket = stream.try_clone().expect("a file descriptor");
                serve(&mut stream, &socket, Dice::of(number), &counted);
            });
        }
    });
    let proxy = Setup::new().upstream(|upstream| upstream.port = port).start();
    race(proxy.address, 5_000, &counts);
}

#[test]
fn no_key_runs_twice_however_the_upstream_closes_idle_tls_connections_h27() {
    let (authority, counts) = (Authority::new(), Counts::default());
    let (counted, number) = (counts.clone(), AtomicU64::new(1));
    let config = server_config(&authority.sign("127.0.0.1"), Version::Tls13, None);
    let upstream = TlsUpstream::start(config, move |stream| {
        let socket = stream.sock.try_clone().expect("a file descriptor");
        serve(stream, &socket, Dice::of(number.fetch_add(1, Ordering::AcqRel)), &counted);
    });
    let tls = ClientTls::new("127.0.0.1", Roots::Only(&authority.pem()), None).expect("TLS can be set up");
    let setup = Setup::new().upstream(|spec| {
        spec.port = upstream.address.port();
        spec.transport = Transport::Tls(Arc::new(tls));
    });
    race(setup.start().address, 800, &counts);
}
