//! The fuzz targets, without a fuzzer. Goal: what fuzzing has found stays found, and every change runs every target.
//!
//! Method: each target of `src/fuzz.rs` runs over its committed corpus in `fuzz/corpus`, and over changed copies of it:
//! pieces cut, doubled, spliced with others, bytes and bits changed. `docs/testing.md` says how the fuzzer itself is run.
//!
//! `TERRACE_WRITE_CORPUS=1` writes the seeds of the corpora anew, for a format that has changed.

use std::fs;

use rand::RngExt;
use terrace_tests::forge::change_bytes;
use terrace_tests::fuzz::{TARGETS, corpus, write_corpora};
use terrace_tests::samples::{Random, random};
use terrace_tests::sweep::Sweep;

/// The corpora together are at most so long.
const CORPUS_BYTES_MAX: usize = 1 << 20;

/// Name and bytes of each input, in order.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(corpus(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{target} has a corpus");
    inputs
}

/// Writes the seeds; does nothing without its environment variable.
#[test]
fn write_the_corpora() {
    if std::env::var_os("TERRACE_WRITE_CORPUS").is_none() {
        return;
    }
    write_corpora();
}

#[test]
fn every_target_takes_its_corpus() {
    let mut total = 0;
    for (target, run) in TARGETS {
        for (name, bytes) in inputs(target) {
            println!("{target}/{name}: {} bytes", bytes.len());
            total += bytes.len();
            run(&bytes);
        }
    }
    assert!(total <= CORPUS_BYTES_MAX, "the corpora have {total} bytes");
    let mut targets: Vec<_> = fs::read_dir(corpus(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    targets.sort();
    let mut known = TARGETS.map(|(target, _)| target);
    known.sort();
    assert_eq!(targets, known, "each corpus has a target");
}

/// A changed copy of one of some inputs.
fn changed(random: &mut Random, inputs: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = inputs[random.random_range(0..inputs.len())].1.clone();
    for _ in 0..random.random_range(1..6) {
        if random.random_ratio(1, 10) {
            let other = &inputs[random.random_range(0..inputs.len())].1;
            let (at, from) = (random.random_range(0..=bytes.len()), random.random_range(0..=other.len()));
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        } else {
            change_bytes(random, &mut bytes);
        }
    }
    bytes
}

#[test]
fn every_target_takes_changed_inputs() {
    for (target, run) in TARGETS {
        let inputs = inputs(target);
        let usual = match target {
            "api" => 150,
            "manifest" | "batch" => 1_500,
            _ => 6_000,
        };
        Sweep::endless(format!("changed inputs of {target}"), usual).run(
            || (),
            |(), case| {
                run(&changed(&mut random(case), &inputs));
            },
        );
    }
}
