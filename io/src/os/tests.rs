//! What only an operating system has: links, pipes, permissions, processes, mappings.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn permissions(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn symbolic_links_are_not_followed() {
    let directory = directory();
    let (target, link) = (directory.path().join("target"), directory.path().join("link"));
    fs::write(&target, b"bytes").unwrap();
    symlink(&target, &link).unwrap();
    for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::CreateNew] {
        OsFileSystem.open(&link, mode).unwrap_err();
    }
    // A lock would be written through it.
    symlink(&target, directory.path().join("LOCK")).unwrap();
    OsFileSystem.lock_dir(directory.path()).unwrap_err();
    assert_eq!(fs::read(&target).unwrap(), b"bytes");
}

#[test]
fn a_directory_may_be_a_link() {
    let directory = directory();
    let (target, link) = (directory.path().join("target"), directory.path().join("link"));
    OsFileSystem.create_dir_all(&target).unwrap();
    symlink(&target, &link).unwrap();
    OsFileSystem.create_dir_all(&link.join("below")).unwrap();
    OsFileSystem.sync_dir(&link).unwrap();
    assert_eq!(OsFileSystem.read_dir(&target).unwrap(), ["below"]);
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_not_a_regular_file_is_refused_without_waiting() {
    let directory = directory();
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        let refused = OsFileSystem.open(&pipe, mode).unwrap_err();
        assert!(matches!(refused, Error::Io { source, .. } if source.kind() == ErrorKind::InvalidInput));
        OsFileSystem.open(Path::new("/dev/null"), mode).unwrap_err();
    }
}

#[test]
fn files_and_directories_are_the_owners() {
    let directory = directory();
    let database = directory.path().join("a/b");
    OsFileSystem.create_dir_all(&database).unwrap();
    OsFileSystem.open(&database.join("file"), OpenMode::CreateNew).unwrap();
    let _lock = OsFileSystem.lock_dir(&database).unwrap();
    assert_eq!(permissions(&directory.path().join("a")), 0o700);
    assert_eq!(permissions(&database), 0o700);
    assert_eq!(permissions(&database.join("file")), 0o600);
    assert_eq!(permissions(&database.join("LOCK")), 0o600);
}

#[test]
fn a_lock_names_its_process() {
    let directory = directory();
    let lock_file = directory.path().join("LOCK");
    fs::write(&lock_file, b"a longer text of somebody else").unwrap();
    let lock = OsFileSystem.lock_dir(directory.path()).unwrap();
    let holder = fs::read_to_string(&lock_file).unwrap();
    assert_eq!((holder.trim_end(), holder.len()), (&*std::process::id().to_string(), HOLDER_BYTES));
    let Err(Error::Locked { holder, .. }) = OsFileSystem.lock_dir(directory.path()) else {
        panic!("locked twice");
    };
    assert_eq!(holder, format!("process {}", std::process::id()));

    fs::write(&lock_file, b"\xff\xff nobody").unwrap();
    let Err(Error::Locked { holder, .. }) = OsFileSystem.lock_dir(directory.path()) else {
        panic!("locked twice");
    };
    assert_eq!(holder, "another process");
    drop(lock);
    OsFileSystem.lock_dir(directory.path()).unwrap();
}

#[test]
fn locks_are_seen_by_other_processes_and_end_with_them() {
    const CHILD: &str = "TERRACE_TEST_LOCK";
    // The other process is this test once more, told to hold a lock until it is killed.
    if let Some(directory) = std::env::var_os(CHILD) {
        let _lock = OsFileSystem.lock_dir(Path::new(&directory)).unwrap();
        println!("\nlocked");
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let directory = directory();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "os::tests::locks_are_seen_by_other_processes_and_end_with_them"])
        .env(CHILD, directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "locked"), "the child never got the lock");
    let refused = OsFileSystem.lock_dir(directory.path());
    let Err(Error::Locked { path, holder }) = refused else { panic!("{refused:?}") };
    assert_eq!((path.as_path(), holder), (directory.path(), format!("process {}", child.id())));
    child.kill().unwrap();
    child.wait().unwrap();
    OsFileSystem.lock_dir(directory.path()).unwrap();
}

#[test]
fn a_mapping_outlives_its_name_and_its_file() {
    let directory = directory();
    let path = directory.path().join("table");
    let file = OsFileSystem.open(&path, OpenMode::CreateNew).unwrap();
    crate::write_all_at(&*file, &[7; 10_000], 0).unwrap();
    file.sync().unwrap();
    let region = file.map(9_000).unwrap();
    assert!(region.is_mapped());
    drop(file);
    OsFileSystem.remove_file(&path).unwrap();
    assert_eq!(*region, [7; 9_000]);
}

