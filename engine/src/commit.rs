//! The commit path: how a batch becomes part of the history.
//!
//! Writers queue; one of them, the leader, takes what has queued up (`group_commit.rs`) and commits it as a group:
//!
//! 1. each batch gets the next sequence numbers and is encoded as one log record,
//! 2. the group goes to the log with one `pwrite`,
//! 3. its operations go to the memtables,
//! 4. its last sequence number is published: readers see the group from here on.
//!
//! All of that happens under one mutex, which is also what gives memtables their single writer. Only then, outside of
//! it, those who asked for [`Durability::Sync`] wait for a sync of the log (see `log.rs`), while the next group is
//! already being written. So a reader may see a write whose sync is still running, and a buffered writer never waits
//! for a disk.
//!
//! If the `pwrite` fails, nothing of the group has happened: its sequence numbers and its place in the log are used
//! again. If a sync fails, the database is poisoned and the waiting writers hear that their outcome is unknown.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use terrace_io::{Bug, Error, Result};
use terrace_sstable::SEQUENCE_MAX;
use terrace_wal::Position;

#[cfg(feature = "async")]
use crate::batch::WriteBatch;
use crate::batch::{BATCH_HEADER_BYTES, Operations, encode_header};
use crate::core::Core;
use crate::group_commit::GroupCommit;
use crate::keyspace::KeyspaceInner;
use crate::log::Appender;
use crate::log_keeper::LogTask;
use crate::memtable::{Memtable, Sealed};
use crate::options::Durability;
use crate::version::State;

/// One batch on its way in.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub operations: &'a [u8],
    pub count: u32,
    pub user_bytes: u64,
    pub value_len_max: u64,
    /// Every keyspace that it writes to.
    pub keyspaces: &'a [Arc<KeyspaceInner>],
}

/// A request that owns what it needs while it waits for a leader. It was admitted.
pub(crate) struct OwnedRequest {
    operations: Vec<u8>,
    count: u32,
    user_bytes: u64,
    keyspaces: Vec<Arc<KeyspaceInner>>,
}

impl OwnedRequest {
    #[cfg(feature = "async")]
    pub fn new(batch: WriteBatch) -> OwnedRequest {
        let WriteBatch { operations, count, user_bytes, keyspaces, .. } = batch;
        OwnedRequest { operations, count, user_bytes, keyspaces }
    }

    /// Bytes that it takes in the log, about.
    #[cfg(feature = "async")]
    pub fn byte_len(&self) -> usize {
        BATCH_HEADER_BYTES + self.operations.len()
    }

    pub fn borrowed(&self) -> Request<'_> {
        Request {
            operations: &self.operations,
            count: self.count,
            user_bytes: self.user_bytes,
            value_len_max: 0,
            keyspaces: &self.keyspaces,
        }
    }
}

/// The queue and the one who writes.
pub(crate) type Committer = GroupCommit<Writer, OwnedRequest, Result<Position>>;

/// What only the leader touches.
#[derive(Default)]
pub(crate) struct Writer {
    pub appender: Appender,
    /// The last sequence number that was given out.
    pub last_sequence: u64,
    /// Set by close: nothing is written any more.
    pub closed: bool,
}

impl Writer {
    /// Goes on behind `last_sequence`.
    pub fn new(last_sequence: u64) -> Self {
        Writer { last_sequence, ..Writer::default() }
    }
}

impl Core {
    /// Commits a batch. When this returns `Ok`, the batch is visible and survives what `durability` says.
    pub fn write(&self, request: Request<'_>, durability: Durability) -> Result<()> {
        self.admit(&request)?;
        if request.count == 0 {
            return Ok(());
        }
        self.write_admitted(request, durability)
    }

    /// Looks whether a batch can be written at all, as far as that can be told without waiting for anything.
    pub fn admit(&self, request: &Request<'_>) -> Result<()> {
        self.check_open()?;
        self.poison.check()?;
        if request.value_len_max > self.max_value_bytes {
            let (len, max) = (request.value_len_max, self.max_value_bytes);
            return Err(Error::invalid(format!("a value has {len} bytes; max_value_bytes is {max}")));
        }
        if request.keyspaces.iter().any(|keyspace| keyspace.instance != self.instance) {
            return Err(Error::invalid("the batch and the database belong to different databases"));
        }
        Ok(())
    }

