//! The device: how far it is read ahead, whether it seeks, in what order it is asked, and what its cache keeps.

use super::super::{BlockDevice, Facts, Finding};
use super::MIB;
use crate::figures;

/// From here on, what is read ahead is worth a word. The kernel's default is 128 KiB.
const READ_AHEAD_BYTES_MAX: u64 = MIB;
/// Reading ahead more than this part of memory evicts what is hot: a scan that stops early has read that much for nothing.
const READ_AHEAD_SHARE: u64 = 16;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    if facts.is_in_memory() {
        return Vec::new();
    }
    let mut findings = vec![read_ahead(facts)];
    match &facts.device {
        Ok(Some(device)) => {
            findings.extend([rotation(device), scheduler(device), write_cache(device)]);
        }
        Ok(None) => {}
        Err(why) => {
            findings.push(Finding::unknown("device", why, "whether it seeks, and what its cache keeps"));
        }
    }
    findings
}

fn read_ahead(facts: &Facts) -> Finding {
    let name = "read-ahead";
    let bytes = match facts.read_ahead_bytes {
        Ok(bytes) => bytes,
        Err(ref why) => return Finding::unknown(name, why, "a long scan reads twice as far ahead"),
    };
    let device = facts.device.as_ref().ok().and_then(Option::as_ref);
    let found = match device {
        Some(device) => format!("{} on {}", figures::bytes(bytes), device.name),
        None => figures::bytes(bytes),
    };
    if bytes <= READ_AHEAD_BYTES_MAX {
        let why = "gets go without; scans ask for what they need by themselves";
        return Finding::ok(name, found, why);
    }
    // Who says that it reads sequentially gets twice as much.
    let window = bytes.saturating_mul(2);
    let why = format!(
        "gets of mapped tables go without, but a long scan may read {} of a table before it stops, and \
         that much may be evicted for it; other files that are mapped without advice read {} at each \
         fault",
        figures::bytes(window),
        figures::bytes(bytes)
    );
    let usable = facts.usable_bytes().unwrap_or(u64::MAX);
    let finding = if window > usable / READ_AHEAD_SHARE {
        Finding::warn(name, found, why)
    } else {
        Finding::note(name, found, why)
    };
    match (device, &facts.mount) {
        (Some(device), _) => {
            finding.with_advice(format!("echo 128 > /sys/block/{}/queue/read_ahead_kb", device.name))
        }
        (None, Ok(mount)) => {
            let (major, minor) = mount.device;
            finding.with_advice(format!("echo 128 > /sys/class/bdi/{major}:{minor}/read_ahead_kb"))
        }
        (None, Err(_)) => finding.with_advice("lower read_ahead_kb of the device to 128"),
    }
}

fn rotation(device: &BlockDevice) -> Finding {
    let name = "rotation";
    match &device.is_rotational {
        Ok(false) => {
            Finding::ok(name, format!("{} does not seek", device.name), "a cold get costs one short read")
        }
        Ok(true) => {
            let found = format!("{} says that it is a rotating disk", device.name);
            let why =
                "then each cold get waits about 10 ms for a seek; virtual disks often say so and are none";
            let to_do = format!("if it is none: echo 0 > /sys/block/{}/queue/rotational", device.name);
            Finding::note(name, found, why).with_advice(to_do)
        }
        Err(why) => Finding::unknown(name, why, "on a rotating disk each cold get waits for a seek"),
    }
}

fn scheduler(device: &BlockDevice) -> Finding {
    let name = "scheduler";
    match &device.scheduler {
        Ok(scheduler) if scheduler == "bfq" => {
            let why = "it is made for fairness on slow disks: on fast ones it costs reads, and syncs \
                       wait behind others";
            let to_do = format!(
                "echo none > /sys/block/{}/queue/scheduler (mq-deadline for a rotating disk)",
                device.name
            );
            Finding::note(name, scheduler, why).with_advice(to_do)
        }
        Ok(scheduler) => Finding::ok(name, scheduler, "it does not hold back syncs or reads for fairness"),
        Err(why) => Finding::unknown(name, why, "some hold back syncs or reads for fairness"),
    }
}

