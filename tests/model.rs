//! Goal: whatever is done to a database, in whatever order and under whatever options, it reads like a map in memory.
//!
//! Method: metamorphic. A random sequence of operations is run on the reference model and on four databases, each under
//! options of its own: writes, batches across keyspaces, flushes, compactions, keyspaces created, cleared and dropped;
//! reads now, through snapshots from before, and through iterators and cursors that stay open meanwhile; the database
//! closed, dropped, killed or its power cut, and opened again, also under the options of another of the four. Every
//! answer must be the model's, and the four transcripts the same. Tables, memtables, levels and segments are mostly as
//! small as they may be, so that a few thousand operations go through all of them. What fails is shrunk
//! (`terrace_tests::metamorphic`).

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use terrace_tests::metamorphic::ops::sequence;
use terrace_tests::metamorphic::options::{corners, drawn};
use terrace_tests::metamorphic::runner::Figures;
use terrace_tests::metamorphic::{Case, compare};
use terrace_tests::workload::Generator;
use terrace_tests::{Trace, covered, seeds};

/// With four sets of options to each sequence, two of them corners, all of the corners come.
const SEQUENCES: u64 = 8;

const OPERATIONS: usize = 2_500;

/// How long a failure is shrunk.
const SHRINKING: Duration = Duration::from_secs(30);

#[test]
fn all_options_answer_alike() {
    assert_eq!(corners().len() as u64, 2 * SEQUENCES);
    let seeds = Mutex::new(seeds(SEQUENCES));
    let total = Mutex::new((0, BTreeSet::new(), Figures::default()));
    let failed = Mutex::new(None);
    let work = || {
        while failed.lock().unwrap().is_none() {
            let Some(seed) = seeds.lock().unwrap().next() else { break };
            println!("all_options_answer_alike: seed {seed}");
            let case = Case::new(seed, OPERATIONS);
            match case.run(SHRINKING) {
                Ok(figures) => {
                    let mut total = total.lock().unwrap();
                    total.0 += 1;
                    total.1.extend(case.set_names().map(str::to_owned));
                    total.2 = total.2 + figures;
                }
                Err(report) => drop(failed.lock().unwrap().get_or_insert(report)),
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, |count| count.get());
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    if let Some(report) = failed.into_inner().unwrap() {
        panic!("{report}");
    }
    let (sequences, sets, figures) = total.into_inner().unwrap();
    let sets = sets.len();
    covered("all_options_answer_alike", format_args!("{sequences} sequences, {sets} option sets, {figures}"));
}

/// What shrinking relies on.
#[test]
fn any_part_of_a_sequence_can_be_run() {
    let mut operations = 0;
    for seed in seeds(10) {
        let _trace = Trace::new("any_part_of_a_sequence_can_be_run", seed);
        let mut generator = Generator::of_choices(seed);
        let one_in = 2 + generator.number(0..6) as u32;
        let mut ops = sequence(seed, OPERATIONS);
        ops.retain(|_| generator.one_in(one_in));
        let figures = compare(&ops, &[vec![drawn(seed)]]).unwrap_or_else(|failure| panic!("{failure:?}"));
        operations += figures.operations;
    }
    covered("any_part_of_a_sequence_can_be_run", format_args!("{operations} operations"));
}
