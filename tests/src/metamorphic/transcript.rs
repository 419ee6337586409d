//! What a database has answered, in a form that can be compared: one line for each operation, values as short hashes,
//! errors by their kind. Equal sequences of operations have equal transcripts, whatever the options are.

use std::fmt::Write;

use terrace::Error;

/// The answers to a sequence of operations.
#[derive(Debug, Default)]
pub struct Transcript {
    lines: Vec<String>,
    answers: u64,
}

impl Transcript {
    /// The next operation begins.
    pub fn begin_operation(&mut self) {
        self.lines.push(String::new());
    }

    /// A value or its absence.
    pub fn value(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.answer(format_args!("{:08x}", crc32fast::hash(value))),
            None => self.answer("-"),
        }
    }

    /// An entry or its absence.
    pub fn entry(&mut self, entry: Option<(&[u8], &[u8])>) {
        match entry {
            Some((key, value)) => {
                self.answer(format_args!("{:08x}={:08x}", crc32fast::hash(key), crc32fast::hash(value)));
            }
            None => self.answer("-"),
        }
    }

    /// That something was refused, and by which kind of error.
    pub fn error(&mut self, error: &Error) {
        let shown = format!("{error:?}");
        self.answer(shown.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default());
    }

    /// Anything else.
    pub fn answer(&mut self, answer: impl std::fmt::Display) {
        if self.lines.is_empty() {
            self.begin_operation();
        }
        let line = self.lines.last_mut().expect("there is one now");
        write!(line, " {answer}").expect("strings take everything");
        self.answers += 1;
    }

    /// How many answers it holds.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// The number of the first operation whose answers differ, and in what they do.
    pub fn first_difference(&self, other: &Transcript) -> Option<(usize, String)> {
        let line = |transcript: &Transcript, at: usize| {
            transcript.lines.get(at).map_or("nothing", |line| line.trim_start()).to_owned()
        };
        let longer = self.lines.len().max(other.lines.len());
        let at = (0..longer).find(|&at| self.lines.get(at) != other.lines.get(at))?;
        let (left, right) = (line(self, at), line(other, at));
        let same = left.bytes().zip(right.bytes()).take_while(|(left, right)| left == right).count();
        // From the answer that differs, and not much further.
        let from = left[..same].rfind(' ').map_or(0, |space| space + 1);
        let shown = |line: &str| line[from..].chars().take(80).collect::<String>();
        Some((
            at,
            format!("{:?} against {:?}, {from} characters into the answers", shown(&left), shown(&right)),
        ))
    }
}
