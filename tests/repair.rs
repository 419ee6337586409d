//! Verify, salvage and scrub. Goal: every damage is found and named with its file and place; what can be read is saved,
//! newest versions first, and nothing is made up; nothing that only looks changes anything.
//!
//! Method: databases of several keyspaces, levels and snapshots are made by random work whose every value is remembered,
//! in memory and on disk, then damaged in every way that files can be: flipped, cut, removed, swapped. What salvage gives
//! is compared with the model: wherever it differs, the report must have said that something is lost there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace::{
    Compression, Db, Durability, Error, FileSystem, KeyspaceOptions, ManifestState, Options, SalvageOptions,
    SalvageReport, ScrubOptions, Severity, VerifyOptions, VerifyReport, WriteBatch,
};
use terrace_io::{
    Advice, DirectoryLock, FaultFileSystem, FaultRule, File, Medium, MemoryFileSystem, OpenMode, Operation,
    OsFileSystem, Region,
};
use terrace_tests::{Trace, seeds};

type Key = (String, Vec<u8>);

/// What was written: the last value of each key, and all that it ever had.
#[derive(Debug, Clone, Default)]
struct Written {
    now: BTreeMap<Key, Vec<u8>>,
    ever: BTreeMap<Key, BTreeSet<Vec<u8>>>,
}

impl Written {
    fn put(&mut self, keyspace: &str, key: &[u8], value: &[u8]) {
        let key = (keyspace.to_owned(), key.to_vec());
        self.ever.entry(key.clone()).or_default().insert(value.to_vec());
        self.now.insert(key, value.to_vec());
    }
}

fn options(fs: Arc<dyn FileSystem>) -> Options {
    Options::new()
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .level_base_bytes(64 << 10)
        .level_multiplier(3)
        .l0_trigger(2)
        .compaction_threads(1)
        .durability(Durability::Buffered)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
        .file_system(fs)
}

const KEYSPACES: [&str; 3] = ["default", "packed", "few"];

/// Makes a database by random work and leaves it open.
fn fill(db: &Db, seed: u64, rounds: u64) -> Written {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut written = Written::default();
    let packed = KeyspaceOptions::new().compression(Compression::Snappy).table_bytes(64 << 10);
    db.keyspace_with("packed", packed).unwrap();
    db.keyspace("few").unwrap();
    let gone = db.keyspace("gone").unwrap();
    gone.put("of a keyspace", "that is dropped").unwrap();
    db.flush().unwrap();
    db.drop_keyspace("gone").unwrap();
    written.put("gone", b"of a keyspace", b"that is dropped");
    written.now.clear();
    let mut snapshots = Vec::new();
    for round in 0..rounds {
        for _ in 0..40 {
            let mut batch = WriteBatch::new();
            for _ in 0..rng.random_range(1..12) {
                let name = KEYSPACES[if rng.random_ratio(1, 20) { 2 } else { 0 }];
                let name = if rng.random_ratio(1, 2) { KEYSPACES[1] } else { name };
                let keyspace = db.keyspace(name).unwrap();
                let key = format!("key {:04}", rng.random_range(0..600));
                if rng.random_ratio(1, 5) {
                    batch.delete(&keyspace, &key);
                    written.now.remove(&(name.to_owned(), key.into_bytes()));
                } else {
                    let len = if rng.random_ratio(1, 50) { 9_000 } else { rng.random_range(8..400) };
                    let mut value = vec![0; len];
                    rand::Rng::fill_bytes(&mut rng, &mut value);
                    batch.put(&keyspace, &key, &value);
                    written.put(name, key.as_bytes(), &value);
                }
            }
            let durability = if rng.random_ratio(1, 8) { Durability::Sync } else { Durability::Buffered };
            db.write_with(batch, durability).unwrap();
        }
        match round % 4 {
            1 => snapshots.push(db.snapshot().unwrap()),
            2 => db.flush().unwrap(),
            3 => db.settle().unwrap(),
            _ => {}
        }
    }
    written
}

/// A database in memory as a kill leaves it, or closed.
fn sample(seed: u64, closed: bool) -> (MemoryFileSystem, Written) {
    let memory = MemoryFileSystem::new();
    let db = options(Arc::new(memory.clone())).open(dir()).unwrap();
    let written = fill(&db, seed, 11);
    if closed {
        db.close().unwrap();
        return (memory, written);
    }
    let left = memory.process_kill_clone();
    db.close().unwrap();
    (left, written)
}

fn dir() -> &'static Path {
    Path::new("/db")
}

fn files(memory: &MemoryFileSystem, dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = memory.read_dir(dir).unwrap().into_iter();
    names.map(|name| (name.clone(), memory.file_bytes(&dir.join(name)).unwrap())).collect()
}

fn verify(memory: &MemoryFileSystem) -> VerifyReport {
    terrace::verify(dir(), &VerifyOptions::new().threads(2).file_system(Arc::new(memory.clone()))).unwrap()
}

fn salvage_options(memory: &MemoryFileSystem) -> SalvageOptions {
    SalvageOptions::new().file_system(Arc::new(memory.clone()))
}

/// What a keyspace was called that salvage knows by its id only.
fn true_name(name: &str) -> &str {
    match name {
        "recovered-1" => "packed",
        "recovered-2" => "few",
        "recovered-3" => "gone",
        name => name,
    }
}

