//! Walking through a keyspace: the lending [`Cursor`] for tight loops and the owned, double-ended [`Iter`].
//!
//! Both see the keyspace as it was when they were made. They pin its memtables and tables, not the database: it can
//! move on, compact, drop the keyspace or be closed.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use terrace_io::{Error, Result};
use terrace_sstable::{
    Cursor as _, Kind, MergeCursor, RunCursor, SEQUENCE_MAX, ScanMode, Slice, Table, TableCursor,
};

use crate::memtable::MemtableCursor;
use crate::version::{KeyRange, State, overlapping, overlaps};

/// Owned bounds of a range of keys.
pub(crate) type Bounds = (Bound<Box<[u8]>>, Bound<Box<[u8]>>);

pub(crate) fn owned_bounds<K: AsRef<[u8]>>(range: impl RangeBounds<K>) -> Result<Bounds> {
    let own = |bound: Bound<&K>| bound.map(|key| Box::from(key.as_ref()));
    let bounds: Bounds = (own(range.start_bound()), own(range.end_bound()));
    match (&bounds.0, &bounds.1) {
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to))
            if from > to =>
        {
            let (from, to) = (from.escape_ascii(), to.escape_ascii());
            Err(Error::invalid(format!(
                "the range is reversed: it starts at \"{from}\" and ends at \"{to}\""
            )))
        }
        _ => Ok(bounds),
    }
}

/// The bounds of all keys that begin with `prefix`.
pub(crate) fn prefix_bounds(prefix: &[u8]) -> Bounds {
    let mut end = prefix.to_vec();
    while end.last() == Some(&0xff) {
        end.pop();
    }
    let end = match end.last_mut() {
        Some(last) => {
            *last += 1;
            Bound::Excluded(end.into())
        }
        None => Bound::Unbounded,
    };
    (Bound::Included(prefix.into()), end)
}

pub(crate) fn borrowed(bounds: &Bounds) -> KeyRange<'_> {
    (bounds.0.as_ref().map(|key| &**key), bounds.1.as_ref().map(|key| &**key))
}

/// One sorted source of versions.
enum Source {
    Memtable(MemtableCursor),
    Table(TableCursor),
    Run(RunCursor),
}

macro_rules! each_source {
    ($self:ident, $cursor:ident => $call:expr) => {
        match $self {
            Source::Memtable($cursor) => $call,
            Source::Table($cursor) => $call,
            Source::Run($cursor) => $call,
        }
    };
}

impl terrace_sstable::Cursor for Source {
    fn seek_to_first(&mut self) -> Result<()> {
        each_source!(self, cursor => cursor.seek_to_first())
    }
    fn seek_to_last(&mut self) -> Result<()> {
        each_source!(self, cursor => cursor.seek_to_last())
    }
    fn seek(&mut self, key: &[u8], sequence: u64) -> Result<()> {
        each_source!(self, cursor => cursor.seek(key, sequence))
    }
    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        each_source!(self, cursor => cursor.seek_before(key))
    }
    #[inline]
    fn next(&mut self) -> Result<()> {
        each_source!(self, cursor => cursor.next())
    }
    #[inline]
    fn prev(&mut self) -> Result<()> {
        each_source!(self, cursor => cursor.prev())
    }
    #[inline]
    fn same_key_before(&self) -> Option<bool> {
        each_source!(self, cursor => cursor.same_key_before())
    }
    #[inline]
    fn valid(&self) -> bool {
        each_source!(self, cursor => cursor.valid())
    }
    #[inline]
    fn key(&self) -> &[u8] {
        each_source!(self, cursor => cursor.key())
    }
    #[inline]
    fn sequence(&self) -> u64 {
        each_source!(self, cursor => cursor.sequence())
    }
    #[inline]
    fn kind(&self) -> Kind {
        each_source!(self, cursor => cursor.kind())
    }
    #[inline]
    fn value(&self) -> &[u8] {
        each_source!(self, cursor => cursor.value())
    }
    fn key_slice(&self) -> Slice {
        each_source!(self, cursor => cursor.key_slice())
    }
    fn value_slice(&self) -> Slice {
        each_source!(self, cursor => cursor.value_slice())
    }
}

