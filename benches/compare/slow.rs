//! A slow-loris: thousands of connections, each of which goes on with a request's head that it never ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Result;
use crate::cores::Cores;
use crate::experiment::{Figure, Rounds};
use crate::load::Pace;
use crate::proxy::{Setup, UNPROTECTED};
use crate::report::{Goal, Report};
use crate::stage::{Context, Side, Stage, Store};

const SLOW: usize = 5_000;
/// Settings of the listener: places for all, which two workers of nginx have by themselves; and places as by default.
const ENOUGH: &str = "max_connections = 8192";
const DEFAULT: &str = "";
const DEFAULT_PLACES: usize = 4096;
/// Between two pieces of one connection: about as slow as a head may be, and much faster, which is harder on the server.
const SLOWLY: Duration = Duration::from_secs(5);
const FAST: Duration = Duration::from_secs(1);
/// The thread wakes so often in an interval, and serves its share of the connections each time.
const WAKES: usize = 1_000;
/// For a connection to be accepted.
const PATIENCE: Duration = Duration::from_millis(200);
/// Of the healthy client.
const CONNECTIONS: usize = 8;
const PER_SECOND: u32 = 1_000;
const SIDES: [&str; 3] = ["alone", "beside slow connections", "beside slow connections at nginx"];

/// A client beside slow connections, and beside the same ones at nginx, with as many places: there they cost only what they
/// take of the machine.
pub fn loris(context: &Context, report: &mut Report) -> Result<()> {
    beside(context, report, "a place for each, a piece per second", ENOUGH, FAST, Goal::AtMost(2.0))?;
    beside(context, report, "default places, a piece in 5 s", DEFAULT, SLOWLY, Goal::AtMost(2.0))?;
    beside(context, report, "default places, a piece per second", DEFAULT, FAST, Goal::Stated)
}

/// Where there are places for fewer, connections take them from each other without end: who is cut off comes back at its
/// next turn.
fn beside(
    context: &Context,
    report: &mut Report,
    what: &str,
    listener: &str,
    interval: Duration,
    goal: Goal,
) -> Result<()> {
    let setup = |_: &_| {
        let nginx_connections = (listener == DEFAULT).then_some(DEFAULT_PLACES / Cores::Two.of_server());
        Ok(Setup { listener: listener.to_owned(), nginx_connections, ..Setup::default() })
    };
    let stage = Stage::set_up(context, Cores::Two, Store::Memory, setup)?;
    let side = Side::fresh().counting_failures();
    let measure = || stage.measure(&side, CONNECTIONS, Pace::Open { per_second: PER_SECOND }, stage.round());
    measure()?;
    let mut seen = [0; 2];
    // What was used once stays: the first time counts.
    let mut memory = None;
    let rounds = Rounds::take(SIDES.to_vec(), stage.rounds(), |index| {
        let address = match index {
            0 => return measure(),
            1 => stage.proxy.address,
            _ => stage.nginx.address,
        };
        let before = stage.proxy.process.resident_bytes()?;
        let slow = Slow::start(address, interval)?;
        let sample = measure();
        let after = stage.proxy.process.resident_bytes()?;
        let [opened, closed] = slow.stop();
        if index == 1 {
            memory.get_or_insert(after.saturating_sub(before));
            seen = [seen[0] + opened, seen[1] + closed];
        }
        sample
    })?;
    let name = format!("{SLOW} slow connections, {what}: a client of {PER_SECOND} fresh keys/s");
    let failed = rounds.failed(0) + rounds.failed(1);
    report.row(&format!("{name}, failed requests"), failed as f64, failed, Goal::Exactly(0.0));
    report.ratio(&format!("{name}, p99 against alone"), &rounds, 1, 0, Figure::OneOfHundred, goal);
    let same = format!("{name}, p99 against the same ones at nginx");
    report.ratio(&same, &rounds, 1, 2, Figure::OneOfHundred, Goal::Stated);
    let kib = memory.unwrap_or_default() as f64 / 1024.0;
    let shown = format!("{:.0} MiB, {:.1} KiB for each", kib / 1024.0, kib / SLOW as f64);
    report.row(&format!("{SLOW} slow connections, {what}: memory that they take"), kib, shown, Goal::Stated);
    let [opened, closed] = seen;
    let shown = format!("{opened} opened, {closed} of them closed by the proxy");
    report.row(&format!("{SLOW} slow connections, {what}, in all rounds"), opened as f64, shown, Goal::Stated);
    report.sides(&format!("slow-loris, {what}"), &rounds);
    Ok(())
}

/// The slow connections and the thread that feeds them; they end when this is dropped.
struct Slow {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    opened: AtomicU64,
    closed: AtomicU64,
}

impl Slow {
    /// Returns when all have been opened once, and had the time for another piece.
    fn start(address: SocketAddr, interval: Duration) -> Result<Slow> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("slow".to_owned());
        let thread = thread.spawn(move || feed(address, interval, &theirs))?;
        let slow = Slow { shared, thread: Some(thread) };
        let until = Instant::now() + 10 * interval;
        while slow.shared.opened.load(Ordering::SeqCst) < SLOW as u64 {
            if Instant::now() > until {
                return Err("the slow connections could not be opened".into());
            }
            std::thread::sleep(interval / 10);
        }
        std::thread::sleep(interval);
        Ok(slow)
    }

    /// How many were opened, and how many of them the server closed.
    fn stop(self) -> [u64; 2] {
        let shared = self.shared.clone();
        drop(self);
        [&shared.opened, &shared.closed].map(|count| count.load(Ordering::SeqCst))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Each connection has its turn once per interval, all of them spread evenly over it.
fn feed(address: SocketAddr, interval: Duration, shared: &Shared) {
    let mut places: Vec<Option<Connection>> = (0..SLOW).map(|_| None).collect();
    let started = Instant::now();
    for wake in 0_u32.. {
        let due = started + interval / WAKES as u32 * wake;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        for index in (wake as usize % WAKES..SLOW).step_by(WAKES) {
            let place = &mut places[index];
            if place.as_mut().is_some_and(|connection| !connection.go_on()) {
                shared.closed.fetch_add(1, Ordering::SeqCst);
                *place = None;
            }
            if place.is_none() {
                // Who is not let in tries again at its next turn.
                *place = Connection::open(address, index).ok();
                shared.opened.fetch_add(u64::from(place.is_some()), Ordering::SeqCst);
            }
        }
    }
}

/// One that sends a head in pieces, be they bytes or whole lines.
struct Connection {
    socket: TcpStream,
    by_lines: bool,
    sent: usize,
}

impl Connection {
    fn open(address: SocketAddr, index: usize) -> std::io::Result<Connection> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_nonblocking(true)?;
        // As many of the ones as of the others come in each turn.
        Ok(Connection { socket, by_lines: (index / WAKES).is_multiple_of(2), sent: 0 })
    }

    /// Sends the next piece; says whether the connection is still open.
    fn go_on(&mut self) -> bool {
        match self.socket.read(&mut [0; 1024]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // An answer to what is no request yet comes before the end.
            Ok(_) | Err(_) => return false,
        }
        let start = format!("POST {UNPROTECTED} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
        let piece = match (self.by_lines, self.sent) {
            (true, 0) => start.as_bytes(),
            (true, _) => b"X-Slow: loris\r\n",
            (false, at) => start.as_bytes().get(at..=at).unwrap_or(b"x"),
        };
        self.sent += 1;
        self.socket.write_all(piece).is_ok()
    }
}
