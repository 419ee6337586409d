//! A tally: how often things happened, by name, to be shown at the end of a test and to make sure that what a test is
//! about did happen in it. It may be used from any thread.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts by name.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has happened so many times more.
    pub fn add(&self, name: &str, times: u64) {
        let mut counts = self.counts();
        match counts.get_mut(name) {
            Some(count) => *count += times,
            None => drop(counts.insert(name.to_owned(), times)),
        }
    }

    /// Adds all counts of another one.
    pub fn merge(&self, other: Tally) {
        for (name, times) in other.0.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.add(&name, times);
        }
    }

    /// How often it has happened.
    pub fn get(&self, name: &str) -> u64 {
        self.counts().get(name).copied().unwrap_or(0)
    }

    /// Those of `names` that have never happened.
    pub fn missing<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        names.iter().copied().filter(|name| self.get(name) == 0).collect()
    }

    /// The counts whose names begin with `prefix`, which is left out: `12 of this, 3 of that`.
    pub fn show(&self, prefix: &str) -> String {
        let counts = self.counts();
        let shown = counts.iter().filter_map(|(name, count)| Some((name.strip_prefix(prefix)?, count)));
        shown.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    }

    /// The counts whose names begin with `prefix`, added up.
    pub fn sum(&self, prefix: &str) -> u64 {
        self.counts().iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show(""))
    }
}
