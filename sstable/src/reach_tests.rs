//! The tests of `reach.rs`: tables on a real disk, of which single pages are forgotten.

use std::path::Path;
use std::sync::Arc;

use terrace_io::{Advice, FileSystem, OpenMode, OsFileSystem, PAGE_BYTES};

use crate::testing::{Entry, identity, options, put};
use crate::*;

/// A mapped table on a disk, of which everything can be forgotten.
struct Forgetful {
    table: Arc<Table>,
    fs: Arc<dyn FileSystem>,
}

impl Forgetful {
    /// `None` if this file system keeps everything.
    fn new(dir: &Path, options: &TableOptions, entries: &[Entry], uses_locators: bool) -> Option<Forgetful> {
        let fs: Arc<dyn FileSystem> = Arc::new(OsFileSystem);
        let mut writer = TableWriter::create(&fs, dir, identity(4), options).unwrap();
        for entry in entries {
            writer.add(&entry.0, entry.1, entry.2, &entry.3).unwrap();
        }
        let meta = writer.finish().unwrap();
        let context =
            TableContext { point_reads: PointReads::Mmap.into(), ..TableContext::new(fs.clone(), dir) };
        context.uses_locators.store(uses_locators, std::sync::atomic::Ordering::Relaxed);
        let forgetful = Forgetful { table: Table::new(Arc::new(context), meta), fs };
        forgetful.table.check().unwrap();
        forgetful.forget();
        if forgetful.table.resident_bytes() != Some(0) {
            eprintln!("skipped: this file system does not forget pages");
            return None;
        }
        Some(forgetful)
    }

    fn forget(&self) {
        let region = self.table.storage().unwrap().metadata.region();
        region.advise(Advice::DontNeed, 0..region.len());
        let file = self.fs.open(self.table.path(), OpenMode::Read).unwrap();
        file.advise(Advice::DontNeed, 0, region.len() as u64);
    }

    /// How many pages are in memory.
    fn pages(&self) -> u64 {
        self.table.resident_bytes().unwrap().div_ceil(PAGE_BYTES as u64)
    }

    fn resident(&self, entry: &Entry) -> terrace_io::Result<Option<Vec<u8>>> {
        let found = self.table.get_resident(&entry.0, u64::MAX)?;
        Ok(found.map(|found| found.value().to_vec()))
    }
}

/// Whatever a get has looked at, one that must not wait looks at too, and asks for each of these pages: with one of them
/// gone it refuses, and it brings none in.
#[test]
fn each_page_that_a_get_needs_is_asked_for() {
    let entries: Vec<Entry> = (0..30_000).map(|i| put(format!("{i:08}"), 1, [i as u8; 100])).collect();
    for (compression, uses_locators) in
        [(Compression::None, true), (Compression::None, false), (Compression::Snappy, true)]
    {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let Some(table) = Forgetful::new(dir.path(), &options(compression), &entries, uses_locators) else {
            return;
        };
        // So that filter, locator and blocks are known and checked.
        for entry in &entries {
            table.table.get(&entry.0, u64::MAX).unwrap().unwrap();
        }
        for entry in entries.iter().step_by(1_777) {
            assert_eq!(table.resident(entry).unwrap(), Some(entry.3.to_vec()));
        }
        for entry in entries.iter().step_by(1_777) {
            table.forget();
            // One page after the other comes in, and each time the next one is missed.
            let region = table.table.storage().unwrap().metadata.region();
            assert!(table.resident(entry).unwrap_err().is_would_wait());
            assert_eq!(table.pages(), 0, "asking brings nothing in");
            table.table.get(&entry.0, u64::MAX).unwrap().unwrap();
            let needed: Vec<usize> = (0..region.len().div_ceil(PAGE_BYTES))
                .filter(|page| region.is_resident(page * PAGE_BYTES..page * PAGE_BYTES + 1))
                .collect();
            assert!(needed.len() >= 2, "metadata and a block: {needed:?}");
            assert_eq!(table.resident(entry).unwrap(), Some(entry.3.to_vec()));
            for missing in &needed {
                table.forget();
                for page in needed.iter().filter(|page| *page != missing) {
                    std::hint::black_box(region[page * PAGE_BYTES]);
                }
                let before = table.pages();
                assert!(table.resident(entry).unwrap_err().is_would_wait(), "page {missing} of {needed:?}");
                assert_eq!(table.pages(), before);
            }
        }
    }
}

#[test]
fn a_slice_is_brought_in_as_a_whole() {
    let entries = [put("large", 1, vec![5; 50_000]), put("small", 1, [7; 10])];
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let Some(table) = Forgetful::new(dir.path(), &options(Compression::None), &entries, true) else { return };
    let large = table.table.get(b"large", 1).unwrap().unwrap().into_slice(&table.table);
    table.forget();
    assert_eq!(table.pages(), 0);
    large.bring_in();
    assert!(table.pages() >= 50_000 / PAGE_BYTES as u64);
    assert_eq!(table.resident(&entries[0]).ok(), None, "the locator was forgotten");
    Slice::from(vec![1; 10]).bring_in();
}
