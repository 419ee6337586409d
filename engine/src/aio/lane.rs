//! Where jobs wait for a thread: a queue, and a bound on how many threads work at it.
//!
//! A thread that has come takes job after job until there are none, so that a burst of thousands wakes only as many
//! threads as may work. To start a thread takes longer than to queue a job: whoever submits starts one at most, and each
//! that comes starts the next if there is more to do. The threads are borrowed from the runtime; every [`TURNS`] turns each
//! is given back for a moment, so that others who want one get it.
//!
//! No job is ever forgotten: if the runtime refuses, or ends before a thread has come, a thread of our own does it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// So often a thread takes jobs before it goes to the end of the runtime's queue.
const TURNS: usize = 256;

/// Work that is done elsewhere.
pub(crate) trait Job: Send + Sized + 'static {
    /// Takes from a queue with jobs in it those that are done together next: at least one.
    fn take(jobs: &mut VecDeque<Self>) -> Vec<Self>;

    /// Does them. Runs on a thread that may wait. Whoever waits for a job hears of it if this panics, since what it
    /// would be told by is dropped.
    fn run(jobs: Vec<Self>);
}

/// See the module.
pub(crate) struct Lane<J> {
    queue: Mutex<Queue<J>>,
    threads_max: usize,
}

struct Queue<J> {
    jobs: VecDeque<J>,
    /// Threads that work, or are on their way.
    threads: usize,
    /// Whether one is on its way that will start the next.
    is_one_coming: bool,
}

impl<J: Job> Lane<J> {
    pub fn new(threads_max: usize) -> Arc<Lane<J>> {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), threads: 0, is_one_coming: false });
        Arc::new(Lane { queue, threads_max: threads_max.max(1) })
    }

    /// Has a job done, soon. Does not wait.
    pub fn submit(self: &Arc<Self>, job: J) {
        let mut queue = self.queue.lock();
        queue.jobs.push_back(job);
        self.add_thread(queue);
    }

    /// Starts one more thread, if one may be and none is on its way.
    fn add_thread(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue<J>>) {
        if queue.threads < self.threads_max && !queue.is_one_coming {
            queue.threads += 1;
            queue.is_one_coming = true;
            drop(queue);
            start(Worker { lane: Some(self.clone()), is_new: true });
        }
    }

    /// A thread has come that was on its way. There may be more to do than it will.
    fn welcome(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        queue.is_one_coming = false;
        if queue.jobs.len() > 1 {
            self.add_thread(queue);
        }
    }

    /// The jobs that are done next; if there are none, the thread that asks goes.
    fn next(&self) -> Option<Vec<J>> {
        let mut queue = self.queue.lock();
        if queue.jobs.is_empty() {
            queue.threads -= 1;
            return None;
        }
        Some(J::take(&mut queue.jobs))
    }

    /// There is one thread less than there should be. Without any, nobody would ever do what waits: whoever waits for it
    /// hears that it is dropped.
    fn lose_thread(&self) {
        let mut queue = self.queue.lock();
        queue.threads -= 1;
        queue.is_one_coming = false;
        let lost = if queue.threads == 0 { std::mem::take(&mut queue.jobs) } else { VecDeque::new() };
        drop(queue);
        drop(lost);
    }
}

/// The place of a thread in a lane, which it leaves when there are no more jobs.
struct Worker<J: Job> {
    lane: Option<Arc<Lane<J>>>,
    /// Whether it has not come yet.
    is_new: bool,
}

/// Has a worker work on a thread of the runtime, if there is one.
fn start<J: Job>(worker: Worker<J>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        // One that is about to end drops it.
        drop(runtime.spawn_blocking(move || worker.work()));
    }
}

impl<J: Job> Worker<J> {
    fn work(mut self) {
        let lane = self.lane.clone().expect("only a worker that has worked has none");
        if std::mem::take(&mut self.is_new) {
            lane.welcome();
        }
        for _ in 0..TURNS {
            match lane.next() {
                Some(jobs) => J::run(jobs),
                None => {
                    self.lane = None;
                    return;
                }
            }
        }
        start(self);
    }
}

/// One that has not left its place has no thread, or a job has panicked: a thread of our own goes on.
impl<J: Job> Drop for Worker<J> {
    fn drop(&mut self) {
        let Some(lane) = self.lane.take() else { return };
        let (taken, is_new) = (lane.clone(), self.is_new);
        let own = std::thread::Builder::new().name("terrace-async".into());
        if let Err(error) = own.spawn(move || Worker { lane: Some(taken), is_new }.work()) {
            tracing::error!(%error, "there is no thread for asynchronous work");
            lane.lose_thread();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    struct Call(Box<dyn FnOnce() + Send>);

    impl Job for Call {
        fn take(jobs: &mut VecDeque<Self>) -> Vec<Self> {
            jobs.pop_front().into_iter().collect()
        }

        fn run(jobs: Vec<Self>) {
            jobs.into_iter().for_each(|job| (job.0)());
        }
    }

    fn submit(lane: &Arc<Lane<Call>>, call: impl FnOnce() + Send + 'static) {
        lane.submit(Call(Box::new(call)));
    }

    /// Submits calls, waits until all are done, and says how many ran at once.
    fn most_at_once(lane: &Arc<Lane<Call>>, calls: usize) -> usize {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (done, is_done) = std::sync::mpsc::channel();
        for _ in 0..calls {
            let (running, most, done) = (running.clone(), most.clone(), done.clone());
            submit(lane, move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_micros(100));
                running.fetch_sub(1, Ordering::SeqCst);
                done.send(()).unwrap();
            });
        }
        drop(done);
        assert_eq!(is_done.iter().count(), calls);
        most.load(Ordering::SeqCst)
    }

    #[test]
    fn all_jobs_are_done_by_no_more_threads_than_may() {
        let lane = Lane::new(3);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let entered = runtime.enter();
        assert_eq!(most_at_once(&lane, 3 * TURNS), 3);
        drop(entered);
        // Without a runtime too.
        assert_eq!(most_at_once(&lane, 2 * TURNS), 3);
    }

    #[test]
    fn a_runtime_that_is_gone_is_replaced_by_threads_of_our_own() {
        let lane = Lane::new(1);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _entered = handle.enter();
        let (done, is_done) = std::sync::mpsc::channel();
        submit(&lane, move || done.send(std::thread::current().name().map(str::to_owned)).unwrap());
        assert_eq!(is_done.recv().unwrap().as_deref(), Some("terrace-async"));
        assert_eq!(most_at_once(&lane, TURNS + 1), 1);
    }

    #[test]
    fn a_panic_ends_one_job() {
        let lane = Lane::new(1);
        submit(&lane, || panic!("a planned panic"));
        assert_eq!(most_at_once(&lane, 5), 1);
    }
}
