//! Which cores a run uses: two at most, whatever the machine has.

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Result;

/// How the two cores are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// The server alone on core 0; client, upstream and Redis on core 1.
    One,
    /// Everything on cores 0 and 1.
    Two,
}

impl Cores {
    /// How many the server has: nginx gets as many workers.
    pub fn of_server(self) -> usize {
        match self {
            Cores::One => 1,
            Cores::Two => 2,
        }
    }

    /// The server's, as `taskset` takes them.
    pub fn server_list(self) -> &'static str {
        match self {
            Cores::One => "0",
            Cores::Two => "0,1",
        }
    }

    /// Those of everything else.
    pub fn other_list(self) -> &'static str {
        match self {
            Cores::One => "1",
            Cores::Two => "0,1",
        }
    }

    /// Moves the calling thread, which is the client, and what it starts from now on, to where it belongs.
    pub fn pin_this_thread(self) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(1);
        if self == Cores::Two {
            set.set(0);
        }
        sched_setaffinity(None, &set).map_err(|error| format!("two cores are needed: {error}").into())
    }
}
