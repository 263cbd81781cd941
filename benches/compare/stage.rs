//! What a scenario runs on: upstream, nginx, onceproxy and its store, fresh for each.

use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::Result;
use crate::arguments::Arguments;
use crate::cores::Cores;
use crate::load::{self, Expected, Failures, Keys, Length, Pace, Plan, Sample};
use crate::message::{BODY_BYTES, KeyField, Method, Shape};
use crate::nginx::Nginx;
use crate::process::{Process, text};
use crate::proxy::{PROTECTED, Proxy, Setup, UNPROTECTED, Under};
use crate::redis::Redis;
use crate::upstream::{self, Seen, Upstream};

/// Of every run but those that say otherwise.
pub const CONNECTIONS: usize = 64;

/// What all scenarios share.
pub struct Context {
    pub arguments: Arguments,
    folder: TempDir,
    stages: Cell<u32>,
    next_key: Cell<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Memory,
    Sqlite,
    Redis,
}

/// Servers that run side by side; one at a time is under load.
pub struct Stage<'a> {
    context: &'a Context,
    pub nginx: Nginx,
    pub proxy: Proxy,
    pub redis: Option<Redis>,
    pub upstream: Upstream,
    /// Where the stage may leave files.
    pub folder: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Nginx,
    Proxy,
}

/// What a side does with keys.
#[derive(Debug, Clone, Copy)]
pub enum Use {
    /// No request takes effect twice: new keys, or none.
    Executed,
    /// All have been used: nothing reaches the upstream.
    Replayed { first: u64, count: u64 },
}

/// A server and the requests that it gets.
#[derive(Debug, Clone, Copy)]
pub struct Side {
    pub name: &'static str,
    pub server: Server,
    pub shape: Shape,
    pub keys: Use,
    pub failures: Failures,
}

/// The keys of requests that have been executed.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    first: u64,
    count: u64,
}

impl Context {
    pub fn new(arguments: Arguments) -> Result<Context> {
        if !arguments.proxy.is_file() {
            return Err(format!("{} is missing: build it first", arguments.proxy.display()).into());
        }
        // Under target, not in /tmp: that may be memory, where an fsync costs nothing.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        Ok(Context { arguments, folder, stages: Cell::new(0), next_key: Cell::new(0) })
    }

    /// A new empty folder.
    fn folder(&self) -> Result<PathBuf> {
        self.stages.set(self.stages.get() + 1);
        let folder = self.folder.path().join(self.stages.get().to_string());
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }
}

impl<'a> Stage<'a> {
    pub fn new(context: &'a Context, cores: Cores, store: Store) -> Result<Stage<'a>> {
        Stage::set_up(context, cores, store, |_| Ok(Setup::default()))
    }

    /// With onceproxy under a tool, which may write into the folder.
    pub fn under(
        context: &'a Context,
        cores: Cores,
        store: Store,
        tool: impl FnOnce(&Path) -> Under,
    ) -> Result<Stage<'a>> {
        Stage::set_up(context, cores, store, |folder| Ok(Setup { under: tool(folder), ..Setup::default() }))
    }

