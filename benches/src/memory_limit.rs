//! A memory limit for a process: a control group of its own, of the first version or the second, whatever the system
//! has. Page cache counts: what a process reads and maps is charged to the group that brought it in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A control group with a limit. Removed when it is dropped, if nothing runs in it any more.
#[derive(Debug)]
pub struct MemoryLimit {
    dir: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    fn limit_file(self) -> &'static str {
        match self {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        }
    }
}

impl MemoryLimit {
    /// A new group in which processes may use so many bytes.
    ///
    /// # Errors
    /// If there is no memory controller, or this process may not make groups: the text says which.
    pub fn new(bytes: u64) -> Result<MemoryLimit, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let parents = parents(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
        let mut refused = "no memory controller is mounted".to_owned();
        for (version, parent) in parents {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = parent.join(format!("terrace-{}-{number}", std::process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(error) => {
                    refused = format!("{}: {error}", dir.display());
                    continue;
                }
            }
            let limit = MemoryLimit { dir, version };
            let file = limit.dir.join(version.limit_file());
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
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
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

/// Where a group could be made: under this process's own, beside it, or at the top. `own` is `/proc/self/cgroup` and
/// `mounts` is `/proc/self/mountinfo`.
fn parents(own: &str, mounts: &str) -> Vec<(Version, PathBuf)> {
    let mut parents = Vec::new();
    for line in mounts.lines() {
        // proc(5): the fields behind ` - ` are type, source and options of the super block; the fifth in front is the
        // place.
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let (mut front, mut back) = (front.split(' '), back.split(' '));
        let (Some(place), kind, options) = (front.nth(4), back.next(), back.nth(1).unwrap_or("")) else {
            continue;
        };
        let version = match kind {
            Some("cgroup") if options.split(',').any(|option| option == "memory") => Version::One,
            Some("cgroup2") => Version::Two,
            _ => continue,
        };
        let path = own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_ours = match version {
                Version::One => controllers.split(',').any(|name| name == "memory"),
                Version::Two => controllers.is_empty(),
            };
            is_ours.then_some(path.trim_start_matches('/'))
        });
        let place = PathBuf::from(place);
        let own = place.join(path.unwrap_or(""));
        let beside = own.parent().filter(|parent| parent.starts_with(&place)).map(Path::to_owned);
        for parent in [Some(own), beside, Some(place)].into_iter().flatten() {
            if !parents.contains(&(version, parent.clone())) {
                parents.push((version, parent));
            }
        }
    }
    parents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_versions_are_found() {
        let mounts = "30 24 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      31 24 0:28 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory\n\
                      36 24 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                      40 1 8:1 / /home rw - ext4 /dev/sda1 rw\nno mount at all\n";
        let own = "4:memory:/user/me\n1:cpu:/\n0::/user.slice/session.scope\n";
        let expected = [
            (Version::One, "/sys/fs/cgroup/memory/user/me"),
            (Version::One, "/sys/fs/cgroup/memory/user"),
            (Version::One, "/sys/fs/cgroup/memory"),
            (Version::Two, "/sys/fs/cgroup/unified/user.slice/session.scope"),
            (Version::Two, "/sys/fs/cgroup/unified/user.slice"),
            (Version::Two, "/sys/fs/cgroup/unified"),
        ];
        assert_eq!(parents(own, mounts), expected.map(|(version, path)| (version, PathBuf::from(path))));
        assert_eq!(parents("", ""), []);
    }

    #[test]
    fn at_the_top_there_is_one_place() {
        let mounts = "31 24 0:28 / /sys/fs/cgroup rw - cgroup2 none rw\n";
        assert_eq!(parents("0::/\n", mounts), [(Version::Two, PathBuf::from("/sys/fs/cgroup"))]);
    }
}
