//! A model check of the protocol: every order of events within small bounds. Its decisions are those of
//! [`onceproxy::ledger::judge`], so that a wrong line there is found here.

mod caller;
mod checks;
mod decisions;
mod judging;
mod world;
