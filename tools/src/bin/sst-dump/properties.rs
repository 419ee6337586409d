//! `sst-dump properties`: what a table says about itself.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use terrace_sstable::Compression;
use terrace_tools::notation::Notation;
use terrace_tools::tool::{self, Result};
use terrace_tools::{calendar, figures};

use crate::arguments;
use crate::printer::Fields;

/// Prints them all.
pub fn properties(arguments: &arguments::Properties) -> Result {
    let table = crate::open(&arguments.file)?;
    let properties = table.properties()?;
    let meta = table.meta();

    let mut fields = Fields::new(&arguments.output);
    fields.number("table_number", properties.number);
    fields.add("table_id", format!("{:016x}", meta.table_id), format!("{:016x}", meta.table_id));
    fields.add("file_bytes", meta.file_len, figures::count(meta.file_len));
    let database = Notation::Hex.display(&properties.database_id);
    fields.add("database_id", database.clone(), database);
    fields.number("keyspace_id", u64::from(properties.keyspace_id));
    fields.add("keyspace", properties.keyspace_name.clone(), format!("{:?}", properties.keyspace_name));
    let created = UNIX_EPOCH.checked_add(Duration::from_micros(properties.created_micros));
    let created = created.map_or_else(|| "unknown".to_owned(), calendar::utc);
    fields.json_only("created_micros", properties.created_micros);
    fields.add("created", created.clone(), created);
    let cause = format!("{:?}", properties.cause).to_lowercase();
    fields.add("cause", cause.clone(), cause);
    fields.add("level", properties.level, format!("{} when it was written", properties.level));
    fields.add("entries", properties.entries, figures::count(properties.entries));
    fields.add("deletes", properties.deletes, figures::count(properties.deletes));
    fields.add("raw_key_bytes", properties.raw_key_bytes, figures::count(properties.raw_key_bytes));
    fields.add("raw_value_bytes", properties.raw_value_bytes, figures::count(properties.raw_value_bytes));
    fields.add("data_blocks", properties.data_blocks, figures::count(properties.data_blocks));
    fields.add("raw_block_bytes", properties.raw_block_bytes, figures::count(properties.raw_block_bytes));
    let compression = match properties.compression {
        Compression::None => "none",
        Compression::Snappy => "snappy",
    };
    fields.add("compression", compression, compression);
    let ratio = |bytes: u64, by: u64| if by == 0 { 0.0 } else { bytes as f64 / by as f64 };
    let compressed = ratio(meta.file_len, properties.raw_block_bytes);
    fields.add("file_bytes_per_raw_block_byte", compressed, format!("{compressed:.3}"));
    let per_entry = ratio(meta.file_len, properties.entries);
    fields.add("file_bytes_per_entry", per_entry, format!("{per_entry:.1}"));
    match table.locator() {
        Err(error) => fields.add("locator", format!("damaged: {error}"), format!("damaged: {error}")),
        Ok(None) => fields.add("locator", serde_json::Value::Null, "none"),
        Ok(Some(locator)) => {
            let fingerprint_bits = 32 - locator.location_bits;
            let (keys, buckets) = (locator.keys, locator.buckets);
            let object = json!({ "keys": keys, "buckets": buckets, "fingerprint_bits": fingerprint_bits });
            let (keys, buckets) = (figures::count(keys), figures::count(buckets.into()));
            let of = if locator.buckets == 1 { "bucket" } else { "buckets" };
            let text = format!("{keys} keys in {buckets} {of}, fingerprints of {fingerprint_bits} bits");
            fields.add("locator", object, text);
        }
    }
    fields.number("smallest_sequence", properties.smallest_sequence);
    fields.number("largest_sequence", properties.largest_sequence);
    fields.bytes("smallest_key", &properties.smallest_key);
    fields.bytes("largest_key", &properties.largest_key);

    let mut out = tool::output();
    fields.print(&mut out)?;
    Ok(out.flush()?)
}
