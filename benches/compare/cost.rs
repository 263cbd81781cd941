//! What can be counted exactly: round trips, fsyncs, instructions.

use std::fs;

use crate::Result;
use crate::cores::Cores;
use crate::load::{Length, Pace};
use crate::proxy::Under;
use crate::report::{Goal, Report};
use crate::stage::{CONNECTIONS, Context, Side, Stage, Store};

/// One connection sends these one after another, so that no two requests share a round trip.
const COUNTED_REQUESTS: u64 = 2_000;
const FSYNC_REQUESTS: u64 = 20_000;
/// Instructions are counted between the end of the shorter and of the longer run. Many: a clock of the metrics is set by
/// trial when the process starts, which takes some millions more or less.
const INSTRUCTED_REQUESTS: [u64; 2] = [500, 20_500];

pub fn round_trips(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::new(context, Cores::Two, Store::Redis)?;
    let used = stage.use_keys(COUNTED_REQUESTS)?;
    for (side, goal) in [(Side::fresh(), 2.0), (Side::replays(used), 1.0)] {
        let redis = stage.redis.as_ref().ok_or("the stage has no Redis")?;
        let before = redis.counts()?;
        stage.measure(&side, 1, Pace::Closed, Length::Requests(COUNTED_REQUESTS))?;
        let counts = redis.counts()?.since(&before);
        let per_request = |count: u64| count as f64 / COUNTED_REQUESTS as f64;
        let calls: Vec<String> = counts
            .calls
            .iter()
            .filter(|(_, count)| per_request(**count) >= 0.01)
            .map(|(command, count)| format!("{command} {:.2}", per_request(*count)))
            .collect();
        let reads = per_request(counts.reads);
        let shown = format!("{reads:.3}; commands, those inside the script too: {}", calls.join(", "));
        report.row(&format!("{}, Redis round trips per request", side.name), reads, shown, Goal::Exactly(goal));
    }
    Ok(())
}

/// Counts fsync and fdatasync with strace, from start to end, in a run of its own that is not timed.
pub fn fsyncs_per_request(context: &Context, store: Store) -> Result<f64> {
    let requests = if context.arguments.quick { FSYNC_REQUESTS / 10 } else { FSYNC_REQUESTS };
    let stage = Stage::under(context, Cores::Two, store, |folder| Under::Strace(folder.join("strace.out")))?;
    stage.measure(&Side::fresh(), CONNECTIONS, Pace::Closed, Length::Requests(requests))?;
    let Stage { proxy, folder, .. } = stage;
    proxy.process.stop()?;
    let calls = fs::read_to_string(folder.join("strace.out"))?;
    // A call that was interrupted by another thread's stands on two lines; only the first has the parenthesis.
    let fsyncs = calls.lines().filter(|line| line.contains("sync(")).count();
    Ok(fsyncs as f64 / requests as f64)
}

pub fn instructions(context: &Context, report: &mut Report) -> Result<()> {
    let keyless = instructions_per_request(context, |_| Ok(Side::unprotected().without_key("unprotected")))?;
    let no_key = instructions_per_request(context, |_| Ok(Side::fresh().without_key("no key")))?;
    let unprotected = instructions_per_request(context, |_| Ok(Side::unprotected()))?;
    let fresh = instructions_per_request(context, |_| Ok(Side::fresh()))?;
    let replay = instructions_per_request(context, |stage| Ok(Side::replays(stage.use_keys(1)?)))?;
    let rows = [
        ("unprotected", unprotected, unprotected, Goal::Stated),
        ("no key on a protected route", no_key, keyless, Goal::AtMost(1.02)),
        ("fresh key, memory store", fresh, unprotected, Goal::Stated),
        ("replay, memory store", replay, unprotected, Goal::Stated),
    ];
    for (name, count, against, goal) in rows {
        let ratio = count / against;
        let shown = format!("{count:.0}, {ratio:.3} of the unprotected route");
        report.row(&format!("instructions per request, {name}"), ratio, shown, goal);
    }
    Ok(())
}

/// The difference of a longer and a shorter run, so that starting and ending do not count.
fn instructions_per_request(context: &Context, side: impl Fn(&Stage<'_>) -> Result<Side>) -> Result<f64> {
    let mut totals = [0; 2];
    for (total, requests) in totals.iter_mut().zip(INSTRUCTED_REQUESTS) {
        let stage =
            Stage::under(context, Cores::One, Store::Memory, |folder| Under::Callgrind(folder.join("callgrind.out")))?;
        let side = side(&stage)?;
        stage.measure(&side, 1, Pace::Closed, Length::Requests(requests))?;
        let Stage { proxy, folder, .. } = stage;
        proxy.process.stop()?;
        *total = total_instructions(&fs::read_to_string(folder.join("callgrind.out"))?)?;
    }
    let [short, long] = totals;
    let more = long.checked_sub(short).ok_or("more requests took fewer instructions")?;
    Ok(more as f64 / (INSTRUCTED_REQUESTS[1] - INSTRUCTED_REQUESTS[0]) as f64)
}

fn total_instructions(output: &str) -> Result<u64> {
    let total = output.lines().find_map(|line| line.strip_prefix("totals:")).ok_or("callgrind wrote no totals")?;
    Ok(total.trim().parse()?)
}