    /// With servers that are not as usual, and may need files in the folder.
    pub fn set_up(
        context: &'a Context,
        cores: Cores,
        store: Store,
        setup: impl FnOnce(&Path) -> Result<Setup>,
    ) -> Result<Stage<'a>> {
        cores.pin_this_thread()?;
        let folder = context.folder()?;
        let upstream = Upstream::start()?;
        let mut redis = None;
        let url = match store {
            Store::Memory => "memory:".to_owned(),
            Store::Sqlite => format!("sqlite:{}", text(&folder.join("records.db"))?),
            Store::Redis => redis.insert(Redis::start(&folder, cores)?).url(),
        };
        let arguments = &context.arguments;
        let setup = setup(&folder)?;
        let nginx = Nginx::start(&arguments.nginx, &folder, upstream.address, cores, &setup)?;
        let proxy = Proxy::start(&arguments.proxy, &folder, upstream.address, &url, cores, &setup)?;
        Ok(Stage { context, nginx, proxy, redis, upstream, folder })
    }

    /// Runs one side, and checks that the upstream saw exactly the requests that it should.
    pub fn measure(&self, side: &Side, connections: usize, pace: Pace, length: Length) -> Result<Sample> {
        let meter = || self.process(side.server).cpu();
        let before = self.upstream.seen();
        let plan = Plan {
            address: self.address(side.server),
            shape: side.shape,
            keys: match side.keys {
                Use::Executed => Keys::From(self.context.next_key.get()),
                Use::Replayed { first, count } => Keys::Among { first, count },
            },
            connections,
            pace,
            length,
            expected: Expected { status: upstream::STATUS, replayed: matches!(side.keys, Use::Replayed { .. }) },
            failures: side.failures,
            meter: &meter,
        };
        let sample = load::run(&plan).map_err(|failure| format!("{}: {failure}", side.name))?;
        let expected = match side.keys {
            Use::Executed => {
                self.context.next_key.set(self.context.next_key.get() + sample.sent);
                // Whether one that failed was executed cannot be told here.
                sample.sent - sample.failed..=sample.sent
            }
            Use::Replayed { .. } => 0..=0,
        };
        self.compare(side, before, expected)?;
        Ok(sample)
    }

    /// Checks that the upstream saw so many requests since `before`, each with all of its body.
    pub fn compare(&self, side: &Side, before: Seen, expected: RangeInclusive<u64>) -> Result<()> {
        let seen = self.upstream.seen();
        let (requests, bytes) = (seen.requests - before.requests, seen.body_bytes - before.body_bytes);
        if !expected.contains(&requests) {
            return Err(format!("{}: the upstream saw {requests} requests, not {expected:?}", side.name).into());
        }
        let each = match side.shape.method {
            Method::Get => 0,
            Method::Post => side.shape.body_bytes as u64,
        };
        if bytes != requests * each {
            return Err(format!("{}: {requests} bodies of {each} bytes had {bytes} together", side.name).into());
        }
        Ok(())
    }

    /// A key that nobody has used.
    pub fn new_key(&self) -> u64 {
        self.context.next_key.replace(self.context.next_key.get() + 1)
    }

    /// Has so many requests executed, to replay them later.
    pub fn use_keys(&self, count: u64) -> Result<Used> {
        let first = self.context.next_key.get();
        self.measure(&Side::fresh(), CONNECTIONS, Pace::Closed, Length::Requests(count))?;
        Ok(Used { first, count })
    }

    /// As long as a round is.
    pub fn round(&self) -> Length {
        Length::Time { warm_up: self.context.arguments.warm_up, measured: self.context.arguments.measured }
    }

    /// What of a round is measured, in seconds.
    pub fn seconds(&self) -> f64 {
        self.context.arguments.measured.as_secs_f64()
    }

    /// As long as the warm-up before a round.
    pub fn warm_up(&self) -> Length {
        Length::Time { warm_up: Duration::ZERO, measured: self.context.arguments.warm_up }
    }

    pub fn process(&self, server: Server) -> &Process {
        match server {
            Server::Nginx => &self.nginx.process,
            Server::Proxy => &self.proxy.process,
        }
    }

    pub fn address(&self, server: Server) -> SocketAddr {
        match server {
            Server::Nginx => self.nginx.address,
            Server::Proxy => self.proxy.address,
        }
    }

    /// The rounds of a comparison.
    pub fn rounds(&self) -> Range<usize> {
        0..self.context.arguments.rounds
    }
}

impl Side {
    fn post(name: &'static str, server: Server, path: &'static str) -> Side {
        let shape = Shape { method: Method::Post, path, body_bytes: BODY_BYTES, key: KeyField::Present };
        Side { name, server, shape, keys: Use::Executed, failures: Failures::End }
    }

    /// nginx, with the same requests as ours.
    pub fn nginx() -> Side {
        Side::post("nginx", Server::Nginx, UNPROTECTED)
    }

    /// A route that protects nothing.
    pub fn unprotected() -> Side {
        Side::post("unprotected", Server::Proxy, UNPROTECTED)
    }

    /// A new key each time.
    pub fn fresh() -> Side {
        Side::post("fresh keys", Server::Proxy, PROTECTED)
    }

    /// Keys that have been used.
    pub fn replays(used: Used) -> Side {
        let keys = Use::Replayed { first: used.first, count: used.count };
        Side { keys, ..Side::post("replays", Server::Proxy, PROTECTED) }
    }

    /// The same side under another name, without a key.
    pub fn without_key(self, name: &'static str) -> Side {
        Side { name, shape: Shape { key: KeyField::Absent, ..self.shape }, ..self }
    }

    /// The same side under another name, with GET, which has neither body nor key.
    pub fn with_get(self, name: &'static str) -> Side {
        Side { name, shape: Shape { method: Method::Get, key: KeyField::Absent, ..self.shape }, ..self }
    }

    /// The same side under another name, on another path.
    pub fn on(self, name: &'static str, path: &'static str) -> Side {
        Side { name, shape: Shape { path, ..self.shape }, ..self }
    }

    /// The same side, of which requests may fail.
    pub fn counting_failures(self) -> Side {
        Side { failures: Failures::Count, ..self }
    }

    /// The same side with bodies of this size.
    pub fn with_body(self, body_bytes: usize) -> Side {
        Side { shape: Shape { body_bytes, ..self.shape }, ..self }
    }
}
