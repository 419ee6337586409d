//! The cursor over entries in internal order, which everything that scans is built from.

use terrace_io::{CacheUse, Result};

use crate::{Kind, Slice};

/// A position among entries in internal order: key ascending, then sequence number descending.
///
/// A new cursor is not valid; it is positioned by one of the seeks. `next`, `prev` and the accessors may be called
/// only while it is valid, and panic otherwise. After an error the cursor is not valid; it may be positioned again.
pub trait Cursor {
    /// Goes to the first entry.
    fn seek_to_first(&mut self) -> Result<()>;
    /// Goes to the last entry.
    fn seek_to_last(&mut self) -> Result<()>;
    /// Goes to the first entry at or after `(key, sequence)`: the newest version of `key` that a reader at
    /// `sequence` sees, or what comes after it.
    fn seek(&mut self, key: &[u8], sequence: u64) -> Result<()>;
    /// Goes to the last entry whose key is below `key`.
    fn seek_before(&mut self, key: &[u8]) -> Result<()>;
    /// Goes to the next entry. Not valid after the last.
    fn next(&mut self) -> Result<()>;
    /// Goes to the entry before. Not valid before the first.
    fn prev(&mut self) -> Result<()>;
    /// Whether the entry before has the same key; `None`, which is never wrong, if that cannot be told without moving.
    /// May be called only while it is valid.
    fn same_key_before(&self) -> Option<bool> {
        None
    }
    /// Whether it stands on an entry.
    fn valid(&self) -> bool;
    /// The key.
    fn key(&self) -> &[u8];
    /// The sequence number.
    fn sequence(&self) -> u64;
    /// What the entry does to its key.
    fn kind(&self) -> Kind;
    /// The value.
    fn value(&self) -> &[u8];
    /// The key, pinned: it stays after the cursor has moved on.
    fn key_slice(&self) -> Slice;
    /// The value, pinned: it stays after the cursor has moved on.
    fn value_slice(&self) -> Slice;
    /// Whether the entry was in memory before the cursor read it, and not only in passing: then others use it. Told by
    /// cursors that read sparingly ([`CacheUse::Sparing`]) what is mapped; the others say yes.
    fn was_resident(&self) -> bool {
        true
    }
}

impl<C: Cursor + ?Sized> Cursor for Box<C> {
    fn seek_to_first(&mut self) -> Result<()> {
        (**self).seek_to_first()
    }
    fn seek_to_last(&mut self) -> Result<()> {
        (**self).seek_to_last()
    }
    fn seek(&mut self, key: &[u8], sequence: u64) -> Result<()> {
        (**self).seek(key, sequence)
    }
    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        (**self).seek_before(key)
    }
    fn next(&mut self) -> Result<()> {
        (**self).next()
    }
    fn prev(&mut self) -> Result<()> {
        (**self).prev()
    }
    fn same_key_before(&self) -> Option<bool> {
        (**self).same_key_before()
    }
    fn valid(&self) -> bool {
        (**self).valid()
    }
    fn key(&self) -> &[u8] {
        (**self).key()
    }
    fn sequence(&self) -> u64 {
        (**self).sequence()
    }
    fn kind(&self) -> Kind {
        (**self).kind()
    }
    fn value(&self) -> &[u8] {
        (**self).value()
    }
    fn key_slice(&self) -> Slice {
        (**self).key_slice()
    }
    fn value_slice(&self) -> Slice {
        (**self).value_slice()
    }
    fn was_resident(&self) -> bool {
        (**self).was_resident()
    }
}

/// How a cursor gets at data blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScanMode {
    /// Like point reads at first; once a scan goes on and on through what is not in memory, through a window of its
    /// own that is read ahead.
    #[default]
    Auto,
    /// Like point reads, however far it goes.
    Mapping,
    /// Through a window of its own from the start, every block checked: for compaction and backup.
    Stream(CacheUse),
}
