//! The map for a terminal: a line of cells for the data of a row and one for its metadata, and a table of sums.

use std::io::{self, Write};

use terrace_io::PageCount;

use super::{Cell, Keyspace, Map, Parts, Row, Survey, share};
use crate::columns::Columns;
use crate::figures;
use crate::notation::Notation;

/// How it is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Characters of a line.
    pub width: usize,
    /// Blocks in 256 colours; else digits.
    pub is_colored: bool,
    /// Whether each table has a line of its own in the sums.
    pub lists_tables: bool,
    /// How keys are written.
    pub notation: Notation,
}

/// Characters before the cells, and behind them.
const BEFORE: usize = 17;
const BEHIND: usize = 7;
/// So many troubles are told one by one. Where the system does not tell what is in memory, all tables have the same.
pub(super) const TROUBLES_MAX: usize = 10;
/// Characters of a key that are written at an end of the map.
const KEY_CHARS: usize = 24;

/// From a little to all, as places of the 256 colours: over green and yellow to red. All of them stand out from a dark
/// terminal and from a light one, so it is the hue that tells.
const WARM: [u8; 9] = [37, 36, 71, 113, 185, 220, 214, 208, 196];
/// Nothing in memory.
const COLD: u8 = 60;
/// Not known.
const UNKNOWN: u8 = 133;
/// What data, and metadata, is drawn with where there are colours.
const DATA: char = '█';
const METADATA: char = '▀';

impl Style {
    /// How many columns a map has room for.
    pub fn columns(&self) -> usize {
        self.width.saturating_sub(BEFORE + BEHIND).max(10)
    }
}

/// Draws a survey.
pub fn write(out: &mut dyn Write, survey: &Survey, style: &Style) -> io::Result<()> {
    for keyspace in &survey.keyspaces {
        write_keyspace(out, keyspace, survey.page_bytes, style)?;
    }
    for trouble in survey.troubles().take(TROUBLES_MAX) {
        writeln!(out, "not known: {trouble}")?;
    }
    let more = survey.troubles().skip(TROUBLES_MAX).count();
    if more > 0 {
        writeln!(out, "not known: {} more tables", figures::count(more as u64))?;
    }
    if let Some(way) = survey.way {
        writeln!(out, "pages of {}, asked by {way}", figures::bytes(survey.page_bytes))?;
    }
    Ok(())
}

fn write_keyspace(
    out: &mut dyn Write,
    keyspace: &Keyspace,
    page_bytes: u64,
    style: &Style,
) -> io::Result<()> {
    let map = Map::new(keyspace, style.columns());
    let bytes: u64 = keyspace.tables().map(|table| table.file_bytes).sum();
    let (tables, name) = (keyspace.tables().count(), &keyspace.name);
    if tables == 0 {
        return writeln!(out, "keyspace {name}: no tables\n");
    }
    let all = map.rows.iter().fold(Parts::default(), |sum, row| sum + row.parts).all();
    let in_memory = match all.total {
        0 => "of which nothing is known".to_owned(),
        _ => format!("{} of it in memory", share(all)),
    };
    let (bytes, plural) = (figures::bytes(bytes), if tables == 1 { "" } else { "s" });
    writeln!(out, "keyspace {name}: {bytes} in {tables} table{plural}, {in_memory}")?;
    writeln!(out)?;
    for row in &map.rows {
        let line = |of: fn(&Parts) -> PageCount, block: char| -> String {
            row.cells.iter().map(|cell| drawn(cell.as_ref(), of, block, style)).collect()
        };
        let parts = &row.parts;
        writeln!(
            out,
            "{:<10} data  {}  {:>5}",
            row.name(),
            line(|parts| parts.data, DATA),
            share(parts.data)
        )?;
        writeln!(
            out,
            "{:<10} meta  {}  {:>5}",
            "",
            line(Parts::metadata, METADATA),
            share(parts.metadata())
        )?;
    }
    let (first, last) = (map.columns.first().map_or(&[][..], |key| &**key), &*map.last_key);
    let (first, last) = (shortened(first, style.notation), shortened(last, style.notation));
    let room = map.columns.len().saturating_sub(first.chars().count() + last.chars().count());
    let axis = if room > 0 { " ".repeat(room) } else { " to ".to_owned() };
    writeln!(out, "{:BEFORE$}{first}{axis}{last}\n", "")?;
    write_legend(out, style)?;
    writeln!(out, "\n{}", sums(&map, page_bytes, style))
}

fn write_legend(out: &mut dyn Write, style: &Style) -> io::Result<()> {
    if !style.is_colored {
        return writeln!(out, "in memory: . none, 1-9 tenths, # all; ? not known; blank: nothing there");
    }
    let ramp: String = WARM.iter().map(|color| colored(DATA, *color)).collect();
    let (cold, unknown) = (colored(DATA, COLD), colored(DATA, UNKNOWN));
    writeln!(out, "in memory: {cold} none, {ramp} a little to all; {unknown} not known; blank: nothing there")
}

