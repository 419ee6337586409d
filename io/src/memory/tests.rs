//! What crashes take and leave, what a full disk refuses, and what the hook sees.

use std::collections::BTreeSet;

use super::*;
use crate::{read_exact_at, write_all_at};

const SEEDS: u64 = 2000;

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// Creates a file with these bytes; nothing is durable yet.
fn create(fs: &MemoryFileSystem, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = fs.open(path(name), OpenMode::CreateNew).unwrap();
    write_all_at(&*file, bytes, 0).unwrap();
    file
}

/// The same, all durable.
fn create_durable(fs: &MemoryFileSystem, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = create(fs, name, bytes);
    file.sync().unwrap();
    fs.sync_dir(path(name).parent().unwrap()).unwrap();
    file
}

/// Names and bytes of the files at the top.
fn listing(fs: &MemoryFileSystem) -> Vec<(String, String)> {
    let mut names = fs.read_dir(path("")).unwrap();
    names.sort();
    let bytes = |name: &String| String::from_utf8(fs.file_bytes(path(name)).unwrap()).unwrap();
    names.into_iter().map(|name| (name.clone(), bytes(&name))).collect()
}

fn files(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, bytes)| ((*name).to_owned(), (*bytes).to_owned())).collect()
}

/// Everything that torn crashes of a file system can give.
fn torn_listings(fs: &MemoryFileSystem) -> BTreeSet<Vec<(String, String)>> {
    (0..SEEDS).map(|seed| listing(&fs.crash_clone(CrashPolicy::Torn { seed }))).collect()
}

/// What torn crashes can give of one file.
fn torn_bytes(fs: &MemoryFileSystem, name: &str) -> BTreeSet<Vec<u8>> {
    let crash = |seed| fs.crash_clone(CrashPolicy::Torn { seed }).file_bytes(path(name)).unwrap();
    (0..SEEDS).map(crash).collect()
}

#[test]
fn contents_are_durable_after_a_sync() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", b"one two");
    file.write_at(b"TWO three", 4).unwrap();
    let dropped = fs.crash_clone(CrashPolicy::DropUnsynced);
    assert_eq!(listing(&dropped), files(&[("a", "one two")]));
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::KeepAll)), files(&[("a", "one TWO three")]));
    file.set_len(2).unwrap();
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::DropUnsynced)), files(&[("a", "one two")]));
    file.sync().unwrap();
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::DropUnsynced)), files(&[("a", "on")]));
    assert_eq!(listing(&dropped), files(&[("a", "one two")]), "a clone changed with the original");
}

#[test]
fn a_sync_through_another_handle_counts() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", b"one");
    file.write_at(b"two", 0).unwrap();
    fs.open(path("a"), OpenMode::Read).unwrap().sync().unwrap();
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::DropUnsynced)), files(&[("a", "two")]));
}

#[test]
fn start_writeback_promises_nothing() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", b"one");
    file.write_at(b"two", 0).unwrap();
    file.start_writeback(0, 3);
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::DropUnsynced)), files(&[("a", "one")]));
}

#[test]
fn entries_are_durable_after_a_directory_sync() {
    let fs = MemoryFileSystem::new();
    let crashed = || listing(&fs.crash_clone(CrashPolicy::DropUnsynced));
    create(&fs, "a", b"a").sync().unwrap();
    assert_eq!(crashed(), files(&[]));
    fs.sync_dir(path("")).unwrap();
    assert_eq!(crashed(), files(&[("a", "a")]));
    fs.rename(path("a"), path("b")).unwrap();
    assert_eq!(crashed(), files(&[("a", "a")]));
    fs.sync_dir(path("")).unwrap();
    assert_eq!(crashed(), files(&[("b", "a")]));
    fs.remove_file(path("b")).unwrap();
    assert_eq!(crashed(), files(&[("b", "a")]));
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::KeepAll)), files(&[]));
    fs.sync_dir(path("")).unwrap();
    assert_eq!(crashed(), files(&[]));
}

