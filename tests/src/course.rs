//! The history of a database under faults, where a change may fail and go on being possible.
//!
//! A change that was refused with an error has not happened for those who read on, but it may have reached the disk: a
//! crash may bring it back, but only where it was: what is written to the log next takes its place, and before a
//! keyspace is created, dropped or cleared it is erased. So what a crash may leave is the state after some first part
//! of the changes that succeeded, perhaps with one change that failed just then.
//!
//! A course may be written to by one thread while others look at it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use terrace::Error;

use crate::model::{Change, Model};

/// What has been done to a database, and what is known of it.
#[derive(Debug, Default)]
pub struct Course(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The model after each change that succeeded, and before the first.
    states: Vec<Model>,
    /// Changes that have failed, and behind them the one that is under way.
    attempts: Vec<Attempt>,
    is_under_way: bool,
    /// How many states survive the end of the machine.
    synced: usize,
}

#[derive(Debug)]
struct Attempt {
    /// How many changes had succeeded before.
    at: usize,
    change: Change,
    /// Whether the database has made it, as far as those know who read on.
    is_visible: bool,
}

impl Default for State {
    fn default() -> Self {
        State { states: vec![Model::default()], attempts: Vec::new(), is_under_way: false, synced: 0 }
    }
}

/// What may be found: nothing older than `least` changes, nothing newer than `most`.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// So many changes have survived.
    pub least: usize,
    /// So many had succeeded at most, with the one that was under way.
    pub most: usize,
}

impl Course {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change is about to be made.
    pub fn begin(&self, change: &Change) {
        let mut state = self.state();
        let at = state.states.len() - 1;
        state.attempts.push(Attempt { at, change: change.clone(), is_visible: false });
        state.is_under_way = true;
    }

    /// What became of it. If it succeeded and `is_synced`, everything up to it survives the machine.
    pub fn end(&self, outcome: &terrace::Result<()>, is_synced: bool) {
        let mut state = self.state();
        state.is_under_way = false;
        let Some(mut attempt) = state.attempts.pop() else { return };
        match outcome {
            Ok(()) => {
                let after = attempt.on(state.now());
                state.states.push(after);
                if is_synced {
                    state.synced = state.states.len() - 1;
                }
            }
            // It was refused before anything was done.
            Err(Error::Poisoned { .. } | Error::Closed) => {}
            Err(error) => {
                attempt.is_visible = matches!(error, Error::OutcomeUnknown { .. });
                state.attempts.push(attempt);
            }
        }
    }

    /// Everything that has succeeded survives the machine.
    pub fn all_synced(&self) {
        let mut state = self.state();
        state.synced = state.states.len() - 1;
    }

    /// This is what was found when the database was opened, and all of it survives the machine: so it is decided what
    /// has happened.
    pub fn resolve(&self, found: Model) {
        let mut state = self.state();
        state.states.push(found);
        state.synced = state.states.len() - 1;
    }

    /// The model after everything that has succeeded.
    pub fn now(&self) -> Model {
        self.state().now().clone()
    }

    /// What a crash of the machine may leave now, or the end of the process.
    pub fn bounds(&self, of_the_machine: bool) -> Bounds {
        let state = self.state();
        let succeeded = state.states.len() - 1;
        Bounds {
            least: if of_the_machine { state.synced } else { succeeded },
            most: succeeded + usize::from(state.is_under_way),
        }
    }

    /// What may be found after a crash, the most likely first.
    pub fn after_crash(&self, bounds: Bounds) -> Vec<Model> {
        let state = self.state();
        let mut allowed = Vec::new();
        for count in (bounds.least..=bounds.most.min(state.states.len() - 1)).rev() {
            let failed = state.attempts.iter().filter(|attempt| attempt.at == count);
            allowed.extend(failed.map(|attempt| attempt.on(&state.states[count])));
            allowed.push(state.states[count].clone());
        }
        allowed
    }

    /// What may be read now in the same process, the most likely first.
    pub fn alive(&self) -> Vec<Model> {
        let state = self.state();
        let last = state.states.len() - 1;
        let unknown = state.attempts.iter().filter(|attempt| attempt.at == last && attempt.is_visible);
        let unknown = unknown.map(|attempt| attempt.on(state.now()));
        std::iter::once(state.now().clone()).chain(unknown).collect()
    }
}

impl State {
    fn now(&self) -> &Model {
        &self.states[self.states.len() - 1]
    }
}

impl Attempt {
    /// The model with it. What it writes to keyspaces that are gone is nowhere.
    fn on(&self, model: &Model) -> Model {
        let mut after = model.clone();
        match &self.change {
            Change::Batch(writes) => {
                let there = writes.iter().filter(|write| model.keyspaces().contains_key(&write.keyspace));
                after.apply(&Change::Batch(there.cloned().collect()));
            }
            change => after.apply(change),
        }
        after
    }
}
