//! Memory: how much there is for tables and memtables, what else happens to it, and whether it is short now.

use super::super::{Facts, Finding, Pressure};
use super::{GIB, MIB, sysctl};
use crate::figures;
use terrace_io::machine::Known;

/// The heap that memtables of one keyspace and the block cache may take with the engine's default options:
/// `Options::memtable_bytes` times `Options::memtables_max`, and `Options::block_cache_bytes`.
const HEAP_BYTES: u64 = 3 * 128 * MIB + 32 * MIB;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    vec![
        memory(facts),
        limit(facts),
        heap(facts),
        swap(facts),
        huge_pages(facts),
        dirty_pages(facts),
        MEMORY_PRESSURE.judge(&facts.memory_pressure),
        IO_PRESSURE.judge(&facts.io_pressure),
    ]
}

fn memory(facts: &Facts) -> Finding {
    let name = "memory";
    let (memory, available) = match (&facts.memory, &facts.available_bytes()) {
        (Ok(memory), Ok(available)) => (memory, *available),
        (Err(why), _) | (_, Err(why)) => {
            return Finding::unknown(name, why, "what is not in memory has to be read from the device");
        }
    };
    let found = format!("{}, {} available", figures::bytes(memory.total_bytes), figures::bytes(available));
    let tables = facts.table_bytes();
    if tables > available {
        let why = format!(
            "tables take {}: those that do not fit wait for the device, a read for each get of a cold key",
            figures::bytes(tables)
        );
        return Finding::note(name, found, why)
            .with_advice("more memory if gets are to be fast; nothing if they are rare");
    }
    Finding::ok(name, found, "tables stay in the page cache once they were read, as long as they fit")
}

fn limit(facts: &Facts) -> Finding {
    let name = "memory-limit";
    let group = match &facts.group {
        Ok(group) => group,
        Err(why) => {
            return Finding::unknown(name, why, "the page cache that a process uses counts for its limit");
        }
    };
    let total = facts.memory.as_ref().map_or(u64::MAX, |memory| memory.total_bytes);
    let limit = match &group.limit {
        Some(limit) if limit.bytes < total => limit,
        _ => {
            let found = format!("none (control groups, version {})", group.version);
            return Finding::ok(
                name,
                found,
                "what this shell has; a service or a container may have a limit of its own",
            );
        }
    };
    let found = format!("{} by {}", figures::bytes(limit.bytes), limit.file);
    let mut why = "page cache counts for it: tables are evicted when it is reached, and only what is on \
                   the heap can get the process killed"
        .to_owned();
    if group.version == 1 {
        why.push_str(
            "; groups of version 1 do not slow down who makes pages dirty, so writers may stand still",
        );
    }
    Finding::note(name, found, why)
        .with_advice("leave room for tables that are hot beside the heap (heap, below)")
}

fn heap(facts: &Facts) -> Finding {
    let name = "heap";
    let usable = match facts.usable_bytes() {
        Ok(usable) => usable,
        Err(why) => {
            return Finding::unknown(name, why, "memtables take up to 384 MiB for each keyspace by default");
        }
    };
    let found = format!("up to {} of {}", figures::bytes(HEAP_BYTES), figures::bytes(usable));
    let why = "by default, memtables of one keyspace may take 384 MiB and decompressed blocks 32 MiB";
    // A third of a quarter of it, in whole MiB.
    let to_do = || format!("Options::memtable_bytes of {} MiB or less", (usable / 12 / MIB).clamp(1, 128));
    if usable < HEAP_BYTES + HEAP_BYTES / 4 {
        Finding::warn(name, found, format!("{why}: the process may be killed for it")).with_advice(to_do())
    } else if usable / 2 < HEAP_BYTES {
        Finding::note(name, found, format!("{why}, which leaves little for tables")).with_advice(to_do())
    } else {
        Finding::ok(name, found, format!("{why}; the rest is for tables"))
    }
}

fn swap(facts: &Facts) -> Finding {
    let name = "swap";
    let bytes = match &facts.memory {
        Ok(memory) => memory.swap_bytes,
        Err(why) => return Finding::unknown(name, why, "memtables that were swapped out make puts wait"),
    };
    if bytes == 0 {
        return Finding::ok(name, "none", "memtables stay in memory; what is short is taken from page cache");
    }
    let swappiness = match &facts.swappiness {
        Ok(swappiness) => *swappiness,
        Err(why) => return Finding::unknown(name, why, "memtables that were swapped out make puts wait"),
    };
    let found = format!("{}, vm.swappiness {swappiness}", figures::bytes(bytes));
    if swappiness >= 60 {
        let why = "memtables, which are heap, may be swapped out for tables that are read once: puts and \
                   gets then wait";
        return Finding::note(name, found, why).with_advice(sysctl("vm.swappiness=10"));
    }
    Finding::ok(name, found, "page cache goes first")
}

