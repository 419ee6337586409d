//! Goal: what was acknowledged survives on a real kernel and a real file system, whatever stops the writer: a signal at
//! any system call, a kill in the middle of everything, a power cut under a journaling file system.
//!
//! Method: this program starts itself as a worker under mixed load. One thread writes a history that its number alone
//! determines: batches of puts and deletes across two keyspaces. Another one writes a simpler history to a keyspace of
//! its own. Each eighth operation is synced. Two threads take snapshots, scan and get meanwhile, and compare what they
//! read with the history; one that reads something wrong says so, which fails the test. Small memtables and levels, so
//! that flushes, compactions and recycled segments are always under way.
//!
//! The worker is stopped, and a copy of the database is opened, which must hold exactly the states after some operation
//! of each history: none earlier than the last that was acknowledged for that kind of stop, and none earlier than what
//! had survived before. Then a new worker recovers what the stopped one has left, and is stopped in turn, maybe before
//! it has opened the database. Some power cuts come after a kill: what was killed has left its writes in the page
//! cache, and what the next one has recovered from there must be durable.
//!
//! - A signal at the n-th system call of a kind is delivered by `strace`. Which calls are made, how often, and how many
//!   of them while the database is opened, is learned from a worker that is only traced.
//! - A power cut is the `GOINGDOWN` request of ext4 and XFS, which stops the file system without flushing anything;
//!   they live in a file, on a loop device. Needs root.
//!
//! What the machine does not allow is skipped, and says so. `TERRACE_CASES` is the number of stops of each test. With
//! `TERRACE_TEST_SECONDS` every other worker that is to be killed runs for two seconds.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace::{Db, Durability, Keyspace, KeyspaceOptions, Options, Snapshot, WriteBatch};
use terrace_tests::loop_mount::LoopMount;
use terrace_tests::tally::Tally;
use terrace_tests::{covered, rounds, seeds, skipped, time_limit};

/// Says in which directory a worker works, and what the first operations of its two writers are.
const WORKER: &str = "TERRACE_REAL_CRASHES_WORKER";

/// Holds the number of the last operation, in each keyspace.
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

/// The keyspace of the second writer after its operation `number`. Each puts or deletes one key of a hundred.
fn second_state(number: u64) -> State {
    let mut state = State::new();
    for (key, value) in (number.saturating_sub(99).max(1)..=number).map(second_change) {
        if let Some(value) = value {
            state.insert(key, value);
        }
    }
    if number > 0 {
        state.insert(MARKER.to_vec(), number.to_string().into_bytes());
    }
    state
}

fn second_change(number: u64) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(8 + (number * 37 % 700) as usize, number as u8);
    (format!("slot {:02}", number % 100).into_bytes(), (!number.is_multiple_of(7)).then_some(value))
}

/// The history of the first writer as far as it has been followed.
#[derive(Default, Clone)]
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

/// The database, with all its keyspaces: two of the first writer, one of the second.
struct Opened {
    db: Db,
    first: [Keyspace; 2],
    second: Keyspace,
}

fn open(dir: &Path) -> terrace::Result<Opened> {
    let db = Options::new()
        .memtable_bytes(128 << 10)
        .segment_bytes_max(256 << 10)
        .level_base_bytes(256 << 10)
        .level_multiplier(3)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(128 << 10))
        .open(dir)?;
    let (first, second) = ([db.keyspace("default")?, db.keyspace("other")?], db.keyspace("second")?);
    Ok(Opened { db, first, second })
}

/// Numbers of operations, of the two writers.
type Numbers = [u64; 2];

/// What a worker has said.
#[derive(Debug, Clone, Default)]
struct Said {
    acknowledged: Numbers,
    synced: Numbers,
    /// What its readers have read that is not true.
    wrong: Vec<String>,
    /// Why it ended.
    error: Option<String>,
}

/// Says something to the harness, if it is still there, on a line of its own.
fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// The worker: goes on after `last` until something stops it.
fn work(dir: &Path, last: Numbers) -> terrace::Result<()> {
    let opened = open(dir)?;
    // The test's name may stand on this line.
    say(format_args!(""));
    let snapshot = opened.db.snapshot()?;
    let history = History { number: last[0], states: read_all(&opened, &snapshot, false)? };
    let found = [marker(&history.states[0]), marker(&history.states[1])];
    if found != [last[0]; 2] {
        say(format_args!("wrong: the worker finds operations {found:?}, not {}", last[0]));
    }
    drop(snapshot);
    thread::scope(|scope| {
        for number in 0..2 {
            let (opened, history) = (&opened, history.clone());
            scope.spawn(move || end_if_failed(read_on(opened, history, number)));
        }
        for writer in [0, 1] {
            let opened = &opened;
            scope.spawn(move || end_if_failed(write_on(opened, writer, last[writer] + 1)));
        }
    });
    Ok(())
}

