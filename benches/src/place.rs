//! Where the measured databases lie: on a real disk, and what of them is in memory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use terrace_io::{Advice, FileSystem, OpenMode, OsFileSystem};

/// The environment variable that names the directory to work in.
pub const BENCH_DIR: &str = "TERRACE_BENCH_DIR";

/// A new directory that goes when it is dropped: under [`BENCH_DIR`] if that is set, otherwise under the system's
/// directory for temporary files, or what is left to try if that one lives in memory. Says so if nothing else is there.
///
/// # Errors
/// If no directory can be made.
pub fn scratch_directory() -> io::Result<TempDir> {
    let parent = match std::env::var_os(BENCH_DIR) {
        Some(chosen) => PathBuf::from(chosen),
        None => {
            let mut candidates = [std::env::temp_dir(), "/var/tmp".into(), ".".into()].into_iter();
            candidates.find(|path| path.is_dir() && !is_memory(path)).unwrap_or_else(std::env::temp_dir)
        }
    };
    if is_memory(&parent) {
        println!("note: {} lives in memory: no figure says anything about a disk", parent.display());
    }
    tempfile::Builder::new().prefix("terrace-bench-").tempdir_in(parent)
}

/// Visits the files below a directory.
///
/// # Errors
/// If a directory cannot be read, or `visit` fails.
pub fn for_each_file(dir: &Path, visit: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            for_each_file(&entry.path(), visit)?;
        } else {
            visit(&entry.path())?;
        }
    }
    Ok(())
}

/// Copies a directory with all its files and makes the copy durable, so that writing it back disturbs nobody later.
///
/// # Errors
/// If something cannot be read or written.
pub fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            copy_file(&entry.path(), &target)?.sync_all()?;
        }
    }
    Ok(())
}

/// Copies a file by large writes, which the page cache keeps in large pages, as it keeps tables that were written so.
/// After `fs::copy` it has small ones, from which mapped reads take longer.
fn copy_file(from: &Path, to: &Path) -> io::Result<File> {
    let (mut source, mut target) = (File::open(from)?, File::create(to)?);
    let mut piece = Vec::with_capacity(2 << 20);
    loop {
        piece.clear();
        (&mut source).take(2 << 20).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(target);
        }
        target.write_all(&piece)?;
    }
}

/// Makes the files below a directory durable, and then lets the system forget what it has of them in memory. Only for
/// files that nobody has mapped.
///
/// # Errors
/// If a file cannot be opened or synced.
pub fn forget_pages(dir: &Path) -> io::Result<()> {
    for_each_file(dir, &mut |path| {
        let synced = File::open(path)?;
        synced.sync_all()?;
        let file = OsFileSystem.open(path, OpenMode::Read).map_err(io::Error::other)?;
        file.advise(Advice::DontNeed, 0, synced.metadata()?.len());
        Ok(())
    })
}

/// Whether files there live in memory only.
#[cfg(target_os = "linux")]
fn is_memory(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    rustix::fs::statfs(path).is_ok_and(|found| matches!(found.f_type as u64, TMPFS_MAGIC | RAMFS_MAGIC))
}

/// Whether files there live in memory only, as far as this platform says.
#[cfg(not(target_os = "linux"))]
fn is_memory(_: &Path) -> bool {
    false
}
