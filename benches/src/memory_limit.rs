//! A memory limit for a process: a control group of its own, of the first version or the second, whatever the system
//! has. Page cache counts: what a process reads and maps is charged to the group that brought it in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use terrace_io::machine::{MemoryGroup, Root, parse_mounts};

/// A control group with a limit. Removed when it is dropped, if nothing runs in it any more.
#[derive(Debug)]
pub struct MemoryLimit {
    dir: PathBuf,
    /// 1 or 2.
    version: u8,
}

impl MemoryLimit {
    /// A new group in which processes may use so many bytes.
    ///
    /// # Errors
    /// If there is no memory controller, or this process may not make groups: the text says which.
    pub fn new(bytes: u64) -> Result<MemoryLimit, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = Root::system();
        let known = (root.text("/proc/self/mountinfo").map(|text| parse_mounts(&text)))
            .and_then(|mounts| MemoryGroup::of_this_process(&root, &mounts));
        let own = known.map_err(|why| why.to_string())?;
        let limit_file = if own.version == 1 { "memory.limit_in_bytes" } else { "memory.max" };
        let mut refused = format!("{}: no control group can be made there", own.dir);
        // Under this process's own group, or else under one above it.
        let is_group = |dir: &&Path| dir.join("cgroup.procs").exists();
        for parent in Path::new(&own.dir).ancestors().take_while(is_group) {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = parent.join(format!("terrace-{}-{number}", std::process::id()));
            if let Err(error) = fs::create_dir(&dir) {
                refused = format!("{}: {error}", dir.display());
                continue;
            }
            let limit = MemoryLimit { dir, version: own.version };
            let file = limit.dir.join(limit_file);
            match fs::write(&file, bytes.to_string()) {
                Ok(()) => return Ok(limit),
                Err(error) => refused = format!("{}: {error}", file.display()),
            }
        }
        Err(refused)
    }

    /// The group's directory: what [`MemoryLimit::enter`] of another process wants.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Moves the calling process into a group. What it has used before stays where it was charged.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn enter(dir: &Path) -> io::Result<()> {
        fs::write(dir.join("cgroup.procs"), std::process::id().to_string())
    }

    /// How many processes of the group were killed for want of memory. Nothing where the system does not tell.
    pub fn kills(&self) -> Option<u64> {
        let file = if self.version == 1 { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.dir.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // A process that has just ended may take a moment to leave.
        for _ in 0..100 {
            match fs::remove_dir(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => break,
            }
        }
    }
}
