//! The upstream: one thread that reads a request, counts it, and gives everybody the same answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::Result;
use crate::message::{end_of_head, field, json};

/// The status of every answer.
pub const STATUS: u16 = 201;
/// The body of every answer, in bytes.
const ANSWER_BYTES: usize = 200;
/// The longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;
const READ_BYTES: usize = 256 << 10;
/// How long [`Upstream::wait_for_held`] waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// The listener's event; connections have their index.
const LISTENER: u64 = u64::MAX;

/// The upstream; it ends when this is dropped.
pub struct Upstream {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What an upstream has read.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Those that were read to their end, each counted before it was answered.
    pub requests: u64,
    /// Of all requests, those that are not whole yet too.
    pub body_bytes: u64,
}

struct Shared {
    stopped: AtomicBool,
    requests: AtomicU64,
    body_bytes: AtomicU64,
    answer_bytes: AtomicU64,
    holding: AtomicBool,
    held: Mutex<u64>,
    one_more_held: Condvar,
}

struct Connection {
    socket: TcpStream,
    head: Vec<u8>,
    /// Bytes of the body still to come, once the head is there.
    body_left: Option<usize>,
    /// Bytes of a large answer's body still to be written.
    answer_left: u64,
}

impl Upstream {
    /// Starts the thread, which inherits the cores of the calling one.
    pub fn start() -> Result<Upstream> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            stopped: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            answer_bytes: AtomicU64::new(0),
            holding: AtomicBool::new(false),
            held: Mutex::new(0),
            one_more_held: Condvar::new(),
        });
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("upstream".to_owned()).spawn(move || {
            if let Err(failure) = serve(&listener, &theirs) {
                // The run notices: its requests stay unanswered, or its counts do not add up.
                eprintln!("compare: the upstream failed: {failure}");
            }
        })?;
        Ok(Upstream { address, shared, thread: Some(thread) })
    }

    /// What was read until now.
    pub fn seen(&self) -> Seen {
        let body_bytes = self.shared.body_bytes.load(Ordering::SeqCst);
        Seen { requests: self.shared.requests.load(Ordering::SeqCst), body_bytes }
    }

    /// Gives answers of this size from now on.
    pub fn answer_with(&self, bytes: u64) {
        self.shared.answer_bytes.store(bytes, Ordering::SeqCst);
    }

    /// Gives no more answers: requests stay in flight.
    pub fn hold(&self) {
        self.shared.holding.store(true, Ordering::SeqCst);
    }

    /// Waits until so many requests are held.
    pub fn wait_for_held(&self, count: u64) -> Result<()> {
        let held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, timeout) = self
            .shared
            .one_more_held
            .wait_timeout_while(held, PATIENCE, |held| *held < count)
            .unwrap_or_else(PoisonError::into_inner);
        match timeout.timed_out() {
            true => Err(format!("{} of {count} requests reached the upstream", *held).into()),
            false => Ok(()),
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread; where that fails the thread is gone already.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(listener: &TcpListener, shared: &Shared) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut bytes = vec![0; READ_BYTES];
    let mut answer = head_of_answer(ANSWER_BYTES as u64);
    answer.extend(json(ANSWER_BYTES));
    let mut events = Vec::with_capacity(256);
    while !shared.stopped.load(Ordering::Relaxed) {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            if event.data.u64() == LISTENER {
                accept(listener, &epoll, &mut connections)?;
                continue;
            }
            let place = &mut connections[event.data.u64() as usize];
            if let Some(connection) = place {
                let was_writing = connection.answer_left > 0;
                match connection.serve(&mut bytes, &answer, shared)? {
                    Peer::Gone => *place = None,
                    Peer::There if was_writing == (connection.answer_left > 0) => {}
                    Peer::There => {
                        let flags = if was_writing { epoll::EventFlags::IN } else { epoll::EventFlags::OUT };
                        epoll::modify(&epoll, &connection.socket, event.data, flags)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn head_of_answer(bytes: u64) -> Vec<u8> {
    format!("HTTP/1.1 {STATUS} Created\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n")
        .into_bytes()
}

fn accept(listener: &TcpListener, epoll: &OwnedFd, connections: &mut Vec<Option<Connection>>) -> Result<()> {
    loop {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let index = connections.iter().position(Option::is_none).unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        epoll::add(epoll, &socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        connections[index] = Some(Connection { socket, head: Vec::new(), body_left: None, answer_left: 0 });
    }
}

#[derive(PartialEq, Eq)]
enum Peer {
    There,
    Gone,
}

impl Connection {
    fn serve(&mut self, bytes: &mut [u8], answer: &[u8], shared: &Shared) -> Result<Peer> {
        if self.answer_left > 0 {
            return Ok(self.write_on(bytes));
        }
        let count = match self.socket.read(bytes) {
            Ok(0) => return Ok(Peer::Gone),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Peer::There),
            // Servers are stopped with requests under way.
            Err(_) => return Ok(Peer::Gone),
        };
        if !self.take(&bytes[..count], shared)? {
            return Ok(Peer::There);
        }
        shared.requests.fetch_add(1, Ordering::SeqCst);
        if shared.holding.load(Ordering::Relaxed) {
            *shared.held.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            shared.one_more_held.notify_all();
            return Ok(Peer::There);
        }
        let large = shared.answer_bytes.load(Ordering::Relaxed);
        let head;
        let answer = if large > 0 {
            head = head_of_answer(large);
            &head
        } else {
            answer
        };
        self.answer_left = large;
        match self.socket.write(answer) {
            Ok(count) if count == answer.len() => Ok(Peer::There),
            Ok(_) => Err("an answer did not fit into the socket's buffer".into()),
            Err(_) => Ok(Peer::Gone),
        }
    }

    /// Writes of a large answer's body what the socket takes. What the body holds does not matter.
    fn write_on(&mut self, bytes: &[u8]) -> Peer {
        while self.answer_left > 0 {
            let count = bytes.len().min(usize::try_from(self.answer_left).unwrap_or(usize::MAX));
            match self.socket.write(&bytes[..count]) {
                Ok(count) => self.answer_left -= count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Peer::There,
                Err(_) => return Peer::Gone,
            }
        }
        Peer::There
    }

    /// Takes bytes of a request; says whether it is whole.
    fn take(&mut self, bytes: &[u8], shared: &Shared) -> Result<bool> {
        let mut of_body = bytes.len();
        let left = match self.body_left {
            Some(left) => left.checked_sub(bytes.len()),
            None => {
                self.head.extend_from_slice(bytes);
                let Some(end) = end_of_head(&self.head) else {
                    let endless = self.head.len() > MAX_HEAD_BYTES;
                    return if endless { Err("the head of a request does not end".into()) } else { Ok(false) };
                };
                let body = content_length(&self.head[..end])?;
                of_body = self.head.len() - end;
                body.checked_sub(of_body)
            }
        };
        shared.body_bytes.fetch_add(of_body as u64, Ordering::SeqCst);
        let left = left.ok_or("a request came before the last one was answered")?;
        self.body_left = (left > 0).then_some(left);
        if left == 0 {
            self.head.clear();
        }
        Ok(left == 0)
    }
}

fn content_length(head: &[u8]) -> Result<usize> {
    let mut length = 0;
    for line in std::str::from_utf8(head)?.split("\r\n") {
        if let Some(value) = field(line, "content-length:") {
            length = value.parse()?;
        } else if field(line, "transfer-encoding:").is_some() {
            return Err("a chunked request; this upstream wants Content-Length".into());
        }
    }
    Ok(length)
}
