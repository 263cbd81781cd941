//! `demo`: what it prints is copied into a shell, and keeps its promises.

use tempfile::TempDir;

use super::process::{Answer, Ended, Running, answer_of, command, shell};

/// A demo that runs, and the commands that it printed, in their order.
struct Demo {
    running: Running,
    folder: TempDir,
    commands: Vec<String>,
}

impl Demo {
    fn start(arguments: &[&str]) -> Demo {
        let folder = tempfile::tempdir().expect("a folder");
        let mut running = Running::start(&mut command(folder.path(), arguments));
        running.wait_for("Ctrl-C ends it");
        let is_command = |line: &&str| line.starts_with("curl ") || line.starts_with("ONCEPROXY_ADMIN_TOKEN=");
        let commands = running.seen().lines().filter(is_command).map(str::to_owned).collect();
        Demo { running, folder, commands }
    }

    fn copy(&self, number: usize) -> Ended {
        let line = self.commands.get(number - 1).unwrap_or_else(|| panic!("no {number} in {:?}", self.commands));
        shell(self.folder.path(), line)
    }

    fn ask(&self, number: usize) -> Answer {
        answer_of(&self.copy(number))
    }
}

#[test]
fn the_printed_commands_show_a_replay() {
    let mut demo = Demo::start(&["demo"]);
    let first = demo.ask(1);
    assert_eq!((first.status, first.field("idempotency-status")), (201, Some("executed")));
    let again = demo.ask(2);
    assert_eq!((again.status, again.field("idempotency-replayed")), (201, Some("true")));
    assert_eq!(first.body, again.body);
    let other = demo.ask(3);
    assert_eq!((other.status, other.code().as_str()), (422, "key-reused"));
    let look = demo.copy(4);
    assert_eq!(look.out, "{\"charges\":[{\"amount\":500,\"id\":\"ch_1\"}],\"count\":1}\n");
    assert_eq!(demo.running.wait_for("the API has charged "), "500 (ch_1)");
    assert_eq!(demo.commands.len(), 4);
    assert_eq!(demo.running.terminate(), Some(0));
}

#[test]
fn the_printed_commands_settle_a_lost_answer() {
    let mut demo = Demo::start(&["demo", "--chaos"]);
    assert_eq!(demo.ask(1).status, 201);
    let lost = demo.ask(2);
    assert_eq!((lost.status, lost.code().as_str()), (502, "upstream-lost"));
    assert_eq!(lost.field("idempotency-status"), Some("unknown"));
    assert_eq!(demo.running.wait_for("the API has charged 700 "), "(ch_2), and the answer is lost");
    let held = demo.ask(3);
    assert_eq!((held.status, held.code().as_str()), (409, "outcome-unknown"));
    assert!(demo.copy(4).out.contains("\"count\":2"), "each order was charged once");
    let listed = demo.copy(5);
    assert_eq!((listed.code, listed.out.lines().count()), (0, 2), "{listed:?}");
    let settled = demo.copy(6);
    assert!(settled.code == 0 && settled.out.starts_with("settled\n"), "{settled:?}");
    let replayed = demo.ask(7);
    assert_eq!((replayed.status, replayed.field("idempotency-replayed")), (201, Some("true")));
    assert_eq!(replayed.body, "{\"amount\":700,\"id\":\"ch_2\"}");
    assert_eq!(replayed.field("content-type"), Some("application/json"));
    assert!(demo.copy(4).out.contains("\"count\":2"), "each order was charged once");
    assert_eq!(demo.commands.len(), 7);
}

#[test]
fn two_demos_run_side_by_side() {
    let mut demos = [Demo::start(&["demo"]), Demo::start(&["demo"])];
    let addresses = demos.each_mut().map(|demo| demo.running.address());
    assert_ne!(addresses[0], addresses[1]);
    for demo in &demos {
        assert_eq!(demo.ask(1).status, 201);
    }
    assert!(std::fs::read_dir(demos[0].folder.path()).expect("it is there").next().is_none(), "nothing is left");
}
