//! Opening: until the first record was read, with the system's page cache warm and empty.

use std::time::{Duration, Instant};

use terrace_benches::{Records, forget_pages};

use super::Row;
use crate::database::{Kept, Setting};
use crate::engine::Result;
use crate::results::{Measurement, Unit, median};

/// How often it is opened each way.
const TIMES: u64 = 5;

/// Measures it.
pub fn open(setting: &Setting) -> Result<Measurement> {
    let mut measurement = Measurement::new(Row::Open);
    for (name, is_warm) in [("page cache warm", true), ("page cache empty", false)] {
        let times: Result<Vec<f64>> = (0..TIMES).map(|number| open_once(setting, number, is_warm)).collect();
        let median = median(times?).expect("it was opened more than once");
        measurement.add(name, median, Unit::Nanoseconds);
    }
    Ok(measurement)
}

/// How long it takes, in nanoseconds.
fn open_once(setting: &Setting, number: u64, is_warm: bool) -> Result<f64> {
    let dir = setting.kept(Kept::Records);
    if !is_warm {
        forget_pages(&dir)?;
    }
    let records: Records = setting.records();
    // Another record each time, anywhere among the others.
    let key = records.key(number * 7919 % records.count);
    let started = Instant::now();
    let engine = setting.open(&dir)?;
    let found = engine.get(&key)?;
    let took: Duration = started.elapsed();
    if found.is_none() {
        return Err("a record is missing".into());
    }
    engine.close()?;
    Ok(took.as_nanos() as f64)
}
