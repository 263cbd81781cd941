//! The house has floors: nothing imports from a floor above its own, and the neighbours on a floor leave each other be.
//!
//! Every path from one module at the top of `src/` to another is an edge, and has to be in the table.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A module at the top of the crate, and those that it may import from.
const FLOORS: [(&str, &[&str]); 13] = [
    // Words.
    ("failpoint", &[]),
    ("key", &[]),
    ("scope", &["key"]),
    ("fingerprint", &["scope"]),
    ("record", &["fingerprint"]),
    // The protocol.
    ("ledger", &WORDS),
    // Stores and the layer know nothing of each other.
    ("stores", &["failpoint", "fingerprint", "key", "ledger", "record", "scope"]),
    ("http", &["failpoint", "fingerprint", "key", "ledger", "record", "scope"]),
    // The proxy knows no store.
    ("proxy", &["failpoint", "fingerprint", "http", "key", "ledger", "record", "scope"]),
    // The program. Configuration and telemetry are for the others to use; `app` puts everything together.
    ("config", &["fingerprint", "http", "key", "ledger", "proxy", "record", "scope", "stores", "telemetry"]),
    ("telemetry", &["http", "ledger", "proxy", "record", "scope"]),
    ("admin", &["fingerprint", "http", "key", "ledger", "record", "scope", "telemetry"]),
    (
        "app",
        &["admin", "config", "failpoint", "http", "key", "ledger", "proxy", "record", "scope", "stores", "telemetry"],
    ),
];
const WORDS: [&str; 5] = ["failpoint", "fingerprint", "key", "record", "scope"];
/// It stands above everything, and nothing may import from it.
const TOP: &str = "cli";

/// A path in one module that leads to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
    place: String,
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} imports from {}", self.place, self.from, self.to)
    }
}

fn is_allowed(edge: &Edge) -> bool {
    if edge.from == TOP {
        return FLOORS.iter().any(|(module, _)| *module == edge.to);
    }
    FLOORS.iter().any(|(module, below)| *module == edge.from && below.contains(&edge.to.as_str()))
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

/// The text without comments and literals, in which names that are no paths may stand. Line breaks stay.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r\"") || rest.starts_with("r#\"") {
            let fence = if rest.starts_with("r#") { "\"#" } else { "\"" };
            let open = rest.find('"').map_or(rest.len(), |open| open + 1);
            rest[open..].find(fence).map_or(rest.len(), |end| open + end + fence.len())
        } else if first == '"' {
            string_end(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\") {
            // A character; everything else that begins with an apostrophe is a lifetime or harmless.
            rest[2..].find('\'').map_or(rest.len(), |end| end + 3)
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            // The rest of a word: an `r` at its end begins no literal.
            if first.is_ascii() && is_word(first as u8) {
                let word = rest.bytes().take_while(|byte| is_word(*byte)).count();
                code.push_str(&rest[..word]);
                rest = &rest[word..];
            }
            continue;
        };
        code.extend(rest[..skipped].chars().filter(|character| *character == '\n'));
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

/// The length of a string literal with its quotes.
fn string_end(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !is_escaped => return at + 1,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    text.len()
}

/// The names that a path goes on with after its prefix: one, or those of a group.
fn heads(after: &str) -> Vec<String> {
    let after = after.trim_start();
    let name = |text: &str| text.trim_start().bytes().take_while(|byte| is_word(*byte)).map(char::from).collect();
    let Some(group) = after.strip_prefix('{') else { return vec![name(after)] };
    let mut heads = Vec::new();
    let (mut depth, mut begin) = (0_u32, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.push(name(&group[begin..at]));
                begin = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads.retain(|head: &String| !head.is_empty());
    heads
}

/// Every edge of a source file; `modules` are the names of its module and those around it, from the top.
fn edges(place: &str, modules: &[String], text: &str) -> Vec<Edge> {
    let code = code_only(text);
    let from = &modules[0];
    let mut edges = Vec::new();
    let mut add = |at: usize, after: &str| {
        let line = code[..at].matches('\n').count() + 1;
        let others = heads(after).into_iter().filter(|to| to != from);
        edges.extend(others.map(|to| Edge { from: from.clone(), to, place: format!("{place}:{line}") }));
    };
    for (at, path) in code.match_indices("crate::") {
        let before = code[..at].bytes().next_back();
        if !before.is_some_and(|byte| is_word(byte) || byte == b'$') {
            add(at, &code[at + path.len()..]);
        }
    }
    // A path that climbs over the top module leads to the root as well.
    let climb = "super::".repeat(modules.len());
    for (at, path) in code.match_indices(&climb) {
        let after = &code[at + path.len()..];
        let before = code[..at].bytes().next_back();
        // In a module within the file it leads less far; then the name is no module at the top.
        let is_top = heads(after).iter().any(|head| head == TOP || FLOORS.iter().any(|(module, _)| module == head));
        if is_top && !before.is_some_and(is_word) && !code[..at].ends_with("super::") {
            add(at, after);
        }
    }
    edges
}

/// The modules of a source file, from the top: `http/mod.rs` is `http`, `stores/redis/link.rs` three deep.
fn modules_of(path: &Path) -> Vec<String> {
    let names = path.with_extension("");
    let names = names.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    names.filter(|name| name != "mod").collect()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the sources are here");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| match (path.is_dir(), path.extension().is_some_and(|extension| extension == "rs")) {
            (true, _) => sources(&path),
            (false, true) => vec![path],
            (false, false) => Vec::new(),
        })
        .collect()
}

