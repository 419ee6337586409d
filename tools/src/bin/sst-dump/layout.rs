//! `sst-dump layout`: where everything stands in a table.

use std::io::Write;

use serde_json::{Map, Value};
use terrace_tools::columns::Columns;
use terrace_tools::notation::insert_json;
use terrace_tools::tool::{self, Result};

use crate::arguments;
use crate::printer::Fields;

/// Prints the footer, the metadata blocks and the data blocks.
pub fn layout(arguments: &arguments::Layout) -> Result {
    let table = crate::open(&arguments.file)?;
    let layout = terrace_sstable::layout(&table)?;
    let notation = arguments.output.notation();
    let footer = &layout.footer;

    let mut fields = Fields::new(&arguments.output);
    fields.number("file_bytes", table.meta().file_len);
    fields.number("format_version", u64::from(footer.format_version));
    fields.add("table_id", format!("{:016x}", footer.table_id), format!("{:016x}", footer.table_id));
    fields.number("data_bytes", footer.data_len);
    fields.number("metadata_offset", footer.meta_offset());
    fields.number("metadata_bytes", footer.meta_len);
    fields.number("metadata_chunks", footer.chunks());
    fields.number("directory_bytes", u64::from(footer.directory_len));
    fields.number("data_blocks", layout.blocks.len() as u64);

    let mut metadata = Columns::new(["metadata block", ">kind", ">offset", ">bytes"]);
    let mut metadata_json = Vec::new();
    for block in &layout.metadata {
        let (kind, offset) = (format!("{:#x}", block.kind), footer.meta_offset() + block.offset);
        metadata.row([block.name().to_owned(), kind.clone(), offset.to_string(), block.len.to_string()]);
        let mut object = Map::new();
        object.insert("name".to_owned(), block.name().into());
        object.insert("kind".to_owned(), block.kind.into());
        object.insert("offset".to_owned(), offset.into());
        object.insert("bytes".to_owned(), block.len.into());
        metadata_json.push(Value::Object(object));
    }
    let mut blocks = Columns::new([
        ">block",
        ">offset",
        ">bytes",
        ">raw bytes",
        ">entries",
        "compressed",
        "separator",
        "first key",
    ]);
    let mut blocks_json = Vec::new();
    for (index, block) in layout.blocks.iter().enumerate() {
        blocks.row([
            index.to_string(),
            block.offset.to_string(),
            block.len.to_string(),
            block.raw_len.to_string(),
            block.entries.to_string(),
            if block.compressed { "snappy" } else { "no" }.to_owned(),
            shortened(notation.display(&block.separator)),
            shortened(notation.display(&block.first_key)),
        ]);
        let mut object = Map::new();
        object.insert("offset".to_owned(), block.offset.into());
        object.insert("bytes".to_owned(), block.len.into());
        object.insert("raw_bytes".to_owned(), block.raw_len.into());
        object.insert("entries".to_owned(), block.entries.into());
        object.insert("compressed".to_owned(), block.compressed.into());
        insert_json(&mut object, "separator", &block.separator, notation);
        insert_json(&mut object, "first_key", &block.first_key, notation);
        blocks_json.push(Value::Object(object));
    }
    fields.json_only("metadata", metadata_json);
    fields.json_only("blocks", blocks_json);

    let mut out = tool::output();
    if fields.print(&mut out)? {
        write!(out, "\n{metadata}\n{blocks}")?;
    }
    Ok(out.flush()?)
}

/// Enough of a key to know it by; JSON has all of it.
fn shortened(mut text: String) -> String {
    const CHARACTERS_MAX: usize = 48;
    if let Some((cut, _)) = text.char_indices().nth(CHARACTERS_MAX) {
        text.truncate(cut);
        text.push('…');
    }
    text
}
