//! The metamorphic test: one sequence of operations, run under several sets of options, must answer as a map in memory
//! would and the same under each.
//!
//! Everything is data, drawn from a seed before anything runs. So a failure can be taken apart afterwards:
//!
//! - [`ops`]: the operations, and sequences of them.
//! - [`options`]: the sets of options.
//! - [`runner`]: runs operations on a database and on the model, and compares.
//! - [`view`]: the reads among them, checked against a map of the model.
//! - [`transcript`]: what a database has answered, to compare runs with each other.
//! - [`shrink`]: leaves out of a sequence what does not matter for its failure.
//! - [`quiet`]: panics that are results.

pub mod ops;
pub mod options;
pub mod quiet;
pub mod runner;
pub mod shrink;
pub mod transcript;
pub mod view;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

use ops::{Op, sequence};
use options::{OptionSet, sets};
use quiet::{QuietBackground, quietly};
use runner::Figures;
use transcript::Transcript;

/// How often it is tried to have a failure again. Some depend on what happens in the background meanwhile.
const REPEATS_MAX: usize = 12;

/// A sequence of operations, and the runs of it that must answer the same.
#[derive(Debug)]
pub struct Case {
    seed: u64,
    ops: Vec<Op>,
    /// Each has the same sets of options, another one first: the one that a new database is opened under. The others
    /// come when it is opened again.
    runs: Vec<Vec<OptionSet>>,
}

/// What went wrong.
#[derive(Debug)]
pub struct Failure {
    /// At which operation; as many as there are if it was at the end.
    pub at: usize,
    /// What was wrong there.
    pub what: String,
    /// In which run.
    run: usize,
    /// Whether it answers well, but not as the first run does.
    differs: bool,
}

impl Case {
    /// The case of a seed, with so many operations.
    pub fn new(seed: u64, operations: usize) -> Self {
        let sets = sets(seed);
        let rotated = |first: usize| [&sets[first..], &sets[..first]].concat();
        Case { seed, ops: sequence(seed, operations), runs: (0..sets.len()).map(rotated).collect() }
    }

    /// The names of its sets of options.
    pub fn set_names(&self) -> impl Iterator<Item = &str> {
        self.runs[0].iter().map(|set| set.name.as_str())
    }

    /// Runs the sequence under each set. If an answer is wrong, or two runs answer differently, shrinks the sequence
    /// for at most `time`, and says what is left of it.
    pub fn run(&self, time: Duration) -> Result<Figures, String> {
        compare(&self.ops, &self.runs).map_err(|failure| self.report(&failure, time))
    }

    fn report(&self, failure: &Failure, time: Duration) -> String {
        let Failure { at, what, run, differs } = failure;
        let op = self.ops.get(*at).map_or("the end".to_owned(), Op::to_string);
        let mut text = format!("seed {}, operation {at} of {} ({op}): {what}\n", self.seed, self.ops.len());

        let _quiet = QuietBackground::begin();
        let runs = match differs {
            true => vec![self.runs[0].clone(), self.runs[*run].clone()],
            false => vec![self.runs[*run].clone()],
        };
        let mut left = self.ops[..self.ops.len().min(at + 1)].to_vec();
        let repeats = (1..=REPEATS_MAX).find(|_| compare(&left, &runs).is_err());
        if let Some(repeats) = repeats {
            let (started, mut attempts, mut last) = (Instant::now(), 0, what.clone());
            left = shrink::shrink(left, time, |ops| {
                attempts += 1;
                let failure = (0..repeats).find_map(|_| compare(ops, &runs).err());
                failure.map(|failure| last = failure.what).is_some()
            });
            let (from, to, took) = (self.ops.len(), left.len(), started.elapsed().as_secs_f64());
            let _ = writeln!(
                text,
                "shrunk from {from} to {to} operations by {attempts} attempts in {took:.1} s:"
            );
            list(&mut text, &left, &runs);
            let _ = writeln!(text, "which fails so: {last}");
        } else {
            let _ =
                writeln!(text, "it did not fail again in {REPEATS_MAX} attempts; the last operations were:");
            list(&mut text, &left[left.len().saturating_sub(40)..], &runs);
        }
        let _ = write!(text, "repeat with TERRACE_SEED={} TERRACE_CASES=1", self.seed);
        text
    }
}

/// Lists operations and the sets of options that they are run under.
fn list(text: &mut String, ops: &[Op], runs: &[Vec<OptionSet>]) {
    for (number, op) in ops.iter().enumerate() {
        let _ = writeln!(text, "  {number}: {op}");
    }
    let reopened =
        ops.iter().filter_map(|op| if let Op::Reopen { under, .. } = op { Some(*under) } else { None });
    let used: BTreeSet<usize> = reopened.chain([0]).collect();
    for (run, sets) in runs.iter().enumerate() {
        for number in &used {
            let _ = writeln!(text, "options {number} of run {run}: {:?}", sets[number % sets.len()]);
        }
    }
}

/// Runs operations under each list of sets of options. All must answer as the model does, and the same.
pub fn compare(ops: &[Op], runs: &[Vec<OptionSet>]) -> Result<Figures, Failure> {
    let mut total = Figures::default();
    let mut first: Option<Transcript> = None;
    for (run, sets) in runs.iter().enumerate() {
        let at = Cell::new(0);
        let outcome = quietly(|| runner::run(ops, sets, &at));
        let (transcript, figures) =
            outcome.map_err(|what| Failure { at: at.get(), what, run, differs: false })?;
        if let Some((at, what)) = first.as_ref().and_then(|first| first.first_difference(&transcript)) {
            let what = format!("two runs answer differently: {what}");
            return Err(Failure { at, what, run, differs: true });
        }
        first.get_or_insert(transcript);
        total = total + figures;
    }
    Ok(total)
}
