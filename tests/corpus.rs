//! The fuzz targets, without a fuzzer. Goal: what fuzzing has found stays found, and every change runs every target.
//!
//! Method: each target of `src/fuzz.rs` runs over its committed corpus in `fuzz/corpus`, and over changed copies of it:
//! pieces cut, doubled, spliced with others, bytes and bits changed. `docs/testing.md` says how the fuzzer itself is
//! run.
//!
//! `TERRACE_WRITE_CORPUS=1` writes the seeds of the corpora anew, for a format that has changed.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::RngExt;
use terrace_tests::forge::change_bytes;
use terrace_tests::fuzz::{TARGETS, corpus, write_corpora};
use terrace_tests::samples::{Random, random};
use terrace_tests::sweep::Sweep;
use terrace_tests::{covered, skipped};

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
        skipped("write_the_corpora", "TERRACE_WRITE_CORPUS is not set");
        return;
    }
    write_corpora();
}

#[test]
fn every_target_takes_its_corpus() {
    let mut total = 0;
    for (target, run) in TARGETS {
        let (inputs, mut let_in) = (inputs(target), 0);
        for (name, bytes) in &inputs {
            let is_let_in = run(bytes);
            println!("{target}/{name}: {} bytes, let in: {is_let_in}", bytes.len());
            total += bytes.len();
            let_in += u64::from(is_let_in);
        }
        covered(&format!("the corpus of {target}"), format_args!("{let_in} of {} let in", inputs.len()));
        assert!(let_in > 0, "of the corpus of {target} nothing is let in");
    }
    assert!(total <= CORPUS_BYTES_MAX, "the corpora have {total} bytes");
}

#[test]
fn every_target_has_a_corpus_and_a_fuzzer() {
    let mut known = TARGETS.map(|(target, _)| target);
    known.sort();
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&corpus("")), known, "each corpus has a target");
    let fuzz = corpus("").join("..");
    let programs = names(&fuzz.join("fuzz_targets"));
    assert_eq!(programs, known.map(|target| format!("{target}.rs")), "each fuzzer has a target");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let mut bins: Vec<_> = manifest
        .split("[[bin]]")
        .skip(1)
        .map(|bin| {
            let value = |key: &str| {
                let line = bin.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
                line.and_then(|rest| rest.strip_suffix('"')).unwrap_or_else(|| panic!("no {key} in {bin}"))
            };
            assert_eq!(value("path"), format!("fuzz_targets/{}.rs", value("name")));
            value("name")
        })
        .collect();
    bins.sort();
    assert_eq!(bins, known, "each fuzzer is built");
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
        let let_in = AtomicU64::new(0);
        let what = format!("changed inputs of {target}");
        let done = Sweep::endless(&*what, usual).run(
            || (),
            |(), case| {
                let is_let_in = run(&changed(&mut random(case), &inputs));
                let_in.fetch_add(is_let_in.into(), Ordering::Relaxed);
            },
        );
        let let_in = let_in.into_inner();
        covered(&what, format_args!("{let_in} of {done} let in"));
        assert!(done < 100 || let_in > 0, "nothing is let in of {done} {what}");
    }
}
