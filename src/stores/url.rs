//! The store URL: one text names the store, on the command line and in the file alike.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::store::Store;
use crate::stores::memory::MemoryStore;

/// The forms that are understood, for error messages.
pub const FORMS: &str = "memory:, sqlite:PATH, redis://[user:password@]host[:port][/db], rediss://… (TLS)";

/// The schemes of stores that this release knows by name but does not have.
const NOT_BUILT: [&str; 7] = [
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
    "postgres",
    "postgresql",
    "valkey-cluster",
];

/// A parsed store URL. Neither `Debug` nor `Display` shows a password.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// In this process's memory.
    Memory,
    /// In a file.
    Sqlite(PathBuf),
    /// In Redis; the URL.
    Redis(String),
}

/// Why a text names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// Of a kind that this release does not have.
    #[error("stores of the kind {0} are not built yet; this release has {FORMS}")]
    NotBuilt(String),
    /// Of no known kind.
    #[error("{0} is not a store URL; it is one of {FORMS}")]
    Unknown(String),
    /// A known kind, but something in it is wrong.
    #[error("{0}")]
    Invalid(String),
}

/// What every store needs to know beside its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// The first part of every name in the store.
    pub prefix: String,
    /// The longest time of one call.
    pub command_timeout: Duration,
    /// Whether Redis may be set up so that it evicts records.
    pub allow_eviction: bool,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// An open store, from which every runtime takes its handle.
#[derive(Clone)]
pub struct OpenStore(Opened);

#[derive(Clone)]
enum Opened {
    Shared(Arc<dyn Store>),
    #[cfg(feature = "redis")]
    Redis(crate::stores::redis::RedisStore),
}

impl StoreUrl {
    /// Parses a store URL.
    ///
    /// # Errors
    /// A [`StoreUrlError`] that says what is wrong with it.
    pub fn parse(text: &str) -> Result<StoreUrl, StoreUrlError> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        match scheme {
            "memory" if matches!(rest, "" | "//") && text.contains(':') => Ok(StoreUrl::Memory),
            "memory" => Err(StoreUrlError::Invalid("the memory store takes nothing behind `memory:`".to_owned())),
            "sqlite" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                match path {
                    "" => Err(StoreUrlError::Invalid(
                        "sqlite: needs the path of a file, as in sqlite:onceproxy.db".to_owned(),
                    )),
                    ":memory:" => Err(StoreUrlError::Invalid("use memory: for a store in memory".to_owned())),
                    path => Ok(StoreUrl::Sqlite(PathBuf::from(path))),
                }
            }
            "redis" | "rediss" => redis(text),
            scheme if NOT_BUILT.contains(&scheme) => Err(StoreUrlError::NotBuilt(scheme.to_owned())),
            _ => Err(StoreUrlError::Unknown(format!("{scheme:?}"))),
        }
    }

    /// Whether only one process can use it.
    pub fn is_for_one_process(&self) -> bool {
        !matches!(self, StoreUrl::Redis(_))
    }

    /// Opens the store. Redis is not connected to: it may come later.
    ///
    /// # Errors
    /// [`OpenError`] when the file cannot be opened, or this build has no such store.
    pub fn open(&self, options: &StoreOptions) -> Result<OpenStore, OpenError> {
        match self {
            StoreUrl::Memory => Ok(OpenStore(Opened::Shared(Arc::new(MemoryStore::new())))),
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(path) => {
                use crate::stores::sqlite::{SqliteOptions, SqliteStore};
                let options = SqliteOptions {
                    prefix: options.prefix.clone(),
                    command_timeout: options.command_timeout,
                    ..SqliteOptions::default()
                };
                let store = SqliteStore::open_with(path, options).map_err(|error| OpenError(error.into()))?;
                Ok(OpenStore(Opened::Shared(Arc::new(store))))
            }
            #[cfg(feature = "redis")]
            StoreUrl::Redis(url) => {
                use crate::stores::redis::{Eviction, RedisOptions, RedisStore};
                let options = RedisOptions {
                    prefix: options.prefix.clone(),
                    command_timeout: options.command_timeout,
                    eviction: if options.allow_eviction { Eviction::Allow } else { Eviction::Refuse },
                };
                Ok(OpenStore(Opened::Redis(RedisStore::new(url, options).map_err(|error| OpenError(error.into()))?)))
            }
            #[cfg(not(all(feature = "sqlite", feature = "redis")))]
            other => {
                // Nothing else needs them where there is no store but the one in memory.
                let _ = options;
                Err(OpenError(format!("this build has no store for {other}").into()))
            }
        }
    }
}

