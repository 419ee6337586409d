//! Fences: one separator for each data block, and where the block starts. They are searched where they lie in the
//! file, by the 8 bytes after the prefix that all of them share. Frozen: `docs/format.md` §2.4.

use std::cmp::Ordering;
use std::ops::Range;

use terrace_io::{Error, Result};

use crate::block::BLOCK_BYTES_MAX;
use crate::footer::MetadataBlock;
use crate::key::{prefix, shared_prefix_len};
use crate::metadata::Metadata;
use crate::reach::Reach;

/// Set in the offset of a block that starts with another version of the key that the block before ends with.
const CONTINUES: u64 = 1 << 63;

/// Collects fences while a table is written.
#[derive(Debug, Default)]
pub(crate) struct FencesBuilder {
    /// The whole separators, one after the other.
    separators: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    offsets: Vec<u64>,
    first_key: Vec<u8>,
}

impl FencesBuilder {
    /// A block starts at `offset` with `key`; the one before ended with `last_key`.
    pub(crate) fn push(&mut self, last_key: Option<&[u8]>, key: &[u8], offset: u64) {
        match last_key {
            // The first separator is chosen at the end, so as not to spoil the prefix that the others share.
            None => {
                self.first_key = key.to_vec();
                self.offsets.push(offset);
            }
            Some(last) if last == key => {
                self.separators.extend_from_slice(key);
                self.offsets.push(offset | CONTINUES);
            }
            Some(last) => {
                let len = shared_prefix_len(last, key) + 1;
                self.separators.extend_from_slice(&key[..len]);
                self.offsets.push(offset);
            }
        }
        self.ends.push(self.separators.len());
    }

    /// How many blocks there are.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// About how long [`FencesBuilder::finish`] will be.
    pub(crate) fn encoded_len(&self) -> usize {
        8 + 20 * (self.len() + 1) + self.separators.len()
    }

    /// The bytes on disk of at least one fence, where the data region is `data_len` bytes long.
    pub(crate) fn finish(self, data_len: u64) -> Result<Vec<u8>> {
        let count = self.len();
        debug_assert!(count > 0, "a table has a block");
        let separator = |i: usize| match i {
            0 => &[][..],
            _ => &self.separators[self.ends[i - 1]..self.ends[i]],
        };
        // Separators ascend from the first key on, so what the first and the last share, all share. That prefix is
        // also the first separator: not above the first key, and the shortest that leaves it to the others.
        let shared_len = match count {
            1 => 0,
            _ => shared_prefix_len(&self.first_key, separator(count - 1)),
        };
        let shared = &self.first_key[..shared_len];
        let rests_len = self.separators.len() - (count - 1) * shared_len;
        let too_many = || Error::invalid("the keys are too long for one table: write a smaller one");
        let len32 = u32::try_from(shared_len + rests_len).map_err(|_| too_many())?;
        let count32 = u32::try_from(count).map_err(|_| too_many())?;

        let mut out = Vec::with_capacity(8 + 20 * (count + 1) + len32 as usize);
        out.extend_from_slice(&count32.to_le_bytes());
        out.extend_from_slice(&(shared_len as u32).to_le_bytes());
        let rest = |i: usize| if i == 0 { &[][..] } else { &separator(i)[shared_len..] };
        for i in 0..count {
            out.extend_from_slice(&prefix(rest(i)).to_le_bytes());
        }
        for offset in self.offsets.iter().chain([&data_len]) {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        let mut end = shared_len as u32;
        for i in 0..count {
            out.extend_from_slice(&end.to_le_bytes());
            end += rest(i).len() as u32;
        }
        out.extend_from_slice(&end.to_le_bytes());
        out.extend_from_slice(shared);
        for i in 0..count {
            out.extend_from_slice(rest(i));
        }
        Ok(out)
    }
}

/// Where the parts of the fences are in the metadata region.
#[derive(Debug)]
pub(crate) struct Fences {
    count: usize,
    shared: Box<[u8]>,
    prefixes: usize,
    offsets: usize,
    ends: usize,
    bytes: usize,
    bytes_len: usize,
    data_len: u64,
}

impl Fences {
    /// Reads the frame of the fences: the rest is read where it is needed.
    pub(crate) fn read(metadata: &Metadata, block: &MetadataBlock, data_len: u64) -> Result<Fences> {
        let (start, len) = (block.offset as usize, block.len as usize);
        let damaged = |what: &str| metadata.damaged(start, what);
        if len < 8 {
            return Err(damaged("the fences are cut off"));
        }
        let count = metadata.u32(start)? as usize;
        let shared_len = metadata.u32(start + 4)? as usize;
        // 64 bits even where a usize has 32: none of this can overflow then.
        let fixed_len = 8 + 8 * count as u64 + 12 * (count as u64 + 1);
        if count == 0 || fixed_len > len as u64 || shared_len as u64 > len as u64 - fixed_len {
            return Err(damaged("the counts in the fences do not fit their length"));
        }
        let prefixes = start + 8;
        let offsets = prefixes + 8 * count;
        let ends = offsets + 8 * (count + 1);
        let bytes = ends + 4 * (count + 1);
        let bytes_len = start + len - bytes;
        let shared = metadata.bytes(bytes..bytes + shared_len)?.into();
        if metadata.u32(ends)? as usize != shared_len || metadata.u32(ends + 4 * count)? as usize != bytes_len
        {
            return Err(damaged("the fences' separators do not fit their length"));
        }
        if metadata.u64(offsets)? != 0 || metadata.u64(offsets + 8 * count)? != data_len {
            return Err(damaged("the fences do not span the data region"));
        }
        Ok(Fences { count, shared, prefixes, offsets, ends, bytes, bytes_len, data_len })
    }