/// Ends the whole worker. After a power cut that is to be expected.
fn end_if_failed(outcome: terrace::Result<()>) {
    if let Err(error) = outcome {
        say(format_args!("error: {error}"));
        std::process::exit(1);
    }
}

fn write_on(opened: &Opened, writer: usize, first: u64) -> terrace::Result<()> {
    for number in first.. {
        let mut batch = WriteBatch::new();
        let changes = match writer {
            0 => changes(number)
                .into_iter()
                .map(|(keyspace, key, value)| (&opened.first[keyspace], key, value))
                .collect(),
            _ => {
                let (key, value) = second_change(number);
                let marker = (&opened.second, MARKER.to_vec(), Some(number.to_string().into_bytes()));
                vec![(&opened.second, key, value), marker]
            }
        };
        for (keyspace, key, value) in changes {
            match value {
                Some(value) => batch.put(keyspace, key, value),
                None => batch.delete(keyspace, key),
            };
        }
        let synced = number % SYNC_EVERY == 0;
        opened.db.write_with(batch, if synced { Durability::Sync } else { Durability::Buffered })?;
        say(format_args!("{} {writer} {number}", if synced { "synced" } else { "written" }));
    }
    Ok(())
}

/// Takes snapshots and compares everything in them with the histories, now and once more later.
fn read_on(opened: &Opened, mut history: History, reader: u64) -> terrace::Result<()> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(reader);
    let mut earlier: Option<(Snapshot, [State; 3])> = None;
    loop {
        let snapshot = opened.db.snapshot()?;
        let second = marker_at(&snapshot, &opened.second)?;
        let first = marker_at(&snapshot, &opened.first[0])?;
        if first < history.number {
            say(format_args!("wrong: a snapshot shows operation {first} after {}", history.number));
        }
        history.go_on_to(first);
        let [default, other] = history.states.clone();
        let expected = [default, other, second_state(second)];
        check_snapshot(opened, &snapshot, &expected, &mut random)?;
        if let Some((snapshot, expected)) = &earlier {
            check_snapshot(opened, snapshot, expected, &mut random)?;
        }
        earlier = Some((snapshot, expected));
    }
}

fn check_snapshot(
    opened: &Opened,
    snapshot: &Snapshot,
    expected: &[State; 3],
    random: &mut Xoshiro256PlusPlus,
) -> terrace::Result<()> {
    let [default, other] = read_all(opened, snapshot, random.random())?;
    let second = read(snapshot.iter(&opened.second)?, random.random())?;
    let number = marker(&expected[0]);
    if [default, other, second] != *expected {
        say(format_args!("wrong: a snapshot does not show the states after operation {number}"));
    }
    for _ in 0..20 {
        let index = random.random_range(0..2);
        let key = format!("key {:03}", random.random_range(0..400)).into_bytes();
        let found = snapshot.get(&opened.first[index], &key)?;
        if found.as_deref() != expected[index].get(&key).map(|value| &**value) {
            say(format_args!("wrong: {} is not as after operation {number}", key.escape_ascii()));
        }
    }
    Ok(())
}

/// Both keyspaces of the first writer.
fn read_all(opened: &Opened, snapshot: &Snapshot, backward: bool) -> terrace::Result<[State; 2]> {
    let [default, other] = &opened.first;
    Ok([read(snapshot.iter(default)?, backward)?, read(snapshot.iter(other)?, backward)?])
}

/// Reads a keyspace from either end.
fn read(entries: terrace::Iter, backward: bool) -> terrace::Result<State> {
    let own = |entry: terrace::Result<(terrace::Slice, terrace::Slice)>| {
        entry.map(|(key, value)| (key.to_vec(), value.to_vec()))
    };
    if backward { entries.rev().map(own).collect() } else { entries.map(own).collect() }
}

/// The number of the last operation.
fn marker(state: &State) -> u64 {
    state.get(MARKER).map_or(0, |number| parse(number))
}

