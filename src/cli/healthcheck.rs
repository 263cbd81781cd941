//! `healthcheck`: whether a running proxy is alive, or ready, by its admin listener.

use http::StatusCode;

use super::args::HealthcheckArguments;
use super::client::Client;
use super::{Failure, output, runtime};

/// Asks once; done when the answer is 200.
pub(super) fn run(arguments: &HealthcheckArguments) -> Result<(), Failure> {
    let page = if arguments.ready { "/ready" } else { "/live" };
    let client = Client::new(&arguments.admin.address, None)?;
    let answer = runtime()?.block_on(client.get(page))?;
    let said = output::plain(String::from_utf8_lossy(&answer.body).trim());
    match answer.status {
        StatusCode::OK => {
            output::say(&said);
            Ok(())
        }
        status => Err(Failure::Failed(format!("{} answers {page} with {status}: {said}", client.address()))),
    }
}
