//! What is mounted where: `/proc/self/mountinfo`, decoded.
//!
//! A line that does not look like one is passed over: whatever the kernel adds, nothing here fails.

use std::path::{Path, PathBuf};

/// A mount: a line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What the kernel calls it, in this process's view.
    pub id: u64,
    /// Major and minor number of the device. A file system without a device, or with many, has a major number of 0.
    pub device: (u32, u32),
    /// Which directory of the file system is mounted: `/`, unless it is a bind mount, a subvolume or a control group's.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The type of the file system: `ext4`, `tmpfs`, `fuse.sshfs`, ...
    pub kind: String,
    /// What is mounted there: a device, mostly.
    pub source: String,
    /// The options of the mount, then those of the file system.
    pub options: Vec<String>,
}

impl Mount {
    /// Whether an option is set, in exactly these words.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|set| set == option)
    }

    /// The last of these options that is set: of those that take each other back, the one that holds.
    pub fn last<'o>(&self, options: &[&'o str]) -> Option<&'o str> {
        self.options.iter().rev().find_map(|set| options.iter().find(|option| *option == set).copied())
    }
}

/// The lines of `/proc/self/mountinfo`, in their order.
pub fn parse_mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let id = left.next()?.parse().ok()?;
    let (major, minor) = left.nth(1)?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = PathBuf::from(unescape(left.next()?));
    let point = PathBuf::from(unescape(left.next()?));
    let of_mount = left.next()?;
    let mut right = right.split(' ');
    // A source may be empty: then two spaces follow each other.
    let (kind, source) = (right.next()?.to_owned(), unescape(right.next()?));
    let options = of_mount.split(',').chain(right.next().unwrap_or("").split(','));
    let options = options.filter(|option| !option.is_empty()).map(unescape).collect();
    Some(Mount { id, device, root, point, kind, source, options })
}

/// The mount that `path` is below: the one that the kernel says it is on, if that is known; else the longest mount point
/// that is a prefix of it, the last one mounted there.
pub fn find_mount<'m>(mounts: &'m [Mount], id: Option<u64>, path: &Path) -> Option<&'m Mount> {
    let told = mounts.iter().find(|mount| Some(mount.id) == id);
    told.or_else(|| {
        // Of equal ones, this gives the last.
        let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
        above.max_by_key(|mount| mount.point.as_os_str().len())
    })
}

/// `mountinfo` writes a space as `\040`, and likewise other characters that would confuse a reader.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as they are found in the field, and some that are not.
    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
25 22 0:5 / /tmp rw - tmpfs tmpfs rw
26 22 0:6 / /data\\040disk rw,noatime shared:7 master:2 - xfs /dev/sdb rw,attr2
27 26 0:7 / /data\\040disk rw - btrfs /dev/sdc rw,nobarrier,subvolid=5,subvol=/,barrier
30 22 8:1 /srv/db /var/lib/db rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
31 22 0:44 / /mnt/none rw - tmpfs  rw,size=4k
32 22 0:45 / /merged rw - overlay overlay rw,lowerdir=/a\\054b:/c,upperdir=/u,workdir=/w,volatile
33 22 0:46 / /mnt/back\\134slash\\011tab rw - fuse.sshfs user@host:/x\\040y rw,user_id=0
34 22 0:47 / /short rw - sysfs sysfs
not a mount at all
35 22 eight:one / /x rw - ext4 /dev/x rw
36 22
 - \u{20}

";

    #[test]
    fn the_longest_and_last_mount_wins() {
        let mounts = parse_mounts(MOUNTS);
        assert_eq!(mounts.len(), 9, "{mounts:?}");
        let kind = |path: &str| &*find_mount(&mounts, None, Path::new(path)).unwrap().kind;
        assert_eq!(kind("/home/x"), "ext4");
        assert_eq!(kind("/tmp/x"), "tmpfs");
        assert_eq!(kind("/tmpfile"), "ext4");
        assert_eq!(kind("/data disk/x"), "btrfs");
        assert_eq!(kind("/mnt/back\\slash\ttab"), "fuse.sshfs");
        assert_eq!(find_mount(&[], None, Path::new("/")), None);
    }

    #[test]
    fn the_mount_that_the_kernel_names_is_believed() {
        let mounts = parse_mounts(MOUNTS);
        let kind = |id: u64, path: &str| &*find_mount(&mounts, Some(id), Path::new(path)).unwrap().kind;
        assert_eq!(kind(26, "/data disk/x"), "xfs", "the one below, which a descriptor may still be on");
        assert_eq!(kind(999, "/tmp/x"), "tmpfs", "a number that is not there falls back on the path");
    }

    #[test]
    fn every_field_of_a_line_is_read() {
        let mounts = parse_mounts(MOUNTS);
        let bind = find_mount(&mounts, None, Path::new("/var/lib/db")).unwrap();
        let expected = Mount {
            id: 30,
            device: (8, 1),
            root: PathBuf::from("/srv/db"),
            point: PathBuf::from("/var/lib/db"),
            kind: "ext4".to_owned(),
            source: "/dev/sda1".to_owned(),
            options: ["rw", "relatime", "rw", "errors=remount-ro"].map(str::to_owned).to_vec(),
        };
        assert_eq!(*bind, expected);
        let at = |path: &str| find_mount(&mounts, None, Path::new(path)).unwrap();
        assert_eq!((&*at("/mnt/none").source, &*at("/mnt/none").kind), ("", "tmpfs"));
        assert_eq!(at("/mnt/back\\slash\ttab").source, "user@host:/x y");
        assert!(at("/merged").has("volatile") && !at("/merged").has("volat"));
        assert!(at("/short").options == ["rw"]);
        assert_eq!(at("/data disk").last(&["barrier", "nobarrier"]), Some("barrier"));
        assert_eq!(at("/merged").last(&["barrier", "nobarrier"]), None);
    }
}
