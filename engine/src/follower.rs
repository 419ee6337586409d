//! A database that is opened for reading only, while somebody else may be writing to it.
//!
//! A [`View`] is a database at one moment: the tables of a manifest, and what the log holds beyond them. It is made
//! without a lock, a pin or any other trace that a writer could notice, and so the files may change while they are
//! read. What keeps a view from being a mixture:
//!
//! 1. The manifest is read.
//! 2. All its tables are opened. A table never changes, and what is opened outlives its removal.
//! 3. The log that it names is read to its end ([`LogTail`]). A segment that is used again in the meantime has no
//!    records for a reader of its earlier life, since each carries its segment's number.
//! 4. If the manifest still says the same, the view is good: a clear, a drop or a new keyspace is in the manifest before
//!    anything that comes after it in the history is in the log, and a file goes after the manifest has let go of it.
//!    If not, all of it is done again, but for the tables that are open and the records that were read.
//!
//! What looks like damage under a manifest that has not changed may still be a record that was half written when it was
//! read. Such an error counts when the next attempt comes to the same one: by then that record is there.
//!
//! Nothing here writes, syncs, locks or removes a file, and no thread is started.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use terrace_io::{Error, FileSystem, Result, prepare_fences};
use terrace_sstable::{BlockCache, Table, TableContext};

use crate::catalog::{Catalog, CatalogKeyspace};
use crate::directory;
use crate::health::Health;
use crate::log_tail::LogTail;
use crate::manifest::require_whole_log;
use crate::manifest_image::ManifestImage;
use crate::memory::{Memory, pin_metadata};
use crate::options::{KeyspaceOptions, Options};
use crate::swap::{Guard, Swap};
use crate::version::{State, Version};

/// A view is given up after so many attempts in which the manifest has changed. Each of them but the first opens only
/// tables that are new and reads only the log that was written since; the manifest it reads as a whole.
const ATTEMPTS_MAX: u32 = 200;

/// What all handles of a database that is opened for reading only share.
pub(crate) struct Follower {
    pub dir: PathBuf,
    pub options: Options,
    pub tables: Arc<TableContext>,
    memory: Memory,
    view: Swap<View>,
    progress: Mutex<Progress>,
    /// Tables that the view no longer has, as long as a reader keeps them.
    left: Mutex<Vec<Weak<Table>>>,
    opened: Instant,
}

/// A database at one moment, as a whole.
pub(crate) struct View {
    /// What the writes up to this sequence number have made of it.
    pub sequence: u64,
    /// By id.
    pub keyspaces: Vec<ViewedKeyspace>,
    pub image: Arc<ManifestImage>,
    /// The tables that were not there.
    missing_tables: Vec<PathBuf>,
}

/// A keyspace at one moment.
pub(crate) struct ViewedKeyspace {
    pub known: Arc<KnownKeyspace>,
    pub state: Arc<State>,
}

/// What stays the same of a keyspace as long as it exists.
#[derive(Debug)]
pub(crate) struct KnownKeyspace {
    pub id: u32,
    pub name: String,
    pub options: KeyspaceOptions,
}

impl View {
    /// The place of a keyspace among the others, if it exists.
    pub fn index_of(&self, keyspace: &KnownKeyspace) -> Option<usize> {
        let index = self.index_of_id(keyspace.id)?;
        // An id comes again if the manifest could not record the first keyspace that had it, but was seen to.
        ptr::eq(&*self.keyspaces[index].known, keyspace).then_some(index)
    }

    fn index_of_id(&self, id: u32) -> Option<usize> {
        self.keyspaces.binary_search_by_key(&id, |keyspace| keyspace.known.id).ok()
    }

    fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.keyspaces.iter().flat_map(|keyspace| keyspace.state.version.tables()).map(|(_, table)| table)
    }

    /// Whether it shows what another one shows, from the same places.
    fn is(&self, other: &View) -> bool {
        let is = |(one, other): (&ViewedKeyspace, &ViewedKeyspace)| {
            Arc::ptr_eq(&one.known, &other.known) && Arc::ptr_eq(&one.state, &other.state)
        };
        self.sequence == other.sequence
            && self.keyspaces.len() == other.keyspaces.len()
            && self.keyspaces.iter().zip(&other.keyspaces).all(is)
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Follower {
    /// Opens a database. See [`crate::Db::open_read_only`].
    pub fn open(dir: &Path, options: &Options) -> Result<Follower> {
        let fs = options.file_system.clone();
        let mut tables = TableContext::new(fs, dir);
        tables.point_reads = options.point_reads.into();
        tables.advice = options.advice.into();
        if options.block_cache_bytes > 0 {
            tables.cache = Some(Arc::new(BlockCache::new(options.block_cache_bytes)));
        }
        let tables = Arc::new(tables);
        let mut progress = Progress { memtable_bytes: options.one_memtable_bytes(), ..Progress::default() };
        let view = progress.catch_up(&tables, None)?;
        for path in &view.missing_tables {
            tracing::error!(path = %path.display(), "a table is missing: reads of its keys will fail");
        }
        let memory = Memory::new(options);
        memory.learn();
        use_memory(&memory, &tables, &view);
        // It has taken longer than this already.
        prepare_fences();
        Ok(Follower {
            dir: dir.to_owned(),
            options: options.clone(),
            tables,
            memory,
            view: Swap::new(view),
            progress: Mutex::new(progress),
            left: Mutex::default(),
            opened: Instant::now(),
        })
    }

    /// Moves on to what is there now. See [`crate::Db::refresh`].
    pub fn refresh(&self) -> Result<bool> {
        let mut progress = self.progress.lock();
        let before = self.view.load_full();
        let view = progress.catch_up(&self.tables, Some(&before))?;
        // A history that ends earlier lacks writes that have failed since they were seen. What readers see must not go
        // back, so they see no more of it before it has come as far.
        if view.sequence < before.sequence || view.is(&before) {
            if self.tables.pins.was_short() {
                // What an earlier view had is gone, perhaps.
                pin_metadata(before.tables(), || false);
            }
            return Ok(false);
        }
        let mut left = self.left.lock();
        left.retain(|table| table.strong_count() > 0);
        let now: HashSet<u64> = view.tables().map(|table| table.meta().number).collect();
        let gone = before.tables().filter(|table| !now.contains(&table.meta().number));
        left.extend(gone.map(Arc::downgrade));
        drop(left);
        use_memory(&self.memory, &self.tables, &view);
        self.view.store(Arc::new(view));
        Ok(true)
    }

    /// What there is to read now, for a look.
    #[inline]
    pub fn view(&self) -> Guard<'_, View> {
        self.view.load()
    }

    /// See [`crate::Db::health`].
    pub fn health(&self) -> Health {
        let view = self.view();
        let states = view.keyspaces.iter().map(|keyspace| &keyspace.state);
        Health {
            missing_tables: view.missing_tables.clone(),
            lost_mappings: states.flat_map(|state| state.version.lost_mappings()).collect(),
            ..Health::default()
        }
    }

    /// Tables that the view no longer has and that are still read: how many, and their bytes.
    pub fn pinned(&self) -> (usize, u64) {
        let left = self.left.lock();
        let pinned = left.iter().filter_map(Weak::upgrade);
        pinned.fold((0, 0), |(tables, bytes), table| (tables + 1, bytes + table.meta().file_len))
    }

    /// How long ago it was opened.
    pub fn uptime(&self) -> Duration {
        self.opened.elapsed()
    }
}

/// Goes by what memory allows the tables of a view.
fn use_memory(memory: &Memory, context: &TableContext, view: &View) {
    if memory.judge(context, view.tables()) {
        pin_metadata(view.tables(), || false);
    }
}

/// What was read so far: a view is made of it, and the next one goes on from it.
#[derive(Default)]
struct Progress {
    /// The heap that one memtable may take.
    memtable_bytes: u64,
    image: Option<Arc<ManifestImage>>,
    /// The tables of the image, by number.
    tables: HashMap<u64, Arc<Table>>,
    missing_tables: Vec<PathBuf>,
    tail: Option<LogTail>,
}

