//! LevelDB 1.22, the C++ one, through the bindings of `leveldb-sys`. (The crate `leveldb` wraps them, but cannot set a
//! filter, and without one the engine would look worse than it is.)
//!
//! After its documentation: a Bloom filter of 10 bits per key, a block cache larger than the data.
#![expect(unsafe_code, reason = "leveldb-sys has LevelDB's C functions and nothing above them")]

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr;

use leveldb_sys::*;
use terrace_tools::ycsb::record::Key;

use super::quiet;
use crate::engine::{Direction, Durability, Engine, OpenOptions, ReadsInPlace, Result, Span, View, sum};

/// Tables that it may keep open: all of them.
const OPEN_FILES_MAX: i32 = 20_000;

/// Opens it.
pub fn open(dir: &Path, options: &OpenOptions) -> Result<Box<dyn Engine>> {
    let cache_bytes = options.cache_bytes();
    let name = CString::new(dir.as_os_str().as_encoded_bytes())?;
    let synced = options.durability == Durability::Synced;
    let mut settings = vec![
        format!(
            "block cache {cache_bytes}, Bloom filter of 10 bits per key, max_open_files {OPEN_FILES_MAX}"
        ),
        format!("WriteOptions.sync {synced}"),
        "no compression; checksums as by default: not verified by reads".to_owned(),
    ];
    if let Some(bytes) = options.memtable_bytes {
        settings.push(format!("write_buffer_size {bytes}"));
    }
    let write_buffer = options.memtable_bytes.map(usize::try_from).transpose()?;
    let mut error = ptr::null_mut();
    // SAFETY: each object is made here by the function that its type belongs to, and lives until `LevelDb` is dropped;
    // the name is a C string that outlives the call.
    let db = unsafe {
        let cache = leveldb_cache_create_lru(usize::try_from(cache_bytes)?);
        let filter = leveldb_filterpolicy_create_bloom(10);
        let opened = leveldb_options_create();
        leveldb_options_set_create_if_missing(opened, 1);
        leveldb_options_set_compression(opened, Compression::No);
        leveldb_options_set_cache(opened, cache);
        leveldb_options_set_filter_policy(opened, filter);
        leveldb_options_set_max_open_files(opened, OPEN_FILES_MAX);
        if let Some(bytes) = write_buffer {
            leveldb_options_set_write_buffer_size(opened, bytes);
        }
        let write = leveldb_writeoptions_create();
        leveldb_writeoptions_set_sync(write, u8::from(synced));
        let read = leveldb_readoptions_create();
        let db = leveldb_open(opened, name.as_ptr(), &raw mut error);
        LevelDb { db, opened, cache, filter, read, write, settings }
    };
    check(error)?;
    Ok(Box::new(db))
}

/// What a function of LevelDB said through its last argument.
fn check(error: *mut c_char) -> Result {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: an error is a C string that LevelDB allocated and left to its caller.
    let text = unsafe {
        let text = CStr::from_ptr(error).to_string_lossy().into_owned();
        leveldb_free(error.cast());
        text
    };
    Err(text.into())
}

struct LevelDb {
    /// Null only if it could not be opened.
    db: *mut leveldb_t,
    opened: *mut leveldb_options_t,
    cache: *mut leveldb_cache_t,
    filter: *mut leveldb_filterpolicy_t,
    read: *mut leveldb_readoptions_t,
    write: *mut leveldb_writeoptions_t,
    settings: Vec<String>,
}

// SAFETY: LevelDB's handle may be used by several threads at once, and the options are only read after the open.
unsafe impl Sync for LevelDb {}

impl Drop for LevelDb {
    fn drop(&mut self) {
        // SAFETY: all come from `open`, nothing borrows from them any more, and the database goes before what it uses.
        unsafe {
            if !self.db.is_null() {
                leveldb_close(self.db);
            }
            leveldb_options_destroy(self.opened);
            leveldb_readoptions_destroy(self.read);
            leveldb_writeoptions_destroy(self.write);
            leveldb_cache_destroy(self.cache);
            leveldb_filterpolicy_destroy(self.filter);
        }
    }
}

