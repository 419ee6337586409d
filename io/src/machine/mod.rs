//! What Linux tells about the machine: how much memory there is for this process ([`memory_bytes`]), the control group
//! that it is in ([`MemoryGroup`]), what is mounted where ([`Mount`]). All of it is read from text files below a
//! [`Root`], so that a test can say what they hold; elsewhere than on Linux nothing is known.

mod cgroup;
mod mounts;
mod root;

pub use cgroup::{MemoryGroup, MemoryLimit};
pub use mounts::{Mount, find_mount, parse_mounts};
pub use root::{Known, Root, Unknown};

/// The memory that this process may use, page cache included, and how it is known: that of the machine, or less if its
/// control group says so.
///
/// ```
/// use terrace_io::machine::{Root, memory_bytes};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = tempfile::tempdir()?;
/// std::fs::create_dir(dir.path().join("proc"))?;
/// std::fs::write(dir.path().join("proc/meminfo"), "MemTotal:       2048 kB\nMemFree: 1 kB\n")?;
/// assert_eq!(memory_bytes(&Root::at(dir.path())), Ok(2 << 20));
/// # Ok(())
/// # }
/// ```
pub fn memory_bytes(root: &Root) -> Known<u64> {
    let limit = limit_bytes(root);
    match installed_bytes(root) {
        Ok(installed) => Ok(limit.map_or(installed, |limit| limit.min(installed))),
        Err(why) => limit.ok_or(why),
    }
}

/// The memory of the machine.
pub fn installed_bytes(root: &Root) -> Known<u64> {
    root.parsed("/proc/meminfo", |text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    })
}

/// What the control group of this process allows. `None` without a limit, and where none can be found.
pub fn limit_bytes(root: &Root) -> Option<u64> {
    let mounts = parse_mounts(&root.text("/proc/self/mountinfo").ok()?);
    Some(MemoryGroup::of_this_process(root, &mounts).ok()?.limit?.bytes)
}

/// For tests: files below a root.
#[doc(hidden)]
pub mod testing {
    use super::Root;
    use std::fs;

    /// Writes a file, with the directories above it. A name that ends in `@` becomes a symbolic link to the text.
    ///
    /// # Panics
    /// If that fails.
    pub fn write(root: &Root, name: &str, text: &str) {
        let path = root.path(name.trim_end_matches('@'));
        fs::create_dir_all(path.parent().expect("a name has a directory"))
            .expect("the directory can be made");
        let written = match name.ends_with('@') {
            true => std::os::unix::fs::symlink(text, path),
            false => fs::write(path, text),
        };
        written.expect("the file can be written");
    }

    /// Writes several.
    pub fn write_all(root: &Root, files: &[(&str, &str)]) {
        files.iter().for_each(|(name, text)| write(root, name, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_machine_and_group_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let bytes = || memory_bytes(&root);
        assert!(bytes().unwrap_err().to_string().starts_with("/proc/meminfo: "), "nothing is known");
        testing::write(&root, "/proc/meminfo", "MemTotal:  1000 kB\n");
        assert_eq!(bytes(), Ok(1_024_000));
        testing::write(
            &root,
            "/proc/self/mountinfo",
            "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        );
        testing::write(&root, "/proc/self/cgroup", "0::/a\n");
        testing::write(&root, "/sys/fs/cgroup/a/memory.max", "max\n");
        assert_eq!(bytes(), Ok(1_024_000), "a group without a limit");
        testing::write(&root, "/sys/fs/cgroup/a/memory.max", "4096\n");
        assert_eq!(bytes(), Ok(4096));
        testing::write(&root, "/sys/fs/cgroup/a/memory.max", "4096000\n");
        assert_eq!(bytes(), Ok(1_024_000), "a limit above what there is");
        testing::write(&root, "/proc/meminfo", "of some other form");
        assert_eq!(bytes(), Ok(4_096_000));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_memory() {
        assert!(memory_bytes(&Root::system()).unwrap() > 1 << 20);
    }
}