#[test]
fn descriptors_are_not_inherited() {
    let directory = directory();
    let file = open_regular(&directory.path().join("a"), OFlags::RDWR | OFlags::CREATE).unwrap();
    assert!(rustix::io::fcntl_getfd(&file).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn relative_paths_have_a_parent() {
    assert_eq!(parent(Path::new("a")), Some(Path::new(".")));
    assert_eq!(parent(Path::new("a/b")), Some(Path::new("a")));
    assert_eq!(parent(Path::new("/")), None);
    OsFileSystem.create_dir_all(Path::new("")).unwrap();
    OsFileSystem.create_dir_all(Path::new(".")).unwrap();
    OsFileSystem.create_dir_all(Path::new("/")).unwrap();
    assert_eq!(OsFileSystem.medium(Path::new("")).unwrap(), OsFileSystem.medium(Path::new(".")).unwrap());
}

#[test]
fn what_others_may_write_to_is_shared() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let path = directory.path().join("a");
    let file = OsFileSystem.open(&path, OpenMode::CreateNew).unwrap();
    let own = OsFileSystem.medium(directory.path()).unwrap();
    for (mode, is_shared) in [(0o600, false), (0o644, false), (0o664, false), (0o602, true), (0o666, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(file.is_shared().unwrap(), is_shared, "{mode:o}");
    }
    if own == Medium::Local {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(OsFileSystem.medium(directory.path()).unwrap(), Medium::Shared);
    }
    // Only root can give files away.
    let nobody = (Some(rustix::fs::Uid::from_raw(65_534)), Some(rustix::fs::Gid::from_raw(65_534)));
    if rustix::fs::chown(&path, nobody.0, None).is_ok() {
        assert!(file.is_shared().unwrap(), "of somebody else");
        rustix::fs::chown(&path, Some(rustix::process::geteuid()), nobody.1).unwrap();
        for (mode, is_shared) in [(0o640, false), (0o660, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(file.is_shared().unwrap(), is_shared, "{mode:o} of another group");
        }
    }
}

#[test]
fn directories_may_be_created_by_many_at_once() {
    let directory = directory();
    let path = directory.path().join("a/b/c/d");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| OsFileSystem.create_dir_all(&path).unwrap());
        }
    });
    assert!(path.is_dir());
}

#[test]
fn names_that_are_not_text_are_listed() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let directory = directory();
    let name = OsStr::from_bytes(b"a\xffb");
    match fs::File::create(directory.path().join(name)) {
        Ok(mut file) => file.write_all(b"x").unwrap(),
        Err(_) => return, // Not every file system has such names.
    }
    assert_eq!(OsFileSystem.read_dir(directory.path()).unwrap(), ["a\u{fffd}b"]);
}

/// Otherwise every copy would go through memory and no test would mind.
#[test]
#[cfg(target_os = "linux")]
fn the_kernel_copies_what_it_can() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("from"), vec![7; 100_000]).unwrap();
    let (from, to) = (fs::File::open(path("from")).unwrap(), fs::File::create(path("to")).unwrap());
    match copy_in_kernel(from.as_fd(), &to, 4096, 50_000) {
        Some(copied) => {
            assert!(copied <= 50_000);
            let expected = [vec![0; 4096], vec![7; copied as usize]].concat();
            assert!(fs::read(path("to")).unwrap() == expected);
        }
        None => println!("skipped: this system refuses copy_file_range"),
    }
    // What there is nothing of, and what it refuses, is left to those who read and write.
    assert_eq!(copy_in_kernel(from.as_fd(), &to, 100_000, 10), None);
    let only_read = fs::File::open(path("from")).unwrap();
    assert_eq!(copy_in_kernel(from.as_fd(), &only_read, 0, 10), None);
    assert_eq!(copy_in_kernel(from.as_fd(), &to, u64::MAX, 10), None);
}

#[test]
fn between_file_systems_files_are_copied() {
    use std::os::unix::fs::MetadataExt;
    let here = directory();
    let Ok(there) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: there is no /dev/shm");
        return;
    };
    let device = |directory: &tempfile::TempDir| fs::metadata(directory.path()).unwrap().dev();
    if device(&here) == device(&there) {
        println!("skipped: the temporary directory is in /dev/shm");
        return;
    }
    let (path, to) = (here.path().join("a"), there.path().join("a"));
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i / 3) as u8).collect();
    fs::write(&path, &bytes).unwrap();
    let refused = OsFileSystem.hard_link(&path, &to).unwrap_err();
    assert!(refused.is_link_refused(), "{refused}");
    let from = OsFileSystem.open(&path, OpenMode::Read).unwrap();
    let copy = OsFileSystem.open(&to, OpenMode::CreateNew).unwrap();
    let mut copied = 0;
    while copied < bytes.len() as u64 {
        copied += copy.copy_range(&*from, copied, u64::MAX).unwrap();
    }
    assert!(fs::read(&to).unwrap() == bytes);
}

/// Where the file system has direct reads and writes, the ones see the others, also over a mapping in use.
#[test]
#[cfg(target_os = "linux")]
fn a_direct_read_sees_a_direct_write() {
    use std::os::unix::fs::OpenOptionsExt;
    let directory = tempfile::Builder::new().prefix("direct").tempdir_in(".").unwrap();
    let path = directory.path().join("a");
    fs::write(&path, vec![1; 8192]).unwrap();
    let file = OsFileSystem.open(&path, OpenMode::Read).unwrap();
    fs::File::open(&path).unwrap().sync_all().unwrap();
    let region = file.map(8192).unwrap();
    assert_eq!(region[4096], 1);
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let Ok(writer) = fs::OpenOptions::new().write(true).custom_flags(direct).open(&path) else { return };
    let memory = vec![2u8; 8192];
    let skip = memory.as_ptr().align_offset(4096);
    if writer.write_at(&memory[skip..skip + 4096], 4096).is_err() {
        return;
    }
    let mut buf = [0; 10];
    crate::read_exact_past_cache_at(&*file, &mut buf, 4090).unwrap();
    assert_eq!(buf, [1, 1, 1, 1, 1, 1, 2, 2, 2, 2]);
}
