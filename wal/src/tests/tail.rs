//! What an append writes besides its bytes: the rest of a page that it is the first to write to, and zeros over what a
//! failed one has left.

use std::io::ErrorKind;
use std::sync::Arc;

use terrace_io::{FaultFileSystem, FaultKind, FaultRule, LogFile, OpenMode, Operation, PAGE_BYTES};

use super::*;
use crate::tail::Tail;

const PAGE: usize = PAGE_BYTES;
const LEN: usize = 40 * PAGE;
/// What the file holds from an earlier life.
const OLD: u8 = 0xaa;

/// A file of `len` old bytes, with a tail at `end`.
fn tail_at(end: usize, len: usize) -> (MemoryFileSystem, FaultFileSystem, Tail) {
    let memory = new_fs();
    memory.open(&segment_path(1), OpenMode::CreateNew).unwrap();
    memory.replace_bytes(&segment_path(1), vec![OLD; len]).unwrap();
    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    let file = LogFile::open(&faults, &segment_path(1)).unwrap();
    (memory, faults, Tail::new(file, end as u64))
}

#[test]
fn a_page_is_written_as_a_whole_by_the_first_who_comes_to_it() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut end = random.below(2 * PAGE as u64) as usize / 8 * 8;
        // With a last page that can be written as a whole, or not.
        let file_len = LEN + [0, 1000][seed as usize % 2];
        let (memory, _, mut tail) = tail_at(end, file_len);
        let mut expected = vec![OLD; file_len];
        loop {
            let len = match random.below(4) {
                // To the end of a page.
                0 => end.next_multiple_of(PAGE) - end,
                1 => random.below(3 * PAGE as u64) as usize,
                _ => random.below(200) as usize,
            };
            if end + len > file_len {
                break;
            }
            tail.append(&vec![1; len]).unwrap();
            expected[end..end + len].fill(1);
            let page = (end + len) / PAGE * PAGE;
            if page >= end && page + PAGE <= file_len && end + len > page {
                expected[end + len..page + PAGE].fill(0);
            }
            end += len;
            assert_eq!(tail.end(), end as u64);
            assert!(memory.file_bytes(&segment_path(1)).unwrap() == expected, "seed {seed}, at {end}");
        }
    }
}

/// What is written next covers all that the failed write may have reached, and touches nothing behind that.
#[test]
fn what_a_failed_append_has_left_is_covered() {
    // More than the zeros that are written at a time.
    const FAILED: usize = 20 * PAGE;
    let effect = FaultKind::ErrorAfterEffect(ErrorKind::Other);
    for (start, next) in [(64, 100), (64, 0), (PAGE, 8), (PAGE + 8, 3 * PAGE), (100, FAILED), (8, FAILED + 8)]
    {
        for sealed in [false, true] {
            let (memory, faults, mut tail) = tail_at(start, LEN);
            faults.add(FaultRule::on(Operation::Write).kind(effect).once());
            tail.append(&vec![2; FAILED]).unwrap_err();
            assert_eq!(tail.end(), start as u64);
            if sealed {
                let writes = faults.calls(Operation::Write);
                tail.erase_failed().unwrap();
                assert!(faults.calls(Operation::Write) <= writes + 2);
            }
            tail.append(&vec![1; next]).unwrap();
            let bytes = memory.file_bytes(&segment_path(1)).unwrap();
            let end = start + next;
            assert!(bytes[..start].iter().all(|byte| *byte == OLD));
            assert!(bytes[start..end].iter().all(|byte| *byte == 1));
            let reached = (start + FAILED).max(end);
            assert!(bytes[end..reached].iter().all(|byte| *byte == 0), "{start} {next} {sealed}");
            let untouched = reached.next_multiple_of(PAGE);
            assert!(bytes[untouched..].iter().all(|byte| *byte == OLD), "{start} {next} {sealed}");
            // Once is enough.
            let writes = faults.calls(Operation::Write);
            tail.erase_failed().unwrap();
            assert_eq!(faults.calls(Operation::Write), writes);
        }
    }
}
