//! What of a database is in memory, by level and key range: what `terrace residency` shows.
//!
//! [`survey()`] looks, without bringing anything into memory that was not there; what it has seen is plain data
//! ([`Survey`]). [`Map`] divides the keys of a keyspace into columns of about as many bytes each and the tables into
//! rows: a pure function. [`text`] draws it for a terminal, [`page`] as a page with pictures.

mod grid;
pub mod page;
mod survey;
pub mod text;

use std::ops::{Add, AddAssign};

use terrace_io::PageCount;

pub use grid::{Cell, Map, Row};
pub use survey::survey;

/// What was seen of a database.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Bytes of a page of the page cache.
    pub page_bytes: u64,
    /// By which call the kernel was asked; `None` if nothing could be found out, or there was nothing.
    pub way: Option<&'static str>,
    /// The keyspaces that were asked for.
    pub keyspaces: Vec<Keyspace>,
}

impl Survey {
    /// All tables.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.keyspaces.iter().flat_map(Keyspace::tables)
    }

    /// What is wrong or not known, a sentence for each table.
    pub fn troubles(&self) -> impl Iterator<Item = &str> {
        self.tables().filter_map(|table| table.pages.as_ref().err()).map(String::as_str)
    }
}

/// A keyspace.
#[derive(Debug, Clone, Default)]
pub struct Keyspace {
    /// Its name.
    pub name: String,
    /// Its tables by level: in level 0 the newest first, in the others by key.
    pub levels: Vec<Vec<Table>>,
}

impl Keyspace {
    /// All its tables.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.levels.iter().flatten()
    }
}

/// A table.
#[derive(Debug, Clone)]
pub struct Table {
    /// The name of its file.
    pub name: String,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Its first key.
    pub smallest_key: Vec<u8>,
    /// Its last key.
    pub largest_key: Vec<u8>,
    /// What of it is in memory, or why that is not known: it is damaged, or gone, or the system does not tell.
    pub pages: Result<TablePages, String>,
}

/// What of a table is in memory.
#[derive(Debug, Clone, Default)]
pub struct TablePages {
    /// By what it is for.
    pub parts: Parts,
    /// Its data in pieces, by key.
    pub segments: Vec<Segment>,
}

/// Some data blocks of a table that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Not above their first key, and above the last of the segment before.
    pub first_key: Vec<u8>,
    /// Their pages.
    pub pages: PageCount,
}

/// Pages by what they are for. A page that holds the end of one thing and the beginning of another counts for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    /// Keys and values.
    pub data: PageCount,
    /// Where the data blocks are.
    pub fences: PageCount,
    /// Which keys are not there.
    pub filter: PageCount,
    /// Where the keys are.
    pub locator: PageCount,
    /// The rest: properties, checksums, directory and footer.
    pub other: PageCount,
}

impl Parts {
    /// What all of it comes to.
    pub fn all(&self) -> PageCount {
        let mut all = self.metadata();
        all += self.data;
        all
    }

    /// All but the data.
    pub fn metadata(&self) -> PageCount {
        let mut metadata = self.other;
        for (_, pages) in self.ways() {
            metadata += pages;
        }
        metadata
    }

    /// The ways to a key, with their names.
    pub fn ways(&self) -> [(&'static str, PageCount); 3] {
        [("locator", self.locator), ("filter", self.filter), ("fences", self.fences)]
    }
}

impl AddAssign for Parts {
    fn add_assign(&mut self, more: Parts) {
        self.data += more.data;
        self.fences += more.fences;
        self.filter += more.filter;
        self.locator += more.locator;
        self.other += more.other;
    }
}

impl Add for Parts {
    type Output = Parts;

    fn add(mut self, more: Parts) -> Parts {
        self += more;
        self
    }
}

/// A share in words: `none`, `all`, or per cent; what is more than none is not shown as 0, nor what is not all as 100.
pub fn share(pages: PageCount) -> String {
    match (pages.resident, pages.total) {
        (_, 0) => "-".to_owned(),
        (0, _) => "none".to_owned(),
        (resident, total) if resident >= total => "all".to_owned(),
        _ => match (pages.share() * 100.0).round() as u32 {
            0 => "<1 %".to_owned(),
            100.. => ">99 %".to_owned(),
            percent => format!("{percent} %"),
        },
    }
}
