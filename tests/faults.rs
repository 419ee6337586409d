//! Named faults. Goal: whatever the file system refuses, no synced write is lost, no wrong value is read, nothing
//! hangs, and what can go on goes on; the rest says why it does not.
//!
//! Method: databases over a file system in memory behind one that fails on command, each fault with what it must lead
//! to. Everything runs under a watchdog. `error_sweep.rs` has the faults without names: any call, any error.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use terrace::{Db, Durability, Error, FileSystem, Keyspace, WriteBatch};
use terrace_io::{CrashPolicy, FaultKind, FaultRule, MemoryFileSystem, Operation};
use terrace_tests::eventually;
use terrace_tests::faulty::{Bench, watched};

fn poison_cause<T: std::fmt::Debug>(outcome: terrace::Result<T>, what: &str) -> String {
    match outcome {
        Err(Error::Poisoned { cause }) => cause.to_string(),
        other => panic!("{what}: expected it to be poisoned, got {other:?}"),
    }
}

/// A poisoned database reads on and takes no write of any kind; all name the first cause.
fn assert_poisoned(db: &Db, keyspace: &Keyspace, present: &[(&str, &str)]) {
    let cause = poison_cause(db.put("later", "x"), "put");
    let mut batch = WriteBatch::new();
    batch.put(keyspace, "later", "x");
    for (what, outcome) in [
        ("buffered", db.put_with("later", "x", Durability::Buffered)),
        ("delete", db.delete("later")),
        ("batch", db.write(batch)),
        ("flush", db.flush()),
        ("settle", db.settle()),
        ("sync", db.sync()),
        ("clear", keyspace.clear()),
        ("drop", db.drop_keyspace(keyspace.name())),
        ("compact", db.compact_range::<&str>(..)),
        ("create", db.keyspace("never").map(drop)),
    ] {
        assert_eq!(poison_cause(outcome, what), cause, "{what} names the first cause");
    }
    assert_eq!(db.health().poisoned.map(|error| error.to_string()), Some(cause));
    assert!(!db.health().is_ok());
    for (key, value) in present {
        assert_eq!(db.get(key).unwrap().as_deref(), Some(value.as_bytes()), "reads go on");
    }
    assert!(db.iter().unwrap().all(|entry| entry.is_ok()));
    assert!(!db.contains_key("later").unwrap());
    assert_eq!(db.keyspace(keyspace.name()).unwrap().name(), keyspace.name());
}

/// Every way to find the directory again holds the pairs, and works.
fn assert_survives(bench: &Bench, present: &[(&str, &str)], absent: &[&str]) {
    let ways = [
        ("killed", bench.killed()),
        ("all kept", bench.crashed(CrashPolicy::KeepAll)),
        ("unsynced dropped", bench.crashed(CrashPolicy::DropUnsynced)),
        ("torn", bench.crashed(CrashPolicy::Torn { seed: 1 })),
        ("torn otherwise", bench.crashed(CrashPolicy::Torn { seed: 2 })),
    ];
    for (what, bench) in ways {
        let db = bench.options().open(&bench.dir).unwrap_or_else(|error| panic!("{what}: {error}"));
        for (key, value) in present {
            assert_eq!(db.get(key).unwrap().as_deref(), Some(value.as_bytes()), "{what}: {key}");
        }
        for key in absent {
            assert!(!db.contains_key(key).unwrap(), "{what}: {key} was refused");
        }
        db.put("goes on", "yes").unwrap();
        db.settle().unwrap();
        assert!(db.health().is_ok(), "{what}");
        db.close().unwrap();
    }
}

#[test]
fn a_failed_log_sync_poisons_and_loses_nothing_synced() {
    watched("failed log sync", || {
        let bench = Bench::new();
        let db = bench.open();
        let other = db.keyspace("other").unwrap();
        db.put("synced", "1").unwrap();
        db.put_with("buffered", "2", Durability::Buffered).unwrap();
        bench.faults.add(FaultRule::on(Operation::Sync).path(".log"));
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let write = |thread: usize| {
                let db = db.clone();
                move || db.put(format!("unknown {thread}"), "3")
            };
            let threads: Vec<_> = (0..8).map(|thread| scope.spawn(write(thread))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut unknown = 0;
        let mut refused = Vec::new();
        for (thread, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Err(Error::OutcomeUnknown { cause }) => {
                    unknown += 1;
                    assert!(cause.path().unwrap().to_string_lossy().ends_with(".log"), "{cause}");
                }
                Err(Error::Poisoned { cause }) => {
                    assert!(cause.path().is_some(), "{cause}");
                    refused.push(format!("unknown {thread}"));
                }
                other => panic!("a write whose sync failed: {other:?}"),
            }
        }
        assert!(unknown > 0, "those who waited are told that they cannot know");
        // The device works again; what is in doubt stays in doubt.
        bench.faults.clear();
        assert_poisoned(&db, &other, &[("synced", "1"), ("buffered", "2")]);
        let refused: Vec<&str> = refused.iter().map(|key| &**key).chain(["later"]).collect();
        assert_survives(&bench, &[("synced", "1")], &refused);
        poison_cause(db.close(), "close");
        assert_survives(&bench, &[("synced", "1")], &refused);
    });
}

