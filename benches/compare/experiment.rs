//! Sides that take turns, and the ratios of neighbours.

use std::ops::Range;
use std::time::Duration;

use crate::Result;
use crate::load::{Pace, Sample};
use crate::stage::{Side, Stage};
use crate::statistics::{Spread, quantile};

/// What of a sample is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Requests per second.
    Rate,
    /// The server's CPU time per request, in microseconds.
    Cpu,
    /// The median latency, in microseconds.
    Median,
    /// The latency that one of a hundred exceeds, in microseconds.
    OneOfHundred,
}

/// The samples of all rounds, side by side.
pub struct Rounds {
    pub names: Vec<&'static str>,
    /// By round, then by side.
    measured: Vec<Vec<Measured>>,
}

/// What is kept of a sample.
#[derive(Debug, Clone, Copy)]
struct Measured {
    failed: u64,
    rate: f64,
    cpu_us: f64,
    median_us: f64,
    one_of_hundred_us: f64,
}

impl Rounds {
    /// Runs each side once per round, after a warm-up.
    pub fn run(
        stage: &Stage<'_>,
        sides: &[Side],
        connections: usize,
        pace: Pace,
        rounds: Range<usize>,
    ) -> Result<Rounds> {
        // Not counted: what a server does once, it does now.
        for side in sides {
            stage.measure(side, connections, Pace::Closed, stage.warm_up())?;
        }
        let names = sides.iter().map(|side| side.name).collect();
        Rounds::take(names, rounds, |index| stage.measure(&sides[index], connections, pace, stage.round()))
    }

    /// Measures each of what has a name once per round. Every other round goes backwards, so that a drift of the machine
    /// cancels out.
    pub fn take(
        names: Vec<&'static str>,
        rounds: Range<usize>,
        mut measure: impl FnMut(usize) -> Result<Sample>,
    ) -> Result<Rounds> {
        let mut all = Rounds { names, measured: Vec::new() };
        for round in rounds {
            let mut order: Vec<usize> = (0..all.names.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            let mut taken = Vec::new();
            for index in order {
                taken.push((index, Measured::of(&measure(index)?)?));
            }
            taken.sort_by_key(|(index, _)| *index);
            all.measured.push(taken.into_iter().map(|(_, measured)| measured).collect());
        }
        Ok(all)
    }

    /// Adds the rounds of a run with the same sides.
    pub fn append(&mut self, other: Rounds) {
        self.measured.extend(other.measured);
    }

    /// One side against another, round by round. Sides are numbered in their order.
    pub fn ratio(&self, side: usize, against: usize, figure: Figure) -> Spread {
        Spread::of(self.measured.iter().map(|round| round[side].figure(figure) / round[against].figure(figure)))
    }

    /// Requests of a side that failed, of all rounds.
    pub fn failed(&self, side: usize) -> u64 {
        self.measured.iter().map(|round| round[side].failed).sum()
    }

    /// A side's own figures.
    pub fn figure(&self, side: usize, figure: Figure) -> Spread {
        Spread::of(self.measured.iter().map(|round| round[side].figure(figure)))
    }
}

impl Measured {
    fn of(sample: &Sample) -> Result<Measured> {
        if sample.requests == 0 {
            return Err("no request was measured".into());
        }
        // Where none was taken it is not a number.
        let latency_us = |part| quantile(&sample.latencies_ns, part).map_or(f64::NAN, |ns| ns as f64 / 1e3);
        Ok(Measured {
            failed: sample.failed,
            rate: sample.requests as f64 / sample.elapsed.as_secs_f64(),
            cpu_us: micros(sample.cpu) / sample.requests as f64,
            median_us: latency_us(0.5),
            one_of_hundred_us: latency_us(0.99),
        })
    }

    fn figure(&self, figure: Figure) -> f64 {
        match figure {
            Figure::Rate => self.rate,
            Figure::Cpu => self.cpu_us,
            Figure::Median => self.median_us,
            Figure::OneOfHundred => self.one_of_hundred_us,
        }
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
