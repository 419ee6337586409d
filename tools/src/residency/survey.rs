//! Looks at the tables of a database: which of their pages are in memory, before anything of them was read.
//!
//! The manifest says which tables there are. Of each, the end, the properties and the fences have to be read, to know
//! which bytes hold which keys: of every page of these it is asked first whether it was in memory, and what was not is
//! let go of again. Filters, locators and data are not read at all. So a second look sees what the first has seen, and the
//! database may be open meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use terrace::{Error, ListedKeyspace, ListedTable};
use terrace_io::{FileSystem, OpenMode, OsFileSystem, PageCount, Residency};
use terrace_sstable::Outline;

use super::{Keyspace, Parts, Segment, Survey, Table, TablePages};

/// So many segments of tables make a column of the map.
const SEGMENTS_PER_COLUMN: u64 = 16;
/// Bytes that are read at once.
const PIECE_BYTES: usize = 1 << 20;
/// A writer that replaces tables while they are looked at has to do so this often for some of them to be left out.
const ATTEMPTS_MAX: u32 = 20;

/// Looks at a database, or at one keyspace of it, as finely as a map of so many columns needs. Changes nothing.
///
/// # Errors
/// Those of [`terrace::list_tables`], and [`Error::InvalidArgument`] if there is no such keyspace. What is wrong with a
/// table is in the survey.
pub fn survey(dir: &Path, keyspace: Option<&str>, columns: usize) -> Result<Survey, Error> {
    let mut surveyor = Surveyor { columns: columns as u64, seen: Survey::default(), known: HashMap::new() };
    let mut listed = list(dir, keyspace)?;
    for _ in 0..ATTEMPTS_MAX {
        let is_any_gone = surveyor.look_at(&listed);
        if !is_any_gone {
            break;
        }
        // Its writer has replaced a table, or else it is missing.
        let again = list(dir, keyspace)?;
        if again == listed {
            break;
        }
        listed = again;
    }
    Ok(surveyor.survey(&listed))
}

fn list(dir: &Path, keyspace: Option<&str>) -> Result<Vec<ListedKeyspace>, Error> {
    let mut listed = terrace::list_tables(&OsFileSystem, dir)?;
    if let Some(name) = keyspace {
        let there: Vec<String> = listed.iter().map(|keyspace| keyspace.name.clone()).collect();
        listed.retain(|keyspace| keyspace.name == name);
        if listed.is_empty() {
            let (dir, there) = (dir.display(), there.join(", "));
            return Err(Error::invalid(format!("{dir} has no keyspace {name:?}; it has: {there}")));
        }
    }
    Ok(listed)
}

/// Collects what was seen.
struct Surveyor {
    columns: u64,
    /// How it was asked; the keyspaces come last.
    seen: Survey,
    /// By file and table id.
    known: HashMap<(PathBuf, u64), Result<TablePages, Error>>,
}

impl Surveyor {
    /// Looks at the tables that were not looked at yet. Says whether there is one that is not there.
    fn look_at(&mut self, keyspaces: &[ListedKeyspace]) -> bool {
        let mut is_any_gone = false;
        for keyspace in keyspaces {
            let bytes = keyspace.levels.iter().flatten().map(|table| table.file_bytes).sum::<u64>();
            for (level, tables) in keyspace.levels.iter().enumerate() {
                for table in tables {
                    let key = (table.path.clone(), table.table_id);
                    if self.known.contains_key(&key) {
                        continue;
                    }
                    let pages = self.pages_of(table, self.segments_of(level, table.file_bytes, bytes));
                    is_any_gone |= pages.as_ref().is_err_and(Error::is_not_found);
                    self.known.insert(key, pages);
                }
            }
        }
        is_any_gone
    }

    /// Into how many segments a table is divided: as finely as the map shows it. Those of level 0 each have a row that may
    /// be as wide as the map, however small they are.
    fn segments_of(&self, level: usize, bytes: u64, all_bytes: u64) -> u64 {
        let least = if level == 0 { 2 * self.columns } else { 8 };
        let share = bytes as f64 / all_bytes.max(1) as f64;
        least.max((share * (SEGMENTS_PER_COLUMN * self.columns) as f64).ceil() as u64)
    }

    fn pages_of(&mut self, table: &ListedTable, segments: u64) -> Result<TablePages, Error> {
        let file = OsFileSystem.open(&table.path, OpenMode::Read)?;
        let len = file.len()?;
        if len != table.file_bytes {
            let what = format!("the file has {len} bytes and should have {}", table.file_bytes);
            return Err(Error::corruption(&table.path, len.min(table.file_bytes), what));
        }
        let residency = Residency::of(file)?;
        (self.seen.way, self.seen.page_bytes) = (Some(residency.way()), residency.page_bytes());
        let mut onlooker = Onlooker { residency, before: BTreeMap::new() };
        let outline = Outline::read(&table.path, len, |buf, offset| onlooker.read(buf, offset))?;
        let id = outline.footer().table_id;
        if id != table.table_id {
            let what = format!("this is table {id:016x}, and {:016x} should be here", table.table_id);
            return Err(Error::corruption(&table.path, len, what));
        }
        Ok(TablePages {
            parts: parts(&outline, &onlooker)?,
            segments: divided(&outline, &onlooker, table, segments)?,
        })
    }

