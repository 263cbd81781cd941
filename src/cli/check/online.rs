//! What a file talks of, reached: the store and its settings, each upstream, the folder of large bodies.

use tokio::time::timeout;

use crate::app;
use crate::config::diagnostic::Severity;
use crate::config::{Config, StoreConfig};
use crate::ledger::store;
use crate::proxy::upstream::UpstreamSpec;
use crate::proxy::upstream::connect::try_out;
use crate::stores::url::StoreUrl;

/// How many of the store's time limits a look at it may take: connecting is part of it.
const STORE_PATIENCE: u32 = 10;

/// Something that was reached for.
pub(super) struct Reached {
    /// What.
    pub(super) what: String,
    /// How it is.
    pub(super) finding: Result<String, (Severity, String)>,
}

/// Reaches for the store, then for each upstream, and for the folder of large bodies where the file names one.
pub(super) async fn reach(config: &Config) -> Vec<Reached> {
    let mut reached = reach_store(&config.store).await;
    if let Some(folder) = &config.listener.spool_dir {
        let finding = app::spool(&config.listener).map(|_| "takes files".to_owned());
        let finding = finding.map_err(|error| (Severity::Error, error.to_string()));
        reached.push(Reached { what: format!("folder {}", folder.display()), finding });
    }
    for upstream in &config.upstreams {
        let what = format!("upstream {} at {}", upstream.name, upstream.url());
        let finding = reach_upstream(upstream).await.map_err(|error| (Severity::Error, error));
        reached.push(Reached { what, finding });
    }
    reached
}

async fn reach_store(config: &StoreConfig) -> Vec<Reached> {
    let what = format!("store {}", config.url);
    let one = |finding| vec![Reached { what: what.clone(), finding }];
    if let StoreUrl::Sqlite(path) = &config.url
        && !path.exists()
    {
        // A check makes no database; the folder has to be there for `run` to make it.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        return one(match folder.is_none_or(std::path::Path::is_dir) {
            true => Ok("does not exist yet; it is made at the first start".to_owned()),
            false => Err((Severity::Error, "its folder does not exist".to_owned())),
        });
    }
    let store = match config.url.open(&config.options) {
        Ok(store) => store.handle(),
        Err(error) if is_in_use(&*error.0) => {
            return one(Ok("is in use by another process: a proxy that runs, most likely".to_owned()));
        }
        Err(error) => return one(Err((Severity::Error, error.to_string()))),
    };
    match timeout(config.options.command_timeout.saturating_mul(STORE_PATIENCE), store.preflight()).await {
        Ok(Ok(findings)) if findings.is_empty() => one(Ok("is there and fit".to_owned())),
        Ok(Ok(findings)) => findings
            .into_iter()
            .map(|finding| Reached {
                what: what.clone(),
                finding: match finding.severity {
                    store::Severity::Info => Ok(finding.text),
                    store::Severity::Warning => Err((Severity::Warning, finding.text)),
                    store::Severity::Unready | store::Severity::Unfit => Err((Severity::Error, finding.text)),
                },
            })
            .collect(),
        Ok(Err(error)) => one(Err((Severity::Error, error.to_string()))),
        Err(_) => one(Err((Severity::Error, "does not answer".to_owned()))),
    }
}

#[cfg(feature = "sqlite")]
fn is_in_use(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    use crate::stores::sqlite::OpenError;
    matches!(error.downcast_ref(), Some(OpenError::InUse(_)))
}

#[cfg(not(feature = "sqlite"))]
fn is_in_use(_: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    false
}

async fn reach_upstream(upstream: &UpstreamSpec) -> Result<String, String> {
    try_out(upstream).await.map_err(|error| error.to_string())?;
    Ok("takes connections".to_owned())
}
