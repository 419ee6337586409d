//! Runs operations on a database and on the model, checks every answer against the model, and notes it in a transcript.
//!
//! What depends on the options or on chance stays out of the transcript, and is checked by itself: sizes, and what an
//! iterator meets whose directory somebody else has opened since. A power cut without a sync before it may lose the
//! last writes; those are found out with the oracle and written again, so that what follows is the same for everyone.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Add, Bound};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use terrace::{
    Compression, Db, Durability, Error, FileSystem, Keyspace, KeyspaceOptions, Snapshot, VerifyOptions,
    WriteBatch, verify,
};
use terrace_io::{CrashPolicy, MemoryFileSystem, OsFileSystem};

use super::ops::{KeyWrite, Op, Slot, Source, Stop, keyspace_name};
use super::options::{OptionSet, Tables};
use super::transcript::Transcript;
use super::view::{End, Move, Scan, Steps, View, Walk, check_all, check_points};
use crate::model::{Bounds, Bytes, Change, DEFAULT, Map, Model, Write, abbreviated, entries_in};
use crate::oracle::{History, read_all};
use crate::workload::{KEY_BYTES_MAX, borrowed};

/// A value over the limit is tried where the limit is not above this: it has to be made first.
const REFUSED_VALUE_BYTES_MAX: u64 = 8 << 20;

/// What a run went through.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "they are counts of what they are called")]
pub struct Figures {
    pub operations: u64,
    pub answers: u64,
    pub reopens: u64,
    pub kills: u64,
    pub checkpoints: u64,
    pub power_cuts: u64,
    /// Changes that power cuts took.
    pub lost: u64,
    pub flushes: u64,
    pub compactions: u64,
    pub trivial_moves: u64,
}

impl Add for Figures {
    type Output = Figures;

    fn add(self, other: Figures) -> Figures {
        Figures {
            operations: self.operations + other.operations,
            answers: self.answers + other.answers,
            reopens: self.reopens + other.reopens,
            kills: self.kills + other.kills,
            checkpoints: self.checkpoints + other.checkpoints,
            power_cuts: self.power_cuts + other.power_cuts,
            lost: self.lost + other.lost,
            flushes: self.flushes + other.flushes,
            compactions: self.compactions + other.compactions,
            trivial_moves: self.trivial_moves + other.trivial_moves,
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { operations, answers, reopens, kills, checkpoints, power_cuts, lost, .. } = self;
        let Figures { flushes, compactions, trivial_moves, .. } = self;
        write!(f, "{operations} operations, {answers} answers, {reopens} reopens, {kills} kills, ")?;
        write!(f, "{checkpoints} checkpoints, ")?;
        write!(f, "{power_cuts} power cuts that took {lost} writes, ")?;
        write!(f, "{flushes} flushes, {compactions} compactions, {trivial_moves} moves")
    }
}

/// Runs operations on a new database, the first of `sets` first. `at` always says which operation is being run, or how
/// many there are once it is the end that is.
///
/// # Panics
///
/// If an answer is wrong.
pub fn run(ops: &[Op], sets: &[OptionSet], at: &Cell<usize>) -> (Transcript, Figures) {
    let mut runner = Runner::new(sets);
    for (index, op) in ops.iter().enumerate() {
        at.set(index);
        runner.transcript.begin_operation();
        runner.perform(op);
        runner.check_health();
    }
    at.set(ops.len());
    runner.transcript.begin_operation();
    runner.finish();
    runner.figures.operations = ops.len() as u64;
    runner.figures.answers = runner.transcript.answers();
    (runner.transcript, runner.figures)
}

/// A snapshot and what it sees, with handles to the keyspaces of its time: some may be dropped since.
struct Pinned {
    snapshot: Snapshot,
    keyspaces: BTreeMap<Slot, (Keyspace, Arc<Map>)>,
}

/// Where a database lives.
enum Place {
    /// In memory, under a name: a crash leaves what it may.
    Memory(MemoryFileSystem, PathBuf),
    /// On real files, under a name in a directory that goes with them: of a crash is left what the end of the process
    /// leaves.
    Real(tempfile::TempDir, String),
}

impl Place {
    fn new(real_files: bool) -> Place {
        // Dropped databases of one process are told apart by their paths, also those in memory.
        static RUNS: AtomicU64 = AtomicU64::new(0);
        match real_files {
            true => Place::Real(tempfile::tempdir().unwrap(), "db".to_owned()),
            false => {
                let name = format!("run {}", RUNS.fetch_add(1, Relaxed));
                Place::Memory(MemoryFileSystem::new(), name.into())
            }
        }
    }

