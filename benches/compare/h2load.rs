//! h2load as the client: HTTP/2 and TLS, without a second client of our own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::load::Sample;
use crate::process::text;
use crate::stage::{Side, Stage};

/// Requests by which is found out how many fill the time of a round.
const TRIAL_REQUESTS: u64 = 2_000;

/// How requests are sent.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// `--h1` for HTTP/1.1 over TLS.
    pub flags: &'static [&'static str],
    pub scheme: &'static str,
    pub connections: u64,
    /// Of each connection at once.
    pub streams: u64,
}

/// What a run negotiated: the same on both sides, or their figures cannot be compared.
pub type Negotiated = Vec<String>;

/// So many requests that they take about as long as a round.
pub fn requests_of_a_round(stage: &Stage<'_>, side: &Side, manner: Manner) -> Result<u64> {
    let (sample, _) = run(stage, side, manner, TRIAL_REQUESTS)?;
    let per_second = sample.requests as f64 / sample.elapsed.as_secs_f64();
    Ok((per_second * stage.seconds()).max(1_000.0) as u64)
}

/// Sends so many requests, of which each has to be answered with 2xx and to reach the upstream once.
pub fn run(stage: &Stage<'_>, side: &Side, manner: Manner, requests: u64) -> Result<(Sample, Negotiated)> {
    let [body, log] = ["request.body", "h2load.log"].map(|name| stage.folder.join(name));
    fs::write(&body, vec![b'x'; side.shape.body_bytes])?;
    // h2load appends to it.
    drop(fs::remove_file(&log));
    let process = stage.process(side.server);
    let before = stage.upstream.seen();
    let cpu = process.cpu()?;
    let output = Command::new("h2load")
        .args(manner.flags)
        .args(["-t", "1", "-c", &manner.connections.to_string(), "-m", &manner.streams.to_string()])
        .args(["-n", &requests.to_string(), "-d", text(&body)?, "--log-file", text(&log)?])
        .arg(format!("{}://{}{}", manner.scheme, stage.address(side.server), side.shape.path))
        .output()
        .map_err(|error| format!("h2load: {error}"))?;
    let cpu = process.cpu()?.saturating_sub(cpu);
    let said = String::from_utf8_lossy(&output.stdout);
    let clean = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
    let answered = format!("status codes: {requests} 2xx");
    if !output.status.success() || !said.contains(&clean) || !said.contains(&answered) {
        return Err(format!("{}: h2load said:\n{said}{}", side.name, String::from_utf8_lossy(&output.stderr)).into());
    }
    stage.compare(side, before, requests..=requests)?;
    let elapsed = Duration::from_secs_f64(requests as f64 / rate(&said).ok_or("h2load did not say how fast it was")?);
    let sample =
        Sample { sent: requests, requests, elapsed, cpu, latencies_ns: latencies_ns(&log)?, ..Sample::default() };
    Ok((sample, negotiated(&said)))
}

/// Of each request, ascending: the third field of a line, in microseconds.
fn latencies_ns(log: &Path) -> Result<Vec<u64>> {
    let mut latencies = Vec::new();
    for line in fs::read_to_string(log)?.lines() {
        let us: u64 = line.split('\t').nth(2).ok_or("a line of h2load's log has no third field")?.parse()?;
        latencies.push(1_000 * us);
    }
    latencies.sort_unstable();
    Ok(latencies)
}

fn negotiated(said: &str) -> Negotiated {
    let names = ["TLS Protocol: ", "Cipher: ", "Server Temp Key: ", "Application protocol: "];
    said.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect()
}

/// From `finished in 1.07s, 2791.65 req/s, 0B/s`; the time before it is rounded.
fn rate(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.starts_with("finished in "))?;
    line.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()
}