#[test]
fn an_entry_without_its_contents_is_an_empty_file() {
    let fs = MemoryFileSystem::new();
    create(&fs, "a", b"a");
    fs.sync_dir(path("")).unwrap();
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::DropUnsynced)), files(&[("a", "")]));
}

#[test]
fn a_file_is_synced_under_whatever_name_it_has() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "old.log", b"old");
    fs.rename(path("old.log"), path("new.log")).unwrap();
    file.write_at(b"new", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::DropUnsynced)), files(&[("old.log", "new")]));
}

#[test]
fn directories_are_synced_one_by_one() {
    let fs = MemoryFileSystem::new();
    fs.create_dir_all(path("x/y")).unwrap();
    create(&fs, "x/a", b"");
    create(&fs, "x/y/b", b"");
    fs.sync_dir(path("x")).unwrap();
    let crashed = fs.crash_clone(CrashPolicy::DropUnsynced);
    let mut names = crashed.read_dir(path("x")).unwrap();
    names.sort();
    assert_eq!(names, ["a", "y"]);
    assert_eq!(crashed.read_dir(path("x/y")).unwrap(), [""; 0]);
}

#[test]
fn a_rename_between_directories_is_durable_in_both_at_once() {
    for synced in ["x", "y"] {
        let fs = MemoryFileSystem::new();
        fs.create_dir_all(path("x")).unwrap();
        fs.create_dir_all(path("y")).unwrap();
        create(&fs, "x/a", b"a");
        fs.rename(path("x/a"), path("y/b")).unwrap();
        fs.sync_dir(path(synced)).unwrap();
        fs.sync_dir(path("x")).unwrap();
        let crashed = fs.crash_clone(CrashPolicy::DropUnsynced);
        assert_eq!(crashed.read_dir(path("x")).unwrap(), [""; 0]);
        assert_eq!(crashed.read_dir(path("y")).unwrap(), ["b"]);
    }
}

#[test]
fn a_torn_rename_leaves_the_old_state_or_the_new_one() {
    let fs = MemoryFileSystem::new();
    create_durable(&fs, "CURRENT", b"1");
    create_durable(&fs, "tmp", b"2");
    fs.rename(path("tmp"), path("CURRENT")).unwrap();
    let old = files(&[("CURRENT", "1"), ("tmp", "2")]);
    let new = files(&[("CURRENT", "2")]);
    assert_eq!(torn_listings(&fs), BTreeSet::from([old.clone(), new.clone()]));

    // The freed name is used again: that is known only to one who knows of the rename.
    create(&fs, "tmp", b"3").sync().unwrap();
    let newer = files(&[("CURRENT", "2"), ("tmp", "3")]);
    assert_eq!(torn_listings(&fs), BTreeSet::from([old, new, newer]));
}

#[test]
fn a_link_is_durable_with_its_directory() {
    let fs = MemoryFileSystem::new();
    fs.create_dir_all(path("x")).unwrap();
    fs.create_dir_all(path("y")).unwrap();
    create_durable(&fs, "x/a", b"a");
    fs.hard_link(path("x/a"), path("y/b")).unwrap();
    let names_after = |policy| fs.crash_clone(policy).read_dir(path("y")).unwrap();
    fs.sync_dir(path("x")).unwrap();
    assert_eq!(names_after(CrashPolicy::DropUnsynced), [""; 0], "that is the old name's directory");
    assert_eq!(names_after(CrashPolicy::DropEntries), [""; 0]);
    assert_eq!(names_after(CrashPolicy::DropBytes), ["b"]);
    let torn: BTreeSet<usize> =
        (0..SEEDS).map(|seed| names_after(CrashPolicy::Torn { seed }).len()).collect();
    assert_eq!(torn, BTreeSet::from([0, 1]));
    fs.sync_dir(path("y")).unwrap();
    // The old name can go, in a crash too.
    fs.remove_file(path("x/a")).unwrap();
    fs.sync_dir(path("x")).unwrap();
    for policy in [CrashPolicy::DropUnsynced, CrashPolicy::DropBytes, CrashPolicy::Torn { seed: 7 }] {
        let crashed = fs.crash_clone(policy);
        assert_eq!(crashed.file_bytes(path("y/b")).unwrap(), b"a", "{policy:?}");
    }
}

