//! Whether a pause was the program's or the machine's.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Sees when the whole machine stands still: a virtual machine is now and then, all processors at once, for as long as
/// its host runs others. On each processor a thread wakes every millisecond and notes when it woke late; what all of
/// them missed is no program's doing. On other systems than Linux it sees nothing.
#[derive(Debug)]
pub struct Standstills {
    stop: Arc<AtomicBool>,
    witnesses: Vec<JoinHandle<Vec<Range<Instant>>>>,
}

impl Standstills {
    /// Waking later than this is noted. The scheduler alone may let a thread wait for two ticks.
    const NOTED: Duration = Duration::from_millis(5);

    /// Begins to watch.
    pub fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = |processor| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut missed = Vec::new();
                if !bind_to(processor) {
                    return missed;
                }
                let mut before = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                    let now = Instant::now();
                    if now - before > Self::NOTED {
                        missed.push(before..now);
                    }
                    before = now;
                }
                missed
            })
        };
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        let witnesses = (0..processors).map(watch).collect();
        Standstills { stop, witnesses }
    }

    /// Ends the watch: the times in which no processor ran, in order.
    pub fn end(self) -> Vec<Range<Instant>> {
        self.stop.store(true, Ordering::Relaxed);
        let seen =
            self.witnesses.into_iter().map(|witness| witness.join().expect("a witness does not panic"));
        let common = |all: Vec<Range<Instant>>, one: Vec<Range<Instant>>| {
            let both = all.iter().flat_map(|a| one.iter().map(|b| a.start.max(b.start)..a.end.min(b.end)));
            both.filter(|both| both.start < both.end).collect()
        };
        seen.reduce(common).unwrap_or_default()
    }
}

/// Has the calling thread run on one processor only.
#[cfg(target_os = "linux")]
fn bind_to(processor: usize) -> bool {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    rustix::thread::sched_setaffinity(None, &set).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn bind_to(_: usize) -> bool {
    false
}
