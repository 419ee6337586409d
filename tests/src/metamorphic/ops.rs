//! Operations as data: everything that is done to a database, with every choice in it, drawn from a seed before
//! anything runs. So the same sequence can be run under any options, and any part of it by itself: an operation on what
//! is not there (a keyspace, a snapshot, an iterator) does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;

use terrace::Durability;
use terrace_io::CrashPolicy;

use super::view::{End, Extent, Move, Steps, shown_bounds};
use crate::model::{Bytes, DEFAULT, abbreviated};
use crate::workload::{Generator, OwnedBounds, Value, ValueLengths};

/// Where something is kept: keyspaces, snapshots, iterators and cursors each have slots of their own, from 0.
/// Keyspace 0 is the one that every database has.
pub type Slot = usize;

/// How many snapshots there can be at once, and how many iterators, and cursors.
const SLOTS: usize = 5;

/// The name of a keyspace.
pub fn keyspace_name(slot: Slot) -> String {
    if slot == 0 { DEFAULT.to_owned() } else { format!("keyspace {slot}") }
}

/// What is read: a keyspace, now or as a snapshot sees it.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The keyspace.
    pub keyspace: Slot,
    /// The snapshot.
    pub snapshot: Option<Slot>,
}

/// A put, or a delete if there is no value.
#[derive(Debug, Clone)]
pub struct KeyWrite {
    /// In which keyspace.
    pub keyspace: Slot,
    /// Of which key.
    pub key: Bytes,
    /// The value.
    pub value: Option<Value>,
}

/// How a database ends before it is opened again.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// It is closed.
    Close,
    /// Its handles are dropped.
    Drop,
    /// The process is killed.
    Kill,
    /// It goes on as a checkpoint of itself. What becomes of the old one does not matter.
    Checkpoint,
    /// The power fails, after a sync of everything or not.
    PowerCut {
        /// Whether everything was synced right before.
        synced: bool,
        /// What is left of that which was not.
        policy: CrashPolicy,
    },
}

/// Something that is done to a database.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are what the operations are done with, and have their names")]
pub enum Op {
    /// One write, with the durability of the options or its own.
    Write {
        write: KeyWrite,
        durability: Option<Durability>,
    },
    /// Many, all or nothing.
    Batch {
        writes: Vec<KeyWrite>,
        durability: Durability,
    },
    /// Point reads in every way there is.
    Get {
        from: Source,
        keys: Vec<Bytes>,
    },
    /// An iterator that is done with at once.
    Scan {
        from: Source,
        extent: Extent,
        steps: Steps,
    },
    /// A cursor that is done with at once.
    Walk {
        from: Source,
        moves: Vec<Move>,
    },
    /// Reads of all there is of a source.
    ReadAll {
        from: Source,
    },
    /// Reads of all there is, and which keyspaces there are.
    ReadEverything,
    TakeSnapshot {
        slot: Slot,
    },
    DropSnapshot {
        slot: Slot,
    },
    /// An iterator that stays open.
    OpenIterator {
        slot: Slot,
        from: Source,
        extent: Extent,
    },
    MoveIterator {
        slot: Slot,
        steps: Steps,
    },
    DropIterator {
        slot: Slot,
    },
    /// A cursor that stays open.
    OpenCursor {
        slot: Slot,
        from: Source,
    },
    MoveCursor {
        slot: Slot,
        moves: Vec<Move>,
    },
    DropCursor {
        slot: Slot,
    },
    Sync,
    Flush,
    CompactRange {
        keyspace: Slot,
        bounds: OwnedBounds,
    },
    /// Then sizes are compared with each other: of all, below a key, and from it.
    Settle {
        middle: Bytes,
    },
    Scrub,
    /// Sizes of ranges while background work goes on.
    Sizes {
        keyspace: Slot,
        bounds: OwnedBounds,
    },
    /// What must be refused, and change nothing; `too_long` is the slow part of it.
    Refused {
        keyspace: Slot,
        keys: [Bytes; 2],
        too_long: bool,
    },
    Create {
        keyspace: Slot,
    },
    DropKeyspace {
        keyspace: Slot,
    },
    Clear {
        keyspace: Slot,
    },
    /// The database ends and is opened again, under the options of that number in those of the run.
    Reopen {
        stop: Stop,
        under: usize,
    },
}

