//! The connection: made when it is first used, replaced when it breaks, never waited for longer than a command may take.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value, cmd};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::Eviction;
use crate::ledger::store::StoreError;

/// How long after a failed attempt the next one may begin.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How long a look at the eviction policy is believed.
const POLICY_AGE: Duration = Duration::from_secs(60);
/// How many calls in a row may end without an answer before the connection is taken for dead.
const MAX_SILENT: u32 = 3;
/// How many commands wait to be written.
const QUEUE: usize = 1024;

#[derive(Clone)]
pub(super) struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    timeout: Duration,
    eviction: Eviction,
    state: Mutex<State>,
    /// Held while one caller connects; the others wait for it.
    connecting: tokio::sync::Mutex<()>,
    silent: AtomicU32,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// Counts connections, so that an error of an old one does not end a new one.
    generation: u64,
    /// When the eviction policy was last looked at.
    policy_seen: Option<Instant>,
    failure: Option<Failure>,
}

struct Failure {
    at: Instant,
    text: String,
    denied: bool,
}

impl Link {
    pub(super) fn new(client: Client, timeout: Duration, eviction: Eviction) -> Link {
        let shared = Shared {
            client,
            timeout,
            eviction,
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            silent: AtomicU32::new(0),
        };
        Link { shared: Arc::new(shared) }
    }

