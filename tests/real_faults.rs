//! Goal: what the kernel itself refuses is met as what the other tests make up: a disk that is full loses nothing and
//! stops only what needs space, and a call that a signal interrupts is made again.
//!
//! Method: this program runs a test of its own once more, below a tool that gives it a small file system (`mount`, in a
//! mount namespace, which needs root) or makes its system calls fail (`strace`). What the machine does not allow is
//! skipped, and says so.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::Duration;

use terrace::{Db, Durability, Error, Keyspace, KeyspaceOptions, Options};
use terrace_tests::child::{child, is_child, namespaced_child};
use terrace_tests::workload::noise;
use terrace_tests::{covered, eventually, rounds, skipped};

fn small() -> Options {
    Options::new()
        .memtable_bytes(256 << 10)
        .segment_bytes_max(256 << 10)
        .level_base_bytes(256 << 10)
        .level_multiplier(3)
        .compaction_threads(1)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(256 << 10))
}

/// What a key has as its value, so that it need not be remembered. Incompressible.
fn value(writer: usize, index: u64) -> Vec<u8> {
    noise((writer as u64) << 32 | index, 300 + index as usize % 200)
}

fn key(writer: usize, index: u64) -> String {
    format!("{writer}/{index:08}")
}

const WRITERS: usize = 3;
const BALLAST_BYTES: usize = 4 << 20;

/// Writers under way, and what they have been told.
struct Load {
    db: Db,
    keyspaces: [Keyspace; WRITERS],
    /// By writer and index: acknowledged, or refused.
    acknowledged: [RwLock<BTreeMap<u64, bool>>; WRITERS],
    full: [AtomicU64; WRITERS],
    accepted_after: AtomicU64,
    read: AtomicU64,
    /// Set once there is room again, so that it lasts.
    slowly: AtomicBool,
    stop: AtomicBool,
    other_errors: Mutex<Vec<Error>>,
}

impl Load {
    fn new(db: Db) -> terrace::Result<Load> {
        let default = db.keyspace("default")?;
        let keyspaces = [default, db.keyspace("one")?, db.keyspace("two")?];
        Ok(Load {
            db,
            keyspaces,
            acknowledged: Default::default(),
            full: Default::default(),
            accepted_after: AtomicU64::new(0),
            read: AtomicU64::new(0),
            slowly: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            other_errors: Mutex::default(),
        })
    }

    fn write(&self, writer: usize, dir: &Path) {
        for index in 0.. {
            if self.stop.load(SeqCst) {
                break;
            }
            if self.slowly.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            let durability = if index % 32 == 0 { Durability::Sync } else { Durability::Buffered };
            let keyspace = &self.keyspaces[writer];
            let outcome = keyspace.put_with(key(writer, index), value(writer, index), durability);
            self.acknowledged[writer].write().unwrap().insert(index, outcome.is_ok());
            match outcome {
                Ok(()) => drop(self.accepted_after.fetch_add(1, SeqCst)),
                Err(error) => {
                    let names_file = error.path().is_some_and(|path| path.starts_with(dir) && path != dir);
                    if !error.is_disk_full() || !names_file || !error.to_string().contains("o space left") {
                        self.other_errors.lock().unwrap().push(error);
                        break;
                    }
                    self.full[writer].fetch_add(1, SeqCst);
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }

    /// Reads all the time: what was acknowledged is there.
    fn read(&self) {
        let mut at = 0_u64;
        while !self.stop.load(SeqCst) {
            for writer in 0..WRITERS {
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let known = self.acknowledged[writer].read().unwrap().len() as u64;
                if known == 0 {
                    continue;
                }
                let index = (at >> 33) % known;
                let is_there = self.acknowledged[writer].read().unwrap()[&index];
                self.check(writer, index, is_there);
                self.read.fetch_add(1, SeqCst);
            }
        }
    }

    fn check(&self, writer: usize, index: u64, is_there: bool) {
        let found = self.keyspaces[writer].get(key(writer, index)).unwrap();
        let expected = is_there.then(|| value(writer, index));
        assert!(found.as_deref() == expected.as_deref(), "{} is wrong", key(writer, index));
    }

    /// Everything, and nothing else.
    fn check_all(&self) {
        for writer in 0..WRITERS {
            let known = self.acknowledged[writer].read().unwrap();
            known.iter().for_each(|(&index, &is_there)| self.check(writer, index, is_there));
            let there = known.values().filter(|is_there| **is_there).count();
            assert_eq!(self.keyspaces[writer].iter().unwrap().map(Result::unwrap).count(), there);
        }
    }
}

/// Fills the disk under load, makes room, and so on.
fn fill(dir: &Path) -> String {
    let ballast = dir.with_extension("ballast");
    let (mut writes, mut refusals, mut reads, mut stopped, mut times) = (0, 0, 0, 0, 0);
    for round in rounds(3) {
        times += 1;
        fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
        let load = Load::new(small().open(dir).unwrap()).unwrap();
        thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    scope.spawn({
                        let load = &load;
                        move || load.write(writer, dir)
                    })
                })
                .collect();
            scope.spawn(|| load.read());
            let _stop = Stop(&load.stop);
            let is_over = || writers.iter().any(|writer| writer.is_finished());
            eventually("the disk is full for every writer", || {
                is_over() || load.full.iter().all(|full| full.load(SeqCst) > 5)
            });
            let read = load.read.load(SeqCst);
            eventually("reads go on while it is full", || is_over() || load.read.load(SeqCst) > read + 1000);
            let health = load.db.health();
            stopped += u64::from(health.flush.is_some() || !health.compactions.is_empty());
            assert!(is_over() || health.poisoned.is_none(), "a full disk passes");
            load.slowly.store(true, SeqCst);
            fs::remove_file(&ballast).unwrap();
            let accepted = load.accepted_after.load(SeqCst);
            eventually("writes go on by themselves", || {
                is_over() || load.accepted_after.load(SeqCst) > accepted + 300
            });
        });
        let errors = std::mem::take(&mut *load.other_errors.lock().unwrap());
        if let Some(error) = errors.first() {
            return format!("another error: {error:?}");
        }
        eventually("flushes and compactions go on by themselves", || load.db.health().is_ok());
        load.check_all();
        refusals += load.full.iter().map(|full| full.load(SeqCst)).sum::<u64>();
        reads += load.read.load(SeqCst);
        writes += load.accepted_after.load(SeqCst);
        let known = load.acknowledged.map(|known| known.into_inner().unwrap());
        match round % 2 {
            // As a killed process leaves it: the log is replayed.
            0 => drop((load.db, load.keyspaces)),
            _ => load.db.close().unwrap(),
        }
        // Room for the next round.
        let db = small().open(dir).unwrap();
        for (writer, name) in ["default", "one", "two"].into_iter().enumerate() {
            let keyspace = db.keyspace(name).unwrap();
            for (&index, &is_there) in &known[writer] {
                let found = keyspace.get(key(writer, index)).unwrap();
                assert_eq!(found.is_some(), is_there, "{} after opening again", key(writer, index));
            }
            keyspace.clear().unwrap();
        }
        db.close().unwrap();
    }
    format!(
        "{times} times full, {stopped} times with a flush or a compaction stopped, {writes} writes, \
         {refusals} refused, {reads} reads meanwhile"
    )
}

