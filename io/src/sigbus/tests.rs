//! The guard over real files that are cut, and, in processes of their own, what is left to others.
#![expect(unsafe_code, reason = "handlers that were there before")]

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::AtomicU32;

use libc::{c_int, c_void, siginfo_t};

use super::*;
use crate::{PAGE_BYTES, Region};

const FILE_BYTES: usize = 64 * PAGE_BYTES;

fn filled() -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; FILE_BYTES]).unwrap();
    file
}

fn mapped(file: &File) -> Region {
    Region::map(file, FILE_BYTES).unwrap()
}

#[test]
fn a_cut_file_poisons_its_own_mapping_only() {
    let early = filled();
    install().unwrap();
    install().unwrap();
    let (file, other) = (filled(), filled());
    let (region, beside) = (mapped(&file), mapped(&other));
    let poison = region.poison().unwrap().clone();
    assert_eq!((region[0], region[FILE_BYTES - 1], poison.is_set()), (7, 7, false));
    file.set_len(PAGE_BYTES as u64).unwrap();
    assert_eq!((region[0], poison.is_set()), (7, false), "what is left of the file can be read");
    assert_eq!((region[FILE_BYTES - 1], poison.is_set()), (0, true));
    assert!(region.iter().all(|byte| *byte == 0), "all of it is gone at once");
    assert!(beside.iter().all(|byte| *byte == 7));
    assert!(!beside.poison().unwrap().is_set());
    drop(region);
    assert!(poison.is_set());
    assert!(mapped(&early).poison().is_some(), "whether it is guarded is decided when it is mapped");
    assert!(Region::from_vec(vec![1]).poison().is_none());
}

#[test]
fn threads_that_fault_at_once_all_go_on() {
    install().unwrap();
    for _ in 0..200 {
        let file = filled();
        let region = mapped(&file);
        file.set_len(0).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let region = &region;
                scope.spawn(move || {
                    let pages = region.chunks(PAGE_BYTES).skip(thread * 16).chain(region.chunks(PAGE_BYTES));
                    assert!(pages.take(64).all(|page| page[9] == 0));
                    assert!(region.poison().unwrap().is_set());
                });
            }
        });
    }
}

#[test]
fn a_zero_is_never_seen_before_the_flag() {
    install().unwrap();
    for round in 0..500 {
        let file = filled();
        let region = mapped(&file);
        std::thread::scope(|scope| {
            scope.spawn(|| file.set_len(round % 60 * PAGE_BYTES as u64).unwrap());
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let has_zero =
                            region.chunks(PAGE_BYTES).any(|page| std::hint::black_box(page)[100] != 7);
                        let is_set = region.poison().unwrap().is_set();
                        assert!(is_set || !has_zero);
                        if is_set {
                            break;
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn mappings_are_found_as_long_as_they_are_there() {
    // Where no process has memory.
    let place = |number: usize| usize::MAX / 2 + number * 3 * PAGE_BYTES;
    let flag = Arc::new(AtomicBool::new(false));
    let register = |number| registry::register(place(number), 2 * PAGE_BYTES, &flag);
    for _ in 0..3 {
        let slots: Vec<_> = (0..1000).map(register).collect();
        for number in 0..1000 {
            let start = place(number);
            for address in [start, start + 2 * PAGE_BYTES - 1] {
                let found = registry::find(address).unwrap();
                assert_eq!(
                    (found.start, found.len, found.poison),
                    (start, 2 * PAGE_BYTES, Arc::as_ptr(&flag))
                );
            }
            assert!(registry::find(start - 1).is_none() && registry::find(start + 2 * PAGE_BYTES).is_none());
        }
        slots.into_iter().for_each(registry::release);
        assert!((0..1000).all(|number| registry::find(place(number)).is_none()));
    }
}

#[test]
fn a_slot_that_changes_is_seen_as_a_whole() {
    let flags = [Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false))];
    let slot = registry::Slot::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200_000 {
                let which = round % 2;
                slot.set(1000 + which, 2000 + which, Arc::as_ptr(&flags[which]).cast_mut());
            }
            stop.store(true, Ordering::Relaxed);
        });
        while !stop.load(Ordering::Relaxed) {
            let Some(seen) = slot.get().filter(|seen| seen.len > 0) else { continue };
            let which = seen.start - 1000;
            assert_eq!((seen.len, seen.poison), (2000 + which, Arc::as_ptr(&flags[which])));
        }
    });
}

