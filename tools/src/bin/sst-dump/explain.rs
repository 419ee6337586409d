//! `sst-dump get --explain`: for each step of a look-up what it says, where in the file it looks, and whether the pages
//! there were in memory before.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value, json};
use terrace_io::{OpenMode, PageCount, Residency};
use terrace_sstable::{Explanation, Kind, Located, ReadPath, Table, VersionInfo};
use terrace_tools::figures;
use terrace_tools::notation::{Notation, insert_json};
use terrace_tools::tool::Result;

use crate::scan::kind_name;

/// Characters of a key or a value that are shown.
const SHOWN_CHARS: usize = 48;

/// What of a file was in memory before it was looked into.
pub struct Before {
    known: Result<Known, String>,
}

struct Known {
    resident: Vec<Range<u64>>,
    file_len: u64,
    page_bytes: u64,
    way: &'static str,
}

impl Before {
    /// Asks, and brings nothing in.
    pub fn of(path: &Path) -> Before {
        let ask = || {
            let residency = Residency::of(crate::file_system().open(path, OpenMode::Read)?)?;
            Ok(Known {
                resident: residency.resident(0..u64::MAX)?,
                file_len: residency.file_len(),
                page_bytes: residency.page_bytes(),
                way: residency.way(),
            })
        };
        Before { known: ask().map_err(|error: terrace_io::Error| error.to_string()) }
    }

    /// The pages of a range, and how many of them were in memory.
    fn pages(&self, range: &Range<u64>) -> Option<PageCount> {
        let known = self.known.as_ref().ok()?;
        let end = range.end.min(known.file_len).div_ceil(known.page_bytes);
        let pages = range.start / known.page_bytes..end;
        let common = known.resident.iter().map(|resident| {
            let (first, end) = (resident.start / known.page_bytes, resident.end.div_ceil(known.page_bytes));
            end.min(pages.end).saturating_sub(first.max(pages.start))
        });
        Some(PageCount { resident: common.sum(), total: pages.end.saturating_sub(pages.start) })
    }

    /// A range in words: `64 bytes at 8192, page 2: in memory`.
    fn words(&self, range: &Range<u64>) -> String {
        let place = format!("{} bytes at {}", range.end - range.start, range.start);
        let (Some(pages), Ok(known)) = (self.pages(range), &self.known) else { return place };
        let first = range.start / known.page_bytes;
        match (pages.total, pages.resident) {
            (0, _) => place,
            (1, 0) => format!("{place}, page {first}: not in memory"),
            (1, _) => format!("{place}, page {first}: in memory"),
            (total, resident) => {
                let last = first + total - 1;
                format!("{place}, pages {first} to {last}: {resident} of {total} in memory")
            }
        }
    }

    fn object(&self, range: &Range<u64>) -> Value {
        let pages = self.pages(range);
        json!({
            "offset": range.start,
            "bytes": range.end - range.start,
            "pages": pages.map(|pages| pages.total),
            "resident": pages.map(|pages| pages.resident),
        })
    }
}

/// Where the block is in the file.
fn block_place(explanation: &Explanation) -> Range<u64> {
    explanation.block_offset..explanation.block_offset + explanation.block_len
}

/// All steps, as lines.
pub fn write_text(
    out: &mut dyn Write,
    table: &Table,
    explanation: &Explanation,
    before: &Before,
    notation: Notation,
) -> Result {
    let mut step = |name: &str, lines: &[String]| -> Result {
        for (index, line) in lines.iter().enumerate() {
            writeln!(out, "{:<10} {line}", if index == 0 { name } else { "" })?;
        }
        Ok(())
    };
    let (meta, properties) = (table.meta(), table.properties()?);
    let path = match table.read_path() {
        Some(ReadPath::Mapping) => "read by a mapping",
        Some(ReadPath::Heap) => "read into the heap as a whole, since it is small",
        Some(ReadPath::Pread) | None => "read by pread",
    };
    let name = table.path().file_name().unwrap_or_default().to_string_lossy();
    let (level, keyspace) = (properties.level, &properties.keyspace_name);
    let size = figures::bytes(meta.file_len);
    step("table", &[format!("{name}: {size}, level {level} of keyspace {keyspace:?}, {path}")])?;
    let key = |key: &[u8]| shortened(notation.display(key));
    let lies = match explanation.in_range {
        true => "the key lies in it",
        false => "the key lies outside of it: a get stops here",
    };
    step("key range", &[format!("{} to {}: {lies}", key(&meta.smallest_key), key(&meta.largest_key))])?;
    step("locator", &locator_lines(table, explanation, before)?)?;
    step("filter", &filter_lines(explanation, before))?;
    let is_located = explanation.visible == Some(0) && explanation.locator.is_some();
    let not_asked = if is_located { " (a get does not look, since the locator has led there)" } else { "" };
    let fences = format!("block {} of {}{not_asked}", explanation.block, properties.data_blocks);
    step("fences", &[fences, before.words(&explanation.fences_place)])?;
    step("block", &[before.words(&block_place(explanation)), block_words(explanation)])?;
    let mut lines: Vec<String> = (explanation.versions.iter().enumerate())
        .map(|(index, version)| version_words(version, explanation.visible == Some(index), notation))
        .collect();
    if lines.is_empty() {
        lines.push("none has this key".to_owned());
    }
    step("entries", &lines)?;
    let asked = match &before.known {
        Ok(Known { way, page_bytes, .. }) => {
            format!("as it was before this look, asked by {way}; pages of {}", figures::bytes(*page_bytes))
        }
        Err(why) => format!("it is not known what is in memory: {why}"),
    };
    step("memory", &[asked])
}

