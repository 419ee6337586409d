//! A backup as one stream of bytes: what stands around the tables, written and read. `docs/format.md` §5.3. Frozen.
//!
//! The reader takes whatever comes for hostile: it allocates by what has come, never by what is said to come, and an error
//! says at which byte of the stream.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use terrace_io::{Checksum, Error, FileSystem, Operation, OutputStream, Result, SequentialWriter};

use super::manifest::{BackupManifest, BackupTable, FORMAT_VERSION, MANIFEST_BYTES_MAX, TableKey};

const MAGIC: [u8; 8] = *b"TERRASTR";
const TABLE_MAGIC: [u8; 8] = *b"TERRATAB";
const END_MAGIC: [u8; 8] = *b"TERRAEND";
const HEADER_BYTES: usize = 32;
const TABLE_HEADER_BYTES: usize = 32;
const END_BYTES: usize = 24;

/// What errors call a stream.
pub(super) const STREAM: &str = "the stream";

/// A piece of a table on its way to a file: as long as the pieces in which tables are written.
const PIECE_BYTES: usize = SequentialWriter::CHUNK_BYTES;

/// The seed of every later checksum: the last bytes of the manifest, which are its own.
fn seed_of(manifest: &[u8]) -> Checksum {
    Checksum::new().bytes(&manifest[manifest.len() - 4..])
}

