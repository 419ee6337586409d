//! What the kernel and the file system can do beyond what every Unix can. All of it was tried, and all of it can be done
//! without.

use terrace_io::Support;

use super::super::{Facts, Finding};
use terrace_io::machine::Known;

/// Something that may be there or not.
struct Feature {
    name: &'static str,
    /// What it is good for.
    good_for: &'static str,
    /// What there is instead.
    otherwise: &'static str,
    /// Since when kernels have it, and what else it takes.
    since: &'static str,
}

const MEMBARRIER: Feature = Feature {
    name: "membarrier",
    good_for: "readers pin what they see without instructions that wait",
    otherwise: "each read waits for a fence of the processor",
    since: "Linux 4.14",
};
const CACHESTAT: Feature = Feature {
    name: "cachestat",
    good_for: "one call says how much of a file is in memory",
    otherwise: "mincore has to be asked, page by page of a mapping",
    since: "Linux 6.5",
};
const POPULATE_READ: Feature = Feature {
    name: "populate-read",
    good_for: "MADV_POPULATE_READ brings a mapped range into memory, and an I/O error is an answer \
               instead of a signal",
    otherwise: "warming up has to touch pages or read them",
    since: "Linux 5.14",
};
const SYNCED_WRITES: Feature = Feature {
    name: "rwf-dsync",
    good_for: "RWF_DSYNC makes a write durable in one call",
    otherwise: "a durable write takes two calls",
    since: "Linux 4.7",
};
const NOWAIT: Feature = Feature {
    name: "rwf-nowait",
    good_for: "RWF_NOWAIT reads only what is in memory, so that an asynchronous read never waits for the \
               device",
    otherwise: "whether a read would wait has to be asked before it, and may be different then",
    since: "Linux 4.14, and ext4, XFS or btrfs",
};
const UNCACHED: Feature = Feature {
    name: "rwf-dontcache",
    good_for: "RWF_DONTCACHE lets long reads and writes pass without evicting what is hot",
    otherwise: "what was read or written is dropped from the page cache afterwards",
    since: "Linux 6.14, and ext4, XFS or btrfs",
};

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let kernel = &facts.answers.kernel;
    let file_system = &facts.answers.file_system;
    let mut findings = vec![
        MEMBARRIER.judge(Ok(kernel.membarrier)),
        CACHESTAT.judge(Ok(kernel.cachestat)),
        POPULATE_READ.judge(Ok(kernel.populate_read)),
        SYNCED_WRITES.judge(Ok(kernel.synced_writes)),
        NOWAIT.judge(file_system.clone().map(|answer| answer.nowait_reads)),
        UNCACHED.judge(file_system.clone().map(|answer| answer.uncached_io)),
    ];
    if !facts.is_network() && !facts.is_in_memory() {
        findings.push(large_pages(facts));
    }
    findings
}

impl Feature {
    fn judge(&self, answer: Known<Support>) -> Finding {
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => return Finding::unknown(self.name, why, self.good_for),
        };
        if answer.is_yes() {
            return Finding::ok(self.name, "there", self.good_for);
        }
        let found = format!("not there ({})", answer.to_string().trim_start_matches("no: "));
        let finding = Finding::note(self.name, found, self.otherwise);
        if answer.is_forbidden() {
            return finding
                .with_advice("allow the call: a seccomp filter, as of a container, seems to forbid it");
        }
        finding.with_advice(format!("it takes {}", self.since))
    }
}

fn large_pages(facts: &Facts) -> Finding {
    let name = "large-pages";
    let good_for = "a get may wait for memory half as long as with pages of 4 KiB";
    match &facts.answers.file_system {
        Ok(answer) => match answer.huge_pages {
            Some(true) => Finding::ok(name, "2 MiB written at once are one page of the page cache", good_for),
            Some(false) => {
                let why = "a get may wait for memory twice as long as with pages of 2 MiB";
                Finding::note(name, "2 MiB written at once are many pages of the page cache", why).with_advice(
                    "XFS has large pages since Linux 6.6, ext4 since 6.16; free memory may be in pieces, too",
                )
            }
            None => Finding::unknown(
                name,
                "2 MiB could not be written and mapped, or /proc does not say",
                good_for,
            ),
        },
        Err(why) => Finding::unknown(name, why, good_for),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::State;
    use super::super::testing::{check, unknown, with};
    use super::*;

    const NOT_KNOWN: Support = Support::No { errno: 38 };
    const FORBIDDEN: Support = Support::No { errno: 1 };

    #[test]
    fn what_the_kernel_lacks_is_a_note_with_its_errno() {
        type Field = fn(&mut Facts) -> &mut Support;
        let fields: [(&str, Field, &str); 6] = [
            ("membarrier", |facts| &mut facts.answers.kernel.membarrier, "Linux 4.14"),
            ("cachestat", |facts| &mut facts.answers.kernel.cachestat, "Linux 6.5"),
            ("populate-read", |facts| &mut facts.answers.kernel.populate_read, "Linux 5.14"),
            ("rwf-dsync", |facts| &mut facts.answers.kernel.synced_writes, "Linux 4.7"),
            ("rwf-nowait", |facts| &mut facts.answers.file_system.as_mut().unwrap().nowait_reads, "ext4"),
            ("rwf-dontcache", |facts| &mut facts.answers.file_system.as_mut().unwrap().uncached_io, "6.14"),
        ];
        for (name, field, since) in fields {
            check(name, State::Ok, &["there"], |_| {});
            check(name, State::Note, &["os error 38", since], |facts| *field(facts) = NOT_KNOWN);
            check(name, State::Note, &["os error 1)", "seccomp"], |facts| *field(facts) = FORBIDDEN);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_asked_is_unknown() {
        for name in ["rwf-nowait", "rwf-dontcache", "large-pages"] {
            check(name, State::Unknown, &["os error 13"], |facts| facts.answers.file_system = unknown());
        }
    }

    #[test]
    fn large_pages_are_there_or_not_or_nobody_knows() {
        let set = |huge_pages| {
            move |facts: &mut Facts| facts.answers.file_system.as_mut().unwrap().huge_pages = huge_pages
        };
        check("large-pages", State::Ok, &["one page"], set(Some(true)));
        check("large-pages", State::Note, &["XFS", "in pieces"], set(Some(false)));
        check("large-pages", State::Unknown, &["could not be written"], set(None));
        let network = with(|facts| facts.answers.is_network = Ok(true));
        assert!(judge(&network).iter().all(|finding| finding.name != "large-pages"), "nothing is mapped");
        let tmpfs = with(|facts| facts.mount.as_mut().unwrap().kind = "tmpfs".to_owned());
        assert!(judge(&tmpfs).iter().all(|finding| finding.name != "large-pages"), "it has its own");
    }
}