impl Op {
    /// Simpler operations of which one may do as well, for a reproduction that is to be short. However often one is
    /// taken, there is an end to it.
    pub fn simpler(&self) -> Vec<Op> {
        match self {
            Op::Write { write, durability } => {
                let some = |write| Op::Write { write, durability: *durability };
                write.simpler().into_iter().map(some).collect()
            }
            Op::Batch { writes, durability } => match &writes[..] {
                [write] => vec![Op::Write { write: write.clone(), durability: Some(*durability) }],
                _ => fewer(writes, |writes| Op::Batch { writes, durability: *durability }),
            },
            Op::Get { from, keys } => fewer(keys, |keys| Op::Get { from: *from, keys }),
            Op::Walk { from, moves } => fewer(moves, |moves| Op::Walk { from: *from, moves }),
            Op::MoveCursor { slot, moves } => fewer(moves, |moves| Op::MoveCursor { slot: *slot, moves }),
            Op::MoveIterator { slot, steps: Steps { ends, to_the_end } } => fewer(ends, |ends| {
                Op::MoveIterator { slot: *slot, steps: Steps { ends, to_the_end: *to_the_end } }
            }),
            Op::Scan { from, extent, steps } => match extent {
                Extent::All => fewer(&steps.ends, |ends| {
                    let steps = Steps { ends, to_the_end: steps.to_the_end };
                    Op::Scan { from: *from, extent: Extent::All, steps }
                }),
                _ => vec![Op::Scan { from: *from, extent: Extent::All, steps: steps.clone() }],
            },
            Op::CompactRange { keyspace, bounds } if *bounds != (Bound::Unbounded, Bound::Unbounded) => {
                vec![Op::CompactRange { keyspace: *keyspace, bounds: (Bound::Unbounded, Bound::Unbounded) }]
            }
            Op::Reopen { stop, under } if *under != 0 => vec![Op::Reopen { stop: *stop, under: 0 }],
            _ => Vec::new(),
        }
    }
}

impl KeyWrite {
    fn simpler(&self) -> Vec<KeyWrite> {
        let Some(value) = self.value else { return Vec::new() };
        let with = |value| KeyWrite { value: Some(value), ..self.clone() };
        let smooth = value.noise.map(|_| with(Value { noise: None, ..value }));
        let short = (value.len > 8).then(|| with(Value { len: 8, ..value }));
        short.into_iter().chain(smooth).collect()
    }
}

/// A list without a half, a quarter, and so on, down to one of its things; never none of them.
fn fewer<T: Clone>(things: &[T], op: impl Fn(Vec<T>) -> Op) -> Vec<Op> {
    let mut lists = Vec::new();
    let mut piece = things.len() / 2;
    while piece > 0 {
        for start in (0..things.len()).step_by(piece) {
            let end = things.len().min(start + piece);
            lists.push([&things[..start], &things[end..]].concat());
        }
        piece /= 2;
    }
    lists.into_iter().map(op).collect()
}

fn joined<T: fmt::Display>(things: impl IntoIterator<Item = T>) -> String {
    things.into_iter().map(|thing| thing.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keyspace {}", self.keyspace)?;
        self.snapshot.map_or(Ok(()), |slot| write!(f, " through snapshot {slot}"))
    }
}

