//! What the manifest says, as plain data: [`Edit`]s and the [`Catalog`] that they add up to. No I/O happens here.
//!
//! The encoding is `docs/format.md` §4. A change is checked before it is applied: one that contradicts the catalog is
//! damage, and is reported without changing anything.

use std::collections::BTreeMap;

use terrace_compaction::LEVELS;
use terrace_sstable::{Compression, FilterKind, KEY_BYTES_MAX, SEQUENCE_MAX, TableMeta, VALUE_BYTES_MAX};
use terrace_wal::{HEADER_BYTES, Position};

use crate::KeyspaceOptions;
use crate::codec::{Decoder, put_bytes, put_varint};

/// The keyspace that every database has.
pub(crate) const DEFAULT_KEYSPACE: &str = "default";

/// All tables together have no more bytes than this, and no more entries: sums of them never overflow.
const TOTAL_MAX: u64 = 1 << 60;

/// Bits of the filter for each key take the bits below this one of their byte, the filter's kind those above.
const FILTER_KIND_SHIFT: u32 = 6;

/// Tables are numbered up to here at most.
pub(crate) const TABLE_NUMBER_MAX: u64 = 1 << 60;

/// A database is opened if its next table's number is not above this: then there is always one more.
pub(crate) const NEXT_TABLE_MAX: u64 = TABLE_NUMBER_MAX / 2;

/// One change of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Database { id: [u8; 16], created_micros: u64, max_value_bytes: u64 },
    NextTable(u64),
    LastSequence(u64),
    KeyspaceAdded { id: u32, name: String, options: KeyspaceOptions },
    KeyspaceDropped { id: u32 },
    TableAdded { keyspace: u32, level: usize, meta: TableMeta },
    TableRemoved { keyspace: u32, level: usize, number: u64 },
    KeyspaceFlushed { id: u32, through: u64 },
    SegmentAdded { number: u32, length: u64 },
    SegmentsRetired { below: u32, first_sequence: u64 },
    NextKeyspace(u32),
    LogSynced(Position),
}

/// Changes that are recorded together.
pub(crate) type Edit = Vec<Change>;

/// One keyspace, as the manifest knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CatalogKeyspace {
    pub name: String,
    pub options: KeyspaceOptions,
    /// Level 0 in the order in which its tables were added, oldest first; the others by key.
    pub levels: [Vec<TableMeta>; LEVELS],
    /// Its operations up to this sequence number are in tables, or gone with a clear.
    pub flushed_through: u64,
}

/// Everything that the manifest says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    pub database_id: [u8; 16],
    pub created_micros: u64,
    pub max_value_bytes: u64,
    pub next_table: u64,
    pub last_sequence: u64,
    pub next_keyspace: u32,
    pub keyspaces: BTreeMap<u32, CatalogKeyspace>,
    /// Live log segments and their lengths.
    pub segments: BTreeMap<u32, u64>,
    /// Every segment below it is retired.
    pub first_segment: u32,
    /// The sequence number that the first record from there on has, or will have.
    pub log_first_sequence: u64,
    /// The highest segment number that was ever named.
    pub last_segment: u32,
    pub log_synced: Position,
}

/// Why an edit was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EditError {
    /// It holds a field that this version does not know.
    UnknownField(u8),
    /// It cannot be decoded, or contradicts what is known.
    Damaged(String),
}

fn damaged<T>(what: impl Into<String>) -> Result<T, EditError> {
    Err(EditError::Damaged(what.into()))
}

impl Catalog {
    /// The catalog of a new database.
    pub fn new(
        database_id: [u8; 16],
        created_micros: u64,
        max_value_bytes: u64,
        defaults: KeyspaceOptions,
    ) -> Self {
        let mut catalog = Catalog { next_table: 1, ..Catalog::default() };
        let first = vec![
            Change::Database { id: database_id, created_micros, max_value_bytes },
            Change::NextTable(1),
            Change::KeyspaceAdded { id: 0, name: DEFAULT_KEYSPACE.to_owned(), options: defaults },
            Change::NextKeyspace(1),
            Change::SegmentsRetired { below: 1, first_sequence: 1 },
        ];
        for change in first {
            catalog.apply(change).expect("the first edit contradicts nothing");
        }
        catalog
    }

