//! Places for connections: how many there are at once, and who goes when a new one comes and there is none left.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use crate::proxy::connection::activity::Activity;

/// How long a connection that was asked to leave may take before the next one is asked.
const AGAIN: Duration = Duration::from_millis(100);
/// How many that wait are remembered by one look at all connections.
const BATCH: usize = 64;
/// How many connections that are over may be remembered beside those that are not.
const SLACK: usize = 64;

/// Tells that somebody waits for a place until a request ends.
#[derive(Default)]
pub(in crate::proxy) struct Pressure {
    is_there: AtomicBool,
    eased: Notify,
}

/// How many connections there may be at once; the number may change.
pub(in crate::proxy) struct Capacity {
    free: Arc<Semaphore>,
    count: AtomicUsize,
}

/// The places of a listener.
pub(super) struct Places {
    free: Arc<Semaphore>,
    pressure: Arc<Pressure>,
    /// The connections; some of them are over.
    open: Vec<Weak<Activity>>,
    /// Those that wait the longest, as of the last look: the longest at the end.
    waiting: Vec<(Instant, Weak<Activity>)>,
}

impl Pressure {
    /// A connection has answered all its requests: it may go now.
    pub(in crate::proxy) fn ease(&self) {
        if self.is_there.load(Ordering::SeqCst) {
            self.eased.notify_one();
        }
    }
}

impl Capacity {
    pub(in crate::proxy) fn new(count: usize) -> Capacity {
        Capacity { free: Arc::new(Semaphore::new(count)), count: AtomicUsize::new(count) }
    }

    /// Makes it so many places. Those that are to go and are taken go when their connections end, before anybody new
    /// gets one.
    pub(in crate::proxy) fn resize(&self, count: usize) {
        let before = self.count.swap(count, Ordering::AcqRel);
        if let Some(more) = count.checked_sub(before) {
            return self.free.add_permits(more);
        }
        let surplus = before - count;
        let taken = surplus - self.free.forget_permits(surplus);
        if let Some(taken) = u32::try_from(taken).ok().filter(|taken| *taken > 0) {
            let free = self.free.clone();
            tokio::spawn(async move {
                let permits = free.acquire_many_owned(taken).await.expect("the semaphore is never closed");
                permits.forget();
            });
        }
    }
}

impl Places {
    pub(super) fn new(capacity: &Capacity) -> Places {
        Places { free: capacity.free.clone(), pressure: Arc::default(), open: Vec::new(), waiting: Vec::new() }
    }

    /// A new connection's place. Where there is none left, the connection that has been without a complete request head
    /// the longest is asked to leave; where all have requests under way, the new one waits.
    pub(super) async fn take(&mut self) -> (OwnedSemaphorePermit, Arc<Activity>) {
        let place = match self.free.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.pressure.is_there.store(true, Ordering::SeqCst);
                let place = self.make_room().await;
                self.pressure.is_there.store(false, Ordering::SeqCst);
                place
            }
        };
        let activity = Arc::new(Activity::new(self.pressure.clone()));
        let count = self.open.len();
        if count == self.open.capacity() {
            self.open.retain(|activity| activity.strong_count() > 0);
            // Looked through again only when as many have come as were left: each pays for itself.
            self.open.reserve(self.open.len() + SLACK);
        }
        self.open.push(Arc::downgrade(&activity));
        (place, activity)
    }

    async fn make_room(&mut self) -> OwnedSemaphorePermit {
        loop {
            let is_asked = self.ask_longest();
            tokio::select! {
                place = self.free.clone().acquire_owned() => return place.expect("the semaphore is never closed"),
                () = sleep(AGAIN), if is_asked => {}
                () = self.pressure.eased.notified(), if !is_asked => {}
            }
        }
    }

    /// Asks the connection that waits the longest to leave; `false` when none waits.
    fn ask_longest(&mut self) -> bool {
        for is_new_look in [false, true] {
            if is_new_look {
                self.look();
            }
            while let Some((since, activity)) = self.waiting.pop() {
                if let Some(activity) = activity.upgrade()
                    && activity.waits_since() == Some(since)
                {
                    activity.ask_to_leave();
                    return true;
                }
            }
        }
        false
    }

    /// Looks for the connections that wait the longest. As long as one of them waits on, none has waited longer.
    fn look(&mut self) {
        let waits = |weak: &Weak<Activity>| Some((weak.upgrade()?.waits_since()?, weak.clone()));
        let mut all: Vec<(Instant, Weak<Activity>)> = self.open.iter().filter_map(waits).collect();
        if all.len() > BATCH {
            all.select_nth_unstable_by_key(BATCH, |(since, _)| *since);
            all.truncate(BATCH);
        }
        all.sort_unstable_by_key(|(since, _)| std::cmp::Reverse(*since));
        self.waiting = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_without_a_request_goes_first_and_one_under_way_never() {
        let mut places = Places::new(&Capacity::new(3));
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(places.take().await);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // The first has had a request since, the second has one under way.
        all[0].1.request_begins();
        all[0].1.request_ends();
        all[1].1.request_begins();
        assert!(places.ask_longest());
        assert_eq!(
            all.iter().map(|(_, activity)| activity.is_asked_to_leave()).collect::<Vec<_>>(),
            [false, false, true]
        );
        assert!(places.ask_longest());
        assert!(all[0].1.is_asked_to_leave());
        assert!(!places.ask_longest(), "the second is under way");
        all[1].1.request_ends();
        assert!(places.ask_longest());
        assert!(all[1].1.is_asked_to_leave());
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_all_under_way_waits_for_the_first_that_is_answered() {
        let mut places = Places::new(&Capacity::new(1));
        let (place, activity) = places.take().await;
        activity.request_begins();
        let taken = tokio::spawn(async move { places.take().await.1.waits_since().is_some() });
        sleep(Duration::from_secs(60)).await;
        assert!(!activity.is_asked_to_leave());
        activity.request_ends();
        sleep(Duration::from_millis(1)).await;
        assert!(activity.is_asked_to_leave());
        drop(place);
        assert!(taken.await.expect("it takes the place"));
    }

    #[tokio::test]
    async fn connections_that_are_over_are_forgotten() {
        let mut places = Places::new(&Capacity::new(10));
        for _ in 0..10_000 {
            drop(places.take().await);
        }
        assert!(places.open.len() <= 2 * SLACK, "{}", places.open.len());
    }

    #[tokio::test]
    async fn places_come_and_go_as_they_are_free() {
        let capacity = Capacity::new(3);
        let mut places = Places::new(&capacity);
        let (first, second) = (places.take().await, places.take().await);
        capacity.resize(1);
        // One of them was free; the other one is owed by the first that ends.
        tokio::task::yield_now().await;
        drop(first);
        tokio::task::yield_now().await;
        assert_eq!(capacity.free.available_permits(), 0);
        drop(second);
        tokio::task::yield_now().await;
        assert_eq!(capacity.free.available_permits(), 1);
        capacity.resize(4);
        assert_eq!(capacity.free.available_permits(), 4);
    }
}
