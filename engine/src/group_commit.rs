//! Group commit: of many threads that want something committed, one does it for all that have queued up.
//!
//! There is one committer's state, and whoever locks it leads. A thread that finds it free commits its own request
//! alone, which stays where it is. One that finds it taken puts its request into the queue and waits for the lock. When
//! it gets that, an earlier leader has committed the request, or the thread leads itself, for everybody in the queue.
//! So nobody is ever woken by a leader, or forgotten by one: each thread waits for the lock and looks for itself. One of
//! those that wait does so awake for a moment, which is often all it takes: going to sleep and being woken costs both
//! sides more than a commit does.

use std::sync::Arc;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// A group is cut when its requests have this many bytes, so that nobody waits long for others.
pub(crate) const GROUP_BYTES_MAX: usize = 1 << 20;
/// How often a thread looks before it goes to sleep: for some 10 µs, in which several buffered puts are committed.
const LOOKS: u32 = if cfg!(terrace_loom) { 0 } else { 256 };

/// A request that waits for a leader.
pub(crate) struct Waiter<T, O> {
    pub request: T,
    bytes: usize,
    outcome: Mutex<Option<O>>,
    /// Whether there is or was an outcome: one who looks for it again and again need not lock it.
    is_told: AtomicBool,
}

impl<T, O> Waiter<T, O> {
    fn new(request: T, bytes: usize) -> Arc<Self> {
        Arc::new(Waiter { request, bytes, outcome: Mutex::default(), is_told: AtomicBool::new(false) })
    }

    /// Says what became of the request. To be done by the leader, with the lock.
    pub fn tell(&self, outcome: O) {
        *self.outcome.lock() = Some(outcome);
        self.is_told.store(true, Ordering::Release);
    }
}

/// The queue, and the state `W` that only the leader touches. `T` is a request, `O` what becomes of it.
pub(crate) struct GroupCommit<W, T, O> {
    queue: Mutex<Vec<Arc<Waiter<T, O>>>>,
    writer: Mutex<W>,
    /// Whether a thread waits awake.
    is_watched: AtomicBool,
}

impl<W, T, O> GroupCommit<W, T, O> {
    pub fn new(writer: W) -> Self {
        GroupCommit {
            queue: Mutex::default(),
            writer: Mutex::new(writer),
            is_watched: AtomicBool::new(false),
        }
    }

    /// Keeps every leader out: the commit lock.
    pub fn lock(&self) -> MutexGuard<'_, W> {
        self.writer.lock()
    }

    /// The commit lock, if nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, W>> {
        self.writer.try_lock()
    }

    /// Waits until a request of some `bytes` is committed, and commits groups itself for as long as nobody else has
    /// done it. `commit_group` tells each waiter of the group what became of its request.
    pub fn commit(
        &self,
        request: T,
        bytes: usize,
        mut commit_group: impl FnMut(&mut W, &[Arc<Waiter<T, O>>]),
    ) -> O {
        let waiter = Waiter::new(request, bytes);
        self.queue.lock().push(waiter.clone());
        let mut writer = self.watch(&waiter);
        loop {
            // Whoever led before may have committed this one too; otherwise it is still in the queue.
            if let Some(outcome) = waiter.outcome.lock().take() {
                return outcome;
            }
            match &mut writer {
                Some(writer) => commit_group(writer, &self.take_group()),
                None => writer = Some(self.writer.lock()),
            }
        }
    }

    /// Waits awake for a moment, unless another thread does, until the waiter is told. Returns the commit lock if it is free
    /// before.
    fn watch(&self, waiter: &Waiter<T, O>) -> Option<MutexGuard<'_, W>> {
        if LOOKS == 0 || self.is_watched.swap(true, Ordering::Relaxed) {
            return None;
        }
        let mut writer = None;
        for _ in 0..LOOKS {
            if waiter.is_told.load(Ordering::Acquire) {
                break;
            }
            writer = self.writer.try_lock();
            if writer.is_some() {
                break;
            }
            std::hint::spin_loop();
        }
        self.is_watched.store(false, Ordering::Relaxed);
        writer
    }

    fn take_group(&self) -> Vec<Arc<Waiter<T, O>>> {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let fitting = queue.iter().take_while(|waiter| {
            let first = bytes == 0;
            bytes += waiter.bytes;
            first || bytes <= GROUP_BYTES_MAX
        });
        let count = fitting.count();
        queue.drain(..count).collect()
    }
}

// Loom's locks work in its models only.
#[cfg(all(test, not(terrace_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_cut_when_it_is_long_and_a_long_request_is_one_alone() {
        const KIB: usize = 1 << 10;
        let requests = [600 * KIB, 600 * KIB, 10, 2048 * KIB, 10, GROUP_BYTES_MAX - 10, 1];
        let committer: GroupCommit<Vec<Vec<usize>>, usize, usize> = GroupCommit::new(Vec::new());
        std::thread::scope(|scope| {
            let leads = committer.lock();
            for (index, request) in requests.into_iter().enumerate() {
                let committer = &committer;
                scope.spawn(move || {
                    let outcome = committer.commit(request, request, |groups, group| {
                        assert!(!group.is_empty());
                        groups.push(group.iter().map(|waiter| waiter.request).collect());
                        group.iter().for_each(|waiter| waiter.tell(waiter.request));
                    });
                    assert_eq!(outcome, request);
                });
                // One after the other, so that their order is known.
                while committer.queue.lock().len() == index {
                    std::thread::yield_now();
                }
            }
            drop(leads);
        });
        let groups: Vec<Vec<usize>> = committer.lock().clone();
        let [a, b, c, d, e, f, g] = requests;
        assert_eq!(groups, [vec![a], vec![b, c], vec![d], vec![e, f], vec![g]]);
    }
}
