//! How a benchmark is run and what is printed besides criterion's own lines.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{Bencher, BenchmarkGroup, Criterion};

use crate::{Faults, Memory};

/// Criterion with times so short that all groups together take a few minutes.
pub fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .without_plots()
        .configure_from_args()
}

/// The number of records to measure with: a million, or few when `cargo test` only tries the benchmarks out.
pub fn record_count() -> u64 {
    if std::env::args().any(|argument| argument == "--bench") { 1_000_000 } else { 5_000 }
}

/// Runs one benchmark of a group, and prints the page faults while it was measured and the peak of resident memory.
/// `run` has to call one of the bencher's `iter` methods, and nothing much besides.
pub fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut run: impl FnMut(&mut Bencher<'_>)) {
    let mut faults = Faults::default();
    let mut ran = false;
    Memory::reset_peak();
    group.bench_function(name, |bencher| {
        let before = Faults::now();
        run(bencher);
        faults += Faults::now() - before;
        ran = true;
    });
    if ran {
        println!("{name}: {} minor and {} major faults; {}\n", faults.minor, faults.major, Memory::now());
    }
}
