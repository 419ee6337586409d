//! Which tables a database consists of, as its manifest names them: [`list_tables`].

use std::path::{Path, PathBuf};

use terrace_io::{Error, FileSystem, Result};
use terrace_sstable::{TableMeta, table_file_name};

use crate::directory;
use crate::manifest_image::ManifestImage;

/// The manifest is read so many times at most while a writer replaces it.
const ATTEMPTS_MAX: u32 = 200;

/// A keyspace and its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedKeyspace {
    /// Its name.
    pub name: String,
    /// Its tables by level, level 0 first: in level 0 the newest first, in the others by key, without overlaps.
    pub levels: Vec<Vec<ListedTable>>,
}

/// A table, as the manifest knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedTable {
    /// Its file.
    pub path: PathBuf,
    /// Its id, which the file repeats: that of a file which is not this table is another one.
    pub table_id: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// How many entries it has, of all kinds and versions.
    pub entries: u64,
    /// Its first key.
    pub smallest_key: Vec<u8>,
    /// Its last key.
    pub largest_key: Vec<u8>,
}

/// Lists the keyspaces of a database and their tables, by id. Reads the manifest and nothing else: no table is opened, and
/// so none is brought into memory; nothing is written, locked or recovered, and the database may be open. Its writer
/// may replace tables at any time: a file of the list may be gone when somebody opens it, and another list has what has
/// taken its place.
///
/// # Errors
/// [`Error::NotADatabase`] if there is none, or not yet; [`Error::Corruption`] and [`Error::UnsupportedFormat`] if the
/// manifest cannot be believed; [`Error::Busy`] if it was replaced again and again.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("db");
/// let db = terrace::Db::open(&path)?;
/// db.put("apple", "red")?;
/// db.flush()?;
/// let keyspaces = terrace::list_tables(&terrace_io::OsFileSystem, &path)?;
/// assert_eq!(keyspaces[0].name, "default");
/// assert_eq!(keyspaces[0].levels[0][0].smallest_key, b"apple");
/// # Ok(())
/// # }
/// ```
pub fn list_tables(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<ListedKeyspace>> {
    let mut doubted: Option<String> = None;
    for _ in 0..ATTEMPTS_MAX {
        match ManifestImage::read(fs, dir) {
            Ok(Some(image)) => return Ok(listed(&image, dir)),
            // It says what is wrong, unless the manifest has just come.
            Ok(None) => drop(directory::list(fs, dir)?),
            // A record that is being written looks like damage, but not twice.
            Err(error) if error.is_corruption() && doubted != Some(error.to_string()) => {
                doubted = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Busy { path: dir.to_owned(), attempts: ATTEMPTS_MAX })
}

fn listed(image: &ManifestImage, dir: &Path) -> Vec<ListedKeyspace> {
    let table = |meta: &TableMeta| ListedTable {
        path: dir.join(table_file_name(meta.number)),
        table_id: meta.table_id,
        file_bytes: meta.file_len,
        entries: meta.entries,
        smallest_key: meta.smallest_key.to_vec(),
        largest_key: meta.largest_key.to_vec(),
    };
    let keyspaces = image.catalog.keyspaces.values().map(|keyspace| {
        let mut levels: Vec<Vec<ListedTable>> =
            keyspace.levels.iter().map(|level| level.iter().map(table).collect()).collect();
        levels[0].reverse();
        ListedKeyspace { name: keyspace.name.clone(), levels }
    });
    keyspaces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use terrace_io::OsFileSystem;

    #[test]
    fn the_list_is_that_of_the_manifest_and_opens_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("db");
        let missing = list_tables(&OsFileSystem, &dir).unwrap_err();
        assert!(matches!(missing, Error::NotADatabase { .. }), "{missing}");

        let db = Options::new().open(&dir).unwrap();
        let plants = db.keyspace("plants").unwrap();
        for (key, value) in [("b", "1"), ("d", "2")] {
            db.put(key, value).unwrap();
            plants.put("oak", "tree").unwrap();
            db.flush().unwrap();
        }
        let list = list_tables(&OsFileSystem, &dir).unwrap();
        let names: Vec<&str> = list.iter().map(|keyspace| &*keyspace.name).collect();
        assert_eq!(names, ["default", "plants"]);
        let smallest: Vec<&[u8]> = list[0].levels[0].iter().map(|table| &*table.smallest_key).collect();
        assert_eq!(smallest, [b"d", b"b"], "the newest first");
        for table in list.iter().flat_map(|keyspace| keyspace.levels.iter().flatten()) {
            assert_eq!(std::fs::metadata(&table.path).unwrap().len(), table.file_bytes);
        }
        let metrics = db.metrics();
        let tables: usize = metrics.keyspaces.iter().map(|keyspace| keyspace.tables).sum();
        assert_eq!(list.iter().flat_map(|keyspace| keyspace.levels.iter().flatten()).count(), tables);
        db.close().unwrap();

        // A table that is damaged is in the list as before, and a manifest that is damaged says where.
        std::fs::write(&list[0].levels[0][0].path, "no table").unwrap();
        assert_eq!(list_tables(&OsFileSystem, &dir).unwrap(), list);
        let manifest = dir.join("MANIFEST");
        let mut bytes = std::fs::read(&manifest).unwrap();
        bytes[70] ^= 1;
        std::fs::write(&manifest, bytes).unwrap();
        let error = list_tables(&OsFileSystem, &dir).unwrap_err();
        assert!(error.is_corruption() && error.path() == Some(&*manifest), "{error}");
    }
}