/// Reads everything from the front, from the back and key by key.
fn contents(db: &Db) -> BTreeMap<Key, Vec<u8>> {
    let mut found = BTreeMap::new();
    for name in db.keyspace_names().unwrap() {
        let keyspace = db.keyspace(&name).unwrap();
        for entry in keyspace.iter().unwrap() {
            let (key, value) = entry.unwrap();
            assert_eq!(keyspace.get(&key).unwrap().as_deref(), Some(&*value));
            found.insert((true_name(&name).to_owned(), key.to_vec()), value.to_vec());
        }
        let reverse = keyspace.iter().unwrap().rev().count();
        assert_eq!(reverse, found.keys().filter(|key| key.0 == true_name(&name)).count());
    }
    found
}

/// Salvages, opens what came out and compares it with what was written. Gives the report and how many keys differ.
#[track_caller]
fn salvage(memory: &MemoryFileSystem, written: &Written, options: SalvageOptions) -> (SalvageReport, usize) {
    let to = Path::new("/new");
    let before = files(memory, dir());
    let mutations = memory.mutations();
    let dry = terrace::salvage(dir(), to, &options.clone().dry_run(true)).unwrap();
    assert_eq!(memory.mutations(), mutations, "a dry run writes nothing");
    let report = terrace::salvage(dir(), to, &options).unwrap();
    assert_eq!(files(memory, dir()), before, "salvage does not change what it reads");
    assert_eq!(format!("{dry:?}"), format!("{report:?}"), "a dry run says the same");

    let verified = terrace::verify(to, &VerifyOptions::new().file_system(Arc::new(memory.clone()))).unwrap();
    assert!(verified.findings.is_empty(), "{:?}", verified.findings);
    let db = self::options(Arc::new(memory.clone())).open(to).unwrap();
    let found = contents(&db);
    let kept: u64 = report.keyspaces.iter().map(|keyspace| keyspace.keys_kept).sum();
    assert_eq!(kept, found.len() as u64);
    let mut differing = 0;
    for key in written.ever.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let (is, should) = (found.get(key), written.now.get(key));
        if is == should {
            continue;
        }
        differing += 1;
        let shown = (&key.0, String::from_utf8_lossy(&key.1));
        if let Some(value) = is {
            assert!(written.ever.get(key).is_some_and(|ever| ever.contains(value)), "{shown:?} is made up");
        }
        let covers = |lost: &terrace::Lost| {
            lost.keyspace.as_ref().is_none_or(|name| *name == key.0)
                && lost.keys_from.as_ref().is_none_or(|from| **from <= *key.1)
                && lost.keys_to.as_ref().is_none_or(|to| **to >= *key.1)
        };
        // With obsolete tables come back deleted keys, and values from before they were overwritten.
        let told = report.lost.iter().any(covers) || report.deleted_keys_may_return && is.is_some();
        assert!(told, "{shown:?} differs, and nothing is said to be lost there: {report:#?}");
    }
    // It takes writes, and they win.
    db.put("key 0001", "new").unwrap();
    db.settle().unwrap();
    assert_eq!(db.get("key 0001").unwrap().as_deref(), Some(&b"new"[..]));
    db.close().unwrap();
    for name in files(memory, to).keys() {
        memory.remove_file(&to.join(name)).unwrap();
    }
    (report, differing)
}

fn names(memory: &MemoryFileSystem, suffix: &str) -> Vec<String> {
    let mut names = memory.read_dir(dir()).unwrap();
    names.retain(|name| name.ends_with(suffix));
    names.sort();
    assert!(!names.is_empty(), "there are files in {suffix:?}");
    names
}

/// Flips some bits of a byte.
fn flip(memory: &MemoryFileSystem, name: &str, at: usize) {
    let path = dir().join(name);
    let mut bytes = memory.file_bytes(&path).unwrap();
    bytes[at] ^= 0x11;
    memory.replace_bytes(&path, bytes).unwrap();
}

fn cut(memory: &MemoryFileSystem, name: &str, len: usize) {
    let path = dir().join(name);
    let bytes = memory.file_bytes(&path).unwrap();
    memory.replace_bytes(&path, bytes[..len].to_vec()).unwrap();
}

/// The records of a log file: where each starts and ends.
fn records(memory: &MemoryFileSystem, name: &str) -> Vec<(usize, usize)> {
    let mut reader = terrace_wal::SegmentReader::open(memory, &dir().join(name)).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        found.push((record.position.offset as usize, record.end.offset as usize));
    }
    found
}

// Verify.

