//! Damage of every byte and every length, and forgeries whose checksums are right: reads give the right answer or an
//! error, and never panic; verification notices all of it.

use super::*;
use crate::flawed::Flaws;
use crate::testing::*;
use crate::*;

/// A small table of every sort of block: versions over several blocks, tombstones, a large entry, compressed or not.
fn entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> =
        (0..12).map(|i| put(format!("key{i:02}"), 7 + i, vec![i as u8; 70])).collect();
    entries.extend((0..3).map(|i| put("many", 10 + 5 * i, vec![i as u8; 2500])));
    entries.push((b"gone".to_vec(), 3, Kind::Delete, Vec::new()));
    entries.push(put("large", 4, vec![0x5a; 4600]));
    in_order(entries)
}

/// Reads a table in every way. What is read must be right; true if an error was seen.
fn read_all(tables: &Tables, meta: Option<&TableMeta>, entries: &[Entry], strict: bool) -> bool {
    let mut errors = 0;
    let mut check = |error: Error| {
        assert!(error.is_corruption(), "{error}");
        errors += 1;
    };
    for context in tables.contexts() {
        let table = match meta {
            Some(meta) => Table::new(context, meta.clone()),
            None => match Table::open_file(context, &tables.path(1)) {
                Ok(table) => table,
                Err(error) => {
                    check(error);
                    continue;
                }
            },
        };
        for entry in entries {
            match table.get(&entry.0, entry.1) {
                Ok(found) => {
                    let found = found.map(|found| (found.sequence(), found.kind(), found.value().to_vec()));
                    assert!(!strict || found == Some((entry.1, entry.2, entry.3.clone())));
                }
                Err(error) => check(error),
            }
        }
        match table.get(b"key055", 99) {
            Ok(found) => assert!(!strict || found.is_none()),
            Err(error) => check(error),
        }
        for mode in [ScanMode::Auto, ScanMode::Stream(CacheUse::Keep)] {
            for forward in [true, false] {
                let mut cursor = table.cursor(mode);
                let mut seen = Vec::new();
                let sought = if forward { cursor.seek_to_first() } else { cursor.seek_to_last() };
                let mut step = sought;
                while step.is_ok() && cursor.valid() {
                    seen.push(current(&cursor).unwrap());
                    step = if forward { cursor.next() } else { cursor.prev() };
                }
                if !forward {
                    seen.reverse();
                }
                match step {
                    Ok(()) => assert!(!strict || seen == entries),
                    Err(error) => {
                        assert!(!cursor.valid());
                        assert!(
                            !strict
                                || if forward {
                                    entries.starts_with(&seen)
                                } else {
                                    entries.ends_with(&seen)
                                }
                        );
                        check(error);
                    }
                }
            }
            let mut cursor = table.cursor(mode);
            for (key, sequence) in [(&b"many"[..], 12), (b"large", 9), (b"", 0), (b"zzz", 0)] {
                let moved = cursor.seek(key, sequence).and_then(|()| cursor.seek_before(key));
                moved.unwrap_or_else(&mut check);
            }
        }
        for result in [layout(&table).map(drop), table.approximate_offset(b"many").map(drop)] {
            result.unwrap_or_else(&mut check);
        }
        explain(&table, b"many", 12).map(drop).unwrap_or_else(&mut check);
    }
    errors > 0
}