/// Ends the readers and writers, also after a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_full_disk_under_load_loses_nothing() {
    const TEST: &str = "a_full_disk_under_load_loses_nothing";
    if is_child(|_, dir| fill(dir)) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=16m tmpfs \"$0\"";
    let said = namespaced_child(TEST, &home.path().join("db"), home.path(), "fill", mount);
    match said.strip_prefix("cannot launch") {
        Some(why) => skipped(TEST, format_args!("a small file system needs root and mount namespaces{why}")),
        None => {
            assert!(said.contains("times full"), "{said}");
            covered(TEST, said);
        }
    }
}

/// Everything that makes system calls: tables opened and read, merged and removed, logs replayed.
fn work(dir: &Path) -> terrace::Result<u64> {
    let mut written = 0;
    for session in 0..3 {
        let db = small().memtable_bytes(64 << 10).segment_bytes_max(64 << 10).open(dir)?;
        let other = db.keyspace(&format!("keyspace {session}"))?;
        for index in 0..4000 {
            let durability = if index % 64 == 0 { Durability::Sync } else { Durability::Buffered };
            db.put_with(key(session, index), value(session, index), durability)?;
            if index % 8 == 0 {
                other.put_with(key(session, index), value(session, index), durability)?;
            }
            if index % 500 == 0 {
                db.flush()?;
            }
            written += 1;
        }
        db.compact_range::<&str>(..)?;
        if session > 0 {
            db.drop_keyspace(&format!("keyspace {}", session - 1))?;
        }
        for earlier in 0..=session {
            for index in (0..4000).step_by(7) {
                let found = db.get(key(earlier, index))?;
                assert!(found.as_deref() == Some(&value(earlier, index)[..]), "{}", key(earlier, index));
            }
        }
        for index in (0..4000).step_by(8) {
            let found = other.get(key(session, index))?;
            assert!(found.as_deref() == Some(&value(session, index)[..]), "{}", key(session, index));
        }
        assert_eq!(db.iter()?.map(|entry| entry.map(drop)).collect::<Result<Vec<_>, _>>()?.len(), written);
        assert!(db.health().is_ok(), "{:?}", db.health());
        match session {
            1 => db.close()?,
            _ => drop(db),
        }
    }
    // Again and again, for the calls of which an open makes only a few.
    for _ in 0..20 {
        small().open(dir)?.close()?;
    }
    Ok(written as u64)
}

