//! What happened in tables, counted. Each thread counts in a stripe of its own, so that readers on many cores do not
//! fight for one cache line.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const STRIPES: usize = 16;

/// One count for each [`CounterTotals`] field, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    filter_negatives: AtomicU64,
    filter_hits: AtomicU64,
    filter_false_positives: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
    blocks_verified: AtomicU64,
    checksum_failures: AtomicU64,
    disagreements: AtomicU64,
}

/// Counts what happens in all tables that share it.
#[derive(Debug, Default)]
pub struct TableCounters {
    stripes: [Stripe; STRIPES],
}

/// The sums of [`TableCounters`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CounterTotals {
    /// Gets that asked a filter.
    pub filter_checks: u64,
    /// Gets that a filter answered: the key is not there.
    pub filter_negatives: u64,
    /// Gets that a filter let through although the key (or a version that the reader may see) is not there.
    pub filter_false_positives: u64,
    /// Blocks found in the block cache.
    pub cache_hits: u64,
    /// Blocks that were not in the block cache, or would not be if there were one.
    pub cache_misses: u64,
    /// Blocks whose checksum was computed and right.
    pub blocks_verified: u64,
    /// Blocks whose checksum was wrong, also when they were read past the page cache.
    pub checksum_failures: u64,
    /// Times that bytes were wrong in memory and right on the device: the page cache is damaged, not the file.
    pub disagreements: u64,
}

impl TableCounters {
    /// All zero.
    pub fn new() -> TableCounters {
        TableCounters::default()
    }

    /// The sums so far.
    pub fn totals(&self) -> CounterTotals {
        let sum = |field: fn(&Stripe) -> &AtomicU64| {
            self.stripes.iter().map(|stripe| field(stripe).load(Ordering::Relaxed)).sum::<u64>()
        };
        let filter_negatives = sum(|stripe| &stripe.filter_negatives);
        let filter_false_positives = sum(|stripe| &stripe.filter_false_positives);
        CounterTotals {
            filter_checks: filter_negatives + filter_false_positives + sum(|stripe| &stripe.filter_hits),
            filter_negatives,
            filter_false_positives,
            cache_hits: sum(|stripe| &stripe.cache_hits),
            cache_misses: sum(|stripe| &stripe.cache_misses),
            blocks_verified: sum(|stripe| &stripe.blocks_verified),
            checksum_failures: sum(|stripe| &stripe.checksum_failures),
            disagreements: sum(|stripe| &stripe.disagreements),
        }
    }

    #[inline]
    fn stripe(&self) -> &Stripe {
        thread_local! {
            static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let mut index = STRIPE.get();
        if index == usize::MAX {
            index = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
            STRIPE.set(index);
        }
        &self.stripes[index % STRIPES]
    }

    #[inline]
    pub(crate) fn filter_negative(&self) {
        self.stripe().filter_negatives.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn filter_positive(&self, found: bool) {
        let stripe = self.stripe();
        let counter = if found { &stripe.filter_hits } else { &stripe.filter_false_positives };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn cache_lookup(&self, hit: bool) {
        let stripe = self.stripe();
        let counter = if hit { &stripe.cache_hits } else { &stripe.cache_misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn disagreement(&self) {
        self.stripe().disagreements.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn block_checked(&self, right: bool) {
        let stripe = self.stripe();
        let counter = if right { &stripe.blocks_verified } else { &stripe.checksum_failures };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let counters = TableCounters::new();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    for i in 0..1000 {
                        counters.filter_negative();
                        counters.filter_positive(i % 4 == 0);
                        counters.cache_lookup(i % 2 == 0);
                    }
                });
            }
        });
        let totals = counters.totals();
        assert_eq!(totals.filter_negatives, 20_000);
        assert_eq!(totals.filter_checks, 40_000);
        assert_eq!(totals.filter_false_positives, 15_000);
        assert_eq!((totals.cache_hits, totals.cache_misses), (10_000, 10_000));
    }
}
