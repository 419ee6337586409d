//! The picker and the retention rule against a model: random writes, flushes, snapshots and jobs that overlap in
//! time, over tables that are vectors. After each step the tree must be well-formed and every reader must see what
//! the whole history says.

use std::collections::BTreeMap;

use proptest::prelude::*;
use terrace_sstable::{Kind, TableMeta};

use crate::cut::Cutter;
use crate::retention::{Retention, Verdict};
use crate::span::Span;
use crate::{
    Candidate, Choice, KeyRange, LEVELS, Policy, Shape, SizedKeyRange, debt_bytes, is_settled, pick,
    pick_range,
};

#[derive(Debug, Clone)]
enum Step {
    Write {
        key: u8,
        delete: bool,
    },
    Flush,
    /// A few writes close together, flushed at once: a small table that leaves gaps on both sides.
    Load {
        from: u8,
        width: u8,
        writes: u8,
    },
    Snapshot,
    Release(usize),
    Start,
    StartRange {
        level: usize,
        from: u8,
        to: u8,
    },
    Finish(usize),
    /// The settings change under the tree.
    Reopen(Policy),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (any::<u8>(), prop::bool::weighted(0.3)).prop_map(|(key, delete)| Step::Write { key, delete }),
        4 => Just(Step::Flush),
        8 => (any::<u8>(), 1..12u8, 1..20u8).prop_map(|(from, width, writes)| Step::Load { from, width, writes }),
        1 => Just(Step::Snapshot),
        1 => any::<usize>().prop_map(Step::Release),
        8 => Just(Step::Start),
        2 => (0..LEVELS, any::<u8>(), any::<u8>())
            .prop_map(|(level, a, b)| Step::StartRange { level, from: a.min(b), to: a.max(b) }),
        7 => any::<usize>().prop_map(Step::Finish),
        1 => policy().prop_map(Step::Reopen),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    (1..5usize, any::<bool>(), 1..60u64, 2..5u64, 1..40u64).prop_map(
        |(l0_trigger, quiet, base, level_multiplier, table)| Policy {
            l0_trigger: if quiet { 4 * l0_trigger } else { l0_trigger },
            quiet,
            level_base_bytes: base * 10,
            level_multiplier,
            table_bytes: table * 10,
        },
    )
}

/// A version; `written` is its sequence number when it was written, which stands for its value.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Version {
    key: u8,
    sequence: u64,
    kind: Kind,
    written: u64,
}

const VERSION_BYTES: u64 = 10;

#[derive(Debug, Clone)]
struct ModelTable {
    meta: TableMeta,
    versions: Vec<Version>,
}

struct Job {
    choice: Choice,
    snapshots: Vec<u64>,
    elide_below: u64,
    deeper: Vec<KeyRange>,
    next_level: Vec<SizedKeyRange>,
}

struct Tree {
    policy: Policy,
    /// Keys are this spread out: small spreads make flushes overlap.
    spread: u8,
    sequence: u64,
    next_number: u64,
    memtable: Vec<Version>,
    levels: [Vec<ModelTable>; LEVELS],
    jobs: Vec<Job>,
    snapshots: Vec<u64>,
    history: BTreeMap<u8, Vec<Version>>,
}

impl Tree {
    fn new(policy: Policy, spread: u8) -> Self {
        Tree {
            policy,
            spread,
            sequence: 0,
            next_number: 0,
            memtable: Vec::new(),
            levels: Default::default(),
            jobs: Vec::new(),
            snapshots: Vec::new(),
            history: BTreeMap::new(),
        }
    }

    fn table(&mut self, versions: Vec<Version>) -> ModelTable {
        self.next_number += 1;
        let keys = versions.iter().map(|version| version.key);
        let sequences = versions.iter().map(|version| version.sequence);
        let meta = TableMeta {
            number: self.next_number,
            table_id: self.next_number,
            file_len: VERSION_BYTES * versions.len() as u64,
            entries: versions.len() as u64,
            deletes: versions.iter().filter(|version| version.kind == Kind::Delete).count() as u64,
            smallest_sequence: sequences.clone().min().unwrap(),
            largest_sequence: sequences.max().unwrap(),
            smallest_key: [keys.clone().min().unwrap()].into(),
            largest_key: [keys.max().unwrap()].into(),
        };
        ModelTable { meta, versions }
    }