    /// The edit that makes this catalog out of nothing.
    pub fn snapshot(&self) -> Edit {
        let mut edit = vec![
            Change::Database {
                id: self.database_id,
                created_micros: self.created_micros,
                max_value_bytes: self.max_value_bytes,
            },
            Change::NextTable(self.next_table),
            Change::LastSequence(self.last_sequence),
        ];
        for (&id, keyspace) in &self.keyspaces {
            edit.push(Change::KeyspaceAdded {
                id,
                name: keyspace.name.clone(),
                options: keyspace.options.clone(),
            });
            edit.push(Change::KeyspaceFlushed { id, through: keyspace.flushed_through });
            for (level, tables) in keyspace.levels.iter().enumerate() {
                edit.extend(tables.iter().map(|meta| Change::TableAdded {
                    keyspace: id,
                    level,
                    meta: meta.clone(),
                }));
            }
        }
        edit.push(Change::NextKeyspace(self.next_keyspace));
        // Retired before added: the numbers below `first_segment` must not be named again.
        edit.push(Change::SegmentsRetired {
            below: self.first_segment,
            first_sequence: self.log_first_sequence,
        });
        edit.extend(self.segments.iter().map(|(&number, &length)| Change::SegmentAdded { number, length }));
        edit.push(Change::LogSynced(self.log_synced));
        edit
    }

    /// Bytes of the live log segments.
    pub fn log_bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// Whether any keyspace has the table.
    pub fn holds_table(&self, number: u64) -> bool {
        self.keyspaces
            .values()
            .flat_map(|keyspace| keyspace.levels.iter().flatten())
            .any(|meta| meta.number == number)
    }

    /// Applies one change, or refuses it and leaves the catalog as it was.
    pub fn apply(&mut self, change: Change) -> Result<(), EditError> {
        match change {
            Change::Database { id, created_micros, max_value_bytes } => {
                self.database_id = id;
                self.created_micros = created_micros;
                self.max_value_bytes = max_value_bytes;
            }
            Change::NextTable(number) => self.next_table = self.next_table.max(number),
            Change::LastSequence(sequence) => {
                if sequence > SEQUENCE_MAX {
                    return damaged(format!("sequence number {sequence} is out of range"));
                }
                self.last_sequence = self.last_sequence.max(sequence);
            }
            Change::KeyspaceAdded { id, name, options } => {
                if self.keyspaces.contains_key(&id) || self.keyspaces.values().any(|known| known.name == name)
                {
                    return damaged(format!("keyspace {id} ({name:?}) is added twice"));
                }
                self.next_keyspace = self.next_keyspace.max(id.saturating_add(1));
                let levels = Default::default();
                self.keyspaces.insert(id, CatalogKeyspace { name, options, levels, flushed_through: 0 });
            }
            Change::KeyspaceDropped { id } => {
                if self.keyspaces.remove(&id).is_none() {
                    return damaged(format!("keyspace {id} is dropped, but does not exist"));
                }
            }
            Change::TableAdded { keyspace, level, meta } => self.add_table(keyspace, level, meta)?,
            Change::TableRemoved { keyspace, level, number } => {
                let tables = &mut self.keyspace_mut(keyspace)?.levels[level];
                let Some(index) = tables.iter().position(|meta| meta.number == number) else {
                    return damaged(format!(
                        "table {number} is removed from level {level}, but is not there"
                    ));
                };
                tables.remove(index);
            }
            Change::KeyspaceFlushed { id, through } => {
                let keyspace = self.keyspace_mut(id)?;
                keyspace.flushed_through = keyspace.flushed_through.max(through);
                // What was flushed was written: the numbers of new writes lie above.
                self.last_sequence = self.last_sequence.max(through);
            }
            Change::SegmentAdded { number, length } => {
                if number <= self.last_segment {
                    return damaged(format!("log segment {number} is added out of order"));
                }
                self.segments.insert(number, length);
                self.last_segment = self.last_segment.max(number);
            }
            Change::SegmentsRetired { below, first_sequence } => {
                self.first_segment = self.first_segment.max(below);
                self.log_first_sequence = self.log_first_sequence.max(first_sequence);
                self.last_segment = self.last_segment.max(below.saturating_sub(1));
                self.segments = self.segments.split_off(&below);
            }
            Change::NextKeyspace(id) => self.next_keyspace = self.next_keyspace.max(id),
            Change::LogSynced(position) => self.log_synced = self.log_synced.max(position),
        }
        Ok(())
    }

