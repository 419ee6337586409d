//! The asynchronous API on one reactor thread: does a heartbeat beside thousands of cold gets come in time, and how many
//! gets a second are there beside a pool of threads that do nothing but `pread` the same pages?
//!
//! A heart should beat every millisecond. Its lateness is measured on the reactor that does the gets, and at the same time
//! on another one, on a thread of its own, that does nothing. Every measurement begins with no data block in memory;
//! metadata is brought in first, unless that is to be cold too. `docs/io-paths.md` has the figures.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use terrace::{AsyncDb, Db, Durability, Options, ReadStep};
use terrace_benches::{Faults, Key, Records, forget_pages, load, scratch_directory, touch};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// What goes wrong here is for whoever runs it to read.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const BLOCK_BYTES: usize = 4096;

#[derive(Parser)]
#[command(about = "Measures the asynchronous API beside blocking calls and plain preads")]
struct Arguments {
    /// Records of 16 B + 100 B.
    #[arg(long, default_value_t = 4_000_000)]
    records: u64,
    /// Gets of each measurement.
    #[arg(long, default_value_t = 100_000)]
    gets: usize,
    /// Tasks that get at once.
    #[arg(long, default_value_t = 4_000)]
    tasks: usize,
    /// Threads that wait for the disk: of the pool of plain preads, and for cold gets.
    #[arg(long, value_delimiter = ',', default_values_t = [32])]
    threads: Vec<usize>,
    /// How often; the ways take turns.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Begin with no metadata in memory either.
    #[arg(long)]
    cold_metadata: bool,
    /// Keep the database in this directory, and use it again next time (default: a new one that is removed).
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// A key, and the page that its value is in.
struct Wanted {
    key: Key,
    file: usize,
    offset: u64,
}

struct Bench {
    arguments: Arguments,
    database: PathBuf,
    records: Records,
    wanted: Arc<[Wanted]>,
    files: Vec<PathBuf>,
}

/// What one measurement has shown.
struct Figures {
    per_second: f64,
    major_faults: u64,
    /// Of the heart on the reactor that worked, and of the one beside it.
    lateness: Option<[Lateness; 2]>,
}

/// How late a heart was.
#[derive(Clone, Copy)]
struct Lateness {
    p999: Duration,
    max: Duration,
}

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    let scratch = scratch_directory()?;
    let dir = arguments.dir.clone().unwrap_or_else(|| scratch.path().to_owned());
    let records = Records::new(arguments.records);
    let database = prepare(&dir, records)?;
    let (wanted, files) = places(&database, records, arguments.gets)?;
    let bench = Bench { arguments, database, records, wanted, files };
    println!(
        "{} gets of {} records by {} tasks; a heart beats each millisecond\n",
        bench.wanted.len(),
        bench.records.count,
        bench.arguments.tasks
    );
    println!(
        "{:<26}{:>10}{:>9}   late: {:>10}{:>10}   beside: {:>10}{:>10}",
        "", "gets/s", "faults", "p99.9", "max", "p99.9", "max"
    );
    for _ in 0..bench.arguments.rounds {
        for &threads in &bench.arguments.threads {
            bench.tell(&format!("pread, {threads} threads"), bench.preads(threads)?);
            bench.tell(&format!("async, {threads} threads"), bench.gets(threads)?);
        }
        bench.tell("blocking, on the reactor", bench.blocking_gets()?);
    }
    bench.warm()?;
    writes(&dir)
}

/// The database, settled.
fn prepare(dir: &Path, records: Records) -> Outcome<PathBuf> {
    let database = dir.join(format!("async-records-{}", records.count));
    if !database.exists() {
        println!("loading {} records", records.count);
        let loading = dir.join("async-loading");
        let _ = std::fs::remove_dir_all(&loading);
        let db = Options::new().open(&loading)?;
        load(&db, records)?;
        db.settle()?;
        db.close()?;
        std::fs::rename(&loading, &database)?;
    }
    Ok(database)
}

