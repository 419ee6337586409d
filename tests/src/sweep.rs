//! Sweeps: tests of very many small cases, of which the usual run takes a seeded sample.
//!
//! A sweep of `total` cases starts at one that the seed chooses and goes through them in strides that meet each case
//! once before they meet one again. So `TERRACE_SEED` is the number of the first case, `TERRACE_CASES` how many are
//! run, and `TERRACE_SEED=n TERRACE_CASES=1` repeats case `n`. With `TERRACE_TEST_SECONDS` each sweep goes on for so
//! many seconds, or until it has run every case there is, but always one: that is the long version.
//!
//! A case that takes minutes is taken for an endless loop: the program says which it is, and aborts.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Trace, anywhere, cases, covered, number, time_limit};

/// How often it is looked whether a case hangs.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A case that is still the same after so many looks, two minutes, hangs: cases take milliseconds. Looks are counted,
/// not seconds, for the machine or the program may have been stopped for a while.
const HANGS_AFTER_LOOKS: u32 = 24_000;

/// The number of cases of a sweep that makes them up: nobody comes to their end.
const ENDLESS: u64 = 1 << 40;

/// Tells which case it was, if it panics.
pub struct Told<'a, C: Debug>(pub &'a C);

impl<C: Debug> Drop for Told<'_, C> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}", self.0);
        }
    }
}

/// Very many cases, numbered from 0.
#[derive(Debug, Clone)]
pub struct Sweep {
    what: String,
    total: u64,
    usual: u64,
    threads: usize,
}

impl Sweep {
    /// Cases of the test `what`; `usual` of the `total` are run unless the environment says otherwise.
    pub fn new(what: impl Into<String>, total: u64, usual: u64) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
        Sweep { what: what.into(), total, usual, threads }
    }

    /// Cases made up from their numbers, as many as anyone likes.
    pub fn endless(what: impl Into<String>, usual: u64) -> Self {
        Sweep::new(what, ENDLESS, usual)
    }

    /// One case at a time: for what is measured in the whole program.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.threads = 1;
        self
    }

    /// Runs the cases, several at a time, each on a thread that has a state of its own. Says how many it ran.
    ///
    /// # Panics
    ///
    /// If a case does, having said how it is repeated.
    pub fn run<S>(&self, state: impl Fn() -> S + Sync, case: impl Fn(&mut S, u64) + Sync) -> u64 {
        let seconds = time_limit();
        let wanted = cases(self.usual).min(self.total);
        let first = number("TERRACE_SEED").unwrap_or_else(anywhere) % self.total;
        let stride = stride(self.total);
        let started = Instant::now();
        let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let failed = AtomicBool::new(false);
        // For each thread the case that it is at, and how many it has begun.
        let at: Vec<[AtomicU64; 2]> = (0..self.threads).map(|_| Default::default()).collect();
        let work = |place: &[AtomicU64; 2]| {
            let _alarm = Alarm(&failed);
            let mut state = state();
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                // Whatever the time, one is run.
                let is_late = index > 0 && seconds.is_some_and(|limit| started.elapsed() >= limit);
                if index >= wanted || is_late {
                    break;
                }
                let number = (u128::from(first) + u128::from(index) * u128::from(stride))
                    .rem_euclid(u128::from(self.total)) as u64;
                place[0].store(number, Ordering::Relaxed);
                place[1].fetch_add(1, Ordering::Relaxed);
                let _trace = Trace::new(&*self.what, number);
                case(&mut state, number);
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = at.iter().map(|place| scope.spawn(|| work(place))).collect();
            let mut looks = vec![(0, 0); self.threads];
            while workers.iter().any(|worker| !worker.is_finished()) {
                std::thread::sleep(LOOK_EVERY);
                for ((worker, [case, begun]), (seen, same)) in workers.iter().zip(&at).zip(&mut looks) {
                    let begun = begun.load(Ordering::Relaxed);
                    *same = if *seen == begun && !worker.is_finished() { *same + 1 } else { 0 };
                    *seen = begun;
                    if *same > HANGS_AFTER_LOOKS {
                        let case = case.load(Ordering::Relaxed);
                        eprintln!("{}: hangs; repeat with TERRACE_SEED={case} TERRACE_CASES=1", self.what);
                        std::process::abort();
                    }
                }
            }
        });
        let done = done.into_inner();
        let of = if self.total == ENDLESS { String::new() } else { format!(" of {}", self.total) };
        let took = started.elapsed().as_secs_f64();
        covered(&self.what, format_args!("{done}{of} cases from number {first}, in {took:.1} s"));
        done
    }
}

/// Tells the other threads to stop when one panics.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A number without a common divisor with `total`, so that strides of it come by everywhere, and far from those before.
fn stride(total: u64) -> u64 {
    let divisor = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let golden = (total as f64 * 0.618_033_988_749_895) as u64;
    (1..=golden).rev().find(|stride| divisor(*stride, total) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn strides_come_by_every_case_once() {
        for total in [1, 2, 3, 10, 97, 1024, 6561] {
            let mut seen: Vec<u64> = (0..total).map(|index| index * stride(total) % total).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..total), "{total}");
        }
    }

    #[test]
    fn a_sweep_runs_what_it_says() {
        let seen = Mutex::new(Vec::new());
        let done = Sweep::new("a sweep", 50, 50).run(|| (), |(), case| seen.lock().unwrap().push(case));
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len() as u64, done);
        assert!(done > 0, "a sweep that runs nothing shows nothing");
        if std::env::vars().all(|(name, _)| !name.starts_with("TERRACE_")) {
            assert_eq!(done, 50);
        }
    }
}
