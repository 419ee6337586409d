//! Writes: filling, overwriting, single puts, puts that wait for the disk.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use terrace_benches::{Records, Standstills};

use super::Row;
use super::draws::{Draws, Pattern};
use super::reads::{histogram, thread_count};
use crate::database::{Kept, Setting, Values, load, warm};
use crate::engine::{Durability, Engine, OpenOptions, RECORD_BYTES, Result};
use crate::engines::EngineName;
use crate::results::{Measurement, Told, Unit};
use crate::usage::{Written, disk_bytes};

/// After overwriting, an engine settles until it takes no more than so many bytes on disk for each of the user's.
const SPACE_MAX: f64 = 1.3;

/// How long files that an engine needs no more may take to disappear.
const DELETION_PATIENCE: Duration = Duration::from_millis(500);

/// A put that took longer is looked at: whether the machine stood still meanwhile.
const LONG: Duration = Duration::from_millis(5);

/// Loads the kept database of records anew.
pub fn fill_random(setting: &Setting, told: &mut Told) -> Result {
    let mut measurement = Measurement::new(Row::FillRandom);
    let records = setting.records();
    setting.forget(Kept::Records)?;
    let dir = setting.kept(Kept::Records);
    let engine = setting.open(&dir)?;
    told.opened(&*engine);
    let (began, before) = (Instant::now(), Written::now());
    load(&*engine, setting.engine, records)?;
    let loaded = began.elapsed();
    engine.settle()?;
    let settled = began.elapsed();
    engine.close()?;
    let written = Written::now().since(before);
    setting.keep(Kept::Records)?;
    measurement.add("settled", per_second(records.count, settled), Unit::PerSecond);
    measurement.add("without settling", per_second(records.count, loaded), Unit::PerSecond);
    add_written(&mut measurement, written, records.count);
    add_space(&mut measurement, &dir, records)?;
    let batch = setting.engine.load_batch();
    if batch > 1 {
        measurement.note(format!("in batches of {batch}"));
    }
    told.measurements.push(measurement);
    Ok(())
}

/// Overwrites records at random, as many as there are or three times as many, and settles.
pub fn overwrite(setting: &Setting, row: Row, told: &mut Told) -> Result {
    let mut measurement = Measurement::new(row);
    let times = if row == Row::Overwrite3 { 3 } else { 1 };
    let records = setting.records();
    let dir = setting.copy(Kept::Records)?;
    let mut engine = setting.open(&dir)?;
    told.opened(&*engine);
    warm(&*engine, records)?;
    let values = Values::new();
    let mut draws = Draws::new(Pattern::Uniform, records, 3);
    let (wanted, limit) = (records.count * times, setting.write_seconds * times as u32);
    let (began, before) = (Instant::now(), Written::now());
    let mut done = 0;
    while done < wanted && !(done % 256 == 0 && done > 0 && began.elapsed() > limit) {
        let key = records.key(draws.number());
        engine.put(&key, values.get(wanted + done))?;
        done += 1;
    }
    let put = began.elapsed();
    engine.settle()?;
    let settled_space = space(&dir, records)?;
    if settled_space > SPACE_MAX {
        let can = engine.compact()?;
        engine.settle()?;
        let compacted_space = space(&dir, records)?;
        let after = if can { "after compacting everything" } else { "as it cannot be compacted in place" };
        measurement
            .note(format!("{settled_space:.2} bytes on disk per user byte, {compacted_space:.2} {after}"));
    }
    let settled = began.elapsed();
    engine.close()?;
    let written = Written::now().since(before);
    if done < wanted {
        measurement.note(format!("stopped after {done} of {wanted} puts"));
    }
    measurement.add("settled", per_second(done, settled), Unit::PerSecond);
    measurement.add("without settling", per_second(done, put), Unit::PerSecond);
    add_written(&mut measurement, written, done);
    add_space(&mut measurement, &dir, records)?;
    told.measurements.push(measurement);
    Ok(())
}