impl LevelDb {
    /// Shows the value of a key to `read`, as of the options.
    #[inline]
    fn find_as_of<T>(
        &self,
        options: *const leveldb_readoptions_t,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>> {
        let (mut length, mut error) = (0, ptr::null_mut());
        // SAFETY: the database is open, the options are its own or a view's, the key outlives the call.
        let value = unsafe {
            leveldb_get(self.db, options, key.as_ptr().cast(), key.len(), &raw mut length, &raw mut error)
        };
        check(error)?;
        if value.is_null() {
            return Ok(None);
        }
        // SAFETY: LevelDB allocated `length` bytes there and left them to its caller.
        let result = read(unsafe { std::slice::from_raw_parts(value.cast(), length) });
        // SAFETY: as above, and nobody looks at them after this.
        unsafe { leveldb_free(value.cast()) };
        Ok(Some(result))
    }

    /// Writes the memtable to a table: that is what compacting any range does first, and there is nothing in this one.
    fn flush(&self) {
        let nowhere = [0_u8];
        // SAFETY: the database is open, and both keys outlive the call.
        unsafe { leveldb_compact_range(self.db, nowhere.as_ptr().cast(), 1, nowhere.as_ptr().cast(), 1) };
    }
}

impl ReadsInPlace for LevelDb {
    #[inline]
    fn find<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        self.find_as_of(self.read, key, read)
    }

    #[inline]
    fn each(&self, span: Span<'_>, mut visit: impl FnMut(&[u8], &[u8])) -> Result {
        let mut entries = Entries::new(self);
        match (span.direction, span.from) {
            (Direction::Forward, Some(from)) => entries.seek(from),
            (Direction::Forward, None) => entries.seek_to_first(),
            (Direction::Reverse, None) => entries.seek_to_last(),
            (Direction::Reverse, Some(from)) => {
                // There is no seek to the last key at or below another.
                entries.seek(from);
                match entries.item() {
                    Some((key, _)) if key == from => {}
                    Some(_) => entries.step(Direction::Reverse),
                    None => entries.seek_to_last(),
                }
            }
        }
        let mut left = span.limit;
        while left > 0 {
            let Some((key, value)) = entries.item() else { break };
            visit(key, value);
            left -= 1;
            if left > 0 {
                entries.step(span.direction);
            }
        }
        entries.status()
    }
}

impl Engine for LevelDb {
    fn settings(&self) -> Vec<String> {
        self.settings.clone()
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result {
        let mut error = ptr::null_mut();
        // SAFETY: the database is open, key and value outlive the call, which copies them.
        unsafe {
            let (key_start, value_start) = (key.as_ptr().cast(), value.as_ptr().cast());
            leveldb_put(self.db, self.write, key_start, key.len(), value_start, value.len(), &raw mut error);
        }
        check(error)
    }

    fn put_batch(&self, records: &[(Key, Vec<u8>)]) -> Result {
        let mut error = ptr::null_mut();
        // SAFETY: the batch is made and freed here and copies what is put into it; the database is open.
        unsafe {
            let batch = leveldb_writebatch_create();
            for (key, value) in records {
                let (key_start, value_start) = (key.as_ptr().cast(), value.as_ptr().cast());
                leveldb_writebatch_put(batch, key_start, key.len(), value_start, value.len());
            }
            leveldb_write(self.db, self.write, batch, &raw mut error);
            leveldb_writebatch_destroy(batch);
        }
        check(error)
    }

    fn delete(&self, key: &[u8]) -> Result {
        let mut error = ptr::null_mut();
        // SAFETY: the database is open, and the key outlives the call.
        unsafe { leveldb_delete(self.db, self.write, key.as_ptr().cast(), key.len(), &raw mut error) };
        check(error)
    }

    fn view(&self) -> Result<Box<dyn View + '_>> {
        // SAFETY: the database is open and outlives the view, which releases both.
        let (snapshot, read) = unsafe {
            let (snapshot, read) = (leveldb_create_snapshot(self.db), leveldb_readoptions_create());
            leveldb_readoptions_set_snapshot(read, snapshot);
            (snapshot, read)
        };
        Ok(Box::new(LevelDbView { engine: self, snapshot, read }))
    }

