//! The cursor over a run: tables that are sorted and do not overlap, as those of a level are, read as one. A table is
//! opened when the cursor reaches it.

use std::ops::Range;
use std::sync::Arc;

use terrace_io::Result;

use crate::cursor::{Cursor, ScanMode};
use crate::{Kind, Slice, Table, TableCursor};

/// A cursor over a run of tables.
#[derive(Debug)]
pub struct RunCursor {
    run: Arc<[Arc<Table>]>,
    /// The tables of the run that it goes over.
    part: Range<usize>,
    mode: ScanMode,
    /// The table that it is in, and the cursor over it.
    current: Option<(usize, TableCursor)>,
}

impl RunCursor {
    /// Over `run`, tables of which each ends before the next begins.
    pub fn new(run: Arc<[Arc<Table>]>, mode: ScanMode) -> RunCursor {
        let part = 0..run.len();
        RunCursor::over_part(run, part, mode)
    }

    /// Over some neighbouring tables of a run.
    pub fn over_part(run: Arc<[Arc<Table>]>, part: Range<usize>, mode: ScanMode) -> RunCursor {
        debug_assert!(
            run[part.clone()].windows(2).all(|pair| pair[0].meta().largest_key < pair[1].meta().smallest_key),
            "the tables of a run are sorted and do not overlap"
        );
        RunCursor { run, part, mode, current: None }
    }

    fn tables(&self) -> &[Arc<Table>] {
        &self.run[self.part.clone()]
    }

    /// The cursor over table `index`.
    fn enter(&mut self, index: usize) -> &mut TableCursor {
        if self.current.as_ref().is_none_or(|(current, _)| *current != index) {
            self.current = Some((index, self.tables()[index].cursor(self.mode)));
        }
        &mut self.current.as_mut().expect("it has just been set").1
    }

    /// Goes on to the first entry behind table `index`, if its cursor found none.
    fn skip_forward(&mut self, mut index: usize) -> Result<()> {
        while !self.valid() && index + 1 < self.tables().len() {
            index += 1;
            self.enter(index).seek_to_first()?;
        }
        Ok(())
    }

    /// Goes on to the last entry before table `index`, if its cursor found none.
    fn skip_backward(&mut self, mut index: usize) -> Result<()> {
        while !self.valid() && index > 0 {
            index -= 1;
            self.enter(index).seek_to_last()?;
        }
        Ok(())
    }

    #[inline]
    fn cursor(&self) -> &TableCursor {
        &self.current.as_ref().expect("the cursor stands on an entry").1
    }
}

impl Cursor for RunCursor {
    fn seek_to_first(&mut self) -> Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        self.enter(0).seek_to_first()?;
        self.skip_forward(0)
    }

    fn seek_to_last(&mut self) -> Result<()> {
        let Some(last) = self.tables().len().checked_sub(1) else { return Ok(()) };
        self.enter(last).seek_to_last()?;
        self.skip_backward(last)
    }

    fn seek(&mut self, key: &[u8], sequence: u64) -> Result<()> {
        let index = self.tables().partition_point(|table| &*table.meta().largest_key < key);
        if index == self.tables().len() {
            self.current = None;
            return Ok(());
        }
        self.enter(index).seek(key, sequence)?;
        self.skip_forward(index)
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        let after = self.tables().partition_point(|table| &*table.meta().smallest_key < key);
        let Some(index) = after.checked_sub(1) else {
            self.current = None;
            return Ok(());
        };
        self.enter(index).seek_before(key)?;
        self.skip_backward(index)
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        let (index, cursor) = self.current.as_mut().expect("the cursor stands on an entry");
        cursor.next()?;
        if cursor.valid() {
            return Ok(());
        }
        let index = *index;
        self.skip_forward(index)
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        let (index, cursor) = self.current.as_mut().expect("the cursor stands on an entry");
        cursor.prev()?;
        if cursor.valid() {
            return Ok(());
        }
        let index = *index;
        self.skip_backward(index)
    }

    /// No two tables have the same key.
    #[inline]
    fn same_key_before(&self) -> Option<bool> {
        self.cursor().same_key_before()
    }

    #[inline]
    fn valid(&self) -> bool {
        self.current.as_ref().is_some_and(|(_, cursor)| cursor.valid())
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.cursor().key()
    }

    #[inline]
    fn sequence(&self) -> u64 {
        self.cursor().sequence()
    }

    #[inline]
    fn kind(&self) -> Kind {
        self.cursor().kind()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.cursor().value()
    }

    fn key_slice(&self) -> Slice {
        self.cursor().key_slice()
    }

    fn value_slice(&self) -> Slice {
        self.cursor().value_slice()
    }

    fn was_resident(&self) -> bool {
        self.cursor().was_resident()
    }
}

#[cfg(test)]
#[path = "run_cursor_tests.rs"]
mod tests;
