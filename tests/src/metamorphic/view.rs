//! Reads as data, and what they must answer: point reads, scans from both ends, cursors. The same checks serve a
//! keyspace as it is now and one that is seen through a snapshot. Each answer is checked against the map of the model
//! and noted in the transcript.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use terrace::{Cursor, Iter, Keyspace, Result, Slice, Snapshot};

use super::transcript::Transcript;
use crate::model::{Bounds, Bytes, Map, abbreviated, entries_in, entries_with_prefix};
use crate::workload::{OwnedBounds, borrowed};

const ALL: Bounds<'static> = (Bound::Unbounded, Bound::Unbounded);

/// What can be read.
#[derive(Debug, Clone, Copy)]
pub enum View<'a> {
    /// A keyspace as it is now.
    Now(&'a Keyspace),
    /// A keyspace as a snapshot sees it.
    Then(&'a Snapshot, &'a Keyspace),
}

impl View<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        match self {
            View::Now(keyspace) => keyspace.get(key),
            View::Then(snapshot, keyspace) => snapshot.get(keyspace, key),
        }
    }

    fn get_with<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        match self {
            View::Now(keyspace) => keyspace.get_with(key, read),
            View::Then(snapshot, keyspace) => snapshot.get_with(keyspace, key, read),
        }
    }

    fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<Slice>>> {
        match self {
            View::Now(keyspace) => keyspace.multi_get(keys),
            View::Then(snapshot, keyspace) => snapshot.multi_get(keyspace, keys),
        }
    }

    fn contains_key(&self, key: &[u8]) -> Result<bool> {
        match self {
            View::Now(keyspace) => keyspace.contains_key(key),
            View::Then(snapshot, keyspace) => snapshot.contains_key(keyspace, key),
        }
    }

    fn range(&self, bounds: Bounds<'_>) -> Result<Iter> {
        match self {
            View::Now(keyspace) => keyspace.range::<&[u8]>(bounds),
            View::Then(snapshot, keyspace) => snapshot.range::<&[u8]>(keyspace, bounds),
        }
    }

    fn prefix(&self, prefix: &[u8]) -> Result<Iter> {
        match self {
            View::Now(keyspace) => keyspace.prefix(prefix),
            View::Then(snapshot, keyspace) => snapshot.prefix(keyspace, prefix),
        }
    }

    fn cursor(&self) -> Result<Cursor> {
        match self {
            View::Now(keyspace) => keyspace.cursor(),
            View::Then(snapshot, keyspace) => snapshot.cursor(keyspace),
        }
    }
}

/// Reads some keys in every way there is.
pub fn check_points(view: View<'_>, map: &Map, keys: &[Bytes], transcript: &mut Transcript) {
    let together = view.multi_get(keys).unwrap();
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
        transcript.value(got.as_deref());
    }
}

/// Reads everything, from both ends and key by key.
pub fn check_all(view: View<'_>, map: &Map, transcript: &mut Transcript) {
    for end in [End::Front, End::Back] {
        let mut scan = Scan::open(view, map, &Extent::All);
        while scan.step(end, transcript) {}
        // Of an exhausted iterator both ends are.
        let again = scan.step(End::Front, transcript) || scan.step(End::Back, transcript);
        assert!(!again, "an iterator went on after its end");
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

/// Which entries a scan is of.
#[derive(Debug, Clone)]
pub enum Extent {
    /// All of them.
    All,
    /// Those with keys in a range, which is not reversed.
    Range(OwnedBounds),
    /// Those with keys that begin so.
    Prefix(Bytes),
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extent::All => write!(f, ".."),
            Extent::Range(bounds) => write!(f, "{}", shown_bounds(bounds)),
            Extent::Prefix(prefix) => write!(f, "prefix {}", abbreviated(prefix)),
        }
    }
}

/// A range as mathematics writes it.
pub fn shown_bounds((from, to): &OwnedBounds) -> String {
    let from = match from {
        Bound::Unbounded => "(".to_owned(),
        Bound::Included(from) => format!("[{}", abbreviated(from)),
        Bound::Excluded(from) => format!("({}", abbreviated(from)),
    };
    let to = match to {
        Bound::Unbounded => ")".to_owned(),
        Bound::Included(to) => format!("{}]", abbreviated(to)),
        Bound::Excluded(to) => format!("{})", abbreviated(to)),
    };
    format!("{from}, {to}")
}

/// An end of an iterator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where the smallest keys are.
    Front,
    /// Where the largest are.
    Back,
}

/// The steps of an iterator.
#[derive(Debug, Clone)]
pub struct Steps {
    /// At which end each is taken.
    pub ends: Vec<End>,
    /// Whether they are repeated until there are no more entries.
    pub to_the_end: bool,
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for end in &self.ends {
            write!(f, "{}", if *end == End::Front { '>' } else { '<' })?;
        }
        write!(f, "{}", if self.to_the_end { " to the end" } else { "" })
    }
}

