//! The map as a page: one file that needs nothing else, in light and in dark, with a title for each cell that says which
//! keys and tables it stands for. The pictures are SVG in the page.

use std::fmt::{self, Write as _};

use terrace_io::PageCount;

use super::text::{TROUBLES_MAX, shortened};
use super::{Cell, Keyspace, Map, Parts, Row, Survey};
use crate::figures;
use crate::notation::Notation;

/// Columns of a map.
pub const COLUMNS: usize = 170;

const STYLE: &str = include_str!("page.css");
/// Where cells begin and end, and how wide the picture is.
const LEFT: f64 = 128.0;
const RIGHT: f64 = 978.0;
const WIDTH: f64 = 1064.0;
/// How high things are: the data of a level, and of a table of level 0; metadata; room between rows; the axis.
const DATA_HEIGHT: f64 = 34.0;
const TABLE_HEIGHT: f64 = 22.0;
const LANE_HEIGHT: f64 = 11.0;
const ROW_GAP: f64 = 14.0;
const AXIS_HEIGHT: f64 = 34.0;

/// Takes some of the pages.
type Of = fn(&Parts) -> PageCount;

/// What stands above the maps.
#[derive(Debug, Clone)]
pub struct Heading {
    /// The directory of the database.
    pub dir: String,
    /// When it was looked at.
    pub time: String,
    /// How keys are written.
    pub notation: Notation,
}

/// The page of a survey.
pub fn html(survey: &Survey, heading: &Heading) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut page, survey, heading);
    page
}

