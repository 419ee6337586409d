//! Runs one phase of operations on a store with some threads, and measures each.
//!
//! Without a target rate every worker starts its next operation when the last one is done (a closed loop), and a
//! latency counts from that start. With one, operations have a time at which they are meant to start, evenly spaced
//! over all workers, and a latency counts from then: an operation that had to wait because the one before it was
//! slow counts its waiting, as its caller would. Workers that fall behind do not skip operations.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock, mpsc};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};

use super::latency::Latencies;
use super::record::{InsertOrder, Key, RecordShape};
use super::sequence::Sequence;
use super::workload::{OperationKind, SCAN_LENGTH_MAX, Workload};
use super::{Distribution, KeyChooser, Random, Store};

/// Workers tell how far they are once in this many operations.
const PROGRESS_EVERY: u64 = 256;
/// How often whoever watches is told.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// Sleeping is given up this long before an operation is due; the rest is waited out by yielding.
const SLEEP_MARGIN: Duration = Duration::from_micros(100);

/// What the operations of a phase are.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Inserts, one after the other or in batches.
    Load {
        /// Records in a batch, at least 1.
        batch: u64,
    },
    /// A core workload on the records that are there.
    Mix {
        /// The workload.
        workload: Workload,
        /// The request distribution.
        distribution: Distribution,
    },
}

/// A phase: what to do, how often, how fast, with how many threads.
#[derive(Debug, Clone)]
pub struct Phase {
    /// What.
    pub work: Work,
    /// How many operations, all threads together.
    pub operations: u64,
    /// How many threads, at least 1.
    pub threads: u32,
    /// Operations per second that are started, all threads together; as many as possible without.
    pub target: Option<f64>,
    /// Where the workers' random numbers start.
    pub seed: u64,
    /// How keys are made of numbers.
    pub order: InsertOrder,
    /// What values consist of.
    pub shape: RecordShape,
    /// Whether an update writes one field and keeps the others, which it must then read first; else it writes all.
    pub update_one_field: bool,
    /// Whether values are checked when they are read.
    pub verify: bool,
}

/// What came out of a phase.
#[derive(Debug, Default)]
pub struct Measured {
    /// From the start of the first operation to the end of the last.
    pub elapsed: Duration,
    /// How long operations took.
    pub latencies: Latencies,
    /// Records that must exist and were not found.
    pub missing: u64,
    /// Values that are not the ones of their record, and scans out of order. Always 0 without `verify`.
    pub wrong: u64,
    /// Records that scans returned.
    pub scanned: u64,
}

/// Runs a phase. `sequence` says which records are there and grows with each insert. `watch` is told every now and
/// then how many operations are done. The first error of any worker ends them all.
pub fn run<E: Send>(
    store: &dyn Store<Error = E>,
    phase: &Phase,
    sequence: &Sequence,
    mut watch: impl FnMut(u64),
) -> Result<Measured, E> {
    let threads = u64::from(phase.threads.max(1));
    let chooser = match phase.work {
        Work::Load { .. } => None,
        Work::Mix { workload, distribution } => {
            // Twice the inserts to be expected, as in YCSB, so that there are enough for any seed.
            let new_records = workload.expected_inserts(phase.operations).saturating_mul(2);
            Some(KeyChooser::new(distribution, sequence.present(), new_records))
        }
    };
    let shared = Shared {
        store,
        phase,
        sequence,
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        ready: Barrier::new(threads as usize),
        start: OnceLock::new(),
    };
    let (report, reports) = mpsc::channel();
    std::thread::scope(|scope| {
        for index in 0..threads {
            let report = report.clone();
            let (shared, chooser) = (&shared, chooser.clone());
            scope.spawn(move || {
                let result = Worker::new(shared, index, threads, chooser).run();
                if result.is_err() {
                    shared.stop.store(true, Ordering::Relaxed);
                }
                // The receiver lives until every worker has reported.
                let _ = report.send(result);
            });
        }
        drop(report);
        let mut total = Measured::default();
        let mut first_error = None;
        loop {
            match reports.recv_timeout(WATCH_INTERVAL) {
                Ok(Ok(measured)) => total.add(&measured),
                Ok(Err(error)) => first_error = first_error.or(Some(error)),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            watch(shared.done.load(Ordering::Relaxed));
        }
        first_error.map_or(Ok(total), Err)
    })
}

impl Measured {
    fn add(&mut self, other: &Measured) {
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latencies.add(&other.latencies);
        self.missing += other.missing;
        self.wrong += other.wrong;
        self.scanned += other.scanned;
    }
}

/// What all workers of a phase use.
struct Shared<'a, E> {
    store: &'a dyn Store<Error = E>,
    phase: &'a Phase,
    sequence: &'a Sequence,
    done: AtomicU64,
    stop: AtomicBool,
    ready: Barrier,
    start: OnceLock<Instant>,
}