fn locator_lines(table: &Table, explanation: &Explanation, before: &Before) -> Result<Vec<String>> {
    let (Some(located), Some(header)) = (&explanation.locator, table.locator()?) else {
        return Ok(vec!["none: a get goes by filter and fences".to_owned()]);
    };
    let Located { home, fingerprint, mistaken, place, places, .. } = located;
    let answer = match place {
        None => "the key is not there: a get stops here".to_owned(),
        Some((block, slot)) if explanation.visible == Some(0) => {
            format!("block {block}, slot {slot}")
        }
        Some((block, slot)) => {
            format!("block {block}, slot {slot}, which is too new: a get goes on with the fences")
        }
    };
    let mut lines = vec![format!(
        "bucket {home} of {}, fingerprint {fingerprint:#x} of {} bits: {answer}",
        header.buckets,
        32 - header.location_bits
    )];
    if *mistaken > 0 {
        lines.push(format!("past {mistaken} entries of other keys with this fingerprint"));
    }
    lines.extend(places.iter().map(|place| before.words(place)));
    Ok(lines)
}

fn filter_lines(explanation: &Explanation, before: &Before) -> Vec<String> {
    let Some(name) = explanation.filter_name else { return vec!["none".to_owned()] };
    let answer = match (explanation.filter, &explanation.locator) {
        (None, _) => "it cannot be used, and a get goes without",
        (Some(true), None) => "the key may be there",
        (Some(false), None) => "the key is not there: a get stops here",
        (Some(true), Some(_)) => "the key may be there (a get does not ask, since there is a locator)",
        (Some(false), Some(_)) => "the key is not there (a get does not ask, since there is a locator)",
    };
    vec![format!("{name}: {answer}"), before.words(&explanation.filter_place)]
}

fn block_words(explanation: &Explanation) -> String {
    let entries = match explanation.block_entries {
        1 => "1 entry".to_owned(),
        entries => format!("{entries} entries"),
    };
    let compressed = if explanation.block_compressed { "compressed" } else { "not compressed" };
    let slot = match explanation.slot {
        Some(slot) => format!("slot {slot} is the first at or after the key"),
        None => "none at or after the key: it is in the next block, or nowhere".to_owned(),
    };
    // Whoever reads a block checks it first.
    format!("checksum right, {compressed}, {entries}: {slot}")
}

fn version_words(version: &VersionInfo, is_visible: bool, notation: Notation) -> String {
    let mark = if is_visible { "found: " } else { "" };
    let head = format!("{mark}sequence {}, {}", version.sequence, kind_name(version.kind));
    match version.kind {
        Kind::Delete => head,
        Kind::Put => {
            let value = shortened(notation.display(&version.value));
            format!("{head}, {} bytes: {value}", version.value.len())
        }
    }
}

fn shortened(mut text: String) -> String {
    if let Some((cut, _)) = text.char_indices().nth(SHOWN_CHARS) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// What JSON has besides: keys of the table, places in the file, and their pages.
pub fn add_json(
    object: &mut Map<String, Value>,
    table: &Table,
    explanation: &Explanation,
    before: &Before,
    notation: Notation,
) -> Result {
    let mut range = Map::new();
    insert_json(&mut range, "smallest_key", &table.meta().smallest_key, notation);
    insert_json(&mut range, "largest_key", &table.meta().largest_key, notation);
    object.insert("key_range".to_owned(), range.into());
    let locator = match (&explanation.locator, table.locator()?) {
        (Some(located), Some(header)) => json!({
            "buckets_total": header.buckets,
            "fingerprint": located.fingerprint,
            "fingerprint_bits": 32 - header.location_bits,
            "places": located.places.iter().map(|place| before.object(place)).collect::<Vec<_>>(),
        }),
        _ => Value::Null,
    };
    let known = before.known.as_ref();
    let looked_at = json!({
        "asked_by": known.map(|known| known.way).ok(),
        "page_bytes": known.map(|known| known.page_bytes).ok(),
        "unknown_because": known.err(),
        "locator": locator,
        "filter": explanation.filter_name.map(|name| {
            json!({ "kind": name, "place": before.object(&explanation.filter_place) })
        }),
        "fences": before.object(&explanation.fences_place),
        "block": before.object(&block_place(explanation)),
        "block_entries": explanation.block_entries,
        "block_compressed": explanation.block_compressed,
    });
    object.insert("looked_at".to_owned(), looked_at);
    Ok(())
}
