//! `terrace residency`: what of a database is in memory, by level and key range.

use std::fs;
use std::io::{self, IsTerminal, Write};

use serde_json::{Map as Object, Value, json};
use terrace_io::PageCount;
use terrace_tools::calendar;
use terrace_tools::notation::{Notation, insert_json};
use terrace_tools::residency::page::{self, Heading};
use terrace_tools::residency::text::{self, Style};
use terrace_tools::residency::{Keyspace, Map, Parts, Row, Survey, Table, survey};
use terrace_tools::tool::{self, Failure, Result};

use crate::arguments::{OutputFormat, Residency};

/// Columns of the map in JSON.
const JSON_COLUMNS: usize = 100;
/// Characters of a line where nobody says how many there are.
const WIDTH: usize = 80;

/// Looks, and shows what was seen.
pub fn residency(arguments: &Residency) -> Result {
    let notation = if arguments.hex { Notation::Hex } else { Notation::Escaped };
    let style = Style {
        width: arguments.width.map_or_else(terminal_width, usize::from),
        is_colored: io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        lists_tables: arguments.tables,
        notation,
    };
    let columns = style.columns().max(page::COLUMNS);
    let survey = survey(&arguments.dir, arguments.keyspace.as_deref(), columns)?;
    if let Some(path) = &arguments.html {
        let dir = arguments.dir.display().to_string();
        let html = page::html(&survey, &Heading { dir, time: calendar::now(), notation });
        fs::write(path, html).map_err(|error| Failure::file("write", path, &error))?;
    }
    let mut out = tool::output();
    match arguments.format {
        OutputFormat::Json => tool::write_json(&mut out, &as_json(&survey, notation), true)?,
        OutputFormat::Text => text::write(&mut out, &survey, &style)?,
    }
    Ok(out.flush()?)
}

/// Characters of a line: as `COLUMNS` says, or the terminal.
fn terminal_width() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        (size.ws_col > 0).then_some(usize::from(size.ws_col))
    };
    told.or_else(asked).unwrap_or(WIDTH).min(1000)
}

fn as_json(survey: &Survey, notation: Notation) -> Value {
    json!({
        "page_bytes": survey.page_bytes,
        "asked_by": survey.way,
        "keyspaces": survey.keyspaces.iter().map(|keyspace| of_keyspace(keyspace, notation)).collect::<Vec<_>>(),
        "troubles": survey.troubles().collect::<Vec<_>>(),
    })
}

fn of_keyspace(keyspace: &Keyspace, notation: Notation) -> Value {
    let map = Map::new(keyspace, JSON_COLUMNS);
    let columns = map.columns.iter().map(|key| {
        let mut column = Object::new();
        insert_json(&mut column, "from", key, notation);
        Value::Object(column)
    });
    json!({
        "name": keyspace.name,
        "columns": columns.collect::<Vec<_>>(),
        "rows": map.rows.iter().map(|row| of_row(row, notation)).collect::<Vec<_>>(),
    })
}

fn of_row(row: &Row, notation: Notation) -> Value {
    let cells = row.cells.iter().map(|cell| {
        let cell = cell.as_ref()?;
        Some(json!({
            "data": pages(cell.parts.data),
            "metadata": pages(cell.parts.metadata()),
            "unknown_tables": cell.unknown,
        }))
    });
    json!({
        "level": row.level,
        "bytes": row.file_bytes(),
        "pages": of_parts(&row.parts),
        "cells": cells.collect::<Vec<_>>(),
        "tables": row.tables.iter().map(|table| of_table(table, notation)).collect::<Vec<_>>(),
    })
}

fn of_table(table: &Table, notation: Notation) -> Value {
    let mut object = Object::new();
    object.insert("file".to_owned(), table.name.clone().into());
    object.insert("bytes".to_owned(), table.file_bytes.into());
    insert_json(&mut object, "smallest_key", &table.smallest_key, notation);
    insert_json(&mut object, "largest_key", &table.largest_key, notation);
    let parts = table.pages.as_ref().ok().map(|pages| of_parts(&pages.parts));
    object.insert("pages".to_owned(), parts.into());
    Value::Object(object)
}

fn of_parts(parts: &Parts) -> Value {
    json!({
        "data": pages(parts.data),
        "locator": pages(parts.locator),
        "filter": pages(parts.filter),
        "fences": pages(parts.fences),
        "other": pages(parts.other),
    })
}

fn pages(pages: PageCount) -> Value {
    json!({ "resident": pages.resident, "total": pages.total })
}