#[test]
fn a_file_with_two_names_is_one_file_after_a_crash_too() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", &[b'0'; 4 * SECTOR]);
    fs.hard_link(path("a"), path("b")).unwrap();
    fs.sync_dir(path("")).unwrap();
    file.write_at(&[b'1'; 4 * SECTOR], 0).unwrap();
    for seed in 0..200 {
        let crashed = fs.crash_clone(CrashPolicy::Torn { seed });
        let bytes = |name| crashed.file_bytes(path(name)).unwrap();
        assert_eq!(bytes("a"), bytes("b"), "torn in two ways");
        crashed.open(path("a"), OpenMode::ReadWrite).unwrap().write_at(b"new", 0).unwrap();
        assert_eq!(bytes("b")[..3], *b"new");
    }
    let killed = fs.process_kill_clone();
    killed.open(path("b"), OpenMode::ReadWrite).unwrap().write_at(b"new", 0).unwrap();
    assert_eq!(killed.file_bytes(path("a")).unwrap()[..3], *b"new");
    assert_eq!(fs.file_bytes(path("a")).unwrap()[..3], *b"111");
    // A sync by one name is one of the file.
    fs.open(path("b"), OpenMode::ReadWrite).unwrap().sync().unwrap();
    assert_eq!(fs.crash_clone(CrashPolicy::DropUnsynced).file_bytes(path("a")).unwrap()[..3], *b"111");
}

#[test]
fn a_link_takes_no_room_and_shows_in_the_fingerprint() {
    let [linked, copied] = [true, false].map(|is_link| {
        let fs = MemoryFileSystem::new();
        create_durable(&fs, "a", b"bytes");
        match is_link {
            true => fs.hard_link(path("a"), path("b")).unwrap(),
            false => drop(create_durable(&fs, "b", b"bytes")),
        }
        fs.sync_dir(path("")).unwrap();
        fs
    });
    assert_eq!(listing(&linked), listing(&copied));
    assert_eq!((linked.total_bytes(), copied.total_bytes()), (5, 10));
    assert_ne!(linked.fingerprint(), copied.fingerprint());
    assert_eq!(linked.fingerprint(), linked.crash_clone(CrashPolicy::DropUnsynced).fingerprint());
    linked.set_capacity(Some(5));
    linked.hard_link(path("a"), path("c")).unwrap();
    assert!(
        linked.open(path("c"), OpenMode::ReadWrite).unwrap().write_at(b"!", 5).unwrap_err().is_disk_full()
    );
}

#[test]
fn entries_are_lost_without_bytes_and_bytes_without_entries() {
    let fs = MemoryFileSystem::new();
    let old = create_durable(&fs, "old", b"one");
    create_durable(&fs, "gone", b"gone");
    old.write_at(b"two", 0).unwrap();
    fs.rename(path("old"), path("renamed")).unwrap();
    fs.remove_file(path("gone")).unwrap();
    create(&fs, "new", b"new").sync().unwrap();
    create(&fs, "newer", b"newer");
    let crash = |policy| listing(&fs.crash_clone(policy));
    assert_eq!(crash(CrashPolicy::DropEntries), files(&[("gone", "gone"), ("old", "two")]));
    let without_bytes = files(&[("new", "new"), ("newer", ""), ("renamed", "one")]);
    assert_eq!(crash(CrashPolicy::DropBytes), without_bytes);
    // What each of them leaves is durable.
    for policy in [CrashPolicy::DropEntries, CrashPolicy::DropBytes] {
        let once = fs.crash_clone(policy);
        assert_eq!(listing(&once.crash_clone(CrashPolicy::DropUnsynced)), listing(&once));
    }
}

