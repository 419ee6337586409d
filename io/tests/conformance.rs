//! One suite over every implementation of the seam.
//!
//! Goal: code that was tested over memory or under faults runs over the operating system unchanged. Method:
//! each case is a function of a file system and an empty directory in it; it runs over the operating system,
//! over memory, and over both of them wrapped for faults, without rules. A case states what [`FileSystem`] and
//! [`File`] promise, and the kind of error where callers tell kinds apart.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use terrace_io::{
    Advice, CacheUse, Error, FaultFileSystem, File, FileSystem, LogFile, Medium, MemoryFileSystem, OpenMode,
    Operation, OsFileSystem, Result, ScanReader, SequentialWriter, read_exact_at, read_exact_past_cache_at,
    write_all_at,
};

/// Makes a test of each case for each file system.
macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod os {
            $(#[test] fn $case() {
                let directory = tempfile::tempdir().unwrap();
                super::$case(&super::OsFileSystem, directory.path());
            })*
        }

        mod memory {
            $(#[test] fn $case() {
                super::over_memory(&super::MemoryFileSystem::new(), super::$case);
            })*
        }

        mod fault_over_memory {
            $(#[test] fn $case() {
                super::over_memory(&super::without_rules(super::MemoryFileSystem::new()), super::$case);
            })*
        }

        mod fault_over_os {
            $(#[test] fn $case() {
                let directory = tempfile::tempdir().unwrap();
                super::$case(&super::without_rules(super::OsFileSystem), directory.path());
            })*
        }
    };
}

conformance![
    a_new_file_is_empty_and_exists_once,
    missing_files_and_directories_are_not_found,
    a_directory_is_no_file,
    a_file_is_no_directory,
    reads_stop_at_the_end,
    reads_past_the_cache_give_the_same_bytes,
    writes_extend_and_leave_zeros,
    an_empty_write_changes_nothing,
    a_file_opened_for_reading_is_not_written,
    lengths_are_set,
    handles_see_each_other,
    a_rename_replaces_and_keeps_open_files,
    a_rename_to_itself_changes_nothing,
    a_link_is_a_second_name,
    links_that_cannot_be_are_refused,
    a_rename_onto_another_name_of_the_file_changes_nothing,
    ranges_are_copied,
    a_removed_file_stays_open,
    directories_are_created_with_those_above,
    a_listing_has_names_only_of_this_directory,
    directories_are_synced,
    one_lock_at_a_time,
    readers_share_a_lock_and_keep_writers_out,
    a_map_is_the_front_of_the_file,
    hints_change_nothing,
    absurd_offsets_are_refused,
    other_spellings_of_a_path_name_the_same_file,
    everything_local_is_local,
    threads_write_their_own_places,
    the_paths_on_top_work_together,
];

fn over_memory(fs: &dyn FileSystem, case: fn(&dyn FileSystem, &Path)) {
    let directory = Path::new("/some/directory");
    fs.create_dir_all(directory).unwrap();
    case(fs, directory);
}

fn without_rules(inner: impl FileSystem) -> FaultFileSystem {
    FaultFileSystem::new(Arc::new(inner))
}

