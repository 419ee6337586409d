//! Names and values below each other: as lines, or as one JSON object.

use std::io::Write;

use serde_json::{Map, Value};
use terrace_tools::notation::{Notation, insert_json};
use terrace_tools::tool::{self, Result};

use crate::arguments::Output;

/// Collects fields and prints them in the format that was asked for.
pub struct Fields {
    notation: Notation,
    json: bool,
    object: Map<String, Value>,
    lines: Vec<(String, String)>,
}

impl Fields {
    /// None yet.
    pub fn new(output: &Output) -> Self {
        Fields { notation: output.notation(), json: output.json(), object: Map::new(), lines: Vec::new() }
    }

    /// Adds a value that a person reads as `text`.
    pub fn add(&mut self, name: &str, value: impl Into<Value>, text: impl Into<String>) {
        self.object.insert(name.to_owned(), value.into());
        self.lines.push((name.replace('_', " "), text.into()));
    }

    /// Adds a number that is printed as it is.
    pub fn number(&mut self, name: &str, value: u64) {
        self.add(name, value, value.to_string());
    }

    /// Adds a key or a value.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) {
        insert_json(&mut self.object, name, bytes, self.notation);
        self.lines.push((name.replace('_', " "), self.notation.display(bytes)));
    }

    /// Adds something to the JSON object only: the text shows it in another way.
    pub fn json_only(&mut self, name: &str, value: impl Into<Value>) {
        self.object.insert(name.to_owned(), value.into());
    }

    /// Prints them; whether it was as text, so that something may follow.
    pub fn print(self, out: &mut dyn Write) -> Result<bool> {
        if self.json {
            tool::write_json(out, &Value::Object(self.object), true)?;
            return Ok(false);
        }
        let width = self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, text) in &self.lines {
            writeln!(out, "{name:<width$}  {text}")?;
        }
        Ok(true)
    }
}
