//! A database that is made from another one, by salvage or as a checkpoint, in a directory of its own.
//!
//! The directory is empty at first and locked until it is done. Whoever makes it puts tables there, durably; the
//! manifest comes last. So what was interrupted has no manifest, and does not open. It has an id of its own, so that no
//! log segment or manifest of the other can be mistaken for one of it. Its tables may say in their properties that they
//! were written for the other: nobody asks them.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use terrace_io::{Bug, DirectoryLock, Error, FileSystem, Result};
use terrace_sstable::{TableMeta, parse_table_file_name, table_file_name, table_tmp_file_name};

use crate::KeyspaceOptions;
use crate::catalog::{Catalog, Change};
use crate::directory::EMPTY_NAMES;
use crate::manifest::{MANIFEST, MANIFEST_TEMPORARY, Manifest};
use crate::poison::Poison;
use crate::recovery::{now_micros, random_id};

/// See the module.
pub(crate) struct NewDatabase {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub database_id: [u8; 16],
    /// Whether the manifest was begun: before that, one that is there is somebody else's.
    has_manifest: AtomicBool,
    _lock: Box<dyn DirectoryLock>,
}

/// What is in it, once its tables are there.
pub(crate) struct Contents<'a> {
    pub max_value_bytes: u64,
    /// Its history ends here.
    pub last_sequence: u64,
    pub next_table: u64,
    pub next_keyspace: u32,
    /// In ascending order of their ids, the default one among them.
    pub keyspaces: Vec<NewKeyspace<'a>>,
}

/// A keyspace of it.
pub(crate) struct NewKeyspace<'a> {
    pub id: u32,
    pub name: &'a str,
    pub options: &'a KeyspaceOptions,
    /// With their levels; those of level 0 oldest first.
    pub tables: Vec<(usize, TableMeta)>,
}

impl NewDatabase {
    /// Refuses a place for a new database that is not empty, or in that of the other one, `from`.
    pub fn check_place(fs: &dyn FileSystem, from: &Path, to: &Path) -> Result<()> {
        if to.as_os_str().is_empty() {
            return Err(Error::invalid(
                "the path of the new database is empty: \".\" is the current directory",
            ));
        }
        if resolved(fs, to).starts_with(resolved(fs, from)) {
            let (to, from) = (to.display(), from.display());
            return Err(Error::invalid(format!("{to} lies in {from}, which must not be changed")));
        }
        let names = match fs.read_dir(to) {
            Err(error) if error.is_not_found() => return Ok(()),
            names => names?,
        };
        let Some(name) = names.iter().find(|name| !EMPTY_NAMES.contains(&&***name)) else { return Ok(()) };
        let is_table =
            |name: &String| parse_table_file_name(name.strip_suffix(".tmp").unwrap_or(name)).is_some();
        let has_tables = names.iter().any(is_table);
        let why = match has_tables && !names.iter().any(|name| name == MANIFEST) {
            true => {
                ", and tables, but no manifest: if a checkpoint or a salvage was interrupted there, remove it"
            }
            false => "",
        };
        Err(Error::invalid(format!("{} is not empty: it holds {name:?}{why}", to.display())))
    }

    /// Begins one in `dir`, which is created if need be. `from` is the directory of the other one.
    pub fn begin(fs: Arc<dyn FileSystem>, from: &Path, dir: &Path) -> Result<NewDatabase> {
        NewDatabase::check_place(&*fs, from, dir)?;
        fs.create_dir_all(dir)?;
        let lock = fs.lock_dir(dir)?;
        // Looked at again: somebody else may have had it until now.
        NewDatabase::check_place(&*fs, from, dir)?;
        let has_manifest = AtomicBool::new(false);
        Ok(NewDatabase { fs, dir: dir.to_owned(), database_id: random_id(), has_manifest, _lock: lock })
    }