#[test]
fn a_sound_database_verifies_clean() {
    for seed in seeds(2) {
        let _trace = Trace::new("a_sound_database_verifies_clean", seed);
        for closed in [true, false] {
            let (memory, written) = sample(seed, closed);
            let mutations = memory.mutations();
            let report = verify(&memory);
            assert_eq!(memory.mutations(), mutations, "verify changes nothing");
            assert!(report.is_ok(), "{:?}", report.findings);
            assert!(report.tables >= 3 && report.blocks > 30 && report.entries > 300, "{report:?}");
            assert_eq!(report.log_records == 0, closed, "{report:?}");
            if closed {
                assert!(report.findings.is_empty(), "{:?}", report.findings);
            }
            let db = options(Arc::new(memory)).open(dir()).unwrap();
            assert_eq!(contents(&db), written.now);
            db.close().unwrap();
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("db");
        let db = options(Arc::new(OsFileSystem)).open(&path).unwrap();
        fill(&db, seed, 5);
        db.close().unwrap();
        let report = terrace::verify(&path, &VerifyOptions::new()).unwrap();
        assert!(report.findings.is_empty() && report.entries > 100, "{report:?}");
    }
}

/// What verify says about a file, which must be worse than a note; with the smallest offset.
#[track_caller]
fn found(memory: &MemoryFileSystem, name: &str) -> (Severity, Option<u64>) {
    let report = verify(memory);
    let path = dir().join(name);
    let about = report.findings.iter().filter(|finding| finding.file == path);
    let worst = about.clone().map(|finding| finding.severity).max();
    let offset = about.filter_map(|finding| finding.offset).min();
    assert!(worst > Some(Severity::Note), "nothing is said about {name}: {:?}", report.findings);
    assert!(report.findings.iter().all(|finding| !finding.advice.is_empty()));
    (worst.unwrap(), offset)
}

#[test]
fn every_damage_is_found_with_file_and_place() {
    for seed in seeds(1) {
        let mut trace = Trace::new("every_damage_is_found_with_file_and_place", seed);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let (memory, _) = sample(seed, false);
        let report = verify(&memory);
        let leftovers: Vec<PathBuf> = report.findings.iter().map(|finding| finding.file.clone()).collect();
        for name in names(&memory, ".sst") {
            if leftovers.contains(&dir().join(&name)) {
                continue;
            }
            let len = memory.file_bytes(&dir().join(&name)).unwrap().len();
            for _ in 0..12 {
                // Near the end too, where footer, directory and properties are.
                let at = if rng.random_ratio(1, 3) {
                    len - 1 - rng.random_range(0..600)
                } else {
                    rng.random_range(0..len)
                };
                trace.step(format!("flip {name} at {at} of {len}"));
                flip(&memory, &name, at);
                let (_, offset) = found(&memory, &name);
                // A structure starts before its damage; a footer that is not one is told at the end of the file.
                assert!(
                    offset.is_some_and(|offset| offset <= at as u64 || offset + 64 >= len as u64),
                    "{offset:?}"
                );
                flip(&memory, &name, at);
            }
            let good = memory.file_bytes(&dir().join(&name)).unwrap();
            cut(&memory, &name, rng.random_range(0..len));
            trace.step(format!("cut {name}"));
            assert_eq!(found(&memory, &name).0, Severity::Loss);
            memory.replace_bytes(&dir().join(&name), good).unwrap();
        }
        // One table in another's place: all its checksums are right.
        let tables = names(&memory, ".sst");
        let live: Vec<_> = tables.iter().filter(|name| !leftovers.contains(&dir().join(name))).collect();
        let (first, second) = (
            memory.file_bytes(&dir().join(live[0])).unwrap(),
            memory.file_bytes(&dir().join(live[1])).unwrap(),
        );
        memory.replace_bytes(&dir().join(live[0]), second).unwrap();
        assert_eq!(found(&memory, live[0]).0, Severity::Loss);
        memory.replace_bytes(&dir().join(live[0]), first).unwrap();
        assert!(verify(&memory).is_ok());

        for name in names(&memory, "MANIFEST").into_iter().chain(names(&memory, ".log")) {
            if leftovers.contains(&dir().join(&name)) {
                continue;
            }
            let records = records(&memory, &name);
            let known = records.len().saturating_sub(1);
            // All but the last are known to be durable by those behind, if these are of a synced batch or later.
            let from = if name == "MANIFEST" { known } else { known.saturating_sub(60) };
            for &(start, end) in records[..from].iter().step_by(records.len() / 20 + 1) {
                let at = rng.random_range(start..start + 24 + 1).min(end - 1);
                trace.step(format!("flip {name} at {at}"));
                flip(&memory, &name, at);
                let (severity, offset) = found(&memory, &name);
                assert_eq!(
                    (severity, offset),
                    (Severity::Loss, Some(start as u64)),
                    "record {start}..{end} of {name}"
                );
                flip(&memory, &name, at);
            }
            flip(&memory, &name, 16);
            assert_eq!(found(&memory, &name).0, Severity::Loss, "the header of {name}");
            flip(&memory, &name, 16);
        }
        for name in [live[0].clone(), "MANIFEST".to_owned(), names(&memory, ".log").pop().unwrap()] {
            let copy = memory.process_kill_clone();
            copy.remove_file(&dir().join(&name)).unwrap();
            assert_eq!(found(&copy, &name).0, Severity::Loss, "{name} is missing");
        }
        assert!(verify(&memory).is_ok(), "everything was put back");
    }
}

#[test]
fn damage_to_a_filter_alone_loses_nothing() {
    let memory = MemoryFileSystem::new();
    let db = options(Arc::new(memory.clone())).memtable_bytes(64 << 20).open(dir()).unwrap();
    let mut written = Written::default();
    for number in 0..20_000 {
        let (key, value) = (format!("key {number:05}"), number.to_string());
        db.put(&key, &value).unwrap();
        written.put("default", key.as_bytes(), value.as_bytes());
    }
    db.close().unwrap();
    let name = names(&memory, ".sst").pop().unwrap();
    let good = memory.file_bytes(&dir().join(&name)).unwrap();
    let mut harmless = 0;
    // The filter has 25,000 bytes, and a chunk in its middle has nothing else.
    for at in (good.len() - 24_000..good.len()).step_by(2000) {
        flip(&memory, &name, at);
        let (severity, offset) = found(&memory, &name);
        let (report, differing) = salvage(&memory, &written, salvage_options(&memory));
        assert!(differing == 0 && report.is_complete(), "a flip at {at}: {report:?}");
        if severity == Severity::Damage {
            harmless += 1;
            assert!(offset.is_some_and(|offset| offset <= at as u64 && offset + 4096 > at as u64));
        }
        memory.replace_bytes(&dir().join(&name), good.clone()).unwrap();
    }
    assert!(harmless > 5, "{harmless} flips were harmless");
}

#[test]
fn leftovers_are_notes() {
    let (memory, _) = sample(1, true);
    let (source, write) = (names(&memory, ".sst").remove(0), |name: &str, bytes: &[u8]| {
        let file = memory.open(&dir().join(name), OpenMode::CreateNew).unwrap();
        terrace_io::write_all_at(&*file, bytes, 0).unwrap();
    });
    let table = memory.file_bytes(&dir().join(&source)).unwrap();
    for name in ["000900.sst", "000901.sst.tmp", "MANIFEST.tmp", "notes.txt", "000001.log"] {
        write(name, &table);
    }
    let report = verify(&memory);
    assert_eq!(report.findings.len(), 5, "{:?}", report.findings);
    assert!(report.is_ok() && report.severity() == Some(Severity::Note));
}

#[test]
fn a_database_in_use_is_refused_and_others_may_verify_it_too() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("db");
    let db = Db::open(&path).unwrap();
    db.put("key", "value").unwrap();
    let new = home.path().join("new");
    for round in 0..2 {
        let verified = terrace::verify(&path, &VerifyOptions::new()).map(drop);
        let salvaged = terrace::salvage(&path, &new, &SalvageOptions::new().dry_run(true)).map(drop);
        for outcome in [verified, salvaged] {
            assert_eq!(matches!(outcome, Err(Error::Locked { .. })), round == 0, "{outcome:?}");
        }
        db.close().unwrap();
    }
    let reader = OsFileSystem.lock_dir_shared(&path).unwrap();
    assert!(terrace::verify(&path, &VerifyOptions::new()).unwrap().is_ok());
    let refused = Db::open(&path).unwrap_err();
    assert!(refused.to_string().contains("verifies"), "{refused}");
    drop(reader);
    Db::open(&path).unwrap().close().unwrap();
    for wrong in [home.path().join("nowhere"), home.path().to_owned()] {
        let outcome = terrace::verify(&wrong, &VerifyOptions::new());
        assert!(matches!(outcome, Err(Error::NotADatabase { .. })), "{outcome:?}");
    }
}

