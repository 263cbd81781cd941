//! Resident memory: of connections, of requests in flight, of a long life.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Result;
use crate::cores::Cores;
use crate::load::{Length, Pace};
use crate::message::{Head, Request};
use crate::report::{Goal, Report};
use crate::stage::{CONNECTIONS, Context, Server, Side, Stage, Store};
use crate::transfers;

const MANY: u64 = 1_000;
/// Requests before the first look, so that what is made once is there.
const WARM_UP_REQUESTS: u64 = 2_000;
/// How many keys have been used at each look.
const KEYS: [u64; 3] = [10_000, 100_000, 1_000_000];
/// What uploads may add to the memory, however large or many, in MiB.
const UPLOADS_MIB: f64 = 100.0;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Idle,
    InFlight,
}

pub fn connections(context: &Context, report: &mut Report) -> Result<()> {
    let rows = [
        (What::Idle, Side::unprotected(), "1,000 idle connections, onceproxy"),
        (What::Idle, Side::nginx(), "1,000 idle connections, nginx"),
        (What::InFlight, Side::unprotected(), "1,000 requests in flight, unprotected"),
        (What::InFlight, Side::fresh(), "1,000 requests in flight, fresh keys on Redis"),
        (What::InFlight, Side::nginx(), "1,000 requests in flight, nginx"),
    ];
    for (what, side, name) in rows {
        let bytes = bytes_each(context, what, &side)?;
        let shown = format!("{:.1} KiB each", bytes / 1024.0);
        report.row(&format!("memory, {name}"), bytes, shown, Goal::Stated);
    }
    Ok(())
}

/// What one more connection or request takes, on a stage of its own: memory that was used once stays.
fn bytes_each(context: &Context, what: What, side: &Side) -> Result<f64> {
    let stage = Stage::new(context, Cores::Two, Store::Redis)?;
    stage.measure(side, 2, Pace::Closed, Length::Requests(WARM_UP_REQUESTS))?;
    let before = stage.process(side.server).resident_bytes()?;
    let mut request = Request::new(&side.shape);
    // Above all keys that runs use.
    let keys = (1 << 60)..(1 << 60) + MANY;
    if what == What::InFlight {
        stage.upstream.hold();
    }
    let mut open = Vec::new();
    for key in keys {
        let mut socket = connect(stage.address(side.server))?;
        socket.write_all(request.under(key))?;
        if what == What::Idle {
            read_answer(&mut socket)?;
        }
        open.push(socket);
    }
    if what == What::InFlight {
        stage.upstream.wait_for_held(MANY)?;
    }
    let after = stage.process(side.server).resident_bytes()?;
    drop(open);
    Ok(after.saturating_sub(before) as f64 / MANY as f64)
}

pub fn keys(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::new(context, Cores::Two, Store::Redis)?;
    let mut used = 0;
    let mut seen = Vec::new();
    for count in KEYS {
        stage.measure(&Side::fresh(), CONNECTIONS, Pace::Closed, Length::Requests(count - used))?;
        used = count;
        seen.push(stage.process(Server::Proxy).resident_bytes()? as f64 / f64::from(1 << 20));
    }
    let growth = seen[seen.len() - 1] / seen[0];
    let shown: Vec<String> = seen.iter().map(|mib| format!("{mib:.1}")).collect();
    let shown = format!("{growth:.2} ({} MiB)", shown.join(", "));
    report.row("memory after 10^4, 10^5, 10^6 keys on Redis, last against first", growth, shown, Goal::AtMost(1.1));
    Ok(())
}

/// What uploads with fresh keys take at the most, on stages of their own.
pub fn uploads(context: &Context, report: &mut Report) -> Result<()> {
    let many = Side::fresh().with_body(1 << 20);
    peak(context, report, "1,000 uploads of 1 MiB at once", |stage| {
        stage.measure(&many, MANY as usize, Pace::Closed, Length::Requests(MANY)).map(drop)
    })?;
    let (bytes, name) = match context.arguments.quick {
        true => (512 << 20, "one upload of 512 MiB"),
        false => (5 << 30, "one upload of 5 GiB"),
    };
    let large = Side::fresh().with_body(bytes);
    peak(context, report, name, |stage| transfers::transfer(stage, &large).map(drop))
}

fn peak(
    context: &Context,
    report: &mut Report,
    name: &str,
    upload: impl FnOnce(&Stage<'_>) -> Result<()>,
) -> Result<()> {
    let stage = Stage::set_up(context, Cores::Two, Store::Redis, transfers::large_bodies)?;
    stage.measure(&Side::fresh(), 2, Pace::Closed, Length::Requests(WARM_UP_REQUESTS))?;
    let process = stage.process(Server::Proxy);
    let before = process.resident_bytes()?;
    process.forget_peak()?;
    upload(&stage)?;
    let peak = process.peak_bytes()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let more = mib(peak.saturating_sub(before));
    let shown = format!("{more:.1} MiB more than before, {:.1} MiB in all", mib(peak));
    report.row(&format!("peak of memory, {name}, fresh keys on Redis"), more, shown, Goal::AtMost(UPLOADS_MIB));
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn read_answer(socket: &mut TcpStream) -> Result<()> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = socket.read(&mut chunk)?;
        bytes.extend_from_slice(&chunk[..count]);
        match Head::read(&bytes)? {
            Some(head) if head.whole_bytes == bytes.len() => return Ok(()),
            _ if count == 0 => return Err("a connection ended before its answer did".into()),
            _ => {}
        }
    }
}
