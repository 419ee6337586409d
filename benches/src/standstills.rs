//! Whether a pause was the program's or the machine's.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Sees when the whole machine stands still: a virtual machine is now and then, all processors at once, for as long as
/// its host runs others. On each processor that this process may use a thread wakes every millisecond and notes when it
/// woke late; what all of them missed at once is taken for the machine's doing.
///
/// That is a guess where the process has a part of the processors only, and one that long work of the kernel on all of
/// them at once could mislead; a single thread cannot.
#[derive(Debug)]
pub struct Standstills {
    stop: Arc<AtomicBool>,
    witnesses: Vec<JoinHandle<Option<Vec<Range<Instant>>>>>,
}

impl Standstills {
    /// How often a witness wakes.
    const TICK: Duration = Duration::from_millis(1);

    /// Waking later than this is noted. The scheduler alone may let a thread wait for two ticks of 4 ms.
    const NOTED: Duration = Duration::from_millis(10);

    /// Begins to watch.
    pub fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = |processor| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                if !bind_to(processor) {
                    return None;
                }
                let mut missed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let due = Instant::now() + Self::TICK;
                    std::thread::sleep(Self::TICK);
                    let now = Instant::now();
                    if now.saturating_duration_since(due) > Self::NOTED {
                        missed.push(due..now);
                    }
                }
                Some(missed)
            })
        };
        let witnesses = processors().into_iter().map(watch).collect();
        Standstills { stop, witnesses }
    }

    /// Ends the watch: the times in which no processor ran, in order. Empty if one of them could not be watched.
    pub fn end(self) -> Vec<Range<Instant>> {
        self.stop.store(true, Ordering::Relaxed);
        let seen =
            self.witnesses.into_iter().map(|witness| witness.join().expect("a witness does not panic"));
        let common = |all: Vec<Range<Instant>>, one: Vec<Range<Instant>>| {
            let both = all.iter().flat_map(|a| one.iter().map(|b| a.start.max(b.start)..a.end.min(b.end)));
            both.filter(|both| both.start < both.end).collect()
        };
        let seen: Option<Vec<_>> = seen.collect();
        seen.and_then(|seen| seen.into_iter().reduce(common)).unwrap_or_default()
    }
}

/// The processors that this process may use, where the system tells.
#[cfg(target_os = "linux")]
fn processors() -> Vec<usize> {
    let all = 0..rustix::thread::CpuSet::MAX_CPU;
    rustix::thread::sched_getaffinity(None)
        .map_or(Vec::new(), |set| all.filter(|&cpu| set.is_set(cpu)).collect())
}

/// Has the calling thread run on one processor only.
#[cfg(target_os = "linux")]
fn bind_to(processor: usize) -> bool {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    rustix::thread::sched_setaffinity(None, &set).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn processors() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn bind_to(_: usize) -> bool {
    false
}
