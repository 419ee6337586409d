//! Results as pictures: a bar for each engine, a panel for each figure, a file for each group of rows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use terrace_benches::plot::{self, Bar, Panel};

use crate::engine::Durability;
use crate::engines::EngineName;
use crate::report::{Line, lines, title};
use crate::results::Results;
use crate::rows::Group;

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
fn svg(title: &str, lines: &[Line]) -> String {
    let panels: Vec<Panel> = lines.iter().map(panel).collect();
    plot::svg(title, &panels)
}

fn panel(line: &Line) -> Panel {
    let better = if line.unit.more_is_better() { "more is better" } else { "less is better" };
    let bar = |&(engine, value): &(EngineName, f64)| Bar {
        label: engine.name().to_owned(),
        value,
        shown: line.unit.show(value),
        color: color(engine),
    };
    Panel { title: format!("{} ({better})", line.title()), bars: line.values.iter().map(bar).collect() }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Unit;
    use crate::rows::Row;

    #[test]
    fn a_plot_has_a_bar_for_each_value() {
        let values = vec![(EngineName::Terrace, 2e6), (EngineName::Redb, 5e5)];
        let figure = "1 thread".to_owned();
        let text = svg("reads", &[Line { row: Row::ReadRandom, figure, unit: Unit::PerSecond, values }]);
        assert_eq!(text.matches("<rect ").count(), 3, "{text}");
        assert!(text.contains("2.00 M/s") && text.contains("500 k/s"), "{text}");
        assert!(text.contains("readrandom, 1 thread (more is better)"), "{text}");
    }
}
