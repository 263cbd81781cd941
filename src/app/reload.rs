//! Reloading: a new configuration takes over, as a whole or not at all.
//!
//! Everything that can fail is done before anything is changed. One reload comes after the other; who asked for it is
//! answered when every request that begins gets the new configuration.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::changes::{Changes, Comparison, compare};
use super::listen::Origin;
use super::workshop::{Workshop, desk};
use super::{AppError, Moment, Source};
use crate::admin::SharedDesk;
use crate::admin::reload::{Reload, Reloaded};
use crate::config::Config;
use crate::http::spool::Spool;
use crate::proxy::generation::{Generation, Switch};
use crate::proxy::listener::ListenerSpec;
use crate::proxy::tls::{Prepared, ServerTls};
use crate::telemetry::logs::Levels;
use crate::telemetry::metrics::{RELOAD_APPLIED, RELOAD_REJECTED, RELOAD_UNCHANGED};

/// How many may wait for a reload.
const QUEUE: usize = 16;

/// The setting of the listener's certificates.
const CERTIFICATES: &str = "listener.tls";

/// Why a reload is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGHUP.
    Signal,
    /// The file has changed.
    File,
    /// The admin API.
    Admin,
}

/// Asks for reloads. Clones ask the same proxy.
#[derive(Clone)]
pub struct Reloads {
    queue: mpsc::Sender<Request>,
}

pub(super) struct Request {
    cause: Cause,
    answer: oneshot::Sender<Reloaded>,
}

pub(super) type Queue = mpsc::Receiver<Request>;

pub(super) fn queue() -> (Reloads, Queue) {
    let (queue, requests) = mpsc::channel(QUEUE);
    (Reloads { queue }, requests)
}

impl Reloads {
    /// Reloads, and waits for what comes of it.
    pub async fn ask(&self, cause: Cause) -> Reloaded {
        let gone = || Reloaded::Refused("The proxy is on its way out.".to_owned());
        let (answer, answered) = oneshot::channel();
        match self.queue.send(Request { cause, answer }).await {
            Ok(()) => answered.await.unwrap_or_else(|_| gone()),
            Err(_) => gone(),
        }
    }

    /// For the admin listener.
    pub(super) fn for_admin(self) -> Reload {
        Arc::new(move || {
            let reloads = self.clone();
            Box::pin(async move { reloads.ask(Cause::Admin).await })
        })
    }
}

/// What a reload works on.
pub(super) struct Reloader {
    /// In force.
    pub(super) config: Config,
    pub(super) source: Option<Source>,
    pub(super) workshop: Workshop,
    pub(super) switch: Switch,
    pub(super) desk: SharedDesk,
    pub(super) tls: Option<Arc<ServerTls>>,
    pub(super) levels: Levels,
    pub(super) tell: Arc<dyn Fn(Moment) + Send + Sync>,
    pub(super) data_origin: Origin,
    pub(super) admin_origin: Origin,
}

impl Reloader {
    /// Reloads whenever somebody asks for it.
    pub(super) async fn run(mut self, mut requests: Queue) {
        while let Some(Request { cause, answer }) = requests.recv().await {
            let reloaded = self.reload(cause).await;
            // Who asked may have gone.
            let _ = answer.send(reloaded);
        }
    }

    async fn reload(&mut self, cause: Cause) -> Reloaded {
        let Some(source) = self.source.clone() else {
            return Reloaded::Refused(
                "The proxy runs without a configuration file: there is nothing to reload.".into(),
            );
        };
        (self.tell)(Moment::Reloading);
        let reloaded = match tokio::task::spawn_blocking(move || source()).await {
            Ok(Ok(config)) => self.take_over(config),
            Ok(Err(report)) => Reloaded::Wrong(report),
            Err(error) => Reloaded::Wrong(format!("reading it failed: {error}")),
        };
        self.report(cause, &reloaded);
        (self.tell)(Moment::Ready);
        reloaded
    }

