//! Power cuts at every moment: what is recovered is a prefix of what was appended and has all that was synced.
//!
//! A seeded workload appends groups, syncs, rolls to new and recycled segments, with and without waiting for the sync
//! of the old one. Before each operation that changes the file system, and so in the middle of all that, copies are
//! made of what a crash could leave, under every policy, and read.

use std::sync::{Arc, Mutex};

use terrace_io::CrashPolicy;

use super::*;
use crate::record_len;

/// What the engine would know at a moment. The manifest is taken to be durable as it is here.
#[derive(Debug, Clone, Default)]
struct Known {
    segments: Vec<(u32, u64)>,
    /// What the manifest says is synced.
    manifest_synced: Position,
    /// The payloads appended, the last group perhaps only in part.
    appended: Vec<Vec<u8>>,
    /// How many of them are synced.
    synced: usize,
}

impl Known {
    /// Reads what a crash left. Gives how many records there were.
    fn check(&self, fs: &MemoryFileSystem, what: &str) -> usize {
        let (payloads, _) = replay(fs, &self.segments, self.manifest_synced)
            .unwrap_or_else(|error| panic!("{what}: {error}\n{:?}", (&self.segments, self.manifest_synced)));
        assert!(
            payloads.len() >= self.synced,
            "{what}: {} of {} synced records",
            payloads.len(),
            self.synced
        );
        assert!(payloads.len() <= self.appended.len(), "{what}: records out of nowhere");
        assert!(payloads[..] == self.appended[..payloads.len()], "{what}: other records than were appended");
        payloads.len()
    }
}

/// How often each thing happened that the test is about.
#[derive(Debug, Default)]
struct Seen {
    /// Everything appended was recovered.
    whole: u64,
    /// Records were lost, none of them synced.
    cut: u64,
    /// Of these, records of a later segment had survived.
    holes: u64,
}

struct Workload {
    fs: MemoryFileSystem,
    random: Random,
    known: Arc<Mutex<Known>>,
    writer: SegmentWriter,
    /// Files of segments that were closed without being synced.
    unsynced: Vec<Arc<terrace_io::LogFile>>,
    retired: Vec<u32>,
    next_number: u32,
    synced: Position,
}

impl Workload {
    const LEN: u64 = 6 * 1024;

    fn new(seed: u64) -> Workload {
        let fs = new_fs();
        let mut random = Random(seed);
        // Segments of an earlier life, with records that look just like those of the next: the same payloads.
        let retired: Vec<u32> = (1..=random.below(4) as u32).collect();
        for number in &retired {
            let mut writer =
                SegmentWriter::create(&fs, dir(), LOG_ID, *number, Self::LEN, Fill::Zeros).unwrap();
            let payloads: Vec<_> = (1..).map(|sequence| payload(sequence, 100)).take(40).collect();
            append(&mut writer, Position::default(), &payloads).unwrap();
            writer.sync().unwrap();
        }
        let number = retired.len() as u32 + 1;
        let writer = SegmentWriter::create(&fs, dir(), LOG_ID, number, Self::LEN, Fill::Zeros).unwrap();
        fs.sync_dir(dir()).unwrap();
        let known = Known { segments: vec![(number, Self::LEN)], ..Known::default() };
        let (unsynced, synced) = (Vec::new(), Position::default());
        let known = Arc::new(Mutex::new(known));
        Workload { fs, random, known, writer, unsynced, retired, next_number: number + 1, synced }
    }

    fn step(&mut self) {
        match self.random.below(10) {
            0..=6 => self.append(),
            7 | 8 => self.sync(),
            _ => self.roll(Self::LEN),
        }
    }

