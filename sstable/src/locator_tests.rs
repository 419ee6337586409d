//! Lookups by the locator: whatever was written is found, in every sort of table and way of reading, and nothing else;
//! forged and damaged locators lead to errors, to misses or past the locator, and verification notices all of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use terrace_io::{Error, PAGE_BYTES};

use super::*;
use crate::testing::*;
use crate::*;

fn number(i: usize) -> Vec<u8> {
    format!("key {i:07}").into_bytes()
}

fn numbers(count: usize) -> Vec<Entry> {
    (0..count).map(|i| put(number(i), 1 + i as u64 % 3, i.to_string())).collect()
}

/// Where the locator of a table is in its file.
fn place(table: &Table) -> Range<usize> {
    let layout = layout(table).unwrap();
    let locator = layout.metadata.iter().find(|block| block.name() == "locator").expect("it has one");
    let start = (layout.footer.meta_offset() + locator.offset) as usize;
    start..start + locator.len as usize
}

/// A table in memory, and its bytes to be changed.
struct Forgery {
    tables: Tables,
    meta: TableMeta,
    parts: Parts,
    good: Vec<u8>,
    place: Range<usize>,
}

impl Forgery {
    fn new(entries: &[Entry]) -> Forgery {
        let tables = Tables::new();
        let meta = tables.write(1, &options(Compression::None), entries);
        let (parts, good) = (Parts::of(&tables, &meta), tables.bytes(&tables.path(1)));
        let place = place(&tables.table(&meta));
        Forgery { tables, meta, parts, good, place }
    }

    /// The table with `change` made to the bytes of its locator, and every checksum right.
    fn forge(&self, change: impl FnOnce(&mut [u8])) -> Arc<Table> {
        let mut bytes = self.good.clone();
        change(&mut bytes[self.place.clone()]);
        self.parts.seal(&mut bytes);
        self.tables.memory.replace_bytes(&self.tables.path(1), bytes).unwrap();
        self.tables.table(&self.meta)
    }

    /// Where word `word` of the locator is in the file.
    fn offset(&self, word: usize) -> u64 {
        (self.place.start + WORD_BYTES * word) as u64
    }

    fn word(&self, word: usize) -> u32 {
        let at = self.offset(word) as usize;
        u32::from_le_bytes(self.good[at..at + WORD_BYTES].try_into().unwrap())
    }

    /// The table with another word in its locator.
    fn forge_word(&self, word: usize, value: u32) -> Arc<Table> {
        self.forge(|locator| {
            locator[WORD_BYTES * word..][..WORD_BYTES].copy_from_slice(&value.to_le_bytes());
        })
    }

    /// Where verification finds damage.
    fn findings(&self) -> Vec<u64> {
        self.tables.verify(1).damages.iter().map(|damage| damage.offset).collect()
    }
}

#[test]
fn every_key_is_found_and_few_others_lead_to_a_block() {
    for (count, compression) in [(1, 0), (12, 0), (13, 0), (20_000, 0), (20_000, 1)] {
        let entries = numbers(count);
        let tables = Tables::new();
        let meta = tables.write(1, &options(COMPRESSIONS[compression]), &entries);
        assert!(tables.verify(1).is_ok());
        for context in tables.contexts() {
            let before = context.counters.totals();
            let table = Table::new(context.clone(), meta.clone());
            let header = table.locator().unwrap().unwrap();
            assert_eq!((header.keys, header.buckets as usize), (count as u64, count.div_ceil(12)));
            for (i, entry) in entries.iter().enumerate() {
                table.prefetch_location(&number(i));
                assert!(table.prefetch_entry(&number(i)));
                assert_eq!(table.get(&number(i), 9).unwrap().unwrap().value(), entry.3);
                // Within the range of the table's keys, except for the last.
                assert!(table.get(&[&number(i)[..], b"?"].concat(), 9).unwrap().is_none());
            }
            let totals = context.counters.totals();
            let checks = totals.locator_checks - before.locator_checks;
            assert_eq!(checks, 2 * count as u64 - 1);
            let (negatives, positives) = (totals.locator_negatives, totals.locator_false_positives);
            assert_eq!(negatives + positives, count as u64 - 1);
            assert!(positives as usize <= count / 100, "{totals:?}");
            assert_eq!(totals.filter_checks, 0);
        }
    }
}

