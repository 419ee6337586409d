//! Forged tables (`docs/format.md` §2).

use std::ops::Range;

use rand::RngExt;

use super::{Fields, change_bytes, change_field, crc, odd_number, u32_at, u64_at};
use crate::samples::Random;

/// A page.
const PAGE: usize = 4096;
/// Bytes of the footer.
const FOOTER: usize = 64;
/// Bytes of an entry of the directory.
const ENTRY: usize = 24;
/// Bit 63 of an offset in the fences: the block continues a key.
const CONTINUES: u64 = 1 << 63;

/// The fences' kind.
pub const FENCES: u32 = 0x8000_0001;
/// The properties' kind.
pub const PROPERTIES: u32 = 0x8000_0002;
/// The Bloom filter's kind.
pub const BLOOM_FILTER: u32 = 3;
/// The blocked filter's kind.
pub const BLOCKED_FILTER: u32 = 6;
/// The locator's kind.
pub const LOCATOR: u32 = 4;

/// Bytes of the locator's header, and of each of its buckets.
const LINE: usize = 64;

/// A table, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Its id.
    pub id: u64,
    /// The data region.
    pub data: Vec<u8>,
    /// The metadata blocks in their order in the file: kind and bytes.
    pub metadata: Vec<(u32, Vec<u8>)>,
}

impl Parts {
    /// Takes a sound file apart.
    ///
    /// # Panics
    ///
    /// If it is not sound.
    pub fn read(file: &[u8]) -> Parts {
        let layout = Layout::read(file).expect("the table is sound");
        let mut blocks = layout.directory(file);
        blocks.sort_by_key(|(_, place)| place.start);
        let metadata = blocks.into_iter().map(|(kind, place)| (kind, file[place].to_vec())).collect();
        Parts { id: layout.id, data: file[..layout.data_len].to_vec(), metadata }
    }

    /// A metadata block, to be changed.
    pub fn block(&mut self, kind: u32) -> Option<&mut Vec<u8>> {
        self.metadata.iter_mut().find(|block| block.0 == kind).map(|block| &mut block.1)
    }

    /// Where the data blocks are, by the fences.
    pub fn extents(&self) -> Vec<Range<usize>> {
        let fences = self.metadata.iter().find(|block| block.0 == FENCES);
        fences.map_or(Vec::new(), |(_, bytes)| extents(bytes, self.data.len()))
    }

    /// Puts other data blocks in the place of those that there are, and moves the fences along.
    pub fn set_blocks(&mut self, blocks: &[Vec<u8>]) {
        self.data = blocks.concat();
        let Some(fences) = self.block(FENCES) else { return };
        let count = u32_at(fences, 0).unwrap_or(0) as usize;
        let mut offset = 0;
        for index in 0..=count.min(blocks.len()) {
            let at = 8 + 8 * count + 8 * index;
            let Some(old) = u64_at(fences, at) else { return };
            fences[at..at + 8].copy_from_slice(&(old & CONTINUES | offset as u64).to_le_bytes());
            offset += blocks.get(index).map_or(0, Vec::len);
        }
    }

    /// The file, with every checksum right.
    pub fn write(&self) -> Vec<u8> {
        let mut file = self.data.clone();
        file.resize(file.len().next_multiple_of(PAGE), 0);
        let meta_offset = file.len();
        let mut directory = Vec::new();
        for (kind, bytes) in &self.metadata {
            let alignment = if *kind == BLOCKED_FILTER { LINE } else { 8 };
            file.resize(file.len().next_multiple_of(alignment), 0);
            directory.push((*kind, file.len() - meta_offset, bytes.len()));
            file.extend_from_slice(bytes);
        }
        file.resize(file.len().next_multiple_of(8), 0);
        let meta_len = file.len() - meta_offset;
        file.resize(file.len() + 4 * meta_len.div_ceil(PAGE), 0);
        directory.sort_by_key(|entry| entry.0);
        for (kind, offset, len) in &directory {
            file.extend_from_slice(&kind.to_le_bytes());
            file.extend_from_slice(&[0; 4]);
            file.extend_from_slice(&(*offset as u64).to_le_bytes());
            file.extend_from_slice(&(*len as u64).to_le_bytes());
        }
        let footer = file.len();
        file.resize(footer + FOOTER, 0);
        file[footer..footer + 8].copy_from_slice(&self.id.to_le_bytes());
        file[footer + 8..footer + 16].copy_from_slice(&(self.data.len() as u64).to_le_bytes());
        file[footer + 16..footer + 24].copy_from_slice(&(meta_len as u64).to_le_bytes());
        file[footer + 24..footer + 28].copy_from_slice(&((ENTRY * directory.len()) as u32).to_le_bytes());
        file[footer + 48..footer + 52].copy_from_slice(&1_u32.to_le_bytes());
        repair(&mut file);
        file
    }
}

