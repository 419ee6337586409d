//! Goal: the tests find what they are there to find.
//!
//! Method: the tests are built once with the feature `planted-bugs`; then each bug of `terrace_io::Bug` is planted in
//! turn while the test that should find it runs, in a process of its own. That test must pass without the bug, and with
//! it fail, or hang where that is how the bug may show; a process that ran no test has found nothing. Run it with
//! `cargo test -p terrace-tests --features planted-bugs --test planted -- --nocapture`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use terrace_io::Bug;
use terrace_tests::covered;

/// A test that takes so long hangs: the slowest takes half a minute on its own.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many tests run at a time. Some use one core, others all.
const AT_A_TIME: usize = 2;

/// Which test finds a bug: the test program and the test in it; none for all of them.
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
        Bug::FullDiskPoisons => ("error_sweep", "every_call_fails_in_every_way"),
        Bug::RefusedNotErased => {
            ("faults", "what_was_refused_does_not_come_back_behind_a_change_of_keyspaces")
        }
        Bug::PageCacheBelieved => {
            ("scrub", "a_scrub_does_not_believe_the_page_cache_and_reads_do_not_believe_it_wrongly")
        }
        Bug::LockIgnored => ("errors", "a_locked_directory_is_refused"),
        Bug::CheckpointTorn => ("checkpoint", "a_checkpoint_is_the_database_at_one_moment"),
        Bug::LossNotAsked | Bug::LostEndNotSeen => {
            ("sigbus", "a_file_that_is_cut_while_it_is_read_gives_errors_and_no_wrong_answers")
        }
        Bug::CheckpointNamesNotSynced => ("checkpoint_faults", "a_crash_leaves_a_whole_checkpoint_or_none"),
        Bug::BackupNamesNotSynced => ("backup_faults", "a_crash_leaves_whole_backups"),
        Bug::ReceivedUnverified => ("backup", "every_changed_byte_of_a_stream_is_found"),
    }
}

/// Whether a reader may go round and round with this bug, so that a hang counts as found. Of any other a hang says only
/// that the machine was busy.
fn may_hang(bug: Bug) -> bool {
    bug == Bug::NodeVersionIgnored
}

/// The programs whose runs take longest without a bug: they begin first.
const LONGEST: [&str; 3] = ["model", "forged", "crash"];

/// What came of a test program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passes,
    /// A test has failed, or the program has died of something that a bug can do.
    Fails,
    Hangs,
    /// It ran no test: its name is wrong.
    RunsNothing,
}

/// The programs of some tests, built with the feature, by their names.
fn build(programs: &BTreeSet<&str>) -> BTreeMap<String, PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--no-run", "--message-format=json", "-p", "terrace-tests"]);
    command.args(["--features", "planted-bugs"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    programs.iter().for_each(|program| {
        command.args(["--test", program]);
    });
    let output = command.stderr(Stdio::inherit()).output().expect("cargo can be run: it runs this");
    assert!(output.status.success(), "the tests cannot be built");
    let messages = String::from_utf8(output.stdout).expect("cargo speaks UTF-8");
    let built = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let executable = PathBuf::from(message["executable"].as_str()?);
        Some((message["target"]["name"].as_str()?.to_owned(), executable))
    });
    built.collect()
}

/// Runs a test, or all of a program, and says what came of it and how long that took.
fn run(executable: &Path, test: &str, bug: Option<Bug>) -> (Outcome, Duration) {
    let started = Instant::now();
    let mut command = Command::new(executable);
    if !test.is_empty() {
        command.args(["--exact", test]);
    }
    // What is set for this program is not meant for those: they are to run their usual versions.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TERRACE_") {
            command.env_remove(name);
        }
    }
    if let Some(bug) = bug {
        command.env("TERRACE_PLANTED_BUG", format!("{bug:?}"));
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it was built");
    let mut stdout = child.stdout.take().expect("it was piped");
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        // What a child of the child still holds open is of no interest; what was said by then is.
        let _ = stdout.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().expect("the child is ours");
            child.wait().expect("the child is ours");
            return (Outcome::Hangs, started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = reader.join().expect("reading does not panic");
    let ran = said.lines().any(|line| line.starts_with("running ") && !line.starts_with("running 0 "));
    let outcome = match status.success() {
        _ if !ran => Outcome::RunsNothing,
        true if said.contains(" 0 passed;") => Outcome::RunsNothing,
        true => Outcome::Passes,
        false => Outcome::Fails,
    };
    (outcome, started.elapsed())
}

#[test]
fn every_planted_bug_is_found() {
    let finders: BTreeSet<(&str, &str)> = Bug::ALL.into_iter().map(finder).collect();
    let executables = build(&finders.iter().map(|(program, _)| *program).collect());
    let started = Instant::now();
    // Without a bug too: of a test that fails anyway nothing can be learnt.
    let mut finders: Vec<_> = finders.into_iter().collect();
    finders.sort_by_key(|(program, _)| LONGEST.iter().position(|longest| longest == program).unwrap_or(3));
    let sound = finders.into_iter().map(|finder| (None, finder));
    let planted = Bug::ALL.into_iter().map(|bug| (Some(bug), finder(bug)));
    let runs: Vec<(Option<Bug>, (&str, &str))> = sound.chain(planted).collect();
    let (next, found, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(&(bug, (program, test))) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let executable = executables.get(program).unwrap_or_else(|| panic!("{program} was not built"));
            let (outcome, took) = run(executable, test, bug);
            let planted = bug.map_or("nothing planted".to_owned(), |bug| format!("{bug:?}"));
            let line = format!("{planted:<24} {program}::{test} {outcome:?} in {:.1} s", took.as_secs_f64());
            println!("{line}");
            let is_right = match bug {
                None => outcome == Outcome::Passes,
                Some(bug) => outcome == Outcome::Fails || outcome == Outcome::Hangs && may_hang(bug),
            };
            if !is_right {
                wrong.lock().unwrap().push(line);
            } else if bug.is_some() {
                found.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| (0..AT_A_TIME).for_each(|_| drop(scope.spawn(work))));
    let wrong = wrong.into_inner().unwrap();
    let took = started.elapsed().as_secs_f64();
    let found = found.into_inner();
    covered("planted bugs", format_args!("{found} of {} found, in {took:.0} s", Bug::ALL.len()));
    assert!(wrong.is_empty(), "tests that pass with a bug, or not without one: {wrong:#?}");
}
