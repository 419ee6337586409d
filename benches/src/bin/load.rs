//! Measures what takes longer than a criterion group should: loads, synced puts by several threads, and overwriting
//! without pause.
//!
//! `cargo run --release -p terrace-benches --bin load` measures all of it; `--part` and `--records` choose. Other
//! programs on the machine disturb it: repeat it, and believe the best.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace::{Durability, Metrics, Options};
use terrace_benches::{
    Faults, Memory, Records, RunQueue, Standstills, load, process_time, scratch_directory, thread_time, touch,
};

#[derive(Parser)]
#[command(about = "Measures loads, synced puts and overwrites")]
struct Arguments {
    /// What to measure (default: everything).
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// Records to load; each number is a load of its own. The overwrites take as many as the last.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000_000, 10_000_000])]
    records: Vec<u64>,
    /// Seconds of synced puts for each number of threads, each of three times.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Random load, settling, size on disk, opening.
    Load,
    /// Synced puts of one thread and of eight.
    Sync,
    /// Overwriting every record once on average without pause, after a load.
    Overwrite,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    let wanted = |part| arguments.part.is_empty() || arguments.part.contains(&part);
    if wanted(Part::Sync) {
        compare_synced(Duration::from_secs(arguments.seconds))?;
    }
    let last = arguments.records.len().saturating_sub(1);
    for (index, &count) in arguments.records.iter().enumerate() {
        let overwrites = index == last && wanted(Part::Overwrite);
        if wanted(Part::Load) || overwrites {
            let directory = scratch_directory()?;
            let path = directory.path().join("db");
            measure_load(&path, Records::new(count))?;
            if overwrites {
                measure_overwrites(&path, Records::new(count))?;
            }
        }
    }
    Ok(())
}

/// Loads a new database, lets it settle, and says how long it takes to open afterwards.
fn measure_load(path: &Path, records: Records) -> Outcome<()> {
    let count = records.count;
    println!("\nrandom load of {count} records, buffered, one thread");
    Memory::reset_peak();
    let faults = Faults::now();
    let mut stopwatch = Stopwatch::start();
    let db = Options::new().open(path)?;
    load(&db, records)?;
    stopwatch.written();
    db.settle()?;
    stopwatch.settled();
    let faults = Faults::now() - faults;
    stopwatch.print(count);
    print_metrics(&db.metrics());
    println!("  faults          {} minor, {} major; {}", faults.minor, faults.major, Memory::now());
    db.close()?;
    let bytes = directory_bytes(path)?;
    println!("  on disk         {:.2} B per record, {} MiB in all", bytes as f64 / count as f64, bytes >> 20);

    let (mut opened, mut read) = (Duration::MAX, Duration::MAX);
    for number in 0..5 {
        let started = Instant::now();
        let db = Options::new().open(path)?;
        opened = opened.min(started.elapsed());
        let found = db.get_with(records.key(number), touch)?;
        read = read.min(started.elapsed());
        assert!(found.is_some(), "every record is there");
        db.close()?;
    }
    println!(
        "  open            {:.2} ms, with the first get {:.2} ms (best of 5)",
        millis(opened),
        millis(read)
    );
    Ok(())
}

/// A put that took long.
struct LongPut {
    started: Instant,
    took: Duration,
    /// How long it could have run while other threads had the processors.
    ready: Duration,
    /// How long no processor ran anything.
    stood_still: Duration,
}

impl LongPut {
    /// Without what was not its doing.
    fn own(&self) -> Duration {
        self.took.saturating_sub(self.ready.max(self.stood_still))
    }

    fn overlap_with(&self, pauses: &[Range<Instant>]) -> Duration {
        let end = self.started + self.took;
        pauses
            .iter()
            .map(|pause| pause.end.min(end).saturating_duration_since(pause.start.max(self.started)))
            .sum()
    }
}

