//! The client: one thread that sends requests over a fixed number of connections and checks every answer.
//!
//! In the closed loop a connection sends its next request when it has its answer. In the open loop requests are due at
//! fixed times whatever became of those before them, and a latency counts from the time a request was due, so that a
//! server that stalls does not hide the requests that it kept waiting.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use crate::connection::{Connection, Written};
use crate::message::{Head, Request, Shape};
use crate::{Failure, Result};

/// A server that is silent for longer is given up.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// The timer's event; connections have their index.
const TIMER: u64 = u64::MAX;

/// What to send, and what has to come back.
pub struct Plan<'a> {
    pub address: SocketAddr,
    pub shape: Shape,
    pub keys: Keys,
    pub connections: usize,
    pub pace: Pace,
    pub length: Length,
    pub expected: Expected,
    pub failures: Failures,
    /// The server's CPU time until now.
    pub meter: &'a dyn Fn() -> Result<Duration>,
}

/// The keys of a run, in order.
#[derive(Debug, Clone, Copy)]
pub enum Keys {
    /// From this one on.
    From(u64),
    /// These, again and again.
    Among { first: u64, count: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Closed,
    Open { per_second: u32 },
}

#[derive(Debug, Clone, Copy)]
pub enum Length {
    Time { warm_up: Duration, measured: Duration },
    Requests(u64),
}

/// Every answer of a run has to be like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub status: u16,
    pub replayed: bool,
}

/// What becomes of the run when a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failures {
    /// It ends, too.
    End,
    /// It is counted, and the run goes on with a new connection. A connection that ends between two requests is replaced
    /// without being counted.
    Count,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Sample {
    /// All requests, those of the warm-up too.
    pub sent: u64,
    /// Of all.
    pub failed: u64,
    /// Those that were due in the measured time.
    pub requests: u64,
    pub elapsed: Duration,
    /// The server's CPU time in the measured time.
    pub cpu: Duration,
    /// Of the measured requests, ascending, in nanoseconds.
    pub latencies_ns: Vec<u64>,
}

struct Run<'a> {
    plan: &'a Plan<'a>,
    request: Request,
    epoll: OwnedFd,
    timer: Option<OwnedFd>,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    started: Instant,
    from: Instant,
    until: Option<Instant>,
    /// Requests of the open loop that are due, sent or not.
    due: u64,
    sent: u64,
    answered: u64,
    failed: u64,
    latencies_ns: Vec<u64>,
}

/// Runs the plan to its end: every request that was sent has its answer when it returns.
pub fn run(plan: &Plan<'_>) -> Result<Sample> {
    let mut run = Run::prepare(plan)?;
    let mut first = None;
    let mut last = None;
    let mut events = Vec::with_capacity(256);
    run.begin()?;
    loop {
        let now = Instant::now();
        if first.is_none() && now >= run.from {
            first = Some((now, (plan.meter)()?));
        }
        let over = run.until.is_some_and(|until| now >= until);
        let finished = run.finished(now);
        if last.is_none() && (over || finished) {
            last = Some((now, (plan.meter)()?));
        }
        if finished {
            break;
        }
        events.clear();
        epoll::wait(&run.epoll, spare_capacity(&mut events), Some(&PATIENCE))?;
        if events.is_empty() {
            return Err("the server did not answer for 30 s".into());
        }
        for event in &events {
            run.react(event.data.u64(), event.flags)?;
        }
    }
    let (Some(first), Some(last)) = (first, last) else {
        return Err("the run ended before it was measured".into());
    };
    let mut latencies_ns = run.latencies_ns;
    latencies_ns.sort_unstable();
    Ok(Sample {
        sent: run.sent,
        failed: run.failed,
        requests: latencies_ns.len() as u64,
        elapsed: last.0 - first.0,
        cpu: last.1.saturating_sub(first.1),
        latencies_ns,
    })
}

impl<'a> Run<'a> {
    fn prepare(plan: &'a Plan<'a>) -> Result<Run<'a>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let connections: Vec<Connection> =
            (0..plan.connections).map(|_| Connection::open(plan.address)).collect::<Result<_>>()?;
        for (index, connection) in connections.iter().enumerate() {
            epoll::add(&epoll, connection, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        }
        let started = Instant::now();
        let (from, until) = match plan.length {
            Length::Time { warm_up, measured } => (started + warm_up, Some(started + warm_up + measured)),
            Length::Requests(_) => (started, None),
        };
        Ok(Run {
            plan,
            request: Request::new(&plan.shape),
            epoll,
            timer: None,
            idle: (0..connections.len()).rev().collect(),
            connections,
            started,
            from,
            until,
            due: 0,
            sent: 0,
            answered: 0,
            failed: 0,
            latencies_ns: Vec::new(),
        })
    }

