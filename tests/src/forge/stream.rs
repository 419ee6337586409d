//! Streams of backups (`docs/format.md` §5.3), whose checksums are put right.

use super::u64_at;

const HEADER: usize = 32;
const TABLE_HEADER: usize = 32;
const END: usize = 24;

fn put_crc(bytes: &mut [u8], seed: &[u8], from: usize, to: usize) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(seed);
    crc.update(&bytes[from..to]);
    bytes[to..to + 4].copy_from_slice(&crc.finalize().to_le_bytes());
}

/// Puts the checksums of any bytes right that are taken for a stream, as far as they have a place, and what its end says
/// of its place. Those in the tables stay as they are.
pub fn repair(stream: &mut [u8]) {
    if stream.len() < HEADER {
        return;
    }
    put_crc(stream, &[], 0, 28);
    let manifest_len = u64_at(stream, 16).and_then(|len| usize::try_from(len).ok());
    let end = manifest_len.and_then(|len| HEADER.checked_add(len)).filter(|end| *end <= stream.len());
    let Some(mut at) = end.filter(|end| *end >= HEADER + 36) else { return };
    put_crc(stream, &[], HEADER, at - 4);
    let seed = stream[at - 4..at].to_vec();
    loop {
        if stream[at..].starts_with(b"TERRAEND") {
            if stream.len() >= at + END {
                let place = (at as u64).to_le_bytes();
                stream[at + 8..at + 16].copy_from_slice(&place);
                put_crc(stream, &seed, at, at + 20);
            }
            return;
        }
        if stream.len() < at + TABLE_HEADER {
            return;
        }
        put_crc(stream, &seed, at, at + 28);
        let len = u64_at(stream, at + 16).and_then(|len| usize::try_from(len).ok());
        let next = len.and_then(|len| (at + TABLE_HEADER).checked_add(len));
        let Some(next) = next.filter(|next| *next <= stream.len()) else { return };
        at = next;
    }
}