#[test]
fn a_failed_manifest_sync_poisons_and_loses_nothing_synced() {
    watched("failed manifest sync", || {
        let bench = Bench::new();
        let db = bench.open();
        let other = db.keyspace("other").unwrap();
        db.put("synced", "1").unwrap();
        db.flush().unwrap();
        db.put("in the log", "2").unwrap();
        bench.faults.add(FaultRule::on(Operation::Sync).path("MANIFEST").once());
        let error = db.keyspace("doubtful").unwrap_err();
        assert!(
            matches!(&error, Error::OutcomeUnknown { cause } if cause.path().unwrap().ends_with("MANIFEST")),
            "{error}"
        );
        let present = [("synced", "1"), ("in the log", "2")];
        assert_poisoned(&db, &other, &present);
        assert_survives(&bench, &present, &["later"]);
        poison_cause(db.close(), "close");
        assert_survives(&bench, &present, &["later"]);
    });
}

#[test]
fn a_failed_manifest_sync_in_a_flush_poisons_and_loses_nothing() {
    watched("failed manifest sync in a flush", || {
        let bench = Bench::new();
        let db = bench.open();
        let other = db.keyspace("other").unwrap();
        db.put("synced", "1").unwrap();
        bench.faults.add(FaultRule::on(Operation::Sync).path("MANIFEST").once());
        let error = db.flush().unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. } | Error::Poisoned { .. }), "{error}");
        assert_poisoned(&db, &other, &[("synced", "1")]);
        assert_survives(&bench, &[("synced", "1")], &["later"]);
        drop((db, other));
        assert_survives(&bench, &[("synced", "1")], &["later"]);
    });
}

#[test]
fn a_failed_table_is_written_again() {
    let kinds = [
        FaultKind::Os(5),
        FaultKind::Error(ErrorKind::StorageFull),
        FaultKind::ErrorAfterEffect(ErrorKind::Other),
    ];
    for operation in [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename] {
        for kind in kinds {
            watched(format!("failed {operation} of a table, {kind:?}"), move || {
                let bench = Bench::new();
                let db = bench.open();
                db.put("key", "value").unwrap();
                bench.faults.add(FaultRule::on(operation).path(".sst").kind(kind).times(2));
                let error = db.flush().unwrap_err();
                assert!(error.path().unwrap().to_string_lossy().contains(".sst"), "{error}");
                let trouble = db.health().flush.expect("health shows what is wrong");
                assert!(trouble.path().unwrap().to_string_lossy().contains(".sst"), "{trouble}");
                assert!(db.health().poisoned.is_none(), "nothing is lost by it");
                assert_eq!(db.get("key").unwrap().as_deref(), Some(&b"value"[..]), "reads go on");
                db.put("meanwhile", "2").unwrap();
                eventually("the flush is tried again by itself", || db.health().is_ok());
                eventually("the table is there", || db.metrics().levels.iter().any(|level| level.tables > 0));
                assert!(bench.faults.injected() >= 2);
                let present = [("key", "value"), ("meanwhile", "2")];
                assert_survives(&bench, &present, &[]);
                db.settle().unwrap();
                // Nothing is left of the tables that failed.
                let names = bench.memory.read_dir(&bench.dir).unwrap();
                assert!(!names.iter().any(|name| name.ends_with(".tmp")), "{operation}: {names:?}");
                db.close().unwrap();
                assert_survives(&bench, &present, &[]);
            });
        }
    }
}

