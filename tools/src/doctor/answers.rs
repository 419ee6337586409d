//! What system calls answer about a directory and this process: the part of the facts that stands in no file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use terrace_io::{FileSystem, FileSystemCapabilities, KernelCapabilities, Medium, OsFileSystem};

use terrace_io::machine::{Known, Unknown};

/// What system calls answer.
#[derive(Debug, Clone)]
pub struct Answers {
    /// The directory, as an absolute path without symbolic links.
    pub dir: PathBuf,
    /// The mount that it is on, by the number that `/proc/self/mountinfo` gives it.
    pub mount_id: Option<u64>,
    /// Whether the engine takes its file system for one of the network, and so reads tables by `pread`.
    pub is_network: Known<bool>,
    /// What is free on its file system.
    pub space: Known<Space>,
    /// What the kernel does for this process.
    pub kernel: KernelCapabilities,
    /// What the file system does.
    pub file_system: Known<FileSystemCapabilities>,
    /// The database in the directory; `None` if there is none.
    pub database: Known<Option<Database>>,
}

/// What is free on a file system, for those who are not root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub free_bytes: u64,
    /// Files that can still be made; `None` if the file system has no such limit.
    pub free_files: Option<u64>,
}

/// How large a database is, by the names and lengths of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Database {
    /// Tables.
    pub tables: u64,
    /// Bytes of the tables.
    pub table_bytes: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
}

impl Answers {
    /// Asks about this process and a directory. An error if it is no directory, or cannot be seen.
    pub fn about(dir: &Path) -> io::Result<Answers> {
        let dir = fs::canonicalize(dir)?;
        if !fs::metadata(&dir)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let is_network = OsFileSystem.medium(&dir).map(|medium| medium == Medium::Network);
        let unknown = |error: terrace_io::Error| Unknown::new(error.to_string());
        Ok(Answers {
            mount_id: mount_id(&dir),
            is_network: is_network.map_err(unknown),
            space: space(&dir),
            kernel: *KernelCapabilities::get(),
            file_system: FileSystemCapabilities::of_dir(&dir).map_err(|error| match error {
                terrace_io::Error::Io { source, .. } => {
                    Unknown::new(format!("no file to try it on can be made in {}: {source}", dir.display()))
                }
                error => unknown(error),
            }),
            database: Database::at(&dir).map_err(|error| Unknown::new(format!("{}: {error}", dir.display()))),
            dir,
        })
    }
}

impl Database {
    /// Looks at the names in a directory and the lengths of its files. They may come and go meanwhile.
    pub fn at(dir: &Path) -> io::Result<Option<Database>> {
        let mut database = Database::default();
        let mut has_manifest = false;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            match name.split_once('.') {
                None if name == "MANIFEST" => has_manifest = true,
                Some((number, "sst")) if is_number(number) => {
                    database.tables += 1;
                    database.table_bytes += metadata.len();
                }
                Some((number, "log")) if is_number(number) => database.log_bytes += metadata.len(),
                _ => {}
            }
        }
        Ok(has_manifest.then_some(database))
    }
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The kernel says it of an open descriptor.
fn mount_id(dir: &Path) -> Option<u64> {
    use std::os::fd::AsRawFd;
    let file = fs::File::open(dir).ok()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

fn space(dir: &Path) -> Known<Space> {
    let answer = rustix::fs::statvfs(dir).map_err(|errno| {
        let error = io::Error::from(errno);
        Unknown::new(format!("{}: {error}", dir.display()))
    })?;
    Ok(Space {
        free_bytes: answer.f_bavail.saturating_mul(answer.f_frsize),
        // File systems that make room for files as they need it say 0 of all.
        free_files: (answer.f_files > 0).then_some(answer.f_favail),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_told_by_its_manifest_and_counted_by_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, length) in
            [("000001.sst", 100), ("1234567.sst", 20), ("000003.log", 7), ("x.sst", 1), ("000004.sst.tmp", 1)]
        {
            fs::write(dir.path().join(name), vec![0; length]).unwrap();
        }
        fs::create_dir(dir.path().join("000009.sst")).unwrap();
        assert_eq!(Database::at(dir.path()).unwrap(), None, "tables alone are no database");
        fs::write(dir.path().join("MANIFEST"), "").unwrap();
        let expected = Database { tables: 2, table_bytes: 120, log_bytes: 7 };
        assert_eq!(Database::at(dir.path()).unwrap(), Some(expected));
    }

    #[test]
    fn a_directory_is_asked_about_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let answers = Answers::about(dir.path()).unwrap();
        assert_eq!(answers.dir, fs::canonicalize(dir.path()).unwrap());
        assert_eq!(answers.database, Ok(None));
        assert!(answers.space.unwrap().free_bytes > 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(Answers::about(&file).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        let missing = Answers::about(&dir.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
