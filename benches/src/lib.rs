//! What Terrace's benchmarks share: the records, the database that they are measured on, where it lies, and what the
//! process used meanwhile.
//!
//! `cargo bench -p terrace-benches` runs the criterion groups under `benches/`; the binary `load` measures what takes
//! longer. `docs/performance.md` keeps the figures.

#![forbid(unsafe_code)]

mod memory_limit;
pub mod paths;
mod place;
pub mod plot;
mod reading;
mod records;
mod report;
mod settled;
mod standstills;
mod usage;

pub use memory_limit::MemoryLimit;
pub use place::{BENCH_DIR, copy_directory, for_each_file, forget_pages, scratch_directory};
pub use reading::{next_key, walk};
pub use records::{KEY_BYTES, Key, Records, VALUE_BYTES, touch, zipf_indices};
pub use report::{criterion, measure, record_count};
pub use settled::{Settled, load};
pub use standstills::Standstills;
pub use usage::{Faults, Memory, RunQueue, device_read_bytes, process_time, thread_time};
