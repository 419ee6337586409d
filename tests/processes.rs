//! Goal: readers in processes of their own, which open the database for reading only, see whole batches, consistent
//! across keyspaces, never go back and never fail, while another process writes, flushes, compacts, clears, creates and
//! drops; they share the pages of tables; and a file system that is mounted for reading only is enough for them.
//!
//! Method: the test starts itself as a writer and as readers. What batch `n` has written says so in each keyspace, so
//! that of a view that shows `n` in one place everything is known in all others.
//!
//! `TERRACE_TEST_SECONDS=600 cargo test -p terrace-tests --test processes -- --nocapture` is the long version.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use terrace::{Db, Durability, Error, Iter, KeyspaceOptions, Options, ReadOnlyDb, WriteBatch};
use terrace_tests::child::{is_child, namespaced_child};
use terrace_tests::workload::noise;
use terrace_tests::{covered, skipped, time_limit};

const ROLE: &str = "TERRACE_PROCESS_ROLE";

/// Keys that batches write to in turn.
const SLOTS: u64 = 500;
/// Every so many batches, a keyspace is cleared.
const CLEARED_EVERY: u64 = 40;
/// A keyspace comes and goes once in so many batches: it is there from the second half on.
const ROUND: u64 = 60;

/// Everything small: a flush and several log segments for some dozens of batches.
fn options() -> Options {
    Options::new()
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .l0_trigger(2)
        .level_base_bytes(128 << 10)
        .level_multiplier(4)
        .compaction_threads(1)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
}

fn value(number: u64, keyspace: u64) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.extend(noise(number << 2 | keyspace, 100 + number as usize % 200));
    value
}

fn number_of(value: &[u8]) -> u64 {
    u64::from_be_bytes(*value.first_chunk().unwrap())
}

