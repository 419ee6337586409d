//! The write-ahead log: its segments, who syncs them, and when they go.
//!
//! Two sides share it. The *appender* belongs to the thread that leads a commit group: it encodes records and writes
//! them with one `pwrite`. The *sync* side belongs to whoever needs durability (see `group_sync.rs`), outside the
//! commit lock.
//!
//! Segments are made ahead of need by a background thread: zero-filled or recycled, synced, and named in the manifest
//! before their first record. They start small, so that a small database stays small, and double.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use parking_lot::Mutex;
use terrace_io::{Bug, Error, FileSystem, LogFile, Result};
use terrace_wal::{Fill, HEADER_BYTES, Position, RecordKind, SegmentWriter, record_len, segment_file_name};

use crate::catalog::Change;
use crate::group_sync::GroupSync;
use crate::manifest::Manifest;
use crate::poison::Poison;

/// Length of the first segment after an open.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// A group buffer that has grown past this is given back after use.
const GROUP_BYTES_KEPT: usize = 1 << 20;

/// Everything about the log but the appender.
pub(crate) struct Log {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    log_id: [u8; 16],
    segment_bytes_max: u64,
    /// Retired segments of full length that are kept for reuse.
    spares_max: usize,
    poison: Arc<Poison>,
    manifest: Arc<Mutex<Manifest>>,
    sync: GroupSync<Arc<LogFile>>,
    /// The segment that is appended to; the last one before if there is none now.
    active: AtomicU32,
    /// The sequence numbers that the live segments with records start with.
    starts: Mutex<BTreeMap<u32, u64>>,
    provision: Mutex<Provision>,
    pub bytes_written: AtomicU64,
}

struct Provision {
    prepared: Option<SegmentWriter>,
    next_number: u32,
    next_bytes: u64,
    /// Retired segments that can be recycled.
    spares: Vec<u32>,
}

impl Log {
    /// A log whose next segment is the one after the last that the manifest has named.
    pub fn new(
        fs: Arc<dyn FileSystem>,
        dir: PathBuf,
        segment_bytes_max: u64,
        spares_max: usize,
        manifest: Arc<Mutex<Manifest>>,
        poison: Arc<Poison>,
    ) -> Log {
        let (log_id, last_segment) = {
            let manifest = manifest.lock();
            (manifest.catalog().database_id, manifest.catalog().last_segment)
        };
        Log {
            fs,
            dir,
            log_id,
            segment_bytes_max,
            spares_max,
            poison,
            manifest,
            sync: GroupSync::new(),
            active: AtomicU32::new(last_segment),
            starts: Mutex::default(),
            provision: Mutex::new(Provision {
                prepared: None,
                next_number: last_segment + 1,
                next_bytes: SEGMENT_BYTES_MIN.min(segment_bytes_max),
                spares: Vec::new(),
            }),
            bytes_written: AtomicU64::new(0),
        }
    }

    /// Where the next record goes, more or less: everything acknowledged so far lies before.
    pub fn written(&self) -> Position {
        self.sync.written()
    }

    /// How far the log is known to be durable.
    pub fn synced(&self) -> Position {
        self.sync.synced()
    }

    /// How many syncs there were, of one file each.
    pub fn syncs(&self) -> u64 {
        self.sync.syncs.load(Relaxed)
    }

    /// No record from now on goes to a segment below it.
    pub fn active_segment(&self) -> u32 {
        self.active.load(Acquire)
    }

    /// The sequence number of the first record in segment `below` or behind it. `None` if there is no such record.
    pub fn first_sequence_from(&self, below: u32) -> Option<u64> {
        self.starts.lock().range(below..).next().map(|(_, &sequence)| sequence)
    }

    /// Makes everything before `position` durable: syncs, or waits for the thread that does.
    ///
    /// [`Error::OutcomeUnknown`] if the sync fails: the database is poisoned then.
    pub fn sync_through(&self, position: Position) -> Result<()> {
        self.sync.sync_through(position, &self.poison, |file| file.sync())
    }