fn huge_pages(facts: &Facts) -> Finding {
    let name = "huge-pages";
    let enabled = match &facts.heap_huge_pages {
        Ok(enabled) => enabled,
        Err(why) => {
            return Finding::unknown(name, why, "kernels without them have no large pages for tables either");
        }
    };
    if enabled == "always" {
        let why = "heap is rounded up to pages of 2 MiB: the process takes more than its metrics count";
        return Finding::note(name, &**enabled, why).with_advice(
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (tables do not depend on it)",
        );
    }
    Finding::ok(
        name,
        &**enabled,
        "it is about heap only: tables are in pages of 2 MiB where the file system has them",
    )
}

fn dirty_pages(facts: &Facts) -> Finding {
    let name = "dirty-pages";
    let good_for = "a sync may wait behind what others have written";
    let (dirty, available) = match (&facts.dirty, &facts.memory) {
        (Ok(dirty), Ok(memory)) => (dirty, memory.available_bytes),
        (Err(why), _) | (_, Err(why)) => return Finding::unknown(name, why, good_for),
    };
    let (background, limit) = dirty.of(available);
    let found = format!("written from {} on, {} at most", figures::bytes(background), figures::bytes(limit));
    let to_do = sysctl("vm.dirty_background_bytes=268435456 vm.dirty_bytes=1073741824");
    if background > GIB {
        let why = "so much of other programs may pile up before it is written, and a synced put waits \
                   behind it; tables are written along the way";
        return Finding::note(name, found, why).with_advice(to_do);
    }
    if limit < 64 * MIB {
        let why = "a flush or compaction writes 2 MiB at a time, by several threads, and is slowed down soon";
        return Finding::note(name, found, why).with_advice(to_do);
    }
    Finding::ok(name, found, good_for)
}

/// A kind of pressure, and from which share of time on it is worth a word.
struct Bounds {
    name: &'static str,
    what: &'static str,
    /// In percent of the time in which somebody waits.
    note_from: f64,
    /// In percent of the time in which all wait at once. Above 100 for never.
    warn_from: f64,
    to_do: &'static str,
}

const MEMORY_PRESSURE: Bounds = Bounds {
    name: "memory-pressure",
    what: "memory",
    note_from: 5.0,
    warn_from: 10.0,
    to_do: "find out who takes it (ps aux --sort=-rss), or give more: tables are evicted and read again",
};

/// Waiting for a busy device may be what the machine is there for.
const IO_PRESSURE: Bounds = Bounds {
    name: "io-pressure",
    what: "I/O",
    note_from: 20.0,
    warn_from: f64::INFINITY,
    to_do: "find out who reads and writes (iotop, or pidstat -d): cold gets and syncs wait behind them",
};

