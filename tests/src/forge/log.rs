//! Forged logs (`docs/format.md` §3): segments, and the batches in them.

use rand::RngExt;

use super::{Field, Fields, change_bytes, change_field, crc, odd_number, u32_at};
use crate::samples::Random;

/// Bytes of a segment before its first record.
pub const HEADER: usize = 64;
/// Bytes of a record before its payload.
pub const RECORD_HEADER: usize = 24;

/// A record, without its checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Bytes 8 to 24 of its header: length of the payload, synced position, kind, reserved.
    pub head: [u8; 16],
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Record {
    /// A record of this kind, which says that the log was synced so far.
    pub fn new(kind: u8, synced: (u32, u32), payload: Vec<u8>) -> Record {
        let mut head = [0; 16];
        head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&synced.0.to_le_bytes());
        head[8..12].copy_from_slice(&synced.1.to_le_bytes());
        head[12] = kind;
        Record { head, payload }
    }
}

/// A segment, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Its header without the checksum.
    pub header: Vec<u8>,
    /// Its records.
    pub records: Vec<Record>,
    /// The length of the file.
    pub len: usize,
}

impl Parts {
    /// Takes a sound segment apart.
    ///
    /// # Panics
    ///
    /// If it is not sound.
    pub fn read(file: &[u8]) -> Parts {
        let mut records = Vec::new();
        let mut at = HEADER;
        while let Some(len) = u32_at(file, at + 8).filter(|len| *len > 0) {
            let payload = &file[at + RECORD_HEADER..][..len as usize];
            let head = file[at + 8..at + RECORD_HEADER].try_into().expect("16 bytes");
            records.push(Record { head, payload: payload.to_vec() });
            at = (at + RECORD_HEADER + len as usize).next_multiple_of(8);
        }
        Parts { header: file[..60].to_vec(), records, len: file.len() }
    }

    /// The file, with every checksum right.
    pub fn write(&self) -> Vec<u8> {
        let mut file = self.header.clone();
        file.resize(HEADER, 0);
        for record in &self.records {
            file.extend_from_slice(&[0; 8]);
            file.extend_from_slice(&record.head);
            file.extend_from_slice(&record.payload);
            file.resize(file.len().next_multiple_of(8), 0);
        }
        file.resize(file.len().max(self.len), 0);
        repair(&mut file);
        file
    }
}

/// Puts the checksums of a segment right: of its header, and of each record that follows another one by its length.
pub fn repair(file: &mut [u8]) {
    if file.len() < HEADER {
        return;
    }
    let sum = crc(&[&file[..60]]);
    file[60..HEADER].copy_from_slice(&sum.to_le_bytes());
    let seed: [u8; 20] = {
        let mut seed = [0; 20];
        seed[..16].copy_from_slice(&file[16..32]);
        seed[16..].copy_from_slice(&file[12..16]);
        seed
    };
    let mut at = HEADER;
    while at + RECORD_HEADER <= file.len() {
        let len = u32_at(file, at + 8).unwrap_or(0) as usize;
        if file[at + 8..at + RECORD_HEADER].iter().all(|byte| *byte == 0) {
            return;
        }
        let end = at + RECORD_HEADER + len;
        if end <= file.len() {
            let sum = crc(&[&seed, &file[at + RECORD_HEADER..end]]);
            file[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
        let sum = crc(&[&seed, &(at as u64).to_le_bytes(), &file[at + 4..at + RECORD_HEADER]]);
        file[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        at = end.next_multiple_of(8);
    }
}

/// A forged copy of a sound segment, with every checksum right. `change_payload` changes one of a record.
pub fn forge(
    random: &mut Random,
    sound: &Parts,
    change_payload: impl Fn(&mut Random, &mut Vec<u8>),
) -> Vec<u8> {
    let mut parts = sound.clone();
    for _ in 0..random.random_range(1..4) {
        let count = parts.records.len();
        match random.random_range(0..12) {
            0 => {
                let mut fields = Fields::new(&parts.header, 8);
                let _ = [4, 4, 8, 8, 8, 8, 8, 4].map(|len| fields.fixed(len));
                let found = std::mem::take(&mut fields.found);
                change_field(random, &mut parts.header, &found);
            }
            1 => {
                let len = odd_number(random, parts.len as u64, parts.len) as usize;
                parts.len = len % (4 * sound.len + 1);
            }
            _ if count == 0 => {}
            2 => {
                let index = random.random_range(0..count);
                match random.random_range(0..3) {
                    0 => drop(parts.records.remove(index)),
                    1 => {
                        let copy = parts.records[index].clone();
                        parts.records.insert(index, copy);
                    }
                    _ => {
                        let other = random.random_range(0..count);
                        parts.records.swap(index, other);
                    }
                }
            }
            3..6 => {
                let record = &mut parts.records[random.random_range(0..count)];
                let mut head = record.head.to_vec();
                let mut fields = Fields::new(&head, 0);
                let _ = [4, 4, 4, 1, 1, 1, 1].map(|len| fields.fixed(len));
                let found = std::mem::take(&mut fields.found);
                change_field(random, &mut head, &found);
                record.head.copy_from_slice(&head);
            }
            _ => {
                let record = &mut parts.records[random.random_range(0..count)];
                let old = record.payload.len();
                change_payload(random, &mut record.payload);
                if record.payload.len() != old && !random.random_ratio(1, 6) {
                    let len = record.payload.len() as u32;
                    record.head[..4].copy_from_slice(&len.to_le_bytes());
                }
            }
        }
    }
    let mut file = parts.write();
    if random.random_ratio(1, 30) {
        change_bytes(random, &mut file);
        repair(&mut file);
    }
    file
}

/// Changes the payload of a batch.
pub fn change_batch(random: &mut Random, payload: &mut Vec<u8>) {
    let fields = batch_fields(payload);
    if random.random_ratio(1, 8) {
        change_bytes(random, payload);
    } else {
        change_field(random, payload, &fields);
    }
}

/// The fields of a batch, up to one that is not there.
fn batch_fields(payload: &[u8]) -> Vec<Field> {
    let mut fields = Fields::new(payload, 0);
    let _ = (|| {
        fields.fixed(8)?;
        fields.fixed(4)?;
        while fields.at() < payload.len() {
            fields.fixed(1)?;
            fields.varint()?;
            let (key_len, value_len) = (fields.varint()?, fields.varint()?);
            fields.bytes(usize::try_from(key_len).ok()?)?;
            fields.bytes(usize::try_from(value_len).ok()?)?;
        }
        Some(())
    })();
    fields.found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn a_log_comes_together_as_it_was() {
        let sample = samples::small_log(1);
        for name in sample.names(".log").iter().map(String::as_str).chain(["MANIFEST"]) {
            let bytes = sample.bytes(name);
            let parts = Parts::read(&bytes);
            assert!(parts.write() == bytes, "{name}");
            let mut repaired = bytes.clone();
            repair(&mut repaired);
            assert!(repaired == bytes, "{name}: a sound log needs no repair");
        }
        assert!(
            batch_fields(&Parts::read(&sample.bytes(&sample.names(".log")[0])).records[0].payload).len() > 4
        );
    }
}