    /// Makes the next segment if there is none ready. Called in the background when it is time: see
    /// [`Appender::wants_next_segment`].
    pub fn prepare(&self) -> Result<()> {
        let mut provision = self.provision.lock();
        // Without an active segment the log is at rest, since it was asked for: nothing is made for later.
        let at_rest = self.sync.is_at_rest();
        if provision.prepared.is_none() && !at_rest {
            provision.prepared = Some(self.make_segment(&mut provision, 0)?);
        }
        Ok(())
    }

    /// A segment with room for a record of `record_bytes`, named in the manifest and newer than any before.
    fn take_segment(&self, record_bytes: u64) -> Result<SegmentWriter> {
        let mut provision = self.provision.lock();
        match provision.prepared.take() {
            Some(segment) if segment.remaining() >= record_bytes => Ok(segment),
            // One that is too short is never used: its number has passed. Recovery finds it empty.
            _ => self.make_segment(&mut provision, record_bytes),
        }
    }

    fn make_segment(&self, provision: &mut Provision, record_bytes: u64) -> Result<SegmentWriter> {
        self.poison.check()?;
        let number = provision.next_number;
        let Some(next_number) = number.checked_add(1) else {
            return Err(Error::invalid("the database has used up its 4 billion log segments"));
        };
        provision.next_number = next_number;
        let needed = HEADER_BYTES + record_bytes;
        let usual = provision.next_bytes;
        let spare = if needed <= self.segment_bytes_max && usual == self.segment_bytes_max {
            provision.spares.pop()
        } else {
            None
        };
        let segment = match spare {
            Some(old) => SegmentWriter::recycle(&*self.fs, &self.dir, self.log_id, old, number),
            None if needed > usual => {
                let bytes = needed.next_multiple_of(4096);
                SegmentWriter::create(&*self.fs, &self.dir, self.log_id, number, bytes, Fill::Sparse)
            }
            None => SegmentWriter::create(&*self.fs, &self.dir, self.log_id, number, usual, Fill::Zeros),
        };
        let named = segment.and_then(|segment| {
            if !Bug::SegmentNameNotSynced.is_planted() {
                self.fs.sync_dir(&self.dir)?;
            }
            let length = segment.len();
            self.manifest.lock().commit(vec![Change::SegmentAdded { number, length }])?;
            Ok(segment)
        });
        match named {
            Ok(segment) => {
                provision.next_bytes = (2 * usual).min(self.segment_bytes_max);
                Ok(segment)
            }
            Err(error) => {
                if self.poison.cause().is_none() {
                    // The manifest does not name it: best effort, the next open would remove it too.
                    let removed = self.fs.remove_file(&self.dir.join(segment_file_name(number)));
                    // To salvage without a manifest, a missing number says that the segments before it were retired.
                    if removed.map_or_else(|error| error.is_not_found(), |()| true) {
                        provision.next_number = number;
                    }
                }
                Err(error)
            }
        }
    }

    /// Gives up segments that the manifest has just retired: `(number, length)`. The files of some are kept for reuse.
    pub fn release(&self, retired: &[(u32, u64)]) {
        self.starts.lock().retain(|number, _| !retired.iter().any(|(gone, _)| gone == number));
        let mut unwanted = Vec::new();
        {
            let mut provision = self.provision.lock();
            for &(number, length) in retired {
                let keep = length == self.segment_bytes_max && provision.spares.len() < self.spares_max;
                let place = if keep { &mut provision.spares } else { &mut unwanted };
                place.push(number);
            }
        }
        // A writer may be waiting for a segment: nothing slow happens under that lock.
        unwanted.into_iter().for_each(|number| self.remove(number));
    }

