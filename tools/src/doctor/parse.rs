//! The forms of the files below `/proc` and `/sys`. Pure functions of text; `None` where it has another form.

use std::fmt;

/// The version of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// All of it: `6.18.44-generic`.
    pub text: String,
    /// Its first two numbers.
    pub version: (u32, u32),
}

impl Release {
    pub(super) fn parse(text: &str) -> Option<Release> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let version = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        Some(Release { text: text.to_owned(), version })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `/proc/meminfo`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total_bytes: u64,
    /// What can be had without swapping: free, or clean page cache.
    pub available_bytes: u64,
    /// Swap space.
    pub swap_bytes: u64,
}

impl Memory {
    pub(super) fn parse(meminfo: &str) -> Option<Memory> {
        let bytes = |name: &str| {
            let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(Memory {
            total_bytes: bytes("MemTotal")?,
            // Before Linux 3.14 there was no such line.
            available_bytes: bytes("MemAvailable").or_else(|| bytes("MemFree"))?,
            swap_bytes: bytes("SwapTotal").unwrap_or(0),
        })
    }
}

/// A limit of this process. `None` means unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What holds now.
    pub soft: Option<u64>,
    /// How far the process may raise it by itself.
    pub hard: Option<u64>,
}

/// Those of `/proc/self/limits` that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors.
    pub open_files: Limit,
    /// Bytes locked in memory.
    pub locked_bytes: Limit,
    /// Bytes of address space.
    pub address_space_bytes: Limit,
}

impl Limits {
    pub(super) fn parse(limits: &str) -> Option<Limits> {
        let value = |text: &str| match text {
            "unlimited" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let limit = |name: &str| {
            let mut values = limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
            Some(Limit { soft: value(values.next()?)?, hard: value(values.next()?)? })
        };
        Some(Limits {
            open_files: limit("Max open files")?,
            locked_bytes: limit("Max locked memory")?,
            address_space_bytes: limit("Max address space")?,
        })
    }
}

/// `/proc/pressure/...` or a control group's: the share of the last minute in which tasks waited, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pressure {
    /// In which at least one waited.
    pub some_percent: f64,
    /// In which all waited that were not idle.
    pub full_percent: f64,
}

impl Pressure {
    pub(super) fn parse(pressure: &str) -> Option<Pressure> {
        let percent = |kind: &str| {
            let averages = pressure.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
            let average = averages.split(' ').find_map(|field| field.strip_prefix("avg60="))?;
            average.parse::<f64>().ok().filter(|percent| percent.is_finite())
        };
        Some(Pressure { some_percent: percent("some")?, full_percent: percent("full")? })
    }
}

/// The choice in brackets: `always [madvise] never`. Files of some older kernels have one word and no brackets.
pub(super) fn chosen(choices: &str) -> Option<String> {
    let word = match choices.split_once('[') {
        Some((_, rest)) => rest.split_once(']')?.0,
        None => choices,
    };
    let is_word = !word.is_empty() && !word.contains(char::is_whitespace);
    is_word.then(|| word.to_owned())
}

/// The size of a page, by the first mapping of `/proc/self/smaps`.
pub(super) fn page_bytes(smaps: &str) -> Option<u64> {
    let value = smaps.lines().find_map(|line| line.strip_prefix("KernelPageSize:"))?;
    value.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024).filter(|bytes| *bytes > 0)
}

/// `/sys/kernel/mm/lru_gen/enabled`: `0x0007`, or `y` and `n` in some kernels.
pub(super) fn is_multi_generational(enabled: &str) -> Option<bool> {
    match enabled {
        "y" | "Y" => Some(true),
        "n" | "N" => Some(false),
        number => Some(u32::from_str_radix(number.strip_prefix("0x")?, 16).ok()? & 1 != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_have_two_numbers_in_front() {
        let version = |text: &str| Release::parse(text).map(|release| release.version);
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.14.0-427.13.1.el9_4.x86_64"), Some((5, 14)));
        assert_eq!(version("4.4-generic"), Some((4, 4)));
        assert_eq!(version("6.1.0-rc3+"), Some((6, 1)));
        assert_eq!((version("mainline"), version(""), version("6")), (None, None, None));
    }

    #[test]
    fn memory_is_in_kibibytes() {
        let text = "\
MemTotal:       24684084 kB
MemFree:        17072580 kB
MemAvailable:   24094792 kB
SwapTotal:             0 kB
";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory.total_bytes, 24_684_084 << 10);
        assert_eq!((memory.available_bytes, memory.swap_bytes), (24_094_792 << 10, 0));
        let old = "MemTotal: 100 kB\nMemFree: 40 kB\nSwapTotal: 7 kB\n";
        let memory = Memory::parse(old).unwrap();
        assert_eq!((memory.available_bytes, memory.swap_bytes), (40 << 10, 7 << 10));
        for odd in ["", "MemTotal: x kB\nMemFree: 1 kB", "MemTotal: 18446744073709551615 kB\nMemFree: 1 kB"] {
            assert_eq!(Memory::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn limits_have_names_with_spaces() {
        let text = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max open files            1024                 524288               files     
Max locked memory         8388608              unlimited            bytes     
Max address space         unlimited            unlimited            bytes     
";
        let limits = Limits::parse(text).unwrap();
        assert_eq!(limits.open_files, Limit { soft: Some(1024), hard: Some(524_288) });
        assert_eq!(limits.locked_bytes, Limit { soft: Some(8_388_608), hard: None });
        assert_eq!(limits.address_space_bytes, Limit { soft: None, hard: None });
        assert_eq!(Limits::parse("Max open files 1024"), None);
        assert_eq!(Limits::parse(""), None);
    }

    #[test]
    fn pressure_is_that_of_the_last_minute() {
        let text = "some avg10=15.05 avg60=14.50 avg300=9.85 total=2547959252\n\
                    full avg10=11.49 avg60=11.28 avg300=7.93 total=1514946680";
        assert_eq!(Pressure::parse(text), Some(Pressure { some_percent: 14.5, full_percent: 11.28 }));
        for odd in ["", "some avg60=1.0", "some avg60=NaN\nfull avg60=0", "some avg10=1\nfull avg10=1"] {
            assert_eq!(Pressure::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_word_in_brackets_is_chosen() {
        let word = |text: &str| chosen(text);
        assert_eq!(word("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(word("[mq-deadline] none").as_deref(), Some("mq-deadline"));
        assert_eq!(word("none").as_deref(), Some("none"));
        assert_eq!((word("always madvise"), word(""), word("[open"), word("[]")), (None, None, None, None));
    }

    #[test]
    fn page_sizes_and_generations() {
        let smaps = "55d0-55d1 r--p 0 fe:00 12 /bin/x\nKernelPageSize:        4 kB\nKernelPageSize: 64 kB\n";
        assert_eq!(page_bytes(smaps), Some(4096));
        assert_eq!((page_bytes(""), page_bytes("KernelPageSize: 0 kB")), (None, None));
        let answers = ["0x0007", "0x0000", "0x0006", "y", "n", "", "7"].map(is_multi_generational);
        assert_eq!(answers, [Some(true), Some(false), Some(false), Some(true), Some(false), None, None]);
    }
}
