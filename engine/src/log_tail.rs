//! The log of a database that somebody else may be writing to, read record by record into memtables.
//!
//! A [`LogTail`] remembers where it has come to, so that following a log costs what was written since. Two things can
//! happen behind its back. Records may get into tables: then their memtables go, and of one that is in tables in part,
//! the rest is copied, since a clear of the keyspace looks the same from here and must not leave anything behind. And
//! records may turn out not to have been written: a write that failed can leave its group of records to be read until
//! the next one takes its place. So the last records, as many as a group can have that may have failed, are compared
//! again each time.
//!
//! Memtables only grow, and readers that began earlier ask for sequence numbers from before. Used by one thread at a
//! time. After an error it stands behind the last good record, and goes on from there.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use terrace_io::{FileSystem, Result};
use terrace_sstable::Cursor as _;
use terrace_wal::{HEADER_BYTES, LogReader, Position, Record};

use crate::batch::BATCH_HEADER_BYTES;
use crate::catalog::Catalog;
use crate::group_commit::GROUP_BYTES_MAX;
use crate::manifest_image::RecordMark;
use crate::memtable::Memtable;
use crate::replay::{Batch, History};
use crate::version::{State, Version};

/// No memtable is begun before the last one takes so many bytes of heap, whatever the options say.
const MEMTABLE_BYTES_MIN: u64 = 16 << 10;

/// See the module.
pub(crate) struct LogTail {
    /// The heap after which another memtable is begun: what inserts cheaply, and is copied quickly.
    memtable_bytes: u64,
    /// What was read for each keyspace, oldest first.
    pieces: BTreeMap<u32, Vec<Piece>>,
    /// The sequence number that the next record begins with.
    next_sequence: u64,
    /// The end of the last record.
    end: Position,
    recent: Recent,
    /// For each keyspace the sequence number up to which nothing is kept of it, since it is in tables; `u64::MAX` for one
    /// that is gone.
    forgotten: BTreeMap<u32, u64>,
    /// Whether all that stands behind the end was searched once, under this manifest.
    is_searched: bool,
}

/// A memtable, and the sequence numbers of its first and last entry.
struct Piece {
    memtable: Arc<Memtable>,
    first: u64,
    last: u64,
}

impl LogTail {
    /// Before the first record of the log. Memtables will take about `memtable_bytes`.
    pub fn new(catalog: &Catalog, memtable_bytes: u64) -> LogTail {
        let end = match catalog.segments.keys().next() {
            Some(&segment) => Position { segment, offset: HEADER_BYTES as u32 },
            None => Position::default(),
        };
        LogTail {
            memtable_bytes: memtable_bytes.max(MEMTABLE_BYTES_MIN),
            pieces: BTreeMap::new(),
            next_sequence: catalog.log_first_sequence,
            end,
            recent: Recent::default(),
            forgotten: BTreeMap::new(),
            is_searched: false,
        }
    }

    /// The last sequence number that was read.
    pub fn last_sequence(&self) -> u64 {
        self.next_sequence.saturating_sub(1)
    }

    /// Reads on to the end of the log that the manifest names. `is_new` says whether the catalog is another one than the
    /// last time.
    ///
    /// # Errors
    /// [`terrace_io::Error::Corruption`] where recovery would say so, and wherever it looks like that because somebody
    /// is writing: the caller tells these apart.
    pub fn follow(&mut self, fs: &dyn FileSystem, dir: &Path, catalog: &Catalog, is_new: bool) -> Result<()> {
        if self.recent.is_empty() || !catalog.segments.contains_key(&self.end.segment) {
            // What it had read is in tables.
            *self = LogTail { is_searched: self.is_searched, ..LogTail::new(catalog, self.memtable_bytes) };
        }
        self.is_searched &= !is_new;
        if self.has_forgotten_too_much(catalog) {
            *self = LogTail::new(catalog, self.memtable_bytes);
        }
        self.forget_flushed(catalog)?;
        if catalog.segments.is_empty() {
            return Ok(());
        }
        let segments: Vec<(u32, u64)> =
            catalog.segments.iter().map(|(&number, &length)| (number, length)).collect();
        let log = || LogReader::new(fs, dir, catalog.database_id, &segments, catalog.log_synced);
        if let Some(start) = self.recent.start() {
            let mut reader = log().starting_at(start);
            if self.recent.still_stand(&mut reader)? {
                return self.read_on(&mut reader, dir, catalog, false);
            }
            *self = LogTail::new(catalog, self.memtable_bytes);
        }
        self.read_on(&mut log(), dir, catalog, true)
    }

