//! Checkpoints under crashes and faults. Goal: whenever the machine or the process stops, and whichever call to the file
//! system fails, what is found in the place of a checkpoint is a whole one or none; one that was acknowledged is whole;
//! and the database is what it was before.
//!
//! Method: a small database over a file system in memory that numbers all calls. While a checkpoint is made of it, linked
//! or copied, the file system is copied before each operation that changes a file, as a crash right then could leave
//! it. In other cases one call fails, or all of a kind, or all, and the crash comes while the checkpoint cleans up. In
//! each of these images the database must be opened, and the checkpoint be whole or be refused; and the next checkpoint
//! must be made, or say what is in its way.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use terrace::{Db, Error};
use terrace_io::{CrashPolicy, FileSystem, Operation};
use terrace_tests::copy_faults::{
    DIR, Fault, Image, Lasting, Stage, check_copy, crashes, keys, names, options,
};
use terrace_tests::covered;
use terrace_tests::faulty::Bench;
use terrace_tests::model::{Bytes, Change, DEFAULT, Model, Write};
use terrace_tests::oracle::read_all;
use terrace_tests::sweep::{Sweep, Told};

/// Its checkpoint.
const COPY: &str = "/checkpoints/first";
/// One of after a fault.
const LATER: &str = "/checkpoints/later";

/// Cases with faults that are run unless the environment says otherwise.
const USUAL_CASES: u64 = 150;

/// In one image of so many a checkpoint is made anew.
const AGAIN_ONE_IN: usize = 4;

/// A case: a fault, of a checkpoint that is linked or copied.
#[derive(Debug, Clone)]
struct Case {
    is_linked: bool,
    fault: Fault,
}

impl Case {
    fn all(is_linked: bool, calls: &[Operation]) -> Vec<Case> {
        let faults = Fault::all(calls).into_iter();
        // Those that are to be copied have their links refused anyway.
        let faults = faults.filter(|fault| is_linked || fault.operation != Operation::Link);
        faults.map(|fault| Case { is_linked, fault }).collect()
    }
}

/// Looks at an image: whether the checkpoint is there. The database is in one of `states`.
fn check(stage: &Stage, image: &Image, states: &[Model], is_again: bool) -> bool {
    let Image { what, fs } = image;
    let bench = Bench::over(fs.clone(), DIR.into());
    let is_there = check_copy(&bench, COPY, stage.now(), what);
    let db = options(&bench).create_if_missing(false).open(DIR);
    let db = db.unwrap_or_else(|error| panic!("{what}: the database does not open: {error}"));
    let found = read_all(&db, &keys()).unwrap_or_else(|why| panic!("{what}: {why}"));
    assert!(states.contains(&found), "{what}: the database has {:?}", found.difference(stage.now()));
    if is_again {
        make_again(&bench, &db, &found, is_there, what);
    }
    db.close().unwrap();
    is_there
}

