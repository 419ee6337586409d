//! `sst-dump get`: looks a key up as the engine would, and says what each step found.

use std::io::Write;

use serde_json::{Map, Value, json};
use terrace_sstable::{Explanation, Kind, Located};
use terrace_tools::bounds::bytes_of;
use terrace_tools::notation::{Notation, insert_json};
use terrace_tools::tool::{self, Failure, Result};

use crate::arguments::Get;
use crate::explain::{self, Before};
use crate::scan::kind_name;

/// Looks a key up and explains.
pub fn get(arguments: &Get) -> Result {
    let notation = arguments.output.notation();
    let key = bytes_of("key", &arguments.key, notation)?;
    let path = crate::resolve(&arguments.file)?;
    // Before anything of the file is read.
    let before = arguments.explain.then(|| Before::of(&path));
    let table = crate::open(&path)?;
    let explanation = terrace_sstable::explain(&table, &key, arguments.at)?;

    let mut out = tool::output();
    match (&before, arguments.output.json()) {
        (None, false) => write_text(&mut out, &explanation, notation)?,
        (Some(before), false) => explain::write_text(&mut out, &table, &explanation, before, notation)?,
        (before, true) => {
            let mut object = object(&key, &explanation, notation);
            if let Some(before) = before {
                explain::add_json(&mut object, &table, &explanation, before, notation)?;
            }
            tool::write_json(&mut out, &Value::Object(object), true)?;
        }
    }
    out.flush()?;
    let visible = explanation.visible.and_then(|index| explanation.versions.get(index));
    match visible.map(|version| version.kind) {
        Some(Kind::Put) => Ok(()),
        Some(Kind::Delete) => Err(Failure::Negative(format!("key {:?} is deleted", notation.display(&key)))),
        None => Err(Failure::Negative(format!("key {:?} not found", notation.display(&key)))),
    }
}

fn write_text(out: &mut dyn Write, explanation: &Explanation, notation: Notation) -> Result {
    let range = match explanation.in_range {
        true => "the key lies in the table's key range",
        false => "the key lies outside of the table's key range: a get stops here",
    };
    let filter = match (explanation.filter, &explanation.locator) {
        (None, _) => "none",
        (Some(true), None) => "the key may be there",
        (Some(false), None) => "the key is not there: a get stops here",
        (Some(true), Some(_)) => "the key may be there (a get does not ask, since there is a locator)",
        (Some(false), Some(_)) => "the key is not there (a get does not ask, since there is a locator)",
    };
    writeln!(out, "key range  {range}")?;
    write_located(out, explanation)?;
    writeln!(out, "filter     {filter}")?;
    writeln!(
        out,
        "fences     block {} at offset {}, {} bytes",
        explanation.block, explanation.block_offset, explanation.block_len
    )?;
    match explanation.slot {
        Some(slot) => writeln!(out, "block      slot {slot} is the first at or after the key")?,
        None => writeln!(out, "block      no slot at or after the key: it is in the next block, or nowhere")?,
    }
    if explanation.versions.is_empty() {
        writeln!(out, "versions   none")?;
    }
    for (index, version) in explanation.versions.iter().enumerate() {
        let label = if index == 0 { "versions" } else { "" };
        let mark = if explanation.visible == Some(index) { '*' } else { ' ' };
        write!(out, "{label:<9}{mark} sequence {} {}", version.sequence, kind_name(version.kind))?;
        match version.kind {
            Kind::Put => writeln!(out, " {}", notation.display(&version.value))?,
            Kind::Delete => writeln!(out)?,
        }
    }
    Ok(())
}

fn write_located(out: &mut dyn Write, explanation: &Explanation) -> Result {
    let Some(Located { home, buckets, mistaken, place, .. }) = &explanation.locator else {
        writeln!(out, "locator    none: a get searches the fences")?;
        return Ok(());
    };
    let looked_at = match buckets {
        1 => format!("bucket {home}"),
        _ => format!("{buckets} buckets from {home} on"),
    };
    let mistaken = match mistaken {
        0 => String::new(),
        1 => ", past an entry of another key".to_owned(),
        _ => format!(", past {mistaken} entries of other keys"),
    };
    let answer = match place {
        None => "the key is not there: a get stops here".to_owned(),
        Some((block, slot)) if explanation.visible == Some(0) => {
            format!("block {block}, slot {slot}: a get stops here")
        }
        Some((block, slot)) => {
            format!("block {block}, slot {slot}, which is too new: a get goes on with the fences")
        }
    };
    writeln!(out, "locator    {looked_at}{mistaken}: {answer}")?;
    Ok(())
}

fn object(key: &[u8], explanation: &Explanation, notation: Notation) -> Map<String, Value> {
    let mut object = Map::new();
    insert_json(&mut object, "key", key, notation);
    object.insert("in_range".to_owned(), explanation.in_range.into());
    let locator = explanation.locator.as_ref().map(|located| {
        json!({
            "home": located.home,
            "buckets": located.buckets,
            "mistaken": located.mistaken,
            "block": located.place.map(|place| place.0),
            "slot": located.place.map(|place| place.1),
        })
    });
    object.insert("locator".to_owned(), locator.into());
    object.insert("filter".to_owned(), explanation.filter.into());
    let block = json!({
        "index": explanation.block,
        "offset": explanation.block_offset,
        "bytes": explanation.block_len,
        "slot": explanation.slot,
    });
    object.insert("block".to_owned(), block);
    let versions = explanation.versions.iter().map(|version| {
        let mut object = Map::new();
        object.insert("sequence".to_owned(), version.sequence.into());
        object.insert("kind".to_owned(), kind_name(version.kind).into());
        if version.kind == Kind::Put {
            insert_json(&mut object, "value", &version.value, notation);
        }
        Value::Object(object)
    });
    object.insert("versions".to_owned(), versions.collect());
    object.insert("visible".to_owned(), explanation.visible.into());
    object
}