    fn with_shape<R>(&self, f: impl FnOnce(&Shape<'_>, &Policy) -> R) -> R {
        let busy: Vec<u64> =
            self.jobs.iter().flat_map(|job| &job.choice.inputs).flat_map(|input| input.1.clone()).collect();
        let shape = Shape {
            levels: std::array::from_fn(|level| {
                let tables = self.levels[level].iter();
                tables.map(|t| Candidate { meta: &t.meta, busy: busy.contains(&t.meta.number) }).collect()
            }),
            running: self.jobs.iter().map(|job| &job.choice).collect(),
        };
        f(&shape, &self.policy)
    }

    fn write(&mut self, key: u8, delete: bool) {
        self.sequence += 1;
        let kind = if delete { Kind::Delete } else { Kind::Put };
        let version = Version { key, sequence: self.sequence, kind, written: self.sequence };
        self.memtable.push(version);
        self.history.entry(key).or_default().push(version);
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Write { key, delete } => {
                // Writes wander over the keys, so that flushes cover parts of them.
                let wandering = (self.sequence / 8 * 5) as u8;
                self.write(wandering.wrapping_add(key % self.spread), delete);
            }
            Step::Load { from, width, writes } => {
                self.apply(&Step::Flush);
                for write in 0..writes {
                    self.write(from.saturating_add(write.wrapping_mul(7) % width), write % 3 == 2);
                }
                self.apply(&Step::Flush);
            }
            Step::Reopen(ref policy) => self.policy = policy.clone(),
            Step::Flush => {
                if !self.memtable.is_empty() {
                    let mut versions = std::mem::take(&mut self.memtable);
                    versions.sort_by_key(|version| (version.key, u64::MAX - version.sequence));
                    let survivors = retain(&versions, &self.snapshots, 0, None);
                    let table = self.table(survivors);
                    self.levels[0].insert(0, table);
                }
            }
            Step::Snapshot => {
                if self.snapshots.last() != Some(&self.sequence) {
                    self.snapshots.push(self.sequence);
                }
            }
            Step::Release(which) => {
                if !self.snapshots.is_empty() {
                    self.snapshots.remove(which % self.snapshots.len());
                }
            }
            Step::Start => {
                if let Some(choice) = self.with_shape(pick) {
                    self.start(choice);
                }
            }
            Step::StartRange { level, from, to } => {
                use std::ops::Bound::Included;
                let range = (Included(&[from][..]), Included(&[to][..]));
                if let Some(choice) = self.with_shape(|s, p| pick_range(s, p, level, range, LEVELS - 1)) {
                    self.start(choice);
                }
            }
            Step::Finish(which) => {
                if !self.jobs.is_empty() {
                    let job = self.jobs.remove(which % self.jobs.len());
                    self.finish(job);
                }
            }
        }
    }

    fn start(&mut self, choice: Choice) {
        for (level, numbers) in &choice.inputs {
            assert!(!numbers.is_empty());
            for number in numbers {
                assert!(self.levels[*level].iter().any(|table| table.meta.number == *number), "not there");
                let running = self.jobs.iter().flat_map(|job| &job.choice.inputs);
                assert!(running.clone().all(|input| !input.1.contains(number)), "taken twice");
            }
        }
        let below = |levels: std::ops::Range<usize>| {
            self.levels[levels].iter().flatten().map(|table| {
                (table.meta.smallest_key.clone(), table.meta.largest_key.clone(), table.meta.file_len)
            })
        };
        let output = choice.output_level;
        self.jobs.push(Job {
            snapshots: self.snapshots.clone(),
            elide_below: self.snapshots.first().copied().unwrap_or(self.sequence),
            deeper: below(output + 1..LEVELS).map(|(smallest, largest, _)| (smallest, largest)).collect(),
            next_level: below(output + 1..(output + 2).min(LEVELS).max(output + 1)).collect(),
            choice,
        });
    }

    fn finish(&mut self, job: Job) {
        let mut inputs = Vec::new();
        for (level, numbers) in &job.choice.inputs {
            for number in numbers {
                let place =
                    self.levels[*level].iter().position(|table| table.meta.number == *number).unwrap();
                inputs.push(self.levels[*level].remove(place));
            }
        }
        let outputs = if job.choice.trivial_move {
            inputs
        } else {
            let mut versions: Vec<Version> = inputs.into_iter().flat_map(|table| table.versions).collect();
            versions.sort_by_key(|version| (version.key, u64::MAX - version.sequence));
            let deeper = job.deeper.iter().map(|(smallest, largest)| Span { smallest, largest }).collect();
            let survivors = retain(&versions, &job.snapshots, job.elide_below, Some(deeper));
            let mut cutter = Cutter::new(self.policy.table_bytes, &job.next_level);
            let mut groups: Vec<Vec<Version>> = Vec::new();
            for key in survivors.chunk_by(|a, b| a.key == b.key) {
                let len = groups.last().map(|group| group.len() as u64 * VERSION_BYTES);
                if cutter.cuts_before(&[key[0].key], len) || groups.is_empty() {
                    groups.push(Vec::new());
                }
                groups.last_mut().unwrap().extend(key);
            }
            groups.into_iter().map(|versions| self.table(versions)).collect()
        };
        let level = &mut self.levels[job.choice.output_level];
        level.extend(outputs);
        level.sort_by_key(|table| table.meta.smallest_key.clone());
    }

