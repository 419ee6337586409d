//! Zipfian ranks after Gray et al., "Quickly Generating Billion-Record Synthetic Databases", as YCSB draws them.
//!
//! Rank 0 is the most popular. The number of items may grow while ranks are drawn: the sum that the distribution
//! needs is then extended by the new items instead of being computed again.

use rand::RngExt;

use super::{Random, fnv_hash};

/// YCSB's skew.
pub const THETA: f64 = 0.99;

/// How many ranks the scrambled distribution draws from, whatever the number of items (0 to this, inclusive).
const SCRAMBLED_ITEMS: u64 = 10_000_000_000;

/// The zeta sum of [`SCRAMBLED_ITEMS`] items at [`THETA`], which would take minutes to compute.
const SCRAMBLED_ZETA: f64 = 26.469_028_201_783_02;

/// Draws ranks from 0 up to a number of items, rank *r* about `1 / (r + 1)^theta` as often as rank 0.
#[derive(Debug, Clone)]
pub struct Zipfian {
    theta: f64,
    items: u64,
    zeta: f64,
    eta: f64,
    /// The weight of rank 1.
    second: f64,
}

impl Zipfian {
    /// Over ranks `0..items`; takes time in proportion to `items`.
    pub fn new(items: u64, theta: f64) -> Self {
        let items = items.max(1);
        Self::with_zeta(items, theta, extend_zeta(0.0, 0, items, theta))
    }

    fn with_zeta(items: u64, theta: f64, zeta: f64) -> Self {
        let mut zipfian = Zipfian { theta, items, zeta, eta: 0.0, second: 0.5_f64.powf(theta) };
        zipfian.set_eta();
        zipfian
    }

    fn set_eta(&mut self) {
        let zeta_of_two = 1.0 + self.second;
        self.eta = (1.0 - (2.0 / self.items as f64).powf(1.0 - self.theta)) / (1.0 - zeta_of_two / self.zeta);
    }

    /// Makes room for more items. Fewer than there are change nothing, as in YCSB.
    pub fn grow_to(&mut self, items: u64) {
        if items > self.items {
            self.zeta = extend_zeta(self.zeta, self.items, items, self.theta);
            self.items = items;
            self.set_eta();
        }
    }

    /// The rank that belongs to `u`, uniform in `0.0..1.0`.
    pub fn rank(&self, u: f64) -> u64 {
        let scaled = u * self.zeta;
        if scaled < 1.0 {
            0
        } else if scaled < 1.0 + self.second {
            1.min(self.items - 1)
        } else {
            let alpha = 1.0 / (1.0 - self.theta);
            let rank = (self.items as f64 * (self.eta * u - self.eta + 1.0).powf(alpha)) as u64;
            rank.min(self.items - 1)
        }
    }

    /// Draws a rank.
    pub fn draw(&self, random: &mut Random) -> u64 {
        self.rank(random.random())
    }
}

/// Zipfian popularity scattered over the items: which items are popular does not change when items are added, as
/// long as their number was foreseen.
#[derive(Debug, Clone)]
pub struct ScrambledZipfian {
    ranks: Zipfian,
    items: u64,
}

impl ScrambledZipfian {
    /// Over items `0..items`.
    pub fn new(items: u64) -> Self {
        let ranks = Zipfian::with_zeta(SCRAMBLED_ITEMS + 1, THETA, SCRAMBLED_ZETA);
        ScrambledZipfian { ranks, items: items.max(1) }
    }

    /// Draws an item.
    pub fn draw(&self, random: &mut Random) -> u64 {
        fnv_hash(self.ranks.draw(random)) % self.items
    }
}

/// The sum of `1 / i^theta` for `i` in `1..=to`, given the sum up to `from`.
fn extend_zeta(sum: f64, from: u64, to: u64, theta: f64) -> f64 {
    (from..to).fold(sum, |sum, item| sum + 1.0 / ((item + 1) as f64).powf(theta))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    /// Computed apart from this code, from the formulas in the paper.
    #[test]
    fn ranks_are_the_known_ones() {
        let draws = [0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999_999];
        let ranks = |items| draws.map(|u| Zipfian::new(items, THETA).rank(u));
        assert_eq!(ranks(10), [0, 0, 0, 0, 1, 4, 7, 9, 9]);
        assert_eq!(ranks(1000), [0, 0, 0, 3, 22, 151, 471, 927, 999]);
        assert_eq!(ranks(1_000_000), [0, 0, 2, 20, 860, 31_220, 253_526, 872_507, 999_986]);

        let scrambled = ScrambledZipfian::new(1000);
        let ranks = [0.0, 0.05, 0.1, 0.25, 0.5].map(|u| scrambled.ranks.rank(u));
        assert_eq!(ranks, [0, 1, 6, 296, 134_552]);
    }

    #[test]
    fn zeta_is_the_known_one_however_it_is_reached() {
        let at_once = Zipfian::new(1000, THETA);
        assert!((at_once.zeta - 7.728_953_217_284_738).abs() < 1e-9);
        let mut grown = Zipfian::new(10, THETA);
        for items in [10, 11, 500, 400, 1000] {
            grown.grow_to(items);
        }
        assert_eq!(grown.items, 1000);
        assert!((grown.zeta - at_once.zeta).abs() < 1e-9 && (grown.eta - at_once.eta).abs() < 1e-9);
    }

    #[test]
    fn one_item_is_always_rank_zero() {
        for items in [0, 1] {
            let zipfian = Zipfian::new(items, THETA);
            for u in [0.0, 0.5, 0.999_999_999] {
                assert_eq!(zipfian.rank(u), 0);
            }
        }
        let zipfian = Zipfian::new(2, THETA);
        assert!([0.0, 0.6, 0.7, 0.999_999_999].iter().all(|&u| zipfian.rank(u) < 2));
    }

    #[test]
    fn popularity_falls_with_rank_as_it_should() {
        let items = 1000;
        let zipfian = Zipfian::new(items, THETA);
        let mut random = Random::seed_from_u64(1);
        let draws = 2_000_000;
        let mut counts = vec![0_u32; items as usize];
        for _ in 0..draws {
            counts[zipfian.draw(&mut random) as usize] += 1;
        }
        // Ranks 0 and 1 are exact in this method, the rest approximate.
        for (rank, tolerance) in [(0, 0.02), (1, 0.02), (10, 0.2), (100, 0.2)] {
            let expected = f64::from(draws) / zipfian.zeta / ((rank + 1) as f64).powf(THETA);
            let found = f64::from(counts[rank]);
            assert!((found / expected - 1.0).abs() < tolerance, "rank {rank}: {found} instead of {expected}");
        }
        assert_eq!(counts.iter().sum::<u32>(), draws as u32);
    }

    #[test]
    fn scrambled_items_are_popular_but_scattered() {
        let items = 10_000;
        let scrambled = ScrambledZipfian::new(items);
        let mut random = Random::seed_from_u64(2);
        let draws = 1_000_000;
        let mut counts = vec![0_u32; items as usize];
        for _ in 0..draws {
            counts[scrambled.draw(&mut random) as usize] += 1;
        }
        // The most popular item is where rank 0 hashes to, and has its share of 1 / zeta.
        let top = (0..items as usize).max_by_key(|&item| counts[item]).unwrap();
        assert_eq!(top as u64, fnv_hash(0) % items);
        let share = f64::from(counts[top]) / f64::from(draws);
        assert!((0.036..0.040).contains(&share), "{share}");
        let lower_half: u32 = counts[..items as usize / 2].iter().sum();
        assert!((300_000..700_000).contains(&lower_half), "{lower_half}");
    }
}
