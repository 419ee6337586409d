//! What each thread looks at, for those who would let go of it: see [`crate::swap`].

use std::array;
use std::ptr;

use crate::sync::atomic::AtomicPtr;

/// How many values a thread can look at without counting a reference.
pub(crate) const HAZARDS_PER_THREAD: usize = if cfg!(terrace_loom) { 1 } else { 4 };

/// The addresses of what one thread looks at: more than one if it looks again while it looks. Null where there is none.
/// Only the thread itself writes here.
#[repr(align(128))]
pub(crate) struct Hazards(pub [AtomicPtr<()>; HAZARDS_PER_THREAD]);

impl Hazards {
    pub fn new() -> Hazards {
        Hazards(array::from_fn(|_| AtomicPtr::new(ptr::null_mut())))
    }
}

pub(crate) use of_threads::{all, mine};

#[cfg(not(terrace_loom))]
mod of_threads {
    use std::cell::Cell;

    use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

    use super::Hazards;

    /// Those of threads that are, and of threads that were, for others to use.
    struct Registry {
        all: Vec<&'static Hazards>,
        unused: Vec<&'static Hazards>,
    }

    static REGISTRY: Mutex<Registry> = Mutex::new(Registry { all: Vec::new(), unused: Vec::new() });

    thread_local! {
        static MINE: Cell<Option<&'static Hazards>> = const { Cell::new(None) };
        static LEASE: Lease = const { Lease };
    }

    /// Lives as long as a thread that has hazards, and gives them back.
    struct Lease;

    impl Drop for Lease {
        fn drop(&mut self) {
            REGISTRY.lock().unused.extend(MINE.take());
        }
    }

    /// Those of this thread. `None` while it ends.
    #[inline]
    pub(crate) fn mine() -> Option<&'static Hazards> {
        MINE.get().or_else(register)
    }

    #[cold]
    fn register() -> Option<&'static Hazards> {
        LEASE.try_with(|_| ()).ok()?;
        let registry = &mut *REGISTRY.lock();
        let hazards = registry.unused.pop().unwrap_or_else(|| {
            let hazards: &'static Hazards = Box::leak(Box::new(Hazards::new()));
            registry.all.push(hazards);
            hazards
        });
        MINE.set(Some(hazards));
        Some(hazards)
    }

    /// Those of all threads. No thread begins or ends to have some meanwhile.
    pub(crate) fn all() -> MappedMutexGuard<'static, [&'static Hazards]> {
        MutexGuard::map(REGISTRY.lock(), |registry| &mut registry.all[..])
    }
}

/// What stands in for it in models.
#[cfg(terrace_loom)]
mod of_threads {
    use std::ops::Deref;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Hazards;

    loom::lazy_static! {
        /// Fewer than a model has threads, so that one is without.
        static ref HAZARDS: [Hazards; 2] = [Hazards::new(), Hazards::new()];
        static ref NEXT: AtomicUsize = AtomicUsize::new(0);
    }

    loom::thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn mine() -> Option<&'static Hazards> {
        HAZARDS.get(NUMBER.with(|number| *number))
    }

    pub(crate) fn all() -> impl Deref<Target = [Hazards; 2]> {
        &*HAZARDS
    }
}