fn write_page(page: &mut String, survey: &Survey, heading: &Heading) -> fmt::Result {
    let (dir, time) = (escape(&heading.dir), escape(&heading.time));
    let maps: Vec<(&Keyspace, Map)> =
        survey.keyspaces.iter().map(|keyspace| (keyspace, Map::new(keyspace, COLUMNS))).collect();
    writeln!(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>")?;
    writeln!(page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>")?;
    writeln!(page, "<title>In memory of {dir}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>")?;
    writeln!(page, "<h1>What of {dir} is in memory</h1>")?;
    let asked = |way| format!("; pages of {}, asked by {way}", figures::bytes(survey.page_bytes));
    let asked = survey.way.map(asked).unwrap_or_default();
    writeln!(page, "<p class=\"faint\">{time}{asked}</p>")?;
    let rows = || maps.iter().flat_map(|(_, map)| &map.rows);
    let parts = rows().fold(Parts::default(), |sum, row| sum + row.parts);
    write_tiles(page, &parts, survey.page_bytes)?;
    write_legend(page)?;
    for trouble in survey.troubles().take(TROUBLES_MAX) {
        writeln!(page, "<p class=\"trouble\">not known: {}</p>", escape(trouble))?;
    }
    let more = survey.troubles().skip(TROUBLES_MAX).count();
    if more > 0 {
        writeln!(page, "<p class=\"trouble\">not known: {} more tables</p>", figures::count(more as u64))?;
    }
    for (keyspace, map) in &maps {
        let (name, tables) = (escape(&keyspace.name), keyspace.tables().count());
        writeln!(page, "<h2>Keyspace {name}</h2>")?;
        if tables == 0 {
            writeln!(page, "<p class=\"faint\">no tables</p>")?;
            continue;
        }
        let pages: u64 = map.rows.iter().map(|row| row.parts.data.total).sum();
        let columns = match map.columns.len() {
            1 => "one column".to_owned(),
            columns => {
                let bytes = figures::bytes(pages * survey.page_bytes / columns.max(1) as u64);
                format!("{columns} columns of about {bytes} of data in all levels together")
            }
        };
        writeln!(
            page,
            "<p class=\"faint\">From left to right the keys in order, in {columns}; from top to bottom the levels, the \
             newest data first.</p>"
        )?;
        write_map(page, map, survey.page_bytes, heading.notation)?;
        write_levels(page, map, survey.page_bytes)?;
        write_tables(page, map, survey.page_bytes, heading.notation)?;
    }
    writeln!(page, "</body>\n</html>")
}

/// The sums of the whole database.
fn write_tiles(page: &mut String, parts: &Parts, page_bytes: u64) -> fmt::Result {
    let all = [("everything", parts.all()), ("data", parts.data)];
    let plural = |(name, pages): (&'static str, PageCount)| match name {
        "locator" => ("locators", pages),
        "filter" => ("filters", pages),
        name => (name, pages),
    };
    writeln!(page, "<div class=\"tiles\">")?;
    for (name, pages) in all.into_iter().chain(parts.ways().map(plural)) {
        let (of, bytes) =
            (figures::bytes(pages.resident * page_bytes), figures::bytes(pages.total * page_bytes));
        writeln!(
            page,
            "<div class=\"tile\">{name}<b>{}</b><i><i style=\"width: {:.1}%\"></i></i>\
             <span class=\"faint\">{of} of {bytes}</span></div>",
            share(pages),
            pages.share() * 100.0
        )?;
    }
    writeln!(page, "</div>")
}

fn write_legend(page: &mut String) -> fmt::Result {
    let square =
        |class: &str, x: usize| format!("<rect class=\"{class}\" x=\"{x}\" width=\"18\" height=\"18\"/>");
    let ramp: String = (1..=9).map(|step| square(&format!("c{step}"), (step - 1) * 18)).collect();
    let picture = |width: usize, cells: &str| format!("<svg width=\"{width}\" height=\"18\">{cells}</svg>");
    writeln!(
        page,
        "<p class=\"legend\">in memory:{}none{}a little to all{}not known; where there is nothing, there is no cell</p>",
        picture(18, &square("c0", 0)),
        picture(162, &ramp),
        picture(18, &square("cx", 0))
    )
}

/// The picture of a keyspace.
fn write_map(page: &mut String, map: &Map, page_bytes: u64, notation: Notation) -> fmt::Result {
    let data_height = |row: &Row| if row.name().len() > 2 { TABLE_HEIGHT } else { DATA_HEIGHT };
    let lanes = |row: &Row| row.parts.ways().iter().filter(|(_, pages)| pages.total > 0).count() as f64;
    let row_height = |row: &Row| data_height(row) + lanes(row) * LANE_HEIGHT + ROW_GAP;
    let height = AXIS_HEIGHT + map.rows.iter().map(row_height).sum::<f64>();
    writeln!(page, "<svg class=\"map\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">")?;
    write_axis(page, map, height - ROW_GAP, notation)?;
    let mut y = AXIS_HEIGHT;
    for row in &map.rows {
        let (height, middle) = (data_height(row), y + data_height(row) / 2.0 + 5.0);
        writeln!(page, "<text x=\"0\" y=\"{middle}\" font-weight=\"600\">{}</text>", escape(&row.name()))?;
        let behind = RIGHT + 10.0;
        writeln!(
            page,
            "<text x=\"{behind}\" y=\"{middle}\" font-weight=\"600\">{}</text>",
            share(row.parts.data)
        )?;
        let (bytes, below) = (figures::bytes(row.file_bytes()), middle + 15.0);
        writeln!(page, "<text class=\"small\" x=\"0\" y=\"{below}\">{bytes}</text>")?;
        write_lane(
            page,
            map,
            row,
            Lane { name: "data", of: |parts| parts.data, y, height },
            notation,
            page_bytes,
        )?;
        y += height;
        let ways: [(usize, Of); 3] =
            [(0, |parts| parts.locator), (1, |parts| parts.filter), (2, |parts| parts.fences)];
        for (index, of) in ways {
            let (name, pages) = row.parts.ways()[index];
            if pages.total > 0 {
                let (below, at) = (y + LANE_HEIGHT - 1.0, LEFT - 7.0);
                writeln!(
                    page,
                    "<text class=\"small\" x=\"{at}\" y=\"{below}\" text-anchor=\"end\">{name}</text>"
                )?;
                writeln!(page, "<text class=\"small\" x=\"{behind}\" y=\"{below}\">{}</text>", share(pages))?;
                let lane = Lane { name, of, y: y + 2.0, height: LANE_HEIGHT - 2.0 };
                write_lane(page, map, row, lane, notation, page_bytes)?;
                y += LANE_HEIGHT;
            }
        }
        y += ROW_GAP;
    }
    writeln!(page, "</svg>")
}

/// Keys at some columns.
fn write_axis(page: &mut String, map: &Map, height: f64, notation: Notation) -> fmt::Result {
    const TICKS: usize = 4;
    let top = AXIS_HEIGHT - 12.0;
    // Of few columns only the ends are named: their keys would not stand beside each other.
    let is_named = |tick: &usize| tick.is_multiple_of(TICKS) || map.columns.len() >= 8 * TICKS;
    for tick in (0..=TICKS).filter(is_named) {
        let column = map.columns.len() * tick / TICKS;
        let key = map.columns.get(column).unwrap_or(&map.last_key);
        let (x, key) = (x_of(map, column), escape(&shortened(key, notation)));
        let anchor = match tick {
            0 => "start",
            TICKS => "end",
            _ => "middle",
        };
        writeln!(
            page,
            "<line class=\"tick\" x1=\"{x:.2}\" y1=\"{}\" x2=\"{x:.2}\" y2=\"{height}\"/>",
            top + 4.0
        )?;
        writeln!(
            page,
            "<text class=\"small\" x=\"{x:.2}\" y=\"{top}\" text-anchor=\"{anchor}\">{key}</text>"
        )?;
    }
    Ok(())
}

/// One kind of pages of a row.
struct Lane {
    name: &'static str,
    of: Of,
    y: f64,
    height: f64,
}

fn write_lane(
    page: &mut String,
    map: &Map,
    row: &Row,
    lane: Lane,
    notation: Notation,
    page_bytes: u64,
) -> fmt::Result {
    let (is_data, count) = (lane.name == "data", row.cells.len());
    let mut column = 0;
    while column < count {
        let Some(cell) = &row.cells[column] else {
            column += 1;
            continue;
        };
        // Metadata is not divided by key: what the same tables have is one cell.
        let is_same = |other: &Option<Cell>| other.as_ref().is_some_and(|other| other.tables == cell.tables);
        let run = match is_data {
            true => 1,
            false => row.cells[column..].iter().take_while(|other| is_same(other)).count(),
        };
        let pages = (lane.of)(&cell.parts);
        if pages.total > 0 || (is_data && cell.unknown > 0) {
            let (start, end) = (x_of(map, column), x_of(map, column + run));
            let class = if pages.total > 0 { class_of(pages) } else { "cx".to_owned() };
            write!(
                page,
                "<rect class=\"{class}\" x=\"{start:.2}\" y=\"{}\" width=\"{:.2}\" height=\"{}\">",
                lane.y,
                // Tables are set apart.
                end - start - if run > 1 { 1.0 } else { 0.0 },
                lane.height
            )?;
            let (first, _) = map.keys_of(column);
            let (_, behind) = map.keys_of(column + run - 1);
            let keys = |key| shortened(key, notation);
            let known = match pages.total {
                0 => "not known".to_owned(),
                _ => format!(
                    "{} of {} pages in memory: {} of {}",
                    figures::count(pages.resident),
                    figures::count(pages.total),
                    super::share(pages),
                    figures::bytes(pages.total * page_bytes)
                ),
            };
            let title = format!(
                "L{} {}, {}\nkeys {} to {}\n{known}",
                row.level,
                lane.name,
                tables_of(row, cell),
                keys(first),
                keys(behind)
            );
            writeln!(page, "<title>{}</title></rect>", escape(&title))?;
        }
        column += run;
    }
    Ok(())
}

fn tables_of(row: &Row, cell: &Cell) -> String {
    let (first, last) = cell.tables;
    match last - first {
        0 => row.tables[first].name.clone(),
        between => format!("{} tables from {} on", between + 1, row.tables[first].name),
    }
}

/// Where a column begins in the picture.
fn x_of(map: &Map, column: usize) -> f64 {
    LEFT + (RIGHT - LEFT) * column as f64 / map.columns.len().max(1) as f64
}

fn class_of(pages: PageCount) -> String {
    format!("c{}", (pages.share() * 9.0).ceil().clamp(0.0, 9.0))
}

const SUMS: &str = "<th>bytes</th><th>in memory</th><th>share</th><th>data</th><th>locator</th><th>filter</th>\
                    <th>fences</th>";

fn write_sums(page: &mut String, bytes: u64, parts: &Parts, page_bytes: u64) -> fmt::Result {
    let [locator, filter, fences] = parts.ways().map(|(_, pages)| share(pages));
    let resident = figures::bytes(parts.all().resident * page_bytes);
    let (bytes, all, data) = (figures::bytes(bytes), share(parts.all()), share(parts.data));
    for cell in [bytes, resident, all, data, locator, filter, fences] {
        write!(page, "<td>{cell}</td>")?;
    }
    Ok(())
}

fn write_levels(page: &mut String, map: &Map, page_bytes: u64) -> fmt::Result {
    writeln!(page, "<table>\n<tr><th class=\"left\">level</th><th>tables</th>{SUMS}</tr>")?;
    let mut levels: Vec<usize> = map.rows.iter().map(|row| row.level).collect();
    levels.dedup();
    for level in levels {
        let rows = || map.rows.iter().filter(|row| row.level == level);
        let parts = rows().fold(Parts::default(), |sum, row| sum + row.parts);
        let tables: usize = rows().map(|row| row.tables.len()).sum();
        write!(page, "<tr><td class=\"left\">L{level}</td><td>{}</td>", figures::count(tables as u64))?;
        write_sums(page, rows().map(Row::file_bytes).sum(), &parts, page_bytes)?;
        writeln!(page, "</tr>")?;
    }
    writeln!(page, "</table>")
}

fn write_tables(page: &mut String, map: &Map, page_bytes: u64, notation: Notation) -> fmt::Result {
    writeln!(page, "<details>\n<summary>All tables</summary>\n<table>")?;
    writeln!(
        page,
        "<tr><th class=\"left\">level</th><th class=\"left\">table</th><th class=\"left\">first key</th>\
         <th class=\"left\">last key</th>{SUMS}</tr>"
    )?;
    for row in &map.rows {
        for table in &row.tables {
            let key = |key| escape(&shortened(key, notation));
            write!(
                page,
                "<tr><td class=\"left\">L{}</td><td class=\"left\">{}</td><td class=\"left\">{}</td>\
                 <td class=\"left\">{}</td>",
                row.level,
                escape(&table.name),
                key(&table.smallest_key),
                key(&table.largest_key)
            )?;
            let parts = table.pages.as_ref().map_or_else(|_| Parts::default(), |pages| pages.parts);
            write_sums(page, table.file_bytes, &parts, page_bytes)?;
            writeln!(page, "</tr>")?;
        }
    }
    writeln!(page, "</table>\n</details>")
}

/// A share in words, as it stands in a page.
fn share(pages: PageCount) -> String {
    escape(&super::share(pages))
}

/// Text as it stands in a page. Two characters that are none are not allowed there.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::{Segment, Table, TablePages};
    use super::*;

    /// Checks that every element is closed, in order, and that no letter stands where it may not: `meta` and the document
    /// type aside, the page is XML.
    fn check_well_formed(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
        while let Some((text, after)) = rest.split_once('<') {
            check_text(text);
            let (tag, after) = after.split_once('>').unwrap();
            assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>");
            let name = tag.split_whitespace().next().unwrap();
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "</{tag}>");
            } else if !tag.ends_with('/') {
                open.push(name);
            }
            rest = after;
            if name == "style" {
                // Not markup: it ends with the element.
                rest = &rest[rest.find("</style>").unwrap()..];
            }
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
    }

    fn check_text(text: &str) {
        for (at, _) in text.match_indices('&') {
            let is_known =
                ["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|known| text[at..].starts_with(known));
            assert!(is_known, "{text}");
        }
        assert!(!text.contains('>'), "{text}");
    }

    fn survey() -> Survey {
        let count = |resident, total| PageCount { resident, total };
        let whole = |name: &str, from: u8| {
            let segment = |n: u8| Segment { first_key: vec![from + n], pages: count(u64::from(n), 9) };
            let segments: Vec<Segment> = (0..10).map(segment).collect();
            let parts =
                Parts { data: count(45, 90), locator: count(2, 4), fences: count(1, 1), ..Parts::default() };
            Table {
                name: name.to_owned(),
                file_bytes: 1 << 20,
                smallest_key: vec![from],
                largest_key: vec![from + 9, b'<'],
                pages: Ok(TablePages { parts, segments }),
            }
        };
        let mut broken = whole("000009.sst", b'k');
        broken.pages = Err("<it> is damaged & \"gone\"".to_owned());
        let levels =
            vec![vec![whole("000012.sst", b'a'), broken], Vec::new(), vec![whole("000007.sst", b'/')]];
        let keyspaces = vec![
            Keyspace { name: "<&>".to_owned(), levels },
            Keyspace { name: "empty".to_owned(), levels: Vec::new() },
        ];
        Survey { page_bytes: 4096, way: Some("cachestat"), keyspaces }
    }

    #[test]
    fn a_page_is_well_formed_and_has_a_cell_for_everything() {
        let heading = Heading { dir: "/a&b".into(), time: "now".into(), notation: Notation::Escaped };
        let page = html(&survey(), &heading);
        check_well_formed(&page);
        // Ten columns of two tables' data and one that is not known, and a cell for the locator and the fences of each.
        assert_eq!(page.matches("</title></rect>").count(), 10 + 10 + 1 + 2 * 2, "{page}");
        assert_eq!(page.matches("<rect class=\"cx\" x=\"").count(), 2, "one in the legend: {page}");
        assert!(
            page.contains("L2 data, 000007.sst\nkeys / to 0\n0 of 9 pages in memory: none of 36.0 KiB"),
            "{page}"
        );
        assert!(page.contains("&lt;it&gt; is damaged &amp; &quot;gone&quot;"));
        assert!(page.contains("<b>50 %</b>") && page.contains("Keyspace &lt;&amp;&gt;"), "{page}");
        check_well_formed(&html(&Survey::default(), &heading));
    }
}