#[test]
fn it_leads_to_the_newest_version() {
    // Versions within a block, over several, and over blocks of several pages; tombstones among them.
    for (versions, len) in [(3, 10), (50, 300), (9, 5000)] {
        let mut entries = Vec::new();
        for key in 0..30 {
            for version in 0..versions {
                let (key, sequence) = (number(key), 100 + 10 * version);
                let is_delete = (version + key.len() as u64).is_multiple_of(4);
                let value = if is_delete { Vec::new() } else { vec![version as u8; len] };
                entries.push((key, sequence, if is_delete { Kind::Delete } else { Kind::Put }, value));
            }
        }
        entries.push((number(7), 5000, Kind::Delete, Vec::new()));
        let entries = in_order(entries);
        let tables = Tables::new();
        for (name, compression) in COMPRESSIONS.into_iter().enumerate() {
            let meta = tables.write(name as u64, &options(compression), &entries);
            let report = tables.verify(name as u64);
            assert!(report.is_ok(), "{:?}", report.damages);
            for context in tables.contexts() {
                let table = Table::new(context, meta.clone());
                assert_eq!(table.locator().unwrap().unwrap().keys, 30);
                check_gets(&table, &entries);
                assert_eq!(table.get(&number(7), u64::MAX).unwrap().unwrap().kind(), Kind::Delete);
                assert!(table.get(&number(7), 99).unwrap().is_none());
                let explanation = explain(&table, &number(7), 4999).unwrap();
                assert_eq!(explanation.visible, Some(1));
                assert!(explanation.locator.unwrap().place.is_some());
            }
        }
    }
}

#[test]
fn keys_and_entries_of_every_size_are_found() {
    let keys =
        [vec![], vec![0], vec![7; 16], vec![7; 17], vec![7; 241], vec![8; 4096], vec![9; KEY_BYTES_MAX]];
    let values = [0, 100, 4060, 4100, 70_000];
    let all = keys.iter().flat_map(|key| values.map(|len| (key, len)));
    let entries = in_order(all.enumerate().map(|(i, (key, len))| put(key, i as u64, vec![5; len])).collect());
    let alone = vec![put(b"", 3, b"")];
    for entries in [entries, alone] {
        let tables = Tables::new();
        for (name, compression) in COMPRESSIONS.into_iter().enumerate() {
            let meta = tables.write(name as u64, &options(compression), &entries);
            assert!(tables.verify(name as u64).is_ok());
            for context in tables.contexts() {
                let table = Table::new(context, meta.clone());
                assert!(table.locator().unwrap().is_some());
                check_gets(&table, &entries);
            }
        }
    }
}

#[test]
fn what_is_too_wide_has_none() {
    // 13 bits for slots, and 12 for blocks.
    let mut entries: Vec<Entry> = (0..6000_u16).map(|i| put(i.to_be_bytes(), 1, "")).collect();
    entries.extend((0..2100).map(|i| put(number(i), 1, vec![1; 40_000])));
    let entries = in_order(entries);
    let tables = Tables::new();
    let options = TableOptions { block_bytes: 65_000, ..options(Compression::Snappy) };
    let mut writer = tables.writer(1, &options);
    for (key, sequence, kind, value) in &entries {
        writer.add(key, *sequence, *kind, value).unwrap();
    }
    let estimate = writer.estimated_len();
    let meta = writer.finish().unwrap();
    // The last block was not compressed yet.
    assert!(estimate.abs_diff(meta.file_len) < 45_000, "{estimate} for {}", meta.file_len);
    let context = Arc::new(tables.context());
    let table = Table::new(context.clone(), meta.clone());
    assert_eq!(table.locator().unwrap(), None);
    for i in (0..6000_u16).chain([u16::MAX]) {
        assert_eq!(table.get(&i.to_be_bytes(), 1).unwrap().is_some(), i < 6000);
    }
    assert_eq!(table.get(&number(2000), 1).unwrap().unwrap().value(), [1; 40_000]);
    assert!(context.counters.totals().filter_checks > 0 && tables.verify(1).is_ok());

    // The last that is not too wide.
    assert!(LocatorHeader::new(1, 1 << 12, (1 << 12) - 1).is_some_and(|header| header.location_bits == 24));
    assert!(LocatorHeader::new(1, (1 << 12) + 1, (1 << 12) - 1).is_none());
    assert!(LocatorHeader::new(1, 1 << 12, 1 << 12).is_none());
    assert_eq!(LocatorHeader::new(1, 1, 0).unwrap().location_bits, 0);
}

