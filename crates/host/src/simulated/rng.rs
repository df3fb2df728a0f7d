//! Chance that a seed decides.

use std::ops::Range;

/// `SplitMix64`: small, quick, and good enough to choose faults by.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence of its own, which depends on this one and a name.
    #[must_use]
    pub fn fork(&mut self, name: &str) -> Self {
        let mut seed = self.number();
        for byte in name.bytes() {
            seed = (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of this range, which must not be empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.number() % (range.end - range.start).max(1)
    }

    /// A place in a list of so many.
    pub fn place(&mut self, len: usize) -> usize {
        self.within(0..len as u64) as usize
    }

    /// `true` in so many of a hundred cases.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.within(0..100) < chance
    }
}
