//! How much a random load is rewritten: the picker drives a tree of sizes, no data.

use terrace_sstable::TableMeta;

use crate::{Candidate, LEVELS, Policy, Shape, is_settled, pick};

const MIB: u64 = 1 << 20;
/// How many keys there are: few enough for no overflow, many enough for any number of tables.
const KEYS: u64 = 1 << 62;

fn table(number: u64, smallest: u64, largest: u64, file_len: u64) -> TableMeta {
    TableMeta {
        number,
        table_id: number,
        file_len,
        entries: file_len / 128,
        deletes: 0,
        smallest_sequence: 1,
        largest_sequence: 1,
        smallest_key: smallest.to_be_bytes().into(),
        largest_key: largest.to_be_bytes().into(),
    }
}

fn key(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

/// Merges tables whose keys are spread evenly and all differ, into tables of so many bytes.
fn merge(inputs: &[TableMeta], table_bytes: u64, next_number: &mut u64) -> Vec<TableMeta> {
    let mut ends: Vec<u64> = Vec::new();
    for meta in inputs {
        ends.extend([key(&meta.smallest_key), key(&meta.largest_key)]);
    }
    ends.sort_unstable();
    ends.dedup();
    let density = |meta: &TableMeta| {
        meta.file_len as f64 / (key(&meta.largest_key) - key(&meta.smallest_key)).max(1) as f64
    };
    let mut outputs = Vec::new();
    let (mut start, mut bytes) = (ends[0], 0.0);
    for pair in ends.windows(2) {
        let here: f64 = inputs
            .iter()
            .filter(|meta| key(&meta.smallest_key) <= pair[0] && key(&meta.largest_key) >= pair[1])
            .map(density)
            .sum();
        let mut from = pair[0];
        while here > 0.0 && bytes + here * (pair[1] - from) as f64 >= table_bytes as f64 {
            let end = (from + ((table_bytes as f64 - bytes) / here) as u64).min(pair[1]);
            *next_number += 1;
            outputs.push(table(*next_number, start, end, table_bytes));
            (start, from, bytes) = (end + 1, end, 0.0);
        }
        bytes += here * (pair[1] - from) as f64;
    }
    let last = *ends.last().unwrap();
    if bytes > 1.0 && start <= last {
        *next_number += 1;
        outputs.push(table(*next_number, start, last, bytes as u64));
    }
    outputs
}

/// The bytes that a load of so many flushes writes, the flushes included, per byte flushed, if compaction keeps up
/// with every one.
fn amplification(flushes: u64, ascending: bool) -> f64 {
    let policy = Policy::default();
    let flush_bytes = 64 * MIB;
    let mut levels: [Vec<TableMeta>; LEVELS] = Default::default();
    let (mut number, mut written) = (0, 0);
    for flush in 0..flushes {
        number += 1;
        let width = if ascending { KEYS / flushes } else { KEYS };
        let start = if ascending { flush * width } else { 0 };
        levels[0].insert(0, table(number, start, start + width - 1, flush_bytes));
        written += flush_bytes;
        loop {
            let shape = Shape {
                levels: std::array::from_fn(|level| {
                    levels[level].iter().map(|meta| Candidate { meta, busy: false }).collect()
                }),
                running: Vec::new(),
            };
            let Some(choice) = pick(&shape, &policy) else {
                assert!(is_settled(&shape, &policy));
                break;
            };
            let mut inputs = Vec::new();
            for (level, numbers) in &choice.inputs {
                inputs.extend(levels[*level].extract_if(.., |meta| numbers.contains(&meta.number)));
            }
            let outputs = if choice.trivial_move {
                inputs
            } else {
                let outputs = merge(&inputs, policy.table_bytes, &mut number);
                written += outputs.iter().map(|meta| meta.file_len).sum::<u64>();
                outputs
            };
            let level = &mut levels[choice.output_level];
            level.extend(outputs);
            level.sort_by_key(|meta| key(&meta.smallest_key));
        }
    }
    let held: u64 = levels.iter().flatten().map(|meta| meta.file_len).sum();
    assert!(held.abs_diff(flushes * flush_bytes) < flushes * flush_bytes / 100, "bytes were lost: {held}");
    written as f64 / (flushes * flush_bytes) as f64
}

#[test]
fn a_random_load_is_rewritten_a_few_times() {
    // 10 M records of 16 B + 100 B: 1.3 GiB.
    let small = amplification(21, false);
    assert!(small < 4.0, "{small}");
    // Ten times as many.
    let large = amplification(210, false);
    assert!(large < 10.0, "{large}");
    println!("flushes and compactions write {small:.2} and {large:.2} times what is loaded");
}

#[test]
fn an_ascending_load_is_never_rewritten() {
    assert_eq!(amplification(100, true), 1.0);
}