fn with_crc(mut bytes: Vec<u8>, seed: Checksum) -> Vec<u8> {
    let crc = seed.bytes(&bytes).finish();
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The head of a stream, up to the first table.
pub(super) fn begin(out: &mut OutputStream<'_>, manifest: &[u8], tables_sent: u32) -> Result<()> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    header.extend_from_slice(&tables_sent.to_le_bytes());
    header.extend_from_slice(&(manifest.len() as u64).to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    out.write_all(&with_crc(header, Checksum::new()))?;
    out.write_all(manifest)
}

/// What stands before a table.
pub(super) fn begin_table(out: &mut OutputStream<'_>, manifest: &[u8], key: &TableKey) -> Result<()> {
    let mut header = TABLE_MAGIC.to_vec();
    header.extend_from_slice(&key.table_id.to_le_bytes());
    header.extend_from_slice(&key.file_len.to_le_bytes());
    header.extend_from_slice(&key.tail_crc.to_le_bytes());
    out.write_all(&with_crc(header, seed_of(manifest)))
}

/// The end of a stream: without it, it is not whole.
pub(super) fn end(out: &mut OutputStream<'_>, manifest: &[u8], tables_sent: u32) -> Result<()> {
    let mut end = END_MAGIC.to_vec();
    end.extend_from_slice(&out.position().to_le_bytes());
    end.extend_from_slice(&tables_sent.to_le_bytes());
    out.write_all(&with_crc(end, seed_of(manifest)))
}

/// A stream that is being read.
pub(super) struct StreamReader<R> {
    input: R,
    offset: u64,
    seed: Checksum,
    tables_sent: u32,
    /// Tables of the manifest that have not come, by what they are.
    expected: HashMap<TableKey, BackupTable>,
    received: u32,
    buffer: Vec<u8>,
}

impl<R: Read> StreamReader<R> {
    /// Reads up to the first table.
    pub fn begin(input: R) -> Result<(StreamReader<R>, BackupManifest)> {
        let mut reader = StreamReader {
            input,
            offset: 0,
            seed: Checksum::new(),
            tables_sent: 0,
            expected: HashMap::new(),
            received: 0,
            buffer: Vec::new(),
        };
        let mut header = [0; HEADER_BYTES];
        reader.fill(&mut header, "its header")?;
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes of 32"));
        if header[..8] != MAGIC {
            return Err(damaged(0, "it does not begin as a stream of a backup does (no magic)"));
        }
        if Checksum::new().bytes(&header[..28]).finish() != u32_at(28) {
            return Err(damaged(0, "the checksum of its header is wrong"));
        }
        if u32_at(8) != FORMAT_VERSION {
            let (found, supported) = (u64::from(u32_at(8)), u64::from(FORMAT_VERSION));
            return Err(Error::UnsupportedFormat { path: STREAM.into(), found, supported });
        }
        if header[24..28] != [0; 4] {
            return Err(damaged(0, "reserved bytes of its header are not zero"));
        }
        reader.tables_sent = u32_at(12);
        let manifest_len = u64::from_le_bytes(header[16..24].try_into().expect("8 bytes"));
        if manifest_len > MANIFEST_BYTES_MAX {
            return Err(damaged(16, "its header says that its manifest is longer than any"));
        }
        let start = reader.offset;
        let manifest = reader.take(manifest_len)?;
        let decoded = BackupManifest::decode(&manifest, Path::new(STREAM), start)?;
        if reader.tables_sent as usize > decoded.tables.len() {
            return Err(damaged(0, "its header says that it has more tables than its manifest names"));
        }
        reader.seed = seed_of(&manifest);
        reader.expected = decoded.tables.iter().map(|table| (table.key, table.clone())).collect();
        Ok((reader, decoded))
    }

    /// How many tables of the manifest do not come: the receiver has them, or cannot use the stream.
    pub fn tables_left_out(&self) -> usize {
        self.expected.len() + self.received as usize - self.tables_sent as usize
    }

    /// The next table, whose bytes are to be taken next. `None` once the end was read: the stream is whole.
    pub fn next_table(&mut self) -> Result<Option<BackupTable>> {
        let start = self.offset;
        if self.received == self.tables_sent {
            let mut end = [0; END_BYTES];
            self.fill(&mut end, "its end")?;
            let is_right = self.seed.clone().bytes(&end[..20]).finish().to_le_bytes() == end[20..]
                && end[..8] == END_MAGIC
                && end[8..16] == start.to_le_bytes()
                && end[16..20] == self.tables_sent.to_le_bytes();
            return if is_right {
                Ok(None)
            } else {
                Err(damaged(start, "its end is not that of this stream"))
            };
        }
        let mut header = [0; TABLE_HEADER_BYTES];
        self.fill(&mut header, "what stands before a table")?;
        let crc = self.seed.clone().bytes(&header[..28]).finish();
        if header[..8] != TABLE_MAGIC || header[28..] != crc.to_le_bytes() {
            return Err(damaged(start, "no table of this stream begins here"));
        }
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes of 32"));
        let tail_crc = u32::from_le_bytes(header[24..28].try_into().expect("4 bytes of 32"));
        let key = TableKey { table_id: u64_at(8), file_len: u64_at(16), tail_crc };
        let Some(table) = self.expected.remove(&key) else {
            return Err(damaged(start, "its manifest does not name this table, or it has come before"));
        };
        self.received += 1;
        Ok(Some(table))
    }

    /// Takes the bytes of a table, and writes them to a new file, durably.
    pub fn take_table(&mut self, table: &BackupTable, fs: &dyn FileSystem, path: &Path) -> Result<()> {
        let mut writer = SequentialWriter::create(fs, path)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(PIECE_BYTES, 0);
        let mut left = table.key.file_len;
        while left > 0 {
            let piece = left.min(PIECE_BYTES as u64);
            self.fill(&mut buffer[..piece as usize], "a table")?;
            writer.append(&buffer[..piece as usize])?;
            left -= piece;
        }
        self.buffer = buffer;
        writer.finish().map(drop)
    }

    /// Takes `len` bytes, as they come.
    fn take(&mut self, len: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(len).read_to_end(&mut bytes);
        read.map_err(failed)?;
        self.offset += bytes.len() as u64;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(self.ends_in("its manifest")) }
    }

    fn fill(&mut self, mut buf: &mut [u8], part: &str) -> Result<()> {
        while !buf.is_empty() {
            match self.input.read(buf) {
                Ok(0) => return Err(self.ends_in(part)),
                Ok(read) => {
                    buf = &mut buf[read..];
                    self.offset += read as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn ends_in(&self, part: &str) -> Error {
        damaged(self.offset, &format!("it ends in {part}, and so is not whole"))
    }
}

fn damaged(offset: u64, what: &str) -> Error {
    Error::corruption(STREAM, offset, what)
}

fn failed(source: std::io::Error) -> Error {
    Error::io(STREAM, Operation::Read, source)
}