    fn read_on(
        &mut self,
        reader: &mut LogReader<'_>,
        dir: &Path,
        catalog: &Catalog,
        from_beginning: bool,
    ) -> Result<()> {
        let mut history = History::going_on(self.next_sequence, dir, catalog);
        let before = self.end;
        let mut goes_on_elsewhere = false;
        while let Some(record) = reader.next()? {
            let Some(batch) = history.accept(&record)? else {
                goes_on_elsewhere = true;
                break;
            };
            self.insert(&batch, catalog);
            self.next_sequence = history.next_sequence();
            self.end = record.end;
            self.recent.push(&record);
        }
        // As recovery does, but not all of it each time: what a writer adds stands right behind the end.
        let stands_still = from_beginning || self.end == before;
        if goes_on_elsewhere || catalog.log_synced > self.end || stands_still && !self.is_searched {
            reader.require_not_synced_beyond(self.end)?;
            self.is_searched = true;
        } else if stands_still {
            reader.require_not_synced_near(self.end)?;
        }
        Ok(())
    }

    fn insert(&mut self, batch: &Batch<'_>, catalog: &Catalog) {
        for (sequence, operation) in (batch.first..).zip(&batch.operations) {
            // A keyspace without an entry was dropped: ids are not used again.
            let Some(keyspace) = catalog.keyspaces.get(&operation.keyspace_id) else { continue };
            if sequence <= keyspace.flushed_through {
                continue;
            }
            let pieces = self.pieces.entry(operation.keyspace_id).or_default();
            match pieces.last_mut().filter(|piece| piece.memtable.heap_bytes() < self.memtable_bytes) {
                Some(piece) => piece.last = sequence,
                None => {
                    let memtable = Arc::new(Memtable::new(self.memtable_bytes));
                    pieces.push(Piece { memtable, first: sequence, last: sequence });
                }
            }
            let memtable = &pieces.last().expect("there is one now").memtable;
            memtable.insert(operation.pair, operation.key_len, sequence, operation.kind, batch.segment);
        }
    }

    /// Whether entries count again that were let go of: the manifest said that they are in tables, or their keyspace is
    /// gone, but that was never written after all. A keyspace that was not known may be one of these.
    fn has_forgotten_too_much(&self, catalog: &Catalog) -> bool {
        catalog.keyspaces.iter().any(|(id, keyspace)| {
            let forgotten = self.forgotten.get(id).copied().unwrap_or(self.last_sequence());
            keyspace.flushed_through < forgotten
        })
    }

    /// Lets go of what is in tables by now, or gone with a clear.
    fn forget_flushed(&mut self, catalog: &Catalog) -> Result<()> {
        for through in self.forgotten.values_mut() {
            *through = u64::MAX;
        }
        let known = catalog.keyspaces.iter().map(|(&id, keyspace)| (id, keyspace.flushed_through));
        self.forgotten.extend(known);
        self.pieces.retain(|id, _| catalog.keyspaces.contains_key(id));
        for (id, pieces) in &mut self.pieces {
            let through = catalog.keyspaces[id].flushed_through;
            pieces.retain(|piece| piece.last > through);
            for piece in pieces.iter_mut().filter(|piece| piece.first <= through) {
                piece.memtable = copy_behind(through, &piece.memtable, self.memtable_bytes)?;
                piece.first = through + 1;
            }
        }
        Ok(())
    }

    /// What readers of a keyspace with these tables see. The same as before, if it is the same.
    pub fn state(&self, id: u32, version: Arc<Version>, before: Option<&Arc<State>>) -> Arc<State> {
        let pieces = self.pieces.get(&id).map_or(&[][..], |pieces| pieces);
        let mut newest_first = pieces.iter().rev().map(|piece| &piece.memtable);
        if let Some(before) = before
            && Arc::ptr_eq(&before.version, &version)
            && before.memtables().map(Arc::as_ptr).eq(newest_first.clone().map(Arc::as_ptr))
        {
            return before.clone();
        }
        let memtable = match newest_first.next() {
            Some(memtable) => memtable.clone(),
            None => Arc::new(Memtable::new(0)),
        };
        Arc::new(State { memtable, sealed: newest_first.cloned().collect(), version })
    }
}

