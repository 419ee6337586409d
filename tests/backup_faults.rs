//! Backups and restores under crashes and faults. Goal: whenever the machine or the process stops, and whichever call to
//! the file system fails, the backups that were there are there, whole; the new one is whole or is not there; one that was
//! acknowledged is; what is found in the place of a restore is a whole database or none; and the next attempt succeeds.
//!
//! Method: as in `checkpoint_faults.rs`, whose machinery this shares. The first backup of a directory, the second one, a
//! deletion, and restores from the directory and from a stream are each stopped before every operation that changes a
//! file, and each of their calls fails in every way that it can. What is left is listed, verified, restored and gone on
//! with.

use std::io::{Read, Seek};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use terrace::{Backups, Durability, Error, RestoreOptions, StreamOptions, restore_stream};
use terrace_io::{CrashPolicy, Operation};
use terrace_tests::copy_faults::{
    DIR, Fault, Image, Lasting, Stage, check_copy, crashes, keys, names, options, write,
};
use terrace_tests::covered;
use terrace_tests::faulty::Bench;
use terrace_tests::model::Model;
use terrace_tests::oracle::read_all;
use terrace_tests::sweep::{Sweep, Told};

const BACKUPS: &str = "/backups";
const COPY: &str = "/copies/restored";

/// Cases with faults that are run unless the environment says otherwise.
const USUAL_CASES: u64 = 250;

/// In one image of so many it is gone on.
const AGAIN_ONE_IN: usize = 4;

/// What is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// The first backup of a directory.
    First,
    /// The second one, which shares tables with the first.
    Second,
    /// The first of two is deleted.
    Delete,
    /// The newest backup is restored.
    Restore,
    /// A stream is.
    RestoreStream,
}

const ACTS: [Act; 5] = [Act::First, Act::Second, Act::Delete, Act::Restore, Act::RestoreStream];

/// Everything that the act is about.
struct Scene {
    act: Act,
    stage: Stage,
    /// What backups 1 and 2 hold, or would hold.
    models: [Model; 2],
    stream: Vec<u8>,
}

fn backups(bench: &Bench) -> Backups {
    Backups::new(BACKUPS).file_system(bench.file_system())
}

impl Scene {
    fn new(act: Act) -> Scene {
        let mut stage = Stage::new(true);
        let first = stage.now().clone();
        let mut second = first.clone();
        let mut stream = Vec::new();
        if act != Act::First {
            stage.db.backup(BACKUPS).unwrap();
            write(&stage.db, &mut second, 40, Durability::Sync);
            stage.states = vec![second.clone()];
        }
        if [Act::Delete, Act::Restore].contains(&act) {
            stage.db.backup(BACKUPS).unwrap();
        }
        if act == Act::RestoreStream {
            let mut file = tempfile::tempfile().unwrap();
            stage.db.backup_to_stream(&file, &StreamOptions::new()).unwrap();
            file.rewind().unwrap();
            file.read_to_end(&mut stream).unwrap();
        }
        stage.first_call = stage.bench.faults.recorded().len() as u64;
        Scene { act, stage, models: [first, second], stream }
    }

    fn perform(&self, bench: &Bench) -> terrace::Result<()> {
        match self.act {
            Act::First | Act::Second => self.stage.db.backup(BACKUPS).map(drop),
            Act::Delete => backups(bench).delete(1),
            Act::Restore | Act::RestoreStream => self.restore(bench),
        }
    }

    fn restore(&self, bench: &Bench) -> terrace::Result<()> {
        match self.act {
            Act::RestoreStream => {
                let options = RestoreOptions::new().file_system(bench.file_system());
                restore_stream(&self.stream[..], COPY, &options).map(drop)
            }
            _ => backups(bench).restore(None, COPY).map(drop),
        }
    }

