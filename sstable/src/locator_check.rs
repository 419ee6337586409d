//! Checks a locator against the entries of its table, for verification: whether it leads to the newest version of each
//! key, and has in it what that takes and nothing else.

use std::collections::BTreeSet;

use terrace_io::{Error, Result};

use crate::locator::{
    BUCKET_ENTRIES_MAX, LINE_BYTES, LOOKUP_BUCKETS_MAX, Location, Locator, LocatorHeader, WORD_BYTES, hash,
};
use crate::storage::Storage;
use crate::verify::{Damage, VerifyReport};

/// Of lookups that fail, more places are counted and not listed: all keys of a locator with a wrong header fail.
const BUCKETS_LISTED_MAX: usize = 20;

/// Compares the locator of a table with the keys, which it is told in order.
pub(crate) struct LocatorCheck<'s> {
    storage: &'s Storage,
    locator: Locator,
    /// For each bucket, whether a key has passed it on the way from its home.
    passed: Vec<bool>,
    keys: u64,
    slot_max: usize,
    /// Where it is damaged so that lookups fail: many of them do for one such place.
    failed: BTreeSet<u64>,
    damages: Vec<Damage>,
    /// How many places are wrong that are not in `damages`.
    unlisted: u64,
}

impl<'s> LocatorCheck<'s> {
    /// A check of `locator`, which is that of the table.
    pub(crate) fn new(storage: &'s Storage, locator: Locator) -> LocatorCheck<'s> {
        LocatorCheck {
            storage,
            passed: vec![false; locator.header.buckets as usize],
            locator,
            keys: 0,
            slot_max: 0,
            failed: BTreeSet::new(),
            damages: Vec::new(),
            unlisted: 0,
        }
    }

    /// There is an entry in this slot of some block.
    pub(crate) fn entry(&mut self, slot: usize) {
        self.slot_max = self.slot_max.max(slot);
    }

    /// The newest version of a key is there.
    pub(crate) fn key(&mut self, key: &[u8], location: Location) {
        self.keys += 1;
        let hash = hash(key, self.storage.footer.table_id);
        let home = self.locator.home(hash);
        match self.buckets_before(hash, location) {
            Ok(Some(passed)) => {
                for index in 0..passed as usize {
                    let bucket = (home as usize + index) % self.passed.len();
                    self.passed[bucket] = true;
                }
            }
            Ok(None) => {
                let offset = self.storage.metadata.file_offset(self.locator.bucket_at(home));
                let Location { block, slot } = location;
                self.fails(offset, || {
                    format!(
                        "the locator does not lead from this bucket to slot {slot} of block {block}, \
                         the newest version of its key"
                    )
                });
            }
            Err(Error::Corruption { offset, what, .. }) => self.fails(offset, || what),
            Err(error) => self.damage(self.locator.bucket_at(home), error.to_string()),
        }
    }

    /// How many buckets a lookup passes before it names the location.
    fn buckets_before(&self, hash: u64, location: Location) -> Result<Option<u32>> {
        let mut lookup = self.locator.lookup(&self.storage.metadata, hash)?;
        while let Some(found) = lookup.next()? {
            if found == location {
                return Ok(Some(lookup.looked_at() - 1));
            }
        }
        Ok(None)
    }

    /// Adds to the report what is wrong, as far as that was not done before.
    pub(crate) fn tell(&mut self, report: &mut VerifyReport) {
        self.damages.drain(..).for_each(|damage| report.add(damage));
        report.damage_count += std::mem::take(&mut self.unlisted);
    }

    /// All keys have been told if `is_complete`; otherwise some blocks could not be read. Goes through the buckets, and
    /// adds to the report what is wrong in them and on the whole.
    pub(crate) fn finish(mut self, is_complete: bool, report: &mut VerifyReport) {
        let mut entries = 0;
        let mut row = Row::new(self.locator.header.buckets);
        // Where lookups fail, it is not known which buckets others have to go through.
        let all_passed = is_complete && self.failed.is_empty();
        for index in 0..self.locator.header.buckets {
            let at = self.locator.bucket_at(index);
            let contents = match self.locator.contents(&self.storage.metadata, index) {
                Ok(contents) => contents,
                Err(error) => {
                    row.push(false);
                    match error {
                        Error::Corruption { offset, what, .. } => self.fails(offset, || what),
                        error => self.damage(at, error.to_string()),
                    }
                    continue;
                }
            };
            entries += contents.entries as u64;
            if let Some(behind) = contents.rest.iter().position(|word| *word != [0; WORD_BYTES]) {
                let word = 1 + contents.entries + behind;
                self.damage(
                    at + WORD_BYTES * word,
                    "a word behind the entries of a bucket of the locator is not zero",
                );
            }
            let is_too_long = row.push(contents.overflows);
            if contents.overflows && contents.entries < BUCKET_ENTRIES_MAX as usize {
                self.damage(at, "a bucket of the locator overflows and is not full");
            } else if is_too_long {
                self.damage(at, row.what());
            } else if all_passed && contents.overflows && !self.passed[index as usize] {
                self.damage(at, "a bucket of the locator overflows without need");
            }
        }
        if let Some(index) = row.around_the_end() {
            self.damage(self.locator.bucket_at(index), row.what());
        }
        if is_complete {
            self.check_header(entries);
        }
        self.tell(report);
    }

    fn check_header(&mut self, entries: u64) {
        let header = self.locator.header;
        let at = self.locator.bucket_at(0) - LINE_BYTES;
        if entries != self.keys {
            self.damage(at, format!("the locator has {entries} entries, but there are {} keys", self.keys));
        }
        let blocks = self.storage.fences.len() as u64;
        let expected = LocatorHeader::new(self.keys, blocks, self.slot_max as u64);
        if expected != Some(header) {
            let what = format!("the locator says that it is {header:?}, but it should be {expected:?}");
            self.damage(at, what);
        }
    }

    /// Lookups that come to `offset` fail.
    fn fails(&mut self, offset: u64, what: impl FnOnce() -> String) {
        if !self.failed.insert(offset) {
            return;
        }
        if self.failed.len() <= BUCKETS_LISTED_MAX {
            self.damages.push(Damage { offset, what: what(), loses_entries: false });
        } else {
            self.unlisted += 1;
        }
    }

    fn damage(&mut self, at: usize, what: impl Into<String>) {
        let offset = self.storage.metadata.file_offset(at);
        self.damages.push(Damage { offset, what: what.into(), loses_entries: false });
    }
}

/// Buckets in a row that overflow, where after the last bucket comes the first. No lookup goes through as many as
/// `limit`.
struct Row {
    limit: u32,
    /// How many were pushed.
    buckets: u32,
    /// How many overflow at the beginning, and how many at the end.
    leading: u32,
    trailing: u32,
}

impl Row {
    fn new(buckets: u32) -> Row {
        Row { limit: buckets.min(LOOKUP_BUCKETS_MAX), buckets: 0, leading: 0, trailing: 0 }
    }

    /// The next bucket. True if it is the one that makes a row too long.
    fn push(&mut self, overflows: bool) -> bool {
        self.leading += u32::from(overflows && self.leading == self.buckets);
        self.trailing = if overflows { self.trailing + 1 } else { 0 };
        self.buckets += 1;
        self.trailing == self.limit
    }

    /// Behind the last bucket: the one that makes the row around the end too long, if that is what does it.
    fn around_the_end(&self) -> Option<u32> {
        let told = self.leading >= self.limit || self.trailing >= self.limit;
        (!told && self.leading + self.trailing >= self.limit).then(|| self.limit - self.trailing - 1)
    }

    fn what(&self) -> String {
        format!("{} buckets of the locator in a row overflow", self.limit)
    }
}
