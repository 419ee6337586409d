//! What a table says about itself. Frozen: `docs/format.md` §2.5.

use crate::{Compression, varint};

/// Why a table was written. The values are frozen: they are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// A memtable was full, or a flush was asked for.
    Flush = 1,
    /// Tables were merged.
    Compaction = 2,
    /// The log was replayed at open.
    Recovery = 3,
}

/// What a table says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// The database it was written for.
    pub database_id: [u8; 16],
    /// The keyspace's id.
    pub keyspace_id: u32,
    /// The keyspace's name.
    pub keyspace_name: String,
    /// The table's number then.
    pub number: u64,
    /// When it was written, in microseconds since 1970.
    pub created_micros: u64,
    /// Entries of all kinds.
    pub entries: u64,
    /// Tombstones among them.
    pub deletes: u64,
    /// Sum of the lengths of the keys.
    pub raw_key_bytes: u64,
    /// Sum of the lengths of the values.
    pub raw_value_bytes: u64,
    /// How many data blocks there are.
    pub data_blocks: u64,
    /// How long the data region would be had nothing been compressed, nor aligned.
    pub raw_block_bytes: u64,
    /// How the blocks were to be compressed.
    pub compression: Compression,
    /// The smallest sequence number.
    pub smallest_sequence: u64,
    /// The largest sequence number.
    pub largest_sequence: u64,
    /// The first key.
    pub smallest_key: Box<[u8]>,
    /// The last key.
    pub largest_key: Box<[u8]>,
    /// Why it was written.
    pub cause: Cause,
    /// The level that it was written for. It may have moved since.
    pub level: u8,
}

impl Properties {
    /// The bytes on disk.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, &self.database_id);
        put_number(&mut out, 2, u64::from(self.keyspace_id));
        put_bytes(&mut out, 3, self.keyspace_name.as_bytes());
        put_number(&mut out, 4, self.number);
        put_number(&mut out, 5, self.created_micros);
        put_number(&mut out, 6, self.entries);
        put_number(&mut out, 7, self.deletes);
        put_number(&mut out, 8, self.raw_key_bytes);
        put_number(&mut out, 9, self.raw_value_bytes);
        put_number(&mut out, 10, self.data_blocks);
        put_number(&mut out, 11, self.raw_block_bytes);
        put_number(&mut out, 12, self.compression as u64);
        put_number(&mut out, 13, self.smallest_sequence);
        put_number(&mut out, 14, self.largest_sequence);
        put_bytes(&mut out, 15, &self.smallest_key);
        put_bytes(&mut out, 16, &self.largest_key);
        put_number(&mut out, 17, self.cause as u64);
        put_number(&mut out, 18, u64::from(self.level));
        out
    }

    /// Reads what [`Properties::encode`] wrote; the error says what is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Properties, String> {
        let fields = Fields::read(bytes)?;
        Ok(Properties {
            database_id: (fields.bytes(1)?.try_into()).map_err(|_| "the database id is not 16 bytes long")?,
            keyspace_id: u32::try_from(fields.number(2)?).map_err(|_| "the keyspace id is too large")?,
            keyspace_name: (String::from_utf8(fields.bytes(3)?.to_vec()))
                .map_err(|_| "the keyspace name is not UTF-8")?,
            number: fields.number(4)?,
            created_micros: fields.number(5)?,
            entries: fields.number(6)?,
            deletes: fields.number(7)?,
            raw_key_bytes: fields.number(8)?,
            raw_value_bytes: fields.number(9)?,
            data_blocks: fields.number(10)?,
            raw_block_bytes: fields.number(11)?,
            compression: (u8::try_from(fields.number(12)?).ok())
                .and_then(Compression::from_byte)
                .ok_or("the compression is unknown")?,
            smallest_sequence: fields.number(13)?,
            largest_sequence: fields.number(14)?,
            smallest_key: fields.bytes(15)?.into(),
            largest_key: fields.bytes(16)?.into(),
            cause: match fields.number(17)? {
                1 => Cause::Flush,
                2 => Cause::Compaction,
                3 => Cause::Recovery,
                _ => return Err("the cause is unknown".into()),
            },
            level: u8::try_from(fields.number(18)?).map_err(|_| "the level is too large")?,
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    varint::write(out, tag);
    varint::write(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, tag: u64, number: u64) {
    varint::write(out, tag);
    varint::write(out, varint::len(number) as u64);
    varint::write(out, number);
}

/// The fields, in ascending order of tag.
struct Fields<'a>(Vec<(u32, &'a [u8])>);

impl<'a> Fields<'a> {
    fn read(mut bytes: &'a [u8]) -> Result<Fields<'a>, String> {
        let mut fields: Vec<(u32, &[u8])> = Vec::new();
        while !bytes.is_empty() {
            let (tag, tag_len) = varint::read32(bytes).ok_or("the tag of a property is no number")?;
            let rest = &bytes[tag_len..];
            let (len, len_len) = varint::read32(rest).ok_or("the length of a property is no number")?;
            let (field, rest) = (rest[len_len..].split_at_checked(len as usize))
                .ok_or_else(|| format!("property {tag} is longer than the properties"))?;
            if fields.last().is_some_and(|last| last.0 >= tag) {
                return Err("the tags of the properties do not ascend".into());
            }
            fields.push((tag, field));
            bytes = rest;
        }
        Ok(Fields(fields))
    }

    fn bytes(&self, tag: u32) -> Result<&'a [u8], String> {
        let at = self.0.binary_search_by_key(&tag, |field| field.0);
        at.map(|at| self.0[at].1).map_err(|_| format!("property {tag} is missing"))
    }

    fn number(&self, tag: u32) -> Result<u64, String> {
        let bytes = self.bytes(tag)?;
        let number = varint::read(bytes).filter(|(_, len)| *len == bytes.len());
        number.map(|(number, _)| number).ok_or_else(|| format!("property {tag} is no number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties() -> Properties {
        Properties {
            database_id: *b"0123456789abcdef",
            keyspace_id: u32::MAX,
            keyspace_name: "größe".into(),
            number: 12,
            created_micros: 1 << 50,
            entries: 300,
            deletes: 3,
            raw_key_bytes: 1,
            raw_value_bytes: 2,
            data_blocks: 3,
            raw_block_bytes: u64::MAX,
            compression: Compression::Snappy,
            smallest_sequence: 0,
            largest_sequence: 1 << 55,
            smallest_key: Box::from(&b""[..]),
            largest_key: Box::from(&[7; 300][..]),
            cause: Cause::Recovery,
            level: 6,
        }
    }

    #[test]
    fn round_trip_and_unknown_tags() {
        let mut bytes = properties().encode();
        assert_eq!(Properties::decode(&bytes), Ok(properties()));
        put_bytes(&mut bytes, 900, b"from the future");
        assert_eq!(Properties::decode(&bytes), Ok(properties()));
        put_bytes(&mut bytes, 900, b"twice");
        assert!(Properties::decode(&bytes).is_err());
    }

    #[test]
    fn damage_never_panics_and_truncation_is_refused() {
        let bytes = properties().encode();
        for len in 0..bytes.len() {
            assert!(Properties::decode(&bytes[..len]).is_err(), "{len}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let _ = Properties::decode(&damaged);
            }
        }
    }
}