    fn keyspace_mut(&mut self, id: u32) -> Result<&mut CatalogKeyspace, EditError> {
        match self.keyspaces.get_mut(&id) {
            Some(keyspace) => Ok(keyspace),
            None => damaged(format!("keyspace {id} is changed, but does not exist")),
        }
    }

    fn add_table(&mut self, keyspace: u32, level: usize, meta: TableMeta) -> Result<(), EditError> {
        let (mut bytes, mut entries) = (meta.file_len, meta.entries);
        for known in self.keyspaces.values().flat_map(|keyspace| keyspace.levels.iter().flatten()) {
            if known.number == meta.number {
                return damaged(format!("table {} is added twice", meta.number));
            }
            bytes = bytes.saturating_add(known.file_len);
            entries = entries.saturating_add(known.entries);
        }
        if bytes > TOTAL_MAX || entries > TOTAL_MAX {
            return damaged(format!("with table {} there is more than any disk holds", meta.number));
        }
        let next_table = self.next_table.max(meta.number.saturating_add(1));
        let last_sequence = self.last_sequence.max(meta.largest_sequence);
        let tables = &mut self.keyspace_mut(keyspace)?.levels[level];
        if level == 0 {
            tables.push(meta);
            (self.next_table, self.last_sequence) = (next_table, last_sequence);
            return Ok(());
        }
        let index = tables.partition_point(|known| known.smallest_key < meta.smallest_key);
        let overlaps = index > 0 && tables[index - 1].largest_key >= meta.smallest_key
            || tables.get(index).is_some_and(|next| next.smallest_key <= meta.largest_key);
        if overlaps {
            return damaged(format!("table {} overlaps another of level {level}", meta.number));
        }
        tables.insert(index, meta);
        (self.next_table, self.last_sequence) = (next_table, last_sequence);
        Ok(())
    }
}

/// Encodes an edit as the payload of a record.
pub(crate) fn encode(edit: &[Change]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut body = Vec::new();
    for change in edit {
        body.clear();
        let tag = encode_change(change, &mut body);
        out.push(tag);
        put_bytes(&mut out, &body);
    }
    out
}

fn encode_change(change: &Change, body: &mut Vec<u8>) -> u8 {
    match change {
        Change::Database { id, created_micros, max_value_bytes } => {
            body.extend_from_slice(id);
            put_varint(body, *created_micros);
            put_varint(body, *max_value_bytes);
            1
        }
        Change::NextTable(number) => {
            put_varint(body, *number);
            2
        }
        Change::LastSequence(sequence) => {
            put_varint(body, *sequence);
            3
        }
        Change::KeyspaceAdded { id, name, options } => {
            put_varint(body, u64::from(*id));
            put_bytes(body, name.as_bytes());
            body.push(options.table.compression as u8);
            body.push(options.table.filter_bits_per_key | (options.table.filter as u8) << FILTER_KIND_SHIFT);
            put_varint(body, options.table_bytes);
            put_varint(body, u64::from(options.table.block_bytes));
            4
        }
        Change::KeyspaceDropped { id } => {
            put_varint(body, u64::from(*id));
            5
        }
        Change::TableAdded { keyspace, level, meta } => {
            put_varint(body, u64::from(*keyspace));
            body.push(*level as u8);
            put_varint(body, meta.number);
            body.extend_from_slice(&meta.table_id.to_le_bytes());
            for number in
                [meta.file_len, meta.entries, meta.deletes, meta.smallest_sequence, meta.largest_sequence]
            {
                put_varint(body, number);
            }
            put_bytes(body, &meta.smallest_key);
            put_bytes(body, &meta.largest_key);
            6
        }
        Change::TableRemoved { keyspace, level, number } => {
            put_varint(body, u64::from(*keyspace));
            body.push(*level as u8);
            put_varint(body, *number);
            7
        }
        Change::KeyspaceFlushed { id, through } => {
            put_varint(body, u64::from(*id));
            put_varint(body, *through);
            8
        }
        Change::SegmentAdded { number, length } => {
            put_varint(body, u64::from(*number));
            put_varint(body, *length);
            9
        }
        Change::SegmentsRetired { below, first_sequence } => {
            put_varint(body, u64::from(*below));
            put_varint(body, *first_sequence);
            10
        }
        Change::NextKeyspace(id) => {
            put_varint(body, u64::from(*id));
            11
        }
        Change::LogSynced(position) => {
            put_varint(body, u64::from(position.segment));
            put_varint(body, u64::from(position.offset));
            12
        }
    }
}