/// The data blocks that fences give, as far as they lie in the data.
fn extents(fences: &[u8], data_len: usize) -> Vec<Range<usize>> {
    let count = u32_at(fences, 0).unwrap_or(0) as usize;
    let offset = |index: usize| {
        let at = 8_usize.checked_add(count.checked_mul(8)?)?.checked_add(8 * index)?;
        usize::try_from(u64_at(fences, at)? & !CONTINUES).ok()
    };
    let extent = |index| Some(offset(index)?..offset(index + 1)?);
    let all = (0..count).map_while(extent);
    all.filter(|extent| extent.start < extent.end && extent.end <= data_len).collect()
}

/// Where the parts of a file are, by a footer whose lengths add up.
struct Layout {
    id: u64,
    data_len: usize,
    meta: Range<usize>,
    directory: Range<usize>,
}

impl Layout {
    fn read(file: &[u8]) -> Option<Layout> {
        let footer = file.len().checked_sub(FOOTER)?;
        let number = |at: usize| usize::try_from(u64_at(file, footer + at)?).ok();
        let (data_len, meta_len) = (number(8)?, number(16)?);
        let directory_len = u32_at(file, footer + 24)? as usize;
        let meta_offset = data_len.checked_next_multiple_of(PAGE)?;
        let meta_end = meta_offset.checked_add(meta_len)?;
        let directory = meta_end.checked_add(4 * meta_len.div_ceil(PAGE))?;
        let end = directory.checked_add(directory_len)?;
        (end == footer).then_some(Layout {
            id: u64_at(file, footer)?,
            data_len,
            meta: meta_offset..meta_end,
            directory: directory..end,
        })
    }

    /// Kinds of the metadata blocks and where they are in the file, as far as they lie in the metadata.
    fn directory(&self, file: &[u8]) -> Vec<(u32, Range<usize>)> {
        let entry = |entry: &[u8]| {
            let (offset, len) = (u64_at(entry, 8)?, u64_at(entry, 16)?);
            let start = self.meta.start.checked_add(usize::try_from(offset).ok()?)?;
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            (end <= self.meta.end).then_some((u32_at(entry, 0)?, start..end))
        };
        file[self.directory.clone()].chunks_exact(ENTRY).filter_map(entry).collect()
    }
}

/// Puts every checksum of a table right that has a place, and the magic.
pub fn repair(file: &mut [u8]) {
    let Some(footer) = file.len().checked_sub(FOOTER) else { return };
    if let Some(layout) = Layout::read(file) {
        let id = layout.id.to_le_bytes();
        let fences = layout.directory(file).into_iter().find(|(kind, _)| *kind == FENCES);
        for extent in fences.map_or(Vec::new(), |(_, place)| extents(&file[place], layout.data_len)) {
            seal_block(layout.id, extent.start, &mut file[extent]);
        }
        let chunks: Vec<u32> = file[layout.meta.clone()]
            .chunks(PAGE)
            .enumerate()
            .map(|(i, chunk)| crc(&[&id, &((layout.meta.start + PAGE * i) as u64).to_le_bytes(), chunk]))
            .collect();
        for (place, sum) in file[layout.meta.end..].chunks_exact_mut(4).zip(chunks) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        let tail = crc(&[&id, &file[layout.meta.end..footer]]);
        file[footer + 28..footer + 32].copy_from_slice(&tail.to_le_bytes());
    }
    let sum = crc(&[&file[footer..footer + 52]]);
    file[footer + 52..footer + 56].copy_from_slice(&sum.to_le_bytes());
    file[footer + 56..].copy_from_slice(b"TERRASST");
}