/// `strace` with faults, and where it says which it has injected.
fn strace<'a>(report: &'a str, injections: &[&'a str]) -> Vec<&'a str> {
    let mut command = vec!["strace", "-f", "-qq", "-o", report];
    injections.iter().for_each(|injection| command.extend(["-e", injection]));
    command
}

#[test]
fn an_interrupted_call_is_made_again() {
    const TEST: &str = "an_interrupted_call_is_made_again";
    let perform = |_: &str, dir: &Path| match work(dir) {
        Ok(written) => format!("{written} writes"),
        Err(error) => format!("an interruption was noticed: {error}"),
    };
    if is_child(perform) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let report = home.path().join("report");
    // Every other call, so that the one made again succeeds. The loader of programs makes none of the first kinds, and
    // does not make the others again: so the first of these in each thread are let through.
    let first = "?open,?pwrite64,?fdatasync,?fsync,?ftruncate,?rename,?renameat,?renameat2,?unlink,?unlinkat,\
                 ?mkdir,?mkdirat,?flock";
    let later = "?openat,?pread64";
    // A directory is listed from its start again, which takes two calls.
    let listing = "inject=getdents64:error=EINTR:when=1+3";
    let trace = format!("trace={first},{later},getdents64");
    let first = format!("inject={first}:error=EINTR:when=1+2");
    let later = format!("inject={later}:error=EINTR:when=20+2");
    let report_path = report.to_string_lossy();
    let said = child(
        TEST,
        &home.path().join("db"),
        "work",
        &strace(&report_path, &[&trace, &first, &later, listing]),
    );
    if let Some(why) = said.strip_prefix("cannot launch") {
        return skipped(TEST, format_args!("strace cannot be used{why}"));
    }
    assert!(said.ends_with(" writes"), "{said}");
    let calls = fs::read_to_string(&report).unwrap();
    let interrupted = |call: &str| {
        let is_it = |line: &&str| line.contains("(INJECTED)") && line.contains(call);
        calls.lines().filter(is_it).count()
    };
    // On some machines a file is opened, renamed or removed by another call of the same family.
    let kinds = [
        "pwrite64(",
        "pread64(",
        "fdatasync(",
        "fsync(",
        "open",
        "rename",
        "unlink",
        "mkdir",
        "flock(",
        "getdents64(",
    ];
    for kind in kinds {
        assert!(interrupted(kind) > 0, "no {kind} was interrupted");
    }
    covered(TEST, format_args!("{said}, {} calls of {} kinds interrupted", interrupted(""), kinds.len()));
}

/// Writes until a sync fails, and on.
fn write_until_a_sync_fails(dir: &Path) -> String {
    let db = small().open(dir).unwrap();
    let mut acknowledged = 0;
    let cause = loop {
        match db.put(key(0, acknowledged), value(0, acknowledged)) {
            Ok(()) => acknowledged += 1,
            Err(Error::OutcomeUnknown { cause }) => break cause.to_string(),
            Err(error) => return format!("another error: {error:?}"),
        }
        if acknowledged == 10_000 {
            return "no sync fails".to_owned();
        }
    };
    assert!(cause.contains(".log") && cause.contains("Input/output error"), "{cause}");
    for _ in 0..3 {
        match db.put("later", "x") {
            Err(Error::Poisoned { cause: told }) => assert_eq!(told.to_string(), cause),
            other => return format!("a write after the failure: {other:?}"),
        }
    }
    for index in 0..acknowledged {
        assert!(db.get(key(0, index)).unwrap().as_deref() == Some(&value(0, index)[..]), "{index}");
    }
    drop(db);
    acknowledged.to_string()
}

#[test]
fn a_failed_sync_is_final() {
    const TEST: &str = "a_failed_sync_is_final";
    if is_child(|_, dir| write_until_a_sync_fails(dir)) {
        return;
    }
    let (mut all, mut times) = (0, 0);
    // Once, and from there on. One that succeeds afterwards proves nothing.
    for round in rounds(2) {
        let when = 20 + 11 * (round / 2) % 200;
        let when = format!("{when}{}", ["", "+"][round as usize % 2]);
        times += 1;
        let home = tempfile::tempdir().unwrap();
        let (dir, report) = (home.path().join("db"), home.path().join("report"));
        let inject = format!("inject=fdatasync:error=EIO:when={when}");
        let report_path = report.to_string_lossy();
        let said = child(TEST, &dir, "write", &strace(&report_path, &["trace=fdatasync", &inject]));
        if let Some(why) = said.strip_prefix("cannot launch") {
            return skipped(TEST, format_args!("strace cannot be used{why}"));
        }
        let acknowledged: u64 = said.parse().unwrap_or_else(|_| panic!("{said}"));
        let failed = fs::read_to_string(&report).unwrap().matches("(INJECTED)").count();
        assert_eq!(failed, 1, "a sync that has failed is not tried again");
        let db = small().open(&dir).unwrap();
        for index in 0..acknowledged {
            assert!(db.get(key(0, index)).unwrap().as_deref() == Some(&value(0, index)[..]), "{index}");
        }
        assert!(!db.contains_key("later").unwrap());
        all += acknowledged;
    }
    covered(TEST, format_args!("{times} failed syncs, {all} writes from before"));
}