    /// Retires every segment, removes all the log's files and starts small again. Everything in the log must be in
    /// tables; the commit lock is held.
    pub fn retire_all(&self, appender: &mut Appender, last_sequence: u64) -> Result<()> {
        let mut provision = self.provision.lock();
        let retired: Vec<u32> = {
            let mut manifest = self.manifest.lock();
            let catalog = manifest.catalog();
            let retired = catalog.segments.keys().copied().collect();
            if !catalog.segments.is_empty() {
                let below = catalog.last_segment + 1;
                manifest.commit(vec![
                    Change::LastSequence(last_sequence),
                    Change::SegmentsRetired { below, first_sequence: last_sequence + 1 },
                ])?;
            }
            retired
        };
        appender.leave_segment(self);
        self.starts.lock().clear();
        provision.prepared = None;
        provision.next_bytes = SEGMENT_BYTES_MIN.min(self.segment_bytes_max);
        let spares = std::mem::take(&mut provision.spares);
        retired.into_iter().chain(spares).for_each(|number| self.remove(number));
        Ok(())
    }

    fn remove(&self, number: u32) {
        let path = self.dir.join(segment_file_name(number));
        if let Err(error) = self.fs.remove_file(&path) {
            tracing::warn!(%error, "a retired log segment stays until the next open");
        }
    }
}

/// The side of the log that writes. There is one, under the commit lock.
#[derive(Default)]
pub(crate) struct Appender {
    segment: Option<SegmentWriter>,
    group: Vec<u8>,
    next_segment_asked: bool,
    /// Whether the last append failed, so that records which do not count may be on the disk behind those that do.
    has_failed: bool,
}

impl Appender {
    /// Whether a batch with a payload of `payload_len` bytes still fits in the segment, behind the group so far.
    pub fn fits(&self, payload_len: usize) -> bool {
        let needed = self.group.len() as u64 + record_len(payload_len);
        self.segment.as_ref().is_some_and(|segment| segment.remaining() >= needed)
    }

    /// Moves on to a segment that has room for a payload of `payload_len` bytes, the batch that starts with sequence
    /// number `first_sequence`. The group must be empty.
    pub fn roll(&mut self, log: &Log, payload_len: usize, first_sequence: u64) -> Result<()> {
        debug_assert!(self.group.is_empty(), "a group lies in one segment");
        if let Some(full) = &mut self.segment {
            // What a failed append has left must not be found behind the good records: its numbers are used again.
            full.seal()?;
        }
        let segment = log.take_segment(record_len(payload_len))?;
        log.sync.begin_file(segment.file().clone());
        log.starts.lock().insert(segment.number(), first_sequence);
        // Whoever sees this number sees the memtables as they were when the segments before it were full.
        log.active.store(segment.number(), Release);
        self.segment = Some(segment);
        self.next_segment_asked = false;
        Ok(())
    }

    /// Adds a batch to the group.
    pub fn encode(&mut self, log: &Log, parts: &[&[u8]]) {
        let segment = self.segment.as_ref().expect("a segment with room was made sure of before");
        segment.encode(&mut self.group, RecordKind::Batch, log.synced(), parts);
    }

    /// Writes the group and says in which segment it is and where it ends. The group is empty afterwards, also after
    /// an error: then nothing of it counts, and the next group is written over it.
    pub fn append(&mut self, log: &Log) -> Result<Position> {
        let segment = self.segment.as_mut().expect("a group is encoded for a segment");
        let outcome = segment.append(&self.group);
        self.has_failed = outcome.is_err();
        match outcome {
            Ok(_) => drop(log.bytes_written.fetch_add(self.group.len() as u64, Relaxed)),
            // Best effort, so that a crash does not bring back what is about to be reported as failed; the next append
            // to the segment, and leaving it, insist on it.
            Err(_) => drop(segment.seal()),
        }
        self.clear();
        let end = outcome?;
        log.sync.set_written(end);
        Ok(end)
    }

