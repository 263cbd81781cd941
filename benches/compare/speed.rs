//! Rates, CPU time and latencies.

use crate::Result;
use crate::cores::Cores;
use crate::cost::fsyncs_per_request;
use crate::experiment::{Figure, Rounds};
use crate::load::Pace;
use crate::report::{Goal, Report};
use crate::stage::{CONNECTIONS, Context, Side, Stage, Store};

/// Keys that replays go through in turn.
const USED_KEYS: u64 = 10_000;
const LARGE_BODY_BYTES: usize = 1 << 20;
const LARGE_BODY_CONNECTIONS: usize = 16;

pub fn unprotected_two_cores(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::new(context, Cores::Two, Store::Memory)?;
    let rounds = closed(&stage, &[Side::unprotected(), Side::nginx()])?;
    let what = "unprotected route, two cores, requests/s against nginx with two workers";
    report.ratio(what, &rounds, 0, 1, Figure::Rate, Goal::AtLeast(1.0));
    report.sides("unprotected, two cores", &rounds);
    Ok(())
}

pub fn unprotected_one_core(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::new(context, Cores::One, Store::Memory)?;
    let rounds = closed(&stage, &[Side::unprotected(), Side::nginx()])?;
    let what = "unprotected route, one core, CPU per request against nginx";
    report.ratio(what, &rounds, 0, 1, Figure::Cpu, Goal::AtMost(1.15));
    report.sides("unprotected, one core", &rounds);
    Ok(())
}

pub fn keyless(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::new(context, Cores::One, Store::Redis)?;
    // Like against like: the same request on both routes.
    let sides = [
        Side::fresh().without_key("no key, protected"),
        Side::unprotected().without_key("no key, unprotected"),
        Side::fresh().with_get("GET, protected"),
        Side::unprotected().with_get("GET, unprotected"),
    ];
    let rounds = closed(&stage, &sides)?;
    let what = "request without a key on a protected route, CPU against the unprotected route";
    report.ratio(what, &rounds, 0, 1, Figure::Cpu, Goal::AtMost(1.02));
    let what = "GET on a protected route, CPU against the unprotected route";
    report.ratio(what, &rounds, 2, 3, Figure::Cpu, Goal::AtMost(1.02));
    report.sides("without a key, one core", &rounds);
    Ok(())
}

pub fn redis_two_cores(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::new(context, Cores::Two, Store::Redis)?;
    let used = stage.use_keys(USED_KEYS)?;
    let rounds = closed(&stage, &[Side::nginx(), Side::fresh(), Side::replays(used)])?;
    let what = "fresh keys on Redis, two cores, requests/s against nginx";
    report.ratio(what, &rounds, 1, 0, Figure::Rate, Goal::AtLeast(0.5));
    let what = "replays from Redis, two cores, requests/s against nginx";
    report.ratio(what, &rounds, 2, 0, Figure::Rate, Goal::AtLeast(1.4));
    report.sides("Redis, two cores", &rounds);
    Ok(())
}

pub fn redis_one_core(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::new(context, Cores::One, Store::Redis)?;
    let used = stage.use_keys(USED_KEYS)?;
    let rounds = closed(&stage, &[Side::nginx(), Side::unprotected(), Side::fresh(), Side::replays(used)])?;
    let what = "fresh keys on Redis, one core, CPU against the unprotected route";
    report.ratio(what, &rounds, 2, 1, Figure::Cpu, Goal::AtMost(1.3));
    let what = "replays from Redis, one core, CPU against the unprotected route";
    report.ratio(what, &rounds, 3, 1, Figure::Cpu, Goal::AtMost(0.6));
    let what = "fresh keys on Redis, one core, requests/s against nginx";
    report.ratio(what, &rounds, 2, 0, Figure::Rate, Goal::Stated);
    let what = "replays from Redis, one core, requests/s against nginx";
    report.ratio(what, &rounds, 3, 0, Figure::Rate, Goal::Stated);
    report.sides("Redis, one core", &rounds);
    Ok(())
}

