//! Results as pictures: a bar for each engine, a panel for each figure, a file for each group of rows.
//!
//! The bars of a panel begin at nought and share a scale; panels do not.

use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::engine::Durability;
use crate::engines::EngineName;
use crate::report::{Line, lines, title};
use crate::results::Results;
use crate::rows::Group;

const WIDTH: u32 = 760;
const MARGIN: u32 = 20;
const LABELS: u32 = 120;
const BARS: u32 = 460;
const BAR: u32 = 16;
const PANEL_TITLE: u32 = 28;
const PANEL_GAP: u32 = 12;
const HEAD: u32 = 48;

/// Writes the plots of all groups that have figures into a directory: their paths.
pub fn write_all(results: &Results, dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let mut paths = Vec::new();
    for (durability, suffix) in [(Durability::Buffered, ""), (Durability::Synced, "-synced")] {
        for group in Group::ALL {
            let lines = lines(results, group, durability);
            if !lines.is_empty() {
                let path = dir.join(format!("{}{suffix}.svg", group.name()));
                fs::write(&path, svg(&title(group, durability), &lines))?;
                paths.push(path);
            }
        }
    }
    Ok(paths)
}

/// The picture of some figures.
pub fn svg(title: &str, lines: &[Line]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(title, lines, &mut text);
    text
}

fn write(title: &str, lines: &[Line], text: &mut String) -> fmt::Result {
    let bars: usize = lines.iter().map(|line| line.values.len()).sum();
    let height = HEAD + lines.len() as u32 * (PANEL_TITLE + PANEL_GAP) + bars as u32 * BAR + MARGIN;
    writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">"
    )?;
    writeln!(text, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>")?;
    let title = escape(title);
    writeln!(text, "<text x=\"{MARGIN}\" y=\"30\" font-size=\"18\" font-weight=\"bold\">{title}</text>")?;
    let mut y = HEAD;
    for line in lines {
        let better = if line.unit.more_is_better() { "more is better" } else { "less is better" };
        let title = escape(&format!("{} ({better})", line.title()));
        writeln!(
            text,
            "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
            y + PANEL_TITLE - 10
        )?;
        y += PANEL_TITLE;
        let largest = line.values.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for &(engine, value) in &line.values {
            let left = MARGIN + LABELS;
            let length = (value / largest * f64::from(BARS)).max(1.0);
            let (middle, color) = (y + BAR - 4, color(engine));
            let (name, shown) = (engine.name(), escape(&line.unit.show(value)));
            writeln!(text, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>", left - 8)?;
            writeln!(
                text,
                "<rect x=\"{left}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" fill=\"{color}\"/>",
                y + 1,
                BAR - 3
            )?;
            writeln!(
                text,
                "<text x=\"{:.1}\" y=\"{middle}\">{shown}</text>",
                f64::from(left) + length + 6.0
            )?;
            y += BAR;
        }
        y += PANEL_GAP;
    }
    writeln!(text, "</svg>")
}

/// The color of an engine, the same in all pictures.
fn color(engine: EngineName) -> &'static str {
    match engine {
        EngineName::Terrace => "#c0392b",
        EngineName::Lmdb => "#2c6fbb",
        EngineName::Rocksdb => "#e0a030",
        EngineName::RocksdbMmap => "#b8860b",
        EngineName::Leveldb => "#7a9a3a",
        EngineName::Fjall => "#3a9a8a",
        EngineName::Redb => "#8a5aa8",
        EngineName::Raw => "#888888",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Unit;
    use crate::rows::Row;

    #[test]
    fn a_plot_has_a_bar_for_each_value() {
        let values = vec![(EngineName::Terrace, 2e6), (EngineName::Redb, 5e5)];
        let line = Line { row: Row::ReadRandom, figure: "1 < 2".to_owned(), unit: Unit::PerSecond, values };
        let text = svg("a & b", &[line]);
        assert_eq!(text.matches("<rect ").count(), 3, "{text}");
        assert!(text.contains("2.00 M/s") && text.contains("500 k/s"), "{text}");
        assert!(text.contains("a &amp; b") && text.contains("1 &lt; 2"), "{text}");
    }
}