    /// Makes its tables' names durable and writes its manifest: from here on it opens.
    pub fn finish(&self, contents: Contents<'_>) -> Result<()> {
        if !Bug::CheckpointNamesNotSynced.is_planted() {
            self.fs.sync_dir(&self.dir)?;
        }
        let defaults = contents.keyspaces.iter().find(|keyspace| keyspace.id == 0);
        let defaults = defaults.map_or_else(KeyspaceOptions::new, |default| default.options.clone());
        let (max_value_bytes, through) = (contents.max_value_bytes, contents.last_sequence);
        let mut catalog = Catalog::new(self.database_id, now_micros(), max_value_bytes, defaults);
        let mut edit = vec![Change::LastSequence(through)];
        for NewKeyspace { id, name, options, tables } in contents.keyspaces {
            if id != 0 {
                edit.push(Change::KeyspaceAdded { id, name: name.to_owned(), options: options.clone() });
            }
            edit.push(Change::KeyspaceFlushed { id, through });
            let added = |(level, meta)| Change::TableAdded { keyspace: id, level, meta };
            edit.extend(tables.into_iter().map(added));
        }
        edit.push(Change::NextTable(contents.next_table));
        edit.push(Change::NextKeyspace(contents.next_keyspace));
        edit.push(Change::SegmentsRetired { below: 1, first_sequence: through + 1 });
        for change in edit {
            // It can contradict itself only by a bug, or by a forged file that was salvaged.
            catalog.apply(change).map_err(|error| {
                Error::corruption(&self.dir, 0, format!("what was found makes no catalog: {error:?}"))
            })?;
        }
        self.check_names(&catalog)?;
        self.has_manifest.store(true, Ordering::Relaxed);
        Manifest::create(self.fs.clone(), &self.dir, catalog, 1, Arc::new(Poison::default())).map(drop)
    }

    /// Makes sure that all tables are there that the manifest will name, and no manifest: somebody who does not ask for
    /// the lock may have been there.
    fn check_names(&self, catalog: &Catalog) -> Result<()> {
        let names = self.fs.read_dir(&self.dir)?;
        let has = |name: &str| names.iter().any(|known| known == name);
        if has(MANIFEST) {
            let what = "somebody else has put a manifest here meanwhile";
            return Err(Error::corruption(self.dir.join(MANIFEST), 0, what));
        }
        let tables = catalog.keyspaces.values().flat_map(|keyspace| keyspace.levels.iter().flatten());
        match tables.map(|meta| table_file_name(meta.number)).find(|name| !has(name)) {
            Some(gone) => Err(Error::corruption(
                self.dir.join(gone),
                0,
                "somebody else has removed this table meanwhile",
            )),
            None => Ok(()),
        }
    }

    /// Removes what was written, best effort: the manifest first, and durably, so that what is left never opens.
    /// `tables` are the numbers of all that were begun.
    pub fn remove(&self, tables: impl Iterator<Item = u64>) {
        let has_manifest = self.has_manifest.load(Ordering::Relaxed);
        for name in [MANIFEST, MANIFEST_TEMPORARY].into_iter().filter(|_| has_manifest) {
            match self.fs.remove_file(&self.dir.join(name)) {
                Err(error) if error.is_not_found() => {}
                // If a crash brought it back, it would have to be with its tables.
                Ok(()) if self.fs.sync_dir(&self.dir).is_ok() => {}
                _ => return,
            }
        }
        for number in tables {
            for name in [table_file_name(number), table_tmp_file_name(number)] {
                let _ = self.fs.remove_file(&self.dir.join(name));
            }
        }
    }
}

/// A path from the root, without `.` and `..`, by the one name of what there is of it, links followed.
fn resolved(fs: &dyn FileSystem, path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = path.ancestors().find_map(|ancestor| Some((ancestor, fs.canonical(ancestor).ok()?)));
    match known.and_then(|(ancestor, real)| Some(real.join(path.strip_prefix(ancestor).ok()?))) {
        Some(path) => full(&path),
        None => full(&path),
    }
}

/// A path from the root, without `.` and `..`. Links are not followed.
fn full(path: &Path) -> PathBuf {
    let mut full = PathBuf::new();
    for component in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match component {
            Component::ParentDir => drop(full.pop()),
            component => full.push(component),
        }
    }
    full
}