    fn file_system(&self) -> Arc<dyn FileSystem> {
        match self {
            Place::Memory(fs, _) => Arc::new(fs.clone()),
            Place::Real(..) => Arc::new(OsFileSystem),
        }
    }

    fn directory(&self) -> PathBuf {
        match self {
            Place::Memory(_, path) => path.clone(),
            Place::Real(directory, name) => directory.path().join(name),
        }
    }

    /// Another one, right beside.
    fn move_on(&mut self) -> PathBuf {
        match self {
            Place::Memory(_, path) => path.as_mut_os_string().push("+"),
            Place::Real(_, name) => name.push('+'),
        }
        self.directory()
    }
}

/// What a power cut must leave, and what it can.
#[derive(Default)]
struct Durable {
    base: Model,
    /// What was acknowledged since, but is not known to be durable.
    since: Vec<Change>,
}

impl Durable {
    fn sync(&mut self) {
        self.since.drain(..).for_each(|change| self.base.apply(&change));
    }

    /// The same as a history: all that is durable in a few changes, then one change after the other.
    fn history(&self) -> History {
        let history = History::default();
        let created = self.base.keyspaces().keys().filter(|name| *name != DEFAULT);
        created.for_each(|name| history.begin(&Change::Create(name.clone())));
        let entries = self.base.keyspaces().iter().flat_map(|(name, map)| {
            map.iter().map(|(key, value)| Write {
                keyspace: name.clone(),
                key: key.clone(),
                value: Some(value.clone()),
            })
        });
        history.begin(&Change::Batch(entries.collect()));
        history.acknowledge_synced();
        self.since.iter().for_each(|change| history.begin(change));
        history
    }
}

struct Runner<'a> {
    sets: &'a [OptionSet],
    /// The one that it is open under.
    set: &'a OptionSet,
    place: Place,
    /// None while it is opened again.
    db: Option<Db>,
    keyspaces: BTreeMap<Slot, Keyspace>,
    /// What they were created with.
    tables: BTreeMap<Slot, Tables>,
    /// Handles to keyspaces that were dropped.
    dropped: Vec<Keyspace>,
    model: Model,
    durable: Durable,
    /// Every key that was ever written.
    written: BTreeSet<Bytes>,
    value_bytes_max: u64,
    snapshots: BTreeMap<Slot, Pinned>,
    iterators: BTreeMap<Slot, Scan>,
    cursors: BTreeMap<Slot, Walk>,
    transcript: Transcript,
    figures: Figures,
}

impl<'a> Runner<'a> {
    fn new(sets: &'a [OptionSet]) -> Self {
        let mut runner = Runner {
            sets,
            set: &sets[0],
            place: Place::new(sets[0].real_files),
            db: None,
            keyspaces: BTreeMap::new(),
            tables: BTreeMap::from([(0, sets[0].tables(0))]),
            dropped: Vec::new(),
            model: Model::default(),
            durable: Durable::default(),
            written: BTreeSet::new(),
            value_bytes_max: 0,
            snapshots: BTreeMap::new(),
            iterators: BTreeMap::new(),
            cursors: BTreeMap::new(),
            transcript: Transcript::default(),
            figures: Figures::default(),
        };
        runner.start(0);
        runner
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("it is open between two operations")
    }

    fn map(&self, slot: Slot) -> Arc<Map> {
        self.model.map(&keyspace_name(slot)).clone()
    }