/// A new file with these bytes.
fn create(fs: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Arc<dyn File> {
    let file = fs.open(path, OpenMode::CreateNew).unwrap();
    write_all_at(&*file, bytes, 0).unwrap();
    file
}

/// All the bytes of an open file.
fn contents(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    read_exact_at(file, &mut bytes, 0).unwrap();
    bytes
}

/// The entries of a directory, sorted.
fn names(fs: &dyn FileSystem, directory: &Path) -> Vec<String> {
    let mut names = fs.read_dir(directory).unwrap();
    names.sort();
    names
}

/// The kind of an I/O error, which must name this file and this operation.
#[track_caller]
fn kind<T>(result: Result<T>, path: &Path, operation: Operation) -> ErrorKind {
    match result {
        Err(Error::Io { path: found, operation: what, source }) => {
            assert_eq!((found.as_path(), what), (path, operation));
            source.kind()
        }
        Err(other) => panic!("not an I/O error: {other}"),
        Ok(_) => panic!("{operation} succeeded on {}", path.display()),
    }
}

fn a_new_file_is_empty_and_exists_once(fs: &dyn FileSystem, directory: &Path) {
    let path = directory.join("a");
    let file = fs.open(&path, OpenMode::CreateNew).unwrap();
    assert_eq!(file.path(), path);
    assert!(file.is_empty().unwrap());
    assert_eq!(file.len().unwrap(), 0);
    assert_eq!(kind(fs.open(&path, OpenMode::CreateNew), &path, Operation::Create), ErrorKind::AlreadyExists);
    write_all_at(&*file, b"bytes", 0).unwrap();
    assert_eq!(kind(fs.open(&path, OpenMode::CreateNew), &path, Operation::Create), ErrorKind::AlreadyExists);
    assert_eq!(contents(&*fs.open(&path, OpenMode::Read).unwrap()), b"bytes");
}

fn missing_files_and_directories_are_not_found(fs: &dyn FileSystem, directory: &Path) {
    let missing = directory.join("missing");
    let below = missing.join("below");
    for path in [&missing, &below] {
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            let refused = fs.open(path, mode).unwrap_err();
            assert!(refused.is_not_found(), "{refused}");
            assert_eq!(kind(Err::<(), _>(refused), path, Operation::Open), ErrorKind::NotFound);
        }
        assert_eq!(kind(fs.remove_file(path), path, Operation::Remove), ErrorKind::NotFound);
        assert_eq!(kind(fs.rename(path, &directory.join("b")), path, Operation::Rename), ErrorKind::NotFound);
        assert_eq!(kind(fs.read_dir(path), path, Operation::ReadDirectory), ErrorKind::NotFound);
        assert_eq!(kind(fs.sync_dir(path), path, Operation::SyncDirectory), ErrorKind::NotFound);
        assert_eq!(kind(fs.medium(path), path, Operation::Metadata), ErrorKind::NotFound);
        assert!(fs.lock_dir(path).unwrap_err().is_not_found());
    }
    assert_eq!(kind(fs.open(&below, OpenMode::CreateNew), &below, Operation::Create), ErrorKind::NotFound);
    let file = directory.join("a");
    create(fs, &file, b"bytes");
    assert_eq!(kind(fs.rename(&file, &below), &file, Operation::Rename), ErrorKind::NotFound);
    assert_eq!(names(fs, directory), ["a"]);
}

fn a_directory_is_no_file(fs: &dyn FileSystem, directory: &Path) {
    let path = directory.join("d");
    fs.create_dir_all(&path).unwrap();
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        assert_eq!(kind(fs.open(&path, mode), &path, Operation::Open), ErrorKind::IsADirectory);
    }
    assert_eq!(kind(fs.open(&path, OpenMode::CreateNew), &path, Operation::Create), ErrorKind::AlreadyExists);
    kind(fs.remove_file(&path), &path, Operation::Remove);
    let file = directory.join("a");
    create(fs, &file, b"");
    kind(fs.rename(&file, &path), &file, Operation::Rename);
    assert_eq!(names(fs, directory), ["a", "d"]);
}

fn a_file_is_no_directory(fs: &dyn FileSystem, directory: &Path) {
    let path = directory.join("a");
    create(fs, &path, b"");
    let below = path.join("b");
    assert_eq!(kind(fs.read_dir(&path), &path, Operation::ReadDirectory), ErrorKind::NotADirectory);
    assert_eq!(kind(fs.sync_dir(&path), &path, Operation::SyncDirectory), ErrorKind::NotADirectory);
    assert_eq!(kind(fs.open(&below, OpenMode::Read), &below, Operation::Open), ErrorKind::NotADirectory);
    assert_eq!(
        kind(fs.open(&below, OpenMode::CreateNew), &below, Operation::Create),
        ErrorKind::NotADirectory
    );
    for path in [&path, &below, &below.join("c")] {
        assert!(fs.create_dir_all(path).is_err());
    }
    assert!(fs.lock_dir(&path).is_err());
    assert_eq!(names(fs, directory), ["a"]);
}

