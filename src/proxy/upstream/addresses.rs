//! The addresses of an upstream's name: whose turn it is, and which are avoided because they did not answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

/// How long an address that did not answer is left alone; then one connection tries it.
const AVOIDED_FOR: Duration = Duration::from_secs(10);
/// How long after that it is remembered, if nobody asks for it: the name may have moved on.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// What is known of an upstream's addresses, over all workers.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    turn: AtomicUsize,
    /// Those that did not answer, and until when they are left alone.
    avoided: Mutex<Vec<(SocketAddr, Instant)>>,
}

/// How an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    /// It did not answer, and it is time to ask again.
    Due,
    Avoided,
}

impl Addresses {
    /// The order in which a connection tries the addresses of a name.
    pub(super) fn plan(&self, found: &[SocketAddr]) -> Vec<SocketAddr> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut avoided = self.avoided();
        avoided.retain(|(_, until)| now < *until + REMEMBERED_FOR);
        let mut is_asked = false;
        let standing = |address: &SocketAddr| match avoided.iter_mut().find(|(known, _)| known == address) {
            None => Standing::Good,
            Some((_, until)) if *until <= now && !is_asked => {
                // This connection asks; until it knows, others keep away.
                is_asked = true;
                *until = now + AVOIDED_FOR;
                Standing::Due
            }
            Some(_) => Standing::Avoided,
        };
        order(found, turn, standing)
    }

    /// An address did not answer, or not in time.
    pub(super) fn failed(&self, address: SocketAddr) {
        let until = Instant::now() + AVOIDED_FOR;
        let mut avoided = self.avoided();
        match avoided.iter_mut().find(|(known, _)| *known == address) {
            Some((_, known)) => *known = until,
            None => avoided.push((address, until)),
        }
    }

    /// An address answered.
    pub(super) fn answered(&self, address: SocketAddr) {
        self.avoided().retain(|(known, _)| *known != address);
    }

    fn avoided(&self) -> MutexGuard<'_, Vec<(SocketAddr, Instant)>> {
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The order of addresses: one that is due comes first, since nobody would ask it otherwise; those in good standing
/// follow, each the first in its turn; those that are avoided are what is left when nothing else answers.
fn order(found: &[SocketAddr], turn: usize, standing: impl FnMut(&SocketAddr) -> Standing) -> Vec<SocketAddr> {
    let standings: Vec<Standing> = found.iter().map(standing).collect();
    let those = |wanted: Standing| {
        let mut those: Vec<SocketAddr> =
            found.iter().zip(&standings).filter(|(_, standing)| **standing == wanted).map(|(a, _)| *a).collect();
        let first = turn % those.len().max(1);
        those.rotate_left(first);
        those
    };
    [Standing::Due, Standing::Good, Standing::Avoided].into_iter().flat_map(those).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }

    fn ports(addresses: &[SocketAddr]) -> Vec<u16> {
        addresses.iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn each_good_address_is_first_in_its_turn() {
        let found = some(&[1, 2, 3]);
        let orders: Vec<Vec<u16>> = (0..4).map(|turn| ports(&order(&found, turn, |_| Standing::Good))).collect();
        assert_eq!(orders, [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]);
    }

    #[test]
    fn avoided_addresses_come_last_and_take_no_turn() {
        let found = some(&[1, 2, 3]);
        let standing = |a: &SocketAddr| if a.port() == 1 { Standing::Avoided } else { Standing::Good };
        let orders: Vec<Vec<u16>> = (0..3).map(|turn| ports(&order(&found, turn, standing))).collect();
        assert_eq!(orders, [[2, 3, 1], [3, 2, 1], [2, 3, 1]]);
        assert_eq!(order(&[], 7, |_| Standing::Good), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_did_not_answer_is_asked_again_by_one_connection() {
        let (addresses, found) = (Addresses::default(), some(&[1, 2]));
        addresses.failed(found[0]);
        for _ in 0..4 {
            assert_eq!(ports(&addresses.plan(&found)), [2, 1]);
        }
        tokio::time::advance(AVOIDED_FOR).await;
        assert_eq!(ports(&addresses.plan(&found)), [1, 2]);
        assert_eq!(ports(&addresses.plan(&found)), [2, 1], "one asks, the others do not");
        addresses.answered(found[0]);
        let firsts: Vec<u16> = (0..2).map(|_| addresses.plan(&found)[0].port()).collect();
        assert_eq!(firsts.iter().sum::<u16>(), 3, "both have their turns again: {firsts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_avoided_all_are_asked() {
        let (addresses, found) = (Addresses::default(), some(&[1, 2]));
        found.iter().for_each(|address| addresses.failed(*address));
        assert_eq!(addresses.plan(&found).len(), 2);
        tokio::time::advance(AVOIDED_FOR + REMEMBERED_FOR).await;
        addresses.plan(&found);
        assert_eq!(addresses.avoided().len(), 0, "what nobody asked for is forgotten");
    }
}
