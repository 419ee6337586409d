//! Verify and salvage. Goal: every damage is found and named with its file and place; what can be read is saved, newest
//! versions first, and nothing is made up; nothing that only looks changes anything.
//!
//! Method: databases of several keyspaces, levels and snapshots are made by random work whose every value is
//! remembered, in memory and on disk, then damaged in every way that files can be: flipped, cut, removed, swapped. What
//! salvage gives is compared with the model: wherever it differs, the report must have said that something is lost
//! there.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngExt;
use terrace::{
    Compression, Db, Durability, Error, FileSystem, KeyspaceOptions, ManifestState, SalvageOptions,
    SalvageReport, Severity, VerifyOptions, VerifyReport,
};
use terrace_io::{FaultFileSystem, FaultRule, MemoryFileSystem, OpenMode, Operation, OsFileSystem};
use terrace_tests::filled::{KEYSPACES, Key, Written, contents, fill, flip, options};
use terrace_tests::samples::{self, dir, files, files_in, random};
use terrace_tests::{Trace, covered, seeds};
use terrace_wal::{parse_segment_file_name, segment_file_name};

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

fn verify(memory: &MemoryFileSystem) -> VerifyReport {
    terrace::verify(dir(), &VerifyOptions::new().threads(2).file_system(Arc::new(memory.clone()))).unwrap()
}

fn salvage_options(memory: &MemoryFileSystem) -> SalvageOptions {
    SalvageOptions::new().file_system(Arc::new(memory.clone()))
}

/// Salvages, opens what came out and compares it with what was written. Gives the report and how many keys differ.
#[track_caller]
fn salvage(memory: &MemoryFileSystem, written: &Written, options: SalvageOptions) -> (SalvageReport, usize) {
    let to = Path::new("/new");
    let before = files(memory);
    let mutations = memory.mutations();
    let dry = terrace::salvage(dir(), to, &options.clone().dry_run(true)).unwrap();
    assert_eq!(memory.mutations(), mutations, "a dry run writes nothing");
    let report = terrace::salvage(dir(), to, &options).unwrap();
    assert_eq!(files(memory), before, "salvage does not change what it reads");
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
        // With obsolete tables come back deletes, deleted keys, and values from before they were overwritten.
        let was = is.is_some() || written.deleted.contains(key);
        let told = report.lost.iter().any(covers) || report.deleted_keys_may_return && was;
        assert!(told, "{shown:?} differs, and nothing is said to be lost there: {report:#?}");
    }
    // It takes writes, and they win.
    db.put("key 0001", "new").unwrap();
    db.settle().unwrap();
    assert_eq!(db.get("key 0001").unwrap().as_deref(), Some(&b"new"[..]));
    db.close().unwrap();
    for name in files_in(memory, to).keys() {
        memory.remove_file(&to.join(name)).unwrap();
    }
    (report, differing)
}

fn cut(memory: &MemoryFileSystem, name: &str, len: usize) {
    let path = dir().join(name);
    let bytes = memory.file_bytes(&path).unwrap();
    memory.replace_bytes(&path, bytes[..len].to_vec()).unwrap();
}

/// The names of files that end so, of which there is one.
#[track_caller]
fn names(memory: &MemoryFileSystem, suffix: &str) -> Vec<String> {
    let names = samples::names(memory, suffix);
    assert!(!names.is_empty(), "there are files in {suffix:?}");
    names
}

/// The records of a log file, padding included.
fn records(memory: &MemoryFileSystem, name: &str) -> Vec<Range<usize>> {
    samples::records(&memory.file_bytes(&dir().join(name)).unwrap(), name)
}

/// A log file of a sound database, and where its records are.
struct LogFile {
    name: String,
    number: u32,
    records: Vec<Range<usize>>,
}

/// What a kill has left behind that is no part of the database, such as a segment that was being made.
fn leftovers(memory: &MemoryFileSystem) -> Vec<PathBuf> {
    verify(memory).findings.into_iter().map(|finding| finding.file).collect()
}