#[test]
fn torn_entries_survive_independently_of_bytes() {
    let fs = MemoryFileSystem::new();
    let old = create_durable(&fs, "old", b"one");
    old.write_at(b"two", 0).unwrap();
    create(&fs, "new", b"new").sync().unwrap();
    let expected = [
        files(&[("old", "one")]),
        files(&[("old", "two")]),
        files(&[("new", "new"), ("old", "one")]),
        files(&[("new", "new"), ("old", "two")]),
    ];
    assert_eq!(torn_listings(&fs), BTreeSet::from(expected));
}

#[test]
fn torn_changes_to_different_names_survive_independently() {
    let fs = MemoryFileSystem::new();
    create_durable(&fs, "a", b"a");
    fs.remove_file(path("a")).unwrap();
    create(&fs, "b", b"b").sync().unwrap();
    let expected = [files(&[]), files(&[("a", "a")]), files(&[("b", "b")]), files(&[("a", "a"), ("b", "b")])];
    assert_eq!(torn_listings(&fs), BTreeSet::from(expected));
}

#[test]
fn a_torn_file_mixes_sectors_but_never_within_one() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", &[b'0'; 4 * SECTOR]);
    file.write_at(&[b'1'; 3 * SECTOR], 0).unwrap();
    file.write_at(&[b'2'; 3 * SECTOR], SECTOR as u64).unwrap();
    let mut seen = BTreeSet::new();
    for bytes in torn_bytes(&fs, "a") {
        assert_eq!(bytes.len(), 4 * SECTOR);
        for sector in bytes.chunks(SECTOR) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is torn");
        }
        seen.insert(bytes.iter().step_by(SECTOR).map(|byte| char::from(*byte)).collect::<String>());
    }
    let possible = |text: &String| {
        let mut sectors = text.chars();
        ["01", "012", "012", "02"].iter().all(|of| sectors.next().is_some_and(|sector| of.contains(sector)))
    };
    assert!(seen.iter().all(possible), "{seen:?}");
    assert_eq!(seen.len(), 2 * 3 * 3 * 2, "not everything that can happen does");
}

/// As in `contents.rs`.
const SECTOR: usize = 512;

#[test]
fn writes_to_one_sector_survive_in_their_order() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", b"......");
    for (offset, byte) in [b"a", b"b", b"c", b"d"].into_iter().enumerate() {
        file.write_at(byte, offset as u64).unwrap();
    }
    file.write_at(b"A", 0).unwrap();
    let expected = ["......", "a.....", "ab....", "abc...", "abcd..", "Abcd.."];
    assert_eq!(torn_bytes(&fs, "a"), expected.iter().map(|bytes| bytes.as_bytes().to_vec()).collect());
}

#[test]
fn the_length_of_a_torn_append_lies_in_between_and_holes_are_zeros() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", b"");
    file.write_at(&[b'1'; 3 * SECTOR], 0).unwrap();
    file.write_at(&[b'2'; SECTOR], 3 * SECTOR as u64).unwrap();
    let all = torn_bytes(&fs, "a");
    assert!(all.iter().all(|bytes| bytes.len() <= 4 * SECTOR));
    let lengths: BTreeSet<usize> = all.iter().map(Vec::len).collect();
    assert!(lengths.contains(&0) && lengths.contains(&(3 * SECTOR)) && lengths.contains(&(4 * SECTOR)));
    assert!(lengths.iter().any(|len| len % SECTOR != 0));
    for bytes in &all {
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            let written = if index == 3 { b'2' } else { b'1' };
            assert!(sector.iter().all(|byte| *byte == sector[0] && [0, written].contains(byte)));
        }
    }
    assert!(all.iter().any(|bytes| bytes.len() == 4 * SECTOR && bytes[0] == 0 && bytes[3 * SECTOR] == b'2'));
}