    /// Looks at what is left: whether the act has happened. Everything from before must be there, and whole.
    fn check(&self, fs: &terrace_io::MemoryFileSystem, is_again: bool, what: &str) -> bool {
        let bench = Bench::over(fs.clone(), DIR.into());
        let found = match backups(&bench).list() {
            Err(Error::InvalidArgument(_)) if self.act == Act::First => Vec::new(),
            list => {
                let list = list.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(list.findings.is_empty(), "{what}: {list:?}");
                let report = backups(&bench).verify(None).unwrap();
                assert!(report.is_ok(), "{what}: {report:?}");
                list.backups.iter().map(|backup| backup.number).collect()
            }
        };
        let mut has_happened = match (self.act, &found[..]) {
            (Act::First, []) | (Act::Second, [1]) | (Act::Delete, [1, 2]) => false,
            (Act::First, [1]) | (Act::Second, [1, 2]) | (Act::Delete, [2]) => true,
            (Act::Restore, [1, 2]) | (Act::RestoreStream, [1]) => false,
            (act, found) => panic!("{what}: after {act:?} there are the backups {found:?}"),
        };
        for &number in &found {
            let at = format!("/copies/of {number}");
            backups(&bench).restore(Some(number), &at).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(check_copy(&bench, &at, &self.models[number as usize - 1], what), "{what}: {at}");
        }
        let is_restore = [Act::Restore, Act::RestoreStream].contains(&self.act);
        if is_restore {
            has_happened = check_copy(&bench, COPY, &self.models[1], what);
        }
        let db = options(&bench).create_if_missing(false).open(DIR);
        let db = db.unwrap_or_else(|error| panic!("{what}: the database does not open: {error}"));
        let holds = read_all(&db, &keys()).unwrap_or_else(|why| panic!("{what}: {why}"));
        let states = &self.stage.states;
        assert!(states.contains(&holds), "{what}: the database has {:?}", holds.difference(self.stage.now()));
        if is_again && is_restore {
            self.restore_again(&bench, has_happened, what);
        } else if is_again {
            let number = db.backup(BACKUPS).unwrap_or_else(|error| panic!("{what}: {error}")).number;
            assert_eq!(number, found.last().map_or(1, |last| last + 1), "{what}");
            let report = backups(&bench).verify(None).unwrap();
            assert!(report.findings.is_empty(), "{what}: what was left is still there: {report:?}");
            let tables = names(&bench.memory, BACKUPS).iter().filter(|name| name.ends_with(".sst")).count();
            assert_eq!(report.tables, tables as u64, "{what}: there are tables that no backup names");
            backups(&bench).restore(Some(number), "/copies/again").unwrap();
            assert!(check_copy(&bench, "/copies/again", &holds, what));
        }
        db.close().unwrap();
        has_happened
    }

    /// A restore to the same place succeeds, whatever was left there, unless it is a database.
    fn restore_again(&self, bench: &Bench, is_there: bool, what: &str) {
        match self.restore(bench) {
            Ok(()) => assert!(!is_there, "{what}: a restore in the place of a database"),
            Err(Error::InvalidArgument(why)) => {
                assert!(is_there && why.contains("not empty"), "{what}: {why}");
            }
            Err(error) => panic!("{what}: {error}"),
        }
        assert!(check_copy(bench, COPY, &self.models[1], what));
        assert!(!names(&bench.memory, COPY).contains(&"RESTORING".to_owned()), "{what}");
    }
}

#[test]
fn a_crash_leaves_whole_backups() {
    const TEST: &str = "a_crash_leaves_whole_backups";
    for act in ACTS {
        let scene = Scene::new(act);
        let bench = &scene.stage.bench;
        let images = scene.stage.photograph(0, 11);
        scene.perform(bench).unwrap();
        bench.memory.remove_hook();
        let images = std::mem::take(&mut *images.lock().unwrap());
        let mut happened = 0;
        for (number, Image { what, fs }) in images.iter().enumerate() {
            let what = format!("{act:?}: {what}");
            happened += usize::from(scene.check(fs, number % AGAIN_ONE_IN == 0, &what));
        }
        // Acknowledged: whatever comes now, it has happened.
        for (cause, fs) in crashes(&bench.memory, 12) {
            let what = format!("{act:?}: {cause}, after it was acknowledged");
            assert!(scene.check(&fs, true, &what), "{what}: it is gone");
        }
        let count = images.len();
        covered(TEST, format_args!("{act:?}: {count} distinct images of crashes, {happened} of after it"));
        assert!(happened > 0 && count > happened, "{act:?}: {happened} of {count}");
    }
}

