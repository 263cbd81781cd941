//! The store on Redis 7 or Valkey, standalone.
//!
//! A record is one string under `PREFIX:1:{ID}`. A reserve is the native `SET … NX GET PX` with `PTTL` behind it: one
//! round trip that reserves or returns what is there. The two are not one command, and another proxy may write between
//! them, so what they show is only believed where that cannot matter: new, finished, or alive. Before anything is called
//! dead, gone or damaged, value and time to live are read again by one script: a transaction would do, but not in a full
//! Redis, which refuses reads in a transaction too.
//!
//! A record's age is its keep less the time to live that is left: Redis's clock, not ours.

mod link;
mod operator;
mod reply;
mod script;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use ::redis::io::tcp::TcpSettings;
use ::redis::{Client, Cmd, IntoConnectionInfo, Pipeline, Value};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::ledger::store::{
    Created, Draft, Entry, Filter, Finding, Notice, Notices, Page, Replaced, Severity, Store, StoreError, StoreFuture,
};
use crate::record::{State, Version, millis};
use crate::scope::RecordId;
use crate::stores::redis::link::Link;
use crate::stores::redis::reply::{error_of, existing, refusal};
use crate::stores::redis::script::{LOOK, SWAP};

/// How often a create starts again because the record vanished between two looks.
const MAX_ROUNDS: u32 = 4;
/// A key's length beside its prefix.
const KEY_BYTES: usize = 69;
/// About the length of a command's arguments beside key and value.
const ARGUMENT_BYTES: usize = 128;

/// How a [`RedisStore`] works.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// The first part of every key.
    pub prefix: String,
    /// The longest time of one call, connecting included.
    pub command_timeout: Duration,
    /// What to do when Redis may evict records.
    pub eviction: Eviction,
}

/// What to do with a Redis whose `maxmemory-policy` may evict records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eviction {
    /// Refuse to work: an evicted record is a second execution.
    #[default]
    Refuse,
    /// Work, at the operator's risk.
    Allow,
}

impl Default for RedisOptions {
    fn default() -> RedisOptions {
        RedisOptions {
            prefix: "once".to_owned(),
            command_timeout: Duration::from_millis(500),
            eviction: Eviction::default(),
        }
    }
}

/// A store on Redis over one multiplexed connection, made when it is first used and again when it broke.
///
/// Clones share the connection. It belongs to the runtime of its first use; another runtime takes a
/// [`RedisStore::sibling`].
#[derive(Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    options: RedisOptions,
    link: Link,
}

impl RedisStore {
    /// A store that connects when it is first used.
    ///
    /// # Errors
    /// [`StoreError::Denied`] when the URL is not one of Redis.
    pub fn new(url: &str, options: RedisOptions) -> Result<RedisStore, StoreError> {
        // rustls asks for one provider per process; whoever was first, also an application, has decided.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let target = url.into_connection_info().map_err(|error| StoreError::Denied(error.into()))?;
        let tcp = TcpSettings::default().set_nodelay(true);
        let client = Client::open(target.set_tcp_settings(tcp)).map_err(|error| StoreError::Denied(error.into()))?;
        Ok(RedisStore::over(client, options))
    }

    /// Connects, and looks whether Redis may be used as it is set up.
    ///
    /// # Errors
    /// [`StoreError::Denied`] when it may not; another [`StoreError`] when it does not answer, or cannot be used yet: a
    /// replica, or a server that still loads its records.
    pub async fn connect(url: &str) -> Result<RedisStore, StoreError> {
        let store = RedisStore::new(url, RedisOptions::default())?;
        let findings = store.preflight().await?;
        match findings.into_iter().max_by_key(|finding| finding.severity) {
            Some(Finding { severity: Severity::Unfit, text }) => Err(StoreError::Denied(text.into())),
            Some(Finding { severity: Severity::Unready, text }) => Err(StoreError::NotApplied(text.into())),
            Some(Finding { severity: Severity::Info | Severity::Warning, .. }) | None => Ok(store),
        }
    }

    /// A handle with a connection of its own, for another runtime.
    #[must_use]
    pub fn sibling(&self) -> RedisStore {
        RedisStore::over(self.shared.client.clone(), self.shared.options.clone())
    }

    fn over(client: Client, options: RedisOptions) -> RedisStore {
        let link = Link::new(client.clone(), options.command_timeout, options.eviction);
        RedisStore { shared: Arc::new(Shared { client, options, link }) }
    }

    fn key(&self, id: &RecordId) -> String {
        // Of known length, as it is written for every call.
        let prefix = &self.shared.options.prefix;
        let mut key = String::with_capacity(prefix.len() + KEY_BYTES);
        key.push_str(prefix);
        key.push_str(":1:{");
        write!(key, "{id}}}").expect("a string takes everything");
        key
    }

    fn channel(&self) -> String {
        format!("{}:1:done", self.shared.options.prefix)
    }

