//! An upstream on real sockets that writes down what it gets and what it does, and misbehaves when it is told to.

mod reply;

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

pub use self::reply::Reply;
use self::reply::{Afterwards, Manner};
use super::waiting::{PATIENCE, eventually};
use super::wire::{Head, Kind, read_body, read_head};

/// A server that counts, in the test's process.
pub struct Upstream {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub head: Head,
    pub body: Vec<u8>,
    pub key: Option<String>,
    pub attempt: Option<u32>,
    /// Which connection it came over, counted from 0.
    pub connection: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    received_bytes: AtomicUsize,
    standing: Box<dyn Fn(&Received) -> Reply + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// Every request that came to its end.
    received: Vec<Received>,
    /// Those that were acted on, in order.
    executions: Vec<Received>,
    scripts: VecDeque<Reply>,
    connections: usize,
    open: usize,
    /// Connections between two requests.
    idle: HashMap<usize, Arc<TcpStream>>,
    is_away: bool,
}

impl Upstream {
    /// An upstream that acts on everything; its answers are told apart by the number of the execution.
    pub fn start() -> Upstream {
        let count = AtomicUsize::new(0);
        Upstream::answering(move |_| {
            let number = count.fetch_add(1, Ordering::AcqRel) + 1;
            Reply::status(201).field("x-execution", &number.to_string()).body(format!("execution {number}"))
        })
    }

    /// An upstream with this answer to every request for which nothing else was planned.
    pub fn answering(standing: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            received_bytes: AtomicUsize::new(0),
            standing: Box::new(standing),
        });
        accept(listener, shared.clone());
        Upstream { address, shared }
    }

    /// Plans the reply to the next request for which none is planned yet.
    pub fn then(&self, reply: Reply) -> &Upstream {
        self.shared.lock().scripts.push_back(reply);
        self
    }

    /// The requests that came whole.
    pub fn received(&self) -> Vec<Received> {
        self.shared.lock().received.clone()
    }

    /// The requests that were acted on.
    pub fn executions(&self) -> Vec<Received> {
        self.shared.lock().executions.clone()
    }

    /// The requests with a key that were acted on.
    pub fn executions_of(&self, key: &str) -> Vec<Received> {
        let executions = self.executions();
        executions.into_iter().filter(|request| request.key.as_deref() == Some(key)).collect()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// How many bytes came, over all connections.
    pub fn received_bytes(&self) -> usize {
        self.shared.received_bytes.load(Ordering::Acquire)
    }

    /// Forgets what came so far.
    pub fn forget(&self) {
        let mut state = self.shared.lock();
        state.received.clear();
        state.executions.clear();
    }

    /// Waits until so many requests were acted on.
    pub fn wait_for_executions(&self, count: usize) {
        let state = self.shared.lock();
        let wait = self.shared.changed.wait_timeout_while(state, PATIENCE, |state| state.executions.len() < count);
        let (state, timeout) = wait.expect("nobody panics in here");
        assert!(!timeout.timed_out(), "{} executions came, not {count}", state.executions.len());
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.shared.lock().open
    }

    /// Closes the connections that lie idle between two requests, as soon as there are so many.
    pub fn close_idle(&self, count: usize) {
        eventually("idle connections", || (self.shared.lock().idle.len() == count).then_some(()));
        self.close_all_idle();
        eventually("their end", || (self.shared.lock().idle.is_empty()).then_some(()));
    }

    fn close_all_idle(&self) {
        for (_, stream) in self.shared.lock().idle.drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Refuses connections from now on, and closes those that lie idle.
    pub fn go_away(&self) {
        self.shared.lock().is_away = true;
        // Whoever accepts finds the mark and leaves, and the port with it.
        eventually("the upstream to be away", || TcpStream::connect(self.address).is_err().then_some(()));
        self.close_all_idle();
    }

    /// Accepts again, on the same port.
    pub fn come_back(&self) {
        let listener = eventually("the upstream's port", || TcpListener::bind(self.address).ok());
        self.shared.lock().is_away = false;
        accept(listener, self.shared.clone());
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.lock().is_away = true;
        let _ = TcpStream::connect(self.address);
        self.close_all_idle();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics in here")
    }

    /// Writes a request down and looks up what to do with it.
    fn take(&self, received: &Received) -> Reply {
        let planned = self.lock().scripts.pop_front();
        let reply = planned.unwrap_or_else(|| (self.standing)(received));
        let mut state = self.lock();
        state.received.push(received.clone());
        if reply.acts {
            state.executions.push(received.clone());
        }
        drop(state);
        self.changed.notify_all();
        reply
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut state = shared.lock();
            if state.is_away {
                return;
            }
            let number = state.connections;
            state.connections += 1;
            state.open += 1;
            drop(state);
            let shared = shared.clone();
            // A connection that breaks is what the tests are about.
            thread::spawn(move || {
                drop(serve(number, Arc::new(stream), &shared));
                shared.lock().open -= 1;
            });
        }
    });
}

/// Serves one connection until it ends.
fn serve(number: usize, stream: Arc<TcpStream>, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(Counted { stream: &stream, bytes: &shared.received_bytes });
    let mut resets_next = false;
    loop {
        shared.lock().idle.insert(number, stream.clone());
        let first = reader.fill_buf().map(<[u8]>::len);
        shared.lock().idle.remove(&number);
        if first? == 0 {
            return Ok(());
        }
        if resets_next {
            return SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
        }
        let Some(head) = read_head(&mut reader)? else { return Ok(()) };
        let body = read_body(&mut reader, &head, Kind::Request)?;
        let reply = shared.take(&Received::new(head, body, number));
        if reply.waits_for.as_ref().is_some_and(|signal| !signal.wait()) {
            return Ok(());
        }
        thread::sleep(reply.delay);
        match reply.manner {
            Manner::Whole => (&*stream).write_all(&reply.bytes())?,
            Manner::Cut(length) => {
                let bytes = reply.bytes();
                return (&*stream).write_all(&bytes[..length.min(bytes.len())]);
            }
            Manner::Reset => return SockRef::from(&*stream).set_linger(Some(Duration::ZERO)),
            Manner::Silence => {
                reader.read_to_end(&mut Vec::new())?;
                return Ok(());
            }
        }
        match reply.afterwards {
            Afterwards::Keep => {}
            Afterwards::Close => return Ok(()),
            Afterwards::ResetNext => resets_next = true,
        }
    }
}

impl Received {
    fn new(head: Head, body: Vec<u8>, connection: usize) -> Received {
        let mut words = head.start.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let key = head.first("idempotency-key").map(str::to_owned);
        let attempt = head.first("idempotency-attempt").and_then(|attempt| attempt.parse().ok());
        Received { method, target, head, body, key, attempt, connection }
    }
}

/// Counts what is read.
struct Counted<'a> {
    stream: &'a TcpStream,
    bytes: &'a AtomicUsize,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer)?;
        self.bytes.fetch_add(length, Ordering::AcqRel);
        Ok(length)
    }
}
