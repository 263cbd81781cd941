//! The command line, as a real process.

mod check;
mod demo;
mod help;
mod office;
mod process;
mod records;
mod run;
mod upstreams;
