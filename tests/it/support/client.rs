//! A client that sends one request over a connection of its own, and tells how that ended.

use std::fmt::Write as _;
use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use super::waiting::PATIENCE;
use super::wire::{Head, Kind, read_body, read_head};

/// A request, put together field by field.
#[derive(Debug, Clone)]
pub struct Request {
    method: &'static str,
    path: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
}

/// A request on its way.
pub struct Pending(JoinHandle<io::Result<Answer>>);

impl Request {
    pub fn post(path: &str) -> Request {
        let fields = vec![("host".to_owned(), HOST.to_owned())];
        Request { method: "POST", path: path.to_owned(), fields, body: Vec::new() }
    }

    pub fn get(path: &str) -> Request {
        Request { method: "GET", ..Request::post(path) }
    }

    pub fn field(mut self, name: &str, value: &str) -> Request {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn key(self, key: &str) -> Request {
        self.field("idempotency-key", key)
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// Sends it and leaves the answer unread. Who drops the connection hangs up.
    pub fn begin(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&self.bytes())?;
        Ok(stream)
    }

    /// Sends it and reads the answer; an error when there is no whole one.
    pub fn send(&self, address: SocketAddr) -> io::Result<Answer> {
        read_answer(&mut BufReader::new(self.begin(address)?))
    }

    /// Sends it from a thread of its own.
    pub fn send_aside(&self, address: SocketAddr) -> Pending {
        let request = self.clone();
        Pending(thread::spawn(move || request.send(address)))
    }

    /// Sends it over a connection that is there, and reads the answer.
    pub fn send_over(&self, reader: &mut BufReader<TcpStream>) -> io::Result<Answer> {
        reader.get_mut().write_all(&self.bytes())?;
        read_answer(reader)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.fields {
            write!(text, "{name}: {value}\r\n").expect("a string takes it");
        }
        write!(text, "content-length: {}\r\n\r\n", self.body.len()).expect("a string takes it");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn read_answer(reader: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let head = read_head(reader)?.ok_or(ErrorKind::UnexpectedEof)?;
    let status = head.start.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = read_body(reader, &head, Kind::Answer)?;
    Ok(Answer { status: status.ok_or(ErrorKind::InvalidData)?, head, body })
}

/// The host of every request.
pub const HOST: &str = "api.test";

impl Pending {
    /// Waits for the end.
    pub fn end(self) -> io::Result<Answer> {
        self.0.join().expect("the client does not panic")
    }

    /// Says whether the end has come.
    pub fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, nothing when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The first value of a field, empty without one.
    pub fn field(&self, name: &str) -> &str {
        self.head.first(name).unwrap_or_default()
    }

    /// What became of the request: the `Idempotency-Status`, else the problem's code.
    pub fn outcome(&self) -> String {
        match self.head.first("idempotency-status") {
            Some(status) => status.to_owned(),
            None => self.json()["code"].as_str().unwrap_or_default().to_owned(),
        }
    }
}
