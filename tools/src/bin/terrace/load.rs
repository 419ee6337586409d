//! `terrace load`: lines of keys and values into a database, in batches.
//!
//! A line that cannot be understood, or that the engine refuses, ends the load with its number; the lines before it
//! are in the database, none behind it is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value};
use terrace::{Db, Durability, Error, Keyspace, WriteBatch};
use terrace_sstable::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use terrace_tools::notation::{Notation, take_json};
use terrace_tools::tool::{self, Failure, Result};
use terrace_tools::{figures, progress};

use crate::arguments::{LineFormat, Load, notation};
use crate::database::open_or_create;

/// A batch is written once it has this many bytes, however few its lines are.
const BATCH_BYTES: usize = 1 << 20;

/// No line of the longest key and value is longer, also in hex; anything longer is not read to its end.
const LINE_BYTES_MAX: u64 = 2 * (KEY_BYTES_MAX as u64 + VALUE_BYTES_MAX as u64) + 256;

/// Loads a file or standard input.
pub fn load(arguments: &Load) -> Result {
    let input = open_input(&arguments.file)?;
    let name = input_name(&arguments.file);
    let durability = arguments.durability.value();
    let (db, keyspace) = open_or_create(&arguments.database, durability)?;
    let parser = Parser { format: line_format(arguments), notation: notation(arguments.hex) };
    let mut loader = Loader {
        db: &db,
        keyspace: &keyspace,
        name,
        batch: arguments.batch as usize,
        pending: Pending::default(),
        loaded: 0,
        bytes: 0,
    };
    let begun = Instant::now();
    let result = loader.load(input, &parser);
    let (lines, bytes) = (loader.loaded, loader.bytes);
    if durability == Durability::Buffered {
        // Once for all lines: what this command reports as loaded survives power loss either way.
        db.sync()?;
    }
    db.close()?;
    result?;
    let elapsed = begun.elapsed();
    let summary = format!(
        "loaded {} lines ({} of keys and values) in {}: {} lines/s",
        figures::count(lines),
        figures::bytes(bytes),
        figures::time(elapsed),
        figures::rate(lines, elapsed.as_secs_f64())
    );
    tool::say("terrace", &summary);
    Ok(())
}

/// Reads lines and writes them in batches.
struct Loader<'a> {
    db: &'a Db,
    keyspace: &'a Keyspace,
    name: String,
    batch: usize,
    pending: Pending,
    /// Lines that are in the database, and the bytes of their keys and values.
    loaded: u64,
    bytes: u64,
}

impl Loader<'_> {
    fn load(&mut self, mut input: Box<dyn BufRead>, parser: &Parser) -> Result {
        let bar = progress::lines();
        let mut line = Vec::new();
        let mut number: u64 = 0;
        loop {
            line.clear();
            number += 1;
            let mut limited = input.by_ref().take(LINE_BYTES_MAX + 1);
            match limited.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return self.end(number, &format!("cannot read: {error}")),
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if line.len() as u64 > LINE_BYTES_MAX {
                return self.end(number, &format!("longer than {LINE_BYTES_MAX} bytes"));
            }
            if let Err(what) = parser.parse(&line, &mut self.pending) {
                return self.end(number, &what);
            }
            if self.pending.ends.len() >= self.batch || self.pending.bytes.len() >= BATCH_BYTES {
                self.write()?;
                bar.set_position(self.loaded);
            }
        }
        self.write()
    }

    /// Ends the load at a bad line, once those before it are written.
    fn end(&mut self, number: u64, what: &str) -> Result {
        self.write()?;
        Err(self.failure(number, what))
    }

    fn failure(&self, number: u64, what: &str) -> Failure {
        let before = match self.loaded {
            0 => "nothing was loaded".to_owned(),
            1 => "the line before it is loaded".to_owned(),
            loaded => format!("the {loaded} lines before it are loaded"),
        };
        Failure::error(format!("{}, line {number}: {what}; {before}", self.name))
    }

    /// Writes what is pending. If the engine refuses the batch, the lines are written one by one up to the one
    /// that is to blame.
    fn write(&mut self) -> Result {
        let pending = std::mem::take(&mut self.pending);
        let mut batch = WriteBatch::new();
        for (key, value) in pending.entries() {
            batch.put(self.keyspace, key, value);
        }
        match self.db.write(batch) {
            Ok(()) => {
                self.loaded += pending.ends.len() as u64;
                self.bytes += pending.bytes.len() as u64;
            }
            Err(Error::InvalidArgument(_)) => {
                for (key, value) in pending.entries() {
                    if let Err(error) = self.keyspace.put(key, value) {
                        return Err(self.failure(self.loaded + 1, &error.to_string()));
                    }
                    self.loaded += 1;
                    self.bytes += (key.len() + value.len()) as u64;
                }
            }
            Err(error) => {
                let (first, last) = (self.loaded + 1, self.loaded + pending.ends.len() as u64);
                let what = format!("the batch up to line {last} cannot be written: {error}");
                return Err(self.failure(first, &what));
            }
        }
        self.pending = pending.emptied();
        Ok(())
    }
}

/// Keys and values of the next batch, one after the other, and where each ends.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    ends: Vec<(usize, usize)>,
}

impl Pending {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len()));
    }

    fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(key_end, value_end)| {
            let key = &self.bytes[start..key_end];
            start = value_end;
            (key, &self.bytes[key_end..value_end])
        })
    }

    fn emptied(mut self) -> Self {
        self.bytes.clear();
        self.ends.clear();
        self
    }
}

/// Understands a line.
struct Parser {
    format: LineFormat,
    notation: Notation,
}

impl Parser {
    fn parse(&self, line: &[u8], pending: &mut Pending) -> Result<(), String> {
        if self.format == LineFormat::Json {
            let (key, value) = parse_json(line)?;
            pending.push(&key, &value);
            return Ok(());
        }
        let tab = line.iter().position(|&byte| byte == b'\t').ok_or("no tab between key and value")?;
        let (key, value) = (&line[..tab], &line[tab + 1..]);
        if self.notation == Notation::Bare {
            pending.push(key, value);
        } else {
            let key = self.notation.read(key).map_err(|error| format!("the key has {error}"))?;
            let value = self.notation.read(value).map_err(|error| format!("the value has {error}"))?;
            pending.push(&key, &value);
        }
        Ok(())
    }
}

fn parse_json(line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut object: Map<String, Value> = serde_json::from_slice(line).map_err(|error| {
        // The line is the number that the user knows; the parser's own is always 1.
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or(&what);
        format!("no JSON object: {what} at column {}", error.column())
    })?;
    let key = take_json(&mut object, "key")?;
    let value = take_json(&mut object, "value")?;
    match object.keys().next() {
        Some(name) => Err(format!("unknown field {name:?}")),
        None => Ok((key, value)),
    }
}

fn line_format(arguments: &Load) -> LineFormat {
    if arguments.format != LineFormat::Auto {
        return arguments.format;
    }
    match arguments.file.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl" | "ndjson" | "json") => LineFormat::Json,
        _ => LineFormat::Tsv,
    }
}

fn open_input(path: &Path) -> Result<Box<dyn BufRead>> {
    const BUFFER_BYTES: usize = 256 * 1024;
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin())));
    }
    let file = File::open(path).map_err(|error| Failure::file("open", path, &error))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
}

fn input_name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}
