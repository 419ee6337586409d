//! Salvage of tables with every sort of damage: what comes out is what the intact blocks hold, and what is said to be
//! lost covers all that is missing.

use std::collections::BTreeSet;

use super::*;
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
    let mut salvage = TableSalvage::open(&*tables.fs, &tables.path(1), known)?;
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
        let tables = Tables::new();
        let meta = tables.write(1, &options(compression), &entries());
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
        let tables = Tables::new();
        let entries = entries();
        let meta = tables.write(1, &options(compression), &entries);
        let good = tables.bytes(&tables.path(1));
        let layout = layout(&tables.table(&meta)).unwrap();
        for (number, info) in layout.blocks.iter().enumerate() {
            let mut bytes = good.clone();
            bytes[(info.offset + 40) as usize] ^= 4;
            tables.memory.replace_bytes(&tables.path(1), bytes).unwrap();
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
        let tables = Tables::new();
        let entries = entries();
        let meta = tables.write(1, &options(compression), &entries);
        let good = tables.bytes(&tables.path(1));
        let start = layout(&tables.table(&meta)).unwrap().footer.meta_offset() as usize;
        for at in start..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            tables.memory.replace_bytes(&tables.path(1), bytes).unwrap();
            let (found, lost) = match salvage(&tables, Some((meta.table_id, compression))) {
                Ok(salvaged) => salvaged,
                // A footer whose id is damaged is not believed, for its checksum is wrong: blocks are found without it.
                Err(error) => panic!("{at}: {error}"),
            };
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
        let tables = Tables::new();
        let entries = entries();
        let meta = tables.write(1, &options(compression), &entries);
        let good = tables.bytes(&tables.path(1));
        let layout = layout(&tables.table(&meta)).unwrap();
        for len in (0..good.len()).step_by(997) {
            tables.memory.replace_bytes(&tables.path(1), good[..len].to_vec()).unwrap();
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
