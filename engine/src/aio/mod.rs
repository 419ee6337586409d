//! The same database as futures and streams: feature `async`.
//!
//! Handles stand beside those of the blocking API and share everything with them: an [`AsyncDb`] is made of a
//! [`Db`](crate::Db) and gives it back. Nothing here waits for the disk on the thread that polls:
//!
//! - A **read** of what is in memory completes at its first poll, inline: it is `get_if_resident`. Any other goes to a
//!   thread, which does the usual get, brings in the pages of the value, and wakes the task (`reader.rs`). A scan is
//!   done by such a thread too, in chunks, each when the one before is used up (`stream.rs`).
//! - A **write** goes to the one thread that commits for all tasks, and joins the group that is next (`writer.rs`).
//! - **Everything else** (open, flush, compaction, close) gets a thread for as long as it takes.
//!
//! The threads are those of the runtime's pool for blocking work, of which each kind of work takes no more than its share
//! at once; each does what there is to do before it goes (`lane.rs`). No timer and no I/O driver is needed, and a runtime
//! of one thread will do. A task that is polled where there is no runtime, or one that ends, is served by a thread of its
//! own.
//!
//! **Cancellation.** A future that is dropped before its first poll has done nothing. One that is dropped later: of a
//! read nothing remains to be seen; a write and any other change happens all the same, and completely.

mod db;
mod keyspace;
mod lane;
mod reader;
mod snapshot;
mod stream;
mod writer;

pub use db::{AsyncDb, ReadOnlyAsyncDb};
pub use keyspace::AsyncKeyspace;
pub use snapshot::AsyncSnapshot;
pub use stream::{AsyncIter, AsyncRev};
