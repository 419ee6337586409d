//! The guarded mappings, as a signal handler can look them up: without a lock, and whatever the threads are doing.
//!
//! Slots come in chunks that are never freed and are used again, so the handler may follow what it sees. A slot that is
//! being changed is passed over: it is not that of a mapping that somebody reads. One that the handler needs does not
//! change under it, because the faulting thread borrows the mapping.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

/// Slots that are made at once.
const CHUNK_SLOTS: usize = 256;

/// One mapping, or none.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Odd while the rest changes.
    version: AtomicUsize,
    start: AtomicUsize,
    /// 0: there is none.
    len: AtomicUsize,
    /// The flag, which the mapping's guard keeps alive.
    poison: AtomicPtr<AtomicBool>,
}

#[derive(Debug)]
struct Chunk {
    slots: [Slot; CHUNK_SLOTS],
    next: OnceLock<Box<Chunk>>,
}

/// The first chunk, once a mapping was guarded.
static CHUNKS: OnceLock<Box<Chunk>> = OnceLock::new();
/// The slots that have no mapping. Slots are changed under this lock only.
static FREE: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

/// A guarded mapping that an address lies in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapping {
    pub(super) start: usize,
    pub(super) len: usize,
    /// Valid as long as somebody borrows the mapping.
    pub(super) poison: *const AtomicBool,
}

impl Slot {
    pub(super) fn set(&self, start: usize, len: usize, poison: *mut AtomicBool) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.poison.store(poison, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    pub(super) fn get(&self) -> Option<Mapping> {
        let version = self.version.load(Ordering::Acquire);
        let mapping = Mapping {
            start: self.start.load(Ordering::Relaxed),
            len: self.len.load(Ordering::Relaxed),
            poison: self.poison.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        let is_whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        is_whole.then_some(mapping)
    }
}

/// Enters a mapping. `poison` lives until the slot is released.
pub(super) fn register(start: usize, len: usize, poison: &Arc<AtomicBool>) -> &'static Slot {
    let mut free = FREE.lock();
    if free.is_empty() {
        free.extend(&one_more_chunk().slots);
    }
    let slot = free.pop().expect("a chunk has slots");
    slot.set(start, len, Arc::as_ptr(poison).cast_mut());
    slot
}

/// Forgets a mapping: to be called before it is unmapped.
pub(super) fn release(slot: &'static Slot) {
    let mut free = FREE.lock();
    slot.set(0, 0, std::ptr::null_mut());
    free.push(slot);
}

/// The mapping that holds the byte at `address`. May be called from a signal handler.
pub(super) fn find(address: usize) -> Option<Mapping> {
    let mut next = &CHUNKS;
    while let Some(chunk) = next.get() {
        for mapping in chunk.slots.iter().filter_map(Slot::get) {
            if address.wrapping_sub(mapping.start) < mapping.len {
                return Some(mapping);
            }
        }
        next = &chunk.next;
    }
    None
}

/// Under the lock.
fn one_more_chunk() -> &'static Chunk {
    let mut last = &CHUNKS;
    while let Some(chunk) = last.get() {
        last = &chunk.next;
    }
    let new = || Box::new(Chunk { slots: std::array::from_fn(|_| Slot::default()), next: OnceLock::new() });
    last.get_or_init(new)
}