/// The sums of levels, and of tables if they are wanted.
fn sums(map: &Map, page_bytes: u64, style: &Style) -> Columns {
    let mut sums = Columns::new([
        "level",
        ">tables",
        ">bytes",
        ">in memory",
        ">share",
        ">data",
        ">locator",
        ">filter",
        ">fences",
    ]);
    let mut add = |name: String, tables: usize, bytes: u64, parts: &Parts| {
        let all = parts.all();
        let [locator, filter, fences] = parts.ways().map(|(_, pages)| share(pages));
        sums.row([
            name,
            figures::count(tables as u64),
            figures::bytes(bytes),
            figures::bytes(all.resident * page_bytes),
            share(all),
            share(parts.data),
            locator,
            filter,
            fences,
        ]);
    };
    let mut level = None;
    for row in &map.rows {
        if level != Some(row.level) {
            let rows: Vec<&Row> = map.rows.iter().filter(|other| other.level == row.level).collect();
            let parts = rows.iter().fold(Parts::default(), |sum, row| sum + row.parts);
            let bytes = rows.iter().map(|row| row.file_bytes()).sum();
            add(format!("L{}", row.level), rows.iter().map(|row| row.tables.len()).sum(), bytes, &parts);
            level = Some(row.level);
        }
        for table in row.tables.iter().filter(|_| style.lists_tables) {
            let parts = table.pages.as_ref().map_or_else(|_| Parts::default(), |pages| pages.parts);
            add(format!("  {}", table.name), 1, table.file_bytes, &parts);
        }
    }
    sums
}

fn drawn(cell: Option<&Cell>, of: fn(&Parts) -> PageCount, block: char, style: &Style) -> String {
    let Some(cell) = cell else { return " ".to_owned() };
    let pages = of(&cell.parts);
    if pages.total == 0 {
        return match (cell.unknown > 0, style.is_colored) {
            (false, _) => " ".to_owned(),
            (true, true) => colored(block, UNKNOWN),
            (true, false) => "?".to_owned(),
        };
    }
    match style.is_colored {
        true => colored(block, color(pages)),
        false => digit(pages).to_string(),
    }
}

fn color(pages: PageCount) -> u8 {
    match (pages.share() * WARM.len() as f64).ceil() as usize {
        0 => COLD,
        step => WARM[step.min(WARM.len()) - 1],
    }
}

fn digit(pages: PageCount) -> char {
    match pages.resident {
        0 => '.',
        resident if resident >= pages.total => '#',
        _ => char::from(b'0' + (pages.share() * 10.0).ceil().clamp(1.0, 9.0) as u8),
    }
}

fn colored(block: char, color: u8) -> String {
    format!("\x1b[38;5;{color}m{block}\x1b[0m")
}

/// Enough of a key to know it by.
pub(super) fn shortened(key: &[u8], notation: Notation) -> String {
    let text = notation.display(key);
    match text.char_indices().nth(KEY_CHARS) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Segment, Table, TablePages};
    use super::*;

    fn pages(resident: u64, total: u64) -> PageCount {
        PageCount { resident, total }
    }

    #[test]
    fn little_is_not_none_and_much_is_not_all() {
        let digits: String = [0, 1, 100, 101, 500, 899, 999, 1000]
            .map(|resident| digit(pages(resident, 1000)))
            .iter()
            .collect();
        assert_eq!(digits, ".112599#");
        assert_eq!([0, 1, 1000].map(|resident| color(pages(resident, 1000))), [COLD, WARM[0], WARM[8]]);
        let words = [(0, 0), (0, 9), (1, 1000), (999, 1000), (9, 9)].map(|(r, t)| share(pages(r, t)));
        assert_eq!(words, ["-", "none", "<1 %", ">99 %", "all"]);
    }

    fn survey() -> Survey {
        let segments = ["a", "b", "c", "d"].into_iter().zip([0, 3, 10, 10]);
        let segments =
            segments.map(|(key, resident)| Segment { first_key: key.into(), pages: pages(resident, 10) });
        let parts = Parts { data: pages(23, 40), locator: pages(2, 2), ..Parts::default() };
        let whole = Table {
            name: "000002.sst".into(),
            file_bytes: 43 * 4096,
            smallest_key: "a".into(),
            largest_key: "dd".into(),
            pages: Ok(TablePages { parts, segments: segments.collect() }),
        };
        let broken = Table {
            name: "000003.sst".into(),
            smallest_key: "e".into(),
            largest_key: "f\0".into(),
            pages: Err("000003.sst is damaged".into()),
            ..whole.clone()
        };
        let keyspace = Keyspace { name: "k".into(), levels: vec![Vec::new(), vec![whole, broken]] };
        Survey { page_bytes: 4096, way: Some("mincore"), keyspaces: vec![keyspace] }
    }

    fn drawn(style: Style) -> String {
        let mut out = Vec::new();
        write(&mut out, &survey(), &style).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_map_is_drawn_in_letters_or_colours() {
        let style = Style { width: 40, is_colored: false, lists_tables: true, notation: Notation::Escaped };
        let expected = "\
keyspace k: 344 KiB in 2 tables, 60 % of it in memory

L1         data  .3##?   57 %
           meta  ####?    all
                 a to f\\x00

in memory: . none, 1-9 tenths, # all; ? not known; blank: nothing there

level         tables    bytes  in memory  share  data  locator  filter  fences
------------  ------  -------  ---------  -----  ----  -------  ------  ------
L1                 2  344 KiB    100 KiB   60 %  57 %      all       -       -
  000002.sst       1  172 KiB    100 KiB   60 %  57 %      all       -       -
  000003.sst       1  172 KiB        0 B      -     -        -       -       -

not known: 000003.sst is damaged
pages of 4.00 KiB, asked by mincore
";
        assert_eq!(drawn(style), expected);
        let colors = drawn(Style { is_colored: true, lists_tables: false, ..style });
        let line = colors.lines().find(|line| line.contains(" data  ")).unwrap();
        let cells = [COLD, WARM[2], WARM[8], WARM[8], UNKNOWN].map(|color| colored(DATA, color)).concat();
        assert!(line.contains(&cells), "{line:?}");
    }
}
