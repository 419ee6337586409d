//! Scans: short ones from a random place, and everything in both directions.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::draws::{Draws, Pattern};
use crate::database::Setting;
use crate::engine::{Direction, Engine, Result, Span};
use crate::results::{Measurement, Unit};

/// Entries of a short scan.
const SHORT: u64 = 100;

/// Seeks random records and reads 100 entries from each on. `name` is that of the figure.
pub fn seek(engine: &dyn Engine, setting: &Setting, name: &str, measurement: &mut Measurement) -> Result {
    let mut draws = Draws::new(Pattern::Uniform, setting.records(), 11);
    let (mut block, mut done, mut entries, mut busy) = (Vec::new(), 0_usize, 0_u64, Duration::ZERO);
    let began = Instant::now();
    while began.elapsed() < setting.seconds || done == 0 {
        draws.fill(&mut block);
        let started = Instant::now();
        for key in &block {
            let span = Span { from: Some(key), direction: Direction::Forward, limit: SHORT };
            let touched = black_box(engine.touch(span)?);
            entries += touched.entries;
        }
        busy += started.elapsed();
        done += block.len();
    }
    // Only scans that begin near the last record are shorter, and there is one record at least in each.
    if entries > done as u64 * SHORT || entries < done as u64 {
        return Err(format!("{done} scans of {SHORT} read {entries} entries").into());
    }
    measurement.add(name, done as f64 / busy.as_secs_f64(), Unit::PerSecond);
    Ok(())
}

/// Reads everything forward and in reverse. `prefix` is put before the names of the figures.
pub fn full(engine: &dyn Engine, setting: &Setting, prefix: &str, measurement: &mut Measurement) -> Result {
    let mut sums = Vec::new();
    for (direction, name) in [(Direction::Forward, "forward"), (Direction::Reverse, "reverse")] {
        let (mut entries, began) = (0, Instant::now());
        while entries == 0 || began.elapsed() < setting.seconds {
            let touched = black_box(engine.touch(Span::all(direction))?);
            if touched.entries != setting.records {
                return Err(format!(
                    "a scan {name} read {} entries, not {}",
                    touched.entries, setting.records
                )
                .into());
            }
            entries += touched.entries;
            sums.push(touched.sum);
        }
        let per_second = entries as f64 / began.elapsed().as_secs_f64();
        measurement.add(format!("{prefix}{name}"), per_second, Unit::PerSecond);
    }
    match sums.iter().all(|sum| *sum == sums[0]) {
        true => Ok(()),
        false => Err("two scans read different bytes".into()),
    }
}