/// Bytes on disk per user byte, once they are few enough or nothing more goes.
fn space(dir: &Path, records: Records) -> Result<f64> {
    let give_up = Instant::now() + DELETION_PATIENCE;
    loop {
        let space = per_user_byte(disk_bytes(dir)?, records.count);
        if space <= SPACE_MAX || Instant::now() >= give_up {
            return Ok(space);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Overwrites records without pause and times each put.
pub fn put_latency(setting: &Setting, told: &mut Told) -> Result {
    let mut measurement = Measurement::new(Row::PutLatency);
    let records = setting.records();
    let dir = setting.copy(Kept::Records)?;
    let engine = setting.open(&dir)?;
    told.opened(&*engine);
    warm(&*engine, records)?;
    let values = Values::new();
    let mut draws = Draws::new(Pattern::Uniform, records, 5);
    let mut nanos = histogram();
    let mut long: Vec<Range<Instant>> = Vec::new();
    let standstills = Standstills::watch();
    let began = Instant::now();
    let mut done = 0;
    while done < records.count {
        let (key, value) = (records.key(draws.number()), values.get(done));
        let started = Instant::now();
        engine.put(&key, value)?;
        let ended = Instant::now();
        let took = ended - started;
        nanos.saturating_record(took.as_nanos() as u64);
        if took > LONG {
            long.push(started..ended);
        }
        done += 1;
        if ended - began > setting.write_seconds {
            measurement.note(format!("stopped after {done} of {} puts", records.count));
            break;
        }
    }
    let standstills = standstills.end();
    let own = |put: &Range<Instant>| (put.end - put.start).saturating_sub(overlap(put, &standstills));
    let longest_own = long.iter().map(own).max().unwrap_or(Duration::from_nanos(nanos.max()));
    measurement.add("p50", nanos.value_at_quantile(0.5) as f64, Unit::Nanoseconds);
    measurement.add("p99.9", nanos.value_at_quantile(0.999) as f64, Unit::Nanoseconds);
    measurement.add("longest", nanos.max() as f64, Unit::Nanoseconds);
    measurement.add("longest, less standstills", longest_own.as_nanos() as f64, Unit::Nanoseconds);
    engine.settle()?;
    engine.close()?;
    told.measurements.push(measurement);
    Ok(())
}

/// How long the machine stood still while a put ran.
fn overlap(put: &Range<Instant>, standstills: &[Range<Instant>]) -> Duration {
    let shared =
        |pause: &Range<Instant>| pause.end.min(put.end).saturating_duration_since(pause.start.max(put.start));
    standstills.iter().map(shared).sum()
}

/// Puts that wait for the disk, by one thread and by eight.
pub fn synced_put(setting: &Setting, told: &mut Told) -> Result {
    let mut measurement = Measurement::new(Row::SyncedPut);
    for threads in [1, 8] {
        let dir = setting.empty()?;
        let options =
            OpenOptions { durability: Durability::Synced, ..OpenOptions::buffered(setting.records) };
        let engine = setting.engine.open(&dir, &options)?;
        told.opened(&*engine);
        let (done, took) = put_for(&*engine, threads, setting.seconds)?;
        engine.close()?;
        measurement.add(thread_count(threads), per_second(done, took), Unit::PerSecond);
    }
    if setting.engine == EngineName::Raw {
        measurement.note("no engine: one `pwrite` and one `fdatasync` into a file that was written before");
    }
    told.measurements.push(measurement);
    Ok(())
}

/// Puts new records from some threads for a while: how many, in which time.
fn put_for(engine: &dyn Engine, threads: u64, duration: Duration) -> Result<(u64, Duration)> {
    let (records, values) = (Records::new(1), Values::new());
    // The first ones make files and their space.
    for number in 0..100 {
        engine.put(&records.key(u64::MAX - number), values.get(number))?;
    }
    let stop = AtomicBool::new(false);
    let write = |thread: u64| -> Result<u64> {
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) {
            engine.put(&records.key(thread << 40 | done), values.get(done))?;
            done += 1;
        }
        Ok(done)
    };
    let began = Instant::now();
    let done = std::thread::scope(|scope| {
        let (write, stop) = (&write, &stop);
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || write(thread))).collect();
        std::thread::sleep(duration);
        stop.store(true, Ordering::Relaxed);
        running.into_iter().map(|thread| thread.join().expect("a writer does not panic")).sum::<Result<u64>>()
    })?;
    Ok((done, began.elapsed()))
}

fn add_written(measurement: &mut Measurement, written: Written, puts: u64) {
    measurement.add("bytes written by calls", per_user_byte(written.calls, puts), Unit::PerUserByte);
    measurement.add("bytes written to pages", per_user_byte(written.pages, puts), Unit::PerUserByte);
}

fn add_space(measurement: &mut Measurement, dir: &Path, records: Records) -> Result {
    measurement.add("bytes on disk", per_user_byte(disk_bytes(dir)?, records.count), Unit::PerUserByte);
    Ok(())
}

fn per_user_byte(bytes: u64, records: u64) -> f64 {
    bytes as f64 / (records * RECORD_BYTES) as f64
}

fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
