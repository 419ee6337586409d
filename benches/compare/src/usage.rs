//! What a process wrote, what files take, and what other programs did meanwhile: asked of the system, so that it is the
//! same for every engine.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use terrace_benches::{for_each_file, process_time};

/// Bytes that this process wrote so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Handed to the system by `write` and its kin.
    pub calls: u64,
    /// Made dirty in the page cache, a page at a time, less what was deleted before it reached the disk: what the disk
    /// writes, about.
    pub pages: u64,
}

impl Written {
    /// So far. Zero where the system does not tell.
    pub fn now() -> Self {
        let [calls, pages, cancelled] = own_io(["wchar:", "write_bytes:", "cancelled_write_bytes:"]);
        Written { calls, pages: pages.saturating_sub(cancelled) }
    }

    /// Since an earlier moment.
    pub fn since(self, earlier: Written) -> Written {
        Written {
            calls: self.calls.saturating_sub(earlier.calls),
            pages: self.pages.saturating_sub(earlier.pages),
        }
    }
}

/// Lines of `/proc/self/io`.
fn own_io<const N: usize>(names: [&str; N]) -> [u64; N] {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    names.map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
    })
}

/// Sees what part of the processors others use: other programs, other machines of the same host, the system itself.
#[derive(Debug)]
pub struct Others {
    machine: Option<Jiffies>,
    own: Duration,
}

/// Time of all processors since the machine was started, in hundredths of a second.
#[derive(Debug, Clone, Copy)]
struct Jiffies {
    busy: u64,
    all: u64,
}

impl Others {
    /// Begins to watch.
    pub fn watch() -> Self {
        Others { machine: Jiffies::now(), own: process_time() }
    }

    /// The part that was not this process's, from 0 to 1. Nothing where the system does not tell.
    pub fn share(&self) -> Option<f64> {
        let (before, after) = (self.machine?, Jiffies::now()?);
        let own = process_time().saturating_sub(self.own).as_secs_f64() * 100.0;
        let all = (after.all - before.all) as f64;
        let busy = (after.busy - before.busy) as f64;
        (all > 0.0).then(|| ((busy - own) / all).clamp(0.0, 1.0))
    }
}

impl Jiffies {
    fn now() -> Option<Self> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        // User, nice, system, idle, waiting for I/O, interrupts of two kinds, stolen by the host. What follows is in
        // these already.
        let fields: Vec<u64> =
            line.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
        let all = fields.iter().sum();
        Some(Jiffies { busy: all - fields.get(3)? - fields.get(4)?, all })
    }
}

/// Bytes that the files below a directory take on disk. One that disappears meanwhile counts as gone.
pub fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for_each_file(dir, &mut |path| {
        bytes += fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
        Ok(())
    })?;
    Ok(bytes)
}

/// Removes a directory, if it is there.
pub fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use terrace_benches::{copy_directory, device_read_bytes, forget_pages};

    use super::*;

    #[test]
    fn the_share_of_others_is_a_share() {
        let others = Others::watch();
        std::thread::sleep(Duration::from_millis(50));
        let share = others.share().expect("this system tells");
        assert!((0.0..=1.0).contains(&share), "{share}");
    }

    #[test]
    fn what_comes_from_the_disk_is_seen() {
        let dir = terrace_benches::scratch_directory().unwrap();
        fs::write(dir.path().join("file"), vec![1; 1 << 20]).unwrap();
        forget_pages(dir.path()).unwrap();
        let before = device_read_bytes();
        assert_eq!(fs::read(dir.path().join("file")).unwrap().len(), 1 << 20);
        let read = device_read_bytes() - before;
        // Where files live in memory there is nothing to be read.
        assert!(read == 0 || (1 << 20..4 << 20).contains(&read), "{read}");
    }

    #[test]
    fn what_is_written_is_seen_and_copied() {
        let dir = terrace_benches::scratch_directory().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("below")).unwrap();
        let before = Written::now();
        fs::write(from.join("below/file"), vec![1; 1 << 20]).unwrap();
        let written = Written::now().since(before);
        assert!((1 << 20..2 << 20).contains(&written.calls), "{written:?}");
        copy_directory(&from, &to).unwrap();
        assert!(disk_bytes(&to).unwrap() >= 1 << 20);
        forget_pages(&to).unwrap();
        assert_eq!(fs::read(to.join("below/file")).unwrap(), vec![1; 1 << 20]);
        remove(&to).unwrap();
        remove(&to).unwrap();
        assert!(!to.exists());
    }
}
