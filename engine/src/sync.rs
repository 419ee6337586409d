//! What the parts of the engine that loom models are synchronised with: the commit queue ([`crate::group_commit`]), the
//! shared sync ([`crate::group_sync`]), and what readers see ([`crate::hazards`], [`crate::swap`],
//! [`crate::current`], [`crate::snapshot`]).
//!
//! Usually that is `parking_lot`, the standard library's atomics, and the fences of [`terrace_io`].
//! With `--cfg terrace_loom` it is stand-ins of the same interface over loom's types, so that `loom_models.rs` runs the
//! real code in every order that its threads can take. Reference counts stay the standard library's: to loom, counting is
//! one step. Both kinds of fence are sequentially consistent ones, as which they serve together; and which thread has which
//! hazards is simpler than it is.

#[cfg(not(terrace_loom))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(not(terrace_loom))]
pub(crate) use std::sync::atomic;
#[cfg(not(terrace_loom))]
pub(crate) use terrace_io::{heavy_fence, light_fence};

#[cfg(terrace_loom)]
pub(crate) use loom::sync::atomic;
#[cfg(terrace_loom)]
pub(crate) use stand_in::{Condvar, Mutex, MutexGuard, heavy_fence, light_fence, refuse_a_fence};

#[cfg(terrace_loom)]
mod stand_in {
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;

    use super::atomic::{Ordering, fence};

    pub(crate) fn light_fence() {
        fence(Ordering::SeqCst);
    }

    loom::lazy_static! {
        static ref IS_REFUSED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    }

    /// Has the next heavy fence fail, as the system may.
    pub(crate) fn refuse_a_fence() {
        IS_REFUSED.store(true, Ordering::Relaxed);
    }

    pub(crate) fn heavy_fence() -> bool {
        if IS_REFUSED.swap(false, Ordering::Relaxed) {
            return false;
        }
        fence(Ordering::SeqCst);
        true
    }

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
}
