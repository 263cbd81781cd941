//! Help, version, schema, completions and manual.

use std::path::Path;

use super::process::{Ended, onceproxy, shell};

fn ask(arguments: &[&str]) -> Ended {
    onceproxy(Path::new("."), arguments)
}

#[test]
fn help_has_a_line_for_each_command_and_examples() {
    let help = ask(&["--help"]);
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    for line in [
        "  run          Run the proxy",
        "  demo         Run a demo API and the proxy before it, and print what to try",
        "  check        Check a configuration file",
        "  records      Look at records, and decide about unknown outcomes",
        "  healthcheck  Ask a running proxy whether it is alive",
        "  schema       Print the JSON schema of the configuration file",
        "  completions  Print completions for a shell",
        "  man          Print the manual, a page for each command",
        "Examples:",
        "Exit codes: 0 done, 1 failed while running or refused, 2 the configuration or the arguments are wrong.",
    ] {
        assert!(help.out.lines().any(|found| found == line), "{line:?} is not in\n{}", help.out);
    }
}

#[test]
fn help_of_run_names_the_environment() {
    let help = ask(&["run", "--help"]).out;
    for name in ["CONFIG", "LISTEN", "UPSTREAM", "STORE", "ADMIN"] {
        assert!(help.contains(&format!("[env: ONCEPROXY_{name}]")), "{name} is not in\n{help}");
    }
    assert!(help.contains("ONCEPROXY_ADMIN_TOKEN ") && help.contains("ONCEPROXY_LOG "), "{help}");
}

#[test]
fn the_version_is_the_packages() {
    let version = ask(&["--version"]);
    assert_eq!((version.code, version.out), (0, format!("onceproxy {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn wrong_arguments_are_told_with_code_2() {
    for arguments in [
        &["runn"][..],
        &["run", "--lisen", "x"],
        &["records", "settle", "3f0c9a17be42", "--attempt", "1", "--status", "99", "--reason", "x"],
        &["records", "release", "3f0c9a17be42", "--reason", "no attempt"],
        &["records", "list", "--state", "lost"],
        &["check"],
        &["completions", "cmd"],
        &[],
    ] {
        let wrong = ask(arguments);
        assert_eq!((wrong.code, wrong.out.as_str()), (2, ""), "{arguments:?}");
        assert!(wrong.err.contains("--help") || wrong.err.contains("Usage: onceproxy"), "{arguments:?}: {wrong:?}");
    }
    assert!(ask(&["runn"]).err.contains("a similar subcommand exists: 'run'"));
}

#[test]
fn completions_are_a_script_that_its_shell_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = ask(&["completions", "bash"]);
    assert_eq!(script.code, 0);
    assert!(script.out.contains("--deny-warnings") && script.out.contains("settle"));
    std::fs::write(folder.path().join("script"), &script.out).expect("it is written");
    let read = shell(folder.path(), "bash -c '. ./script && complete -p onceproxy'");
    assert_eq!(read.code, 0, "{read:?}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(ask(&["completions", shell]).out.contains("onceproxy"), "{shell}");
    }
}

#[test]
fn the_schema_knows_the_files_sections() {
    let schema = ask(&["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&schema.out).expect("JSON");
    for section in ["listener", "admin", "log", "store", "upstreams", "defaults", "routes"] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let page = ask(&["man"]);
    assert_eq!(page.code, 0);
    for part in [".TH onceproxy 1", ".TH onceproxy-run 1", "ONCEPROXY_LISTEN", ".SH EXAMPLES\n.nf\n"] {
        assert!(page.out.contains(part), "{part}: {page:?}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let written = ask(&["man", "--out", folder.path().to_str().expect("text")]);
    assert_eq!(written.code, 0, "{written:?}");
    for name in ["onceproxy.1", "onceproxy-run.1", "onceproxy-records-settle.1"] {
        assert!(folder.path().join(name).is_file(), "{name}");
    }
}
