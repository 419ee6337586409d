//! The record log: what was written last, in the order in which it was written.
//!
//! A log is a row of *segments*, files of a fixed length that are filled before they are used and recycled after, so
//! that appending changes neither length nor extents; each holds *records*, whose payload is opaque here. Appending
//! is one `pwrite` ([`SegmentWriter`]), making it durable one `fdatasync` of [`SegmentWriter::file`]. The manifest is
//! the same kind of log in one file that grows ([`GrowingLog`]).
//!
//! Reading ([`SegmentReader`], [`LogReader`]) trusts nothing. Each record says how far the log was known to be
//! durable when it was written, so that the end of a log torn by a power cut can be told from damage: a place
//! without a good record is the end if nothing says that the log was synced beyond it, and corruption otherwise.
//!
//! The layout is §3 of `docs/format.md`, byte by byte.

#![forbid(unsafe_code)]

mod growing_log;
mod header_scan;
mod log_reader;
mod position;
mod record;
mod segment_header;
mod segment_reader;
mod segment_writer;
mod tail;
#[cfg(test)]
mod tests;

pub use growing_log::GrowingLog;
pub use log_reader::LogReader;
pub use position::Position;
pub use record::{RECORD_HEADER_BYTES, Record, RecordKind, record_len};
pub use segment_header::{HEADER_BYTES, SegmentHeader, parse_segment_file_name, segment_file_name};
pub use segment_reader::{SegmentReader, segment_holds_records};
pub use segment_writer::{Fill, SegmentWriter};
