//! What a directory is, by the names in it: a database, the beginning of one, or something else.

use std::path::Path;

use terrace_io::{Error, FileSystem, Result};
use terrace_sstable::parse_table_file_name;
use terrace_wal::parse_segment_file_name;

use crate::manifest::{MANIFEST, MANIFEST_TEMPORARY};

/// What a directory may hold that counts as empty.
pub(crate) const EMPTY_NAMES: [&str; 3] = ["LOCK", MANIFEST_TEMPORARY, "lost+found"];

/// Beside no manifest it says that all tables in the directory are what a restore has left: `docs/format.md` §5.4.
pub(crate) const RESTORING: &str = "RESTORING";

/// Makes sure that a directory is one that may be opened for writing, and lists it. One that is missing is created if
/// `create` says so.
pub(crate) fn prepare(fs: &dyn FileSystem, dir: &Path, create: bool) -> Result<Vec<String>> {
    match fs.read_dir(dir) {
        Err(error) if error.is_not_found() && create => {
            fs.create_dir_all(dir)?;
            Ok(Vec::new())
        }
        listed => check(dir, listed, create),
    }
}

/// Makes sure that a directory holds a database, and lists it. Changes nothing.
pub(crate) fn list(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<String>> {
    check(dir, fs.read_dir(dir), false)
}

/// Looks at the names in a directory. `may_be_new` says whether they may be those of the beginning of a database.
fn check(dir: &Path, listed: Result<Vec<String>>, may_be_new: bool) -> Result<Vec<String>> {
    let not_a_database = |what: &str| Error::NotADatabase { path: dir.to_owned(), what: what.to_owned() };
    let names = match listed {
        Err(error) if error.is_not_found() => return Err(not_a_database("there is no such directory")),
        listed => listed?,
    };
    if names.iter().any(|name| name == MANIFEST) {
        return Ok(names);
    }
    if names.iter().any(|name| name == RESTORING) {
        return Err(not_a_database(
            "a restore was interrupted here: run it again, or remove what it has left",
        ));
    }
    let is_data =
        |name: &String| parse_table_file_name(name).is_some() || parse_segment_file_name(name).is_some();
    if names.iter().any(is_data) {
        let what = "the manifest is missing, but there are tables or log segments: restore it from a backup, or save \
                    what is left with `terrace salvage`; if a checkpoint or a salvage was interrupted here, remove \
                    them";
        return Err(Error::corruption(dir.join(MANIFEST), 0, what));
    }
    match names.iter().find(|name| !EMPTY_NAMES.contains(&&***name)) {
        Some(other) => Err(not_a_database(&format!("it holds other files, {other:?} among them"))),
        None if may_be_new => Ok(names),
        None => Err(not_a_database("the directory is empty")),
    }
}