    fn survey(mut self, listed: &[ListedKeyspace]) -> Survey {
        for keyspace in listed {
            let known = &mut self.known;
            let mut table = |table: &ListedTable| {
                let known = known.remove(&(table.path.clone(), table.table_id));
                let name = table.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let unseen = || Err(format!("{name} came while others were looked at"));
                Table {
                    pages: known.map_or_else(unseen, |known| known.map_err(|error| error.to_string())),
                    file_bytes: table.file_bytes,
                    smallest_key: table.smallest_key.clone(),
                    largest_key: table.largest_key.clone(),
                    name,
                }
            };
            let levels = keyspace.levels.iter().map(|level| level.iter().map(&mut table).collect());
            self.seen.keyspaces.push(Keyspace { levels: levels.collect(), name: keyspace.name.clone() });
        }
        self.seen
    }
}

/// Reads a file and remembers what of it was in memory before.
struct Onlooker {
    residency: Residency,
    /// Of the pages that were read, whether they were in memory.
    before: BTreeMap<u64, bool>,
}

impl Onlooker {
    fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let page_bytes = self.residency.page_bytes();
        for page in offset / page_bytes..(offset + buf.len() as u64).div_ceil(page_bytes) {
            if !self.before.contains_key(&page) {
                let count = self.residency.pages(page * page_bytes..(page + 1) * page_bytes)?;
                self.before.insert(page, count.resident > 0);
            }
        }
        let mut at = offset;
        for piece in buf.chunks_mut(PIECE_BYTES) {
            self.residency.read_unnoticed(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// The pages that begin in a range, as they were before anything was read.
    fn pages(&self, range: Range<u64>) -> Result<PageCount, Error> {
        let page_bytes = self.residency.page_bytes();
        let range = range.start.div_ceil(page_bytes)..range.end.div_ceil(page_bytes);
        let mut count = PageCount::default();
        if range.is_empty() {
            return Ok(count);
        }
        let mut at = range.start;
        for (&page, &was_resident) in self.before.range(range.clone()) {
            count += self.residency.pages(at * page_bytes..page * page_bytes)?;
            count += PageCount { resident: was_resident.into(), total: 1 };
            at = page + 1;
        }
        count += self.residency.pages(at * page_bytes..range.end * page_bytes)?;
        Ok(count)
    }
}

fn parts(outline: &Outline, onlooker: &Onlooker) -> Result<Parts, Error> {
    let start = outline.footer().meta_offset();
    let mut parts = Parts { data: onlooker.pages(0..start)?, ..Parts::default() };
    let all = onlooker.pages(start..onlooker.residency.file_len())?;
    let mut named = PageCount::default();
    for block in outline.metadata() {
        let part = match block.name() {
            "fences" => &mut parts.fences,
            "Bloom filter" | "blocked filter" => &mut parts.filter,
            "locator" => &mut parts.locator,
            _ => continue,
        };
        let pages = onlooker.pages(start + block.offset..start + block.offset + block.len)?;
        *part += pages;
        named += pages;
    }
    parts.other = PageCount {
        resident: all.resident.saturating_sub(named.resident),
        total: all.total.saturating_sub(named.total),
    };
    Ok(parts)
}

/// The data of a table in so many segments, or as many as it has blocks.
fn divided(
    outline: &Outline,
    onlooker: &Onlooker,
    table: &ListedTable,
    segments: u64,
) -> Result<Vec<Segment>, Error> {
    let blocks = outline.blocks();
    let count = usize::try_from(segments).unwrap_or(blocks).clamp(1, blocks);
    // As wide as the arithmetic needs: both are below 2^32.
    let first_of = |segment: usize| (segment as u128 * blocks as u128 / count as u128) as usize;
    let mut divided = Vec::with_capacity(count);
    for segment in 0..count {
        let (first, end) = (first_of(segment), first_of(segment + 1));
        let first_key = match first {
            // The fence of the first block is as short as it can be.
            0 => table.smallest_key.clone(),
            _ => outline.separator(first)?,
        };
        let bytes = outline.extent(first)?.start..outline.extent(end - 1)?.end;
        divided.push(Segment { first_key, pages: onlooker.pages(bytes)? });
    }
    Ok(divided)
}