    fn append(&mut self) {
        let first = self.known.lock().unwrap().appended.len() as u64 + 1;
        let records = 1 + self.random.below(4);
        let mut sizes: Vec<usize> = (0..records).map(|_| 100 + 8 * self.random.below(2) as usize).collect();
        if self.random.one_in(8) {
            sizes[0] = 8 + self.random.below(9000) as usize;
        }
        let needed: u64 = sizes.iter().map(|len| record_len(*len)).sum();
        if needed > self.writer.remaining() {
            self.roll(Self::LEN.max(needed + 64));
        }
        let payloads: Vec<_> = (first..).zip(&sizes).map(|(sequence, len)| payload(sequence, *len)).collect();
        self.known.lock().unwrap().appended.extend_from_slice(&payloads);
        append(&mut self.writer, self.synced, &payloads).unwrap();
    }

    fn sync(&mut self) {
        for file in self.unsynced.drain(..) {
            file.sync().unwrap();
        }
        self.writer.sync().unwrap();
        if self.writer.position().offset > 64 {
            self.synced = self.writer.position();
        }
        let mut known = self.known.lock().unwrap();
        known.synced = known.appended.len();
        if self.random.one_in(3) {
            known.manifest_synced = self.synced;
        }
    }

    fn roll(&mut self, len: u64) {
        if self.random.one_in(2) {
            self.sync();
        } else {
            self.unsynced.push(self.writer.file().clone());
        }
        let number = self.next_number;
        self.next_number += 1;
        self.writer = match self.retired.pop() {
            Some(old) if len == Self::LEN => {
                SegmentWriter::recycle(&self.fs, dir(), LOG_ID, old, number).unwrap()
            }
            _ => SegmentWriter::create(&self.fs, dir(), LOG_ID, number, len, Fill::Sparse).unwrap(),
        };
        self.fs.sync_dir(dir()).unwrap();
        self.known.lock().unwrap().segments.push((number, len));
    }
}

/// Reads what each policy leaves of `fs`.
fn check_crashes(fs: &MemoryFileSystem, known: &Known, torn_seed: u64, seen: &mut Seen, what: &str) {
    let whole = known.check(&fs.process_kill_clone(), &format!("{what}, killed"));
    let kept = known.check(&fs.crash_clone(CrashPolicy::KeepAll), &format!("{what}, all kept"));
    assert_eq!(kept, whole);
    known.check(&fs.crash_clone(CrashPolicy::DropUnsynced), &format!("{what}, unsynced dropped"));
    for seed in torn_seed..torn_seed + 4 {
        let torn = fs.crash_clone(CrashPolicy::Torn { seed });
        let recovered = known.check(&torn, &format!("{what}, torn with seed {seed}"));
        if recovered == whole {
            seen.whole += 1;
        } else {
            seen.cut += 1;
            let mut reader = LogReader::new(&torn, dir(), LOG_ID, &known.segments, Position::default());
            let mut read = 0;
            while reader.next().unwrap().is_some() {
                read += 1;
            }
            seen.holes += u64::from(read > recovered);
        }
    }
}

#[test]
fn crashes_at_every_moment_leave_a_prefix_with_all_that_was_synced() {
    let seen = Arc::new(Mutex::new(Seen::default()));
    for seed in 0..150 {
        let mut workload = Workload::new(seed);
        let (fs, known, counted) = (workload.fs.clone(), workload.known.clone(), seen.clone());
        workload.fs.set_hook(move |mutation| {
            let index = mutation.index;
            let what = format!("seed {seed}, before mutation {index}");
            let known = known.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            check_crashes(&fs, &known, index * 8, &mut counted.lock().unwrap(), &what);
        });
        for _ in 0..40 {
            workload.step();
        }
        workload.fs.remove_hook();
        let known = workload.known.lock().unwrap().clone();
        let recovered = known.check(&workload.fs, &format!("seed {seed}, at the end"));
        assert_eq!(recovered, known.appended.len());
    }
    let seen = seen.lock().unwrap();
    assert!(
        seen.whole > 1000 && seen.cut > 1000 && seen.holes > 100,
        "{seen:?}: the workload tests too little"
    );
}
