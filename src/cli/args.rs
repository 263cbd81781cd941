//! The arguments. The comments here are what `--help` shows.

mod records;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

pub(super) use records::{Address, Change, Lookup, RecordsArguments, RecordsCommand, Settle, StateName};

const EXAMPLES: &str = "\
Examples:
  onceproxy demo                                   a payments API and the proxy before it, to try it out
  onceproxy run --upstream http://127.0.0.1:3000   protect an API, with an embedded store
  onceproxy run -c onceproxy.toml                  route by route, as a file says
  onceproxy check onceproxy.toml                   every problem of a file at once
  onceproxy records list --state unknown           what nobody knows the outcome of

Exit codes: 0 done, 1 failed while running or refused, 2 the configuration or the arguments are wrong.";

const RUN_EXAMPLES: &str = "\
Examples:
  onceproxy run --upstream http://127.0.0.1:3000
  onceproxy run --upstream http://127.0.0.1:3000 --listen 0.0.0.0:8080 --store redis://127.0.0.1:6379/0
  onceproxy run -c config/payments.toml

Without a file every POST and PATCH with a key is protected, the admin API is on 127.0.0.1:9180 or else a free port,
and its token is in ./onceproxy.token, which is made where it is not there.

Stores: memory:  sqlite:PATH  redis://[USER:PASSWORD@]HOST[:PORT][/DB]  rediss://... (TLS)

A flag beats its variable of the environment, and that beats the file. Two settings have a variable only:
  ONCEPROXY_ADMIN_TOKEN   the token of the admin API
  ONCEPROXY_LOG           a log level or filter: warn, info, debug, onceproxy=debug

Addresses go to standard output, logs to standard error. SIGTERM and Ctrl-C drain, a second Ctrl-C ends at once.
SIGHUP and a change of the file reload it.";

const CHECK_EXAMPLES: &str = "\
Examples:
  onceproxy check onceproxy.toml
  onceproxy check onceproxy.toml --online --deny-warnings
  onceproxy check onceproxy.toml --explain \"POST /v1/payments\"
  onceproxy check onceproxy.toml --format json

Exit codes: 0 it can work, 1 --online found something away or unfit, 2 it cannot work.";

const HEALTHCHECK_EXAMPLES: &str = "\
Examples:
  onceproxy healthcheck
  onceproxy healthcheck --ready --admin 10.0.0.7:9180";

const SHELL_EXAMPLES: &str = "\
Examples:
  onceproxy completions bash > ~/.local/share/bash-completion/completions/onceproxy
  onceproxy completions zsh > ~/.zfunc/_onceproxy";

/// Makes a request that carries an Idempotency-Key take effect once
///
/// onceproxy stands before an API. The first request with a key is forwarded and its answer recorded; a repeat gets
/// that answer again, marked Idempotency-Replayed: true, and the API never sees it.
#[derive(Debug, Parser)]
#[command(name = "onceproxy", version, after_help = EXAMPLES, verbatim_doc_comment)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the proxy
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArguments),
    /// Run a demo API and the proxy before it, and print what to try
    Demo(DemoArguments),
    /// Check a configuration file
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArguments),
    /// Look at records, and decide about unknown outcomes
    #[command(after_help = records::EXAMPLES)]
    Records(RecordsArguments),
    /// Ask a running proxy whether it is alive
    #[command(after_help = HEALTHCHECK_EXAMPLES)]
    Healthcheck(HealthcheckArguments),
    /// Print the JSON schema of the configuration file
    Schema,
    /// Print completions for a shell
    #[command(after_help = SHELL_EXAMPLES)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual, a page for each command
    Man(ManArguments),
}

/// What to run.
#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// The configuration file (TOML)
    #[arg(short, long, value_name = "FILE", env = "ONCEPROXY_CONFIG", hide_env_values = true, value_hint = ValueHint::FilePath)]
    pub(super) config: Option<OsString>,
    /// Where to listen; port 0 is any free one [without a file: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "ONCEPROXY_LISTEN", hide_env_values = true)]
    pub(super) listen: Option<String>,
    /// The API to protect; enough without a file
    #[arg(long, value_name = "URL", env = "ONCEPROXY_UPSTREAM", hide_env_values = true, value_hint = ValueHint::Url)]
    pub(super) upstream: Option<String>,
    /// Where records are kept [without a file: sqlite:./onceproxy.db]
    #[arg(long, value_name = "URL", env = "ONCEPROXY_STORE", hide_env_values = true)]
    pub(super) store: Option<String>,
    /// Where the admin API listens [without a file: 127.0.0.1:9180]
    #[arg(long, value_name = "ADDR", env = "ONCEPROXY_ADMIN", hide_env_values = true)]
    pub(super) admin: Option<String>,
}

/// How to show it.
#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// The API drops the answer to every fifth payment, beginning with the second, after it has charged
    #[arg(long)]
    pub(super) chaos: bool,
}

/// What to check.
#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// The configuration file (TOML)
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) file: PathBuf,
    /// Reach the store and the upstreams too
    #[arg(long)]
    pub(super) online: bool,
    /// Tell the route of a request such as "POST /v1/payments", each of its settings and the line it comes from
    #[arg(long, value_name = "REQUEST")]
    pub(super) explain: Option<String>,
    /// Treat warnings as errors
    #[arg(long)]
    pub(super) deny_warnings: bool,
    /// Text on standard error, or JSON on standard output
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) format: Format,
}

/// How findings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Whom to ask, and what.
#[derive(Debug, Args)]
pub(super) struct HealthcheckArguments {
    /// Ask for /ready, where a store that is away counts, instead of /live
    #[arg(long)]
    pub(super) ready: bool,
    #[command(flatten)]
    pub(super) admin: Address,
}

/// What to do with the manual.
#[derive(Debug, Args)]
pub(super) struct ManArguments {
    /// Write the pages into this folder instead
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(super) out: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
    }
}