/// Starts this program again, as the test `test` in a role.
fn start(test: &str, role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(ROLE, format!("{role} {}", dir.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The role that this process was started in, with its directory.
fn role() -> Option<(String, String)> {
    let order = std::env::var(ROLE).ok()?;
    order.split_once(' ').map(|(role, dir)| (role.to_owned(), dir.to_owned()))
}

/// Writes batches for as long as it was told, and says what it took.
fn write(dir: &Path, patience: Duration) {
    let started = Instant::now();
    let db = options().open(dir).unwrap();
    let [left, right, cleared] = ["left", "right", "cleared"].map(|name| db.keyspace(name).unwrap());
    let mut temporary = None;
    let mut number = 0;
    while started.elapsed() < patience || number < 6000 {
        number += 1;
        if number % CLEARED_EVERY == 0 {
            cleared.clear().unwrap();
        }
        if number % ROUND == ROUND / 2 {
            temporary = Some(db.keyspace("temporary").unwrap());
        }
        if number % ROUND == 0 {
            temporary = None;
            db.drop_keyspace("temporary").unwrap();
        }
        let mut batch = WriteBatch::new();
        let slot = (number % SLOTS).to_be_bytes();
        batch.put(&left, "number", value(number, 0));
        batch.put(&right, "number", value(number, 1));
        batch.put(&left, slot, value(number, 0));
        batch.put(&right, slot, value(number, 1));
        batch.put(&cleared, (number % CLEARED_EVERY).to_be_bytes(), value(number, 2));
        if let Some(temporary) = &temporary {
            batch.put(temporary, "number", value(number, 3));
        }
        // Deleted by the next: a delete that is lost shows.
        batch.put(&left, format!("short-lived {number}"), "");
        batch.delete(&left, format!("short-lived {}", number - 1));
        let durability = if number % 50 == 0 { Durability::Sync } else { Durability::Buffered };
        db.write_with(batch, durability).unwrap();
        if number % 1500 == 0 {
            db.settle().unwrap();
        }
    }
    let metrics = db.metrics();
    assert!(metrics.flushes > 50 && metrics.compactions > 10, "{metrics:?}");
    // Files go although somebody may have them mapped.
    db.settle().unwrap();
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let tables = names.filter(|name| name.ends_with(".sst")).count();
    assert_eq!(tables, db.metrics().keyspaces.iter().map(|keyspace| keyspace.tables).sum::<usize>());
    // This stays in the log: who opens it now has to read that.
    db.put("last", number.to_be_bytes()).unwrap();
    println!(
        "\ndone: {number} batches, {} flushes, {} compactions, {} MB of log",
        metrics.flushes,
        metrics.compactions,
        metrics.log_bytes_written >> 20
    );
    // Until it is killed.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// The number of the batch that a view has come to, once everything in it was found to be as that batch left it.
fn check(reader: &ReadOnlyDb) -> u64 {
    let snapshot = reader.snapshot().unwrap();
    let find = |name: &str| reader.find_keyspace(name).unwrap();
    // While they are being created.
    let (Some(left), Some(right), Some(cleared)) = (find("left"), find("right"), find("cleared")) else {
        return 0;
    };
    let Some(newest) = snapshot.get(&left, "number").unwrap() else {
        assert_eq!(snapshot.iter(&right).unwrap().count(), 0, "half a batch");
        return 0;
    };
    let number = number_of(&newest);
    for (keyspace, salt) in [(&left, 0), (&right, 1)] {
        let mut slots = 0;
        for entry in snapshot.iter(keyspace).unwrap() {
            let (key, found) = entry.unwrap();
            if key.starts_with(b"short-lived") {
                assert_eq!(*key, *format!("short-lived {number}").as_bytes(), "at {number}");
            } else if *key == *b"number" {
                assert_eq!(*found, value(number, salt)[..], "at {number}");
            } else {
                let slot = u64::from_be_bytes(*key.first_chunk().unwrap());
                // The last batch up to this one that has written there.
                let writer = number - (number + SLOTS - slot) % SLOTS;
                assert_eq!(*found, value(writer, salt)[..], "slot {slot} at {number}");
                slots += 1;
            }
        }
        assert_eq!(slots, number.min(SLOTS), "at {number}");
    }
    assert!(snapshot.contains_key(&left, format!("short-lived {number}")).unwrap(), "at {number}");
    let shown = snapshot.iter(&cleared).unwrap().map(|entry| number_of(&entry.unwrap().1));
    let shown: Vec<u64> = shown.collect();
    let first = (number - number % CLEARED_EVERY).max(1);
    let is_cleared_ahead = (number + 1).is_multiple_of(CLEARED_EVERY) && shown.is_empty();
    assert!(is_cleared_ahead || shown.into_iter().eq(first..=number), "what was cleared, at {number}");
    let place = number % ROUND;
    match find("temporary") {
        None => assert!(place < ROUND / 2 || place == ROUND - 1, "a keyspace is missing at {number}"),
        Some(temporary) => match snapshot.get(&temporary, "number").unwrap() {
            None => assert_eq!(place, ROUND / 2 - 1, "an empty keyspace at {number}"),
            Some(found) => {
                assert_eq!(*found, value(number, 3)[..], "a keyspace from before at {number}");
                assert!(place >= ROUND / 2, "a keyspace from before at {number}");
            }
        },
    }
    number
}

/// Refreshes until the writer is done, and says what it has seen.
fn follow(dir: &Path) {
    let reader = loop {
        match Db::open_read_only(dir) {
            Ok(reader) => break reader,
            // It has not begun yet.
            Err(Error::NotADatabase { .. }) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    };
    let (mut refreshes, mut moves, mut busy, mut reopened) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut last = check(&reader);
    // Begun now, and finished when everything has moved on.
    let mut kept: VecDeque<(u64, Iter)> = VecDeque::new();
    while reader.get("last").unwrap().is_none() {
        match reader.refresh() {
            Ok(moved) => {
                refreshes += 1;
                moves += u64::from(moved);
            }
            Err(Error::Busy { .. }) => busy += 1,
            Err(error) => panic!("after {refreshes} refreshes: {error}"),
        }
        let number = check(&reader);
        assert!(number >= last, "it went back from {last} to {number}");
        last = number;
        if refreshes % 16 == 0
            && let Some(right) = reader.find_keyspace("right").unwrap()
        {
            let mut iter = right.iter().unwrap();
            iter.next();
            kept.push_back((number, iter));
        }
        if kept.len() > 8 {
            let (number, iter) = kept.pop_front().unwrap();
            let rest = iter.map(|entry| number_of(&entry.unwrap().1));
            let rest: Vec<u64> = rest.collect();
            assert!(rest.iter().all(|writer| *writer <= number && writer + SLOTS > number), "from {number}");
        }
        if refreshes % 64 == 0 {
            // Opened now, it shows no less.
            let other = Db::open_read_only(dir).unwrap();
            assert!(check(&other) >= last);
            reopened += 1;
        }
    }
    println!("\ndone: {refreshes} refreshes, {moves} of them moved, {busy} were too slow; {reopened} opens");
}

/// What a child says when it is done.
fn outcome(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let done = lines.find_map(|line| line.ok()?.split_once("done: ").map(|(_, said)| said.to_owned()));
    let Some(said) = done else { panic!("a child has failed: {:?}", child.wait()) };
    // The rest, so that it is not stopped by a full pipe.
    drop(child.stdin.take());
    lines.for_each(drop);
    said
}

#[test]
fn readers_follow_a_writer() {
    const TEST: &str = "readers_follow_a_writer";
    let patience = time_limit().unwrap_or(Duration::from_secs(8));
    if let Some((role, dir)) = role() {
        return match &*role {
            "write" => write(Path::new(&dir), patience),
            _ => follow(Path::new(&dir)),
        };
    }
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("db");
    let mut readers = [(); 2].map(|()| start(TEST, "follow", &dir));
    let mut writer = start(TEST, "write", &dir);
    let writer_out = BufReader::new(writer.stdout.take().unwrap());
    let done =
        writer_out.lines().find_map(|line| line.ok()?.split_once("done: ").map(|(_, said)| said.to_owned()));
    let done = done.unwrap_or_else(|| panic!("the writer has failed: {:?}", writer.wait()));
    let seen = readers.each_mut().map(outcome);
    for reader in &mut readers {
        assert!(reader.wait().unwrap().success());
    }
    // Killed as it stands: what a reader sees is what the next open finds.
    writer.kill().unwrap();
    writer.wait().unwrap();
    let reader = Db::open_read_only(&dir).unwrap();
    let number = check(&reader);
    assert_eq!(reader.get("last").unwrap().as_deref(), Some(&number.to_be_bytes()[..]));
    let db = options().open(&dir).unwrap();
    assert!(reader.refresh().unwrap(), "recovery has written tables");
    assert_eq!(check(&reader), number);
    db.close().unwrap();
    covered(TEST, format_args!("writer: {done}; readers: {}", seen.join("; and ")));
}

/// Resident bytes of a process's mappings of tables in a directory, and the part of them that it is charged for.
#[cfg(target_os = "linux")]
fn table_pages(process: u32, dir: &Path) -> (u64, u64) {
    let dir = dir.canonicalize().unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let (mut resident, mut share, mut is_table) = (0, 0, false);
    for line in maps.lines() {
        let figure = |name: &str| -> Option<u64> {
            line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse().ok()
        };
        if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            is_table = line.contains(dir.to_str().unwrap()) && line.contains(".sst");
        } else if is_table {
            resident += figure("Rss:").unwrap_or(0) << 10;
            share += figure("Pss:").unwrap_or(0) << 10;
        }
    }
    (resident, share)
}

/// Reads every value where it lies, so that each page is mapped.
#[cfg(target_os = "linux")]
fn touch_all(dir: &Path, keys: u32) -> ReadOnlyDb {
    let reader = Db::open_read_only(dir).unwrap();
    for key in 0..keys {
        let sum = reader
            .get_with(key.to_be_bytes(), |value| value.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        assert!(sum.unwrap().unwrap() > 0);
    }
    reader
}

#[test]
#[cfg(target_os = "linux")]
fn pages_of_tables_are_in_memory_once() {
    const TEST: &str = "pages_of_tables_are_in_memory_once";
    const KEYS: u32 = 20_000;
    if let Some((_, dir)) = role() {
        let _reader = touch_all(Path::new(&dir), KEYS);
        println!("\ndone: all read");
        // Until the parent has looked.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("db");
    let db = Options::new().durability(Durability::Buffered).open(&dir).unwrap();
    for key in 0..KEYS {
        db.put(key.to_be_bytes(), noise(key.into(), 1000)).unwrap();
    }
    db.settle().unwrap();
    db.close().unwrap();
    drop(db);

    let _reader = touch_all(&dir, KEYS);
    let alone = table_pages(std::process::id(), &dir);
    let mut child = start(TEST, "read", &dir);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("done: ")), "the child has failed");
    let (ours, theirs) = (table_pages(std::process::id(), &dir), table_pages(child.id(), &dir));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    covered(
        TEST,
        format_args!("(resident, share) alone {alone:?}, with another process {ours:?} and {theirs:?}"),
    );
    for (resident, share) in [ours, theirs] {
        assert!(resident > 18_000_000, "{resident} bytes of tables are resident");
        assert!((0.4..0.6).contains(&(share as f64 / resident as f64)), "{share} of {resident} bytes");
    }
    assert!(alone.1 as f64 > 0.9 * alone.0 as f64, "there were other readers: {alone:?}");
}

/// On a real file system that nobody can write to, in every state that a database can be in.
#[test]
fn a_file_system_that_is_mounted_for_reading_only_is_enough() {
    const TEST: &str = "a_file_system_that_is_mounted_for_reading_only_is_enough";
    if is_child(|_, dir| {
        let mut shown = Vec::new();
        for state in ["closed", "killed"] {
            let dir = dir.join(state);
            std::fs::write(dir.join("probe"), "").expect_err("it can be written to");
            Options::new().open(&dir).expect_err("it can be opened for writing");
            let reader = Db::open_read_only(&dir).unwrap();
            assert!(!reader.refresh().unwrap());
            shown.push(reader.iter().unwrap().map(Result::unwrap).count());
        }
        format!("{shown:?} entries")
    }) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let [closed, killed] = ["closed", "killed"].map(|state| home.path().join(state));
    let db = options().open(&closed).unwrap();
    for number in 0..3000_u64 {
        db.put_with(number.to_be_bytes(), value(number, 0), Durability::Buffered).unwrap();
    }
    db.flush().unwrap();
    for number in 3000..3100_u64 {
        db.put_with(number.to_be_bytes(), value(number, 0), Durability::Buffered).unwrap();
    }
    // What a kill would leave, as nothing is going on.
    db.sync().unwrap();
    std::fs::create_dir(&killed).unwrap();
    loop {
        let copy = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(&closed)? {
                std::fs::copy(entry.as_ref().unwrap().path(), killed.join(entry?.file_name()))?;
            }
            Ok(())
        };
        // A compaction may take a file away.
        if copy().is_ok() && Db::open_read_only(&killed).is_ok_and(|copied| copied.health().is_ok()) {
            break;
        }
    }
    db.close().unwrap();
    let mount = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"";
    let said = namespaced_child(TEST, home.path(), home.path(), "read", mount);
    match said.strip_prefix("cannot launch") {
        Some(why) => {
            skipped(TEST, format_args!("a mount for reading only needs root and mount namespaces{why}"))
        }
        None => {
            assert_eq!(said, "[3100, 3100] entries");
            covered(TEST, said);
        }
    }
}

/// Files that belong to somebody else, or may only be read.
#[test]
#[cfg(unix)]
fn files_without_permission_to_write_are_enough() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("db");
    let db = options().open(&dir).unwrap();
    for number in 0..2000_u64 {
        db.put_with(number.to_be_bytes(), value(number, 0), Durability::Buffered).unwrap();
    }
    db.settle().unwrap();
    db.put("key", "value").unwrap();
    let permit = |file_mode: u32, dir_mode: u32| {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let permissions = std::fs::Permissions::from_mode(file_mode);
            std::fs::set_permissions(entry.unwrap().path(), permissions).unwrap();
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(dir_mode)).unwrap();
    };
    permit(0o400, 0o500);
    let reader = Db::open_read_only(&dir).unwrap();
    assert_eq!(reader.get("key").unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!(reader.iter().unwrap().map(Result::unwrap).count(), 2001);
    assert!(!reader.refresh().unwrap());
    if std::fs::write(dir.join("probe"), "").is_ok() {
        skipped("files_without_permission_to_write_are_enough", "root may write everywhere");
    }
    permit(0o600, 0o700);
    db.close().unwrap();
}