/// Runs a test again as a process that does a task.
fn child(test: &str, task: &str) -> ExitStatus {
    let name = format!("sigbus::tests::{test}");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &name, "--test-threads=1"]).env("TERRACE_SIGBUS_TASK", task);
    command.output().unwrap().status
}

/// What this process is to do, if it is one of [`child`].
fn task() -> Option<String> {
    std::env::var("TERRACE_SIGBUS_TASK").ok()
}

/// Reads a page that is not there, in a mapping that is not guarded; with a guarded one in the process.
fn fault_elsewhere(before_install: impl FnOnce()) {
    let file = filled();
    let foreign = mapped(&file);
    before_install();
    install().unwrap();
    let (guarded_file, other) = (filled(), filled());
    let (guarded, _beside) = (mapped(&guarded_file), mapped(&other));
    guarded_file.set_len(0).unwrap();
    assert_eq!(guarded[0], 0, "the guard works");
    file.set_len(0).unwrap();
    EXPECTED.store(foreign.as_ptr().addr() + 5 * PAGE_BYTES, Ordering::SeqCst);
    let read = std::hint::black_box(&foreign)[5 * PAGE_BYTES];
    unreachable!("a page that does not exist was read: {read}");
}

static EXPECTED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
static CALLS: AtomicU32 = AtomicU32::new(0);

extern "C" fn exit_with_address(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the arguments of a handler with `SA_SIGINFO`.
    let address = unsafe { (*info).si_addr().addr() };
    let is_right = signal == libc::SIGBUS && !context.is_null() && address == EXPECTED.load(Ordering::SeqCst);
    // SAFETY: `_exit` may be called in a handler.
    unsafe { libc::_exit(if is_right { 42 } else { 43 }) };
}

extern "C" fn exit_plainly(signal: c_int) {
    // SAFETY: as above.
    unsafe { libc::_exit(if signal == libc::SIGBUS { 44 } else { 43 }) };
}

extern "C" fn count(_signal: c_int) {
    CALLS.fetch_add(1, Ordering::SeqCst);
}

/// Sets what is done on `SIGBUS`.
fn set(handler: usize, flags: c_int) {
    // SAFETY: zero is a value for all its fields, and the handler is one that its flags describe.
    let refused = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    assert_eq!(refused, 0);
}

fn raise() {
    // SAFETY: `raise` has no preconditions.
    unsafe { libc::raise(libc::SIGBUS) };
}

#[test]
fn a_fault_in_a_foreign_mapping_still_kills() {
    match task().as_deref() {
        // What the standard library has set.
        Some("as it is") => fault_elsewhere(|| {}),
        Some("default") => fault_elsewhere(|| set(libc::SIG_DFL, 0)),
        Some("ignored") => fault_elsewhere(|| set(libc::SIG_IGN, 0)),
        _ => {
            for task in ["as it is", "default", "ignored"] {
                let status = child("a_fault_in_a_foreign_mapping_still_kills", task);
                assert_eq!(status.signal(), Some(libc::SIGBUS), "{task}: {status}");
            }
        }
    }
}

#[test]
fn an_earlier_handler_is_called() {
    let with_address = exit_with_address as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
    let plain = exit_plainly as extern "C" fn(c_int) as usize;
    match task().as_deref() {
        Some("with an address") => fault_elsewhere(|| set(with_address, libc::SA_SIGINFO)),
        Some("plain") => fault_elsewhere(|| set(plain, 0)),
        _ => {
            let code = |task| child("an_earlier_handler_is_called", task).code();
            assert_eq!((code("with an address"), code("plain")), (Some(42), Some(44)));
        }
    }
}

#[test]
fn a_signal_that_was_sent_goes_to_whom_it_went_before() {
    let counts = count as extern "C" fn(c_int) as usize;
    let sent = |handler: usize, flags: c_int| {
        set(handler, flags);
        install().unwrap();
        raise();
        raise();
        std::process::exit(60 + CALLS.load(Ordering::SeqCst) as i32);
    };
    match task().as_deref() {
        Some("counted") => sent(counts, 0),
        Some("ignored") => sent(libc::SIG_IGN, 0),
        Some("counted once") => sent(counts, libc::SA_RESETHAND),
        Some("default") => sent(libc::SIG_DFL, 0),
        _ => {
            let status = |task| child("a_signal_that_was_sent_goes_to_whom_it_went_before", task);
            assert_eq!((status("counted").code(), status("ignored").code()), (Some(62), Some(60)));
            for task in ["counted once", "default"] {
                assert_eq!(status(task).signal(), Some(libc::SIGBUS), "{task}");
            }
        }
    }
}