#[test]
fn a_torn_cut_has_happened_or_not() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", b"0123456789");
    file.set_len(4).unwrap();
    for bytes in torn_bytes(&fs, "a") {
        assert!((4..=10).contains(&bytes.len()));
        assert_eq!(bytes[..4], *b"0123");
        let rest = &bytes[4..];
        assert!(*rest == b"456789"[..rest.len()] || rest.iter().all(|byte| *byte == 0), "{bytes:?}");
    }
}

#[test]
fn what_was_cut_off_does_not_come_back_under_a_later_write() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", b"0123456789");
    file.set_len(4).unwrap();
    file.write_at(b"x", 9).unwrap();
    let seen = torn_bytes(&fs, "a");
    assert!(seen.contains(&b"0123456789"[..]) && seen.contains(&b"0123\0\0\0\0\0x"[..]), "{seen:?}");
    assert!(!seen.contains(&b"012345678x"[..]));
}

#[test]
fn torn_crashes_leave_alone_what_was_synced_and_depend_on_the_seed_only() {
    let fs = MemoryFileSystem::new();
    create_durable(&fs, "a", &[b'a'; 5000]);
    let file = create_durable(&fs, "b", &[b'b'; 5000]);
    write_all_at(&*file, &[b'B'; 5000], 0).unwrap();
    let crash = |seed| fs.crash_clone(CrashPolicy::Torn { seed });
    for seed in 0..100 {
        assert_eq!(crash(seed).file_bytes(path("a")).unwrap(), [b'a'; 5000]);
        assert_eq!(listing(&crash(seed)), listing(&crash(seed)));
    }
    // What a crash left is durable: a second one takes nothing.
    let once = crash(7);
    assert_eq!(listing(&once.crash_clone(CrashPolicy::DropUnsynced)), listing(&once));
}

#[test]
fn a_killed_process_leaves_everything_but_makes_nothing_durable() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", b"one");
    file.write_at(b"two", 0).unwrap();
    create(&fs, "b", b"b").sync().unwrap();
    let lock = fs.lock_dir(path("")).unwrap();
    let killed = fs.process_kill_clone();
    assert_eq!(listing(&killed), files(&[("LOCK", ""), ("a", "two"), ("b", "b")]));
    assert_eq!(listing(&killed.crash_clone(CrashPolicy::DropUnsynced)), files(&[("a", "one")]));
    killed.lock_dir(path("")).unwrap();

    // The two have nothing in common any more.
    file.write_at(b"six", 0).unwrap();
    killed.open(path("a"), OpenMode::Read).unwrap().sync().unwrap();
    killed.sync_dir(path("")).unwrap();
    let crashed = killed.crash_clone(CrashPolicy::DropUnsynced);
    assert_eq!(listing(&crashed), files(&[("LOCK", ""), ("a", "two"), ("b", "b")]));
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::DropUnsynced)), files(&[("a", "one")]));
    drop(lock);
}

#[test]
fn locks_do_not_survive_a_crash() {
    let fs = MemoryFileSystem::new();
    let _lock = fs.lock_dir(path("")).unwrap();
    for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll, CrashPolicy::Torn { seed: 1 }] {
        fs.crash_clone(policy).lock_dir(path("")).unwrap();
    }
    assert!(matches!(fs.lock_dir(path(".")), Err(Error::Locked { .. })));
}

#[test]
fn what_a_failed_sync_lost_is_read_but_never_durable() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", b"one   ");
    file.write_at(b"two", 0).unwrap();
    fs.lose_unsynced(path("a")).unwrap();
    file.write_at(b"six", 3).unwrap();
    file.sync().unwrap();
    assert_eq!(fs.file_bytes(path("a")).unwrap(), b"twosix");
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::DropUnsynced)), files(&[("a", "onesix")]));
}

