//! The block device behind a file system: `/sys/dev/block`.
//!
//! A partition has no queue: its disk has. What lies below a device that is made of others (LVM, RAID, encryption) is
//! not looked at: the kernel hands up to it what matters.

use std::path::Path;

use super::parse::chosen;
use terrace_io::machine::{Known, Mount, Root, Unknown};

/// A disk, or what looks like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its name below `/sys/block`: of the disk, if the file system is on a partition.
    pub name: String,
    /// Bytes that the kernel reads ahead of a sequential reader.
    pub read_ahead_bytes: Known<u64>,
    /// Whether it says that it has to seek.
    pub is_rotational: Known<bool>,
    /// How requests are put in order: `none`, `mq-deadline`, `bfq`, ...
    pub scheduler: Known<String>,
    /// `write back` if what was written may be in a cache that loses it with the power, until it is flushed.
    pub write_cache: Known<String>,
}

impl BlockDevice {
    /// The device of a mount. `None` if it has none.
    pub(super) fn of(root: &Root, mount: &Mount) -> Known<Option<BlockDevice>> {
        let (major, minor) = mount.device;
        let dir = if major != 0 {
            format!("/sys/dev/block/{major}:{minor}")
        } else {
            // A file system that may have many devices (btrfs) has a number of its own, and names one.
            let Some(name) = source_name(root, &mount.source) else { return Ok(None) };
            format!("/sys/class/block/{name}")
        };
        let Some(mut dir) = root.resolved(&dir) else {
            return Err(Unknown::new(format!("{dir}: not there")));
        };
        if root.path(&dir).join("partition").exists()
            && let Some(end_of_disk) = dir.rfind('/')
        {
            dir.truncate(end_of_disk);
        }
        let name = dir.rsplit('/').next().unwrap_or_default().to_owned();
        let queue = |file: &str| format!("{dir}/queue/{file}");
        let read_ahead = root.number(&queue("read_ahead_kb"));
        Ok(Some(BlockDevice {
            name,
            read_ahead_bytes: read_ahead.map(|kibibytes| kibibytes.saturating_mul(1024)),
            is_rotational: root.number(&queue("rotational")).map(|number| number != 0),
            scheduler: root.parsed(&queue("scheduler"), chosen),
            write_cache: root.text(&queue("write_cache")),
        }))
    }
}

/// The name of a device that is mounted as a path: `/dev/mapper/data` leads to `dm-0`.
fn source_name(root: &Root, source: &str) -> Option<String> {
    source.strip_prefix("/dev/")?;
    let path = root.resolved(source).unwrap_or_else(|| source.to_owned());
    Some(Path::new(&path).file_name()?.to_string_lossy().into_owned())
}

/// Bytes that the kernel reads ahead on a file system without a block device: network and FUSE have their own.
pub(super) fn read_ahead_bytes(root: &Root, mount: &Mount) -> Known<u64> {
    let (major, minor) = mount.device;
    let kibibytes = root.number(&format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"))?;
    Ok(kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks::testing::root;
    use terrace_io::machine::parse_mounts;

    fn mount(line: &str) -> Mount {
        parse_mounts(line).remove(0)
    }

    fn files() -> Vec<(&'static str, &'static str)> {
        vec![
            ("/sys/devices/pci0/block/sda/queue/read_ahead_kb", "128\n"),
            ("/sys/devices/pci0/block/sda/queue/rotational", "0\n"),
            ("/sys/devices/pci0/block/sda/queue/scheduler", "[none] mq-deadline kyber \n"),
            ("/sys/devices/pci0/block/sda/queue/write_cache", "write back\n"),
            ("/sys/devices/pci0/block/sda/sda2/partition", "2\n"),
            ("/sys/dev/block/8:0@", "../../devices/pci0/block/sda"),
            ("/sys/dev/block/8:2@", "../../devices/pci0/block/sda/sda2"),
            ("/sys/class/block/sda2@", "../../devices/pci0/block/sda/sda2"),
        ]
    }

    #[test]
    fn a_partition_has_the_queue_of_its_disk() {
        let (_dir, root) = root(&files());
        let disk = BlockDevice::of(&root, &mount("1 0 8:0 / / rw - xfs /dev/sda rw")).unwrap().unwrap();
        let expected = BlockDevice {
            name: "sda".to_owned(),
            read_ahead_bytes: Ok(128 << 10),
            is_rotational: Ok(false),
            scheduler: Ok("none".to_owned()),
            write_cache: Ok("write back".to_owned()),
        };
        assert_eq!(disk, expected);
        for line in ["1 0 8:2 / / rw - ext4 /dev/root rw", "1 0 0:25 /@ / rw - btrfs /dev/sda2 rw"] {
            assert_eq!(BlockDevice::of(&root, &mount(line)), Ok(Some(expected.clone())), "{line}");
        }
    }

    #[test]
    fn a_mapped_device_is_found_by_where_its_name_leads() {
        let mut files = files();
        files.extend([
            ("/dev/dm-0", ""),
            ("/dev/mapper/data@", "../dm-0"),
            ("/sys/devices/virtual/block/dm-0/queue/rotational", "1"),
            ("/sys/class/block/dm-0@", "../../devices/virtual/block/dm-0"),
        ]);
        let (_dir, root) = root(&files);
        let mount = mount("1 0 0:25 / / rw - btrfs /dev/mapper/data rw");
        let device = BlockDevice::of(&root, &mount).unwrap().unwrap();
        assert_eq!((&*device.name, device.is_rotational), ("dm-0", Ok(true)));
        assert!(device.scheduler.unwrap_err().to_string().contains("/dm-0/queue/scheduler: "));
    }

    #[test]
    fn no_device_is_no_failure() {
        let (_dir, root) = root(&[("/sys/class/bdi/0:55/read_ahead_kb", "15360")]);
        let nfs = mount("1 0 0:55 / /mnt rw - nfs4 server:/export rw");
        assert_eq!(BlockDevice::of(&root, &nfs), Ok(None));
        assert_eq!(read_ahead_bytes(&root, &nfs), Ok(15_360 << 10));
        let ext4 = mount("1 0 8:0 / / rw - ext4 /dev/sda rw");
        assert_eq!(BlockDevice::of(&root, &ext4).unwrap_err().to_string(), "/sys/dev/block/8:0: not there");
        assert!(read_ahead_bytes(&root, &ext4).is_err());
    }
}