impl OpenError {
    /// Whether another process has the store, and may leave it.
    pub fn is_in_use(&self) -> bool {
        #[cfg(feature = "sqlite")]
        if let Some(error) = self.0.downcast_ref::<crate::stores::sqlite::OpenError>() {
            return matches!(error, crate::stores::sqlite::OpenError::InUse(_));
        }
        false
    }
}

impl OpenStore {
    /// A store that one handle serves, whatever the runtime.
    pub fn over(store: Arc<dyn Store>) -> OpenStore {
        OpenStore(Opened::Shared(store))
    }

    /// A handle for one more runtime.
    pub fn handle(&self) -> Arc<dyn Store> {
        match &self.0 {
            Opened::Shared(store) => store.clone(),
            #[cfg(feature = "redis")]
            Opened::Redis(store) => Arc::new(store.sibling()),
        }
    }
}

fn redis(text: &str) -> Result<StoreUrl, StoreUrlError> {
    let authority = text.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
    let host = authority.split('/').next().unwrap_or_default().rsplit('@').next().unwrap_or_default();
    if host.is_empty() {
        return Err(StoreUrlError::Invalid("a Redis URL needs a host, as in redis://127.0.0.1:6379/0".to_owned()));
    }
    #[cfg(feature = "redis")]
    if let Err(error) = ::redis::IntoConnectionInfo::into_connection_info(text) {
        return Err(StoreUrlError::Invalid(format!(
            "the Redis URL is not valid: {}",
            error.detail().unwrap_or("check host, port and db")
        )));
    }
    Ok(StoreUrl::Redis(text.to_owned()))
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Memory => f.write_str("memory:"),
            StoreUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            StoreUrl::Redis(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
                let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
                write!(f, "{scheme}://{host}")
            }
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        assert_eq!(StoreUrl::parse("memory:"), Ok(StoreUrl::Memory));
        assert_eq!(StoreUrl::parse("sqlite:./a.db"), Ok(StoreUrl::Sqlite("./a.db".into())));
        assert!(matches!(StoreUrl::parse("redis://127.0.0.1:6379/0"), Ok(StoreUrl::Redis(_))));
        assert!(matches!(StoreUrl::parse("rediss://u:p@h:1/2"), Ok(StoreUrl::Redis(_))));
    }

    #[test]
    fn what_is_not_built_is_told_from_what_is_unknown() {
        for text in ["postgres://h/db", "redis-cluster://a:1,b:2", "rediss-sentinel://a:1/m/0"] {
            assert!(matches!(StoreUrl::parse(text), Err(StoreUrlError::NotBuilt(_))), "{text}");
        }
        for text in ["", "mysql://h", "/a.db"] {
            assert!(matches!(StoreUrl::parse(text), Err(StoreUrlError::Unknown(_))), "{text}");
        }
        for text in ["sqlite:", "redis://", "redis:host", "memory:x", "redis://h:port/0"] {
            assert!(matches!(StoreUrl::parse(text), Err(StoreUrlError::Invalid(_))), "{text}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let url = StoreUrl::parse("redis://user:secret@host:1/0").expect("it is one");
        assert_eq!(format!("{url} {url:?}"), "redis://host:1/0 redis://host:1/0");
    }
}
