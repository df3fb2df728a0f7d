//! Chance, from a seed that is handed in: the same seed, the same choices.

use std::time::Duration;

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng, SeedableRng};

/// A source of random numbers, good enough for the nonces of encryption when its seed is secret.
///
/// A driver seeds it from the operating system; a simulation seeds it from its own number.
pub struct Chance(ChaCha12Rng);

impl Chance {
    /// All that follows depends on this seed alone.
    pub fn from_seed(seed: [u8; 32]) -> Chance {
        Chance(ChaCha12Rng::from_seed(seed))
    }

    /// A seed for tests and simulations, where a number is easier to tell than 32 bytes.
    pub fn from_number(number: u64) -> Chance {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        Chance::from_seed(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // Multiplying instead of dividing: no modulo bias worth naming for lengths of lists.
        ((u128::from(self.number()) * bound as u128) >> 64) as usize
    }

    /// Whether something happens whose probability is `part` of `whole`.
    pub fn part_of(&mut self, part: usize, whole: usize) -> bool {
        self.below(whole) < part
    }

    /// A time below `bound`.
    pub fn duration_below(&mut self, bound: Duration) -> Duration {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(((u128::from(self.number()) * u128::from(nanos)) >> 64) as u64)
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Puts a list into a random order, every order being as likely.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            list.swap(end, self.below(end + 1));
        }
    }
}

impl std::fmt::Debug for Chance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chance") // its state would tell what comes next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut a, mut b) = (Chance::from_number(7), Chance::from_number(7));
        assert!((0..100).all(|_| a.number() == b.number()));
        assert_ne!(
            Chance::from_number(8).number(),
            Chance::from_number(7).number()
        );
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut chance = Chance::from_number(1);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[chance.below(5)] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(chance.below(0), 0);
        assert!(chance.duration_below(Duration::from_secs(1)) < Duration::from_secs(1));
    }
}
