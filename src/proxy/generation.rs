//! What requests are answered with, and its exchange for something else while they come.
//!
//! Each worker has a seat with the gateway that its connections ask at the beginning of each request. An exchange puts
//! another one there: requests under way go on with the one that they began with, which ends with the last of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::http::layer::IdempotencyLayer;
use crate::ledger::Ledger;
use crate::proxy::forward::Forward;
use crate::proxy::gateway::{Gateway, Observer};
use crate::proxy::headers::Via;
use crate::proxy::listener::ListenerSpec;
use crate::proxy::listener::places::Capacity;
use crate::proxy::router::{RouteSpec, Router};
use crate::proxy::upstream::body::Sent;
use crate::proxy::upstream::pool::{Pool, Upstream};

/// Makes the layers of a generation over a ledger.
pub type Layers = Arc<dyn Fn(&Ledger) -> Vec<IdempotencyLayer> + Send + Sync>;

/// What one configuration makes of the proxy.
#[derive(Clone)]
pub struct Generation {
    /// The data listener.
    pub listener: ListenerSpec,
    /// The routes.
    pub routes: Arc<[RouteSpec]>,
    /// How requests find them.
    pub router: Arc<Router>,
    /// Makes the layers, one per route, over a worker's ledger.
    pub layers: Layers,
    /// Hears of every request.
    pub observer: Arc<dyn Observer>,
}

/// A worker's gateway, which may be another one at the next request.
pub(super) type Seat = ArcSwap<Gateway>;
/// The upstreams of the routes, each once.
pub(super) type Fleet = ArcSwap<Vec<Arc<Upstream<Sent>>>>;

/// Exchanges what a server answers requests with. Clones are of the same server.
#[derive(Clone)]
pub struct Switch {
    shared: Arc<Shared>,
}

struct Shared {
    /// The ledger of each worker: a store's connections belong to one runtime, and stay through all generations.
    ledgers: Vec<Ledger>,
    seats: Vec<Arc<Seat>>,
    fleet: Arc<Fleet>,
    capacity: Capacity,
    via: Via,
    made: AtomicU64,
}

impl Switch {
    /// The first generation takes its seats, one for each ledger.
    pub(super) fn new(first: &Generation, ledgers: Vec<Ledger>) -> Switch {
        let via = Via::random();
        let upstreams = upstreams(&first.routes, &[], ledgers.len());
        let gateway =
            |(worker, ledger)| Arc::new(ArcSwap::from_pointee(gateway(first, ledger, &upstreams, worker, &via, 0)));
        let seats = ledgers.iter().enumerate().map(gateway).collect();
        let shared = Shared {
            seats,
            fleet: Arc::new(ArcSwap::from_pointee(each_once(&upstreams))),
            capacity: Capacity::new(first.listener.max_connections),
            ledgers,
            via,
            made: AtomicU64::new(0),
        };
        Switch { shared: Arc::new(shared) }
    }

    /// Exchanges all workers' gateways; when it returns, no request begins with the old ones any more. To be called by
    /// one at a time.
    ///
    /// Connections to upstreams whose settings have not changed stay. The others take no more requests, and end when
    /// their exchanges have.
    pub fn exchange(&self, next: &Generation) {
        let shared = &*self.shared;
        let number = shared.made.fetch_add(1, Ordering::AcqRel) + 1;
        let before = shared.fleet.load_full();
        let upstreams = upstreams(&next.routes, &before, shared.seats.len());
        let made = shared.ledgers.iter().enumerate();
        let made: Vec<Gateway> =
            made.map(|(worker, ledger)| gateway(next, ledger, &upstreams, worker, &shared.via, number)).collect();
        for (seat, gateway) in shared.seats.iter().zip(made) {
            seat.store(Arc::new(gateway));
        }
        let fleet = each_once(&upstreams);
        for old in before.iter().filter(|old| !fleet.iter().any(|kept| Arc::ptr_eq(kept, old))) {
            old.retire();
        }
        shared.fleet.store(Arc::new(fleet));
        shared.capacity.resize(next.listener.max_connections);
    }

    /// The listener's settings of the present generation.
    pub(super) fn listener(&self) -> ListenerSpec {
        self.shared.seats.first().map(|seat| seat.load().listener().clone()).unwrap_or_default()
    }

    pub(super) fn seats(&self) -> &[Arc<Seat>] {
        &self.shared.seats
    }

    pub(super) fn fleet(&self) -> &Arc<Fleet> {
        &self.shared.fleet
    }

    pub(super) fn capacity(&self) -> &Capacity {
        &self.shared.capacity
    }
}

fn gateway(
    generation: &Generation,
    ledger: &Ledger,
    upstreams: &[Arc<Upstream<Sent>>],
    worker: usize,
    via: &Via,
    number: u64,
) -> Gateway {
    let forward = |(route, upstream): (&RouteSpec, &Arc<Upstream<Sent>>)| {
        Forward::new(Pool::new(upstream.clone(), worker), route.policy.clone())
    };
    let forwards = generation.routes.iter().zip(upstreams).map(forward).collect();
    Gateway::new(generation, &(generation.layers)(ledger), forwards, via.clone(), number)
}

/// The upstream of each route: one that is known where its settings are the same.
fn upstreams(routes: &[RouteSpec], known: &[Arc<Upstream<Sent>>], workers: usize) -> Vec<Arc<Upstream<Sent>>> {
    let mut found: Vec<Arc<Upstream<Sent>>> = Vec::with_capacity(routes.len());
    for route in routes {
        let same = found.iter().chain(known).find(|upstream| *upstream.spec() == *route.upstream);
        let upstream = same.cloned().unwrap_or_else(|| Upstream::new(route.upstream.clone(), workers));
        found.push(upstream);
    }
    found
}

fn each_once(upstreams: &[Arc<Upstream<Sent>>]) -> Vec<Arc<Upstream<Sent>>> {
    let mut once: Vec<Arc<Upstream<Sent>>> = Vec::new();
    for upstream in upstreams {
        if !once.iter().any(|known| Arc::ptr_eq(known, upstream)) {
            once.push(upstream.clone());
        }
    }
    once
}
