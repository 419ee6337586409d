//! Sets of options as data: corners of the space of options, and sets drawn from a seed.

use std::time::Duration;

use terrace::{Compression, Durability, FilterKind, KeyspaceOptions, Options, PointReads};

use crate::workload::Generator;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Every option of a database, and of its keyspaces.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields have the names of the options")]
pub struct OptionSet {
    pub name: String,
    /// On real files, or in memory, where the power can be cut. Of a run the first set says which.
    pub real_files: bool,
    pub durability: Durability,
    pub memtable_bytes: u64,
    pub memtables_max: usize,
    pub segment_bytes_max: u64,
    pub log_bytes_max: u64,
    pub sync_interval: Option<Duration>,
    /// It cannot get smaller when a database is opened again, and does not then.
    pub max_value_bytes: u64,
    pub compaction_threads: usize,
    pub block_cache_bytes: u64,
    pub point_reads: PointReads,
    pub l0_trigger: usize,
    pub level_base_bytes: u64,
    pub level_multiplier: u64,
    pub scrub_interval: Option<Duration>,
    pub scrub_bytes_per_second: u64,
    /// Of the keyspaces that are created under this set: that of slot 0 gets the first, and so on, and round again.
    pub keyspaces: Vec<Tables>,
}

/// The options of a keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields have the names of the options")]
pub struct Tables {
    pub compression: Compression,
    pub filter_kind: FilterKind,
    pub filter_bits_per_key: u8,
    pub block_bytes: u32,
    pub table_bytes: u64,
}

impl Tables {
    /// As the engine takes them.
    pub fn options(&self) -> KeyspaceOptions {
        KeyspaceOptions::new()
            .compression(self.compression)
            .filter_kind(self.filter_kind)
            .filter_bits_per_key(self.filter_bits_per_key)
            .block_bytes(self.block_bytes)
            .table_bytes(self.table_bytes)
    }
}

impl OptionSet {
    /// As the engine takes them, for its usual file system.
    pub fn options(&self) -> Options {
        Options::new()
            .durability(self.durability)
            .memtable_bytes(self.memtable_bytes)
            .memtables_max(self.memtables_max)
            .segment_bytes_max(self.segment_bytes_max)
            .log_bytes_max(self.log_bytes_max)
            .sync_interval(self.sync_interval)
            .max_value_bytes(self.max_value_bytes)
            .compaction_threads(self.compaction_threads)
            .block_cache_bytes(self.block_cache_bytes)
            .point_reads(self.point_reads)
            .l0_trigger(self.l0_trigger)
            .level_base_bytes(self.level_base_bytes)
            .level_multiplier(self.level_multiplier)
            .scrub_interval(self.scrub_interval)
            .scrub_bytes_per_second(self.scrub_bytes_per_second)
            .keyspace_defaults(self.keyspaces[0].options())
    }

    /// The options of a keyspace that is created under this set.
    pub fn tables(&self, slot: usize) -> Tables {
        self.keyspaces[slot % self.keyspaces.len()]
    }
}

const SMALL_TABLES: Tables = Tables {
    compression: Compression::None,
    filter_kind: FilterKind::Blocked,
    filter_bits_per_key: 10,
    block_bytes: 16 << 10,
    table_bytes: 64 * KIB,
};

const SNAPPY: Tables = Tables { compression: Compression::Snappy, ..SMALL_TABLES };

/// Everything small, so that a short sequence goes through many memtables, tables and levels.
fn small(name: &str) -> OptionSet {
    OptionSet {
        name: name.to_owned(),
        real_files: false,
        durability: Durability::Buffered,
        memtable_bytes: 64 * KIB,
        memtables_max: 4,
        segment_bytes_max: 64 * KIB,
        log_bytes_max: 512 * KIB,
        sync_interval: None,
        max_value_bytes: 64 * MIB,
        compaction_threads: 1,
        block_cache_bytes: 32 * MIB,
        point_reads: PointReads::Mmap,
        l0_trigger: 2,
        level_base_bytes: 96 * KIB,
        level_multiplier: 3,
        scrub_interval: None,
        scrub_bytes_per_second: 32 * MIB,
        keyspaces: vec![
            SMALL_TABLES,
            SNAPPY,
            Tables { filter_bits_per_key: 0, ..SMALL_TABLES },
            Tables { filter_bits_per_key: 4, ..SNAPPY },
        ],
    }
}

