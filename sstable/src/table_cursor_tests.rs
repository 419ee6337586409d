//! Table cursors against a position in the entries, step by step, in every mode and way of reading.

use proptest::prelude::*;

use super::*;
use crate::testing::*;
use crate::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn cursors_go_where_the_model_goes(entries in entries(30), steps in steps(120)) {
        let tables = Tables::new();
        for (number, compression) in COMPRESSIONS.into_iter().enumerate() {
            let meta = tables.write(number as u64, &options(compression), &entries);
            for context in tables.contexts() {
                let table = Table::new(context, meta.clone());
                for mode in MODES {
                    compare_with_model(&mut table.cursor(mode), &entries, &steps);
                }
            }
        }
    }
}

fn long_table(tables: &Tables, compression: Compression) -> (Vec<Entry>, Arc<Table>) {
    let entries: Vec<Entry> =
        (0..20_000_u32).map(|i| put(format!("{i:08}"), 1, i.to_le_bytes().repeat(25))).collect();
    let meta = tables.write(1, &options(compression), &entries);
    let context = TableContext { point_reads: PointReads::Pread.into(), ..tables.context() };
    (entries, Table::new(Arc::new(context), meta))
}

#[test]
fn a_long_scan_streams_and_a_seek_ends_that() {
    for compression in COMPRESSIONS {
        let tables = Tables::new();
        let (entries, table) = long_table(&tables, compression);
        let mut cursor = table.cursor(ScanMode::Auto);
        cursor.seek_to_first().unwrap();
        assert!(cursor.reader.is_none());
        assert_eq!(collect(&mut cursor, true).unwrap(), entries);
        assert!(cursor.reader.is_some());
        cursor.seek(b"00010000", u64::MAX).unwrap();
        assert!(cursor.reader.is_none());
        assert_eq!(cursor.key(), b"00010000");
        cursor.seek_to_last().unwrap();
        assert!(collect(&mut cursor, false).unwrap().iter().eq(entries.iter().rev()));
        assert!(cursor.reader.is_some());
    }
}

#[test]
fn turning_around_everywhere() {
    let tables = Tables::new();
    let (entries, table) = long_table(&tables, Compression::None);
    for mode in MODES {
        let mut cursor = table.cursor(mode);
        cursor.seek_to_first().unwrap();
        let mut at = 0;
        // Three forward, two back, all the way.
        while at + 3 < entries.len() {
            for _ in 0..3 {
                cursor.next().unwrap();
            }
            for _ in 0..2 {
                cursor.prev().unwrap();
            }
            at += 1;
            assert_eq!(cursor.key(), entries[at].0);
        }
    }
}

#[test]
fn slices_stay_when_the_cursor_moves_on() {
    for compression in COMPRESSIONS {
        let tables = Tables::new();
        let (entries, table) = long_table(&tables, compression);
        for mode in MODES {
            let mut cursor = table.cursor(mode);
            cursor.seek_to_first().unwrap();
            let mut kept = Vec::new();
            while cursor.valid() {
                if kept.len() < entries.len() {
                    kept.push((cursor.key_slice(), cursor.value_slice()));
                }
                cursor.next().unwrap();
            }
            drop(cursor);
            assert!(kept.iter().zip(&entries).all(|(kept, entry)| kept.0 == entry.0 && kept.1 == entry.3));
        }
    }
}

#[test]
#[should_panic(expected = "stands on an entry")]
fn a_cursor_that_stands_nowhere_has_no_key() {
    let tables = Tables::new();
    let table = tables.table(&tables.write(1, &options(Compression::None), &[put("a", 1, "b")]));
    let mut cursor = table.cursor(ScanMode::Auto);
    cursor.seek(b"b", 1).unwrap();
    assert!(!cursor.valid());
    cursor.key();
}

#[test]
fn a_damaged_block_is_an_error_each_time_and_the_others_are_read() {
    let tables = Tables::new();
    let (entries, _) = long_table(&tables, Compression::None);
    let mut bytes = tables.bytes(&tables.path(1));
    bytes[10 * 4096 + 50] ^= 1;
    tables.memory.replace_bytes(&tables.path(1), bytes).unwrap();
    for context in tables.contexts() {
        let table = Table::open_file(context, &tables.path(1)).unwrap();
        for mode in MODES {
            let mut cursor = table.cursor(mode);
            for _ in 0..2 {
                cursor.seek_to_first().unwrap();
                let error = collect(&mut cursor, true).unwrap_err();
                assert!(matches!(error, terrace_io::Error::Corruption { offset: 40_960, .. }), "{error}");
                assert!(!cursor.valid());
            }
            cursor.seek_to_last().unwrap();
            assert_eq!(cursor.key(), entries.last().unwrap().0);
        }
    }
    let report = tables.verify(1);
    assert_eq!(report.damage_count, 1);
    assert_eq!(report.damages[0].offset, 40_960);
    assert_eq!(report.blocks + 1, report.properties.unwrap().data_blocks);
}
