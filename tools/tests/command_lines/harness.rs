//! Runs a binary and keeps what it said.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use terrace_io::{Advice, FileSystem, OpenMode, OsFileSystem, Residency};

/// What a process printed, and how it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ended {
    /// Checks that all went well, and gives what was printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        String::from_utf8(self.out).unwrap()
    }

    /// Checks that it ended with `code`, said why under the tool's name in one message that holds every one of
    /// `words`, and did not panic.
    #[track_caller]
    pub fn fails(self, tool: &str, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.starts_with(&format!("{tool}: ")), "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in {self:?}");
        }
        self
    }
}

/// The path of a binary.
pub fn binary(tool: &str) -> PathBuf {
    PathBuf::from(match tool {
        "terrace" => env!("CARGO_BIN_EXE_terrace"),
        "sst-dump" => env!("CARGO_BIN_EXE_sst-dump"),
        "ycsb" => env!("CARGO_BIN_EXE_ycsb"),
        _ => panic!("no such tool: {tool}"),
    })
}

/// A directory for one test, in which binaries run.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command that runs here; its temporary directory is here too.
    pub fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(binary(tool));
        command.current_dir(self.dir.path()).env("TMPDIR", self.dir.path());
        command
    }

    pub fn run(&self, tool: &str, arguments: &[&str]) -> Ended {
        self.run_with(tool, arguments, b"")
    }

    pub fn run_with(&self, tool: &str, arguments: &[&str], input: &[u8]) -> Ended {
        let mut child = self
            .command(tool)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // A process that ends early does not read all of it.
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().unwrap()
        });
        Ended {
            code: output.status.code().expect("it ended by itself"),
            out: output.stdout,
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The names in a directory, sorted.
    pub fn names(&self, dir: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join(dir)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Makes the kernel forget a file. False, with a message, where that cannot be done or not be seen.
pub fn evict(path: &Path) -> bool {
    let file = OsFileSystem.open(path, OpenMode::Read).unwrap();
    file.sync().unwrap();
    file.advise(Advice::DontNeed, 0, file.len().unwrap());
    let left = Residency::of(file).and_then(|residency| residency.pages(0..u64::MAX));
    let is_gone = left.as_ref().is_ok_and(|pages| pages.resident == 0);
    if !is_gone {
        eprintln!("skipped: {} does not leave memory: {left:?}", path.display());
    }
    is_gone
}