/// The sources of a state that can hold keys of a range, merged.
fn merged(state: &State, range: KeyRange<'_>) -> MergeCursor<Source> {
    let mut sources: Vec<Source> =
        state.memtables().map(|memtable| Source::Memtable(memtable.cursor())).collect();
    let table = |table: &Arc<Table>| Source::Table(table.cursor(ScanMode::Auto));
    let (level0, runs) = state.version.levels.split_first().expect("there is a level 0");
    sources.extend(level0.iter().filter(|table| overlaps(table.meta(), range)).map(table));
    for run in runs {
        let part = overlapping(run, range);
        match &run[part.clone()] {
            [] => {}
            [only] => sources.push(table(only)),
            _ => sources.push(Source::Run(RunCursor::over_part(run.clone(), part, ScanMode::Auto))),
        }
    }
    MergeCursor::new(sources)
}

/// After so many versions that do not count, a search is cheaper than going on one by one.
const STEPS_BEFORE_SEEK: usize = 8;

/// Where a [`Cursor`] stands, and which way it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nowhere: before the first seek, past either end, or after an error.
    Nowhere,
    /// On the merged cursor's entry.
    Forward,
    /// On the merged cursor's entry, the only version of its key, and on the way back.
    Backward,
    /// On an entry that was saved on the way back; the merged cursor stands before all versions of its key.
    Saved,
}

/// A cursor that lends what it stands on: nothing is copied or counted per entry. It can be moved anywhere at any
/// time. Made by [`crate::Keyspace::cursor`] and [`crate::Snapshot::cursor`].
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let db = terrace::Db::open(directory.path())?;
/// # for key in ["a", "b", "c"] { db.put(key, "")?; }
/// let mut cursor = db.cursor()?;
/// let mut keys = 0;
/// let mut more = cursor.seek("b")?;
/// while more {
///     keys += cursor.key().len();
///     more = cursor.next()?;
/// }
/// assert_eq!(keys, 2);
/// # Ok(())
/// # }
/// ```
pub struct Cursor {
    merge: MergeCursor<Source>,
    snapshot: u64,
    place: Place,
    /// The entry that it stands on, when `Saved`.
    saved: Option<(Slice, Slice)>,
    /// The key whose versions are being passed over.
    key: Vec<u8>,
    failed: Option<Error>,
}

impl Cursor {
    pub(crate) fn new(state: Arc<State>, snapshot: u64) -> Self {
        Cursor::within(&state, snapshot, (Bound::Unbounded, Bound::Unbounded))
    }

    /// Over the sources that can hold keys of a range; outside of it, keys may be missing.
    fn within(state: &State, snapshot: u64, range: KeyRange<'_>) -> Self {
        Cursor {
            merge: merged(state, range),
            snapshot,
            place: Place::Nowhere,
            saved: None,
            key: Vec::new(),
            failed: None,
        }
    }

    /// Moves to the first entry. Says whether there is one.
    pub fn seek_to_first(&mut self) -> Result<bool> {
        self.moving(|cursor| {
            cursor.merge.seek_to_first()?;
            cursor.settle_forward(false)
        })
    }

    /// Moves to the last entry. Says whether there is one.
    pub fn seek_to_last(&mut self) -> Result<bool> {
        self.moving(|cursor| {
            cursor.merge.seek_to_last()?;
            cursor.settle_backward()
        })
    }

