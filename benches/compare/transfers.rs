//! Bodies that are too large to be kept anywhere: one transfer at a time, passed through in pieces.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;
use crate::cores::Cores;
use crate::experiment::{Figure, Rounds};
use crate::load::Sample;
use crate::message::{Head, Method, Request};
use crate::nginx::{SPOOLED, STREAMED};
use crate::proxy::Setup;
use crate::report::{Goal, Report};
use crate::stage::{Context, Side, Stage, Store};
use crate::upstream::STATUS;

const PIECE_BYTES: usize = 256 << 10;
/// How long a server may take nothing and give nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets the protected route take the largest body of all scenarios, on the disk of the stage's folder.
pub fn large_bodies(folder: &Path) -> Result<Setup> {
    let listener = format!("spool_dir = {folder:?}\nmax_spooled = \"20GiB\"");
    let protected = "policy = { max_request_body = \"10GiB\" }".to_owned();
    Ok(Setup { listener, protected, ..Setup::default() })
}

pub fn transfers(context: &Context, report: &mut Report) -> Result<()> {
    let (bytes, name) = match context.arguments.quick {
        true => (256 << 20, "256 MiB"),
        false => (1 << 30, "1 GiB"),
    };
    let stage = Stage::set_up(context, Cores::Two, Store::Redis, large_bodies)?;
    let sides = [
        Side::nginx().on("upload, nginx, nothing buffered", STREAMED),
        Side::unprotected().on("upload, unprotected", Side::unprotected().shape.path),
        Side::nginx().on("upload, nginx, through a file", SPOOLED),
        Side::fresh().on("upload, fresh keys", Side::fresh().shape.path),
        Side::nginx().with_get("").on("download, nginx, nothing buffered", STREAMED),
        Side::nginx().with_get("download, nginx, buffered as by default"),
        Side::unprotected().with_get("download, unprotected"),
    ]
    .map(|side| side.with_body(bytes));
    let names = sides.iter().map(|side| side.name).collect();
    let rounds = Rounds::take(names, stage.rounds(), |index| transfer(&stage, &sides[index]))?;
    let rows = [
        ("unprotected upload, against nginx that buffers nothing", 1, 0),
        ("upload with a fresh key, against nginx that buffers nothing", 3, 0),
        ("upload with a fresh key, against nginx that puts it into a file first", 3, 2),
        ("download, against nginx that buffers nothing", 6, 4),
        ("download, against nginx that buffers as by default", 6, 5),
    ];
    for (what, side, against) in rows {
        report.ratio(&format!("{name}, {what}, MiB/s"), &rounds, side, against, Figure::Rate, Goal::Stated);
        report.ratio(&format!("{name}, {what}, CPU per MiB"), &rounds, side, against, Figure::Cpu, Goal::Stated);
    }
    report.sides(&format!("{name}, per MiB"), &rounds);
    Ok(())
}

/// One request on a connection of its own. The sample counts MiB instead of requests, and has no latencies.
pub fn transfer(stage: &Stage<'_>, side: &Side) -> Result<Sample> {
    let process = stage.process(side.server);
    let before = stage.upstream.seen();
    let cpu = process.cpu()?;
    let started = Instant::now();
    let mut socket = TcpStream::connect(stage.address(side.server))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(Request::head(&side.shape).under(stage.new_key()))?;
    let mut piece = vec![b'x'; PIECE_BYTES];
    let answer_bytes = match side.shape.method {
        Method::Get => {
            stage.upstream.answer_with(side.shape.body_bytes as u64);
            Some(side.shape.body_bytes)
        }
        Method::Post => {
            stage.upstream.answer_with(0);
            write_body(&mut socket, &piece, side.shape.body_bytes)?;
            None
        }
    };
    read_answer(&mut socket, &mut piece, answer_bytes).map_err(|failure| format!("{}: {failure}", side.name))?;
    let elapsed = started.elapsed();
    let cpu = process.cpu()?.saturating_sub(cpu);
    stage.compare(side, before, 1..=1)?;
    let mib = (side.shape.body_bytes >> 20) as u64;
    Ok(Sample { sent: 1, requests: mib, elapsed, cpu, ..Sample::default() })
}

fn write_body(socket: &mut TcpStream, piece: &[u8], bytes: usize) -> Result<()> {
    let mut left = bytes;
    while left > 0 {
        let count = left.min(piece.len());
        socket.write_all(&piece[..count])?;
        left -= count;
    }
    Ok(())
}

/// Reads an answer to its end, and checks its status and, where one is given, the size of its body.
fn read_answer(socket: &mut TcpStream, piece: &mut [u8], body_bytes: Option<usize>) -> Result<()> {
    let mut start = Vec::new();
    let head = loop {
        start.extend_from_slice(read_some(socket, piece)?);
        if let Some(head) = Head::read(&start)? {
            break head;
        }
    };
    let mut left = head.whole_bytes.checked_sub(start.len()).ok_or("more bytes than the answer has")?;
    while left > 0 {
        left = left.checked_sub(read_some(socket, piece)?.len()).ok_or("more bytes than the answer has")?;
    }
    if head.status != STATUS || body_bytes.is_some_and(|bytes| head.body_bytes != bytes) {
        return Err(format!("expected {STATUS} and {body_bytes:?} bytes, got {head:?}").into());
    }
    Ok(())
}

fn read_some<'a>(socket: &mut TcpStream, piece: &'a mut [u8]) -> Result<&'a [u8]> {
    match socket.read(piece)? {
        0 => Err("a connection ended before its answer did".into()),
        count => Ok(&piece[..count]),
    }
}
