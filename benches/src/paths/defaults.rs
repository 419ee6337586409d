//! What the figures say about the engine's defaults: which of them this machine would have otherwise.

use terrace_io::{LogFile, ScanReader, SequentialWriter};

use crate::paths::{Group, Series, appends, blocks, scans, table_writes};

/// A default is kept unless something else is better by more than this: figures of one machine differ by as much from
/// one hour to the next.
const CLEARLY: f64 = 1.15;

/// What is to be said about one default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What the engine does.
    pub default: String,
    /// What was measured of it and of what else could be done.
    pub measured: String,
    /// What would be better here, if anything is, clearly.
    pub change: Option<String>,
}

/// Judges every default that the figures say something about.
pub fn judge(series: &[Series]) -> Vec<Verdict> {
    let kib = |bytes: usize| format!("{} KiB", bytes >> 10);
    let chunk = SequentialWriter::CHUNK_BYTES;
    let window = ScanReader::WINDOW_BYTES;
    let fill = LogFile::FILL_BYTES;
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let all = [
        choose(
            series,
            "point reads go through a mapping",
            (Group::Warm, "time of a read"),
            "mapping, 128 B",
            owned(&["pread, 128 B"]),
        ),
        choose(
            series,
            "mappings are advised to be read at random",
            (Group::Cold, "time of a read"),
            "mapping, random, 128 B",
            owned(&["mapping, no advice, 128 B"]),
        ),
        choose(
            series,
            "a block of several pages is asked for as a whole before it is touched (WILLNEED)",
            (Group::Blocks, "time of a block"),
            &blocks::name("mapping, WILLNEED", 4),
            vec![blocks::name("mapping", 4)],
        ),
        choose(
            series,
            "a block of one page is touched without asking for it before",
            (Group::Blocks, "time of a block"),
            &blocks::name("mapping", 1),
            vec![blocks::name("mapping, WILLNEED", 1)],
        ),
        choose(
            series,
            "long scans go through pread, not through the mapping",
            (Group::ColdScans, "speed"),
            &scans::window_name(window),
            owned(&["mapping, no advice", "mapping, sequential", "mapping, random"]),
        ),
        choose(
            series,
            &format!("long scans read windows of {}", kib(window)),
            (Group::ColdScans, "speed"),
            &scans::window_name(window),
            scans::WINDOWS.map(scans::window_name).into(),
        ),
        choose(
            series,
            "log segments are written before they are used, and synced by fdatasync",
            (Group::DurableAppends, "time, p50"),
            "written before, fdatasync",
            owned(&["grows, fdatasync", "reserved, fdatasync", "written before, RWF_DSYNC"]),
        ),
        choose(
            series,
            &format!("log segments are written before in pieces of {}", kib(fill)),
            (Group::BufferedAppends, "time"),
            &appends::fill_name(fill),
            appends::FILLS.map(appends::fill_name).into(),
        ),
        choose(
            series,
            &format!("tables are written in pieces of {}", kib(chunk)),
            (Group::TableWrites, "time of a random read of 128 B"),
            &table_writes::name(chunk),
            table_writes::PIECES.map(table_writes::name).into(),
        ),
    ];
    all.into_iter().flatten().collect()
}

/// Compares the case that is the default with others; nothing if it or all of them were not measured.
fn choose(
    series: &[Series],
    default: &str,
    (group, figure): (Group, &str),
    chosen: &str,
    others: Vec<String>,
) -> Option<Verdict> {
    let find =
        |case: &str| series.iter().find(|one| one.group == group && one.figure == figure && one.case == case);
    let ours = find(chosen)?;
    let more_is_better = ours.unit.more_is_better();
    // How many times better than the default.
    let factor = |other: &Series| match more_is_better {
        true => other.median() / ours.median(),
        false => ours.median() / other.median(),
    };
    let others = others.iter().filter(|other| *other != chosen).filter_map(|other| find(other));
    let best = others.max_by(|a, b| factor(a).total_cmp(&factor(b)))?;
    let show = |one: &Series| format!("{} {}", one.case, one.unit.show(one.median()));
    let change = (factor(best) > CLEARLY).then(|| format!("{}, {:.2} times better", best.case, factor(best)));
    Some(Verdict {
        default: default.to_owned(),
        measured: format!("{figure}: {}; the best other {}", show(ours), show(best)),
        change,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::paths::{Settings, Unit, measure};

    fn series(group: Group, case: &str, figure: &'static str, unit: Unit, value: f64) -> Series {
        Series { group, case: case.to_owned(), figure, unit, rounds: vec![value] }
    }

    #[test]
    fn a_default_is_changed_only_if_something_is_clearly_better() {
        let read =
            |case: &str, value: f64| series(Group::Warm, case, "time of a read", Unit::Nanoseconds, value);
        for (mapping, pread, changes) in [(100.0, 400.0, false), (400.0, 390.0, false), (400.0, 100.0, true)]
        {
            let verdicts = judge(&[read("mapping, 128 B", mapping), read("pread, 128 B", pread)]);
            assert_eq!(verdicts.len(), 1, "{verdicts:?}");
            assert_eq!(verdicts[0].change.is_some(), changes, "{verdicts:?}");
        }
    }

    #[test]
    fn more_of_a_speed_is_better() {
        let scan =
            |case: &str, value: f64| series(Group::ColdScans, case, "speed", Unit::BytesPerSecond, value);
        let window = scans::window_name(ScanReader::WINDOW_BYTES);
        let verdicts = judge(&[scan(&window, 1e9), scan("mapping, random", 1e8), scan("pread, 4 MiB", 2e9)]);
        let changes: Vec<_> = verdicts.iter().map(|verdict| verdict.change.as_deref()).collect();
        assert_eq!(changes, [None, Some("pread, 4 MiB, 2.00 times better")]);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judge(&[]), []);
    }

    /// A name that is changed in one place only would go unnoticed otherwise.
    #[test]
    fn every_default_is_judged_by_what_is_measured() {
        let directory = crate::scratch_directory().unwrap();
        let settings = Settings {
            dir: directory.path().to_owned(),
            file_bytes: 4 << 20,
            time: Duration::ZERO,
            rounds: 2,
        };
        let series: Vec<Series> =
            Group::ALL.into_iter().flat_map(|group| measure(group, &settings).unwrap()).collect();
        assert!(series.iter().all(|one| one.rounds.len() == 2));
        assert_eq!(judge(&series).len(), 9);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "files are left");
    }
}
