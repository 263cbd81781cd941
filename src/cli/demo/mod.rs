//! `demo`: a small payments API and the proxy before it, in one process, with the commands that show what it is for.

mod payments;
mod tour;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use secrecy::SecretString;
use tokio::net::TcpListener;

use super::args::DemoArguments;
use super::run::{begin_logs, log_level, wrong};
use super::signals::Hangup;
use super::{Failure, output, runtime, signals, token};
use crate::app::{self, AppError, PortTaken};
use crate::config::Config;
use crate::config::load::Overrides;

use self::payments::{Answers, Payments};
use self::tour::Tour;

/// Where the proxy listens unless it is taken.
const PORT: u16 = 8080;
/// The random bytes of the demo's token: it guards made-up payments for a few minutes.
const TOKEN_BYTES: usize = 8;

/// Runs the demo until it is asked to end.
pub(super) fn run(arguments: &DemoArguments) -> Result<(), Failure> {
    let answers = if arguments.chaos { Answers::SomeLost } else { Answers::All };
    runtime()?.block_on(show(answers))
}

async fn show(answers: Answers) -> Result<(), Failure> {
    let failed = |error| Failure::Failed(format!("cannot start the demo API: {error}"));
    let mut shutdown = Box::pin(signals::shutdown(Hangup::Ends)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    let api = listener.local_addr().map_err(failed)?;
    let token = token::random(TOKEN_BYTES);
    let mut config = configuration(api, &token)?;
    begin_logs(&config)?;
    tokio::spawn(payments::serve(Arc::new(Payments::new(answers)), listener));
    let policy = config.routes.first().map(|route| route.policy.clone());
    let tell = |started| {
        let tour = Tour { started, api, token: token.clone(), policy: policy.clone() };
        output::say(&match answers {
            Answers::All => tour.of_a_replay(),
            Answers::SomeLost => tour.of_an_unknown_outcome(),
        });
    };
    let mut ended = app::run(config.clone(), PortTaken::TakeAnother, &mut shutdown, tell).await;
    if matches!(&ended, Err(AppError::Bind(address, _)) if *address == config.listener.address) {
        config.listener.address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
        ended = app::run(config, PortTaken::TakeAnother, shutdown, tell).await;
    }
    ended.map_err(|error| Failure::Failed(error.to_string()))
}

fn configuration(api: SocketAddr, token: &str) -> Result<Config, Failure> {
    let overrides = Overrides {
        listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)).to_string()),
        store: Some("memory:".to_owned()),
        admin_token: Some(SecretString::from(token.to_owned())),
        // A lost answer is the demo's own doing, and is no news.
        log: log_level().or_else(|| Some("error".to_owned())),
        ..Overrides::default()
    };
    Config::for_upstream(&format!("http://{api}"), &overrides).map_err(wrong)
}
