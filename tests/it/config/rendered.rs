//! How findings look.

use onceproxy::config::load::Overrides;
use onceproxy::config::render::Style;

use super::{GOOD, edited, load_text, load_with};

fn shown(text: &str) -> String {
    load_text(text).to_text(Style::Plain)
}

#[test]
fn a_misspelt_setting_has_a_caret_and_a_suggestion() {
    insta::assert_snapshot!(shown(&edited("[defaults]\n", "[defaults]\nretenton = \"1h\"\n")), @r##"
    error: unknown setting `retenton` in [defaults]
      --> test.toml:19:1
       |
    19 | retenton = "1h"
       | ^^^^^^^^
       |
       = help: did you mean `retention`?

    test.toml: 1 error
    "##);
}

#[test]
fn a_collision_shows_both_places() {
    let more = "\n[[routes]]\nname = \"b\"\npath = \"/{*other}\"\nupstream = \"api\"\n";
    insta::assert_snapshot!(shown(&format!("{GOOD}{more}")), @r##"
    error: routes `all` and `b` match the same requests
      --> test.toml:28:8
       |
    23 | path = "/{*rest}"
       |        ---------- route `all`
    ...
    28 | path = "/{*other}"
       |        ^^^^^^^^^^^
       |
       = help: two routes may share a path with disjoint `methods` and the same upstream

    test.toml: 1 error
    "##);
}

#[test]
fn a_syntax_error_shows_its_line() {
    insta::assert_snapshot!(shown(&edited("[log]\nlevel = \"info\"\n", "[log]\nlevel = \"info\n")), @r##"
    error: this is not TOML: invalid basic string, expected `"`
      --> test.toml:10:14
       |
    10 | level = "info
       |              ^

    test.toml: 1 error
    "##);
}

#[test]
fn errors_and_warnings_are_counted() {
    let text = edited("scope = [\"host\", \"header:x-account-id\"]\n", "lease = \"0s\"\n");
    insta::assert_snapshot!(shown(&text), @r##"
    error: `lease` is "0s", but it has to be from 1s to 24h
      --> test.toml:19:9
       |
    19 | lease = "0s"
       |         ^^^^

    warning: route `all` leaves `scope` at its default, which is made of all credentials
      --> test.toml:23:8
       |
    23 | path = "/{*rest}"
       |        ^^^^^^^^^^
       |
       = help: a refreshed token, a changing cookie or a signature per request makes a retry another caller's: name what stays, such as scope = ["header:x-account-id"]

    test.toml: 1 error, 1 warning
    "##);
}

#[test]
fn what_is_missing_has_no_line() {
    insta::assert_snapshot!(shown(&GOOD.replace("version = 1\n", "")), @r##"
    error: the file does not say which format it has
    --> test.toml
     = help: begin it with `version = 1`

    test.toml: 1 error
    "##);
}

#[test]
fn programs_get_the_same_as_json() {
    let text = edited("[defaults]\n", "[defaults]\nrelease_status = [503]\nunknown_status = [503]\nmod = 1\n");
    let json = serde_json::to_string_pretty(&load_text(&text).to_json()).expect("it is JSON");
    insta::assert_snapshot!(json, @r##"
    [
      {
        "column": 19,
        "end": {
          "column": 22,
          "line": 19
        },
        "file": "test.toml",
        "help": "release: the upstream did not act, the key is free; unknown: nobody knows whether it acted",
        "line": 19,
        "message": "status 503 is in `release_status` and in `unknown_status`",
        "related": {
          "column": 19,
          "line": 20,
          "message": "and here"
        },
        "severity": "error"
      },
      {
        "column": 1,
        "end": {
          "column": 4,
          "line": 21
        },
        "file": "test.toml",
        "help": "did you mean `mode`?",
        "line": 21,
        "message": "unknown setting `mod` in [defaults]",
        "related": null,
        "severity": "error"
      }
    ]
    "##);
}

#[test]
fn a_good_file_says_so() {
    assert_eq!(shown(GOOD), "test.toml: no errors\n");
    assert_eq!(load_text(GOOD).to_json().to_string(), "[]");
}

#[test]
fn colours_are_for_terminals_only() {
    let report = load_with("", &Overrides::default());
    assert!(report.to_text(Style::Colours).contains('\u{1b}'));
    assert!(!report.to_text(Style::Plain).contains('\u{1b}'));
}
