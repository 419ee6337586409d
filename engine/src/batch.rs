//! Batches of operations: built by users, encoded once, in the form in which the log keeps them
//! (`docs/format.md` §3.3) and from which recovery reads them again.

use std::sync::Arc;

use terrace_io::{Error, Result};
use terrace_sstable::{KEY_BYTES_MAX, Kind, SEQUENCE_MAX};

use crate::Keyspace;
use crate::codec::{Decoder, put_varint};
use crate::commit::Request;
use crate::keyspace::KeyspaceInner;

/// Bytes of a batch payload before its operations: first sequence number, count.
pub(crate) const BATCH_HEADER_BYTES: usize = 12;

/// The longest batch, in encoded bytes: a log record must fit in a segment.
pub(crate) const BATCH_BYTES_MAX: usize = (2 << 30) - (1 << 20);

/// Operations that happen together or not at all, across keyspaces too. Later operations on a key win.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let db = terrace::Db::open(directory.path())?;
/// let (accounts, audit) = (db.keyspace("accounts")?, db.keyspace("audit")?);
/// let mut batch = terrace::WriteBatch::new();
/// batch.put(&accounts, "alice", "90");
/// batch.put(&accounts, "bob", "110");
/// batch.put(&audit, "0001", "alice -> bob: 10");
/// db.write(batch)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default, Clone)]
pub struct WriteBatch {
    pub(crate) operations: Vec<u8>,
    pub(crate) count: u32,
    pub(crate) user_bytes: u64,
    pub(crate) value_len_max: u64,
    /// Each keyspace that is written to, once.
    pub(crate) keyspaces: Vec<Arc<KeyspaceInner>>,
    /// The first operation that was refused; told when the batch is written.
    refused: Option<Error>,
}

impl WriteBatch {
    /// A batch of nothing.
    pub fn new() -> Self {
        WriteBatch::default()
    }

    /// Adds a put. A key or value over its limit is reported when the batch is written.
    pub fn put(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.add(keyspace.inner(), Kind::Put, key.as_ref(), value.as_ref());
    }

    /// Adds a delete. An oversized key is reported when the batch is written.
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) {
        self.add(keyspace.inner(), Kind::Delete, key.as_ref(), &[]);
    }

    /// How many operations it has.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that it takes in the log.
    pub fn byte_len(&self) -> usize {
        BATCH_HEADER_BYTES + self.operations.len()
    }

    pub(crate) fn add(&mut self, keyspace: &Arc<KeyspaceInner>, kind: Kind, key: &[u8], value: &[u8]) {
        if let Err(error) = check_sizes(key, value, self.operations.len()) {
            self.refused.get_or_insert(error);
            return;
        }
        if !self.keyspaces.iter().any(|known| Arc::ptr_eq(known, keyspace)) {
            self.keyspaces.push(keyspace.clone());
        }
        encode_operation(&mut self.operations, kind, keyspace.id, key, value);
        self.count += 1;
        self.user_bytes += (key.len() + value.len()) as u64;
        self.value_len_max = self.value_len_max.max(value.len() as u64);
    }

    /// As the commit path takes it.
    pub(crate) fn request(&self) -> Request<'_> {
        Request {
            operations: &self.operations,
            count: self.count,
            user_bytes: self.user_bytes,
            value_len_max: self.value_len_max,
            keyspaces: &self.keyspaces,
        }
    }

    /// The error of the first operation that was refused.
    pub(crate) fn check(&self) -> Result<()> {
        self.refused.clone().map_or(Ok(()), Err)
    }
}

pub(crate) fn check_sizes(key: &[u8], value: &[u8], encoded: usize) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a key has {} bytes; at most {KEY_BYTES_MAX} are possible",
            key.len()
        )));
    }
    if key.len().saturating_add(value.len()).saturating_add(encoded) > BATCH_BYTES_MAX - 32 {
        return Err(Error::invalid(format!("a batch has more than {BATCH_BYTES_MAX} bytes; split it")));
    }
    Ok(())
}

pub(crate) fn encode_operation(out: &mut Vec<u8>, kind: Kind, keyspace_id: u32, key: &[u8], value: &[u8]) {
    out.reserve(16 + key.len() + value.len());
    out.push(kind as u8);
    put_varint(out, u64::from(keyspace_id));
    put_varint(out, key.len() as u64);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

pub(crate) fn encode_header(first_sequence: u64, count: u32) -> [u8; BATCH_HEADER_BYTES] {
    let mut header = [0; BATCH_HEADER_BYTES];
    header[..8].copy_from_slice(&first_sequence.to_le_bytes());
    header[8..].copy_from_slice(&count.to_le_bytes());
    header
}

/// One operation, borrowed from its encoding. `pair` is key and value, which stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation<'a> {
    pub kind: Kind,
    pub keyspace_id: u32,
    pub pair: &'a [u8],
    pub key_len: usize,
}

