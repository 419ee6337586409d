//! What the integration tests share: the reference model, the generator of random work, and the oracle that says what
//! a crash may leave.
//!
//! - [`model`]: a database as maps in memory, which the real one is compared with.
//! - [`workload`]: keys, values, ranges and choices, all from one seed.
//! - [`metamorphic`]: sequences of operations and sets of options as data, run, compared and shrunk.
//! - [`oracle`]: a history of changes, and whether a recovered database holds a prefix of it.
//! - [`course`]: a history in which changes fail, and what a crash may leave of it.
//! - [`sweep`]: runs very many small cases, or a sample of them.
//! - [`copies`]: what tests of checkpoints and backups do to the databases that these are made of.
//! - [`copy_faults`]: databases of which a copy is made while calls fail and machines stop.
//! - [`faulty`]: databases over a file system that fails on command.
//! - [`twisted`]: a file system that is another one, except for what a test wants different.
//! - [`child`]: runs a test once more, in a process of its own.
//! - [`loop_mount`]: a file system of its own, in a file.
//! - [`samples`]: files that the engine wrote.
//! - [`exercise`]: reads files of any bytes in every way there is.
//! - [`filled`]: databases of several keyspaces that remember all that was ever written to them.
//! - [`forge`]: changes the fields of files and puts their checksums right again.
//! - [`tally`]: how often what happened.
//! - [`fuzz`]: what the fuzz targets do with their input.
//! - [`linearizable`]: whether one order of their calls explains what several threads have seen.
//!
//! A randomised test has a seed, which it prints; `TERRACE_SEED` sets it, and `TERRACE_CASES` sets how many seeds are
//! tried, counting up from it. With `TERRACE_TEST_SECONDS` a test goes on for so long instead ([`rounds`], [`sweep`]).
//! Each says in figures what it has [`covered`].

#![forbid(unsafe_code)]

pub mod child;
pub mod copies;
pub mod copy_faults;
pub mod course;
pub mod exercise;
pub mod faulty;
pub mod filled;
pub mod forge;
pub mod fuzz;
pub mod linearizable;
pub mod loop_mount;
pub mod metamorphic;
pub mod model;
pub mod oracle;
pub mod samples;
pub mod sweep;
pub mod tally;
pub mod twisted;
pub mod workload;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

/// The seeds of a randomised test, from `TERRACE_SEED` or from anywhere: one for each of its [`rounds`].
///
/// ```
/// # if std::env::vars().all(|(name, _)| !name.starts_with("TERRACE_")) {
/// assert_eq!(terrace_tests::seeds(3).count(), 3);
/// # }
/// ```
pub fn seeds(usual: u64) -> impl Iterator<Item = u64> {
    let first = number("TERRACE_SEED").unwrap_or_else(anywhere);
    rounds(usual).map(move |round| first.wrapping_add(round))
}

/// The rounds of a test, from 0: as many as `TERRACE_CASES` says; without it as many as there is time for by
/// `TERRACE_TEST_SECONDS`, but at least one; without either `usual`.
pub fn rounds(usual: u64) -> impl Iterator<Item = u64> {
    let (wanted, limit) = (cases(usual), time_limit());
    let started = Instant::now();
    (0..wanted).take_while(move |round| *round == 0 || limit.is_none_or(|limit| started.elapsed() < limit))
}

/// How long the long version of a test goes on, by `TERRACE_TEST_SECONDS`. None: it is the usual one.
pub fn time_limit() -> Option<Duration> {
    number("TERRACE_TEST_SECONDS").map(Duration::from_secs)
}

/// How many cases a test of `usual` ones is to run, if there is time for them.
fn cases(usual: u64) -> u64 {
    let wanted = number("TERRACE_CASES");
    assert_ne!(wanted, Some(0), "TERRACE_CASES=0 would have a test pass that has done nothing");
    wanted.unwrap_or(if time_limit().is_some() { u64::MAX } else { usual })
}

/// Says what a test has covered, in figures, on a line of a form that the long run collects.
pub fn covered(what: &str, figures: impl std::fmt::Display) {
    println!("covered: {what}: {figures}");
}

/// Says that a test has not done something, on a line of a form that the long run collects: a test that passes without
/// its work must not do so in silence.
pub fn skipped(what: &str, why: impl std::fmt::Display) {
    println!("skipped: {what}: {why}");
}

/// Waits until something that another thread brings about is so.
///
/// # Panics
///
/// If it is still not so after a minute, which is an endless wait by the measure of these tests.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
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
