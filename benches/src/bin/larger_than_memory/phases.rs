//! What is measured within the limit.

use std::collections::HashMap;
use std::fmt;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use terrace::{Db, Durability, Options, PointReads};
use terrace_benches::{MemoryLimit, Records, device_read_bytes, touch};
use terrace_io::{
    Advice, File, FileSystem, OpenMode, OsFileSystem, PAGE_BYTES, Region, ThreadUsage, read_exact_at,
};

use crate::Outcome;
use crate::trace::{Spread, Trace};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// Gets of records at random.
    Uniform,
    /// Gets of records, some far more often than others.
    Zipf,
    /// Seeks at random, each followed by 100 entries.
    ShortScans,
    /// Everything in order.
    LongScan,
    /// Overwrites at random, compaction included.
    Overwrite,
    /// Zipf gets at rest, and then while everything is compacted.
    Compaction,
}

impl Phase {
    pub const ALL: [Phase; 6] = [
        Phase::Uniform,
        Phase::Zipf,
        Phase::ShortScans,
        Phase::LongScan,
        Phase::Overwrite,
        Phase::Compaction,
    ];

    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it makes a difference how gets reach the data.
    pub fn has_ways(self) -> bool {
        matches!(self, Phase::Uniform | Phase::Zipf)
    }

    pub fn writes(self) -> bool {
        matches!(self, Phase::Overwrite | Phase::Compaction)
    }
}

/// How gets reach the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// By the mapping.
    Mmap,
    /// The same without being told how much memory there is: by locators, however much of it they take.
    Locators,
    /// By the engine, with `pread`.
    Pread,
    /// Without an engine: `pread` of the page that the get would read.
    Raw,
    /// Without an engine: a read of that page in a mapping.
    RawMmap,
}

impl Way {
    pub const ALL: [Way; 5] = [Way::Mmap, Way::Locators, Way::Pread, Way::Raw, Way::RawMmap];

    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What a phase gave: the figures of a process, or of several the medians.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures(Vec<(String, f64)>);

impl Figures {
    fn new() -> Figures {
        Figures(Vec::new())
    }

    fn add(&mut self, name: &str, value: f64) {
        self.0.push((name.to_owned(), value));
    }

    /// The median of each figure.
    pub fn median(all: Vec<Figures>) -> Figures {
        let names = all.first().map(|first| first.0.clone()).unwrap_or_default();
        let median = |index: usize, name: String| {
            let mut values: Vec<f64> = all.iter().map(|figures| figures.0[index].1).collect();
            values.sort_unstable_by(f64::total_cmp);
            (name, values[values.len() / 2])
        };
        Figures(names.into_iter().enumerate().map(|(index, (name, _))| median(index, name)).collect())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            match *value {
                value if value >= 100.0 => write!(f, "{separator}{name} {value:.0}")?,
                value => write!(f, "{separator}{name} {value:.3}")?,
            }
        }
        Ok(())
    }
}

/// The process within the limit.
#[derive(Debug, Clone, Args)]
pub struct Child {
    #[arg(long)]
    pub dir: PathBuf,
    #[arg(long)]
    pub records: u64,
    #[arg(long)]
    pub phase: Phase,
    #[arg(long)]
    pub way: Way,
    #[arg(long)]
    pub seconds: f64,
    #[arg(long)]
    pub memtable_mib: u64,
    /// What the control group allows.
    #[arg(long)]
    pub limit_mib: u64,
    /// The control group to move to.
    #[arg(long)]
    pub group: PathBuf,
}