/// Puts the checksum of the block at `offset` right.
pub fn seal_block(id: u64, offset: usize, block: &mut [u8]) {
    if block.len() >= 4 {
        let sum = crc(&[&id.to_le_bytes(), &(offset as u64).to_le_bytes(), &block[4..]]);
        block[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// A forged copy of a sound table, with every checksum right.
pub fn forge(random: &mut Random, sound: &Parts) -> Vec<u8> {
    let mut parts = sound.clone();
    for _ in 0..random.random_range(1..3) {
        match random.random_range(0..14) {
            0..5 => forge_block(random, &mut parts),
            5 | 6 => forge_metadata(random, &mut parts, FENCES, fences_fields),
            7 => {
                forge_metadata(random, &mut parts, BLOOM_FILTER, bloom_filter_fields);
                forge_metadata(random, &mut parts, BLOCKED_FILTER, blocked_filter_fields);
            }
            8 => forge_metadata(random, &mut parts, PROPERTIES, properties_fields),
            12 | 13 => forge_metadata(random, &mut parts, LOCATOR, locator_fields),
            9 => {
                // Whatever else there is.
                let index = random.random_range(0..parts.metadata.len());
                change_bytes(random, &mut parts.metadata[index].1);
            }
            10 => match random.random_range(0..5) {
                0 => {
                    let index = random.random_range(0..parts.metadata.len());
                    parts.metadata.remove(index);
                }
                1 => {
                    let index = random.random_range(0..parts.metadata.len());
                    let mut block = parts.metadata[index].clone();
                    block.0 = odd_number(random, block.0.into(), 8) as u32;
                    parts.metadata.push(block);
                }
                2 => parts.metadata.rotate_left(1),
                3 => parts.id = odd_number(random, parts.id, 8),
                _ => parts.data.extend_from_slice(&[0; 100]),
            },
            _ => {}
        }
        if parts.metadata.is_empty() {
            break;
        }
    }
    let mut file = parts.write();
    // Directory and footer, where they are in the file.
    for _ in 0..[0, 0, 0, 1, 1, 2][random.random_range(0..6)] {
        let footer = file.len() - FOOTER;
        let directory = u32_at(&file, footer + 24).unwrap_or(0) as usize;
        let mut fields = Fields::new(&file, footer.saturating_sub(directory));
        while fields.at() < footer {
            let _ = [4, 4, 8, 8].map(|len| fields.fixed(len));
        }
        let _ = [8, 8, 8, 4, 4, 8, 8, 4].map(|len| fields.fixed(len));
        let found = std::mem::take(&mut fields.found);
        change_field(random, &mut file, &found);
    }
    if random.random_ratio(1, 40) {
        let len = random.random_range(0..file.len());
        file.truncate(len);
    }
    if random.random_ratio(1, 40) {
        // Bytes from anywhere in the file, wherever they are.
        change_bytes(random, &mut file);
    }
    repair(&mut file);
    file
}

fn forge_metadata(
    random: &mut Random,
    parts: &mut Parts,
    kind: u32,
    fields: fn(&[u8]) -> Option<Vec<super::Field>>,
) {
    let Some(block) = parts.block(kind) else { return };
    for _ in 0..random.random_range(1..3) {
        match fields(block) {
            Some(found) if !random.random_ratio(1, 8) => change_field(random, block, &found),
            _ => change_bytes(random, block),
        }
    }
}

/// The fields of the fences.
pub fn fences_fields(bytes: &[u8]) -> Option<Vec<super::Field>> {
    let mut fields = Fields::new(bytes, 0);
    let (count, _) = (fields.fixed(4)?, fields.fixed(4)?);
    // The counts say what the rest is, so they are met more often than by chance.
    fields.found.extend(fields.found.clone());
    for len in [(8, count), (8, count + 1), (4, count + 1)] {
        for _ in 0..len.1 {
            fields.fixed(len.0)?;
        }
    }
    fields.bytes(bytes.len() - fields.at());
    Some(fields.found)
}

/// The fields of the blocked filter.
pub fn blocked_filter_fields(bytes: &[u8]) -> Option<Vec<super::Field>> {
    let mut fields = Fields::new(bytes, 0);
    fields.fixed(4)?;
    fields.fixed(1)?;
    fields.bytes(LINE - fields.at())?;
    fields.bytes(bytes.len() - fields.at());
    Some(fields.found)
}

/// The fields of the Bloom filter.
pub fn bloom_filter_fields(bytes: &[u8]) -> Option<Vec<super::Field>> {
    let mut fields = Fields::new(bytes, 0);
    fields.fixed(1)?;
    fields.fixed(8)?;
    fields.fixed(4)?;
    fields.bytes(32)?;
    fields.bytes(bytes.len() - fields.at());
    Some(fields.found)
}

/// The fields of the locator: those of its header, and the words of its first buckets.
pub fn locator_fields(bytes: &[u8]) -> Option<Vec<super::Field>> {
    let mut fields = Fields::new(bytes, 0);
    for len in [4, 1, 1, 2, 8] {
        fields.fixed(len)?;
    }
    // What the header says is met more often than by chance: there may be thousands of words.
    fields.found.extend([fields.found.clone(), fields.found.clone(), fields.found.clone()].concat());
    fields.bytes(LINE - fields.at())?;
    let mut words = Vec::new();
    for line in (LINE..bytes.len()).step_by(LINE).take(100) {
        let mut bucket = Fields::new(bytes, line);
        let entries = (bucket.fixed(4)? & 15) as usize;
        // Beside the first word those that count, and one that does not.
        for _ in 0..(entries + 1).min(15) {
            bucket.fixed(4)?;
        }
        words.append(&mut bucket.found);
    }
    fields.found.append(&mut words);
    Some(fields.found)
}

/// The fields of the properties.
pub fn properties_fields(bytes: &[u8]) -> Option<Vec<super::Field>> {
    let mut fields = Fields::new(bytes, 0);
    while fields.at() < bytes.len() {
        let tag = fields.varint()?;
        let len = fields.varint()?;
        let start = fields.at();
        match tag {
            1 | 3 | 15 | 16 => drop(fields.bytes(len as usize)?),
            _ => {
                fields.varint()?;
            }
        }
        if (fields.at() - start) as u64 != len {
            return None;
        }
    }
    Some(fields.found)
}

/// Changes a data block, within its compression or around it.
fn forge_block(random: &mut Random, parts: &mut Parts) {
    let extents = parts.extents();
    if extents.is_empty() {
        return;
    }
    let mut blocks: Vec<Vec<u8>> = extents.into_iter().map(|extent| parts.data[extent].to_vec()).collect();
    let index = random.random_range(0..blocks.len());
    match random.random_range(0..20) {
        0 => {
            let other = random.random_range(0..blocks.len());
            blocks.swap(index, other);
        }
        1 => drop(blocks.remove(index)),
        2 => {
            let copy = blocks[index].clone();
            blocks.insert(index, copy);
        }
        _ => blocks[index] = forged_block(random, &blocks[index]),
    }
    parts.set_blocks(&blocks);
}

fn forged_block(random: &mut Random, sound: &[u8]) -> Vec<u8> {
    let Some((header, payload)) = sound.split_at_checked(16) else { return sound.to_vec() };
    let is_compressed = header[6] & 1 == 1;
    let mut raw = match is_compressed {
        true => snap::raw::Decoder::new().decompress_vec(payload).unwrap_or_default(),
        false => payload.to_vec(),
    };
    let mut header = header.to_vec();
    for _ in 0..random.random_range(0..4) {
        if random.random_ratio(1, 8) {
            change_bytes(random, &mut raw);
            continue;
        }
        let count = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let fields = payload_fields(&raw, count);
        change_field(random, &mut raw, &fields);
    }
    if random.random_ratio(1, 4) {
        let mut fields = Fields::new(&header, 4);
        let _ = [2, 2, 8].map(|len| fields.fixed(len));
        let found = std::mem::take(&mut fields.found);
        change_field(random, &mut header, &found);
    }
    if random.random_ratio(1, 30) {
        // Thousands of slots, all of the first entry, in one that its zeros may compress to nothing.
        raw.truncate(100);
        raw.resize(random.random_range(100..65_536), 0);
        let count = random.random_range(0..(raw.len() / 2).min(65_535)) as u16;
        header[4..6].copy_from_slice(&count.to_le_bytes());
    }
    let mut block = header;
    if is_compressed && !random.random_ratio(1, 10) {
        let mut packed = snap::raw::Encoder::new().compress_vec(&raw).unwrap_or_default();
        match random.random_range(0..12) {
            0 => change_bytes(random, &mut packed),
            form @ (1 | 2) => {
                if form == 2 {
                    // One entry, which may be as long as a value can be.
                    block[4..6].copy_from_slice(&1_u16.to_le_bytes());
                }
                let mut fields = Fields::new(&packed, 0);
                let _ = fields.varint();
                let found = std::mem::take(&mut fields.found);
                change_field(random, &mut packed, &found);
            }
            _ => {}
        }
        block.extend_from_slice(&packed);
    } else {
        block.extend_from_slice(&raw);
    }
    block
}

/// The fields of a payload: those of some entries, and the slots.
fn payload_fields(payload: &[u8], count: usize) -> Vec<super::Field> {
    let Some(slots) = payload.len().checked_sub(2 * count) else { return Vec::new() };
    let mut found = Vec::new();
    for slot in 0..count.min(200) {
        let mut fields = Fields::new(payload, slots + 2 * slot);
        let start = fields.fixed(2).unwrap_or(0) as usize;
        found.append(&mut fields.found);
        if start >= payload.len() {
            continue;
        }
        let mut fields = Fields::new(payload, start);
        let _ = entry_fields(&mut fields);
        found.append(&mut fields.found);
    }
    found
}

fn entry_fields(fields: &mut Fields<'_>) -> Option<()> {
    let tag = fields.fixed(1)?;
    let (key_len, value_len) = (fields.varint()?, fields.varint()?);
    if tag & 16 != 0 {
        fields.varint()?;
    }
    fields.bytes(usize::try_from(key_len).ok()?)?;
    fields.bytes(usize::try_from(value_len).ok()?)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use terrace::{Compression, FilterKind};

    use super::*;
    use crate::samples;

    #[test]
    fn a_table_comes_together_as_it_was() {
        for compression in [Compression::None, Compression::Snappy] {
            let (filter, filter_block) = match compression {
                Compression::None => (FilterKind::Blocked, BLOCKED_FILTER),
                Compression::Snappy => (FilterKind::Bloom, BLOOM_FILTER),
            };
            let table = samples::table(1, 20_000, compression, (filter, 10), true).bytes;
            let mut parts = Parts::read(&table);
            assert!(parts.write() == table);
            let blocks: Vec<Vec<u8>> =
                parts.extents().into_iter().map(|extent| parts.data[extent].to_vec()).collect();
            assert!(blocks.len() > 2);
            parts.set_blocks(&blocks);
            assert!(parts.write() == table);
            let mut repaired = table.clone();
            repair(&mut repaired);
            assert!(repaired == table, "a sound table needs no repair");
            for kind in [FENCES, filter_block, PROPERTIES, LOCATOR] {
                assert!(parts.block(kind).is_some_and(|block| !block.is_empty()));
            }
            assert!(fences_fields(parts.block(FENCES).unwrap()).is_some());
            assert!(properties_fields(parts.block(PROPERTIES).unwrap()).is_some());
            let locator = locator_fields(parts.block(LOCATOR).unwrap()).unwrap();
            let words = locator.iter().filter(|field| field.at.start >= LINE).count();
            assert!(words > 50, "{words} words of the locator's buckets are fields");
        }
    }
}
