//! The arguments of `records`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

pub(super) const EXAMPLES: &str = "\
Examples:
  onceproxy records list --state unknown
  onceproxy records show 3f0c9a17be42
  onceproxy records lookup --route create-payment --host api.example.com --path /v1/payments --key order-1
  onceproxy records release 3f0c9a17be42 --attempt 1 --reason \"not in the bank's list\"
  onceproxy records settle 3f0c9a17be42 --attempt 1 --status 201 --body '{\"id\":\"ch_2\"}' --reason \"in the bank's list\"

An ID is 64 hexadecimal digits, or its first 12 or more, as logs and lists show them.
The admin token is read from ONCEPROXY_ADMIN_TOKEN, else from ./onceproxy.token.
Exit codes: 0 done, 1 refused or not reached, 2 the arguments are wrong.";

/// The fewest digits that name a record: those of logs.
const PREFIX_DIGITS: usize = 12;
const ID_DIGITS: usize = 64;

/// What to do with records, and with whose.
#[derive(Debug, Args)]
pub(in crate::cli) struct RecordsArguments {
    #[command(flatten)]
    pub(in crate::cli) admin: Address,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(in crate::cli) json: bool,
    #[command(subcommand)]
    pub(in crate::cli) command: RecordsCommand,
}

/// The admin listener to ask.
#[derive(Debug, Args)]
pub(in crate::cli) struct Address {
    /// The admin listener of the running proxy
    #[arg(
        id = "admin",
        long = "admin",
        global = true,
        value_name = "ADDR",
        env = "ONCEPROXY_ADMIN",
        hide_env_values = true,
        default_value = "127.0.0.1:9180"
    )]
    pub(in crate::cli) address: String,
}

/// What to do with records.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum RecordsCommand {
    /// List records
    List {
        /// Only records in this state
        #[arg(long, value_name = "STATE")]
        state: Option<StateName>,
        /// How many records to show at most
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Show a record
    Show {
        /// The record
        #[arg(value_name = "ID", value_parser = record_id)]
        id: String,
    },
    /// Find the record of what a client sent
    Lookup(Lookup),
    /// Decide that an unknown outcome did not happen: the key is free again
    Release(Change),
    /// Decide that an unknown outcome happened: this is the answer that repeats get
    Settle(Settle),
}

/// A state of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum StateName {
    /// Somebody is at work
    InFlight,
    /// Nobody knows whether it was executed
    Unknown,
    /// The answer is recorded
    Completed,
    /// An operator gave the key back
    Released,
}

/// What a client sent, as far as it makes the record.
#[derive(Debug, Args)]
pub(in crate::cli) struct Lookup {
    /// The route's name
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) route: String,
    /// The key
    #[arg(long)]
    pub(in crate::cli) key: String,
    /// The path, with its query if there was one
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) path: String,
    /// The Host field, with its port if there was one
    #[arg(long, value_name = "HOST")]
    pub(in crate::cli) host: Option<String>,
    /// A field that is part of the scope, such as "authorization: Bearer A"; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(in crate::cli) headers: Vec<(String, String)>,
}

/// What every change says.
#[derive(Debug, Args)]
pub(in crate::cli) struct Change {
    /// The record
    #[arg(value_name = "ID", value_parser = record_id)]
    pub(in crate::cli) id: String,
    /// The attempt that it is about, as the list shows it; refused when the record has moved on
    #[arg(long, value_name = "N")]
    pub(in crate::cli) attempt: u32,
    /// Why, for the audit line
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: String,
    /// Who decides, for the audit line [default: the login name]
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) by: Option<String>,
}

/// The answer that an operator gives instead of the API.
#[derive(Debug, Args)]
pub(in crate::cli) struct Settle {
    #[command(flatten)]
    pub(in crate::cli) change: Change,
    /// The answer's status
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..=599))]
    pub(in crate::cli) status: u16,
    /// The answer's body
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file")]
    pub(in crate::cli) body: Option<String>,
    /// A file with the answer's body; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) body_file: Option<PathBuf>,
    /// A field of the answer, such as "content-type: application/json"; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(in crate::cli) headers: Vec<(String, String)>,
}

impl StateName {
    /// As the API names it.
    pub(in crate::cli) fn as_str(self) -> &'static str {
        match self {
            StateName::InFlight => "in-flight",
            StateName::Unknown => "unknown",
            StateName::Completed => "completed",
            StateName::Released => "released",
        }
    }
}

/// A record's id, whole or its first digits, in lower case.
pub(in crate::cli) fn record_id(text: &str) -> Result<String, String> {
    let is_good =
        text.bytes().all(|byte| byte.is_ascii_hexdigit()) && (PREFIX_DIGITS..=ID_DIGITS).contains(&text.len());
    match is_good {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!("an id is {ID_DIGITS} hexadecimal digits, or at least its first {PREFIX_DIGITS}")),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("a header looks like \"content-type: application/json\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_whole_or_begin_with_twelve_digits() {
        assert_eq!(record_id("3F0C9A17BE42"), Ok("3f0c9a17be42".to_owned()));
        assert!(record_id(&"a".repeat(64)).is_ok());
        for bad in ["3f0c9a17be4", "", "3f0c9a17be4g", &"a".repeat(65)] {
            assert!(record_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_header_has_a_name_and_a_value() {
        assert_eq!(header("a: b:c "), Ok(("a".to_owned(), "b:c".to_owned())));
        assert_eq!(header("a:"), Ok(("a".to_owned(), String::new())));
        assert!(header("a").is_err());
        assert!(header(": b").is_err());
    }
}