impl Child {
    pub fn to_arguments(&self) -> Vec<String> {
        [
            ("--dir", self.dir.display().to_string()),
            ("--records", self.records.to_string()),
            ("--phase", self.phase.name()),
            ("--way", self.way.name()),
            ("--seconds", self.seconds.to_string()),
            ("--memtable-mib", self.memtable_mib.to_string()),
            ("--limit-mib", self.limit_mib.to_string()),
            ("--group", self.group.display().to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }

    /// Moves into the group, measures, and prints the figures.
    pub fn run(&self) -> Outcome<()> {
        MemoryLimit::enter(&self.group)?;
        let figures = match (self.phase, self.way) {
            (Phase::Uniform, Way::Raw | Way::RawMmap) => self.raw(Spread::Uniform),
            (Phase::Zipf, Way::Raw | Way::RawMmap) => self.raw(Spread::Zipf),
            (Phase::Uniform, _) => self.gets(Spread::Uniform),
            (Phase::Zipf, _) => self.gets(Spread::Zipf),
            (Phase::ShortScans, _) => self.short_scans(),
            (Phase::LongScan, _) => self.long_scan(),
            (Phase::Overwrite, _) => self.overwrite(),
            (Phase::Compaction, _) => self.compaction(),
        }?;
        println!("{}", serde_json::to_string(&figures)?);
        Ok(())
    }

    fn open(&self) -> Outcome<Db> {
        let path = if self.way == Way::Pread { PointReads::Pread } else { PointReads::Mmap };
        let mut options = Options::new().memtable_bytes(self.memtable_mib << 20).point_reads(path);
        if self.way != Way::Locators {
            options = options.memory_bytes(self.limit_mib << 20);
        }
        Ok(options.durability(Durability::Buffered).open(&self.dir)?)
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// A trace of this database, or of the one that it is a copy of.
    fn trace(&self, spread: Spread) -> Outcome<Trace> {
        let original = self.dir.with_file_name(format!("records-{}", self.records));
        Trace::open(&original, spread)
    }

    fn gets(&self, spread: Spread) -> Outcome<Figures> {
        let db = self.open()?;
        let records = Records::new(self.records);
        let mut trace = self.trace(spread)?;
        let get = |trace: &mut Trace| -> Outcome<()> {
            let record = trace.next()?.record;
            black_box(db.get_with(records.key(record), touch)?.ok_or("a record is missing")?);
            Ok(())
        };
        repeat(self.time() / 2, || get(&mut trace))?;
        let mut figures = Figures::new();
        timed(&mut figures, "gets", self.time(), || get(&mut trace))?;
        // Who reads what, by gets that tell: the clock is not asked meanwhile.
        let (mut data, mut metadata) = (0, 0);
        let gets = repeat(self.time() / 2, || {
            let record = trace.next()?.record;
            let (_, stats) = db.get_with_stats(records.key(record))?;
            data += stats.data().device_bytes;
            metadata += stats.metadata().device_bytes;
            Ok(())
        })?;
        let pages = |bytes: u64| bytes as f64 / PAGE_BYTES as f64 / gets as f64;
        figures.add("data pages", pages(data));
        figures.add("metadata pages", pages(metadata));
        db.close()?;
        Ok(figures)
    }

    /// Reads the pages that the gets of a trace would.
    fn raw(&self, spread: Spread) -> Outcome<Figures> {
        let mut files: HashMap<u32, Arc<dyn File>> = HashMap::new();
        let mut regions: HashMap<u32, Region> = HashMap::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(number) = name.strip_suffix(".sst").and_then(|number| number.parse().ok()) {
                let file = OsFileSystem.open(&path, OpenMode::Read)?;
                if self.way == Way::Raw {
                    file.advise(Advice::Random, 0, file.len()?);
                    files.insert(number, file);
                } else {
                    let region = file.map(usize::try_from(file.len()?)?)?;
                    region.advise(Advice::Random, 0..region.len());
                    regions.insert(number, region);
                }
            }
        }
        let mut trace = self.trace(spread)?;
        let mut page = vec![0; PAGE_BYTES];
        let mut read = || -> Outcome<()> {
            let get = trace.next()?;
            let start = get.page as usize * PAGE_BYTES;
            let read = match (files.get(&get.table), regions.get(&get.table)) {
                (Some(file), _) => {
                    read_exact_at(&**file, &mut page, start as u64)?;
                    touch(&page[..128])
                }
                (None, Some(region)) => touch(&region[start..start + 128]),
                (None, None) => return Err("a table of the trace is not there".into()),
            };
            black_box(read);
            Ok(())
        };
        repeat(self.time() / 2, &mut read)?;
        let mut figures = Figures::new();
        timed(&mut figures, "gets", self.time(), read)?;
        Ok(figures)
    }

    fn short_scans(&self) -> Outcome<Figures> {
        let db = self.open()?;
        let records = Records::new(self.records);
        let mut trace = self.trace(Spread::Uniform)?;
        let mut cursor = db.cursor()?;
        let mut scan = || -> Outcome<()> {
            cursor.seek(records.key(trace.next()?.record))?;
            for _ in 0..100 {
                if !cursor.valid() {
                    break;
                }
                black_box(touch(cursor.value()));
                cursor.next()?;
            }
            Ok(())
        };
        repeat(self.time() / 2, &mut scan)?;
        let mut figures = Figures::new();
        timed(&mut figures, "scans", self.time(), scan)?;
        Ok(figures)
    }

    fn long_scan(&self) -> Outcome<Figures> {
        let db = self.open()?;
        let (started, before, mut entries) = (Instant::now(), device_read_bytes(), 0_u64);
        for entry in db.iter()? {
            black_box(touch(&entry?.1));
            entries += 1;
        }
        if entries != self.records {
            return Err(format!("the scan found {entries} of {} records", self.records).into());
        }
        let mut figures = Figures::new();
        figures.add("entries/s", entries as f64 / started.elapsed().as_secs_f64());
        let read = (device_read_bytes() - before) as f64;
        figures.add("bytes read for each", read / entries as f64);
        Ok(figures)
    }

    fn overwrite(&self) -> Outcome<Figures> {
        let db = self.open()?;
        let records = Records::new(self.records);
        let mut trace = self.trace(Spread::Uniform)?;
        let mut written = 0;
        let mut figures = Figures::new();
        timed(&mut figures, "puts", self.time() * 2, || {
            db.put(records.key(trace.next()?.record), records.value(written))?;
            written += 1;
            Ok(())
        })?;
        let before = db.metrics();
        let started = Instant::now();
        db.settle()?;
        figures.add("seconds to settle", started.elapsed().as_secs_f64());
        figures.add("compactions before", before.compactions as f64);
        db.close()?;
        Ok(figures)
    }

    fn compaction(&self) -> Outcome<Figures> {
        let db = self.open()?;
        let records = Records::new(self.records);
        // So that there is something to merge everywhere.
        for number in (0..self.records).step_by(50) {
            db.put(records.key(number), records.value(number))?;
        }
        db.flush()?;
        let mut trace = self.trace(Spread::Zipf)?;
        let mut get = || -> Outcome<()> {
            let record = trace.next()?.record;
            black_box(db.get_with(records.key(record), touch)?.ok_or("a record is missing")?);
            Ok(())
        };
        repeat(self.time(), &mut get)?;
        let mut figures = Figures::new();
        timed(&mut figures, "gets at rest", self.time(), &mut get)?;
        let (is_done, started) = (AtomicBool::new(false), Instant::now());
        // The process's reads are those of the compaction too: what is counted are this thread's.
        std::thread::scope(|scope| -> Outcome<()> {
            let compaction = scope.spawn(|| {
                let done = db.compact_range::<&[u8]>(..);
                is_done.store(true, Ordering::Release);
                done
            });
            timed_until(&mut figures, "gets meanwhile", &is_done, &mut get)?;
            compaction.join().map_err(|_| "the compaction panicked")??;
            Ok(())
        })?;
        figures.add("seconds of compaction", started.elapsed().as_secs_f64());
        timed(&mut figures, "gets behind", self.time(), &mut get)?;
        db.close()?;
        Ok(figures)
    }
}

/// Repeats something until the time is up: how often.
fn repeat(time: Duration, mut one: impl FnMut() -> Outcome<()>) -> Outcome<u64> {
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed() < time {
        one()?;
        count += 1;
    }
    Ok(count)
}

/// Repeats something until the time is up, and adds how often in a second, what was read for it, and how long it took.
fn timed(figures: &mut Figures, name: &str, time: Duration, one: impl FnMut() -> Outcome<()>) -> Outcome<()> {
    let started = Instant::now();
    timed_while(figures, name, || started.elapsed() < time, one)
}

/// The same until something else is done.
fn timed_until(
    figures: &mut Figures,
    name: &str,
    is_done: &AtomicBool,
    one: impl FnMut() -> Outcome<()>,
) -> Outcome<()> {
    timed_while(figures, name, || !is_done.load(Ordering::Acquire), one)
}

fn timed_while(
    figures: &mut Figures,
    name: &str,
    goes_on: impl Fn() -> bool,
    mut one: impl FnMut() -> Outcome<()>,
) -> Outcome<()> {
    let mut times = Histogram::<u64>::new(3)?;
    let (began, before, mut count) = (Instant::now(), ThreadUsage::now(), 0_u64);
    while goes_on() {
        let started = Instant::now();
        one()?;
        times.record(u64::try_from(started.elapsed().as_nanos())?)?;
        count += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    let used = ThreadUsage::now().since(before);
    let count = count.max(1) as f64;
    figures.add(&format!("{name}/s"), count / seconds);
    figures.add("pages read for each", used.device_bytes as f64 / PAGE_BYTES as f64 / count);
    figures.add("major faults for each", used.major_faults as f64 / count);
    figures.add("p50 µs", times.value_at_quantile(0.5) as f64 / 1e3);
    figures.add("p99.9 µs", times.value_at_quantile(0.999) as f64 / 1e3);
    Ok(())
}
