//! Judges facts: pure functions, a finding or a few for each thing that was looked at.
//!
//! A finding that is `ok` says why it matters all the same, since a list of what was looked at is half of the answer. A
//! `note` or `warn` says what to change, if anything can be changed. Bounds are rough on purpose; each says in its finding
//! what it is about.

mod device;
mod features;
mod file_system;
mod kernel;
mod limits;
mod memory;
mod mount_options;

use super::{Facts, Finding};
use crate::figures;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Everything that there is to say about these facts, in a fixed order.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![database(facts)];
    if !facts.is_linux {
        findings.push(Finding::unknown(
            "kernel",
            format!("{} is not Linux", std::env::consts::OS),
            "what the rest of this looks at is not there, or has other names",
        ));
        findings.extend(file_system::space(facts));
        return findings;
    }
    findings.extend(file_system::judge(facts));
    findings.extend(device::judge(facts));
    findings.extend(kernel::judge(facts));
    findings.extend(features::judge(facts));
    findings.extend(memory::judge(facts));
    findings.extend(limits::judge(facts));
    findings
}

fn database(facts: &Facts) -> Finding {
    let name = "database";
    let dir = facts.answers.dir.display();
    match &facts.answers.database {
        Ok(Some(database)) => {
            let found = format!(
                "{} in {dir}, {}; log {}",
                number_of(database.tables, "table"),
                figures::bytes(database.table_bytes),
                figures::bytes(database.log_bytes)
            );
            Finding::ok(name, found, "what follows is judged by its size")
        }
        Ok(None) => {
            Finding::ok(name, format!("none in {dir}"), "what follows is about one that would live there")
        }
        Err(why) => Finding::unknown(name, why, "its size would tell which limits matter"),
    }
}

/// A count and its noun.
fn number_of(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", figures::count(count), if count == 1 { "" } else { "s" })
}

/// How a setting of the kernel is changed, and where it is kept.
fn sysctl(settings: &str) -> String {
    format!("sysctl -w {settings} (and a line in /etc/sysctl.d/terrace.conf to keep it)")
}

/// Facts for the tests of all checks.
#[cfg(test)]
pub(super) mod testing {
    use terrace_io::machine::testing::write_all;
    use terrace_io::machine::{MemoryGroup, Root, Unknown, parse_mounts};
    use terrace_io::{FileSystemCapabilities, KernelCapabilities, Support};

    use super::super::{
        Answers, BlockDevice, Database, DirtyLimits, Facts, Finding, Limit, Limits, Memory, Pressure,
        Release, Space, State,
    };
    use super::{GIB, MIB, judge};

