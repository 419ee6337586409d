//! What is measured, as it is kept in a file: every single figure, and where it comes from.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use terrace_benches::device_read_bytes;

use crate::engines::EngineName;
use crate::rows::Row;

/// What a figure counts, and so whether more of it is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Something per second: the more, the better.
    PerSecond,
    /// A time: the less, the better.
    Nanoseconds,
    /// Bytes for each byte that the user gave: the less, the better.
    PerUserByte,
    /// Bytes for each key: the less, the better.
    BytesPerKey,
    /// Bytes: the fewer, the better.
    Bytes,
}

impl Unit {
    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        self == Unit::PerSecond
    }

    /// A value for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Unit::PerSecond if value < 1e4 => format!("{value:.0}/s"),
            Unit::PerSecond if value < 1e6 => format!("{:.0} k/s", value / 1e3),
            Unit::PerSecond => format!("{:.2} M/s", value / 1e6),
            Unit::Nanoseconds => terrace_tools::figures::nanoseconds(value as u64),
            Unit::PerUserByte => format!("{value:.2}"),
            Unit::BytesPerKey => format!("{value:.1} B"),
            Unit::Bytes if value < 1e4 => format!("{value:.0} B"),
            Unit::Bytes => format!("{:.0} KiB", value / 1024.0),
        }
    }
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What of the row: for example `2 threads`.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
}

/// What one row gave, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The row.
    pub row: Row,
    /// Its figures.
    pub figures: Vec<Figure>,
    /// What has to be said with them.
    pub notes: Vec<String>,
}

impl Measurement {
    /// Of a row, with nothing in it yet.
    pub fn new(row: Row) -> Self {
        Measurement { row, figures: Vec::new(), notes: Vec::new() }
    }

    /// Adds a figure.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: Unit) {
        self.figures.push(Figure { name: name.into(), value, unit });
    }

    /// Notes it if more than a little was read from the disk since `before`, of what [`device_read_bytes`] says: then not
    /// all was warm.
    pub fn note_cold(&mut self, before: u64) {
        let mib = device_read_bytes().saturating_sub(before) >> 20;
        if mib > 0 {
            self.note(format!("{mib} MiB came from the disk"));
        }
    }

    /// Adds a note.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// What a process that measured some rows of one engine says in the end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Told {
    /// How the engine was set up, in each way that it was opened.
    pub settings: Vec<Vec<String>>,
    /// What came out.
    pub measurements: Vec<Measurement>,
    /// What part of the processors others used meanwhile, from 0 to 1.
    pub others: Option<f64>,
}

/// A measurement and where it comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Whose.
    pub engine: EngineName,
    /// In which round, from 1.
    pub round: u32,
    /// What part of the processors others used while the process ran that this comes from, from 0 to 1.
    pub others: Option<f64>,
    /// What.
    #[serde(flatten)]
    pub measurement: Measurement,
}

/// How a run was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Arguments {
    /// The engines, in the order in which they took turns.
    pub engines: Vec<EngineName>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Records in a database.
    pub records: u64,
    /// Bytes of a key.
    pub key_bytes: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// How often everything was measured.
    pub rounds: u32,
    /// How long a timed row took.
    pub seconds: f64,
    /// How long a row that writes everything might take at most.
    pub write_seconds: f64,
    /// MiB of memory in the row where that is limited; 0 in results from before there was such a row.
    #[serde(default)]
    pub memory_mib: u64,
}

/// How an engine was set up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EngineSettings {
    /// Which.
    pub engine: EngineName,
    /// The lines, for each way that it was opened.
    pub settings: Vec<Vec<String>>,
}

/// A whole run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// When it began.
    pub date: String,
    /// The machine, the system and the compiler.
    pub machine: Value,
    /// The file system that the databases were on.
    pub file_system: Value,
    /// What was asked for.
    pub arguments: Arguments,
    /// How the engines were set up.
    pub settings: Vec<EngineSettings>,
    /// Every single measurement.
    pub entries: Vec<Entry>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

