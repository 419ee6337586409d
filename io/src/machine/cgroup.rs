//! The control group that this process is in, as far as memory goes: `/proc/self/cgroup` and what is mounted of the
//! controllers, version 1 or 2.
//!
//! A group has the limits of all groups above it. Those that are out of sight, as from within a container, are known
//! only where the kernel adds them up.

use std::path::{Component, Path};

use super::{Known, Mount, Root, Unknown};

/// From here on, a number of version 1 means no limit: it is the largest multiple of a page there is.
const NO_LIMIT_BYTES: u64 = 1 << 62;

/// What a control group says about memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryGroup {
    /// 1 or 2.
    pub version: u8,
    /// Where the group is, as a name below the root: `/sys/fs/cgroup/...`.
    pub dir: String,
    /// The tightest limit of the group and of those above it, if there is one.
    pub limit: Option<MemoryLimit>,
}

/// A limit on the memory of a group, page cache included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    /// How many bytes.
    pub bytes: u64,
    /// The file that says so.
    pub file: String,
}

impl MemoryGroup {
    /// The group of this process.
    pub fn of_this_process(root: &Root, mounts: &[Mount]) -> Known<MemoryGroup> {
        let file = "/proc/self/cgroup";
        let groups = root.text(file)?;
        let controller = |mount: &&Mount| mount.kind == "cgroup" && mount.has("memory");
        // Where both are mounted, memory may be with either: version 1 has it if it names it.
        let found = match (group_v1(&groups), mounts.iter().find(controller)) {
            (Some(group), Some(mount)) => Some((1, group, mount)),
            _ => match (group_v2(&groups), mounts.iter().find(|mount| mount.kind == "cgroup2")) {
                (Some(group), Some(mount)) => Some((2, group, mount)),
                _ => None,
            },
        };
        let Some((version, group, mount)) = found else {
            return Err(Unknown::new(format!("{file}: no group for memory is mounted")));
        };
        look(root, version, Path::new(group), mount)
    }

    /// What the group says in one of its files.
    pub fn text(&self, root: &Root, file: &str) -> Known<String> {
        root.text(&format!("{}/{file}", self.dir))
    }
}

/// The path behind the line of version 1 that names memory.
fn group_v1(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|controller| controller == "memory").then_some(group)
    })
}

