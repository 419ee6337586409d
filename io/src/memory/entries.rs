//! The names of files: which are durable, which are there now, and the changes that lead from one to the other.
//!
//! A file is found by its whole path. Changes become durable directory by directory, in the order in which they
//! were made; a rename between two directories becomes durable in both at once. A crash may keep some of the
//! changes that were not synced and lose others, but of the changes to one name it keeps a first part: a file
//! system that lost a rename does not know what came after it under these names.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::contents::Contents;
use super::{CrashPolicy, Random};

/// A file without its name.
#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) contents: RwLock<Contents>,
}

type Files = BTreeMap<PathBuf, Arc<Inode>>;

/// All directories and files. Paths are in normal form.
#[derive(Debug)]
pub(super) struct Entries {
    directories: BTreeSet<PathBuf>,
    current: Files,
    durable: Files,
    /// What was done since it was last made durable, in order.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    /// A name for a file: its first, or one more.
    Create {
        path: PathBuf,
        inode: Arc<Inode>,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        inode: Arc<Inode>,
    },
    Remove {
        path: PathBuf,
    },
}

impl Default for Entries {
    fn default() -> Self {
        Entries {
            directories: [PathBuf::new(), PathBuf::from("/")].into(),
            current: Files::new(),
            durable: Files::new(),
            pending: Vec::new(),
        }
    }
}

impl Entries {
    pub(super) fn is_directory(&self, path: &Path) -> bool {
        self.directories.contains(path)
    }

