//! Backpressure: how writers are slowed down so that flush and compaction keep up.
//!
//! The rate that writers are held to falls smoothly, from no limit to very little, as what is owed grows. A write
//! that costs time puts it on a common account, and whoever finds a millisecond on it sleeps it off, at most
//! [`SLEEP_MAX`] at a time. Writers are stopped for one reason only: memory, when every memtable is full.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// No write sleeps longer than this to pay for the rate limit.
const SLEEP_MAX: Duration = Duration::from_millis(5);

/// Shorter debts wait until they are worth a sleep.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// Time owed is forgotten beyond this, so that one huge batch does not hold everyone up for long.
const OWED_MAX: Duration = Duration::from_millis(500);

/// Tables that level 0 may have beyond those that start a compaction before writers are slowed down: about as many come
/// in while one compaction runs.
const L0_SLACK: f64 = 8.0;

/// The rate at the onset of the limit and at its full strength, in bytes per second.
const RATE_ONSET: f64 = 256e6;
const RATE_FULL: f64 = 1e6;

/// Why writers wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StallReason {
    /// Too many tables in level 0: compaction into the level below is behind.
    Level0,
    /// Too many bytes above their level's target: compaction is behind.
    CompactionDebt,
    /// All memtables but one wait for their flush.
    FlushBehind,
    /// All memtables are full. The only reason for which writers are stopped instead of slowed.
    MemtablesFull,
}

impl StallReason {
    pub(crate) const ALL: [StallReason; 4] = [
        StallReason::Level0,
        StallReason::CompactionDebt,
        StallReason::FlushBehind,
        StallReason::MemtablesFull,
    ];

    /// A short name for reports.
    pub fn as_str(self) -> &'static str {
        match self {
            StallReason::Level0 => "level-0",
            StallReason::CompactionDebt => "compaction-debt",
            StallReason::FlushBehind => "flush-behind",
            StallReason::MemtablesFull => "memtables-full",
        }
    }
}

/// What one keyspace owes, as seen by the throttle.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pressure {
    pub l0_tables: usize,
    pub l0_trigger: usize,
    pub debt_bytes: u64,
    pub level_base_bytes: u64,
    pub sealed_memtables: usize,
    pub memtables_max: usize,
}

impl Pressure {
    /// How far into the limit this is, 0 (none) to 1 (full), and why.
    pub fn severity(&self) -> (f64, StallReason) {
        let between = |value: f64, onset: f64, full: f64| ((value - onset) / (full - onset)).clamp(0.0, 1.0);
        let trigger = self.l0_trigger as f64;
        let level0 = between(self.l0_tables as f64, trigger + L0_SLACK, 3.0 * (trigger + L0_SLACK));
        let base = self.level_base_bytes as f64;
        let debt = between(self.debt_bytes as f64, 8.0 * base, 64.0 * base);
        // With room for less than two sealed memtables there is nothing between none and full.
        let room = self.memtables_max.saturating_sub(1) as f64;
        let flush = between(self.sealed_memtables as f64, (room / 2.0).max(0.5), room.max(1.0)) / 2.0;
        [
            (level0, StallReason::Level0),
            (debt, StallReason::CompactionDebt),
            (flush, StallReason::FlushBehind),
        ]
        .into_iter()
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .expect("there are three")
    }
}

/// The common account.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// Picoseconds per byte; 0 while there is no limit.
    cost: AtomicU64,
    reason: AtomicU64,
    owed_nanos: AtomicU64,
    stalls: [Stall; StallReason::ALL.len()],
}

#[derive(Debug, Default)]
struct Stall {
    count: AtomicU64,
    total_nanos: AtomicU64,
    longest_nanos: AtomicU64,
}

/// How often and how long writers waited for one reason since the database was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StallMetrics {
    /// Why.
    pub reason: StallReason,
    /// How many waits.
    pub count: u64,
    /// All of them together, summed over threads.
    pub total: Duration,
    /// The longest of them.
    pub longest: Duration,
}

