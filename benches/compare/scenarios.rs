//! The scenarios by name.

use crate::Result;
use crate::arguments::Arguments;
use crate::report::Report;
use crate::stage::Context;
use crate::{cost, footprint, reload, secure, slow, speed, transfers};

/// One part of a run, which stands on its own.
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn(&Context, &mut Report) -> Result<()>,
}

const fn scenario(name: &'static str, what: &'static str, run: fn(&Context, &mut Report) -> Result<()>) -> Scenario {
    Scenario { name, what, run }
}

const ALWAYS: [Scenario; 17] = [
    scenario("unprotected-two", "an unprotected route against nginx, two cores", speed::unprotected_two_cores),
    scenario("unprotected-one", "an unprotected route against nginx, one core", speed::unprotected_one_core),
    scenario("keyless", "requests without a key, and GET, on a protected route", speed::keyless),
    scenario("redis-two", "fresh keys and replays on Redis, two cores", speed::redis_two_cores),
    scenario("redis-one", "fresh keys and replays on Redis, one core", speed::redis_one_core),
    scenario("round-trips", "Redis commands and round trips per request", cost::round_trips),
    scenario("one-connection", "the latency of one connection", speed::one_connection),
    scenario("open-loop", "latencies at a fixed rate", speed::open_loop),
    scenario("large-body", "bodies of 1 MiB", speed::large_body),
    scenario("embedded", "fresh keys on SQLite and in memory, and their fsyncs", speed::embedded),
    scenario("memory", "memory of idle connections and of requests in flight", footprint::connections),
    scenario("uploads", "memory of a thousand uploads at once, and of a very large one", footprint::uploads),
    scenario("transfers", "a transfer of 1 GiB each way", transfers::transfers),
    scenario("tls", "HTTPS, HTTP/2 over TLS, and new TLS connections", secure::tls),
    scenario("h2c", "HTTP/2 in clear text", secure::clear),
    scenario("reload", "what reloads cost", reload::reloads),
    scenario("slow-loris", "a healthy client beside 5,000 connections that never finish a head", slow::loris),
];
const KEYS: Scenario = scenario("keys", "memory after up to a million keys", footprint::keys);
const CALLGRIND: Scenario = scenario("callgrind", "instructions per request", cost::instructions);

/// Those that the arguments ask for, in order.
pub fn chosen(arguments: &Arguments) -> Result<Vec<Scenario>> {
    let mut all = Vec::from(ALWAYS);
    if arguments.keys {
        all.push(KEYS);
    }
    if arguments.callgrind {
        all.push(CALLGRIND);
    }
    all.retain(|scenario| {
        arguments.only.is_empty() || arguments.only.iter().any(|text| scenario.name.contains(text.as_str()))
    });
    if all.is_empty() {
        return Err(format!("no scenario is called {}; --list names them", arguments.only.join(" or ")).into());
    }
    Ok(all)
}

/// Prints all names.
pub fn list() {
    for scenario in ALWAYS.iter().chain([&KEYS, &CALLGRIND]) {
        println!("{:16} {}", scenario.name, scenario.what);
    }
}
