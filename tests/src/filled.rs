//! Databases of several keyspaces, levels and snapshots, made by random work that remembers every value it has ever
//! written: what is read later, by whatever way, is the last value, or at least one that was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace::{Compression, Db, Durability, FileSystem, KeyspaceOptions, Options, WriteBatch};
use terrace_io::MemoryFileSystem;

use crate::samples::path;

/// Keyspace and key.
pub type Key = (String, Vec<u8>);

/// What was written: the last value of each key, all that it ever had, and whether it was ever deleted.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// The last values.
    pub now: BTreeMap<Key, Vec<u8>>,
    /// Every value.
    pub ever: BTreeMap<Key, BTreeSet<Vec<u8>>>,
    /// Keys that were deleted, whatever came after.
    pub deleted: BTreeSet<Key>,
}

impl Written {
    /// Remembers a put.
    pub fn put(&mut self, keyspace: &str, key: &[u8], value: &[u8]) {
        let key = (keyspace.to_owned(), key.to_vec());
        self.ever.entry(key.clone()).or_default().insert(value.to_vec());
        self.now.insert(key, value.to_vec());
    }

    /// Remembers a delete.
    pub fn delete(&mut self, keyspace: &str, key: &[u8]) {
        let key = (keyspace.to_owned(), key.to_vec());
        self.now.remove(&key);
        self.deleted.insert(key);
    }
}

/// Options of a small database.
pub fn options(fs: Arc<dyn FileSystem>) -> Options {
    Options::new()
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .level_base_bytes(64 << 10)
        .level_multiplier(3)
        .l0_trigger(2)
        .compaction_threads(1)
        .durability(Durability::Buffered)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
        .file_system(fs)
}

/// The keyspaces that a filled database has.
pub const KEYSPACES: [&str; 3] = ["default", "packed", "few"];

/// Makes a database by random work and leaves it open.
pub fn fill(db: &Db, seed: u64, rounds: u64) -> Written {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut written = Written::default();
    let packed = KeyspaceOptions::new().compression(Compression::Snappy).table_bytes(64 << 10);
    db.keyspace_with("packed", packed).expect("it takes writes");
    db.keyspace("few").expect("it takes writes");
    let gone = db.keyspace("gone").expect("it takes writes");
    gone.put("of a keyspace", "that is dropped").expect("it takes writes");
    db.flush().expect("it takes writes");
    db.drop_keyspace("gone").expect("it takes writes");
    written.put("gone", b"of a keyspace", b"that is dropped");
    written.now.clear();
    let mut snapshots = Vec::new();
    for round in 0..rounds {
        for _ in 0..40 {
            let mut batch = WriteBatch::new();
            for _ in 0..rng.random_range(1..12) {
                let name = KEYSPACES[if rng.random_ratio(1, 20) { 2 } else { 0 }];
                let name = if rng.random_ratio(1, 2) { KEYSPACES[1] } else { name };
                let keyspace = db.keyspace(name).expect("it takes writes");
                let key = format!("key {:04}", rng.random_range(0..600));
                if rng.random_ratio(1, 5) {
                    batch.delete(&keyspace, &key);
                    written.delete(name, key.as_bytes());
                } else {
                    let len = if rng.random_ratio(1, 50) { 9_000 } else { rng.random_range(8..400) };
                    let mut value = vec![0; len];
                    rand::Rng::fill_bytes(&mut rng, &mut value);
                    batch.put(&keyspace, &key, &value);
                    written.put(name, key.as_bytes(), &value);
                }
            }
            let durability = if rng.random_ratio(1, 8) { Durability::Sync } else { Durability::Buffered };
            db.write_with(batch, durability).expect("it takes writes");
        }
        match round % 4 {
            1 => snapshots.push(db.snapshot().expect("it takes writes")),
            2 => db.flush().expect("it takes writes"),
            3 => db.settle().expect("it takes writes"),
            _ => {}
        }
    }
    written
}

/// What a keyspace was called that salvage knows by its id only.
fn true_name(name: &str) -> &str {
    match name {
        "recovered-1" => "packed",
        "recovered-2" => "few",
        "recovered-3" => "gone",
        name => name,
    }
}

/// Reads everything from the front, from the back and key by key.
///
/// # Panics
///
/// If something cannot be read, or not the same in every way.
pub fn contents(db: &Db) -> BTreeMap<Key, Vec<u8>> {
    let mut found = BTreeMap::new();
    for name in db.keyspace_names().expect("nothing is damaged") {
        let keyspace = db.keyspace(&name).expect("nothing is damaged");
        for entry in keyspace.iter().expect("nothing is damaged") {
            let (key, value) = entry.expect("nothing is damaged");
            assert_eq!(keyspace.get(&key).expect("nothing is damaged").as_deref(), Some(&*value));
            found.insert((true_name(&name).to_owned(), key.to_vec()), value.to_vec());
        }
        let reverse = keyspace.iter().expect("nothing is damaged").rev().count();
        assert_eq!(reverse, found.keys().filter(|key| key.0 == true_name(&name)).count());
    }
    found
}

/// Flips some bits of a byte.
pub fn flip(memory: &MemoryFileSystem, name: &str, at: usize) {
    let path = path(name);
    let mut bytes = memory.file_bytes(&path).expect("the file is there");
    bytes[at] ^= 0x11;
    memory.replace_bytes(&path, bytes).expect("the file is there");
}
