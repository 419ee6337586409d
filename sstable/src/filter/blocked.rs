//! A Bloom filter in lines of 64 bytes: all bits of a key are in one of them, so that a query waits for memory once, and
//! setting a key's bits hardly at all. It is read where it lies in the metadata region. Frozen: `docs/format.md` §2.6.
//!
//! The idea is from Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom Filters" (2007); the probes
//! follow each other by multiplication, as they do in RocksDB's newer filters.

use terrace_io::Result;

use crate::block::Wrong;
use crate::footer::MetadataBlock;
use crate::locator::LINE_BYTES;
use crate::reach::Reach;

/// More probes than this are no honest filter.
const PROBES_MAX: u8 = 32;
/// 2^64 divided by the golden ratio, odd: what the hash is multiplied with before each probe.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const LINE_BITS: usize = 8 * LINE_BYTES;

/// The filter: what its header says, and where its lines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockedFilter {
    lines: u32,
    probes: u8,
    /// Where the lines start in the metadata region.
    start: usize,
}

impl BlockedFilter {
    /// The bytes on disk of a filter over the hashes of keys (at least one, each once) with `bits_per_key` bits for each.
    pub(crate) fn build(hashes: &[u64], bits_per_key: u8) -> Vec<u8> {
        let lines = lines(hashes.len(), bits_per_key);
        let probes = probes(bits_per_key);
        let mut bytes = vec![0; LINE_BYTES * (1 + lines as usize)];
        let (header, rest) = bytes.as_chunks_mut::<LINE_BYTES>().0.split_at_mut(1);
        header[0][..4].copy_from_slice(&lines.to_le_bytes());
        header[0][4] = probes;
        for &hash in hashes {
            let line = &mut rest[line_of(hash, lines)];
            for bit in bits(hash, probes) {
                line[bit / 8] |= 1 << (bit % 8);
            }
        }
        bytes
    }

    /// How long [`BlockedFilter::build`] will be.
    pub(crate) fn encoded_len(keys: usize, bits_per_key: u8) -> usize {
        LINE_BYTES * (1 + lines(keys, bits_per_key) as usize)
    }

    /// Reads the header of the filter at `place`. The inner error says why the filter is refused.
    pub(crate) fn read<'t>(
        reach: impl Reach<'t>,
        place: &MetadataBlock,
    ) -> Result<Result<BlockedFilter, Wrong>> {
        let start = place.offset as usize;
        if place.len < LINE_BYTES as u64 {
            return Ok(Err("the filter is cut off"));
        }
        let header = reach.bytes(start..start + LINE_BYTES)?;
        let lines = u32::from_le_bytes(*header.first_chunk().expect("4 of 64 bytes"));
        let probes = header[4];
        if !place.offset.is_multiple_of(LINE_BYTES as u64) {
            return Ok(Err("the filter does not start on a line of 64 bytes"));
        }
        if header[5..] != [0; LINE_BYTES - 5] {
            return Ok(Err("reserved bytes of the filter are not zero"));
        }
        if lines == 0 || place.len != LINE_BYTES as u64 * (1 + u64::from(lines)) {
            return Ok(Err("the filter's length does not fit its header"));
        }
        if !(1..=PROBES_MAX).contains(&probes) {
            return Ok(Err("the filter has an impossible number of probes"));
        }
        Ok(Ok(BlockedFilter { lines, probes, start: start + LINE_BYTES }))
    }

    /// Whether the key with this hash may be in the table. If not, it is not.
    #[inline]
    pub(crate) fn may_contain<'t>(&self, reach: impl Reach<'t>, hash: u64) -> Result<bool> {
        let line = reach.line(self.line_at(hash))?;
        // Without a branch for each probe: nobody can foretell them.
        let missing =
            bits(hash, self.probes).fold(0, |missing, bit| missing | (!line[bit / 8] & (1 << (bit % 8))));
        Ok(missing == 0)
    }

    /// Where the line of the key with this hash is in the metadata region.
    #[inline]
    pub(crate) fn line_at(&self, hash: u64) -> usize {
        self.start + LINE_BYTES * line_of(hash, self.lines)
    }
}

/// How many lines.
fn lines(keys: usize, bits_per_key: u8) -> u32 {
    let lines = (keys * usize::from(bits_per_key)).div_ceil(LINE_BITS).max(1);
    // With so many keys, which no table has, there are fewer bits for each.
    u32::try_from(lines).unwrap_or(u32::MAX)
}

