//! Results as a page of Markdown: the machine, the settings, a table of medians for each group of rows.

use std::fmt::{self, Write as _};

use crate::engine::Durability;
use crate::engines::EngineName;
use crate::results::{Results, Unit};
use crate::rows::{Group, Row};

/// One line of a table, or one panel of a plot.
#[derive(Debug, Clone)]
pub struct Line {
    /// The row.
    pub row: Row,
    /// The name of the figure in it.
    pub figure: String,
    /// Its unit.
    pub unit: Unit,
    /// Each engine's median.
    pub values: Vec<(EngineName, f64)>,
}

impl Line {
    /// Row and figure.
    pub fn title(&self) -> String {
        format!("{}, {}", self.row.name(), self.figure)
    }

    /// The best engine, `raw` left out.
    pub fn best(&self) -> Option<EngineName> {
        let engines = self.values.iter().filter(|(engine, _)| *engine != EngineName::Raw);
        let best = if self.unit.more_is_better() {
            engines.max_by(|a, b| a.1.total_cmp(&b.1))
        } else {
            engines.min_by(|a, b| a.1.total_cmp(&b.1))
        };
        best.map(|(engine, _)| *engine)
    }
}

/// Figures that may stand beside each other: of one group and one durability.
pub fn lines(results: &Results, group: Group, durability: Durability) -> Vec<Line> {
    let mut rows = results.arguments.rows.clone();
    rows.sort_unstable();
    rows.dedup();
    rows.retain(|row| row.group() == group && row.durability() == durability);
    let mut lines = Vec::new();
    for row in rows {
        for (figure, unit) in results.figures_of(row) {
            let engines = results.arguments.engines.iter().copied();
            let values =
                engines.filter_map(|engine| Some((engine, results.median(row, &figure, engine)?))).collect();
            lines.push(Line { row, figure, unit, values });
        }
    }
    lines
}

/// The title of a table.
pub fn title(group: Group, durability: Durability) -> String {
    let what = match group {
        Group::Reads => "Point reads",
        Group::Scans => "Scans",
        Group::Writes => "Writes",
        Group::Mixed => "Reads and writes together",
        Group::Limited => "Less memory than data",
        Group::Rest => "Opening and memory",
    };
    match durability {
        Durability::Buffered => format!("{what}, buffered"),
        Durability::Synced => format!("{what}, synced"),
    }
}

/// The whole page.
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(results, &mut text);
    text
}

fn write(results: &Results, text: &mut String) -> fmt::Result {
    let arguments = &results.arguments;
    writeln!(text, "# Terrace and other embedded stores\n")?;
    writeln!(
        text,
        "{}. {} records of {} B + {} B, {} round(s), {} s for each timed row; medians. The engines took turns, each \
         in a process of its own. Buffered: an acknowledged write survives the process. Synced: it survives power \
         loss.\n",
        results.date,
        terrace_tools::figures::count(arguments.records),
        arguments.key_bytes,
        arguments.value_bytes,
        arguments.rounds,
        arguments.seconds,
    )?;
    writeln!(
        text,
        "The last column says how far Terrace is ahead of the best other engine of the line: above 1 it is ahead, \
         whether more is better or less. `docs/comparison.md` says how each row is measured.\n"
    )?;
    if let Some((usual, most)) = results.others() {
        writeln!(
            text,
            "Others, programs or the host, used {:.0} % of the processors meanwhile (the median of all measurements; \
             {:.0} % at most). Above a few percent, no figure of time says much.\n",
            usual * 100.0,
            most * 100.0
        )?;
    }
    for durability in [Durability::Buffered, Durability::Synced] {
        for group in Group::ALL {
            write_table(results, group, durability, text)?;
        }
    }
    writeln!(text, "## Machine\n")?;
    for value in [&results.machine, &results.file_system] {
        for (name, value) in value.as_object().into_iter().flatten() {
            writeln!(text, "- {}: {}", name.replace('_', " "), value.to_string().trim_matches('"'))?;
        }
    }
    writeln!(text, "\n## Settings\n")?;
    for engine in &results.settings {
        writeln!(text, "- **{}**", engine.engine.name())?;
        for settings in &engine.settings {
            writeln!(text, "  - {}", settings.join("; "))?;
        }
    }
    if !results.failures.is_empty() {
        writeln!(text, "\n## What could not be measured\n")?;
        results.failures.iter().try_for_each(|failure| writeln!(text, "- {failure}"))?;
    }
    Ok(())
}

fn write_table(results: &Results, group: Group, durability: Durability, text: &mut String) -> fmt::Result {
    let lines = lines(results, group, durability);
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(text, "## {}\n", title(group, durability))?;
    let has_value =
        |engine: &EngineName| lines.iter().any(|line| line.values.iter().any(|(known, _)| known == engine));
    let engines: Vec<EngineName> = results.arguments.engines.iter().copied().filter(has_value).collect();
    let names: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
    writeln!(text, "| | {} | Terrace to the best peer |", names.join(" | "))?;
    writeln!(text, "|---|{}---:|", "---:|".repeat(names.len()))?;
    let mut notes: Vec<String> = Vec::new();
    for line in &lines {
        write!(text, "| {} |", line.title())?;
        for &engine in &engines {
            let value = line.values.iter().find(|(known, _)| *known == engine);
            let shown = value.map_or_else(|| "-".to_owned(), |(_, value)| line.unit.show(*value));
            let shown = if line.best() == Some(engine) { format!("**{shown}**") } else { shown };
            write!(text, " {shown} |")?;
        }
        match results.lead(line.row, &line.figure, line.unit) {
            Some((lead, peer)) => writeln!(text, " {lead:.2} ({}) |", peer.name())?,
            None => writeln!(text, " - |")?,
        }
        for &engine in &engines {
            for note in results.notes(line.row, engine) {
                let note = format!("- {}, {}: {note}", line.row.name(), engine.name());
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
    }
    writeln!(text)?;
    if !notes.is_empty() {
        writeln!(text, "{}\n", notes.join("\n"))?;
    }
    Ok(())
}
