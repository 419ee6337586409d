//! What happened in tables, counted. Readers on many cores must not fight for one cache line, and a thread that counts
//! must not wait for its reads of memory to end, as it does for an atomic addition: so each thread counts in a stripe
//! that is its own, as long as there are enough, and nobody else writes there.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Stripes that belong to one thread each: one for every bit of [`OWNED`].
const STRIPES_OWNED: usize = 64;
/// Stripes that all other threads share.
const STRIPES_SHARED: usize = 16;

/// The stripes that belong to a thread now.
static OWNED: AtomicU64 = AtomicU64::new(0);

/// One count for each [`CounterTotals`] field, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    filter_negatives: AtomicU64,
    filter_hits: AtomicU64,
    filter_false_positives: AtomicU64,
    locator_negatives: AtomicU64,
    locator_hits: AtomicU64,
    locator_false_positives: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
    blocks_verified: AtomicU64,
    checksum_failures: AtomicU64,
    disagreements: AtomicU64,
}

/// Counts what happens in all tables that share it.
#[derive(Debug)]
pub struct TableCounters {
    /// Those that belong to one thread each, then those that are shared.
    stripes: [Stripe; STRIPES_OWNED + STRIPES_SHARED],
    /// Whether it was told that a table could not be mapped.
    fallback_told: AtomicBool,
    /// Rare, so not in stripes.
    lost_mappings: AtomicU64,
}

impl Default for TableCounters {
    fn default() -> Self {
        TableCounters {
            stripes: std::array::from_fn(|_| Stripe::default()),
            fallback_told: AtomicBool::new(false),
            lost_mappings: AtomicU64::new(0),
        }
    }
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
    /// Gets that asked a locator. They ask no filter.
    pub locator_checks: u64,
    /// Gets that a locator answered by its fingerprints alone: the key is not there.
    pub locator_negatives: u64,
    /// Gets that a locator led to a block although the key (or a version that the reader may see) is not there.
    pub locator_false_positives: u64,
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
    /// Tables whose mapping lost bytes while it was guarded ([`terrace_io::sigbus`]): they are read by `pread` since.
    pub lost_mappings: u64,
}

/// The thread does not know its stripe yet.
const UNKNOWN: usize = usize::MAX;

thread_local! {
    /// The stripe that the thread counts in.
    static STRIPE: Cell<usize> = const { Cell::new(UNKNOWN) };
    static OWNERSHIP: Ownership = const { Ownership };
}

/// Lives as long as a thread that has a stripe, and gives the stripe back.
struct Ownership;

impl Drop for Ownership {
    fn drop(&mut self) {
        // What the thread still counts while it ends goes to the shared ones.
        let index = STRIPE.replace(STRIPES_OWNED);
        if index < STRIPES_OWNED {
            // The next owner goes on from what this one has counted.
            OWNED.fetch_and(!(1 << index), Ordering::Release);
        }
    }
}

/// Finds a stripe for the thread.
#[cold]
fn take_stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let with_one_more = |owned: u64| (owned != u64::MAX).then(|| owned | (owned + 1));
    STRIPE.set(match OWNED.fetch_update(Ordering::Acquire, Ordering::Relaxed, with_one_more) {
        Ok(owned) => owned.trailing_ones() as usize,
        Err(_) => STRIPES_OWNED + NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES_SHARED,
    });
    if OWNERSHIP.try_with(|_| ()).is_err() {
        // The thread is ending, and its ownership has been dropped before.
        drop(Ownership);
    }
    STRIPE.get()
}

impl TableCounters {
    /// All zero.
    pub fn new() -> TableCounters {
        TableCounters::default()
    }

    /// Whether this is the first table that is read by `pread` though it should have been mapped.
    pub(crate) fn is_first_fallback(&self) -> bool {
        !self.fallback_told.swap(true, Ordering::Relaxed)
    }

    /// The sums so far.
    pub fn totals(&self) -> CounterTotals {
        let sum = |field: fn(&Stripe) -> &AtomicU64| {
            self.stripes.iter().map(|stripe| field(stripe).load(Ordering::Relaxed)).sum::<u64>()
        };
        let filter_negatives = sum(|stripe| &stripe.filter_negatives);
        let filter_false_positives = sum(|stripe| &stripe.filter_false_positives);
        let locator_negatives = sum(|stripe| &stripe.locator_negatives);
        let locator_false_positives = sum(|stripe| &stripe.locator_false_positives);
        CounterTotals {
            filter_checks: filter_negatives + filter_false_positives + sum(|stripe| &stripe.filter_hits),
            filter_negatives,
            filter_false_positives,
            locator_checks: locator_negatives + locator_false_positives + sum(|stripe| &stripe.locator_hits),
            locator_negatives,
            locator_false_positives,
            cache_hits: sum(|stripe| &stripe.cache_hits),
            cache_misses: sum(|stripe| &stripe.cache_misses),
            blocks_verified: sum(|stripe| &stripe.blocks_verified),
            checksum_failures: sum(|stripe| &stripe.checksum_failures),
            disagreements: sum(|stripe| &stripe.disagreements),
            lost_mappings: self.lost_mappings.load(Ordering::Relaxed),
        }
    }