/// Decodes the payload of a record.
pub(crate) fn decode(payload: &[u8]) -> Result<Edit, EditError> {
    let mut decoder = Decoder::new(payload);
    let mut edit = Vec::new();
    while !decoder.is_empty() {
        let field = decoder.u8().zip(decoder.prefixed());
        let Some((tag, body)) = field else {
            return damaged("a version edit ends in the middle of a field");
        };
        if !(1..=12).contains(&tag) {
            return Err(EditError::UnknownField(tag));
        }
        let mut body = Decoder::new(body);
        match decode_change(tag, &mut body) {
            Some(change) if body.is_empty() => edit.push(change),
            _ => return damaged(format!("field {tag} of a version edit cannot be decoded")),
        }
    }
    Ok(edit)
}

fn decode_change(tag: u8, body: &mut Decoder<'_>) -> Option<Change> {
    Some(match tag {
        1 => Change::Database {
            id: body.array()?,
            created_micros: body.varint()?,
            max_value_bytes: at_most(body.varint()?, VALUE_BYTES_MAX as u64)?,
        },
        2 => Change::NextTable(at_most(body.varint()?, TABLE_NUMBER_MAX + 1)?),
        3 => Change::LastSequence(body.varint()?),
        4 => {
            let id = body.varint32()?;
            let name = String::from_utf8(body.prefixed()?.to_vec()).ok()?;
            let mut options = KeyspaceOptions::new();
            options.table.compression = Compression::from_byte(body.u8()?)?;
            let filter = body.u8()?;
            options.table.filter = FilterKind::from_byte(filter >> FILTER_KIND_SHIFT)?;
            options.table.filter_bits_per_key = filter & !(u8::MAX << FILTER_KIND_SHIFT);
            options.table_bytes = body.varint()?;
            options.table.block_bytes = body.varint32()?;
            options.check().ok()?;
            Change::KeyspaceAdded { id, name, options }
        }
        5 => Change::KeyspaceDropped { id: body.varint32()? },
        6 => Change::TableAdded {
            keyspace: body.varint32()?,
            level: decode_level(body)?,
            meta: decode_meta(body)?,
        },
        7 => Change::TableRemoved {
            keyspace: body.varint32()?,
            level: decode_level(body)?,
            number: body.varint()?,
        },
        8 => {
            Change::KeyspaceFlushed { id: body.varint32()?, through: at_most(body.varint()?, SEQUENCE_MAX)? }
        }
        // There is always a number behind the last one.
        9 => Change::SegmentAdded {
            number: body.varint32().filter(|number| *number < u32::MAX)?,
            length: body.varint().filter(|length| (HEADER_BYTES..=u32::MAX.into()).contains(length))?,
        },
        10 => Change::SegmentsRetired {
            below: body.varint32()?,
            first_sequence: at_most(body.varint()?, SEQUENCE_MAX + 1)?,
        },
        11 => Change::NextKeyspace(body.varint32()?),
        12 => Change::LogSynced(Position { segment: body.varint32()?, offset: body.varint32()? }),
        _ => return None,
    })
}

fn at_most(number: u64, most: u64) -> Option<u64> {
    (number <= most).then_some(number)
}

fn decode_level(body: &mut Decoder<'_>) -> Option<usize> {
    Some(usize::from(body.u8()?)).filter(|&level| level < LEVELS)
}