impl fmt::Display for KeyWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keyspace, key) = (self.keyspace, abbreviated(&self.key));
        match &self.value {
            None => write!(f, "delete {key} in keyspace {keyspace}"),
            Some(Value { len, number, noise }) => {
                let noise = if noise.is_some() { " of noise" } else { "" };
                write!(f, "put {key} in keyspace {keyspace}, value {number} of {len} bytes{noise}")
            }
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Write { write, durability: None } => write!(f, "{write}"),
            Op::Write { write, durability: Some(durability) } => write!(f, "{write}, {durability:?}"),
            Op::Batch { writes, durability } => {
                write!(f, "batch of {}, {durability:?}", writes.len())?;
                match writes.len() {
                    0..=4 => write!(f, ": {}", joined(writes)),
                    len => write!(f, ": {}, ... {}", joined(&writes[..3]), writes[len - 1]),
                }
            }
            Op::Get { from, keys } => {
                write!(f, "get from {from}: {}", joined(keys.iter().map(|key| abbreviated(key))))
            }
            Op::Scan { from, extent, steps } => write!(f, "scan {from}, {extent}: {steps}"),
            Op::Walk { from, moves } => write!(f, "cursor over {from}: {}", joined(moves)),
            Op::ReadAll { from } => write!(f, "read all of {from}"),
            Op::ReadEverything => write!(f, "read everything"),
            Op::TakeSnapshot { slot } => write!(f, "take snapshot {slot}"),
            Op::DropSnapshot { slot } => write!(f, "drop snapshot {slot}"),
            Op::OpenIterator { slot, from, extent } => write!(f, "open iterator {slot} of {from}, {extent}"),
            Op::MoveIterator { slot, steps } => write!(f, "move iterator {slot}: {steps}"),
            Op::DropIterator { slot } => write!(f, "drop iterator {slot}"),
            Op::OpenCursor { slot, from } => write!(f, "open cursor {slot} over {from}"),
            Op::MoveCursor { slot, moves } => write!(f, "move cursor {slot}: {}", joined(moves)),
            Op::DropCursor { slot } => write!(f, "drop cursor {slot}"),
            Op::Sync => write!(f, "sync"),
            Op::Flush => write!(f, "flush"),
            Op::CompactRange { keyspace, bounds } => {
                write!(f, "compact keyspace {keyspace}, {}", shown_bounds(bounds))
            }
            Op::Settle { middle } => write!(f, "settle, sizes around {}", abbreviated(middle)),
            Op::Scrub => write!(f, "scrub"),
            Op::Sizes { keyspace, bounds } => {
                write!(f, "sizes in keyspace {keyspace}, {}", shown_bounds(bounds))
            }
            Op::Refused { keyspace, .. } => write!(f, "what keyspace {keyspace} and dropped ones refuse"),
            Op::Create { keyspace } => write!(f, "create keyspace {keyspace}"),
            Op::DropKeyspace { keyspace } => write!(f, "drop keyspace {keyspace}"),
            Op::Clear { keyspace } => write!(f, "clear keyspace {keyspace}"),
            Op::Reopen { stop, under } => write!(f, "{stop:?}, open under options {under}"),
        }
    }
}

/// The kinds of operations, to draw from.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Put,
    Delete,
    Batch,
    Get,
    Scan,
    Walk,
    ReadAll,
    ReadEverything,
    TakeSnapshot,
    DropSnapshot,
    OpenIterator,
    MoveIterator,
    DropIterator,
    OpenCursor,
    MoveCursor,
    DropCursor,
    Sync,
    Flush,
    CompactRange,
    Settle,
    Scrub,
    Sizes,
    Refused,
    Create,
    DropKeyspace,
    Clear,
    Reopen,
}

const WEIGHTS: &[(u32, Kind)] = &[
    (700, Kind::Put),
    (150, Kind::Delete),
    (200, Kind::Batch),
    (250, Kind::Get),
    (140, Kind::Scan),
    (30, Kind::Walk),
    (15, Kind::ReadAll),
    (6, Kind::ReadEverything),
    (20, Kind::TakeSnapshot),
    (12, Kind::DropSnapshot),
    (35, Kind::OpenIterator),
    (200, Kind::MoveIterator),
    (8, Kind::DropIterator),
    (18, Kind::OpenCursor),
    (120, Kind::MoveCursor),
    (5, Kind::DropCursor),
    (5, Kind::Sync),
    (12, Kind::Flush),
    (8, Kind::CompactRange),
    (3, Kind::Settle),
    (1, Kind::Scrub),
    (10, Kind::Sizes),
    (60, Kind::Refused),
    (10, Kind::Create),
    (4, Kind::DropKeyspace),
    (4, Kind::Clear),
    (9, Kind::Reopen),
];