/// The calls of an act without faults.
fn calls(act: Act) -> Vec<Operation> {
    let scene = Scene::new(act);
    scene.perform(&scene.stage.bench).unwrap();
    let calls = scene.stage.bench.faults.recorded().split_off(scene.stage.first_call as usize);
    calls.into_iter().map(|(operation, _)| operation).collect()
}

/// One case. Says whether its call was met.
fn run(act: Act, fault: &Fault, number: u64, images_seen: &AtomicU64) -> bool {
    let scene = Scene::new(act);
    let Stage { bench, first_call, .. } = &scene.stage;
    bench.faults.add(fault.rule(*first_call));
    let images = scene.stage.photograph(first_call + fault.call, number);
    let outcome = scene.perform(bench);
    bench.memory.remove_hook();
    let met = bench.faults.injected() > 0;
    bench.faults.clear();
    if let Err(error) = &outcome {
        let cause = match error {
            Error::OutcomeUnknown { cause } | Error::Poisoned { cause } => cause,
            error => error,
        };
        // What cannot be read is told as damage by those who verify it.
        assert!(matches!(cause, Error::Io { .. } | Error::Corruption { .. }), "{error:?}");
        let says_where = cause
            .path()
            .is_some_and(|path| [DIR, BACKUPS, "/copies"].iter().any(|dir| path.starts_with(dir)));
        assert!(says_where, "an error without its place: {error:?}");
        assert!(!fault.is_harmless(), "what is harmless was noticed: {error}");
        if fault.lasting == Lasting::Once {
            let left = names(&bench.memory, COPY);
            assert!(left.iter().all(|name| name == "LOCK"), "{error}, but this is left: {left:?}");
            let left = names(&bench.memory, BACKUPS);
            let is_half = |name: &String| name.ends_with(".tmp") || name.len() == "000001.sst".len();
            assert!(!left.iter().any(is_half), "{error}, but this is left: {left:?}");
        }
    }
    let images = std::mem::take(&mut *images.lock().unwrap());
    images_seen.fetch_add(images.len() as u64, Relaxed);
    for Image { what, fs } in &images {
        scene.check(fs, false, what);
    }
    // What was acknowledged is durable.
    let cut = bench.memory.crash_clone(CrashPolicy::DropUnsynced);
    let survived = scene.check(&cut, true, "after all of it, and a power cut");
    assert!(survived || outcome.is_err(), "what was acknowledged is gone");
    // And the running process goes on, too, unless its log is poisoned.
    let is_poisoned = scene.stage.db.health().poisoned.is_some();
    let has_happened = scene.check(&bench.memory.process_kill_clone(), true, "after all of it");
    assert!(has_happened || outcome.is_err());
    if !is_poisoned {
        let number = scene.stage.db.backup(BACKUPS).unwrap().number;
        backups(bench).restore(Some(number), "/copies/later").unwrap();
        assert!(check_copy(bench, "/copies/later", scene.stage.now(), "after a fault"));
    }
    met
}

#[test]
fn a_backup_fails_without_a_trace() {
    const TEST: &str = "a_backup_fails_without_a_trace";
    let cases: Vec<(Act, Fault)> = ACTS
        .into_iter()
        .flat_map(|act| Fault::all(&calls(act)).into_iter().map(move |fault| (act, fault)))
        .collect();
    let (met, images) = (AtomicU64::new(0), AtomicU64::new(0));
    let case = |(): &mut (), number: u64| {
        let (act, fault) = &cases[number as usize];
        let _told = Told(&(act, fault));
        met.fetch_add(u64::from(run(*act, fault, number, &images)), Relaxed);
    };
    let done = Sweep::new(TEST, cases.len() as u64, USUAL_CASES).run(|| (), case);
    let (met, images) = (met.into_inner(), images.into_inner());
    covered(TEST, format_args!("{met} of {done} faults were met; {images} images of crashes after them"));
    assert!(done < 50 || met * 4 >= done * 3, "only {met} of {done} faults were met");
}
