//! Looking for record headers where no good record led to them.

use std::ops::Range;

use terrace_io::{File, Result, read_exact_at};

use crate::Position;
use crate::record::{RECORD_HEADER_BYTES, RecordHeader, Seed};

/// Bytes read at a time.
const WINDOW_BYTES: u64 = 256 * 1024;

/// Which segment is searched, and where.
#[derive(Debug)]
pub(crate) struct HeaderScan<'a> {
    pub(crate) file: &'a dyn File,
    pub(crate) seed: Seed,
    pub(crate) number: u32,
    /// Bytes of the file; it has them all. A multiple of 8 starts it.
    pub(crate) range: Range<u64>,
    /// Where the segment ends; beyond the range if the file grows, and so may have lost its end.
    pub(crate) limit: u64,
}

impl HeaderScan<'_> {
    /// Calls `found` for every multiple of 8 where a record header with a good checksum and possible fields stands,
    /// until it returns `false`. Takes time linear in the range, little more than reading it: of anything but
    /// headers, hardly a place in a billion passes the test before the checksum.
    pub(crate) fn run(&self, mut found: impl FnMut(Position, &RecordHeader) -> bool) -> Result<()> {
        const HEADER: u64 = RECORD_HEADER_BYTES as u64;
        let Range { start, end } = self.range;
        debug_assert!(start.is_multiple_of(8), "headers stand at multiples of 8");
        let mut buffer = vec![0; end.saturating_sub(start).min(WINDOW_BYTES) as usize];
        let mut at = start;
        while at + HEADER <= end {
            let window = &mut buffer[..(end - at).min(WINDOW_BYTES) as usize];
            read_exact_at(self.file, window, at)?;
            let places = (window.len() - RECORD_HEADER_BYTES) / 8 + 1;
            for place in 0..places {
                let bytes = window[place * 8..].first_chunk().expect("places end a header before the window");
                if !RecordHeader::is_plausible(bytes) {
                    continue;
                }
                let offset = at + place as u64 * 8;
                let Some((position, header)) = self.header(offset, bytes) else { continue };
                if !found(position, &header) {
                    return Ok(());
                }
            }
            at += places as u64 * 8;
        }
        Ok(())
    }

    fn header(&self, offset: u64, bytes: &[u8; RECORD_HEADER_BYTES]) -> Option<(Position, RecordHeader)> {
        let position = Position { segment: self.number, offset: u32::try_from(offset).ok()? };
        if !RecordHeader::could_stand_at(bytes, position, self.limit) {
            return None;
        }
        Some((position, RecordHeader::decode(&self.seed, offset, bytes)?))
    }
}