fn reads_stop_at_the_end(fs: &dyn FileSystem, directory: &Path) {
    let file = create(fs, &directory.join("a"), b"terrace");
    let mut buf = [b'.'; 10];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 7);
    assert_eq!(&buf, b"terrace...");
    assert_eq!(file.read_at(&mut buf[..3], 4).unwrap(), 3);
    assert_eq!(&buf, b"acerace...");
    for offset in [7, 8, 1 << 40] {
        assert_eq!(file.read_at(&mut buf, offset).unwrap(), 0);
    }
    assert_eq!(file.read_at(&mut [], 3).unwrap(), 0);
    let cut = read_exact_at(&*file, &mut buf, 3).unwrap_err();
    assert!(matches!(cut, Error::Corruption { offset: 7, .. }), "{cut}");
}

fn reads_past_the_cache_give_the_same_bytes(fs: &dyn FileSystem, directory: &Path) {
    // Neither the length nor the places are aligned, and the second piece is longer than one direct read.
    let bytes: Vec<u8> = (0..3_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let path = directory.join("a");
    let file = create(fs, &path, &bytes);
    // Written and not yet synced, through another descriptor, and after its name has gone.
    let reader = fs.open(&path, OpenMode::Read).unwrap();
    fs.remove_file(&path).unwrap();
    for (offset, len) in [(0, 1), (1, 2_500_000), (4095, 2), (8192, 4096), (2_999_990, 11), (2_000_000, 0)] {
        let mut buf = vec![0; len];
        read_exact_past_cache_at(&*reader, &mut buf, offset as u64).unwrap();
        assert!(buf == bytes[offset..offset + len], "{len} bytes at {offset}");
    }
    file.write_at(b"new", 5000).unwrap();
    let mut buf = [0; 3];
    read_exact_past_cache_at(&*reader, &mut buf, 5000).unwrap();
    assert_eq!(&buf, b"new");
    for offset in [3_000_001, 3_000_002, 1 << 40] {
        assert_eq!(reader.read_past_cache_at(&mut buf, offset).unwrap(), 0);
    }
    let cut = read_exact_past_cache_at(&*reader, &mut buf, 2_999_999).unwrap_err();
    assert!(matches!(cut, Error::Corruption { offset: 3_000_001, .. }), "{cut}");
}

fn writes_extend_and_leave_zeros(fs: &dyn FileSystem, directory: &Path) {
    let file = create(fs, &directory.join("a"), b"one");
    write_all_at(&*file, b"two", 6).unwrap();
    assert_eq!(contents(&*file), b"one\0\0\0two");
    write_all_at(&*file, b"ONE", 1).unwrap();
    assert_eq!(contents(&*file), b"oONE\0\0two");
    write_all_at(&*file, b"six", 8).unwrap();
    assert_eq!(contents(&*file), b"oONE\0\0twsix");
}

fn an_empty_write_changes_nothing(fs: &dyn FileSystem, directory: &Path) {
    let file = create(fs, &directory.join("a"), b"one");
    assert_eq!(file.write_at(&[], 10).unwrap(), 0);
    write_all_at(&*file, &[], 10).unwrap();
    assert_eq!(contents(&*file), b"one");
}

fn a_file_opened_for_reading_is_not_written(fs: &dyn FileSystem, directory: &Path) {
    let path = directory.join("a");
    create(fs, &path, b"one");
    let file = fs.open(&path, OpenMode::Read).unwrap();
    kind(file.write_at(b"two", 0), &path, Operation::Write);
    kind(file.set_len(1), &path, Operation::SetLength);
    file.sync().unwrap();
    assert_eq!(contents(&*file), b"one");
}

fn lengths_are_set(fs: &dyn FileSystem, directory: &Path) {
    let file = create(fs, &directory.join("a"), b"terrace");
    file.set_len(3).unwrap();
    assert_eq!(contents(&*file), b"ter");
    file.set_len(6).unwrap();
    assert_eq!(contents(&*file), b"ter\0\0\0");
    file.set_len(0).unwrap();
    assert!(file.is_empty().unwrap());
}

fn handles_see_each_other(fs: &dyn FileSystem, directory: &Path) {
    let path = directory.join("a");
    let first = create(fs, &path, b"one");
    let second = fs.open(&path, OpenMode::ReadWrite).unwrap();
    let third = fs.open(&path, OpenMode::Read).unwrap();
    write_all_at(&*second, b"two", 3).unwrap();
    assert_eq!(contents(&*first), b"onetwo");
    first.set_len(4).unwrap();
    assert_eq!(contents(&*third), b"onet");
}

fn a_rename_replaces_and_keeps_open_files(fs: &dyn FileSystem, directory: &Path) {
    let (from, to) = (directory.join("from"), directory.join("to"));
    let new = create(fs, &from, b"new");
    let old = create(fs, &to, b"old");
    fs.rename(&from, &to).unwrap();
    assert_eq!(names(fs, directory), ["to"]);
    assert_eq!(contents(&*fs.open(&to, OpenMode::Read).unwrap()), b"new");
    assert_eq!(contents(&*old), b"old");
    write_all_at(&*new, b"er", 3).unwrap();
    assert_eq!(contents(&*fs.open(&to, OpenMode::Read).unwrap()), b"newer");
    assert!(fs.open(&from, OpenMode::Read).unwrap_err().is_not_found());
    fs.open(&from, OpenMode::CreateNew).unwrap();
}

fn a_rename_to_itself_changes_nothing(fs: &dyn FileSystem, directory: &Path) {
    let path = directory.join("a");
    create(fs, &path, b"bytes");
    fs.rename(&path, &path).unwrap();
    assert_eq!(contents(&*fs.open(&path, OpenMode::Read).unwrap()), b"bytes");
}

fn a_link_is_a_second_name(fs: &dyn FileSystem, directory: &Path) {
    let (first, second) = (directory.join("first"), directory.join("below/second"));
    fs.create_dir_all(&directory.join("below")).unwrap();
    let file = create(fs, &first, b"bytes");
    let region = file.map(5).unwrap();
    fs.hard_link(&first, &second).unwrap();
    fs.sync_dir(&directory.join("below")).unwrap();
    assert_eq!(
        (names(fs, directory), names(fs, &directory.join("below"))),
        strings(["below", "first"], ["second"])
    );
    assert_eq!(contents(&*fs.open(&second, OpenMode::Read).unwrap()), b"bytes");
    write_all_at(&*fs.open(&second, OpenMode::ReadWrite).unwrap(), b"more bytes", 5).unwrap();
    assert_eq!(contents(&*file), b"bytesmore bytes");
    // Each name stays when the other goes, and the file itself for those who have it open.
    fs.remove_file(&first).unwrap();
    assert!(fs.open(&first, OpenMode::Read).unwrap_err().is_not_found());
    assert_eq!(contents(&*fs.open(&second, OpenMode::Read).unwrap()), b"bytesmore bytes");
    create(fs, &first, b"another");
    fs.hard_link(&second, &directory.join("third")).unwrap();
    fs.remove_file(&second).unwrap();
    fs.remove_file(&directory.join("third")).unwrap();
    assert_eq!((contents(&*file), &*region), (b"bytesmore bytes".to_vec(), &b"bytes"[..]));
    assert_eq!(contents(&*fs.open(&first, OpenMode::Read).unwrap()), b"another");
}

/// Of two directories.
fn strings<const A: usize, const B: usize>(a: [&str; A], b: [&str; B]) -> (Vec<String>, Vec<String>) {
    (a.map(str::to_owned).to_vec(), b.map(str::to_owned).to_vec())
}

fn links_that_cannot_be_are_refused(fs: &dyn FileSystem, directory: &Path) {
    let (a, b, missing) = (directory.join("a"), directory.join("b"), directory.join("missing"));
    let below = directory.join("d");
    create(fs, &a, b"a");
    create(fs, &b, b"b");
    fs.create_dir_all(&below).unwrap();
    for taken in [&a, &b, &below] {
        assert_eq!(kind(fs.hard_link(&a, taken), &a, Operation::Link), ErrorKind::AlreadyExists);
    }
    assert_eq!(kind(fs.hard_link(&missing, &b), &missing, Operation::Link), ErrorKind::NotFound);
    assert_eq!(kind(fs.hard_link(&a, &missing.join("c")), &a, Operation::Link), ErrorKind::NotFound);
    assert!(!fs.hard_link(&missing, &directory.join("c")).unwrap_err().is_link_refused());
    // No file system has links of directories; whoever would copy instead is told why not.
    assert!(fs.hard_link(&below, &directory.join("c")).unwrap_err().is_link_refused());
    assert_eq!(names(fs, directory), ["a", "b", "d"]);
    assert_eq!(contents(&*fs.open(&b, OpenMode::Read).unwrap()), b"b");
}

fn a_rename_onto_another_name_of_the_file_changes_nothing(fs: &dyn FileSystem, directory: &Path) {
    let (a, b) = (directory.join("a"), directory.join("b"));
    create(fs, &a, b"bytes");
    fs.hard_link(&a, &b).unwrap();
    fs.rename(&a, &b).unwrap();
    assert_eq!(names(fs, directory), ["a", "b"]);
    create(fs, &directory.join("c"), b"other");
    fs.rename(&directory.join("c"), &b).unwrap();
    assert_eq!(contents(&*fs.open(&a, OpenMode::Read).unwrap()), b"bytes");
    assert_eq!(contents(&*fs.open(&b, OpenMode::Read).unwrap()), b"other");
}

fn ranges_are_copied(fs: &dyn FileSystem, directory: &Path) {
    // Longer than what is copied at once, whichever way.
    let bytes: Vec<u8> = (0..5_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let source = create(fs, &directory.join("source"), &bytes);
    let copy_all = |to: &dyn File, from: &dyn File, start: u64, end: u64| {
        let mut offset = start;
        while offset < end {
            let copied = to.copy_range(from, offset, end - offset).unwrap();
            assert!(copied > 0 && copied <= end - offset, "{copied} bytes at {offset}");
            offset += copied;
        }
    };
    // The sources: open for writing and for reading, of another kind, and without a name.
    let elsewhere = MemoryFileSystem::new().open(Path::new("a"), OpenMode::CreateNew).unwrap();
    write_all_at(&*elsewhere, &bytes, 0).unwrap();
    let reader = fs.open(&directory.join("source"), OpenMode::Read).unwrap();
    fs.remove_file(&directory.join("source")).unwrap();
    for (number, from) in [&source, &reader, &elsewhere].into_iter().enumerate() {
        let copy = create(fs, &directory.join(format!("copy {number}")), b"");
        copy_all(&*copy, &**from, 0, 5_000_001);
        assert!(contents(&*copy) == bytes);
        // Behind its end there is nothing to copy.
        for offset in [5_000_001, 5_000_002, 1 << 40] {
            assert_eq!(copy.copy_range(&**from, offset, 10).unwrap(), 0);
        }
        assert_eq!(copy.copy_range(&**from, 4_999_999, 10).unwrap(), 2);
        assert_eq!(copy.copy_range(&**from, 0, 0).unwrap(), 0);
        assert_eq!(copy.len().unwrap(), 5_000_001);

        // A part comes to the same place, and the rest stays as it is.
        let part = create(fs, &directory.join(format!("part {number}")), b"begin");
        copy_all(&*part, &**from, 10_007, 10_013);
        let mut expected = b"begin".to_vec();
        expected.resize(10_007, 0);
        expected.extend_from_slice(&bytes[10_007..10_013]);
        assert_eq!(contents(&*part), expected);
        let path = directory.join(format!("part {number}"));
        let only_read = fs.open(&path, OpenMode::Read).unwrap();
        kind(only_read.copy_range(&**from, 0, 10), &path, Operation::Write);
        assert_eq!(contents(&*part), expected);
    }
}

fn a_removed_file_stays_open(fs: &dyn FileSystem, directory: &Path) {
    let path = directory.join("a");
    let file = create(fs, &path, b"old");
    let region = file.map(3).unwrap();
    fs.remove_file(&path).unwrap();
    assert!(names(fs, directory).is_empty());
    assert!(fs.remove_file(&path).unwrap_err().is_not_found());
    create(fs, &path, b"a new one");
    assert_eq!(contents(&*file), b"old");
    write_all_at(&*file, b"er", 3).unwrap();
    file.sync().unwrap();
    assert_eq!(contents(&*file), b"older");
    drop(file);
    assert_eq!(&*region, b"old");
    assert_eq!(contents(&*fs.open(&path, OpenMode::Read).unwrap()), b"a new one");
}

fn directories_are_created_with_those_above(fs: &dyn FileSystem, directory: &Path) {
    let path = directory.join("x/y/z");
    fs.create_dir_all(&path).unwrap();
    fs.create_dir_all(&path).unwrap();
    fs.create_dir_all(&directory.join("x/w")).unwrap();
    create(fs, &path.join("a"), b"");
    assert_eq!(names(fs, directory), ["x"]);
    assert_eq!(names(fs, &directory.join("x")), ["w", "y"]);
    assert_eq!(names(fs, &path), ["a"]);
}

fn a_listing_has_names_only_of_this_directory(fs: &dyn FileSystem, directory: &Path) {
    assert!(names(fs, directory).is_empty());
    for name in ["b", "b!", "b0", "a", "c"] {
        create(fs, &directory.join(name), b"");
    }
    fs.create_dir_all(&directory.join("bb/below")).unwrap();
    create(fs, &directory.join("bb/file"), b"");
    assert_eq!(names(fs, directory), ["a", "b", "b!", "b0", "bb", "c"]);
    assert_eq!(names(fs, &directory.join("bb")), ["below", "file"]);
}

fn directories_are_synced(fs: &dyn FileSystem, directory: &Path) {
    create(fs, &directory.join("a"), b"").sync().unwrap();
    fs.sync_dir(directory).unwrap();
    fs.sync_dir(directory).unwrap();
    assert_eq!(names(fs, directory), ["a"]);
}

fn readers_share_a_lock_and_keep_writers_out(fs: &dyn FileSystem, directory: &Path) {
    assert!(fs.lock_dir_shared(directory).unwrap().is_none());
    assert!(names(fs, directory).is_empty(), "it changes nothing");
    let writer = fs.lock_dir(directory).unwrap();
    let is_locked =
        |result: Result<()>| matches!(result, Err(Error::Locked { path, .. }) if path == directory);
    assert!(is_locked(fs.lock_dir_shared(directory).map(drop)));
    drop(writer);
    let reader = fs.lock_dir_shared(directory).unwrap();
    let other = fs.lock_dir_shared(directory).unwrap();
    assert!(reader.is_some() && other.is_some());
    assert!(is_locked(fs.lock_dir(directory).map(drop)));
    drop(reader);
    assert!(is_locked(fs.lock_dir(directory).map(drop)));
    drop(other);
    fs.lock_dir(directory).unwrap();
}

fn one_lock_at_a_time(fs: &dyn FileSystem, directory: &Path) {
    let other = directory.join("other");
    fs.create_dir_all(&other).unwrap();
    let lock = fs.lock_dir(directory).unwrap();
    let _other = fs.lock_dir(&other).unwrap();
    for _ in 0..2 {
        let refused = fs.lock_dir(directory).unwrap_err();
        let Error::Locked { path, holder } = refused else { panic!("{refused}") };
        assert_eq!(path, directory);
        assert_eq!(holder, format!("process {}", std::process::id()));
    }
    drop(lock);
    assert_eq!(names(fs, directory), ["LOCK", "other"], "the lock file stays");
    drop(fs.lock_dir(directory).unwrap());
    fs.lock_dir(directory).unwrap();
}

fn a_map_is_the_front_of_the_file(fs: &dyn FileSystem, directory: &Path) {
    let path = directory.join("a");
    let bytes: Vec<u8> = (0..20_000u32).map(|i| (i / 3) as u8).collect();
    create(fs, &path, &bytes).sync().unwrap();
    let file = fs.open(&path, OpenMode::Read).unwrap();
    for len in [0, 1, 4096, 4097, 20_000] {
        let region = file.map(len).unwrap();
        assert_eq!(*region, bytes[..len]);
        region.advise(Advice::WillNeed, 0..len);
    }
    for len in [20_001, 1 << 40, usize::MAX] {
        assert_eq!(kind(file.map(len), &path, Operation::Map), ErrorKind::InvalidInput);
    }
}

fn hints_change_nothing(fs: &dyn FileSystem, directory: &Path) {
    let file = create(fs, &directory.join("a"), &[7; 10_000]);
    for (offset, len) in [(0, 0), (0, 10_000), (5000, u64::MAX), (u64::MAX, u64::MAX), (1 << 40, 1)] {
        file.start_writeback(offset, len);
        for advice in [Advice::Normal, Advice::Random, Advice::Sequential, Advice::WillNeed, Advice::DontNeed]
        {
            file.advise(advice, offset, len);
        }
    }
    assert_eq!(contents(&*file), [7; 10_000]);
}

fn absurd_offsets_are_refused(fs: &dyn FileSystem, directory: &Path) {
    let path = directory.join("a");
    let file = create(fs, &path, b"bytes");
    kind(file.write_at(b"b", u64::MAX), &path, Operation::Write);
    kind(file.set_len(u64::MAX), &path, Operation::SetLength);
    assert_eq!(contents(&*file), b"bytes");
}

fn other_spellings_of_a_path_name_the_same_file(fs: &dyn FileSystem, directory: &Path) {
    create(fs, &directory.join("a"), b"bytes");
    let spelled = PathBuf::from(format!("{}//./a", directory.display()));
    let file = fs.open(&spelled, OpenMode::Read).unwrap();
    assert_eq!(file.path(), spelled);
    assert_eq!(contents(&*file), b"bytes");
    assert_eq!(names(fs, &PathBuf::from(format!("{}/", directory.display()))), ["a"]);
}

fn everything_local_is_local(fs: &dyn FileSystem, directory: &Path) {
    // A temporary directory may be on a network; it is the same everywhere in it.
    let medium = fs.medium(directory).unwrap();
    assert!(medium == Medium::Local || medium == Medium::Network);
    create(fs, &directory.join("a"), b"");
    assert_eq!(fs.medium(&directory.join("a")).unwrap(), medium);
    assert!(!fs.open(&directory.join("a"), OpenMode::Read).unwrap().is_shared().unwrap());
}

fn threads_write_their_own_places(fs: &dyn FileSystem, directory: &Path) {
    let file = create(fs, &directory.join("a"), b"");
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let file = &file;
            scope.spawn(move || {
                for step in 0..100 {
                    write_all_at(&**file, &[thread as u8 + 1; 10], (step * 4 + thread) * 10).unwrap();
                    if step % 10 == 0 {
                        file.sync().unwrap();
                    }
                }
            });
        }
    });
    for (place, bytes) in contents(&*file).chunks(10).enumerate() {
        assert_eq!(bytes, [(place % 4) as u8 + 1; 10]);
    }
    assert_eq!(file.len().unwrap(), 4000);
}

