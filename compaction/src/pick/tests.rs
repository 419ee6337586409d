//! The picker, case by case: `testdata/pick.txt` holds trees as text and what is expected of them. With
//! `TERRACE_REWRITE=1` in the environment the test writes what it found instead, to be looked at with `git diff`.

mod amplification;
mod model;

use std::fmt::Write;
use std::ops::Bound;
use std::path::Path;

use terrace_sstable::TableMeta;

use crate::{Candidate, Choice, LEVELS, Policy, Reason, Shape, debt_bytes, is_settled, pick, pick_range};

const MIB: u64 = 1 << 20;

/// One case: the lines of its tree, the question, and the answer.
struct Case {
    input: Vec<String>,
    expected: String,
}

#[test]
fn cases() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pick.txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let cases: Vec<Case> = text.trim_end().split("\n\n").map(parse_case).collect();
    assert!(cases.len() > 20);
    let rewrite = std::env::var_os("TERRACE_REWRITE").is_some();
    let mut rewritten = Vec::new();
    for case in &cases {
        let found = answer(&case.input);
        if !rewrite {
            assert_eq!(found, case.expected, "\n{}", case.input.join("\n"));
        }
        rewritten.push(if found.is_empty() {
            case.input.join("\n")
        } else {
            format!("{}\n----\n{found}", case.input.join("\n"))
        });
    }
    if rewrite {
        std::fs::write(&path, rewritten.join("\n\n") + "\n").unwrap();
    }
}

fn parse_case(text: &str) -> Case {
    let (input, expected) = text.split_once("\n----\n").unwrap_or((text, ""));
    Case { input: input.lines().map(str::to_owned).collect(), expected: expected.trim_end().to_owned() }
}

/// A table as text: `number[smallest-largest]MiB`, then `*` if busy, `!` if all tombstones, `0` sequences if `~`.
fn parse_table(text: &str) -> (TableMeta, bool) {
    let (number, rest) = text.split_once('[').expect("a [");
    let (keys, rest) = rest.split_once(']').expect("a ]");
    let (smallest, largest) = keys.split_once('-').expect("a -");
    let size = rest.trim_end_matches(['*', '!', '~']);
    let meta = TableMeta {
        number: number.parse().unwrap(),
        table_id: 1,
        file_len: size.parse::<u64>().unwrap() * MIB,
        entries: 100,
        deletes: if rest.contains('!') { 100 } else { 0 },
        smallest_sequence: 0,
        largest_sequence: if rest.contains('~') { 0 } else { 1000 },
        smallest_key: smallest.as_bytes().into(),
        largest_key: largest.as_bytes().into(),
    };
    (meta, rest.contains('*'))
}

/// A running job as text: `output level[smallest-largest]`.
fn parse_running(text: &str) -> Choice {
    let (level, rest) = text.split_once('[').expect("a [");
    let (smallest, largest) = rest.trim_end_matches(']').split_once('-').expect("a -");
    Choice {
        inputs: Vec::new(),
        output_level: level.parse().unwrap(),
        trivial_move: false,
        reason: Reason::Range,
        score: 0.0,
        smallest_key: smallest.as_bytes().into(),
        largest_key: largest.as_bytes().into(),
    }
}

fn answer(lines: &[String]) -> String {
    let mut levels: [Vec<(TableMeta, bool)>; LEVELS] = Default::default();
    let mut running = Vec::new();
    let mut policy = Policy::default();
    let mut found = String::new();
    for line in lines.iter().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let word = words.next().expect("a word");
        let shape = Shape {
            levels: std::array::from_fn(|level| {
                levels[level].iter().map(|(meta, busy)| Candidate { meta, busy: *busy }).collect()
            }),
            running: running.iter().collect(),
        };
        match word {
            "policy" => {
                for setting in words {
                    let (name, value) = setting.split_once('=').expect("a =");
                    let value: u64 = value.parse().unwrap();
                    match name {
                        "trigger" => policy.l0_trigger = value as usize,
                        "quiet" => policy.quiet = value != 0,
                        "base" => policy.level_base_bytes = value * MIB,
                        "multiplier" => policy.level_multiplier = value,
                        "table" => policy.table_bytes = value * MIB,
                        _ => panic!("unknown setting {name}"),
                    }
                }
            }
            "running" => running = words.map(parse_running).collect(),
            "pick" => writeln!(found, "{}", show(pick(&shape, &policy))).unwrap(),
            "settled" => writeln!(found, "{}", is_settled(&shape, &policy)).unwrap(),
            "debt" => {
                let debt = debt_bytes(&shape.level_bytes(), shape.levels[0].len(), &policy);
                writeln!(found, "{} MiB", debt / MIB).unwrap();
            }
            "range" => {
                let mut number = || words.next().expect("a level").trim_start_matches('L').parse().unwrap();
                let (level, bottom) = (number(), number());
                let mut bound = |unbounded: &str| match words.next().expect("a bound") {
                    word if word == unbounded => Bound::Unbounded,
                    word => match word.strip_prefix('>').or(word.strip_prefix('<')) {
                        Some(key) => Bound::Excluded(key.as_bytes()),
                        None => Bound::Included(word.as_bytes()),
                    },
                };
                let range = (bound("-"), bound("-"));
                writeln!(found, "{}", show(pick_range(&shape, &policy, level, range, bottom))).unwrap();
            }
            level => {
                let level: usize = level.trim_start_matches('L').trim_end_matches(':').parse().unwrap();
                levels[level] = words.map(parse_table).collect();
                let ascends = |pair: &[(TableMeta, bool)]| pair[0].0.largest_key < pair[1].0.smallest_key;
                assert!(level == 0 || levels[level].windows(2).all(ascends), "{line}");
            }
        }
    }
    found.trim_end().to_owned()
}

fn show(choice: Option<Choice>) -> String {
    let Some(choice) = choice else { return "nothing".to_owned() };
    let inputs: Vec<String> = choice
        .inputs
        .iter()
        .map(|(level, numbers)| {
            let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
            format!("L{level} {}", numbers.join(" "))
        })
        .collect();
    format!(
        "{} {} -> L{} ({:?} {:.2}, {}-{})",
        if choice.trivial_move { "move" } else { "merge" },
        inputs.join(" + "),
        choice.output_level,
        choice.reason,
        choice.score,
        String::from_utf8_lossy(&choice.smallest_key),
        String::from_utf8_lossy(&choice.largest_key),
    )
}
