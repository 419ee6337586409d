//! Which keys are asked for.

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace_benches::{Key, Records, zipf_indices};

/// Keys are drawn so many at a time, so that drawing them costs no time of the gets.
pub const BLOCK: usize = 1024;

/// Draws of the skewed pattern that are made in advance, and gone through again and again: so many for each record, and
/// at most.
const SKEWED_DRAWS: usize = 8;
const SKEWED_DRAWS_MAX: usize = 1 << 21;

/// A pattern of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Records that are there, each as often as any other.
    Uniform,
    /// Records that are there, some far more often than others.
    Zipf,
    /// Records that are not there.
    Missing,
}

/// Draws keys after a pattern.
#[derive(Debug)]
pub struct Draws {
    records: Records,
    pattern: Pattern,
    random: Xoshiro256PlusPlus,
    skewed: Vec<u64>,
    at: usize,
}

impl Draws {
    /// The draws of one thread.
    pub fn new(pattern: Pattern, records: Records, thread: u64) -> Self {
        Draws::few(pattern, records, thread, SKEWED_DRAWS_MAX)
    }

    /// The draws of one thread, of which no more than so many are made in advance.
    pub fn few(pattern: Pattern, records: Records, thread: u64, draws_max: usize) -> Self {
        let skewed = match pattern {
            Pattern::Zipf => {
                let draws = (records.count as usize).saturating_mul(SKEWED_DRAWS).min(draws_max);
                zipf_indices(records.count, draws)
            }
            _ => Vec::new(),
        };
        // Threads go through the same draws, from different places on.
        let at = thread as usize * skewed.len() / 3;
        Draws { records, pattern, random: Xoshiro256PlusPlus::seed_from_u64(thread + 1), skewed, at }
    }

    /// The number of a record.
    pub fn number(&mut self) -> u64 {
        let count = self.records.count;
        match self.pattern {
            Pattern::Uniform => self.random.random_range(0..count),
            Pattern::Missing => count + self.random.random_range(0..1 << 40),
            Pattern::Zipf => {
                self.at = (self.at + 1) % self.skewed.len();
                self.skewed[self.at]
            }
        }
    }

    /// Draws keys.
    pub fn fill(&mut self, block: &mut Vec<Key>) {
        block.clear();
        for _ in 0..BLOCK {
            let number = self.number();
            block.push(self.records.key(number));
        }
    }
}
