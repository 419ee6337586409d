//! The order of a memtable's entries: a B+tree with one writer at a time, which readers walk without taking a lock.
//!
//! A node has a version, odd while the writer changes it. A reader notes the version, reads, and looks again: if the
//! version has changed it starts anew. So readers write nothing that another processor would have to fetch, and wait
//! only while the very node that they need is being changed (optimistic lock coupling: Leis, Haubenschild, Neumann,
//! 2019). One that comes too late again and again takes the writer's lock for one look, so that none waits for ever.
//! What a reader sees in between may be wrong but never out of bounds, since all of it is atomics and indices. Every
//! store in a node is a release and every load an acquire, so that whoever sees a change also sees the odd version that
//! was set before it, and the entry that an id belongs to.
//!
//! A node knows how many leading bytes all keys in its range share, and keeps of each key the 8 bytes that follow:
//! most comparisons are those of two numbers. Nodes are only ever split, and the left part keeps its place; so each
//! leaf that a reader can reach by an old reference still has the lower part of what it had, and what went right is
//! found along the leaves.

use std::cmp::Ordering as Order;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Release};

use parking_lot::Mutex;
use terrace_io::Bug;
use terrace_sstable::{Kind, Slice};

use crate::arena::{Arena, ArenaWriter, Entry, EntryId};

/// How many entries a leaf has at most, and separators an inner node.
const FANOUT: usize = 32;
/// Nodes are allocated so many at a time.
const NODES_AT_ONCE: usize = 8;
/// No node.
const NONE: u32 = u32::MAX;
/// A root for as long as there is no entry.
const EMPTY: u64 = u64::MAX;
/// A reader that has looked so often at a node that is being changed lets the writer have the processor.
const SPINS: u32 = 100;
/// A reader that has come too late so often keeps the writer out for once.
const TRIES: u32 = 64;

/// Where an entry stands or would stand: keys ascending, then sequence numbers descending.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub key: &'a [u8],
    pub sequence: u64,
}

impl Place<'_> {
    /// The order of an entry and this place.
    fn order_of(&self, entry: &Entry<'_>) -> Order {
        entry.key.cmp(self.key).then_with(|| self.sequence.cmp(&entry.sequence()))
    }
}

/// Where a walk down the tree goes.
#[derive(Clone, Copy)]
enum Target<'a> {
    First,
    Last,
    Place(Place<'a>),
}

/// The 8 bytes of a key that follow the first `skip`, zero-padded, as a number that sorts as they do.
#[inline]
pub(crate) fn head_of(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    match rest.first_chunk() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => {
            let mut padded = [0; 8];
            padded[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(padded)
        }
    }
}

