//! What tests of checkpoints and backups do to the databases that these are made of, and look at in the copies.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace::{Db, Durability, FileSystem, VerifyOptions, WriteBatch, verify};

use crate::filled::{KEYSPACES, options};
use crate::model::{Change, DEFAULT, Write};
use crate::oracle::History;
use crate::workload::{Generator, borrowed};

/// Opens what is there.
///
/// # Panics
///
/// If it does not open.
pub fn open(fs: &Arc<dyn FileSystem>, dir: impl AsRef<Path>) -> Db {
    options(fs.clone()).create_if_missing(false).open(dir).unwrap()
}

/// The names in a directory, sorted; none if it is not there.
pub fn names(fs: &dyn FileSystem, dir: impl AsRef<Path>) -> Vec<String> {
    let mut names = fs.read_dir(dir.as_ref()).unwrap_or_default();
    names.sort();
    names
}

/// Every file in a directory is right.
///
/// # Panics
///
/// If one is not.
#[track_caller]
pub fn assert_sound(fs: &Arc<dyn FileSystem>, dir: impl AsRef<Path>) {
    let report = verify(dir, &VerifyOptions::new().threads(1).file_system(fs.clone())).unwrap();
    assert!(report.is_ok(), "{report:?}");
}

/// One of so many threads that go on; no more once it goes, also by a panic.
pub struct Running<'a>(pub &'a AtomicU64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the writer of a history does in a step.
#[derive(Debug, Clone, Copy)]
enum Step {
    Batch,
    Flush,
    CompactRange,
    Create,
    Drop,
    Clear,
}

const WEIGHTS: &[(u32, Step)] = &[
    (80, Step::Batch),
    (2, Step::Flush),
    (2, Step::CompactRange),
    (5, Step::Create),
    (3, Step::Drop),
    (3, Step::Clear),
];

/// Makes a change of a history, or something that is none.
///
/// # Panics
///
/// If it is refused.
pub fn step(db: &Db, history: &History, generator: &mut Generator) {
    let model = history.now();
    let known: Vec<String> = model.keyspaces().keys().cloned().collect();
    let name = generator.pick(&known).clone();
    match generator.weighted(WEIGHTS) {
        Step::Batch => {
            let writes = generator.batch(&known, 1..9);
            let mut batch = WriteBatch::new();
            for Write { keyspace, key, value } in &writes {
                let keyspace = db.keyspace(keyspace).unwrap();
                match value {
                    Some(value) => batch.put(&keyspace, key, value),
                    None => batch.delete(&keyspace, key),
                }
            }
            history.begin(&Change::Batch(writes));
            let durability = if generator.one_in(20) { Durability::Sync } else { Durability::Buffered };
            db.write_with(batch, durability).unwrap();
            history.acknowledge();
        }
        Step::Flush => db.flush().unwrap(),
        Step::CompactRange => {
            let bounds = generator.bounds();
            db.keyspace(&name).unwrap().compact_range::<&[u8]>(borrowed(&bounds)).unwrap();
        }
        Step::Create => {
            let name = format!("keyspace {}", generator.number(0..4));
            if !known.contains(&name) {
                history.begin(&Change::Create(name.clone()));
                db.keyspace(&name).unwrap();
                history.acknowledge();
            }
        }
        Step::Drop if name == DEFAULT => {}
        Step::Drop => {
            history.begin(&Change::Drop(name.clone()));
            db.drop_keyspace(&name).unwrap();
            history.acknowledge();
        }
        Step::Clear => {
            history.begin(&Change::Clear(name.clone()));
            db.keyspace(&name).unwrap().clear().unwrap();
            history.acknowledge();
        }
    }
}

/// Overwrites and removes everything, until no table is left as it was.
///
/// # Panics
///
/// If that is refused.
pub fn ravage(db: &Db) {
    for name in KEYSPACES {
        let keyspace = db.keyspace(name).unwrap();
        for number in 0..600 {
            let (key, value) = (format!("key {number:04}"), [b'z'; 300]);
            match number % 3 {
                0 => keyspace.delete_with(key, Durability::Buffered).unwrap(),
                _ => keyspace.put_with(key, value, Durability::Buffered).unwrap(),
            }
        }
        keyspace.compact_range::<&[u8]>(..).unwrap();
    }
    db.keyspace("few").unwrap().clear().unwrap();
    db.drop_keyspace("packed").unwrap();
    db.settle().unwrap();
}