#[test]
fn a_table_without_one_reads_the_same() {
    let entries = numbers(3000);
    let tables = Tables::new();
    let options = TableOptions { locator: false, ..options(Compression::None) };
    let meta = tables.write(1, &options, &entries);
    let table = tables.table(&meta);
    assert_eq!(table.locator().unwrap(), None);
    assert_eq!(explain(&table, &number(5), 9).unwrap().locator, None);
    check_gets(&table, &entries);
    assert!(tables.verify(1).is_ok());
}

/// The bytes for keys with these hashes, each in a slot of its own of one block.
fn build(hashes: impl IntoIterator<Item = u64>) -> Option<Vec<u8>> {
    let mut builder = LocatorBuilder::default();
    assert!(builder.start_block());
    hashes.into_iter().for_each(|hash| builder.add(Some(hash)));
    let len = builder.encoded_len();
    let bytes = builder.finish();
    assert!(bytes.as_ref().is_none_or(|bytes| bytes.len() == len));
    bytes
}

#[test]
fn lookups_that_would_not_end_soon_are_not_written() {
    // All at home in one bucket: the last goes to the 64th from there, or would go to the 65th. Also around the end.
    for home in [0, u64::from(u32::MAX)] {
        let hashes = |count: u64| (0..count).map(move |i| home << 32 | i << 8);
        assert!(build(hashes(64 * 15)).is_some());
        assert!(build(hashes(64 * 15 + 1)).is_none());
    }
    // Each key is near its home, but a key that is not there would go through all the buckets that are full.
    let buckets = 200_u64;
    let hashes = |full: u64| {
        let of_bucket = move |bucket: u64| {
            let count = match bucket {
                0 => 16,
                _ if bucket < full => 15,
                _ => 0,
            };
            (0..count).map(move |i| ((bucket << 32) / buckets + 1) << 32 | i << 8)
        };
        let mut hashes: Vec<u64> = (0..buckets).flat_map(of_bucket).collect();
        let rest = 12 * buckets as usize - hashes.len();
        hashes.extend((0..rest as u64).map(|i| (((100 + i % 100) << 32) / buckets + 1) << 32));
        hashes
    };
    let overflowing = |bytes: &[u8]| {
        let buckets = bytes[LINE_BYTES..].as_chunks::<LINE_BYTES>().0;
        buckets.iter().filter(|bucket| word(bucket, 0) & OVERFLOW != 0).count()
    };
    // The first bucket passes one key on to the second, and so on.
    assert_eq!(overflowing(&build(hashes(63)).unwrap()[..LINE_BYTES * 80]), 63);
    assert!(build(hashes(64)).is_none());
}

