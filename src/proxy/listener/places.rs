//! Places for connections: how many there are at once, and who goes when a new one comes and there is none left.

use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use crate::proxy::connection::activity::Activity;

/// How long a connection that was asked to leave may take before another one is asked.
const AGAIN: Duration = Duration::from_millis(100);
/// How many that wait for a request are remembered by one look at all connections.
const BATCH: usize = 512;
/// How many connections that are over may be remembered beside those that are not.
const SLACK: usize = 64;
/// How many newcomers may wait for a place at once; more of them wait in the kernel.
const HALL: usize = 64;

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

/// The places of a listener, and the hall before them.
pub(super) struct Places {
    free: Arc<Semaphore>,
    hall: Arc<Semaphore>,
    pressure: Arc<Pressure>,
    /// The connections; some of them are over.
    open: Vec<Weak<Activity>>,
    /// Those that wait for a request the longest, as of the last look: the longest at the end.
    waiting: Vec<(Instant, Weak<Activity>)>,
    /// Those that were asked to leave, and when.
    asked: Vec<(Instant, Weak<Activity>)>,
}

/// What a newcomer is let in with.
pub(in crate::proxy) enum Entry {
    Place(OwnedSemaphorePermit),
    /// It waits in the hall, of which it has a part, for one of the places.
    Hall(OwnedSemaphorePermit, Arc<Semaphore>),
}

impl Entry {
    /// Whether there was no place left.
    pub(super) fn is_in_hall(&self) -> bool {
        matches!(self, Entry::Hall(..))
    }

