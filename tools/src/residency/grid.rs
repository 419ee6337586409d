//! The map: columns of keys, rows of tables. Pure functions of what was seen.

use terrace_io::{PAGE_BYTES, PageCount};

use super::{Keyspace, Parts, Segment, Table};

/// With more tables in level 0, they share a row.
const LEVEL0_ROWS_MAX: usize = 16;

/// What of a keyspace is in memory, by level and key range.
#[derive(Debug, Clone)]
pub struct Map<'s> {
    /// The key at which each column begins, ascending; it ends where the next one begins, the last with the last key. In
    /// each are about as many bytes. None, if there are no tables.
    pub columns: Vec<Vec<u8>>,
    /// The last key.
    pub last_key: Vec<u8>,
    /// From the newest data to the oldest: level 0 a table at a time, as long as they are few, the others as a whole.
    pub rows: Vec<Row<'s>>,
}

/// Tables that are shown as one row.
#[derive(Debug, Clone)]
pub struct Row<'s> {
    /// Their level.
    pub level: usize,
    /// By key, or the newest first.
    pub tables: Vec<&'s Table>,
    /// What of them is in memory, as far as it is known.
    pub parts: Parts,
    /// One for each column; `None` where they have nothing.
    pub cells: Vec<Option<Cell>>,
}

/// What the tables of a row have in a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The data in the column, and all the metadata of the tables that have data there.
    pub parts: Parts,
    /// The first and the last table there, as places among those of the row.
    pub tables: (usize, usize),
    /// How many of these tables nothing is known of.
    pub unknown: usize,
}

impl Row<'_> {
    /// What it is called.
    pub fn name(&self) -> String {
        match (self.level, &*self.tables) {
            (0, [table]) => format!("L0 {}", table.name.trim_end_matches(".sst")),
            (level, _) => format!("L{level}"),
        }
    }

    /// Bytes of its files.
    pub fn file_bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.file_bytes).sum()
    }
}

