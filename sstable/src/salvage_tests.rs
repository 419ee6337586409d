//! Salvage of tables with every sort of damage: what comes out is what the intact blocks hold, and what is said to be
//! lost covers all that is missing.

use std::collections::BTreeSet;

use super::*;
use crate::flawed::Flaws;
use crate::footer::DIRECTORY_ENTRY_BYTES;
use crate::testing::*;
use crate::*;

/// Entries of every sort, for a table of a few dozen blocks.
fn entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> =
        (0..700).map(|i| put(format!("key{i:05}"), 7 + i, vec![(i % 251) as u8; 90])).collect();
    entries.extend((0..5).map(|i| put("many", 10 + 5 * i, vec![i as u8; 2500])));
    entries.push((b"gone".to_vec(), 3, Kind::Delete, Vec::new()));
    entries.push(put("large", 4, vec![0x5a; 14_600]));
    in_order(entries)
}

fn salvage(tables: &Tables, known: Option<(u64, Compression)>) -> Result<(Vec<Entry>, Vec<LostBlocks>)> {
    salvage_from(&*tables.fs, &tables.path(1), known)
}

fn salvage_from(
    fs: &dyn FileSystem,
    path: &Path,
    known: Option<(u64, Compression)>,
) -> Result<(Vec<Entry>, Vec<LostBlocks>)> {
    let mut salvage = TableSalvage::open(fs, path, known)?;
    let mut found = Vec::new();
    while salvage.advance() {
        let (key, value) = (salvage.key().to_vec(), salvage.value().to_vec());
        found.push((key, salvage.sequence(), salvage.kind(), value));
    }
    assert!(!salvage.advance(), "it goes on after its end");
    assert_eq!(salvage.entries_read(), found.len() as u64);
    Ok((found, salvage.lost().to_vec()))
}

/// Checks that `found` is a part of `entries`, and that what is missing lies in what is said to be lost.
#[track_caller]
fn check(entries: &[Entry], found: &[Entry], lost: &[LostBlocks]) -> usize {
    let kept: BTreeSet<_> = found.iter().map(|entry| (&entry.0, entry.1)).collect();
    assert!(found.iter().all(|entry| entries.contains(entry)), "something was made up");
    assert!(
        found
            .windows(2)
            .all(|pair| { compare_internal(&pair[0].0, pair[0].1, &pair[1].0, pair[1].1) == Ordering::Less })
    );
    let missing: Vec<_> = entries.iter().filter(|entry| !kept.contains(&(&entry.0, entry.1))).collect();
    for entry in &missing {
        let covers = |lost: &LostBlocks| {
            lost.keys_from.as_ref().is_none_or(|from| **from <= *entry.0)
                && lost.keys_to.as_ref().is_none_or(|to| **to >= *entry.0)
        };
        assert!(lost.iter().any(covers), "{:?} is missing and not said to be lost", entry.0);
    }
    missing.len()
}

#[test]
fn an_intact_table_is_read_as_a_whole() {
    for compression in COMPRESSIONS {
        let (tables, meta, _) = Tables::with(compression, &entries());
        for known in [None, Some((meta.table_id, compression))] {
            assert_eq!(salvage(&tables, known).unwrap(), (entries(), Vec::new()));
        }
        let wrong = salvage(&tables, Some((meta.table_id ^ 1, compression)));
        assert!(wrong.unwrap_err().is_corruption());
    }
}

#[test]
fn a_flip_costs_its_block_and_no_other() {
    for compression in COMPRESSIONS {
        let entries = entries();
        let (tables, meta, good) = Tables::with(compression, &entries);
        let layout = layout(&tables.table(&meta)).unwrap();
        for (number, info) in layout.blocks.iter().enumerate() {
            let mut bytes = good.clone();
            bytes[(info.offset + 40) as usize] ^= 4;
            tables.replace(bytes);
            let (found, lost) = salvage(&tables, None).unwrap();
            assert_eq!(check(&entries, &found, &lost) as u64, info.entries, "block {number}");
            assert_eq!(lost.len(), 1);
            assert_eq!(lost[0].bytes, info.offset..info.offset + info.len);
            assert_eq!(lost[0].keys_from.is_none(), number == 0);
            assert_eq!(lost[0].keys_to.is_none(), number + 1 == layout.blocks.len());
        }
    }
}

#[test]
fn flips_of_metadata_cost_nothing_where_the_fences_still_lead_to_blocks() {
    for compression in COMPRESSIONS {
        let entries = entries();
        let (tables, meta, good) = Tables::with(compression, &entries);
        let footer = Parts::of(&tables, &meta).footer;
        let (start, tail) = (footer.meta_offset() as usize, footer.tail_offset() as usize);
        for at in start..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            tables.replace(bytes);
            // A footer whose id is damaged is not believed, for its checksum is wrong: blocks are found without it.
            let known = Some((meta.table_id, compression));
            let (found, lost) = salvage(&tables, known).unwrap_or_else(|error| panic!("{at}: {error}"));
            let opened = TableSalvage::open(&*tables.fs, &tables.path(1), known).unwrap();
            assert!(opened.metadata_damage().is_some(), "the flip at {at} is not noticed");
            let is_of_tail = at >= tail;
            assert!(opened.properties().is_none() || !is_of_tail, "the flip at {at} is not taken seriously");
            let missing = check(&entries, &found, &lost);
            // A flipped offset in the fences costs the blocks on either side of it at most.
            assert!(missing <= 90, "{at}: {missing} entries are missing");
            if let Ok((found, lost)) = salvage(&tables, None) {
                check(&entries, &found, &lost);
            }
        }
    }
}