/// Overwrites random records without pause, and says how long single puts took.
fn measure_overwrites(path: &Path, records: Records) -> Outcome<()> {
    let count = records.count;
    println!("\n{count} random overwrites of {count} records, buffered, one thread, without pause");
    Memory::reset_peak();
    let db = Options::new().open(path)?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut nanos = Histogram::<u64>::new(3)?;
    let mut long: Vec<LongPut> = Vec::new();
    let standstills = Standstills::watch();
    let run_queue = RunQueue::of_this_thread();
    let mut stopwatch = Stopwatch::start();
    for turn in 0..count {
        let key = records.key(random.random_range(0..count));
        let value = records.value(count + turn);
        let ready_before = run_queue.waited();
        let before = Instant::now();
        db.put_with(key, value, Durability::Buffered)?;
        let took = before.elapsed();
        nanos.record(took.as_nanos() as u64)?;
        if took > Duration::from_millis(8) {
            let ready = run_queue.waited().saturating_sub(ready_before);
            long.push(LongPut { started: before, took, ready, stood_still: Duration::ZERO });
        }
    }
    stopwatch.written();
    let standstills = standstills.end();
    for put in &mut long {
        put.stood_still = put.overlap_with(&standstills);
    }
    db.settle()?;
    stopwatch.settled();
    let micros = |quantile| nanos.value_at_quantile(quantile) as f64 / 1000.0;
    stopwatch.print(count);
    println!(
        "  one put         p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.0} µs, p99.99 {:.0} µs, longest {:.2} ms",
        micros(0.5),
        micros(0.99),
        micros(0.999),
        micros(0.9999),
        nanos.max() as f64 / 1e6
    );
    let over = |millis, time: fn(&LongPut) -> Duration| {
        long.iter().filter(|put| time(put) > Duration::from_millis(millis)).count()
    };
    println!(
        "  over 8 ms       {} puts, over 20 ms {}; without the machine's own pauses {} and {}",
        over(8, |put| put.took),
        over(20, |put| put.took),
        over(8, LongPut::own),
        over(20, LongPut::own)
    );
    long.sort_unstable_by_key(|put| std::cmp::Reverse((put.own(), put.took)));
    for put in long.iter().take(8) {
        println!(
            "                  {:.2} ms at {:.2} s: others had the processors for {:.2} ms, nobody for {:.2} ms",
            millis(put.took),
            (put.started - stopwatch.started).as_secs_f64(),
            millis(put.ready),
            millis(put.stood_still)
        );
    }
    let whole: Duration = standstills.iter().map(|pause| pause.end - pause.start).sum();
    let longest = standstills.iter().map(|pause| pause.end - pause.start).max().unwrap_or_default();
    println!(
        "  the machine     stood still {} times for {:.2} s, the longest {:.2} ms",
        standstills.len(),
        whole.as_secs_f64(),
        millis(longest)
    );
    print_metrics(&db.metrics());
    println!("  memory          {}", Memory::now());
    db.close()?;
    let bytes = directory_bytes(path)?;
    println!("  on disk         {:.2} B per record, {} MiB in all", bytes as f64 / count as f64, bytes >> 20);
    Ok(())
}

/// Synced puts of one thread and of eight, in turn, three times.
fn compare_synced(duration: Duration) -> Outcome<()> {
    println!("\nsynced puts, 16 B + 100 B, {} s each, three times", duration.as_secs());
    let mut best = [0.0_f64; 2];
    for _ in 0..3 {
        for (threads, best) in [1, 8].into_iter().zip(&mut best) {
            let (per_second, per_sync) = synced_puts(threads, duration)?;
            println!("  {threads} thread(s)     {per_second:>9.0} puts/s, {per_sync:.2} puts per sync");
            *best = best.max(per_second);
        }
    }
    println!("  best            {:.0} and {:.0} puts/s: {:.2} times", best[0], best[1], best[1] / best[0]);
    Ok(())
}