/// How many bits a key sets.
fn probes(bits_per_key: u8) -> u8 {
    ((3 * u16::from(bits_per_key) + 2) / 5).clamp(1, u16::from(PROBES_MAX)) as u8
}

/// The line of a key.
#[inline]
fn line_of(hash: u64, lines: u32) -> usize {
    (((hash >> 32) * u64::from(lines)) >> 32) as usize
}

/// The bits of a key in its line.
#[inline]
fn bits(hash: u64, probes: u8) -> impl Iterator<Item = usize> {
    let mut product = hash;
    (0..probes).map(move |_| {
        product = product.wrapping_mul(GOLDEN);
        (product >> (u64::BITS - LINE_BITS.ilog2())) as usize
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use terrace_io::Region;

    use super::*;
    use crate::footer::{FORMAT_VERSION, Footer, KIND_BLOCKED_FILTER};
    use crate::locator::hash;
    use crate::metadata::Metadata;

    /// Metadata that holds nothing but a filter, and where that is.
    fn metadata(filter: Vec<u8>) -> (Metadata, MetadataBlock) {
        let len = filter.len() as u64;
        let footer = Footer {
            table_id: 5,
            data_len: 0,
            meta_len: len,
            directory_len: 0,
            tail_crc: 0,
            format_version: FORMAT_VERSION,
        };
        let mut bytes = filter;
        bytes.resize(bytes.len() + 4 * footer.chunks() as usize, 0);
        let metadata = Metadata::new(Region::from_vec(bytes), 0, &footer, Path::new("t").into());
        metadata.trust_all();
        (metadata, MetadataBlock { kind: KIND_BLOCKED_FILTER, offset: 0, len })
    }

    fn of(key: u32) -> u64 {
        hash(format!("key {key}").as_bytes(), 77)
    }

    #[test]
    fn every_key_passes_and_few_others_do() {
        // The parts of 100,000 that are let through, at most: those of a filter in lines are a little more than of one
        // without.
        for (keys, bits_per_key, most) in [
            (1, 1, None),
            (1, 40, None),
            (7, 40, None),
            (100_000, 10, Some(1_200)),
            (100_000, 1, None),
            (50_000, 20, Some(60)),
        ] {
            let hashes: Vec<u64> = (0..keys).map(of).collect();
            let bytes = BlockedFilter::build(&hashes, bits_per_key);
            assert_eq!(bytes.len(), BlockedFilter::encoded_len(hashes.len(), bits_per_key));
            let (metadata, place) = metadata(bytes);
            let filter = BlockedFilter::read(&metadata, &place).unwrap().unwrap();
            let passes = |key| filter.may_contain(&metadata, of(key)).unwrap();
            assert!((0..keys).all(passes));
            let others = (1_000_000..1_100_000).filter(|&key| passes(key)).count();
            assert!(
                others <= most.unwrap_or(95_000),
                "{keys} keys, {bits_per_key} bits: {others} of 100,000"
            );
        }
    }

    #[test]
    fn its_bits_are_frozen() {
        let bytes = BlockedFilter::build(&[0x0123_4567_89ab_cdef], 10);
        assert_eq!(bytes.len(), 128);
        assert_eq!(bytes[..8], [1, 0, 0, 0, 6, 0, 0, 0]);
        let set: Vec<usize> = (0..512).filter(|bit| bytes[64 + bit / 8] & (1 << (bit % 8)) != 0).collect();
        assert_eq!(set, [25, 108, 152, 214, 253, 417]);
    }

    #[test]
    fn hostile_headers_are_refused() {
        let good = BlockedFilter::build(&[1, 2, 3], 10);
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            let (metadata, place) = metadata(bytes);
            BlockedFilter::read(&metadata, &place).unwrap().is_err()
        };
        assert!(!refused(&|_| ()));
        for (at, value) in [(0, 0), (0, 2), (3, 1), (4, 0), (4, 33), (5, 1), (63, 1)] {
            assert!(refused(&|bytes| bytes[at] = value), "{value} at {at}");
        }
        assert!(!refused(&|bytes| bytes[4] = 32));
        assert!(refused(&|bytes| bytes.truncate(64)));
        assert!(refused(&|bytes| bytes.truncate(40)));
        assert!(refused(&|bytes| bytes.extend([0; 64])));
        let (metadata, place) = metadata([vec![0; 8], good].concat());
        let place = MetadataBlock { offset: 8, len: place.len - 8, ..place };
        assert!(BlockedFilter::read(&metadata, &place).unwrap().is_err());
    }
}
