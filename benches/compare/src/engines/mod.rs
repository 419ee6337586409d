//! The engines, one file each, and which of them are built in.

use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, OpenOptions, Result};

#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "leveldb")]
mod leveldb;
#[cfg(feature = "lmdb")]
mod lmdb;
#[cfg(any(feature = "fjall", feature = "leveldb"))]
mod quiet;
mod raw;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod terrace;

/// An engine's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineName {
    /// Terrace.
    Terrace,
    /// LMDB.
    Lmdb,
    /// RocksDB with its block cache.
    Rocksdb,
    /// RocksDB that reads mapped tables.
    RocksdbMmap,
    /// LevelDB.
    Leveldb,
    /// fjall.
    Fjall,
    /// redb.
    Redb,
    /// No engine: reads and writes of files, as fast as memory and the disk let anybody.
    Raw,
}

impl EngineName {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            EngineName::Terrace => "terrace",
            EngineName::Lmdb => "lmdb",
            EngineName::Rocksdb => "rocksdb",
            EngineName::RocksdbMmap => "rocksdb-mmap",
            EngineName::Leveldb => "leveldb",
            EngineName::Fjall => "fjall",
            EngineName::Redb => "redb",
            EngineName::Raw => "raw",
        }
    }

    /// The feature that builds it in, if it takes one.
    pub fn feature(self) -> Option<&'static str> {
        match self {
            EngineName::Terrace | EngineName::Raw => None,
            EngineName::RocksdbMmap => Some("rocksdb"),
            other => Some(other.name()),
        }
    }

    /// Whether it is built in.
    pub fn is_built(self) -> bool {
        match self {
            EngineName::Terrace | EngineName::Raw => true,
            EngineName::Lmdb => cfg!(feature = "lmdb"),
            EngineName::Rocksdb | EngineName::RocksdbMmap => cfg!(feature = "rocksdb"),
            EngineName::Leveldb => cfg!(feature = "leveldb"),
            EngineName::Fjall => cfg!(feature = "fjall"),
            EngineName::Redb => cfg!(feature = "redb"),
        }
    }

    /// Those that are built in and store anything.
    pub fn built() -> Vec<EngineName> {
        let all = EngineName::value_variants().iter().copied();
        all.filter(|name| name.is_built() && *name != EngineName::Raw).collect()
    }

    /// An error that names the feature, if it is not built in.
    pub fn check_built(self) -> Result {
        match self.feature() {
            Some(feature) if !self.is_built() => {
                Err(format!("{} is not built in; build with `--features {feature}`", self.name()).into())
            }
            _ => Ok(()),
        }
    }

    /// Records in a batch when it is loaded: an engine that copies a path of its tree for each commit would take hours
    /// otherwise, and nobody loads it so.
    pub fn load_batch(self) -> u64 {
        match self {
            EngineName::Lmdb | EngineName::Redb => 1000,
            _ => 1,
        }
    }

    /// Opens the database in a directory, or creates it.
    ///
    /// # Errors
    /// If the engine is not built in, or whatever it says.
    pub fn open(self, dir: &Path, options: &OpenOptions) -> Result<Box<dyn Engine>> {
        self.check_built()?;
        std::fs::create_dir_all(dir)?;
        match self {
            EngineName::Terrace => terrace::open(dir, options),
            EngineName::Raw => raw::open(dir, options),
            #[cfg(feature = "lmdb")]
            EngineName::Lmdb => lmdb::open(dir, options),
            #[cfg(feature = "rocksdb")]
            EngineName::Rocksdb => rocksdb::open(dir, options, rocksdb::Reads::BlockCache),
            #[cfg(feature = "rocksdb")]
            EngineName::RocksdbMmap => rocksdb::open(dir, options, rocksdb::Reads::Mmap),
            #[cfg(feature = "leveldb")]
            EngineName::Leveldb => leveldb::open(dir, options),
            #[cfg(feature = "fjall")]
            EngineName::Fjall => fjall::open(dir, options),
            #[cfg(feature = "redb")]
            EngineName::Redb => redb::open(dir, options),
            #[allow(unreachable_patterns, reason = "with all features there is no other")]
            _ => unreachable!("what is not built in was refused"),
        }
    }
}