    /// Makes sure, durably, that no crash brings back what a failed append may have left: for a change that the
    /// manifest alone records, which would then seem to have come before. Nothing to do if the last append succeeded.
    ///
    /// [`Error::OutcomeUnknown`] if the sync fails: the database is poisoned then.
    pub fn forget_failed(&mut self, log: &Log) -> Result<()> {
        if !self.has_failed || Bug::RefusedNotErased.is_planted() {
            return Ok(());
        }
        if let Some(segment) = &mut self.segment {
            segment.seal()?;
            // Also those before it, which leaving them has only erased.
            log.sync.sync_again(&log.poison, |file| file.sync())?;
        }
        self.has_failed = false;
        Ok(())
    }

    /// Forgets the group.
    pub fn clear(&mut self) {
        self.group.clear();
        self.group.shrink_to(GROUP_BYTES_KEPT);
    }

    /// Whether it is time to prepare the next segment: says so once for each segment, early, for making one can take as
    /// long as filling a small one, but not at once, for a small database may never need another.
    pub fn wants_next_segment(&mut self) -> bool {
        let Some(segment) = &self.segment else { return false };
        let wanted = !self.next_segment_asked && segment.remaining() < segment.len() / 8 * 7;
        self.next_segment_asked |= wanted;
        wanted
    }

