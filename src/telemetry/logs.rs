//! Logs on standard error: text on a terminal, JSON otherwise.
//!
//! Nothing that is logged holds a body, a credential or a key; a record is named by the first digits of its id.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Uri};
use tracing::info;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt;

use crate::proxy::listener::address::PeerAddress;
use crate::scope::RecordId;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Changes what is logged.
#[derive(Clone)]
pub struct Levels {
    set: Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl Levels {
    /// Sets another level or filter.
    ///
    /// # Errors
    /// It is not one.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        (self.set)(filter_of(filter)?)
    }

    fn of<S: 'static>(handle: Handle<EnvFilter, S>) -> Levels {
        Levels { set: Arc::new(move |filter| handle.reload(filter).map_err(|error| error.to_string())) }
    }
}

impl Default for Levels {
    /// Of a process that does not log by itself: nothing changes.
    fn default() -> Levels {
        Levels { set: Arc::new(|_| Ok(())) }
    }
}

/// Begins to log. Later calls change nothing: the first one in a process counts.
///
/// # Errors
/// The level or filter is not one.
pub fn begin(filter: &str, format: Format) -> Result<Levels, String> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter_of(filter)?).with_writer(stderr);
    let json = match format {
        Format::Auto => !stderr().is_terminal(),
        Format::Text => false,
        Format::Json => true,
    };
    // A process that has a subscriber already (tests) keeps it.
    Ok(match json {
        true => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let levels = Levels::of(builder.reload_handle());
            let _ = builder.finish().try_init();
            levels
        }
        false => {
            let builder = builder.with_ansi(stderr().is_terminal()).with_filter_reloading();
            let levels = Levels::of(builder.reload_handle());
            let _ = builder.finish().try_init();
            levels
        }
    })
}

fn filter_of(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| format!("{filter:?} is not a log level: {error}"))
}

/// One request, as the access line tells it.
pub struct Access<'a> {
    /// Who asked.
    pub peer: PeerAddress,
    /// The method.
    pub method: &'a Method,
    /// The target; its query is left out, since it may hold keys and credentials.
    pub target: &'a Uri,
    /// The answer.
    pub status: StatusCode,
    /// The route's name.
    pub route: &'a str,
    /// What became of it.
    pub outcome: &'a str,
    /// The record, where there is one.
    pub record: Option<RecordId>,
    /// From the request's head to the answer's.
    pub total: Duration,
    /// How long the upstream took, where it was asked.
    pub upstream: Option<Duration>,
    /// How long the store took.
    pub store: Duration,
}

impl Access<'_> {
    /// Writes the line.
    pub fn log(&self) {
        info!(
            target: "onceproxy::access",
            peer = %self.peer,
            method = %self.method,
            path = self.target.path(),
            status = self.status.as_u16(),
            route = self.route,
            outcome = self.outcome,
            record = self.record.map(|id| id.prefix().to_string()),
            total_ms = millis(self.total),
            upstream_ms = self.upstream.map(millis),
            store_ms = millis(self.store),
        );
    }
}

/// Writes the line of an answer to what was no request.
pub fn log_refused(peer: PeerAddress, status: StatusCode, code: &str) {
    info!(target: "onceproxy::access", %peer, status = status.as_u16(), route = "-", outcome = code);
}

/// Milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
