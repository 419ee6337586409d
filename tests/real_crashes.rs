//! Goal: what was acknowledged survives on a real kernel and a real file system, whatever stops the writer: a signal at any
//! system call, a kill in the middle of everything, a power cut under a journaling file system.
//!
//! Method: this program starts itself as a worker, which writes a history that its number alone determines: batches of puts
//! and deletes across two keyspaces, each eighth one synced. It is stopped, the database is opened and must hold exactly
//! the state after some operation, none earlier than the last that was acknowledged for that kind of stop; then a new worker
//! goes on from there. Small memtables and levels, so that flushes, compactions and recycled segments are always under way.
//!
//! - A signal at the n-th system call of a kind is delivered by `strace`.
//! - A power cut is the `GOINGDOWN` request of ext4 and XFS, which stops the file system without flushing anything; they
//!   live in a file, on a loop device. Needs root.
//!
//! What the machine does not allow is skipped, and says so. `TERRACE_CASES` is the number of stops of each test.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace::{Db, Durability, Keyspace, KeyspaceOptions, Options, WriteBatch};
use terrace_tests::{covered, rounds, seeds};

/// Says in which directory a worker works, and what its first operation is.
const WORKER: &str = "TERRACE_REAL_CRASHES_WORKER";

/// Holds the number of the last operation, in both keyspaces.
const MARKER: &[u8] = b"~last";

/// Each operation of so many is synced.
const SYNC_EVERY: u64 = 8;

/// One keyspace at one moment.
type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// A keyspace's index, a key, and its new value if it has one.
type Change = (usize, Vec<u8>, Option<Vec<u8>>);

/// What operation `number` does.
fn changes(number: u64) -> Vec<Change> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(number);
    let count = random.random_range(1..6);
    let mut changes: Vec<Change> = (0..count)
        .map(|_| {
            let key = format!("key {:03}", random.random_range(0..400)).into_bytes();
            let len = if random.random_ratio(1, 50) {
                random.random_range(4_000..60_000)
            } else {
                random.random_range(0..900)
            };
            let mut value = vec![number as u8; len];
            let head = number.to_le_bytes();
            let shared = len.min(8);
            value[..shared].copy_from_slice(&head[..shared]);
            (random.random_range(0..2), key, random.random_ratio(3, 4).then_some(value))
        })
        .collect();
    let marker = number.to_string().into_bytes();
    changes.extend([0, 1].map(|keyspace| (keyspace, MARKER.to_vec(), Some(marker.clone()))));
    changes
}

/// The history as far as it has been followed.
#[derive(Default)]
struct History {
    number: u64,
    states: [State; 2],
}

impl History {
    fn go_on_to(&mut self, number: u64) {
        for number in self.number + 1..=number {
            for (keyspace, key, value) in changes(number) {
                match value {
                    Some(value) => self.states[keyspace].insert(key, value),
                    None => self.states[keyspace].remove(&key),
                };
            }
        }
        self.number = number;
    }
}

fn open(dir: &Path) -> terrace::Result<(Db, Keyspace)> {
    let db = Options::new()
        .memtable_bytes(128 << 10)
        .segment_bytes_max(256 << 10)
        .level_base_bytes(256 << 10)
        .level_multiplier(3)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(128 << 10))
        .open(dir)?;
    let other = db.keyspace("other")?;
    Ok((db, other))
}

/// What a worker has said.
#[derive(Debug, Clone, Copy, Default)]
struct Acknowledged {
    any: u64,
    synced: u64,
}

