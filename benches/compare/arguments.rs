//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;

pub const USAGE: &str = "\
cargo bench --bench compare -- [OPTION]...
  --quick         a second per side, three rounds: to see that it works, not to be quoted
  --rounds N      rounds per scenario (default 7)
  --seconds N     measured seconds per side and round (default 3)
  --rate N        requests per second of the open loop (default: half of what fresh keys reach)
  --only TEXT     only scenarios whose name contains TEXT; may be repeated
  --callgrind     also count instructions; takes minutes
  --keys          also fill Redis with a million keys; takes minutes and 1 GB
  --proxy FILE    the onceproxy to measure (default target/release/onceproxy)
  --nginx FILE    the nginx to measure against (default nginx)
  --write         put the result into docs/performance.md
  --list          name the scenarios";

/// What to run, and how long.
pub struct Arguments {
    /// As it was typed, for the report.
    pub command_line: String,
    pub quick: bool,
    pub rounds: usize,
    pub warm_up: Duration,
    pub measured: Duration,
    pub rate_per_second: Option<u32>,
    pub only: Vec<String>,
    pub callgrind: bool,
    pub keys: bool,
    pub proxy: PathBuf,
    pub nginx: PathBuf,
    pub write: Option<PathBuf>,
    pub list: bool,
}

impl Arguments {
    /// Reads the arguments; none when this is not a run of `cargo bench`, but of a test runner that visits every target.
    pub fn read(words: impl Iterator<Item = String>) -> Result<Option<Arguments>> {
        let words: Vec<String> = words.collect();
        if !words.iter().any(|word| word == "--bench") {
            eprintln!("compare: nothing to test here; run it with cargo bench");
            return Ok(None);
        }
        let typed: Vec<String> = words.into_iter().filter(|word| word != "--bench").collect();
        Arguments::parse(&typed).map(Some)
    }

    fn parse(typed: &[String]) -> Result<Arguments> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut arguments = Arguments {
            command_line: typed.join(" "),
            quick: typed.iter().any(|word| word == "--quick"),
            rounds: 7,
            warm_up: Duration::from_millis(500),
            measured: Duration::from_secs(3),
            rate_per_second: None,
            only: Vec::new(),
            callgrind: false,
            keys: false,
            proxy: root.join("target/release/onceproxy"),
            nginx: PathBuf::from("nginx"),
            write: None,
            list: false,
        };
        if arguments.quick {
            arguments.rounds = 3;
            arguments.measured = Duration::from_secs(1);
        }
        let mut words = typed.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => {}
                "--rounds" => arguments.rounds = positive(word, value()?)? as usize,
                "--seconds" => arguments.measured = Duration::from_secs(positive(word, value()?)?.into()),
                "--rate" => arguments.rate_per_second = Some(positive(word, value()?)?),
                "--only" => arguments.only.push(value()?.clone()),
                "--callgrind" => arguments.callgrind = true,
                "--keys" => arguments.keys = true,
                "--proxy" => arguments.proxy = PathBuf::from(value()?),
                "--nginx" => arguments.nginx = PathBuf::from(value()?),
                "--write" => arguments.write = Some(root.join("docs/performance.md")),
                "--list" => arguments.list = true,
                other => return Err(format!("{other} is not an option").into()),
            }
        }
        if arguments.write.is_some() && (arguments.quick || !arguments.only.is_empty()) {
            return Err("--write keeps a whole run: it does not go with --quick or --only".into());
        }
        Ok(arguments)
    }
}

fn positive(option: &str, text: &str) -> Result<u32> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{option} {text}: not a positive number").into()),
    }
}