    /// A root in a temporary directory, with these files.
    pub(in crate::doctor) fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        write_all(&root, files);
        (dir, root)
    }

    /// A machine that nothing is wrong with.
    pub(in crate::doctor) fn good() -> Facts {
        let unlimited = Limit { soft: None, hard: None };
        Facts {
            is_linux: true,
            answers: Answers {
                dir: "/srv/db".into(),
                mount_id: Some(27),
                is_network: Ok(false),
                space: Ok(Space { free_bytes: 100 * GIB, free_files: Some(1_000_000) }),
                kernel: KernelCapabilities {
                    membarrier: Support::Yes,
                    cachestat: Support::Yes,
                    populate_read: Support::Yes,
                    synced_writes: Support::Yes,
                },
                file_system: Ok(FileSystemCapabilities {
                    nowait_reads: Support::Yes,
                    uncached_io: Support::Yes,
                    huge_pages: Some(true),
                }),
                database: Ok(Some(Database { tables: 16, table_bytes: GIB, log_bytes: 16 * MIB })),
            },
            release: Ok(Release { text: "6.18.0".to_owned(), version: (6, 18) }),
            page_bytes: Ok(4096),
            is_multi_generational: Ok(true),
            mount: Ok(parse_mounts("27 1 8:0 / / rw,relatime - ext4 /dev/sda rw").remove(0)),
            has_journal: Ok(true),
            device: Ok(Some(BlockDevice {
                name: "sda".to_owned(),
                read_ahead_bytes: Ok(128 << 10),
                is_rotational: Ok(false),
                scheduler: Ok("none".to_owned()),
                write_cache: Ok("write back".to_owned()),
            })),
            read_ahead_bytes: Ok(128 << 10),
            memory: Ok(Memory { total_bytes: 16 * GIB, available_bytes: 8 * GIB, swap_bytes: 0 }),
            group: Ok(MemoryGroup { version: 2, dir: "/sys/fs/cgroup/db".to_owned(), limit: None }),
            swappiness: Ok(60),
            heap_huge_pages: Ok("madvise".to_owned()),
            dirty: Ok(DirtyLimits {
                background_bytes: 256 * MIB,
                background_percent: 0,
                bytes: GIB,
                percent: 0,
            }),
            memory_pressure: Ok(Pressure { some_percent: 0.0, full_percent: 0.0 }),
            io_pressure: Ok(Pressure { some_percent: 1.0, full_percent: 0.5 }),
            mappings_max: Ok(65_530),
            limits: Ok(Limits {
                open_files: Limit { soft: Some(20_000), hard: None },
                locked_bytes: unlimited,
                address_space_bytes: unlimited,
            }),
        }
    }

    /// [`good`], but for one thing.
    pub(super) fn with(change: impl FnOnce(&mut Facts)) -> Facts {
        let mut facts = good();
        change(&mut facts);
        facts
    }

    pub(super) fn unknown<T>() -> Result<T, Unknown> {
        Err(Unknown::new("/proc/file: Permission denied (os error 13)"))
    }

    /// What is said under a name: that of the worst, if there are several.
    #[track_caller]
    pub(super) fn finding(facts: &Facts, name: &str) -> Finding {
        let findings = judge(facts).into_iter().filter(|finding| finding.name == name);
        findings.max_by_key(|finding| finding.state).unwrap_or_else(|| panic!("no finding {name}"))
    }

    /// Checks what is said under a name about [`good`] with a change: state, and words in what is shown.
    #[track_caller]
    pub(super) fn check(
        name: &str,
        state: State,
        words: &[&str],
        change: impl FnOnce(&mut Facts),
    ) -> Finding {
        let finding = finding(&with(change), name);
        let text = format!("{}: {}; to do: {}", finding.found, finding.why, finding.to_do);
        assert_eq!(finding.state, state, "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text:?}");
        }
        let has_advice = !finding.to_do.is_empty();
        assert!(has_advice || !matches!(state, State::Warn), "a warning says what to do: {text}");
        finding
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::State;
    use super::testing::{check, good, with};
    use super::*;

    #[test]
    fn a_good_machine_has_nothing_but_ok() {
        for finding in judge(&good()) {
            // Kernels from 6.3 on have a hazard that cannot be turned off; the tables of this one fit into memory.
            assert_eq!(finding.state, State::Ok, "{finding:?}");
            assert!(finding.to_do.is_empty(), "{finding:?}");
            assert!(!finding.found.is_empty() && !finding.why.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn findings_have_names_of_their_own_and_no_sentences() {
        let findings = judge(&good());
        let names: BTreeSet<&str> = findings.iter().map(|finding| finding.name).collect();
        assert_eq!(names.len(), findings.len());
        for finding in findings {
            assert!(finding.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
            for text in [&finding.found, &finding.why] {
                assert!(!text.ends_with('.') && !text.contains('\n') && text.trim() == text, "{text:?}");
            }
        }
    }

    #[test]
    fn the_database_is_counted() {
        check("database", State::Ok, &["16 tables in /srv/db, 1.00 GiB; log 16.0 MiB"], |_| {});
        check("database", State::Ok, &["none in /srv/db"], |facts| facts.answers.database = Ok(None));
        check("database", State::Unknown, &["os error 13"], |facts| {
            facts.answers.database = super::testing::unknown();
        });
        assert_eq!(
            (number_of(1, "table"), number_of(1000, "table")),
            ("1 table".into(), "1,000 tables".into())
        );
    }

    #[test]
    fn another_system_is_unknown_but_for_what_every_one_has() {
        let findings = judge(&with(|facts| facts.is_linux = false));
        let said: Vec<(&str, State)> = findings.iter().map(|finding| (finding.name, finding.state)).collect();
        let expected = [
            ("database", State::Ok),
            ("kernel", State::Unknown),
            ("space", State::Ok),
            ("inodes", State::Ok),
        ];
        assert_eq!(said, expected);
    }
}
