//! The arguments of `sst-dump`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use terrace_tools::notation::Notation;

const EXAMPLES: &str = "\
Examples:
  sst-dump properties DIR/000012.sst
  sst-dump layout DIR/000012.sst
  sst-dump scan DIR/000012.sst --prefix usr/bin/ --limit 10
  sst-dump scan DIR/000012.sst --versions --format json
  sst-dump get DIR/000012.sst usr/bin/env
  sst-dump get DIR/000012.sst usr/bin/env --explain
  sst-dump get DIR/000012.sst --hex 7573722f62696e2f656e76
  sst-dump verify DIR/*.sst

Keys and values are text in which \\\\ is a backslash and \\xNN a byte, or hex with --hex; they are read as they are
printed.

Exit code: 0, or 1 if a key was not found or a file is damaged, or 2 for wrong usage or a failure.";

/// Looks inside Terrace's table files (NNNNNN.sst).
#[derive(Debug, Parser)]
#[command(name = "sst-dump", version, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,

    /// Say more of what happens; twice to say still more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what a table says about itself.
    Properties(Properties),
    /// Print where everything stands in a table.
    Layout(Layout),
    /// Print the keys and values of a table.
    Scan(Scan),
    /// Look a key up, and explain how it was found.
    Get(Get),
    /// Check everything in table files: checksums, order, counts, filter, locator, fences. Goes on past damage.
    Verify(Verify),
}

#[derive(Debug, Args)]
pub struct Properties {
    /// The table file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Layout {
    /// The table file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Scan {
    /// The table file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// From this key on, itself included.
    #[arg(long, value_name = "KEY")]
    pub from: Option<OsString>,

    /// Up to this key, itself excluded.
    #[arg(long, value_name = "KEY")]
    pub to: Option<OsString>,

    /// Only keys that begin with this.
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<OsString>,

    /// Stop after this many lines.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,

    /// Every version of every key as it stands in the file, tombstones too, with sequence number and kind.
    #[arg(long)]
    pub versions: bool,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Get {
    /// The table file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The key.
    #[arg(value_name = "KEY")]
    pub key: OsString,

    /// Look at the table as it was at this sequence number.
    #[arg(long, value_name = "SEQUENCE", default_value_t = terrace_sstable::SEQUENCE_MAX)]
    pub at: u64,

    /// Say of each step where in the file it looks, and whether the pages there were in memory before.
    #[arg(long)]
    pub explain: bool,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// The table files.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Output {
    /// Keys and values in hex, given and printed.
    #[arg(long)]
    pub hex: bool,

    /// How to print.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

impl Output {
    /// How keys and values are read and printed.
    pub fn notation(&self) -> Notation {
        if self.hex { Notation::Hex } else { Notation::Escaped }
    }

    /// Whether JSON is wanted.
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }
}