/// The segments that matter, in order, and how far the log is known to be durable: the most that one of its records
/// says.
fn live_log(memory: &MemoryFileSystem, leftovers: &[PathBuf]) -> (Vec<LogFile>, (u32, u32)) {
    let mut synced = (0, 0);
    let mut log = Vec::new();
    for name in names(memory, ".log").into_iter().filter(|name| !leftovers.contains(&dir().join(name))) {
        let bytes = memory.file_bytes(&dir().join(&name)).unwrap();
        let number_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let records = records(memory, &name);
        let told = records.iter().map(|record| (number_at(record.start + 12), number_at(record.start + 16)));
        synced = told.chain([synced]).max().unwrap();
        log.push(LogFile { number: number_at(12), name, records });
    }
    (log, synced)
}

// Verify.

#[test]
fn a_sound_database_verifies_clean() {
    let mut cases = 0;
    for seed in seeds(2) {
        let _trace = Trace::new("a_sound_database_verifies_clean", seed);
        for closed in [true, false] {
            cases += 1;
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
    covered("sound databases that verify clean", format_args!("{cases} databases"));
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
    let (mut databases, mut in_tables, mut in_edits, mut in_log) = (0, 0, 0, 0);
    for seed in seeds(2) {
        let mut trace = Trace::new("every_damage_is_found_with_file_and_place", seed);
        let mut rng = random(seed);
        let memory = MemoryFileSystem::new();
        let db = options(Arc::new(memory.clone())).open(dir()).unwrap();
        fill(&db, seed, 11);
        // So that there is a log, wherever the last flush was.
        for number in 0..60 {
            db.put_with(format!("key {number:04}"), "synced", Durability::Sync).unwrap();
        }
        let left = memory.process_kill_clone();
        db.close().unwrap();
        let memory = left;
        let leftovers = leftovers(&memory);
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
                in_tables += 1;
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

        // Of the manifest every record but the last is known to be durable, of the log as far as a record says so. A
        // hole is told where the good records before it end.
        let edits = records(&memory, "MANIFEST");
        let (log, synced) = live_log(&memory, &leftovers);
        let mut places: Vec<(&str, &Range<usize>, (&str, usize))> = Vec::new();
        let known = &edits[..edits.len() - 1];
        places.extend(known.iter().map(|edit| ("MANIFEST", edit, ("MANIFEST", edit.start))));
        let mut end = None;
        for segment in &log {
            let is_synced = |record: &&Range<usize>| (segment.number, record.end as u32) <= synced;
            for record in segment.records.iter().take_while(is_synced) {
                let (name, at) = end.unwrap_or((&*segment.name, record.start));
                places.push((&segment.name, record, (name, at)));
                end = Some((&segment.name, record.end));
            }
        }
        for (name, record, (told, start)) in places {
            let at = rng.random_range(record.start..record.start + 24 + 1).min(record.end - 1);
            trace.step(format!("flip {name} at {at}"));
            flip(&memory, name, at);
            let place = found(&memory, told);
            assert_eq!(place, (Severity::Loss, Some(start as u64)), "record {record:?} of {name}");
            flip(&memory, name, at);
            *(if name == "MANIFEST" { &mut in_edits } else { &mut in_log }) += 1;
        }
        for name in log.iter().map(|segment| &*segment.name).chain(["MANIFEST"]) {
            flip(&memory, name, 16);
            assert_eq!(found(&memory, name).0, Severity::Loss, "the header of {name}");
            flip(&memory, name, 16);
        }
        for name in [live[0].clone(), "MANIFEST".to_owned(), names(&memory, ".log").pop().unwrap()] {
            let copy = memory.process_kill_clone();
            copy.remove_file(&dir().join(&name)).unwrap();
            assert_eq!(found(&copy, &name).0, Severity::Loss, "{name} is missing");
        }
        assert!(verify(&memory).is_ok(), "everything was put back");
        databases += 1;
    }
    covered(
        "damage that verify finds",
        format_args!(
            "flips of {databases} databases: {in_tables} in tables, {in_edits} in edits, {in_log} in log records"
        ),
    );
    assert!(in_tables >= 36 * databases && in_edits >= databases && in_log >= 10 * databases);
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
    let mut cases = 0;
    for seed in seeds(2) {
        let _trace = Trace::new("a_sound_database_is_saved_as_a_whole", seed);
        for closed in [true, false] {
            let (memory, written) = sample(seed, closed);
            for options in [salvage_options(&memory), salvage_options(&memory).past_gaps(true)] {
                cases += 1;
                let (report, differing) = salvage(&memory, &written, options);
                assert_eq!((differing, report.lost.len()), (0, 0), "{report:?}");
                assert_eq!(report.manifest, ManifestState::Intact);
                assert!(!report.deleted_keys_may_return);
                let names: Vec<_> = report.keyspaces.iter().map(|keyspace| &*keyspace.name).collect();
                assert_eq!(names, KEYSPACES);
            }
        }
    }
    covered("sound databases that are saved", format_args!("{cases} salvages"));
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
    let mut cases = 0;
    for seed in seeds(3) {
        let _trace = Trace::new("without_a_manifest_tables_and_log_are_found_by_name", seed);
        for closed in [true, false] {
            cases += 1;
            let (memory, written) = sample(seed, closed);
            memory.remove_file(&dir().join("MANIFEST")).unwrap();
            let (report, differing) = salvage(&memory, &written, salvage_options(&memory));
            assert_eq!(report.manifest, ManifestState::Missing);
            assert!(report.deleted_keys_may_return && report.is_complete(), "{report:?}");
            // At rest there are no obsolete tables: nothing comes back.
            assert!(!closed || differing == 0, "{differing} keys differ");
        }
    }
    covered("databases saved without a manifest", format_args!("{cases} databases"));
}

#[test]
fn without_a_manifest_a_segment_that_was_being_recycled_is_no_loss() {
    let running = MemoryFileSystem::new();
    let db = options(Arc::new(running.clone())).open(dir()).unwrap();
    let mut written = fill(&db, 5, 11);
    for number in 0..20 {
        let key = format!("only in the log {number:02}");
        db.put(&key, "value").unwrap();
        written.put("default", key.as_bytes(), b"value");
    }
    // The background may be recycling one at this very moment: not two at once.
    let number_of = |name: &String| parse_segment_file_name(name).unwrap();
    let (memory, segments) = loop {
        let left = running.process_kill_clone();
        let segments = names(&left, ".log");
        let header = left.file_bytes(&dir().join(segments.last().unwrap())).unwrap();
        if header.get(12..16) == Some(&number_of(segments.last().unwrap()).to_le_bytes()) {
            break (left, segments);
        }
    };
    db.close().unwrap();
    let unused = leftovers(&memory);
    let spare = segments.iter().find(|name| unused.contains(&dir().join(name))).expect("some are retired");
    let recycled = dir().join(segment_file_name(number_of(segments.last().unwrap()) + 1));
    memory.rename(&dir().join(spare), &recycled).unwrap();
    memory.remove_file(&dir().join("MANIFEST")).unwrap();

    let (report, _) = salvage(&memory, &written, salvage_options(&memory));
    assert!(report.is_complete(), "{:?}", report.lost);
    let note = report.notes.iter().find(|note| note.file == recycled).expect("it is told");
    assert_eq!(note.what, "not used: this log segment was being recycled");

    // One that is not of an earlier time is told as lost, whatever its header says.
    let bytes = memory.file_bytes(&recycled).unwrap();
    let foreign = [&bytes[..12], &u32::MAX.to_le_bytes(), &bytes[16..]].concat();
    for damaged in [foreign, vec![0; bytes.len()], Vec::new()] {
        memory.replace_bytes(&recycled, damaged).unwrap();
        let (report, _) = salvage(&memory, &written, salvage_options(&memory));
        assert!(report.lost.iter().any(|lost| lost.file == recycled), "{report:?}");
    }
}

#[test]
fn a_manifest_that_is_cut_or_flipped_anywhere_is_survived() {
    let mut cases = 0;
    for seed in seeds(1) {
        let mut trace = Trace::new("a_manifest_that_is_cut_or_flipped_anywhere_is_survived", seed);
        let mut rng = random(seed);
        let (memory, written) = sample(seed, false);
        let good = memory.file_bytes(&dir().join("MANIFEST")).unwrap();
        let edits = records(&memory, "MANIFEST");
        let Range { start: last, end } = edits.last().unwrap().clone();
        for case in 0..24 {
            cases += 1;
            let at = rng.random_range(0..end);
            trace.step(format!("case {case} at {at} of {end}"));
            match case % 2 {
                0 => cut(&memory, "MANIFEST", at),
                _ => flip(&memory, "MANIFEST", at),
            }
            let (report, _) = salvage(&memory, &written, salvage_options(&memory));
            // A cut, and damage of the last edit, can look like a commit that a crash has torn.
            let is_padding =
                !(0..64).contains(&at) && !edits.iter().any(|edit| (edit.start..edit.end - 7).contains(&at));
            if case % 2 == 1 && at < last && !is_padding {
                assert!(
                    matches!(report.manifest, ManifestState::Damaged(_)),
                    "a flip at {at} goes unnoticed"
                );
            }
            memory.replace_bytes(&dir().join("MANIFEST"), good.clone()).unwrap();
        }
    }
    covered("salvage of damaged manifests", format_args!("{cases} cuts and flips"));
}

#[test]
fn flipped_cut_and_missing_tables_cost_what_they_held() {
    let mut cases = 0;
    for seed in seeds(2) {
        let mut trace = Trace::new("flipped_cut_and_missing_tables_cost_what_they_held", seed);
        let mut rng = random(seed);
        for closed in [true, false] {
            let (memory, written) = sample(seed, closed);
            let tables = names(&memory, ".sst");
            for case in 0..12 {
                cases += 1;
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
                let report = terrace::salvage(dir(), to, &salvage_options(&copy)).unwrap();
                let db = options(Arc::new(copy)).open(to).unwrap();
                for (key, value) in contents(&db) {
                    assert!(written.ever[&key].contains(&value), "{report:?}");
                }
                db.close().unwrap();
            }
        }
    }
    covered(
        "salvage of damaged tables",
        format_args!("{cases} databases, each with its manifest and without"),
    );
}

#[test]
fn a_damaged_log_is_read_to_its_hole_or_past_it() {
    let mut cases = 0;
    for seed in seeds(1) {
        let mut trace = Trace::new("a_damaged_log_is_read_to_its_hole_or_past_it", seed);
        let mut rng = random(seed);
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
        let (log, _) = live_log(&memory, &leftovers(&memory));
        let full = log.into_iter().filter(|segment| segment.records.len() > 2);
        let logs: Vec<String> = full.map(|segment| segment.name).collect();
        assert!(logs.len() > 1, "{logs:?}");
        for case in 0..20 {
            cases += 1;
            let copy = memory.process_kill_clone();
            let name = &logs[rng.random_range(0..logs.len())];
            let records = records(&copy, name);
            let Range { start, end } = records[rng.random_range(0..records.len() - 1)].clone();
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
    covered("salvage of damaged logs", format_args!("{cases} cuts and flips"));
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
    for to in ["/database", "/database/new", "/database/../database/new", "/elsewhere/../database/new"] {
        let refused = terrace::salvage(dir(), to, &options).map(drop);
        assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{to}: {refused:?}");
    }
    memory.create_dir_all(Path::new("/full")).unwrap();
    memory.open(Path::new("/full/file"), OpenMode::CreateNew).unwrap();
    assert!(matches!(terrace::salvage(dir(), "/full", &options), Err(Error::InvalidArgument(_))));
    assert!(matches!(terrace::salvage("/full", "/x", &options), Err(Error::NotADatabase { .. })));

    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    for operation in [Operation::Write, Operation::Sync, Operation::SyncDirectory, Operation::Rename] {
        let succeeds = (0..40).find(|&skip| {
            faults.clear();
            let rule = FaultRule::on(operation).path("/new").skip(skip).once();
            faults.add(rule.error(std::io::ErrorKind::StorageFull));
            let options = SalvageOptions::new().file_system(Arc::new(faults.clone()));
            match terrace::salvage(dir(), "/new", &options) {
                Ok(_) => return true,
                Err(error) => assert!(error.is_disk_full(), "{error}"),
            }
            let left = memory.read_dir(Path::new("/new")).unwrap();
            assert!(left.iter().all(|name| name == "LOCK"), "{operation:?}: {left:?}");
            false
        });
        assert!(succeeds.is_some_and(|skip| skip > 0), "{operation:?}: {succeeds:?}");
        for name in memory.read_dir(Path::new("/new")).unwrap() {
            memory.remove_file(&Path::new("/new").join(name)).unwrap();
        }
    }
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
