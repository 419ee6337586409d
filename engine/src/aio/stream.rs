//! Walking through a keyspace as a stream: entries come in chunks that another thread reads, each when the one before is
//! used up. So a slow consumer slows the scan down, and one that is gone ends it.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use terrace_io::{Error, Operation, Result};
use terrace_sstable::Slice;
use tokio::sync::oneshot;

use super::reader::{Lanes, Reader, lost};
use crate::access::Access;
use crate::iter::{Bounds, Iter};

/// The first chunk has so many entries, each further one twice as many.
const CHUNK_ENTRIES_MIN: usize = 16;
/// And no more than these, or so many bytes.
const CHUNK_ENTRIES_MAX: usize = 1024;
const CHUNK_BYTES_MAX: usize = 256 << 10;

type Entry = (Slice, Slice);

/// A stream of keys and values in a range, from both ends: an [`Iter`] for tasks. What it saw when it was made, it shows.
/// Nothing is read before the first poll, and at most one chunk of 1,024 entries or about 256 KiB ahead.
///
/// After an error, whose entries before it have all been given, it gives that error again and again: nothing is skipped
/// silently. A future of [`AsyncIter::next`] that is dropped loses no entry.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let db = terrace::AsyncDb::open(directory.path()).await?;
/// db.put("apple", "red").await?;
/// db.put("pear", "green").await?;
/// let mut entries = db.range("a".."q")?;
/// while let Some(entry) = entries.next().await {
///     let (key, value) = entry?;
///     println!("{} is {}", key.escape_ascii(), value.escape_ascii());
/// }
/// # Ok(())
/// # }
/// ```
pub struct AsyncIter {
    lanes: Arc<Lanes>,
    dir: PathBuf,
    source: Source,
    /// Entries that were read and not given yet, from the front and from the back, in key order.
    front: VecDeque<Entry>,
    back: VecDeque<Entry>,
    chunk_entries: usize,
}

enum Source {
    /// Has more, perhaps.
    Idle(Box<Iter>),
    /// A thread reads.
    Reading(oneshot::Receiver<Chunk>, End),
    /// Nothing is left but what was read.
    Finished,
    Failed(Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

/// What a thread has read.
struct Chunk {
    entries: VecDeque<Entry>,
    next: Source,
}

impl Chunk {
    fn read(mut iter: Box<Iter>, end: End, entries_max: usize) -> Chunk {
        let mut entries = VecDeque::with_capacity(entries_max);
        let mut bytes = 0;
        while entries.len() < entries_max && bytes < CHUNK_BYTES_MAX {
            let found = match end {
                End::Front => iter.next(),
                End::Back => iter.next_back(),
            };
            match found {
                None => return Chunk { entries, next: Source::Finished },
                Some(Err(error)) => return Chunk { entries, next: Source::Failed(error) },
                Some(Ok((key, value))) => {
                    key.bring_in();
                    value.bring_in();
                    bytes += key.len() + value.len();
                    match end {
                        End::Front => entries.push_back((key, value)),
                        End::Back => entries.push_front((key, value)),
                    }
                }
            }
        }
        Chunk { entries, next: Source::Idle(iter) }
    }
}

impl AsyncIter {
    pub(crate) fn new<A: Access>(reader: &Reader<A>, bounds: Bounds) -> Result<AsyncIter> {
        let (state, sequence) = reader.moment()?;
        Ok(AsyncIter {
            lanes: reader.lanes.clone(),
            dir: reader.dir().to_owned(),
            source: Source::Idle(Box::new(Iter::new(state, sequence, bounds))),
            front: VecDeque::new(),
            back: VecDeque::new(),
            chunk_entries: CHUNK_ENTRIES_MIN,
        })
    }

    /// The next entry from the front; `None` when all have been given.
    pub async fn next(&mut self) -> Option<Result<Entry>> {
        poll_fn(|context| self.poll_end(context, End::Front)).await
    }

    /// The next entry from the back; `None` when all have been given.
    pub async fn next_back(&mut self) -> Option<Result<Entry>> {
        poll_fn(|context| self.poll_end(context, End::Back)).await
    }

    /// The same entries as a stream from the back.
    pub fn rev(self) -> AsyncRev {
        AsyncRev { entries: self }
    }

    fn take(&mut self, end: End) -> Option<Entry> {
        match end {
            End::Front => self.front.pop_front(),
            End::Back => self.back.pop_back(),
        }
    }

    /// What was read from the other end, once there is nothing between the two.
    fn take_rest(&mut self, end: End) -> Option<Entry> {
        match end {
            End::Front => self.back.pop_front(),
            End::Back => self.front.pop_back(),
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>, end: End) -> Poll<Option<Result<Entry>>> {
        // A consumer for whom there is always more would never let another task run.
        ready!(pin!(tokio::task::coop::consume_budget()).poll(context));
        loop {
            if let Some(entry) = self.take(end) {
                return Poll::Ready(Some(Ok(entry)));
            }
            match std::mem::replace(&mut self.source, Source::Finished) {
                Source::Idle(iter) => {
                    let entries_max = self.chunk_entries;
                    self.chunk_entries = CHUNK_ENTRIES_MAX.min(2 * entries_max);
                    let chunk = self.lanes.read(move || Chunk::read(iter, end, entries_max));
                    self.source = Source::Reading(chunk, end);
                }
                Source::Reading(mut reading, of) => {
                    let Poll::Ready(chunk) = Pin::new(&mut reading).poll(context) else {
                        self.source = Source::Reading(reading, of);
                        return Poll::Pending;
                    };
                    match chunk {
                        Ok(chunk) => self.accept(chunk, of),
                        Err(_) => self.source = Source::Failed(lost(&self.dir, Operation::Read)),
                    }
                }
                Source::Finished => return Poll::Ready(self.take_rest(end).map(Ok)),
                Source::Failed(error) => {
                    self.source = Source::Failed(error.clone());
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn accept(&mut self, chunk: Chunk, end: End) {
        self.source = chunk.next;
        match end {
            End::Front => self.front.extend(chunk.entries),
            End::Back => chunk.entries.into_iter().rev().for_each(|entry| self.back.push_front(entry)),
        }
    }
}

impl Stream for AsyncIter {
    type Item = Result<Entry>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_end(context, End::Front)
    }
}

impl fmt::Debug for AsyncIter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ahead = self.front.len() + self.back.len();
        f.debug_struct("AsyncIter").field("read_ahead", &ahead).finish_non_exhaustive()
    }
}

/// An [`AsyncIter`] the other way round.
#[derive(Debug)]
pub struct AsyncRev {
    entries: AsyncIter,
}

impl AsyncRev {
    /// The next entry towards the front; `None` when all have been given.
    pub async fn next(&mut self) -> Option<Result<(Slice, Slice)>> {
        self.entries.next_back().await
    }
}

impl Stream for AsyncRev {
    type Item = Result<(Slice, Slice)>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().entries.poll_end(context, End::Back)
    }
}
