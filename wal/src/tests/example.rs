//! The worked example of `docs/format.md` §3.5, byte for byte.

use super::*;
use crate::SegmentReader;

const FORMAT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/format.md"));

/// The bytes of the hex dump in §3.5.
fn documented_bytes() -> Vec<u8> {
    let (_, section) = FORMAT.split_once("### 3.5 ").expect("the page has the section");
    let dump = section.split("```").nth(1).expect("the section has a dump");
    let mut bytes = Vec::new();
    for line in dump.trim().lines() {
        let (offset, rest) = line.split_once("  ").unwrap();
        assert_eq!(usize::from_str_radix(offset, 16).unwrap(), bytes.len());
        let (hex, text) = rest.split_once("  |").unwrap();
        let start = bytes.len();
        bytes.extend(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
        let shown = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
        assert_eq!(text.trim_end_matches('|'), bytes[start..].iter().map(shown).collect::<String>());
    }
    bytes
}

#[test]
fn the_documented_segment_is_what_is_written() {
    let fs = new_fs();
    let log_id = *b"terrace-example!";
    let mut writer = SegmentWriter::create(&fs, dir(), log_id, 7, 4096, Fill::Zeros).unwrap();
    let mut operation = vec![1, 0, 3, 5];
    operation.extend_from_slice(b"keyvalue");
    let mut batch = 1_u64.to_le_bytes().to_vec();
    batch.extend_from_slice(&1_u32.to_le_bytes());
    let mut group = Vec::new();
    let synced = Position { segment: 6, offset: 128 };
    writer.encode(&mut group, RecordKind::Batch, synced, &[&batch, &operation]);
    assert_eq!(writer.append(&group).unwrap(), Position { segment: 7, offset: 112 });

    let documented = documented_bytes();
    assert_eq!(documented.len(), 112);
    let written = fs.file_bytes(&segment_path(7)).unwrap();
    assert_eq!(written[..112], documented);
    assert_eq!(written[112..], [0; 4096 - 112]);
}

#[test]
fn the_documented_segment_can_be_read() {
    let fs = new_fs();
    SegmentWriter::create(&fs, dir(), LOG_ID, 7, 4096, Fill::Zeros).unwrap();
    let mut bytes = documented_bytes();
    bytes.resize(4096, 0);
    fs.replace_bytes(&segment_path(7), bytes).unwrap();

    let mut reader = SegmentReader::open(&fs, &segment_path(7)).unwrap();
    let header = *reader.header();
    assert_eq!((header.number, &header.log_id, header.length), (7, b"terrace-example!", 4096));
    let record = reader.next().unwrap().unwrap();
    assert_eq!(record.position, Position { segment: 7, offset: 64 });
    assert_eq!(record.synced, Position { segment: 6, offset: 128 });
    assert_eq!(record.payload[12..], *b"\x01\x00\x03\x05keyvalue");
    assert_eq!(reader.next().unwrap(), None);
}