impl<'s> Map<'s> {
    /// The map of a keyspace, in so many columns at most.
    pub fn new(keyspace: &'s Keyspace, columns: usize) -> Map<'s> {
        let columns = dividing_keys(keyspace, columns);
        let mut groups: Vec<(usize, Vec<&Table>)> = Vec::new();
        for (level, tables) in keyspace.levels.iter().enumerate().filter(|(_, tables)| !tables.is_empty()) {
            if level == 0 && tables.len() <= LEVEL0_ROWS_MAX {
                groups.extend(tables.iter().map(|table| (level, vec![table])));
            } else {
                groups.push((level, tables.iter().collect()));
            }
        }
        let rows = groups.into_iter().map(|(level, tables)| {
            let known = tables.iter().filter_map(|table| table.pages.as_ref().ok());
            let parts = known.fold(Parts::default(), |sum, pages| sum + pages.parts);
            Row { level, cells: cells(&tables, &columns), parts, tables }
        });
        let last_key = keyspace.tables().map(|table| &table.largest_key).max().cloned().unwrap_or_default();
        Map { rows: rows.collect(), columns, last_key }
    }

    /// The first key of a column and the one behind its last: for the last column, the last key.
    pub fn keys_of(&self, column: usize) -> (&[u8], &[u8]) {
        (&self.columns[column], self.columns.get(column + 1).unwrap_or(&self.last_key))
    }
}

/// The keys at which columns of about as many bytes each begin. A table of which nothing is known has all its bytes at its
/// first key. A column begins with it, and another one behind it, so that no cell of its level shows only what its
/// neighbours have.
fn dividing_keys(keyspace: &Keyspace, columns: usize) -> Vec<Vec<u8>> {
    let mut pieces: Vec<(&[u8], u64)> = Vec::new();
    let (mut unknown_starts, mut unknown_ends): (Vec<&[u8]>, Vec<&[u8]>) = (Vec::new(), Vec::new());
    for table in keyspace.tables() {
        match &table.pages {
            Ok(pages) => pieces.extend(
                pages.segments.iter().map(|segment| (&*segment.first_key, segment.pages.total.max(1))),
            ),
            Err(_) => {
                pieces.push((&table.smallest_key, (table.file_bytes / PAGE_BYTES as u64).max(1)));
                unknown_starts.push(&table.smallest_key);
                unknown_ends.push(&table.largest_key);
            }
        }
    }
    pieces.sort_unstable();
    // The next one is the last.
    unknown_starts.sort_unstable_by(|a, b| b.cmp(a));
    unknown_ends.sort_unstable_by(|a, b| b.cmp(a));
    // In units of which a column has as many as there are pages.
    let column: u128 = pieces.iter().map(|(_, pages)| u128::from(*pages)).sum();
    let (mut at, mut next) = (0, 0);
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for (key, pages) in pieces {
        let mut is_due = at >= next;
        while unknown_starts.pop_if(|start| **start <= *key).is_some() {
            is_due = true;
        }
        while unknown_ends.pop_if(|end| **end < *key).is_some() {
            is_due = true;
        }
        if is_due && keys.len() < columns && keys.last().is_none_or(|last| **last < *key) {
            keys.push(key.to_vec());
            next += column;
            if next <= at {
                // What cannot be divided had more than a column.
                next = at + column;
            }
        }
        at += u128::from(pages) * columns as u128;
    }
    keys
}

/// What tables have in each column.
fn cells(tables: &[&Table], columns: &[Vec<u8>]) -> Vec<Option<Cell>> {
    let mut cells: Vec<Option<Cell>> = vec![None; columns.len()];
    for (index, table) in tables.iter().enumerate() {
        // From the column that the first key is in to that of the last.
        let column_of = |key: &[u8]| columns.partition_point(|first| **first <= *key).saturating_sub(1);
        let spanned = column_of(&table.smallest_key)..=column_of(&table.largest_key);
        for column in spanned.filter(|column| *column < columns.len()) {
            let cell = cells[column].get_or_insert(Cell {
                parts: Parts::default(),
                tables: (index, index),
                unknown: 0,
            });
            cell.tables.1 = index;
            match &table.pages {
                Ok(pages) => {
                    let end = columns.get(column + 1).map(|key| &**key);
                    let data = data_between(&pages.segments, &columns[column], end);
                    cell.parts += Parts { data, ..pages.parts };
                }
                Err(_) => cell.unknown += 1,
            }
        }
    }
    cells
}

/// The pages of the segments that begin in a column; if none does, those of the one that it lies in.
fn data_between(segments: &[Segment], first: &[u8], end: Option<&[u8]>) -> PageCount {
    let start = segments.partition_point(|segment| *segment.first_key < *first);
    let end = end.map_or(segments.len(), |end| segments.partition_point(|segment| *segment.first_key < *end));
    let of_column = if start < end { start..end } else { start.saturating_sub(1)..start };
    let mut count = PageCount::default();
    for segment in &segments[of_column] {
        count += segment.pages;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::super::TablePages;
    use super::*;

    fn pages(resident: u64, total: u64) -> PageCount {
        PageCount { resident, total }
    }

    /// A table of segments of ten pages each, of which so many are in memory.
    fn table(name: &str, segments: &[(&str, u64)], last: &str) -> Table {
        let segments: Vec<Segment> = segments
            .iter()
            .map(|(key, resident)| Segment {
                first_key: key.as_bytes().to_vec(),
                pages: pages(*resident, 10),
            })
            .collect();
        let resident = segments.iter().map(|segment| segment.pages.resident).sum();
        let data = pages(resident, 10 * segments.len() as u64);
        Table {
            name: format!("{name}.sst"),
            file_bytes: 4096 * data.total,
            smallest_key: segments[0].first_key.clone(),
            largest_key: last.as_bytes().to_vec(),
            pages: Ok(TablePages {
                parts: Parts { data, locator: pages(1, 2), ..Parts::default() },
                segments,
            }),
        }
    }

    fn shown(row: &Row) -> Vec<Option<(u64, u64)>> {
        let data = |cell: &Cell| (cell.parts.data.resident, cell.parts.data.total);
        row.cells.iter().map(|cell| cell.as_ref().map(data)).collect()
    }

    #[test]
    fn columns_have_equal_bytes_and_cells_what_lies_in_them() {
        let bottom = [
            table("1", &[("a", 0), ("b", 10), ("c", 0), ("d", 5)], "dz"),
            table("2", &[("e", 1), ("f", 2), ("g", 3), ("h", 4)], "z"),
        ];
        let top = [table("3", &[("ab", 7)], "fx"), table("4", &[("g", 0), ("ga", 10)], "h")];
        let mut levels = vec![Vec::new(); 7];
        (levels[0], levels[6]) = (top.to_vec(), bottom.to_vec());
        let keyspace = Keyspace { name: "default".into(), levels };
        let map = Map::new(&keyspace, 4);
        assert_eq!(map.columns, [&b"a"[..], b"c", b"f", b"ga"]);
        assert_eq!((map.keys_of(1), map.keys_of(3)), ((&b"c"[..], &b"f"[..]), (&b"ga"[..], &b"z"[..])));
        let names: Vec<String> = map.rows.iter().map(Row::name).collect();
        assert_eq!(names, ["L0 3", "L0 4", "L6"]);
        // One that spans a column in which nothing of it begins is shown there by what goes on.
        assert_eq!(shown(&map.rows[0]), [Some((7, 10)), Some((7, 10)), Some((7, 10)), None]);
        assert_eq!(shown(&map.rows[1]), [None, None, Some((0, 10)), Some((10, 10))]);
        assert_eq!(shown(&map.rows[2]), [Some((10, 20)), Some((6, 30)), Some((5, 20)), Some((4, 10))]);
        let sum = map.rows[2].parts;
        assert_eq!((sum.data, sum.locator, sum.all()), (pages(25, 80), pages(2, 4), pages(27, 84)));
        let middle = map.rows[2].cells[1].as_ref().unwrap();
        assert_eq!((middle.tables, middle.parts.locator), ((0, 1), pages(2, 4)));
    }

    #[test]
    fn what_is_not_known_is_no_zero() {
        let mut broken = table("1", &[("a", 1), ("b", 1)], "c");
        broken.pages = Err("damaged".into());
        let whole = table("2", &[("d", 3), ("e", 3)], "f");
        let keyspace = Keyspace { name: "k".into(), levels: vec![Vec::new(), vec![broken, whole]] };
        let map = Map::new(&keyspace, 10);
        let unknown: Vec<usize> =
            map.rows[0].cells.iter().map(|cell| cell.as_ref().map_or(9, |cell| cell.unknown)).collect();
        assert_eq!((map.columns.len(), unknown), (3, vec![1, 0, 0]));
        assert_eq!(map.rows[0].parts.data, pages(6, 20));
    }

    #[test]
    fn what_is_not_known_has_columns_of_its_own() {
        let newest = table("4", &[("a1", 0), ("d", 0)], "z");
        let mut broken = table("2", &[("c1", 1), ("d1", 1)], "g");
        broken.pages = Err("damaged".into());
        let (before, behind) =
            (table("1", &[("a", 1), ("b", 1)], "bz"), table("3", &[("h", 1), ("i", 1)], "iz"));
        let levels = vec![vec![newest], vec![before, broken, behind]];
        let keyspace = Keyspace { name: "k".into(), levels };
        let map = Map::new(&keyspace, 5);
        assert_eq!(map.columns, [&b"a"[..], b"b", b"c1", b"d", b"h"]);
        let of_broken = |cell: &Cell| (cell.unknown, cell.parts.data.total > 0);
        let cells: Vec<_> = map.rows[1].cells.iter().map(|cell| cell.as_ref().map(of_broken)).collect();
        let (known, unknown) = (Some((0, true)), Some((1, false)));
        assert_eq!(cells, [known, known, unknown, unknown, known]);
    }

    #[test]
    fn many_tables_of_level_0_share_a_row_and_none_have_none() {
        let tables: Vec<Table> = (0..17).map(|n| table(&n.to_string(), &[("a", 1)], "b")).collect();
        let keyspace = Keyspace { name: "k".into(), levels: vec![tables] };
        let map = Map::new(&keyspace, 10);
        assert_eq!((map.rows.len(), map.rows[0].name(), map.columns.len()), (1, "L0".to_owned(), 1));
        assert_eq!(shown(&map.rows[0]), [Some((17, 170))]);
        let empty = Keyspace::default();
        let map = Map::new(&empty, 10);
        assert!(map.columns.is_empty() && map.rows.is_empty());
    }
}
