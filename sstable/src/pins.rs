//! Metadata that is kept in memory, whatever else wants the memory: how much of it may be, and how much is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use terrace_io::Pin;

/// How much metadata of all tables of a directory is kept in memory.
#[derive(Debug, Default)]
pub struct Pins {
    limit_bytes: AtomicU64,
    locked_bytes: AtomicU64,
    copied_bytes: AtomicU64,
    /// Those that are being pinned, too.
    reserved_bytes: AtomicU64,
    /// Whether there was no room for something.
    is_short: AtomicBool,
}

impl Pins {
    /// Up to how many bytes may be pinned from here on (at first: none). What is pinned stays so.
    pub fn set_limit(&self, bytes: u64) {
        self.limit_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that are locked in the page cache, which other processes share.
    pub fn locked_bytes(&self) -> u64 {
        self.locked_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that are copied into memory of this process, because it may not lock as many.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes.load(Ordering::Relaxed)
    }

    /// Pins so many bytes by `pin`, if there is room for them.
    pub(crate) fn pin<E>(
        self: &Arc<Self>,
        bytes: u64,
        pin: impl FnOnce() -> Result<Pin, E>,
    ) -> Option<Result<Pinned, E>> {
        let limit_bytes = self.limit_bytes.load(Ordering::Relaxed);
        let with = |reserved: u64| reserved.checked_add(bytes).filter(|sum| *sum <= limit_bytes);
        let reserved = &self.reserved_bytes;
        if reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).is_err() {
            self.is_short.store(limit_bytes > 0, Ordering::Relaxed);
            return None;
        }
        match pin() {
            Ok(pin) => {
                self.counter(pin).fetch_add(bytes, Ordering::Relaxed);
                Some(Ok(Pinned { pins: Arc::clone(self), pin, bytes }))
            }
            Err(error) => {
                self.reserved_bytes.fetch_sub(bytes, Ordering::Relaxed);
                Some(Err(error))
            }
        }
    }

    /// Whether there was no room for something since this was asked last: when other tables have gone there may be.
    pub fn was_short(&self) -> bool {
        self.is_short.swap(false, Ordering::Relaxed)
    }

    fn counter(&self, pin: Pin) -> &AtomicU64 {
        match pin {
            Pin::Locked => &self.locked_bytes,
            Pin::Copied => &self.copied_bytes,
        }
    }
}

/// Bytes that are pinned for as long as this lives.
#[derive(Debug)]
pub(crate) struct Pinned {
    pins: Arc<Pins>,
    pin: Pin,
    bytes: u64,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.pins.counter(self.pin).fetch_sub(self.bytes, Ordering::Relaxed);
        self.pins.reserved_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_pinned_than_may_be() {
        let pins = Arc::new(Pins::default());
        let pin = |bytes, pin: Result<Pin, &'static str>| pins.pin(bytes, || pin);
        assert!(pin(1, Ok(Pin::Locked)).is_none(), "at first, nothing may be");
        pins.set_limit(100);
        let first = pin(60, Ok(Pin::Locked)).unwrap().unwrap();
        assert!(!pins.was_short());
        assert!(pin(41, Ok(Pin::Copied)).is_none());
        assert!(pins.was_short() && !pins.was_short());
        let second = pin(40, Ok(Pin::Copied)).unwrap().unwrap();
        assert_eq!((pins.locked_bytes(), pins.copied_bytes()), (60, 40));
        drop(first);
        assert_eq!(pin(60, Err("refused")).unwrap().unwrap_err(), "refused");
        let third = pin(60, Ok(Pin::Copied)).unwrap().unwrap();
        assert_eq!((pins.locked_bytes(), pins.copied_bytes()), (0, 100));
        pins.set_limit(0);
        drop((second, third));
        assert_eq!((pins.locked_bytes(), pins.copied_bytes()), (0, 0));
        assert!(pin(u64::MAX, Ok(Pin::Locked)).is_none());
    }
}
