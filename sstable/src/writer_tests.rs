//! What the writer refuses, leaves behind and promises; the budget of bytes.

use proptest::prelude::*;
use terrace_io::{FaultFileSystem, FaultRule, Operation};

use super::*;
use crate::testing::*;

#[test]
fn what_cannot_be_is_refused() {
    let tables = Tables::new();
    let mut writer = tables.writer(1, &options(Compression::None));
    assert!(writer.add(&vec![0; KEY_BYTES_MAX + 1], 1, Kind::Put, b"").is_err());
    assert!(writer.add(b"m", SEQUENCE_MAX + 1, Kind::Put, b"").is_err());
    assert!(writer.add(b"m", 1, Kind::Delete, b"value").is_err());
    writer.add(b"m", 5, Kind::Put, b"").unwrap();
    for (key, sequence) in [(&b"m"[..], 5), (b"m", 6), (b"l", 1), (b"", 9)] {
        let error = writer.add(key, sequence, Kind::Put, b"").unwrap_err();
        assert!(error.to_string().contains("out of order"), "{error}");
    }
    writer.add(b"m", 4, Kind::Delete, b"").unwrap();
    assert_eq!((writer.entries(), writer.last_key()), (2, &b"m"[..]));
    let meta = writer.finish().unwrap();
    assert_eq!((meta.entries, meta.deletes, meta.smallest_sequence, meta.largest_sequence), (2, 1, 4, 5));

    assert!(tables.writer(2, &options(Compression::None)).finish().is_err());
    let bad = TableOptions { block_bytes: 1, ..TableOptions::default() };
    assert!(TableWriter::create(&tables.fs, &tables.dir, identity(3), &bad).is_err());
    assert_eq!(tables.fs.read_dir(&tables.dir).unwrap(), ["000001.sst"]);
}

#[test]
fn an_unfinished_table_leaves_nothing() {
    let tables = Tables::new();
    let names = || tables.fs.read_dir(&tables.dir).unwrap();
    let mut writer = tables.writer(7, &options(Compression::None));
    assert_eq!(names(), ["000007.sst.tmp"]);
    writer.add(b"a", 1, Kind::Put, b"b").unwrap();
    writer.abandon();
    assert!(names().is_empty());
    drop(tables.writer(8, &options(Compression::None)));
    assert!(names().is_empty());
}

#[test]
fn any_failed_call_fails_the_table_and_leaves_nothing() {
    for operation in [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename] {
        let tables = Tables::new();
        let faults = FaultFileSystem::new(tables.fs.clone());
        faults.add(FaultRule::on(operation));
        let fs: Arc<dyn FileSystem> = Arc::new(faults.clone());
        let written = TableWriter::create(&fs, &tables.dir, identity(1), &options(Compression::None))
            .and_then(|mut writer| {
                let big = vec![1; 3 << 20];
                writer.add(b"a", 1, Kind::Put, &big)?;
                let _ = writer.add(b"b", 1, Kind::Put, &big);
                writer.add(b"c", 1, Kind::Put, &big)?;
                writer.finish()
            });
        assert!(written.is_err(), "{operation}");
        assert!(tables.fs.read_dir(&tables.dir).unwrap().is_empty(), "{operation}");
    }
}

#[test]
fn a_finished_table_survives_a_crash_once_its_directory_is_synced() {
    let tables = Tables::new();
    tables.fs.sync_dir(&tables.dir).unwrap();
    let entries: Vec<Entry> = (0..1000).map(|i| put(format!("{i:05}"), i, [1; 50])).collect();
    let meta = tables.write(1, &options(Compression::None), &entries);
    tables.fs.sync_dir(&tables.dir).unwrap();
    let after = tables.memory.crash_clone(terrace_io::CrashPolicy::DropUnsynced);
    let report = crate::verify(&after, &tables.path(1));
    assert!(report.is_ok(), "{:?}", report.damages);
    assert_eq!(report.file_len, meta.file_len);
}

