//! An admin listener in this process, over a memory store that the test fills.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use onceproxy::admin::reload::Reloaded;
use onceproxy::admin::{self, Admin, AdminRoute, Desk, SharedDesk};
use onceproxy::http::policy::ScopeSource;
use onceproxy::stores::memory::MemoryStore;
use onceproxy::telemetry::metrics::Metrics;
use onceproxy::{Begun, Claim, Fingerprint, Key, Ledger, Policy, RecordId, Scope, Terms};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::process::{Ended, command, output};

pub const TOKEN: &str = "open-sesame";
pub const ROUTE: &str = "create-payment";

pub struct Office {
    pub address: SocketAddr,
    ledger: Ledger,
    runtime: Runtime,
}

/// How an office is set up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    Usual,
    WithoutToken,
    Draining,
}

impl Office {
    pub fn open(setup: Setup) -> Office {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("its address");
        let ledger = Ledger::new(MemoryStore::new());
        let policy = Policy::required().route(ROUTE).namespace("bank").scope([ScopeSource::Anonymous]);
        let desk = Desk {
            routes: vec![AdminRoute { name: ROUTE.to_owned(), policy: Arc::new(policy), params: Box::new(|_| None) }],
            token: (setup != Setup::WithoutToken).then(|| TOKEN.to_owned()),
        };
        let admin = Admin {
            ledger: ledger.clone(),
            desk: SharedDesk::new(desk),
            metrics: Metrics::new().expect("metrics"),
            is_draining: Arc::new(AtomicBool::new(setup == Setup::Draining)),
            reload: Arc::new(|| Box::pin(std::future::ready(Reloaded::Unchanged))),
        };
        runtime.spawn(admin::serve(Arc::new(admin), listener, std::future::pending()));
        Office { address, ledger, runtime }
    }

    /// Claims a key, as its first request does.
    fn claim(&self, key: &str) -> Claim {
        let terms = Terms { route: ROUTE.into(), ..Terms::default() };
        let begun = self.runtime.block_on(self.ledger.begin(&id(key), Fingerprint::of(b"request"), &terms));
        match begun.expect("the store works") {
            Begun::Execute(claim) => claim,
            other => panic!("{key} was used: {other:?}"),
        }
    }

    /// A key whose outcome nobody knows.
    pub fn unknown(&self, key: &str) -> RecordId {
        let claim = self.claim(key);
        self.runtime.block_on(claim.unknown("upstream-lost")).expect("it is recorded");
        id(key)
    }

    /// A key that is at work for as long as the claim is held.
    pub fn at_work(&self, key: &str) -> (RecordId, Claim) {
        (id(key), self.claim(key))
    }

    /// What a duplicate of the key's request finds.
    pub fn duplicate(&self, key: &str) -> Begun {
        let terms = Terms { route: ROUTE.into(), ..Terms::default() };
        let begun = self.runtime.block_on(self.ledger.begin(&id(key), Fingerprint::of(b"request"), &terms));
        begun.expect("the store works")
    }

    /// `onceproxy records`, with the token in the environment.
    pub fn records(&self, arguments: &[&str]) -> Ended {
        output(self.records_in(Path::new("."), arguments).env("ONCEPROXY_ADMIN_TOKEN", TOKEN))
    }

    /// `onceproxy records` in a folder.
    pub fn records_in(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = command(folder, &["records"]);
        command.args(arguments).env("ONCEPROXY_ADMIN", self.address.to_string());
        command
    }
}

/// The record of a key in the office's scope.
pub fn id(key: &str) -> RecordId {
    RecordId::new(&Scope::new("bank"), &Key::parse(key).expect("a key"))
}
