//! Fences of unequal price, for what is looked at millions of times a second and replaced a few times a minute: those who
//! look pay for no more than an order of instructions, and who replaces makes the processors of all threads catch up.
//!
//! A [`light_fence`] and a [`heavy_fence`] order what stands before and behind them as two sequentially consistent fences
//! would; two light ones do not order anything. On Linux the heavy one is the system call `membarrier` (since 4.14), which
//! has to be registered for: [`prepare_fences`]. Until then, and wherever there is no such call, both are fences of the
//! processor. The idea is that of P1202 ("asymmetric fences", in C++ as `asymmetric_thread_fence_light` and `_heavy`).

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};

/// Whether a heavy fence has to reach the other threads.
static IS_HEAVY_FOR_ALL: AtomicBool = AtomicBool::new(false);
/// Whether a light fence may rely on that. Set after the other.
static IS_LIGHT: AtomicBool = AtomicBool::new(false);

/// Makes light fences cheap, if the system can. May take milliseconds, and need not be waited for: fences hold before,
/// meanwhile and after.
pub fn prepare_fences() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        if system::register() {
            IS_HEAVY_FOR_ALL.store(true, Ordering::Release);
            // A heavy fence that has not seen this comes before this one, so whoever sees that fences are light sees what
            // was written before that heavy one.
            fence(Ordering::SeqCst);
            IS_LIGHT.store(true, Ordering::Release);
        }
    });
}

/// Orders this thread's reads and writes before it and behind it, as far as a [`heavy_fence`] of another thread goes.
#[inline(always)]
pub fn light_fence() {
    if IS_LIGHT.load(Ordering::Acquire) {
        compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// Orders this thread's reads and writes, and those of all threads by their light fences. Takes microseconds. False if the
/// system refuses it all of a sudden (as it may under `seccomp`, or for want of memory): then nothing is ordered.
#[must_use]
pub fn heavy_fence() -> bool {
    fence(Ordering::SeqCst);
    !IS_HEAVY_FOR_ALL.load(Ordering::Acquire) || system::fence_all()
}

#[cfg(target_os = "linux")]
mod system {
    use rustix::thread::{MembarrierCommand, membarrier};

    pub(super) fn register() -> bool {
        membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
    }

    pub(super) fn fence_all() -> bool {
        membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn fence_all() -> bool {
        unreachable!("nothing was registered")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Two threads each write their own word and read the other's: without fences both may read what was there before.
    /// Returns in how many of so many rounds they did.
    fn blind_rounds(rounds: u32) -> usize {
        let arrived = [AtomicU32::new(0), AtomicU32::new(0)];
        // Both leave within nanoseconds of each other, if there are two processors, now one sooner and now the other.
        let meet = |me: usize, round: u32| {
            arrived[me].store(round, Ordering::Release);
            let mut looks = 0_u32;
            while arrived[1 - me].load(Ordering::Acquire) < round {
                looks += 1;
                if looks.is_multiple_of(10_000) {
                    std::thread::yield_now();
                }
            }
            let behind = if me == 0 { round / 8 } else { round };
            (0..behind % 8).for_each(|pause| {
                std::hint::black_box(pause);
            });
        };
        let (mine, yours) = (AtomicU32::new(0), AtomicU32::new(0));
        let saw: [Vec<bool>; 2] = std::thread::scope(|scope| {
            let light = scope.spawn(|| {
                let looks = (1..=rounds).map(|round| {
                    meet(0, round);
                    mine.store(round, Ordering::Relaxed);
                    light_fence();
                    yours.load(Ordering::Relaxed) == round
                });
                looks.collect()
            });
            let looks = (1..=rounds).map(|round| {
                meet(1, round);
                yours.store(round, Ordering::Relaxed);
                let is_fenced = heavy_fence();
                !is_fenced || mine.load(Ordering::Relaxed) == round
            });
            let heavy = looks.collect();
            [light.join().unwrap(), heavy]
        });
        (0..rounds as usize).filter(|&round| !saw[0][round] && !saw[1][round]).count()
    }

    #[test]
    fn a_light_and_a_heavy_fence_are_seen_by_one_another() {
        // Meanwhile fences become light, unless another test was here before; and then they are.
        std::thread::scope(|scope| {
            scope.spawn(prepare_fences);
            assert_eq!(blind_rounds(50_000), 0, "rounds in which neither saw the other");
        });
        assert_eq!(blind_rounds(100_000), 0, "rounds in which neither saw the other");
    }
}