/// Draws a sequence of `count` operations. How many keys and keyspaces there are, how long values are, how often a
/// write is synced and whether the database is ever opened again differ from seed to seed.
pub fn sequence(seed: u64, count: usize) -> Vec<Op> {
    let mut shape = Generator::of_choices(seed);
    let keys = *shape.pick(&[40, 400, 400, 1_500]);
    let values = ValueLengths {
        usual: shape.pick(&[0..600, 0..600, 0..40, 200..2_500]).clone(),
        paged_one_in: 40,
        large: (700, 1 << 20..4 << 20),
    };
    let mut drawing = Drawing {
        keyspaces_max: *shape.pick(&[3, 6, 6, 24]),
        synced_one_in: *shape.pick(&[2, 3, 3, 100]),
        reopened: !shape.one_in(4),
        generator: Generator::new(shape.seed(), keys, 6, values),
        keyspaces: BTreeSet::from([0]),
        snapshots: BTreeMap::new(),
        iterators: BTreeSet::new(),
        cursors: BTreeSet::new(),
    };
    (0..count).map(|_| drawing.op()).collect()
}

/// A sequence that is being drawn. It follows what there is, so that few operations do nothing.
struct Drawing {
    generator: Generator,
    keyspaces_max: usize,
    synced_one_in: u32,
    reopened: bool,
    keyspaces: BTreeSet<Slot>,
    /// With the keyspaces of their time.
    snapshots: BTreeMap<Slot, BTreeSet<Slot>>,
    iterators: BTreeSet<Slot>,
    cursors: BTreeSet<Slot>,
}

impl Drawing {
    fn op(&mut self) -> Op {
        let kind = self.generator.weighted(WEIGHTS);
        match kind {
            Kind::Put | Kind::Delete => {
                let (keyspace, key) = (self.keyspace(), self.generator.key());
                let value = matches!(kind, Kind::Put).then(|| self.generator.value_as_data());
                let durability = if self.generator.one_in(3) { None } else { Some(self.durability()) };
                Op::Write { write: KeyWrite { keyspace, key, value }, durability }
            }
            Kind::Batch => {
                let most = if self.generator.one_in(20) { 50..400 } else { 0..12 };
                let writes = (0..self.generator.number(most)).map(|_| self.write()).collect();
                Op::Batch { writes, durability: self.durability() }
            }
            Kind::Get => {
                let from = self.source();
                Op::Get { from, keys: (0..4).map(|_| self.generator.probe()).collect() }
            }
            Kind::Scan => {
                Op::Scan { from: self.source(), extent: self.extent(), steps: self.steps(30, true) }
            }
            Kind::Walk => Op::Walk { from: self.source(), moves: self.moves(20) },
            Kind::ReadAll => Op::ReadAll { from: self.source() },
            Kind::ReadEverything => Op::ReadEverything,
            Kind::TakeSnapshot => {
                let slot = self.generator.number(0..SLOTS);
                self.snapshots.insert(slot, self.keyspaces.clone());
                Op::TakeSnapshot { slot }
            }
            Kind::DropSnapshot => {
                let slot = one_of(&self.snapshots.keys().copied().collect(), &mut self.generator);
                self.snapshots.remove(&slot);
                Op::DropSnapshot { slot }
            }
            Kind::OpenIterator => {
                let slot = self.generator.number(0..SLOTS);
                self.iterators.insert(slot);
                Op::OpenIterator { slot, from: self.source(), extent: self.extent() }
            }
            Kind::MoveIterator => {
                let slot = one_of(&self.iterators, &mut self.generator);
                Op::MoveIterator { slot, steps: self.steps(12, false) }
            }
            Kind::DropIterator => {
                let slot = one_of(&self.iterators, &mut self.generator);
                self.iterators.remove(&slot);
                Op::DropIterator { slot }
            }
            Kind::OpenCursor => {
                let slot = self.generator.number(0..SLOTS);
                self.cursors.insert(slot);
                Op::OpenCursor { slot, from: self.source() }
            }
            Kind::MoveCursor => {
                let slot = one_of(&self.cursors, &mut self.generator);
                Op::MoveCursor { slot, moves: self.moves(20) }
            }
            Kind::DropCursor => {
                let slot = one_of(&self.cursors, &mut self.generator);
                self.cursors.remove(&slot);
                Op::DropCursor { slot }
            }
            Kind::Sync => Op::Sync,
            Kind::Flush => Op::Flush,
            Kind::CompactRange => {
                Op::CompactRange { keyspace: self.keyspace(), bounds: self.generator.bounds() }
            }
            Kind::Settle => Op::Settle { middle: self.generator.probe() },
            Kind::Scrub => Op::Scrub,
            Kind::Sizes => Op::Sizes { keyspace: self.keyspace(), bounds: self.generator.bounds() },
            Kind::Refused => {
                let keys = [self.generator.key(), self.generator.key()];
                Op::Refused { keyspace: self.keyspace(), keys, too_long: self.generator.one_in(5) }
            }
            Kind::Create => {
                let keyspace = self.generator.number(1..self.keyspaces_max);
                self.keyspaces.insert(keyspace);
                Op::Create { keyspace }
            }
            Kind::DropKeyspace => {
                let keyspace = self.keyspace();
                if keyspace != 0 {
                    self.keyspaces.remove(&keyspace);
                }
                Op::DropKeyspace { keyspace }
            }
            Kind::Clear => Op::Clear { keyspace: self.keyspace() },
            Kind::Reopen if self.reopened => self.reopen(),
            Kind::Reopen => Op::ReadEverything,
        }
    }

