//! The outline of a table: where in its file which keys are, and where its metadata is. For whoever looks at tables from
//! the outside, without a trace if need be: only the end of the file, the properties and the fences are read, in the way
//! that the caller says, and nothing is mapped.

use std::ops::Range;
use std::path::Path;

use terrace_io::{Error, PAGE_BYTES, Region, Result};

use crate::Properties;
use crate::footer::{FOOTER_BYTES, Footer, KIND_FENCES, KIND_PROPERTIES, MetadataBlock};
use crate::storage::{Storage, directory_of};

/// The outline of a table.
#[derive(Debug)]
pub struct Outline {
    /// Of its region only the chunks that fences and properties lie in were read.
    storage: Storage,
}

impl Outline {
    /// Reads the outline of a file of `file_len` bytes. `read` fills a buffer from an offset of it, or fails.
    ///
    /// # Errors
    /// [`Error::Corruption`] and [`Error::UnsupportedFormat`] as for an open of the table; those of `read`.
    pub fn read(
        path: &Path,
        file_len: u64,
        mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
    ) -> Result<Outline> {
        if file_len < FOOTER_BYTES as u64 {
            return Err(Error::corruption(path, 0, format!("{file_len} bytes are too few for a table")));
        }
        let mut footer = [0; FOOTER_BYTES];
        read(&mut footer, file_len - FOOTER_BYTES as u64)?;
        let footer = Footer::decode(&footer, file_len, path)?;
        let (start, tail) = (footer.meta_offset(), footer.tail_offset());
        let too_large = |_| Error::corruption(path, start, "the table is too large");
        // What is not filled in takes no memory, and nobody looks at it.
        let mut bytes = vec![0; usize::try_from(file_len - start).map_err(too_large)?];
        read(&mut bytes[(tail - start) as usize..], tail)?;
        for block in directory_of(&footer, &bytes, path)? {
            if [KIND_FENCES, KIND_PROPERTIES].contains(&block.kind) {
                let chunks = chunks_of(&block, footer.meta_len);
                read(&mut bytes[chunks.start as usize..chunks.end as usize], start + chunks.start)?;
            }
        }
        let storage = Storage::from_region(footer, Region::from_vec(bytes), start, None, path.into(), false)?;
        Ok(Outline { storage })
    }

    /// The end of the file.
    pub fn footer(&self) -> &Footer {
        &self.storage.footer
    }

    /// What the table says about itself.
    pub fn properties(&self) -> &Properties {
        &self.storage.properties
    }

    /// The metadata blocks, in ascending order of kind. Their offsets count from [`Footer::meta_offset`].
    pub fn metadata(&self) -> &[MetadataBlock] {
        &self.storage.directory
    }

    /// How many data blocks there are: one or more.
    pub fn blocks(&self) -> usize {
        self.storage.fences.len()
    }

    /// Where data block `index`, which exists, is in the file.
    pub fn extent(&self, index: usize) -> Result<Range<u64>> {
        self.storage.extent(index)
    }

    /// The fence of data block `index`, which exists: not above its first key, and above the last of the block before
    /// (or equal to both).
    pub fn separator(&self, index: usize) -> Result<Vec<u8>> {
        self.storage.fences.separator(&self.storage.metadata, index)
    }
}

/// The chunks of a metadata region of `meta_len` bytes that a block of it lies in.
fn chunks_of(block: &MetadataBlock, meta_len: u64) -> Range<u64> {
    let page = PAGE_BYTES as u64;
    block.offset / page * page..(block.offset + block.len).next_multiple_of(page).min(meta_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Compression, layout};

    /// The outline of these bytes, and the ranges that were read for it.
    fn outline_of(bytes: &[u8]) -> (Result<Outline>, Vec<Range<usize>>) {
        let mut ranges = Vec::new();
        let outline = Outline::read(Path::new("t"), bytes.len() as u64, |buf, offset| {
            let range = offset as usize..offset as usize + buf.len();
            buf.copy_from_slice(&bytes[range.clone()]);
            ranges.push(range);
            Ok(())
        });
        (outline, ranges)
    }

    fn many() -> Vec<Entry> {
        (0..20_000).map(|i| put(format!("key {i:06}"), 7, format!("value {i}"))).collect()
    }

    #[test]
    fn it_is_that_of_the_layout_and_little_is_read() {
        for compression in COMPRESSIONS {
            let (tables, meta, bytes) = Tables::with(compression, &many());
            let table = tables.table(&meta);
            let layout = layout(&table).unwrap();
            let (outline, ranges) = outline_of(&bytes);
            let outline = outline.unwrap();
            assert_eq!((outline.footer(), outline.properties()), (&layout.footer, &layout.properties));
            assert_eq!((outline.metadata(), outline.blocks()), (&*layout.metadata, layout.blocks.len()));
            for (index, block) in layout.blocks.iter().enumerate() {
                assert_eq!(outline.extent(index).unwrap(), block.offset..block.offset + block.len);
                assert_eq!(outline.separator(index).unwrap(), block.separator);
            }
            let start = layout.footer.meta_offset() as usize;
            assert!(ranges.iter().all(|range| range.start >= start), "no data");
            let locator = layout.metadata.iter().find(|block| block.name() == "locator").unwrap();
            let middle = start + (locator.offset + locator.len / 2) as usize;
            assert!(locator.len > 16 * 4096 && !ranges.iter().any(|range| range.contains(&middle)));
        }
    }

    /// Damage gives an error, or the right outline: what was not looked at may be damaged.
    #[test]
    fn damage_is_told_or_does_not_matter() {
        let entries: Vec<Entry> = many().into_iter().step_by(20).collect();
        let (_, _, bytes) = Tables::with(Compression::None, &entries);
        let whole = outline_of(&bytes).0.unwrap();
        let start = whole.footer().meta_offset() as usize;
        let (mut told, mut ignored) = (0, 0);
        for at in (start..bytes.len()).step_by(11).chain(bytes.len() - 64..bytes.len()) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            let outline = outline_of(&damaged).0.and_then(|outline| {
                (0..outline.blocks()).map(|index| outline.separator(index)).collect::<Result<Vec<_>>>()
            });
            match outline {
                Ok(separators) => {
                    let expected = (0..whole.blocks()).map(|index| whole.separator(index).unwrap());
                    assert!(separators.into_iter().eq(expected), "{at}");
                    ignored += 1;
                }
                Err(error) => {
                    assert!(error.is_corruption(), "{at}: {error}");
                    told += 1;
                }
            }
        }
        assert!(told > 50 && ignored > 50, "{told} and {ignored}");
        for len in [0, 1, 63, 64, 4096, start, bytes.len() - 1] {
            assert!(outline_of(&bytes[..len]).0.unwrap_err().is_corruption(), "{len}");
        }
    }

    #[test]
    fn a_failed_read_is_passed_on() {
        let (_, _, bytes) = Tables::with(Compression::None, &many());
        for failing in 0..4 {
            let mut reads = 0;
            let outline = Outline::read(Path::new("t"), bytes.len() as u64, |buf, offset| {
                reads += 1;
                if reads > failing {
                    return Err(Error::invalid("no"));
                }
                buf.copy_from_slice(&bytes[offset as usize..][..buf.len()]);
                Ok(())
            });
            assert!(matches!(outline, Err(Error::InvalidArgument(_))), "{failing}");
        }
    }
}
