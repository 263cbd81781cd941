//! onceproxy, with a configuration of its own for each stage.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::cores::Cores;
use crate::process::{Process, text};
use crate::secure::Transport;

/// The path of the route whose policy is off.
pub const UNPROTECTED: &str = "/plain";
/// The path of the route that is protected by the default policy.
pub const PROTECTED: &str = "/once";

/// onceproxy, and where it listens.
pub struct Proxy {
    pub process: Process,
    pub address: SocketAddr,
    /// Its configuration.
    pub file: PathBuf,
}

/// What is not as usual.
#[derive(Default)]
pub struct Setup {
    pub under: Under,
    pub transport: Transport,
    /// Settings of the listener.
    pub listener: String,
    /// Settings of the protected route.
    pub protected: String,
    /// Other sections.
    pub sections: String,
    /// Connections that each worker of nginx may have, those to the upstream among them; by default enough for all.
    pub nginx_connections: Option<usize>,
}

/// What it runs under.
#[derive(Default)]
pub enum Under {
    #[default]
    Nothing,
    /// strace, which notes each fsync in this file.
    Strace(PathBuf),
    /// callgrind, which writes its counts into this file.
    Callgrind(PathBuf),
}

impl Proxy {
    pub fn start(
        program: &Path,
        folder: &Path,
        upstream: SocketAddr,
        store: &str,
        cores: Cores,
        setup: &Setup,
    ) -> Result<Proxy> {
        let file = folder.join("onceproxy.toml");
        fs::write(&file, configuration(upstream, store, setup))?;
        let run = [text(program)?, "run", "-c", text(&file)?];
        let output;
        let mut command = match &setup.under {
            Under::Nothing => Vec::new(),
            // -D: the proxy is the child, so that signals reach it; the tracer only has its output.
            Under::Strace(path) => {
                let what = "trace=fsync,fdatasync";
                vec!["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e", what, "-o", text(path)?]
            }
            Under::Callgrind(path) => {
                output = format!("--callgrind-out-file={}", text(path)?);
                vec!["valgrind", "--tool=callgrind", &output]
            }
        };
        command.extend(run);
        let (process, line) = Process::start("onceproxy", &command, cores.server_list(), "listening on ")?;
        let address = address(&line).ok_or_else(|| format!("no address in {line:?}"))?;
        Ok(Proxy { process, address, file })
    }
}

/// The address behind `listening on`, in a line of text or of JSON.
fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    let rest = rest.trim_start_matches("http://").trim_start_matches("https://");
    let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != ':');
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

fn configuration(upstream: SocketAddr, store: &str, setup: &Setup) -> String {
    let Setup { listener, protected, sections, .. } = setup;
    let tls = match &setup.transport {
        Transport::Clear | Transport::Http2 => String::new(),
        Transport::Tls(files) => format!("tls = {{ cert = {:?}, key = {:?} }}", files.certificate, files.key),
    };
    format!(
        "\
version = 1

[listener]
address = \"127.0.0.1:0\"
{tls}
{listener}

[log]
access = false

[store]
url = \"{store}\"

[upstreams.fixed]
url             = \"http://{upstream}\"
max_connections = 2048

[[routes]]
name     = \"unprotected\"
path     = \"{UNPROTECTED}\"
upstream = \"fixed\"
policy   = {{ mode = \"off\" }}

[[routes]]
name     = \"protected\"
path     = \"{PROTECTED}\"
upstream = \"fixed\"
{protected}
{sections}
"
    )
}