/// Keys, no two in one block, with the places of their blocks.
fn places(database: &Path, records: Records, gets: usize) -> Outcome<(Arc<[Wanted]>, Vec<PathBuf>)> {
    let db = Db::open(database)?;
    let (mut files, mut numbers, mut seen) = (Vec::new(), HashMap::new(), std::collections::HashSet::new());
    let mut wanted = Vec::with_capacity(gets);
    // Records are numbered in no order of their keys.
    for number in 0..records.count {
        if wanted.len() == gets {
            break;
        }
        let key = records.key(number);
        let (_, stats) = db.get_with_stats(key)?;
        let read = stats.tables.last().ok_or("a record is not in any table")?;
        let (_, place) =
            read.steps.iter().rfind(|(step, _)| *step == ReadStep::Block).ok_or("no block was read")?;
        let file = *numbers.entry(read.table).or_insert_with(|| {
            files.push(database.join(format!("{:06}.sst", read.table)));
            files.len() - 1
        });
        if seen.insert((file, place.start)) {
            wanted.push(Wanted { key, file, offset: place.start });
        }
    }
    db.close()?;
    Ok((wanted.into(), files))
}

impl Bench {
    fn tell(&self, name: &str, figures: Figures) {
        print!("{name:<26}{:>10.0}{:>9}", figures.per_second, figures.major_faults);
        if let Some([late, beside]) = figures.lateness {
            print!(
                "         {:>10.2?}{:>10.2?}           {:>10.2?}{:>10.2?}",
                late.p999, late.max, beside.p999, beside.max
            );
        }
        println!();
    }

    /// The database, of which no data block is in memory.
    fn open_cold(&self) -> Outcome<Db> {
        forget_pages(&self.database)?;
        let db = Db::open(&self.database)?;
        if !self.arguments.cold_metadata {
            // Keys that are not there lead to every page of the locators, and seldom further.
            for key in self.records.misses(self.records.count as usize / 8) {
                black_box(db.get(key)?);
            }
        }
        Ok(db)
    }

