//! Blocks that were never written by the builder: whatever they say, they are refused or read within their bounds.

use super::*;
use crate::block_builder::{BlockBuilder, header, seal};
use crate::testing::Random;

fn block(entries: &[(&[u8], u64, &[u8])]) -> Vec<u8> {
    let mut builder = BlockBuilder::default();
    for (key, sequence, value) in entries {
        assert!(builder.try_add(key, *sequence, Kind::Put, value, 60_000));
    }
    let mut out = Vec::new();
    builder.finish_into(&mut out, 0);
    out
}

#[test]
fn seeking_finds_versions() {
    let block = block(&[(b"a", 9, b"1"), (b"a", 4, b"2"), (b"c", 7, b"3")]);
    let head = BlockHead::read(&block).unwrap();
    let seek = |key: &[u8], sequence| {
        let sought = head.seek(&block, key, sequence).unwrap();
        (sought.slot, sought.entry.map(|(_, same)| same))
    };
    assert_eq!(seek(b"", 0), (0, Some(false)));
    assert_eq!(seek(b"a", 10), (0, Some(true)));
    assert_eq!(seek(b"a", 9), (0, Some(true)));
    assert_eq!(seek(b"a", 8), (1, Some(true)));
    assert_eq!(seek(b"a", 3), (2, Some(false)));
    assert_eq!(seek(b"b", 3), (2, Some(false)));
    assert_eq!(seek(b"c", 7), (2, Some(true)));
    assert_eq!(seek(b"c", 6), (3, None));
    assert_eq!(seek(b"d", 99), (3, None));
}

#[test]
fn checksums_depend_on_the_place() {
    let mut block = block(&[(b"a", 9, b"1")]);
    seal(&mut block, 5, 4096);
    assert!(has_right_checksum(5, 4096, &block));
    assert!(!has_right_checksum(5, 8192, &block));
    assert!(!has_right_checksum(6, 4096, &block));
    for at in 0..block.len() {
        block[at] ^= 4;
        assert!(!has_right_checksum(5, 4096, &block), "{at}");
        block[at] ^= 4;
    }
    for len in 0..block.len() {
        assert!(!has_right_checksum(5, 4096, &block[..len]));
    }
}

/// Does with a block all that can be done.
fn exercise(block: &[u8]) {
    let Ok(head) = BlockHead::read(block) else { return };
    for slot in 0..head.count {
        let _ = head.start(block, slot);
        if let Ok(entry) = head.entry(block, slot) {
            let _ = (&block[entry.key_range()], &block[entry.value_range()]);
            let _ = head.seek(block, &block[entry.key_range()], entry.sequence);
        }
    }
    let _ = head.seek(block, b"b", 1);
}

#[test]
fn forged_blocks_stay_within_their_bounds() {
    let good = block(&[(b"a", 1 << 40, &[1; 200]), (b"a", 4, b"2"), (&[9; 300], 7, b"3")]);
    for at in 4..good.len() {
        for byte in [0, 1, 2, 0x12, 0x7f, 0x80, 0xff] {
            let mut forged = good.clone();
            forged[at] = byte;
            exercise(&forged);
        }
    }
    for len in 0..good.len() {
        exercise(&good[..len]);
        exercise(&good[len..]);
    }
    let mut random = Random(11);
    for _ in 0..20_000 {
        let mut forged: Vec<u8> = (0..random.below(80)).map(|_| random.next() as u8 & 0x1f).collect();
        if forged.len() > 8 {
            forged[5..8].fill(0);
        }
        exercise(&forged);
    }
}

#[test]
fn impossible_heads_are_refused() {
    let refused = |count: u16, flags, payload_len: usize| {
        let mut bytes = header(count, flags, 0).to_vec();
        bytes.resize(HEADER_BYTES + payload_len, 0);
        BlockHead::read(&bytes).is_err()
    };
    assert!(refused(0, 0, 100));
    assert!(refused(50, 0, 100));
    assert!(refused(1, 2, 100));
    assert!(refused(1, FLAG_SNAPPY, 100));
    assert!(refused(2, 0, 65_536));
    assert!(!refused(1, 0, 65_536));
    assert!(!refused(2, 0, 65_535));
    assert!(BlockHead::read(&[0; 15]).is_err());
}

#[test]
fn sequence_numbers_do_not_overflow() {
    let mut bytes = header(1, 0, u64::MAX).to_vec();
    bytes.extend_from_slice(&[1 | TAG_DELTA, 1, 0, 1, b'k', 0, 0]);
    let head = BlockHead::read(&bytes).unwrap();
    assert!(head.entry(&bytes, 0).is_err());
    bytes[HEADER_BYTES] = 0x21;
    assert!(head.entry(&bytes, 0).is_err());
}

#[test]
fn hostile_compression_is_refused() {
    let raw = block(&[(b"a", 1, &[7; 2000]), (b"b", 2, &[7; 2000])]);
    let mut good = raw[..HEADER_BYTES].to_vec();
    good[6] = FLAG_SNAPPY as u8;
    good.extend(snap::raw::Encoder::new().compress_vec(&raw[HEADER_BYTES..]).unwrap());
    let mut out = vec![0; decompressed_len(&good).unwrap()];
    decompress(&good, &mut out).unwrap();
    assert_eq!(out, raw);

    // Says that it is longer than any block, or than its bytes can make it.
    for claim in
        [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0xff, 0xff, 0x03], &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01]]
    {
        let mut forged = good[..HEADER_BYTES].to_vec();
        forged.extend_from_slice(claim);
        forged.extend_from_slice(&[0; 50]);
        assert!(decompressed_len(&forged).is_err());
        forged[4] = 1;
        assert!(decompressed_len(&forged).is_err());
    }
    for at in HEADER_BYTES..good.len() {
        for bit in 0..8 {
            let mut forged = good.clone();
            forged[at] ^= 1 << bit;
            if let Ok(len) = decompressed_len(&forged) {
                assert!(len <= HEADER_BYTES + SHARED_PAYLOAD_BYTES_MAX);
                let mut out = vec![0; len];
                if decompress(&forged, &mut out).is_ok() {
                    exercise(&out);
                }
            }
        }
    }
    for len in HEADER_BYTES..good.len() {
        if let Ok(len_out) = decompressed_len(&good[..len]) {
            assert!(decompress(&good[..len], &mut vec![0; len_out]).is_err());
        }
    }
}