fn house() -> (PathBuf, Vec<PathBuf>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&root);
    (root, files)
}

#[test]
fn nothing_imports_from_above_or_from_next_door() {
    let (root, files) = house();
    let mut found = BTreeSet::new();
    for file in &files {
        let path = file.strip_prefix(&root).expect("it is in there");
        let modules = modules_of(path);
        if modules == ["lib"] || modules == ["main"] {
            continue;
        }
        let text = fs::read_to_string(file).expect("a text");
        found.extend(edges(&path.display().to_string(), &modules, &text));
    }
    assert!(found.len() > 50, "the paths are not found any more");
    let bad: Vec<String> = found.iter().filter(|edge| !is_allowed(edge)).map(Edge::to_string).collect();
    assert!(bad.is_empty(), "not in the table of floors:\n{}", bad.join("\n"));
}

#[test]
fn every_module_stands_on_a_floor() {
    let (root, files) = house();
    let present: BTreeSet<String> =
        files.iter().map(|file| modules_of(file.strip_prefix(&root).expect("it is in there")).remove(0)).collect();
    let known = FLOORS.iter().map(|(module, _)| *module).chain([TOP, "lib", "main"]).map(str::to_owned).collect();
    assert_eq!(present, known);
}

#[test]
fn the_table_itself_has_no_circle() {
    let mut standing: Vec<&str> = Vec::new();
    let mut waiting = FLOORS.to_vec();
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|(module, below)| {
            let stands = below.iter().all(|below| standing.contains(below));
            if stands {
                standing.push(module);
            }
            !stands
        });
        assert!(waiting.len() < before, "these stand on each other: {waiting:?}");
    }
}

/// The edges of a made-up file of the module `http::layer`.
fn found_in(text: &str) -> Vec<String> {
    let modules = ["http".to_owned(), "layer".to_owned()];
    edges("made_up.rs", &modules, text).into_iter().map(|edge| edge.to).collect()
}

#[test]
fn a_bad_edge_is_found_however_it_is_written() {
    for bad in [
        "use crate::proxy::forward::Forward;",
        "pub(crate) use crate::proxy;",
        "use crate::{proxy::forward, ledger};",
        "use crate::{\n    ledger::{claim::Claim, store},\n    proxy,\n};",
        "fn f() -> crate::proxy::Forward { todo!() }",
        "impl crate::proxy::T for U {}",
        "use super::super::proxy::forward::Forward;",
        "mod tests { use crate::proxy; }",
        "let a = '\"'; use crate::proxy; let b = '\"';",
        "let quote = \"a \\\" b\"; use crate::proxy;",
        "let raw = r#\"a \" b\"#; use crate::proxy;",
    ] {
        let found = found_in(bad);
        let edge = |to: &String| Edge { from: "http".into(), to: to.clone(), place: String::new() };
        let refused: Vec<_> = found.iter().filter(|to| !is_allowed(&edge(to))).collect();
        assert_eq!(refused, ["proxy"], "{bad}");
    }
}

#[test]
fn the_place_of_an_edge_is_told() {
    let modules = ["key".to_owned()];
    let found = edges("key.rs", &modules, "//! A key.\n\nuse crate::scope::Scope;\n");
    assert_eq!(found[0].to_string(), "key.rs:3: key imports from scope");
    assert!(!is_allowed(&found[0]), "a key knows of no scope");
}

#[test]
fn imports_through_the_root_are_refused() {
    let found = found_in("use crate::Key;");
    assert_eq!(found, ["Key"]);
    assert!(!is_allowed(&Edge { from: "http".into(), to: "Key".into(), place: String::new() }));
}

#[test]
fn what_is_no_path_is_no_edge() {
    for harmless in [
        "// use crate::proxy;\n/// [`Forward`](crate::proxy::forward)\n/* crate::proxy */",
        "let text = \"crate::proxy\"; let raw = r\"crate::proxy\";",
        "use crate::http::policy::Policy;",
        "use super::policy::Policy;",
        "mod tests { use super::super::policy::Policy; }",
        "use mycrate::proxy; use $crate::proxy;",
    ] {
        assert_eq!(found_in(harmless), Vec::<String>::new(), "{harmless}");
    }
}
