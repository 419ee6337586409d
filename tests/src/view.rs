//! Reads, checked against the model: point reads, scans from both ends, cursors. The same checks serve a keyspace as it
//! is now and one that is seen through a snapshot.

use std::collections::VecDeque;
use std::ops::Bound;

use terrace::{Cursor, Iter, Keyspace, Result, Slice, Snapshot};

use crate::model::{Bounds, Bytes, Map, abbreviated, entries_in, entries_with_prefix};
use crate::workload::{Generator, borrowed};

/// What can be read.
#[derive(Debug, Clone, Copy)]
pub enum View<'a> {
    /// A keyspace as it is now.
    Now(&'a Keyspace),
    /// A keyspace as a snapshot sees it.
    Then(&'a Snapshot, &'a Keyspace),
}

impl View<'_> {
    /// As the engine's.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        match self {
            View::Now(keyspace) => keyspace.get(key),
            View::Then(snapshot, keyspace) => snapshot.get(keyspace, key),
        }
    }

    /// As the engine's.
    pub fn get_with<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        match self {
            View::Now(keyspace) => keyspace.get_with(key, read),
            View::Then(snapshot, keyspace) => snapshot.get_with(keyspace, key, read),
        }
    }

    /// As the engine's.
    pub fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<Slice>>> {
        match self {
            View::Now(keyspace) => keyspace.multi_get(keys),
            View::Then(snapshot, keyspace) => snapshot.multi_get(keyspace, keys),
        }
    }

    /// As the engine's.
    pub fn contains_key(&self, key: &[u8]) -> Result<bool> {
        match self {
            View::Now(keyspace) => keyspace.contains_key(key),
            View::Then(snapshot, keyspace) => snapshot.contains_key(keyspace, key),
        }
    }

    /// As the engine's.
    pub fn range(&self, bounds: Bounds<'_>) -> Result<Iter> {
        match self {
            View::Now(keyspace) => keyspace.range::<&[u8]>(bounds),
            View::Then(snapshot, keyspace) => snapshot.range::<&[u8]>(keyspace, bounds),
        }
    }

    /// As the engine's.
    pub fn prefix(&self, prefix: &[u8]) -> Result<Iter> {
        match self {
            View::Now(keyspace) => keyspace.prefix(prefix),
            View::Then(snapshot, keyspace) => snapshot.prefix(keyspace, prefix),
        }
    }

    /// As the engine's.
    pub fn cursor(&self) -> Result<Cursor> {
        match self {
            View::Now(keyspace) => keyspace.cursor(),
            View::Then(snapshot, keyspace) => snapshot.cursor(keyspace),
        }
    }
}

/// Reads some keys in every way there is.
pub fn check_points(view: View<'_>, map: &Map, generator: &mut Generator) {
    let keys: Vec<Bytes> = (0..4).map(|_| generator.probe()).collect();
    let together = view.multi_get(&keys).unwrap();
    for (key, found) in keys.iter().zip(together) {
        let expected = map.get(key).map(|value| &**value);
        let shown = abbreviated(key);
        let got = view.get(key).unwrap();
        assert!(got.as_deref() == expected, "get of {shown}: {}", compared(got.as_deref(), expected));
        assert!(
            found.as_deref() == expected,
            "multi_get of {shown}: {}",
            compared(found.as_deref(), expected)
        );
        assert_eq!(view.contains_key(key).unwrap(), expected.is_some(), "contains_key of {shown}");
        let equal = view.get_with(key, |value| Some(value) == expected).unwrap();
        assert_eq!(equal, expected.map(|_| true), "get_with of {shown}");
    }
}

/// Scans a range or a prefix from one end, the other, or both.
pub fn check_scan(view: View<'_>, map: &Map, generator: &mut Generator) {
    let (iter, expected) = open_scan(view, map, generator);
    let mut scan = Scan::new(iter, expected);
    let steps = if generator.one_in(3) { usize::MAX } else { generator.number(0..30) };
    match generator.number(0..3) {
        0 => drop((0..steps).find(|_| !scan.step(true))),
        1 => drop((0..steps).find(|_| !scan.step(false))),
        _ => drop((0..steps).find(|_| !scan.step(generator.one_in(2)))),
    }
}

/// Begins a scan of a random range or prefix: an iterator, and what it should give.
pub fn open_scan(view: View<'_>, map: &Map, generator: &mut Generator) -> (Iter, Vec<(Bytes, Bytes)>) {
    match generator.number(0..4) {
        0 => {
            let prefix = generator.prefix();
            (view.prefix(&prefix).unwrap(), entries_with_prefix(map, &prefix))
        }
        1 => {
            let all = (Bound::Unbounded, Bound::Unbounded);
            (view.range(all).unwrap(), entries_in(map, all))
        }
        _ => {
            let bounds = generator.bounds();
            (view.range(borrowed(&bounds)).unwrap(), entries_in(map, borrowed(&bounds)))
        }
    }
}

/// An iterator on its way, with what it has yet to give.
#[derive(Debug)]
pub struct Scan {
    /// The iterator.
    pub iter: Iter,
    /// What is between its ends.
    pub expected: VecDeque<(Bytes, Bytes)>,
    /// Whether the directory was opened again since: another instance may delete tables that this one has not opened
    /// yet. That must be an error.
    pub outlived: bool,
}