fn write_cache(device: &BlockDevice) -> Finding {
    let name = "write-cache";
    match &device.write_cache {
        Ok(cache) if cache == "write back" => Finding::ok(
            name,
            cache,
            "a sync waits until the device has emptied its cache, so it survives power loss",
        ),
        Ok(cache) => {
            let why = "the device claims that what it has taken survives power loss: nothing is flushed, \
                       so it had better";
            Finding::ok(name, cache, why)
        }
        Err(why) => Finding::unknown(name, why, "whether a sync has to empty the device's cache"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Memory, State};
    use super::super::testing::{check, unknown, with};
    use super::super::{GIB, KIB};
    use super::*;
    use terrace_io::machine::parse_mounts;

    fn change(change: impl FnOnce(&mut BlockDevice)) -> impl FnOnce(&mut Facts) {
        move |facts| change(facts.device.as_mut().unwrap().as_mut().unwrap())
    }

    fn memory(total_bytes: u64) -> Memory {
        Memory { total_bytes, available_bytes: total_bytes / 2, swap_bytes: 0 }
    }

    #[test]
    fn reading_far_ahead_is_worse_where_memory_is_small() {
        let name = "read-ahead";
        check(name, State::Ok, &["128 KiB on sda"], |_| {});
        check(name, State::Ok, &[], |facts| facts.read_ahead_bytes = Ok(MIB));
        let words = ["8.00 MiB on sda", "may read 16.0 MiB", "echo 128 > /sys/block/sda/queue/read_ahead_kb"];
        check(name, State::Note, &words, |facts| facts.read_ahead_bytes = Ok(8 * MIB));
        check(name, State::Note, &[], |facts| {
            facts.read_ahead_bytes = Ok(8 * MIB);
            facts.memory = Ok(memory(256 * MIB));
        });
        check(name, State::Warn, &words, |facts| {
            facts.read_ahead_bytes = Ok(8 * MIB);
            facts.memory = Ok(memory(256 * MIB - 16));
        });
        check(name, State::Note, &[], |facts| {
            facts.read_ahead_bytes = Ok(8 * MIB);
            facts.memory = unknown();
        });
        check(name, State::Unknown, &["os error 13"], |facts| facts.read_ahead_bytes = unknown());
    }

    #[test]
    fn a_file_system_without_a_device_has_a_read_ahead_of_its_own() {
        let nfs = with(|facts| {
            facts.device = Ok(None);
            facts.mount = Ok(parse_mounts("1 0 0:55 / /mnt rw - nfs4 server:/x rw").remove(0));
            facts.read_ahead_bytes = Ok(15_360 * KIB);
            facts.memory = Ok(memory(16 * GIB));
        });
        let findings = judge(&nfs);
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].state, &*findings[0].found), (State::Note, "15.0 MiB"));
        assert!(findings[0].to_do.contains("/sys/class/bdi/0:55/read_ahead_kb"));
    }

    #[test]
    fn memory_has_no_device() {
        let tmpfs = with(|facts| {
            facts.mount.as_mut().unwrap().kind = "tmpfs".to_owned();
            facts.device = Ok(None);
            facts.read_ahead_bytes = unknown();
        });
        assert_eq!(judge(&tmpfs), []);
    }

    #[test]
    fn seeks_and_schedulers() {
        check("rotation", State::Ok, &["sda"], |_| {});
        check(
            "rotation",
            State::Note,
            &["queue/rotational"],
            change(|device| device.is_rotational = Ok(true)),
        );
        check("rotation", State::Unknown, &[], change(|device| device.is_rotational = unknown()));
        check("scheduler", State::Ok, &["none"], |_| {});
        let bfq = change(|device| device.scheduler = Ok("bfq".to_owned()));
        check("scheduler", State::Note, &["echo none > /sys/block/sda"], bfq);
        check("scheduler", State::Unknown, &[], change(|device| device.scheduler = unknown()));
    }

    #[test]
    fn a_cache_is_flushed_or_said_to_last() {
        check("write-cache", State::Ok, &["write back", "emptied"], |_| {});
        let through = change(|device| device.write_cache = Ok("write through".to_owned()));
        check("write-cache", State::Ok, &["nothing is flushed"], through);
        check("write-cache", State::Unknown, &[], change(|device| device.write_cache = unknown()));
        check("device", State::Unknown, &["os error 13"], |facts| facts.device = unknown());
    }
}