    #[inline]
    fn count(&self, field: impl FnOnce(&Stripe) -> &AtomicU64) {
        let mut index = STRIPE.get();
        if index == UNKNOWN {
            index = take_stripe();
        }
        let count = field(&self.stripes[index]);
        if index < STRIPES_OWNED {
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        } else {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn filter_negative(&self) {
        self.count(|stripe| &stripe.filter_negatives);
    }

    #[inline]
    pub(crate) fn filter_positive(&self, found: bool) {
        self.count(|stripe| if found { &stripe.filter_hits } else { &stripe.filter_false_positives });
    }

    #[inline]
    pub(crate) fn locator_negative(&self) {
        self.count(|stripe| &stripe.locator_negatives);
    }

    #[inline]
    pub(crate) fn locator_positive(&self, found: bool) {
        self.count(|stripe| if found { &stripe.locator_hits } else { &stripe.locator_false_positives });
    }

    #[inline]
    pub(crate) fn cache_lookup(&self, hit: bool) {
        self.count(|stripe| if hit { &stripe.cache_hits } else { &stripe.cache_misses });
    }

    pub(crate) fn lost_mapping(&self) {
        self.lost_mappings.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn disagreement(&self) {
        self.count(|stripe| &stripe.disagreements);
    }

    pub(crate) fn block_checked(&self, right: bool) {
        self.count(|stripe| if right { &stripe.blocks_verified } else { &stripe.checksum_failures });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn threads_add_up() {
        let counters = TableCounters::new();
        // More threads than own stripes, all of them at once, and then others that inherit stripes.
        for threads in [20, 100, 100] {
            let before = counters.totals();
            let barrier = Barrier::new(threads);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        barrier.wait();
                        for i in 0..1000 {
                            counters.filter_negative();
                            counters.filter_positive(i % 4 == 0);
                            counters.locator_negative();
                            counters.locator_positive(i % 5 == 0);
                            counters.cache_lookup(i % 2 == 0);
                        }
                        barrier.wait();
                    });
                }
            });
            let (totals, threads) = (counters.totals(), threads as u64);
            assert_eq!(totals.filter_negatives - before.filter_negatives, 1000 * threads);
            assert_eq!(totals.filter_checks - before.filter_checks, 2000 * threads);
            assert_eq!(totals.filter_false_positives - before.filter_false_positives, 750 * threads);
            assert_eq!(totals.locator_negatives - before.locator_negatives, 1000 * threads);
            assert_eq!(totals.locator_checks - before.locator_checks, 2000 * threads);
            assert_eq!(totals.locator_false_positives - before.locator_false_positives, 800 * threads);
            let cached = (totals.cache_hits - before.cache_hits, totals.cache_misses - before.cache_misses);
            assert_eq!(cached, (500 * threads, 500 * threads));
        }
    }

    #[test]
    fn stripes_come_back() {
        let counters: &'static TableCounters = Box::leak(Box::default());
        let mut indexes = Vec::new();
        for _ in 0..2 * STRIPES_OWNED {
            let thread = std::thread::spawn(|| {
                counters.cache_lookup(true);
                STRIPE.get()
            });
            indexes.push(thread.join().unwrap());
        }
        assert_eq!(counters.totals().cache_hits, 2 * STRIPES_OWNED as u64);
        // Other tests may take stripes meanwhile, but not all of them for long.
        let owned: Vec<usize> = indexes.into_iter().filter(|index| *index < STRIPES_OWNED).collect();
        let distinct: std::collections::HashSet<usize> = owned.iter().copied().collect();
        assert!(distinct.len() < owned.len(), "{owned:?}");
    }

    /// Counts while its thread ends.
    struct Late(&'static TableCounters);

    impl Drop for Late {
        fn drop(&mut self) {
            self.0.cache_lookup(true);
        }
    }

    #[test]
    fn a_thread_may_count_while_it_ends() {
        thread_local! {
            static LATE: Cell<Option<Late>> = const { Cell::new(None) };
        }
        let counters: &'static TableCounters = Box::leak(Box::default());
        for counts_before in [false, true] {
            for is_late_first in [false, true] {
                let thread = std::thread::spawn(move || {
                    if is_late_first {
                        LATE.set(Some(Late(counters)));
                    }
                    if counts_before {
                        counters.cache_lookup(false);
                    }
                    LATE.set(Some(Late(counters)));
                });
                thread.join().unwrap();
            }
        }
        // Two threads had one more, which the second replaced.
        assert_eq!((counters.totals().cache_hits, counters.totals().cache_misses), (6, 2));
    }
}
