//! `terrace get` and `terrace scan`: what was written when they began, whoever goes on writing.

use std::io::Write;

use serde_json::{Map, Value};
use terrace_tools::bounds::{bounds, bytes_of, narrow};
use terrace_tools::notation::{Notation, insert_json};
use terrace_tools::tool::{self, Failure, Result};

use crate::arguments::{Get, OutputFormat, Scan, notation};
use crate::database::open_keyspace_to_read;

/// Prints the bare value of a key.
pub fn get(arguments: &Get) -> Result {
    let notation = notation(arguments.output.hex);
    let key = bytes_of("key", &arguments.key, notation)?;
    let keyspace = open_keyspace_to_read(&arguments.database)?;
    let Some(value) = keyspace.get(&key)? else {
        return Err(Failure::Negative(format!(
            "key {:?} not found in keyspace {:?} of {}",
            arguments.key.to_string_lossy(),
            arguments.database.keyspace,
            arguments.database.dir.display()
        )));
    };
    let mut out = tool::output();
    match arguments.output.format {
        OutputFormat::Json => write_object(&mut out, &key, Some(&value), notation)?,
        OutputFormat::Text => {
            let mut bytes = Vec::new();
            notation.write(&value, &mut bytes);
            out.write_all(&bytes)?;
        }
    }
    Ok(out.flush()?)
}

/// Prints the keys and values of a range.
pub fn scan(arguments: &Scan) -> Result {
    let notation = notation(arguments.output.hex);
    let whole = bounds(&arguments.range.from, &arguments.range.to, notation)?;
    let prefix =
        arguments.prefix.as_deref().map(|prefix| bytes_of("--prefix", prefix, notation)).transpose()?;
    let keyspace = open_keyspace_to_read(&arguments.database)?;
    let range = match &prefix {
        None => Some(whole),
        Some(prefix) => narrow(whole, prefix),
    };
    let Some(range) = range else { return Ok(()) };
    let mut entries = keyspace.range(range)?;

    let mut out = tool::output();
    let mut line = Vec::new();
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let next = if arguments.reverse { entries.next_back() } else { entries.next() };
        let Some(entry) = next else { break };
        let (key, value) = entry?;
        left -= 1;
        let value = (!arguments.keys_only).then_some(value);
        if arguments.output.format == OutputFormat::Json {
            write_object(&mut out, &key, value.as_deref(), notation)?;
            continue;
        }
        line.clear();
        notation.write(&key, &mut line);
        if let Some(value) = &value {
            line.push(b'\t');
            notation.write(value, &mut line);
        }
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(out.flush()?)
}

fn write_object(out: &mut dyn Write, key: &[u8], value: Option<&[u8]>, notation: Notation) -> Result {
    let mut object = Map::new();
    insert_json(&mut object, "key", key, notation);
    if let Some(value) = value {
        insert_json(&mut object, "value", value, notation);
    }
    tool::write_json(out, &Value::Object(object), false)
}