#[test]
fn a_failed_compaction_is_tried_again() {
    watched("failed compaction", || {
        let bench = Bench::new();
        // Room enough that nothing is flushed but by this.
        let db = bench.options().memtable_bytes(1 << 20).open(&bench.dir).unwrap();
        let mut last = 0;
        for round in 0..4 {
            if round == 2 {
                // From here on it takes two flushes until there is a compaction.
                db.settle().unwrap();
            }
            for index in 0..300 {
                db.put_with(format!("{index:04}"), format!("{round}"), Durability::Buffered).unwrap();
            }
            if round == 3 {
                // The flush's own table gets through, the compaction's does not.
                bench.faults.add(FaultRule::on(Operation::Sync).path(".sst").skip(1).once());
            }
            db.flush().unwrap();
            last = round;
        }
        eventually("it fails", || bench.faults.injected() > 0);
        let is_done = || db.metrics().levels.iter().all(|level| level.level > 0 || level.tables == 0);
        eventually("it is tried again by itself", || is_done() && db.health().is_ok());
        assert_eq!(db.iter().unwrap().count(), 300);
        assert!(db.iter().unwrap().all(|entry| *entry.unwrap().1 == *last.to_string().as_bytes()));
    });
}

#[test]
fn a_full_disk_passes() {
    for room in [10 << 10, 100 << 10, 200 << 10, 300 << 10, 500 << 10] {
        watched(format!("full disk after {room} bytes"), move || {
            let bench = Bench::new();
            let db = bench.open();
            db.put("first", "1").unwrap();
            bench.memory.set_capacity(Some(bench.memory.total_bytes() + room));
            let mut acknowledged = BTreeMap::new();
            let mut refused = BTreeMap::new();
            for index in 0..6000_u64 {
                let key = format!("{index:06}");
                let durability = if index % 16 == 0 { Durability::Sync } else { Durability::Buffered };
                match db.put_with(&key, [b'x'; 200], durability) {
                    Ok(()) => drop(acknowledged.insert(key, ())),
                    Err(error) => {
                        assert!(error.is_disk_full(), "{error:?}");
                        assert!(error.path().is_some_and(|path| path.starts_with(&bench.dir)), "{error}");
                        refused.insert(key, ());
                        if refused.len() > 20 {
                            break;
                        }
                    }
                }
            }
            assert!(!refused.is_empty(), "the disk was full");
            let all_there = |db: &Db| {
                for key in acknowledged.keys() {
                    assert_eq!(db.get(key).unwrap().as_deref(), Some(&[b'x'; 200][..]), "{key}");
                }
                for key in refused.keys() {
                    assert!(!db.contains_key(key).unwrap(), "{key} was refused");
                }
                assert_eq!(
                    db.iter().unwrap().map(Result::unwrap).filter(|(key, _)| key.len() == 6).count(),
                    acknowledged.len()
                );
            };
            all_there(&db);
            assert!(db.health().poisoned.is_none(), "a full disk passes");
            // Found again while the disk is still full, it may say so, and loses nothing.
            let killed = bench.killed();
            if let Err(error) = killed.options().open(&killed.dir) {
                assert!(error.is_disk_full(), "{error:?}");
            }
            killed.memory.set_capacity(None);
            let reopened = killed.open();
            for key in acknowledged.keys() {
                assert!(reopened.contains_key(key).unwrap(), "{key}");
            }
            drop(reopened);

            bench.memory.set_capacity(None);
            eventually("writes resume", || db.put("resumed", "1").is_ok());
            eventually("all is well", || db.health().is_ok());
            db.settle().unwrap();
            all_there(&db);
            db.close().unwrap();
            let db = bench.open();
            all_there(&db);
        });
    }
}

#[test]
fn short_reads_and_writes_are_gone_on_with() {
    watched("short reads and writes", || {
        let bench = Bench::new();
        bench.faults.add(FaultRule::on(Operation::Write).path(".log").kind(FaultKind::ShortWrite).times(500));
        bench
            .faults
            .add(FaultRule::on(Operation::Write).path("MANIFEST").kind(FaultKind::ShortWrite).times(500));
        bench.faults.add(FaultRule::on(Operation::Write).path(".sst").kind(FaultKind::ShortWrite).times(500));
        bench.faults.add(FaultRule::on(Operation::Read).kind(FaultKind::ShortRead).times(2000));
        for round in 0..3_u64 {
            let db = bench.open();
            let mut batch = WriteBatch::new();
            for index in 0..400_u64 {
                db.put(format!("{index:04}"), format!("{round}").repeat(100)).unwrap();
                batch.put(&db, format!("batch {index}"), format!("{round}"));
            }
            db.write(batch).unwrap();
            if round == 1 {
                db.settle().unwrap();
            }
            assert!(db.health().is_ok(), "{:?}", db.health());
        }
        let db = bench.open();
        assert_eq!(db.iter().unwrap().count(), 800);
        for index in 0..400_u64 {
            assert_eq!(db.get(format!("{index:04}")).unwrap().as_deref(), Some("2".repeat(100).as_bytes()));
        }
        assert!(bench.faults.injected() > 500);
    });
}