impl Results {
    /// The names of a row's figures with their units, in the order in which they were first seen.
    pub fn figures_of(&self, row: Row) -> Vec<(String, Unit)> {
        let mut found: Vec<(String, Unit)> = Vec::new();
        for figure in self.of(row).flat_map(|entry| &entry.measurement.figures) {
            if !found.iter().any(|(name, _)| *name == figure.name) {
                found.push((figure.name.clone(), figure.unit));
            }
        }
        found
    }

    /// The median of one engine's figure over all rounds.
    pub fn median(&self, row: Row, name: &str, engine: EngineName) -> Option<f64> {
        let entries = self.of(row).filter(|entry| entry.engine == engine);
        let figures = entries.flat_map(|entry| &entry.measurement.figures);
        median(figures.filter(|figure| figure.name == name).map(|figure| figure.value).collect())
    }

    /// What has to be said about an engine's figures in a row, each thing once.
    pub fn notes(&self, row: Row, engine: EngineName) -> Vec<&str> {
        let entries = self.of(row).filter(|entry| entry.engine == engine);
        let mut notes: Vec<&str> =
            entries.flat_map(|entry| &entry.measurement.notes).map(String::as_str).collect();
        notes.sort_unstable();
        notes.dedup();
        notes
    }

    /// How far ahead of the best other engine Terrace is: above 1 it is ahead, whether more is better or less.
    pub fn lead(&self, row: Row, name: &str, unit: Unit) -> Option<(f64, EngineName)> {
        let own = self.median(row, name, EngineName::Terrace)?;
        let engines = self.arguments.engines.iter().copied();
        let peers = engines.filter(|engine| !matches!(engine, EngineName::Terrace | EngineName::Raw));
        let leads = peers.filter_map(|peer| {
            let other = self.median(row, name, peer)?;
            let lead = if unit.more_is_better() { own / other } else { other / own };
            lead.is_finite().then_some((lead, peer))
        });
        leads.min_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// What part of the processors others used: the median of all measurements, and the largest.
    pub fn others(&self) -> Option<(f64, f64)> {
        let shares: Vec<f64> = self.entries.iter().filter_map(|entry| entry.others).collect();
        let largest = shares.iter().copied().fold(0.0, f64::max);
        Some((median(shares)?, largest))
    }

    fn of(&self, row: Row) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.measurement.row == row)
    }
}

/// The one in the middle, or the mean of the two there.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(values: &[(EngineName, f64, f64)]) -> Results {
        let entries = values.iter().zip(1..).map(|(&(engine, rate, time), round)| {
            let mut measurement = Measurement::new(Row::ReadRandom);
            measurement.add("1 thread", rate, Unit::PerSecond);
            measurement.add("p50", time, Unit::Nanoseconds);
            measurement.note("warm");
            Entry { engine, round, others: None, measurement }
        });
        Results {
            date: String::new(),
            machine: Value::Null,
            file_system: Value::Null,
            arguments: Arguments {
                engines: vec![EngineName::Terrace, EngineName::Redb, EngineName::Fjall],
                rows: vec![Row::ReadRandom],
                records: 1,
                key_bytes: 16,
                value_bytes: 100,
                rounds: 1,
                seconds: 1.0,
                write_seconds: 1.0,
                memory_mib: 128,
            },
            settings: Vec::new(),
            entries: entries.collect(),
            failures: Vec::new(),
        }
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_lead_is_over_the_best_peer() {
        let results = results(&[
            (EngineName::Terrace, 300.0, 50.0),
            (EngineName::Redb, 200.0, 25.0),
            (EngineName::Fjall, 50.0, 100.0),
            (EngineName::Terrace, 500.0, 150.0),
        ]);
        let row = Row::ReadRandom;
        assert_eq!(results.lead(row, "1 thread", Unit::PerSecond), Some((2.0, EngineName::Redb)));
        assert_eq!(results.lead(row, "p50", Unit::Nanoseconds), Some((0.25, EngineName::Redb)));
        assert_eq!(results.lead(row, "p99", Unit::Nanoseconds), None);
        assert_eq!(results.notes(row, EngineName::Terrace), ["warm"]);
        let text = serde_json::to_string(&results).unwrap();
        let read: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(read.figures_of(row), results.figures_of(row));
    }
}
