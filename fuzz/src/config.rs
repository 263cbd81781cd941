//! The configuration: no text makes the loader panic, and whatever it finds can be shown at its place.

use std::io::ErrorKind;

use onceproxy::config::diagnostic::Span;
use onceproxy::config::load::{Overrides, load};
use onceproxy::config::render::Style;
use onceproxy::config::secret::Lookups;

/// Takes the bytes for a file's text.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lookups = Lookups {
        environment: &|name| (name == "SET").then(|| "from-environment".to_owned()),
        file: &|_| Err(ErrorKind::NotFound.into()),
    };
    let report = load(text, "fuzzed.toml", &Overrides::default(), &lookups);
    assert_eq!(report.config.is_none(), report.has_errors(), "{:?}", report.diagnostics);
    for diagnostic in &report.diagnostics {
        assert!(!diagnostic.message.is_empty());
        let places = diagnostic.place.iter().chain(diagnostic.related.as_ref().map(|related| &related.place));
        places.for_each(|place| assert_within(text, place, &diagnostic.message));
    }
    assert!(report.to_text(Style::Plain).contains("fuzzed.toml"));
    assert_eq!(report.to_json().as_array().map(Vec::len), Some(report.diagnostics.len()));
    let explained = report.explain("POST http://api.example.com/v1/payments");
    assert_eq!(explained.is_err(), report.has_errors());
}

fn assert_within(text: &str, place: &Span, message: &str) {
    let is_within = place.start <= place.end && text.get(place.clone()).is_some();
    assert!(is_within, "{place:?} is no place in a text of {} bytes: {message}", text.len());
}
