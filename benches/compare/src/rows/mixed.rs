//! Reads while something is being written, or was just now.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Row;
use super::draws::{Draws, Pattern};
use super::reads::{histogram, thread_count, throughput};
use super::scans;
use crate::database::{Kept, Setting, Values, warm};
use crate::engine::{Engine, OpenOptions, RECORD_BYTES, Result};
use crate::results::{Measurement, Told, Unit};
use terrace_benches::device_read_bytes;

/// Recent writes, in user bytes.
const RECENT_BYTES: u64 = 64 << 20;

/// Memtables may grow to this meanwhile, so that no engine writes them to a table before all is read.
const MEMTABLE_BYTES: u64 = 256 << 20;

/// Gets and scans while recent writes are in memory. They overwrite records at random, at most every one of them once
/// on average.
pub fn unflushed(setting: &Setting, told: &mut Told) -> Result {
    let mut measurement = Measurement::new(Row::Unflushed);
    let records = setting.records();
    let dir = setting.copy(Kept::Records)?;
    let options =
        OpenOptions { memtable_bytes: Some(MEMTABLE_BYTES), ..OpenOptions::buffered(setting.records) };
    let engine = setting.engine.open(&dir, &options)?;
    told.opened(&*engine);
    warm(&*engine, records)?;
    let wanted = (RECENT_BYTES / RECORD_BYTES).min(records.count);
    let (values, mut draws) = (Values::new(), Draws::new(Pattern::Uniform, records, 13));
    let (began, mut done) = (Instant::now(), 0);
    while done < wanted && began.elapsed() < setting.write_seconds {
        engine.put(&records.key(draws.number()), values.get(done))?;
        done += 1;
    }
    if done < RECENT_BYTES / RECORD_BYTES {
        measurement.note(format!("{} MiB of recent writes", (done * RECORD_BYTES) >> 20));
    }
    let from_disk = device_read_bytes();
    let patterns = [(Pattern::Uniform, "random"), (Pattern::Zipf, "zipf"), (Pattern::Missing, "missing")];
    for (pattern, name) in patterns {
        for threads in [1, 2] {
            let rate = throughput(&*engine, records, pattern, false, threads, setting.seconds)?;
            measurement.add(format!("{name}, {}", thread_count(threads)), rate, Unit::PerSecond);
        }
    }
    scans::seek(&*engine, setting, "seek + 100", &mut measurement)?;
    scans::full(&*engine, setting, "scan ", &mut measurement)?;
    measurement.note_cold(from_disk);
    engine.close()?;
    told.measurements.push(measurement);
    Ok(())
}

/// One reader and one writer: first how many they do, then how long a read takes.
pub fn read_while_writing(setting: &Setting, told: &mut Told) -> Result {
    let mut measurement = Measurement::new(Row::ReadWhileWriting);
    let dir = setting.copy(Kept::Records)?;
    let engine = setting.open(&dir)?;
    told.opened(&*engine);
    warm(&*engine, setting.records())?;
    // The time in which keys are drawn does not count here either.
    let untimed = |engine: &dyn Engine, draws: &mut Draws, stop: &AtomicBool| -> Result<f64> {
        let (mut block, mut done, mut busy) = (Vec::new(), 0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) || done == 0 {
            draws.fill(&mut block);
            let started = Instant::now();
            for key in &block {
                black_box(engine.get(key)?.ok_or("a record is missing")?);
            }
            busy += started.elapsed();
            done += block.len();
        }
        Ok(done as f64 / busy.as_secs_f64())
    };
    let from_disk = device_read_bytes();
    let (reads, writes) = both(&*engine, setting, untimed)?;
    measurement.add("reads", reads, Unit::PerSecond);
    measurement.add("writes", writes, Unit::PerSecond);

    let timed =
        |engine: &dyn Engine, draws: &mut Draws, stop: &AtomicBool| -> Result<hdrhistogram::Histogram<u64>> {
            let (mut block, mut nanos) = (Vec::new(), histogram());
            while !stop.load(Ordering::Relaxed) {
                draws.fill(&mut block);
                for key in &block {
                    let started = Instant::now();
                    let found = engine.get(key)?;
                    nanos.saturating_record(started.elapsed().as_nanos() as u64);
                    black_box(found.ok_or("a record is missing")?);
                }
            }
            Ok(nanos)
        };
    let (nanos, _) = both(&*engine, setting, timed)?;
    measurement.add("read p50", nanos.value_at_quantile(0.5) as f64, Unit::Nanoseconds);
    measurement.add("read p99.9", nanos.value_at_quantile(0.999) as f64, Unit::Nanoseconds);
    measurement.note_cold(from_disk);
    engine.settle()?;
    engine.close()?;
    told.measurements.push(measurement);
    Ok(())
}

/// Runs a reader beside a writer: what the reader says, and how many writes there were in a second.
fn both<T: Send>(
    engine: &dyn Engine,
    setting: &Setting,
    read: impl Fn(&dyn Engine, &mut Draws, &AtomicBool) -> Result<T> + Sync,
) -> Result<(T, f64)> {
    let records = setting.records();
    let stop = AtomicBool::new(false);
    let (values, read) = (Values::new(), &read);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (stop, values) = (&stop, &values);
        let reader = scope.spawn(move || read(engine, &mut Draws::new(Pattern::Uniform, records, 17), stop));
        let writer = scope.spawn(move || -> Result<u64> {
            let (mut draws, mut done) = (Draws::new(Pattern::Uniform, records, 19), 0);
            while !stop.load(Ordering::Relaxed) {
                engine.put(&records.key(draws.number()), values.get(done))?;
                done += 1;
            }
            Ok(done)
        });
        std::thread::sleep(setting.seconds);
        stop.store(true, Ordering::Relaxed);
        let took = began.elapsed();
        let read = reader.join().expect("a reader does not panic")?;
        let written = writer.join().expect("a writer does not panic")?;
        Ok((read, written as f64 / took.as_secs_f64()))
    })
}