    /// Lets go of the active segment, whose records are all in tables: the next write starts another.
    pub fn leave_segment(&mut self, log: &Log) {
        self.segment = None;
        log.sync.leave_files();
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::Path;

    use terrace_io::{CrashPolicy, FaultFileSystem, FaultKind, FaultRule, MemoryFileSystem, Operation};

    use super::*;
    use crate::KeyspaceOptions;
    use crate::catalog::Catalog;

    const MIB: u64 = 1 << 20;

    /// A log in memory, and both its sides.
    struct Stage {
        memory: MemoryFileSystem,
        faults: FaultFileSystem,
        manifest: Arc<Mutex<Manifest>>,
        log: Log,
        appender: Appender,
    }

    impl Stage {
        fn new(segment_bytes_max: u64) -> Stage {
            let memory = MemoryFileSystem::new();
            let faults = FaultFileSystem::new(Arc::new(memory.clone()));
            let (fs, dir) = (Arc::new(faults.clone()), Path::new("/db"));
            fs.create_dir_all(dir).unwrap();
            let poison = Arc::new(Poison::default());
            let catalog = Catalog::new([7; 16], 1, 1, KeyspaceOptions::new());
            let manifest = Manifest::create(fs.clone(), dir, catalog, 1, poison.clone()).unwrap();
            let manifest = Arc::new(Mutex::new(manifest));
            let log = Log::new(fs, dir.to_owned(), segment_bytes_max, 4, manifest.clone(), poison);
            Stage { memory, faults, manifest, log, appender: Appender::default() }
        }

        /// Goes on in another segment, for a record with a payload of so many bytes.
        fn roll(&mut self, payload_len: usize, first_sequence: u64) {
            self.appender.roll(&self.log, payload_len, first_sequence).unwrap();
        }

        fn write(&mut self, payload: &[u8]) -> Position {
            self.appender.encode(&self.log, &[payload]);
            self.appender.append(&self.log).unwrap()
        }

        /// The numbers and lengths of the segments' files.
        fn files(&self) -> Vec<(u32, u64)> {
            let names = self.memory.read_dir(Path::new("/db")).unwrap();
            let numbers = names.iter().filter_map(|name| terrace_wal::parse_segment_file_name(name));
            let mut numbers: Vec<u32> = numbers.collect();
            numbers.sort_unstable();
            let len = |number: u32| {
                let path = Path::new("/db").join(segment_file_name(number));
                self.memory.file_bytes(&path).unwrap().len() as u64
            };
            numbers.into_iter().map(|number| (number, len(number))).collect()
        }

        /// What the manifest says of them.
        fn named(&self) -> Vec<(u32, u64)> {
            let manifest = self.manifest.lock();
            manifest.catalog().segments.iter().map(|(&number, &length)| (number, length)).collect()
        }

        /// As a flush does: says so in the manifest, then gives them up.
        fn retire(&mut self, below: u32) {
            let retired: Vec<(u32, u64)> =
                self.named().into_iter().filter(|(number, _)| *number < below).collect();
            let first_sequence = self.log.first_sequence_from(below).unwrap();
            self.manifest.lock().commit(vec![Change::SegmentsRetired { below, first_sequence }]).unwrap();
            self.log.release(&retired);
        }
    }

    #[test]
    fn segments_double_and_long_ones_are_used_again() {
        let mut stage = Stage::new(4 * MIB);
        for first_sequence in [1, 10, 20, 30] {
            stage.roll(100, first_sequence);
            stage.write(b"record");
        }
        let lengths = [(1, MIB), (2, 2 * MIB), (3, 4 * MIB), (4, 4 * MIB)];
        assert_eq!((stage.files(), stage.named()), (lengths.to_vec(), lengths.to_vec()));
        assert_eq!(stage.log.active_segment(), 4);
        let starts = [0, 1, 2, 4, 5].map(|below| stage.log.first_sequence_from(below));
        assert_eq!(starts, [Some(1), Some(1), Some(10), Some(30), None]);
        stage.retire(4);
        assert_eq!(stage.log.first_sequence_from(1), Some(30));
        assert_eq!(stage.named(), [(4, 4 * MIB)]);
        assert_eq!(stage.files(), [(3, 4 * MIB), (4, 4 * MIB)], "the long one is kept");
        stage.roll(100, 40);
        assert_eq!(stage.files(), [(4, 4 * MIB), (5, 4 * MIB)], "and is the next");
        // One for a record that no other has room for.
        stage.roll(5 * MIB as usize, 50);
        assert_eq!(stage.named()[2].0, 6);
        assert!(stage.named()[2].1 > 5 * MIB && stage.named()[2].1 < 5 * MIB + 8192);
        for first_sequence in 60..70 {
            stage.roll(100, first_sequence);
        }
        stage.retire(16);
        assert_eq!(stage.files().len(), 1 + 4, "a few are enough");
    }

    #[test]
    fn a_segment_is_made_ahead_once_and_not_at_rest() {
        let mut stage = Stage::new(4 * MIB);
        stage.log.prepare().unwrap();
        assert_eq!(stage.files(), []);
        stage.roll(100, 1);
        stage.log.prepare().unwrap();
        stage.log.prepare().unwrap();
        assert_eq!(stage.files(), [(1, MIB), (2, 2 * MIB)]);
        stage.roll(100, 2);
        assert_eq!((stage.log.active_segment(), stage.files().len()), (2, 2));
        // Too short for this one, and never used then: its number has passed.
        stage.log.prepare().unwrap();
        stage.roll(5 * MIB as usize, 3);
        assert_eq!((stage.log.active_segment(), stage.files().len()), (4, 4));
        stage.log.retire_all(&mut stage.appender, 3).unwrap();
        stage.log.prepare().unwrap();
        assert_eq!((stage.files(), stage.named()), (vec![], vec![]));
        assert_eq!(stage.manifest.lock().catalog().log_first_sequence, 4);
        assert_eq!(stage.log.first_sequence_from(0), None);
        stage.roll(100, 4);
        assert_eq!(stage.files(), [(5, MIB)], "it starts small again");
    }

    #[test]
    fn a_number_is_used_again_if_its_segment_could_not_be_made() {
        let mut stage = Stage::new(4 * MIB);
        stage.roll(100, 1);
        for operation in [Operation::Create, Operation::Write, Operation::Sync] {
            stage.faults.add(FaultRule::on(operation).path("000002.log").once());
            stage.log.prepare().unwrap_err();
            assert_eq!((stage.files(), stage.named()), (vec![(1, MIB)], vec![(1, MIB)]), "{operation:?}");
        }
        stage.roll(100, 2);
        assert_eq!(stage.named(), [(1, MIB), (2, 2 * MIB)]);
        // One that cannot be removed either is left behind, and nothing is written over it.
        stage.faults.add(FaultRule::on(Operation::Sync).path("000003.log").once());
        stage.faults.add(FaultRule::on(Operation::Remove).path("000003.log"));
        stage.log.prepare().unwrap_err();
        stage.roll(100, 3);
        assert_eq!(stage.log.active_segment(), 4);
    }

    #[test]
    fn a_segment_takes_what_fits() {
        let mut stage = Stage::new(MIB);
        assert!(!stage.appender.fits(0), "there is none yet");
        assert!(!stage.appender.wants_next_segment());
        stage.roll(100, 1);
        let room = MIB - HEADER_BYTES;
        let payload_of = |record: u64| (record - record_len(0)) as usize;
        assert!(stage.appender.fits(payload_of(room)) && !stage.appender.fits(payload_of(room) + 1));
        // A group is written as one, so it counts before it is.
        stage.appender.encode(&stage.log, &[&[1; 1000]]);
        let left = room - record_len(1000);
        assert!(stage.appender.fits(payload_of(left)) && !stage.appender.fits(payload_of(left) + 1));
        let end = stage.appender.append(&stage.log).unwrap();
        assert_eq!((end, stage.log.written()), (Position { segment: 1, offset: (MIB - left) as u32 }, end));
        assert_eq!(stage.log.bytes_written.load(Relaxed), record_len(1000));
        // An eighth of it, and the next one is wanted: once.
        assert!(!stage.appender.wants_next_segment());
        stage.write(&vec![1; MIB as usize / 8 - 2000]);
        assert!(!stage.appender.wants_next_segment());
        stage.write(&[1; 2000]);
        assert!(stage.appender.wants_next_segment());
        stage.write(&[1; 2000]);
        assert!(!stage.appender.wants_next_segment());
        stage.roll(100, 2);
        stage.write(&vec![1; MIB as usize / 8]);
        assert!(stage.appender.wants_next_segment(), "of each segment");
    }

    #[test]
    fn syncs_are_counted() {
        let mut stage = Stage::new(MIB);
        stage.roll(100, 1);
        let end = stage.write(b"record");
        assert!(stage.log.synced() < end);
        stage.log.sync_through(end).unwrap();
        stage.log.sync_through(end).unwrap();
        assert_eq!((stage.log.synced(), stage.log.syncs()), (end, 1));
    }

    /// After a failed append, what it may have left is erased before anybody relies on its absence, and only then.
    #[test]
    fn what_failed_is_forgotten_durably() {
        let mut stage = Stage::new(MIB);
        stage.roll(100, 1);
        let good = stage.write(b"good");
        let path = Path::new("/db").join(segment_file_name(1));
        let before = stage.memory.file_bytes(&path).unwrap();
        stage.appender.forget_failed(&stage.log).unwrap();
        assert_eq!(stage.log.syncs(), 0, "nothing has failed");
        let kind = FaultKind::ErrorAfterEffect(ErrorKind::Other);
        stage.faults.add(FaultRule::on(Operation::Write).kind(kind).times(2));
        stage.appender.encode(&stage.log, &[b"refused"]);
        stage.appender.append(&stage.log).unwrap_err();
        assert_eq!(stage.log.written(), good);
        for _ in 0..2 {
            stage.appender.forget_failed(&stage.log).unwrap();
            assert_eq!(stage.log.syncs(), 1, "once");
            let crashed = stage.memory.crash_clone(CrashPolicy::DropUnsynced);
            assert!(crashed.file_bytes(&path).unwrap() == before);
        }
        stage.write(b"accepted");
        stage.appender.forget_failed(&stage.log).unwrap();
        assert_eq!(stage.log.syncs(), 1);
    }
}
