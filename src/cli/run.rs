//! `run`: flags, environment and file made into a configuration, and the proxy run with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use tracing::warn;

use super::args::RunArguments;
use super::config_file::{ConfigFile, tell_warnings};
use super::signals::Hangup;
use super::token::{self, Source};
use super::{Failure, output, runtime, signals, systemd};
use crate::app::{self, AppError, PortTaken, Started, Surroundings};
use crate::config::Config;
use crate::config::diagnostic::Severity;
use crate::config::load::{Overrides, Report};
use crate::config::render::Style;
use crate::stores::url::StoreUrl;
use crate::telemetry::logs::{self, Levels};

/// Open files beside connections that are served, and those to upstreams: of clients that wait for a place, the store's, the
/// admin listener's, the logs.
const FILES_BESIDE: u64 = 128;

/// Runs the proxy until it is asked to end.
pub(super) fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let file = given(arguments.config.as_ref()).map(PathBuf::from);
    let overrides = Overrides {
        listen: given(arguments.listen.as_ref()),
        upstream: given(arguments.upstream.as_ref()),
        store: given(arguments.store.as_ref()),
        admin: given(arguments.admin.as_ref()),
        admin_token: token::from_environment(),
        log: log_level(),
    };
    match (file, overrides.upstream.clone()) {
        (Some(path), _) => run_with_file(&path, &overrides),
        (None, Some(url)) => run_without_file(&url, overrides),
        (None, None) => Err(Failure::Wrong(
            "there is nothing to run: name a file, or an API to protect\n\n  \
             onceproxy run -c onceproxy.toml\n  \
             onceproxy run --upstream http://127.0.0.1:3000\n  \
             onceproxy demo"
                .to_owned(),
        )),
    }
}

/// The log level of the environment.
pub(super) fn log_level() -> Option<String> {
    std::env::var("ONCEPROXY_LOG").ok().filter(|level| !level.is_empty())
}

/// An empty variable of the environment is as good as none.
fn given<T: Clone + AsRef<std::ffi::OsStr>>(value: Option<&T>) -> Option<T> {
    value.filter(|value| !value.as_ref().is_empty()).cloned()
}

fn run_with_file(path: &Path, overrides: &Overrides) -> Result<(), Failure> {
    let file = ConfigFile::new(path, overrides.clone());
    let mut report = file.read()?;
    let Some(config) = report.config.take() else {
        return Err(Failure::Report(report.to_text(style_of_errors())));
    };
    let levels = begin_logs(&config)?;
    tell_warnings(&report);
    serve(config, PortTaken::Fail, levels, Some(file), tell_addresses)
}

fn run_without_file(url: &str, mut overrides: Overrides) -> Result<(), Failure> {
    let admin_port = match &overrides.admin {
        Some(_) => PortTaken::Fail,
        None => PortTaken::TakeAnother,
    };
    // The token is made only when all else is well: a wrong flag leaves no file behind.
    let to_be_made = overrides.admin_token.clone().unwrap_or_else(|| SecretString::from("to be made"));
    Config::for_upstream(url, &Overrides { admin_token: Some(to_be_made), ..overrides.clone() }).map_err(wrong)?;
    let (token, source) = token::known_or_new()?;
    overrides.admin_token = Some(token);
    let config = Config::for_upstream(url, &overrides).map_err(wrong)?;
    let levels = begin_logs(&config)?;
    let lines = first_lines(&config, url, &source);
    let wanted = config.admin.as_ref().map(|admin| admin.address);
    serve(config, admin_port, levels, None, move |started| {
        output::say(&lines);
        let admin = started.admin;
        tell_addresses(started);
        if let (Some(admin), Some(wanted)) = (admin, wanted)
            && wanted.port() != 0
            && wanted != admin
        {
            output::say(&format!("{wanted} is taken: use `onceproxy records --admin {admin}`"));
        }
    })
}

