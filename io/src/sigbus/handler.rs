//! The handler of `SIGBUS`, and what was there before it. All that the handler calls may be called in a signal handler:
//! system calls and loads and stores of atomics.
#![expect(unsafe_code, reason = "signal handlers are C")]

use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use libc::{c_int, c_void, siginfo_t};
use parking_lot::Mutex;

use super::registry::{self, Mapping};

/// Memory was lost and nobody has asked for it yet: a message, not a fault.
const BUS_MCEERR_AO: c_int = 5;
/// Memory that is asked for was lost.
const BUS_MCEERR_AR: c_int = 4;
/// No such page, and the error of a device.
const BUS_ADRERR: c_int = 2;
const BUS_OBJERR: c_int = 3;

static INSTALLED: AtomicBool = AtomicBool::new(false);
/// What was to be done before: `SIG_DFL`, `SIG_IGN`, or the address of a handler.
static EARLIER: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static EARLIER_FLAGS: AtomicI32 = AtomicI32::new(0);
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(crate::PAGE_BYTES);

pub(super) fn is_installed() -> bool {
    INSTALLED.load(Ordering::Acquire)
}

pub(super) fn install() -> io::Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _installing = INSTALLING.lock();
    if is_installed() {
        return Ok(());
    }
    // SAFETY: `sysconf` has no preconditions.
    if let Ok(bytes) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) {
        PAGE_BYTES.store(bytes, Ordering::Relaxed);
    }
    // Known before the first signal comes.
    let earlier = action(None)?;
    remember(&earlier);
    let ours = libc::sigaction {
        sa_sigaction: handle as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize,
        // The earlier handler runs with the signals blocked that it asked for.
        sa_mask: earlier.sa_mask,
        sa_flags: libc::SA_SIGINFO
            | libc::SA_ONSTACK
            | earlier.sa_flags & (libc::SA_NODEFER | libc::SA_RESTART),
        sa_restorer: None,
    };
    // Another may have set one meanwhile.
    remember(&action(Some(&ours))?);
    INSTALLED.store(true, Ordering::Release);
    Ok(())
}

fn remember(earlier: &libc::sigaction) {
    EARLIER_FLAGS.store(earlier.sa_flags, Ordering::Relaxed);
    EARLIER.store(earlier.sa_sigaction, Ordering::Relaxed);
}

/// Sets what is to be done on a `SIGBUS`, if that is given, and says what was to be done before.
fn action(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    // SAFETY: a `sigaction` is integers and an optional function, for all of which zero is a value.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: both pointers are valid or null. The only handler that is given here is `handle`, which lives for ever.
    let refused = unsafe { libc::sigaction(libc::SIGBUS, new.map_or(ptr::null(), ptr::from_ref), &mut old) };
    if refused == 0 { Ok(old) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the place of this thread's `errno`, which the interrupted code may be about to read.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel hands a handler with `SA_SIGINFO` a valid `siginfo_t`; `si_addr` of one that was sent is some
    // number, which is only looked at if the code says that it is an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    let is_ours = match code {
        BUS_ADRERR | BUS_OBJERR | BUS_MCEERR_AR => {
            registry::find(address).is_some_and(|mapping| give_up(&mapping, address))
        }
        // Of a file that is only read: the kernel forgets the page, and the next touch reads it again.
        BUS_MCEERR_AO => registry::find(address).is_some(),
        _ => false,
    };
    if !is_ours {
        forward(signal, info, context, code);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Poisons a mapping that this thread is reading, and puts zeros in its place. False if the system does not allow that.
fn give_up(mapping: &Mapping, address: usize) -> bool {
    // SAFETY: this thread has touched the mapping, so it borrows it, and with it the guard that keeps the flag alive.
    let poison = unsafe { &*mapping.poison };
    // First: whoever sees a zero sees this.
    poison.store(true, Ordering::SeqCst);
    let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
    let page = address - address % page_bytes;
    zeros(mapping.start, mapping.len) || zeros(page, page_bytes)
}

/// Maps zeros over whole pages of a guarded mapping.
fn zeros(start: usize, len: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the pages belong to a registered mapping, which is not unmapped while this thread borrows it. They were to be
    // read only, and still are; those who read them ask the flag before they believe what they have seen.
    let mapped =
        unsafe { libc::mmap(ptr::with_exposed_provenance_mut(start), len, libc::PROT_READ, flags, -1, 0) };
    !ptr::eq(mapped, libc::MAP_FAILED)
}

/// Does what would have been done without us.
fn forward(signal: c_int, info: *mut siginfo_t, context: *mut c_void, code: c_int) {
    // Of a fault: if the handler returns, the instruction is repeated, and faults again.
    let is_fault = code > 0 && code != BUS_MCEERR_AO;
    let (earlier, flags) = (EARLIER.load(Ordering::Relaxed), EARLIER_FLAGS.load(Ordering::Relaxed));
    match earlier {
        libc::SIG_IGN if !is_fault => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            restore_default(signal);
            if !is_fault {
                // Blocked until this handler has returned, as a rule.
                // SAFETY: `raise` may be called in a handler.
                unsafe { libc::raise(signal) };
            }
        }
        handler => {
            if flags & libc::SA_RESETHAND != 0 {
                restore_default(signal);
            }
            if flags & libc::SA_SIGINFO != 0 {
                // SAFETY: the kernel had this address as that of a handler with these arguments.
                let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                    unsafe { mem::transmute(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: as above, with this argument.
                let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
                handler(signal);
            }
        }
    }
}

fn restore_default(signal: c_int) {
    // SAFETY: `signal` may be called in a handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