#[test]
fn every_flipped_byte_is_noticed() {
    for compression in COMPRESSIONS {
        let entries = entries();
        let (tables, meta, good) = Tables::with(compression, &entries);
        assert!(!read_all(&tables, Some(&meta), &entries, true));
        assert!(tables.verify(1).is_ok());
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            tables.replace(bytes);
            let report = tables.verify(1);
            assert!(!report.is_ok(), "{at}");
            // Reading all is slow: of the zeros that fill a page, a few will do.
            if good[at] != 0 || at % 64 == 0 {
                read_all(&tables, Some(&meta), &entries, true);
            }
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    for compression in COMPRESSIONS {
        let entries = entries();
        let (tables, meta, good) = Tables::with(compression, &entries);
        for len in (0..good.len()).rev() {
            tables.replace(good[..len].to_vec());
            assert!(tables.table(&meta).check().unwrap_err().is_corruption());
            for context in
                [tables.context(), TableContext { point_reads: PointReads::Pread.into(), ..tables.context() }]
            {
                assert!(Table::open_file(Arc::new(context), &tables.path(1)).unwrap_err().is_corruption());
            }
            let report = tables.verify(1);
            assert!(!report.is_ok() && report.damages[0].offset <= good.len() as u64, "{report}");
        }
        let mut longer = good.clone();
        longer.push(0);
        tables.replace(longer);
        assert!(tables.table(&meta).check().is_err() && !tables.verify(1).is_ok());
    }
}

#[test]
fn forgeries_with_right_checksums_never_panic() {
    for compression in COMPRESSIONS {
        let entries = entries();
        let (tables, meta, good) = Tables::with(compression, &entries);
        let parts = Parts::of(&tables, &meta);
        let mut sealed = good.clone();
        parts.seal(&mut sealed);
        assert_eq!(sealed, good);

        // Half of the changes go to the metadata, which is small and decides most.
        let meta_start = parts.footer.meta_offset() as usize;
        let mut random = Random(0x7e44ace);
        for _ in 0..2000 {
            let mut bytes = good.clone();
            for _ in 0..=random.below(3) {
                let from = if random.below(2) == 0 { 0 } else { meta_start };
                let at = from + random.below(bytes.len() - from);
                bytes[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => bytes[at] ^ (1 << random.below(8)),
                    _ => random.next() as u8,
                };
            }
            parts.seal(&mut bytes);
            tables.replace(bytes);
            read_all(&tables, None, &entries, false);
            read_all(&tables, Some(&meta), &entries, false);
            let _ = tables.verify(1);
        }
    }
}

#[test]
fn verification_goes_on_past_damage() {
    let entries: Vec<Entry> = (0..1000).map(|i| put(format!("{i:06}"), 1, [i as u8; 100])).collect();
    let (tables, meta, mut bytes) = Tables::with(Compression::None, &entries);
    let parts = Parts::of(&tables, &meta);
    for block in [3, 4, 20] {
        bytes[parts.blocks[block].0 + 77] ^= 1;
    }
    bytes[parts.footer.meta_offset() as usize + 100] ^= 1;
    tables.replace(bytes);
    let report = tables.verify(1);
    let offsets: Vec<u64> = report.damages.iter().map(|damage| damage.offset).collect();
    assert!(offsets.contains(&parts.footer.meta_offset()), "{:?}", report.damages);
    for block in [3, 4, 20] {
        assert!(offsets.contains(&(parts.blocks[block].0 as u64)), "{:?}", report.damages);
    }
    assert!(report.blocks >= parts.blocks.len() as u64 - 4);
}

/// What is in the way of one block is not held against those that a window has with it.
#[test]
fn a_place_that_cannot_be_read_costs_its_block_and_no_other() {
    for compression in COMPRESSIONS {
        let entries: Vec<Entry> = (0..1000).map(|i| put(format!("{i:06}"), 1, [i as u8; 100])).collect();
        let (tables, meta, _) = Tables::with(compression, &entries);
        let parts = Parts::of(&tables, &meta);
        let flaws = Arc::<Flaws>::default();
        let fs = tables.flawed(&flaws);
        for &(start, end) in &parts.blocks {
            flaws.lose((start + end) as u64 / 2);
            let report = verify(&*fs, &tables.path(1));
            assert_eq!((report.blocks, report.damage_count), (parts.blocks.len() as u64 - 1, 1));
            let damage = &report.damages[0];
            assert_eq!((damage.offset, damage.loses_entries), (start as u64, true));
            assert!(damage.what.starts_with("cannot read"), "{}", damage.what);
        }
    }
}

/// A damaged filter or locator costs no entry, but those gets that need it.
#[test]
fn gets_that_need_a_damaged_part_fail_and_scans_do_not() {
    let entries: Vec<Entry> = (0..20_000).map(|i| put(format!("{i:06}"), 1, "")).collect();
    for (locator, filter, expected) in [
        (true, FilterKind::Blocked, 1..20_000),
        (false, FilterKind::Blocked, 1..20_000),
        // Read as a whole.
        (false, FilterKind::Bloom, 20_000..20_001),
    ] {
        let tables = Tables::new();
        let meta = tables.write(1, &TableOptions { locator, filter, ..options(Compression::None) }, &entries);
        let mut bytes = tables.bytes(&tables.path(1));
        // The third chunk of metadata has nothing but buckets or bits of the filter.
        let at = Parts::of(&tables, &meta).footer.meta_offset() as usize + 2 * PAGE_BYTES;
        bytes[at + 77] ^= 1;
        tables.replace(bytes);
        let report = tables.verify(1);
        assert_eq!((report.damage_count, report.loses_entries, report.entries), (1, false, 20_000));
        assert_eq!(report.damages[0].offset, at as u64);
        assert!(report.damages[0].what.ends_with("no entry is lost, but gets that need this part fail"));
        let table = tables.table(&meta);
        let failed = entries.iter().filter(|entry| table.get(&entry.0, 9).is_err()).count();
        assert!(expected.contains(&failed), "{failed} gets fail");
        let mut cursor = table.cursor(ScanMode::Auto);
        cursor.seek_to_first().unwrap();
        assert!(collect(&mut cursor, true).unwrap() == entries);
    }
}

#[test]
fn a_table_that_contradicts_itself_is_noticed() {
    let entries = entries();
    let (tables, meta, good) = Tables::with(Compression::None, &entries);
    let parts = Parts::of(&tables, &meta);
    let verified = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        parts.seal(&mut bytes);
        tables.replace(bytes);
        tables.verify(1)
    };
    assert!(verified(&|_| ()).is_ok());
    // A key out of order, an unknown key, an entry of another sequence, all with right checksums.
    let key = good.windows(5).position(|window| window == b"key05").unwrap();
    assert!(!verified(&|bytes| bytes[key + 3] = b'9').is_ok());
    assert!(!verified(&|bytes| bytes[key + 4] = b'\x35' + 1).is_ok());
    assert!(!verified(&|bytes| bytes[8] += 1).is_ok());
    // A fence whose first bytes, by which it is found, are not its own: reads would go to another block.
    let found = layout(&tables.table(&meta)).unwrap();
    let fences = found.metadata.iter().find(|block| block.name() == "fences").unwrap();
    let prefixes = (found.footer.meta_offset() + fences.offset) as usize + 8;
    for index in 0..found.blocks.len() {
        assert!(!verified(&|bytes| bytes[prefixes + 8 * index + 7] ^= 1).is_ok(), "fence {index}");
    }
    let gone = verify(&*tables.fs, &tables.path(99));
    assert!(!gone.is_ok() && gone.damages[0].what.contains("open"));
}

