//! `sst-dump scan`: the entries of a table.
//!
//! The default is what a reader of the table alone would see: of each key the newest version, no deleted keys.

use std::io::Write;
use std::ops::Bound;

use serde_json::{Map, Value};
use terrace_io::CacheUse;
use terrace_sstable::{Cursor, Kind, SEQUENCE_MAX, ScanMode};
use terrace_tools::bounds::{bounds, bytes_of, narrow};
use terrace_tools::notation::{Notation, insert_json};
use terrace_tools::tool::{self, Result};

use crate::arguments::Scan;

/// Prints them.
pub fn scan(arguments: &Scan) -> Result {
    let notation = arguments.output.notation();
    let whole = bounds(&arguments.from, &arguments.to, notation)?;
    let range = match &arguments.prefix {
        None => Some(whole),
        Some(prefix) => narrow(whole, &bytes_of("--prefix", prefix, notation)?),
    };
    let table = crate::open(&arguments.file)?;
    let Some(range) = range else { return Ok(()) };

    // By reading, not by mapping: an error of the device is then an error, not a signal.
    let mut cursor = table.cursor(ScanMode::Stream(CacheUse::Keep));
    match &range.0 {
        Bound::Included(key) | Bound::Excluded(key) => cursor.seek(key, SEQUENCE_MAX)?,
        Bound::Unbounded => cursor.seek_to_first()?,
    }
    let below_end = |key: &[u8]| match &range.1 {
        Bound::Included(end) => key <= end.as_slice(),
        Bound::Excluded(end) => key < end.as_slice(),
        Bound::Unbounded => true,
    };
    let mut out = tool::output();
    let mut line = Vec::new();
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut last_key: Option<Vec<u8>> = None;
    while left > 0 && cursor.valid() && below_end(cursor.key()) {
        let is_older = last_key.as_deref() == Some(cursor.key());
        if !is_older {
            last_key.get_or_insert_default().clear();
            last_key.get_or_insert_default().extend_from_slice(cursor.key());
        }
        if arguments.versions || (!is_older && cursor.kind() == Kind::Put) {
            left -= 1;
            if arguments.output.json() {
                tool::write_json(&mut out, &object(&cursor, arguments.versions, notation), false)?;
            } else {
                line.clear();
                write_line(&cursor, arguments.versions, notation, &mut line);
                out.write_all(&line)?;
            }
        }
        cursor.next()?;
    }
    Ok(out.flush()?)
}

fn write_line(cursor: &dyn Cursor, versions: bool, notation: Notation, line: &mut Vec<u8>) {
    notation.write(cursor.key(), line);
    line.push(b'\t');
    if versions {
        line.extend_from_slice(format!("{}\t{}\t", cursor.sequence(), kind_name(cursor.kind())).as_bytes());
    }
    notation.write(cursor.value(), line);
    line.push(b'\n');
}

fn object(cursor: &dyn Cursor, versions: bool, notation: Notation) -> Map<String, Value> {
    let mut object = Map::new();
    insert_json(&mut object, "key", cursor.key(), notation);
    if versions {
        object.insert("sequence".to_owned(), cursor.sequence().into());
        object.insert("kind".to_owned(), kind_name(cursor.kind()).into());
    }
    if cursor.kind() == Kind::Put {
        insert_json(&mut object, "value", cursor.value(), notation);
    }
    object
}

/// What an entry does to its key.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Put => "put",
        Kind::Delete => "delete",
    }
}
