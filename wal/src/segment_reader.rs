//! The reading side of one segment.

use std::path::Path;
use std::sync::Arc;

use terrace_io::{Advice, Error, File, FileSystem, OpenMode, Result, read_exact_at};

use crate::header_scan::HeaderScan;
use crate::record::{ALIGNMENT, RECORD_HEADER_BYTES, Record, RecordHeader, Seed, record_len};
use crate::segment_header::{
    HEADER_LEN, LENGTH_MAX, SegmentHeader, parse_segment_file_name, segment_file_name,
};
use crate::{HEADER_BYTES, Position};

/// Bytes read at a time, unless a payload is longer.
const WINDOW_BYTES: u64 = 256 * 1024;

/// Reads one segment, or a log that grows, from its first record on.
///
/// It yields good records and stops where none stands. Whether that is the end of the log or damage is a question
/// that it helps to answer: [`SegmentReader::require_end`] for a log in one file, [`LogReader`](crate::LogReader) for
/// one in segments.
///
/// Memory: one window of 256 KiB, and each payload as it is read, which is never longer than the file.
#[derive(Debug)]
pub struct SegmentReader {
    window: Window,
    header: SegmentHeader,
    seed: Seed,
    /// Where the next record should stand.
    end: u64,
    /// Where reading ends: the segment's length, or the file's for a log that grows.
    limit: u64,
}

impl SegmentReader {
    /// Opens a segment and checks its header.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] if the header is damaged or the file shorter than it says,
    /// [`Error::UnsupportedFormat`] if another version wrote it, errors of the file system.
    pub fn open(fs: &dyn FileSystem, path: &Path) -> Result<SegmentReader> {
        let file = fs.open(path, OpenMode::Read)?;
        let file_len = file.len()?;
        if file_len < HEADER_BYTES {
            let what = format!("the file has {file_len} bytes, fewer than a segment header");
            return Err(Error::corruption(path, file_len, what));
        }
        let mut bytes = [0; HEADER_LEN];
        read_exact_at(file.as_ref(), &mut bytes, 0)?;
        let header = SegmentHeader::decode(path, &bytes)?;
        if file_len < header.length {
            let what =
                format!("the file was cut: it has {file_len} bytes, its header says {}", header.length);
            return Err(Error::corruption(path, file_len, what));
        }
        let limit = if header.length == 0 { file_len.min(LENGTH_MAX) } else { header.length };
        file.advise(Advice::Sequential, 0, limit);
        Ok(SegmentReader {
            window: Window { file, start: 0, bytes: Vec::new() },
            header,
            seed: Seed::new(&header.log_id, header.number),
            end: HEADER_BYTES,
            limit,
        })
    }

    /// Opens what is left of a segment, for salvage: a file that was cut is read as far as it goes, and one whose
    /// header cannot be read is taken for `otherwise`. Says what was wrong.
    ///
    /// # Errors
    ///
    /// What is wrong with the header, if it cannot be read and there is no `otherwise`; errors of the file system.
    pub fn open_damaged(
        fs: &dyn FileSystem,
        path: &Path,
        otherwise: Option<SegmentHeader>,
    ) -> Result<(SegmentReader, Option<Error>)> {
        let damage = match SegmentReader::open(fs, path) {
            Ok(reader) => return Ok((reader, None)),
            Err(Error::UnsupportedFormat { .. }) if !SegmentHeader::is_intact(&front(fs, path)?) => {
                Error::corruption(path, 0, "the segment header is damaged: version and checksum do not agree")
            }
            Err(error @ Error::Corruption { .. }) => error,
            Err(error) => return Err(error),
        };
        let file = fs.open(path, OpenMode::Read)?;
        let file_len = file.len()?;
        let mut bytes = [0; HEADER_LEN];
        let own = match file_len < HEADER_BYTES {
            true => None,
            false => {
                read_exact_at(file.as_ref(), &mut bytes, 0)?;
                SegmentHeader::decode(path, &bytes).ok()
            }
        };
        let Some(header) = own.or(otherwise) else { return Err(damage) };
        let length = if header.length == 0 { LENGTH_MAX } else { header.length };
        let reader = SegmentReader {
            window: Window { file, start: 0, bytes: Vec::new() },
            header,
            seed: Seed::new(&header.log_id, header.number),
            end: HEADER_BYTES,
            limit: file_len.min(length),
        };
        Ok((reader, Some(damage)))
    }

    /// The next good record behind a place where [`SegmentReader::next`] gave none, wherever it starts; reading goes on
    /// behind it. `None` if there is none. For salvage, and for saying how far damage goes.
    ///
    /// # Errors
    ///
    /// Errors of the file system.
    pub fn next_behind_damage(&mut self) -> Result<Option<Record>> {
        let mut from = self.end + ALIGNMENT;
        loop {
            let mut found = None;
            self.scan_from(from).run(|position, _| {
                found = Some(u64::from(position.offset));
                false
            })?;
            let Some(start) = found else { return Ok(None) };
            let before = std::mem::replace(&mut self.end, start);
            match self.next() {
                Ok(Some(record)) => return Ok(Some(record)),
                // A good header and a damaged payload.
                Ok(None) => {}
                Err(error) => {
                    self.end = before;
                    return Err(error);
                }
            }
            self.end = before;
            from = start + ALIGNMENT;
        }
    }