    fn perform(&mut self, op: &Op) {
        match op {
            Op::Write { write, durability } => self.write(write, *durability),
            Op::Batch { writes, durability } => self.write_batch(writes, *durability),
            Op::Get { from, keys } => {
                self.read(*from, |view, map, transcript| check_points(view, map, keys, transcript));
            }
            Op::Scan { from, extent, steps } => {
                self.read(*from, |view, map, transcript| {
                    Scan::open(view, map, extent).steps(steps, transcript);
                });
            }
            Op::Walk { from, moves } => {
                self.read(*from, |view, map, transcript| {
                    let mut walk = Walk::open(view, map);
                    moves.iter().for_each(|to| walk.step(to, transcript));
                });
            }
            Op::ReadAll { from } => {
                self.read(*from, |view, map, transcript| check_all(view, map, transcript));
            }
            Op::ReadEverything => self.read_everything(),
            Op::TakeSnapshot { slot } => self.take_snapshot(*slot),
            Op::DropSnapshot { slot } => drop(self.snapshots.remove(slot)),
            Op::OpenIterator { slot, from, extent } => {
                let scan = self.read(*from, |view, map, _| Scan::open(view, map, extent));
                scan.map(|scan| self.iterators.insert(*slot, scan));
            }
            Op::MoveIterator { slot, steps } => {
                let Some(scan) = self.iterators.get_mut(slot) else { return };
                scan.steps(steps, &mut self.transcript);
            }
            Op::DropIterator { slot } => drop(self.iterators.remove(slot)),
            Op::OpenCursor { slot, from } => {
                let walk = self.read(*from, |view, map, _| Walk::open(view, map));
                walk.map(|walk| self.cursors.insert(*slot, walk));
            }
            Op::MoveCursor { slot, moves } => {
                let Some(walk) = self.cursors.get_mut(slot) else { return };
                moves.iter().for_each(|to| walk.step(to, &mut self.transcript));
            }
            Op::DropCursor { slot } => drop(self.cursors.remove(slot)),
            Op::Sync => {
                self.db().sync().unwrap();
                self.durable.sync();
            }
            Op::Flush => {
                self.db().flush().unwrap();
                self.durable.sync();
            }
            Op::CompactRange { keyspace, bounds } => {
                let Some(keyspace) = self.keyspaces.get(keyspace) else { return };
                keyspace.compact_range::<&[u8]>(borrowed(bounds)).unwrap();
            }
            Op::Settle { middle } => {
                self.db().settle().unwrap();
                self.durable.sync();
                self.check_settled(middle);
            }
            Op::Scrub => {
                let report = self.db().scrub(&terrace::ScrubOptions::new().bytes_per_second(0)).unwrap();
                assert!(report.is_ok(), "{report:?}");
            }
            Op::Sizes { keyspace, bounds } => self.check_sizes(*keyspace, borrowed(bounds)),
            Op::Refused { keyspace, keys, too_long } => self.check_refused(*keyspace, keys, *too_long),
            Op::Create { keyspace } => self.create(*keyspace),
            Op::DropKeyspace { keyspace } => self.drop_keyspace(*keyspace),
            Op::Clear { keyspace } => {
                let Some(handle) = self.keyspaces.get(keyspace) else { return };
                handle.clear().unwrap();
                assert_eq!(handle.approximate_size::<&[u8]>(..).unwrap(), 0);
                self.change(Change::Clear(keyspace_name(*keyspace)), true);
            }
            Op::Reopen { stop, under } => self.reopen(*stop, *under),
        }
    }

    /// A change was acknowledged.
    fn change(&mut self, change: Change, is_durable: bool) {
        self.model.apply(&change);
        self.durable.since.push(change);
        if is_durable {
            // A sync is one of everything before it.
            self.durable.sync();
        }
    }

    fn write(&mut self, write: &KeyWrite, durability: Option<Durability>) {
        let Some(keyspace) = self.keyspaces.get(&write.keyspace) else { return };
        let key = &write.key;
        let value = write.value.map(|value| value.bytes());
        let outcome = match (&value, durability) {
            (Some(value), None) => keyspace.put(key, value),
            (Some(value), Some(durability)) => keyspace.put_with(key, value, durability),
            (None, None) => keyspace.delete(key),
            (None, Some(durability)) => keyspace.delete_with(key, durability),
        };
        outcome.unwrap();
        self.written.insert(key.clone());
        let write = Write { keyspace: keyspace_name(write.keyspace), key: key.clone(), value };
        let durability = durability.unwrap_or(self.set.durability);
        self.change(Change::Batch(vec![write]), durability == Durability::Sync);
    }

    fn write_batch(&mut self, writes: &[KeyWrite], durability: Durability) {
        let writes = writes.iter().filter(|write| self.keyspaces.contains_key(&write.keyspace));
        let writes: Vec<Write> = writes
            .map(|write| Write {
                keyspace: keyspace_name(write.keyspace),
                key: write.key.clone(),
                value: write.value.map(|value| value.bytes()),
            })
            .collect();
        let batch = self.batch_of(&writes);
        assert_eq!(batch.len(), writes.len());
        self.transcript.answer(batch.byte_len());
        self.db().write_with(batch, durability).unwrap();
        self.written.extend(writes.iter().map(|write| write.key.clone()));
        // Nobody has promised that an empty one syncs.
        let is_durable = durability == Durability::Sync && !writes.is_empty();
        self.change(Change::Batch(writes), is_durable);
    }

