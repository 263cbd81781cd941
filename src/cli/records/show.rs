//! Records as text.

use std::fmt::Write;

use serde_json::{Value, json};

use super::find::List;
use crate::cli::output::{complain, plain, say};

/// How many digits of an id a list shows: as many as logs do.
const ID_DIGITS: usize = 12;
const COLUMNS: [&str; 7] = ["ID", "STATE", "ATTEMPT", "AGE", "STATUS", "ROUTE", "REASON"];

/// Prints a list.
pub(super) fn list(list: &List, as_json: bool) {
    if as_json {
        let document = json!({
            "records": list.records,
            "unreadable": list.unreadable,
            "has_more": list.has_more,
        });
        return say(&format!("{document:#}"));
    }
    match list.records.is_empty() {
        true => say("no records"),
        false => say(table(&list.records).trim_end()),
    }
    if list.has_more {
        complain(&format!("the first {}; there are more, see --limit", list.records.len()));
    }
    if list.unreadable > 0 {
        complain(&format!("{} stored values are not records that this release can read", list.unreadable));
    }
}

/// A table with a head, each column as wide as it has to be.
fn table(records: &[Value]) -> String {
    let rows: Vec<[String; 7]> = std::iter::once(COLUMNS.map(str::to_owned)).chain(records.iter().map(row)).collect();
    let widths: [usize; 7] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn row(record: &Value) -> [String; 7] {
    let id = cell(&record["id"]).chars().take(ID_DIGITS).collect();
    let age = age(record["age_ms"].as_u64().unwrap_or_default());
    let [state, attempt, status, route, reason] =
        ["state", "attempt", "status", "route", "reason"].map(|name| cell(&record[name]));
    [id, state, attempt, age, status, route, reason]
}

/// One record, a line for each of its members.
pub(super) fn record(record: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<16}{value}");
    };
    for name in ["id", "route", "state", "attempt", "status", "reason"] {
        line(name, cell(&record[name]));
    }
    for (name, member) in [("age", "age_ms"), ("lease left", "lease_left_ms"), ("kept for", "keep_left_ms")] {
        line(name, record[member].as_u64().map_or("-".to_owned(), age));
    }
    line("unknown outcome", cell(&record["unknown_outcome"]));
    out.trim_end().to_owned()
}

/// A member's value; a dash where there is none.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

/// A time in its two largest units.
fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        let all = [999, 59_999, 60_000, 3_723_000, 90_061_000].map(age);
        assert_eq!(all, ["0s", "59s", "1m00s", "1h02m", "1d01h"]);
    }

    #[test]
    fn columns_stand_under_each_other_and_nothing_steers_the_terminal() {
        let records = [
            json!({ "id": "a".repeat(64), "state": "unknown", "attempt": 1, "age_ms": 5000, "status": null,
                "route": "create-payment", "reason": "\u{1b}[2J" }),
            json!({ "id": "b".repeat(64), "state": "completed", "attempt": 12, "age_ms": 0, "status": 201,
                "route": "x", "reason": null }),
        ];
        let expected = "\
ID            STATE      ATTEMPT  AGE  STATUS  ROUTE           REASON
aaaaaaaaaaaa  unknown    1        5s   -       create-payment  \u{fffd}[2J
bbbbbbbbbbbb  completed  12       0s   201     x               -
";
        assert_eq!(table(&records), expected);
    }
}
