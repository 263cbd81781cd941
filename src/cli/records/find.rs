//! Finding records: all pages of a list, and the whole id behind its first digits.

use std::collections::HashSet;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::args::StateName;
use crate::cli::client::Client;
use crate::scope::RecordId;

/// How many records one call asks for.
const PAGE: usize = 500;

/// The pages of a list, merged: each record once.
#[derive(Default)]
pub(super) struct List {
    /// The records as the API gives them.
    pub(super) records: Vec<Value>,
    /// How many stored values could not be read.
    pub(super) unreadable: u64,
    /// Whether there are more than were asked for.
    pub(super) has_more: bool,
}

/// Where an id is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// Among all records.
    All,
    /// Among those that can be decided about; among all when none of them fits.
    UnknownFirst,
}

/// Walks over the pages of a list.
struct Pages<'c> {
    client: &'c Client,
    state: Option<StateName>,
    cursor: Option<String>,
    is_over: bool,
    seen: HashSet<RecordId>,
}

/// Lists records, `limit` at most.
pub(super) async fn list(client: &Client, state: Option<StateName>, limit: usize) -> Result<List, Failure> {
    let mut pages = Pages::new(client, state);
    let mut list = List::default();
    while let Some((records, unreadable)) = pages.next().await? {
        list.unreadable += unreadable;
        let room = limit - list.records.len();
        list.has_more = records.len() > room;
        list.records.extend(records.into_iter().take(room).map(|(_, record)| record));
        if list.has_more {
            break;
        }
    }
    Ok(list)
}

/// The whole id of a record by its first digits, which have to fit one record only.
pub(super) async fn whole_id(client: &Client, digits: &str, among: Among) -> Result<RecordId, Failure> {
    if let Ok(id) = digits.parse() {
        return Ok(id);
    }
    let mut found = match among {
        Among::All => Vec::new(),
        Among::UnknownFirst => beginning_with(client, Some(StateName::Unknown), digits).await?,
    };
    if found.is_empty() {
        found = beginning_with(client, None, digits).await?;
    }
    match found.as_slice() {
        [] => Err(Failure::Failed(format!("there is no record whose id begins with {digits}"))),
        [id] => Ok(*id),
        several => Err(Failure::Failed(format!(
            "{} records have an id that begins with {digits}: give more digits\n  {}",
            several.len(),
            several.iter().map(RecordId::to_string).collect::<Vec<_>>().join("\n  ")
        ))),
    }
}

async fn beginning_with(client: &Client, state: Option<StateName>, digits: &str) -> Result<Vec<RecordId>, Failure> {
    let mut pages = Pages::new(client, state);
    let mut found = Vec::new();
    while let Some((records, _)) = pages.next().await? {
        found.extend(records.into_iter().map(|(id, _)| id).filter(|id| id.to_string().starts_with(digits)));
    }
    Ok(found)
}

impl<'c> Pages<'c> {
    fn new(client: &'c Client, state: Option<StateName>) -> Pages<'c> {
        Pages { client, state, cursor: None, is_over: false, seen: HashSet::new() }
    }

    /// The next page's records that were on none before it, and how many were unreadable; none behind the last.
    async fn next(&mut self) -> Result<Option<(Vec<(RecordId, Value)>, u64)>, Failure> {
        if self.is_over {
            return Ok(None);
        }
        let mut path = format!("/api/v1/records?limit={PAGE}");
        if let Some(state) = self.state {
            path.push_str(&format!("&state={}", state.as_str()));
        }
        if let Some(cursor) = &self.cursor {
            path.push_str(&format!("&cursor={}", utf8_percent_encode(cursor, NON_ALPHANUMERIC)));
        }
        let mut page = self.client.get(&path).await?.document(self.client)?;
        let next = page["next"].as_str().map(str::to_owned);
        self.is_over = next.is_none() || next == self.cursor;
        self.cursor = next;
        let records = match page["records"].take() {
            Value::Array(records) => records,
            _ => return Err(Failure::Failed(format!("{} answers no list of records", self.client.address()))),
        };
        let with_id = |record: Value| Some((record["id"].as_str()?.parse::<RecordId>().ok()?, record));
        let fresh = records.into_iter().filter_map(with_id).filter(|(id, _)| self.seen.insert(*id)).collect();
        Ok(Some((fresh, page["unreadable"].as_u64().unwrap_or_default())))
    }
}
