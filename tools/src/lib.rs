//! What Terrace's command lines share: `terrace`, `sst-dump` and `ycsb`.
//!
//! [`tool`] gives every binary the same manners: errors, exit codes, a quiet end when a pipe closes. [`notation`]
//! turns keys and values into text and back, [`bounds`] arguments into ranges; [`figures`], [`columns`] and
//! [`calendar`] print numbers, tables and times, [`progress`] a bar; [`environment`] says what machine a report comes
//! from. [`doctor`] finds out what on this machine matters to a database and what to change; [`residency`] shows what of a
//! database is in memory. [`ycsb`] is the workload driver itself: the binary of that name only reads its arguments and
//! prints.

#![forbid(unsafe_code)]

pub mod bounds;
pub mod calendar;
pub mod columns;
pub mod doctor;
pub mod environment;
pub mod figures;
pub mod notation;
pub mod progress;
pub mod residency;
pub mod tool;
pub mod ycsb;
