//! The files in which Linux tells about itself: `/proc` and `/sys`, below a root that a test can put elsewhere.
//!
//! Any of them may be missing (older kernels, containers) or forbidden. That is an [`Unknown`] with its reason, which
//! is passed on to whoever asked, and never a failure.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Something that was found out, or why it was not.
pub type Known<T> = Result<T, Unknown>;

/// Why something is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown(String);

impl Unknown {
    /// Not known, for this reason.
    pub fn new(why: impl Into<String>) -> Self {
        Unknown(why.into())
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory below which `/proc` and `/sys` are looked for.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// The machine's own.
    pub fn system() -> Self {
        Root::at("/")
    }

    /// Another one.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Root { path: path.into() }
    }

    /// Where a file of this name is: `name` begins with a slash.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name.trim_start_matches('/'))
    }

    /// What a file says, without the white space around it. Bytes that are no UTF-8 are replaced.
    pub fn text(&self, name: &str) -> Known<String> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(error) => Err(Unknown::new(format!("{name}: {error}"))),
        }
    }

    /// The number that a file consists of.
    pub fn number(&self, name: &str) -> Known<u64> {
        let text = self.text(name)?;
        text.parse().map_err(|_| Unknown::new(format!("{name}: {text:?} is no number")))
    }

    /// What `parse` makes of a file. If it is nothing, the file is said to be of an unknown form.
    pub fn parsed<T>(&self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Known<T> {
        parse(&self.text(name)?).ok_or_else(|| Unknown::new(format!("{name}: unknown form")))
    }

    /// The name below this root of the file that a path leads to, symbolic links followed.
    pub fn resolved(&self, name: &str) -> Option<String> {
        let (root, path) = (fs::canonicalize(&self.path).ok()?, fs::canonicalize(self.path(name)).ok()?);
        Some(Path::new("/").join(path.strip_prefix(root).ok()?).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::testing::write_all;

    #[test]
    fn what_cannot_be_read_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let files = [
            ("/proc/sys/vm/swappiness", "60\n"),
            ("/proc/sys/vm/odd", "sixty"),
            ("/sys/a/b", ""),
            ("/sys/link@", "a/b"),
        ];
        write_all(&root, &files);
        assert_eq!(root.number("/proc/sys/vm/swappiness"), Ok(60));
        let why = |known: Known<u64>| known.unwrap_err().to_string();
        assert_eq!(why(root.number("/proc/sys/vm/odd")), "/proc/sys/vm/odd: \"sixty\" is no number");
        let missing = why(root.number("/proc/sys/vm/missing"));
        assert!(missing.starts_with("/proc/sys/vm/missing: ") && missing.contains("os error"), "{missing}");
        assert_eq!(why(root.parsed("/sys/a/b", |_| None)), "/sys/a/b: unknown form");
        assert!(why(root.parsed("/sys/a", |_| Some(1))).starts_with("/sys/a: "), "a directory");
        fs::write(dir.path().join("bytes"), [b' ', 0xff, b'\n']).unwrap();
        assert_eq!(root.text("/bytes"), Ok("\u{fffd}".to_owned()));
        assert_eq!(root.resolved("/sys/link").as_deref(), Some("/sys/a/b"));
        assert_eq!(root.resolved("/sys/nowhere"), None);
    }
}
