//! One connection of the client: one request at a time.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use crate::Result;
use crate::message::{Head, Request};

/// Room for an answer at once.
const BUFFER_BYTES: usize = 4 << 10;

pub struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    key: u64,
    written: usize,
    /// When the request under way was due.
    pub due: Instant,
}

/// How far a request has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    All,
    Part,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Connection> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Connection { socket, buffer: vec![0; BUFFER_BYTES], filled: 0, key: 0, written: 0, due: Instant::now() })
    }

    /// Begins a request.
    pub fn send(&mut self, request: &mut Request, key: u64, due: Instant) -> Result<Written> {
        (self.key, self.due, self.written, self.filled) = (key, due, 0, 0);
        self.go_on(request)
    }

    /// Writes what the socket takes. The bytes are shared by all connections, so the key is put in again.
    pub fn go_on(&mut self, request: &mut Request) -> Result<Written> {
        let bytes = request.under(self.key);
        while self.written < bytes.len() {
            match self.socket.write(&bytes[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Written::Part),
                Err(error) => return Err(format!("writing a request: {error}").into()),
            }
        }
        Ok(Written::All)
    }

    /// Reads what is there; the head of the answer once the answer is whole.
    pub fn receive(&mut self) -> Result<Option<Head>> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        match self.socket.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err("the server closed a connection with a request under way".into()),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(format!("reading an answer: {error}").into()),
        }
        match Head::read(&self.buffer[..self.filled])? {
            Some(head) if head.whole_bytes < self.filled => Err("more bytes than the answer has".into()),
            Some(head) if head.whole_bytes == self.filled => Ok(Some(head)),
            _ => Ok(None),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
