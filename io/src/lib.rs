//! The lowest room of Terrace: how bytes reach the disk and come back.
//!
//! Every other crate does its I/O through the [`FileSystem`] and [`File`] traits of this one, so that the same code
//! runs over the operating system ([`OsFileSystem`]), over memory with honest crash semantics ([`MemoryFileSystem`])
//! and under injected faults ([`FaultFileSystem`]). On top of the seam stand the I/O paths, one for each access
//! pattern: [`Region`] for point reads (a read-only mapping), [`ScanReader`] for long scans (`pread` with readahead),
//! [`SequentialWriter`] for tables being written (large aligned chunks), and [`LogFile`] for logs (`pwrite` into
//! preallocated space, `fdatasync`), and [`OutputStream`] for files that leave through a pipe or a socket (`splice`,
//! `sendfile`).
//!
//! What a kernel or a file system may do or not is asked in one place: [`KernelCapabilities`] and
//! [`FileSystemCapabilities`]; what there is of memory, control groups and mounts in another: [`machine`]. What of a file
//! is in memory, [`Residency`] tells.
//!
//! The `unsafe` code of this crate is all in `region.rs`, `region/`, `sigbus/`, `os.rs`, `processor.rs`, `residency.rs` and
//! `usage.rs`.

#![deny(unsafe_code)]

mod capabilities;
mod checksum;
mod error;
mod fault;
mod fence;
mod fs;
mod log_file;
pub mod machine;
mod memory;
mod os;
mod output_stream;
mod planted;
mod processor;
#[cfg(test)]
mod recorder;
mod region;
mod residency;
mod scan_reader;
mod sequential_writer;
pub mod sigbus;
mod usage;

pub use capabilities::{FileSystemCapabilities, KernelCapabilities, Support};
pub use checksum::Checksum;
pub use error::{Error, Operation, Result};
pub use fault::{FaultFileSystem, FaultKind, FaultRule};
pub use fence::{heavy_fence, light_fence, prepare_fences};
pub use fs::{
    Advice, DirectoryLock, File, FileSystem, Medium, OpenMode, read_exact_at, read_exact_past_cache_at,
    write_all_at, write_all_uncached_at,
};
pub use log_file::LogFile;
pub use memory::{CrashPolicy, MemoryFileSystem, Mutation};
pub use os::OsFileSystem;
pub use output_stream::OutputStream;
// Hidden: it is there for the tests of the tests, and does nothing without the feature `planted-bugs`.
#[doc(hidden)]
pub use planted::Bug;
pub use processor::{equal_words, prefetch};
pub use region::{Pin, Region, ResidentPages};
pub use residency::{PageCount, Residency};
pub use scan_reader::{CacheUse, ScanReader};
pub use sequential_writer::SequentialWriter;
pub use usage::{ThreadUsage, release_freed_memory};

/// Bytes in a page: the unit of mapping, of table alignment and of checksummed metadata.
pub const PAGE_BYTES: usize = 4096;
