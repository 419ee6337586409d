//! Writes of many tasks, committed by one thread for all of them.
//!
//! A write that is polled for the first time is put into a lane that has one thread. That takes what has queued up,
//! commits it as one group (`Core::write_group`) and tells each task: so a thousand tasks that put one key each cost
//! some groups, one `pwrite` each, and if they are synced one sync each. What comes meanwhile is the next group. Writers
//! of the blocking API queue for the same commit lock, with groups of their own.
//!
//! There are two lanes, so that buffered writes never wait for a sync: one for each [`Durability`]. Between the writes of
//! tasks that do not wait for each other there is no order, as between threads; a group that is held up because one
//! keyspace's memtables are full holds up those behind it, also if they write elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;

use terrace_io::{Operation, Result};
use tokio::sync::oneshot;

use super::lane::{Job, Lane};
use super::reader::lost;
use crate::batch::WriteBatch;
use crate::commit::{OwnedRequest, Request};
use crate::db::Handle;
use crate::group_commit::GROUP_BYTES_MAX;
use crate::options::Durability;

/// A batch that waits to be committed.
pub(crate) struct Write {
    handle: Arc<Handle>,
    request: OwnedRequest,
    durability: Durability,
    told: oneshot::Sender<Result<()>>,
}

impl Job for Write {
    /// As many as make a group.
    fn take(jobs: &mut VecDeque<Write>) -> Vec<Write> {
        let mut bytes = 0;
        let fitting = jobs.iter().take_while(|job| {
            let is_first = bytes == 0;
            bytes += job.request.byte_len();
            is_first || bytes <= GROUP_BYTES_MAX
        });
        let count = fitting.count();
        jobs.drain(..count).collect()
    }

    fn run(jobs: Vec<Write>) {
        let Some(first) = jobs.first() else { return };
        let requests: Vec<Request<'_>> = jobs.iter().map(|job| job.request.borrowed()).collect();
        // All jobs of a lane are of one database, and want the same.
        let outcomes = first.handle.core.write_group(&requests, first.durability);
        // The handles go first: whoever is told may drop the last one of theirs, and open the database again.
        let told: Vec<_> = jobs.into_iter().map(|job| job.told).collect();
        for (told, outcome) in told.into_iter().zip(outcomes) {
            // Whoever does not listen any more has dropped the future.
            let _ = told.send(outcome);
        }
    }
}

/// The lanes of a database's writes.
pub(crate) struct Writers {
    buffered: Arc<Lane<Write>>,
    synced: Arc<Lane<Write>>,
}

impl Writers {
    pub fn new() -> Writers {
        Writers { buffered: Lane::new(1), synced: Lane::new(1) }
    }

    /// Writes a batch, all of it or nothing. Once it was polled it happens, also if it is dropped then.
    pub async fn write(&self, handle: &Arc<Handle>, batch: WriteBatch, durability: Durability) -> Result<()> {
        batch.check()?;
        handle.core.admit(&batch.request())?;
        if batch.is_empty() {
            return Ok(());
        }
        let (told, outcome) = oneshot::channel();
        let lane = match durability {
            Durability::Sync => &self.synced,
            Durability::Buffered => &self.buffered,
        };
        let request = OwnedRequest::new(batch);
        lane.submit(Write { handle: handle.clone(), request, durability, told });
        outcome.await.unwrap_or_else(|_| Err(lost(&handle.core.dir, Operation::Write)))
    }
}
