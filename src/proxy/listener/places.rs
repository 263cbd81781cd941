//! Places for connections: how many there are at once, and who goes when a new one comes and there is none left.

use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::proxy::connection::activity::Activity;

/// How long a connection that was asked to leave may take before another one is asked.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a connection that has just got its place is not asked: its first request may be there, and not read yet.
const FRESH: Duration = Duration::from_millis(10);
/// Newcomers of one moment come in together where there is no place left: one by one, each would wake the worker that
/// makes room and the one that serves it.
pub(super) const MOMENT: Duration = Duration::from_millis(1);
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
    /// How many in the hall had no place in sight at the last look, and have entered it since.
    newcomers: usize,
    /// When connections were asked to leave for them, the first one first.
    asked: Vec<Instant>,
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
        match self {
            Entry::Place(place) => place,
            Entry::Hall(part, places) => {
                let place = places.acquire_owned().await.expect("the semaphore is never closed");
                drop(part);
                activity.takes_place();
                place
            }
        }
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

    /// Makes it so many places. Those that are to go and are taken go when their connections end.
    pub(in crate::proxy) fn resize(&self, count: usize) {
        let before = self.count.swap(count, Ordering::AcqRel);
        if let Some(more) = count.checked_sub(before) {
            return self.free.add_permits(more);
        }
        let surplus = before - count;
        let taken = surplus - self.free.forget_permits(surplus);
        if taken > 0 {
            let free = self.free.clone();
            tokio::spawn(async move {
                // One by one: newcomers in the hall have their turn between them.
                for _ in 0..taken {
                    free.acquire().await.expect("the semaphore is never closed").forget();
                }
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
            newcomers: 0,
            asked: Vec::new(),
        }
    }

    /// Waits until there is room for a newcomer in the hall.
    pub(super) fn door(&self) -> impl Future<Output = ()> + use<> {
        let hall = self.hall.clone();
        async move { drop(hall.acquire().await) }
    }

    /// Lets a newcomer in, for whom there is room in the hall. Where there is no place left, it waits until one is free.
    pub(super) fn enter(&mut self) -> (Entry, Arc<Activity>) {
        let activity = Arc::new(Activity::new(self.pressure.clone()));
        let entry = match self.free.clone().try_acquire_owned() {
            Ok(place) => {
                activity.takes_place();
                Entry::Place(place)
            }
            Err(_) => {
                let part = self.hall.clone().try_acquire_owned().expect("the door was open, and nobody else comes in");
                self.newcomers += 1;
                Entry::Hall(part, self.free.clone())
            }
        };
        if self.open.len() == self.open.capacity() {
            self.open.retain(|activity| activity.strong_count() > 0);
            // Looked through again only when as many have come as were left: each pays for itself.
            self.open.reserve(self.open.len() + SLACK);
        }
        self.open.push(Arc::downgrade(&activity));
        (entry, activity)
    }

    /// Makes room for those in the hall: asks the connections to leave that have been without a complete request head the
    /// longest. Where all have requests under way, the newcomers wait.
    pub(super) async fn tend(&mut self) -> Infallible {
        loop {
            let again = self.make_room();
            if self.in_hall() == 0 {
                return pending().await;
            }
            tokio::select! {
                () = sleep_until(again) => {}
                () = self.pressure.eased.notified(), if self.is_short() => {}
            }
        }
    }

    fn in_hall(&self) -> usize {
        HALL - self.hall.available_permits()
    }

    /// Whether fewer were asked than have to go.
    fn is_short(&self) -> bool {
        self.asked.len() < self.newcomers
    }

    /// Asks as many to leave as have no place in sight, unless they have been asked already; says when to look again.
    fn make_room(&mut self) -> Instant {
        let before = self.newcomers;
        self.newcomers = self.in_hall().saturating_sub(self.free.available_permits());
        // Before the look: who answers its last request behind it rings.
        self.pressure.is_there.store(self.newcomers > 0, Ordering::SeqCst);
        let now = Instant::now();
        let placed = before.saturating_sub(self.newcomers).min(self.asked.len());
        self.asked.drain(..placed);
        self.asked.retain(|at| now < *at + AGAIN);
        let mut again = now + AGAIN;
        let mut has_looked = false;
        while self.is_short() {
            let Some((since, weak)) = self.waiting.pop() else {
                if has_looked {
                    break;
                }
                self.look();
                has_looked = true;
                continue;
            };
            let Some(activity) = weak.upgrade().filter(|activity| activity.waits_since() == Some(since)) else {
                continue;
            };
            if activity.begun() == 0 && now < since + FRESH {
                // Nobody goes before the one that has waited the longest.
                self.waiting.push((since, weak));
                again = since + FRESH;
                break;
            }
            activity.ask_to_leave();
            self.asked.push(now);
        }
        self.pressure.is_there.store(self.is_short(), Ordering::SeqCst);
        self.asked.first().map_or(again, |first| again.min(*first + AGAIN))
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
    use tokio::time::sleep;

    use super::*;

    /// One that finds a place.
    async fn take(places: &mut Places) -> (OwnedSemaphorePermit, Arc<Activity>) {
        let (entry, activity) = places.enter();
        (entry.place(&activity).await, activity)
    }

    async fn take_all(places: &mut Places, count: usize) -> Vec<(OwnedSemaphorePermit, Arc<Activity>)> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(take(places).await);
        }
        all
    }

    /// One more newcomer waits, and room is made.
    fn crowd(places: &mut Places) -> (Entry, Arc<Activity>) {
        let newcomer = places.enter();
        places.make_room();
        newcomer
    }

    fn asked(all: &[(OwnedSemaphorePermit, Arc<Activity>)]) -> Vec<bool> {
        all.iter().map(|(_, activity)| activity.is_asked_to_leave()).collect()
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
        let mut hall = vec![crowd(&mut places)];
        assert_eq!(asked(&all), [false, false, true]);
        hall.push(crowd(&mut places));
        assert_eq!(asked(&all), [true, false, true]);
        hall.push(crowd(&mut places));
        assert!(places.is_short(), "the second is under way");
        all[1].1.request_ends();
        places.make_room();
        assert_eq!(asked(&all), [true; 3]);
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
        assert!(activity.is_asked_to_leave(), "its next request may take long");
        drop(place);
        let _place = entry.place(&newcomer).await;
        assert!(newcomer.waits_since().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_are_asked_as_newcomers_wait_and_others_when_they_do_not_go() {
        let mut places = Places::new(&Capacity::new(6));
        let mut all = take_all(&mut places, 6).await;
        let mut hall = vec![places.enter(), places.enter()];
        assert_eq!(places.make_room(), Instant::now() + FRESH, "they have come just now");
        tokio::time::advance(FRESH).await;
        places.make_room();
        let count = |all: &[_]| asked(all).into_iter().filter(|is_asked| *is_asked).count();
        assert_eq!(count(&all), 2);
        // One goes, and whom it made room for has not noticed yet.
        let gone = all.iter().position(|(_, activity)| activity.is_asked_to_leave()).expect("two are asked");
        drop(all.remove(gone));
        places.make_room();
        assert_eq!(count(&all), 1, "nobody else has to go for it");
        let (entry, activity) = hall.remove(0);
        let _place = entry.place(&activity).await;
        places.make_room();
        assert_eq!(count(&all), 1);
        tokio::time::advance(AGAIN).await;
        places.make_room();
        assert_eq!(count(&all), 2, "the other one did not go");
        drop(all);
        let (entry, activity) = hall.remove(0);
        drop(entry.place(&activity).await);
        places.make_room();
        assert_eq!((places.newcomers, places.is_short()), (0, false));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_in_the_hall_is_no_time_without_a_request() {
        let mut places = Places::new(&Capacity::new(2));
        let mut all = take_all(&mut places, 2).await;
        let (entry, activity) = places.enter();
        tokio::time::advance(Duration::from_secs(5)).await;
        all[1].1.request_begins();
        all[1].1.request_ends();
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(all.remove(0));
        all.push((entry.place(&activity).await, activity));
        tokio::time::advance(Duration::from_secs(1)).await;
        let _newcomer = crowd(&mut places);
        assert_eq!(asked(&all), [true, false]);
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
