//! Where the measured databases lie: on a real disk.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The environment variable that names the directory to work in.
pub const BENCH_DIR: &str = "TERRACE_BENCH_DIR";

/// A new directory that goes when it is dropped: under [`BENCH_DIR`] if that is set, otherwise under the system's
/// directory for temporary files, or what is left to try if that one lives in memory. Says so if nothing else is there.
///
/// # Errors
/// If no directory can be made.
pub fn scratch_directory() -> std::io::Result<TempDir> {
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
