//! The file system: its type, its journal, and what is free on it. Its options are in `mount_options.rs`.

use super::super::{Facts, Finding};
use super::{GIB, mount_options};
use crate::figures;
use terrace_io::machine::Mount;

/// Below this, the log and one compaction may not find room: see `Options::log_bytes_max`.
const FREE_BYTES_MIN: u64 = GIB;
/// A database makes a file for each table and log segment.
const FREE_FILES_MIN: u64 = 1000;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mount = match &facts.mount {
        Ok(mount) => mount,
        Err(why) => {
            let good_for = "what syncs and mapped reads are worth depends on it";
            let mut findings = vec![Finding::unknown("file-system", why, good_for)];
            findings.extend(space(facts));
            return findings;
        }
    };
    let mut findings = vec![kind(facts, mount)];
    findings.extend(journal(facts, mount));
    findings.extend(mount_options::judge(mount));
    findings.extend(space(facts));
    findings
}

fn kind(facts: &Facts, mount: &Mount) -> Finding {
    let name = "file-system";
    let kind = &*mount.kind;
    let source = if mount.source.is_empty() { "nothing" } else { &mount.source };
    let found = format!("{kind} of {source}, mounted on {}", mount.point.display());
    if facts.is_network() {
        let why =
            "tables are read by pread, not mapped; whether the lock and the syncs hold is up to the server";
        return Finding::warn(name, found, why).with_advice("keep the database on a local file system");
    }
    if facts.is_in_memory() {
        let why = "everything there is lost with the machine, and tables take memory that cannot be evicted";
        return Finding::warn(name, found, why).with_advice("keep what is to last on a disk");
    }
    match kind {
        "overlay" | "aufs" => {
            let why = "what is written there goes with the container, and a file of a lower layer is \
                       copied as a whole before its first change";
            Finding::warn(name, found, why).with_advice("keep the database in a volume")
        }
        "fuse" | "fuseblk" | "virtiofs" => user_space(name, found),
        fuse if fuse.starts_with("fuse.") => user_space(name, found),
        "vfat" | "msdos" | "exfat" | "ntfs" | "ntfs3" | "iso9660" | "squashfs" | "proc" | "sysfs" => {
            let why =
                "it does not keep the promises that a database builds on: owners, durable renames, room";
            Finding::warn(name, found, why).with_advice("use ext4 or XFS")
        }
        "btrfs" | "bcachefs" => {
            let why =
                "it writes what is rewritten to another place: log segments, which are used again, scatter";
            Finding::note(name, found, why).with_advice(
                "chattr +C DIR before the database is created (Terrace has checksums of its own), or use \
                 ext4 or XFS",
            )
        }
        "zfs" => {
            let why =
                "mapped pages are copies of what its own cache (ARC) holds, so memory holds tables twice";
            Finding::note(name, found, why).with_advice("set zfs_arc_max low, or use ext4 or XFS")
        }
        "ext4" | "xfs" => Finding::ok(name, found, "Terrace is tested there, power cuts included"),
        "ext2" | "ext3" | "f2fs" => {
            Finding::ok(name, found, "a local file system with pages in the page cache")
        }
        _ => {
            let why = "it is not one that Terrace knows: whether a sync holds, and what a mapped read \
                       costs, is its to say";
            Finding::note(name, found, why).with_advice("use ext4 or XFS if in doubt")
        }
    }
}

fn user_space(name: &'static str, found: String) -> Finding {
    let why = "a program answers for it: a sync is worth what that makes of it, and if it ends, a mapped \
               read is a signal (SIGBUS) that ends the process";
    Finding::warn(name, found, why)
        .with_advice("Options::point_reads(PointReads::Pread), or a file system of the kernel: ext4 or XFS")
}

fn journal(facts: &Facts, mount: &Mount) -> Option<Finding> {
    let name = "journal";
    if !matches!(&*mount.kind, "ext2" | "ext3" | "ext4") {
        return None;
    }
    Some(match &facts.has_journal {
        Ok(true) => Finding::ok(name, "there", "the file system is whole again after a power cut"),
        Ok(false) => {
            let why = "after a power cut the file system itself may be damaged, and fsck decides what is \
                       left of directories and files";
            let to_do = format!("tune2fs -O has_journal {} (while it is not mounted)", mount.source);
            Finding::warn(name, "none", why).with_advice(to_do)
        }
        Err(why) => Finding::unknown(name, why, "without one a power cut may damage the file system itself"),
    })
}

