//! Where a run took place.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::Result;
use crate::arguments::Arguments;
use crate::process::text;

/// Files that client, upstream and servers together may have open; each inherits the limit.
const MIN_FILES: u64 = 8192;

/// The lines above the tables: machine, programs, date.
pub fn describe(arguments: &Arguments) -> Result<Vec<String>> {
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let processor = processor.trim_start_matches(['\t', ' ', ':']);
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let nginx = said(text(&arguments.nginx)?, &["-v"]).ok_or("nginx -v failed")?;
    let redis = said("redis-server", &["--version"]).ok_or("redis-server --version failed")?;
    let redis = redis.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("?").to_owned();
    let commit = said("git", &["-C", text(root)?, "describe", "--always", "--dirty"]);
    Ok(vec![
        format!("Machine: {processor}, {cores} cores, Linux {}; load before the run {load}.", kernel.trim()),
        format!(
            "Programs: onceproxy {} (commit {}), {}, Redis {redis}.",
            env!("CARGO_PKG_VERSION"),
            commit.as_deref().unwrap_or("unknown"),
            nginx.trim_start_matches("nginx version: "),
        ),
        format!(
            "Date: {}. {} rounds of {} s for each side.",
            said("date", &["-u", "+%F"]).as_deref().unwrap_or("unknown"),
            arguments.rounds,
            arguments.measured.as_secs(),
        ),
    ])
}

/// Raises the limit of open files as far as it may be.
pub fn allow_many_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < MIN_FILES) {
        return Err(format!("a limit of {MIN_FILES} open files is needed (ulimit -n)").into());
    }
    let wanted = limit.current.map(|current| current.max(MIN_FILES));
    Ok(setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: limit.maximum })?)
}

/// The first line that a command prints, on whichever output.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    output.status.success().then(|| String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}
