//! Where one output table ends and the next begins.
//!
//! A table is cut when it is full; earlier, at half its size, where a table of the next level ends, so that a later job
//! that takes it down rewrites fewer tables it touches only the edge of; and whenever it would overlap so much of the
//! next level that this job would be too large. Never between the versions of one key: the writer asks at
//! new keys only.
//!
//! A full table is a little longer than was asked for, so that one of 64 MiB ends behind its last whole 2 MiB and not
//! before: the page cache keeps what is written in whole 2 MiB in one page, and there are the filter and the locator.

use crate::SizedKeyRange;

/// A table may overlap this many full tables of the next level.
const OVERLAPPED_TABLES_MAX: u64 = 10;

/// How much longer a full table is: a part of so many. The writer knows the length to a few KiB, 16 KiB of 64 MiB are more.
const LONGER: u64 = 4096;

/// Follows the keys of the output through the tables of the next level.
pub(crate) struct Cutter<'a> {
    table_bytes: u64,
    next_level: &'a [SizedKeyRange],
    /// The first table of the next level that does not end below the last key.
    place: usize,
    /// The bytes of those that the current output table has reached beyond.
    passed_bytes: u64,
}

impl<'a> Cutter<'a> {
    /// With the tables of the next level by key: smallest, largest, bytes.
    pub(crate) fn new(table_bytes: u64, next_level: &'a [SizedKeyRange]) -> Self {
        debug_assert!(next_level.is_sorted_by(|a, b| a.1 < b.0));
        Cutter { table_bytes, next_level, place: 0, passed_bytes: 0 }
    }

    /// Whether the current table, of `table_len` bytes, should end before this key, which is to be written next.
    /// `None` if no table has been begun: the key opens one whatever the answer.
    pub(crate) fn cuts_before(&mut self, key: &[u8], table_len: Option<u64>) -> bool {
        let mut passed_an_end = false;
        while let Some((_, largest, bytes)) = self.next_level.get(self.place)
            && **largest < *key
        {
            self.passed_bytes = self.passed_bytes.saturating_add(*bytes);
            passed_an_end = true;
            self.place += 1;
        }
        let reached = match self.next_level.get(self.place) {
            Some((smallest, _, bytes)) if **smallest <= *key => *bytes,
            _ => 0,
        };
        let overlapped_max = self.table_bytes.saturating_mul(OVERLAPPED_TABLES_MAX);
        let cut = table_len.is_some_and(|len| {
            len >= self.table_bytes.saturating_add(self.table_bytes / LONGER)
                || passed_an_end && len >= self.table_bytes.div_ceil(2)
                || self.passed_bytes > 0 && self.passed_bytes.saturating_add(reached) > overlapped_max
        });
        if cut || table_len.is_none() {
            self.passed_bytes = 0;
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(tables: &[(&str, &str, u64)]) -> Vec<SizedKeyRange> {
        let boxed = |key: &str| key.as_bytes().into();
        tables.iter().map(|&(smallest, largest, bytes)| (boxed(smallest), boxed(largest), bytes)).collect()
    }

    /// The keys before which tables are cut, when each entry takes so many bytes.
    fn cuts(keys: &str, entry_bytes: u64, table_bytes: u64, next_level: &[SizedKeyRange]) -> String {
        let mut cutter = Cutter::new(table_bytes, next_level);
        let mut len = None;
        let mut cuts = String::new();
        for key in keys.chars() {
            if cutter.cuts_before(key.to_string().as_bytes(), len) {
                cuts.push(key);
                len = None;
            }
            len = Some(len.unwrap_or(0) + entry_bytes);
        }
        cuts
    }

    #[test]
    fn full_tables_are_cut() {
        assert_eq!(cuts("abcdefghij", 10, 30, &[]), "dgj");
        assert_eq!(cuts("abcdefghij", 100, 30, &[]), "bcdefghij");
    }

    #[test]
    fn a_full_table_is_a_little_longer_than_was_asked_for() {
        assert_eq!(cuts("abcdefghij", 4096, 4 * 4096, &[]), "f");
        assert_eq!(cuts("abcdefghij", 4097, 4 * 4096, &[]), "ei");
    }

    #[test]
    fn half_full_tables_are_cut_where_a_table_below_ends() {
        let below = level(&[("a", "b", 1), ("d", "e", 1), ("i", "i", 1)]);
        assert_eq!(cuts("abcdefghij", 10, 60, &below), "fj");
        assert_eq!(cuts("abcdefghij", 20, 60, &below), "cfi");
    }

    #[test]
    fn tables_that_overlap_too_much_are_cut() {
        let below = level(&[("b", "b", 60), ("c", "c", 60), ("d", "d", 60), ("h", "i", 500)]);
        assert_eq!(cuts("aej", 1, 10, &below), "ej");
        assert_eq!(cuts("abcdefghij", 1, 10, &below), "cdhj");
    }
}