    /// How many blocks there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Where block `index`, which exists, is in the file.
    #[inline]
    pub(crate) fn extent<'t>(&self, reach: impl Reach<'t>, index: usize) -> Result<Range<u64>> {
        let at = self.offsets + 8 * index;
        let bytes = reach.bytes(at..at + 16)?;
        let start = u64::from_le_bytes(bytes[..8].try_into().expect("8 of 16 bytes")) & !CONTINUES;
        let end = u64::from_le_bytes(bytes[8..].try_into().expect("8 of 16 bytes")) & !CONTINUES;
        if start >= end || end > self.data_len || end - start > BLOCK_BYTES_MAX as u64 {
            let what = format!("the fences give block {index} bytes {start}..{end}");
            return Err(reach.metadata().damaged(at, what));
        }
        Ok(start..end)
    }

    /// Whether block `index` starts with another version of the key that the block before ends with.
    #[inline]
    pub(crate) fn continues<'t>(&self, reach: impl Reach<'t>, index: usize) -> Result<bool> {
        Ok(reach.u64(self.offsets + 8 * index)? & CONTINUES != 0)
    }

    /// The separator of block `index`, without the prefix that all share.
    fn rest<'t>(&self, reach: impl Reach<'t>, index: usize) -> Result<&'t [u8]> {
        let at = self.ends + 4 * index;
        let (start, end) = (reach.u32(at)? as usize, reach.u32(at + 4)? as usize);
        if start > end || end > self.bytes_len {
            let what = format!("the fences give separator {index} bytes {start}..{end}");
            return Err(reach.metadata().damaged(at, what));
        }
        reach.bytes(self.bytes + start..self.bytes + end)
    }

    /// The separator of block `index`.
    pub(crate) fn separator(&self, metadata: &Metadata, index: usize) -> Result<Vec<u8>> {
        Ok([&self.shared, self.rest(metadata, index)?].concat())
    }

    /// Whether the 8 bytes by which separator `index` is found are its own.
    pub(crate) fn has_right_prefix(&self, metadata: &Metadata, index: usize) -> Result<bool> {
        Ok(metadata.u64(self.prefixes + 8 * index)? == prefix(self.rest(metadata, index)?))
    }

    /// The first number in `range` for which `before` is not true, where it is true for those before and not for
    /// those after; `range.end` if there is none.
    #[inline]
    fn partition(mut range: Range<usize>, mut before: impl FnMut(usize) -> Result<bool>) -> Result<usize> {
        while range.start < range.end {
            let middle = range.start + (range.end - range.start) / 2;
            if before(middle)? {
                range.start = middle + 1;
            } else {
                range.end = middle;
            }
        }
        Ok(range.start)
    }

    /// How many separators are below `key`, and how many are not above it.
    #[inline]
    fn bounds<'t>(&self, reach: impl Reach<'t>, key: &[u8]) -> Result<(usize, usize)> {
        let rest = match key.split_at_checked(self.shared.len()) {
            Some((front, rest)) => match front.cmp(&self.shared) {
                Ordering::Less => return Ok((0, 0)),
                Ordering::Greater => return Ok((self.count, self.count)),
                Ordering::Equal => rest,
            },
            None if key < &self.shared[..] => return Ok((0, 0)),
            None => return Ok((self.count, self.count)),
        };
        let target = prefix(rest);
        let prefix_at = |i: usize| reach.u64(self.prefixes + 8 * i);
        let low = Self::partition(0..self.count, |i| Ok(prefix_at(i)? < target))?;
        if low == self.count || prefix_at(low)? != target {
            return Ok((low, low));
        }
        // Only here do the whole separators matter.
        let high = Self::partition(low + 1..self.count, |i| Ok(prefix_at(i)? == target))?;
        let below = Self::partition(low..high, |i| Ok(self.rest(reach, i)? < rest))?;
        let not_above = Self::partition(below..high, |i| Ok(self.rest(reach, i)? <= rest))?;
        Ok((below, not_above))
    }

    /// The block in which the search for the first entry at or after `(key, sequence)` starts. If the block has no
    /// such entry, the entry is the first of the next.
    ///
    /// `first_sequence` tells the sequence number of a block's first entry; it is asked only for keys whose versions
    /// go on over several blocks.
    #[inline]
    pub(crate) fn locate<'t>(
        &self,
        reach: impl Reach<'t>,
        key: &[u8],
        sequence: u64,
        mut first_sequence: impl FnMut(usize) -> Result<u64>,
    ) -> Result<usize> {
        let (below, not_above) = self.bounds(reach, key)?;
        if below == not_above {
            return Ok(below.saturating_sub(1));
        }
        // Block `below` is the first whose separator is the key itself. The versions start in the one before if they
        // continue, and go on, descending, in the blocks up to `not_above`.
        let first = if self.continues(reach, below)? { below.saturating_sub(1) } else { below };
        let after = Self::partition(first + 1..not_above, |i| Ok(first_sequence(i)? >= sequence))?;
        Ok(after - 1)
    }
}

#[cfg(test)]
#[path = "fences_tests.rs"]
mod tests;