    fn check(&self) {
        for level in &self.levels[1..] {
            for pair in level.windows(2) {
                assert!(pair[0].meta.largest_key < pair[1].meta.smallest_key, "a level overlaps itself");
            }
        }
        let mut last: BTreeMap<u8, u64> = BTreeMap::new();
        for version in self.newest_first() {
            if let Some(newer) = last.insert(version.key, version.sequence) {
                assert!(
                    newer > version.sequence,
                    "{newer} above {} of key {}",
                    version.sequence,
                    version.key
                );
            }
        }
        for &snapshot in self.snapshots.iter().chain([&self.sequence]) {
            for (key, history) in &self.history {
                let truth = history.iter().rev().find(|version| version.sequence <= snapshot);
                let truth = truth.filter(|version| version.kind == Kind::Put).map(|version| version.written);
                let seen = self.newest_first().find(|v| v.key == *key && v.sequence <= snapshot);
                let seen = seen.filter(|version| version.kind == Kind::Put).map(|version| version.written);
                assert_eq!(seen, truth, "key {key} at {snapshot}");
            }
        }
    }

    /// All versions as a reader meets them.
    fn newest_first(&self) -> impl Iterator<Item = &Version> {
        let tables = self.levels.iter().flatten();
        self.memtable.iter().rev().chain(tables.flat_map(|table| &table.versions))
    }

    /// Runs what is left to run, one job after the other.
    fn settle(&mut self) {
        while !self.jobs.is_empty() {
            self.apply(&Step::Finish(0));
        }
        for jobs in 0.. {
            assert!(jobs < 1000, "the picker never comes to rest");
            assert_eq!(self.with_shape(is_settled), self.with_shape(pick).is_none());
            let Some(choice) = self.with_shape(pick) else { break };
            self.start(choice);
            self.apply(&Step::Finish(0));
        }
        let bytes = self.with_shape(|shape, _| shape.level_bytes());
        assert_eq!(debt_bytes(&bytes, self.levels[0].len(), &self.policy), 0, "settled trees owe nothing");
    }
}

fn retain(
    versions: &[Version],
    snapshots: &[u64],
    elide_below: u64,
    deeper: Option<Vec<Span<'_>>>,
) -> Vec<Version> {
    let mut retention = Retention::new(snapshots, elide_below, deeper);
    let mut survivors = Vec::new();
    for versions in versions.chunk_by(|a, b| a.key == b.key) {
        retention.start_key();
        let mut held = Vec::new();
        for version in versions {
            match retention.judge(&[version.key], version.sequence, version.kind) {
                Verdict::Drop => {}
                Verdict::Hold => held.push(*version),
                Verdict::Keep(sequence) => {
                    survivors.append(&mut held);
                    survivors.push(Version { sequence, ..*version });
                }
            }
        }
        if retention.tombstones_must_stay(&[versions[0].key]) {
            survivors.append(&mut held);
        }
    }
    survivors
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn readers_never_see_a_compaction(
        policy in policy(),
        spread in 1..=255u8,
        steps in prop::collection::vec(step(), 1..600),
    ) {
        let mut tree = Tree::new(policy, spread);
        for step in &steps {
            tree.apply(step);
            if !matches!(step, Step::Write { .. }) {
                tree.check();
            }
        }
        tree.settle();
        tree.check();

        // With nobody looking back, compacting everything leaves the newest puts and nothing else.
        tree.snapshots.clear();
        tree.apply(&Step::Flush);
        for level in 0..LEVELS {
            tree.apply(&Step::StartRange { level, from: 0, to: 255 });
            tree.apply(&Step::Finish(0));
            tree.check();
            assert!(tree.levels[..(level + 1).min(LEVELS - 1)].iter().all(Vec::is_empty));
        }
        let left: Vec<&Version> = tree.newest_first().collect();
        assert!(left.iter().all(|version| version.kind == Kind::Put && version.sequence == 0), "{left:?}");
    }
}