#[test]
fn damage_is_seen_by_open_files_and_survives() {
    let fs = MemoryFileSystem::new();
    let file = create_durable(&fs, "a", b"one");
    let mapped = file.map(3).unwrap();
    fs.replace_bytes(path("a"), b"damaged".to_vec()).unwrap();
    let mut buf = [0; 7];
    read_exact_at(&*file, &mut buf, 0).unwrap();
    assert_eq!(&buf, b"damaged");
    assert_eq!(&*mapped, b"one");
    assert_eq!(listing(&fs.crash_clone(CrashPolicy::DropUnsynced)), files(&[("a", "damaged")]));
    assert!(fs.replace_bytes(path("b"), Vec::new()).unwrap_err().is_not_found());
    assert!(fs.file_bytes(path("b")).unwrap_err().is_not_found());
}

#[test]
fn a_full_disk_takes_what_fits_and_refuses_the_rest() {
    let fs = MemoryFileSystem::new();
    let a = create(&fs, "a", &[1; 60]);
    let b = create(&fs, "b", &[]);
    fs.set_capacity(Some(100));
    assert_eq!(b.write_at(&[2; 50], 0).unwrap(), 40);
    assert!(b.write_at(&[2; 10], 40).unwrap_err().is_disk_full());
    assert!(b.set_len(41).unwrap_err().is_disk_full());
    assert_eq!(fs.total_bytes(), 100);

    assert_eq!(a.write_at(&[3; 60], 0).unwrap(), 60, "writing in place needs no space");
    assert_eq!(a.write_at(&[3; 60], 10).unwrap(), 50);
    assert!(a.write_at(&[3], 200).unwrap_err().is_disk_full());
    let crashed = fs.crash_clone(CrashPolicy::KeepAll);
    assert!(crashed.open(path("a"), OpenMode::ReadWrite).unwrap().set_len(61).unwrap_err().is_disk_full());

    fs.remove_file(path("b")).unwrap();
    assert_eq!(a.write_at(&[3; 60], 60).unwrap(), 40);
    fs.set_capacity(None);
    assert_eq!(a.write_at(&[3; 60], 100).unwrap(), 60);
}

#[test]
fn an_absurd_offset_is_an_error() {
    let fs = MemoryFileSystem::new();
    let file = create(&fs, "a", b"a");
    assert!(!file.write_at(b"b", u64::MAX).unwrap_err().is_disk_full());
    file.write_at(b"bb", i64::MAX as u64).unwrap_err();
    file.set_len(u64::MAX).unwrap_err();
    assert_eq!(file.read_at(&mut [0; 2], u64::MAX).unwrap(), 0);
    assert_eq!(fs.file_bytes(path("a")).unwrap(), b"a");
}

#[test]
fn the_hook_sees_the_state_before_every_mutation() {
    let fs = MemoryFileSystem::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (fs, seen) = (fs.clone(), Arc::clone(&seen));
        move |mutation: &Mutation<'_>| {
            seen.lock().push((mutation.index, listing(&fs.crash_clone(CrashPolicy::KeepAll))))
        }
    };
    assert_eq!(fs.mutations(), 0);
    fs.set_hook(hook);
    let file = create(&fs, "a", b"one");
    file.set_len(2).unwrap();
    file.sync().unwrap();
    fs.rename(path("a"), path("b")).unwrap();
    fs.sync_dir(path("")).unwrap();
    fs.remove_file(path("b")).unwrap();
    fs.remove_file(path("b")).unwrap_err();
    file.len().unwrap();
    fs.read_dir(path("")).unwrap();
    fs.remove_hook();
    create(&fs, "c", b"");
    let expected: Vec<Vec<(String, String)>> = vec![
        files(&[]),
        files(&[("a", "")]),
        files(&[("a", "one")]),
        files(&[("a", "on")]),
        files(&[("a", "on")]),
        files(&[("b", "on")]),
        files(&[("b", "on")]),
        files(&[]),
    ];
    assert_eq!(*seen.lock(), (0..).zip(expected).collect::<Vec<_>>());
    assert_eq!(fs.mutations(), 9);
}

