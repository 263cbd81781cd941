//! The configuration file: read at the start, read again for a reload, and watched.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::Failure;
use crate::app::reload::{Cause, Reloads};
use crate::config::Config;
use crate::config::diagnostic::Severity;
use crate::config::load::{Overrides, Report, load};
use crate::config::render::Style;
use crate::config::secret::Lookups;

/// How often the file is looked at. Its content is compared, never its time or its inode: an editor that writes a new
/// file in its place and a mounted volume that turns a link are nothing special then.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A file that the proxy runs with.
pub(super) struct ConfigFile {
    path: PathBuf,
    overrides: Overrides,
    /// What was read last, be it good or bad.
    last: Mutex<Vec<u8>>,
}

impl ConfigFile {
    /// Names a file; flags and environment stay what they are.
    pub(super) fn new(path: &Path, overrides: Overrides) -> ConfigFile {
        ConfigFile { path: path.to_owned(), overrides, last: Mutex::default() }
    }

    /// Reads and checks it.
    pub(super) fn read(&self) -> Result<Report, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Wrong(format!("cannot read the configuration file {}: {error}", self.path.display()))
        };
        let bytes = fs::read(&self.path).map_err(|error| failed(&error))?;
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&bytes);
        let text = String::from_utf8(bytes).map_err(|error| failed(&error))?;
        let lookups =
            Lookups { environment: &|name| std::env::var(name).ok(), file: &|path: &Path| fs::read_to_string(path) };
        Ok(load(&text, &self.path.display().to_string(), &self.overrides, &lookups))
    }

    /// Reads it once more; an error is the report of what is wrong.
    pub(super) fn read_again(&self) -> Result<Config, String> {
        let mut report = self.read().map_err(|failure| match failure {
            Failure::Wrong(text) | Failure::Report(text) | Failure::Failed(text) => text,
        })?;
        let config = report.config.take().ok_or_else(|| report.to_text(Style::Plain))?;
        tell_warnings(&report);
        Ok(config)
    }

    fn is_known(&self, bytes: &[u8]) -> bool {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) == bytes
    }

    /// Asks for a reload when the content has changed, and has stayed so from one look to the next: a file that is being
    /// written is left alone.
    pub(super) async fn watch(self: Arc<ConfigFile>, reloads: Reloads) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        loop {
            looks.tick().await;
            // A pipe can be read once only, and between two names there is no file for a moment.
            let is_file = tokio::fs::metadata(&self.path).await.is_ok_and(|metadata| metadata.is_file());
            let Some(bytes) = (if is_file { tokio::fs::read(&self.path).await.ok() } else { None }) else { continue };
            if self.is_known(&bytes) {
                seen = None;
            } else if seen.as_ref() == Some(&bytes) {
                reloads.ask(Cause::File).await;
                seen = None;
            } else {
                seen = Some(bytes);
            }
        }
    }
}

/// Logs what is not wrong, but may hurt.
pub(super) fn tell_warnings(report: &Report) {
    for warning in report.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning) {
        warn!(file = report.file_name, help = warning.help, "{}", warning.message);
    }
}
