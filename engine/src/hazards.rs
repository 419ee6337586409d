//! What each thread looks at, and what was replaced while somebody may have looked at it: see [`crate::swap`].
//!
//! There is one of this for the whole process, since a thread writes down an address before it knows whether it was in
//! time: by then the address may be that of something else, in another place, which is not let go of because of that.

use std::any::Any;
use std::array;
use std::ptr;
use std::sync::Arc;

use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::sync::{MutexGuard, heavy_fence};

pub(crate) use of_threads::mine;

/// How many values a thread can look at without counting a reference.
pub(crate) const HAZARDS_PER_THREAD: usize = if cfg!(terrace_loom) { 1 } else { 4 };

/// The addresses of what one thread looks at: more than one if it looks again while it looks. Null where there is none.
/// Only the thread itself writes here.
#[repr(align(128))]
pub(crate) struct Hazards([AtomicPtr<()>; HAZARDS_PER_THREAD]);

impl Hazards {
    fn new() -> Hazards {
        Hazards(array::from_fn(|_| AtomicPtr::new(ptr::null_mut())))
    }

    /// One in which nothing is written.
    #[inline]
    pub fn free(&self) -> Option<&AtomicPtr<()>> {
        self.0.iter().find(|hazard| hazard.load(Ordering::Relaxed).is_null())
    }
}

/// The hazards of all threads, and what they may still show.
pub(crate) struct Domain {
    /// Those of threads that are, and of threads that were.
    all: Vec<&'static Hazards>,
    retired: Vec<Arc<dyn Any + Send + Sync>>,
    /// Whether all threads have been made to see that what is retired was replaced, and to show what they look at.
    is_fenced: bool,
    /// Whether it was told that the system refuses to.
    told: bool,
}

/// The domain. A thread that waits for it waits for no more than a look at the hazards.
pub(crate) fn lock() -> MutexGuard<'static, Domain> {
    of_threads::domain().lock()
}

/// Lets go of what was replaced and nobody looks at any more.
#[cold]
pub(crate) fn let_go() {
    let unused = lock().take_unused();
    // Without the lock, since that may take long.
    drop(unused);
}

impl Domain {
    const fn new(all: Vec<&'static Hazards>) -> Domain {
        Domain { all, retired: Vec::new(), is_fenced: true, told: false }
    }

    /// Takes what was replaced, and of which no thread that does not show it by now will begin to look.
    pub fn retire(&mut self, value: Arc<dyn Any + Send + Sync>) {
        self.retired.push(value);
        self.is_fenced = false;
    }

    /// What was retired and no thread looks at. Nothing, if the system refuses the fence that it takes: then it stays for
    /// the next time.
    #[must_use]
    pub fn take_unused(&mut self) -> Vec<Arc<dyn Any + Send + Sync>> {
        // Who has begun to look has shown it by now; and who shows it still, and has stopped, will see that it was replaced
        // and come here.
        self.is_fenced = self.is_fenced || heavy_fence();
        if !self.is_fenced {
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(
                    "membarrier fails: memtables and tables that were replaced are kept until it succeeds"
                );
            }
            return Vec::new();
        }
        let looked_at: Vec<*const ()> = self
            .all
            .iter()
            .flat_map(|hazards| &hazards.0)
            .map(|hazard| hazard.load(Ordering::Acquire).cast_const())
            .filter(|address| !address.is_null())
            .collect();
        self.retired.extract_if(.., |value| !looked_at.contains(&Arc::as_ptr(value).cast())).collect()
    }
}

#[cfg(not(terrace_loom))]
mod of_threads {
    use std::cell::Cell;

    use super::{Domain, Hazards, lock};
    use crate::sync::Mutex;

    static DOMAIN: Mutex<Domain> = Mutex::new(Domain::new(Vec::new()));
    /// Those of threads that were, for others to use.
    static UNUSED: Mutex<Vec<&'static Hazards>> = Mutex::new(Vec::new());

    thread_local! {
        static MINE: Cell<Option<&'static Hazards>> = const { Cell::new(None) };
        static LEASE: Lease = const { Lease };
    }

    /// Lives as long as a thread that has hazards, and gives them back.
    struct Lease;

    impl Drop for Lease {
        fn drop(&mut self) {
            if let Ok(Some(hazards)) = MINE.try_with(Cell::take) {
                UNUSED.lock().push(hazards);
            }
        }
    }

    pub(super) fn domain() -> &'static Mutex<Domain> {
        &DOMAIN
    }

    /// Those of this thread. `None` while it ends.
    #[inline]
    pub(crate) fn mine() -> Option<&'static Hazards> {
        MINE.try_with(Cell::get).ok().flatten().or_else(register)
    }

    #[cold]
    fn register() -> Option<&'static Hazards> {
        LEASE.try_with(|_| ()).ok()?;
        let used_before = UNUSED.lock().pop();
        let hazards = used_before.unwrap_or_else(|| {
            let hazards: &'static Hazards = Box::leak(Box::new(Hazards::new()));
            lock().all.push(hazards);
            hazards
        });
        MINE.try_with(|mine| mine.set(Some(hazards))).ok()?;
        Some(hazards)
    }
}

/// What stands in for it in models: two threads have hazards, and others have none.
#[cfg(terrace_loom)]
mod of_threads {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Domain, Hazards};
    use crate::sync::Mutex;

    loom::lazy_static! {
        static ref HAZARDS: [Hazards; 2] = [Hazards::new(), Hazards::new()];
        static ref DOMAIN: Mutex<Domain> = Mutex::new(Domain::new(HAZARDS.iter().collect()));
        static ref NEXT: AtomicUsize = AtomicUsize::new(0);
    }

    loom::thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn domain() -> &'static Mutex<Domain> {
        &DOMAIN
    }

    pub(crate) fn mine() -> Option<&'static Hazards> {
        HAZARDS.get(NUMBER.with(|number| *number))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;

    use super::*;
    use crate::swap::Swap;

    #[test]
    fn hazards_of_threads_that_ended_are_used_again() {
        let address = || ptr::from_ref(mine().expect("the thread is not ending")).addr();
        let addresses: HashSet<usize> =
            (0..200).map(|_| std::thread::spawn(address).join().unwrap()).collect();
        // Other tests may take some in between.
        assert!(addresses.len() < 100, "{} for one thread at a time", addresses.len());
    }

    /// Looks while its thread ends.
    struct Late(Arc<Swap<u32>>);

    impl Drop for Late {
        fn drop(&mut self) {
            assert_eq!(*self.0.load(), 7);
            assert_eq!(*self.0.load_full(), 7);
        }
    }

    #[test]
    fn a_thread_may_look_while_it_ends() {
        thread_local! {
            static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
        }
        let swap = Arc::new(Swap::new(7));
        for looks_before in [false, true] {
            for is_late_first in [false, true] {
                let swap = swap.clone();
                let thread = std::thread::spawn(move || {
                    let put = || LATE.with(|late| *late.borrow_mut() = Some(Late(swap.clone())));
                    if is_late_first {
                        put();
                    }
                    if looks_before {
                        assert_eq!(*swap.load(), 7);
                    }
                    put();
                });
                thread.join().unwrap();
            }
        }
        assert_eq!(Arc::strong_count(&swap), 1, "each was dropped");
    }
}
