//! Certificates: the listener's own, which change under open connections, and those of clients.

use std::fs;
use std::io::{self, BufRead, ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use onceproxy::Policy;
use onceproxy::http::policy::ScopeSource;
use onceproxy::proxy::tls::{ClientAuth, Part, Problem, Reloaded, ServerTls};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::raw::{Message, Proxy, Setup, Upstream, post, read_message};
use super::tls::connect;
use crate::support::authority::{Authority, Signed};
use crate::support::certificates::{Files, client};
use crate::support::proxy;
use crate::support::waiting::eventually;

/// The certificate that a new connection sees.
fn shown(proxy: &Proxy, config: &Arc<ClientConfig>) -> Vec<u8> {
    let mut stream = connect(proxy, config);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    }
    stream.conn.peer_certificates().expect("a certificate")[0].to_vec()
}

#[test]
fn a_new_certificate_is_seen_by_new_connections_and_old_ones_go_on() {
    let authority = Authority::new();
    let (first, second) = (authority.issue("first"), authority.issue("second"));
    // As Kubernetes mounts a secret: the files are links through a folder that is swapped.
    let files = Files::new(&first);
    for (version, identity) in [("v1", &first), ("v2", &second)] {
        fs::create_dir(files.path(version)).expect("a folder");
        files.write(&format!("{version}/cert.pem"), &identity.cert);
        files.write(&format!("{version}/key.pem"), &identity.key);
    }
    symlink("v1", files.path("data")).expect("a link");
    for name in ["cert.pem", "key.pem"] {
        fs::remove_file(files.path(name)).expect("it was there");
        symlink(format!("data/{name}"), files.path(name)).expect("a link");
    }
    let proxy = Setup::new().listener(|listener| listener.tls = Some(files.spec())).start();
    let config = client(&authority, None, &["http/1.1"]);
    let mut open = connect(&proxy, &config);
    open.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut open, true).expect("an answer").status(), 200);
    assert_eq!(shown(&proxy, &config), first.chain()[0].to_vec());
    symlink("v2", files.path("data.new")).expect("a link");
    fs::rename(files.path("data.new"), files.path("data")).expect("the swap");
    eventually("the new certificate", || (shown(&proxy, &config) == second.chain()[0].to_vec()).then_some(()));
    open.write_all(post("/", "", "x").as_bytes()).expect("the proxy still reads");
    assert_eq!(read_message(&mut open, true).expect("an answer").status(), 200);
    assert_eq!(open.conn.peer_certificates().expect("a certificate")[0].to_vec(), first.chain()[0].to_vec());
}

#[test]
fn a_reload_takes_all_files_or_none() {
    let authority = Authority::new();
    let (first, second) = (authority.issue("first"), authority.issue("second"));
    let files = Files::new(&first);
    let tls = ServerTls::open(files.spec_with(&authority, ClientAuth::Required)).expect("good files");
    assert_eq!(tls.reload().expect("good files"), Reloaded::Unchanged);
    files.write("cert.pem", &second.cert);
    let error = tls.reload().expect_err("the key is the first one's");
    assert!(error.part == Part::Key && matches!(error.problem, Problem::OtherKey), "{error}");
    files.write("key.pem", "no key");
    let error = tls.reload().expect_err("there is no key");
    assert!(error.part == Part::Key && matches!(error.problem, Problem::Nothing(_)), "{error}");
    files.write("key.pem", &second.key);
    files.write("clients.pem", "");
    let error = tls.reload().expect_err("there is no authority");
    assert!(error.part == Part::ClientCa && matches!(error.problem, Problem::Nothing(_)), "{error}");
    fs::remove_file(files.path("clients.pem")).expect("it was there");
    let error = tls.reload().expect_err("there is no file");
    assert!(error.part == Part::ClientCa && matches!(error.problem, Problem::Unreadable(_)), "{error}");
    files.write("clients.pem", &authority.pem());
    assert_eq!(tls.reload().expect("good files"), Reloaded::Changed);
    assert_eq!(tls.reload().expect("good files"), Reloaded::Unchanged);
}

