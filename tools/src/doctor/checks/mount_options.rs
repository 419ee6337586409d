//! Options of a mount that take something away from a database, and those that are only dear.

use super::super::{Finding, State};
use terrace_io::machine::Mount;

const NAME: &str = "mount-options";

/// An option that is worth a word.
struct Notable {
    /// As `/proc/self/mountinfo` writes it. With `=` at its end, whatever its value.
    option: &'static str,
    state: State,
    why: &'static str,
    to_do: &'static str,
}

const NO_BARRIER_WHY: &str =
    "a sync does not empty the device's cache: what was acknowledged may be lost with the power";
const NO_BARRIER_TO_DO: &str = "mount without it, unless the device's cache survives the loss of power";

const VOLATILE_WHY: &str = "syncs do nothing there: what was acknowledged may be lost with the power";
const VOLATILE_TO_DO: &str = "keep the database in a volume";

const NOTABLE: [Notable; 13] = [
    Notable {
        option: "ro",
        state: State::Warn,
        why: "nothing can be written: no database can be opened there",
        to_do: "mount it read-write (mount -o remount,rw MOUNT_POINT); if it was, the kernel may have \
                found damage (dmesg)",
    },
    Notable { option: "volatile", state: State::Warn, why: VOLATILE_WHY, to_do: VOLATILE_TO_DO },
    // The same, as newer kernels write it.
    Notable { option: "fsync=volatile", state: State::Warn, why: VOLATILE_WHY, to_do: VOLATILE_TO_DO },
    Notable { option: "nobarrier", state: State::Warn, why: NO_BARRIER_WHY, to_do: NO_BARRIER_TO_DO },
    Notable { option: "barrier=0", state: State::Warn, why: NO_BARRIER_WHY, to_do: NO_BARRIER_TO_DO },
    Notable {
        option: "fsync_mode=nobarrier",
        state: State::Warn,
        why: NO_BARRIER_WHY,
        to_do: NO_BARRIER_TO_DO,
    },
    Notable {
        option: "data=writeback",
        state: State::Note,
        why: "after a power cut, files that were not synced may hold what others have deleted; Terrace \
              does not believe them, but others may",
        to_do: "mount with data=ordered, which costs nothing where everything is synced",
    },
    Notable {
        option: "data=journal",
        state: State::Note,
        why: "every byte is written twice",
        to_do: "mount with data=ordered: tables and logs are synced by themselves",
    },
    Notable {
        option: "discard",
        state: State::Note,
        why: "deleting a table waits until the device was told which blocks are free",
        to_do: "mount without it and let a timer do that: systemctl enable --now fstrim.timer",
    },
    Notable {
        option: "sync",
        state: State::Note,
        why: "each write waits for the device: tables, which are synced once at their end, and buffered \
              puts too",
        to_do: "mount without it: what has to be durable is synced",
    },
    Notable {
        option: "dirsync",
        state: State::Note,
        why: "each creation and deletion of a file waits for the device",
        to_do: "mount without it: directories are synced where they have to be",
    },
    Notable {
        option: "compress=",
        state: State::Note,
        why: "a get from the device reads and unpacks 128 KiB for a block of 4",
        to_do: "btrfs property set DIR compression none, before the database is created",
    },
    Notable {
        option: "compress-force=",
        state: State::Note,
        why: "a get from the device reads and unpacks 128 KiB for a block of 4",
        to_do: "mount with compress= instead, and btrfs property set DIR compression none",
    },
];

impl Notable {
    /// The option as it is set, if it is.
    fn find<'m>(&self, mount: &'m Mount) -> Option<&'m String> {
        mount.options.iter().find(|set| match self.option.ends_with('=') {
            true => set.starts_with(self.option),
            false => *set == self.option,
        })
    }
}

/// A finding for each option that is worth a word, or one for all of them.
pub(super) fn judge(mount: &Mount) -> Vec<Finding> {
    let taken_back = |option: &str| {
        let barriers = ["barrier", "barrier=1", "nobarrier", "barrier=0"];
        barriers.contains(&option) && mount.last(&barriers) != Some(option)
    };
    let notable = NOTABLE.iter().filter(|notable| !taken_back(notable.option));
    let findings: Vec<Finding> = notable
        .filter_map(|notable| {
            let found = notable.find(mount)?;
            Some(Finding::new(notable.state, NAME, found, notable.why).with_advice(notable.to_do))
        })
        .collect();
    if findings.is_empty() {
        // Paths, as of the layers of an overlay, are long and say nothing here.
        let options: Vec<&str> =
            mount.options.iter().map(|option| &**option).filter(|option| !option.contains('/')).collect();
        let why = "none of them weakens a sync or makes it dearer";
        return vec![Finding::ok(NAME, options.join(","), why)];
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use terrace_io::machine::parse_mounts;

    /// What is said about these options: state and found.
    fn said(options: &str) -> Vec<(State, String)> {
        let line = format!("27 1 8:0 / / rw,relatime shared:1 - ext4 /dev/sda {options}");
        let mount = parse_mounts(&line).remove(0);
        judge(&mount).into_iter().map(|finding| (finding.state, finding.found)).collect()
    }

    #[test]
    fn each_option_has_its_word() {
        let plain = [(State::Ok, "rw,relatime,rw,errors=remount-ro".to_owned())];
        assert_eq!(said("rw,errors=remount-ro,lowerdir=/a:/b"), plain);
        for (option, state) in [
            ("ro", State::Warn),
            ("volatile", State::Warn),
            ("fsync=volatile", State::Warn),
            ("nobarrier", State::Warn),
            ("barrier=0", State::Warn),
            ("fsync_mode=nobarrier", State::Warn),
            ("data=writeback", State::Note),
            ("data=journal", State::Note),
            ("discard", State::Note),
            ("sync", State::Note),
            ("dirsync", State::Note),
            ("compress=zstd:3", State::Note),
            ("compress-force=lzo", State::Note),
        ] {
            assert_eq!(said(&format!("rw,{option},x")), [(state, option.to_owned())]);
        }
    }

    #[test]
    fn words_that_look_alike_are_told_apart() {
        for option in
            ["nodiscard", "discard=async", "data=ordered", "fsync_mode=posix", "async", "nocompress"]
        {
            assert_eq!(said(option)[0].0, State::Ok, "{option}");
        }
    }

    #[test]
    fn an_option_that_was_taken_back_does_not_hold() {
        assert_eq!(said("rw,nobarrier,barrier")[0].0, State::Ok);
        assert_eq!(said("rw,barrier,nobarrier")[0], (State::Warn, "nobarrier".to_owned()));
        assert_eq!(said("rw,barrier=1")[0].0, State::Ok);
    }

    #[test]
    fn every_option_is_told() {
        let said = said("ro,discard,nobarrier");
        assert_eq!(
            said.iter().map(|(_, found)| &**found).collect::<Vec<_>>(),
            ["ro", "nobarrier", "discard"]
        );
    }
}
