//! A place in a log.

use std::fmt;

/// A place in a log: a segment and an offset in its file. Places are ordered as records are written.
///
/// The default, `(0, 0)`, lies before everything: segments are numbered from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The number of the segment.
    pub segment: u32,
    /// Bytes from the start of the segment's file.
    pub offset: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}, offset {}", self.segment, self.offset)
    }
}