    fn take_over(&mut self, mut config: Config) -> Reloaded {
        // The address of an inherited socket is none of the configuration's.
        if self.data_origin == Origin::Inherited {
            config.listener.address = self.config.listener.address.clone();
        }
        if let (Origin::Inherited, Some(new), Some(old)) = (self.admin_origin, &mut config.admin, &self.config.admin) {
            if old.token.is_some() && new.token.is_none() {
                return Reloaded::Refused("admin.token cannot go while the admin socket is inherited.".into());
            }
            new.address = old.address;
        }
        let changes = match compare(&self.config, &config) {
            // The certificates may have changed in their files.
            Comparison::Same => None,
            Comparison::NeedsRestart(settings) => {
                let settings = settings.join(", ");
                return Reloaded::Refused(format!("{settings} cannot change without a restart; nothing was changed."));
            }
            Comparison::Changed(changes) => Some(changes),
        };
        let certificates = self.certificates(&config.listener);
        let made = changes.as_ref().map(|_| self.prepare(&config)).transpose();
        let (certificates, made) = match (certificates, made) {
            (Ok(certificates), Ok(made)) => (certificates, made),
            (Err(error), _) | (_, Err(error)) => return Reloaded::Wrong(error.to_string()),
        };
        let mut settings = Vec::new();
        if let (Some(changes), Some((generation, spool))) = (changes, made) {
            self.workshop.spool = spool;
            self.apply(config, &generation, &changes);
            settings = changes.settings;
        }
        if let (Some(tls), Some(certificates)) = (&self.tls, certificates) {
            tls.take_over(certificates);
            if !settings.iter().any(|setting| setting == CERTIFICATES) {
                settings.push(CERTIFICATES.to_owned());
            }
        }
        match settings.is_empty() {
            true => Reloaded::Unchanged,
            false => Reloaded::Applied(settings),
        }
    }

    /// Reads the certificates again.
    fn certificates(&self, listener: &ListenerSpec) -> Result<Option<Prepared>, AppError> {
        match (&self.tls, &listener.tls) {
            (Some(tls), Some(spec)) => Ok(tls.prepare(spec)?),
            (None, _) | (_, None) => Ok(None),
        }
    }

    /// Makes what is to take over. What can fail belongs here.
    fn prepare(&self, config: &Config) -> Result<(Generation, Spool), AppError> {
        let (old, new) = (&self.config.listener, &config.listener);
        let is_same_spool = old.spool_dir == new.spool_dir && old.max_spooled_bytes == new.max_spooled_bytes;
        let spool = if is_same_spool { self.workshop.spool.clone() } else { super::spool(new)? };
        Ok((self.workshop.generation(config, &spool)?, spool))
    }

    /// Puts everything that was made in the place of the old. Nothing here can fail.
    fn apply(&mut self, config: Config, generation: &Generation, changes: &Changes) {
        for estranged in &changes.estranged {
            warn!(route = &*estranged.route, setting = estranged.setting, "earlier records are {}", estranged.effect);
        }
        let (old, new) = (&self.config, &config);
        self.workshop.budget.resize(old.listener.max_buffered_bytes, new.listener.max_buffered_bytes);
        if old.log.level != new.log.level
            && let Err(error) = self.levels.set(&new.log.level)
        {
            warn!(%error, "the log level stays as it was");
        }
        self.switch.exchange(generation);
        self.desk.exchange(desk(new, generation));
        self.config = config;
    }

    fn report(&self, cause: Cause, reloaded: &Reloaded) {
        let result = match reloaded {
            Reloaded::Applied(changes) => {
                info!(?cause, changes = changes.join(", "), "the configuration was reloaded");
                RELOAD_APPLIED
            }
            Reloaded::Unchanged => {
                info!(?cause, "the configuration was read again and is the same");
                RELOAD_UNCHANGED
            }
            Reloaded::Wrong(report) => {
                error!(?cause, "the new configuration is wrong and the old one stays: {report}");
                RELOAD_REJECTED
            }
            Reloaded::Refused(reason) => {
                error!(?cause, "the new configuration is refused and the old one stays: {reason}");
                RELOAD_REJECTED
            }
        };
        self.workshop.metrics.reloaded(result);
    }
}
