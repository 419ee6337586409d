//! Where a report comes from: machine, kernel, file system, versions.
//!
//! Read from `/proc` where there is one; what cannot be found out is said to be unknown. Nothing here fails.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use terrace_io::machine::{Root, find_mount, installed_bytes, limit_bytes, parse_mounts};

/// The machine, the system and the program that produced a report.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// The processor's model.
    pub cpu: String,
    /// How many threads can run at once.
    pub cpus: usize,
    /// Main memory in bytes; 0 if unknown.
    pub memory_bytes: u64,
    /// The memory limit of the control group, if it is below that.
    pub memory_limit_bytes: Option<u64>,
    /// Name and release of the kernel.
    pub kernel: String,
    /// The version of Terrace.
    pub terrace: String,
    /// The compiler.
    pub compiler: String,
    /// The platform it was built for.
    pub target: String,
    /// Whether this is an optimised build without debug assertions.
    pub release_build: bool,
}

impl Environment {
    /// Looks around.
    pub fn current() -> Self {
        let root = Root::system();
        let memory_bytes = installed_bytes(&root).unwrap_or(0);
        Environment {
            cpu: cpu_model().unwrap_or_else(|| format!("unknown {} processor", std::env::consts::ARCH)),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes,
            memory_limit_bytes: limit_bytes(&root).filter(|&limit| limit < memory_bytes),
            kernel: kernel(),
            terrace: env!("CARGO_PKG_VERSION").to_owned(),
            compiler: env!("TERRACE_BUILT_BY").to_owned(),
            target: env!("TERRACE_BUILT_FOR").to_owned(),
            release_build: !cfg!(debug_assertions),
        }
    }
}

/// The file system that a directory is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSystemKind {
    /// Its type: `ext4`, `tmpfs`, `overlay`, ...
    pub kind: String,
    /// What is mounted there: a device, mostly.
    pub source: String,
}

impl FileSystemKind {
    /// The file system of an existing path.
    pub fn of(path: &Path) -> Self {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        match find_mount(&parse_mounts(&mounts), None, &path) {
            Some(mount) => FileSystemKind { kind: mount.kind.clone(), source: mount.source.clone() },
            None => FileSystemKind { kind: "unknown file system".to_owned(), source: String::new() },
        }
    }

    /// Whether files there live in memory only, so that no figure says anything about a disk.
    pub fn is_memory(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs")
    }
}

/// The peak of this process's resident memory so far, mapped files included.
pub fn peak_resident_bytes() -> Option<u64> {
    kibibytes_after(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes that a directory's files take on disk, and the length of those whose name ends in each extension.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DirectorySize {
    /// Allocated on disk, all files.
    pub allocated_bytes: u64,
    /// Length of the tables.
    pub table_bytes: u64,
    /// Length of the log segments.
    pub log_bytes: u64,
    /// Length of everything else.
    pub other_bytes: u64,
}

impl DirectorySize {
    /// Adds up the files that stand directly in `path`. A file that disappears meanwhile counts as gone.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let mut size = DirectorySize::default();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            size.allocated_bytes += allocated_bytes(&metadata);
            let name = PathBuf::from(entry.file_name());
            match name.extension().and_then(|extension| extension.to_str()) {
                Some("sst") => size.table_bytes += metadata.len(),
                Some("log") => size.log_bytes += metadata.len(),
                _ => size.other_bytes += metadata.len(),
            }
        }
        Ok(size)
    }
}

#[cfg(unix)]
fn allocated_bytes(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(not(unix))]
fn allocated_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}

fn cpu_model() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let value = |name: &str| {
        let line =
            info.lines().find(|line| line.split(':').next().is_some_and(|left| left.trim() == name))?;
        Some(line.split_once(':')?.1.trim().to_owned()).filter(|value| !value.is_empty())
    };
    value("model name")
        .or_else(|| value("Model"))
        .or_else(|| value("Hardware"))
        .or_else(|| value("cpu model"))
}

fn kernel() -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
    match (read("ostype"), read("osrelease")) {
        (Some(kind), Some(release)) => format!("{} {}", kind.trim(), release.trim()),
        _ => std::env::consts::OS.to_owned(),
    }
}

fn kibibytes_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let environment = Environment::current();
        assert!(environment.cpus > 0 && !environment.kernel.is_empty() && !environment.cpu.is_empty());
        assert!(environment.compiler.contains("rustc"));
    }

    #[test]
    fn a_directory_is_added_up_by_kind() {
        let dir = tempfile::tempdir().unwrap();
        for (name, length) in [("000001.sst", 10_000), ("000002.log", 5_000), ("MANIFEST", 100)] {
            fs::write(dir.path().join(name), vec![1; length]).unwrap();
        }
        let size = DirectorySize::of(dir.path()).unwrap();
        assert_eq!((size.table_bytes, size.log_bytes, size.other_bytes), (10_000, 5_000, 100));
    }
}
