//! The configuration: what is refused and where, what is warned of, what a good file becomes.

mod anything;
mod contradictions;
mod explained;
mod loaded;
mod mistakes;
mod rendered;
mod shipped;
mod warned;

use std::io;
use std::sync::LazyLock;

use onceproxy::config::diagnostic::{Diagnostic, Position, Severity, Span};
use onceproxy::config::load::{Overrides, Report, load};
use onceproxy::config::secret::Lookups;

use crate::support::authority::{Authority, Signed};

/// A file without errors and without warnings, for tests to break.
const GOOD: &str = r#"version = 1

[listener]
address = "127.0.0.1:8080"

[admin]
address = "127.0.0.1:9180"

[log]
level = "info"

[store]
url = "sqlite:a.db"

[upstreams.api]
url = "http://127.0.0.1:9000"

[defaults]
scope = ["host", "header:x-account-id"]

[[routes]]
name = "all"
path = "/{*rest}"
upstream = "api"
"#;

/// Loads a text with one environment variable to take secrets from, and some files.
fn load_text(text: &str) -> Report {
    load_with(text, &Overrides::default())
}

fn load_with(text: &str, overrides: &Overrides) -> Report {
    let lookups = Lookups {
        environment: &|name| (name == "SET").then(|| "from-environment".to_owned()),
        file: &|path| match path.to_str() {
            Some("token.txt") => Ok("from-file\n".to_owned()),
            Some("empty.txt") => Ok("\n".to_owned()),
            Some(name) if name.ends_with(".pem") => pem(name),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        },
    };
    load(text, "test.toml", overrides, &lookups)
}

/// The text of a PEM file, some of them no good.
fn pem(name: &str) -> io::Result<String> {
    static MADE: LazyLock<(Authority, [Signed; 2])> = LazyLock::new(|| {
        let authority = Authority::new();
        let signed = [authority.sign("onceproxy"), authority.sign("onceproxy")];
        (authority, signed)
    });
    let (authority, [ours, other]) = &*MADE;
    match name {
        "ca.pem" | "clients.pem" | "/etc/onceproxy/internal-ca.pem" => Ok(authority.pem()),
        "cert.pem" => Ok(ours.cert.clone()),
        "key.pem" => Ok(ours.key.clone()),
        "other-key.pem" => Ok(other.key.clone()),
        "torn.pem" => Ok("-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned()),
        "odd.pem" => Ok("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Replaces a part of the good file; the part has to be in it.
fn edited(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is not in the good file");
    GOOD.replacen(from, to, 1)
}

/// Takes the marks `«` and `»` out of a text, and gives the place between them.
fn marked(text: &str) -> (String, Span) {
    let start = text.find('«').expect("a mark begins");
    let end = text.find('»').expect("a mark ends") - '«'.len_utf8();
    (text.replace(['«', '»'], ""), start..end)
}

/// Line and column of a finding's place.
fn position(text: &str, diagnostic: &Diagnostic) -> Option<(usize, usize)> {
    let position = Position::of(text, diagnostic.place.as_ref()?.start);
    Some((position.line, position.column))
}

/// Asserts that a good file with one edit has exactly one finding, at the mark in the edit.
fn assert_one(from: &str, to: &str, severity: Severity, message: &str, help: Option<&str>) -> (String, Diagnostic) {
    let edited = edited(from, to);
    let (text, place) = marked(&edited);
    let mut report = load_text(&text);
    assert_eq!(report.diagnostics.len(), 1, "for {to:?}: {:#?}", report.diagnostics);
    let found = report.diagnostics.remove(0);
    assert_eq!(found.severity, severity, "for {to:?}");
    assert_eq!(report.config.is_none(), severity == Severity::Error, "for {to:?}");
    assert!(found.message.contains(message), "for {to:?}: {:?} does not say {message:?}", found.message);
    let expected = Position::of(&text, place.start);
    assert_eq!(position(&text, &found), Some((expected.line, expected.column)), "for {to:?}: {found:?}");
    assert_eq!(found.place, Some(place), "for {to:?}: {found:?}");
    if let Some(help) = help {
        let found = found.help.as_deref().unwrap_or_default();
        assert!(found.contains(help), "for {to:?}: {found:?} does not say {help:?}");
    }
    (text, found)
}

/// The text of a finding's second place.
fn related<'t>(text: &'t str, diagnostic: &Diagnostic) -> &'t str {
    let related = diagnostic.related.as_ref().expect("there is a second place");
    &text[related.place.clone()]
}