/// What the flags say wrong, without the lines of a file that nobody wrote.
pub(super) fn wrong(report: Box<Report>) -> Failure {
    let lines = report.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
    let lines = lines.map(|diagnostic| match &diagnostic.help {
        Some(help) => format!("{}\n  {help}", diagnostic.message),
        None => diagnostic.message.clone(),
    });
    Failure::Wrong(lines.collect::<Vec<_>>().join("\n"))
}

/// Colours where standard error is a terminal that wants them.
pub(super) fn style_of_errors() -> Style {
    use std::io::IsTerminal;
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match std::io::stderr().is_terminal() && !refused {
        true => Style::Colours,
        false => Style::Plain,
    }
}

pub(super) fn begin_logs(config: &Config) -> Result<Levels, Failure> {
    logs::begin(&config.log.level, config.log.format).map_err(Failure::Wrong)
}

/// Runs the proxy on this thread and threads of its own. With a file it reloads on SIGHUP, when the file changes, and
/// when the admin API is asked to; without one SIGHUP, which a terminal sends when it is closed, is a quiet end.
fn serve(
    config: Config,
    admin_port: PortTaken,
    levels: Levels,
    file: Option<ConfigFile>,
    started: impl FnOnce(Started),
) -> Result<(), Failure> {
    raise_file_limit(&config);
    runtime()?.block_on(async {
        let hangup = if file.is_some() { Hangup::Reloads } else { Hangup::Ends };
        let shutdown = signals::shutdown(hangup)?;
        let mut surroundings = Surroundings::new(admin_port);
        surroundings.inherited = systemd::sockets()?;
        surroundings.levels = levels;
        surroundings.tell = Arc::new(systemd::tell);
        if let Some(file) = file.map(Arc::new) {
            tokio::spawn(signals::hangups(surroundings.reloads())?);
            tokio::spawn(file.clone().watch(surroundings.reloads()));
            surroundings.source = Some(Arc::new(move || file.read_again()));
        }
        let ended = app::run_in(surroundings, config, shutdown, started).await;
        ended.map_err(|error| match error {
            // What the file says cannot work, which takes the machine to see.
            AppError::Spool(..) => Failure::Wrong(error.to_string()),
            error => Failure::Failed(error.to_string()),
        })
    })
}

/// Every connection is an open file; systems begin with a limit that is far below what they allow.
#[cfg(unix)]
fn raise_file_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where that much is not allowed after all, the old limit stays.
    let _ = setrlimit(Resource::Nofile, raised);
    let upstreams: u64 = config.upstreams.iter().map(|upstream| upstream.max_connections as u64).sum();
    let needed = (config.listener.max_connections as u64).saturating_add(upstreams).saturating_add(FILES_BESIDE);
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < needed) {
        warn!(limit, needed, "fewer files may be open than there may be connections: raise the limit (ulimit -n)");
    }
}

#[cfg(not(unix))]
fn raise_file_limit(_: &Config) {}

/// The lines that others wait for.
fn tell_addresses(started: Started) {
    if let Some(admin) = started.admin {
        output::say(&format!("admin on {admin}"));
    }
    output::say(&format!("listening on {}", started.data));
}

/// What a user who wrote no file should know: what is protected, whose keys they are, and where it is kept.
fn first_lines(config: &Config, url: &str, token: &Source) -> String {
    let scope = config.routes.first().map(|route| {
        let sources: Vec<String> = route.policy.scope.iter().map(ToString::to_string).collect();
        sources.join(" + ")
    });
    let store = match &config.store.url {
        StoreUrl::Sqlite(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string(),
        other => other.to_string(),
    };
    let token = match token {
        Source::Environment => format!("from {}", token::VARIABLE),
        Source::File(path) => path.display().to_string(),
        Source::NewFile(path) => format!("{} (made now)", path.display()),
    };
    format!(
        "onceproxy {}\n\
         protects {url}: every POST and PATCH with an Idempotency-Key takes effect once\n\
         scope {}: a key belongs to its host and its sender (Authorization + X-Api-Key + Cookie)\n\
         store {store}\n\
         admin token {token}",
        env!("CARGO_PKG_VERSION"),
        scope.unwrap_or_default(),
    )
}