/// The path of version 2, whose line names no controller.
fn group_v2(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

fn look(root: &Root, version: u8, group: &Path, mount: &Mount) -> Known<MemoryGroup> {
    // What is mounted may be the group itself, or one above it; a group elsewhere cannot be seen.
    let below = group.strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    let below = if is_plain { below } else { Path::new("") };
    let mut dirs = Vec::new();
    for above in below.ancestors() {
        let dir = mount.point.join(above).to_string_lossy().trim_end_matches('/').to_owned();
        // A group may be gone while its processes are not.
        if root.path(&dir).is_dir() {
            dirs.push(dir);
        }
    }
    let Some(dir) = dirs.first().cloned() else {
        return Err(Unknown::new(format!("{}: not there", mount.point.display())));
    };
    let files: &[&str] =
        if version == 1 { &["memory.limit_in_bytes"] } else { &["memory.max", "memory.high"] };
    let mut limits = Vec::new();
    let mut unreadable = None;
    for dir in &dirs {
        for file in files {
            let file = format!("{dir}/{file}");
            // The topmost group of version 2 has no such file.
            if !root.path(&file).exists() {
                continue;
            }
            match root.text(&file).map(|text| limit_bytes(&text)) {
                Ok(bytes) => limits.extend(bytes.map(|bytes| MemoryLimit { bytes, file })),
                Err(why) => unreadable = Some(why),
            }
        }
    }
    if version == 1 {
        // What the kernel has added up, groups out of sight included.
        let file = format!("{dir}/memory.stat");
        let stat = root.text(&file).unwrap_or_default();
        let value = stat.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit "));
        limits.extend(value.and_then(limit_bytes).map(|bytes| MemoryLimit { bytes, file }));
    }
    let limit = limits.into_iter().min_by_key(|limit| limit.bytes);
    match unreadable {
        Some(why) if limit.is_none() => Err(why),
        _ => Ok(MemoryGroup { version, dir, limit }),
    }
}

/// The number of a limit; `None` for `max` and for a number that means the same.
fn limit_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::parse_mounts;
    use crate::machine::testing::{write, write_all};

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const HYBRID: &str = "12:cpu,cpuacct:/x\n4:memory:/a/b\n1:name=systemd:/a/b\n0::/a/b\n";

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        write_all(&root, files);
        (dir, root)
    }

    /// The tightest limit: bytes and file.
    fn limit(mounts: &str, files: &[(&str, &str)]) -> Known<Option<(u64, String)>> {
        let (_dir, root) = root(files);
        let group = MemoryGroup::of_this_process(&root, &parse_mounts(mounts))?;
        Ok(group.limit.map(|limit| (limit.bytes, limit.file)))
    }

    #[test]
    fn the_tightest_limit_up_to_the_root_counts() {
        let base = "/sys/fs/cgroup";
        let group = ("/proc/self/cgroup", "0::/system.slice/db.service\n");
        let files = |own: &'static str, high: &'static str, above: &'static str| {
            [
                group,
                ("/sys/fs/cgroup/system.slice/db.service/memory.max", own),
                ("/sys/fs/cgroup/system.slice/db.service/memory.high", high),
                ("/sys/fs/cgroup/system.slice/memory.max", above),
            ]
        };
        let of = |own, high, above| limit(V2, &files(own, high, above)).unwrap();
        assert_eq!(of("max\n", "max\n", "max\n"), None);
        let own = format!("{base}/system.slice/db.service/memory.max");
        assert_eq!(of("1000\n", "max\n", "2000\n"), Some((1000, own)));
        let above = format!("{base}/system.slice/memory.max");
        assert_eq!(of("max\n", "3000", "2000\n"), Some((2000, above)));
        let high = format!("{base}/system.slice/db.service/memory.high");
        assert_eq!(of("1000", "900", "2000\n"), Some((900, high)));
    }

    #[test]
    fn version_1_has_memory_if_it_names_it() {
        let none = "9223372036854771712\n";
        let files = |own: &'static str, above: &'static str, stat: &'static str| {
            [
                ("/proc/self/cgroup", HYBRID),
                ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", own),
                ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", above),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", none),
                ("/sys/fs/cgroup/memory/a/b/memory.stat", stat),
                ("/sys/fs/cgroup/unified/a/b/memory.max", "1"),
            ]
        };
        assert_eq!(limit(V1, &files(none, none, "")), Ok(None));
        let above = "/sys/fs/cgroup/memory/a/memory.limit_in_bytes".to_owned();
        assert_eq!(limit(V1, &files(none, "5000\n", "")), Ok(Some((5000, above))));
        let stat = "cache 1\nhierarchical_memory_limit 4096\nhierarchical_memsw_limit 1\n";
        let file = "/sys/fs/cgroup/memory/a/b/memory.stat".to_owned();
        assert_eq!(limit(V1, &files(none, "5000\n", stat)), Ok(Some((4096, file))));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        // Without a namespace for groups, the path is the machine's, and what is mounted is the container's.
        let mounted = "35 31 0:32 /docker/12ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let file = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        let of = |group| limit(mounted, &[("/proc/self/cgroup", group), (file, "7000")]);
        assert_eq!(of("4:memory:/docker/12ab\n"), Ok(Some((7000, file.to_owned()))));
        assert_eq!(of("4:memory:/elsewhere\n"), Ok(Some((7000, file.to_owned()))));
        let below = "/sys/fs/cgroup/memory/sub/memory.limit_in_bytes";
        let files = [("/proc/self/cgroup", "4:memory:/docker/12ab/sub\n"), (file, "7000"), (below, "500")];
        assert_eq!(limit(mounted, &files), Ok(Some((500, below.to_owned()))));
        // With one, a group outside of it is told with dots, which lead nowhere in what is mounted.
        let (own, other) = (("/sys/fs/cgroup/memory.max", "8000"), ("/sys/other/memory.max", "1"));
        let dots = limit(V2, &[("/proc/self/cgroup", "0::/../../other\n"), own, other]);
        assert_eq!(dots, Ok(Some((8000, own.0.to_owned()))));
    }

    #[test]
    fn what_is_not_there_is_unknown_or_no_limit() {
        let why = |known: Known<Option<(u64, String)>>| known.unwrap_err().to_string();
        assert!(why(limit(V2, &[])).starts_with("/proc/self/cgroup: "));
        assert!(why(limit("", &[("/proc/self/cgroup", "0::/\n")])).contains("no group for memory"));
        assert!(why(limit(V2, &[("/proc/self/cgroup", "0::/a\n")])).contains("not there"));
        assert!(why(limit(V2, &[("/proc/self/cgroup", "nonsense\n\n:\n")])).contains("no group for memory"));
        // The topmost group of version 2 has no limits; a group that was removed has none of its own.
        let files = [("/proc/self/cgroup", "0::/gone (deleted)\n"), ("/sys/fs/cgroup/cgroup.procs", "")];
        assert_eq!(limit(V2, &files), Ok(None));
        let (_dir, unreadable) = root(&[("/proc/self/cgroup", "0::/\n")]);
        write(&unreadable, "/sys/fs/cgroup/memory.max/x", "");
        let group = MemoryGroup::of_this_process(&unreadable, &parse_mounts(V2));
        assert!(group.unwrap_err().to_string().starts_with("/sys/fs/cgroup/memory.max: "));
    }

    #[test]
    fn files_of_the_group_are_read_where_it_is() {
        let (_dir, root) =
            root(&[("/proc/self/cgroup", "0::/a\n"), ("/sys/fs/cgroup/a/memory.pressure", "some")]);
        let group = MemoryGroup::of_this_process(&root, &parse_mounts(V2)).unwrap();
        assert_eq!((group.version, &*group.dir), (2, "/sys/fs/cgroup/a"));
        assert_eq!(group.text(&root, "memory.pressure").unwrap(), "some");
    }
}