/// The first index for which `is_before` does not hold.
fn partition(mut low: usize, mut high: usize, mut is_before: impl FnMut(usize) -> bool) -> usize {
    while low < high {
        let middle = (low + high) / 2;
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// A sorted run of entries, or of the separators between children.
#[derive(Default)]
#[repr(align(64))]
struct Node {
    heads: [AtomicU64; FANOUT],
    ids: [AtomicU64; FANOUT],
    version: AtomicU64,
    len: AtomicU32,
    /// How many leading bytes are left out of the heads.
    skip: AtomicU32,
}

impl Node {
    /// The version to read under: even.
    fn begin(&self) -> u64 {
        let mut spins: u32 = 0;
        loop {
            let version = self.version.load(Acquire);
            if version.is_multiple_of(2) {
                return version;
            }
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(SPINS) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }

    /// Whether nothing has changed since `begin`.
    fn is_still(&self, version: u64) -> bool {
        self.version.load(Acquire) == version || Bug::NodeVersionIgnored.is_planted()
    }

    fn len(&self) -> usize {
        (self.len.load(Acquire) as usize).min(FANOUT)
    }

    fn id(&self, index: usize) -> EntryId {
        EntryId::from_bits(self.ids[index].load(Acquire))
    }

    fn skip(&self) -> usize {
        self.skip.load(Acquire) as usize
    }

    /// How many entries are before `place`, or, with `or_at`, not behind it.
    fn count_before(&self, arena: &Arena, place: Place<'_>, or_at: bool) -> usize {
        let (len, target) = (self.len(), head_of(place.key, self.skip()));
        let head = |index: usize| self.heads[index].load(Acquire);
        // Without branches that nobody can foretell.
        let (mut low, mut rest) = (0, len);
        while rest > 0 {
            let half = rest.div_ceil(2);
            low += if head((low + half - 1) % FANOUT) < target { half } else { 0 };
            rest -= half;
        }
        if low >= len || head(low) != target {
            return low;
        }
        let high = partition(low + 1, len, |index| head(index) == target);
        partition(low, high, |index| match place.order_of(&arena.entry(self.id(index))) {
            Order::Less => true,
            Order::Equal => or_at,
            Order::Greater => false,
        })
    }

    // The rest is for the writer. It changes nodes that readers can reach only while their version is odd.

    fn lock(&self) {
        self.version.store(self.version.load(Acquire) + 1, Release);
    }

    fn unlock(&self) {
        self.version.store(self.version.load(Acquire) + 1, Release);
    }

    /// Makes room at `index` and puts an entry there. There is room.
    fn insert(&self, arena: &Arena, index: usize, id: EntryId) {
        let len = self.len();
        for to in (index + 1..=len).rev() {
            self.heads[to].store(self.heads[to - 1].load(Acquire), Release);
            self.ids[to].store(self.ids[to - 1].load(Acquire), Release);
        }
        self.heads[index].store(head_of(arena.entry(id).key, self.skip()), Release);
        self.ids[index].store(id.to_bits(), Release);
        self.len.store(len as u32 + 1, Release);
    }

    /// Moves what is at `from` and behind to an empty node, and keeps the first `keep`.
    fn move_tail(&self, keep: usize, from: usize, to: &Node) {
        let len = self.len();
        for index in from..len {
            to.heads[index - from].store(self.heads[index].load(Acquire), Release);
            to.ids[index - from].store(self.ids[index].load(Acquire), Release);
        }
        to.skip.store(self.skip.load(Acquire), Release);
        to.len.store((len - from) as u32, Release);
        self.len.store(keep as u32, Release);
    }

    /// Leaves out of the heads what all keys between two separators share.
    fn reskip(&self, arena: &Arena, (low, high): Fences) {
        let (Some(low), Some(high)) = (low, high) else { return };
        let (low, high) = (arena.entry(low).key, arena.entry(high).key);
        let shared = low.iter().zip(high).take_while(|(low, high)| low == high).count();
        if shared == self.skip() {
            return;
        }
        self.skip.store(shared as u32, Release);
        for index in 0..self.len() {
            self.heads[index].store(head_of(arena.entry(self.id(index)).key, shared), Release);
        }
    }
}

/// The separators around a node: the first entry of its range, and the first one behind.
type Fences = (Option<EntryId>, Option<EntryId>);

struct Leaf {
    node: Node,
    next: AtomicU32,
    /// The leaf before, or one further left if that has been split since.
    prev: AtomicU32,
}

impl Default for Leaf {
    fn default() -> Self {
        Leaf { node: Node::default(), next: AtomicU32::new(NONE), prev: AtomicU32::new(NONE) }
    }
}

/// Separator `i` is the first entry below child `i + 1`.
struct Inner {
    node: Node,
    children: [AtomicU32; FANOUT + 1],
}

impl Default for Inner {
    fn default() -> Self {
        Inner { node: Node::default(), children: std::array::from_fn(|_| AtomicU32::new(NONE)) }
    }
}

impl Inner {
    fn child(&self, index: usize) -> u32 {
        self.children[index].load(Acquire)
    }

    /// Puts a child and the separator in front of it behind child `index`. There is room.
    fn insert(&self, arena: &Arena, index: usize, separator: EntryId, child: u32) {
        for to in (index + 2..=self.node.len() + 1).rev() {
            self.children[to].store(self.child(to - 1), Release);
        }
        self.children[index + 1].store(child, Release);
        self.node.insert(arena, index, separator);
    }
}

/// Nodes of one type, which are only ever added.
struct Nodes<T> {
    groups: boxcar::Vec<Box<[T]>>,
}

impl<T: Default> Nodes<T> {
    fn new() -> Self {
        Nodes { groups: boxcar::Vec::new() }
    }

    fn get(&self, index: u32) -> &T {
        &self.groups[index as usize / NODES_AT_ONCE][index as usize % NODES_AT_ONCE]
    }

    /// Sees to it that there are so many.
    fn reserve(&self, count: usize) {
        while self.groups.count() * NODES_AT_ONCE < count {
            self.groups.push((0..NODES_AT_ONCE).map(|_| T::default()).collect());
        }
    }

    fn heap_bytes(&self) -> usize {
        self.groups.count() * NODES_AT_ONCE * size_of::<T>()
    }

    /// The node after `count` others. It has been reserved.
    fn add(&self, count: &mut u32) -> (u32, &T) {
        let index = *count;
        *count += 1;
        (index, self.get(index))
    }
}

/// An inner node on the way down, the child that was taken, and the separators around the node.
struct Step {
    inner: u32,
    child: usize,
    fences: Fences,
}

/// What the writer needs, away from what readers look at.
#[derive(Default)]
#[repr(align(64))]
struct Writer {
    arena: ArenaWriter,
    leaves: u32,
    inners: u32,
    /// The way down to the leaf of the last insert.
    path: Vec<Step>,
}

/// What was being read has changed meanwhile: the reader starts anew.
struct Changed;

/// A leaf that a reader has come to.
struct Reached<'t> {
    index: u32,
    leaf: &'t Leaf,
    version: u64,
    /// The first entry of the leaf behind.
    behind: Option<EntryId>,
}

impl Reached<'_> {
    fn check(&self) -> Result<(), Changed> {
        if self.leaf.node.is_still(self.version) { Ok(()) } else { Err(Changed) }
    }

    /// A copy of the leaf, at its first entry.
    fn copy(&self) -> Result<Position, Changed> {
        let node = &self.leaf.node;
        let mut position = Position { len: node.len(), leaf: self.index, ..Position::default() };
        for index in 0..position.len {
            position.ids[index] = node.id(index);
        }
        position.next = self.leaf.next.load(Acquire);
        position.prev = self.leaf.prev.load(Acquire);
        self.check()?;
        Ok(position)
    }
}

/// Entries in order.
pub(crate) struct Tree {
    arena: Arena,
    leaves: Nodes<Leaf>,
    inners: Nodes<Inner>,
    /// The height above, the index of the root below: of a leaf if the height is 0. Or [`EMPTY`].
    root: AtomicU64,
    writer: Mutex<Writer>,
}

impl Tree {
    pub fn new() -> Tree {
        Tree {
            arena: Arena::default(),
            leaves: Nodes::new(),
            inners: Nodes::new(),
            root: AtomicU64::new(EMPTY),
            writer: Mutex::default(),
        }
    }

    pub fn entry(&self, id: EntryId) -> Entry<'_> {
        self.arena.entry(id)
    }

    pub fn key_slice(&self, id: EntryId) -> Slice {
        self.arena.key_slice(id)
    }

    pub fn value_slice(&self, id: EntryId) -> Slice {
        self.arena.value_slice(id)
    }

    /// Adds an entry; no other has its key and sequence number. `pair` is key and value together. Says how many bytes
    /// of heap the tree takes now.
    pub fn insert(&self, pair: &[u8], key_len: usize, sequence: u64, kind: Kind) -> usize {
        let writer = &mut *self.writer.lock();
        let id = self.arena.append(&mut writer.arena, pair, key_len, sequence, kind);
        let place = Place { key: &pair[..key_len], sequence };
        let (index, fences) = self.descend_to_write(writer, place);
        let leaf = self.leaves.get(index);
        let at = leaf.node.count_before(&self.arena, place, false);
        if leaf.node.len() < FANOUT {
            leaf.node.lock();
            leaf.node.insert(&self.arena, at, id);
            leaf.node.unlock();
        } else {
            self.split(writer, index, fences, at, id);
        }
        writer.arena.heap_bytes() + self.leaves.heap_bytes() + self.inners.heap_bytes()
    }

    /// The leaf for a place and the separators around it. Leaves the way there in the writer.
    fn descend_to_write(&self, writer: &mut Writer, place: Place<'_>) -> (u32, Fences) {
        writer.path.clear();
        let root = self.root.load(Acquire);
        if root == EMPTY {
            self.leaves.reserve(1);
            let (index, _) = self.leaves.add(&mut writer.leaves);
            self.root.store(u64::from(index), Release);
            return (index, (None, None));
        }
        let (mut index, mut fences) = (root as u32, (None, None));
        for _ in 0..root >> 32 {
            let inner = self.inners.get(index);
            let child = inner.node.count_before(&self.arena, place, true);
            writer.path.push(Step { inner: index, child, fences });
            if child > 0 {
                fences.0 = Some(inner.node.id(child - 1));
            }
            if child < inner.node.len() {
                fences.1 = Some(inner.node.id(child));
            }
            index = inner.child(child);
        }
        (index, fences)
    }

    /// Splits a full leaf and adds an entry at `at`. The leaf stays locked until the way to its new half is there.
    /// (From the leaf behind, that half can be reached a little earlier, by those who only copy it.)
    fn split(&self, writer: &mut Writer, index: u32, (low, high): Fences, at: usize, id: EntryId) {
        // Nobody shall wait for a locked node because its writer waits for memory.
        self.leaves.reserve(writer.leaves as usize + 1);
        self.inners.reserve(writer.inners as usize + writer.path.len() + 1);
        let leaf = self.leaves.get(index);
        let (right_index, right) = self.leaves.add(&mut writer.leaves);
        let next = leaf.next.load(Acquire);
        // Keys that come in order fill their leaves.
        let keep = if at == FANOUT && next == NONE { FANOUT } else { FANOUT / 2 };
        leaf.node.lock();
        leaf.node.move_tail(keep, keep, &right.node);
        if at <= keep && keep < FANOUT {
            leaf.node.insert(&self.arena, at, id);
        } else {
            right.node.insert(&self.arena, at - keep, id);
        }
        right.next.store(next, Release);
        right.prev.store(index, Release);
        leaf.next.store(right_index, Release);
        if next != NONE {
            self.leaves.get(next).prev.store(right_index, Release);
        }
        let separator = right.node.id(0);
        leaf.node.reskip(&self.arena, (low, Some(separator)));
        right.node.reskip(&self.arena, (Some(separator), high));
        self.link(writer, separator, right_index);
        leaf.node.unlock();
    }

    /// Puts a new child and its separator behind the one that the way down took.
    fn link(&self, writer: &mut Writer, separator: EntryId, child: u32) {
        let Some(Step { inner: index, child: at, fences }) = writer.path.pop() else {
            let root = self.root.load(Acquire);
            let (index, inner) = self.inners.add(&mut writer.inners);
            inner.children[0].store(root as u32, Release);
            inner.insert(&self.arena, 0, separator, child);
            self.root.store(((root >> 32) + 1) << 32 | u64::from(index), Release);
            return;
        };
        let inner = self.inners.get(index);
        inner.node.lock();
        if inner.node.len() < FANOUT {
            inner.insert(&self.arena, at, separator, child);
        } else {
            let (right_index, right) = self.inners.add(&mut writer.inners);
            let up = if at == FANOUT && fences.1.is_none() {
                right.children[0].store(child, Release);
                inner.node.reskip(&self.arena, (fences.0, Some(separator)));
                separator
            } else {
                let keep = FANOUT / 2;
                let up = inner.node.id(keep);
                for from in keep + 1..=FANOUT {
                    right.children[from - keep - 1].store(inner.child(from), Release);
                }
                inner.node.move_tail(keep, keep + 1, &right.node);
                match at.checked_sub(keep + 1) {
                    None => inner.insert(&self.arena, at, separator, child),
                    Some(at) => right.insert(&self.arena, at, separator, child),
                }
                inner.node.reskip(&self.arena, (fences.0, Some(up)));
                right.node.reskip(&self.arena, (Some(up), fences.1));
                up
            };
            self.link(writer, up, right_index);
        }
        inner.node.unlock();
    }

    /// Reads until nothing has changed meanwhile.
    fn read<T>(&self, read: impl Fn() -> Result<T, Changed>) -> T {
        for _ in 0..TRIES {
            if let Ok(read) = read() {
                return read;
            }
        }
        let _writer = self.writer.lock();
        loop {
            if let Ok(read) = read() {
                return read;
            }
        }
    }

    /// The leaf for a target. `None` if there is no entry at all.
    fn descend(&self, target: Target<'_>) -> Result<Option<Reached<'_>>, Changed> {
        let root = self.root.load(Acquire);
        if root == EMPTY {
            return Ok(None);
        }
        let (mut index, mut behind) = (root as u32, None);
        // The node above and the version that it was read under.
        let mut above: Option<(&Node, u64)> = None;
        // A node's version counts only if the way to the node was still the right one after it was noted.
        let check = |above: Option<(&Node, u64)>| match above {
            None if self.root.load(Acquire) == root => Ok(()),
            Some((node, version)) if node.is_still(version) => Ok(()),
            _ => Err(Changed),
        };
        for _ in 0..root >> 32 {
            let inner = self.inners.get(index);
            let version = inner.node.begin();
            check(above)?;
            above = Some((&inner.node, version));
            let child = match target {
                Target::First => 0,
                Target::Last => inner.node.len(),
                Target::Place(place) => inner.node.count_before(&self.arena, place, true),
            };
            if child < inner.node.len() {
                behind = Some(inner.node.id(child));
            }
            index = inner.child(child);
            // Before the index is used: only what was read of an unchanged node is one.
            check(above)?;
        }
        let leaf = self.leaves.get(index);
        let version = leaf.node.begin();
        check(above)?;
        Ok(Some(Reached { index, leaf, version, behind }))
    }

    /// The newest version of `key` that is not newer than `snapshot`.
    pub fn get(&self, key: &[u8], snapshot: u64) -> Option<EntryId> {
        let place = Place { key, sequence: snapshot };
        self.read(|| {
            let Some(reached) = self.descend(Target::Place(place))? else { return Ok(None) };
            let node = &reached.leaf.node;
            let at = node.count_before(&self.arena, place, false);
            // The first entry of the next leaf may be another version of the key.
            let found = if at < node.len() { Some(node.id(at)) } else { reached.behind };
            reached.check()?;
            Ok(found.filter(|&id| self.arena.entry(id).key == key))
        })
    }

    pub fn first(&self) -> Position {
        self.read(|| match self.descend(Target::First)? {
            Some(reached) => reached.copy(),
            None => Ok(Position::default()),
        })
    }

    pub fn last(&self) -> Position {
        let mut position = self.read(|| match self.descend(Target::Last)? {
            Some(reached) => reached.copy(),
            None => Ok(Position::default()),
        });
        position.at = position.len.saturating_sub(1);
        position
    }

    /// In the leaf for `place`, behind all entries before it: perhaps behind all of the leaf.
    fn seek_in_leaf(&self, place: Place<'_>) -> Position {
        self.read(|| {
            let Some(reached) = self.descend(Target::Place(place))? else { return Ok(Position::default()) };
            let at = reached.leaf.node.count_before(&self.arena, place, false);
            Ok(Position { at, ..reached.copy()? })
        })
    }

    /// The first entry at `place` or behind it.
    pub fn seek(&self, place: Place<'_>) -> Position {
        let mut position = self.seek_in_leaf(place);
        self.go_on(&mut position);
        self.prefetch(&position.ids[..position.len], position.at, PREFETCHED);
        position
    }

    /// Has the processor fetch `count` entries from number `from` on, as far as there are so many.
    fn prefetch(&self, ids: &[EntryId], from: usize, count: usize) {
        ids.iter().skip(from).take(count).for_each(|&id| self.arena.prefetch(id));
    }

    /// The last entry before `place`.
    pub fn seek_before(&self, place: Place<'_>) -> Position {
        let mut position = self.seek_in_leaf(place);
        self.retreat(&mut position);
        position
    }

    /// Goes to the next entry of a valid position.
    pub fn advance(&self, position: &mut Position) {
        position.at += 1;
        if position.at == position.len {
            *position = self.load(position.next);
            self.prefetch(&position.ids[..position.len], 0, PREFETCHED);
        } else {
            self.prefetch(&position.ids[..position.len], position.at + PREFETCHED - 1, 1);
        }
    }

    /// From behind a leaf to the start of the next.
    fn go_on(&self, position: &mut Position) {
        if position.at == position.len {
            *position = self.load(position.next);
        }
    }

    /// Goes to the entry before.
    pub fn retreat(&self, position: &mut Position) {
        if position.at == 0 {
            let here = position.leaf;
            let mut left = self.load(position.prev);
            // The upper part of the leaf before may have become leaves of its own.
            while left.len > 0 && left.next != here {
                left = self.load(left.next);
            }
            left.at = left.len;
            *position = left;
            let from = position.at.saturating_sub(PREFETCHED);
            self.prefetch(&position.ids[..position.len], from, PREFETCHED);
        } else if let Some(ahead) = position.at.checked_sub(PREFETCHED + 1) {
            self.prefetch(&position.ids[..position.len], ahead, 1);
        }
        position.at = position.at.saturating_sub(1);
    }

    /// The start of a leaf, or nothing if there is none.
    fn load(&self, index: u32) -> Position {
        if index == NONE {
            return Position::default();
        }
        let leaf = self.leaves.get(index);
        self.read(|| Reached { index, leaf, version: leaf.node.begin(), behind: None }.copy())
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("arena", &self.arena).finish_non_exhaustive()
    }
}

/// How many entries ahead of where a cursor stands the processor is told to fetch.
const PREFETCHED: usize = 4;

/// A place in a tree: a copy of a leaf, and which entry of it. Later inserts may or may not be seen.
#[derive(Debug)]
pub(crate) struct Position {
    ids: [EntryId; FANOUT],
    len: usize,
    at: usize,
    leaf: u32,
    next: u32,
    prev: u32,
}

impl Default for Position {
    /// No entry.
    fn default() -> Self {
        Position { ids: [EntryId::default(); FANOUT], len: 0, at: 0, leaf: NONE, next: NONE, prev: NONE }
    }
}

impl Position {
    /// The entry, if there is one here.
    pub fn id(&self) -> Option<EntryId> {
        self.ids[..self.len].get(self.at).copied()
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
