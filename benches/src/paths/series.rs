//! What is measured: figures by group and case, a value for each round.

use std::time::{Duration, Instant};

use crate::paths::{Outcome, Settings};
use crate::plot::{Bar, Panel};

/// What is compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Reads at random of what is in memory and mapped.
    Warm,
    /// The first touch of pages that are in memory and not mapped yet.
    FirstTouch,
    /// Reads at random of what is not in memory.
    Cold,
    /// Reads of whole blocks of one page or several that are not in memory.
    Blocks,
    /// From front to back through a file that is in memory.
    WarmScans,
    /// From front to back through a file that is not in memory.
    ColdScans,
    /// Small records at the end of a log, each made durable.
    DurableAppends,
    /// Small records at the end of a log that nobody waits for.
    BufferedAppends,
    /// Tables written in pieces of different lengths, and what that means for their readers.
    TableWrites,
}

impl Group {
    /// All, in the order in which they are measured.
    pub const ALL: [Group; 9] = [
        Group::Warm,
        Group::FirstTouch,
        Group::Cold,
        Group::Blocks,
        Group::WarmScans,
        Group::ColdScans,
        Group::DurableAppends,
        Group::BufferedAppends,
        Group::TableWrites,
    ];

    /// What it is called on the command line and in file names.
    pub fn name(self) -> &'static str {
        match self {
            Group::Warm => "warm",
            Group::FirstTouch => "first-touch",
            Group::Cold => "cold",
            Group::Blocks => "blocks",
            Group::WarmScans => "warm-scans",
            Group::ColdScans => "cold-scans",
            Group::DurableAppends => "durable-appends",
            Group::BufferedAppends => "buffered-appends",
            Group::TableWrites => "table-writes",
        }
    }

    /// What it is called where there is room.
    pub fn title(self) -> &'static str {
        match self {
            Group::Warm => "Random reads, in memory",
            Group::FirstTouch => "First touch of a page in memory",
            Group::Cold => "Random reads, not in memory",
            Group::Blocks => "Blocks of several pages, not in memory",
            Group::WarmScans => "Reading a file through, in memory",
            Group::ColdScans => "Reading a file through, not in memory",
            Group::DurableAppends => "Durable appends of 140 B",
            Group::BufferedAppends => "Buffered appends of 140 B",
            Group::TableWrites => "Writing tables",
        }
    }
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds: the fewer, the better.
    Nanoseconds,
    /// Bytes per second: the more, the better.
    BytesPerSecond,
    /// Bytes: the fewer, the better.
    Bytes,
    /// A part of the whole, 0 to 1: the more, the better.
    Share,
}

impl Unit {
    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        matches!(self, Unit::BytesPerSecond | Unit::Share)
    }

    /// A value for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Unit::Nanoseconds if value < 1e3 => format!("{value:.0} ns"),
            Unit::Nanoseconds if value < 1e5 => format!("{:.1} µs", value / 1e3),
            Unit::Nanoseconds if value < 1e6 => format!("{:.0} µs", value / 1e3),
            Unit::Nanoseconds => format!("{:.1} ms", value / 1e6),
            Unit::BytesPerSecond => format!("{:.2} GB/s", value / 1e9),
            Unit::Bytes if value < 1e4 => format!("{value:.0} B"),
            Unit::Bytes => format!("{:.0} KiB", value / 1024.0),
            Unit::Share => format!("{:.0} %", value * 100.0),
        }
    }
}

/// One figure of one case.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is compared in.
    pub group: Group,
    /// Which of the ways.
    pub case: String,
    /// What of it: `time`, for example.
    pub figure: &'static str,
    /// In what.
    pub unit: Unit,
    /// The value of each round, at least one.
    pub rounds: Vec<f64>,
}

impl Series {
    /// The one in the middle of the rounds, the greater of two.
    pub fn median(&self) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

/// The figures of one group as a picture's panels.
pub fn panels(series: &[Series]) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for one in series {
        let better = if one.unit.more_is_better() { "more is better" } else { "less is better" };
        let title = format!("{} ({better})", one.figure);
        let bar = Bar {
            label: one.case.clone(),
            value: one.median(),
            shown: one.unit.show(one.median()),
            color: color(&one.case),
        };
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.bars.push(bar),
            None => panels.push(Panel { title, bars: vec![bar] }),
        }
    }
    panels
}

/// Mappings have one color and calls another.
fn color(case: &str) -> &'static str {
    if case.contains("mapping") { "#c0392b" } else { "#2c6fbb" }
}