    fn settle(&self) -> Result {
        self.flush();
        quiet::wait(|| false);
        Ok(())
    }

    fn compact(&mut self) -> Result<bool> {
        // SAFETY: the database is open; without keys it compacts everything.
        unsafe { leveldb_compact_range(self.db, ptr::null(), 0, ptr::null(), 0) };
        self.settle()?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result {
        Ok(())
    }
}

struct LevelDbView<'a> {
    engine: &'a LevelDb,
    snapshot: *mut leveldb_snapshot_t,
    read: *mut leveldb_readoptions_t,
}

impl View for LevelDbView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<u64>> {
        self.engine.find_as_of(self.read, key, sum)
    }
}

impl Drop for LevelDbView<'_> {
    fn drop(&mut self) {
        // SAFETY: both come from `view`, and the database is still open.
        unsafe {
            leveldb_readoptions_destroy(self.read);
            leveldb_release_snapshot(self.engine.db, self.snapshot);
        }
    }
}

/// An iterator of LevelDB.
struct Entries<'a> {
    iterator: *mut leveldb_iterator_t,
    engine: std::marker::PhantomData<&'a LevelDb>,
}

impl<'a> Entries<'a> {
    fn new(engine: &'a LevelDb) -> Self {
        // SAFETY: the database is open and outlives what is made here.
        let iterator = unsafe { leveldb_create_iterator(engine.db, engine.read) };
        Entries { iterator, engine: std::marker::PhantomData }
    }

    fn seek(&mut self, key: &[u8]) {
        // SAFETY: the iterator is this one's alone, and the key outlives the call.
        unsafe { leveldb_iter_seek(self.iterator, key.as_ptr().cast(), key.len()) };
    }

    fn seek_to_first(&mut self) {
        // SAFETY: the iterator is this one's alone.
        unsafe { leveldb_iter_seek_to_first(self.iterator) };
    }

    fn seek_to_last(&mut self) {
        // SAFETY: the iterator is this one's alone.
        unsafe { leveldb_iter_seek_to_last(self.iterator) };
    }

    /// Only while there is an entry.
    #[inline]
    fn step(&mut self, direction: Direction) {
        // SAFETY: the iterator is this one's alone, and stands on an entry.
        unsafe {
            match direction {
                Direction::Forward => leveldb_iter_next(self.iterator),
                Direction::Reverse => leveldb_iter_prev(self.iterator),
            }
        }
    }

    /// Where it stands.
    #[inline]
    fn item(&self) -> Option<(&[u8], &[u8])> {
        let (mut key_length, mut value_length) = (0_usize, 0_usize);
        // SAFETY: key and value stay where they are until the iterator moves, which borrows it for itself. LevelDB
        // writes the lengths through pointers that the bindings have as constant ones.
        unsafe {
            if leveldb_iter_valid(self.iterator) == 0 {
                return None;
            }
            let key = leveldb_iter_key(self.iterator, &raw mut key_length);
            let value = leveldb_iter_value(self.iterator, &raw mut value_length);
            let key = std::slice::from_raw_parts(key.cast(), key_length);
            Some((key, std::slice::from_raw_parts(value.cast(), value_length)))
        }
    }

    fn status(&self) -> Result {
        let mut error: *mut c_char = ptr::null_mut();
        // SAFETY: the iterator is this one's alone. LevelDB writes the error through a pointer that the bindings have
        // as a constant one.
        unsafe { leveldb_iter_get_error(self.iterator, (&raw mut error).cast()) };
        check(error)
    }
}

impl Drop for Entries<'_> {
    fn drop(&mut self) {
        // SAFETY: it comes from `new`, and nothing borrows from it any more.
        unsafe { leveldb_iter_destroy(self.iterator) };
    }
}