/// Puts per second, and puts per `fdatasync`.
fn synced_puts(threads: u64, duration: Duration) -> Outcome<(f64, f64)> {
    let directory = scratch_directory()?;
    let db = Options::new().open(directory.path().join("db"))?;
    let records = Records::new(1);
    let value = records.value(0);
    let stop = AtomicBool::new(false);
    // The first log segments are made while nobody looks.
    (0..2000)
        .try_for_each(|number| db.put_with(records.key(u64::MAX - number), value, Durability::Buffered))?;
    db.sync()?;
    let syncs = db.metrics().log_syncs;
    let started = Instant::now();
    let counts: Vec<terrace::Result<u64>> = std::thread::scope(|scope| {
        let spawn = |thread: u64| {
            let (db, stop) = (&db, &stop);
            scope.spawn(move || {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    db.put_with(records.key(thread << 40 | done), value, Durability::Sync)?;
                    done += 1;
                }
                Ok(done)
            })
        };
        let running: Vec<_> = (0..threads).map(spawn).collect();
        std::thread::sleep(duration);
        stop.store(true, Ordering::Relaxed);
        running.into_iter().map(|thread| thread.join().expect("a writer does not panic")).collect()
    });
    let elapsed = started.elapsed();
    let total = counts.into_iter().sum::<terrace::Result<u64>>()?;
    let syncs = db.metrics().log_syncs - syncs;
    db.close()?;
    Ok((total as f64 / elapsed.as_secs_f64(), total as f64 / syncs.max(1) as f64))
}

fn print_metrics(metrics: &Metrics) {
    println!(
        "  written         {:.2} times what was put; {} flushes, {} compactions, {} moves",
        metrics.write_amplification(),
        metrics.flushes,
        metrics.compactions,
        metrics.trivial_moves
    );
    let levels = metrics.levels.iter().filter(|level| level.tables > 0 || level.bytes_written > 0);
    for level in levels {
        let mib = |bytes: u64| bytes >> 20;
        println!(
            "  level {}         {} tables, {} MiB; read {} MiB, written {} MiB",
            level.level,
            level.tables,
            mib(level.bytes),
            mib(level.bytes_read),
            mib(level.bytes_written)
        );
    }
    for stall in metrics.stalls.iter().filter(|stall| stall.count > 0) {
        println!(
            "  stalls          {}: {} of {:.2} s, longest {:.2} ms",
            stall.reason.as_str(),
            stall.count,
            stall.total.as_secs_f64(),
            millis(stall.longest)
        );
    }
}

/// How long writing and settling took, on the clock and of the processors.
struct Stopwatch {
    started: Instant,
    writer_before: Duration,
    process_before: Duration,
    written: Duration,
    writer: Duration,
    settled: Duration,
    process: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Stopwatch {
            started: Instant::now(),
            writer_before: thread_time(),
            process_before: process_time(),
            written: Duration::ZERO,
            writer: Duration::ZERO,
            settled: Duration::ZERO,
            process: Duration::ZERO,
        }
    }

    fn written(&mut self) {
        self.written = self.started.elapsed();
        self.writer = thread_time().saturating_sub(self.writer_before);
    }

    fn settled(&mut self) {
        self.settled = self.started.elapsed();
        self.process = process_time().saturating_sub(self.process_before);
    }

    fn print(&self, count: u64) {
        println!(
            "  written in      {:>8.2} s, {:>7.0} k/s; the writer used {:.2} s of processor",
            self.written.as_secs_f64(),
            rate(count, self.written),
            self.writer.as_secs_f64()
        );
        println!(
            "  settled after   {:>8.2} s, {:>7.0} k/s; all threads used {:.2} s of processor",
            self.settled.as_secs_f64(),
            rate(count, self.settled),
            self.process.as_secs_f64()
        );
    }
}

/// The length of all files that stand directly in a directory.
fn directory_bytes(path: &Path) -> std::io::Result<u64> {
    std::fs::read_dir(path)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

/// Thousands per second.
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64() / 1000.0
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_run() {
        let directory = scratch_directory().unwrap();
        let path = directory.path().join("db");
        let records = Records::new(3_000);
        measure_load(&path, records).unwrap();
        measure_overwrites(&path, records).unwrap();
        let db = Options::new().open(&path).unwrap();
        assert_eq!(db.iter().unwrap().count(), 3_000);
        let (per_second, per_sync) = synced_puts(8, Duration::from_millis(200)).unwrap();
        assert!(per_second > 0.0 && per_sync >= 1.0, "{per_second} {per_sync}");
    }
}