    /// A pool of threads that only read the pages.
    fn preads(&self, threads: usize) -> Outcome<Figures> {
        forget_pages(&self.database)?;
        let files: Vec<File> = self.files.iter().map(File::open).collect::<std::io::Result<_>>()?;
        for file in &files {
            rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random)?;
        }
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut block = [0; BLOCK_BYTES];
                    while let Some(wanted) = self.wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        files[wanted.file]
                            .read_exact_at(&mut block, wanted.offset)
                            .expect("the table can be read");
                        black_box(touch(&block));
                    }
                });
            }
        });
        Ok(Figures {
            per_second: self.wanted.len() as f64 / started.elapsed().as_secs_f64(),
            major_faults: 0,
            lateness: None,
        })
    }

    fn gets(&self, threads: usize) -> Outcome<Figures> {
        let db = AsyncDb::with_cold_reads(self.open_cold()?, threads);
        let count = self.wanted.len();
        let figures = beside_a_heart(count, || async {
            let mut tasks = JoinSet::new();
            for first in 0..self.arguments.tasks {
                let (db, wanted, step) = (db.clone(), self.wanted.clone(), self.arguments.tasks);
                tasks.spawn(async move {
                    for wanted in wanted.iter().skip(first).step_by(step) {
                        let value = db.get(wanted.key).await.expect("the database can be read");
                        black_box(touch(&value.expect("every record is there")));
                    }
                });
                // To make thousands of tasks takes milliseconds too.
                if first % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            while let Some(done) = tasks.join_next().await {
                done.expect("no task panics");
            }
        });
        db.blocking().close()?;
        Ok(figures)
    }

    /// What not to do: one get for each task, each blocks the reactor.
    fn blocking_gets(&self) -> Outcome<Figures> {
        let db = self.open_cold()?;
        let count = self.arguments.tasks.min(self.wanted.len());
        let figures = beside_a_heart(count, || async {
            let mut tasks = JoinSet::new();
            for index in 0..count {
                let (db, wanted) = (db.clone(), self.wanted.clone());
                tasks.spawn(async move {
                    let value = db.get(wanted[index].key).expect("the database can be read");
                    black_box(touch(&value.expect("every record is there")));
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.expect("no task panics");
            }
        });
        db.close()?;
        Ok(figures)
    }

    /// Gets of what is in memory, one after the other.
    fn warm(&self) -> Outcome<()> {
        let db = AsyncDb::from(Db::open(&self.database)?);
        let keys = || self.wanted.iter().map(|wanted| wanted.key);
        for key in keys() {
            black_box(db.blocking().get(key)?);
        }
        let each = |started: Instant| started.elapsed().as_nanos() / self.wanted.len() as u128;
        let started = Instant::now();
        for key in keys() {
            black_box(db.blocking().get(key)?);
        }
        let blocking = each(started);
        let started = Instant::now();
        for key in keys() {
            black_box(db.blocking().get_if_resident(key)?.resident().ok_or("it was in memory a moment ago")?);
        }
        let resident = each(started);
        let inline = runtime().block_on(async {
            let started = Instant::now();
            for key in keys() {
                black_box(db.get(key).await?);
            }
            Ok::<_, terrace::Error>(each(started))
        })?;
        println!("\nin memory, ns for each: get {blocking}, get_if_resident {resident}, async get {inline}");
        db.blocking().close()?;
        Ok(())
    }
}

/// Writes of many tasks, and of as many threads.
fn writes(dir: &Path) -> Outcome<()> {
    const PUTS: u64 = 200;
    let directory = tempfile::tempdir_in(dir)?;
    let records = Records::new(1 << 40);
    for (writers, durability) in [
        (64, Durability::Sync),
        (1_000, Durability::Sync),
        (64, Durability::Buffered),
        (1_000, Durability::Buffered),
    ] {
        let db = AsyncDb::from(Db::open(directory.path().join("db"))?);
        let per_second = |started: Instant| (writers * PUTS) as f64 / started.elapsed().as_secs_f64();
        let started = Instant::now();
        runtime().block_on(async {
            let mut tasks = JoinSet::new();
            for writer in 0..writers {
                let db = db.clone();
                tasks.spawn(async move {
                    for number in writer * PUTS..(writer + 1) * PUTS {
                        let put = db.put_with(records.key(number), records.value(number), durability);
                        put.await.expect("the database can be written");
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.expect("no task panics");
            }
        });
        let tasks = per_second(started);
        let started = Instant::now();
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let db = db.blocking();
                scope.spawn(move || {
                    for number in writer * PUTS..(writer + 1) * PUTS {
                        db.put_with(records.key(number), records.value(number), durability)
                            .expect("the database can be written");
                    }
                });
            }
        });
        let threads = per_second(started);
        println!("{durability:?} puts/s by {writers} at once: tasks {tasks:.0}, threads {threads:.0}");
        db.blocking().close()?;
    }
    Ok(())
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime can be made")
}

/// Does work on a reactor with a heart, beside one that has nothing but a heart.
fn beside_a_heart<F: Future<Output = ()>>(count: usize, work: impl FnOnce() -> F) -> Figures {
    let is_over = Arc::new(AtomicBool::new(false));
    let beside = {
        let is_over = is_over.clone();
        std::thread::spawn(move || runtime().block_on(heartbeat(is_over)))
    };
    let faults = Faults::now();
    let (elapsed, late) = runtime().block_on(async {
        let heart = tokio::spawn(heartbeat(is_over.clone()));
        tokio::task::yield_now().await;
        let started = Instant::now();
        work().await;
        let elapsed = started.elapsed();
        is_over.store(true, Ordering::Relaxed);
        (elapsed, heart.await.expect("the heart does not panic"))
    });
    let beside = beside.join().expect("the heart does not panic");
    Figures {
        per_second: count as f64 / elapsed.as_secs_f64(),
        major_faults: (Faults::now() - faults).major,
        lateness: Some([lateness(late), lateness(beside)]),
    }
}

/// How late each beat was, until `is_over`.
async fn heartbeat(is_over: Arc<AtomicBool>) -> Vec<Duration> {
    let (mut late, mut due) = (Vec::new(), Instant::now());
    while !is_over.load(Ordering::Relaxed) {
        due += Duration::from_millis(1);
        tokio::time::sleep_until(due.into()).await;
        late.push(due.elapsed());
    }
    late
}

fn lateness(mut late: Vec<Duration>) -> Lateness {
    late.sort_unstable();
    let last = late.len() - 1;
    Lateness { p999: late[last - late.len() / 1000], max: late[last] }
}
