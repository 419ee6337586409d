//! Blocks of one page or several, each read as a whole from the disk.

use terrace_io::{Advice, PAGE_BYTES, read_exact_at};

use crate::paths::series::{Case, repeat, take_turns};
use crate::paths::subject::{Draw, Subject, sum};
use crate::paths::{Group, Outcome, Series, Settings, Unit};

/// Blocks read at most: few beside those of the file.
const READS: u64 = 500;

pub(crate) const PAGES: [usize; 5] = [1, 2, 4, 8, 16];

/// What a case is called.
pub(crate) fn name(way: &str, pages: usize) -> String {
    format!("{way}, {pages} page{}", if pages == 1 { "" } else { "s" })
}

pub(crate) fn measure(settings: &Settings) -> Outcome<Vec<Series>> {
    let subject = &Subject::write(&settings.dir, "blocks", settings.file_bytes, 2 << 20)?;
    let mut cases = Vec::new();
    for pages in PAGES {
        let len = pages * PAGE_BYTES;
        let blocks = subject.len / len as u64;
        for (way, ahead) in [("mapping", false), ("mapping, WILLNEED", true)] {
            cases.push(Case::new(name(way, pages), move || {
                subject.forget()?;
                let region = subject.map(Advice::Random)?;
                let mut draw = Draw::below(blocks);
                let (nanos, _) = repeat(settings.time, READS, 1, || {
                    let at = draw.next() as usize * len;
                    if ahead {
                        region.advise(Advice::WillNeed, at..at + len);
                    }
                    sum(&region[at..at + len]);
                    Ok(())
                })?;
                Ok(vec![nanos])
            }));
        }
        cases.push(Case::new(name("pread", pages), move || {
            subject.forget()?;
            let file = subject.open()?;
            file.advise(Advice::Random, 0, subject.len);
            let mut draw = Draw::below(blocks);
            let mut buffer = vec![0; len];
            let (nanos, _) = repeat(settings.time, READS, 1, || {
                read_exact_at(&*file, &mut buffer, draw.next() * len as u64)?;
                sum(&buffer);
                Ok(())
            })?;
            Ok(vec![nanos])
        }));
    }
    take_turns(Group::Blocks, &[("time of a block", Unit::Nanoseconds)], settings, cases)
}