impl Bounds {
    fn judge(&self, pressure: &Known<Pressure>) -> Finding {
        let why = format!("time in which programs wait for {} is lost to them", self.what);
        let Pressure { some_percent, full_percent } = match pressure {
            Ok(pressure) => *pressure,
            Err(unknown) => return Finding::unknown(self.name, unknown, why),
        };
        let found = format!("{some_percent:.1} % of the last minute, {full_percent:.1} % for all at once");
        if full_percent >= self.warn_from {
            Finding::warn(self.name, found, why).with_advice(self.to_do)
        } else if some_percent >= self.note_from {
            Finding::note(self.name, found, why).with_advice(self.to_do)
        } else {
            Finding::ok(self.name, found, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{DirtyLimits, State};
    use super::super::testing::{check, unknown};
    use super::*;
    use terrace_io::machine::MemoryLimit;

    fn limited(bytes: u64) -> impl Fn(&mut Facts) {
        move |facts| {
            let file = "/sys/fs/cgroup/db/memory.max".to_owned();
            facts.group.as_mut().unwrap().limit = Some(MemoryLimit { bytes, file });
        }
    }

    fn of_total(bytes: u64) -> impl Fn(&mut Facts) {
        move |facts| {
            let memory = facts.memory.as_mut().unwrap();
            (memory.total_bytes, memory.available_bytes) = (bytes, bytes);
        }
    }

    #[test]
    fn the_defaults_of_the_engine_are_what_is_said() {
        let options = format!("{:?}", terrace::Options::new());
        for field in ["memtable_bytes: 134217728,", "memtables_max: 3,", "block_cache_bytes: 33554432,"] {
            assert!(options.contains(field), "{field} is not in {options}");
        }
        assert_eq!(HEAP_BYTES, 416 * MIB);
    }

    #[test]
    fn tables_should_fit_into_memory() {
        check("memory", State::Ok, &["16.0 GiB, 8.00 GiB available"], |_| {});
        check("memory", State::Note, &["tables take 1.00 GiB"], of_total(GIB - 1));
        check("memory", State::Note, &["512 MiB available"], limited(512 * MIB));
        check("memory", State::Unknown, &["os error 13"], |facts| facts.memory = unknown());
    }

    #[test]
    fn the_limit_of_the_group_is_told_if_there_is_one() {
        check("memory-limit", State::Ok, &["none", "version 2"], |_| {});
        let words = ["2.00 GiB by /sys/fs/cgroup/db/memory.max"];
        check("memory-limit", State::Note, &words, limited(2 * GIB));
        check("memory-limit", State::Note, &["version 1 do not slow"], |facts| {
            limited(2 * GIB)(facts);
            facts.group.as_mut().unwrap().version = 1;
        });
        check("memory-limit", State::Ok, &["none"], limited(16 * GIB));
        check("memory-limit", State::Unknown, &["os error 13"], |facts| facts.group = unknown());
    }

    #[test]
    fn memtables_should_fit_with_room_to_spare() {
        check("heap", State::Ok, &["up to 416 MiB of 16.0 GiB"], |_| {});
        check("heap", State::Warn, &["killed", "Options::memtable_bytes of 42 MiB"], limited(512 * MIB));
        check("heap", State::Warn, &["of 1 MiB or less"], limited(MIB));
        check("heap", State::Warn, &[], of_total(519 * MIB));
        check("heap", State::Note, &["memtable_bytes of 43 MiB"], of_total(520 * MIB));
        check("heap", State::Note, &[], of_total(831 * MIB));
        check("heap", State::Ok, &[], of_total(832 * MIB));
        check("heap", State::Unknown, &["os error 13"], |facts| facts.memory = unknown());
    }

    #[test]
    fn swap_is_for_memtables_to_fear() {
        check("swap", State::Ok, &["none"], |_| {});
        let swap = |swappiness| {
            move |facts: &mut Facts| {
                facts.memory.as_mut().unwrap().swap_bytes = 2 * GIB;
                facts.swappiness = swappiness;
            }
        };
        check("swap", State::Note, &["2.00 GiB, vm.swappiness 60", "vm.swappiness=10"], swap(Ok(60)));
        check("swap", State::Ok, &["vm.swappiness 59"], swap(Ok(59)));
        check("swap", State::Unknown, &["os error 13"], swap(unknown()));
        check("swap", State::Unknown, &["os error 13"], |facts| facts.memory = unknown());
    }

    #[test]
    fn huge_pages_for_all_heap_are_a_note() {
        check("huge-pages", State::Ok, &["madvise"], |_| {});
        check("huge-pages", State::Ok, &["never"], |facts| facts.heap_huge_pages = Ok("never".to_owned()));
        let always = |facts: &mut Facts| facts.heap_huge_pages = Ok("always".to_owned());
        check("huge-pages", State::Note, &["echo madvise"], always);
        check("huge-pages", State::Unknown, &["os error 13"], |facts| facts.heap_huge_pages = unknown());
    }

    #[test]
    fn neither_too_many_dirty_pages_nor_too_few() {
        let name = "dirty-pages";
        let limits = |background_bytes, bytes| {
            let dirty = DirtyLimits { background_bytes, background_percent: 0, bytes, percent: 0 };
            move |facts: &mut Facts| facts.dirty = Ok(dirty)
        };
        check(name, State::Ok, &["from 256 MiB on, 1.00 GiB at most"], |_| {});
        check(name, State::Ok, &[], limits(GIB, 4 * GIB));
        check(name, State::Note, &["pile up", "vm.dirty_bytes"], limits(GIB + 1, 4 * GIB));
        check(name, State::Ok, &[], limits(MIB, 64 * MIB));
        check(name, State::Note, &["slowed down"], limits(MIB, 64 * MIB - 1));
        check(name, State::Unknown, &["os error 13"], |facts| facts.dirty = unknown());
        check(name, State::Unknown, &["os error 13"], |facts| facts.memory = unknown());
    }

    #[test]
    fn waiting_for_memory_is_worse_than_waiting_for_a_device() {
        let of = |some_percent, full_percent| Ok(Pressure { some_percent, full_percent });
        let memory = |some, full| move |facts: &mut Facts| facts.memory_pressure = of(some, full);
        let io = |some, full| move |facts: &mut Facts| facts.io_pressure = of(some, full);
        check("memory-pressure", State::Ok, &["4.9 % of the last minute"], memory(4.9, 4.0));
        check("memory-pressure", State::Note, &["ps aux"], memory(5.0, 4.0));
        check("memory-pressure", State::Warn, &["10.0 % for all"], memory(20.0, 10.0));
        check("io-pressure", State::Ok, &["19.9 %"], io(19.9, 19.9));
        check("io-pressure", State::Note, &["iotop"], io(99.0, 98.0));
        check("memory-pressure", State::Unknown, &["os error 13"], |facts| facts.memory_pressure = unknown());
        check("io-pressure", State::Unknown, &["os error 13"], |facts| facts.io_pressure = unknown());
    }
}
