//! Chance that can be had again: the same seed, the same throws.

/// A generator of the SplitMix kind: fast, small, and good enough to pick victims.
#[derive(Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Dice of their own for one of many threads.
    pub(super) fn for_thread(&self, thread: u64) -> Dice {
        let mut dice = Dice(self.0 ^ thread.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below this one.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Happens in so many of a hundred cases.
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[test]
fn the_same_seed_throws_the_same() {
    let throws = |mut dice: Dice| (0..100).map(|_| dice.below(6)).collect::<Vec<u64>>();
    assert_eq!(throws(Dice::new(7)), throws(Dice::new(7)));
    assert_ne!(throws(Dice::new(7)), throws(Dice::new(8)));
    assert_ne!(throws(Dice::new(7)), throws(Dice::new(7).for_thread(1)));
    for side in 0..6 {
        assert!(throws(Dice::new(7)).contains(&side), "{side}");
    }
}
