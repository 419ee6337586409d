//! The kernel: its version where that is a hazard, the size of pages, and how mapped pages age.

use super::super::{Facts, Finding};
use super::KIB;
use crate::figures;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    vec![release(facts), page_size(facts), aging(facts)]
}

fn release(facts: &Facts) -> Finding {
    let name = "kernel";
    let release = match &facts.release {
        Ok(release) => release,
        Err(why) => return Finding::unknown(name, why, "its version would tell some of its hazards"),
    };
    let found = format!("Linux {release}");
    if release.version < (4, 13) {
        let why = "a failed write-back is told to whoever asks first, who may be another program: a sync \
                   may return as if all were well, and data be lost";
        return Finding::warn(name, found, why).with_advice("run Linux 4.13 or newer");
    }
    Finding::ok(name, found, "a failed write-back is told to everybody who syncs (since 4.13)")
}

fn page_size(facts: &Facts) -> Finding {
    let name = "page-size";
    let bytes = match facts.page_bytes {
        Ok(bytes) => bytes,
        Err(ref why) => return Finding::unknown(name, why, "blocks have 4 KiB, and so should pages"),
    };
    let found = figures::bytes(bytes);
    if bytes == 4 * KIB {
        return Finding::ok(name, found, "a block of a table is one page: a get from the device reads one");
    }
    let why = format!("blocks have 4 KiB: a get from the device reads {found}, and keeps as much in memory");
    Finding::note(name, found, why)
        .with_advice("use a kernel with pages of 4 KiB if the database is larger than memory")
}

/// Since Linux 6.3 (`vma_has_recency`), reclaim does not look at whether pages of a mapping with `MADV_RANDOM` were used,
/// with or without generations. Distributions have carried that back to older kernels.
fn aging(facts: &Facts) -> Finding {
    let name = "page-aging";
    let generations = match facts.is_multi_generational {
        Ok(true) => ", by generations (MGLRU)",
        Ok(false) => ", by the classic lists",
        Err(_) => "",
    };
    let release = match &facts.release {
        Ok(release) => release,
        Err(why) => {
            return Finding::unknown(name, why, "some kernels evict the hot pages of tables like cold ones");
        }
    };
    if facts.is_network() {
        return Finding::ok(name, format!("usual{generations}"), "tables are not mapped here");
    }
    let may_have_it = release.text.contains(".el9");
    if release.version < (6, 3) && !may_have_it {
        let why = "mapped pages that are in use stay longer than others";
        return Finding::ok(name, format!("by use{generations}"), why);
    }
    let whether = if release.version < (6, 3) { "may not count" } else { "does not count" };
    let found = format!("use of a mapped table's pages {whether}{generations}");
    let why = "since Linux 6.3 (and before in some distributions) pages mapped with MADV_RANDOM, as \
               tables are, are evicted hot or cold once memory is short";
    let tables = facts.table_bytes();
    match facts.usable_bytes() {
        Ok(usable) if tables > 0 && tables <= usable / 2 => {
            let sizes = format!("{} of tables, {} of memory", figures::bytes(tables), figures::bytes(usable));
            Finding::ok(name, found, format!("{why}; it is not: {sizes}"))
        }
        _ => Finding::note(name, found, why).with_advice(
            "if tables are larger than memory, compare Options::point_reads(PointReads::Pread) under \
             your load",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Release, State};
    use super::super::GIB;
    use super::super::testing::{check, unknown};
    use super::*;

    fn release_of(text: &str, version: (u32, u32)) -> Release {
        Release { text: text.to_owned(), version }
    }

    #[test]
    fn old_kernels_lose_errors() {
        check("kernel", State::Ok, &["Linux 6.18.0"], |_| {});
        check("kernel", State::Ok, &["4.13"], |facts| facts.release = Ok(release_of("4.13.1", (4, 13))));
        let old = |facts: &mut Facts| facts.release = Ok(release_of("4.12.9", (4, 12)));
        check("kernel", State::Warn, &["Linux 4.12.9", "run Linux 4.13"], old);
        check("kernel", State::Unknown, &["os error 13"], |facts| facts.release = unknown());
    }

    #[test]
    fn pages_should_be_blocks() {
        check("page-size", State::Ok, &["4.00 KiB"], |_| {});
        check("page-size", State::Note, &["reads 64.0 KiB"], |facts| facts.page_bytes = Ok(65_536));
        check("page-size", State::Unknown, &[], |facts| facts.page_bytes = unknown());
    }

    #[test]
    fn mapped_pages_age_badly_since_6_3_if_memory_is_short() {
        let name = "page-aging";
        check(name, State::Ok, &["it is not: 1.00 GiB of tables, 16.0 GiB"], |_| {});
        let large = |facts: &mut Facts| {
            facts.answers.database.as_mut().unwrap().as_mut().unwrap().table_bytes = 10 * GIB;
        };
        check(name, State::Note, &["does not count", "MGLRU", "PointReads::Pread"], large);
        check(name, State::Note, &["classic"], |facts| {
            large(facts);
            facts.is_multi_generational = Ok(false);
        });
        check(name, State::Note, &["if tables are larger"], |facts| facts.answers.database = Ok(None));
        check(name, State::Ok, &["by use"], |facts| {
            large(facts);
            facts.release = Ok(release_of("6.2.16", (6, 2)));
        });
        check(name, State::Note, &["may not count"], |facts| {
            large(facts);
            facts.release = Ok(release_of("5.14.0-427.el9.x86_64", (5, 14)));
        });
        check(name, State::Ok, &["not mapped"], |facts| {
            large(facts);
            facts.answers.is_network = Ok(true);
        });
        check(name, State::Unknown, &["os error 13"], |facts| facts.release = unknown());
    }
}