#[test]
fn hashes_and_places_are_frozen() {
    assert_eq!(hash(b"ice", 0x0123_4567_89ab_cdef), 0x0ed5_082e_5682_8393);
    assert_eq!(hash(b"tea", 0x0123_4567_89ab_cdef), 0x31c6_c4e9_9c9b_5333);
    assert_eq!([0, 1, 2, 3, 4, 255, 256].map(bits_for), [0, 1, 2, 2, 3, 8, 9]);
    let bytes = build([0x0ed5_082e_5682_8393, 0x31c6_c4e9_9c9b_5333]).unwrap();
    assert_eq!(bytes[..24], [1, 0, 0, 0, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let words: Vec<u32> = (0..16).map(|i| word(bytes[64..].first_chunk().unwrap(), i)).collect();
    let entries = [0x5682_8393_u32 << 1, (0x9c9b_5333_u32 << 1) | 1];
    assert_eq!(words[..4], [2, entries[0], entries[1], 0]);
}

#[test]
fn all_words_of_a_bucket_are_compared_and_only_those_that_count() {
    let mask = u32::MAX << 20;
    for count in 0..16 {
        let mut bucket = [0; LINE_BYTES];
        set_word(&mut bucket, 0, count as u32 | OVERFLOW);
        for index in 1..16 {
            set_word(&mut bucket, index, 0x1230_0000 | index as u32);
        }
        assert_eq!(matches(&bucket, 0x1230_0000, mask), ((1_u32 << count) - 1) << 1);
        assert_eq!(matches(&bucket, 0x1240_0000, mask), 0);
        for index in 1..16 {
            let mut bucket = bucket;
            set_word(&mut bucket, index, 0x4560_0000);
            assert_eq!(matches(&bucket, 0x4560_0000, mask), u32::from(index <= count) << index);
        }
        // Fingerprint 0 is one like others, and unused words have none.
        assert_eq!(matches(&[0; LINE_BYTES], 0, mask), 0);
    }
}

#[test]
fn a_located_get_needs_no_fences() {
    let entries: Vec<Entry> = (0..50_000).map(|i| put(number(i), 1, [i as u8; 100])).collect();
    let forgery = Forgery::new(&entries);
    let layout = layout(&forgery.tables.table(&forgery.meta)).unwrap();
    let fences = layout.metadata.iter().find(|block| block.name() == "fences").unwrap();
    let mut bytes = forgery.good.clone();
    // A chunk in the middle of the prefixes, which nothing but a search looks at.
    let at = layout.footer.meta_offset() as usize + fences.offset as usize + fences.len as usize / 8;
    bytes[at] ^= 1;
    forgery.tables.memory.replace_bytes(&forgery.tables.path(1), bytes).unwrap();
    let table = forgery.tables.table(&forgery.meta);
    for entry in &entries {
        assert_eq!(table.get(&entry.0, 9).unwrap().unwrap().value(), entry.3);
    }
    assert!(!forgery.tables.verify(1).is_ok());
}

#[test]
fn damage_is_an_error_and_never_a_miss() {
    let forgery = Forgery::new(&numbers(20_000));
    let first_page = forgery.place.start / PAGE_BYTES * PAGE_BYTES;
    // The last page has other metadata too.
    for page in (first_page..forgery.place.end - PAGE_BYTES).step_by(PAGE_BYTES) {
        let mut bytes = forgery.good.clone();
        bytes[page + 1000] ^= 0x20;
        forgery.tables.memory.replace_bytes(&forgery.tables.path(1), bytes).unwrap();
        let table = forgery.tables.table(&forgery.meta);
        let (mut found, mut failed) = (0, 0);
        for i in 0..20_000 {
            table.prefetch_entry(&number(i));
            match table.get(&number(i), 9) {
                Ok(value) => {
                    assert_eq!(value.unwrap().value(), i.to_string().as_bytes());
                    found += 1;
                }
                Err(Error::Corruption { offset, path, .. }) => {
                    assert_eq!((offset, &*path), (page as u64, table.path()));
                    failed += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        // Without the header no lookup can be made.
        assert!(failed > 500 && (found == 0) == (page == first_page), "{page}: {found} {failed}");
        assert!(!forgery.tables.verify(1).is_ok());
    }
}

/// Looks up what is there and what is not; what is found must be a version of the key. The number of errors and misses.
fn look_up_all(table: &Arc<Table>, entries: &[Entry]) -> (usize, usize) {
    let (mut errors, mut misses) = (0, 0);
    for entry in entries {
        for snapshot in [entry.1, u64::MAX] {
            table.prefetch_entry(&entry.0);
            match table.get(&entry.0, snapshot) {
                Ok(Some(found)) => {
                    let is = (found.sequence(), found.kind(), found.value());
                    let is_version = |e: &&Entry| e.0 == entry.0 && (e.1, e.2, &e.3[..]) == is;
                    assert!(found.sequence() <= snapshot && entries.iter().any(|e| is_version(&e)));
                }
                Ok(None) => misses += 1,
                Err(error) => {
                    assert!(error.is_corruption(), "{error}");
                    errors += 1;
                }
            }
        }
        match table.get(&[&entry.0[..], b"?"].concat(), u64::MAX) {
            Ok(found) => assert!(found.is_none()),
            Err(error) => {
                assert!(error.is_corruption(), "{error}");
                errors += 1;
            }
        }
        let _ = explain(table, &entry.0, entry.1);
    }
    (errors, misses)
}

#[test]
fn forged_words_never_panic_and_are_noticed() {
    let mut entries = numbers(100);
    entries.extend((0..4).map(|i| put(number(50), 10 + i, vec![1; 1500])));
    entries.push((number(60), 99, Kind::Delete, Vec::new()));
    let entries = in_order(entries);
    let forgery = Forgery::new(&entries);
    assert_eq!(look_up_all(&forgery.forge(|_| ()), &entries), (0, 0));
    assert!(forgery.findings().is_empty());
    let mut random = Random(0x10ca_7042);
    let (mut errors, mut misses) = (0, 0);
    for word in 0..forgery.place.len() / WORD_BYTES {
        let good = forgery.word(word);
        let extremes = [0, 1, 15, OVERFLOW, OVERFLOW | 15, u32::MAX, good ^ OVERFLOW, good.wrapping_add(1)];
        let randoms = [(); 4].map(|()| random.next() as u32);
        let bits = [(); 2].map(|()| good ^ (1 << random.below(32)));
        for value in [&extremes[..], &randoms, &bits].concat() {
            if value == good {
                continue;
            }
            let table = forgery.forge_word(word, value);
            let seen = look_up_all(&table, &entries);
            (errors, misses) = (errors + seen.0, misses + seen.1);
            let findings = forgery.findings();
            assert!(!findings.is_empty(), "word {word}: {value:#x} instead of {good:#x}");
            let within = forgery.place.start as u64..forgery.place.end as u64;
            assert!(findings.iter().any(|offset| within.contains(offset)), "{findings:?}");
        }
    }
    assert!(errors > 100 && misses > 100, "{errors} {misses}");
}

#[test]
fn overflow_without_end_is_damage() {
    for count in [5, 100, 5000] {
        let entries = numbers(count);
        let forgery = Forgery::new(&entries);
        let table = forgery.forge(|locator| {
            for bucket in locator[LINE_BYTES..].as_chunks_mut::<LINE_BYTES>().0 {
                bucket[3] |= 0x80;
            }
        });
        for entry in &entries {
            assert_eq!(table.get(&entry.0, 9).unwrap().unwrap().value(), entry.3);
        }
        let error = table.get(b"key 0000001?", 9).unwrap_err();
        let looked_at = count.div_ceil(12).min(64);
        assert!(error.to_string().contains(&format!("through more than {looked_at} buckets")), "{error}");
        assert!(!forgery.findings().is_empty());
    }
}

#[test]
fn headers_that_cannot_be_are_done_without() {
    let entries = numbers(500);
    let forgery = Forgery::new(&entries);
    let forgeries: [(usize, u8); 12] = [
        (0, 0),
        (0, forgery.good[forgery.place.start] + 1),
        (3, 0x80),
        (4, 25),
        (4, 255),
        (5, 25),
        (5, 255),
        (5, 0),
        (6, 1),
        (7, 0x80),
        (16, 1),
        (63, 1),
    ];
    for (at, value) in forgeries {
        forgery.forge(|locator| locator[at] = value);
        for context in forgery.tables.contexts() {
            let table = Table::new(context.clone(), forgery.meta.clone());
            assert_eq!(table.locator().unwrap(), None, "{at}");
            check_gets(&table, &entries);
            let totals = context.counters.totals();
            assert!(totals.locator_checks == 0 && totals.filter_checks > 1000, "{at}: {totals:?}");
        }
        let report = forgery.tables.verify(1);
        assert_eq!(report.damages[0].offset, forgery.offset(0));
        assert!(report.damages[0].what.contains("cannot be used"));
    }
    let bytes = build([1]).unwrap();
    let read = |offset, len, bytes: &[u8]| {
        Locator::read(&MetadataBlock { kind: 4, offset, len }, bytes).map(|locator| locator.header)
    };
    assert_eq!(read(192, 128, &bytes[..64]).unwrap().keys, 1);
    assert!(read(200, 128, &bytes[..64]).is_err());
    assert!(read(0, 192, &bytes[..64]).is_err());
    assert!((0..64).all(|len| read(0, len as u64, &bytes[..len]).is_err()));
}

#[test]
fn verification_names_what_is_wrong() {
    let mut entries = numbers(2000);
    entries.push(put(number(7), 100, "newer"));
    let entries = in_order(entries);
    let forgery = Forgery::new(&entries);
    let header = forgery.tables.table(&forgery.meta).locator().unwrap().unwrap();
    let buckets = 1..=header.buckets as usize;
    let first = |bucket: usize| forgery.word(16 * bucket);
    let overflowing = buckets.clone().find(|bucket| first(*bucket) & OVERFLOW != 0).unwrap();
    let has_room = |bucket: &usize| first(*bucket) & OVERFLOW == 0 && first(*bucket) < BUCKET_ENTRIES_MAX;
    let other = buckets.clone().find(has_room).unwrap();
    let findings = |word: usize, value: u32| {
        forgery.forge_word(word, value);
        forgery.tables.verify(1).damages
    };

    let broken = findings(16 * overflowing, first(overflowing) & !OVERFLOW);
    assert!(broken.iter().any(|damage| damage.what.contains("does not lead")), "{broken:?}");
    let needless = findings(16 * other, first(other) | OVERFLOW);
    assert_eq!(needless[0].offset, forgery.offset(16 * other));
    assert!(needless.len() == 1 && needless[0].what.contains("is not full"), "{needless:?}");
    let reserved = findings(16 * other, first(other) | 1 << 20);
    assert_eq!(reserved[0].offset, forgery.offset(16 * other));
    let unused = findings(16 * other + 15, 1);
    assert_eq!(unused.len(), 1);
    assert_eq!(unused[0].offset, forgery.offset(16 * other + 15));
    let keys = findings(2, 77);
    assert!(keys.len() == 1 && keys[0].what.contains("should be"), "{keys:?}");

    // An older version instead of the newest: the entry behind it.
    let hash = hash(&number(7), forgery.meta.table_id);
    let is_its =
        |entry: u32| entry >> header.location_bits == header.fingerprint(hash) >> header.location_bits;
    let word = buckets.flat_map(|b| 16 * b + 1..16 * b + 16).find(|w| is_its(forgery.word(*w))).unwrap();
    let older = findings(word, forgery.word(word) + 1);
    assert!(older.len() == 1 && older[0].what.contains("the newest version"), "{older:?}");
}

#[test]
fn every_failing_bucket_is_counted_and_some_are_listed() {
    let entries = numbers(2000);
    let forgery = Forgery::new(&entries);
    let id = forgery.meta.table_id;
    let header = forgery.tables.table(&forgery.meta).locator().unwrap().unwrap();
    let homes: BTreeSet<u32> = entries.iter().map(|entry| header.home(hash(&entry.0, id))).collect();
    // Buckets without entries: no lookup leads anywhere. The words that were entries are found one by one, by bucket.
    forgery.forge(|locator| {
        for bucket in locator[LINE_BYTES..].as_chunks_mut::<LINE_BYTES>().0 {
            bucket[..WORD_BYTES].fill(0);
        }
    });
    let report = forgery.tables.verify(1);
    let listed = |what: &str| report.damages.iter().filter(|damage| damage.what.contains(what)).count();
    assert_eq!(listed("does not lead"), 20);
    let others = listed("behind the entries") + listed("entries, but there are");
    assert_eq!(others, header.buckets as usize + 1);
    assert_eq!(report.damages.len(), 20 + others);
    assert_eq!(report.damage_count, (homes.len() + others) as u64);
    assert!(!report.loses_entries);
}

/// As many buckets in a row as no lookup may go through, across the end: no writer makes such a locator, so the keys of
/// a table are exchanged until they overflow it so.
#[test]
fn a_row_of_overflowing_buckets_across_the_end_is_noticed() {
    for (len, is_too_long) in [(LOOKUP_BUCKETS_MAX - 1, false), (LOOKUP_BUCKETS_MAX, true)] {
        let entries: Vec<Entry> = (0..2400).map(|i| put([&number(i)[..], b"????"].concat(), 1, "")).collect();
        let tables = Tables::new();
        let options = TableOptions { filter_bits_per_key: 0, ..options(Compression::None) };
        let meta = tables.write(1, &options, &entries);
        let (parts, table) = (Parts::of(&tables, &meta), tables.table(&meta));
        let header = table.locator().unwrap().unwrap();
        assert_eq!(header.buckets, 200);
        let home = |key: &[u8]| header.home(hash(key, meta.table_id));

        // How many keys are to be at home in each bucket: one too many at the start of the row, as many as have room in
        // the rest of it, and some in the others.
        let first = 200 - len / 2;
        let mut room = [11; 200];
        for index in 0..len {
            room[((first + index) % 200) as usize] = BUCKET_ENTRIES_MAX + u32::from(index == 0);
        }
        // The first and the last key stand in the properties too.
        for entry in [&entries[0], &entries[2399]] {
            room[home(&entry.0) as usize] -= 1;
        }
        let mut bytes = tables.bytes(&tables.path(1));
        let mut keys = vec![entries[0].0.clone()];
        // The row first; what comes behind it goes wherever there is room.
        let mut row: Vec<u32> = (0..len).map(|index| (first + index) % 200).collect();
        for entry in &entries[1..2399] {
            row.retain(|bucket| room[*bucket as usize] > 0);
            let mut key = entry.0.clone();
            let suffix = key.len() - 4;
            let fits = |key: &[u8]| match row.first() {
                Some(bucket) => home(key) == *bucket,
                None => room[home(key) as usize] > 0,
            };
            let found = (0..u32::MAX).find(|i| {
                key[suffix..].copy_from_slice(&i.to_be_bytes());
                fits(&key)
            });
            assert!(found.is_some());
            room[home(&key) as usize] -= 1;
            let at = bytes.windows(suffix).position(|window| *window == entry.0[..suffix]).unwrap();
            bytes[at + suffix..at + suffix + 4].copy_from_slice(&key[suffix..]);
            keys.push(key);
        }
        keys.push(entries[2399].0.clone());

        let place = place(&table);
        let mut locator = vec![[0; LINE_BYTES]; 200];
        let blocks = layout(&table).unwrap().blocks;
        let slots = blocks
            .iter()
            .enumerate()
            .flat_map(|(block, info)| (0..info.entries).map(move |slot| (block, slot)));
        for (key, (block, slot)) in keys.iter().zip(slots) {
            let location = (block as u32) << header.slot_bits | slot as u32;
            assert!(insert(&mut locator, &header, hash(key, meta.table_id), location));
        }
        bytes[place.start + LINE_BYTES..place.end].copy_from_slice(locator.as_flattened());
        parts.seal(&mut bytes);
        tables.replace(bytes);

        let table = tables.table(&meta);
        for key in &keys {
            assert!(table.get(key, 9).unwrap().is_some());
        }
        // A key that is not there, but would be at home where the row begins, and is within the range of the table.
        let is_absent = |key: &Vec<u8>| home(key) == first && !keys.contains(key);
        let absent =
            (0..).map(|i: u32| [&number(1000)[..], &i.to_be_bytes()].concat()).find(is_absent).unwrap();
        let got = table.get(&absent, 9);
        let report = tables.verify(1);
        if is_too_long {
            assert!(got.unwrap_err().is_corruption());
            let last = (first + len - 1) % 200;
            let offset = (place.start + LINE_BYTES * (1 + last as usize)) as u64;
            assert_eq!((report.damage_count, report.damages[0].offset), (1, offset), "{:?}", report.damages);
            assert!(report.damages[0].what.contains("64 buckets of the locator in a row overflow"));
        } else {
            assert!(got.unwrap().is_none());
            assert!(report.is_ok(), "{:?}", report.damages);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn it_answers_as_a_map_does(
        versions in prop::collection::vec((0..300_usize, 0..200_u64, any::<bool>(), 0..600_usize), 1..600),
        asked in prop::collection::vec((0..300_usize, 0..210_u64), 200),
        snappy in any::<bool>(),
    ) {
        let mut map = BTreeMap::new();
        for (key, sequence, is_put, len) in versions {
            let value = if is_put { vec![sequence as u8; len] } else { Vec::new() };
            let kind = if is_put { Kind::Put } else { Kind::Delete };
            map.insert((number(key), Reverse(sequence)), (kind, value));
        }
        let tables = Tables::new();
        let mut writer = tables.writer(1, &options(COMPRESSIONS[usize::from(snappy)]));
        for ((key, Reverse(sequence)), (kind, value)) in &map {
            writer.add(key, *sequence, *kind, value).unwrap();
        }
        let meta = writer.finish().unwrap();
        let report = tables.verify(1);
        prop_assert!(report.is_ok(), "{:?}", report.damages);
        for context in tables.contexts() {
            let table = Table::new(context, meta.clone());
            for (key, snapshot) in &asked {
                let key = number(*key);
                let newest = map.range((key.clone(), Reverse(*snapshot))..).next();
                let expected = newest.filter(|((found, _), _)| *found == key);
                let found = table.get(&key, *snapshot).unwrap();
                prop_assert_eq!(
                    found.as_ref().map(|found| (found.sequence(), found.kind(), found.value())),
                    expected.map(|((_, Reverse(sequence)), (kind, value))| (*sequence, *kind, &value[..]))
                );
            }
        }
    }
}
