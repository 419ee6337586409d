//! The arguments of `terrace`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use terrace::Durability;
use terrace_tools::notation::Notation;

const EXAMPLES: &str = "\
Examples:
  terrace put DIR apple red
  terrace get DIR apple
  terrace scan DIR --prefix app --limit 10
  terrace scan DIR --from a --to b --reverse
  terrace scan DIR --format json > backup.jsonl
  terrace load OTHER_DIR backup.jsonl
  terrace stats DIR
  terrace residency DIR --html memory.html
  terrace checkpoint DIR NEW_DIR
  terrace backup DIR BACKUPS
  terrace restore BACKUPS NEW_DIR
  terrace backup DIR --stream | ssh HOST terrace restore --stream NEW_DIR
  terrace verify DIR
  terrace salvage DIR NEW_DIR --dry-run
  terrace doctor DIR
  sed -E 's/^([0-9a-f]+) +(.*)$/\\2\\t\\1/' /var/lib/dpkg/info/*.md5sums | terrace load DIR

A key or value that begins with a dash goes behind `--`.

Exit code: 0, or 1 if a key was not found, or 2 for wrong usage or a failure. `verify`, `salvage` and `doctor` have
more: see their help.";

const VERIFY_CODES: &str = "\
Exit code:
  0  nothing is wrong (there may be notes: leftovers of a crash, which the next open removes)
  1  damage, but every entry can still be read
  2  wrong usage
  3  damage, and entries are lost or the database cannot be opened
  4  it could not be verified: it is open, or no database, or cannot be read";

const SALVAGE_CODES: &str = "\
Exit code:
  0  everything was kept
  2  wrong usage
  3  the new database is complete as far as the old one can be read, but something was lost: the report says what
  4  nothing was salvaged; NEW holds at most a LOCK file";

const DOCTOR_CODES: &str = "\
States:
  ok       nothing to do
  note     it costs something, or will under a load that is not there yet
  warn     it puts data, the process or most of the speed at risk
  unknown  it could not be found out, and why

Exit code:
  0  nothing is worse than a note
  1  there are warnings
  2  wrong usage, or DIR is no directory";

/// Reads and writes a Terrace database from the command line.
#[derive(Debug, Parser)]
#[command(name = "terrace", version, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,

    /// Say what the engine does; twice to say more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put lines of keys and values into a database, which is created if need be.
    Load(Load),
    /// Print the value of a key: its bytes and nothing else.
    Get(Get),
    /// Put a key and its value into a database, which is created if need be.
    Put(Put),
    /// Delete a key. It is no error if there is none.
    Delete(Delete),
    /// Print keys and values in order.
    Scan(Scan),
    /// Print what a database consists of, and its health.
    Stats(Stats),
    /// Show what of a database is in memory, by level and key range. Changes nothing, memory included.
    Residency(Residency),
    /// Compact a database, or a range of keys, all the way down.
    Compact(Compact),
    /// Make a copy of a database as it is now, by hard links where there can be, in a new directory.
    Checkpoint(Checkpoint),
    /// Add a backup of a database to a directory of backups, or send it as a stream to standard output.
    Backup(Backup),
    /// Restore a backup, from a directory of them or from standard input, in a new directory.
    Restore(Restore),
    /// List, verify, delete or receive the backups in a directory.
    #[command(subcommand)]
    Backups(Backups),
    /// Check every file of a database that is not open, and list all that is wrong. Changes nothing.
    Verify(Verify),
    /// Save what can still be read of a damaged database into a new one. Does not change the old one.
    Salvage(Salvage),
    /// Say what on this machine matters to a database, and what to change. Changes nothing.
    Doctor(Doctor),
}

#[derive(Debug, Args)]
pub struct Database {
    /// The directory of the database.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// The keyspace.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub keyspace: String,
}

/// Lines are `key<TAB>value`, or JSON objects `{"key": "..", "value": ".."}`. A value ends with its line; a key ends
/// with the first tab. In JSON, bytes that are no UTF-8 stand as `"key_hex"` and `"value_hex"`, as `scan` prints them.
#[derive(Debug, Args)]
pub struct Load {
    #[command(flatten)]
    pub database: Database,

    /// The file to read; standard input if it is `-` or missing.
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,

    /// What the lines are.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: LineFormat,

    /// Keys and values of tab-separated lines are in hex.
    #[arg(long)]
    pub hex: bool,

    /// Lines that are written together.
    #[arg(long, value_name = "LINES", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch: u32,

    /// What written lines survive.
    #[arg(long, value_name = "WHAT", default_value = "sync")]
    pub durability: DurabilityName,
}

#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    pub database: Database,

    /// The key.
    pub key: OsString,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Put {
    #[command(flatten)]
    pub database: Database,

    /// The key.
    pub key: OsString,

    /// The value; all of standard input if it is missing.
    pub value: Option<OsString>,

    /// Key and value are given in hex.
    #[arg(long)]
    pub hex: bool,

    /// What the write survives once this command has ended.
    #[arg(long, value_name = "WHAT", default_value = "sync")]
    pub durability: DurabilityName,
}

#[derive(Debug, Args)]
pub struct Delete {
    #[command(flatten)]
    pub database: Database,

    /// The key.
    pub key: OsString,

    /// The key is given in hex.
    #[arg(long)]
    pub hex: bool,

    /// What the write survives once this command has ended.
    #[arg(long, value_name = "WHAT", default_value = "sync")]
    pub durability: DurabilityName,
}

#[derive(Debug, Args)]
pub struct Scan {
    #[command(flatten)]
    pub database: Database,

    #[command(flatten)]
    pub range: Range,

    /// Only keys that begin with this.
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<OsString>,

    /// Stop after this many.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,

    /// From the last to the first.
    #[arg(long)]
    pub reverse: bool,

    /// Print no values.
    #[arg(long)]
    pub keys_only: bool,

    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Stats {
    /// The directory of the database.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Only this keyspace's share, where there is one.
    #[arg(long, value_name = "NAME")]
    pub keyspace: Option<String>,

    /// How to print it.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

/// Asks the kernel which pages of the tables are in the page cache, whoever brought them in: the database may be in use.
/// Keys go from left to right, in columns of about as many bytes each; levels go from top to bottom, tables of level 0
/// one by one. Of each row there is the data, and the metadata (locators, filters, fences) of the tables. On a terminal
/// the map is in colours, unless NO_COLOR is set. Only the owner of the tables, and who may write to them, is told.
#[derive(Debug, Args)]
pub struct Residency {
    /// The directory of the database.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Only this keyspace.
    #[arg(long, value_name = "NAME")]
    pub keyspace: Option<String>,

    /// Also write it as a page with pictures: one file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// A line for each table in the sums.
    #[arg(long)]
    pub tables: bool,

    /// Keys in hex.
    #[arg(long)]
    pub hex: bool,

    /// Characters of a line [default: as COLUMNS says, or the terminal, or 80].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(40..=1000))]
    pub width: Option<u16>,

    /// How to print it.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

#[derive(Debug, Args)]
pub struct Compact {
    #[command(flatten)]
    pub database: Database,

    #[command(flatten)]
    pub range: Range,

    /// The bounds are given in hex.
    #[arg(long)]
    pub hex: bool,
}

/// Tables never change, so on one file system the copy and the database share them until one of the two lets go of a table.
/// On another one they are copied. The copy is a database like any other: this one can be used, changed and deleted,
/// and so can the copy. (A program makes checkpoints of a database that it has open with `Db::checkpoint`.)
#[derive(Debug, Args)]
pub struct Checkpoint {
    /// The directory of the database.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// The directory of the copy: missing, or empty.
    #[arg(value_name = "NEW")]
    pub new: PathBuf,

    /// How to print what it was made of.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

/// A directory of backups keeps each table once, so that a backup copies only what is new. Each new table is verified where
/// it has come to, and the backup exists only once all of it is there; one that was interrupted does not. (A program makes
/// backups of a database that it has open with `Db::backup` and `Db::backup_to_stream`.)
#[derive(Debug, Args)]
pub struct Backup {
    /// The directory of the database.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// The directory of the backups: missing, empty, or with backups in it.
    #[arg(value_name = "BACKUPS", required_unless_present = "stream", conflicts_with = "stream")]
    pub backups: Option<PathBuf>,

    /// Send the backup to standard output, which must not be a terminal.
    #[arg(long)]
    pub stream: bool,

    /// Leave out of the stream what this backup of the receiver has: a copy of its manifest, NNNNNN.backup. May be given
    /// more than once.
    #[arg(long, value_name = "FILE", requires = "stream", conflicts_with = "backups")]
    pub since: Vec<PathBuf>,

    /// How to print what it was made of.
    #[arg(long, value_name = "FORMAT", default_value = "text", conflicts_with = "stream")]
    pub format: OutputFormat,
}

/// Every table is verified before the new directory has a manifest, without which nothing opens. What a restore has left
/// that was interrupted, the next one to the same place removes.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct Restore {
    /// The directory of the backups.
    #[arg(value_name = "BACKUPS", required_unless_present = "stream", conflicts_with = "stream")]
    pub backups: Option<PathBuf>,

    /// The directory of the new database: missing, or empty.
    #[arg(value_name = "NEW")]
    pub new: PathBuf,

    /// Read the backup from standard input, as `backup --stream` sends it.
    #[arg(long)]
    pub stream: bool,

    /// The number of the backup [default: the newest].
    #[arg(long, value_name = "NUMBER", conflicts_with = "stream")]
    pub number: Option<u64>,

    /// How to print what was restored.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

#[derive(Debug, Subcommand)]
pub enum Backups {
    /// Print what backups there are.
    List(ListBackups),
    /// Check every file of the backups, or of one, and list all that is wrong. Changes nothing.
    Verify(VerifyBackups),
    /// Delete backups by their numbers, and the tables that no other one needs.
    Delete(DeleteBackups),
    /// Delete the oldest backups, so that some are left.
    Keep(KeepBackups),
    /// Add a backup that comes from standard input, as `backup --stream` sends it.
    Receive(ReceiveBackup),
}

#[derive(Debug, Args)]
pub struct ListBackups {
    /// The directory of the backups.
    #[arg(value_name = "BACKUPS")]
    pub backups: PathBuf,

    /// How to print them.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

#[derive(Debug, Args)]
#[command(after_help = VERIFY_CODES)]
pub struct VerifyBackups {
    /// The directory of the backups.
    #[arg(value_name = "BACKUPS")]
    pub backups: PathBuf,

    /// The number of a backup [default: all].
    #[arg(long, value_name = "NUMBER")]
    pub number: Option<u64>,

    /// How to print what was found.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

#[derive(Debug, Args)]
pub struct DeleteBackups {
    /// The directory of the backups.
    #[arg(value_name = "BACKUPS")]
    pub backups: PathBuf,

    /// The numbers of those that go.
    #[arg(value_name = "NUMBER", required = true)]
    pub numbers: Vec<u64>,
}

#[derive(Debug, Args)]
pub struct KeepBackups {
    /// The directory of the backups.
    #[arg(value_name = "BACKUPS")]
    pub backups: PathBuf,

    /// How many are left, the newest ones.
    #[arg(value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
}

#[derive(Debug, Args)]
pub struct ReceiveBackup {
    /// The directory of the backups: missing, empty, or with backups in it.
    #[arg(value_name = "BACKUPS")]
    pub backups: PathBuf,

    /// How to print what it was made of.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

#[derive(Debug, Args)]
#[command(after_help = VERIFY_CODES)]
pub struct Verify {
    /// The directory of the database.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// How to print what was found.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,

    /// Tables that are read at once [default: as many as processors, at most 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
}

/// Works without a manifest too: then the tables are found by their names and ordered by their sequence numbers. Keys that
/// were deleted and values that were overwritten may come back, and keys that were deleted and written again be missing.
#[derive(Debug, Args)]
#[command(after_help = SALVAGE_CODES)]
pub struct Salvage {
    /// The directory of the damaged database.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// The directory of the new one: missing, or empty.
    #[arg(value_name = "NEW")]
    pub new: PathBuf,

    /// Read everything and print the report, but write nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// Apply records of the log also behind a place where some are missing.
    #[arg(long)]
    pub past_gaps: bool,

    /// Use tables that an intact manifest does not name; deleted keys may come back with them.
    #[arg(long)]
    pub all_tables: bool,

    /// How to print the report.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

/// Looks at the kernel, memory, the limits of this shell, and the file system and device of a directory. What is in the
/// directory is neither opened nor locked, so the database may be in use.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_CODES)]
pub struct Doctor {
    /// The directory of a database, or one where a database would live.
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,

    /// How to print what was found.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

#[derive(Debug, Args)]
pub struct Range {
    /// From this key on, itself included.
    #[arg(long, value_name = "KEY")]
    pub from: Option<OsString>,

    /// Up to this key, itself excluded.
    #[arg(long, value_name = "KEY")]
    pub to: Option<OsString>,
}

#[derive(Debug, Args)]
pub struct Output {
    /// Keys and values in hex, given and printed.
    #[arg(long)]
    pub hex: bool,

    /// How to print; JSON makes an object of each line.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LineFormat {
    /// JSON lines if the name of the file ends in .jsonl, .ndjson or .json, else tab-separated.
    Auto,
    /// `key<TAB>value`.
    Tsv,
    /// `{"key": "..", "value": ".."}`.
    #[value(alias = "jsonl")]
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DurabilityName {
    /// Power loss.
    Sync,
    /// The process, but not the machine.
    Buffered,
}

impl DurabilityName {
    pub fn value(self) -> Durability {
        match self {
            DurabilityName::Sync => Durability::Sync,
            DurabilityName::Buffered => Durability::Buffered,
        }
    }
}

/// Hex where it was asked for, else the bare bytes.
pub fn notation(hex: bool) -> Notation {
    if hex { Notation::Hex } else { Notation::Bare }
}
