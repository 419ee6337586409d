//! A value that is replaced as a whole while others look at it, by hazard pointers (Michael, "Hazard Pointers: Safe Memory
//! Reclamation for Lock-Free Objects", 2004).
//!
//! Who looks at the value writes its address to a place of its own, where whoever replaces it will see it, and then makes
//! sure that it is still the current one. That is all: as a rule no lock, no counting, no cache line that two readers
//! write to, and by the unequal fences of [`terrace_io`] nothing that the processor would have to wait for. A value that
//! was replaced goes with the last reader that had it, or at once if there is none.

#![expect(unsafe_code, reason = "values that are shared by their address alone")]

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;

use crate::hazards;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::sync::light_fence;

/// See the module.
pub(crate) struct Swap<T> {
    /// The current value, of which it has a reference count. Replaced under the lock of [`hazards`].
    current: AtomicPtr<T>,
    /// It shares and drops values as an `Arc` does.
    _values: PhantomData<Arc<T>>,
}

impl<T: Send + Sync + 'static> Swap<T> {
    pub fn new(value: T) -> Swap<T> {
        let current = AtomicPtr::new(Arc::into_raw(Arc::new(value)).cast_mut());
        Swap { current, _values: PhantomData }
    }

    /// The current value, without counting a reference: for a look, not to keep.
    #[inline]
    pub fn load(&self) -> Guard<'_, T> {
        let Some(hazard) = hazards::mine().and_then(|mine| mine.free()) else { return self.load_counted() };
        loop {
            let before = self.current.load(Ordering::Relaxed);
            // What was looked at before, by way of this hazard, was looked at before this.
            hazard.store(before.cast(), Ordering::Release);
            light_fence();
            let value = self.current.load(Ordering::Acquire);
            if value == before {
                return Guard { swap: self, value, hazard: Some(hazard) };
            }
            // Whoever replaced it may have seen it in the hazard, and left it to this reader.
            hazard.store(ptr::null_mut(), Ordering::Release);
            hazards::let_go();
        }
    }

    /// For a thread that looks at too much already, or is ending.
    #[cold]
    fn load_counted(&self) -> Guard<'_, T> {
        let _nothing_is_replaced = hazards::lock();
        let value = self.current.load(Ordering::Acquire);
        // SAFETY: the current value is alive and came from `Arc::into_raw`; the guard will give the count back.
        unsafe { Arc::increment_strong_count(value) };
        Guard { swap: self, value, hazard: None }
    }

    /// The current value, to keep.
    pub fn load_full(&self) -> Arc<T> {
        self.load().to_arc()
    }

    /// Replaces the current value. What was loaded before stays as it is.
    pub fn store(&self, value: Arc<T>) {
        let mut hazards = hazards::lock();
        let before = self.current.swap(Arc::into_raw(value).cast_mut(), Ordering::AcqRel);
        // SAFETY: it came from `Arc::into_raw`, and its count was that of `current`.
        hazards.retire(unsafe { Arc::from_raw(before) });
        let unused = hazards.take_unused();
        drop(hazards);
        // Without the lock, since that may take long.
        drop(unused);
    }
}

impl<T> Drop for Swap<T> {
    fn drop(&mut self) {
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: it came from `Arc::into_raw`, with the count of `current`. No guard is left, since they borrow.
        drop(unsafe { Arc::from_raw(current) });
    }
}

/// A value that is looked at.
pub(crate) struct Guard<'s, T> {
    swap: &'s Swap<T>,
    value: *const T,
    /// Where it says so; `None` if it has a reference count instead.
    hazard: Option<&'static AtomicPtr<()>>,
}

impl<T> Guard<'_, T> {
    /// The value, to keep.
    pub fn to_arc(&self) -> Arc<T> {
        // SAFETY: it came from `Arc::into_raw`, and is alive as long as the guard is; the new `Arc` gets a count of its own.
        unsafe {
            Arc::increment_strong_count(self.value);
            Arc::from_raw(self.value)
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: who replaces a value keeps it as long as a hazard shows its address, which this guard's does; it was the
        // current one after that. Or the guard has a count of its own.
        unsafe { &*self.value }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let Some(hazard) = self.hazard else {
            // SAFETY: it came from `Arc::into_raw`, and the count is this guard's.
            return drop(unsafe { Arc::from_raw(self.value) });
        };
        hazard.store(ptr::null_mut(), Ordering::Release);
        light_fence();
        // Whoever replaced it may have seen it in the hazard, and left it to this reader.
        if self.swap.current.load(Ordering::Relaxed).cast_const() != self.value {
            hazards::let_go();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use super::*;
    use crate::hazards::HAZARDS_PER_THREAD;

    /// Says what it is as long as it lives, and counts those that do.
    struct Value {
        number: u64,
        same: u64,
        alive: Arc<AtomicU64>,
    }

    impl Value {
        fn new(number: u64, alive: &Arc<AtomicU64>) -> Value {
            alive.fetch_add(1, Ordering::Relaxed);
            Value { number, same: number, alive: alive.clone() }
        }
    }

    impl Drop for Value {
        fn drop(&mut self) {
            self.same = u64::MAX;
            self.alive.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Held by a test that counts: a thread of another may show an address for a moment after it became that of a value
    /// of this one.
    static COUNTING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

    #[test]
    fn a_value_goes_with_the_last_that_looks_at_it() {
        let _counting = COUNTING.lock();
        let alive = Arc::new(AtomicU64::new(0));
        let alive_now = || alive.load(Ordering::Relaxed);
        let swap = Swap::new(Value::new(0, &alive));
        // More than one thread has hazards for.
        let guards: Vec<_> = (0..2 * HAZARDS_PER_THREAD).map(|_| swap.load()).collect();
        let kept = swap.load_full();
        swap.store(Arc::new(Value::new(1, &alive)));
        assert_eq!((swap.load().number, alive_now()), (1, 2));
        swap.store(Arc::new(Value::new(2, &alive)));
        assert_eq!(alive_now(), 2, "nobody has looked at the second");
        for guard in guards {
            assert_eq!((guard.number, alive_now()), (0, 2));
        }
        assert_eq!(alive_now(), 2);
        drop(kept);
        assert_eq!((alive_now(), swap.load_full().number), (1, 2));
        let last = swap.load().to_arc();
        drop(swap);
        assert_eq!((alive_now(), last.number), (1, 2));
        drop(last);
        assert_eq!(alive_now(), 0);
    }

    #[test]
    fn values_are_whole_while_many_look_at_them() {
        const VALUES: u64 = 10_000;
        let _counting = COUNTING.lock();
        let (alive, done) = (Arc::new(AtomicU64::new(0)), AtomicBool::new(false));
        let swap = Swap::new(Value::new(0, &alive));
        let look = || {
            let mut before = 0;
            while !done.load(Ordering::Relaxed) {
                let (outer, inner) = (swap.load(), swap.load());
                for value in [&outer, &inner] {
                    assert_eq!(value.number, value.same);
                    assert!(value.number >= before, "an old value is back");
                    before = value.number;
                }
                let kept = inner.to_arc();
                drop(outer);
                assert_eq!(kept.number, kept.same);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(look);
            }
            for number in 1..=VALUES {
                swap.store(Arc::new(Value::new(number, &alive)));
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(alive.load(Ordering::Relaxed), 1, "only the current one is left");
        drop(swap);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}
