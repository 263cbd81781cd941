//! Upstreams behind TLS and behind Unix sockets, as a file or a flag names them.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use tempfile::TempDir;

use super::process::{Running, command, onceproxy, output, post};
use crate::http::raw::read_message;
use crate::support::authority::Authority;
use crate::support::tls_upstream::{TlsUpstream, Version, server_config};

const FILE: &str = "onceproxy.toml";

/// A folder with a configuration for one upstream, and an authority's certificate.
fn folder(upstream: &str, authority: &Authority) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "version = 1\n[listener]\naddress = \"127.0.0.1:0\"\n[store]\nurl = \"memory:\"\n\
         [upstreams.bank]\n{upstream}\n[[routes]]\nname = \"all\"\npath = \"/{{*rest}}\"\nupstream = \"bank\"\n"
    );
    fs::write(folder.path().join(FILE), text).expect("it is written");
    fs::write(folder.path().join("ca.pem"), authority.pem()).expect("it is written");
    folder
}

/// An API behind TLS that answers everything alike.
fn api(authority: &Authority, name: &str) -> TlsUpstream {
    TlsUpstream::start(server_config(&authority.sign(name), Version::Tls13, None), |stream| {
        while read_message(stream, true).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 4\r\n\r\npaid");
        }
    })
}

fn run(folder: &Path) -> Running {
    Running::start(&mut command(folder, &["run", "-c", FILE]))
}

#[test]
fn an_https_upstream_is_believed_as_its_ca_says() {
    let authority = Authority::new();
    let api = api(&authority, "localhost");
    let url = format!("https://localhost:{}", api.address.port());
    let folder = folder(&format!("url = \"{url}\"\nca = \"ca.pem\""), &authority);
    let mut proxy = run(folder.path());
    let answer = post(&proxy.address(), "order-1", &[]);
    assert_eq!((answer.status, answer.body.as_str()), (201, "paid"));
    let checked = onceproxy(folder.path(), &["check", FILE, "--online"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(checked.err.contains(&format!("upstream bank at {url}: ok: takes connections")), "{checked:?}");
}

#[test]
fn a_handshake_that_fails_is_told_with_its_reason() {
    let authority = Authority::new();
    let api = api(&authority, "elsewhere.test");
    let url = format!("https://localhost:{}", api.address.port());
    let folder = folder(&format!("url = \"{url}\"\nca = \"ca.pem\""), &authority);
    let mut proxy = run(folder.path());
    let answer = post(&proxy.address(), "order-1", &[]);
    assert_eq!((answer.status, answer.code().as_str()), (502, "not-executed"));
    let line = proxy.wait_for("the upstream was not reached");
    for words in ["bank", "not valid for name", "localhost"] {
        assert!(line.contains(words), "{words:?} is not in {line}");
    }
    let checked = onceproxy(folder.path(), &["check", FILE, "--online"]);
    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(checked.err.contains("error: no TLS with 127.0.0.1:"), "{checked:?}");
}

#[test]
fn without_a_ca_the_systems_roots_are_believed() {
    let authority = Authority::new();
    let api = api(&authority, "localhost");
    let url = format!("https://localhost:{}", api.address.port());
    let folder = folder("url = \"http://h\"", &authority);
    let flags = ["run", "--upstream", &url, "--store", "memory:", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let with_roots = |file: &str| {
        let mut command = command(folder.path(), &flags);
        command.env("SSL_CERT_FILE", folder.path().join(file)).env_remove("SSL_CERT_DIR");
        command
    };
    let mut proxy = Running::start(&mut with_roots("ca.pem"));
    assert_eq!(post(&proxy.address(), "order-1", &[]).status, 201);
    fs::write(folder.path().join("other.pem"), Authority::new().pem()).expect("it is written");
    let mut proxy = Running::start(&mut with_roots("other.pem"));
    assert_eq!(post(&proxy.address(), "order-1", &[]).code(), "not-executed");
    let none = output(&mut with_roots("none.pem"));
    assert_eq!(none.code, 2, "{none:?}");
    assert!(none.err.contains("needs the system's root certificates"), "{none:?}");
}

#[test]
fn certificates_that_cannot_be_read_are_refused_before_a_port_is_bound() {
    let authority = Authority::new();
    let folder = folder("url = \"https://localhost\"\nca = \"none.pem\"", &authority);
    let ended = onceproxy(folder.path(), &["run", "-c", FILE]);
    assert_eq!(ended.code, 2, "{ended:?}");
    for words in ["`ca`: none.pem cannot be read", "onceproxy.toml:8:6", "ca = \"none.pem\"", "^^^^^^^^^^"] {
        assert!(ended.err.contains(words), "{words:?} is not in\n{}", ended.err);
    }
    assert!(!ended.err.contains("listening"), "{ended:?}");
}

#[test]
fn a_unix_upstream_is_reached_by_its_path() {
    let authority = Authority::new();
    let folder = folder("", &authority);
    let path = folder.path().join("api.sock");
    let text = fs::read_to_string(folder.path().join(FILE)).expect("it is there");
    let text = text.replace("[upstreams.bank]\n", &format!("[upstreams.bank]\nurl = \"unix:{}\"\n", path.display()));
    fs::write(folder.path().join(FILE), text).expect("it is written");
    let away = onceproxy(folder.path(), &["check", FILE, "--online"]);
    assert_eq!(away.code, 1, "{away:?}");
    let listener = UnixListener::bind(&path).expect("a socket");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                while let Some(message) = read_message(&mut stream, true) {
                    let body = message.one("host");
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                }
            });
        }
    });
    let checked = onceproxy(folder.path(), &["check", FILE, "--online"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let explained = onceproxy(folder.path(), &["check", FILE, "--explain", "POST /pay"]);
    assert!(explained.out.contains(&format!("bank at unix:{}", path.display())), "{explained:?}");
    let mut proxy = run(folder.path());
    let answer = post(&proxy.address(), "order-1", &[]);
    assert_eq!((answer.status, answer.body.as_str()), (200, "api.example.com"));
}