#[test]
fn a_device_that_cannot_read_is_a_finding_not_a_failure() {
    let (memory, written) = sample(5, true);
    let name = names(&memory, ".sst").pop().unwrap();
    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    faults.add(FaultRule::on(Operation::Read).path(name.as_str()));
    let fs: Arc<dyn FileSystem> = Arc::new(faults.clone());
    let report = terrace::verify(dir(), &VerifyOptions::new().file_system(fs.clone())).unwrap();
    let path = dir().join(&name);
    assert!(report.findings.iter().all(|finding| finding.file == path && finding.severity == Severity::Loss));
    assert!(!report.is_ok());
    let salvaged = terrace::salvage(dir(), "/new", &SalvageOptions::new().file_system(fs)).unwrap();
    assert_eq!(salvaged.lost.len(), 1, "{salvaged:?}");
    let db = options(Arc::new(memory)).open("/new").unwrap();
    for (key, value) in contents(&db) {
        assert!(written.ever[&key].contains(&value));
    }
    db.close().unwrap();
}

// Salvage.

#[test]
fn a_sound_database_is_saved_as_a_whole() {
    for seed in seeds(2) {
        let _trace = Trace::new("a_sound_database_is_saved_as_a_whole", seed);
        for closed in [true, false] {
            let (memory, written) = sample(seed, closed);
            for options in [salvage_options(&memory), salvage_options(&memory).past_gaps(true)] {
                let (report, differing) = salvage(&memory, &written, options);
                assert_eq!((differing, report.lost.len()), (0, 0), "{report:?}");
                assert_eq!(report.manifest, ManifestState::Intact);
                assert!(!report.deleted_keys_may_return);
                let names: Vec<_> = report.keyspaces.iter().map(|keyspace| &*keyspace.name).collect();
                assert_eq!(names, KEYSPACES);
            }
        }
    }
}

#[test]
fn options_of_keyspaces_are_kept() {
    let (memory, _) = sample(9, true);
    terrace::salvage(dir(), "/new", &salvage_options(&memory)).unwrap();
    let db = options(Arc::new(memory)).open("/new").unwrap();
    let packed = KeyspaceOptions::new().compression(Compression::Snappy).table_bytes(64 << 10);
    db.keyspace_with("packed", packed).unwrap();
    db.keyspace_with("few", KeyspaceOptions::new().table_bytes(64 << 10)).unwrap();
    db.close().unwrap();
}

#[test]
fn without_a_manifest_tables_and_log_are_found_by_name() {
    for seed in seeds(3) {
        let _trace = Trace::new("without_a_manifest_tables_and_log_are_found_by_name", seed);
        for closed in [true, false] {
            let (memory, written) = sample(seed, closed);
            memory.remove_file(&dir().join("MANIFEST")).unwrap();
            let (report, differing) = salvage(&memory, &written, salvage_options(&memory));
            assert_eq!(report.manifest, ManifestState::Missing);
            assert!(report.deleted_keys_may_return && report.is_complete(), "{report:?}");
            // At rest there are no obsolete tables: nothing comes back.
            assert!(!closed || differing == 0, "{differing} keys differ");
        }
    }
}

