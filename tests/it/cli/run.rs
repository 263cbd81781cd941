//! `run`, as a process.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::process::{Api, Ended, Running, command, onceproxy, output, post};
use crate::support::redis::RedisServer;
use crate::support::waiting::eventually;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// `run --upstream` on free ports.
fn before(api: &Api, folder: &Path) -> Command {
    command(folder, &["run", "--upstream", &api.url(), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
}

/// A file with an upstream and a store.
fn write(folder: &Path, text: &str) {
    fs::write(folder.join("onceproxy.toml"), text).expect("it is written");
}

fn with_file(api: &Api) -> String {
    format!(
        "version = 1\n[listener]\naddress = \"203.0.113.1:80\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [store]\nurl = \"memory:\"\n[upstreams.api]\nurl = \"{}\"\n\
         [[routes]]\nname = \"all\"\npath = \"/{{*rest}}\"\nupstream = \"api\"\n",
        api.url()
    )
}

fn refused(folder: &Path, arguments: &[&str], code: i32, words: &str) -> Ended {
    let ended = onceproxy(folder, arguments);
    assert_eq!((ended.code, ended.out.as_str()), (code, ""), "{ended:?}");
    assert!(ended.err.contains(words), "{words:?} is not in {ended:?}");
    ended
}

#[test]
fn one_flag_is_enough_and_replays_survive_a_kill() {
    let (api, folder) = (Api::start(), folder());
    let mut proxy = Running::start(&mut before(&api, folder.path()));
    let address = proxy.address();
    let first = post(&address, "order-1", &[]);
    assert_eq!((first.status, first.field("idempotency-status")), (201, Some("executed")));
    proxy.kill();
    let mut proxy = Running::start(&mut before(&api, folder.path()));
    let again = post(&proxy.address(), "order-1", &[]);
    assert_eq!((again.status, again.field("idempotency-replayed")), (201, Some("true")));
    assert_eq!((again.body.as_str(), api.effects()), ("effect 1", 1));
}

#[test]
fn a_folder_for_large_bodies_that_takes_no_file_is_a_configuration_error() {
    let (api, folder) = (Api::start(), folder());
    fs::write(folder.path().join("file"), "x").expect("it is written");
    // One that does not exist, one that is none, and one in which nobody can make a file.
    for spool_dir in ["missing", "file", "/proc"] {
        let listener = format!("[listener]\nspool_dir = \"{spool_dir}\"\n");
        write(folder.path(), &with_file(&api).replacen("[listener]\n", &listener, 1));
        refused(folder.path(), &["run", "-c", "onceproxy.toml"], 2, "`spool_dir`: no file can be made in");
        let checked = onceproxy(folder.path(), &["check", "onceproxy.toml", "--online"]);
        assert_eq!(checked.code, 1, "{checked:?}");
        assert!(checked.err.contains(&format!("folder {spool_dir}: error: `spool_dir`")), "{checked:?}");
    }
}

#[test]
fn a_replica_is_waited_for_until_it_is_the_primary() {
    let (api, folder) = (Api::start(), folder());
    let primary = RedisServer::start();
    let replica = primary.replica();
    let mut proxy = Running::start(before(&api, folder.path()).args(["--store", &replica.url()]));
    let (admin, address) = (proxy.admin(), proxy.address());
    let ready = || onceproxy(folder.path(), &["healthcheck", "--ready", "--admin", &admin]);
    let not_ready = ready();
    assert_eq!(not_ready.code, 1, "{not_ready:?}");
    assert!(not_ready.err.contains("503") && not_ready.err.contains("not the primary"), "{not_ready:?}");
    assert_eq!(post(&address, "order-1", &[]).status, 503);
    replica.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    eventually("the store to be ready", || (ready().code == 0).then_some(()));
    assert_eq!((post(&address, "order-1", &[]).status, api.effects()), (201, 1));
}

#[test]
fn a_redis_that_may_evict_records_ends_the_program() {
    let (api, folder) = (Api::start(), folder());
    let redis = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let ended = output(before(&api, folder.path()).args(["--store", &redis.url()]));
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("allkeys-lru"), "{ended:?}");
}

#[test]
fn the_first_lines_say_what_holds() {
    let (api, folder) = (Api::start(), folder());
    let mut proxy = Running::start(&mut before(&api, folder.path()));
    proxy.address();
    let whole = folder.path().canonicalize().expect("it is there");
    for line in [
        format!("protects {}: every POST and PATCH with an Idempotency-Key takes effect once", api.url()),
        "scope host + credentials: a key belongs to its host and its sender (Authorization + X-Api-Key + Cookie)"
            .into(),
        format!("store {}", whole.join("onceproxy.db").display()),
        format!("admin token {} (made now)", whole.join("onceproxy.token").display()),
    ] {
        assert!(proxy.seen().lines().any(|seen| seen == line), "{line:?} is not in\n{}", proxy.seen());
    }
    #[cfg(unix)]
    for name in ["onceproxy.db", "onceproxy.token"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(folder.path().join(name)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn records_work_at_once_in_the_same_folder() {
    let (api, folder) = (Api::start(), folder());
    let mut proxy = Running::start(&mut before(&api, folder.path()));
    let (address, admin) = (proxy.address(), proxy.admin());
    post(&address, "order-1", &["-H", "Authorization: Bearer A"]);
    let lookup = |more: &[&str]| {
        let arguments = ["records", "--admin", &admin, "lookup", "--route", "all", "--host", "api.example.com"];
        let what = ["--path", "/payments", "--key", "order-1"];
        onceproxy(folder.path(), &[&arguments[..], &what[..], more].concat())
    };
    let found = lookup(&["--header", "authorization: Bearer A"]);
    assert_eq!(found.code, 0, "{found:?}");
    assert!(found.out.contains("state           completed"), "{found:?}");
    assert_eq!(lookup(&[]).code, 1, "another sender's key is another key");
    assert_eq!(onceproxy(folder.path(), &["healthcheck", "--ready", "--admin", &admin]).code, 0);
}

#[test]
fn a_taken_admin_port_is_no_hindrance() {
    let (api, folder, other) = (Api::start(), folder(), folder());
    let without_admin = |folder: &Path| {
        Running::start(&mut command(folder, &["run", "--upstream", &api.url(), "--listen", "127.0.0.1:0"]))
    };
    let (mut first, mut second) = (without_admin(folder.path()), without_admin(other.path()));
    let admins = [first.admin(), second.admin()];
    assert_ne!(admins[0], admins[1]);
    // Another test or program may have the port, but these two cannot both.
    let (late, admin) = if admins[0].ends_with(":9180") { (&mut second, &admins[1]) } else { (&mut first, &admins[0]) };
    let said = late.wait_for("127.0.0.1:9180 is taken: ");
    assert_eq!(said, format!("use `onceproxy records --admin {admin}`"));
}

#[test]
fn a_database_serves_one_process() {
    let (api, folder) = (Api::start(), folder());
    let mut proxy = Running::start(&mut before(&api, folder.path()));
    proxy.address();
    let second = output(&mut before(&api, folder.path()));
    assert_eq!((second.code, second.out.as_str()), (1, ""), "{second:?}");
    assert!(second.err.contains("onceproxy.db is in use by another process"), "{second:?}");
}

#[test]
fn a_taken_data_port_ends_it() {
    let (api, folder) = (Api::start(), folder());
    let taken = api.address.to_string();
    let arguments = ["run", "--upstream", &api.url(), "--listen", &taken, "--store", "memory:"];
    refused(folder.path(), &arguments, 1, &format!("cannot listen on {taken}"));
}

#[test]
fn a_signal_is_a_quiet_end() {
    let (api, folder) = (Api::start(), folder());
    let mut proxy = Running::start(&mut before(&api, folder.path()));
    proxy.address();
    assert_eq!(proxy.terminate(), Some(0));
}

#[test]
fn a_second_interrupt_ends_what_would_drain_for_long() {
    let folder = folder();
    // It takes connections, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("its address"));
    let arguments = ["run", "--upstream", &url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut proxy = Running::start(&mut command(folder.path(), &arguments));
    let target = format!("http://{}/payments", proxy.address());
    let mut client = Command::new("curl").args(["-s", "-H", "Idempotency-Key: a", "-d", "pay", &target]).spawn();
    let asked = silent.accept().expect("the request comes");
    proxy.signal("TERM");
    proxy.wait_for("draining");
    assert_eq!(proxy.interrupt(), Some(1));
    drop(asked);
    client.as_mut().expect("curl runs").wait().expect("it ends");
}

#[test]
fn flags_beat_environment_and_environment_beats_the_file() {
    let (api, folder) = (Api::start(), folder());
    write(folder.path(), &with_file(&api));
    let mut by_environment = command(folder.path(), &["run"]);
    by_environment.env("ONCEPROXY_CONFIG", "onceproxy.toml").env("ONCEPROXY_LISTEN", "127.0.0.1:0");
    let mut proxy = Running::start(&mut by_environment);
    assert_eq!(post(&proxy.address(), "order-1", &[]).status, 201);
    let mut by_flag = command(folder.path(), &["run", "-c", "onceproxy.toml", "--listen", "127.0.0.1:0"]);
    by_flag.env("ONCEPROXY_LISTEN", "nonsense").env("ONCEPROXY_UPSTREAM", "");
    let mut proxy = Running::start(&mut by_flag);
    assert_eq!(post(&proxy.address(), "order-1", &[]).status, 201);
    let mut wrong = command(folder.path(), &["run", "-c", "onceproxy.toml"]);
    let wrong = output(wrong.env("ONCEPROXY_LISTEN", "nonsense"));
    assert_eq!(wrong.code, 2, "{wrong:?}");
}

#[test]
fn the_token_of_the_environment_is_the_admin_listeners() {
    let (api, folder) = (Api::start(), folder());
    let mut proxy = Running::start(before(&api, folder.path()).env("ONCEPROXY_ADMIN_TOKEN", "open-sesame"));
    let admin = proxy.admin();
    assert!(!folder.path().join("onceproxy.token").exists(), "none is made where one is given");
    let list = |token: &str| {
        let mut list = command(folder.path(), &["records", "--admin", &admin, "list"]);
        output(list.env("ONCEPROXY_ADMIN_TOKEN", token)).code
    };
    assert_eq!((list("open-sesame"), list("wrong")), (0, 1));
}

#[test]
fn a_public_admin_listener_gets_the_token_that_is_made() {
    let (api, folder) = (Api::start(), folder());
    let mut public = command(folder.path(), &["run", "--upstream", &api.url(), "--listen", "127.0.0.1:0"]);
    let mut proxy = Running::start(public.args(["--admin", "0.0.0.0:0"]));
    let admin = proxy.admin();
    assert_eq!(onceproxy(folder.path(), &["records", "--admin", &admin, "list"]).code, 0);
    let mut stranger = command(folder.path(), &["records", "--admin", &admin, "list"]);
    assert_eq!(output(stranger.env("ONCEPROXY_ADMIN_TOKEN", "wrong")).code, 1);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_made() {
    let (api, folder) = (Api::start(), folder());
    let at = folder.path();
    refused(at, &["run"], 2, "onceproxy run --upstream http://127.0.0.1:3000");
    refused(at, &["run", "--upstream", "ftp://h"], 2, "`--upstream`");
    refused(at, &["run", "--upstream", "h2c://h/path"], 2, "has a path");
    refused(at, &["run", "--upstream", &api.url(), "--store", "mysql://h"], 2, "is not a store URL");
    refused(at, &["run", "--upstream", &api.url(), "--listen", "8080"], 2, "`--listen or ONCEPROXY_LISTEN`");
    refused(at, &["run", "-c", "missing.toml"], 2, "cannot read the configuration file missing.toml");
    write(at, &with_file(&api));
    refused(at, &["run", "-c", "onceproxy.toml", "--upstream", &api.url()], 2, "says two things at once");
    write(at, &with_file(&api).replace("[store]\nurl = \"memory:\"\n", ""));
    refused(at, &["run", "-c", "onceproxy.toml"], 2, "the file has no [store]");
    write(at, &with_file(&api).replace("name = \"all\"", "nam = \"all\""));
    refused(at, &["run", "-c", "onceproxy.toml"], 2, "did you mean `name`?");
    let left: Vec<_> = fs::read_dir(at).expect("it is there").map(|entry| entry.expect("a name").file_name()).collect();
    assert_eq!(left, ["onceproxy.toml"], "no database and no token were made");
}