impl Throttle {
    /// Sets the limit for the keyspace that is worst off.
    pub fn set(&self, pressures: impl Iterator<Item = Pressure>) {
        let worst = pressures.map(|pressure| pressure.severity()).max_by(|a, b| a.0.total_cmp(&b.0));
        let (severity, reason) = worst.unwrap_or((0.0, StallReason::Level0));
        let rate = RATE_ONSET * (RATE_FULL / RATE_ONSET).powf(severity);
        let cost = if severity > 0.0 { (1e12 / rate) as u64 } else { 0 };
        self.reason.store(reason as u64, Relaxed);
        self.cost.store(cost, Relaxed);
    }

    /// Charges a write of `bytes` and says how long to sleep for it now, if at all, and why.
    pub fn charge(&self, bytes: u64) -> Option<(Duration, StallReason)> {
        let cost = self.cost.load(Relaxed);
        if cost == 0 {
            return None;
        }
        let charged = (cost.saturating_mul(bytes) / 1000).min(OWED_MAX.as_nanos() as u64);
        let owed = self.owed_nanos.fetch_add(charged, Relaxed) + charged;
        if owed < SLEEP_MIN.as_nanos() as u64 {
            return None;
        }
        let pay = owed.min(SLEEP_MAX.as_nanos() as u64);
        let rest = (owed - pay).min(OWED_MAX.as_nanos() as u64);
        // Another thread may pay at the same moment; then it is paid twice or not at all, which evens out.
        self.owed_nanos.store(rest, Relaxed);
        let reason = StallReason::ALL[self.reason.load(Relaxed) as usize % StallReason::ALL.len()];
        Some((Duration::from_nanos(pay), reason))
    }

    /// Records a wait that is over.
    pub fn waited(&self, reason: StallReason, time: Duration) {
        let stall = &self.stalls[reason as usize];
        let nanos = time.as_nanos() as u64;
        stall.count.fetch_add(1, Relaxed);
        stall.total_nanos.fetch_add(nanos, Relaxed);
        stall.longest_nanos.fetch_max(nanos, Relaxed);
    }

    pub fn metrics(&self) -> Vec<StallMetrics> {
        let stalls = StallReason::ALL.iter().zip(&self.stalls);
        stalls
            .map(|(&reason, stall)| StallMetrics {
                reason,
                count: stall.count.load(Relaxed),
                total: Duration::from_nanos(stall.total_nanos.load(Relaxed)),
                longest: Duration::from_nanos(stall.longest_nanos.load(Relaxed)),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressure(l0_tables: usize) -> Pressure {
        Pressure {
            l0_tables,
            l0_trigger: 4,
            level_base_bytes: 256 << 20,
            memtables_max: 4,
            ..Pressure::default()
        }
    }

    #[test]
    fn the_limit_tightens_smoothly() {
        let mut before = -1.0;
        for l0_tables in 0..50 {
            let (severity, reason) = pressure(l0_tables).severity();
            assert!(severity >= before && severity - before.max(0.0) < 0.06, "{l0_tables}: {severity}");
            assert!(severity == 0.0 || reason == StallReason::Level0);
            before = severity;
        }
        assert_eq!(before, 1.0);
    }

    #[test]
    fn no_write_sleeps_long_and_without_pressure_none_does() {
        let throttle = Throttle::default();
        throttle.set([pressure(3)].into_iter());
        assert_eq!(throttle.charge(1 << 30), None);
        throttle.set([pressure(3), pressure(40)].into_iter());
        let (sleep, reason) = throttle.charge(1 << 30).unwrap();
        assert_eq!((sleep, reason), (SLEEP_MAX, StallReason::Level0));
        // What was not slept yet is slept by the next ones, up to a bound.
        let more = std::iter::from_fn(|| throttle.charge(0)).count();
        assert!((1..=100).contains(&more), "{more}");
        assert_eq!(throttle.charge(1), None);
    }
}
