//! Everything that is judged, as plain data. What stands in files is read here, below a [`Root`].

use std::path::Path;

use super::answers::Answers;
use super::device::{self, BlockDevice};
use super::parse::{self, Limits, Memory, Pressure, Release};
use terrace_io::machine::{Known, MemoryGroup, Mount, Root, Unknown, find_mount, parse_mounts};

/// What was found out about a directory, and about this process and its machine.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Whether this is Linux. If not, there is nothing but the answers.
    pub is_linux: bool,
    /// What system calls answered.
    pub answers: Answers,
    /// The kernel's version.
    pub release: Known<Release>,
    /// The size of a page.
    pub page_bytes: Known<u64>,
    /// Whether memory is reclaimed by generations (MGLRU).
    pub is_multi_generational: Known<bool>,
    /// What the directory is on.
    pub mount: Known<Mount>,
    /// Whether that has a journal, if it is ext4.
    pub has_journal: Known<bool>,
    /// Its device, if it has one.
    pub device: Known<Option<BlockDevice>>,
    /// Bytes that the kernel reads ahead there of a sequential reader.
    pub read_ahead_bytes: Known<u64>,
    /// The machine's memory.
    pub memory: Known<Memory>,
    /// This process's control group.
    pub group: Known<MemoryGroup>,
    /// How eagerly heap memory is swapped out, 0 to 200.
    pub swappiness: Known<u64>,
    /// For which heap memory there are huge pages: `always`, `madvise` or `never`.
    pub heap_huge_pages: Known<String>,
    /// When dirty pages are written.
    pub dirty: Known<DirtyLimits>,
    /// How much was waited for memory, by the machine or this process's control group, whichever is worse.
    pub memory_pressure: Known<Pressure>,
    /// The same of I/O.
    pub io_pressure: Known<Pressure>,
    /// How many mappings a process may have.
    pub mappings_max: Known<u64>,
    /// This process's limits.
    pub limits: Known<Limits>,
}

/// `vm.dirty_*`. Of bytes and ratio the one holds that is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyLimits {
    /// So many dirty bytes wake up those who write them in the background.
    pub background_bytes: u64,
    /// Or so many percent of the available memory.
    pub background_percent: u64,
    /// From so many dirty bytes on, whoever makes more has to wait.
    pub bytes: u64,
    /// Or so many percent of the available memory.
    pub percent: u64,
}

impl DirtyLimits {
    /// Both limits in bytes: in the background, and for everybody.
    pub fn of(&self, available_bytes: u64) -> (u64, u64) {
        let of = |bytes: u64, percent: u64| match bytes {
            0 => available_bytes / 100 * percent.min(100),
            bytes => bytes,
        };
        let (background, limit) =
            (of(self.background_bytes, self.background_percent), of(self.bytes, self.percent));
        // The kernel does not let the first be above the second.
        (if background >= limit { limit / 2 } else { background }, limit)
    }
}

impl Facts {
    /// Reads the files below `root`, which is the machine's own but in tests.
    pub fn gather(root: &Root, answers: Answers) -> Facts {
        let mounts = root.text("/proc/self/mountinfo").map(|text| parse_mounts(&text));
        let mount = mounts.clone().and_then(|mounts| {
            let found = find_mount(&mounts, answers.mount_id, &answers.dir).cloned();
            found.ok_or_else(|| Unknown::new(format!("no mount that {} is on", answers.dir.display())))
        });
        let device = mount.clone().and_then(|mount| BlockDevice::of(root, &mount));
        let read_ahead_bytes = match (&device, &mount) {
            (Ok(Some(device)), _) => device.read_ahead_bytes.clone(),
            (Err(why), _) | (_, Err(why)) => Err(why.clone()),
            (Ok(None), Ok(mount)) => device::read_ahead_bytes(root, mount),
        };
        let group = mounts.and_then(|mounts| MemoryGroup::of_this_process(root, &mounts));
        let vm = |name: &str| root.number(&format!("/proc/sys/vm/{name}"));
        let dirty = || {
            Ok(DirtyLimits {
                background_bytes: vm("dirty_background_bytes")?,
                background_percent: vm("dirty_background_ratio")?,
                bytes: vm("dirty_bytes")?,
                percent: vm("dirty_ratio")?,
            })
        };
        Facts {
            is_linux: cfg!(target_os = "linux"),
            release: root.parsed("/proc/sys/kernel/osrelease", Release::parse),
            page_bytes: root.parsed("/proc/self/smaps", parse::page_bytes),
            is_multi_generational: is_multi_generational(root),
            has_journal: mount.clone().and_then(|mount| has_journal(root, &mount)),
            mount,
            device,
            read_ahead_bytes,
            memory: root.parsed("/proc/meminfo", Memory::parse),
            swappiness: vm("swappiness"),
            heap_huge_pages: root.parsed("/sys/kernel/mm/transparent_hugepage/enabled", parse::chosen),
            dirty: dirty(),
            memory_pressure: pressure(root, &group, "memory"),
            io_pressure: pressure(root, &group, "io"),
            group,
            mappings_max: vm("max_map_count"),
            limits: root.parsed("/proc/self/limits", Limits::parse),
            answers,
        }
    }