#[test]
fn a_failed_log_write_fails_only_that_write() {
    let kinds = [
        FaultKind::Os(5),
        FaultKind::Error(ErrorKind::StorageFull),
        FaultKind::ErrorAfterEffect(ErrorKind::Other),
    ];
    for kind in kinds {
        for durability in [Durability::Sync, Durability::Buffered] {
            watched(format!("failed log write, {kind:?}"), move || {
                let bench = Bench::new();
                let db = bench.open();
                db.put("before", "1").unwrap();
                bench.faults.add(FaultRule::on(Operation::Write).path(".log").kind(kind).once());
                let mut batch = WriteBatch::new();
                for index in 0..20 {
                    batch.put(&db, format!("failed {index:02}"), "x".repeat(100));
                }
                let error = db.write_with(batch, durability).unwrap_err();
                assert!(error.path().unwrap().to_string_lossy().ends_with(".log"), "{error}");
                assert!(db.health().poisoned.is_none());
                assert_eq!(db.prefix("failed").unwrap().count(), 0, "nothing of it has happened");
                // Shorter than what failed, so that its end is left behind.
                db.put_with("after", "2", durability).unwrap();
                db.sync().unwrap();
                let refused: Vec<String> = (0..20).map(|index| format!("failed {index:02}")).collect();
                let refused: Vec<&str> = refused.iter().map(|key| &**key).collect();
                assert_survives(&bench, &[("before", "1"), ("after", "2")], &refused);
                drop(db);
                let db = bench.open();
                assert_eq!(db.iter().unwrap().count(), 2);
            });
        }
    }
}

/// A change of keyspaces is not in the log: what the log was refused before must not come back behind it.
#[test]
fn what_was_refused_does_not_come_back_behind_a_change_of_keyspaces() {
    for (erasure_fails, rolls) in [(false, false), (true, false), (true, true)] {
        for change in ["clear", "drop", "create"] {
            watched(format!("refused, then {change}"), move || {
                let bench = Bench::new();
                let db = bench.open();
                db.keyspace("other").unwrap();
                db.put("first", "1").unwrap();
                let write = || FaultRule::on(Operation::Write).path(".log").once();
                bench.faults.add(write().kind(FaultKind::ErrorAfterEffect(ErrorKind::Other)));
                if erasure_fails {
                    bench.faults.add(write());
                }
                db.put("refused", "x").unwrap_err();
                if rolls {
                    // What does not fit goes to the next segment, and is refused there too.
                    // The header of that one is written first.
                    let rule = FaultRule::on(Operation::Write).path("000002.log").skip(1);
                    bench.faults.add(rule.kind(FaultKind::Os(5)));
                    db.put("refused too", vec![0; 100_000]).unwrap_err();
                    bench.faults.clear();
                }
                match change {
                    "clear" => db.clear().unwrap(),
                    "drop" => db.drop_keyspace("other").unwrap(),
                    _ => drop(db.keyspace("third").unwrap()),
                }
                for seed in 3..40 {
                    let torn = bench.crashed(CrashPolicy::Torn { seed });
                    assert_eq!(torn.open().get("refused").unwrap(), None, "torn with seed {seed}");
                }
                let kept: &[_] = if change == "clear" { &[] } else { &[("first", "1")] };
                assert_survives(&bench, kept, &["refused"]);
            });
        }
    }
}

#[test]
fn closing_under_faults_says_so_and_loses_nothing() {
    let rules = [
        ("log sync", FaultRule::on(Operation::Sync).path(".log")),
        ("manifest sync", FaultRule::on(Operation::Sync).path("MANIFEST")),
        ("manifest write", FaultRule::on(Operation::Write).path("MANIFEST")),
        ("table create", FaultRule::on(Operation::Create).path(".sst")),
        ("table write", FaultRule::on(Operation::Write).path(".sst")),
        ("table sync", FaultRule::on(Operation::Sync).path(".sst")),
        ("table rename", FaultRule::on(Operation::Rename).path(".sst")),
        ("directory sync", FaultRule::on(Operation::SyncDirectory)),
        ("full disk", FaultRule::on(Operation::Write).error(ErrorKind::StorageFull)),
        ("everything", FaultRule::on(Operation::Write)),
    ];
    for (what, rule) in rules {
        watched(format!("close: {what}"), move || {
            let bench = Bench::new();
            let db = bench.open();
            db.put("synced", "1").unwrap();
            db.put_with("buffered", "2", Durability::Buffered).unwrap();
            bench.faults.add(rule);
            db.close().unwrap_err();
            assert!(matches!(db.get("synced"), Err(Error::Closed)));
            assert!(bench.faults.injected() > 0, "{what}");
            bench.faults.clear();
            assert_survives(&bench, &[("synced", "1")], &[]);
            let db = bench.open();
            assert_eq!(db.get("synced").unwrap().as_deref(), Some(&b"1"[..]), "{what}");
            assert_eq!(
                db.get("buffered").unwrap().as_deref(),
                Some(&b"2"[..]),
                "{what}: the process did not die"
            );
        });
    }
}

