//! The answer of reads that do not wait for the disk.

use terrace_io::Result;

/// What a read gives that does not wait for the disk: see [`crate::Keyspace::get_if_resident`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IfResident<T> {
    /// The answer. All that it took was in memory.
    Resident(T),
    /// Something that it takes has to be read from the disk first, or may have to. The same read that waits has the answer.
    WouldWait,
}

impl<T> IfResident<T> {
    /// The answer, if there is one.
    pub fn resident(self) -> Option<T> {
        match self {
            IfResident::Resident(answer) => Some(answer),
            IfResident::WouldWait => None,
        }
    }

    /// Of a read that fails where it would have to wait.
    pub(crate) fn of(read: Result<T>) -> Result<IfResident<T>> {
        match read {
            Ok(answer) => Ok(IfResident::Resident(answer)),
            Err(error) if error.is_would_wait() => Ok(IfResident::WouldWait),
            Err(error) => Err(error),
        }
    }
}