    /// Creates a directory and those above it, durably.
    pub(super) fn create_directories(&mut self, path: &Path) -> Result<(), ErrorKind> {
        if path.ancestors().any(|ancestor| self.current.contains_key(ancestor)) {
            return Err(ErrorKind::NotADirectory);
        }
        self.directories.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    /// The names of the files and directories in a directory.
    pub(super) fn names(&self, directory: &Path) -> Result<Vec<String>, ErrorKind> {
        if !self.is_directory(directory) {
            return Err(self.why_no_directory(directory));
        }
        // Paths sort by their components, so that everything below a directory follows it without a gap.
        let below = |path: &&PathBuf| path.starts_with(directory);
        let files = self.current.range(directory.to_owned()..).map(|(path, _)| path).take_while(below);
        let directories = self.directories.range(directory.to_owned()..).take_while(below);
        let children = files.chain(directories).filter(|path| path.parent() == Some(directory));
        Ok(children
            .filter_map(|path| path.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    /// The file of this name.
    pub(super) fn file(&self, path: &Path) -> Result<&Arc<Inode>, ErrorKind> {
        self.current.get(path).ok_or_else(|| {
            if self.is_directory(path) { ErrorKind::IsADirectory } else { self.why_no_parent(path) }
        })
    }

    /// Creates an empty file.
    pub(super) fn create(&mut self, path: PathBuf) -> Result<Arc<Inode>, ErrorKind> {
        self.check_free(&path)?;
        let inode = Arc::new(Inode::default());
        self.change(Change::Create { path, inode: Arc::clone(&inode) });
        Ok(inode)
    }

    /// Gives a file a second name.
    pub(super) fn link(&mut self, from: &Path, to: PathBuf) -> Result<(), ErrorKind> {
        let inode = match self.file(from) {
            // As the operating system says it.
            Err(ErrorKind::IsADirectory) => return Err(ErrorKind::PermissionDenied),
            found => Arc::clone(found?),
        };
        self.check_free(&to)?;
        self.change(Change::Create { path: to, inode });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: PathBuf, to: PathBuf) -> Result<(), ErrorKind> {
        let inode = Arc::clone(self.file(&from)?);
        self.check_parent(&to)?;
        if self.is_directory(&to) {
            return Err(ErrorKind::IsADirectory);
        }
        // Two names of one file: both stay, as POSIX has it.
        if !self.current.get(&to).is_some_and(|known| Arc::ptr_eq(known, &inode)) {
            self.change(Change::Rename { from, to, inode });
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: PathBuf) -> Result<(), ErrorKind> {
        self.file(&path)?;
        self.change(Change::Remove { path });
        Ok(())
    }

    /// Makes the changes to a directory durable, and those which they stand on.
    pub(super) fn sync_directory(&mut self, directory: &Path) -> Result<(), ErrorKind> {
        if !self.is_directory(directory) {
            return Err(self.why_no_directory(directory));
        }
        // A rename into another directory takes the changes to that one along, and so on.
        let mut synced = BTreeSet::from([directory.to_owned()]);
        loop {
            let before = synced.len();
            for change in &self.pending {
                let parents: Vec<_> = change.paths().filter_map(Path::parent).collect();
                if parents.iter().any(|parent| synced.contains(*parent)) {
                    synced.extend(parents.into_iter().map(Path::to_owned));
                }
            }
            if synced.len() == before {
                break;
            }
        }
        for change in std::mem::take(&mut self.pending) {
            if change.paths().filter_map(Path::parent).any(|parent| synced.contains(parent)) {
                change.apply(&mut self.durable);
            } else {
                self.pending.push(change);
            }
        }
        Ok(())
    }

    /// The lengths of all files that have a name now.
    pub(super) fn total_bytes(&self) -> u64 {
        let mut counted = HashSet::new();
        let first = self.current.values().filter(|inode| counted.insert(Arc::as_ptr(inode)));
        first.map(|inode| inode.contents.read().len()).sum()
    }

    /// What a crash might find; all of it is durable.
    pub(super) fn after_crash(&self, policy: CrashPolicy) -> Entries {
        let (files, mut random) = match policy {
            CrashPolicy::DropUnsynced | CrashPolicy::DropEntries => (self.durable.clone(), None),
            CrashPolicy::KeepAll | CrashPolicy::DropBytes => (self.current.clone(), None),
            CrashPolicy::Torn { seed } => {
                let mut random = Random(seed);
                (self.torn(&mut random), Some(random))
            }
        };
        // A file that is found under two names is one file.
        let mut inodes: HashMap<*const Inode, Arc<Inode>> = HashMap::new();
        let mut found = Files::new();
        for (path, inode) in files {
            let after = inodes.entry(Arc::as_ptr(&inode)).or_insert_with(|| {
                let contents = inode.contents.read();
                let bytes = match (policy, &mut random) {
                    (CrashPolicy::DropUnsynced | CrashPolicy::DropBytes, _) => Arc::clone(contents.synced()),
                    (CrashPolicy::Torn { .. }, Some(random)) => contents.torn(random),
                    _ => Arc::clone(contents.current()),
                };
                Arc::new(Inode { contents: RwLock::new(Contents::durable(bytes)) })
            });
            found.insert(path, Arc::clone(after));
        }
        let directories = self.directories.clone();
        Entries { directories, current: found.clone(), durable: found, pending: Vec::new() }
    }

    /// The names after some of the pending changes.
    fn torn(&self, random: &mut Random) -> Files {
        let eighths = random.survival();
        let mut files = self.durable.clone();
        let mut lost: BTreeSet<&Path> = BTreeSet::new();
        for change in &self.pending {
            let survives = random.survives(eighths);
            if survives && !change.paths().any(|path| lost.contains(path)) {
                change.apply(&mut files);
            } else {
                lost.extend(change.paths());
            }
        }
        files
    }

    /// See [`MemoryFileSystem::fingerprint`](super::MemoryFileSystem::fingerprint).
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.directories.hash(&mut hasher);
        for files in [&self.current, &self.durable] {
            files.len().hash(&mut hasher);
            // Which names are those of one file is told by the first of them.
            let mut firsts: HashMap<*const Inode, usize> = HashMap::new();
            for (index, (path, inode)) in files.iter().enumerate() {
                let first = *firsts.entry(Arc::as_ptr(inode)).or_insert(index);
                let contents = inode.contents.read();
                (path, first, contents.current().hash(), contents.synced().hash()).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// A copy with inodes of its own, in which the same things are durable and not.
    pub(super) fn copy(&self) -> Entries {
        let mut copies: HashMap<*const Inode, Arc<Inode>> = HashMap::new();
        let mut copy = |inode: &Arc<Inode>| {
            let copied = copies.entry(Arc::as_ptr(inode)).or_insert_with(|| {
                let contents = inode.contents.read().clone();
                Arc::new(Inode { contents: RwLock::new(contents) })
            });
            Arc::clone(copied)
        };
        Entries {
            directories: self.directories.clone(),
            current: self.current.iter().map(|(path, inode)| (path.clone(), copy(inode))).collect(),
            durable: self.durable.iter().map(|(path, inode)| (path.clone(), copy(inode))).collect(),
            pending: self.pending.iter().map(|change| change.with_inode(&mut copy)).collect(),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    /// There is nothing of this name, and there may be.
    fn check_free(&self, path: &Path) -> Result<(), ErrorKind> {
        self.check_parent(path)?;
        match self.current.contains_key(path) || self.is_directory(path) {
            true => Err(ErrorKind::AlreadyExists),
            false => Ok(()),
        }
    }

    fn check_parent(&self, path: &Path) -> Result<(), ErrorKind> {
        match path.parent() {
            Some(parent) if !self.is_directory(parent) => Err(self.why_no_directory(parent)),
            _ => Ok(()),
        }
    }

    /// Why there is nothing at this path.
    fn why_no_parent(&self, path: &Path) -> ErrorKind {
        self.check_parent(path).err().unwrap_or(ErrorKind::NotFound)
    }

    /// Why this is not a directory.
    fn why_no_directory(&self, path: &Path) -> ErrorKind {
        let is_file = path.ancestors().any(|ancestor| self.current.contains_key(ancestor));
        if is_file { ErrorKind::NotADirectory } else { ErrorKind::NotFound }
    }
}

impl Change {
    fn apply(&self, files: &mut Files) {
        match self {
            Change::Create { path, inode } => {
                files.insert(path.clone(), Arc::clone(inode));
            }
            Change::Rename { from, to, inode } => {
                files.remove(from);
                files.insert(to.clone(), Arc::clone(inode));
            }
            Change::Remove { path } => {
                files.remove(path);
            }
        }
    }

    /// The names that it changes.
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let (first, second) = match self {
            Change::Create { path, .. } | Change::Remove { path } => (path, None),
            Change::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second).map(PathBuf::as_path)
    }

    fn with_inode(&self, copy: &mut impl FnMut(&Arc<Inode>) -> Arc<Inode>) -> Change {
        match self {
            Change::Create { path, inode } => Change::Create { path: path.clone(), inode: copy(inode) },
            Change::Rename { from, to, inode } => {
                Change::Rename { from: from.clone(), to: to.clone(), inode: copy(inode) }
            }
            Change::Remove { path } => Change::Remove { path: path.clone() },
        }
    }
}
