//! Reads that do not wait on the thread that polls, and the threads that wait for them.
//!
//! A read first asks for each page whether it is in memory (`State::find_resident`), and is done if all are. If not, the
//! usual read goes to a lane: it looks again at what there is to read, waits for the device as page faults and `pread` do,
//! and touches every page of what it gives back. As many threads as the lane may have wait at once: they are the queue
//! that the device sees.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use terrace_io::{Error, Operation, Result};
use terrace_sstable::Slice;
use tokio::sync::oneshot;

use super::lane::{Job, Lane};
use super::writer::Writers;
use crate::access::Access;
use crate::keyspace::Keyspace;
use crate::snapshot::Snapshot;
use crate::version::{Hit, State};

/// How many threads wait for the device at once, if nothing else is asked for. `docs/io-paths.md` has the measurements.
pub(crate) const COLD_READS_MAX: usize = 32;
/// Of so many keys at most it is asked inline whether they are in memory.
const INLINE_KEYS_MAX: usize = 32;

/// Something to be called on a thread that may wait.
pub(crate) struct Call(Box<dyn FnOnce() + Send>);

impl Job for Call {
    fn take(jobs: &mut VecDeque<Call>) -> Vec<Call> {
        jobs.pop_front().into_iter().collect()
    }

    fn run(jobs: Vec<Call>) {
        jobs.into_iter().for_each(|job| (job.0)());
    }
}

/// The error of a future whose thread has panicked, or that no thread could be had for.
pub(crate) fn lost(dir: &Path, operation: Operation) -> Error {
    let what = "the thread that was to do it could not be started, or has panicked";
    Error::io(dir, operation, std::io::Error::other(what))
}

/// What the asynchronous handles of a database share beside the database: where their work is done.
pub(crate) struct Lanes {
    reads: Arc<Lane<Call>>,
    /// Rare and long: each has a thread of its own.
    others: Arc<Lane<Call>>,
    pub writers: Writers,
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes").finish_non_exhaustive()
    }
}

impl Lanes {
    pub fn new(cold_reads_max: usize) -> Arc<Lanes> {
        let (reads, others) = (Lane::new(cold_reads_max), Lane::new(usize::MAX));
        Arc::new(Lanes { reads, others, writers: Writers::new() })
    }

    /// Has something read, unless the answer is dropped before.
    pub fn read<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (told, answer) = oneshot::channel();
        self.reads.submit(Call(Box::new(move || {
            if !told.is_closed() {
                let _ = told.send(read());
            }
        })));
        answer
    }

    /// Has something done, whether or not the answer is dropped, for as long as it takes.
    pub async fn run<T: Send + 'static>(
        &self,
        dir: &Path,
        operation: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (told, answer) = oneshot::channel();
        self.others.submit(Call(Box::new(move || drop(told.send(operation())))));
        answer.await.unwrap_or_else(|_| Err(lost(dir, Operation::Read)))
    }
}

/// What is read: a keyspace, as it is or as a snapshot sees it.
pub(crate) struct Reader<A: Access> {
    pub keyspace: Keyspace<A>,
    pub snapshot: Option<Snapshot<A>>,
    pub lanes: Arc<Lanes>,
}

impl<A: Access> Clone for Reader<A> {
    fn clone(&self) -> Self {
        let Reader { keyspace, snapshot, lanes } = self;
        Reader { keyspace: keyspace.clone(), snapshot: snapshot.clone(), lanes: lanes.clone() }
    }
}

impl<A: Access> Reader<A> {
    /// What there is to read, and the sequence number up to which it counts. Waits for nothing.
    pub fn moment(&self) -> Result<(Arc<State>, u64)> {
        match &self.snapshot {
            None => A::state(self.keyspace.handle(), self.keyspace.inner()),
            Some(snapshot) => Ok((snapshot.state(&self.keyspace)?, snapshot.sequence())),
        }
    }

    pub fn dir(&self) -> &Path {
        A::dir(self.keyspace.handle())
    }

    /// Has something read of what there is to read when a thread comes to it.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(Arc<State>, u64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let reader = self.clone();
        let answer = self.lanes.read(move || {
            let (state, sequence) = reader.moment()?;
            read(state, sequence)
        });
        answer.await.unwrap_or_else(|_| Err(lost(self.dir(), Operation::Read)))
    }

    /// `None`, if it would have to wait.
    fn find_inline<T>(&self, key: &[u8], give: impl FnOnce(Option<Hit<'_>>) -> T) -> Result<Option<T>> {
        let (state, sequence) = self.moment()?;
        match state.find_resident(key, sequence) {
            Err(error) if error.is_would_wait() => Ok(None),
            found => Ok(Some(give(found?))),
        }
    }

    pub async fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        // A task that finds everything in memory would never let another run.
        tokio::task::coop::consume_budget().await;
        if let Some(found) = self.find_inline(key, |hit| hit.map(Hit::into_slice))? {
            return Ok(found);
        }
        let key = key.to_vec();
        self.read(move |state, sequence| {
            let value = state.find(&key, sequence)?.map(Hit::into_slice);
            value.iter().for_each(Slice::bring_in);
            Ok(value)
        })
        .await
    }

    pub async fn contains_key(&self, key: &[u8]) -> Result<bool> {
        tokio::task::coop::consume_budget().await;
        if let Some(found) = self.find_inline(key, |hit| hit.is_some())? {
            return Ok(found);
        }
        let key = key.to_vec();
        self.read(move |state, sequence| Ok(state.find(&key, sequence)?.is_some())).await
    }

    /// All as of one moment.
    pub async fn multi_get(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Slice>>> {
        tokio::task::coop::consume_budget().await;
        let (state, sequence) = self.moment()?;
        if keys.len() <= INLINE_KEYS_MAX {
            let find = |key: &Vec<u8>| -> Result<Option<Slice>> {
                Ok(state.find_resident(key, sequence)?.map(Hit::into_slice))
            };
            match keys.iter().map(find).collect::<Result<Vec<_>>>() {
                Err(error) if error.is_would_wait() => {}
                found => return found,
            }
        }
        let answer = self.lanes.read(move || {
            let values = state.find_all(&keys, sequence)?;
            values.iter().flatten().for_each(Slice::bring_in);
            Ok(values)
        });
        answer.await.unwrap_or_else(|_| Err(lost(self.dir(), Operation::Read)))
    }
}
