//! What the calling thread has cost the system so far: page faults, and what was read from devices for it. Asking takes
//! some 0.2 µs.
#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "getrusage and malloc_trim have no safe wrappers")
)]

/// Faults and reads of a thread since it began. All zero where the system does not tell.
///
/// ```
/// use terrace_io::ThreadUsage;
/// let before = ThreadUsage::now();
/// let block = std::hint::black_box(vec![1_u8; 8 << 20]);
/// let used = ThreadUsage::now().since(before);
/// # if cfg!(target_os = "linux") {
/// assert!(used.minor_faults > 0);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThreadUsage {
    /// Page faults that needed no I/O.
    pub minor_faults: u64,
    /// Page faults that waited for a device.
    pub major_faults: u64,
    /// Bytes that were read from devices, by calls or at the touch of a mapped page, readahead included.
    pub device_bytes: u64,
}

impl ThreadUsage {
    /// That of the calling thread, so far.
    pub fn now() -> ThreadUsage {
        thread_usage()
    }

    /// What was added since an earlier moment of the same thread.
    pub fn since(self, earlier: ThreadUsage) -> ThreadUsage {
        ThreadUsage {
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
            device_bytes: self.device_bytes.saturating_sub(earlier.device_bytes),
        }
    }
}

/// Gives back to the system what the allocator keeps of freed memory, where it can be told to (glibc): it keeps some for
/// each thread. Takes up to milliseconds.
pub fn release_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(target_os = "linux")]
fn thread_usage() -> ThreadUsage {
    /// In which the system counts what it read.
    const SECTOR_BYTES: u64 = 512;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` has room for what is written, and all zeros are a valid value if nothing is.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    let count = |field: libc::c_long| u64::try_from(field).unwrap_or(0);
    ThreadUsage {
        minor_faults: count(usage.ru_minflt),
        major_faults: count(usage.ru_majflt),
        device_bytes: count(usage.ru_inblock) * SECTOR_BYTES,
    }
}

#[cfg(not(target_os = "linux"))]
fn thread_usage() -> ThreadUsage {
    ThreadUsage::default()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn faults_of_other_threads_do_not_count() {
        let touch = || {
            let before = ThreadUsage::now();
            std::hint::black_box(vec![1_u8; 32 << 20]);
            ThreadUsage::now().since(before)
        };
        let before = ThreadUsage::now();
        let theirs = std::thread::spawn(touch).join().unwrap();
        let meanwhile = ThreadUsage::now().since(before);
        assert!(theirs.minor_faults >= 16, "{theirs:?}");
        assert!(meanwhile.minor_faults < theirs.minor_faults, "{meanwhile:?} {theirs:?}");
        assert!(touch().minor_faults >= 16);
    }
}
