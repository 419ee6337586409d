//! What the integration tests share: the reference model, the generator of random work, and the oracle that says what
//! a crash may leave.
//!
//! - [`model`]: a database as maps in memory, which the real one is compared with.
//! - [`workload`]: keys, values, ranges and choices, all from one seed.
//! - [`view`]: reads of a keyspace, now or through a snapshot, checked against a map of the model.
//! - [`oracle`]: a history of changes, and whether a recovered database holds a prefix of it.
//! - [`sweep`]: runs very many small cases, or a sample of them.
//! - [`samples`]: files that the engine wrote.
//! - [`exercise`]: reads files of any bytes in every way there is.
//! - [`forge`]: changes the fields of files and puts their checksums right again.
//! - [`fuzz`]: what the fuzz targets do with their input.
//!
//! A randomised test has a seed, which it prints; `TERRACE_SEED` sets it, and `TERRACE_CASES` sets how many seeds are
//! tried, counting up from it. `TERRACE_TEST_SECONDS` gives sweeps more time (see [`sweep`]).

#![forbid(unsafe_code)]

pub mod exercise;
pub mod forge;
pub mod fuzz;
pub mod model;
pub mod oracle;
pub mod samples;
pub mod sweep;
pub mod view;
pub mod workload;

use std::hash::{BuildHasher, Hasher, RandomState};

/// The seeds of a randomised test: as many as `TERRACE_CASES` says, or `usual`, from `TERRACE_SEED` or from anywhere.
///
/// ```
/// assert_eq!(terrace_tests::seeds(3).len(), 3);
/// ```
pub fn seeds(usual: u64) -> Vec<u64> {
    let first = number("TERRACE_SEED").unwrap_or_else(anywhere);
    (0..cases(usual)).map(|case| first.wrapping_add(case)).collect()
}

/// How often a test repeats what it does: as `TERRACE_CASES` says, or `usual`.
pub fn cases(usual: u64) -> u64 {
    number("TERRACE_CASES").unwrap_or(usual)
}

/// A seed that was not asked for.
fn anywhere() -> u64 {
    // The standard library seeds each `RandomState` from the operating system. Short, to be typed.
    RandomState::new().build_hasher().finish() >> 32
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, which is not a number")))
}

/// Tells how to repeat a case if the test panics while this is alive, and what the last steps were.
#[derive(Debug)]
pub struct Trace {
    what: String,
    seed: u64,
    steps: Vec<String>,
}

impl Trace {
    /// For a case of the test `what`.
    pub fn new(what: impl Into<String>, seed: u64) -> Self {
        Trace { what: what.into(), seed, steps: Vec::new() }
    }

    /// Remembers a step that is about to be made.
    pub fn step(&mut self, step: String) {
        self.steps.push(step);
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let first = self.steps.len().saturating_sub(40);
            for (index, step) in self.steps.iter().enumerate().skip(first) {
                eprintln!("step {index}: {step}");
            }
            eprintln!("{}: repeat with TERRACE_SEED={} TERRACE_CASES=1", self.what, self.seed);
        }
    }
}
