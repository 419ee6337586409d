//! What a reader of a guarded mapping asks after its reads: whether the mapping still was what it read.
//!
//! A guarded table ([`terrace_io::sigbus`]) gives out copies only. An operation looks up and copies what it wants, and
//! then asks its [`Watch`]. If bytes were lost, everything that it has seen is thrown away, errors too, and it is done
//! again by `pread`. A loss is never taken back, so one question at the end of an operation answers for all its reads.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

use terrace_io::sigbus::Poison;
use terrace_io::{Bug, Region};

use crate::Footer;

/// Bytes at the end of a table file that are never all zero: version, checksum and magic of the footer.
pub(crate) const END_BYTES: usize = 16;

/// The watch over one guarded mapping of a whole table file.
#[derive(Debug)]
pub(crate) struct Watch {
    poison: Poison,
    end: [u8; END_BYTES],
    told: AtomicBool,
}

impl Watch {
    /// Over a region that ends with `footer`, if it is guarded.
    pub(crate) fn over(region: &Region, footer: &Footer) -> Option<Watch> {
        let (poison, end) = (region.poison()?.clone(), *footer.encode().last_chunk()?);
        Some(Watch { poison, end, told: AtomicBool::new(false) })
    }

    /// Whether the mapping is known to be lost.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        self.poison.is_set()
    }

    /// Whether the mapping was lost by the time that `result` had been read from it.
    ///
    /// A file that is cut in the middle of a page loses the rest of that page without any signal, and one that is made
    /// longer again has zeros where it had bytes. Both are seen at the end of the file: whatever is cut, the end is. So it
    /// is looked at each time, which faults if its page is gone. The kernel takes the pages behind a cut away before it
    /// clears the rest of the page in which the cut is.
    #[inline]
    pub(crate) fn is_lost_after<T>(&self, region: &Region, result: &T) -> bool {
        // Whatever was read is in place before the question is asked, and the region is looked at again: the compiler
        // takes bytes behind a reference for constant.
        black_box(result);
        if !Bug::LostEndNotSeen.is_planted() && black_box(region).last_chunk() != Some(&self.end) {
            self.poison.set();
        }
        self.poison.is_set() && !Bug::LossNotAsked.is_planted()
    }

    /// Whether nobody has told of the loss yet. From here on somebody has.
    pub(crate) fn is_to_be_told(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }
}
