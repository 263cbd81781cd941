//! A process that takes over from another one, on a socket that both inherited.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::thread::{self, JoinHandle};

use onceproxy::app::listen::Inherited;
use onceproxy::app::{self, AppError, PortTaken, Surroundings};
use onceproxy::config::Config;
use onceproxy::config::load::Overrides;
use secrecy::SecretString;
use tokio::sync::oneshot;

use super::load::{Connections, Load};
use super::{TOKEN, connect, keyed, reload, setup, unkeyed, write};
use crate::support::client::Request;
use crate::support::proxy::quoted;
use crate::support::redis::RedisServer;
use crate::support::upstream::{Reply, Upstream};
use crate::support::waiting::{PATIENCE, Signal, eventually};

const CLIENTS: [Connections; 4] = [Connections::Kept, Connections::Kept, Connections::Fresh, Connections::Fresh];

fn socket() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

#[test]
fn the_inherited_socket_is_the_data_listener_whatever_the_file_says() {
    let upstream = Upstream::start();
    let socket = socket();
    let setup = setup(upstream.address, "memory:");
    let proxy = setup.begin_on(&socket).listening();
    assert_eq!(proxy.address, socket.local_addr().expect("its address"));
    let line = proxy.wait_for_line("the data listener is an inherited socket");
    assert!(line.contains("the address 127.0.0.1:0 is not used"), "{line}");
    assert_eq!(unkeyed().send(proxy.address).expect("an answer").status, 201);
    // Another address in the file is none of its business.
    std::fs::write(proxy.file(), setup.text().replacen("127.0.0.1:0", "127.0.0.1:1", 1)).expect("it is written");
    let answer = reload(&proxy);
    assert_eq!((answer.status, &answer.json()["result"]), (200, &"unchanged".into()), "{}", answer.text());
}

#[test]
fn no_request_fails_while_processes_take_over_from_each_other_on_redis() {
    let redis = RedisServer::start();
    let upstream = Upstream::start();
    let socket = socket();
    let setup = setup(upstream.address, &redis.url());
    let mut present = setup.begin_on(&socket).listening();
    let load = Load::start(present.address, &CLIENTS);
    for _ in 0..3 {
        load.go_on(30);
        let next = setup.begin_on(&socket).listening();
        present.ask_to_end();
        assert_eq!(present.end().code(), Some(0));
        present = next;
    }
    load.go_on(30);
    for key in load.end() {
        assert_eq!(upstream.executions_of(&key).len(), 1, "{key}");
    }
}

#[test]
fn no_request_fails_while_a_process_waits_for_the_database_of_the_one_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let upstream = Upstream::start();
    let socket = socket();
    let setup = setup(upstream.address, &format!("sqlite:{}", folder.path().join("once.db").display()));
    let mut present = setup.begin_on(&socket).listening();
    let load = Load::start(present.address, &CLIENTS);
    load.go_on(20);
    let next = setup.begin_on(&socket);
    next.wait_for_line("another process has the store");
    load.go_on(20);
    present.ask_to_end();
    assert_eq!(present.end().code(), Some(0));
    let next = next.listening();
    next.wait_for_line("the store is here");
    load.go_on(20);
    for key in load.end() {
        assert_eq!(upstream.executions_of(&key).len(), 1, "{key}");
    }
}

#[test]
fn a_process_that_waits_for_the_database_is_live_and_not_ready() {
    let folder = tempfile::tempdir().expect("a folder");
    let upstream = Upstream::start();
    let socket = socket();
    let setup = setup(upstream.address, &format!("sqlite:{}", folder.path().join("once.db").display()));
    let mut present = setup.begin_on(&socket).listening();
    let answer = Signal::default();
    upstream.then(Reply::status(201).body("execution 1").after(&answer));
    let under_way = keyed("k").send_aside(present.address);
    upstream.wait_for_executions(1);
    let next = setup.begin_on(&socket);
    let line = next.wait_for_line("another process has the store");
    let admin = line.split("127.0.0.1:").nth(1).unwrap_or_default();
    let port: u16 = admin.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a port");
    let get = |path: &str| Request::get(path).send(([127, 0, 0, 1], port).into()).expect("an answer");
    assert_eq!(get("/live").status, 200);
    let ready = get("/ready");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("another process has the store"), "{}", ready.text());
    present.ask_to_end();
    present.wait_for_line("draining");
    // It waits in the kernel's queue, for the process that has not got the store yet.
    let waiting = keyed("other").send_aside(present.address);
    answer.give();
    assert_eq!(under_way.end().expect("an answer").outcome(), "executed");
    assert_eq!(present.end().code(), Some(0));
    assert_eq!(waiting.end().expect("an answer").outcome(), "executed");
    let next = next.listening();
    assert_eq!(get("/ready").status, 200);
    let again = keyed("k").send(next.address).expect("an answer");
    assert_eq!((again.outcome().as_str(), again.text().as_str()), ("replayed", "execution 1"));
}