#[test]
fn a_manifest_that_is_cut_or_flipped_anywhere_is_survived() {
    for seed in seeds(1) {
        let mut trace = Trace::new("a_manifest_that_is_cut_or_flipped_anywhere_is_survived", seed);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let (memory, written) = sample(seed, false);
        let good = memory.file_bytes(&dir().join("MANIFEST")).unwrap();
        let edits = records(&memory, "MANIFEST");
        let (last, end) = *edits.last().unwrap();
        for case in 0..24 {
            let at = rng.random_range(0..end);
            trace.step(format!("case {case} at {at} of {end}"));
            match case % 2 {
                0 => cut(&memory, "MANIFEST", at),
                _ => flip(&memory, "MANIFEST", at),
            }
            let (report, _) = salvage(&memory, &written, salvage_options(&memory));
            // A cut, and damage of the last edit, can look like a commit that a crash has torn.
            let is_padding =
                !(0..24).contains(&at) && !edits.iter().any(|&(start, end)| (start..end - 7).contains(&at));
            if case % 2 == 1 && at < last && !is_padding {
                assert!(
                    matches!(report.manifest, ManifestState::Damaged(_)),
                    "a flip at {at} goes unnoticed"
                );
            }
            memory.replace_bytes(&dir().join("MANIFEST"), good.clone()).unwrap();
        }
    }
}

#[test]
fn flipped_cut_and_missing_tables_cost_what_they_held() {
    for seed in seeds(2) {
        let mut trace = Trace::new("flipped_cut_and_missing_tables_cost_what_they_held", seed);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        for closed in [true, false] {
            let (memory, written) = sample(seed, closed);
            let tables = names(&memory, ".sst");
            for case in 0..12 {
                let copy = memory.process_kill_clone();
                let name = &tables[rng.random_range(0..tables.len())];
                let len = copy.file_bytes(&dir().join(name)).unwrap().len();
                trace.step(format!("case {case}: {name} of {len}, closed {closed}"));
                match case % 4 {
                    0 | 1 => {
                        (0..rng.random_range(1..6)).for_each(|_| flip(&copy, name, rng.random_range(0..len)))
                    }
                    2 => cut(&copy, name, rng.random_range(0..len)),
                    _ => copy.remove_file(&dir().join(name)).unwrap(),
                }
                let (report, differing) = salvage(&copy, &written, salvage_options(&copy));
                assert!(differing == 0 || !report.is_complete());
                if case % 4 < 2 {
                    // A few blocks of one table, in thousands of entries.
                    let lost: u64 = report.keyspaces.iter().map(|keyspace| keyspace.entries_lost).sum();
                    assert!(lost < 1200, "{lost} entries are lost to some flips: {report:?}");
                }
                // And the same without the manifest, where less is known.
                copy.remove_file(&dir().join("MANIFEST")).unwrap();
                let to = Path::new("/blind");
                let Ok(report) = terrace::salvage(dir(), to, &salvage_options(&copy)) else { continue };
                let db = options(Arc::new(copy)).open(to).unwrap();
                for (key, value) in contents(&db) {
                    assert!(written.ever[&key].contains(&value), "{report:?}");
                }
                db.close().unwrap();
            }
        }
    }
}

#[test]
fn a_damaged_log_is_read_to_its_hole_or_past_it() {
    for seed in seeds(1) {
        let mut trace = Trace::new("a_damaged_log_is_read_to_its_hole_or_past_it", seed);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let memory = MemoryFileSystem::new();
        let db = options(Arc::new(memory.clone())).memtable_bytes(8 << 20).open(dir()).unwrap();
        let mut written = Written::default();
        let mut states = vec![written.now.clone()];
        for number in 0..400_u32 {
            let (key, value) =
                (format!("key {:03}", number % 150), format!("value {number} {:0300}", number));
            db.put_with(&key, &value, Durability::Sync).unwrap();
            written.put("default", key.as_bytes(), value.as_bytes());
            states.push(written.now.clone());
        }
        let memory = memory.process_kill_clone();
        let mut logs = names(&memory, ".log");
        logs.retain(|name| records(&memory, name).len() > 2);
        assert!(logs.len() > 1, "{logs:?}");
        for case in 0..20 {
            let copy = memory.process_kill_clone();
            let name = &logs[rng.random_range(0..logs.len())];
            let records = records(&copy, name);
            let (start, end) = records[rng.random_range(0..records.len() - 1)];
            trace.step(format!("case {case}: {name}, record {start}..{end}"));
            match case % 3 {
                0 | 1 => flip(&copy, name, rng.random_range(start..end - 8)),
                _ => cut(&copy, name, rng.random_range(start..end - 8)),
            }
            assert!(!verify(&copy).is_ok());
            let (report, _) = salvage(&copy, &written, salvage_options(&copy));
            assert!(!report.is_complete());
            let to = Path::new("/prefix");
            terrace::salvage(dir(), to, &salvage_options(&copy)).unwrap();
            let db = options(Arc::new(copy.clone())).open(to).unwrap();
            let prefix = contents(&db);
            db.close().unwrap();
            assert!(states.contains(&prefix), "what is saved is no first part of the history");
            let (past, differing) = salvage(&copy, &written, salvage_options(&copy).past_gaps(true));
            assert!(past.log_records > report.log_records || case % 3 == 2, "{past:?}");
            if case % 3 < 2 {
                assert!(past.log_records == 399 && differing <= 1, "one record of 400 is lost: {past:?}");
            }
        }
    }
}