    fn begin(&mut self) -> Result<()> {
        if let Pace::Open { per_second } = self.plan.pace {
            let interval = Timespec { tv_sec: 0, tv_nsec: i64::from(1_000_000_000 / per_second) };
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            let setting = Itimerspec { it_interval: interval, it_value: interval };
            timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
            epoll::add(&self.epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
            self.timer = Some(timer);
        }
        self.dispatch()
    }

    fn react(&mut self, token: u64, flags: epoll::EventFlags) -> Result<()> {
        if token == TIMER {
            return self.dispatch();
        }
        let index = token as usize;
        match self.serve(index, flags) {
            Ok(None) => return Ok(()),
            Ok(Some(head)) => self.take(index, head)?,
            Err(failure) => self.fail(index, failure)?,
        }
        self.dispatch()
    }

    /// Writes and reads what can be; the head of an answer that is whole and as it should be.
    fn serve(&mut self, index: usize, flags: epoll::EventFlags) -> Result<Option<Head>> {
        if flags.contains(epoll::EventFlags::OUT) && self.connections[index].go_on(&mut self.request)? == Written::All {
            self.listen(index, epoll::EventFlags::IN)?;
        }
        if flags.difference(epoll::EventFlags::OUT).is_empty() {
            return Ok(None);
        }
        let head = self.connections[index].receive()?;
        match head {
            Some(head) if (Expected { status: head.status, replayed: head.replayed }) != self.plan.expected => {
                Err(format!("expected {:?}, got {head:?}", self.plan.expected).into())
            }
            head => Ok(head),
        }
    }

    /// An answer is whole.
    fn take(&mut self, index: usize, head: Head) -> Result<()> {
        let due = self.connections[index].due;
        if due >= self.from && self.until.is_none_or(|until| due < until) {
            self.latencies_ns.push(u64::try_from(due.elapsed().as_nanos())?);
        }
        self.answered += 1;
        if head.last && self.plan.failures == Failures::Count {
            self.replace(index)?;
        }
        self.idle.push(index);
        Ok(())
    }

    /// A connection has ended, or got what it should not.
    fn fail(&mut self, index: usize, failure: Failure) -> Result<()> {
        if self.plan.failures == Failures::End {
            return Err(failure);
        }
        self.replace(index)?;
        if !self.idle.contains(&index) {
            eprintln!("    a request failed: {failure}");
            self.failed += 1;
            self.idle.push(index);
        }
        Ok(())
    }

    fn replace(&mut self, index: usize) -> Result<()> {
        self.connections[index] = Connection::open(self.plan.address)?;
        let token = epoll::EventData::new_u64(index as u64);
        Ok(epoll::add(&self.epoll, &self.connections[index], token, epoll::EventFlags::IN)?)
    }

    /// Sends what may be sent now.
    fn dispatch(&mut self) -> Result<()> {
        if let Some(timer) = &self.timer {
            let mut expirations = [0; 8];
            // Would block: read since the last event.
            if rustix::io::read(timer, &mut expirations).is_ok() {
                self.due += u64::from_ne_bytes(expirations);
            }
        }
        while let Some(&index) = self.idle.last() {
            let Some(due) = self.next_due() else { break };
            self.idle.pop();
            let key = self.plan.keys.at(self.sent);
            self.sent += 1;
            match self.connections[index].send(&mut self.request, key, due) {
                Ok(Written::All) => {}
                Ok(Written::Part) => self.listen(index, epoll::EventFlags::IN | epoll::EventFlags::OUT)?,
                Err(failure) => self.fail(index, failure)?,
            }
        }
        Ok(())
    }

    /// When the next request is due, if that is now or was before.
    fn next_due(&self) -> Option<Instant> {
        let due = match self.plan.pace {
            Pace::Closed => Instant::now(),
            Pace::Open { .. } if self.sent >= self.due => return None,
            Pace::Open { per_second } => {
                self.started + Duration::from_nanos((self.sent + 1) * u64::from(1_000_000_000 / per_second))
            }
        };
        let more = match self.plan.length {
            Length::Requests(count) => self.sent < count,
            Length::Time { .. } => self.until.is_none_or(|until| due < until),
        };
        more.then_some(due)
    }

    fn finished(&self, now: Instant) -> bool {
        let all_sent = match self.plan.length {
            Length::Requests(count) => self.sent == count,
            // In the open loop requests that were due in time may still wait for a connection.
            Length::Time { .. } => self.until.is_some_and(|until| now >= until) && self.next_due().is_none(),
        };
        all_sent && self.answered + self.failed == self.sent
    }

    fn listen(&self, index: usize, flags: epoll::EventFlags) -> Result<()> {
        epoll::modify(&self.epoll, &self.connections[index], epoll::EventData::new_u64(index as u64), flags)?;
        Ok(())
    }
}

impl Keys {
    fn at(self, index: u64) -> u64 {
        match self {
            Keys::From(first) => first + index,
            Keys::Among { first, count } => first + index % count,
        }
    }
}
