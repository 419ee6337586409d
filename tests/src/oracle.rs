//! The oracle: what a crash may leave of a history of changes.
//!
//! A [`History`] is written by the one thread that changes a database: each change before it is handed to the engine,
//! and what is known of it after. At any moment it gives two counts: of the changes that must survive and of those that
//! can. A database found after a crash must equal the model after some first part of the history that holds the ones
//! and no more than the others. That covers the order of changes, whole batches, and batches across keyspaces.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use terrace::{Access, Db};

use crate::model::{Bytes, Change, Map, Model, abbreviated};

/// What happened to a database, and how much of it is known to survive what.
#[derive(Debug)]
pub struct History {
    /// The model after each change, and before the first. The last one may be under way.
    states: Mutex<Vec<Model>>,
    acknowledged: AtomicUsize,
    synced: AtomicUsize,
}

impl Default for History {
    fn default() -> Self {
        History { states: Mutex::new(vec![Model::default()]), acknowledged: 0.into(), synced: 0.into() }
    }
}

impl History {
    fn states(&self) -> MutexGuard<'_, Vec<Model>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change is about to be made.
    pub fn begin(&self, change: &Change) {
        let mut states = self.states();
        let mut state = states[states.len() - 1].clone();
        state.apply(change);
        states.push(state);
    }

    /// Everything that was begun has been acknowledged: it survives the process.
    pub fn acknowledge(&self) {
        self.acknowledged.store(self.begun(), SeqCst);
    }

    /// Everything that was begun has been acknowledged and is durable: it survives the machine.
    pub fn acknowledge_synced(&self) {
        self.acknowledge();
        self.synced.store(self.begun(), SeqCst);
    }

    /// How many changes have been begun: no more than these can be found.
    pub fn begun(&self) -> usize {
        self.states().len() - 1
    }

    /// How many changes survive the end of the process.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(SeqCst)
    }

    /// How many changes survive the end of the machine.
    pub fn synced(&self) -> usize {
        self.synced.load(SeqCst)
    }

    /// The model now.
    pub fn now(&self) -> Model {
        let states = self.states();
        states[states.len() - 1].clone()
    }

    /// Whether the state after `count` changes is also that after one of `counts`: [`History::find`] for something that
    /// was found to be that state.
    pub fn find_again(&self, count: usize, counts: RangeInclusive<usize>) -> Result<usize, String> {
        if counts.contains(&count) {
            return Ok(count);
        }
        let found = self.states()[count].clone();
        self.find(&found, counts)
    }

    /// After which of `counts` changes the model equals what was found: the largest such count.
    pub fn find(&self, found: &Model, counts: RangeInclusive<usize>) -> Result<usize, String> {
        let states = self.states();
        if let Some(count) = counts.clone().rev().find(|&count| states[count] == *found) {
            return Ok(count);
        }
        let (least, most) = counts.into_inner();
        let elsewhere = match states.iter().rposition(|state| state == found) {
            Some(count) => format!("it is the state after {count}"),
            None => "it is the state after no number of changes".to_owned(),
        };
        let versus = |count: usize| found.difference(&states[count]).unwrap_or_default();
        Err(format!(
            "what was found is not the state after {least} to {most} changes: {elsewhere}\n\
             found against the state after {least}: {}\nfound against the state after {most}: {}",
            versus(least),
            versus(most)
        ))
    }
}

/// Reads everything in a database in three ways (scanning forward, scanning backward, key by key), which must agree,
/// and makes sure that none of `keys` is found that the scans do not show.
pub fn read_all<A: Access>(db: &Db<A>, keys: &[Bytes]) -> Result<Model, String> {
    let failed = |what: &str, error: terrace::Error| format!("{what}: {error}");
    let mut keyspaces = Vec::new();
    for name in db.keyspace_names().map_err(|error| failed("keyspace_names", error))? {
        let keyspace = db.find_keyspace(&name).map_err(|error| failed(&name, error))?;
        let keyspace = keyspace.ok_or_else(|| format!("{name:?} is listed, but not there"))?;
        let mut map = Map::new();
        let mut previous: Option<Bytes> = None;
        for entry in keyspace.iter().map_err(|error| failed("iter", error))? {
            let (key, value) = entry.map_err(|error| failed("a scan", error))?;
            let key = Bytes::from(&*key);
            if previous.as_ref().is_some_and(|previous| *previous >= key) {
                return Err(format!("a scan of {name:?} gives {} out of order", abbreviated(&key)));
            }
            previous = Some(key.clone());
            map.insert(key, Bytes::from(&*value));
        }
        let mut forward = map.iter().rev();
        for entry in keyspace.iter().map_err(|error| failed("iter", error))?.rev() {
            let (key, value) = entry.map_err(|error| failed("a reverse scan", error))?;
            let expected = forward.next();
            if !expected.is_some_and(|expected| *key == **expected.0 && *value == **expected.1) {
                let expected = expected.map_or("nothing".to_owned(), |(key, _)| abbreviated(key));
                return Err(format!(
                    "a reverse scan of {name:?} gives {}, not {expected}",
                    abbreviated(&key)
                ));
            }
        }
        if let Some((key, _)) = forward.next() {
            return Err(format!("a reverse scan of {name:?} does not give {}", abbreviated(key)));
        }
        for key in keys.iter().chain(map.keys()) {
            let got = keyspace.get(key).map_err(|error| failed("get", error))?;
            if got.as_deref() != map.get(key).map(|value| &**value) {
                return Err(format!("get of {} in {name:?} and a scan do not agree", abbreviated(key)));
            }
        }
        keyspaces.push((name, map));
    }
    match db.health() {
        health if health.is_ok() => Ok(Model::from_keyspaces(keyspaces)),
        health => Err(format!("not well: {health:?}")),
    }
}