/// The entries of a memtable that come after a sequence number.
fn copy_behind(sequence: u64, memtable: &Arc<Memtable>, memtable_bytes: u64) -> Result<Arc<Memtable>> {
    let copy = Memtable::new(memtable_bytes);
    // Only whether there is one is asked of it here.
    let segment = memtable.first_segment().unwrap_or(0);
    let mut cursor = memtable.cursor();
    let mut pair = Vec::new();
    cursor.seek_to_first()?;
    while cursor.valid() {
        if cursor.sequence() > sequence {
            pair.clear();
            pair.extend_from_slice(cursor.key());
            pair.extend_from_slice(cursor.value());
            copy.insert(&pair, cursor.key().len(), cursor.sequence(), cursor.kind(), segment);
        }
        cursor.next()?;
    }
    Ok(Arc::new(copy))
}

/// The last records that were read: as many as one write that fails can have left, all in one segment. What was synced
/// has not failed; and once another segment is written to, nothing of a failed write is left in the one before.
#[derive(Default)]
struct Recent {
    records: VecDeque<RecentRecord>,
    /// The bytes of their operations, by which groups are cut.
    bytes: usize,
    /// How far the log was durable, as the records say.
    synced: Position,
}

struct RecentRecord {
    mark: RecordMark,
    end: Position,
    bytes: usize,
}

impl Recent {
    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Where the first of them stands.
    fn start(&self) -> Option<Position> {
        self.records.front().map(|record| record.mark.start)
    }

    fn push(&mut self, record: &Record) {
        if self.start().is_some_and(|start| start.segment != record.position.segment) {
            *self = Recent::default();
        }
        let bytes = record.payload.len() - BATCH_HEADER_BYTES;
        self.records.push_back(RecentRecord { mark: RecordMark::of(record), end: record.end, bytes });
        self.bytes += bytes;
        self.synced = self.synced.max(record.synced);
        // One stays in any case, to go on from.
        while self.records.len() > 1
            && let Some(front) = self.records.front()
            && (self.bytes > GROUP_BYTES_MAX || front.end <= self.synced)
        {
            self.bytes -= front.bytes;
            self.records.pop_front();
        }
    }

