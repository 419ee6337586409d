//! The numbers of inserted records: handed out in order, known to exist once acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Hands out the numbers of new records and says up to where all of them are there, for workers on several threads.
#[derive(Debug)]
pub struct Sequence {
    next: AtomicU64,
    present: AtomicU64,
    /// Acknowledged numbers above `present`: some number below them is still on its way.
    ahead: Mutex<BTreeSet<u64>>,
}

impl Sequence {
    /// The numbers below `present` exist already.
    pub fn new(present: u64) -> Self {
        Sequence {
            next: AtomicU64::new(present),
            present: AtomicU64::new(present),
            ahead: Mutex::new(BTreeSet::new()),
        }
    }

    /// A number for a new record.
    pub fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The record of a number that was taken is there.
    pub fn acknowledge(&self, number: u64) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = self.present.load(Ordering::Relaxed);
        if number != present {
            ahead.insert(number);
            return;
        }
        present += 1;
        while ahead.remove(&present) {
            present += 1;
        }
        self.present.store(present, Ordering::Release);
    }

    /// Every number below this is there.
    pub fn present(&self) -> u64 {
        self.present.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_holds_back_what_is_present() {
        let sequence = Sequence::new(10);
        let taken: Vec<u64> = (0..4).map(|_| sequence.take()).collect();
        assert_eq!(taken, [10, 11, 12, 13]);
        sequence.acknowledge(12);
        sequence.acknowledge(11);
        assert_eq!(sequence.present(), 10);
        sequence.acknowledge(10);
        assert_eq!(sequence.present(), 13);
        sequence.acknowledge(13);
        assert_eq!(sequence.present(), 14);
    }

    #[test]
    fn threads_leave_no_gap() {
        let sequence = Sequence::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let number = sequence.take();
                        assert!(sequence.present() <= number);
                        sequence.acknowledge(number);
                    }
                });
            }
        });
        assert_eq!(sequence.present(), 20_000);
    }
}
