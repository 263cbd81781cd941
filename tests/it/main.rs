//! All integration tests, in one binary.

mod admin;
mod cli;
mod config;
mod crash;
mod examples;
mod floors;
mod history;
mod http;
mod kill_loop;
mod layer;
mod ledger;
mod model;
mod reload;
mod seeds;
mod stores;
mod support;
