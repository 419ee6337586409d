//! The records that everything is measured with: 16 B keys in random order, 100 B values.

use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// The length of every key.
pub const KEY_BYTES: usize = 16;

/// The length of every value.
pub const VALUE_BYTES: usize = 100;

/// A key: 16 hexadecimal digits.
pub type Key = [u8; KEY_BYTES];

/// A number of records. Record `i` has a key that looks random, so inserting them by number is inserting them in
/// random order; no two have the same.
#[derive(Debug, Clone, Copy)]
pub struct Records {
    /// How many there are.
    pub count: u64,
}

impl Records {
    /// `count` records.
    pub fn new(count: u64) -> Self {
        Records { count }
    }

    /// The key of a number. Those from `count` on are of records that are not there, and lie among the others.
    pub fn key(self, number: u64) -> Key {
        // The finaliser of splitmix64, which is a bijection.
        let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let mut key = [0; KEY_BYTES];
        for (digit, byte) in key.chunks_exact_mut(2).zip(mixed.to_be_bytes()) {
            digit[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            digit[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        key
    }

    /// The value of a number: random bytes, the same each time.
    pub fn value(self, number: u64) -> [u8; VALUE_BYTES] {
        let mut value = [0; VALUE_BYTES];
        Xoshiro256PlusPlus::seed_from_u64(number).fill_bytes(&mut value);
        value
    }

    /// Keys of records that are there, each drawn apart from the others.
    pub fn hits(self, draws: usize) -> Vec<Key> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        (0..draws).map(|_| self.key(random.random_range(0..self.count))).collect()
    }

    /// Keys of records that are not there.
    pub fn misses(self, draws: usize) -> Vec<Key> {
        (self.count..).take(draws).map(|number| self.key(number)).collect()
    }

    /// Keys of records that are there, some far more often than others: see [`zipf_indices`].
    pub fn zipf(self, draws: usize) -> Vec<Key> {
        zipf_indices(self.count, draws).into_iter().map(|number| self.key(number)).collect()
    }
}

/// Numbers below `count`, number *i* about `1 / (i + 1)^0.99` as often as number 0. As the keys of neighbouring numbers
/// are far apart, so are the popular records.
pub fn zipf_indices(count: u64, draws: usize) -> Vec<u64> {
    let mut total = 0.0;
    let sums: Vec<f64> = (1..=count)
        .map(|rank| {
            total += (rank as f64).powf(-0.99);
            total
        })
        .collect();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
    let draw = |_| {
        let at = random.random::<f64>() * total;
        (sums.partition_point(|&sum| sum <= at) as u64).min(count - 1)
    };
    (0..draws).map(draw).collect()
}

/// Looks at every cache line of a value, so that a get or a scan that only found it does not look better than it is.
#[inline]
pub fn touch(value: &[u8]) -> u8 {
    let lines = value.iter().step_by(64).fold(0, |sum, byte| sum ^ byte);
    lines ^ value.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn keys_differ_and_misses_are_not_there() {
        let records = Records::new(10_000);
        let there: BTreeSet<Key> = (0..records.count).map(|number| records.key(number)).collect();
        assert_eq!(there.len(), 10_000);
        assert!(records.misses(5_000).iter().all(|key| !there.contains(key)));
        assert!(records.hits(5_000).iter().all(|key| there.contains(key)));
        let lower_half = there.iter().filter(|key| key[0] < b'8').count();
        assert!((4_500..5_500).contains(&lower_half), "{lower_half}");
    }

    #[test]
    fn zipf_draws_are_as_skewed_as_they_should_be() {
        let draws = zipf_indices(1000, 200_000);
        let share = |number| draws.iter().filter(|&&drawn| drawn == number).count() as f64 / 200_000.0;
        // The sum of 1 / i^0.99 over 1000 numbers is 7.729.
        assert!((share(0) - 1.0 / 7.729).abs() < 0.005, "{}", share(0));
        assert!((share(9) - 10_f64.powf(-0.99) / 7.729).abs() < 0.002, "{}", share(9));
        assert!(draws.iter().all(|&number| number < 1000));
    }
}
