//! The one-way door behind a failed sync: once something is in here, the database takes no more writes.
//!
//! After a failed sync the kernel may have marked the lost pages clean, and a second sync that succeeds proves nothing
//! (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020). So nothing is tried again.

use std::sync::{Arc, OnceLock};

use terrace_io::{Bug, Error, Result};

/// The first failure after which what is on disk is unknown.
#[derive(Debug, Default)]
pub(crate) struct Poison(OnceLock<Arc<Error>>);

impl Poison {
    /// [`Error::Poisoned`] if there was a failure.
    pub fn check(&self) -> Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some(_) if Bug::PoisonIgnored.is_planted() => Ok(()),
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
        }
    }

    /// Records a failure and gives back the first one.
    pub fn set(&self, error: Error) -> Arc<Error> {
        let cause = self.0.get_or_init(|| {
            tracing::error!(%error, "the database takes no more writes");
            Arc::new(error)
        });
        cause.clone()
    }

    pub fn cause(&self) -> Option<&Arc<Error>> {
        self.0.get()
    }
}