    fn keyspace(&mut self) -> Slot {
        one_of(&self.keyspaces, &mut self.generator)
    }

    fn durability(&mut self) -> Durability {
        if self.generator.one_in(self.synced_one_in) { Durability::Sync } else { Durability::Buffered }
    }

    fn write(&mut self) -> KeyWrite {
        let (keyspace, key) = (self.keyspace(), self.generator.key());
        let value = if self.generator.one_in(4) { None } else { Some(self.generator.value_as_data()) };
        KeyWrite { keyspace, key, value }
    }

    fn source(&mut self) -> Source {
        if !self.snapshots.is_empty() && self.generator.one_in(4) {
            let snapshot = one_of(&self.snapshots.keys().copied().collect(), &mut self.generator);
            let keyspace = one_of(&self.snapshots[&snapshot], &mut self.generator);
            return Source { keyspace, snapshot: Some(snapshot) };
        }
        Source { keyspace: self.keyspace(), snapshot: None }
    }

    fn extent(&mut self) -> Extent {
        match self.generator.number(0..4) {
            0 => Extent::Prefix(self.generator.prefix()),
            1 => Extent::All,
            _ => Extent::Range(self.generator.bounds()),
        }
    }

    /// Fewer steps than `most`: all at the front, all at the back, or mixed.
    fn steps(&mut self, most: usize, may_go_to_the_end: bool) -> Steps {
        let count = self.generator.number(0..most);
        let way = self.generator.number(0..3);
        let ends = (0..count).map(|_| match way {
            0 => End::Front,
            1 => End::Back,
            _ => *self.generator.pick(&[End::Front, End::Back]),
        });
        let ends = ends.collect();
        Steps { ends, to_the_end: may_go_to_the_end && self.generator.one_in(3) }
    }

    /// Fewer moves than `most`, now and then far.
    fn moves(&mut self, most: usize) -> Vec<Move> {
        let moves = (0..self.generator.number(0..most)).map(|_| match self.generator.number(0..16) {
            0 => Move::First,
            1 => Move::Last,
            2 | 3 => Move::Seek(self.generator.probe()),
            4 | 5 => Move::SeekForPrev(self.generator.probe()),
            6..11 => Move::Next,
            _ => Move::Prev,
        });
        moves.collect()
    }

    fn reopen(&mut self) -> Op {
        let torn = CrashPolicy::Torn { seed: self.generator.seed() };
        let policy = *self.generator.pick(&[CrashPolicy::DropUnsynced, CrashPolicy::KeepAll, torn, torn]);
        let stop = match self.generator.number(0..9) {
            0 | 1 => Stop::Close,
            2 => Stop::Drop,
            3 | 4 => Stop::Kill,
            5 => Stop::Checkpoint,
            6 => Stop::PowerCut { synced: true, policy },
            _ => Stop::PowerCut { synced: false, policy },
        };
        // Snapshots end with the database, iterators do not.
        self.snapshots.clear();
        // Half of the time under the same options as at first.
        let under = self.generator.number(0..8);
        Op::Reopen { stop, under: under.saturating_sub(4) }
    }
}

/// One of some slots; any if there are none, to do nothing.
fn one_of(slots: &BTreeSet<Slot>, generator: &mut Generator) -> Slot {
    let slots: Vec<Slot> = slots.iter().copied().collect();
    if slots.is_empty() { 0 } else { *generator.pick(&slots) }
}