impl Scan {
    /// An iterator that has not moved.
    pub fn new(iter: Iter, expected: Vec<(Bytes, Bytes)>) -> Self {
        Scan { iter, expected: expected.into(), outlived: false }
    }

    /// Takes a step at the front or the back. Says whether there was an entry.
    pub fn step(&mut self, front: bool) -> bool {
        let (got, expected) = match front {
            true => (self.iter.next(), self.expected.pop_front()),
            false => (self.iter.next_back(), self.expected.pop_back()),
        };
        if self.outlived
            && let Some(Err(error)) = &got
            && error.is_not_found()
        {
            assert!(matches!(self.iter.next(), Some(Err(_))), "an iterator went on after an error");
            self.expected.extend(expected);
            return false;
        }
        let got = got.map(|entry| entry.unwrap());
        let equal = match (&got, &expected) {
            (Some(got), Some(expected)) => *got.0 == *expected.0 && *got.1 == *expected.1,
            (got, expected) => got.is_none() && expected.is_none(),
        };
        let end = if front { "front" } else { "back" };
        assert!(equal, "the {end} of an iterator gave {}, not {}", shown(got), shown(expected));
        expected.is_some()
    }
}

fn shown<T: std::ops::Deref<Target = [u8]>>(entry: Option<(T, T)>) -> String {
    entry.map_or("nothing".to_owned(), |(key, value)| {
        format!("{} = {}", abbreviated(&key), abbreviated(&value))
    })
}

fn compared(got: Option<&[u8]>, expected: Option<&[u8]>) -> String {
    let shown = |value: Option<&[u8]>| value.map_or("nothing".to_owned(), abbreviated);
    format!("{}, not {}", shown(got), shown(expected))
}

/// Reads everything, from both ends and key by key.
pub fn check_all(view: View<'_>, map: &Map) {
    let all = (Bound::Unbounded, Bound::Unbounded);
    for front in [true, false] {
        let mut scan = Scan::new(view.range(all).unwrap(), entries_in(map, all));
        while scan.step(front) {}
        assert!(!scan.step(front) && !scan.step(!front), "an iterator went on after its end");
    }
    for (key, value) in map {
        let got = view.get(key).unwrap();
        assert!(
            got.as_deref() == Some(value),
            "get of {}: {}",
            abbreviated(key),
            compared(got.as_deref(), Some(value))
        );
    }
}

/// A cursor, with where it should be.
#[derive(Debug)]
pub struct Walk {
    cursor: Cursor,
    entries: std::sync::Arc<Map>,
    place: Option<Bytes>,
    /// As for [`Scan`].
    pub outlived: bool,
}

impl Walk {
    /// A cursor over a view that equals `entries`.
    pub fn new(view: View<'_>, entries: &std::sync::Arc<Map>) -> Self {
        Walk { cursor: view.cursor().unwrap(), entries: entries.clone(), place: None, outlived: false }
    }

    /// Moves the cursor somewhere, now and then far.
    pub fn step(&mut self, generator: &mut Generator) {
        let first =
            |bounds: Bounds<'_>| self.entries.range::<[u8], _>(bounds).next().map(|(key, _)| key.clone());
        let last = |bounds: Bounds<'_>| {
            self.entries.range::<[u8], _>(bounds).next_back().map(|(key, _)| key.clone())
        };
        let key = generator.probe();
        let (found, place) = match generator.number(0..16) {
            0 => (self.cursor.seek_to_first(), first((Bound::Unbounded, Bound::Unbounded))),
            1 => (self.cursor.seek_to_last(), last((Bound::Unbounded, Bound::Unbounded))),
            2 | 3 => (self.cursor.seek(&key), first((Bound::Included(&key), Bound::Unbounded))),
            4 | 5 => (self.cursor.seek_for_prev(&key), last((Bound::Unbounded, Bound::Included(&key)))),
            6..11 => {
                let after = |place: &Bytes| first((Bound::Excluded(place), Bound::Unbounded));
                (self.cursor.next(), self.place.as_ref().and_then(after))
            }
            _ => {
                let before = |place: &Bytes| last((Bound::Unbounded, Bound::Excluded(place)));
                (self.cursor.prev(), self.place.as_ref().and_then(before))
            }
        };
        if self.outlived
            && let Err(error) = &found
            && error.is_not_found()
        {
            assert!(!self.cursor.valid() && self.cursor.next().is_err(), "the cursor went on after an error");
            self.place = None;
            return;
        }
        assert_eq!(found.unwrap(), place.is_some(), "whether there was an entry to move to");
        assert_eq!(self.cursor.valid(), place.is_some(), "whether the cursor stands on an entry");
        if let Some(key) = &place {
            let (got, got_value) = (self.cursor.key(), self.cursor.value());
            assert!(*got == **key, "the cursor stands on {}, not {}", abbreviated(got), abbreviated(key));
            let value = &self.entries[key];
            assert!(*got_value == **value, "the value of {} is {}", abbreviated(key), abbreviated(got_value));
        }
        self.place = place;
    }
}
