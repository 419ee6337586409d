//! How long operations took: one HDR histogram for each kind.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::workload::OperationKind;

/// Latencies are told apart to three significant digits, from a nanosecond up to this; longer ones count as this.
const LONGEST_NS: u64 = 3_600 * 1_000_000_000;

/// The latencies of one worker, or of several put together.
#[derive(Debug, Clone)]
pub struct Latencies {
    histograms: [Option<Box<Histogram<u64>>>; OperationKind::ALL.len()],
}

impl Latencies {
    /// Nothing measured yet.
    pub fn new() -> Self {
        Latencies { histograms: [const { None }; OperationKind::ALL.len()] }
    }

    /// Notes one operation.
    pub fn record(&mut self, operation: OperationKind, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram(operation).saturating_record(nanoseconds.max(1));
    }

    /// Notes `count` operations that were done as one and took `latency` together: each is said to have taken that
    /// long, since none was acknowledged before.
    pub fn record_many(&mut self, operation: OperationKind, latency: Duration, count: u64) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram(operation).saturating_record_n(nanoseconds.max(1), count);
    }

    fn histogram(&mut self, operation: OperationKind) -> &mut Histogram<u64> {
        self.histograms[operation as usize].get_or_insert_with(|| {
            Box::new(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid"))
        })
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Latencies) {
        for operation in OperationKind::ALL {
            if let Some(histogram) = &other.histograms[operation as usize] {
                self.histogram(operation).add(&**histogram).expect("all histograms have the same bounds");
            }
        }
    }

    /// How many operations were noted.
    pub fn count(&self) -> u64 {
        self.histograms.iter().flatten().map(|histogram| histogram.len()).sum()
    }

    /// A summary for each kind of operation that occurred.
    pub fn summaries(&self, elapsed: Duration) -> Vec<Summary> {
        OperationKind::ALL
            .into_iter()
            .filter_map(|operation| {
                let histogram = self.histograms[operation as usize].as_deref()?;
                Some(Summary {
                    operation,
                    count: histogram.len(),
                    per_second: histogram.len() as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
                    mean_ns: histogram.mean(),
                    min_ns: histogram.min(),
                    p50_ns: histogram.value_at_quantile(0.5),
                    p99_ns: histogram.value_at_quantile(0.99),
                    p999_ns: histogram.value_at_quantile(0.999),
                    max_ns: histogram.max(),
                })
            })
            .collect()
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies::new()
    }
}

/// The latencies of one kind of operation. A figure of the histogram is at most 0.1 % above the true one.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The kind.
    pub operation: OperationKind,
    /// How many there were.
    pub count: u64,
    /// How many there were in a second, all threads together.
    pub per_second: f64,
    /// The mean.
    pub mean_ns: f64,
    /// The shortest.
    pub min_ns: u64,
    /// Half of them took at most this long.
    pub p50_ns: u64,
    /// 99 of 100 took at most this long.
    pub p99_ns: u64,
    /// 999 of 1000 took at most this long.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_after_adding() {
        let (mut odd, mut even) = (Latencies::new(), Latencies::new());
        for microseconds in 1..=1000_u64 {
            let latencies = if microseconds % 2 == 1 { &mut odd } else { &mut even };
            latencies.record(OperationKind::Read, Duration::from_micros(microseconds));
        }
        even.record_many(OperationKind::Insert, Duration::from_secs(10_000), 3);
        odd.add(&even);
        assert_eq!(odd.count(), 1003);
        let summaries = odd.summaries(Duration::from_secs(2));
        let [read, insert] = &summaries[..] else { panic!("{summaries:?}") };
        assert_eq!((read.operation, read.count, read.per_second), (OperationKind::Read, 1000, 500.0));
        let near =
            |found: u64, expected: u64| assert!(found.abs_diff(expected) * 1000 <= expected, "{found}");
        near(read.p50_ns, 500_000);
        near(read.p99_ns, 990_000);
        near(read.p999_ns, 999_000);
        near(read.max_ns, 1_000_000);
        assert_eq!(insert.count, 3);
        near(insert.max_ns, LONGEST_NS);
    }
}