    fn batch_of(&self, writes: &[Write]) -> WriteBatch {
        let handles: BTreeMap<&str, &Keyspace> =
            self.keyspaces.values().map(|keyspace| (keyspace.name(), keyspace)).collect();
        let mut batch = WriteBatch::new();
        for Write { keyspace, key, value } in writes {
            match value {
                Some(value) => batch.put(handles[&**keyspace], key, value),
                None => batch.delete(handles[&**keyspace], key),
            }
        }
        batch
    }

    /// Shows a source to `look`, if it is there, with the map that it must equal.
    fn read<R>(
        &mut self,
        from: Source,
        look: impl FnOnce(View<'_>, &Arc<Map>, &mut Transcript) -> R,
    ) -> Option<R> {
        if let Some(slot) = from.snapshot {
            let Pinned { snapshot, keyspaces } = self.snapshots.get(&slot)?;
            let (keyspace, map) = keyspaces.get(&from.keyspace)?;
            return Some(look(View::Then(snapshot, keyspace), map, &mut self.transcript));
        }
        let map = self.keyspaces.contains_key(&from.keyspace).then(|| self.map(from.keyspace))?;
        Some(look(View::Now(&self.keyspaces[&from.keyspace]), &map, &mut self.transcript))
    }

    fn read_everything(&mut self) {
        let names = self.db().keyspace_names().unwrap();
        assert_eq!(names[0], DEFAULT);
        names.iter().for_each(|name| self.transcript.answer(name.replace(' ', "_")));
        let names: BTreeSet<String> = names.into_iter().collect();
        assert_eq!(names, self.model.keyspaces().keys().cloned().collect());
        for (slot, keyspace) in &self.keyspaces {
            let map = self.model.map(&keyspace_name(*slot));
            check_all(View::Now(keyspace), map, &mut self.transcript);
        }
    }

    fn take_snapshot(&mut self, slot: Slot) {
        let keyspaces =
            self.keyspaces.iter().map(|(slot, keyspace)| (*slot, (keyspace.clone(), self.map(*slot))));
        let keyspaces = keyspaces.collect();
        let snapshot = self.db().snapshot().unwrap();
        self.snapshots.insert(slot, Pinned { snapshot, keyspaces });
    }

    fn create(&mut self, slot: Slot) {
        let name = keyspace_name(slot);
        if let Some(tables) = self.tables.get(&slot) {
            let db = self.db();
            let known = [db.keyspace(&name).unwrap(), db.keyspace_with(&name, tables.options()).unwrap()];
            assert!(known.iter().all(|keyspace| *keyspace.options() == tables.options()));
            let other = KeyspaceOptions::new().table_bytes(tables.table_bytes + 1);
            let refused = db.keyspace_with(&name, other);
            assert!(matches!(refused, Err(Error::InvalidArgument(_))), "other options: {refused:?}");
            return;
        }
        let tables = self.set.tables(slot);
        let created = match tables == self.set.tables(0) {
            true => self.db().keyspace(&name),
            false => self.db().keyspace_with(&name, tables.options()),
        };
        self.keyspaces.insert(slot, created.unwrap());
        self.tables.insert(slot, tables);
        self.change(Change::Create(name), true);
    }

    fn drop_keyspace(&mut self, slot: Slot) {
        if !self.keyspaces.contains_key(&slot) {
            return;
        }
        let name = keyspace_name(slot);
        let outcome = self.db().drop_keyspace(&name);
        if slot == 0 {
            assert!(matches!(outcome, Err(Error::InvalidArgument(_))), "the default keyspace: {outcome:?}");
            return;
        }
        outcome.unwrap();
        self.dropped.extend(self.keyspaces.remove(&slot));
        self.tables.remove(&slot);
        self.change(Change::Drop(name), true);
    }

    /// What must be refused, and change nothing.
    fn check_refused(&mut self, slot: Slot, [a, b]: &[Bytes; 2], too_long: bool) {
        let mut refused = Vec::new();
        for keyspace in &self.dropped {
            let outcomes = [keyspace.get(a).err(), keyspace.put(a, b).err(), keyspace.iter().err()];
            let all = outcomes.iter().all(|outcome| matches!(outcome, Some(Error::KeyspaceDropped { .. })));
            assert!(all, "a dropped keyspace: {outcomes:?}");
            refused.extend(outcomes);
        }
        if let Some(keyspace) = self.keyspaces.get(&slot) {
            let mut invalid = Vec::new();
            if a != b {
                let reversed: Bounds<'_> = (Bound::Included(a.max(b)), Bound::Excluded(a.min(b)));
                invalid.push(keyspace.range::<&[u8]>(reversed).err());
            }
            if too_long {
                invalid.push(keyspace.put(vec![b'k'; KEY_BYTES_MAX + 1], "").err());
            }
            let all = invalid.iter().all(|outcome| matches!(outcome, Some(Error::InvalidArgument(_))));
            assert!(all, "a reversed range, a key that is too long: {invalid:?}");
            refused.extend(invalid);
            if too_long && self.value_bytes_max <= REFUSED_VALUE_BYTES_MAX {
                let value = vec![b'v'; self.value_bytes_max as usize + 1];
                let outcome = keyspace.put(a, value);
                assert!(matches!(outcome, Err(Error::InvalidArgument(_))), "a long value: {outcome:?}");
            }
        }
        refused.into_iter().flatten().for_each(|error| self.transcript.error(&error));
    }

    /// Sizes of ranges, which background work may change at any moment: only what is certain.
    fn check_sizes(&mut self, slot: Slot, bounds: Bounds<'_>) {
        let Some(keyspace) = self.keyspaces.get(&slot) else { return };
        let size = |bounds: Bounds<'_>| keyspace.approximate_size::<&[u8]>(bounds).unwrap();
        if !self.map(slot).is_empty() {
            assert!(size((Bound::Unbounded, Bound::Unbounded)) > 0);
        }
        size(bounds);
    }

    /// Nothing happens in the background now, so that figures can be compared.
    fn check_settled(&mut self, middle: &Bytes) {
        let metrics = self.db().metrics();
        assert_eq!(metrics.log_bytes, 0, "the log was given back");
        let figures: BTreeMap<&str, _> =
            metrics.keyspaces.iter().map(|figures| (figures.name.as_str(), figures)).collect();
        assert_eq!(figures.len(), self.keyspaces.len());
        for (slot, keyspace) in &self.keyspaces {
            let (figures, map) = (figures[keyspace.name()], self.map(*slot));
            let all = (Bound::Unbounded, Bound::Unbounded);
            let size = |bounds: Bounds<'_>| keyspace.approximate_size::<&[u8]>(bounds).unwrap();
            assert_eq!(size(all), figures.table_bytes, "all of {:?} is what its tables take", figures.name);
            assert!(figures.table_entries - figures.table_deletes >= map.len() as u64);
            let compressed = self.tables[slot].compression != Compression::None;
            let raw: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert!(compressed || size(all) >= raw as u64, "{raw} bytes take {}", size(all));
            let below = size((Bound::Unbounded, Bound::Excluded(middle)));
            let above = size((Bound::Included(middle), Bound::Unbounded));
            let slack = metrics.levels.len() as u64 * (16 << 10);
            let (whole, shown) = (size(all), abbreviated(middle));
            let near = below + above <= whole + slack && whole <= below + above + slack;
            assert!(near, "{below} below {shown} and {above} from there, of {whole} in {:?}", figures.name);
            let held = entries_in(&map, (Bound::Unbounded, Bound::Excluded(middle)));
            let raw: u64 = held.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
            assert!(compressed || below + slack >= raw, "{raw} bytes below a key take about {below}");
        }
    }

    fn check_health(&self) {
        let health = self.db().health();
        assert!(health.is_ok(), "{health:?}");
    }

    fn reopen(&mut self, stop: Stop, under: usize) {
        self.figures.reopens += 1;
        self.stop(stop);
        // They pin what they need, not the database.
        let (steps, moves) =
            (Steps { ends: vec![End::Front, End::Back], to_the_end: false }, [Move::Next, Move::Prev]);
        for scan in self.iterators.values_mut() {
            scan.steps(&steps, &mut self.transcript);
            scan.outlived = true;
        }
        for walk in self.cursors.values_mut() {
            moves.iter().for_each(|to| walk.step(to, &mut self.transcript));
            walk.outlived = true;
        }
        self.start(under);
        self.read_everything();
    }

    /// Ends the database, and leaves in its place what is left of it.
    fn stop(&mut self, stop: Stop) {
        self.count_work();
        match stop {
            Stop::Close => self.close(),
            Stop::Checkpoint => {
                let to = self.place.move_on();
                self.db().checkpoint(to).unwrap();
                self.figures.checkpoints += 1;
                // From here on they have nothing to do with each other.
                self.keyspaces[&0].clear().unwrap();
                self.db().settle().unwrap();
            }
            Stop::PowerCut { synced: true, .. } => self.perform(&Op::Sync),
            _ => {}
        }
        let mut may_lose = false;
        match (&mut self.place, stop) {
            (Place::Memory(fs, _), Stop::Kill) => {
                *fs = fs.process_kill_clone();
                self.figures.kills += 1;
            }
            (Place::Memory(fs, _), Stop::PowerCut { policy, .. }) => {
                *fs = fs.crash_clone(policy);
                self.figures.power_cuts += 1;
                may_lose = policy != CrashPolicy::KeepAll;
            }
            _ => {}
        }
        if !may_lose {
            self.durable.sync();
        }
        // All that keeps a database open. Iterators and cursors do not.
        self.snapshots.clear();
        self.keyspaces.clear();
        self.dropped.clear();
        self.db = None;
    }

    fn close(&mut self) {
        self.db().close().unwrap();
        let closed = |error: Option<Error>| assert!(matches!(error, Some(Error::Closed)), "{error:?}");
        closed(self.db().get("key").err());
        closed(self.db().put("key", "").err());
        closed(self.db().snapshot().err());
        self.snapshots.values().for_each(|pinned| closed(pinned.snapshot.get(self.db(), "key").err()));
    }

    /// Opens the database. What was lost is written again.
    fn start(&mut self, under: usize) {
        self.set = &self.sets[under % self.sets.len()];
        self.value_bytes_max = self.value_bytes_max.max(self.set.max_value_bytes);
        let options = self.set.options().max_value_bytes(self.value_bytes_max);
        let db = options.file_system(self.place.file_system()).open(self.place.directory()).unwrap();
        for (slot, tables) in &self.tables {
            let keyspace = db.keyspace(&keyspace_name(*slot)).unwrap();
            assert_eq!(*keyspace.options(), tables.options(), "the options of {:?}", keyspace.name());
            self.keyspaces.insert(*slot, keyspace);
        }
        self.db = Some(db);
        if !self.durable.since.is_empty() {
            self.write_again();
        }
    }

    /// After a power cut: makes sure that what is found is what it may have left, and puts the rest back.
    fn write_again(&mut self) {
        let written: Vec<Bytes> = self.written.iter().cloned().collect();
        let found = read_all(self.db(), &written).unwrap_or_else(|why| panic!("{why}"));
        let history = self.durable.history();
        let found = history.find(&found, history.synced()..=history.begun());
        let lost = history.begun() - found.unwrap_or_else(|why| panic!("{why}"));
        self.figures.lost += lost as u64;
        for change in &self.durable.since[self.durable.since.len() - lost..] {
            let Change::Batch(writes) = change else { unreachable!("{change:?} is durable at once") };
            self.db().write_with(self.batch_of(writes), Durability::Buffered).unwrap();
        }
        self.db().sync().unwrap();
        self.durable.sync();
    }

    /// What is left in the end must be right, and at rest, and no file of it damaged.
    fn finish(&mut self) {
        self.read_everything();
        self.reopen(Stop::Close, 0);
        self.perform(&Op::Settle { middle: Bytes::from(&b"user"[..]) });
        self.read_everything();
        self.check_health();
        let metrics = self.db().metrics();
        assert_eq!((metrics.checksum_failures, metrics.page_cache_disagreements), (0, 0));
        self.stop(Stop::Close);
        let options = VerifyOptions::new().threads(1).file_system(self.place.file_system());
        let report = verify(self.place.directory(), &options).unwrap();
        assert!(report.is_ok(), "{report:?}");
    }

    fn count_work(&mut self) {
        let metrics = self.db().metrics();
        self.figures.flushes += metrics.flushes;
        self.figures.compactions += metrics.compactions;
        self.figures.trivial_moves += metrics.trivial_moves;
    }
}