    /// Moves to the first entry at or after `key`. Says whether there is one.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.moving(|cursor| {
            cursor.merge.seek(key.as_ref(), SEQUENCE_MAX)?;
            cursor.settle_forward(false)
        })
    }

    /// Moves to the last entry at or before `key`. Says whether there is one.
    pub fn seek_for_prev(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        // The first key that is greater: this one and a zero.
        let after = [key, &[0]].concat();
        self.moving(|cursor| {
            cursor.merge.seek_before(&after)?;
            cursor.settle_backward()
        })
    }

    /// Moves to the last entry before `key`.
    fn seek_before(&mut self, key: &[u8]) -> Result<bool> {
        self.moving(|cursor| {
            cursor.merge.seek_before(key)?;
            cursor.settle_backward()
        })
    }

    /// Moves to the next entry. Says whether there is one; nothing follows the end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<bool> {
        match self.place {
            Place::Nowhere => self.failed.clone().map_or(Ok(false), Err),
            Place::Forward => {
                self.remember_key();
                self.moving(|cursor| {
                    cursor.merge.next()?;
                    cursor.settle_forward(true)
                })
            }
            Place::Backward | Place::Saved => {
                self.remember_key();
                self.moving(|cursor| {
                    cursor.merge.seek(&cursor.key, 0)?;
                    cursor.settle_forward(true)
                })
            }
        }
    }

    /// Moves to the entry before. Says whether there is one; nothing comes before the beginning.
    pub fn prev(&mut self) -> Result<bool> {
        match self.place {
            Place::Nowhere => self.failed.clone().map_or(Ok(false), Err),
            Place::Forward => {
                self.remember_key();
                self.moving(|cursor| {
                    cursor.merge.seek_before(&cursor.key)?;
                    cursor.settle_backward()
                })
            }
            Place::Backward => self.moving(|cursor| {
                cursor.merge.prev()?;
                cursor.settle_backward()
            }),
            Place::Saved => self.moving(|cursor| cursor.settle_backward()),
        }
    }

    /// Whether it stands on an entry.
    pub fn valid(&self) -> bool {
        self.place != Place::Nowhere
    }

    /// The key that it stands on.
    ///
    /// # Panics
    /// If it stands on none: see [`Cursor::valid`].
    pub fn key(&self) -> &[u8] {
        match self.place {
            Place::Forward | Place::Backward => self.merge.key(),
            Place::Saved => &self.saved().0,
            Place::Nowhere => panic!("the cursor stands on no entry"),
        }
    }

    /// The value that it stands on.
    ///
    /// # Panics
    /// If it stands on none: see [`Cursor::valid`].
    pub fn value(&self) -> &[u8] {
        match self.place {
            Place::Forward | Place::Backward => self.merge.value(),
            Place::Saved => &self.saved().1,
            Place::Nowhere => panic!("the cursor stands on no entry"),
        }
    }

    fn saved(&self) -> &(Slice, Slice) {
        self.saved.as_ref().expect("it was saved when the cursor came here")
    }

    /// Makes the key that it stands on the one whose versions are passed over.
    fn remember_key(&mut self) {
        let key = match (&self.saved, self.place) {
            (Some((key, _)), Place::Saved) => key,
            _ => self.merge.key(),
        };
        self.key.clear();
        self.key.extend_from_slice(key);
    }

    fn entry(&self) -> (Slice, Slice) {
        match self.place {
            Place::Forward | Place::Backward => (self.merge.key_slice(), self.merge.value_slice()),
            _ => self.saved().clone(),
        }
    }

    /// Runs a move; after an error the cursor stands nowhere, and stepping repeats the error.
    fn moving(&mut self, step: impl FnOnce(&mut Self) -> Result<Place>) -> Result<bool> {
        self.failed = None;
        self.place = Place::Nowhere;
        match step(self) {
            Ok(place) => {
                self.place = place;
                Ok(place != Place::Nowhere)
            }
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Goes forward to the first version that counts. With `skip`, versions of `self.key` do not.
    fn settle_forward(&mut self, mut skip: bool) -> Result<Place> {
        let mut steps = 0;
        while self.merge.valid() {
            let is_old = skip && self.merge.key() == self.key;
            let is_new = self.merge.sequence() > self.snapshot;
            if !is_old && !is_new {
                if self.merge.kind() == Kind::Put {
                    return Ok(Place::Forward);
                }
                skip = true;
                self.key.clear();
                self.key.extend_from_slice(self.merge.key());
                steps = 0;
            }
            steps += 1;
            if steps % STEPS_BEFORE_SEEK != 0 {
                self.merge.next()?;
            } else if is_old && self.merge.sequence() > 0 {
                self.merge.seek(&self.key, 0)?;
            } else if is_new && !is_old {
                let key = self.merge.key().to_vec();
                self.merge.seek(&key, self.snapshot)?;
            } else {
                self.merge.next()?;
            }
        }
        Ok(Place::Nowhere)
    }

    /// Goes backward from the merged cursor's entry, which is the oldest version of some key, to the first key with a
    /// version that counts. If it may not be the only one of its key, saves it and goes on before them all.
    fn settle_backward(&mut self) -> Result<Place> {
        while self.merge.valid() {
            if self.merge.same_key_before() == Some(false) {
                if self.merge.kind() == Kind::Put && self.merge.sequence() <= self.snapshot {
                    return Ok(Place::Backward);
                }
                self.merge.prev()?;
                continue;
            }
            self.key.clear();
            self.key.extend_from_slice(self.merge.key());
            let mut newest = None;
            while self.merge.valid() && self.merge.key() == self.key {
                if self.merge.sequence() <= self.snapshot {
                    newest = Some((self.merge.kind(), (self.merge.key_slice(), self.merge.value_slice())));
                }
                self.merge.prev()?;
            }
            if let Some((Kind::Put, entry)) = newest {
                self.saved = Some(entry);
                return Ok(Place::Saved);
            }
        }
        Ok(Place::Nowhere)
    }
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("place", &self.place).field("snapshot", &self.snapshot).finish()
    }
}

