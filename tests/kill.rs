//! Goal: what was acknowledged survives `kill -9`, buffered writes too, and what is found is a prefix of the history.
//!
//! Method: the test starts itself as a child that writes numbered records and says how many were acknowledged. It is
//! killed somewhere in the middle, again and again, and goes on each time behind what the database holds; in between
//! the parent opens the database, first for reading only, which must show the same and change nothing, and at the end
//! reads everything back.
//!
//! `TERRACE_RECORDS=10000000 cargo test -p terrace-tests --test kill -- --nocapture` is the long version.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use terrace::{Access, Db, Durability, Options};
use terrace_tests::covered;

const CHILD: &str = "TERRACE_KILL_CHILD";

/// Records between two reports of the child.
const REPORT_EVERY: u64 = 100;

fn records() -> u64 {
    std::env::var("TERRACE_RECORDS")
        .map_or(300_000, |text| text.parse().expect("TERRACE_RECORDS is a number"))
}

/// Scrambles a record's number, so that keys arrive in no order (the finalizer of MurmurHash3, a bijection).
fn key(number: u64) -> [u8; 16] {
    let mut hash = number;
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ hash >> 33).wrapping_mul(factor);
    }
    format!("{:016x}", hash ^ hash >> 33).into_bytes().try_into().unwrap()
}

fn value(number: u64) -> [u8; 100] {
    let mut value = [number as u8; 100];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

fn open(dir: &Path) -> Db {
    Options::new().durability(Durability::Buffered).memtable_bytes(8 << 20).open(dir).unwrap()
}

/// The child: writes the records from `first` on and reports what is acknowledged.
fn write_records(dir: &Path, first: u64) {
    let db = open(dir);
    let mut out = std::io::stdout().lock();
    for number in first..records() {
        db.put(key(number), value(number)).unwrap();
        if number % REPORT_EVERY == REPORT_EVERY - 1 {
            writeln!(out, "acknowledged {}", number + 1).unwrap();
            out.flush().unwrap();
        }
    }
    writeln!(out, "acknowledged {}", records()).unwrap();
    drop(out);
    // Waits to be killed with everything still in the log and the memtables.
    std::thread::sleep(Duration::from_secs(600));
}

/// The names of all files, with their bytes, hashed, and when each was changed.
fn files(dir: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let file = |entry: std::fs::DirEntry| {
        let hash = xxhash_rust::xxh3::xxh3_64(&std::fs::read(entry.path()).unwrap());
        (entry.file_name().into_string().unwrap(), (hash, entry.metadata().unwrap().modified().unwrap()))
    };
    entries.map(file).collect()
}

fn start_child(dir: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["acknowledged_writes_survive_kill", "--exact", "--nocapture"])
        .env(CHILD, format!("{first} {}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads the child's reports until it has acknowledged `enough`, kills it, and says what it had acknowledged.
fn kill_after(mut child: Child, enough: u64) -> u64 {
    let mut acknowledged = 0;
    let mut reports = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut take = |line: String| {
        if let Some(number) = line.strip_prefix("acknowledged ") {
            acknowledged = number.parse().unwrap_or(acknowledged);
        }
        acknowledged
    };
    loop {
        let Some(Ok(line)) = reports.next() else {
            panic!("the child has ended by itself before it acknowledged {enough} records")
        };
        if take(line) >= enough {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died counts as well; the last line may be cut short.
    let lines: Vec<String> = reports.map_while(Result::ok).collect();
    for line in lines.iter().take(lines.len().saturating_sub(1)) {
        take(line.clone());
    }
    acknowledged
}

/// Checks that the database holds the records `0..n`, whole and nothing else, and gives `n`.
fn check_prefix<A: Access>(db: &Db<A>) -> u64 {
    let mut seen = vec![false; records() as usize];
    let mut count = 0;
    let mut cursor = db.cursor().unwrap();
    let mut more = cursor.seek_to_first().unwrap();
    while more {
        let number = u64::from_le_bytes(cursor.value()[..8].try_into().unwrap());
        assert_eq!(cursor.key(), key(number), "record {number} has another key");
        assert_eq!(cursor.value(), value(number), "record {number} has another value");
        assert!(!std::mem::replace(&mut seen[number as usize], true), "record {number} comes twice");
        count += 1;
        more = cursor.next().unwrap();
    }
    let prefix = seen.iter().take_while(|seen| **seen).count() as u64;
    assert_eq!(
        count, prefix,
        "there is a hole: {count} records, but {prefix} before the first that is missing"
    );
    count
}

#[test]
fn acknowledged_writes_survive_kill() {
    if let Ok(order) = std::env::var(CHILD) {
        let (first, dir) = order.split_once(' ').unwrap();
        return write_records(Path::new(dir), first.parse().unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut found, mut kills) = (0, 0);
    for percent in [1, 7, 30, 31, 32, 60, 61, 95, 100] {
        let enough = (records() * percent / 100).max(found + 1).min(records());
        let acknowledged = kill_after(start_child(dir.path(), found), enough);
        let before = files(dir.path());
        let shown = check_prefix(&Db::open_read_only(dir.path()).unwrap());
        assert!(files(dir.path()) == before, "an open for reading only has changed something");
        let db = open(dir.path());
        found = check_prefix(&db);
        assert_eq!(shown, found, "what a reader was shown, and what was recovered");
        println!("killed at {acknowledged} acknowledged records, found {found}");
        assert!(found >= acknowledged, "{acknowledged} records were acknowledged, {found} are there");
        db.close().unwrap();
        kills += 1;
    }
    covered("acknowledged_writes_survive_kill", format_args!("{kills} kills, {found} records"));
    assert_eq!(found, records());
    let db = open(dir.path());
    for number in (0..records()).step_by(7) {
        assert_eq!(db.get(key(number)).unwrap().as_deref(), Some(&value(number)[..]));
    }
}