#[test]
fn a_request_on_an_idle_connection_is_answered_while_the_process_leaves() {
    let upstream = Upstream::start();
    let socket = socket();
    let mut proxy = setup(upstream.address, "memory:").begin_on(&socket).listening();
    let (mut idle, mut silent) = (connect(proxy.address), connect(proxy.address));
    assert_eq!(unkeyed().send_over(&mut idle).expect("an answer").status, 201);
    // One more request, so that the silent connection has been accepted for sure.
    assert_eq!(unkeyed().send(proxy.address).expect("an answer").status, 201);
    proxy.ask_to_end();
    proxy.wait_for_line("draining");
    for connection in [&mut idle, &mut silent] {
        // It says that it drains a moment before it does.
        eventually("the last answer", || {
            let answer = unkeyed().send_over(connection).expect("an answer");
            assert_eq!(answer.status, 201);
            (answer.field("connection") == "close").then_some(())
        });
    }
    assert_eq!(proxy.end().code(), Some(0));
}

#[test]
fn a_supervisor_hears_of_each_moment() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).expect("a socket");
    supervisor.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let hear = || {
        let mut words = [0; 256];
        let length = supervisor.recv(&mut words).expect("it says something");
        String::from_utf8_lossy(&words[..length]).into_owned()
    };
    let upstream = Upstream::start();
    let setup = setup(upstream.address, "memory:").environment("NOTIFY_SOCKET", &path.display().to_string());
    let mut proxy = setup.start();
    assert_eq!(hear(), "READY=1");
    write(&proxy, &setup.clone().policy("key", quoted("required")));
    proxy.hang_up();
    let reloading = hear();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(hear(), "READY=1");
    proxy.ask_to_end();
    assert_eq!(hear(), "STOPPING=1");
    assert_eq!(proxy.end().code(), Some(0));
}

#[test]
fn an_admin_port_that_the_process_before_has_is_taken_when_it_is_free() {
    let upstream = Upstream::start();
    let (socket, admin) = (socket(), socket());
    let address = admin.local_addr().expect("its address");
    let setup = setup(upstream.address, "memory:").set("admin.address", quoted(&address.to_string()));
    let starting = setup.begin_on(&socket);
    starting.wait_for_line("is taken, by the process before this one as it seems");
    starting.wait_for_line("listening on ");
    drop(admin);
    let proxy = starting.listening();
    assert_eq!(proxy.admin, address);
    assert_eq!(Request::get("/ready").send(address).expect("an answer").status, 200);
}

/// A proxy in this process, on sockets that the test has too.
struct Inside {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), AppError>>,
}

impl Inside {
    fn start(upstream: &Upstream, data: &TcpListener, admin: &TcpListener, token: Option<&str>) -> Inside {
        let overrides = Overrides {
            store: Some("memory:".to_owned()),
            admin: Some("127.0.0.1:0".to_owned()),
            admin_token: token.map(SecretString::from),
            ..Overrides::default()
        };
        let config = Config::for_upstream(&format!("http://{}", upstream.address), &overrides).expect("it can work");
        let mut surroundings = Surroundings::new(PortTaken::Fail);
        surroundings.inherited = Inherited { data: data.try_clone().ok(), admin: admin.try_clone().ok() };
        let (stop, stopped) = oneshot::channel();
        let ended = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(app::run_in(surroundings, config, async { drop(stopped.await) }, |_| ()))
        });
        Inside { stop, ended }
    }
}

#[test]
fn an_inherited_admin_socket_is_left_to_the_next_process_when_this_one_drains() {
    let upstream = Upstream::start();
    let (data, admin) = (socket(), socket());
    let address = admin.local_addr().expect("its address");
    let inside = Inside::start(&upstream, &data, &admin, Some(TOKEN));
    let ready = || Request::get("/ready").send(address).expect("an answer");
    assert_eq!(ready().status, 200);
    let answer = Signal::default();
    upstream.then(Reply::status(201).after(&answer));
    let under_way = keyed("k").send_aside(data.local_addr().expect("its address"));
    upstream.wait_for_executions(1);
    drop(inside.stop);
    admin.set_nonblocking(true).expect("a socket");
    // This test is the next process.
    eventually("the socket to be left", || {
        let _asks = std::net::TcpStream::connect(address).expect("the kernel takes it");
        admin.accept().ok()
    });
    answer.give();
    assert_eq!(under_way.end().expect("an answer").outcome(), "executed");
    assert!(inside.ended.join().expect("no panic").is_ok());
}

#[test]
fn an_inherited_admin_socket_that_is_public_needs_a_token() {
    let upstream = Upstream::start();
    let public = TcpListener::bind("0.0.0.0:0").expect("a port");
    let inside = Inside::start(&upstream, &socket(), &public, None);
    let ended = inside.ended.join().expect("no panic");
    assert!(matches!(ended, Err(AppError::Unguarded(_))), "{ended:?}");
}

#[test]
fn sockets_that_cannot_be_used_end_the_program() {
    let upstream = Upstream::start();
    let file = tempfile::tempfile().expect("a file");
    let starting = setup(upstream.address, "memory:").begin_with(file.into());
    starting.wait_for_line("cannot use an inherited socket");
}

#[test]
fn a_second_process_without_a_socket_is_refused_as_ever() {
    let folder = tempfile::tempdir().expect("a folder");
    let upstream = Upstream::start();
    let setup = setup(upstream.address, &format!("sqlite:{}", folder.path().join("once.db").display()));
    let _first = setup.start();
    setup.begin().wait_for_line("in use by another process");
}
