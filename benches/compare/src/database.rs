//! The databases that rows are measured on: loaded once for each engine, copied for rows that change them.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use terrace_benches::{Records, VALUE_BYTES, copy_directory};
use terrace_tools::ycsb::driver::{self, Phase, Work};
use terrace_tools::ycsb::record::InsertOrder;
use terrace_tools::ycsb::sequence::Sequence;
use terrace_tools::ycsb::{RecordShape, Workload};

use crate::engine::{Engine, OpenOptions, Result};
use crate::engines::EngineName;
use crate::store::EngineStore;
use crate::usage;

/// What one process measures, and where.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The engine.
    pub engine: EngineName,
    /// The directory of this engine's databases.
    pub dir: PathBuf,
    /// Records in a database.
    pub records: u64,
    /// How long a timed row takes.
    pub seconds: Duration,
    /// How long a row that writes everything may take.
    pub write_seconds: Duration,
    /// Bytes of memory that this process may use, if that is limited.
    pub memory_bytes: Option<u64>,
}

/// A database that is loaded once and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The records of `terrace_benches`.
    Records,
    /// The records of YCSB.
    Ycsb,
}

impl Kept {
    fn name(self) -> &'static str {
        match self {
            Kept::Records => "records",
            Kept::Ycsb => "ycsb",
        }
    }
}

/// Says beside a kept database that it is whole, and what is in it.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Mark {
    records: u64,
}

impl Setting {
    /// The records.
    pub fn records(&self) -> Records {
        Records::new(self.records)
    }

    /// Opens a database in the ordinary way.
    pub fn open(&self, dir: &Path) -> Result<Box<dyn Engine>> {
        self.engine.open(dir, &OpenOptions::buffered(self.records))
    }

    /// Where a kept database is.
    pub fn kept(&self, kept: Kept) -> PathBuf {
        self.dir.join(kept.name())
    }

    /// Where a database that changes is.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    fn mark(&self, kept: Kept) -> PathBuf {
        self.dir.join(format!("{}.json", kept.name()))
    }

    /// Whether a kept database is there, whole, and of the right size.
    pub fn is_kept(&self, kept: Kept) -> bool {
        let text = fs::read_to_string(self.mark(kept)).unwrap_or_default();
        serde_json::from_str(&text).is_ok_and(|mark: Mark| mark.records == self.records)
    }

    /// Removes a kept database, so that it can be loaded anew.
    pub fn forget(&self, kept: Kept) -> Result {
        let mark = self.mark(kept);
        if mark.exists() {
            fs::remove_file(mark)?;
        }
        Ok(usage::remove(&self.kept(kept))?)
    }

    /// Says that a kept database is whole.
    pub fn keep(&self, kept: Kept) -> Result {
        let mark = Mark { records: self.records };
        Ok(fs::write(self.mark(kept), serde_json::to_vec(&mark)?)?)
    }

    /// Loads a kept database, if it is not there.
    pub fn prepare(&self, kept: Kept) -> Result {
        if self.is_kept(kept) {
            return Ok(());
        }
        self.forget(kept)?;
        let engine = self.open(&self.kept(kept))?;
        match kept {
            Kept::Records => load(&*engine, self.engine, self.records())?,
            Kept::Ycsb => load_ycsb(&*engine, self.engine, self.records)?,
        }
        engine.settle()?;
        engine.close()?;
        self.keep(kept)
    }

    /// A copy of a kept database that may be changed.
    pub fn copy(&self, kept: Kept) -> Result<PathBuf> {
        let work = self.work();
        usage::remove(&work)?;
        copy_directory(&self.kept(kept), &work)?;
        Ok(work)
    }

    /// An empty directory.
    pub fn empty(&self) -> Result<PathBuf> {
        let work = self.work();
        usage::remove(&work)?;
        fs::create_dir_all(&work)?;
        Ok(work)
    }
}

/// Random values that cost nothing to make: pieces of one long random text.
#[derive(Debug)]
pub struct Values {
    text: Vec<u8>,
}

impl Values {
    /// How many different values there are, at most.
    const PIECES: usize = 1 << 20;

    /// Makes the text.
    pub fn new() -> Self {
        let records = Records::new(1);
        let values = (0..=(Self::PIECES / VALUE_BYTES) as u64 + 1).map(|number| records.value(number));
        Values { text: values.flatten().collect() }
    }

    /// A value.
    #[inline]
    pub fn get(&self, number: u64) -> &[u8] {
        let start = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44) as usize % Self::PIECES;
        &self.text[start..start + VALUE_BYTES]
    }
}

impl Default for Values {
    fn default() -> Self {
        Values::new()
    }
}

/// Writes every record in random order, in batches of the size that the engine is loaded with.
pub fn load(engine: &dyn Engine, name: EngineName, records: Records) -> Result {
    let values = Values::new();
    let size = name.load_batch();
    if size == 1 {
        return (0..records.count)
            .try_for_each(|number| engine.put(&records.key(number), values.get(number)));
    }
    let mut batch = Vec::new();
    for start in (0..records.count).step_by(size as usize) {
        batch.clear();
        let numbers = start..records.count.min(start + size);
        batch.extend(numbers.map(|number| (records.key(number), values.get(number).to_vec())));
        engine.put_batch(&batch)?;
    }
    Ok(())
}

/// What YCSB's records look like here: those of the other rows in one field.
pub const YCSB_SHAPE: RecordShape = RecordShape { fields: 1, field_length: VALUE_BYTES as u32 };

/// A phase of YCSB with the settings that all of them share.
pub fn ycsb_phase(work: Work, operations: u64, threads: u32, seed: u64) -> Phase {
    Phase {
        work,
        operations,
        threads,
        target: None,
        seed,
        order: InsertOrder::Hashed,
        shape: YCSB_SHAPE,
        update_one_field: true,
        verify: false,
    }
}

/// The work of a workload with its own request distribution.
pub fn mix(workload: Workload) -> Work {
    Work::Mix { workload, distribution: workload.distribution() }
}

/// Writes YCSB's records in hashed order.
pub fn load_ycsb(engine: &dyn Engine, name: EngineName, records: u64) -> Result {
    let phase = ycsb_phase(Work::Load { batch: name.load_batch() }, records, 1, 1);
    driver::run(&EngineStore(engine), &phase, &Sequence::new(0), |_| {})?;
    Ok(())
}

/// Reads every record once, so that whatever an engine keeps in memory is there.
pub fn warm(engine: &dyn Engine, records: Records) -> Result {
    for number in 0..records.count {
        let found = engine.get(&records.key(number))?;
        black_box(found.ok_or_else(|| format!("record {number} is missing"))?);
    }
    Ok(())
}

/// [`warm`] for YCSB's records.
pub fn warm_ycsb(engine: &dyn Engine, records: u64) -> Result {
    for number in 0..records {
        let found = engine.get(&InsertOrder::Hashed.key(number))?;
        black_box(found.ok_or_else(|| format!("record {number} of YCSB is missing"))?);
    }
    Ok(())
}
