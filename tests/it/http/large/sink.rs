//! An upstream and a client for bodies that do not fit into the test's memory either.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::support::client::{Answer, HOST};
use crate::support::waiting::{PATIENCE, Signal};
use crate::support::wire::{Head, Kind, read_body, read_head};

const PIECE_BYTES: usize = 64 << 10;
/// How long a write may take before it counts as blocked.
const BLOCKED_AFTER: Duration = Duration::from_millis(300);

/// What the upstream got of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub key: String,
    pub length: Option<u64>,
    pub digest: String,
}

/// An upstream that digests what it gets, answers with the digest, and sends as much as `GET`, `POST /large/BYTES` and
/// `/grown/BYTES` ask for, announced or in chunks.
pub struct Sink {
    pub address: SocketAddr,
    /// Given when it could not send on because nobody takes.
    pub blocked: Signal,
    taken: Arc<Mutex<Vec<Taken>>>,
}

impl Sink {
    pub fn start() -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let (taken, blocked) = (Arc::default(), Signal::default());
        let sink = Sink { address, blocked, taken };
        let (taken, blocked) = (sink.taken.clone(), sink.blocked.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (taken, blocked) = (taken.clone(), blocked.clone());
                // A connection that breaks off shows in what was taken.
                thread::spawn(move || drop(serve(&stream, &taken, &blocked)));
            }
        });
        sink
    }

    /// The requests that came whole.
    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().expect("nobody panics in here").clone()
    }
}

fn serve(stream: &TcpStream, taken: &Mutex<Vec<Taken>>, blocked: &Signal) -> io::Result<()> {
    stream.set_write_timeout(Some(BLOCKED_AFTER))?;
    let mut reader = BufReader::with_capacity(PIECE_BYTES, stream);
    while let Some(head) = read_head(&mut reader)? {
        let length = head.first("content-length").and_then(|length| length.parse().ok());
        let digest = match length {
            Some(length) => digest_of(&mut reader, length)?,
            None => digest(&read_body(&mut reader, &head, Kind::Request)?),
        };
        let key = head.first("idempotency-key").unwrap_or_default().to_owned();
        taken.lock().expect("nobody panics in here").push(Taken { key, length, digest: digest.clone() });
        answer(stream, &head, &digest, blocked)?;
    }
    Ok(())
}

fn answer(stream: &TcpStream, head: &Head, digest: &str, blocked: &Signal) -> io::Result<()> {
    let target = head.start.split(' ').nth(1).unwrap_or_default();
    let asked = |prefix| target.strip_prefix(prefix).and_then(|bytes: &str| bytes.parse::<u64>().ok());
    if let Some(bytes) = asked("/large/") {
        let head = format!("HTTP/1.1 201 Created\r\ncontent-length: {bytes}\r\n\r\n");
        write_patiently(stream, head.as_bytes(), blocked)?;
        return Pattern::new(0).each(bytes, |piece| write_patiently(stream, piece, blocked));
    }
    if let Some(bytes) = asked("/grown/") {
        write_patiently(stream, b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n", blocked)?;
        Pattern::new(0).each(bytes, |piece| {
            write_patiently(stream, format!("{:x}\r\n", piece.len()).as_bytes(), blocked)?;
            write_patiently(stream, piece, blocked)?;
            write_patiently(stream, b"\r\n", blocked)
        })?;
        return write_patiently(stream, b"0\r\n\r\n", blocked);
    }
    let length = digest.len();
    write_patiently(
        stream,
        format!("HTTP/1.1 201 Created\r\ncontent-length: {length}\r\n\r\n{digest}").as_bytes(),
        blocked,
    )
}

/// Writes everything, and tells when that is not taken at once.
fn write_patiently(mut stream: &TcpStream, mut bytes: &[u8], blocked: &Signal) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => blocked.give(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Bytes without end that differ by their seed, and each piece from the others.
pub struct Pattern {
    piece: Vec<u8>,
    number: u64,
}

impl Pattern {
    pub fn new(seed: u8) -> Pattern {
        Pattern { piece: (0..PIECE_BYTES).map(|at| seed.wrapping_add((at % 251) as u8)).collect(), number: 0 }
    }

    fn each(mut self, bytes: u64, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            self.piece[..8].copy_from_slice(&self.number.to_be_bytes());
            self.number += 1;
            let length = left.min(PIECE_BYTES as u64);
            take(&self.piece[..length as usize])?;
            left -= length;
        }
        Ok(())
    }

    /// The digest of the first bytes.
    pub fn digest(self, bytes: u64) -> String {
        let mut digest = Sha256::new();
        self.each(bytes, |piece| {
            digest.update(piece);
            Ok(())
        })
        .expect("a digest takes everything");
        hex(&digest.finalize())
    }
}

pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

/// Reads so many bytes and digests them.
fn digest_of(reader: &mut impl Read, bytes: u64) -> io::Result<String> {
    let (mut digest, mut piece, mut left) = (Sha256::new(), vec![0; PIECE_BYTES], bytes);
    while left > 0 {
        let length = left.min(PIECE_BYTES as u64) as usize;
        reader.read_exact(&mut piece[..length])?;
        digest.update(&piece[..length]);
        left -= length as u64;
    }
    Ok(hex(&digest.finalize()))
}

/// Reads chunks to the last one and digests what is in them.
fn digest_of_chunks(reader: &mut impl BufRead) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut line = String::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(|_| ErrorKind::InvalidData)?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk)?;
        if size == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(&chunk[..size]);
    }
}

