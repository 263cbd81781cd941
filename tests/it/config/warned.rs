//! What works, but may hurt, is warned of; a warning keeps no file from being used.

use onceproxy::config::diagnostic::Severity;

use super::{assert_one, edited, load_text, related};

const SCOPE: &str = "scope = [\"host\", \"header:x-account-id\"]\n";
const DEFAULTS: &str = "[defaults]\n";
const LAST: &str = "upstream = \"api\"\n";

fn routes(more: &str) -> String {
    format!("upstream = \"api\"\n{more}")
}

#[test]
fn an_enforced_route_with_the_default_scope_is_warned_of() {
    let from = "scope = [\"host\", \"header:x-account-id\"]\n\n[[routes]]\nname = \"all\"\npath = \"/{*rest}\"";
    let to = "\n[[routes]]\nname = \"all\"\npath = «\"/{*rest}\"»";
    assert_one(from, to, Severity::Warning, "route `all` leaves `scope` at its default", Some("x-account-id"));
    for quiet in ["mode = \"off\"\n", "mode = \"observe\"\n", "scope = [\"host\", \"credentials\"]\n"] {
        assert_eq!(load_text(&edited(SCOPE, quiet)).diagnostics, [], "{quiet}");
    }
}

#[test]
fn memory_on_a_public_address_is_warned_of() {
    let from = "address = \"127.0.0.1:8080\"\n\n[admin]\naddress = \"127.0.0.1:9180\"\n\n[log]\nlevel = \"info\"\n\n[store]\nurl = \"sqlite:a.db\"";
    let to = "address = \"0.0.0.0:8080\"\n\n[store]\nurl = «\"memory:\"»";
    let (text, found) = assert_one(from, to, Severity::Warning, "`memory:` forgets every key", Some("sqlite:PATH"));
    assert_eq!(related(&text, &found), "\"0.0.0.0:8080\"");
    assert_eq!(load_text(&edited("sqlite:a.db", "memory:")).diagnostics, []);
}

#[test]
fn bypass_where_a_key_is_required_is_warned_of() {
    let to = "[defaults]\nkey = \"required\"\nstore_down = «\"bypass\"»\n";
    let (text, found) = assert_one(DEFAULTS, to, Severity::Warning, "run twice that are required to have a key", None);
    assert_eq!(related(&text, &found), "\"required\"");
    assert_eq!(load_text(&edited(DEFAULTS, "[defaults]\nstore_down = \"bypass\"\n")).diagnostics, []);
}

#[test]
fn secrets_in_the_file_are_warned_of() {
    let to = "[admin]\ntoken = «\"hunter2\"»\n";
    assert_one("[admin]\n", to, Severity::Warning, "`token` is a secret, and it is written in the file", Some("env"));
    let to = "url = «\"redis://user:hunter2@h/0\"»\n";
    assert_one("url = \"sqlite:a.db\"\n", to, Severity::Warning, "`url` is a secret", Some("url = { env"));
    for quiet in ["token = { env = \"SET\" }\n", "token = { file = \"token.txt\" }\n"] {
        assert_eq!(load_text(&edited("[admin]\n", &format!("[admin]\n{quiet}"))).diagnostics, [], "{quiet}");
    }
}

#[test]
fn a_specific_route_that_lets_a_method_pass_is_warned_of() {
    for narrow in [
        "methods = [\"POST\"]\n",
        "policy = { mode = \"off\" }\n",
        "methods = [\"POST\"]\npolicy = { mode = \"off\" }\n",
    ] {
        let to = routes(&format!("\n[[routes]]\nname = \"b\"\nupstream = \"api\"\npath = «\"/a/{{id}}\"»\n{narrow}"));
        let (text, found) = assert_one(LAST, &to, Severity::Warning, "route `b` lets P", Some("methods"));
        assert!(found.message.contains("the wider route `all` protects it"), "{found:?}");
        assert_eq!(related(&text, &found), "\"/{*rest}\"");
    }
}

#[test]
fn a_route_that_means_to_let_methods_pass_is_left_alone() {
    for narrow in [
        "methods = [\"POST\", \"PATCH\"]\n",
        "methods = [\"*\"]\n",
        "methods = [\"*\"]\npolicy = { mode = \"off\" }\n",
        "methods = [\"POST\"]\n\n[[routes]]\nname = \"c\"\nupstream = \"api\"\npath = \"/a/{id}\"\nmethods = [\"PATCH\"]\n",
        "methods = [\"POST\"]\n\n[[routes]]\nname = \"c\"\nupstream = \"api\"\npath = \"/a/{id}\"\nmethods = [\"PATCH\"]\npolicy = { mode = \"off\" }\n",
    ] {
        let to = routes(&format!("\n[[routes]]\nname = \"b\"\nupstream = \"api\"\npath = \"/a/{{id}}\"\n{narrow}"));
        assert_eq!(load_text(&edited(LAST, &to)).diagnostics, [], "{narrow}");
    }
}

#[test]
fn a_route_of_one_host_is_more_specific_than_one_of_all() {
    let to = routes(
        "\n[[routes]]\nname = \"b\"\nupstream = \"api\"\nhost = \"h\"\npath = «\"/{*rest}\"»\nmethods = [\"POST\"]\n",
    );
    assert_one(LAST, &to, Severity::Warning, "route `b` lets PATCH pass", None);
}
