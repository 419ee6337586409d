//! What this process used, as the system tells: page faults, memory, processor time. All zero where it does not tell.

use std::fmt;
use std::fs::read_to_string;
use std::ops::{AddAssign, Sub};
use std::time::Duration;

/// Page faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Those that needed no I/O.
    pub minor: u64,
    /// Those that waited for a disk.
    pub major: u64,
}

impl Faults {
    /// Those of this process so far.
    pub fn now() -> Self {
        let stat = read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the program's name in parentheses and may hold anything; fields 10 and 12 of proc(5).
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse().ok();
        Faults { minor: field(10).unwrap_or(0), major: field(12).unwrap_or(0) }
    }
}

impl Sub for Faults {
    type Output = Faults;

    fn sub(self, earlier: Faults) -> Faults {
        Faults { minor: self.minor - earlier.minor, major: self.major - earlier.major }
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, more: Faults) {
        self.minor += more.minor;
        self.major += more.major;
    }
}

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// The most that it ever was, mapped files included (`VmHWM`).
    pub peak: u64,
    /// Heap and stacks now.
    pub anonymous: u64,
    /// Pages of mapped files now.
    pub mapped: u64,
}

impl Memory {
    /// That of this process.
    pub fn now() -> Self {
        let status = read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |name: &str| {
            let kibibytes =
                status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
            kibibytes.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Memory { peak: bytes("VmHWM:"), anonymous: bytes("RssAnon:"), mapped: bytes("RssFile:") }
    }

    /// Starts a new peak from what is resident now, where the system allows it.
    pub fn reset_peak() {
        // Without it the peak is that of the whole process, which is what the report then says.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        let (peak, anonymous, mapped) = (mib(self.peak), mib(self.anonymous), mib(self.mapped));
        write!(f, "peak {peak} MiB resident (VmHWM); now {anonymous} MiB heap, {mapped} MiB mapped files")
    }
}

/// Bytes that were read from the disk for this process so far, be it by calls or at the touch of a mapped page.
pub fn device_read_bytes() -> u64 {
    let text = read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes:"));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

/// Processor time that the calling thread has used. Unlike the time on the clock it says little about what else runs on
/// the machine.
pub fn thread_time() -> Duration {
    clock(Clock::Thread)
}

/// Processor time that all threads of this process have used.
pub fn process_time() -> Duration {
    clock(Clock::Process)
}

/// Says how long the thread that made it was ready to run while other threads had the processors. Where the system does
/// not tell, it says zero.
#[derive(Debug)]
pub struct RunQueue {
    schedstat: Option<std::fs::File>,
}

impl RunQueue {
    /// That of the calling thread.
    pub fn of_this_thread() -> Self {
        RunQueue { schedstat: std::fs::File::open("/proc/thread-self/schedstat").ok() }
    }

    /// How long that was so far. Takes about a microsecond.
    pub fn waited(&self) -> Duration {
        let mut text = [0; 64];
        let read = self.schedstat.as_ref().and_then(|file| read_start(file, &mut text).ok()).unwrap_or(0);
        // Time on a processor, time ready to run, number of time slices.
        let nanos =
            std::str::from_utf8(&text[..read]).ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}

#[cfg(unix)]
fn read_start(file: &std::fs::File, buffer: &mut [u8]) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, 0)
}

#[cfg(not(unix))]
fn read_start(_: &std::fs::File, _: &mut [u8]) -> std::io::Result<usize> {
    Ok(0)
}

enum Clock {
    Thread,
    Process,
}

#[cfg(unix)]
fn clock(clock: Clock) -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(match clock {
        Clock::Thread => ClockId::ThreadCPUTime,
        Clock::Process => ClockId::ProcessCPUTime,
    });
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(not(unix))]
fn clock(_: Clock) -> Duration {
    Duration::ZERO
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn new_memory_and_the_work_on_it_are_seen() {
        let (faults, memory) = (Faults::now(), Memory::now());
        let used = thread_time();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(thread_time() > used && process_time() >= thread_time());
        let more = Memory::now();
        assert!(more.anonymous >= memory.anonymous + (60 << 20), "{memory} {more}");
        assert!(more.peak >= more.anonymous, "{more}");
        assert!(Faults::now() != faults);
        drop(block);
    }
}