    /// What the segment says about itself.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Goes on at `offset`, where a record was found before, or the end of one.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] if the segment has no such place.
    pub fn skip_to(&mut self, offset: u64) -> Result<()> {
        if !(HEADER_BYTES..=self.limit).contains(&offset) || !offset.is_multiple_of(ALIGNMENT) {
            let what = format!("records should go on at offset {offset}, which is no place for one");
            return Err(Error::corruption(self.window.file.path(), self.limit.min(offset), what));
        }
        self.end = offset;
        Ok(())
    }

    /// The end of the last record that [`SegmentReader::next`] gave, or the place of the first.
    pub fn end(&self) -> Position {
        self.position_at(self.end)
    }

    /// The next record, or `None` where no good record stands. Asking again gives the same answer.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] for a record whose header has a good checksum and impossible fields: it was written so.
    /// Errors of the file system.
    #[expect(clippy::should_implement_trait, reason = "it fails, and may be asked again")]
    pub fn next(&mut self) -> Result<Option<Record>> {
        let start = self.end;
        if start + RECORD_HEADER_BYTES as u64 > self.limit {
            return Ok(None);
        }
        let bytes = self.window.header(start, self.limit)?;
        let Some(header) = RecordHeader::decode(&self.seed, start, &bytes) else { return Ok(None) };
        let position = self.position_at(start);
        let kind = header.check(self.window.file.path(), position, self.record_limit())?;
        let len = header.payload_len as usize;
        if start + record_len(len) > self.limit {
            // The file had grown to hold it, and a power cut took that back.
            return Ok(None);
        }
        let payload = self.window.payload(start + RECORD_HEADER_BYTES as u64, len, self.limit)?;
        if self.seed.payload_crc(&payload) != header.payload_crc {
            return Ok(None);
        }
        self.end = start + record_len(len);
        Ok(Some(Record { kind, position, end: self.end(), synced: header.synced, payload }))
    }

    /// How far the log was known to be durable, as the record headers from [`SegmentReader::end`] on say: the
    /// furthest place, with the record that says so. `None` if there are no such headers.
    ///
    /// To be asked where [`SegmentReader::next`] gave `None`.
    pub fn highest_synced_behind(&mut self) -> Result<Option<(Position, Position)>> {
        self.highest_synced_from(self.end)
    }

    /// Checks that the log may end where [`SegmentReader::next`] gave `None`: that no header behind says that it was
    /// durable beyond. For a log in one file.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] at [`SegmentReader::end`] otherwise; errors of the file system.
    pub fn require_end(&mut self) -> Result<()> {
        match self.highest_synced_behind()? {
            Some((witness, synced)) if synced > self.end() => {
                Err(lost_record(self.window.file.path(), self.end(), Some(witness), synced))
            }
            _ => Ok(()),
        }
    }

    /// Whether any record was written to the segment in its present life, readable or not. A file whose name is not
    /// that of its header's segment has none: it was being recycled, which nothing had yet recorded.
    pub fn has_records(&mut self) -> Result<bool> {
        let name = self.window.file.path().file_name().and_then(|name| name.to_str());
        match name.and_then(parse_segment_file_name) {
            Some(number) if number != self.header.number => Ok(false),
            _ => holds_header(&self.scan_from(HEADER_BYTES)),
        }
    }

    /// [`SegmentReader::highest_synced_behind`], from `offset` on.
    pub(crate) fn highest_synced_from(&self, offset: u64) -> Result<Option<(Position, Position)>> {
        self.highest_synced_in(self.scan_from(offset))
    }

    /// The same, but only in as many bytes as are read at once.
    pub(crate) fn highest_synced_near(&self, offset: u64) -> Result<Option<(Position, Position)>> {
        let mut scan = self.scan_from(offset);
        scan.range.end = self.limit.min(scan.range.start.saturating_add(WINDOW_BYTES));
        self.highest_synced_in(scan)
    }

    fn highest_synced_in(&self, scan: HeaderScan<'_>) -> Result<Option<(Position, Position)>> {
        let mut highest: Option<(Position, Position)> = None;
        scan.run(|position, header| {
            if highest.is_none_or(|(_, synced)| synced < header.synced) {
                highest = Some((position, header.synced));
            }
            true
        })?;
        Ok(highest)
    }

