//! The cursor over many cursors: their entries as one sequence in internal order.
//!
//! The sources that stand on an entry form a binary heap, the next entry on top. Two things make it fast: the first 8
//! bytes of each source's key are kept as a number, and as long as the top source stays ahead of the runner-up, which
//! is remembered, one comparison is all that a step costs.
//!
//! Two sources should never hold the same key with the same sequence number, but if they do, both entries are seen,
//! that of the earlier source first, in both directions alike.

use std::cmp::Ordering;

use terrace_io::Result;

use crate::cursor::Cursor;
use crate::key::{compare_internal, prefix};
use crate::{Kind, Slice};

/// A cursor over many cursors.
#[derive(Debug)]
pub struct MergeCursor<C> {
    sources: Vec<C>,
    /// The first bytes of the key that each source stands on.
    prefixes: Vec<u64>,
    /// The sources that stand on an entry; the current one is first.
    heap: Vec<usize>,
    /// Which of the first one's children is to come earlier; 0 if that is not known.
    runner_up: usize,
    forward: bool,
}

impl<C: Cursor> MergeCursor<C> {
    /// Over `sources`, in no particular order.
    pub fn new(sources: Vec<C>) -> MergeCursor<C> {
        let prefixes = vec![0; sources.len()];
        let heap = Vec::with_capacity(sources.len());
        MergeCursor { sources, prefixes, heap, runner_up: 0, forward: true }
    }

    /// Gives the sources back.
    pub fn into_sources(self) -> Vec<C> {
        self.sources
    }

    /// Positions all sources with `seek`, for going on in the given direction.
    fn seek_all(&mut self, forward: bool, mut seek: impl FnMut(usize, &mut C) -> Result<()>) -> Result<()> {
        self.heap.clear();
        self.forward = forward;
        for (index, source) in self.sources.iter_mut().enumerate() {
            if let Err(error) = seek(index, source) {
                self.heap.clear();
                return Err(error);
            }
            if source.valid() {
                self.prefixes[index] = prefix(source.key());
                self.heap.push(index);
            }
        }
        for at in (0..self.heap.len() / 2).rev() {
            self.sift_down(at);
        }
        self.runner_up = 0;
        Ok(())
    }

    /// Whether source `a` comes before source `b` in the direction of travel.
    #[inline]
    fn before(&self, a: usize, b: usize) -> bool {
        let order = match self.prefixes[a].cmp(&self.prefixes[b]) {
            Ordering::Equal => {
                let (left, right) = (&self.sources[a], &self.sources[b]);
                compare_internal(left.key(), left.sequence(), right.key(), right.sequence()).then(a.cmp(&b))
            }
            unequal => unequal,
        };
        (order == Ordering::Less) == self.forward
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut child = 2 * at + 1;
            if child >= self.heap.len() {
                return;
            }
            if child + 1 < self.heap.len() && self.before(self.heap[child + 1], self.heap[child]) {
                child += 1;
            }
            if !self.before(self.heap[child], self.heap[at]) {
                return;
            }
            self.heap.swap(at, child);
            at = child;
        }
    }

    /// Restores the heap after the first source has moved on, or its end was found.
    #[inline]
    fn settle(&mut self) {
        let top = self.heap[0];
        if self.sources[top].valid() {
            if self.heap.len() == 1 {
                return;
            }
            self.prefixes[top] = prefix(self.sources[top].key());
            if self.runner_up == 0 {
                let second = self.heap.len() > 2 && self.before(self.heap[2], self.heap[1]);
                self.runner_up = if second { 2 } else { 1 };
            }
            if self.before(top, self.heap[self.runner_up]) {
                return;
            }
        } else {
            self.heap.swap_remove(0);
        }
        self.sift_down(0);
        self.runner_up = 0;
    }

    /// Moves every source but the current one to the other side of the current entry.
    #[cold]
    fn turn(&mut self, forward: bool) -> Result<()> {
        let current = self.heap[0];
        let (key, sequence) = (self.sources[current].key_slice(), self.sources[current].sequence());
        self.seek_all(forward, |index, source| {
            if index == current {
                return Ok(());
            }
            source.seek(&key, sequence)?;
            let same = source.valid() && source.sequence() == sequence && *source.key() == *key;
            // Of equal entries, those of earlier sources come before the current one, those of later ones after it.
            match (forward, same && index < current) {
                (true, true) => source.next(),
                (true, false) | (false, true) => Ok(()),
                (false, false) if source.valid() => source.prev(),
                (false, false) => source.seek_to_last(),
            }
        })
    }

    #[inline]
    fn advance(&mut self, forward: bool) -> Result<()> {
        assert!(!self.heap.is_empty(), "the cursor stands on an entry");
        if self.forward != forward {
            let current = self.heap[0];
            self.turn(forward)?;
            debug_assert_eq!(self.heap[0], current, "the others were moved behind it");
        }
        let source = &mut self.sources[self.heap[0]];
        let moved = if forward { source.next() } else { source.prev() };
        if let Err(error) = moved {
            self.heap.clear();
            return Err(error);
        }
        self.settle();
        Ok(())
    }

    #[inline]
    fn current(&self) -> &C {
        &self.sources[*self.heap.first().expect("the cursor stands on an entry")]
    }
}

impl<C: Cursor> Cursor for MergeCursor<C> {
    fn seek_to_first(&mut self) -> Result<()> {
        self.seek_all(true, |_, source| source.seek_to_first())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.seek_all(false, |_, source| source.seek_to_last())
    }

    fn seek(&mut self, key: &[u8], sequence: u64) -> Result<()> {
        self.seek_all(true, |_, source| source.seek(key, sequence))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.seek_all(false, |_, source| source.seek_before(key))
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        self.advance(true)
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        self.advance(false)
    }

    #[inline]
    fn same_key_before(&self) -> Option<bool> {
        if self.forward {
            return None;
        }
        let current = self.heap[0];
        let is_same = |&other: &usize| {
            self.prefixes[other] == self.prefixes[current]
                && self.sources[other].key() == self.sources[current].key()
        };
        // What comes first of the other sources is one of these two.
        if self.heap.iter().skip(1).take(2).any(is_same) {
            return Some(true);
        }
        self.sources[current].same_key_before()
    }

    #[inline]
    fn valid(&self) -> bool {
        !self.heap.is_empty()
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.current().key()
    }

    #[inline]
    fn sequence(&self) -> u64 {
        self.current().sequence()
    }

    #[inline]
    fn kind(&self) -> Kind {
        self.current().kind()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.current().value()
    }

    fn key_slice(&self) -> Slice {
        self.current().key_slice()
    }

    fn value_slice(&self) -> Slice {
        self.current().value_slice()
    }

    fn was_resident(&self) -> bool {
        self.current().was_resident()
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