#[test]
fn a_dropped_keyspace_does_not_come_back_under_its_old_name() {
    let memory = MemoryFileSystem::new();
    let db = options(Arc::new(memory.clone())).open(dir()).unwrap();
    let old = db.keyspace("name").unwrap();
    old.put("old", "value").unwrap();
    db.flush().unwrap();
    let left: Vec<String> = names(&memory, ".sst");
    let bytes = memory.file_bytes(&dir().join(&left[0])).unwrap();
    db.drop_keyspace("name").unwrap();
    db.keyspace("name").unwrap().put("new", "value").unwrap();
    db.settle().unwrap();
    db.close().unwrap();
    // A leftover, as a crash between the drop and the deletion would have left it.
    let path = dir().join(&left[0]);
    if let Ok(file) = memory.open(&path, OpenMode::CreateNew) {
        terrace_io::write_all_at(&*file, &bytes, 0).unwrap();
    }
    for with_manifest in [true, false] {
        if !with_manifest {
            memory.remove_file(&dir().join("MANIFEST")).unwrap();
        }
        let to = PathBuf::from(format!("/new-{with_manifest}"));
        let report = terrace::salvage(dir(), &to, &salvage_options(&memory)).unwrap();
        assert!(report.notes.iter().any(|note| note.file == path), "{report:?}");
        let db = options(Arc::new(memory.clone())).open(&to).unwrap();
        let name = db.keyspace("name").unwrap();
        assert_eq!((name.get("old").unwrap(), name.get("new").unwrap().is_some()), (None, true));
        db.close().unwrap();
    }
}

#[test]
fn an_obsolete_table_is_used_only_if_it_must_be_or_is_asked_for() {
    let memory = MemoryFileSystem::new();
    let db = options(Arc::new(memory.clone())).open(dir()).unwrap();
    db.put("deleted", "value").unwrap();
    db.flush().unwrap();
    let name = names(&memory, ".sst").remove(0);
    let bytes = memory.file_bytes(&dir().join(&name)).unwrap();
    db.delete("deleted").unwrap();
    db.put("kept", "value").unwrap();
    db.compact_range::<&[u8]>(..).unwrap();
    db.close().unwrap();
    let file = memory.open(&dir().join(&name), OpenMode::CreateNew).unwrap();
    terrace_io::write_all_at(&*file, &bytes, 0).unwrap();
    let deleted = |to: &str, options: SalvageOptions| {
        let report = terrace::salvage(dir(), to, &options).unwrap();
        let db = self::options(Arc::new(memory.clone())).open(to).unwrap();
        let found = db.get("deleted").unwrap().is_some();
        assert!(db.get("kept").unwrap().is_some());
        db.close().unwrap();
        assert_eq!(found, report.deleted_keys_may_return, "{report:?}");
        found
    };
    assert!(!deleted("/a", salvage_options(&memory)));
    assert!(deleted("/b", salvage_options(&memory).all_tables(true)));
    memory.remove_file(&dir().join("MANIFEST")).unwrap();
    assert!(deleted("/c", salvage_options(&memory)));
}

#[test]
fn a_log_larger_than_memory_is_spilled() {
    let memory = MemoryFileSystem::new();
    let big = options(Arc::new(memory.clone())).memtable_bytes(1 << 30).segment_bytes_max(16 << 20);
    let db = big.open(dir()).unwrap();
    let value = |number: u32| {
        let mut value = vec![number as u8; 1 << 20];
        value[..4].copy_from_slice(&number.to_le_bytes());
        value
    };
    for number in 0..150_u32 {
        db.put(format!("key {:02}", number % 80), value(number)).unwrap();
    }
    db.delete("key 05").unwrap();
    let memory = memory.process_kill_clone();
    drop(db);
    let report = terrace::salvage(dir(), "/new", &salvage_options(&memory)).unwrap();
    assert_eq!((report.lost.len(), report.keyspaces[0].keys_kept), (0, 79), "{report:?}");
    assert_eq!(report.keyspaces[0].log_operations, 151);
    let db = options(Arc::new(memory)).open("/new").unwrap();
    for key in (0..80_u32).filter(|key| *key != 5) {
        let newest = if key < 70 { key + 80 } else { key };
        assert!(db.get(format!("key {key:02}")).unwrap().unwrap() == value(newest), "{key}");
    }
    assert!(db.get("key 05").unwrap().is_none());
    db.close().unwrap();
}

#[test]
fn wrong_places_are_refused_and_a_failure_leaves_nothing() {
    let (memory, _) = sample(2, true);
    let options = salvage_options(&memory);
    for to in ["/db", "/db/new", "/db/../db/new"] {
        let refused = terrace::salvage(dir(), to, &options).map(drop);
        assert!(matches!(refused, Err(Error::InvalidArgument(_))) || to.contains(".."), "{to}: {refused:?}");
    }
    memory.create_dir_all(Path::new("/full")).unwrap();
    memory.open(Path::new("/full/file"), OpenMode::CreateNew).unwrap();
    assert!(matches!(terrace::salvage(dir(), "/full", &options), Err(Error::InvalidArgument(_))));
    assert!(matches!(terrace::salvage("/full", "/x", &options), Err(Error::NotADatabase { .. })));

    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    for skip in 0..40 {
        faults.clear();
        faults.add(
            FaultRule::on(Operation::Write).path("/new/").skip(skip).error(std::io::ErrorKind::StorageFull),
        );
        let options = SalvageOptions::new().file_system(Arc::new(faults.clone()));
        match terrace::salvage(dir(), "/new", &options) {
            Ok(_) => {
                assert!(skip > 3);
                return;
            }
            Err(error) => assert!(error.is_disk_full(), "{error}"),
        }
        let left = memory.read_dir(Path::new("/new")).unwrap();
        assert!(left.iter().all(|name| name == "LOCK"), "{left:?}");
    }
    panic!("it never succeeded");
}

// Scrub.