fn decode_meta(body: &mut Decoder<'_>) -> Option<TableMeta> {
    let meta = TableMeta {
        number: body.varint()?,
        table_id: body.u64()?,
        file_len: body.varint()?,
        entries: body.varint()?,
        deletes: body.varint()?,
        smallest_sequence: body.varint()?,
        largest_sequence: body.varint()?,
        smallest_key: body.prefixed()?.into(),
        largest_key: body.prefixed()?.into(),
    };
    let sound = meta.number <= TABLE_NUMBER_MAX
        && meta.deletes <= meta.entries
        && meta.smallest_key <= meta.largest_key
        && meta.largest_key.len() <= KEY_BYTES_MAX
        && meta.smallest_key.len() <= KEY_BYTES_MAX
        && meta.smallest_sequence <= meta.largest_sequence
        && meta.largest_sequence <= SEQUENCE_MAX;
    sound.then_some(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(number: u64, smallest: &str, largest: &str) -> TableMeta {
        TableMeta {
            number,
            table_id: number * 77,
            file_len: 4096,
            entries: 10,
            deletes: 1,
            smallest_sequence: 3,
            largest_sequence: 12,
            smallest_key: smallest.as_bytes().into(),
            largest_key: largest.as_bytes().into(),
        }
    }

    #[test]
    fn the_kind_of_the_filter_stands_above_its_bits() {
        let filter_byte = |options: KeyspaceOptions| {
            let mut body = Vec::new();
            encode_change(&Change::KeyspaceAdded { id: 1, name: "k".into(), options }, &mut body);
            body[4]
        };
        let options = KeyspaceOptions::new().filter_bits_per_key(3);
        assert_eq!(filter_byte(options.clone()), 0x03);
        assert_eq!(filter_byte(options.filter_kind(FilterKind::Bloom)), 0x43);
    }

    fn busy_catalog() -> Catalog {
        let mut catalog = Catalog::new([7; 16], 99, 1 << 20, KeyspaceOptions::new());
        let options = KeyspaceOptions::new()
            .compression(Compression::Snappy)
            .filter_kind(FilterKind::Bloom)
            .filter_bits_per_key(3);
        let edit = vec![
            Change::KeyspaceAdded { id: 4, name: "four".into(), options },
            Change::TableAdded { keyspace: 4, level: 0, meta: meta(9, "a", "z") },
            Change::TableAdded { keyspace: 4, level: 0, meta: meta(10, "b", "c") },
            Change::TableAdded { keyspace: 0, level: 6, meta: meta(3, "m", "n") },
            Change::TableAdded { keyspace: 0, level: 6, meta: meta(4, "a", "c") },
            Change::KeyspaceFlushed { id: 4, through: 12 },
            Change::LastSequence(12),
            Change::SegmentAdded { number: 1, length: 1 << 20 },
            Change::SegmentAdded { number: 2, length: 1 << 20 },
            Change::SegmentAdded { number: 3, length: 2 << 20 },
            Change::SegmentsRetired { below: 2, first_sequence: 9 },
            Change::LogSynced(Position { segment: 3, offset: 64 }),
        ];
        let decoded = decode(&encode(&edit)).unwrap();
        assert_eq!(decoded, edit);
        for change in decoded {
            catalog.apply(change).unwrap();
        }
        catalog
    }

    #[test]
    fn a_snapshot_makes_the_same_catalog() {
        let mut catalog = busy_catalog();
        for retire_all in [false, true] {
            if retire_all {
                catalog.apply(Change::SegmentsRetired { below: 4, first_sequence: 13 }).unwrap();
            }
            let mut copy = Catalog::default();
            for change in decode(&encode(&catalog.snapshot())).unwrap() {
                copy.apply(change).unwrap();
            }
            assert_eq!(copy, catalog);
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        let table = |change: fn(&mut TableMeta)| {
            let mut meta = meta(7, "a", "c");
            change(&mut meta);
            Change::TableAdded { keyspace: 0, level: 0, meta }
        };
        let id = [7; 16];
        for (sound, change) in [
            (true, Change::SegmentAdded { number: u32::MAX - 1, length: u32::MAX.into() }),
            (false, Change::SegmentAdded { number: u32::MAX, length: 1 << 20 }),
            (false, Change::SegmentAdded { number: 1, length: 1 << 32 }),
            (false, Change::SegmentAdded { number: 1, length: HEADER_BYTES - 1 }),
            (true, Change::Database { id, created_micros: 0, max_value_bytes: VALUE_BYTES_MAX as u64 }),
            (false, Change::Database { id, created_micros: 0, max_value_bytes: VALUE_BYTES_MAX as u64 + 1 }),
            (true, Change::NextTable(TABLE_NUMBER_MAX + 1)),
            (false, Change::NextTable(TABLE_NUMBER_MAX + 2)),
            (false, Change::NextTable(u64::MAX)),
            (false, Change::KeyspaceFlushed { id: 0, through: SEQUENCE_MAX + 1 }),
            (true, Change::SegmentsRetired { below: u32::MAX, first_sequence: SEQUENCE_MAX + 1 }),
            (false, Change::SegmentsRetired { below: 1, first_sequence: u64::MAX }),
            (true, table(|_| ())),
            (false, table(|meta| meta.number = u64::MAX)),
            (false, table(|meta| meta.deletes = meta.entries + 1)),
        ] {
            assert_eq!(decode(&encode(std::slice::from_ref(&change))).is_ok(), sound, "{change:?}");
        }
    }

    #[test]
    fn sums_over_all_tables_do_not_overflow() {
        let before = busy_catalog();
        let metas = || before.keyspaces.values().flat_map(|keyspace| keyspace.levels.iter().flatten());
        let bytes_left = TOTAL_MAX - metas().map(|meta| meta.file_len).sum::<u64>();
        let entries_left = TOTAL_MAX - metas().map(|meta| meta.entries).sum::<u64>();
        for (file_len, entries, fits) in [
            (bytes_left, 1, true),
            (bytes_left + 1, 1, false),
            (u64::MAX, 1, false),
            (1, entries_left, true),
            (1, entries_left + 1, false),
            (1, u64::MAX, false),
            (bytes_left, entries_left, true),
        ] {
            let mut catalog = before.clone();
            let meta = TableMeta { file_len, entries, ..meta(20, "x", "y") };
            let applied = catalog.apply(Change::TableAdded { keyspace: 4, level: 0, meta });
            assert_eq!(applied.is_ok(), fits, "{file_len} bytes, {entries} entries");
            assert_eq!(catalog == before, !fits);
        }
    }

    #[test]
    fn new_writes_come_after_what_was_flushed() {
        let mut catalog = busy_catalog();
        catalog.apply(Change::KeyspaceFlushed { id: 4, through: 500 }).unwrap();
        assert_eq!(catalog.last_sequence, 500);
        let meta = TableMeta { largest_sequence: 900, ..meta(30, "x", "y") };
        catalog.apply(Change::TableAdded { keyspace: 4, level: 2, meta }).unwrap();
        assert_eq!(catalog.last_sequence, 900);
    }

    #[test]
    fn contradictions_are_refused_and_change_nothing() {
        let catalog = busy_catalog();
        for change in [
            Change::TableAdded { keyspace: 0, level: 6, meta: meta(5, "b", "d") },
            Change::TableAdded { keyspace: 0, level: 6, meta: meta(9, "x", "y") },
            Change::TableAdded { keyspace: 8, level: 6, meta: meta(99, "x", "y") },
            Change::TableRemoved { keyspace: 0, level: 5, number: 3 },
            Change::KeyspaceDropped { id: 2 },
            Change::KeyspaceAdded { id: 5, name: "four".into(), options: KeyspaceOptions::new() },
            Change::KeyspaceFlushed { id: 5, through: 1 },
            Change::SegmentAdded { number: 1, length: 4096 },
            Change::LastSequence(u64::MAX),
        ] {
            let mut copy = catalog.clone();
            assert!(copy.apply(change.clone()).is_err(), "{change:?}");
            assert_eq!(copy, catalog, "{change:?}");
        }
    }

    /// Whoever wrote a longer field meant more by it.
    #[test]
    fn a_field_with_a_byte_too_many_is_refused() {
        for change in busy_catalog().snapshot() {
            let mut encoded = encode(std::slice::from_ref(&change));
            assert!(decode(&encoded).is_ok() && encoded[1] < 127, "its length takes one byte");
            encoded[1] += 1;
            encoded.push(0);
            assert!(matches!(decode(&encoded), Err(EditError::Damaged(_))), "{change:?}");
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let encoded = encode(&busy_catalog().snapshot());
        for cut in 0..encoded.len() {
            let _ = decode(&encoded[..cut]);
        }
        for index in 0..encoded.len() {
            for flip in [1, 0x10, 0x80, 0xff] {
                let mut copy = encoded.clone();
                copy[index] ^= flip;
                if let Ok(edit) = decode(&copy) {
                    let mut catalog = Catalog::default();
                    let _ = edit.into_iter().try_for_each(|change| catalog.apply(change));
                }
            }
        }
        assert_eq!(decode(&[200, 0]), Err(EditError::UnknownField(200)));
    }
}