#[test]
fn a_broken_new_certificate_keeps_the_old_one_and_is_logged() {
    let upstream = Upstream::start();
    let authority = Authority::new();
    let (first, second) = (authority.issue("first"), authority.issue("second"));
    let files = Files::new(&first);
    let spec = format!("{{ cert = {:?}, key = {:?} }}", files.path("cert.pem"), files.path("key.pem"));
    let mut process = proxy::Setup::new(upstream.address, "memory:").listener("tls", spec).start();
    let config = client(&authority, None, &["http/1.1"]);
    let shown = |process: &proxy::Proxy| {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection = ClientConnection::new(config.clone(), name).expect("a client");
        let mut stream = TcpStream::connect(process.address).expect("the proxy accepts");
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).expect("a handshake");
        }
        connection.peer_certificates().expect("a certificate")[0].to_vec()
    };
    assert_eq!(shown(&process), first.chain()[0].to_vec());
    files.write("cert.pem", &second.cert);
    process.wait_for_line("cannot be used: the old ones stay");
    assert_eq!(shown(&process), first.chain()[0].to_vec());
    files.write("key.pem", &second.key);
    process.wait_for_line("new connections get the certificates");
    assert_eq!(shown(&process), second.chain()[0].to_vec());
    process.ask_to_end();
    assert!(process.end().success());
}

/// A proxy that asks clients for certificates and takes the scope from them.
fn asking(client_auth: ClientAuth) -> (Proxy, Authority, Files) {
    let authority = Authority::new();
    let files = Files::new(&authority.issue("proxy"));
    let spec = files.spec_with(&authority, client_auth);
    let policy = Policy::required().route("pay").scope([ScopeSource::ClientCert]);
    let routes = vec![(None, "/pay", policy), (None, "/{*rest}", Policy::optional().route("rest"))];
    (Setup::new().listener(|listener| listener.tls = Some(spec)).routes(routes).start(), authority, files)
}

fn pay(proxy: &Proxy, authority: &Authority, identity: Option<&Signed>) -> io::Result<Message> {
    let mut stream = connect(proxy, &client(authority, identity, &["http/1.1"]));
    stream.write_all(post("/pay", "idempotency-key: k\r\n", "x").as_bytes())?;
    // A refused certificate shows when something is read: TLS 1.3 has told the client before that all is well.
    if stream.fill_buf()?.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(read_message(&mut stream, true).expect("an answer"))
}

#[test]
fn two_certificates_are_two_scopes_and_a_renewed_one_is_the_same() {
    let (proxy, authority, _files) = asking(ClientAuth::Required);
    let (alice, bob) = (authority.issue("alice"), authority.issue("bob"));
    let status = |identity| {
        let answer = pay(&proxy, &authority, Some(identity)).expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.one("idempotency-status").to_owned()
    };
    assert_eq!(status(&alice), "executed");
    assert_eq!(status(&alice), "replayed");
    assert_eq!(status(&bob), "executed");
    let renewed = authority.issue("alice");
    assert_ne!(renewed.cert, alice.cert);
    assert_eq!(status(&renewed), "replayed");
    assert_eq!(proxy.upstream.count(), 2);
}

#[test]
fn where_a_certificate_is_required_nobody_else_comes_in() {
    let (proxy, authority, _files) = asking(ClientAuth::Required);
    let stranger = Authority::new().issue("alice");
    for identity in [None, Some(&stranger)] {
        assert!(pay(&proxy, &authority, identity).is_err());
    }
    assert_eq!(proxy.upstream.count(), 0);
    assert_eq!(pay(&proxy, &authority, Some(&authority.issue("alice"))).expect("an answer").status(), 200);
}

#[test]
fn an_optional_certificate_is_checked_when_it_is_sent() {
    let (proxy, authority, _files) = asking(ClientAuth::Optional);
    let stranger = Authority::new().issue("alice");
    assert!(pay(&proxy, &authority, Some(&stranger)).is_err());
    let answer = pay(&proxy, &authority, None).expect("an answer");
    assert_eq!((answer.status(), answer.code().as_str()), (400, "scope-missing"));
    assert!(answer.text().contains("client certificate"), "{}", answer.text());
    assert_eq!(proxy.upstream.count(), 0);
    assert_eq!(pay(&proxy, &authority, Some(&authority.issue("alice"))).expect("an answer").status(), 200);
    let mut stream = connect(&proxy, &client(&authority, None, &["http/1.1"]));
    stream.write_all(post("/other", "", "x").as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
}
