//! A guard for mappings: a page that cannot be read becomes an error of the one read instead of the end of the process.
//!
//! The kernel answers a touch of a mapped page that the device cannot read, or that lies behind the end of a file which
//! somebody has cut, with the signal `SIGBUS`. [`install`] sets a handler for it. From then on every [`Region`] that is
//! mapped is *guarded*: it is registered, and has a flag, its [`Poison`]. On a fault inside of it the handler sets the
//! flag, puts zeros in the place of the whole mapping and returns, so that the faulting read goes on and sees zeros. It
//! is the reader that must ask the flag after its reads, and throw away what it has read if the flag is set.
//!
//! All of a mapping goes at once, not a page: what is poisoned is not read through any more, no second fault is to be
//! taken, and a hole in the middle would take a mapping more of those that the system allows.
//!
//! A signal that is not about a guarded mapping goes to whoever had it before: see [`install`].
//!
//! [`Region`]: crate::Region

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

#[cfg(target_os = "linux")]
mod handler;
#[cfg(target_os = "linux")]
mod registry;

/// Sets the handler, once for the process and for good. Mappings that are made from here on are guarded; those that
/// were made before are not. A second call does nothing.
///
/// What one should know:
///
/// - **Reads of guarded tables copy.** With the guard on no value and no cursor borrows a mapping: a get copies its
///   value, a cursor each of its blocks. Without it nothing changes and nothing is copied.
/// - **A table that has been hit is read by `pread` from then on.** The read that was hit is made again that way: it gets
///   the right bytes, or an error with the system's own reason. A table whose file was removed meanwhile, and which is
///   only kept by an iterator or a snapshot, can no longer be opened: its reads say so.
/// - **What the guard sees.** A page that the device cannot read, one that the machine's memory has lost, and a file that
///   was cut, also by a few bytes and also if it was made longer again: after its reads a reader looks at the end of the
///   file too. It does not see bytes that another program has written over those of a table: a file of an open database
///   belongs to Terrace.
/// - **Other handlers.** A `SIGBUS` that is not of a guarded mapping, or that a process has sent, is handed to the handler
///   that was there before, with the same arguments and with the signals blocked that it asked for. If there was none, the
///   process ends as it would have. Whoever sets a handler *after* this must call the one that it finds in the same way,
///   or the guard is off.
/// - The handler runs on the thread's alternate signal stack, if there is one, and needs little of it. It takes no lock
///   and allocates nothing. Children of `fork` inherit it. A thread that has `SIGBUS` blocked when it faults is not helped:
///   the kernel ends the process.
///
/// # Errors
/// On other systems than Linux, of the kind [`Unsupported`](io::ErrorKind::Unsupported): then mappings stay as they are.
/// Otherwise if the system refuses the handler, which it has no reason to.
pub fn install() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return handler::install();
    #[cfg(not(target_os = "linux"))]
    Err(io::Error::new(io::ErrorKind::Unsupported, "mappings can be guarded against SIGBUS on Linux only"))
}

/// Whether [`install`] has been called with success, so that mappings are guarded from here on.
pub fn is_installed() -> bool {
    #[cfg(target_os = "linux")]
    return handler::is_installed();
    #[cfg(not(target_os = "linux"))]
    false
}

/// Whether a guarded mapping has lost bytes. Once set it stays so.
#[derive(Debug, Clone, Default)]
pub struct Poison(Arc<AtomicBool>);

impl Poison {
    /// Whether it is set. If not, then whatever this thread has read of the mapping before it asked is what the file has
    /// there: the flag is set before the first zero can be seen, and the question is asked after the reads.
    #[inline]
    pub fn is_set(&self) -> bool {
        fence(Ordering::Acquire);
        self.0.load(Ordering::Acquire)
    }

    /// Sets it: for a reader that has found out in another way that the mapping is not what it was.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Keeps a mapping registered. To be dropped before the mapping.
#[derive(Debug)]
pub(crate) struct Guard {
    poison: Poison,
    #[cfg(target_os = "linux")]
    slot: &'static registry::Slot,
}

impl Guard {
    /// Registers `len` bytes from the address `start`, a mapping of whole pages, if the handler is there. Whoever calls
    /// this owns the mapping, keeps it while the guard lives, and lets nobody read it without asking the [`Poison`].
    pub(crate) fn new(start: usize, len: usize) -> Option<Guard> {
        if !is_installed() {
            return None;
        }
        #[cfg(target_os = "linux")]
        {
            let poison = Poison::default();
            let slot = registry::register(start, len, &poison.0);
            Some(Guard { poison, slot })
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (start, len);
            None
        }
    }

    pub(crate) fn poison(&self) -> &Poison {
        &self.poison
    }
}

#[cfg(target_os = "linux")]
impl Drop for Guard {
    fn drop(&mut self) {
        registry::release(self.slot);
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
