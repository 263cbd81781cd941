//! What requests notice of reloads.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::cores::Cores;
use crate::experiment::{Figure, Rounds};
use crate::load::{Pace, Sample};
use crate::process::free_port;
use crate::proxy::Setup;
use crate::report::{Goal, Report};
use crate::stage::{CONNECTIONS, Context, Side, Stage, Store};

const INTERVAL: Duration = Duration::from_millis(500);
/// How long the last reload may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The setting that every reload changes from one to the other.
const LIMITS: [&str; 2] = ["max_request_body = \"1MiB\"", "max_request_body = \"2MiB\""];

pub fn reloads(context: &Context, report: &mut Report) -> Result<()> {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let stage = Stage::set_up(context, Cores::Two, Store::Redis, |_| {
        let protected = format!("policy = {{ {} }}", LIMITS[0]);
        Ok(Setup { protected, sections: format!("[admin]\naddress = \"{admin}\""), ..Setup::default() })
    })?;
    let reached = Rounds::run(&stage, &[Side::fresh()], CONNECTIONS, Pace::Closed, 0..1)?;
    let per_second = (reached.figure(0, Figure::Rate).median / 3.0).max(1.0) as u32;
    let side = Side::fresh().counting_failures();
    let measure = || stage.measure(&side, CONNECTIONS, Pace::Open { per_second }, stage.round());
    let mut asked = 0;
    let rounds = Rounds::take(vec!["without reloads", "a reload every 500 ms"], stage.rounds(), |index| match index {
        0 => measure(),
        _ => beside(&stage, &mut asked, measure),
    })?;
    let applied = wait_for_applied(admin, asked)?;
    let name = format!("open loop, {per_second} fresh keys/s on Redis");
    let failed = rounds.failed(0) + rounds.failed(1);
    report.row(&format!("{name}: failed requests"), failed as f64, failed, Goal::Exactly(0.0));
    let shown = format!("{applied} of {asked}");
    let part = applied as f64 / asked as f64;
    report.row(&format!("{name}: reloads that took effect"), part, shown, Goal::Exactly(1.0));
    let what = format!("{name}: p99 with a reload every 500 ms against without");
    report.ratio(&what, &rounds, 1, 0, Figure::OneOfHundred, Goal::Stated);
    report.sides(&format!("reloads, {per_second}/s"), &rounds);
    Ok(())
}

/// Measures while the configuration changes again and again.
fn beside(stage: &Stage<'_>, asked: &mut u64, measure: impl FnOnce() -> Result<Sample>) -> Result<Sample> {
    let (pid, file) = (stage.proxy.process.pid(), stage.proxy.file.as_path());
    let (running, ended) = channel();
    std::thread::scope(|scope| {
        let reloading = scope.spawn(move || reload_until(&ended, pid, file, asked));
        let sample = measure();
        drop(running);
        reloading.join().map_err(|_| "the reloading thread panicked")??;
        sample
    })
}

fn reload_until(ended: &Receiver<()>, pid: Pid, file: &Path, asked: &mut u64) -> Result<()> {
    while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let (old, new) = (LIMITS[(*asked % 2) as usize], LIMITS[((*asked + 1) % 2) as usize]);
        let next = file.with_extension("next");
        fs::write(&next, fs::read_to_string(file)?.replace(old, new))?;
        // At once, as the proxy also looks by itself.
        fs::rename(&next, file)?;
        kill_process(pid, Signal::HUP)?;
        *asked += 1;
    }
    Ok(())
}

/// How many reloads changed something, once it is as many as were asked for.
fn wait_for_applied(admin: SocketAddr, asked: u64) -> Result<u64> {
    let until = Instant::now() + PATIENCE;
    loop {
        let applied = applied(admin)?;
        if applied == asked || Instant::now() > until {
            return Ok(applied);
        }
        std::thread::sleep(INTERVAL / 10);
    }
}

fn applied(admin: SocketAddr) -> Result<u64> {
    let mut socket = TcpStream::connect(admin)?;
    write!(socket, "GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let name = "onceproxy_config_reloads_total{result=\"applied\"} ";
    let value = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no count of reloads in /metrics")?;
    Ok(value.parse()?)
}