/// An upload under way.
pub struct Upload {
    stream: TcpStream,
}

impl Upload {
    /// Sends a head that announces so many bytes, and nothing of them.
    pub fn announce(address: SocketAddr, path: &str, key: &str, bytes: u64) -> Upload {
        Upload::begin(address, path, key, &format!("content-length: {bytes}"))
    }

    /// Sends a head that says nothing of the length.
    pub fn begin_chunked(address: SocketAddr, path: &str, key: &str) -> Upload {
        Upload::begin(address, path, key, "transfer-encoding: chunked")
    }

    fn begin(address: SocketAddr, path: &str, key: &str, framing: &str) -> Upload {
        let stream = TcpStream::connect(address).expect("the proxy accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let head = format!("POST {path} HTTP/1.1\r\nhost: {HOST}\r\nidempotency-key: {key}\r\n{framing}\r\n\r\n");
        (&stream).write_all(head.as_bytes()).expect("the proxy reads");
        Upload { stream }
    }

    /// Sends a chunk of a body without a length.
    pub fn send_chunk(self, bytes: &[u8]) -> Upload {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        (&self.stream).write_all(&chunk).expect("the proxy reads");
        self
    }

    /// Sends the last chunk.
    pub fn end_chunks(self) -> Upload {
        (&self.stream).write_all(b"0\r\n\r\n").expect("the proxy reads");
        self
    }

    /// Sends so many bytes of a pattern.
    pub fn send(&self, pattern: Pattern, bytes: u64) -> &Upload {
        pattern.each(bytes, |piece| (&self.stream).write_all(piece)).expect("the proxy reads");
        self
    }

    /// Reads the answer.
    pub fn answer(self) -> Answer {
        let mut reader = BufReader::new(&self.stream);
        let head = read_head(&mut reader).expect("a head").expect("an answer");
        let status = head.start.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let body = read_body(&mut reader, &head, Kind::Answer).expect("a whole body");
        Answer { status, head, body }
    }

    /// Waits for a signal, then reads an answer of this length and digests it.
    pub fn answer_digest(self, after: &Signal, bytes: u64) -> (Head, String) {
        let mut reader = BufReader::with_capacity(PIECE_BYTES, &self.stream);
        let head = read_head(&mut reader).expect("a head").expect("an answer");
        assert!(after.wait(), "nothing held the upstream back");
        let digest = match head.first("content-length") {
            Some(length) => {
                assert_eq!(length, bytes.to_string());
                digest_of(&mut reader, bytes).expect("a whole body")
            }
            None => digest_of_chunks(&mut reader).expect("a whole body"),
        };
        (head, digest)
    }
}

/// Uploads so many bytes of a pattern and reads the answer.
pub fn upload(address: SocketAddr, key: &str, seed: u8, bytes: u64) -> Answer {
    let upload = Upload::announce(address, "/pay", key, bytes);
    upload.send(Pattern::new(seed), bytes);
    upload.answer()
}