    /// Whether they still stand where they stood, as a reader that starts at the first of them sees it.
    fn still_stand(&self, reader: &mut LogReader<'_>) -> Result<bool> {
        for known in &self.records {
            if reader.next()?.is_none_or(|record| RecordMark::of(&record) != known.mark) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use terrace_io::MemoryFileSystem;
    use terrace_sstable::Kind;
    use terrace_wal::{Fill, RecordKind, SegmentWriter, segment_file_name};

    use super::*;
    use crate::KeyspaceOptions;
    use crate::batch::{encode_header, encode_operation};
    use crate::catalog::Change;

    const ID: [u8; 16] = [7; 16];
    const SEGMENT_BYTES: u64 = 256 << 10;

    fn dir() -> &'static Path {
        Path::new("/db")
    }

    /// A segment with one group of puts to the default keyspace, each a batch of its own, numbered from 1.
    fn with_group(puts: &[(&str, &str)]) -> MemoryFileSystem {
        let fs = MemoryFileSystem::new();
        fs.create_dir_all(dir()).unwrap();
        let mut segment = SegmentWriter::create(&fs, dir(), ID, 1, SEGMENT_BYTES, Fill::Zeros).unwrap();
        let mut group = Vec::new();
        for ((key, value), sequence) in puts.iter().zip(1..) {
            let mut operations = Vec::new();
            encode_operation(&mut operations, Kind::Put, 0, key.as_bytes(), value.as_bytes());
            let parts = [&encode_header(sequence, 1)[..], &operations];
            segment.encode(&mut group, RecordKind::Batch, Position::default(), &parts);
        }
        segment.append(&group).unwrap();
        fs
    }

    fn catalog(more: impl IntoIterator<Item = Change>) -> Catalog {
        let mut catalog = Catalog::new(ID, 1, 1 << 20, KeyspaceOptions::new());
        catalog.apply(Change::SegmentAdded { number: 1, length: SEGMENT_BYTES }).unwrap();
        more.into_iter().for_each(|change| catalog.apply(change).unwrap());
        catalog
    }

    fn get(tail: &LogTail, key: &str) -> Option<String> {
        let state = tail.state(0, Arc::new(Version::empty()), None);
        let found = state.find(key.as_bytes(), tail.last_sequence()).unwrap();
        found.map(|hit| String::from_utf8(hit.value().to_vec()).unwrap())
    }

    fn followed(fs: &MemoryFileSystem) -> LogTail {
        let mut tail = LogTail::new(&catalog([]), 0);
        tail.follow(fs, dir(), &catalog([]), true).unwrap();
        tail
    }

    /// The last record of what takes the place of a failed group may be the same.
    #[test]
    fn a_group_that_was_replaced_is_noticed_by_any_of_its_records() {
        let puts = [("a", "1"), ("b", "2"), ("c", "3")];
        for other in 0..3 {
            let fs = with_group(&puts);
            let mut tail = followed(&fs);
            assert_eq!((get(&tail, "a").as_deref(), tail.last_sequence()), (Some("1"), 3));
            let mut replaced = puts;
            replaced[other].1 = "x";
            let segment = dir().join(segment_file_name(1));
            fs.replace_bytes(&segment, with_group(&replaced).file_bytes(&segment).unwrap()).unwrap();
            tail.follow(&fs, dir(), &catalog([]), false).unwrap();
            for (key, value) in replaced {
                assert_eq!(get(&tail, key).as_deref(), Some(value), "{key}, with {other} replaced");
            }
        }
    }

    /// What is in tables, or gone with a clear, is not seen here any more, whatever memtable it was in.
    #[test]
    fn what_was_flushed_is_forgotten_to_the_entry() {
        let puts: Vec<(String, String)> =
            (1..=300).map(|number| (format!("{number:03}"), "v".repeat(200))).collect();
        let puts: Vec<(&str, &str)> = puts.iter().map(|(key, value)| (&**key, &**value)).collect();
        let fs = with_group(&puts);
        let mut tail = followed(&fs);
        assert!(tail.pieces[&0].len() > 2, "there are several memtables");
        let before = tail.state(0, Arc::new(Version::empty()), None);
        for through in [0, 1, 2, 150, 299, 300] {
            let catalog = catalog([Change::KeyspaceFlushed { id: 0, through }]);
            tail.follow(&fs, dir(), &catalog, true).unwrap();
            for (number, (key, _)) in (1..).zip(&puts) {
                assert_eq!(get(&tail, key).is_some(), number > through, "{key} after {through}");
            }
            assert_eq!(tail.last_sequence(), 300);
        }
        assert!(tail.pieces[&0].is_empty());
        assert!(before.find(b"001", 300).unwrap().is_some(), "it keeps what it saw");
    }

    /// A record of the manifest that was seen may turn out not to have been written.
    #[test]
    fn what_is_in_no_table_after_all_is_there_again() {
        let fs = with_group(&[("a", "1"), ("b", "2")]);
        let added = || Change::KeyspaceAdded { id: 1, name: "x".to_owned(), options: KeyspaceOptions::new() };
        let mut tail = followed(&fs);
        for through in [2, 1, 0] {
            let flushed = catalog([Change::KeyspaceFlushed { id: 0, through }, added()]);
            tail.follow(&fs, dir(), &flushed, true).unwrap();
            assert_eq!((get(&tail, "a").is_some(), get(&tail, "b").is_some()), (through < 1, through < 2));
        }
        assert!(!tail.has_forgotten_too_much(&catalog([added()])));
        tail.follow(&fs, dir(), &catalog([]), true).unwrap();
        assert!(tail.has_forgotten_too_much(&catalog([added()])), "a keyspace that was gone is back");
        tail.follow(&fs, dir(), &catalog([added()]), true).unwrap();
        assert_eq!(get(&tail, "b").as_deref(), Some("2"));
    }

    /// So many that no write can have had more, and one in any case.
    #[test]
    fn as_many_records_are_compared_again_as_a_group_can_have() {
        let mut recent = Recent::default();
        let at = |number: u32, segment: u32| Position { segment, offset: 8 * number };
        let mut push = |number: u32, segment: u32, bytes: usize| {
            let (position, end) = (at(number, segment), at(number + 1, segment));
            let payload = vec![0; BATCH_HEADER_BYTES + bytes];
            // The last one knows that all but the one before it are durable.
            let synced = if number == 20 { at(19, segment) } else { Position::default() };
            recent.push(&Record { kind: RecordKind::Batch, position, end, synced, payload });
            recent.start().unwrap()
        };
        assert_eq!(push(10, 1, GROUP_BYTES_MAX / 2), at(10, 1));
        assert_eq!(push(11, 1, GROUP_BYTES_MAX / 2), at(10, 1));
        assert_eq!(push(12, 1, 1), at(11, 1));
        assert_eq!(push(13, 1, 3 * GROUP_BYTES_MAX), at(13, 1));
        assert_eq!(push(14, 1, 1), at(14, 1));
        assert_eq!(push(15, 1, 1), at(14, 1));
        assert_eq!(push(8, 2, 1), at(8, 2));
        assert_eq!(push(18, 2, 1), at(8, 2));
        assert_eq!(push(19, 2, 1), at(8, 2));
        assert_eq!(push(20, 2, 1), at(19, 2));
    }
}