/// What is free.
pub(super) fn space(facts: &Facts) -> Vec<Finding> {
    let space = match &facts.answers.space {
        Ok(space) => space,
        Err(why) => {
            let good_for = "writes stop when it is used up, until there is some";
            return vec![Finding::unknown("space", why, good_for)];
        }
    };
    let (free, tables) = (space.free_bytes, facts.table_bytes());
    let found = format!("{} free", figures::bytes(free));
    let finding = if free < FREE_BYTES_MIN {
        let why = "the log may take 1 GiB by default, and a compaction writes before it deletes; without \
                   room writes stop until there is some";
        Finding::warn("space", found, why).with_advice("make room, or set Options::log_bytes_max lower")
    } else if free < tables {
        let why = format!(
            "compacting all of it at once, or salvaging it, writes up to {} more before anything is deleted",
            figures::bytes(tables)
        );
        Finding::note("space", found, why)
            .with_advice("make room before `terrace compact` or `terrace salvage`")
    } else {
        Finding::ok("space", found, "enough to write all tables once more, as compacting everything does")
    };
    let mut findings = vec![finding];
    if let Some(files) = space.free_files {
        let found = format!("{} more files", figures::count(files));
        let why = "each table and each log segment is a file";
        findings.push(if files < FREE_FILES_MIN {
            Finding::warn("inodes", found, why)
                .with_advice("delete files, or make the file system with more inodes")
        } else {
            Finding::ok("inodes", found, why)
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::super::State;
    use super::super::MIB;
    use super::super::testing::{check, unknown, with};
    use super::*;

    fn mounted(kind: &str) -> impl FnOnce(&mut Facts) {
        move |facts| facts.mount.as_mut().unwrap().kind = kind.to_owned()
    }

    #[test]
    fn each_kind_has_its_word() {
        let name = "file-system";
        check(name, State::Ok, &["ext4 of /dev/sda, mounted on /"], |_| {});
        for (kind, state, word) in [
            ("xfs", State::Ok, "power cuts"),
            ("f2fs", State::Ok, "local"),
            ("btrfs", State::Note, "chattr +C"),
            ("zfs", State::Note, "zfs_arc_max"),
            ("reiserfs", State::Note, "ext4 or XFS"),
            ("tmpfs", State::Warn, "lost with the machine"),
            ("overlay", State::Warn, "volume"),
            ("fuse.sshfs", State::Warn, "SIGBUS"),
            ("fuseblk", State::Warn, "PointReads::Pread"),
            ("virtiofs", State::Warn, "SIGBUS"),
            ("vfat", State::Warn, "ext4"),
        ] {
            check(name, state, &[word], mounted(kind));
        }
        check(name, State::Warn, &["read by pread"], |facts| {
            mounted("nfs4")(facts);
            facts.answers.is_network = Ok(true);
        });
        check(name, State::Unknown, &["os error 13"], |facts| facts.mount = unknown());
        check(name, State::Ok, &["ext4 of nothing"], |facts| facts.mount.as_mut().unwrap().source.clear());
    }

    #[test]
    fn ext4_should_have_a_journal() {
        check("journal", State::Ok, &[], |_| {});
        check("journal", State::Warn, &["tune2fs", "/dev/sda"], |facts| facts.has_journal = Ok(false));
        check("journal", State::Unknown, &["os error 13"], |facts| facts.has_journal = unknown());
        let xfs = with(|facts| {
            mounted("xfs")(facts);
            facts.has_journal = unknown();
        });
        assert!(judge(&xfs).iter().all(|finding| finding.name != "journal"), "XFS always has one");
    }

    #[test]
    fn room_is_for_the_log_and_for_all_tables_once_more() {
        let free =
            |bytes: u64| move |facts: &mut Facts| facts.answers.space.as_mut().unwrap().free_bytes = bytes;
        check("space", State::Ok, &["100 GiB free"], |_| {});
        check("space", State::Warn, &["log_bytes_max"], free(GIB - 1));
        check("space", State::Ok, &[], free(GIB));
        check("space", State::Note, &["up to 2.00 GiB", "terrace compact"], |facts| {
            free(GIB + MIB)(facts);
            facts.answers.database.as_mut().unwrap().as_mut().unwrap().table_bytes = 2 * GIB;
        });
        check("space", State::Unknown, &["os error 13"], |facts| facts.answers.space = unknown());
    }

    #[test]
    fn files_may_run_out_before_bytes() {
        let left = |files| move |facts: &mut Facts| facts.answers.space.as_mut().unwrap().free_files = files;
        check("inodes", State::Ok, &["1,000,000 more files"], |_| {});
        check("inodes", State::Warn, &["999 more"], left(Some(999)));
        assert!(judge(&with(left(None))).iter().all(|finding| finding.name != "inodes"));
    }
}