    /// The memory that this process may have at most: that of the machine, or of its control group.
    pub fn usable_bytes(&self) -> Known<u64> {
        Ok(self.memory.clone()?.total_bytes.min(self.limit_bytes()))
    }

    /// The memory that is available now, at most what the control group may have.
    pub fn available_bytes(&self) -> Known<u64> {
        Ok(self.memory.clone()?.available_bytes.min(self.limit_bytes()))
    }

    fn limit_bytes(&self) -> u64 {
        let limit = self.group.as_ref().ok().and_then(|group| group.limit.as_ref());
        limit.map_or(u64::MAX, |limit| limit.bytes)
    }

    /// Bytes of the tables in the directory; 0 if there is no database.
    pub fn table_bytes(&self) -> u64 {
        match &self.answers.database {
            Ok(Some(database)) => database.table_bytes,
            _ => 0,
        }
    }

    /// Tables in the directory; 0 if there is no database.
    pub fn tables(&self) -> u64 {
        match &self.answers.database {
            Ok(Some(database)) => database.tables,
            _ => 0,
        }
    }

    /// Whether tables are read by `pread` because of where they are.
    pub fn is_network(&self) -> bool {
        self.answers.is_network == Ok(true)
    }

    /// Whether files there are in memory only, so that nothing is read ahead or written back.
    pub fn is_in_memory(&self) -> bool {
        self.mount.as_ref().is_ok_and(|mount| matches!(&*mount.kind, "tmpfs" | "ramfs"))
    }
}

/// A kernel that does not have them has no such file, which is an answer too.
fn is_multi_generational(root: &Root) -> Known<bool> {
    let dir = "/sys/kernel/mm";
    if root.path(dir).is_dir() && !root.path(dir).join("lru_gen").exists() {
        return Ok(false);
    }
    root.parsed(&format!("{dir}/lru_gen/enabled"), parse::is_multi_generational)
}

/// ext4 names the thread that keeps its journal.
fn has_journal(root: &Root, mount: &Mount) -> Known<bool> {
    if mount.options.iter().any(|option| option.starts_with("data=")) {
        return Ok(true);
    }
    let (major, minor) = mount.device;
    let device = format!("/sys/dev/block/{major}:{minor}");
    let name = root.resolved(&device).ok_or_else(|| Unknown::new(format!("{device}: not there")))?;
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy();
    // Its inode, as a rule; a journal elsewhere has another name.
    if root.path(&format!("/proc/fs/jbd2/{name}-8")).exists() {
        return Ok(true);
    }
    Ok(root.text(&format!("/sys/fs/ext4/{name}/journal_task"))? != "<none>")
}