#[test]
fn a_scrub_finds_what_rots_behind_the_cache() {
    let memory = MemoryFileSystem::new();
    let db = options(Arc::new(memory.clone())).open(dir()).unwrap();
    let written = fill(&db, 4, 8);
    db.settle().unwrap();
    assert_eq!(contents(&db), written.now);
    let clean = db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap();
    assert!(clean.is_ok() && clean.tables > 2 && clean.tables_skipped == 0, "{clean:?}");
    assert!(db.health().is_ok());
    let name = names(&memory, ".sst").remove(0);
    flip(&memory, &name, 5000);
    // What was read before is in memory, and right there.
    assert_eq!(contents(&db), written.now);
    let report = db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    let finding = &report.findings[0];
    assert_eq!(finding.file, dir().join(&name));
    assert!(finding.severity == Severity::Loss && finding.offset.is_some_and(|offset| offset <= 5000));
    assert_eq!(db.health().damaged, report.findings);
    assert!(!db.health().is_ok());
    // Mended, as by a device that had a bad moment: the next scrub says so.
    flip(&memory, &name, 5000);
    assert!(db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap().is_ok());
    assert!(db.health().is_ok());
    // Damage goes with its table.
    flip(&memory, &name, 5000);
    db.scrub(&ScrubOptions::new()).unwrap();
    assert!(!db.health().is_ok());
    for name in KEYSPACES {
        db.keyspace(name).unwrap().clear().unwrap();
    }
    assert!(db.health().is_ok(), "{:?}", db.health());
    db.close().unwrap();
    assert!(matches!(db.scrub(&ScrubOptions::new()), Err(Error::Closed)));
}

#[test]
fn a_scrub_in_the_background_shows_in_health() {
    let memory = MemoryFileSystem::new();
    let options = options(Arc::new(memory.clone())).scrub_interval(Some(Duration::from_millis(10)));
    let db = options.open(dir()).unwrap();
    fill(&db, 4, 4);
    db.settle().unwrap();
    assert!(db.health().is_ok());
    let name = names(&memory, ".sst").remove(0);
    flip(&memory, &name, 100);
    while db.health().damaged.is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(db.health().damaged[0].file, dir().join(name));
    db.close().unwrap();
}

#[test]
fn a_slow_scrub_ends_with_the_database_and_leaves_tables_that_go() {
    let memory = MemoryFileSystem::new();
    let slow = ScrubOptions::new().bytes_per_second(1);
    let db = options(Arc::new(memory.clone())).open(dir()).unwrap();
    db.put("key", vec![1; 100_000]).unwrap();
    db.flush().unwrap();
    // At this rate it would take a day. The table goes while it is read.
    let report = std::thread::scope(|scope| {
        let scrub = scope.spawn(|| db.scrub(&slow).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        db.clear().unwrap();
        db.settle().unwrap();
        assert!(
            !memory.read_dir(dir()).unwrap().iter().any(|name| name.ends_with(".sst")),
            "its file is gone"
        );
        scrub.join().unwrap()
    });
    assert_eq!((report.tables, report.tables_skipped, report.findings.len()), (0, 1, 0));
    db.put("key", vec![1; 100_000]).unwrap();
    db.flush().unwrap();
    let outcome = std::thread::scope(|scope| {
        let scrub = scope.spawn(|| db.scrub(&slow));
        std::thread::sleep(Duration::from_millis(50));
        db.close().unwrap();
        scrub.join().unwrap()
    });
    assert!(matches!(outcome, Err(Error::Closed)), "{outcome:?}");
}

/// On a real disk: a byte that is changed past the page cache, where the file system has direct writes.
#[test]
#[cfg(target_os = "linux")]
fn a_scrub_reads_past_a_real_page_cache() {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let home = tempfile::Builder::new().prefix("scrub").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let db = Options::new().open(home.path().join("db")).unwrap();
    for number in 0..2000 {
        db.put_with(format!("key {number:05}"), vec![b'v'; 100], Durability::Buffered).unwrap();
    }
    db.settle().unwrap();
    let before = db.iter().unwrap().map(|entry| entry.unwrap().1.to_vec()).collect::<Vec<_>>();
    assert!(db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap().is_ok());
    let entries = std::fs::read_dir(db.path()).unwrap().map(|entry| entry.unwrap().path());
    let table = entries.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "sst")).unwrap();
    // O_DIRECT has this value on x86-64 and most others.
    let direct = std::fs::OpenOptions::new().read(true).write(true).custom_flags(0o40000).open(&table);
    let Ok(direct) = direct else { return };
    let mut memory = vec![0; 8192];
    let skip = memory.as_ptr().align_offset(4096);
    let page = &mut memory[skip..skip + 4096];
    if direct.read_at(page, 8192).is_err() {
        return;
    }
    page[2000] ^= 1;
    direct.write_at(page, 8192).unwrap();
    let report = db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!((&report.findings[0].file, report.findings[0].offset), (&table, Some(8192)));
    drop(before);
    db.close().unwrap();
}

/// A file system whose page cache never learns what happens on the device once it has been frozen.
#[derive(Debug, Clone)]
struct Stale {
    memory: MemoryFileSystem,
    cached: Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>,
}

#[derive(Debug)]
struct StaleFile {
    inner: Arc<dyn File>,
    cached: Option<Vec<u8>>,
}