pub fn one_connection(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::new(context, Cores::Two, Store::Redis)?;
    let used = stage.use_keys(USED_KEYS)?;
    let sides = [Side::nginx(), Side::unprotected(), Side::fresh(), Side::replays(used)];
    let rounds = Rounds::run(&stage, &sides, 1, Pace::Closed, stage.rounds())?;
    let what = "one connection, fresh keys on Redis, median latency against the unprotected route";
    report.ratio(what, &rounds, 2, 1, Figure::Median, Goal::AtMost(2.1));
    report.sides("one connection", &rounds);
    Ok(())
}

pub fn open_loop(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::new(context, Cores::Two, Store::Redis)?;
    let used = stage.use_keys(USED_KEYS)?;
    let per_second = match context.arguments.rate_per_second {
        Some(per_second) => per_second,
        None => {
            let reached = Rounds::run(&stage, &[Side::fresh()], CONNECTIONS, Pace::Closed, 0..1)?;
            (reached.figure(0, Figure::Rate).median / 2.0).max(1.0) as u32
        }
    };
    let sides = [Side::nginx(), Side::unprotected(), Side::fresh(), Side::replays(used)];
    let rounds = Rounds::run(&stage, &sides, CONNECTIONS, Pace::Open { per_second }, stage.rounds())?;
    let what = format!("open loop, {per_second} requests/s: p99 of fresh keys on Redis against nginx");
    report.ratio(&what, &rounds, 2, 0, Figure::OneOfHundred, Goal::Stated);
    report.sides(&format!("open loop, {per_second}/s"), &rounds);
    Ok(())
}

pub fn large_body(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::new(context, Cores::One, Store::Redis)?;
    let sides = [Side::nginx(), Side::unprotected(), Side::fresh()].map(|side| side.with_body(LARGE_BODY_BYTES));
    let rounds = Rounds::run(&stage, &sides, LARGE_BODY_CONNECTIONS, Pace::Closed, stage.rounds())?;
    let what = "1 MiB body, fresh keys on Redis, one core, CPU against nginx with a 2 MiB body buffer";
    report.ratio(what, &rounds, 2, 0, Figure::Cpu, Goal::AtMost(1.9));
    report.sides("1 MiB body, 16 connections", &rounds);
    Ok(())
}

pub fn embedded(context: &Context, report: &mut Report) -> Result<()> {
    for (store, name) in [(Store::Sqlite, "SQLite"), (Store::Memory, "memory")] {
        let sides = [Side::nginx(), Side::unprotected(), Side::fresh()];
        let mut rounds = None;
        for round in 0..context.arguments.rounds {
            // A store of its own for each round: the one in memory holds a million records.
            let stage = Stage::new(context, Cores::Two, store)?;
            let next = Rounds::run(&stage, &sides, CONNECTIONS, Pace::Closed, round..round + 1)?;
            match &mut rounds {
                None => rounds = Some(next),
                Some(rounds) => rounds.append(next),
            }
        }
        let rounds = rounds.ok_or("no rounds")?;
        let what = format!("fresh keys, {name}, two cores, requests/s against nginx");
        report.ratio(&what, &rounds, 2, 0, Figure::Rate, Goal::Stated);
        let what = format!("fresh keys, {name}, CPU against the unprotected route");
        report.ratio(&what, &rounds, 2, 1, Figure::Cpu, Goal::Stated);
        let fsyncs = fsyncs_per_request(context, store)?;
        report.row(
            &format!("fresh keys, {name}, fsyncs per request"),
            fsyncs,
            format_args!("{fsyncs:.3}"),
            Goal::Stated,
        );
        report.sides(&format!("{name}, two cores"), &rounds);
    }
    Ok(())
}

fn closed(stage: &Stage<'_>, sides: &[Side]) -> Result<Rounds> {
    Rounds::run(stage, sides, CONNECTIONS, Pace::Closed, stage.rounds())
}
