//! Several addresses, asked one after the other without waiting for the last word of each: an address that swallows
//! packets must not take the time of the others.

use std::io;
use std::net::SocketAddr;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Duration, Instant, timeout_at};

/// How long an address is asked alone.
const HEAD_START: Duration = Duration::from_millis(250);

/// How a race ended without a winner.
#[derive(Debug)]
pub(super) enum Lost {
    /// There was no address.
    Nobody,
    /// The last failure; all failed.
    Refused(SocketAddr, io::Error),
    /// Some have not answered in time.
    Timeout,
}

/// Asks the addresses in their order: the next one when the one before has failed, or has had its share of the time.
/// The first that answers wins. Whoever was asked before the winner and has not answered has failed, too.
pub(super) async fn race<S, F>(
    order: &[SocketAddr],
    deadline: Instant,
    connect: impl Fn(SocketAddr) -> F,
    mut failed: impl FnMut(SocketAddr),
) -> Result<(SocketAddr, S), Lost>
where
    F: Future<Output = io::Result<S>>,
{
    let time = deadline.saturating_duration_since(Instant::now());
    let share = HEAD_START.min(time / u32::try_from(order.len().max(1)).unwrap_or(u32::MAX));
    let mut left = order.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut asked: Vec<SocketAddr> = Vec::new();
    let mut lost = Lost::Nobody;
    loop {
        if let Some(address) = left.next() {
            asked.push(address);
            let answer = connect(address);
            running.push(async move { (address, answer.await) });
        }
        let until = if left.len() == 0 { deadline } else { deadline.min(Instant::now() + share) };
        match timeout_at(until, running.next()).await {
            Ok(Some((winner, Ok(stream)))) => {
                asked.into_iter().take_while(|address| *address != winner).for_each(failed);
                return Ok((winner, stream));
            }
            Ok(Some((address, Err(error)))) => {
                failed(address);
                asked.retain(|asked| *asked != address);
                lost = Lost::Refused(address, error);
            }
            Ok(None) => return Err(lost),
            Err(_) if Instant::now() < deadline => {}
            Err(_) => {
                asked.into_iter().for_each(failed);
                return Err(Lost::Timeout);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Mutex;

    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    /// What an address does, by its port.
    async fn answer(address: SocketAddr) -> io::Result<u16> {
        match address.port() {
            1 => Err(io::ErrorKind::ConnectionRefused.into()),
            2 => pending().await,
            port => {
                sleep(Duration::from_millis(u64::from(port))).await;
                Ok(port)
            }
        }
    }

    async fn run(ports: &[u16]) -> (Result<u16, Lost>, Vec<u16>, Duration) {
        let order: Vec<SocketAddr> = ports.iter().map(|port| SocketAddr::from(([192, 0, 2, 1], *port))).collect();
        let (begun, failed) = (Instant::now(), Mutex::new(Vec::new()));
        let note = |address: SocketAddr| failed.lock().expect("nobody panics in here").push(address.port());
        let ended = race(&order, begun + LIMIT, answer, note).await;
        (ended.map(|(_, port)| port), failed.into_inner().expect("nobody panics in here"), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_costs_no_time() {
        let (winner, failed, took) = run(&[1, 10]).await;
        assert_eq!((winner.ok(), failed, took), (Some(10), vec![1], Duration::from_millis(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_black_hole_costs_its_head_start() {
        let (winner, failed, took) = run(&[2, 10]).await;
        assert_eq!((winner.ok(), failed, took), (Some(10), vec![2], HEAD_START + Duration::from_millis(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn many_black_holes_leave_time_for_the_last_address() {
        let holes = [2; 39];
        let (winner, failed, took) = run(&[&holes[..], &[10]].concat()).await;
        assert_eq!((winner.ok(), failed.len()), (Some(10), 39));
        assert!(took <= LIMIT, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_wins_against_a_slower_one() {
        let (winner, failed, took) = run(&[300, 400]).await;
        assert_eq!((winner.ok(), failed, took), (Some(300), vec![], Duration::from_millis(300)));
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_do_not_answer_in_time_have_failed() {
        let (ended, failed, took) = run(&[2, 1, 2]).await;
        assert!(matches!(ended, Err(Lost::Timeout)), "{ended:?}");
        assert_eq!((failed, took), (vec![1, 2, 2], LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_refusal_is_told() {
        let (ended, failed, took) = run(&[1, 1]).await;
        assert!(matches!(ended, Err(Lost::Refused(..))), "{ended:?}");
        assert_eq!((failed.len(), took), (2, Duration::ZERO));
        assert!(matches!(run(&[]).await.0, Err(Lost::Nobody)));
    }
}
