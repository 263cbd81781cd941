//! The files in `config/` say what the code says.

use onceproxy::config::{defaults, schema};

use super::load_text;

const EXAMPLE: &str = include_str!("../../../config/example.toml");
const MINIMAL: &str = include_str!("../../../config/minimal.toml");
const PAYMENTS: &str = include_str!("../../../config/payments.toml");

/// A line of the example that says something of a setting: its section, its name, its value, and how it stands there.
struct Line {
    section: String,
    name: String,
    value: String,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Given,
    Default,
    Example,
    NotBuilt,
}

fn setting(line: &str) -> Option<(Kind, &str, &str)> {
    let forms = [("# not in this release: ", Kind::NotBuilt), ("# example: ", Kind::Example), ("# ", Kind::Default)];
    let (kind, rest) = forms
        .into_iter()
        .find_map(|(prefix, kind)| Some((kind, line.strip_prefix(prefix)?)))
        .unwrap_or((Kind::Given, line));
    let (name, value) = rest.split_once(" = ")?;
    let is_name = name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
    is_name.then_some((kind, name, value))
}

fn lines() -> Vec<Line> {
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in EXAMPLE.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).split('.').next().unwrap_or_default().to_owned();
        } else if let Some((kind, name, value)) = setting(line) {
            lines.push(Line { section: section.clone(), name: name.to_owned(), value: value.to_owned(), kind });
        }
    }
    lines
}

#[test]
fn the_example_has_every_setting_and_no_other() {
    let lines = lines();
    let mut written: Vec<String> =
        lines.iter().map(|line| format!("{}.{}", line.section, line.name).trim_start_matches('.').to_owned()).collect();
    let mut known: Vec<String> = schema::settings()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| !path.starts_with("routes.policy."))
        .map(|path| match () {
            () if path.contains("fingerprint.") => "defaults.fingerprint".to_owned(),
            () if path.starts_with("listener.tls.") => "listener.tls".to_owned(),
            () => path,
        })
        .collect();
    written.push("routes.policy".to_owned());
    known.push("routes.policy".to_owned());
    for list in [&mut written, &mut known] {
        list.sort();
        list.dedup();
    }
    assert_eq!(written, known);
    let fingerprint = lines.iter().find(|line| line.name == "fingerprint").expect("it is there");
    for name in ["parts", "body"] {
        assert!(fingerprint.value.contains(name));
    }
    assert!(EXAMPLE.contains("omit = ["));
    let tls = lines.iter().find(|line| line.name == "tls").expect("it is there");
    for name in ["cert", "key", "client_ca", "client_auth"] {
        assert!(tls.value.contains(&format!("{name} = ")));
    }
}

#[test]
fn the_example_marks_what_is_not_built() {
    let built = schema::settings();
    for line in lines() {
        let path = format!("{}.{}", line.section, line.name);
        let path = path.trim_start_matches('.');
        let is_built = !built.iter().any(|(known, built)| known == path && !built);
        assert_eq!(is_built, line.kind != Kind::NotBuilt, "{path}");
    }
}

#[test]
fn the_example_shows_the_defaults_of_the_code() {
    for section in ["listener", "admin", "log", "store", "upstreams", "defaults", "routes"] {
        for (name, value) in defaults::of(section) {
            let line = lines().into_iter().find(|line| line.section == section && line.name == name);
            let line = line.unwrap_or_else(|| panic!("{section}.{name} is missing"));
            assert_eq!((line.value.as_str(), line.kind), (value.as_str(), Kind::Default), "{section}.{name}");
        }
    }
}

#[test]
fn the_example_with_its_defaults_written_out_is_the_same_configuration() {
    let written_out: String = EXAMPLE
        .lines()
        .map(|line| match setting(line) {
            Some((Kind::Default, name, value)) => format!("{name} = {value}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(written_out, EXAMPLE);
    let (short, long) = (load_text(EXAMPLE), load_text(&written_out));
    let errors = |report: &onceproxy::config::load::Report| format!("{:#?}", report.diagnostics);
    let short = short.config.as_ref().unwrap_or_else(|| panic!("{}", errors(&short)));
    let long = long.config.as_ref().unwrap_or_else(|| panic!("{}", errors(&long)));
    assert_eq!(format!("{short:#?}"), format!("{long:#?}"));
}

#[test]
fn examples_in_the_example_can_be_used() {
    let used: String = EXAMPLE
        .lines()
        .map(|line| match setting(line) {
            Some((Kind::Example, name, value)) => format!("{name} = {value}\n").replace("ONCEPROXY_ADMIN_TOKEN", "SET"),
            _ => format!("{line}\n"),
        })
        .collect();
    // Some of them are for https upstreams only.
    let report = load_text(&used.replace("http://127.0.0.1:9000", "https://127.0.0.1:9000"));
    assert!(report.config.is_some(), "{:#?}", report.diagnostics);
}

#[test]
fn minimal_runs_with_a_word_on_the_scope() {
    let report = load_text(MINIMAL);
    assert!(report.config.is_some());
    assert_eq!(report.diagnostics.len(), 1, "{:#?}", report.diagnostics);
    assert!(report.diagnostics[0].message.contains("leaves `scope` at its default"));
}

#[test]
fn payments_has_no_findings() {
    let report = load_text(PAYMENTS);
    assert_eq!(report.diagnostics, []);
    assert_eq!(report.config.map(|config| config.routes.len()), Some(4));
}

#[test]
fn the_schema_knows_every_setting() {
    let schema = schema::schema();
    for (path, built) in schema::settings() {
        let mut here = &schema;
        for name in path.split('.') {
            // A list is described by its elements, a table of named sections by its members.
            let inside =
                ["items", "additionalProperties"].iter().find_map(|key| here.get(key).filter(|v| v.is_object()));
            here = inside.unwrap_or(here);
            here = here.pointer(&format!("/properties/{name}")).unwrap_or_else(|| panic!("{path} is missing"));
        }
        assert!(here["description"].as_str().is_some_and(|text| text.len() > 5), "{path}: {here}");
        assert_eq!(here.get("not").is_none(), built, "{path}: {here}");
    }
    assert_eq!(schema.pointer("/properties/defaults/properties/mode/enum/1"), Some(&"observe".into()));
    assert_eq!(schema.pointer("/properties/defaults/properties/lease/default"), Some(&"30s".into()));
    assert_eq!(
        schema.pointer("/properties/routes/items/properties/policy/properties/lease/default"),
        Some(&"30s".into())
    );
    assert_eq!(
        schema.pointer("/properties/upstreams/additionalProperties/properties/max_connections/default"),
        Some(&256.into())
    );
    assert_eq!(schema.pointer("/additionalProperties"), Some(&false.into()));
}
