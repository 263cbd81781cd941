//! Scripts, called by their hash and sent in full where Redis does not know them yet.

use std::sync::LazyLock;

use ::redis::{Cmd, Script, Value};
use tokio::time::Instant;

use super::link::Link;
use super::reply::{error_of, refusal};
use crate::ledger::store::StoreError;

/// Compares a record's version, and replaces or removes it.
pub(super) static SWAP: Lua = Lua { source: SWAP_SOURCE, script: LazyLock::new(|| Script::new(SWAP_SOURCE)) };
/// Reads a record's value and time to live.
pub(super) static LOOK: Lua = Lua { source: LOOK_SOURCE, script: LazyLock::new(|| Script::new(LOOK_SOURCE)) };

const SWAP_SOURCE: &str = include_str!("swap.lua");
const LOOK_SOURCE: &str = include_str!("look.lua");

/// How many arguments a call has, its name included, at most.
const ARGUMENTS: usize = 9;
/// About their length beside script and key, for a record without a large outcome.
const ARGUMENT_BYTES: usize = 640;

pub(super) struct Lua {
    source: &'static str,
    script: LazyLock<Script>,
}

impl Lua {
    /// Runs the script on one key; what Redis refuses is an error.
    pub(super) async fn run(
        &self,
        link: &Link,
        key: &str,
        deadline: Instant,
        add_arguments: impl Fn(&mut Cmd),
    ) -> Result<Value, StoreError> {
        let call = |name: &str, script: &str| -> Cmd {
            let mut command = Cmd::with_capacity(ARGUMENTS, script.len() + key.len() + ARGUMENT_BYTES);
            command.arg(name).arg(script).arg(1).arg(key);
            add_arguments(&mut command);
            command
        };
        let mut reply = link.command(&call("EVALSHA", self.script.get_hash()), deadline).await?;
        if error_of(&reply).is_some_and(|error| error.code() == "NOSCRIPT") {
            // Boxed: it is rare, and every other call would carry the room for it.
            reply = Box::pin(link.command(&call("EVAL", self.source), deadline)).await?;
        }
        match error_of(&reply) {
            Some(error) => {
                let error = refusal(error);
                link.note(&error);
                Err(error)
            }
            None => Ok(reply),
        }
    }
}