struct Worker<'a, E> {
    shared: &'a Shared<'a, E>,
    phase: &'a Phase,
    store: &'a dyn Store<Error = E>,
    /// This worker's place among the others, and how many there are.
    index: u64,
    threads: u64,
    chooser: Option<KeyChooser>,
    random: Random,
    value: Vec<u8>,
    measured: Measured,
}

impl<'a, E: Send> Worker<'a, E> {
    fn new(shared: &'a Shared<'a, E>, index: u64, threads: u64, chooser: Option<KeyChooser>) -> Self {
        let phase = shared.phase;
        let random =
            Random::seed_from_u64(phase.seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Worker {
            shared,
            phase,
            store: shared.store,
            index,
            threads,
            chooser,
            random,
            value: Vec::new(),
            measured: Measured::default(),
        }
    }

    fn run(mut self) -> Result<Measured, E> {
        let operations = self.phase.operations / self.threads
            + u64::from(self.index < self.phase.operations % self.threads);
        self.shared.ready.wait();
        let start = *self.shared.start.get_or_init(Instant::now);
        match self.phase.work {
            Work::Load { batch } => self.load(start, operations, batch.max(1))?,
            Work::Mix { workload, .. } => self.mix(start, operations, workload)?,
        }
        self.measured.elapsed = start.elapsed();
        Ok(self.measured)
    }

    fn load(&mut self, start: Instant, operations: u64, batch: u64) -> Result<(), E> {
        let mut records: Vec<(Key, Vec<u8>)> = Vec::new();
        let mut numbers = Vec::new();
        let mut done = 0;
        while done < operations && !self.stopped() {
            let size = batch.min(operations - done);
            numbers.clear();
            records.resize_with(size as usize, Default::default);
            for (key, value) in &mut records {
                let number = self.shared.sequence.take();
                numbers.push(number);
                *key = self.phase.order.key(number);
                self.phase.shape.fill(number, self.random.next_u64(), value);
            }
            let begun = self.begin(start, done);
            match &records[..] {
                [(key, value)] => self.store.write(key, value)?,
                many => self.store.write_batch(many)?,
            }
            self.measured.latencies.record_many(OperationKind::Insert, begun.elapsed(), size);
            numbers.iter().for_each(|&number| self.shared.sequence.acknowledge(number));
            done += size;
            self.progress(done, size, operations);
        }
        Ok(())
    }

    fn mix(&mut self, start: Instant, operations: u64, workload: Workload) -> Result<(), E> {
        for done in 0..operations {
            if self.stopped() {
                break;
            }
            let operation = workload.draw(&mut self.random);
            let latency = match operation {
                OperationKind::Insert => self.insert(start, done)?,
                OperationKind::Scan => self.scan(start, done)?,
                OperationKind::Read | OperationKind::Update | OperationKind::ReadModifyWrite => {
                    self.touch(start, done, operation)?
                }
            };
            self.measured.latencies.record(operation, latency);
            self.progress(done + 1, 1, operations);
        }
        Ok(())
    }

    fn insert(&mut self, start: Instant, done: u64) -> Result<Duration, E> {
        let number = self.shared.sequence.take();
        let key = self.phase.order.key(number);
        self.phase.shape.fill(number, self.random.next_u64(), &mut self.value);
        let begun = self.begin(start, done);
        self.store.write(&key, &self.value)?;
        let latency = begun.elapsed();
        self.shared.sequence.acknowledge(number);
        Ok(latency)
    }

    fn scan(&mut self, start: Instant, done: u64) -> Result<Duration, E> {
        let from = self.phase.order.key(self.choose());
        let limit = self.random.random_range(1..=SCAN_LENGTH_MAX);
        let verify = self.phase.verify;
        let (mut found_first, mut in_order, mut scanned) = (false, true, 0_u64);
        let mut last = Vec::new();
        let mut bytes_sum = 0_u64;
        let begun = self.begin(start, done);
        self.store.scan(&from, limit, &mut |key, value| {
            if scanned == 0 {
                found_first = key == from;
            }
            if verify {
                in_order &= scanned == 0 || last.as_slice() < key;
                last.clear();
                last.extend_from_slice(key);
            }
            scanned += 1;
            // Every cache line of the value is read, as a caller who wanted it would do.
            bytes_sum += value.iter().step_by(64).map(|&byte| u64::from(byte)).sum::<u64>();
        })?;
        let latency = begun.elapsed();
        std::hint::black_box(bytes_sum);
        self.measured.missing += u64::from(!found_first);
        self.measured.wrong += u64::from(!in_order);
        self.measured.scanned += scanned;
        Ok(latency)
    }

    /// A read, an update, or both on one record.
    fn touch(&mut self, start: Instant, done: u64, operation: OperationKind) -> Result<Duration, E> {
        let number = self.choose();
        let key = self.phase.order.key(number);
        let merges = self.phase.update_one_field && self.phase.shape.fields > 1;
        let begun = self.begin(start, done);
        if operation != OperationKind::Update || merges {
            let found = self.store.read(&key, &mut self.value)?;
            self.measured.missing += u64::from(!found);
            if found && self.phase.verify && !self.phase.shape.check(number, &self.value) {
                self.measured.wrong += 1;
            }
            std::hint::black_box(&self.value);
        }
        if operation != OperationKind::Read {
            let stamp = self.random.next_u64();
            let shape = self.phase.shape;
            if merges && self.value.len() as u64 == shape.value_bytes() {
                let field = self.random.random_range(0..shape.fields);
                shape.fill_field(number, field, stamp, &mut self.value);
            } else {
                shape.fill(number, stamp, &mut self.value);
            }
            self.store.write(&key, &self.value)?;
        }
        Ok(begun.elapsed())
    }

    fn choose(&mut self) -> u64 {
        let chooser = self.chooser.as_mut().expect("only a load has no chooser, and it chooses nothing");
        chooser.draw(self.shared.sequence.present(), &mut self.random)
    }

    /// Waits until this worker's operation after `done` others is due; from when its latency counts.
    fn begin(&self, start: Instant, done: u64) -> Instant {
        let Some(target) = self.phase.target else { return Instant::now() };
        let place = done * self.threads + self.index;
        let due = start + Duration::from_secs_f64(place as f64 / target);
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() || self.stopped() {
                return due;
            } else if wait > SLEEP_MARGIN {
                // In steps, so that another worker's failure ends a long wait too.
                std::thread::sleep((wait - SLEEP_MARGIN).min(WATCH_INTERVAL));
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Tells how far this worker is, once in a while and at its end.
    fn progress(&self, done: u64, step: u64, operations: u64) {
        let told = (done - step) / PROGRESS_EVERY * PROGRESS_EVERY;
        let tell = if done == operations { done } else { done / PROGRESS_EVERY * PROGRESS_EVERY };
        if tell > told {
            self.shared.done.fetch_add(tell - told, Ordering::Relaxed);
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