/// The corners: what people use, and the least and the most of each option.
pub fn corners() -> Vec<OptionSet> {
    let tables = |tables: Tables| vec![tables];
    vec![
        OptionSet {
            durability: Durability::Sync,
            memtable_bytes: 64 * MIB,
            segment_bytes_max: 16 * MIB,
            log_bytes_max: 1024 * MIB,
            l0_trigger: 4,
            level_base_bytes: 256 * MIB,
            level_multiplier: 10,
            keyspaces: tables(Tables { table_bytes: 64 * MIB, ..SMALL_TABLES }),
            ..small("the defaults")
        },
        OptionSet { durability: Durability::Sync, ..small("small levels, synced") },
        OptionSet { compaction_threads: 2, ..small("small levels, two compactions") },
        OptionSet {
            block_cache_bytes: 64 * KIB,
            keyspaces: tables(SNAPPY),
            ..small("Snappy with a small cache")
        },
        OptionSet {
            point_reads: PointReads::Pread,
            keyspaces: tables(Tables { filter_bits_per_key: 0, ..SMALL_TABLES }),
            ..small("by pread, without filter")
        },
        OptionSet {
            durability: Durability::Sync,
            block_cache_bytes: 0,
            point_reads: PointReads::Pread,
            keyspaces: tables(Tables { filter_bits_per_key: 0, block_bytes: 4096, ..SNAPPY }),
            ..small("Snappy in the smallest blocks by pread, without cache or filter")
        },
        OptionSet {
            memtable_bytes: 8 * MIB,
            segment_bytes_max: 16 * MIB,
            log_bytes_max: 1024 * MIB,
            ..small("mostly memtables")
        },
        OptionSet {
            real_files: true,
            durability: Durability::Sync,
            compaction_threads: 2,
            ..small("real files, synced")
        },
        OptionSet {
            memtables_max: 2,
            log_bytes_max: 64 * KIB,
            l0_trigger: 1,
            level_base_bytes: 1,
            level_multiplier: 2,
            block_cache_bytes: 0,
            ..small("the least of everything")
        },
        OptionSet {
            keyspaces: tables(Tables {
                filter_kind: FilterKind::Bloom,
                filter_bits_per_key: 40,
                block_bytes: 65_000,
                ..SNAPPY
            }),
            ..small("Snappy in the largest blocks, the largest filter")
        },
        OptionSet {
            keyspaces: tables(Tables { filter_bits_per_key: 1, ..SMALL_TABLES }),
            ..small("the smallest filter")
        },
        OptionSet { compaction_threads: 8, memtables_max: 2, l0_trigger: 1, ..small("eight compactions") },
        OptionSet {
            l0_trigger: 1_000,
            memtables_max: 40,
            max_value_bytes: 4 * MIB,
            ..small("everything in level 0")
        },
        OptionSet {
            scrub_interval: Some(Duration::from_millis(5)),
            scrub_bytes_per_second: 0,
            sync_interval: Some(Duration::from_millis(2)),
            ..small("scrubbed and synced all the time")
        },
        OptionSet {
            real_files: true,
            point_reads: PointReads::Pread,
            block_cache_bytes: 256 * KIB,
            keyspaces: vec![SNAPPY, SMALL_TABLES],
            ..small("real files by pread, some with Snappy")
        },
        OptionSet {
            level_base_bytes: MIB,
            level_multiplier: 100,
            keyspaces: tables(Tables { table_bytes: 64 * MIB, ..SMALL_TABLES }),
            ..small("one table to a level")
        },
    ]
}

/// A set drawn from all options.
pub fn drawn(seed: u64) -> OptionSet {
    let mut generator = Generator::of_choices(seed);
    let from = &mut generator;
    OptionSet {
        name: format!("drawn from {seed}"),
        real_files: from.one_in(8),
        durability: *from.pick(&[Durability::Sync, Durability::Buffered]),
        memtable_bytes: *from.pick(&[64 * KIB, 64 * KIB, 100_000, 256 * KIB, MIB, 64 * MIB]),
        memtables_max: *from.pick(&[2, 3, 4, 10]),
        segment_bytes_max: *from.pick(&[64 * KIB, 64 * KIB, 150_000, MIB, 16 * MIB]),
        log_bytes_max: *from.pick(&[1, 128 * KIB, 512 * KIB, 4 * MIB, 1024 * MIB]),
        sync_interval: *from.pick(&[None, None, None, Some(Duration::from_millis(3))]),
        max_value_bytes: *from.pick(&[4 * MIB, 6 * MIB, 64 * MIB, 1024 * MIB]),
        compaction_threads: *from.pick(&[1, 1, 2, 3, 4]),
        block_cache_bytes: *from.pick(&[0, 1, 64 * KIB, MIB, 32 * MIB]),
        point_reads: *from.pick(&[PointReads::Mmap, PointReads::Mmap, PointReads::Pread]),
        l0_trigger: *from.pick(&[1, 2, 2, 4, 8, 30]),
        level_base_bytes: *from.pick(&[1, 32 * KIB, 96 * KIB, 500_000, 4 * MIB, 256 * MIB]),
        level_multiplier: *from.pick(&[2, 2, 3, 5, 10]),
        scrub_interval: *from.pick(&[None, None, None, Some(Duration::from_millis(20))]),
        scrub_bytes_per_second: *from.pick(&[0, 2 * MIB, 32 * MIB]),
        keyspaces: (0..from.number(1..5)).map(|_| drawn_tables(from)).collect(),
    }
}

fn drawn_tables(from: &mut Generator) -> Tables {
    Tables {
        compression: *from.pick(&[Compression::None, Compression::Snappy]),
        filter_kind: *from.pick(&[FilterKind::Blocked, FilterKind::Bloom]),
        filter_bits_per_key: *from.pick(&[0, 1, 4, 10, 20, 40]),
        block_bytes: *from.pick(&[4_096, 5_000, 16 << 10, 32 << 10, 65_000]),
        table_bytes: *from.pick(&[64 * KIB, 64 * KIB, 100_000, 300_000, 64 * MIB]),
    }
}

/// The sets of a seed: two corners and two that are drawn. As many seeds in a row as there are pairs of corners have
/// all of these.
pub fn sets(seed: u64) -> Vec<OptionSet> {
    let corners = corners();
    let pairs = corners.len() as u64 / 2;
    let first = (seed % pairs) as usize;
    // Those of a pair are not neighbours in the list, which are alike.
    let pair = [first, first + pairs as usize].map(|corner| corners[corner].clone());
    let numbers = [seed.wrapping_mul(2), seed.wrapping_mul(2).wrapping_add(1)];
    pair.into_iter().chain(numbers.map(drawn)).collect()
}