/// One of the ways, and how to measure it: a value for each figure of its group.
pub(crate) struct Case<'c> {
    pub name: String,
    pub run: Box<dyn FnMut() -> Outcome<Vec<f64>> + 'c>,
}

impl<'c> Case<'c> {
    pub fn new(name: impl Into<String>, run: impl FnMut() -> Outcome<Vec<f64>> + 'c) -> Case<'c> {
        Case { name: name.into(), run: Box::new(run) }
    }
}

/// Measures the cases of a group in turn, as often as the settings say.
pub(crate) fn take_turns(
    group: Group,
    figures: &[(&'static str, Unit)],
    settings: &Settings,
    mut cases: Vec<Case<'_>>,
) -> Outcome<Vec<Series>> {
    let mut series: Vec<Series> = Vec::new();
    for &(figure, unit) in figures {
        series.extend(cases.iter().map(|case| Series {
            group,
            case: case.name.clone(),
            figure,
            unit,
            rounds: Vec::new(),
        }));
    }
    let count = cases.len();
    for _ in 0..settings.rounds.max(1) {
        for (index, case) in cases.iter_mut().enumerate() {
            let values = (case.run)().map_err(|error| format!("{}, {}: {error}", group.name(), case.name))?;
            assert_eq!(values.len(), figures.len(), "a value for each figure of the group");
            for (figure, value) in values.into_iter().enumerate() {
                series[figure * count + index].rounds.push(value);
            }
        }
    }
    Ok(series)
}

/// Calls until the time is up or `most` calls are done, and looks at the clock after each `batch` of them: nanoseconds
/// for each call, and how many there were.
pub(crate) fn repeat(
    time: Duration,
    most: u64,
    batch: u64,
    mut call: impl FnMut() -> Outcome<()>,
) -> Outcome<(f64, u64)> {
    let started = Instant::now();
    let mut calls = 0;
    loop {
        for _ in 0..batch.min(most - calls) {
            call()?;
            calls += 1;
        }
        let elapsed = started.elapsed();
        if elapsed >= time || calls == most {
            return Ok((elapsed.as_nanos() as f64 / calls as f64, calls));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(rounds: u32) -> Settings {
        Settings { dir: ".".into(), file_bytes: 0, time: Duration::ZERO, rounds }
    }

    #[test]
    fn cases_take_turns() {
        let order = std::cell::RefCell::new(Vec::new());
        let case = |name: &'static str, value: f64| {
            let order = &order;
            Case::new(name, move || {
                order.borrow_mut().push(name);
                Ok(vec![value, order.borrow().len() as f64])
            })
        };
        let figures = [("time", Unit::Nanoseconds), ("disk", Unit::Bytes)];
        let cases = vec![case("mapping", 1.0), case("pread", 2.0)];
        let series = take_turns(Group::Cold, &figures, &settings(3), cases).unwrap();
        assert_eq!(*order.borrow(), ["mapping", "pread", "mapping", "pread", "mapping", "pread"]);
        let told: Vec<_> = series.iter().map(|one| (&*one.case, one.figure, one.median())).collect();
        let expected = [
            ("mapping", "time", 1.0),
            ("pread", "time", 2.0),
            ("mapping", "disk", 3.0),
            ("pread", "disk", 4.0),
        ];
        assert_eq!(told, expected);
        let panels = panels(&series);
        assert_eq!(panels.len(), 2);
        assert_eq!((panels[1].bars.len(), &*panels[1].bars[1].shown), (2, "4 B"));
    }

    #[test]
    fn calls_end_with_the_time_or_their_number() {
        let mut calls = 0;
        let count = |calls: &mut u64| {
            *calls += 1;
            Ok(())
        };
        assert_eq!(repeat(Duration::ZERO, 100, 8, || count(&mut calls)).unwrap().1, 8);
        assert_eq!(repeat(Duration::from_secs(60), 100, 8, || count(&mut calls)).unwrap().1, 100);
        assert_eq!(calls, 108);
    }

    #[test]
    fn values_read_well() {
        let shown = |unit: Unit, value: f64| unit.show(value);
        assert_eq!(shown(Unit::Nanoseconds, 12.4), "12 ns");
        assert_eq!(shown(Unit::Nanoseconds, 66_123.0), "66.1 µs");
        assert_eq!(shown(Unit::Nanoseconds, 2_500_000.0), "2.5 ms");
        assert_eq!(shown(Unit::BytesPerSecond, 1.5e9), "1.50 GB/s");
        assert_eq!(shown(Unit::Bytes, 4096.0), "4096 B");
        assert_eq!(shown(Unit::Bytes, 8_388_608.0), "8192 KiB");
        assert_eq!(shown(Unit::Share, 0.994), "99 %");
    }
}
