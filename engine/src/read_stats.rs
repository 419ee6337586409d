//! What a single read did and what it cost: [`ReadStats`], for those who ask for it.

use std::ops::Range;

use terrace_io::ThreadUsage;
use terrace_sstable::{Observer, ReadPath, ReadStep, Table};

/// Is told what a get does, from the memtables on.
pub(crate) trait ReadObserver: Observer {
    /// A table of a level is asked next.
    fn table(&mut self, level: usize, table: &Table);
}

/// Nobody.
impl ReadObserver for () {
    #[inline(always)]
    fn table(&mut self, _: usize, _: &Table) {}
}

/// What a read used: of the thread that did it, as the system counts. All zero where the system does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReadCost {
    /// Page faults that needed no I/O.
    pub minor_faults: u64,
    /// Page faults that waited for a device.
    pub major_faults: u64,
    /// Bytes that were read from devices, readahead included.
    pub device_bytes: u64,
}

impl ReadCost {
    fn plus(self, more: ReadCost) -> ReadCost {
        ReadCost {
            minor_faults: self.minor_faults + more.minor_faults,
            major_faults: self.major_faults + more.major_faults,
            device_bytes: self.device_bytes + more.device_bytes,
        }
    }
}

impl From<ThreadUsage> for ReadCost {
    fn from(ThreadUsage { minor_faults, major_faults, device_bytes }: ThreadUsage) -> Self {
        ReadCost { minor_faults, major_faults, device_bytes }
    }
}

/// What a get did in one table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableRead {
    /// The level that the table is in.
    pub level: usize,
    /// Its number: that of its file.
    pub table: u64,
    /// How its data blocks are read. `None` if the table could not be opened.
    pub path: Option<ReadPath>,
    /// What was looked at, and where in the file each look began, in this order.
    pub steps: Vec<(ReadStep, Range<u64>)>,
    /// What opening the table (if this was its first use), its locator, filter and fences cost.
    pub metadata: ReadCost,
    /// What its data blocks cost.
    pub data: ReadCost,
}

impl TableRead {
    /// How many data blocks were looked at.
    pub fn blocks(&self) -> usize {
        self.steps.iter().filter(|(step, _)| *step == ReadStep::Block).count()
    }
}

/// What one get did: see [`Keyspace::get_with_stats`](crate::Keyspace::get_with_stats).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReadStats {
    /// The tables that were asked, in this order. None, if a memtable had the answer. The last has it, if there is one.
    pub tables: Vec<TableRead>,
}

impl ReadStats {
    /// What the locators, filters and fences of all tables cost.
    pub fn metadata(&self) -> ReadCost {
        self.sum(|table| table.metadata)
    }

    /// What the data blocks of all tables cost.
    pub fn data(&self) -> ReadCost {
        self.sum(|table| table.data)
    }

    fn sum(&self, part: impl Fn(&TableRead) -> ReadCost) -> ReadCost {
        self.tables.iter().map(part).fold(ReadCost::default(), ReadCost::plus)
    }
}

/// Writes the statistics of a get while it runs: what the thread used from one step to the next is the cost of the first.
#[derive(Debug)]
pub(crate) struct Recorder {
    stats: ReadStats,
    last: ThreadUsage,
    is_in_block: bool,
}

impl Recorder {
    pub fn start() -> Self {
        Recorder { stats: ReadStats::default(), last: ThreadUsage::now(), is_in_block: false }
    }

    pub fn finish(mut self) -> ReadStats {
        self.charge();
        self.stats
    }

    /// Puts what was used since the last time down to the step that was taken meanwhile.
    fn charge(&mut self) {
        let now = ThreadUsage::now();
        if let Some(table) = self.stats.tables.last_mut() {
            let cost = if self.is_in_block { &mut table.data } else { &mut table.metadata };
            *cost = cost.plus(now.since(self.last).into());
        }
        self.last = now;
    }
}

impl Observer for Recorder {
    fn before(&mut self, step: ReadStep, place: impl FnOnce() -> Range<u64>) {
        self.charge();
        // To say where a block is may take a look at the fences: that is metadata too.
        self.is_in_block = false;
        let place = place();
        self.charge();
        self.is_in_block = step == ReadStep::Block;
        if let Some(table) = self.stats.tables.last_mut() {
            table.steps.push((step, place));
        }
    }
}

impl ReadObserver for Recorder {
    fn table(&mut self, level: usize, table: &Table) {
        self.charge();
        self.is_in_block = false;
        // Opened here, so that its path is known; if it cannot be, the get will say why.
        let opened = table.check();
        self.stats.tables.push(TableRead {
            level,
            table: table.meta().number,
            path: opened.ok().and_then(|()| table.read_path()),
            steps: Vec::new(),
            metadata: ReadCost::default(),
            data: ReadCost::default(),
        });
        self.charge();
    }
}
