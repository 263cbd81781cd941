//! An HTTP/2 server made of frames (RFC 9113 section 4), for what no library would do.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];
/// `:status: 200` by its index in the static table (RFC 7541 appendix A).
const STATUS_200: u8 = 0x88;

/// What is done with a request that came whole.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// It takes effect and is answered by an empty 200.
    Answer,
    /// Likewise, but later.
    AnswerWith(Then),
    /// Likewise, after so long.
    AnswerLate(Duration),
    /// REFUSED_STREAM.
    Refuse,
    /// CANCEL.
    Cancel,
    /// A GOAWAY that leaves this stream out.
    GoAwayBefore,
    /// A GOAWAY that counts this stream in, then the end.
    GoAwayAfterThenClose,
    /// The end.
    Close,
    /// Nothing.
    Silence,
}

/// When an answer goes out.
#[derive(Debug, Clone, Copy)]
pub enum Then {
    /// When so many requests have come.
    WhenAsked(usize),
}

/// A request that came whole.
pub struct Asked {
    /// Counted from 0 over all connections.
    pub number: usize,
}

type Script = Box<dyn Fn(&Asked) -> Act + Send + Sync>;

pub struct FrameUpstream {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Mutex<Script>,
    streams: u32,
    asked: Mutex<usize>,
    more: Condvar,
    acted: AtomicUsize,
    connections: AtomicUsize,
    ended: AtomicUsize,
    /// The body of the last request that came whole.
    body: Mutex<Vec<u8>>,
}

impl FrameUpstream {
    pub fn start(script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> FrameUpstream {
        FrameUpstream::with_streams(100, script)
    }

    /// One that allows so many streams at once on a connection.
    pub fn with_streams(streams: u32, script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> FrameUpstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(script)),
            streams,
            asked: Mutex::new(0),
            more: Condvar::new(),
            acted: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            body: Mutex::default(),
        });
        let accepted = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepted.connections.fetch_add(1, Ordering::AcqRel);
                let shared = accepted.clone();
                // A connection that breaks is what the tests are about.
                thread::spawn(move || {
                    drop(serve(stream, &shared));
                    shared.ended.fetch_add(1, Ordering::AcqRel);
                });
            }
        });
        FrameUpstream { address, shared }
    }

    pub fn acts(&self, script: impl Fn(&Asked) -> Act + Send + Sync + 'static) {
        *self.shared.script.lock().expect("nobody panics in here") = Box::new(script);
    }

    /// How many requests came whole.
    pub fn asked(&self) -> usize {
        *self.shared.asked.lock().expect("nobody panics in here")
    }

    /// How many took effect.
    pub fn acted(&self) -> usize {
        self.shared.acted.load(Ordering::Acquire)
    }

    /// The body of the last request that came whole.
    pub fn body(&self) -> Vec<u8> {
        self.shared.body.lock().expect("nobody panics in here").clone()
    }

    /// How many connections have ended: nothing more comes over them.
    pub fn ended(&self) -> usize {
        self.shared.ended.load(Ordering::Acquire)
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface)?;
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut settings = MAX_CONCURRENT_STREAMS.to_vec();
    settings.extend(shared.streams.to_be_bytes());
    send(&mut stream, SETTINGS, 0, 0, &settings)?;
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        if kind == DATA && !payload.is_empty() {
            // What came makes room for more.
            for opened in [0, id] {
                send(&mut stream, WINDOW_UPDATE, 0, opened, &(payload.len() as u32).to_be_bytes())?;
            }
            bodies.entry(id).or_default().extend(&payload);
        }
        match kind {
            SETTINGS if flags & ACK == 0 => send(&mut stream, SETTINGS, ACK, 0, &[])?,
            PING if flags & ACK == 0 => send(&mut stream, PING, ACK, 0, &payload)?,
            DATA | HEADERS if flags & END_STREAM != 0 => {
                *shared.body.lock().expect("nobody panics in here") = bodies.remove(&id).unwrap_or_default();
                let number = {
                    let mut asked = shared.asked.lock().expect("nobody panics in here");
                    *asked += 1;
                    shared.more.notify_all();
                    *asked - 1
                };
                let act = (shared.script.lock().expect("nobody panics in here"))(&Asked { number });
                match act {
                    Act::Answer => answer(&mut stream, id, shared)?,
                    Act::AnswerWith(Then::WhenAsked(count)) => {
                        let asked = shared.asked.lock().expect("nobody panics in here");
                        let patience = Duration::from_secs(10);
                        let waited = shared.more.wait_timeout_while(asked, patience, |asked| *asked < count);
                        drop(waited.expect("nobody panics in here"));
                        answer(&mut stream, id, shared)?;
                    }
                    Act::AnswerLate(late) => {
                        thread::sleep(late);
                        answer(&mut stream, id, shared)?;
                    }
                    Act::Refuse => send(&mut stream, RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes())?,
                    Act::Cancel => send(&mut stream, RST_STREAM, 0, id, &CANCEL.to_be_bytes())?,
                    Act::GoAwayBefore => go_away(&mut stream, id.saturating_sub(2))?,
                    Act::GoAwayAfterThenClose => return go_away(&mut stream, id),
                    Act::Close => return Ok(()),
                    Act::Silence => {}
                }
            }
            _ => {}
        }
    }
}

fn answer(stream: &mut TcpStream, id: u32, shared: &Shared) -> io::Result<()> {
    shared.acted.fetch_add(1, Ordering::AcqRel);
    send(stream, HEADERS, END_HEADERS | END_STREAM, id, &[STATUS_200])
}

fn go_away(stream: &mut TcpStream, last: u32) -> io::Result<()> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend(0_u32.to_be_bytes());
    send(stream, GOAWAY, 0, 0, &payload)
}

fn send(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
    let mut frame = u32::try_from(payload.len()).expect("a small frame").to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame)
}