/// The pressure on the machine and on the control group, whichever is worse.
fn pressure(root: &Root, group: &Known<MemoryGroup>, what: &str) -> Known<Pressure> {
    let machine = root.parsed(&format!("/proc/pressure/{what}"), Pressure::parse);
    let group = group.as_ref().ok().and_then(|group| group.text(root, &format!("{what}.pressure")).ok());
    match (machine, group.as_deref().and_then(Pressure::parse)) {
        (Ok(machine), Some(group)) => Ok(Pressure {
            some_percent: machine.some_percent.max(group.some_percent),
            full_percent: machine.full_percent.max(group.full_percent),
        }),
        (Err(_), Some(group)) => Ok(group),
        (machine, None) => machine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks::testing;
    use crate::doctor::checks::testing::root;
    use terrace_io::machine::testing::write;

    const MOUNTS: &str = "\
27 1 8:2 / / rw,relatime - ext4 /dev/sda2 rw,discard
30 27 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
";

    /// A small machine: everything that is read.
    fn machine() -> (tempfile::TempDir, Root) {
        root(&[
            ("/proc/self/mountinfo", MOUNTS),
            ("/proc/self/cgroup", "0::/db\n"),
            ("/proc/self/smaps", "KernelPageSize:        4 kB\n"),
            (
                "/proc/self/limits",
                "Max open files 1 2\nMax locked memory 3 4\nMax address space unlimited 5\n",
            ),
            ("/proc/meminfo", "MemTotal: 4000 kB\nMemAvailable: 3000 kB\nSwapTotal: 0 kB\n"),
            ("/proc/pressure/memory", "some avg60=1.5\nfull avg60=0.5\n"),
            ("/proc/pressure/io", "some avg60=9.0\nfull avg60=8.0\n"),
            ("/proc/sys/kernel/osrelease", "6.8.0-31-generic\n"),
            ("/proc/sys/vm/dirty_background_bytes", "0\n"),
            ("/proc/sys/vm/dirty_background_ratio", "10\n"),
            ("/proc/sys/vm/dirty_bytes", "0\n"),
            ("/proc/sys/vm/dirty_ratio", "20\n"),
            ("/proc/sys/vm/max_map_count", "65530\n"),
            ("/proc/sys/vm/swappiness", "60\n"),
            ("/sys/devices/x/block/sda/queue/read_ahead_kb", "128\n"),
            ("/sys/devices/x/block/sda/sda2/partition", "2\n"),
            ("/sys/dev/block/8:2@", "../../devices/x/block/sda/sda2"),
            ("/sys/fs/cgroup/db/memory.max", "2048000\n"),
            ("/sys/fs/cgroup/db/memory.pressure", "some avg60=3.5\nfull avg60=0.1\n"),
            ("/sys/fs/ext4/sda2/journal_task", "214\n"),
            ("/sys/kernel/mm/lru_gen/enabled", "0x0007\n"),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ])
    }

    fn gather(root: &Root) -> Facts {
        Facts::gather(root, Answers { mount_id: None, dir: "/srv/db".into(), ..testing::good().answers })
    }

    #[test]
    fn every_file_is_read() {
        let (_dir, root) = machine();
        let facts = gather(&root);
        assert_eq!(facts.release.as_ref().unwrap().version, (6, 8));
        assert_eq!((facts.page_bytes.clone(), facts.is_multi_generational.clone()), (Ok(4096), Ok(true)));
        assert_eq!(facts.mount.as_ref().unwrap().source, "/dev/sda2");
        assert_eq!(facts.has_journal, Ok(true));
        assert_eq!(facts.device.as_ref().unwrap().as_ref().unwrap().name, "sda");
        assert_eq!(facts.read_ahead_bytes, Ok(128 << 10));
        assert_eq!((facts.usable_bytes(), facts.available_bytes()), (Ok(2_048_000), Ok(2_048_000)));
        assert_eq!(facts.swappiness, Ok(60));
        assert_eq!(facts.heap_huge_pages.as_deref(), Ok("madvise"));
        assert_eq!(facts.dirty.as_ref().unwrap().percent, 20);
        assert_eq!(facts.mappings_max, Ok(65_530));
        assert_eq!(facts.limits.as_ref().unwrap().open_files.soft, Some(1));
        let worst = Pressure { some_percent: 3.5, full_percent: 0.5 };
        assert_eq!(facts.memory_pressure, Ok(worst), "the worse of machine and group");
        assert_eq!(facts.io_pressure, Ok(Pressure { some_percent: 9.0, full_percent: 8.0 }));
    }

    #[test]
    fn a_bare_root_leaves_everything_unknown_and_says_why() {
        let (_dir, root) = root(&[]);
        let facts = gather(&root);
        for finding in crate::doctor::judge(&facts) {
            assert!(!finding.found.is_empty() && !finding.why.is_empty(), "{finding:?}");
        }
        assert!(facts.usable_bytes().unwrap_err().to_string().starts_with("/proc/meminfo: "));
        assert!(facts.is_multi_generational.is_err() && facts.device.is_err() && facts.group.is_err());
    }

    #[test]
    fn a_journal_shows_in_three_ways() {
        let journal = |change: &dyn Fn(&Root)| {
            let (_dir, root) = machine();
            change(&root);
            gather(&root).has_journal
        };
        let task = "/sys/fs/ext4/sda2/journal_task";
        assert_eq!(journal(&|root| write(root, task, "<none>\n")), Ok(false));
        let old = |root: &Root| std::fs::remove_file(root.path(task)).unwrap();
        assert!(journal(&old).unwrap_err().to_string().starts_with(task));
        let with_inode = |root: &Root| {
            old(root);
            write(root, "/proc/fs/jbd2/sda2-8/info", "");
        };
        assert_eq!(journal(&with_inode), Ok(true));
        let with_option = |root: &Root| {
            old(root);
            write(root, "/proc/self/mountinfo", &MOUNTS.replace("rw,discard", "rw,data=ordered"));
        };
        assert_eq!(journal(&with_option), Ok(true));
    }

    #[test]
    fn a_kernel_without_generations_says_so_by_having_no_file() {
        let (_dir, root) = machine();
        std::fs::remove_dir_all(root.path("/sys/kernel/mm/lru_gen")).unwrap();
        assert_eq!(gather(&root).is_multi_generational, Ok(false));
    }

    #[test]
    fn dirty_limits_are_bytes_or_shares() {
        let shares = DirtyLimits { background_bytes: 0, background_percent: 10, bytes: 0, percent: 20 };
        assert_eq!(shares.of(1000), (100, 200));
        assert_eq!(DirtyLimits { bytes: 50, ..shares }.of(1000), (25, 50));
        assert_eq!(DirtyLimits { background_bytes: 30, ..shares }.of(1000), (30, 200));
        assert_eq!(DirtyLimits { percent: u64::MAX, ..shares }.of(u64::MAX).1, u64::MAX / 100 * 100);
    }
}
