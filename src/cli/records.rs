//! `records`: an operator's look at records, and decisions about unknown outcomes, through the admin API.

mod find;
mod login;
mod show;

use std::fs;
use std::io::{Read, stdin};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::args::{Change, Lookup, RecordsArguments, RecordsCommand, Settle};
use super::client::Client;
use super::{Failure, output, runtime, token};

/// The largest body that settles a record, in bytes: what the admin API takes, less its wrapping.
const MAX_BODY_BYTES: u64 = 10 << 20;

/// Does one thing with records.
pub(super) fn run(arguments: RecordsArguments) -> Result<(), Failure> {
    let client = Client::new(&arguments.admin.address, token::known()?.as_ref())?;
    runtime()?.block_on(obey(&client, arguments.command, arguments.json))
}

async fn obey(client: &Client, command: RecordsCommand, as_json: bool) -> Result<(), Failure> {
    let (record, deed) = match command {
        RecordsCommand::List { state, limit } => {
            let list = find::list(client, state, limit as usize).await?;
            show::list(&list, as_json);
            return Ok(());
        }
        RecordsCommand::Show { id } => {
            let id = find::whole_id(client, &id, find::Among::All).await?;
            (client.get(&format!("/api/v1/records/{id}")).await?.document(client)?, None)
        }
        RecordsCommand::Lookup(lookup) => {
            (client.post("/api/v1/lookup", &question(&lookup)).await?.document(client)?, None)
        }
        RecordsCommand::Release(change) => (decide(client, &change, "release", Map::new()).await?, Some("released")),
        RecordsCommand::Settle(settle) => {
            let answer = answer(&settle)?;
            (decide(client, &settle.change, "settle", answer).await?, Some("settled"))
        }
    };
    match (as_json, deed) {
        (true, _) => output::say(&format!("{record:#}")),
        (false, None) => output::say(&show::record(&record)),
        (false, Some(deed)) => output::say(&format!("{deed}\n{}", show::record(&record))),
    }
    Ok(())
}

/// What the look-up call takes.
fn question(lookup: &Lookup) -> Value {
    let mut headers: Map<String, Value> = Map::new();
    for (name, value) in &lookup.headers {
        let values = headers.entry(name.to_ascii_lowercase()).or_insert_with(|| json!([]));
        if let Some(values) = values.as_array_mut() {
            values.push(json!(value));
        }
    }
    let mut question = json!({ "route": lookup.route, "path": lookup.path, "key": lookup.key, "headers": headers });
    if let Some(host) = &lookup.host {
        question["host"] = json!(host);
    }
    question
}

/// The answer that an operator gives, as the settle call takes it.
fn answer(settle: &Settle) -> Result<Map<String, Value>, Failure> {
    let mut answer = Map::new();
    answer.insert("status".to_owned(), json!(settle.status));
    answer.insert("headers".to_owned(), json!(settle.headers));
    match (&settle.body, &settle.body_file) {
        (Some(text), _) => {
            answer.insert("body".to_owned(), json!(text));
        }
        (None, Some(path)) => {
            answer.insert("body_base64".to_owned(), json!(BASE64_STANDARD.encode(read(path)?)));
        }
        (None, None) => {}
    }
    Ok(answer)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => stdin().lock().take(MAX_BODY_BYTES + 1).read_to_end(&mut body),
        false => fs::File::open(path).and_then(|file| file.take(MAX_BODY_BYTES + 1).read_to_end(&mut body)),
    };
    match read {
        Err(error) => Err(Failure::Wrong(format!("cannot read the body from {}: {error}", path.display()))),
        Ok(_) if body.len() as u64 > MAX_BODY_BYTES => {
            Err(Failure::Wrong(format!("the body in {} is larger than {} MiB", path.display(), MAX_BODY_BYTES >> 20)))
        }
        Ok(_) => Ok(body),
    }
}

/// Sends a decision about a record, signed.
async fn decide(
    client: &Client,
    change: &Change,
    action: &str,
    mut document: Map<String, Value>,
) -> Result<Value, Failure> {
    let id = find::whole_id(client, &change.id, find::Among::UnknownFirst).await?;
    document.insert("attempt".to_owned(), json!(change.attempt));
    document.insert("reason".to_owned(), json!(change.reason));
    document.insert("by".to_owned(), json!(change.by.clone().unwrap_or_else(login::name)));
    client.post(&format!("/api/v1/records/{id}/{action}"), &document.into()).await?.document(client)
}
