//! Compares Terrace with other embedded stores: the same work, the same machine, the same run.
//!
//! [`engine`] says what is asked of an engine, [`engines`] holds one file for each. [`rows`] are the workloads, one
//! row of the report each, measured by a process of its own ([`child`]) that [`run`] starts, engine by engine and round
//! by round. [`results`] is what comes out of it, [`report`] and [`plot`] make it readable. [`store`] lets the drivers
//! of `terrace_tools::ycsb` work on any engine.
//!
//! `docs/comparison.md` says how it is run, what is the same for all, and what cannot be compared.

#![deny(unsafe_code)]

pub mod child;
pub mod database;
pub mod engine;
pub mod engines;
pub mod plot;
pub mod report;
pub mod results;
pub mod rows;
pub mod run;
pub mod store;
pub mod usage;
