//! HTTP/2 in frames, for clients that no library would be.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::support::client::HOST;
use crate::support::waiting::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// Of SETTINGS and PING.
pub const ACK: u8 = 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A proxy that takes nothing for so long has stopped to read.
const STUCK: Duration = Duration::from_secs(1);

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { kind, flags, stream, payload: payload.into() }
    }

    /// A POST with a key, without the end of its body.
    pub fn post(stream: u32, key: &str, flags: u8) -> Frame {
        Frame::new(HEADERS, END_HEADERS | flags, stream, post_block(key))
    }

    pub fn reset(stream: u32) -> Frame {
        const CANCEL: u32 = 8;
        Frame::new(RST_STREAM, 0, stream, CANCEL.to_be_bytes())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    fn read(from: &mut impl Read) -> io::Result<Frame> {
        let mut head = [0; 9];
        from.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload)?;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The error of a GOAWAY.
    pub fn error(&self) -> Option<u32> {
        let code = self.payload.get(4..8).filter(|_| self.kind == GOAWAY)?;
        Some(u32::from_be_bytes(code.try_into().expect("four bytes")))
    }
}

/// The header block of a POST.
pub fn post_block(key: &str) -> Vec<u8> {
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", "/pay")];
    fields.into_iter().chain([("idempotency-key", key)]).flat_map(|(name, value)| field(name, value)).collect()
}

/// A field as a literal that nobody indexes (RFC 7541 section 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &string(name), &string(value)].concat()
}

/// A string without the Huffman code (RFC 7541 section 5.2).
fn string(text: &str) -> Vec<u8> {
    const PREFIX: usize = 127;
    let mut bytes = vec![text.len().min(PREFIX) as u8];
    if let Some(mut rest) = text.len().checked_sub(PREFIX) {
        while rest >= 128 {
            bytes.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        bytes.push(rest as u8);
    }
    bytes.extend(text.as_bytes());
    bytes
}

/// A client's side of a connection.
pub struct Client {
    stream: TcpStream,
    heard: Option<Receiver<Frame>>,
}

impl Client {
    /// Connects and says hello; what comes back is read.
    pub fn connect(address: SocketAddr, settings: &[u8]) -> Client {
        let mut client = Client::deaf(address, settings);
        let mut stream = client.stream.try_clone().expect("a second handle");
        let (tell, heard) = channel();
        thread::spawn(move || {
            while let Ok(frame) = Frame::read(&mut stream) {
                if tell.send(frame).is_err() {
                    break;
                }
            }
        });
        client.heard = Some(heard);
        client
    }

    /// One that never reads.
    pub fn deaf(address: SocketAddr, settings: &[u8]) -> Client {
        let stream = TcpStream::connect(address).expect("the proxy accepts");
        stream.set_nodelay(true).expect("an option");
        stream.set_write_timeout(Some(STUCK)).expect("a time limit");
        let mut client = Client { stream, heard: None };
        assert!(client.write(PREFACE) && client.send(&Frame::new(SETTINGS, 0, 0, settings)));
        client
    }

    /// Whether the proxy took it.
    pub fn send(&mut self, frame: &Frame) -> bool {
        self.write(&frame.bytes())
    }

    /// Whether the proxy took it.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Waits for a frame; `None` when the connection ends before.
    pub fn hear(&self, is_wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let heard = self.heard.as_ref().expect("it listens");
        loop {
            match heard.recv_timeout(PATIENCE) {
                Ok(frame) if is_wanted(&frame) => return Some(frame),
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(error) => panic!("the proxy neither answers nor closes: {error}"),
            }
        }
    }

    /// Waits until the proxy has read what was sent so far; false when it closes.
    pub fn is_caught_up(&mut self) -> bool {
        let ping = Frame::new(PING, 0, 0, [7; 8]);
        self.send(&ping) && self.hear(|frame| frame.kind == PING && frame.flags == ACK).is_some()
    }
}
