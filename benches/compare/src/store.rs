//! Lets the drivers of `terrace_tools::ycsb` work on any engine.

use terrace_tools::ycsb::Store;
use terrace_tools::ycsb::record::Key;

use crate::engine::{Direction, Engine, Error, Result, Span};

/// An engine as the drivers want it.
#[derive(Clone, Copy)]
pub struct EngineStore<'a>(pub &'a dyn Engine);

impl Store for EngineStore<'_> {
    type Error = Error;

    fn read(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool> {
        self.0.read(key, value)
    }

    fn write(&self, key: &Key, value: &[u8]) -> Result {
        self.0.put(key, value)
    }

    fn write_batch(&self, records: &[(Key, Vec<u8>)]) -> Result {
        self.0.put_batch(records)
    }

    fn scan(&self, from: &Key, limit: u64, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result {
        self.0.scan(Span { from: Some(from), direction: Direction::Forward, limit }, visit)
    }
}
