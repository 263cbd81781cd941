//! What the operator asks of Redis: which records there are, and whether it is fit.

use std::collections::HashMap;

use ::redis::{Value, cmd, pipe};

use super::link::evicts;
use super::reply::{error_of, existing, refusal, unexpected};
use super::{Eviction, RedisStore};
use crate::ledger::store::{Filter, Finding, Page, Severity, StoreError};
use crate::scope::RecordId;

/// The oldest major version with `SET … NX GET`.
const OLDEST_MAJOR: u32 = 7;

impl RedisStore {
    pub(super) async fn list_records(&self, filter: Filter, cursor: Option<&str>) -> Result<Page, StoreError> {
        let cursor: u64 = match cursor {
            None => 0,
            Some(cursor) => cursor.parse().map_err(|_| StoreError::NotApplied("the cursor is not one".into()))?,
        };
        let pattern = format!("{}:1:{{*}}", escape(&self.shared.options.prefix));
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(filter.limit);
        let deadline = self.shared.link.deadline();
        let (next, keys) = match self.shared.link.command(&scan, deadline).await? {
            Value::Array(parts) => match parts.as_slice() {
                [Value::BulkString(next), Value::Array(keys)] => {
                    (String::from_utf8_lossy(next).into_owned(), keys.clone())
                }
                _ => return Err(unexpected()),
            },
            reply => return Err(error_of(&reply).map_or_else(unexpected, refusal)),
        };
        let mut page = Page { next: Some(next).filter(|next| next != "0"), ..Page::default() };
        let keys: Vec<(RecordId, Vec<u8>)> = keys.into_iter().filter_map(id_of_key).collect();
        if keys.is_empty() {
            return Ok(page);
        }
        let mut read = pipe();
        for (_, key) in &keys {
            read.cmd("GET").arg(key).cmd("PTTL").arg(key);
        }
        let replies = self.shared.link.pipeline(&read, deadline).await?;
        for ((id, _), replies) in keys.into_iter().zip(replies.chunks_exact(2)) {
            let entry = match replies {
                [Value::Nil, _] => continue,
                [Value::BulkString(bytes), ttl] => existing(bytes.clone().into(), ttl),
                _ => Err(StoreError::Corrupt),
            };
            match entry {
                Ok(entry) if filter.state.is_none_or(|state| state == entry.record.state) => {
                    page.entries.push((id, entry));
                }
                Ok(_) => {}
                Err(_) => page.unreadable += 1,
            }
        }
        Ok(page)
    }

    pub(super) async fn look_at_the_server(&self) -> Result<Vec<Finding>, StoreError> {
        let reply = match self.shared.link.command(&cmd("INFO"), self.shared.link.deadline()).await {
            // The connection is withheld where Redis may evict; that it does is worth to be said in full.
            Err(StoreError::Denied(error)) => self.ask_beside().await.ok_or(StoreError::Denied(error))?,
            reply => reply?,
        };
        let text = match reply {
            Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Value::VerbatimString { text, .. } => text,
            reply => return Err(error_of(&reply).map_or_else(unexpected, refusal)),
        };
        let info: HashMap<&str, &str> = text.lines().filter_map(|line| line.trim().split_once(':')).collect();
        Ok(findings(&info, self.shared.options.eviction))
    }
}

impl RedisStore {
    /// Asks over a connection for this one question.
    async fn ask_beside(&self) -> Option<Value> {
        let ask = async {
            let mut connection = self.shared.client.get_multiplexed_async_connection().await?;
            connection.send_packed_command(&cmd("INFO")).await
        };
        tokio::time::timeout(self.shared.options.command_timeout, ask).await.ok()?.ok()
    }
}

/// Judges the server by what it tells of itself.
fn findings(info: &HashMap<&str, &str>, eviction: Eviction) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |severity, text: String| findings.push(Finding { severity, text });
    let get = |name: &str| info.get(name).copied().unwrap_or_default();
    let version = get("redis_version");
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major >= OLDEST_MAJOR => add(Severity::Info, format!("Redis {version}")),
        _ => add(Severity::Unfit, format!("Redis {version} is too old: {OLDEST_MAJOR}.0 or later is needed")),
    }
    if get("role") != "master" {
        // A failover under way, most likely.
        add(Severity::Unready, format!("this Redis is a {}, not the primary", get("role")));
    }
    if get("loading") == "1" {
        add(Severity::Unready, "Redis still loads its records".into());
    }
    match (get("maxmemory_policy"), eviction) {
        ("noeviction", _) => {}
        ("", _) => add(Severity::Warning, "Redis does not tell its maxmemory-policy; it has to be noeviction".into()),
        (policy, Eviction::Refuse) => add(Severity::Unfit, evicts(policy)),
        (policy, Eviction::Allow) => add(Severity::Warning, evicts(policy)),
    }
    match get("aof_enabled") {
        "1" => {}
        _ => add(
            Severity::Warning,
            "Redis keeps no append-only file: a crash loses the latest records, and their keys take effect again"
                .into(),
        ),
    }
    findings
}

/// The id in `PREFIX:1:{ID}`.
fn id_of_key(key: Value) -> Option<(RecordId, Vec<u8>)> {
    let Value::BulkString(key) = key else { return None };
    let text = std::str::from_utf8(&key).ok()?;
    let id = text.strip_suffix('}')?.rsplit_once('{')?.1.parse().ok()?;
    Some((id, key))
}

/// Takes the special meaning from a pattern's characters.
fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, letter| {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^') {
            out.push('\\');
        }
        out.push(letter);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(changed: &[(&'static str, &'static str)]) -> Severity {
        let sound = [
            ("redis_version", "7.0.15"),
            ("role", "master"),
            ("loading", "0"),
            ("maxmemory_policy", "noeviction"),
            ("aof_enabled", "1"),
        ];
        let info = sound.iter().chain(changed).copied().collect();
        let worst = findings(&info, Eviction::Refuse).into_iter().map(|finding| finding.severity).max();
        worst.expect("its version is always told")
    }

    #[test]
    fn what_may_heal_is_told_from_what_must_be_changed() {
        assert_eq!(worst(&[]), Severity::Info);
        assert_eq!(worst(&[("aof_enabled", "0")]), Severity::Warning);
        assert_eq!(worst(&[("role", "slave")]), Severity::Unready);
        assert_eq!(worst(&[("loading", "1")]), Severity::Unready);
        assert_eq!(worst(&[("redis_version", "6.2.1")]), Severity::Unfit);
        assert_eq!(worst(&[("loading", "1"), ("maxmemory_policy", "allkeys-lru")]), Severity::Unfit);
    }
}