/// The next checkpoint in the same place is made, or says what is in its way.
fn make_again(bench: &Bench, db: &Db, expected: &Model, is_there: bool, what: &str) {
    match db.checkpoint(COPY) {
        Ok(_) => assert!(!is_there, "{what}: a checkpoint in the place of another"),
        Err(Error::InvalidArgument(why)) => {
            assert!(why.contains("not empty"), "{what}: {why}");
            assert_eq!(why.contains("interrupted"), !is_there, "{what}: {why}");
            for name in names(&bench.memory, COPY) {
                bench.memory.remove_file(&Path::new(COPY).join(name)).unwrap();
            }
            db.checkpoint(COPY).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        Err(error) => panic!("{what}: {error}"),
    }
    assert!(check_copy(bench, COPY, expected, what));
}

#[test]
fn a_crash_leaves_a_whole_checkpoint_or_none() {
    const TEST: &str = "a_crash_leaves_a_whole_checkpoint_or_none";
    for is_linked in [true, false] {
        let stage = Stage::new(is_linked);
        let images = stage.photograph(0, 11);
        let report = stage.db.checkpoint(COPY).unwrap();
        stage.bench.memory.remove_hook();
        let shared = if is_linked { report.tables_linked } else { report.tables_copied };
        assert!(shared >= 4 && report.tables_written == 2, "{report:?}");
        let images = std::mem::take(&mut *images.lock().unwrap());
        let mut there = 0;
        for (number, image) in images.iter().enumerate() {
            let is_again = number % AGAIN_ONE_IN == 0;
            there += usize::from(check(&stage, image, &stage.states, is_again));
        }
        // Acknowledged: whatever comes now, it is there, and so is all of it in the database.
        let now = &stage.states[stage.states.len() - 1..];
        for (cause, fs) in crashes(&stage.bench.memory, 12) {
            let image = Image { what: format!("{cause}, after it was acknowledged"), fs };
            assert!(check(&stage, &image, now, true), "{}: it is gone", image.what);
        }
        let how = if is_linked { "linked" } else { "copied" };
        let count = images.len();
        covered(TEST, format_args!("{how}: {count} distinct images of crashes, {there} with a checkpoint"));
        assert!(there > 0 && count - there > 10, "{there} of {count}");
    }
}

/// The calls of a checkpoint without faults.
fn calls(is_linked: bool) -> Vec<Operation> {
    let stage = Stage::new(is_linked);
    stage.db.checkpoint(COPY).unwrap();
    let calls = stage.bench.faults.recorded().split_off(stage.first_call as usize);
    calls.into_iter().map(|(operation, _)| operation).collect()
}

/// One case. Says whether its call was met.
fn run(case: &Case, number: u64, images_seen: &AtomicU64) -> bool {
    let stage = Stage::new(case.is_linked);
    let Case { is_linked, fault } = case;
    stage.bench.faults.add(fault.rule(stage.first_call));
    let images = stage.photograph(stage.first_call + fault.call, number);
    let outcome = stage.db.checkpoint(COPY);
    stage.bench.memory.remove_hook();
    let refused_links = if *is_linked { 0 } else { stage.bench.faults.calls(Operation::Link) };
    let met = stage.bench.faults.injected() > refused_links;
    stage.bench.faults.clear();
    let is_there = outcome.is_ok();
    if let Err(error) = &outcome {
        let cause = match error {
            Error::OutcomeUnknown { cause } | Error::Poisoned { cause } => cause,
            error => error,
        };
        let says_where =
            cause.path().is_some_and(|path| path.starts_with(DIR) || path.starts_with("/checkpoints"));
        assert!(matches!(cause, Error::Io { .. }) && says_where, "an error of another kind: {error:?}");
        assert!(!fault.is_harmless(), "what is harmless was noticed: {error}");
        if fault.lasting == Lasting::Once {
            let left = names(&stage.bench.memory, COPY);
            assert!(left.iter().all(|name| name == "LOCK"), "{error}, but this is left: {left:?}");
        }
    }
    let images = std::mem::take(&mut *images.lock().unwrap());
    images_seen.fetch_add(images.len() as u64, Relaxed);
    for image in &images {
        check(&stage, image, &stage.states, false);
    }
    // What was acknowledged is durable, and what was not is no checkpoint, or a whole one.
    let cut = Bench::over(stage.bench.memory.crash_clone(CrashPolicy::DropUnsynced), DIR.into());
    let survived = check_copy(&cut, COPY, stage.now(), "after all of it, and a power cut");
    assert!(survived || !is_there, "a checkpoint that was acknowledged is gone");
    let found = check_copy(&stage.bench, COPY, stage.now(), "after all of it");
    assert!(found || !is_there);

    // The database goes on, unless it is poisoned.
    let mut expected = stage.now().clone();
    let read = read_all(&stage.db, &keys());
    match &stage.db.health().poisoned {
        None => {
            assert_eq!(read.unwrap().difference(&expected), None);
            stage.db.put("afterwards", "yes").unwrap();
            let (key, value) = (Bytes::from(&b"afterwards"[..]), Some(Bytes::from(&b"yes"[..])));
            expected.apply(&Change::Batch(vec![Write { keyspace: DEFAULT.to_owned(), key, value }]));
            stage.db.checkpoint(LATER).unwrap();
            assert!(check_copy(&stage.bench, LATER, &expected, "after a fault"));
        }
        Some(cause) => {
            let is_sync = matches!(cause, Error::Io { operation: Operation::Sync, .. });
            assert!(is_sync && cause.path().is_some_and(|path| path.starts_with(DIR)), "{cause}");
            assert!(matches!(stage.db.checkpoint(LATER), Err(Error::Poisoned { .. })));
        }
    }
    met
}

#[test]
fn a_checkpoint_fails_without_a_trace() {
    const TEST: &str = "a_checkpoint_fails_without_a_trace";
    let cases: Vec<Case> =
        [true, false].into_iter().flat_map(|is_linked| Case::all(is_linked, &calls(is_linked))).collect();
    let (met, images) = (AtomicU64::new(0), AtomicU64::new(0));
    let case = |(): &mut (), number: u64| {
        let case = &cases[number as usize];
        let _told = Told(case);
        met.fetch_add(u64::from(run(case, number, &images)), Relaxed);
    };
    let done = Sweep::new(TEST, cases.len() as u64, USUAL_CASES).run(|| (), case);
    let (met, images) = (met.into_inner(), images.into_inner());
    covered(TEST, format_args!("{met} of {done} faults were met; {images} images of crashes after them"));
    assert!(done < 50 || met * 4 >= done * 3, "only {met} of {done} faults were met");
}
