//! Goal: verify and salvage treat a table as what its intact parts say that it is. Method: one table of a database in
//! memory is given other bytes, with or without the checksums that would make them right.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use terrace_io::{Checksum, FaultFileSystem, FaultRule, FileSystem, MemoryFileSystem, Operation};
use terrace_sstable::parse_table_file_name;

use super::*;
use crate::{Error, Options, SalvageOptions};

/// Bytes of a table's footer.
const FOOTER_BYTES: usize = 64;
const KEYS: usize = 2000;

/// A closed database of one table.
struct Sample {
    memory: MemoryFileSystem,
    table: PathBuf,
    bytes: Vec<u8>,
}

impl Sample {
    fn new() -> Sample {
        let memory = MemoryFileSystem::new();
        let db = Options::new().file_system(Arc::new(memory.clone())).open("/db").unwrap();
        for number in 0..KEYS {
            db.put(format!("key {number:04}"), "value").unwrap();
        }
        db.close().unwrap();
        let names = memory.read_dir(Path::new("/db")).unwrap();
        let name = names.iter().find(|name| parse_table_file_name(name).is_some()).unwrap();
        let table = Path::new("/db").join(name);
        let bytes = memory.file_bytes(&table).unwrap();
        Sample { memory, table, bytes }
    }

    /// The number at `at` of the footer.
    fn footer(&self, at: usize) -> u64 {
        let at = self.bytes.len() - FOOTER_BYTES + at;
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    /// Where the metadata region starts, and where it ends.
    fn metadata(&self) -> (usize, usize) {
        let start = self.footer(8).next_multiple_of(4096) as usize;
        (start, start + self.footer(16) as usize)
    }

    /// Changes the table, and makes the checksums of its directory and footer right if `seal` is set.
    fn change(&self, seal: bool, change: impl FnOnce(&mut [u8])) {
        let mut bytes = self.bytes.clone();
        change(&mut bytes);
        if seal {
            let end = bytes.len() - FOOTER_BYTES;
            let crc = Checksum::new().u64(self.footer(0)).bytes(&bytes[self.metadata().1..end]).finish();
            bytes[end + 28..end + 32].copy_from_slice(&crc.to_le_bytes());
            let crc = Checksum::new().bytes(&bytes[end..end + 52]).finish();
            bytes[end + 52..end + 56].copy_from_slice(&crc.to_le_bytes());
        }
        self.memory.replace_bytes(&self.table, bytes).unwrap();
    }

    fn salvage(&self, fs: Arc<dyn FileSystem>, dry_run: bool) -> Result<SalvageReport, Error> {
        let report = salvage("/db", "/new", &SalvageOptions::new().file_system(fs).dry_run(dry_run));
        let left = self.memory.read_dir(Path::new("/new")).unwrap_or_default();
        for name in &left {
            self.memory.remove_file(&Path::new("/new").join(name)).unwrap();
        }
        assert!(report.is_ok() || left.iter().all(|name| name == "LOCK"), "{left:?}");
        report
    }
}

#[test]
fn a_table_of_a_newer_format_is_refused_and_not_lost() {
    let sample = Sample::new();
    let end = sample.bytes.len() - FOOTER_BYTES;
    // The version, and the kind of the last metadata block, which becomes that of range tombstones.
    let changes = [(end + 48, 2, 2), (end - 24, 5, 0x8000_0005)];
    for has_manifest in [true, false] {
        if !has_manifest {
            sample.memory.remove_file(Path::new("/db/MANIFEST")).unwrap();
        }
        for ((at, value, found_kind), dry_run) in changes.into_iter().flat_map(|c| [(c, true), (c, false)]) {
            sample.change(true, |bytes| bytes[at] = value);
            let refused = sample.salvage(Arc::new(sample.memory.clone()), dry_run).unwrap_err();
            assert!(
                matches!(&refused, Error::UnsupportedFormat { path, found, .. }
                    if *path == sample.table && *found == found_kind),
                "{refused}"
            );
            // Without the right checksums it is damage: that of a table which the manifest describes costs nothing.
            sample.change(false, |bytes| bytes[at] = value);
            let report = sample.salvage(Arc::new(sample.memory.clone()), dry_run).unwrap();
            assert_eq!(report.is_complete(), has_manifest, "{report:?}");
            assert_eq!(report.keyspaces[0].keys_kept, if has_manifest { KEYS as u64 } else { 0 });
        }
    }
}

#[test]
fn a_footer_that_cannot_be_read_costs_one_table_without_a_manifest_too() {
    let sample = Sample::new();
    let faults = FaultFileSystem::new(Arc::new(sample.memory.clone()));
    faults.add(FaultRule::on(Operation::Read).path(".sst"));
    for has_manifest in [true, false] {
        if !has_manifest {
            sample.memory.remove_file(Path::new("/db/MANIFEST")).unwrap();
        }
        let report = sample.salvage(Arc::new(faults.clone()), false).unwrap();
        assert_eq!(report.lost.len(), 1);
        assert!(report.lost[0].what.contains("cannot read"), "{}", report.lost[0].what);
    }
}

#[test]
fn what_is_counted_and_not_listed_is_as_bad_as_what_is_listed() {
    let sample = Sample::new();
    let (start, _) = sample.metadata();
    // Buckets without entries, and the checksums of their chunks right: lookups fail at more places than are listed.
    sample.change(true, |bytes| {
        let buckets = u32::from_le_bytes(bytes[start..start + 4].try_into().unwrap()) as usize;
        for bucket in 0..buckets {
            bytes[start + 64 * (1 + bucket)..][..64].fill(0);
        }
        let (start, end) = sample.metadata();
        for (chunk, at) in (start..end).step_by(4096).enumerate() {
            let seed = Checksum::new().u64(sample.footer(0)).u64(at as u64);
            let crc = seed.bytes(&bytes[at..end.min(at + 4096)]).finish();
            bytes[end + 4 * chunk..][..4].copy_from_slice(&crc.to_le_bytes());
        }
    });
    let report = verify("/db", &VerifyOptions::new().file_system(Arc::new(sample.memory.clone()))).unwrap();
    assert!(report.findings.iter().any(|finding| finding.what.contains("more places")), "{report:?}");
    assert_eq!(report.severity(), Some(Severity::Damage));
}
