//! TLS and HTTP/2 before an upstream that speaks HTTP/1.1, with h2load as the client.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::CertifiedKey;

use crate::Result;
use crate::cores::Cores;
use crate::experiment::{Figure, Rounds};
use crate::h2load::{self, Manner};
use crate::proxy::Setup;
use crate::report::{Goal, Report};
use crate::stage::{CONNECTIONS, Context, Side, Stage, Store};

const HTTP1: Manner = Manner { flags: &["--h1"], scheme: "https", connections: CONNECTIONS as u64, streams: 1 };
/// As many requests at once as over HTTP/1.1.
const HTTP2: Manner = Manner { flags: &[], scheme: "https", connections: 8, streams: CONNECTIONS as u64 / 8 };
const CLEAR: Manner = Manner { scheme: "http", ..HTTP2 };
/// Connections that are opened at once: h2load takes a session up again when it has to connect anew.
const HANDSHAKES: u64 = 1_000;

/// What both servers speak with clients.
#[derive(Default)]
pub enum Transport {
    /// HTTP/1.1.
    #[default]
    Clear,
    /// HTTP/2 without TLS, nginx nothing else.
    Http2,
    /// HTTP/1.1 and HTTP/2 over TLS.
    Tls(Files),
}

/// A certificate and its key.
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// ECDSA with P-256, signed by itself.
    fn new(folder: &Path) -> Result<Files> {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let files = Files { certificate: folder.join("certificate.pem"), key: folder.join("key.pem") };
        fs::write(&files.certificate, cert.pem())?;
        fs::write(&files.key, signing_key.serialize_pem())?;
        Ok(files)
    }
}

pub fn tls(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::set_up(context, Cores::Two, Store::Memory, |folder| {
        Ok(Setup { transport: Transport::Tls(Files::new(folder)?), ..Setup::default() })
    })?;
    compare(&stage, report, "HTTP/1.1 over TLS, unprotected route, two cores", HTTP1)?;
    compare(&stage, report, "HTTP/2 over TLS, unprotected route, two cores", HTTP2)?;
    let connections = Manner { connections: HANDSHAKES, ..HTTP1 };
    let name = "new TLS connections, two cores, a full handshake and a request each";
    rows(&stage, report, name, connections, &[HANDSHAKES; 2])
}

pub fn clear(context: &Context, report: &mut Report) -> Result<()> {
    let stage = Stage::set_up(context, Cores::Two, Store::Memory, |_| {
        Ok(Setup { transport: Transport::Http2, ..Setup::default() })
    })?;
    compare(&stage, report, "HTTP/2 in clear text, unprotected route, two cores", CLEAR)
}

fn compare(stage: &Stage<'_>, report: &mut Report, name: &str, manner: Manner) -> Result<()> {
    let sides = sides();
    let mut requests = Vec::new();
    for side in &sides {
        // It is the warm-up, too.
        requests.push(h2load::requests_of_a_round(stage, side, manner)?);
    }
    rows(stage, report, name, manner, &requests)
}

fn sides() -> [Side; 2] {
    [Side::unprotected(), Side::nginx()].map(|side| side.without_key(side.name))
}

fn rows(stage: &Stage<'_>, report: &mut Report, name: &str, manner: Manner, requests: &[u64]) -> Result<()> {
    let sides = sides();
    let mut negotiated = [const { None }; 2];
    let names = sides.iter().map(|side| side.name).collect();
    let rounds = Rounds::take(names, stage.rounds(), |index| {
        let (sample, said) = h2load::run(stage, &sides[index], manner, requests[index])?;
        negotiated[index] = Some(said);
        Ok(sample)
    })?;
    if negotiated[0] != negotiated[1] {
        return Err(format!("{name}: the servers did not agree to the same: {negotiated:?}").into());
    }
    report.ratio(&format!("{name}, rate against nginx"), &rounds, 0, 1, Figure::Rate, Goal::Stated);
    report.ratio(&format!("{name}, CPU against nginx"), &rounds, 0, 1, Figure::Cpu, Goal::Stated);
    report.sides(name, &rounds);
    Ok(())
}
