//! YCSB's core workloads by two threads, with the drivers of `terrace_tools::ycsb`, one after the other on one database
//! in the order that YCSB recommends. The engine settles before each: they are bounded by time, and an engine that
//! wrote more in one would go into the next one with more that is not in its place yet.

use terrace_tools::ycsb::Workload;
use terrace_tools::ycsb::driver::{self, Measured};
use terrace_tools::ycsb::sequence::Sequence;

use super::Row;
use crate::database::{Kept, Setting, mix, warm_ycsb, ycsb_phase};
use crate::engine::{Engine, Result};
use crate::results::{Measurement, Told, Unit};
use crate::store::EngineStore;

/// Threads of each workload.
const THREADS: u32 = 2;

/// Operations that find out how many make up the time to be measured.
const TRIAL_OPERATIONS: u64 = 10_000;

/// Measures all of them.
pub fn all(setting: &Setting, told: &mut Told) -> Result {
    let mut measurement = Measurement::new(Row::Ycsb);
    let dir = setting.copy(Kept::Ycsb)?;
    let engine = setting.open(&dir)?;
    told.opened(&*engine);
    warm_ycsb(&*engine, setting.records)?;
    let sequence = Sequence::new(setting.records);
    for workload in Workload::IN_ORDER {
        let trial = run(&*engine, workload, TRIAL_OPERATIONS, 1, &sequence)?;
        let operations = operations_in(setting.seconds.as_secs_f64(), &trial);
        engine.settle()?;
        let measured = run(&*engine, workload, operations, 2, &sequence)?;
        let per_second = measured.latencies.count() as f64 / measured.elapsed.as_secs_f64();
        measurement.add(workload.letter().to_string(), per_second, Unit::PerSecond);
    }
    engine.settle()?;
    engine.close()?;
    // In the order of the alphabet, as everybody looks for them.
    measurement.figures.sort_by(|a, b| a.name.cmp(&b.name));
    told.measurements.push(measurement);
    Ok(())
}

fn run(
    engine: &dyn Engine,
    workload: Workload,
    operations: u64,
    seed: u64,
    sequence: &Sequence,
) -> Result<Measured> {
    let phase = ycsb_phase(mix(workload), operations, THREADS, seed);
    let measured = driver::run(&EngineStore(engine), &phase, sequence, |_| {})?;
    if measured.missing > 0 {
        return Err(
            format!("workload {} did not find {} records", workload.letter(), measured.missing).into()
        );
    }
    Ok(measured)
}

/// As many operations as take so many seconds at the rate of a trial.
fn operations_in(seconds: f64, trial: &Measured) -> u64 {
    let per_second = trial.latencies.count() as f64 / trial.elapsed.as_secs_f64();
    ((per_second * seconds) as u64).max(1000)
}