impl Progress {
    /// A view of what is there now.
    fn catch_up(&mut self, context: &Arc<TableContext>, before: Option<&View>) -> Result<View> {
        let mut doubted: Option<String> = None;
        for _ in 0..ATTEMPTS_MAX {
            match self.attempt(context, before) {
                Ok(Some(view)) => return Ok(view),
                // The writer was faster.
                Ok(None) => doubted = None,
                Err(error) if error.is_corruption() || error.is_not_found() => {
                    let text = error.to_string();
                    if doubted.as_ref() == Some(&text) {
                        return Err(error);
                    }
                    doubted = Some(text);
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy { path: context.dir.clone(), attempts: ATTEMPTS_MAX })
    }

    /// Reads what there is to read. `None` if the manifest has changed meanwhile.
    fn attempt(&mut self, context: &Arc<TableContext>, before: Option<&View>) -> Result<Option<View>> {
        let (fs, dir) = (&*context.fs, &*context.dir);
        let is_new = self.read_manifest(fs, dir, before)?;
        let Some(image) = self.image.clone() else { return Ok(None) };
        let read = self.read_rest(context, &image.catalog, is_new, before.is_none());
        if read.is_err() {
            // The next attempt goes on from an image whose tables are open, or reads it again.
            self.image = None;
        }
        // Whatever came of that may have been the writer at work.
        if !image.is_current(fs, dir)? {
            return Ok(None);
        }
        read?;
        Ok(Some(self.view(image, before)))
    }

    /// Makes sure that the image is that of the manifest. Says whether it is another one than before.
    fn read_manifest(&mut self, fs: &dyn FileSystem, dir: &Path, before: Option<&View>) -> Result<bool> {
        if let Some(image) = &self.image
            && image.is_current(fs, dir)?
        {
            return Ok(false);
        }
        self.image = None;
        let Some(image) = ManifestImage::read(fs, dir)? else {
            // It says what is wrong, unless the manifest has just come.
            return directory::list(fs, dir).map(|_| true);
        };
        if before.is_some_and(|before| before.image.catalog.database_id != image.catalog.database_id) {
            let what = "another database has taken the place of the one that was opened".to_owned();
            return Err(Error::NotADatabase { path: dir.to_owned(), what });
        }
        self.image = Some(Arc::new(image));
        Ok(true)
    }

    /// Opens the tables that a catalog names, and reads the log.
    fn read_rest(
        &mut self,
        context: &Arc<TableContext>,
        catalog: &Catalog,
        is_new: bool,
        is_open: bool,
    ) -> Result<()> {
        let (fs, dir) = (&*context.fs, &*context.dir);
        if is_new {
            self.open_tables(context, catalog, is_open)?;
        }
        if is_open {
            let names = directory::list(fs, dir)?;
            require_whole_log(fs, dir, catalog, &names)?;
        }
        let new = || LogTail::new(catalog, self.memtable_bytes);
        self.tail.get_or_insert_with(new).follow(fs, dir, catalog, is_new)
    }

    /// Opens all tables of a catalog, so that nothing can take them away. One that is not there is named; one that is
    /// damaged or cannot be read stays as it is, and whoever reads from it will hear of it.
    ///
    /// A refresh does not go on to tables that are not there: the manifest's record of them may not have been written
    /// after all, and what was seen before is whole.
    fn open_tables(&mut self, context: &Arc<TableContext>, catalog: &Catalog, is_open: bool) -> Result<()> {
        let mut tables = HashMap::new();
        let mut missing_tables = Vec::new();
        let levels = catalog.keyspaces.values().flat_map(|keyspace| &keyspace.levels);
        for meta in levels.flatten() {
            let known = self.tables.get(&meta.number).filter(|table| table.meta() == meta);
            let table = known.cloned().unwrap_or_else(|| Table::new(context.clone(), meta.clone()));
            if known.is_none() || self.missing_tables.iter().any(|path| path == table.path()) {
                match table.check() {
                    Err(error) if error.is_not_found() && (is_open || known.is_some()) => {
                        missing_tables.push(table.path().to_owned());
                    }
                    // It could be opened later, if the writer leaves it there; and another time it can be.
                    Err(error) if error.is_out_of_resources() || error.is_not_found() => return Err(error),
                    Err(error) => {
                        tracing::error!(%error, "a table cannot be read: reads of its keys will fail")
                    }
                    Ok(()) => {}
                }
            }
            tables.insert(meta.number, table);
        }
        (self.tables, self.missing_tables) = (tables, missing_tables);
        Ok(())
    }

    /// What was read, as a view. Shares with the view before what has not changed since.
    fn view(&self, image: Arc<ManifestImage>, before: Option<&View>) -> View {
        let tail = self.tail.as_ref().expect("the log was read");
        let keyspace = |(&id, keyspace): (&u32, &CatalogKeyspace)| {
            let old = before.and_then(|before| {
                let catalogued = before.image.catalog.keyspaces.get(&id)?;
                let is_same = catalogued.name == keyspace.name && catalogued.options == keyspace.options;
                is_same.then_some((&before.keyspaces[before.index_of_id(id)?], catalogued))
            });
            let known = match old {
                Some((old, _)) => old.known.clone(),
                None => Arc::new(KnownKeyspace {
                    id,
                    name: keyspace.name.clone(),
                    options: keyspace.options.clone(),
                }),
            };
            let version = match old {
                Some((old, catalogued)) if catalogued.levels == keyspace.levels => old.state.version.clone(),
                _ => Arc::new(Version::from_levels(&keyspace.levels, |meta| {
                    self.tables.get(&meta.number).expect("all tables of the image were opened").clone()
                })),
            };
            let state = tail.state(id, version, old.map(|(old, _)| &old.state));
            ViewedKeyspace { known, state }
        };
        let keyspaces = image.catalog.keyspaces.iter().map(keyspace).collect();
        let sequence = tail.last_sequence().max(image.catalog.last_sequence);
        View { sequence, keyspaces, image, missing_tables: self.missing_tables.clone() }
    }
}