#[test]
fn the_properties_tell_what_was_written() {
    let tables = Tables::new();
    let entries = [put("a", 9, "12345"), put("b", 3, ""), (b"c".to_vec(), 4, Kind::Delete, vec![])];
    let meta = tables.write(12, &options(Compression::Snappy), &entries);
    let properties = tables.table(&meta).properties().unwrap();
    assert!(properties.created_micros > 1_600_000_000_000_000);
    let expected = Properties {
        database_id: [9; 16],
        keyspace_id: 3,
        keyspace_name: "things".into(),
        number: 12,
        created_micros: properties.created_micros,
        entries: 3,
        deletes: 1,
        raw_key_bytes: 3,
        raw_value_bytes: 5,
        data_blocks: 1,
        // Header; three times tag, lengths and key; a value; two deltas; three slots.
        raw_block_bytes: 16 + 3 * 4 + 5 + 2 + 6,
        compression: Compression::Snappy,
        smallest_sequence: 3,
        largest_sequence: 9,
        smallest_key: Box::from(&b"a"[..]),
        largest_key: Box::from(&b"c"[..]),
        cause: Cause::Compaction,
        level: 2,
    };
    assert_eq!(properties, expected);
    assert_ne!(meta.table_id, 0);
    assert_ne!(meta.table_id, tables.write(13, &options(Compression::Snappy), &entries).table_id);
}

#[test]
fn an_entry_of_16_and_100_bytes_takes_at_most_133() {
    let tables = Tables::new();
    let mut random = Random(42);
    let mut keys: Vec<[u8; 16]> = (0..200_000)
        .map(|_| {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&(random.next() << 8 ^ random.next()).to_be_bytes());
            key[8..].copy_from_slice(&random.next().to_be_bytes());
            key
        })
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let write = |number, sequence: &dyn Fn(usize) -> u64, options: &TableOptions| {
        let mut writer = tables.writer(number, options);
        for (i, key) in keys.iter().enumerate() {
            writer.add(key, sequence(i), Kind::Put, &[i as u8; 100]).unwrap();
        }
        let estimate = writer.estimated_len();
        let meta = writer.finish().unwrap();
        assert!(estimate.abs_diff(meta.file_len) < 10_000, "{estimate} for {}", meta.file_len);
        meta.file_len as f64 / keys.len() as f64
    };
    let elided = write(1, &|_| 0, &TableOptions::default());
    assert!(elided <= 133.0, "{elided}");
    let numbered = write(2, &|i| (i as u64).wrapping_mul(0x9e37_79b9) % 500_000, &TableOptions::default());
    assert!(numbered <= 137.0, "{numbered}");
    let snappy = TableOptions { compression: Compression::Snappy, ..TableOptions::default() };
    assert!(write(3, &|_| 0, &snappy) < 46.0);
    let without = write(4, &|_| 0, &TableOptions { locator: false, ..TableOptions::default() });
    assert!(without <= 127.0 && elided - without <= 5.4, "{without}");
}

#[test]
fn entries_around_a_page_are_where_they_should_be() {
    // The largest entry that fits in a page with its header and slot: 1 + 1 + 2 bytes of head and a key of one.
    let fits = PAGE_PAYLOAD_BYTES - SLOT_BYTES - 5;
    for (len, pages) in [(fits - 1, 1), (fits, 1), (fits + 1, 2), (fits + 4096, 2), (fits + 4097, 3)] {
        let tables = Tables::new();
        let entries = [put("a", 1, "x"), put("b", 9, vec![7; len]), put("c", 2, "y")];
        let meta = tables.write(1, &options(Compression::None), &entries);
        assert!(tables.verify(1).is_ok());
        let table = tables.table(&meta);
        let layout = crate::layout(&table).unwrap();
        let blocks: Vec<_> =
            layout.blocks.iter().map(|b| (b.offset / 4096, b.len / 4096, b.entries)).collect();
        assert_eq!(blocks, [(0, 1, 1), (1, pages, 1), (1 + pages, 1, 1)], "{len}");
        assert_eq!(table.get(b"b", 9).unwrap().unwrap().value(), vec![7; len]);
    }
}