    /// The end of the last byte from `offset` on that is not zero; `offset` if there is none. Corruption if the file
    /// ends before `offset`.
    pub(crate) fn last_nonzero_end(&mut self, offset: u64) -> Result<u64> {
        if offset < HEADER_BYTES || offset > self.limit {
            let what = format!("the file was cut: records should go on at offset {offset}");
            return Err(Error::corruption(self.window.file.path(), self.limit, what));
        }
        let mut last = offset;
        let mut at = offset;
        while at < self.limit {
            let piece = self.window.fill(at, self.limit)?;
            if let Some(i) = piece.iter().rposition(|byte| *byte != 0) {
                last = at + i as u64 + 1;
            }
            at += piece.len() as u64;
        }
        Ok(last)
    }

    fn scan_from(&self, offset: u64) -> HeaderScan<'_> {
        let start = offset.max(HEADER_BYTES).next_multiple_of(ALIGNMENT);
        HeaderScan {
            file: self.window.file.as_ref(),
            seed: self.seed.clone(),
            number: self.header.number,
            range: start..self.limit,
            limit: self.record_limit(),
        }
    }

    /// Where the longest record could have ended when it was written.
    fn record_limit(&self) -> u64 {
        if self.header.length == 0 { LENGTH_MAX } else { self.header.length }
    }

    fn position_at(&self, offset: u64) -> Position {
        let offset = u32::try_from(offset).expect("the limit of a segment is at most u32::MAX");
        Position { segment: self.header.number, offset }
    }
}

/// Whether the file `number` in `dir` holds a record of segment `number` of this log, readable or not, whatever its
/// header says.
///
/// For segments that the manifest does not name: one with a record means that the manifest has lost its end. One
/// that was being made or recycled has none, even if its header is torn or still that of its earlier life.
///
/// # Errors
///
/// Errors of the file system.
pub fn segment_holds_records(fs: &dyn FileSystem, dir: &Path, log_id: [u8; 16], number: u32) -> Result<bool> {
    let file = fs.open(&dir.join(segment_file_name(number)), OpenMode::Read)?;
    let range = HEADER_BYTES..file.len()?.min(LENGTH_MAX);
    let (file, seed) = (file.as_ref(), Seed::new(&log_id, number));
    holds_header(&HeaderScan { file, seed, number, range, limit: LENGTH_MAX })
}

/// The first bytes of a file that has them.
fn front(fs: &dyn FileSystem, path: &Path) -> Result<[u8; HEADER_LEN]> {
    let mut bytes = [0; HEADER_LEN];
    read_exact_at(fs.open(path, OpenMode::Read)?.as_ref(), &mut bytes, 0)?;
    Ok(bytes)
}

fn holds_header(scan: &HeaderScan<'_>) -> Result<bool> {
    let mut found = false;
    scan.run(|_, _| {
        found = true;
        false
    })?;
    Ok(found)
}

/// The corruption at `end`, the place without a good record in the file `path`, although the log was durable to
/// `synced`: says the record at `witness`, or else the manifest.
pub(crate) fn lost_record(path: &Path, end: Position, witness: Option<Position>, synced: Position) -> Error {
    let says = match witness {
        Some(witness) => format!("the record at {witness} says"),
        None => "the manifest says".into(),
    };
    let what = format!("no good record stands here, but {says} that the log was durable to {synced}");
    Error::corruption(path, end.offset.into(), what)
}

/// A piece of the file in memory.
#[derive(Debug)]
struct Window {
    file: Arc<dyn File>,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The record header at `offset`; it lies before `limit`.
    fn header(&mut self, offset: u64, limit: u64) -> Result<[u8; RECORD_HEADER_BYTES]> {
        let bytes = match self.held(offset, RECORD_HEADER_BYTES) {
            Some(range) => &self.bytes[range],
            None => self.fill(offset, limit)?,
        };
        Ok(*bytes.first_chunk().expect("the caller has checked that a header fits before the limit"))
    }

    /// The payload of `len` bytes at `offset`; it lies before `limit`.
    fn payload(&mut self, offset: u64, len: usize, limit: u64) -> Result<Vec<u8>> {
        if let Some(range) = self.held(offset, len) {
            return Ok(self.bytes[range].to_vec());
        }
        if len as u64 <= WINDOW_BYTES / 2 {
            return Ok(self.fill(offset, limit)?[..len].to_vec());
        }
        let mut payload = vec![0; len];
        read_exact_at(self.file.as_ref(), &mut payload, offset)?;
        Ok(payload)
    }

    fn held(&self, offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let to = from.checked_add(len)?;
        (to <= self.bytes.len()).then_some(from..to)
    }

    /// Moves the window to `offset`, which lies before `limit`; gives its bytes.
    fn fill(&mut self, offset: u64, limit: u64) -> Result<&[u8]> {
        let len = (limit - offset).min(WINDOW_BYTES) as usize;
        self.bytes.resize(len, 0);
        self.start = offset;
        if let Err(error) = read_exact_at(self.file.as_ref(), &mut self.bytes, offset) {
            self.bytes.clear();
            return Err(error);
        }
        Ok(&self.bytes)
    }
}
