//! How much a process may have: mappings, descriptors, locked memory, address space.
//!
//! The limits are those of the shell that this runs in. A service has its own, which is why advice names the unit's
//! settings too.

use super::super::{Facts, Finding};
use super::{GIB, MIB, number_of, sysctl};
use crate::figures;

/// A table is cut at this length by default.
const TABLE_BYTES: u64 = 64 * MIB;
/// Mappings that a process has besides its tables: heap, stacks, libraries.
const OTHER_MAPPINGS: u64 = 1000;
/// Descriptors besides those of tables: the log, the manifest, the inputs of compactions, long scans.
const OTHER_FILES: u64 = 256;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![mappings(facts)];
    match &facts.limits {
        Ok(limits) => findings.extend([
            open_files(facts, limits.open_files.soft),
            locked_memory(limits.locked_bytes.soft),
            address_space(facts, limits.address_space_bytes.soft),
        ]),
        Err(why) => {
            findings.push(Finding::unknown(
                "open-files",
                why,
                "files and mappings are refused beyond the limits",
            ));
        }
    }
    findings
}

fn mappings(facts: &Facts) -> Finding {
    let name = "mappings";
    let max = match facts.mappings_max {
        Ok(max) => max,
        Err(ref why) => return Finding::unknown(name, why, "each table that is read takes one"),
    };
    let tables = if facts.is_network() { 0 } else { facts.tables() };
    let needed = tables.saturating_add(OTHER_MAPPINGS);
    let found = format!("{} (vm.max_map_count) for {}", figures::count(max), number_of(tables, "table"));
    let to_do = || sysctl(&format!("vm.max_map_count={}", needed.saturating_mul(4).max(262_144)));
    if needed > max {
        let why = "tables that cannot be mapped are read by pread, and threads and heap may be refused too";
        Finding::warn(name, found, why).with_advice(to_do())
    } else if needed > max / 2 {
        Finding::note(name, found, "each table takes one, and as many again while all are compacted")
            .with_advice(to_do())
    } else {
        let room = figures::bytes((max - OTHER_MAPPINGS).saturating_mul(TABLE_BYTES));
        Finding::ok(name, found, format!("each table takes one: enough for {room} in tables of 64 MiB"))
    }
}

fn open_files(facts: &Facts, soft: Option<u64>) -> Finding {
    let name = "open-files";
    let Some(soft) = soft else {
        return Finding::ok(
            name,
            "unlimited",
            "mapped tables take none, log, compactions and long scans a few",
        );
    };
    let found = format!("{} descriptors", figures::count(soft));
    let tables = if facts.is_network() { facts.tables() } else { 0 };
    let needed = tables.saturating_add(OTHER_FILES);
    if soft < needed {
        let why = match facts.is_network() {
            true => format!("tables that are read by pread take one each: {}", number_of(tables, "table")),
            false => "mapped tables take none, but compactions and long scans take one for each table \
                      that they read at the moment"
                .to_owned(),
        };
        let wanted = needed.saturating_mul(4).max(1024);
        return Finding::warn(name, found, why)
            .with_advice(format!("ulimit -n {wanted}; for a service LimitNOFILE={wanted}"));
    }
    Finding::ok(name, found, "mapped tables take none, log, compactions and long scans a few")
}

fn locked_memory(soft: Option<u64>) -> Finding {
    let found = soft.map_or_else(|| "unlimited".to_owned(), figures::bytes);
    Finding::ok(
        "locked-memory",
        found,
        "Terrace locks nothing in memory; it limits a program that does so itself",
    )
}

fn address_space(facts: &Facts, soft: Option<u64>) -> Finding {
    let name = "address-space";
    // What 32-bit processors have for a process, roughly.
    let of_processor = cfg!(target_pointer_width = "32").then_some(2 * GIB);
    let Some(bytes) = soft.into_iter().chain(of_processor).min() else {
        return Finding::ok(name, "unlimited", "tables are mapped as a whole, whatever memory there is");
    };
    let found = figures::bytes(bytes);
    // What a program takes besides: heap, stacks, and a reserve for each thread's.
    let needed = facts.table_bytes().saturating_add(GIB);
    if bytes < needed {
        let why = format!(
            "tables are mapped as a whole, {} of them: those that do not fit are read by pread",
            figures::bytes(facts.table_bytes())
        );
        return Finding::warn(name, found, why)
            .with_advice("ulimit -v unlimited; for a service LimitAS=infinity");
    }
    let why = "tables are mapped as a whole and count for it: sooner or later they do not fit";
    Finding::note(name, found, why).with_advice("ulimit -v unlimited; for a service LimitAS=infinity")
}

#[cfg(test)]
mod tests {
    use super::super::super::{Database, Limits, State};
    use super::super::testing::{check, unknown};
    use super::*;

    fn tables(tables: u64) -> impl Fn(&mut Facts) {
        move |facts| {
            facts.answers.database = Ok(Some(Database { tables, table_bytes: tables * MIB, log_bytes: 0 }));
        }
    }

    fn limits(facts: &mut Facts) -> &mut Limits {
        facts.limits.as_mut().unwrap()
    }

    #[test]
    fn each_table_takes_a_mapping() {
        let name = "mappings";
        check(name, State::Ok, &["65,530 (vm.max_map_count) for 16 tables", "3.94 TiB"], |_| {});
        check(name, State::Ok, &[], tables(31_765));
        check(name, State::Note, &["vm.max_map_count=262144"], tables(31_766));
        check(name, State::Note, &[], tables(64_530));
        check(name, State::Warn, &["read by pread", "vm.max_map_count=262144"], tables(64_531));
        check(name, State::Warn, &["vm.max_map_count=404000"], tables(100_000));
        check(name, State::Ok, &["for 0 tables"], |facts| {
            tables(100_000)(facts);
            facts.answers.is_network = Ok(true);
        });
        check(name, State::Unknown, &["os error 13"], |facts| facts.mappings_max = unknown());
    }

    #[test]
    fn descriptors_are_for_tables_that_are_not_mapped() {
        let name = "open-files";
        check(name, State::Ok, &["20,000 descriptors"], tables(100_000));
        check(name, State::Ok, &["unlimited"], |facts| limits(facts).open_files.soft = None);
        check(name, State::Ok, &[], |facts| limits(facts).open_files.soft = Some(256));
        let few = |facts: &mut Facts| limits(facts).open_files.soft = Some(255);
        check(name, State::Warn, &["ulimit -n 1024", "LimitNOFILE=1024"], few);
        let network = |count| {
            move |facts: &mut Facts| {
                tables(count)(facts);
                facts.answers.is_network = Ok(true);
            }
        };
        check(name, State::Ok, &[], network(19_744));
        check(name, State::Warn, &["19,745 tables", "ulimit -n 80004"], network(19_745));
        check(name, State::Unknown, &["os error 13"], |facts| facts.limits = unknown());
    }

    #[test]
    fn nothing_is_locked() {
        check("locked-memory", State::Ok, &["unlimited"], |_| {});
        check("locked-memory", State::Ok, &["64.0 KiB"], |facts| {
            limits(facts).locked_bytes.soft = Some(65_536);
        });
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn address_space_is_for_whole_tables() {
        let name = "address-space";
        let set = |bytes| move |facts: &mut Facts| limits(facts).address_space_bytes.soft = Some(bytes);
        check(name, State::Ok, &["unlimited"], |_| {});
        check(name, State::Note, &["sooner or later"], set(2 * GIB));
        check(name, State::Warn, &["read by pread", "LimitAS"], set(2 * GIB - 1));
    }
}