fn marker_at(snapshot: &Snapshot, keyspace: &Keyspace) -> terrace::Result<u64> {
    Ok(snapshot.get(keyspace, MARKER)?.map_or(0, |number| parse(&number)))
}

fn parse(number: &[u8]) -> u64 {
    std::str::from_utf8(number).unwrap().parse().unwrap()
}

/// Whether this process is to be a worker: then it has been one.
fn is_worker() -> bool {
    let Ok(order) = std::env::var(WORKER) else { return false };
    let mut parts = order.splitn(3, ' ');
    let mut part = || parts.next().unwrap();
    let last = [part(), part()].map(|number| number.parse().unwrap());
    end_if_failed(work(Path::new(part()), last));
    true
}

/// Starts `test` once more as a worker, below `wrapper` if there is one.
fn start_worker(test: &str, wrapper: &[String], dir: &Path, last: Numbers) -> Child {
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
        .env(WORKER, format!("{} {} {}", last[0], last[1], dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a worker says until its output has ended, or until its first writer has acknowledged `enough`.
fn listen(worker: &mut Child, enough: u64) -> Said {
    let mut said = Said::default();
    let mut output = BufReader::new(worker.stdout.take().unwrap());
    let mut line = Vec::new();
    // The last line may be cut short.
    while output.read_until(b'\n', &mut line).is_ok_and(|_| line.ends_with(b"\n")) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        let words: Vec<&str> = text.split(' ').collect();
        if let [what @ ("synced" | "written"), writer, number] = words[..] {
            let (writer, number): (usize, u64) = (writer.parse().unwrap(), number.parse().unwrap());
            said.acknowledged[writer] = number;
            if what == "synced" {
                said.synced[writer] = number;
            }
        } else if text.starts_with("wrong") {
            said.wrong.push(text);
        } else if text.starts_with("error") {
            said.error = Some(text);
        }
        if said.acknowledged[0] >= enough {
            break;
        }
    }
    said
}

/// What goes on from one worker to the next.
struct Harness {
    /// Where the database is, and where it is copied to.
    dir: PathBuf,
    copy: PathBuf,
    history: History,
    found: Numbers,
}

impl Harness {
    fn new(dir: PathBuf, directory: &Path) -> Harness {
        Harness { dir, copy: directory.join("copy"), history: History::default(), found: [0; 2] }
    }

    fn start(&self, test: &str, wrapper: &[String]) -> Child {
        start_worker(test, wrapper, &self.dir, self.found)
    }

    /// Looks at what a killed worker has left: all that was found before, however the recovery of it ended, and all
    /// that was acknowledged since.
    fn check_killed(&mut self, said: &Said) {
        self.check(said, later(self.found, said.acknowledged));
    }

    /// Opens a copy of the database, so that the next worker has to recover too. It must hold the states after
    /// operations not before `least`.
    fn check(&mut self, said: &Said, least: Numbers) {
        assert!(said.wrong.is_empty(), "the worker has read what is wrong: {:?}", said.wrong);
        copy_files(&self.dir, &self.copy);
        let opened = open(&self.copy).unwrap_or_else(|error| panic!("it must open: {error}"));
        let snapshot = opened.db.snapshot().unwrap();
        let states = read_all(&opened, &snapshot, false).unwrap();
        assert!(read_all(&opened, &snapshot, true).unwrap() == states, "the same in both directions");
        let second = read(opened.second.iter().unwrap(), false).unwrap();
        drop(snapshot);
        let number = marker(&states[0]);
        assert_eq!(number, marker(&states[1]), "half a batch");
        let found = [number, marker(&second)];
        let missing = (0..2).any(|writer| found[writer] < least[writer]);
        assert!(!missing, "operations {least:?} must be there, the database is at {found:?}");
        // Backward only if that is what a crash may do: buffered writes after the last synced one.
        if number < self.history.number {
            self.history = History::default();
        }
        self.history.go_on_to(number);
        assert!(states == self.history.states, "not the state after operation {number}");
        assert!(
            second == second_state(found[1]),
            "not the second writer's state after operation {}",
            found[1]
        );
        for key in [&b"key 000"[..], b"key 200", MARKER] {
            let got = opened.first[1].get(key).unwrap();
            assert_eq!(got.as_deref(), self.history.states[1].get(key).map(|value| &**value));
        }
        opened.db.close().unwrap();
        self.found = found;
    }
}

fn later(one: Numbers, other: Numbers) -> Numbers {
    [one[0].max(other[0]), one[1].max(other[1])]
}

/// Makes `to` a copy of the directory `from`, in which there are files only. If there is none, there is nothing to
/// copy.
fn copy_files(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    let entries = match std::fs::read_dir(from) {
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        entries => entries.unwrap(),
    };
    for entry in entries {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Chance, with a seed that is told.
fn random() -> Xoshiro256PlusPlus {
    let seed = seeds(1).next().expect("one was asked for");
    println!("seed {seed}");
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

/// Whether a program can be run.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    found.is_ok_and(|output| output.status.success())
}

/// Calls that change files, or lead to them.
const CALLS: &[&str] = &[
    "close",
    "fallocate",
    "fdatasync",
    "fsync",
    "ftruncate",
    "mkdir",
    "mkdirat",
    "mmap",
    "munmap",
    "open",
    "openat",
    "pread64",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "sync_file_range",
    "unlink",
    "unlinkat",
];

/// How often each call was made by the thread that made it most: before the worker looked at the database, by when it
/// had opened it, and in all. `strace` counts each thread by itself.
type Counted = BTreeMap<String, [u64; 3]>;

/// Traces a worker for a while.
fn count_calls(harness: &mut Harness, test: &str) -> Option<Counted> {
    let trace = harness.copy.with_extension("trace");
    // Not every machine has all of them.
    let what = format!("trace=?{},write", CALLS.join(",?"));
    let wrapper = ["strace", "-f", "-qq", "-o", &trace.to_string_lossy(), "-e", &what];
    let mut worker = harness.start(test, &wrapper.map(str::to_owned));
    let patience = Patience::of(&worker, Duration::from_secs(60));
    // It ends once nobody listens.
    let said = listen(&mut worker, harness.found[0] + 150);
    worker.wait().unwrap();
    let in_time = !patience.ended();
    let lines = std::fs::read_to_string(&trace).unwrap_or_default();
    if !lines.contains("write(") {
        return None;
    }
    assert!(in_time && said.acknowledged[0] > 0, "a traced worker comes to nothing: {said:?}");
    harness.check_killed(&said);

    let dir = harness.dir.to_string_lossy().into_owned();
    let mut counted = Counted::new();
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut phase = 0;
    for line in lines.lines() {
        if phase == 0 && line.contains(&dir) {
            phase = 1;
        } else if phase == 1 && (line.contains("\"written ") || line.contains("\"synced ")) {
            phase = 2;
        }
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let Some((call, _)) = call.trim_start().split_once('(') else { continue };
        if CALLS.contains(&call) {
            let count = counts.entry((thread, call)).or_default();
            *count += 1;
            for most in &mut counted.entry(call.to_owned()).or_default()[phase..] {
                *most = (*count).max(*most);
            }
        }
    }
    Some(counted)
}

#[test]
fn a_signal_at_any_system_call() {
    const TEST: &str = "a_signal_at_any_system_call";
    if is_worker() {
        return;
    }
    if !has("strace") {
        return skipped(TEST, "there is no strace");
    }
    let mut random = random();
    let directory = tempfile::tempdir().unwrap();
    let mut harness = Harness::new(directory.path().join("db"), directory.path());
    // Something to recover, for the one that is counted.
    kill_after(&mut harness, TEST, Duration::from_millis(500));
    let Some(counted) = count_calls(&mut harness, TEST) else {
        return skipped(TEST, "strace may not trace here");
    };
    println!("{TEST}: calls before the open, by its end, in all: {counted:?}");
    let opening = counted.iter().map(|(call, [before, opened, _])| (call, before + 1..=*opened));
    let running = counted.iter().map(|(call, [_, opened, all])| (call, opened + 1..=*all));
    let phases = [opening.collect::<Vec<_>>(), running.collect()]
        .map(|ranges| ranges.into_iter().filter(|(_, range)| !range.is_empty()).collect::<Vec<_>>());

    let tally = Tally::default();
    for round in rounds(25) {
        let choices = &phases[round as usize % 2];
        let (call, range) = choices[random.random_range(0..choices.len())].clone();
        let when = random.random_range(range);
        let inject = format!("inject={call}:signal=KILL:when={when}");
        let trace = format!("trace={call}");
        let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let mut worker = harness.start(TEST, &wrapper.map(str::to_owned));
        let patience = Patience::of(&worker, Duration::from_secs(15));
        let said = listen(&mut worker, u64::MAX);
        let status = worker.wait().unwrap();
        let reached = !patience.ended();
        // strace ends as what it traced has ended.
        assert_eq!(status.signal(), Some(9), "a worker goes on until it is stopped: {said:?}");
        let phase = if said.acknowledged == [0; 2] { "phase: while it was opened" } else { "phase: at work" };
        tally.add(if reached { phase } else { "never came to the call" }, 1);
        tally.add(&format!("call: {call}"), 1);
        harness.check_killed(&said);
    }
    let stopped = tally.sum("phase: ");
    covered(
        TEST,
        format_args!(
            "{} workers, {stopped} of them stopped at a system call ({}); calls: {}; {:?} operations",
            tally.sum("call: "),
            tally.show("phase: "),
            tally.show("call: "),
            harness.found,
        ),
    );
    let late = tally.get("never came to the call");
    assert!(
        late <= 2 + stopped / 20,
        "{late} workers never came to the call at which they were to be stopped"
    );
    assert!(harness.found[0] > 0, "no worker came to anything");
}

/// Kills a process and its children after a while.
struct Patience {
    timer: thread::JoinHandle<bool>,
    done: std::sync::mpsc::Sender<()>,
}

impl Patience {
    fn of(child: &Child, time: Duration) -> Patience {
        let (done, wait) = std::sync::mpsc::channel();
        let id = child.id();
        let timer = thread::spawn(move || {
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

/// Lets a worker run for a time and kills it.
fn kill_after(harness: &mut Harness, test: &str, time: Duration) {
    let mut worker = harness.start(test, &[]);
    let patience = Patience::of(&worker, time);
    let said = listen(&mut worker, u64::MAX);
    worker.wait().unwrap();
    assert!(patience.ended(), "a worker goes on until it is stopped: {said:?}");
    harness.check_killed(&said);
}

#[test]
fn a_kill_in_the_middle_of_everything() {
    const TEST: &str = "a_kill_in_the_middle_of_everything";
    if is_worker() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut harness = Harness::new(directory.path().join("db"), directory.path());
    let mut random = random();
    let (mut kills, mut long) = (0, 0);
    for round in rounds(10) {
        let is_long = time_limit().is_some() && round % 2 == 0;
        let time = if is_long { 2000 } else { random.random_range(20..500) };
        kill_after(&mut harness, TEST, Duration::from_millis(time));
        kills += 1;
        long += u64::from(is_long);
    }
    covered(
        TEST,
        format_args!("{kills} kills, {long} of them after 2 seconds, {:?} operations", harness.found),
    );
    assert!(harness.found[0] > 0, "no worker came to anything");
}

fn power_cuts(test: &str, kind: &str) {
    if is_worker() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount = match LoopMount::new(directory.path(), kind) {
        Ok(mount) => mount,
        Err(why) => return skipped(test, &why),
    };
    let mut harness = Harness::new(mount.point.join("db"), directory.path());
    let mut random = random();
    let (mut lost, mut cuts, mut kills, mut durable, started) = (0, 0, 0, [0; 2], Instant::now());
    for round in rounds(4) {
        cuts += 1;
        if round % 2 == 1 {
            kill_after(&mut harness, test, Duration::from_millis(random.random_range(20..200)));
            kills += 1;
        }
        let mut worker = harness.start(test, &[]);
        thread::sleep(Duration::from_millis(random.random_range(20..600)));
        if let Err(why) = mount.cut_power() {
            let _ = worker.kill();
            let _ = worker.wait();
            return skipped(test, &why);
        }
        // Whoever waits for the disk hears that it is gone; the worker ends by itself, or here.
        let patience = Patience::of(&worker, Duration::from_secs(5));
        let said = listen(&mut worker, u64::MAX);
        worker.wait().unwrap();
        patience.ended();
        mount.unmount().unwrap();
        mount.mount().unwrap();
        // Once it has acknowledged anything, what it found is durable.
        let kept = if said.acknowledged == [0; 2] { durable } else { harness.found };
        harness.check(&said, later(kept, said.synced));
        durable = harness.found;
        lost +=
            (0..2).map(|writer| said.acknowledged[writer].saturating_sub(harness.found[writer])).sum::<u64>();
    }
    let found = harness.found;
    covered(
        test,
        format_args!(
            "{cuts} power cuts in {:.0} s, {kills} of them after a kill; {found:?} operations, {lost} that \
             were not synced are gone",
            started.elapsed().as_secs_f64(),
        ),
    );
    assert!(found[0] > 0, "no worker came to anything");
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