/// An iterator on its way, with what it has yet to give.
#[derive(Debug)]
pub struct Scan {
    iter: Iter,
    /// What is between its ends.
    expected: VecDeque<(Bytes, Bytes)>,
    /// Whether the directory was opened again since: another instance may delete tables that this one has not opened
    /// yet. That must be an error, and which steps meet it depends on the options.
    pub outlived: bool,
}

impl Scan {
    /// An iterator that has not moved.
    pub fn open(view: View<'_>, map: &Map, extent: &Extent) -> Scan {
        let (iter, expected) = match extent {
            Extent::All => (view.range(ALL), entries_in(map, ALL)),
            Extent::Range(bounds) => (view.range(borrowed(bounds)), entries_in(map, borrowed(bounds))),
            Extent::Prefix(prefix) => (view.prefix(prefix), entries_with_prefix(map, prefix)),
        };
        Scan { iter: iter.unwrap(), expected: expected.into(), outlived: false }
    }

    /// Takes steps.
    pub fn steps(&mut self, steps: &Steps, transcript: &mut Transcript) {
        loop {
            for &end in &steps.ends {
                if !self.step(end, transcript) {
                    return;
                }
            }
            if !steps.to_the_end || steps.ends.is_empty() {
                return;
            }
        }
    }

    /// Takes a step. Says whether there was an entry.
    pub fn step(&mut self, end: End, transcript: &mut Transcript) -> bool {
        let (got, expected) = match end {
            End::Front => (self.iter.next(), self.expected.pop_front()),
            End::Back => (self.iter.next_back(), self.expected.pop_back()),
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
        assert!(equal, "the {end:?} of an iterator gave {}, not {}", shown(&got), shown(&expected));
        if !self.outlived {
            transcript.entry(got.as_ref().map(|(key, value)| (&**key, &**value)));
        }
        expected.is_some()
    }
}

fn shown<T: std::ops::Deref<Target = [u8]>>(entry: &Option<(T, T)>) -> String {
    entry
        .as_ref()
        .map_or("nothing".to_owned(), |(key, value)| format!("{} = {}", abbreviated(key), abbreviated(value)))
}

fn compared(got: Option<&[u8]>, expected: Option<&[u8]>) -> String {
    let shown = |value: Option<&[u8]>| value.map_or("nothing".to_owned(), abbreviated);
    format!("{}, not {}", shown(got), shown(expected))
}

/// A move of a cursor.
#[derive(Debug, Clone)]
pub enum Move {
    /// To the first entry.
    First,
    /// To the last one.
    Last,
    /// To the first one at a key or after it.
    Seek(Bytes),
    /// To the last one at a key or before it.
    SeekForPrev(Bytes),
    /// To the one after.
    Next,
    /// To the one before.
    Prev,
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Move::First => write!(f, "first"),
            Move::Last => write!(f, "last"),
            Move::Seek(key) => write!(f, "seek {}", abbreviated(key)),
            Move::SeekForPrev(key) => write!(f, "seek_for_prev {}", abbreviated(key)),
            Move::Next => write!(f, ">"),
            Move::Prev => write!(f, "<"),
        }
    }
}

/// A cursor, with where it should be.
#[derive(Debug)]
pub struct Walk {
    cursor: Cursor,
    entries: Arc<Map>,
    place: Option<Bytes>,
    /// As for [`Scan`].
    pub outlived: bool,
}

impl Walk {
    /// A cursor over a view that equals `entries`, on none of them yet.
    pub fn open(view: View<'_>, entries: &Arc<Map>) -> Walk {
        Walk { cursor: view.cursor().unwrap(), entries: entries.clone(), place: None, outlived: false }
    }

    /// Moves the cursor.
    pub fn step(&mut self, to: &Move, transcript: &mut Transcript) {
        let first =
            |bounds: Bounds<'_>| self.entries.range::<[u8], _>(bounds).next().map(|(key, _)| key.clone());
        let last = |bounds: Bounds<'_>| {
            self.entries.range::<[u8], _>(bounds).next_back().map(|(key, _)| key.clone())
        };
        let (found, place) = match to {
            Move::First => (self.cursor.seek_to_first(), first(ALL)),
            Move::Last => (self.cursor.seek_to_last(), last(ALL)),
            Move::Seek(key) => (self.cursor.seek(key), first((Bound::Included(key), Bound::Unbounded))),
            Move::SeekForPrev(key) => {
                (self.cursor.seek_for_prev(key), last((Bound::Unbounded, Bound::Included(key))))
            }
            Move::Next => {
                let after = |place: &Bytes| first((Bound::Excluded(place), Bound::Unbounded));
                (self.cursor.next(), self.place.as_ref().and_then(after))
            }
            Move::Prev => {
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
        let mut entry = None;
        if let Some(key) = &place {
            let (got, got_value) = (self.cursor.key(), self.cursor.value());
            assert!(*got == **key, "the cursor stands on {}, not {}", abbreviated(got), abbreviated(key));
            let value = &self.entries[key];
            assert!(*got_value == **value, "the value of {} is {}", abbreviated(key), abbreviated(got_value));
            entry = Some((got, got_value));
        }
        if !self.outlived {
            transcript.entry(entry);
        }
        self.place = place;
    }
}