/// The worker: goes on from an operation until something stops it.
fn work(dir: &Path, first: u64) -> terrace::Result<()> {
    let (db, other) = open(dir)?;
    let mut out = std::io::stdout().lock();
    // The harness may have begun a line of its own.
    let _ = writeln!(out);
    for number in first.. {
        let mut batch = WriteBatch::new();
        for (keyspace, key, value) in changes(number) {
            match (keyspace, value) {
                (0, Some(value)) => batch.put(&db, key, value),
                (0, None) => batch.delete(&db, key),
                (_, Some(value)) => batch.put(&other, key, value),
                (_, None) => batch.delete(&other, key),
            };
        }
        let synced = number % SYNC_EVERY == 0;
        db.write_with(batch, if synced { Durability::Sync } else { Durability::Buffered })?;
        let what = if synced { "synced" } else { "written" };
        // Whoever reads this has gone if that fails.
        if writeln!(out, "{what} {number}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(())
}

/// Whether this process is to be a worker: then it has been one.
fn is_worker() -> bool {
    let Ok(order) = std::env::var(WORKER) else { return false };
    let (first, dir) = order.split_once(' ').unwrap();
    // After a power cut the file system refuses everything.
    if let Err(error) = work(Path::new(dir), first.parse().unwrap()) {
        println!("error {error}");
    }
    true
}

/// Starts `test` once more as a worker, below `wrapper` if there is one.
fn start_worker(test: &str, wrapper: &[String], dir: &Path, first: u64) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = match wrapper.split_first() {
        Some((tool, arguments)) => {
            let mut command = Command::new(tool);
            command.args(arguments).arg(program);
            command
        }
        None => Command::new(program),
    };
    command
        .args([test, "--exact", "--nocapture"])
        .env(WORKER, format!("{first} {}", dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a worker has acknowledged, once its output has ended.
fn listen(worker: &mut Child) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let output = BufReader::new(worker.stdout.take().unwrap());
    let mut lines: Vec<Vec<u8>> = output.split(b'\n').map_while(Result::ok).collect();
    // The last line may be cut short.
    lines.pop();
    for line in lines {
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(number) = line.strip_prefix("synced ") {
            acknowledged.synced = number.parse().unwrap();
            acknowledged.any = acknowledged.synced;
        } else if let Some(number) = line.strip_prefix("written ") {
            acknowledged.any = number.parse().unwrap();
        }
    }
    acknowledged
}

/// Reads a keyspace, forward and backward.
fn read(keyspace: &Keyspace) -> State {
    let mut state = State::new();
    for entry in keyspace.iter().unwrap() {
        let (key, value) = entry.unwrap();
        state.insert(key.to_vec(), value.to_vec());
    }
    let back = keyspace.iter().unwrap().rev().map(|entry| entry.unwrap().0.to_vec());
    assert!(back.eq(state.keys().rev().cloned()), "the same keys in both directions");
    state
}

/// Opens the database, which must hold the state after an operation not before `least`, and says which.
fn check(dir: &Path, history: &mut History, least: u64) -> u64 {
    let (db, other) = open(dir).unwrap_or_else(|error| panic!("it must open: {error}"));
    let default = db.keyspace("default").unwrap();
    let states = [read(&default), read(&other)];
    let marker = |state: &State| {
        state
            .get(MARKER)
            .map_or(0, |number| String::from_utf8(number.clone()).unwrap().parse::<u64>().unwrap())
    };
    let number = marker(&states[0]);
    assert_eq!(number, marker(&states[1]), "half a batch");
    assert!(number >= least, "operation {least} was acknowledged, the database is at {number}");
    // Backward only if that is what a crash may do: buffered writes after the last synced one.
    if number < history.number {
        *history = History::default();
    }
    history.go_on_to(number);
    assert!(states == history.states, "not the state after operation {number}");
    for key in [&b"key 000"[..], b"key 200", MARKER] {
        assert_eq!(other.get(key).unwrap().as_deref(), history.states[1].get(key).map(|value| &**value));
    }
    db.close().unwrap();
    number
}

/// Chance, with a seed that is told.
fn random() -> Xoshiro256PlusPlus {
    let seed = seeds(1).next().expect("one was asked for");
    println!("seed {seed}");
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

fn skip(test: &str, why: &str) {
    println!("{test}: skipped, {why}");
}

/// Whether a program can be run.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    found.is_ok_and(|output| output.status.success())
}

#[test]
fn a_signal_at_any_system_call() {
    const TEST: &str = "a_signal_at_any_system_call";
    if is_worker() {
        return;
    }
    if !has("strace") {
        return skip(TEST, "there is no strace");
    }
    let calls = [
        "pwrite64",
        "fdatasync",
        "openat",
        "rename",
        "unlink",
        "ftruncate",
        "fallocate",
        "mmap",
        "close",
        "pread64",
    ];
    let mut random = random();
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("db");
    let (mut history, mut found, mut tried, mut stopped) = (History::default(), 0, 0, 0);
    for _ in rounds(25) {
        tried += 1;
        let call = calls[random.random_range(0..calls.len())];
        let most = if call == "pwrite64" { 400 } else { 40 };
        let when = random.random_range(1..most);
        let inject = format!("inject={call}:signal=KILL:when={when}");
        let wrapper =
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject];
        let mut worker = start_worker(TEST, &wrapper.map(str::to_owned), &dir, found + 1);
        // Some counts are never reached.
        let patience = Patience::of(&worker, Duration::from_secs(3));
        let acknowledged = listen(&mut worker);
        let status = worker.wait().unwrap();
        let reached = !patience.ended();
        if acknowledged.any == 0 && status.code().is_some() && !dir.exists() {
            return skip(TEST, "strace may not trace here");
        }
        // strace ends as what it traced has ended.
        assert_eq!(status.signal(), Some(9), "a worker goes on until it is stopped: {acknowledged:?}");
        stopped += u64::from(reached);
        found = check(&dir, &mut history, acknowledged.any);
    }
    covered(
        TEST,
        format_args!("{tried} workers, {stopped} of them stopped at a system call, {found} operations"),
    );
    assert!(stopped > 0 && found > 0, "no worker came to a system call at which it was to be stopped");
}

/// Kills a process and its children after a while.
struct Patience {
    timer: std::thread::JoinHandle<bool>,
    done: std::sync::mpsc::Sender<()>,
}

impl Patience {
    fn of(child: &Child, time: Duration) -> Patience {
        let (done, wait) = std::sync::mpsc::channel();
        let id = child.id();
        let timer = std::thread::spawn(move || {
            let late = wait.recv_timeout(time).is_err();
            if late {
                let kill = format!("pkill -KILL -P {id}; kill -KILL {id}");
                let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
            }
            late
        });
        Patience { timer, done }
    }

    /// Whether it was the one that ended the process.
    fn ended(self) -> bool {
        let _ = self.done.send(());
        self.timer.join().unwrap()
    }
}

#[test]
fn a_kill_in_the_middle_of_everything() {
    const TEST: &str = "a_kill_in_the_middle_of_everything";
    if is_worker() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("db");
    let mut random = random();
    let (mut history, mut found, mut kills) = (History::default(), 0, 0);
    for _ in rounds(10) {
        kills += 1;
        let mut worker = start_worker(TEST, &[], &dir, found + 1);
        let patience = Patience::of(&worker, Duration::from_millis(random.random_range(20..500)));
        let acknowledged = listen(&mut worker);
        worker.wait().unwrap();
        assert!(patience.ended(), "a worker goes on until it is stopped");
        found = check(&dir, &mut history, acknowledged.any);
    }
    covered(TEST, format_args!("{kills} kills, {found} operations"));
    assert!(found > 0, "no worker came to anything");
}

/// A file system of its own, in a file.
struct LoopMount {
    image: PathBuf,
    point: PathBuf,
}

impl LoopMount {
    /// Makes it and mounts it, or says why not.
    fn new(directory: &Path, kind: &str) -> Result<LoopMount, String> {
        let mount = LoopMount { image: directory.join("image"), point: directory.join("mounted") };
        std::fs::create_dir(&mount.point).unwrap();
        std::fs::File::create(&mount.image).unwrap().set_len(400 << 20).unwrap();
        let make = if kind == "xfs" { ["mkfs.xfs", "-q"] } else { ["mkfs.ext4", "-qF"] };
        run(Command::new(make[0]).arg(make[1]).arg(&mount.image))?;
        mount.mount()?;
        Ok(mount)
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.point))
    }

    fn unmount(&self) -> Result<(), String> {
        run(Command::new("umount").arg(&self.point))
    }

    /// Stops the file system as a power cut would: nothing is flushed any more.
    fn cut_power(&self) -> Result<(), String> {
        // EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN: `_IOR('X', 125, u32)`, with the flag "do not flush the log".
        let request = r#"open(my $f, "<", $ARGV[0]) or die $!; my $flag = pack("I", 2); ioctl($f, 0x8004587d, $flag) or die $!"#;
        run(Command::new("perl").args(["-e", request]).arg(&self.point))
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.point).stderr(Stdio::null()).status();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { stderr, .. }) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

