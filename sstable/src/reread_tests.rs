//! A page cache that is wrong about a file: whatever byte of a table it gets wrong, every read gives what the device
//! has, and what is wrong on the device too is an error.

use std::sync::atomic::{AtomicUsize, Ordering};

use terrace_io::{Advice, DirectoryLock, Medium, Region};

use super::*;
use crate::testing::*;
use crate::*;

/// A file system whose page cache has one bit of every file wrong.
#[derive(Debug)]
struct WrongCache {
    inner: Arc<dyn FileSystem>,
    /// Which byte.
    at: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct WrongFile {
    inner: Arc<dyn File>,
    at: Arc<AtomicUsize>,
}

impl WrongFile {
    fn spoil(&self, bytes: &mut [u8], offset: u64) {
        let at = self.at.load(Ordering::Relaxed).checked_sub(offset as usize);
        if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
            *byte ^= 0x10;
        }
    }
}

impl FileSystem for WrongCache {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.inner.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        self.inner.read_dir(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let inner = self.inner.open(path, mode)?;
        Ok(Arc::new(WrongFile { inner, at: Arc::clone(&self.at) }))
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        self.inner.remove_file(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.inner.sync_dir(path)
    }
    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirectoryLock>> {
        self.inner.lock_dir(path)
    }
    fn lock_dir_shared(&self, path: &Path) -> Result<Option<Box<dyn DirectoryLock>>> {
        self.inner.lock_dir_shared(path)
    }
    fn medium(&self, path: &Path) -> Result<Medium> {
        self.inner.medium(path)
    }
}

impl File for WrongFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let read = self.inner.read_at(buf, offset)?;
        self.spoil(&mut buf[..read], offset);
        Ok(read)
    }
    fn read_past_cache_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.inner.read_past_cache_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        self.inner.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(len)
    }
    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
    fn start_writeback(&self, offset: u64, len: u64) {
        self.inner.start_writeback(offset, len);
    }
    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        self.inner.advise(advice, offset, len);
    }
    fn map(&self, len: usize) -> Result<Region> {
        let mut bytes = self.inner.map(len)?.to_vec();
        self.spoil(&mut bytes, 0);
        Ok(Region::from_vec(bytes))
    }
}

/// Contexts over the wrong cache: mapped, on the heap, by `pread`.
fn contexts(tables: &Tables, at: &Arc<AtomicUsize>) -> Vec<Arc<TableContext>> {
    let fs: Arc<dyn FileSystem> = Arc::new(WrongCache { inner: Arc::clone(&tables.fs), at: Arc::clone(at) });
    let context = || TableContext { heap_table_bytes: 0, ..TableContext::new(Arc::clone(&fs), &tables.dir) };
    vec![
        Arc::new(context()),
        Arc::new(TableContext { heap_table_bytes: u64::MAX, ..context() }),
        Arc::new(TableContext { point_reads: PointReads::Pread, ..context() }),
    ]
}

#[test]
fn what_only_memory_has_wrong_is_served_right() {
    for compression in COMPRESSIONS {
        let tables = Tables::new();
        let mut entries: Vec<Entry> =
            (0..400).map(|i| put(format!("key{i:04}"), 7 + i, vec![(i % 251) as u8; 60])).collect();
        entries.push(put("large", 4, vec![0x5a; 9600]));
        let entries = in_order(entries);
        let meta = tables.write(1, &options(compression), &entries);
        let at = Arc::new(AtomicUsize::new(usize::MAX));
        let len = meta.file_len as usize;
        // All of the end, and some of the blocks.
        for spoiled in (0..len).filter(|at| at + 200 > len || at % 89 == 0) {
            at.store(spoiled, Ordering::Relaxed);
            for context in contexts(&tables, &at) {
                let table = Table::new(Arc::clone(&context), meta.clone());
                for entry in entries.iter().step_by(5) {
                    let found = table.get(&entry.0, entry.1).unwrap().unwrap();
                    assert_eq!((found.sequence, found.value()), (entry.1, &entry.3[..]));
                    assert_eq!(found.into_slice(&table), entry.3);
                }
                for mode in MODES {
                    let mut cursor = table.cursor(mode);
                    cursor.seek_to_first().unwrap();
                    for entry in &entries {
                        assert_eq!(current(&cursor).as_ref(), Some(entry), "byte {spoiled}");
                        cursor.next().unwrap();
                    }
                    assert!(!cursor.valid());
                }
                assert_eq!(context.counters.totals().checksum_failures, 0);
                let report = verify(&*context.fs, &tables.path(1));
                assert!(report.damages.iter().all(|damage| !damage.loses_entries), "{report:?}");
                assert_eq!(report.entries, entries.len() as u64);
            }
        }
        at.store(100, Ordering::Relaxed);
        for context in contexts(&tables, &at) {
            let table = Table::new(Arc::clone(&context), meta.clone());
            table.get(&entries[0].0, entries[0].1).unwrap();
            assert_eq!(context.counters.totals().disagreements, 1);
        }
    }
}

#[test]
fn what_the_device_has_wrong_is_an_error() {
    let tables = Tables::new();
    let entries: Vec<Entry> = (0..400).map(|i| put(format!("key{i:04}"), 7, vec![3; 60])).collect();
    let meta = tables.write(1, &options(Compression::None), &entries);
    let mut bytes = tables.bytes(&tables.path(1));
    bytes[5000] ^= 1;
    tables.memory.replace_bytes(&tables.path(1), bytes).unwrap();
    for context in contexts(&tables, &Arc::new(AtomicUsize::new(usize::MAX))) {
        let table = Table::new(Arc::clone(&context), meta.clone());
        let mut cursor = table.cursor(ScanMode::Stream { drop_behind: false });
        let mut step = cursor.seek_to_first();
        while step.is_ok() && cursor.valid() {
            step = cursor.next();
        }
        let error = step.unwrap_err();
        assert!(matches!(error, Error::Corruption { offset: 4096, .. }), "{error}");
        let totals = context.counters.totals();
        assert_eq!((totals.checksum_failures, totals.disagreements), (1, 0));
    }
}