#[test]
fn another_number_in_the_name_is_noticed() {
    let tables = Tables::new();
    tables.write(1, &options(Compression::None), &entries());
    tables.fs.rename(&tables.path(1), &tables.path(2)).unwrap();
    assert_eq!(tables.verify(2).damage_count, 1);
}

#[test]
fn a_lookup_can_be_explained() {
    let tables = Tables::new();
    let entries = entries();
    let table = tables.table(&tables.write(1, &options(Compression::None), &entries));
    let explanation = explain(&table, b"many", 17).unwrap();
    assert_eq!((explanation.in_range, explanation.filter), (true, Some(true)));
    assert_eq!(explanation.versions.iter().map(|v| v.sequence).collect::<Vec<_>>(), [20, 15, 10]);
    assert_eq!(explanation.visible, Some(1));
    assert_eq!(explanation.versions[1].value, vec![1; 2500]);
    let layout = layout(&table).unwrap();
    assert_eq!(explanation.block_offset, layout.blocks[explanation.block].offset);
    assert_eq!(
        layout.metadata.iter().map(|m| m.name()).collect::<Vec<_>>(),
        ["locator", "blocked filter", "fences", "properties"]
    );
    let located = explanation.locator.unwrap();
    assert_eq!((located.buckets, located.mistaken), (1, 0));
    let newest = explain(&table, b"many", SEQUENCE_MAX).unwrap();
    assert_eq!(located.place, newest.slot.map(|slot| (newest.block, slot)));

    let explanation = explain(&table, b"zebra", 17).unwrap();
    assert_eq!(explanation.locator.unwrap().place, None);
    assert!(!explanation.in_range && explanation.versions.is_empty() && explanation.visible.is_none());
}

#[test]
fn a_lookup_among_slots_that_repeat_is_an_error() {
    // Thousands of slots can name one entry: what is told of its versions would have no end to speak of.
    let (tables, meta, mut bytes) = Tables::with(Compression::None, &entries());
    let parts = Parts::of(&tables, &meta);
    let count = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
    // In the first block stand "gone", "key00", "key01" and more: the slot behind that of "key01" names it again.
    let slot = parts.blocks[0].1 - SLOT_BYTES * (count - 2);
    bytes.copy_within(slot..slot + SLOT_BYTES, slot + SLOT_BYTES);
    parts.seal(&mut bytes);
    tables.replace(bytes);
    let error = explain(&tables.table(&meta), b"key01", 99).unwrap_err();
    assert!(matches!(&error, Error::Corruption { what, .. } if what.contains("out of order")), "{error}");
}