impl FileSystem for Stale {
    fn create_dir_all(&self, path: &Path) -> terrace::Result<()> {
        self.memory.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> terrace::Result<Vec<String>> {
        self.memory.read_dir(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> terrace::Result<Arc<dyn File>> {
        let cached = self.cached.lock().unwrap().get(path).cloned();
        Ok(Arc::new(StaleFile { inner: self.memory.open(path, mode)?, cached }))
    }
    fn rename(&self, from: &Path, to: &Path) -> terrace::Result<()> {
        self.memory.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> terrace::Result<()> {
        self.memory.remove_file(path)
    }
    fn sync_dir(&self, path: &Path) -> terrace::Result<()> {
        self.memory.sync_dir(path)
    }
    fn lock_dir(&self, path: &Path) -> terrace::Result<Box<dyn DirectoryLock>> {
        self.memory.lock_dir(path)
    }
    fn lock_dir_shared(&self, path: &Path) -> terrace::Result<Option<Box<dyn DirectoryLock>>> {
        self.memory.lock_dir_shared(path)
    }
    fn medium(&self, path: &Path) -> terrace::Result<Medium> {
        self.memory.medium(path)
    }
}

impl File for StaleFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }
    fn len(&self) -> terrace::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> terrace::Result<usize> {
        let Some(cached) = &self.cached else { return self.inner.read_at(buf, offset) };
        let rest = cached.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
    fn read_past_cache_at(&self, buf: &mut [u8], offset: u64) -> terrace::Result<usize> {
        self.inner.read_past_cache_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> terrace::Result<usize> {
        self.inner.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> terrace::Result<()> {
        self.inner.set_len(len)
    }
    fn sync(&self) -> terrace::Result<()> {
        self.inner.sync()
    }
    fn start_writeback(&self, offset: u64, len: u64) {
        self.inner.start_writeback(offset, len);
    }
    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        self.inner.advise(advice, offset, len);
    }
    fn map(&self, len: usize) -> terrace::Result<Region> {
        match &self.cached {
            Some(cached) => Ok(Region::from_vec(cached[..len].to_vec())),
            None => self.inner.map(len),
        }
    }
}

#[test]
fn a_scrub_does_not_believe_the_page_cache_and_reads_do_not_believe_it_wrongly() {
    let stale = Stale { memory: MemoryFileSystem::new(), cached: Arc::default() };
    let db = options(Arc::new(stale.clone())).open(dir()).unwrap();
    for number in 0..2000 {
        db.put(format!("key {number:05}"), [b'v'; 100]).unwrap();
    }
    db.settle().unwrap();
    db.close().unwrap();
    let table = dir().join(names(&stale.memory, ".sst").remove(0));
    let good = stale.memory.file_bytes(&table).unwrap();
    let mut wrong = good.clone();
    wrong[5000] ^= 1;

    // The device rots under a right page cache: only the scrub can see it.
    stale.cached.lock().unwrap().insert(table.clone(), good.clone());
    stale.memory.replace_bytes(&table, wrong.clone()).unwrap();
    let db = options(Arc::new(stale.clone())).open(dir()).unwrap();
    assert_eq!(db.iter().unwrap().map(Result::unwrap).count(), 2000);
    let report = db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!((&report.findings[0].file, report.findings[0].offset), (&table, Some(4096)));
    db.close().unwrap();

    // The page cache rots over a right device: reads are right all the same, and it is counted.
    stale.cached.lock().unwrap().insert(table.clone(), wrong);
    stale.memory.replace_bytes(&table, good).unwrap();
    let db = options(Arc::new(stale.clone())).open(dir()).unwrap();
    for entry in db.iter().unwrap() {
        let (key, value) = entry.unwrap();
        assert_eq!((&*value, db.get(&key).unwrap().as_deref()), (&[b'v'; 100][..], Some(&[b'v'; 100][..])));
    }
    let metrics = db.metrics();
    assert!(metrics.page_cache_disagreements > 0 && metrics.checksum_failures == 0);
    assert!(db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap().is_ok());
    db.close().unwrap();
}

#[test]
fn of_two_versions_without_numbers_the_younger_table_wins() {
    let memory = MemoryFileSystem::new();
    let db = options(Arc::new(memory.clone())).open(dir()).unwrap();
    // Two tables that overlap: merged, and so without numbers afterwards.
    db.put("key", "oldest").unwrap();
    db.flush().unwrap();
    db.put("key", "old").unwrap();
    db.compact_range::<&[u8]>(..).unwrap();
    // Until what was merged is deleted.
    db.settle().unwrap();
    assert_eq!(names(&memory, ".sst").len(), 1);
    let name = names(&memory, ".sst").remove(0);
    let bytes = memory.file_bytes(&dir().join(&name)).unwrap();
    db.put("key", "new").unwrap();
    db.compact_range::<&[u8]>(..).unwrap();
    db.close().unwrap();
    assert_eq!(names(&memory, ".sst").len(), 1);
    let file = memory.open(&dir().join(&name), OpenMode::CreateNew).unwrap();
    terrace_io::write_all_at(&*file, &bytes, 0).unwrap();
    memory.remove_file(&dir().join("MANIFEST")).unwrap();
    terrace::salvage(dir(), "/new", &salvage_options(&memory)).unwrap();
    let db = options(Arc::new(memory)).open("/new").unwrap();
    assert_eq!(db.get("key").unwrap().as_deref(), Some(&b"new"[..]));
    db.close().unwrap();
}

#[test]
fn what_was_cleared_stays_away_though_the_log_has_it() {
    let memory = MemoryFileSystem::new();
    let db = options(Arc::new(memory.clone())).open(dir()).unwrap();
    let few = db.keyspace("few").unwrap();
    // Not flushed, so that the segment stays.
    db.put("pin", "value").unwrap();
    few.put("cleared", "value").unwrap();
    few.clear().unwrap();
    few.put("after", "value").unwrap();
    let memory = memory.process_kill_clone();
    db.close().unwrap();
    let report = terrace::salvage(dir(), "/new", &salvage_options(&memory)).unwrap();
    assert!(report.is_complete() && report.log_records == 3, "{report:?}");
    let db = options(Arc::new(memory)).open("/new").unwrap();
    let keys: Vec<Key> = contents(&db).into_keys().collect();
    assert_eq!(keys, [("default".into(), b"pin".to_vec()), ("few".into(), b"after".to_vec())]);
    db.close().unwrap();
}
