//! Bytes together with what keeps them alive: a table's mapping, a scan's buffer, a cached block, a piece of a
//! memtable, or memory of their own. What the engine hands to its users.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::Table;

/// Bytes that are kept where they are for as long as this lives. Cloning counts a reference; nothing is copied.
///
/// A slice of a table keeps the table's file mapped and on disk, even if a compaction has made the table obsolete. One
/// of a memtable keeps a piece of that, up to 256 KiB, unless the value itself is large. Copy the bytes to keep them
/// for long.
///
/// ```
/// use terrace_sstable::Slice;
/// let slice = Slice::from(b"terrace".to_vec());
/// assert_eq!(&slice[..3], b"ter");
/// assert_eq!(slice, *b"terrace");
/// ```
#[derive(Clone)]
pub struct Slice {
    pin: Pin,
    range: Range<usize>,
}

/// Something that holds bytes which slices may keep: a piece of a memtable.
pub trait SliceOwner: Send + Sync {
    /// The bytes. There may be more later, but none of them ever changes.
    fn bytes(&self) -> &[u8];

    /// How much heap it takes.
    fn heap_bytes(&self) -> u64;
}

#[derive(Clone)]
enum Pin {
    Shared(Arc<[u8]>),
    Buffer(Arc<Vec<u8>>),
    Owner(Arc<dyn SliceOwner>),
    Table(Arc<Table>),
}

impl Slice {
    /// `bytes[range]`, which must lie within.
    pub fn from_shared(bytes: Arc<[u8]>, range: Range<usize>) -> Slice {
        assert!(range.start <= range.end && range.end <= bytes.len(), "the range lies within the bytes");
        Slice { pin: Pin::Shared(bytes), range }
    }

    /// `bytes[range]`, which must lie within.
    pub fn from_buffer(bytes: Arc<Vec<u8>>, range: Range<usize>) -> Slice {
        assert!(range.start <= range.end && range.end <= bytes.len(), "the range lies within the bytes");
        Slice { pin: Pin::Buffer(bytes), range }
    }

    /// `owner.bytes()[range]`, which must lie within.
    // Hidden: users of the engine get slices, and cannot name a `SliceOwner`.
    #[doc(hidden)]
    pub fn from_owner(owner: Arc<dyn SliceOwner>, range: Range<usize>) -> Slice {
        let len = owner.bytes().len();
        assert!(range.start <= range.end && range.end <= len, "the range lies within the bytes");
        Slice { pin: Pin::Owner(owner), range }
    }

    /// Bytes of a table's region, which has been read and so is open.
    pub(crate) fn from_table(table: Arc<Table>, range: Range<usize>) -> Slice {
        debug_assert!(range.start <= range.end && range.end <= table.region_bytes().len());
        Slice { pin: Pin::Table(table), range }
    }

    /// Looks at each page of it, so that those which are not in memory come there now, and this thread waits for them
    /// instead of the next one that reads the slice. They may be evicted again at any time. Costs nothing where the
    /// bytes are on the heap.
    pub fn bring_in(&self) {
        if let Pin::Table(table) = &self.pin {
            table.bring_in(&self.range);
        }
    }

    /// How many bytes stay in memory, or mapped, because of this slice: those of the table, buffer, block or
    /// piece of a memtable that it lies in.
    pub fn pinned_bytes(&self) -> u64 {
        match &self.pin {
            Pin::Shared(bytes) => bytes.len() as u64,
            Pin::Buffer(bytes) => bytes.capacity() as u64,
            Pin::Owner(owner) => owner.heap_bytes(),
            Pin::Table(table) => table.meta().file_len,
        }
    }
}

impl Deref for Slice {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let all = match &self.pin {
            Pin::Shared(bytes) => &bytes[..],
            Pin::Buffer(bytes) => &bytes[..],
            Pin::Owner(owner) => owner.bytes(),
            Pin::Table(table) => table.region_bytes(),
        };
        &all[self.range.clone()]
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Slice {
        let range = 0..bytes.len();
        Slice { pin: Pin::Buffer(Arc::new(bytes)), range }
    }
}

impl From<&[u8]> for Slice {
    fn from(bytes: &[u8]) -> Slice {
        Slice { range: 0..bytes.len(), pin: Pin::Shared(bytes.into()) }
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Slice {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

impl PartialEq for Slice {
    fn eq(&self, other: &Slice) -> bool {
        **self == **other
    }
}

impl Eq for Slice {}

impl PartialEq<[u8]> for Slice {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl PartialEq<&[u8]> for Slice {
    fn eq(&self, other: &&[u8]) -> bool {
        **self == **other
    }
}

impl<const N: usize> PartialEq<[u8; N]> for Slice {
    fn eq(&self, other: &[u8; N]) -> bool {
        **self == other[..]
    }
}

impl<const N: usize> PartialEq<&[u8; N]> for Slice {
    fn eq(&self, other: &&[u8; N]) -> bool {
        **self == other[..]
    }
}

impl PartialEq<Vec<u8>> for Slice {
    fn eq(&self, other: &Vec<u8>) -> bool {
        **self == other[..]
    }
}

impl PartialOrd for Slice {
    fn partial_cmp(&self, other: &Slice) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slice {
    fn cmp(&self, other: &Slice) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Slice {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashMap};

    #[test]
    fn slices_are_their_bytes() {
        let shared: Arc<[u8]> = Arc::from(&b"0123456789"[..]);
        let a = Slice::from_shared(shared.clone(), 2..5);
        let b = Slice::from_buffer(Arc::new(b"x234".to_vec()), 1..4);
        assert_eq!(a, b);
        assert_eq!(a, b"234");
        assert_eq!(a.pinned_bytes(), 10);
        let c = Slice::from(&b"24"[..]);
        assert!(a < c);
        assert_eq!(format!("{:?}", Slice::from(&b"a\0"[..])), "\"a\\x00\"");
        assert_eq!(HashMap::from([(a.clone(), 1)]).get(&b"234"[..]), Some(&1));
        assert_eq!(BTreeMap::from([(b, 1)]).get(&b"234"[..]), Some(&1));
        drop(shared);
        assert_eq!(a, b"234");
    }

    #[test]
    fn slices_may_go_anywhere() {
        fn anywhere<T: Send + Sync + 'static>() {}
        anywhere::<Slice>();
    }

    #[test]
    #[should_panic(expected = "lies within")]
    fn a_range_outside_is_a_bug() {
        Slice::from_shared(Arc::from(&b"abc"[..]), 1..4);
    }
}