/// Stops every mutation of a file system by background threads until it is opened.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicU64,
}

impl Gate {
    fn on(memory: &MemoryFileSystem) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        let hooked = gate.clone();
        memory.set_hook(move |_| hooked.pass());
        gate
    }

    fn pass(&self) {
        if !std::thread::current().name().is_some_and(|name| name.starts_with("terrace-")) {
            return;
        }
        let mut closed = self.closed.lock().unwrap();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while *closed {
            closed = self.opened.wait(closed).unwrap();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn set(&self, close: bool) {
        *self.closed.lock().unwrap() = close;
        self.opened.notify_all();
    }

    /// Fills memtables, so that their flush stands at the gate. There are 80 records then.
    fn hold_up(&self, db: &Db) {
        self.set(true);
        for index in 0..80 {
            db.put_with(format!("{index:04}"), [b'x'; 400], Durability::Buffered).unwrap();
        }
        db.sync().unwrap();
        eventually("the flush stands at the gate", || self.waiting.load(Ordering::SeqCst) > 0);
    }
}

/// A bug in a background thread must not leave anybody waiting for its work.
#[test]
fn a_panic_in_the_background_poisons() {
    watched("a panic of the flush thread", || {
        let bench = Bench::new();
        let db = bench.open();
        db.put("before", "1").unwrap();
        bench.memory.set_hook(|_| {
            assert_ne!(std::thread::current().name(), Some("terrace-flush"), "this is a test");
        });
        let error = db.flush().unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
        assert!(matches!(db.put("after", "2"), Err(Error::Poisoned { .. })));
        assert_eq!(db.get("before").unwrap().as_deref(), Some(&b"1"[..]));
        bench.memory.remove_hook();
        drop(db);
        let db = bench.open();
        assert_eq!(db.iter().unwrap().count(), 1);
    });
}

#[test]
fn dropping_never_waits_and_reopening_works_at_once() {
    watched("drop", || {
        let bench = Bench::new();
        let gate = Gate::on(&bench.memory);
        let db = bench.options().segment_bytes_max(1 << 20).open(&bench.dir).unwrap();
        gate.hold_up(&db);
        // The flush stands still; if this waited for it, it would never return.
        drop(db);
        let opener = {
            let bench = bench.clone();
            std::thread::spawn(move || bench.open())
        };
        std::thread::sleep(Duration::from_millis(50));
        gate.set(false);
        let db = opener.join().unwrap();
        assert_eq!(db.iter().unwrap().count(), 80);
        for round in 0..20 {
            db.put_with(format!("round {round}"), "x", Durability::Buffered).unwrap();
        }
        drop(db);
        for round in 0..20 {
            let db = bench.open();
            assert!(db.contains_key(format!("round {round}")).unwrap());
            db.put_with(format!("more {round}"), "x", Durability::Buffered).unwrap();
        }
        assert_eq!(bench.open().iter().unwrap().count(), 120);
    });
}

#[test]
fn dropping_is_safe_inside_a_runtime() {
    watched("drop in a runtime", || {
        let bench = Bench::new();
        let gate = Gate::on(&bench.memory);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (snapshot, iter) = runtime.block_on(async {
            let db = bench.options().segment_bytes_max(1 << 20).open(&bench.dir).unwrap();
            gate.hold_up(&db);
            let (snapshot, iter) = (db.snapshot().unwrap(), db.iter().unwrap());
            let task = tokio::spawn(async move { drop(db) });
            task.await.unwrap();
            (snapshot, iter)
        });
        drop(snapshot);
        gate.set(false);
        let db = bench.open();
        assert_eq!(db.iter().unwrap().count(), 80);
        assert_eq!(iter.count(), 80, "iterators outlive the database");
    });
}