    /// When a call that begins now has to end, however many commands it takes.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.shared.timeout
    }

    /// Sends a command; a server's error is a reply.
    pub(super) async fn command(&self, command: &Cmd, deadline: Instant) -> Result<Value, StoreError> {
        let (mut connection, generation) = self.connection(deadline).await?;
        self.answered(generation, timeout_at(deadline, connection.send_packed_command(command)).await)
    }

    /// Sends commands in one go; a server's error is a reply.
    pub(super) async fn pipeline(&self, commands: &Pipeline, deadline: Instant) -> Result<Vec<Value>, StoreError> {
        let (mut connection, generation) = self.connection(deadline).await?;
        let call = connection.send_packed_commands(commands, 0, commands.len());
        self.answered(generation, timeout_at(deadline, call).await)
    }

    /// Takes note of a refusal that is the connection's fault: a replica that was a primary.
    pub(super) fn note(&self, error: &StoreError) {
        if let StoreError::NotApplied(error) = error
            && error.to_string().contains("READONLY")
        {
            self.state().connection = None;
        }
    }

    fn answered<T>(
        &self,
        generation: u64,
        answer: Result<RedisResult<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, StoreError> {
        match answer {
            Ok(Ok(value)) => {
                self.shared.silent.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Ok(Err(error)) => {
                if error.is_unrecoverable_error() || error.is_io_error() {
                    self.forget(generation);
                }
                Err(match error.kind() {
                    ErrorKind::Server(_) | ErrorKind::Extension => StoreError::NotApplied(error.into()),
                    _ => StoreError::MaybeApplied(error.into()),
                })
            }
            Err(elapsed) => {
                if self.shared.silent.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_SILENT {
                    self.shared.silent.store(0, Ordering::Relaxed);
                    self.forget(generation);
                }
                Err(StoreError::MaybeApplied(elapsed.into()))
            }
        }
    }

    fn forget(&self, generation: u64) {
        let mut state = self.state();
        if state.generation == generation && state.connection.take().is_some() {
            warn!("the connection to Redis broke");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; should it, the state is still whole.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present connection, or a new one.
    async fn connection(&self, deadline: Instant) -> Result<(MultiplexedConnection, u64), StoreError> {
        if let Some(present) = self.present()? {
            return Ok(present);
        }
        let attempt = async {
            let _turn = self.shared.connecting.lock().await;
            match self.present()? {
                Some(present) => Ok(present),
                None => self.connect().await,
            }
        };
        // Boxed: most calls find the connection, and would carry the room for one that is made.
        match timeout_at(deadline, Box::pin(attempt)).await {
            Ok(result) => result,
            Err(_) => {
                let text = format!("no connection to Redis within {:?}", self.shared.timeout);
                self.state().failure = Some(Failure { at: Instant::now(), text: text.clone(), denied: false });
                Err(StoreError::NotApplied(text.into()))
            }
        }
    }

    /// The present connection; the last failure while it is too early to try again.
    fn present(&self) -> Result<Option<(MultiplexedConnection, u64)>, StoreError> {
        let mut state = self.state();
        if let Some(connection) = &state.connection {
            let present = (connection.clone(), state.generation);
            if self.shared.eviction == Eviction::Refuse
                && state.policy_seen.is_none_or(|seen| seen.elapsed() >= POLICY_AGE)
            {
                // Looked at beside the call, once a minute.
                state.policy_seen = Some(Instant::now());
                let link = self.clone();
                let (connection, generation) = present.clone();
                tokio::spawn(async move { link.look_again(connection, generation).await });
            }
            return Ok(Some(present));
        }
        match &state.failure {
            Some(failure) if failure.at.elapsed() < BACK_OFF => Err(failure.error()),
            _ => Ok(None),
        }
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, u64), StoreError> {
        // The caller's own deadline is the time limit.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let connected = async {
            let mut connection = self.shared.client.get_multiplexed_async_connection_with_config(&config).await?;
            let evicting = match self.shared.eviction {
                Eviction::Refuse => evicting_policy(&mut connection).await?,
                Eviction::Allow => None,
            };
            Ok::<_, RedisError>((connection, evicting))
        };
        let failure = match connected.await {
            Ok((connection, None)) => {
                let mut state = self.state();
                if state.failure.take().is_some() {
                    info!("Redis answers again");
                }
                state.generation += 1;
                state.connection = Some(connection.clone());
                state.policy_seen = Some(Instant::now());
                return Ok((connection, state.generation));
            }
            Ok((_, Some(policy))) => Failure { at: Instant::now(), text: evicts(&policy), denied: true },
            Err(error) => {
                let denied = matches!(error.kind(), ErrorKind::AuthenticationFailed)
                    || error.code().is_some_and(|code| matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM"));
                Failure { at: Instant::now(), text: error.to_string(), denied }
            }
        };
        let error = failure.error();
        let mut state = self.state();
        if state.failure.is_none() {
            warn!(%error, "no connection to Redis");
        }
        state.failure = Some(failure);
        Err(error)
    }

    async fn look_again(self, mut connection: MultiplexedConnection, generation: u64) {
        let look = tokio::time::timeout(self.shared.timeout, evicting_policy(&mut connection)).await;
        if let Ok(Ok(Some(policy))) = look {
            warn!(policy, "Redis may evict records now: refusing to work on it");
            self.forget(generation);
            self.state().failure = Some(Failure { at: Instant::now(), text: evicts(&policy), denied: true });
        }
    }
}

impl Failure {
    fn error(&self) -> StoreError {
        match self.denied {
            true => StoreError::Denied(self.text.clone().into()),
            false => StoreError::NotApplied(self.text.clone().into()),
        }
    }
}

/// Why an evicting Redis is refused.
pub(super) fn evicts(policy: &str) -> String {
    format!(
        "maxmemory-policy is {policy}: Redis may evict records, and a key would take effect again; \
         set it to noeviction"
    )
}

/// The `maxmemory-policy`, when it is one that evicts. A server that does not tell is taken as it is.
pub(super) async fn evicting_policy(connection: &mut MultiplexedConnection) -> RedisResult<Option<String>> {
    let reply = connection.send_packed_command(cmd("INFO").arg("memory")).await?;
    let text = match reply {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } => text,
        _ => return Ok(None),
    };
    let policy = text.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim);
    Ok(policy.filter(|policy| *policy != "noeviction").map(str::to_owned))
}
