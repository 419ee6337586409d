//! Goal: the three command lines do what their help says, with the exit codes it names.
//!
//! Method: each test runs the real binaries as processes in a directory of its own and looks at what they print, what
//! they leave behind and how they end. Tables with chosen contents are written with `terrace_sstable`.

mod harness;
mod sst_dump;
mod terrace;
mod terrace_backup;
mod terrace_doctor;
mod terrace_load;
mod terrace_repair;
mod terrace_residency;
mod ycsb;
