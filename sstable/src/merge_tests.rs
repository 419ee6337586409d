//! Merging cursors against the sorted entries of all their sources, ties included.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::testing::*;
use crate::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_merge_is_one_sorted_sequence(
        entries in entries(40),
        owners in prop::collection::vec(0..7_usize, 1..50),
        sources in 1..7_usize,
        steps in steps(200),
    ) {
        let mut split = vec![Vec::new(); sources];
        for (i, entry) in entries.iter().enumerate() {
            split[owners[i % owners.len()] % sources].push(entry.clone());
        }
        let tables = Tables::new();
        let cursors = split
            .iter()
            .enumerate()
            .map(|(number, entries)| {
                let table = (!entries.is_empty())
                    .then(|| tables.table(&tables.write(number as u64, &options(Compression::None), entries)));
                let cursor = RunCursor::new(table.into_iter().collect(), ScanMode::Auto);
                Box::new(cursor) as Box<dyn Cursor + Send>
            })
            .collect();
        compare_with_model(&mut MergeCursor::new(cursors), &entries, &steps);
    }

    #[test]
    fn equal_entries_are_all_seen_in_the_order_of_their_sources(
        keys in prop::collection::vec((0..4_u8, 0..3_u64, 1..8_u8), 1..12),
        turns in prop::collection::vec(any::<bool>(), 1..100),
    ) {
        // The value names the source; the last number says (in bits) which sources have the entry.
        let mut split: [Vec<Entry>; 3] = Default::default();
        for (key, sequence, owners) in &keys {
            for (source, entries) in split.iter_mut().enumerate() {
                if owners & (1 << source) != 0 {
                    entries.push(put([*key], *sequence, [source as u8]));
                }
            }
        }
        let split = split.map(in_order);
        let mut all: Vec<Entry> = split.concat();
        all.sort_by(|a, b| compare_internal(&a.0, a.1, &b.0, b.1).then(a.3.cmp(&b.3)));

        let tables = Tables::new();
        let cursors = split.iter().enumerate().filter(|(_, entries)| !entries.is_empty());
        let cursors = cursors.map(|(number, entries)| {
            tables.table(&tables.write(number as u64, &options(Compression::None), entries)).cursor(ScanMode::Auto)
        });
        let mut cursor = MergeCursor::new(cursors.collect());
        cursor.seek_to_first().unwrap();
        prop_assert_eq!(&collect(&mut cursor, true).unwrap(), &all);
        cursor.seek_to_last().unwrap();
        let mut backward = collect(&mut cursor, false).unwrap();
        backward.reverse();
        prop_assert_eq!(&backward, &all);

        cursor.seek_to_first().unwrap();
        let mut at = 0_usize;
        for forward in turns {
            let next = if forward { at + 1 } else { at.wrapping_sub(1) };
            if next < all.len() {
                if forward { cursor.next().unwrap() } else { cursor.prev().unwrap() }
                at = next;
            }
            prop_assert_eq!(current(&cursor), Some(all[at].clone()));
        }
    }
}

/// On the way back it can nearly always be told whether the entry before has the same key.
#[test]
fn neighbours_on_the_way_back_are_told_apart() {
    let tables = Tables::new();
    let table = |number: u64, sequence| {
        let entries = (0..2000_u32).filter(|i| i % (number as u32 + 1) == 0);
        let entries: Vec<Entry> = entries.map(|i| put(format!("{i:08}"), sequence, [0; 20])).collect();
        tables.table(&tables.write(number, &options(Compression::None), &entries))
    };
    // Every key, and a newer version of each third.
    let cursors = [table(0, 1), table(2, 2)].map(|table| table.cursor(ScanMode::Auto));
    let mut cursor = MergeCursor::new(cursors.into());
    cursor.seek_to_last().unwrap();
    let mut told = [0, 0, 0];
    while cursor.valid() {
        told[cursor.same_key_before().map_or(2, usize::from)] += 1;
        cursor.prev().unwrap();
    }
    assert!(told[0] > 1900 && told[1] > 640 && told[2] < 50, "{told:?}");
}

#[test]
fn no_sources_and_empty_sources() {
    let mut none: MergeCursor<TableCursor> = MergeCursor::new(Vec::new());
    none.seek_to_first().unwrap();
    assert!(!none.valid());
    let empty = || RunCursor::new(Arc::from([]), ScanMode::Auto);
    let mut cursor = MergeCursor::new(vec![empty(), empty()]);
    for _ in 0..2 {
        cursor.seek(b"a", 1).unwrap();
        cursor.seek_before(b"a").unwrap();
        cursor.seek_to_last().unwrap();
        assert!(!cursor.valid());
    }
    assert_eq!(cursor.into_sources().len(), 2);
}

#[test]
fn an_error_of_a_source_is_an_error_of_the_merge() {
    let tables = Tables::new();
    let options = options(Compression::None);
    let first = tables.table(&tables.write(1, &options, &[put("a", 1, "1"), put("c", 1, "1")]));
    let gone = tables.table(&tables.write(2, &options, &[put("b", 1, "2")]));
    tables.fs.remove_file(&tables.path(2)).unwrap();
    let mut cursor = MergeCursor::new(vec![first.cursor(ScanMode::Auto), gone.cursor(ScanMode::Auto)]);
    for _ in 0..2 {
        assert!(cursor.seek_to_first().unwrap_err().is_not_found());
        assert!(!cursor.valid());
    }
}