/// An iterator over keys and values in a range, from both ends. It owns all it needs: it can be kept, sent to another
/// thread, and outlive the database handle. After an error it gives that error again and again: nothing is skipped
/// silently.
///
/// While the database is open, nothing that an iterator needs is deleted. One that is kept until after the database was
/// closed and *opened again* may find tables gone that it has not come to yet: it says so with an error.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let db = terrace::Db::open(directory.path())?;
/// db.put("apple", "red")?;
/// db.put("pear", "green")?;
/// for entry in db.range("a".."b")? {
///     let (key, value) = entry?;
///     assert_eq!((&*key, &*value), (&b"apple"[..], &b"red"[..]));
/// }
/// let last = db.iter()?.next_back().unwrap()?;
/// assert_eq!(&*last.0, b"pear");
/// # Ok(())
/// # }
/// ```
pub struct Iter {
    state: Arc<State>,
    snapshot: u64,
    bounds: Bounds,
    front: Option<Cursor>,
    back: Option<Cursor>,
    finished: bool,
    failed: Option<Error>,
}

impl Iter {
    pub(crate) fn new(state: Arc<State>, snapshot: u64, bounds: Bounds) -> Self {
        Iter { state, snapshot, bounds, front: None, back: None, finished: false, failed: None }
    }

    fn step_front(&mut self) -> Result<bool> {
        if let Some(cursor) = &mut self.front {
            return cursor.next();
        }
        let cursor = Cursor::within(&self.state, self.snapshot, borrowed(&self.bounds));
        let cursor = self.front.insert(cursor);
        match &self.bounds.0 {
            Bound::Unbounded => cursor.seek_to_first(),
            Bound::Included(from) => cursor.seek(from),
            Bound::Excluded(from) => Ok(cursor.seek(from)? && (cursor.key() != &**from || cursor.next()?)),
        }
    }

    fn step_back(&mut self) -> Result<bool> {
        if let Some(cursor) = &mut self.back {
            return cursor.prev();
        }
        let cursor = Cursor::within(&self.state, self.snapshot, borrowed(&self.bounds));
        let cursor = self.back.insert(cursor);
        match &self.bounds.1 {
            Bound::Unbounded => cursor.seek_to_last(),
            Bound::Included(to) => cursor.seek_for_prev(to),
            Bound::Excluded(to) => cursor.seek_before(to),
        }
    }

    fn before_end(&self, key: &[u8]) -> bool {
        let in_bounds = match &self.bounds.1 {
            Bound::Unbounded => true,
            Bound::Included(to) => key <= &**to,
            Bound::Excluded(to) => key < &**to,
        };
        // The other end stands on the entry that it gave last.
        in_bounds && self.back.as_ref().is_none_or(|back| key < back.key())
    }

    fn after_start(&self, key: &[u8]) -> bool {
        let in_bounds = match &self.bounds.0 {
            Bound::Unbounded => true,
            Bound::Included(from) => key >= &**from,
            Bound::Excluded(from) => key > &**from,
        };
        in_bounds && self.front.as_ref().is_none_or(|front| key > front.key())
    }

    fn give(&mut self, found: Result<Option<(Slice, Slice)>>) -> Option<Result<(Slice, Slice)>> {
        match found {
            Ok(Some(entry)) => Some(Ok(entry)),
            Ok(None) => {
                self.finished = true;
                (self.front, self.back) = (None, None);
                None
            }
            Err(error) => {
                self.failed = Some(error.clone());
                Some(Err(error))
            }
        }
    }

    fn find_front(&mut self) -> Result<Option<(Slice, Slice)>> {
        if !self.step_front()? {
            return Ok(None);
        }
        let Some(cursor) = &self.front else { return Ok(None) };
        Ok(self.before_end(cursor.key()).then(|| cursor.entry()))
    }

    fn find_back(&mut self) -> Result<Option<(Slice, Slice)>> {
        if !self.step_back()? {
            return Ok(None);
        }
        let Some(cursor) = &self.back else { return Ok(None) };
        Ok(self.after_start(cursor.key()).then(|| cursor.entry()))
    }
}

impl Iterator for Iter {
    type Item = Result<(Slice, Slice)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = &self.failed {
            return Some(Err(error.clone()));
        }
        if self.finished {
            return None;
        }
        let found = self.find_front();
        self.give(found)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Self::Item> {
        if let Some(error) = &self.failed {
            return Some(Err(error.clone()));
        }
        if self.finished {
            return None;
        }
        let found = self.find_back();
        self.give(found)
    }
}

impl std::iter::FusedIterator for Iter {}

impl std::fmt::Debug for Iter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Iter").field("bounds", &self.bounds).field("snapshot", &self.snapshot).finish()
    }
}