#[test]
fn a_cut_costs_what_is_behind_it() {
    for compression in COMPRESSIONS {
        let entries = entries();
        let (tables, meta, good) = Tables::with(compression, &entries);
        let layout = layout(&tables.table(&meta)).unwrap();
        for len in (0..good.len()).step_by(997) {
            tables.replace(good[..len].to_vec());
            assert!(salvage(&tables, None).is_err(), "whose blocks these are is not known");
            let (found, lost) = salvage(&tables, Some((meta.table_id, compression))).unwrap();
            let whole = layout.blocks.iter().filter(|info| info.offset + info.len <= len as u64);
            assert_eq!(found.len() as u64, whole.map(|info| info.entries).sum::<u64>(), "cut at {len}");
            assert_eq!(found, entries[..found.len()]);
            check(&entries, &found, &lost);
            assert!(lost.last().is_some_and(|lost| lost.bytes.end == len as u64), "cut at {len}");
        }
    }
}

#[test]
fn a_newer_format_is_no_damage() {
    for compression in COMPRESSIONS {
        let (tables, meta, good) = Tables::with(compression, &entries());
        let parts = Parts::of(&tables, &meta);
        let end = good.len() - FOOTER_BYTES;
        // The directory ends with the properties, whose kind becomes that of range tombstones.
        let kind = end - DIRECTORY_ENTRY_BYTES;
        for known in [None, Some((meta.table_id, compression))] {
            for (at, value, found_kind) in [(end + 48, 2, 2), (kind, 5, 0x8000_0005)] {
                let mut bytes = good.clone();
                bytes[at] = value;
                parts.seal_tail(&mut bytes);
                tables.replace(bytes);
                let refused = salvage(&tables, known).unwrap_err();
                assert!(
                    matches!(refused, Error::UnsupportedFormat { found, supported: 1, .. } if found == found_kind),
                    "{refused}"
                );
            }
        }
        // The same without the right checksum is damage, and known blocks are found without it.
        for at in [end + 48, kind] {
            let mut bytes = good.clone();
            bytes[at] ^= 7;
            tables.replace(bytes);
            assert!(matches!(salvage(&tables, None).unwrap_err(), Error::Corruption { .. }));
            let (found, _) = salvage(&tables, Some((meta.table_id, compression))).unwrap();
            assert_eq!(found, entries());
        }
    }
}

#[test]
fn a_footer_that_memory_does_not_give_is_read_from_the_device() {
    let (tables, meta, good) = Tables::with(Compression::None, &entries());
    let flaws = Arc::<Flaws>::default();
    let (fs, path) = (tables.flawed(&flaws), tables.path(1));
    let end = (good.len() - FOOTER_BYTES) as u64;
    // The last page, and so the footer, of which the metadata is read past the page cache anyway.
    flaws.stuck.set(end + 5);
    assert_eq!(salvage_from(&*fs, &path, None).unwrap(), (entries(), Vec::new()));
    flaws.stuck.set(u64::MAX);
    flaws.spoiled.set(end + 5);
    assert_eq!(salvage_from(&*fs, &path, None).unwrap(), (entries(), Vec::new()));
    // What is wrong first is told, not what kept it from a second look.
    flaws.spoiled.set(end + 60);
    flaws.unreadable.set(end + 5);
    let known = Some((meta.table_id, Compression::None));
    let opened = TableSalvage::open(&*fs, &path, known).unwrap();
    assert!(opened.metadata_damage().unwrap().to_string().contains("no magic"));
    assert!(matches!(salvage_from(&*fs, &path, None).unwrap_err(), Error::Corruption { .. }));
    flaws.lose(end + 5);
    assert!(matches!(salvage_from(&*fs, &path, None).unwrap_err(), Error::Io { .. }));
}

#[test]
fn a_place_that_cannot_be_read_costs_its_block_and_no_other() {
    for compression in COMPRESSIONS {
        let entries = entries();
        let (tables, meta, _) = Tables::with(compression, &entries);
        let flaws = Arc::<Flaws>::default();
        let fs = tables.flawed(&flaws);
        for info in layout(&tables.table(&meta)).unwrap().blocks {
            flaws.lose(info.offset + info.len / 2);
            let (found, lost) = salvage_from(&*fs, &tables.path(1), None).unwrap();
            assert_eq!(check(&entries, &found, &lost) as u64, info.entries);
            assert_eq!((lost.len(), &lost[0].bytes), (1, &(info.offset..info.offset + info.len)));
            assert!(lost[0].what.starts_with("cannot read"), "{}", lost[0].what);
        }
    }
}

#[test]
fn what_a_damaged_fence_costs_lies_behind_the_block_before() {
    let entries = entries();
    let (tables, meta, good) = Tables::with(Compression::None, &entries);
    let layout = layout(&tables.table(&meta)).unwrap();
    let fences = layout.metadata.iter().find(|block| block.name() == "fences").unwrap();
    let offsets = (layout.footer.meta_offset() + fences.offset) as usize + 8 + 8 * layout.blocks.len();
    for number in 1..layout.blocks.len() - 1 {
        let mut bytes = good.clone();
        // Beyond the end of the data: neither this block nor the one before has a place then.
        bytes[offsets + 8 * number + 5] ^= 1;
        tables.replace(bytes);
        let (found, lost) = salvage(&tables, Some((meta.table_id, Compression::None))).unwrap();
        let missing = layout.blocks[number - 1].entries + layout.blocks[number].entries;
        assert_eq!(check(&entries, &found, &lost) as u64, missing);
        assert_eq!((lost.len(), lost[0].bytes.start), (1, layout.blocks[number - 1].offset), "{number}");
    }
}