    async fn create_record(&self, id: &RecordId, draft: &Draft) -> Result<Created, StoreError> {
        let key = self.key(id);
        let value = draft.record.encode(&draft.version);
        let mut reserve = Pipeline::with_capacity(2);
        let mut set = Cmd::with_capacity(7, key.len() + value.len() + ARGUMENT_BYTES);
        set.arg("SET").arg(&key).arg(&*value).arg("NX").arg("GET").arg("PX").arg(keep(draft));
        let mut ttl = Cmd::with_capacity(2, key.len() + ARGUMENT_BYTES);
        ttl.arg("PTTL").arg(&key);
        reserve.add_command(set).add_command(ttl);
        let deadline = self.shared.link.deadline();
        for _ in 0..MAX_ROUNDS {
            let mut replies = self.shared.link.pipeline(&reserve, deadline).await?.into_iter();
            let (Some(set), Some(ttl)) = (replies.next(), replies.next()) else { return Err(reply::unexpected()) };
            let entry = match set {
                Value::Nil => return Ok(Created::New),
                Value::BulkString(bytes) => match first_look(bytes.into(), &ttl) {
                    Some(entry) => Some(entry),
                    // Boxed, as below: few need it, and the others would carry the room for it.
                    None => Box::pin(self.load_record(&key, deadline)).await?,
                },
                refused => {
                    let error = match error_of(&refused) {
                        Some(error) => refusal(error),
                        None => return Err(reply::unexpected()),
                    };
                    self.shared.link.note(&error);
                    if let StoreError::Corrupt = error {
                        return Err(error);
                    }
                    // Redis refuses the command also where it would only have read: a full or read-only one can still
                    // tell what is there.
                    match Box::pin(self.load_record(&key, deadline)).await {
                        Ok(Some(entry)) => Some(entry),
                        Err(unreadable @ (StoreError::Corrupt | StoreError::UnknownFormat(_))) => {
                            return Err(unreadable);
                        }
                        Ok(None) | Err(_) => return Err(error),
                    }
                }
            };
            match entry {
                Some(entry) if entry.version == draft.version => return Ok(Created::New),
                Some(entry) => return Ok(Created::Existing(entry)),
                // It ended between the two looks.
                None => {}
            }
        }
        Err(StoreError::NotApplied("the record comes and goes".into()))
    }

    /// Reads value and time to live as they are at one moment.
    async fn load_record(&self, key: &str, deadline: Instant) -> Result<Option<Entry>, StoreError> {
        match LOOK.run(&self.shared.link, key, deadline, |_| {}).await? {
            Value::Array(parts) => match parts.as_slice() {
                [Value::Nil, _] => Ok(None),
                [Value::BulkString(bytes), ttl] => existing(Bytes::copy_from_slice(bytes), ttl).map(Some),
                _ => Err(reply::unexpected()),
            },
            _ => Err(reply::unexpected()),
        }
    }

    async fn swap(
        &self,
        id: &RecordId,
        expected: &Version,
        keep_ms: u64,
        value: &[u8],
        notice: Notice,
    ) -> Result<Replaced, StoreError> {
        let key = self.key(id);
        let (channel, told) = match notice {
            Notice::Send => (self.channel(), id.to_string()),
            Notice::Skip => (String::new(), String::new()),
        };
        let add_arguments = |command: &mut Cmd| {
            command.arg(expected.as_bytes()).arg(keep_ms).arg(&channel).arg(&told).arg(value);
        };
        let reply = SWAP.run(&self.shared.link, &key, self.shared.link.deadline(), add_arguments).await?;
        match reply {
            Value::Array(parts) => match parts.as_slice() {
                [Value::Int(0)] => Ok(Replaced::Done),
                [Value::Int(1)] => Ok(Replaced::Stale(None)),
                [Value::Int(2), Value::BulkString(bytes), ttl] => {
                    existing(Bytes::copy_from_slice(bytes), ttl).map(|entry| Replaced::Stale(Some(entry)))
                }
                _ => Err(reply::unexpected()),
            },
            _ => Err(reply::unexpected()),
        }
    }
}

/// What the reserve's two replies show, where it is to be believed: a finished record, or one that is alive.
fn first_look(bytes: Bytes, ttl: &Value) -> Option<Entry> {
    let entry = existing(bytes, ttl).ok()?;
    match entry.record.state {
        State::Completed => Some(entry),
        State::InFlight if entry.lease_left().is_some() => Some(entry),
        State::InFlight | State::Unknown | State::Released => None,
    }
}

/// Redis keeps nothing for less than a millisecond.
fn keep(draft: &Draft) -> u64 {
    millis(draft.record.keep).max(1)
}

impl Store for RedisStore {
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created> {
        Box::pin(self.create_record(id, draft))
    }

    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        notice: Notice,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(async move {
            let value = draft.record.encode(&draft.version);
            self.swap(id, expected, keep(draft), &value, notice).await
        })
    }

    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, notice: Notice) -> StoreFuture<'a, Replaced> {
        Box::pin(async move { self.swap(id, expected, 0, b"", notice).await })
    }

    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(async move { self.load_record(&self.key(id), self.shared.link.deadline()).await })
    }

    fn notices(&self) -> StoreFuture<'_, Notices> {
        Box::pin(async move {
            let channel = self.channel();
            let subscribe = async {
                let mut subscriber = self.shared.client.get_async_pubsub().await?;
                subscriber.subscribe(&channel).await?;
                Ok::<_, ::redis::RedisError>(subscriber.into_on_message())
            };
            let messages = tokio::time::timeout(self.shared.options.command_timeout, subscribe)
                .await
                .map_err(|elapsed| StoreError::NotApplied(elapsed.into()))?
                .map_err(|error| StoreError::NotApplied(error.into()))?;
            let ids = messages.filter_map(|message| async move {
                std::str::from_utf8(message.get_payload_bytes()).ok()?.parse().ok()
            });
            Ok(ids.boxed() as Notices)
        })
    }

    fn list<'a>(&'a self, filter: Filter, cursor: Option<&'a str>) -> StoreFuture<'a, Page> {
        Box::pin(self.list_records(filter, cursor))
    }

    /// Redis drops by itself what is past its keep.
    fn purge(&self, _limit: usize) -> StoreFuture<'_, usize> {
        Box::pin(async { Ok(0) })
    }

    fn preflight(&self) -> StoreFuture<'_, Vec<Finding>> {
        Box::pin(self.look_at_the_server())
    }
}
