//! Point reads: how many in a second by one and two threads, and how long one takes.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use terrace_benches::Records;

use super::Row;
use super::draws::{BLOCK, Draws, Pattern};
use crate::database::Setting;
use crate::engine::{Engine, Result};
use crate::engines::EngineName;
use crate::results::{Measurement, Unit};

/// A read of one key.
type Get<'a> = dyn Fn(&[u8]) -> Result<Option<u64>> + 'a;

/// Measures one of the rows that get single records.
pub fn point_reads(
    engine: &dyn Engine,
    setting: &Setting,
    row: Row,
    measurement: &mut Measurement,
) -> Result {
    let pattern = match row {
        Row::ReadZipf => Pattern::Zipf,
        Row::ReadMissing => Pattern::Missing,
        _ => Pattern::Uniform,
    };
    let of_view = row == Row::ReadView;
    if setting.engine == EngineName::Raw {
        measurement.note("no engine: one read of a value's length of a mapped file");
    }
    for threads in [1, 2] {
        let per_second = throughput(engine, setting.records(), pattern, of_view, threads, setting.seconds)?;
        measurement.add(thread_count(threads), per_second, Unit::PerSecond);
    }
    if !of_view {
        latency(engine, setting.records(), pattern, setting.seconds, measurement)?;
    }
    Ok(())
}

/// For the name of a figure.
pub fn thread_count(threads: u64) -> String {
    if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") }
}

/// Gets per second, all threads together. The time in which a thread draws its keys does not count.
pub fn throughput(
    engine: &dyn Engine,
    records: Records,
    pattern: Pattern,
    of_view: bool,
    threads: u64,
    duration: Duration,
) -> Result<f64> {
    let ready = Barrier::new(threads as usize);
    let read = |thread| -> Result<f64> {
        let draws = Draws::new(pattern, records, thread);
        ready.wait();
        if of_view {
            let view = engine.view()?;
            rate(&|key| view.get(key), draws, pattern, duration)
        } else {
            rate(&|key| engine.get(key), draws, pattern, duration)
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || read(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("a reader does not panic")).sum()
    })
}

fn rate(get: &Get<'_>, mut draws: Draws, pattern: Pattern, duration: Duration) -> Result<f64> {
    let (mut block, mut done, mut busy) = (Vec::new(), 0_usize, Duration::ZERO);
    let began = Instant::now();
    while began.elapsed() < duration || done == 0 {
        draws.fill(&mut block);
        let started = Instant::now();
        let (mut found, mut sum) = (0, 0_u64);
        for key in &block {
            if let Some(bytes) = get(key)? {
                found += 1;
                sum = sum.wrapping_add(bytes);
            }
        }
        busy += started.elapsed();
        black_box(sum);
        check_found(found, pattern)?;
        done += block.len();
    }
    Ok(done as f64 / busy.as_secs_f64())
}

/// What is there must have been found, and nothing else.
fn check_found(found: usize, pattern: Pattern) -> Result {
    let expected = if pattern == Pattern::Missing { 0 } else { BLOCK };
    match found == expected {
        true => Ok(()),
        false => Err(format!("{found} of {BLOCK} records were found instead of {expected}").into()),
    }
}

/// How long a get takes: one thread, each get timed alone.
fn latency(
    engine: &dyn Engine,
    records: Records,
    pattern: Pattern,
    duration: Duration,
    measurement: &mut Measurement,
) -> Result {
    let mut draws = Draws::new(pattern, records, 7);
    let mut block = Vec::new();
    let mut nanos = histogram();
    let began = Instant::now();
    while began.elapsed() < duration || nanos.is_empty() {
        draws.fill(&mut block);
        let mut found = 0;
        for key in &block {
            let started = Instant::now();
            let bytes = engine.get(key)?;
            let took = started.elapsed();
            found += usize::from(black_box(bytes).is_some());
            nanos.saturating_record(took.as_nanos() as u64);
        }
        check_found(found, pattern)?;
    }
    measurement.add("p50", nanos.value_at_quantile(0.5) as f64, Unit::Nanoseconds);
    measurement.add("p99.9", nanos.value_at_quantile(0.999) as f64, Unit::Nanoseconds);
    Ok(())
}

/// For times up to a minute, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid")
}