fn power_cuts(test: &str, kind: &str) {
    if is_worker() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount = match LoopMount::new(directory.path(), kind) {
        Ok(mount) => mount,
        Err(why) => return skip(test, &why),
    };
    let dir = mount.point.join("db");
    let mut random = random();
    let (mut history, mut found, mut lost, mut cuts) = (History::default(), 0, 0, 0);
    for _ in rounds(4) {
        cuts += 1;
        let mut worker = start_worker(test, &[], &dir, found + 1);
        std::thread::sleep(Duration::from_millis(random.random_range(20..600)));
        if let Err(why) = mount.cut_power() {
            let _ = worker.kill();
            let _ = worker.wait();
            return skip(test, &why);
        }
        // Whoever waits for the disk hears that it is gone; the worker ends by itself, or here.
        let patience = Patience::of(&worker, Duration::from_secs(5));
        let acknowledged = listen(&mut worker);
        worker.wait().unwrap();
        patience.ended();
        mount.unmount().unwrap();
        mount.mount().unwrap();
        found = check(&dir, &mut history, acknowledged.synced);
        lost += acknowledged.any.saturating_sub(found);
    }
    covered(
        test,
        format_args!("{cuts} power cuts, {found} operations; {lost} that were not synced are gone"),
    );
    assert!(found > 0, "no worker came to anything");
    mount.unmount().unwrap();
}

#[test]
fn a_power_cut_on_ext4() {
    power_cuts("a_power_cut_on_ext4", "ext4");
}

#[test]
fn a_power_cut_on_xfs() {
    power_cuts("a_power_cut_on_xfs", "xfs");
}