#[test]
fn snappy_blocks_are_compressed_where_it_pays() {
    let tables = Tables::new();
    let mut random = Random(7);
    let noise: Vec<u8> = (0..3000).map(|_| random.next() as u8).collect();
    let entries: Vec<Entry> =
        (0..100).map(|i| put([i], 1, if i < 50 { noise.clone() } else { vec![i; 3000] })).collect();
    let options = TableOptions { block_bytes: 9000, ..options(Compression::Snappy) };
    let table = tables.table(&tables.write(1, &options, &entries));
    let blocks = crate::layout(&table).unwrap().blocks;
    // Two noises in a block compress to one and a bit.
    assert!(blocks.iter().all(|block| block.compressed == (block.len < block.raw_len)));
    assert!(blocks.iter().all(|block| block.raw_len <= 9016));
    assert!(blocks.last().unwrap().compressed);

    let entries: Vec<Entry> =
        (0..100).map(|i| put([i], 1, (0..3000).map(|_| random.next() as u8).collect::<Vec<_>>())).collect();
    let table = tables.table(&tables.write(2, &options, &entries));
    assert!(crate::layout(&table).unwrap().blocks.iter().all(|block| !block.compressed));
    assert!(tables.verify(1).is_ok() && tables.verify(2).is_ok());
}

proptest! {
    #[test]
    fn blocks_hold_what_was_added(
        adds in prop::collection::vec((0..200_usize, 0..300_usize, 0..1_u64 << 40), 1..80),
    ) {
        let mut builder = BlockBuilder::default();
        let mut added = Vec::new();
        for (i, (key_len, value_len, sequence)) in adds.iter().enumerate() {
            let (key, value) = (vec![i as u8; *key_len], vec![1; *value_len]);
            if builder.try_add(&key, *sequence, Kind::Put, &value, PAGE_PAYLOAD_BYTES) {
                added.push((key, *sequence, value));
            }
        }
        let payload_len = builder.payload_len();
        prop_assert!(payload_len <= PAGE_PAYLOAD_BYTES);
        let mut tight = Vec::new();
        builder.finish_into(&mut tight, 0);
        prop_assert_eq!(tight.len(), HEADER_BYTES + payload_len);
        prop_assert!(builder.is_empty());
        let head = crate::block::BlockHead::read(&tight).unwrap();
        prop_assert_eq!(head.count, added.len());
        for (slot, (key, sequence, value)) in added.iter().enumerate() {
            let entry = head.entry(&tight, slot).unwrap();
            prop_assert_eq!(entry.sequence, *sequence);
            prop_assert_eq!(&tight[entry.key_range()], &key[..]);
            prop_assert_eq!(&tight[entry.value_range()], &value[..]);
        }
    }
}

/// The worked example of `docs/format.md` §2.8: whoever changes these bytes changes the format.
#[test]
fn the_format_is_frozen() {
    let tables = Tables::new();
    let mut writer = tables.writer(1, &TableOptions::default());
    writer.table_id = 0x0123_4567_89ab_cdef;
    writer.properties.created_micros = 1_700_000_000_000_000;
    writer.add(b"ice", 7, Kind::Put, b"cold").unwrap();
    writer.add(b"tea", 9, Kind::Delete, b"").unwrap();
    writer.add(b"tea", 5, Kind::Put, b"hot").unwrap();
    let meta = writer.finish().unwrap();
    let bytes = tables.bytes(&tables.path(1));
    assert_eq!(bytes.len() as u64, meta.file_len);
    let mut text = String::new();
    let mut zeros = 0;
    for (i, line) in bytes.chunks(16).enumerate() {
        if line.iter().all(|byte| *byte == 0) {
            zeros += 1;
            continue;
        }
        if std::mem::take(&mut zeros) > 0 {
            text += "*\n";
        }
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("{:04x}  {}\n", i * 16, hex.join(" "));
    }
    let doc = include_str!("../../docs/format.md");
    assert!(doc.contains(&text), "docs/format.md does not have\n{text}");
    assert!(tables.verify(1).is_ok());
}
