//! Gets from a database that is several times larger than the memory that the process may use, page cache included.

use std::time::{Duration, Instant};

use terrace_benches::device_read_bytes;

use super::Row;
use super::draws::{BLOCK, Draws, Pattern};
use super::reads::histogram;
use crate::database::{Kept, Setting};
use crate::engine::{Engine, OpenOptions, Result};
use crate::results::{Measurement, Told, Unit};

/// Bytes of memtables and their like: what a database that is only read does not need.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// Draws of the skewed pattern: few, since they take memory that the engine could use.
const SKEWED_DRAWS_MAX: usize = 1 << 18;

/// Measures both patterns, each after half as long a time to get going.
pub fn gets(setting: &Setting, told: &mut Told) -> Result {
    let options = OpenOptions {
        memtable_bytes: Some(MEMTABLE_BYTES),
        memory_bytes: setting.memory_bytes,
        ..OpenOptions::buffered(setting.records)
    };
    let engine = setting.engine.open(&setting.kept(Kept::Records), &options)?;
    told.opened(&*engine);
    let mut measurement = Measurement::new(Row::Limited);
    for (pattern, name) in [(Pattern::Zipf, "zipf"), (Pattern::Uniform, "uniform")] {
        let mut draws = Draws::few(pattern, setting.records(), 1, SKEWED_DRAWS_MAX);
        repeat(&*engine, &mut draws, setting.seconds / 2, |_| {})?;
        let mut nanos = histogram();
        let (before, started) = (device_read_bytes(), Instant::now());
        let gets = repeat(&*engine, &mut draws, setting.seconds, |took| {
            nanos.saturating_record(took.as_nanos() as u64);
        })?;
        let per_second = gets as f64 / started.elapsed().as_secs_f64();
        let read = (device_read_bytes() - before) as f64 / gets as f64;
        measurement.add(format!("{name}, 1 thread"), per_second, Unit::PerSecond);
        measurement.add(format!("{name}, read from the disk for a get"), read, Unit::Bytes);
        measurement.add(format!("{name}, p99.9"), nanos.value_at_quantile(0.999) as f64, Unit::Nanoseconds);
    }
    told.measurements.push(measurement);
    engine.close()
}

/// Gets until the time is up, and tells how long each took.
fn repeat(
    engine: &dyn Engine,
    draws: &mut Draws,
    time: Duration,
    mut tell: impl FnMut(Duration),
) -> Result<u64> {
    let (mut block, mut gets) = (Vec::with_capacity(BLOCK), 0);
    let began = Instant::now();
    loop {
        draws.fill(&mut block);
        for key in &block {
            let started = Instant::now();
            engine.get(key)?.ok_or("a record is missing")?;
            tell(started.elapsed());
            gets += 1;
            if began.elapsed() >= time {
                return Ok(gets);
            }
        }
    }
}