#[test]
fn the_hook_is_told_what_will_be_done() {
    let fs = MemoryFileSystem::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let seen = Arc::clone(&seen);
        move |mutation: &Mutation<'_>| {
            let Mutation { index, operation, path, to } = *mutation;
            seen.lock().push((index, operation, path.to_owned(), to.map(Path::to_owned)));
        }
    };
    fs.set_hook(hook);
    fs.create_dir_all(path("x")).unwrap();
    let file = create(&fs, "x/a", b"one");
    file.set_len(2).unwrap();
    file.sync().unwrap();
    fs.rename(path("x/a"), path("x/b")).unwrap();
    fs.sync_dir(path("x")).unwrap();
    fs.remove_file(path("x/b")).unwrap();
    drop(fs.lock_dir(path("x")).unwrap());
    let expected = [
        (Operation::CreateDirectory, "x", None),
        (Operation::Create, "x/a", None),
        (Operation::Write, "x/a", None),
        (Operation::SetLength, "x/a", None),
        (Operation::Sync, "x/a", None),
        (Operation::Rename, "x/a", Some("x/b")),
        (Operation::SyncDirectory, "x", None),
        (Operation::Remove, "x/b", None),
        (Operation::Create, "x/LOCK", None),
    ];
    let expected = (0..)
        .zip(expected)
        .map(|(index, (operation, name, to))| (index, operation, PathBuf::from(name), to.map(PathBuf::from)));
    assert_eq!(*seen.lock(), expected.collect::<Vec<_>>());
}

#[test]
fn the_fingerprint_tells_apart_what_is_found_and_what_is_durable() {
    let fs = MemoryFileSystem::new();
    let mut seen = BTreeSet::new();
    let mut is_new = |fs: &MemoryFileSystem| seen.insert(fs.fingerprint());
    assert!(is_new(&fs));
    let file = create(&fs, "a", b"one");
    assert!(is_new(&fs), "a file that is written");
    file.sync().unwrap();
    assert!(is_new(&fs), "its bytes are durable");
    fs.sync_dir(path("")).unwrap();
    assert!(is_new(&fs), "its name is durable");
    file.write_at(b"t", 0).unwrap();
    assert!(is_new(&fs), "a byte is changed");
    fs.rename(path("a"), path("b")).unwrap();
    assert!(is_new(&fs), "its name is changed");
    fs.replace_bytes(path("b"), b"other".to_vec()).unwrap();
    assert!(is_new(&fs), "all of it is changed");

    let killed = fs.process_kill_clone();
    assert_eq!(killed.fingerprint(), fs.fingerprint());
    assert_ne!(killed.fingerprint(), fs.crash_clone(CrashPolicy::KeepAll).fingerprint());
    fs.sync_dir(path("")).unwrap();
    for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll, CrashPolicy::Torn { seed: 1 }] {
        assert_eq!(fs.crash_clone(policy).fingerprint(), fs.fingerprint(), "nothing is unsynced: {policy:?}");
    }
    // It comes back with the bytes.
    let before = fs.fingerprint();
    let file = fs.open(path("b"), OpenMode::ReadWrite).unwrap();
    file.write_at(b"O", 0).unwrap();
    assert_ne!(fs.fingerprint(), before);
    file.write_at(b"o", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(fs.fingerprint(), before);
}

#[test]
fn crash_copies_are_of_one_moment_while_others_write() {
    let fs = MemoryFileSystem::new();
    let first = create(&fs, "first", &0u64.to_le_bytes());
    let second = create(&fs, "second", &0u64.to_le_bytes());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..20_000u64 {
                first.write_at(&number.to_le_bytes(), 0).unwrap();
                second.write_at(&number.to_le_bytes(), 0).unwrap();
            }
        });
        for _ in 0..20 {
            let crashed = fs.crash_clone(CrashPolicy::KeepAll);
            let number =
                |name| u64::from_le_bytes(crashed.file_bytes(path(name)).unwrap().try_into().unwrap());
            let (first, second) = (number("first"), number("second"));
            assert!(first == second || first == second + 1, "{first} before {second}");
        }
    });
}
