//! What the parts of the engine that loom models are synchronised with: the commit queue ([`crate::group_commit`]), the
//! shared sync ([`crate::group_sync`]), and what readers see ([`crate::current`], [`crate::snapshot`]).
//!
//! Usually that is `parking_lot`, `arc-swap` and the standard library's atomics. With `--cfg terrace_loom` it is
//! stand-ins of the same interface over loom's types, so that `loom_models.rs` runs the real code in every order that
//! its threads can take. Reference counts stay the standard library's: to loom, counting is one step.

#[cfg(not(terrace_loom))]
pub(crate) use arc_swap::{ArcSwap, Guard};
#[cfg(not(terrace_loom))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(not(terrace_loom))]
pub(crate) use std::sync::atomic;

#[cfg(terrace_loom)]
pub(crate) use loom::sync::atomic;
#[cfg(terrace_loom)]
pub(crate) use stand_in::{ArcSwap, Condvar, Guard, Mutex, MutexGuard};

#[cfg(terrace_loom)]
mod stand_in {
    use std::ops::{Deref, DerefMut};
    use std::sync::{Arc, PoisonError};

    use super::atomic::{AtomicUsize, Ordering};

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
        }

        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard)))
        }
    }

    /// Empty only while a condition variable has it.
    pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("nobody looks while it waits")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("nobody looks while it waits")
        }
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub fn new() -> Self {
            Condvar(loom::sync::Condvar::new())
        }

        pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let inner = guard.0.take().expect("nobody else waits with it");
            guard.0 = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// Orders no more than `arc-swap` promises: a load finds the current value, and acquires what its store released; a
    /// store learns nothing of loads.
    pub(crate) struct ArcSwap<T> {
        /// All values that there have been; those that were replaced are gone. Never held over a step of loom's.
        values: std::sync::Mutex<Vec<Option<Arc<T>>>>,
        current: AtomicUsize,
    }

    pub(crate) type Guard<T> = T;

    impl<T> ArcSwap<T> {
        pub fn from_pointee(value: T) -> Self {
            let values = std::sync::Mutex::new(vec![Some(Arc::new(value))]);
            ArcSwap { values, current: AtomicUsize::new(0) }
        }

        fn values(&self) -> std::sync::MutexGuard<'_, Vec<Option<Arc<T>>>> {
            self.values.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub fn load_full(&self) -> Arc<T> {
            // Not a mere load: loom remembers one access of an atomic only, and a thread's own load before its store
            // would hide from it those of others.
            let index = self.current.fetch_add(0, Ordering::Acquire);
            self.values()[index].clone().expect("the current value is there")
        }

        pub fn load(&self) -> Guard<Arc<T>> {
            self.load_full()
        }

        pub fn store(&self, value: Arc<T>) {
            let index = {
                let mut values = self.values();
                values.push(Some(value));
                values.len() - 1
            };
            let before = self.current.swap(index, Ordering::AcqRel);
            let old = self.values()[before].take();
            // Dropped here, without the lock.
            drop(old);
        }
    }
}
