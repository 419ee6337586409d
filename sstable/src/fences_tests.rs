//! Fences against a search of the keys themselves.

use proptest::prelude::*;
use terrace_io::Region;

use super::*;
use crate::footer::{FORMAT_VERSION, Footer};
use crate::testing;

/// Metadata that holds nothing but fences.
fn metadata(fences: &[u8], data_len: u64) -> (Metadata, MetadataBlock) {
    let block = MetadataBlock { kind: crate::footer::KIND_FENCES, offset: 0, len: fences.len() as u64 };
    let mut bytes = fences.to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let footer = Footer {
        table_id: 1,
        data_len,
        meta_len: bytes.len() as u64,
        directory_len: 0,
        tail_crc: 0,
        format_version: FORMAT_VERSION,
    };
    let metadata = Metadata::new(
        Region::from_vec(bytes),
        footer.meta_offset(),
        &footer,
        std::path::Path::new("t").into(),
    );
    metadata.trust_all();
    (metadata, block)
}

/// Blocks of ascending `(key, sequence)`; each of 100 bytes.
fn build(blocks: &[Vec<(Vec<u8>, u64)>]) -> Vec<u8> {
    let mut builder = FencesBuilder::default();
    let mut last: Option<&[u8]> = None;
    for (i, block) in blocks.iter().enumerate() {
        builder.push(last, &block[0].0, 100 * i as u64);
        last = block.last().map(|entry| &entry.0[..]);
    }
    let len = builder.encoded_len();
    let bytes = builder.finish(100 * blocks.len() as u64).unwrap();
    assert!(bytes.len() <= len, "the estimate is from above");
    bytes
}

fn blocks(per_block: usize) -> impl Strategy<Value = Vec<Vec<(Vec<u8>, u64)>>> {
    prop::collection::vec((testing::key(), 0..6_u64), 1..80).prop_map(move |mut entries| {
        entries.sort_by(|a, b| crate::compare_internal(&a.0, a.1, &b.0, b.1));
        entries.dedup();
        entries.chunks(per_block).map(<[_]>::to_vec).collect()
    })
}

proptest! {
    #[test]
    fn fences_lead_to_the_right_block(blocks in (1..5_usize).prop_flat_map(blocks), other in testing::key()) {
        let bytes = build(&blocks);
        let data_len = 100 * blocks.len() as u64;
        let (metadata, block) = metadata(&bytes, data_len);
        let fences = Fences::read(&metadata, &block, data_len).unwrap();
        prop_assert_eq!(fences.len(), blocks.len());

        for (i, block) in blocks.iter().enumerate() {
            prop_assert_eq!(fences.extent(&metadata, i).unwrap(), 100 * i as u64..100 * i as u64 + 100);
            let separator = fences.separator(&metadata, i).unwrap();
            let continues = fences.continues(&metadata, i).unwrap();
            prop_assert!(separator <= block[0].0);
            if i > 0 {
                let last = &blocks[i - 1].last().unwrap().0;
                prop_assert_eq!(continues, *last == block[0].0);
                let divides = if continues { separator == *last } else { separator > *last };
                prop_assert!(divides);
            } else {
                prop_assert!(!continues);
            }
        }

        let first_sequence = |i: usize| Ok(blocks[i][0].1);
        let targets = blocks.iter().flatten().cloned().chain([(other, 3)]);
        for (key, sequence) in targets.flat_map(|(key, sequence)| {
            let mut longer = key.clone();
            longer.push(0);
            [(key.clone(), sequence), (key.clone(), u64::MAX), (key, sequence.saturating_sub(1)), (longer, 2)]
        }) {
            let located = fences.locate(&metadata, &key, sequence, first_sequence).unwrap();
            // Where the entry really is: the block that is located, or the first of the next.
            let all: Vec<_> = blocks.iter().enumerate().flat_map(|(i, b)| b.iter().map(move |e| (i, e))).collect();
            let before = |entry: &(Vec<u8>, u64)| crate::compare_internal(&entry.0, entry.1, &key, sequence).is_lt();
            match all.iter().find(|(_, entry)| !before(entry)) {
                Some((i, entry)) => {
                    let at_start = **entry == blocks[*i][0];
                    prop_assert!(located == *i || at_start && located + 1 == *i, "{} for {}", located, i);
                }
                None => prop_assert_eq!(located, blocks.len() - 1),
            }
        }
    }
}

#[test]
fn separators_are_short_and_share_their_prefix_once() {
    let key = |i: u32| format!("user{i:012}").into_bytes();
    let blocks: Vec<_> = (0..1000).map(|i| vec![(key(30 * i), 1), (key(30 * i + 29), 1)]).collect();
    let bytes = build(&blocks);
    let (metadata, block) = metadata(&bytes, 100_000);
    let fences = Fences::read(&metadata, &block, 100_000).unwrap();
    assert_eq!(&*fences.shared, b"user0000000");
    assert_eq!(fences.separator(&metadata, 0).unwrap(), b"user0000000");
    assert!(bytes.len() < 1000 * 26, "{}", bytes.len());
}

#[test]
fn a_single_fence_is_empty() {
    let bytes = build(&[vec![(b"key".to_vec(), 1)]]);
    assert_eq!(bytes.len(), 8 + 8 + 16 + 8);
    let (metadata, block) = metadata(&bytes, 100);
    let fences = Fences::read(&metadata, &block, 100).unwrap();
    for key in [&b""[..], b"key", b"zzz"] {
        assert_eq!(fences.locate(&metadata, key, 1, |_| unreachable!()).unwrap(), 0);
    }
}

#[test]
fn forged_fences_stay_within_their_bounds() {
    let blocks: Vec<_> = (0..20_u8).map(|i| vec![(vec![b'k', i / 3, i], 5)]).collect();
    let good = build(&blocks);
    let mut forged: Vec<Vec<u8>> = (0..good.len()).map(|len| good[..len].to_vec()).collect();
    for at in 0..good.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            forged.push(bytes);
        }
    }
    let mut refused = 0;
    for bytes in forged {
        let (metadata, block) = metadata(&bytes, 2000);
        let Ok(fences) = Fences::read(&metadata, &block, 2000) else {
            refused += 1;
            continue;
        };
        for i in 0..fences.len() {
            if let Ok(extent) = fences.extent(&metadata, i) {
                assert!(extent.start < extent.end && extent.end <= 2000);
            }
            let _ = (fences.separator(&metadata, i), fences.continues(&metadata, i));
        }
        for block in &blocks {
            if let Ok(i) = fences.locate(&metadata, &block[0].0, 4, |i| Ok(i as u64)) {
                assert!(i < fences.len());
            }
        }
    }
    assert!(refused > good.len(), "{refused}");
}