fn the_paths_on_top_work_together(fs: &dyn FileSystem, directory: &Path) {
    let table = directory.join("000001.sst");
    let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut writer = SequentialWriter::create(fs, &table).unwrap();
    for piece in bytes.chunks(4099) {
        writer.append(piece).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), 5_000_000);
    let file = fs.open(&table, OpenMode::Read).unwrap();
    assert!(*file.map(5_000_000).unwrap() == *bytes);
    let mut reader = ScanReader::new(file, 0..5_000_000, ScanReader::WINDOW_BYTES, CacheUse::DropBehind);
    for (index, expected) in bytes.chunks(10_007).enumerate() {
        let (buffer, range) = reader.read(index as u64 * 10_007, expected.len()).unwrap();
        assert!(buffer[range] == *expected, "piece {index}");
    }

    let path = directory.join("000002.log");
    let log = LogFile::create(fs, &path, 100_000).unwrap();
    log.write_at(b"record", 99_994).unwrap();
    log.sync().unwrap();
    log.extend_to(200_000).unwrap();
    log.sync().unwrap();
    drop(log);
    let log = LogFile::open(fs, &path).unwrap();
    let mut buf = [1; 10];
    assert_eq!(log.read_at(&mut buf, 99_990).unwrap(), 10);
    assert_eq!(&buf, b"\0\0\0\0record");
    assert_eq!((log.len(), log.path()), (200_000, path.as_path()));
}
