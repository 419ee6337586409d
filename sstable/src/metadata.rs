//! The metadata region of a table: bytes that are checked, a chunk of 4 KiB at a time, when they are first looked
//! at. One atomic bit for each chunk remembers that it was.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use terrace_io::sigbus::Poison;
use terrace_io::{
    Advice, Checksum, Error, FileSystem, OpenMode, PAGE_BYTES, Region, Result, prefetch,
    read_exact_past_cache_at,
};

use crate::footer::Footer;
use crate::{TableCounters, reread};

/// A set of numbers below a bound that only grows. Shared between threads.
#[derive(Debug)]
pub(crate) struct Bits(Box<[AtomicU64]>);

impl Bits {
    /// The empty set of numbers below `bound`.
    pub(crate) fn new(bound: usize) -> Bits {
        Bits((0..bound.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether `number`, which is below the bound, is in it. Ordering does not matter: the bytes that the bit speaks
    /// of never change.
    #[inline]
    pub(crate) fn contains(&self, number: usize) -> bool {
        self.0[number / 64].load(Ordering::Relaxed) & (1 << (number % 64)) != 0
    }

    /// Adds `number`.
    pub(crate) fn insert(&self, number: usize) {
        self.0[number / 64].fetch_or(1 << (number % 64), Ordering::Relaxed);
    }
}

/// How many chunks of metadata are read one by one, each when it is first needed, before all of them are asked for at
/// once. An open and its first get need fewer, and do not wait for megabytes to be read; whoever needs more will need
/// most of them.
const CHUNKS_READ_SINGLY: u32 = 16;

/// The metadata region.
#[derive(Debug)]
pub(crate) struct Metadata {
    /// Holds the metadata region and the chunk checksums, and perhaps the whole file.
    region: Region,
    /// Where the metadata region starts in `region`.
    start: usize,
    len: usize,
    /// Where it starts in the file.
    file_offset: u64,
    table_id: u64,
    verified: Bits,
    /// How many chunks were found right.
    verifications: AtomicU32,
    /// What most gets need some part of begins here.
    needed_from: usize,
    /// Where the file is, to read a chunk once more if it is wrong.
    source: Option<(Arc<dyn FileSystem>, Arc<TableCounters>)>,
    /// The metadata region as the device has it, once a chunk was found wrong and that could be read.
    second: OnceLock<Box<[u8]>>,
    /// Whether it was counted and told that memory and the device disagree.
    told: AtomicBool,
    path: Arc<Path>,
}

impl Metadata {
    /// The metadata region that `footer` describes, where `region` starts at `region_offset` of the file and reaches
    /// to its end.
    pub(crate) fn new(region: Region, region_offset: u64, footer: &Footer, path: Arc<Path>) -> Metadata {
        let chunks = footer.chunks() as usize;
        Metadata {
            region,
            start: (footer.meta_offset() - region_offset) as usize,
            len: footer.meta_len as usize,
            file_offset: footer.meta_offset(),
            table_id: footer.table_id,
            verified: Bits::new(chunks),
            verifications: AtomicU32::new(0),
            needed_from: 0,
            source: None,
            second: OnceLock::new(),
            told: AtomicBool::new(false),
            path,
        }
    }

    /// From here on a chunk that is wrong is read once more from the device. That it is right there is counted once.
    pub(crate) fn set_source(&mut self, fs: Arc<dyn FileSystem>, counters: Arc<TableCounters>) {
        self.source = Some((fs, counters));
    }

    /// Nothing before `at` is needed as a rule, so that it is not read ahead either.
    pub(crate) fn set_needed_from(&mut self, at: usize) {
        self.needed_from = at;
    }

    /// What is behind `at`, as a range of the region that holds it, to its end.
    pub(crate) fn behind(&self, at: usize) -> Range<usize> {
        self.start + at..self.region.len()
    }

    /// The region that holds it.
    #[inline]
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Gives the region back.
    pub(crate) fn into_region(self) -> Region {
        self.region
    }

    /// Bytes of heap that hold the region, and what was read of the device.
    pub(crate) fn heap_bytes(&self) -> u64 {
        let region = if self.region.is_mapped() { 0 } else { self.region.len() };
        (region + self.second.get().map_or(0, |second| second.len())) as u64
    }

    /// Takes every chunk for checked: for a reader that has checked (and reported) them itself.
    pub(crate) fn trust_all(&self) {
        for chunk in 0..self.chunks() {
            self.verified.insert(chunk);
        }
    }

    /// How many chunks there are.
    pub(crate) fn chunks(&self) -> usize {
        self.len.div_ceil(PAGE_BYTES)
    }

    /// Where in the file `at` of the metadata region is.
    pub(crate) fn file_offset(&self, at: usize) -> u64 {
        self.file_offset + at as u64
    }

    /// Where in the file a range of the metadata region is.
    pub(crate) fn place_of(&self, range: Range<usize>) -> Range<u64> {
        self.file_offset(range.start)..self.file_offset(range.end)
    }

    /// The bytes of a range, checked.
    #[inline]
    pub(crate) fn bytes(&self, range: Range<usize>) -> Result<&[u8]> {
        if range.start < range.end {
            let (first, last) = (range.start / PAGE_BYTES, (range.end - 1) / PAGE_BYTES);
            if range.end > self.len {
                return Err(self.outside(range));
            }
            for chunk in first..=last {
                if !self.verified.contains(chunk)
                    && let Err(error) = self.verify(chunk)
                {
                    return self.second_look(range, error);
                }
            }
        } else if range.end > self.len || range.start > range.end {
            return Err(self.outside(range));
        }
        Ok(&self.region[self.start + range.start..self.start + range.end])
    }

    /// The line of 64 bytes at `at`, which is a multiple of 64: so it lies in one chunk. Checked.
    #[inline]
    pub(crate) fn line(&self, at: usize) -> Result<&[u8; 64]> {
        debug_assert!(at.is_multiple_of(64));
        let is_ready = at + 64 <= self.len && self.verified.contains(at / PAGE_BYTES);
        match self.region.get(self.start + at..).and_then(|rest| rest.first_chunk()) {
            Some(line) if is_ready => Ok(line),
            _ => self.line_of_unchecked(at),
        }
    }

    #[cold]
    fn line_of_unchecked(&self, at: usize) -> Result<&[u8; 64]> {
        Ok(self.bytes(at..at + 64)?.try_into().expect("64 bytes were asked for"))
    }

    /// The little-endian number at `at`, checked.
    #[inline]
    pub(crate) fn u64(&self, at: usize) -> Result<u64> {
        let bytes = self.bytes(at..at + 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes were asked for")))
    }

    /// The little-endian number at `at`, checked.
    #[inline]
    pub(crate) fn u32(&self, at: usize) -> Result<u32> {
        let bytes = self.bytes(at..at + 4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("4 bytes were asked for")))
    }

    /// Has the processor fetch the line at `at`.
    #[inline]
    pub(crate) fn prefetch(&self, at: usize) {
        prefetch(self.region.as_ptr().wrapping_add(self.start + at));
    }

    /// Where in the region a range of the metadata region is, if it is one and not empty.
    pub(crate) fn place_in_region(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let lies_within = range.start < range.end && range.end <= self.len;
        lies_within.then(|| self.start + range.start..self.start + range.end)
    }

    /// The chunks that a range lies in and that have not been checked, each with its place in the region.
    pub(crate) fn unverified(&self, range: &Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
        let chunks = range.start / PAGE_BYTES..range.end.min(self.len).div_ceil(PAGE_BYTES);
        chunks.filter(move |&chunk| !self.verified.contains(chunk)).filter_map(move |chunk| {
            let at = chunk * PAGE_BYTES;
            Some((self.place_in_region(&(at..self.len.min(at + PAGE_BYTES)))?, chunk))
        })
    }

    /// Where in the region the checksum of a chunk is.
    pub(crate) fn place_of_checksum(&self, chunk: usize) -> Range<usize> {
        let at = self.start + self.len + 4 * chunk;
        at..at + 4
    }

    /// Compares a chunk that is in memory with its checksum, and asks for nothing ahead. If it is wrong, it stays
    /// unchecked, for [`Metadata::bytes`] to have a second look.
    #[cold]
    pub(crate) fn verify_in_memory(&self, chunk: usize) -> bool {
        let is_right = self.is_right(chunk, &self.region[self.start..self.start + self.len]);
        if is_right {
            self.verified.insert(chunk);
        }
        is_right
    }

    /// The table's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Compares a chunk with its checksum.
    #[cold]
    pub(crate) fn verify(&self, chunk: usize) -> Result<()> {
        let at = chunk * PAGE_BYTES;
        if !self.is_right(chunk, &self.region[self.start..self.start + self.len]) {
            return Err(self.damaged(at, "the checksum of this chunk of metadata is wrong"));
        }
        self.verified.insert(chunk);
        if self.verifications.fetch_add(1, Ordering::Relaxed) + 1 == CHUNKS_READ_SINGLY {
            self.region.advise(Advice::WillNeed, self.behind(self.needed_from));
        }
        Ok(())
    }

    /// Whether a chunk of `bytes`, which are those of the metadata region, has the right checksum.
    fn is_right(&self, chunk: usize, bytes: &[u8]) -> bool {
        let at = chunk * PAGE_BYTES;
        let sum = &self.region[self.place_of_checksum(chunk)];
        let sum = u32::from_le_bytes(sum.try_into().expect("4 bytes"));
        chunk_checksum(self.table_id, self.file_offset(at), &bytes[at..self.len.min(at + PAGE_BYTES)]) == sum
    }

    /// The bytes of a range in which a chunk is wrong, as the device has them; `error` if they are no better there.
    #[cold]
    fn second_look(&self, range: Range<usize>, error: Error) -> Result<&[u8]> {
        // Of a mapping that is lost nothing is believed: whoever asked will ask again elsewhere.
        let is_lost = self.region.poison().is_some_and(Poison::is_set);
        let Some((fs, counters)) = self.source.as_ref().filter(|_| !is_lost) else { return Err(error) };
        let second = match self.second.get() {
            Some(second) => second,
            None => match self.read_device(&**fs) {
                Ok(bytes) => self.second.get_or_init(|| bytes),
                Err(why) => return Err(reread::not_read_again(error, &why)),
            },
        };
        let (first, last) = (range.start / PAGE_BYTES, (range.end - 1) / PAGE_BYTES);
        if !(first..=last).all(|chunk| self.is_right(chunk, second)) {
            return Err(error);
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            counters.disagreement();
            tracing::warn!(%error, "the page cache is wrong and the device is right");
        }
        Ok(&second[range])
    }

    fn read_device(&self, fs: &dyn FileSystem) -> Result<Box<[u8]>> {
        let mut bytes = vec![0; self.len];
        let file = fs.open(&self.path, OpenMode::Read)?;
        read_exact_past_cache_at(&*file, &mut bytes, self.file_offset)?;
        Ok(bytes.into())
    }

    /// The error that says what is wrong at `at` of the metadata region.
    #[cold]
    pub(crate) fn damaged(&self, at: usize, what: impl Into<String>) -> Error {
        Error::corruption(&*self.path, self.file_offset(at), what)
    }

    #[cold]
    fn outside(&self, range: Range<usize>) -> Error {
        self.damaged(range.start, format!("bytes {range:?} lie outside of the metadata region"))
    }
}

/// The checksum of a chunk of metadata that starts at `offset` of the file.
pub(crate) fn chunk_checksum(table_id: u64, offset: u64, chunk: &[u8]) -> u32 {
    Checksum::new().u64(table_id).u64(offset).bytes(chunk).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::footer::FORMAT_VERSION;

    #[test]
    fn chunks_are_checked_when_they_are_touched() {
        let meta_len = 2 * PAGE_BYTES + 16;
        let footer = Footer {
            table_id: 5,
            data_len: 4096,
            meta_len: meta_len as u64,
            directory_len: 0,
            tail_crc: 0,
            format_version: FORMAT_VERSION,
        };
        let mut bytes: Vec<u8> = (0..meta_len).map(|i| (i / 8) as u8).collect();
        for chunk in 0..3 {
            let at = chunk * PAGE_BYTES;
            let sum = chunk_checksum(5, 4096 + at as u64, &bytes[at..meta_len.min(at + PAGE_BYTES)]);
            bytes.extend_from_slice(&sum.to_le_bytes());
        }
        bytes[PAGE_BYTES + 100] ^= 1;
        let metadata = Metadata::new(Region::from_vec(bytes), 4096, &footer, Path::new("t").into());
        assert_eq!(metadata.u64(8).unwrap(), 0x0101_0101_0101_0101);
        assert_eq!(metadata.u32(meta_len - 4).unwrap(), 0x0101_0101);
        for range in [PAGE_BYTES..PAGE_BYTES + 1, PAGE_BYTES - 1..PAGE_BYTES + 1, 0..meta_len] {
            let error = metadata.bytes(range).unwrap_err();
            assert!(matches!(error, Error::Corruption { offset: 8192, .. }), "{error}");
        }
        assert!(metadata.bytes(meta_len - 3..meta_len + 1).is_err());
        assert!(metadata.bytes(meta_len + 1..meta_len + 1).is_err());
        assert!(metadata.bytes(meta_len..meta_len).is_ok());
    }
}
