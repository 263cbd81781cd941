//! No message repeats a secret.

use super::{ADMIN, STORE, STORE_URL, UPSTREAM_URL};
use crate::config::{edited, load_text};

#[test]
fn no_message_shows_a_secret() {
    for (from, to) in [
        (STORE_URL, "url = \"redis://user:hunter2@h:port/0\"\n"),
        (STORE_URL, "url = \"mysql://user:hunter2@h/0\"\n"),
        (STORE_URL, "url = \"redis://user:hunter2@\"\n"),
        (UPSTREAM_URL, "url = \"ftp://user:hunter2@h\"\n"),
        (ADMIN, "[admin]\ntoken = \"hunter2\"\n"),
        (ADMIN, "[admin]\ntoken = \"\"\"\nhunter2\"\"\"\n"),
        (ADMIN, "admin = { token = \"hunter2\" }\n[x]\n"),
        (ADMIN, "[admin]\n\"tok\\u0065n\" = \"hunter2\"\n"),
        (ADMIN, "[admin]\ntokn = \"hunter2\"\n"),
        (ADMIN, "[admin]\ntoken = \"hunter2\n"),
        (STORE, "[store]\nhmac_key = \"hunter2\"\n"),
        (STORE, "[store]\nencryption = { keys = [\"hunter2\"] }\n"),
    ] {
        let report = load_text(&edited(from, to));
        assert!(!report.diagnostics.is_empty(), "for {to:?}");
        let text = report.to_text(onceproxy::config::render::Style::Plain);
        let messages = format!("{report:?} {text} {}", report.to_json());
        assert!(!messages.contains("hunter2"), "for {to:?}: {messages}");
        assert!(!format!("{:?}", report.config).contains("hunter2"), "for {to:?}");
    }
}