    /// Waits for the place. A connection on `activity` can be asked to leave from then on.
    pub(in crate::proxy) async fn place(self, activity: &Activity) -> OwnedSemaphorePermit {
        let place = match self {
            Entry::Place(place) => place,
            Entry::Hall(part, places) => {
                let place = places.acquire_owned().await.expect("the semaphore is never closed");
                drop(part);
                place
            }
        };
        activity.takes_place();
        place
    }
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
        Places {
            free: capacity.free.clone(),
            hall: Arc::new(Semaphore::new(HALL)),
            pressure: Arc::default(),
            open: Vec::new(),
            waiting: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// Waits until there is room for a newcomer in the hall.
    pub(super) fn door(&self) -> impl Future<Output = ()> + use<> {
        let hall = self.hall.clone();
        async move { drop(hall.acquire().await) }
    }

    /// Lets a newcomer in, for whom there is room in the hall. Where there is no place left, the connection that has been
    /// without a complete request head the longest is asked to leave; where all have requests under way, the newcomer
    /// waits.
    pub(super) fn enter(&mut self) -> (Entry, Arc<Activity>) {
        let entry = match self.free.clone().try_acquire_owned() {
            Ok(place) => Entry::Place(place),
            Err(_) => {
                let part = self.hall.clone().try_acquire_owned().expect("the door was open, and nobody else comes in");
                Entry::Hall(part, self.free.clone())
            }
        };
        let activity = Arc::new(Activity::new(self.pressure.clone()));
        if self.open.len() == self.open.capacity() {
            self.open.retain(|activity| activity.strong_count() > 0);
            // Looked through again only when as many have come as were left: each pays for itself.
            self.open.reserve(self.open.len() + SLACK);
        }
        self.open.push(Arc::downgrade(&activity));
        self.make_room();
        (entry, activity)
    }

    fn in_hall(&self) -> usize {
        HALL - self.hall.available_permits()
    }

    /// Makes room for those in the hall, as long as there are any.
    pub(super) async fn tend(&mut self) -> Infallible {
        loop {
            self.make_room();
            if self.in_hall() == 0 {
                return pending().await;
            }
            tokio::select! {
                () = sleep(AGAIN) => {}
                () = self.pressure.eased.notified() => {}
            }
        }
    }

    /// Asks as many to leave as are in the hall, unless they have been asked already.
    fn make_room(&mut self) {
        let newcomers = self.in_hall();
        self.pressure.is_there.store(newcomers > 0, Ordering::SeqCst);
        let now = Instant::now();
        self.asked.retain(|(since, activity)| now < *since + AGAIN && activity.strong_count() > 0);
        while self.asked.len() < newcomers
            && let Some(activity) = self.ask_longest()
        {
            self.asked.push((now, activity));
        }
    }

    /// Asks the connection that waits the longest to leave, if one waits.
    fn ask_longest(&mut self) -> Option<Weak<Activity>> {
        for is_new_look in [false, true] {
            if is_new_look {
                self.look();
            }
            while let Some((since, weak)) = self.waiting.pop() {
                if let Some(activity) = weak.upgrade()
                    && activity.waits_since() == Some(since)
                {
                    activity.ask_to_leave();
                    return Some(weak);
                }
            }
        }
        None
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

    /// One that finds a place.
    async fn take(places: &mut Places) -> (OwnedSemaphorePermit, Arc<Activity>) {
        let (entry, activity) = places.enter();
        (entry.place(&activity).await, activity)
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_without_a_request_goes_first_and_one_under_way_never() {
        let mut places = Places::new(&Capacity::new(3));
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(take(&mut places).await);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // The first has had a request since, the second has one under way.
        all[0].1.request_begins();
        all[0].1.request_ends();
        all[1].1.request_begins();
        assert!(places.ask_longest().is_some());
        assert_eq!(
            all.iter().map(|(_, activity)| activity.is_asked_to_leave()).collect::<Vec<_>>(),
            [false, false, true]
        );
        assert!(places.ask_longest().is_some());
        assert!(all[0].1.is_asked_to_leave());
        assert!(places.ask_longest().is_none(), "the second is under way");
        all[1].1.request_ends();
        assert!(places.ask_longest().is_some());
        assert!(all[1].1.is_asked_to_leave());
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_all_under_way_waits_for_the_first_that_is_answered() {
        let mut places = Places::new(&Capacity::new(1));
        let (place, activity) = take(&mut places).await;
        activity.request_begins();
        let (entry, newcomer) = places.enter();
        tokio::spawn(async move { places.tend().await });
        sleep(Duration::from_secs(60)).await;
        assert!(!activity.is_asked_to_leave());
        assert!(newcomer.waits_since().is_none(), "who has no place has none to give");
        activity.request_ends();
        sleep(Duration::from_millis(1)).await;
        assert!(activity.is_asked_to_leave());
        drop(place);
        let _place = entry.place(&newcomer).await;
        assert!(newcomer.waits_since().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_are_asked_as_newcomers_wait_and_others_when_they_do_not_go() {
        let mut places = Places::new(&Capacity::new(4));
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(take(&mut places).await);
        }
        let asked =
            |all: &[(_, Arc<Activity>)]| all.iter().filter(|(_, activity)| activity.is_asked_to_leave()).count();
        let newcomers = [places.enter(), places.enter()];
        assert_eq!(asked(&all), 2);
        places.make_room();
        assert_eq!(asked(&all), 2, "they have been asked");
        tokio::time::advance(AGAIN).await;
        places.make_room();
        assert_eq!(asked(&all), 4, "they did not go");
        drop(all);
        for (entry, activity) in newcomers {
            drop(entry.place(&activity).await);
        }
        assert_eq!(places.in_hall(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_the_hall_full_waits_at_the_door() {
        let mut places = Places::new(&Capacity::new(1));
        let (place, _activity) = take(&mut places).await;
        let mut hall: Vec<_> = (0..HALL).map(|_| places.enter()).collect();
        let mut door = std::pin::pin!(places.door());
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut door).await.is_err());
        drop(place);
        let (entry, activity) = hall.remove(0);
        let _place = entry.place(&activity).await;
        door.await;
    }

    #[tokio::test]
    async fn connections_that_are_over_are_forgotten() {
        let mut places = Places::new(&Capacity::new(10));
        for _ in 0..10_000 {
            drop(take(&mut places).await);
        }
        assert!(places.open.len() <= 2 * SLACK, "{}", places.open.len());
    }

    #[tokio::test]
    async fn places_come_and_go_as_they_are_free() {
        let capacity = Capacity::new(3);
        let mut places = Places::new(&capacity);
        let (first, second) = (take(&mut places).await, take(&mut places).await);
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