    fn write_admitted(&self, request: Request<'_>, durability: Durability) -> Result<()> {
        self.wait_for_room(request.keyspaces, request.user_bytes)?;
        let end = match self.committer.try_lock() {
            Some(mut writer) => self.commit_one(&mut writer, request)?,
            None => self.commit_in_group(request)?,
        };
        self.make_durable(end, durability)
    }

    /// Commits batches that were admitted, for a thread that does it for others: as one group, and with one sync if they
    /// want one. Each happens whole or not at all, and has an outcome of its own, in their order.
    #[cfg(feature = "async")]
    pub fn write_group(&self, requests: &[Request<'_>], durability: Durability) -> Vec<Result<()>> {
        let mut keyspaces: Vec<Arc<KeyspaceInner>> = Vec::new();
        for keyspace in requests.iter().flat_map(|request| request.keyspaces) {
            if !keyspaces.iter().any(|known| Arc::ptr_eq(known, keyspace)) {
                keyspaces.push(keyspace.clone());
            }
        }
        let user_bytes = requests.iter().map(|request| request.user_bytes).sum();
        if self.wait_for_room(&keyspaces, user_bytes).is_err() {
            // Perhaps only one of them is the reason.
            return requests.iter().map(|request| self.write_admitted(*request, durability)).collect();
        }
        let mut ends: Vec<Result<Position>> = vec![Ok(Position::default()); requests.len()];
        self.commit_requests(&mut self.committer.lock(), requests, |index, end| ends[index] = end);
        let last = ends.iter().flatten().max().copied();
        let durable = last.map_or(Ok(()), |last| self.make_durable(last, durability));
        ends.into_iter().map(|end| end.and_then(|_| durable.clone())).collect()
    }

    fn make_durable(&self, end: Position, durability: Durability) -> Result<()> {
        match durability {
            Durability::Sync if Bug::AcknowledgedBeforeSync.is_planted() => Ok(()),
            Durability::Sync => self.log.sync_through(end),
            Durability::Buffered => Ok(()),
        }
    }

    /// Makes everything durable that was acknowledged before the call.
    pub fn sync(&self) -> Result<()> {
        self.poison.check()?;
        self.log.sync_through(self.log.written())
    }

    fn commit_in_group(&self, request: Request<'_>) -> Result<Position> {
        let owned = OwnedRequest {
            operations: request.operations.to_vec(),
            count: request.count,
            user_bytes: request.user_bytes,
            keyspaces: request.keyspaces.to_vec(),
        };
        self.committer.commit(owned, request.operations.len(), |writer, group| {
            let requests: Vec<Request<'_>> = group.iter().map(|waiter| waiter.request.borrowed()).collect();
            self.commit_requests(writer, &requests, |index, outcome| group[index].tell(outcome));
        })
    }

    fn commit_one(&self, writer: &mut Writer, request: Request<'_>) -> Result<Position> {
        let mut outcome = Ok(Position::default());
        self.commit_requests(writer, &[request], |_, result| outcome = result);
        outcome
    }

    /// Commits requests in order and tells what became of each.
    fn commit_requests(
        &self,
        writer: &mut Writer,
        requests: &[Request<'_>],
        mut tell: impl FnMut(usize, Result<Position>),
    ) {
        let mut first = 0;
        while first < requests.len() {
            let (taken, outcome) = self.encode_run(writer, &requests[first..]);
            let run = first..first + taken;
            let outcome = outcome.and_then(|()| writer.appender.append(&self.log));
            match outcome {
                Ok(end) => {
                    self.apply(writer, &requests[run.clone()], end.segment);
                    run.clone().for_each(|index| tell(index, Ok(end)));
                }
                Err(error) => {
                    writer.appender.clear();
                    run.clone().for_each(|index| tell(index, Err(error.clone())));
                }
            }
            first = run.end;
        }
        if writer.appender.wants_next_segment() {
            self.log_keeper.send(LogTask::PrepareSegment);
        }
    }

    /// Encodes the next requests that fit in one segment. Says how many it took, at least one, and whether they can
    /// be appended.
    fn encode_run(&self, writer: &mut Writer, requests: &[Request<'_>]) -> (usize, Result<()>) {
        let mut sequence = writer.last_sequence;
        for (index, request) in requests.iter().enumerate() {
            if let Err(error) = self.check_request(writer, request) {
                return match index {
                    0 => (1, Err(error)),
                    _ => (index, Ok(())),
                };
            }
            let payload_len = BATCH_HEADER_BYTES + request.operations.len();
            if !writer.appender.fits(payload_len) {
                if index > 0 {
                    return (index, Ok(()));
                }
                if let Err(error) = writer.appender.roll(&self.log, payload_len, sequence + 1) {
                    return (1, Err(error));
                }
            }
            let header = encode_header(sequence + 1, request.count);
            writer.appender.encode(&self.log, &[&header, request.operations]);
            sequence += u64::from(request.count);
        }
        (requests.len(), Ok(()))
    }

    fn check_request(&self, writer: &Writer, request: &Request<'_>) -> Result<()> {
        if writer.closed {
            return Err(Error::Closed);
        }
        self.poison.check()?;
        if writer.last_sequence + (1 << 40) > SEQUENCE_MAX {
            return Err(Error::invalid("the database has used up its sequence numbers"));
        }
        request.keyspaces.iter().try_for_each(|keyspace| keyspace.check_exists())
    }

    /// Puts committed requests into the memtables and publishes them.
    fn apply(&self, writer: &mut Writer, requests: &[Request<'_>], segment: u32) {
        let mut sequence = writer.last_sequence;
        let mut user_bytes = 0;
        let mut any_full = false;
        let is_full = |memtable: &Memtable| memtable.heap_bytes() >= self.options.one_memtable_bytes();
        for request in requests {
            let mut current = None;
            for operation in Operations::new(request.operations) {
                let operation = operation.expect("a batch holds operations that were encoded into it");
                if current.as_ref().is_none_or(|(id, _)| *id != operation.keyspace_id) {
                    let keyspace = request.keyspaces.iter().find(|known| known.id == operation.keyspace_id);
                    let keyspace = keyspace.expect("a request names every keyspace that it writes to");
                    current = Some((keyspace.id, keyspace.peek()));
                }
                let (_, state) = current.as_ref().expect("it was just looked up");
                sequence += 1;
                let memtable = &state.memtable;
                memtable.insert(operation.pair, operation.key_len, sequence, operation.kind, segment);
                any_full |= is_full(memtable);
            }
            user_bytes += request.user_bytes;
        }
        writer.last_sequence = sequence;
        self.visible.publish(sequence);
        self.counters.user_bytes_written.fetch_add(user_bytes, Ordering::Relaxed);
        if any_full {
            for keyspace in requests.iter().flat_map(|request| request.keyspaces) {
                if is_full(&keyspace.peek().memtable) {
                    self.seal_memtable(writer, keyspace);
                }
            }
        }
    }

    /// Sets the active memtable of a keyspace aside to be flushed and starts another. Needs the commit lock.
    pub fn seal_memtable(&self, writer: &Writer, keyspace: &KeyspaceInner) {
        if keyspace.peek().memtable.is_empty() {
            return;
        }
        let sealed = Sealed { log_end: self.log.written(), last_sequence: writer.last_sequence };
        keyspace.replace(|state| {
            state.memtable.seal(sealed);
            let mut memtables = vec![state.memtable.clone()];
            memtables.extend(state.sealed.iter().cloned());
            let memtable = Arc::new(Memtable::new(self.options.one_memtable_bytes()));
            (State { memtable, sealed: memtables, version: state.version.clone() }, ())
        });
        self.work_changed();
    }
}
