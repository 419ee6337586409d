//! Goal: the tests find what they are there to find.
//!
//! Method: the engine is built with the feature `planted-bugs`, and each bug of `terrace_io::Bug` is planted in turn while
//! the test that should find it runs, in a process of its own. That test must fail with the bug and pass without it. Run it with
//! `cargo test -p terrace-tests --features planted-bugs --test planted -- --nocapture`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use terrace_io::Bug;

/// A test that hangs has found the bug too.
const PATIENCE: Duration = Duration::from_secs(300);

/// Which test finds a bug: the test program and the test in it.
fn finder(bug: Bug) -> (&'static str, &'static str) {
    match bug {
        Bug::TableNameNotSynced
        | Bug::SegmentNameNotSynced
        | Bug::AcknowledgedBeforeSync
        | Bug::FlushedBeforeLogSynced
        | Bug::ReplayedNotDurable
        | Bug::SequenceReused
        | Bug::BatchTorn
        | Bug::RecycledRecordAccepted => ("crash", "one_writer"),
        Bug::PoisonIgnored => ("faults", "a_failed_log_sync_poisons_and_loses_nothing_synced"),
        Bug::HoleBelowSyncedSkipped => ("damage", "every_flipped_bit_of_a_log_is_right_or_an_error"),
        Bug::TombstoneDropped | Bug::SnapshotVersionDropped => ("model", ""),
        Bug::ReadTableDeleted => ("api", "snapshots_stand_still"),
        Bug::LengthUnchecked => ("forged", "forged_tables_are_read_or_refused"),
        Bug::NodeVersionIgnored => ("concurrency", ""),
    }
}

/// Whether the test passes, and how long that took to see.
fn passes(bug: Option<Bug>, program: &str, test: &str) -> (bool, Duration) {
    let started = Instant::now();
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "test",
        "-q",
        "-p",
        "terrace-tests",
        "--features",
        "planted-bugs",
        "--test",
        program,
        "--",
        test,
    ]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).env_remove("TERRACE_PLANTED_BUG");
    if let Some(bug) = bug {
        command.env("TERRACE_PLANTED_BUG", format!("{bug:?}"));
    }
    let mut child = command.spawn().expect("cargo can be run: it runs this");
    loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return (status.success(), started.elapsed());
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return (false, started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_planted_bug_is_found() {
    if !cfg!(feature = "planted-bugs") {
        println!("skipped: nothing can be planted without the feature `planted-bugs`");
        return;
    }
    let mut sound: Vec<(&str, &str)> = Vec::new();
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let (program, test) = finder(bug);
        if !sound.contains(&(program, test)) {
            assert!(passes(None, program, test).0, "{program} {test} fails without any planted bug");
            sound.push((program, test));
        }
        let (missed_it, took) = passes(Some(bug), program, test);
        let outcome = if missed_it { "MISSED BY" } else { "found by " };
        println!("{:<24} {outcome} {program}::{test} in {:.1} s", format!("{bug:?}"), took.as_secs_f64());
        if missed_it {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "{missed:?} were not found");
}