impl Operation<'_> {
    #[cfg(test)]
    pub fn key(&self) -> &[u8] {
        &self.pair[..self.key_len]
    }
}

/// Reads operations one after the other. What they hold is checked; an error says what was wrong.
pub(crate) struct Operations<'a> {
    decoder: Decoder<'a>,
}

impl<'a> Operations<'a> {
    /// Operations as [`encode_operation`] wrote them.
    pub fn new(encoded: &'a [u8]) -> Self {
        Operations { decoder: Decoder::new(encoded) }
    }

    /// Splits a batch payload into its first sequence number, its count and its operations.
    pub fn from_payload(payload: &'a [u8]) -> Result<(u64, u32, Self), &'static str> {
        let mut decoder = Decoder::new(payload);
        let first = decoder.u64().ok_or("a batch is shorter than its header")?;
        let count = decoder.u32().ok_or("a batch is shorter than its header")?;
        if count == 0 {
            return Err("a batch has no operations");
        }
        Ok((first, count, Operations { decoder }))
    }

    fn decode(&mut self) -> Option<Operation<'a>> {
        let kind = Kind::from_byte(self.decoder.u8()?)?;
        let keyspace_id = self.decoder.varint32()?;
        let key_len = self.decoder.varint32()? as usize;
        let value_len = self.decoder.varint32()? as usize;
        let pair = self.decoder.bytes(key_len.checked_add(value_len)?)?;
        let bounded = key_len <= KEY_BYTES_MAX && (kind == Kind::Put || value_len == 0);
        bounded.then_some(Operation { kind, keyspace_id, pair, key_len })
    }
}

/// The operations of a batch that begins with the sequence number `first`, all checked, as many as it says.
pub(crate) fn collect_batch<'a>(
    first: u64,
    count: u32,
    operations: Operations<'a>,
) -> Result<Vec<Operation<'a>>, &'static str> {
    if first > SEQUENCE_MAX - u64::from(u32::MAX) {
        return Err("the sequence number of a batch is out of range");
    }
    let operations: Vec<Operation<'a>> = operations.collect::<Result<_, _>>()?;
    match operations.len() == count as usize {
        true => Ok(operations),
        false => Err("a batch has more or fewer operations than it says"),
    }
}

impl<'a> Iterator for Operations<'a> {
    type Item = Result<Operation<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.decoder.is_empty() {
            return None;
        }
        let operation = self.decode().ok_or("an operation of a batch cannot be decoded");
        if operation.is_err() {
            self.decoder = Decoder::new(&[]);
        }
        Some(operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_back_as_they_were_encoded() {
        let mut encoded = encode_header(7, 3).to_vec();
        encode_operation(&mut encoded, Kind::Put, 0, b"key", b"value");
        encode_operation(&mut encoded, Kind::Delete, 300, b"", b"");
        encode_operation(&mut encoded, Kind::Put, 1, &[9; 65_536], b"");
        let (first, count, operations) = Operations::from_payload(&encoded).unwrap();
        assert_eq!((first, count), (7, 3));
        let operations: Vec<_> = operations.map(Result::unwrap).collect();
        assert_eq!(operations.len(), 3);
        assert_eq!((operations[0].key(), operations[0].pair), (&b"key"[..], &b"keyvalue"[..]));
        assert_eq!((operations[1].kind, operations[1].keyspace_id), (Kind::Delete, 300));
        assert_eq!(operations[2].key().len(), 65_536);
    }

    #[test]
    fn damaged_operations_are_errors() {
        let mut encoded = Vec::new();
        encode_operation(&mut encoded, Kind::Put, 0, b"key", b"value");
        for cut in 1..encoded.len() {
            assert!(Operations::new(&encoded[..cut]).any(|operation| operation.is_err()), "cut at {cut}");
        }
        encoded[0] = 9;
        let mut operations = Operations::new(&encoded);
        assert!(operations.next().unwrap().is_err());
        assert!(operations.next().is_none());
        assert!(Operations::from_payload(&[0; 11]).is_err());
        assert!(Operations::from_payload(&[0; 12]).is_err());
    }
}
