//! Which versions of a key survive a rewrite, and under which sequence number. Pure.
//!
//! # The rule
//!
//! The live snapshots `s1 < s2 < ...` divide sequence numbers into stripes: up to `s1`, above `s1` up to `s2`, and so
//! on, and above the last, which is what a reader at the present sees. A reader sees the newest version at or below
//! its snapshot, so of the versions in one stripe only the newest can ever be seen; the others go.
//!
//! A tombstone hides what is older. If nothing deeper in the tree can hold its key, and no older version of the key
//! survives here, it hides nothing and goes too: a reader who would find it finds nothing instead, which means the
//! same. Versions come newest first, so a tombstone is *held* until it is known whether a put follows; tombstones
//! have no values, so holding them costs nothing.
//!
//! A put at or below every snapshot is the newest of the lowest stripe and so the oldest survivor. If nothing deeper
//! can hold its key, its sequence number tells nobody anything any more, and it is written as 0. Only the oldest
//! survivor can get the 0, so the versions of a key keep distinct descending numbers.

use terrace_io::Bug;
use terrace_sstable::Kind;

use crate::span::Span;

/// What is to be done with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nobody can see it.
    Drop,
    /// A tombstone, to be written before the next version of its key that is kept, or decided by
    /// [`Retention::tombstones_must_stay`] if there is none.
    Hold,
    /// To be written with this sequence number.
    Keep(u64),
}

/// Decides for one version after the other, in internal order.
pub(crate) struct Retention<'a> {
    snapshots: &'a [u64],
    elide_below: u64,
    /// `None`: anything may be deeper.
    deeper: Option<Coverage<'a>>,
    /// The stripe of the version of the current key that survived last.
    stripe: Option<usize>,
    /// Whether something deeper can hold the current key, once somebody has asked.
    covered: Option<bool>,
}

impl<'a> Retention<'a> {
    /// With the snapshots in ascending order and the spans of what is deeper in any order, or `None` if that is not
    /// known: then no tombstone is dropped and no sequence number elided.
    pub(crate) fn new(snapshots: &'a [u64], elide_below: u64, deeper: Option<Vec<Span<'a>>>) -> Self {
        debug_assert!(snapshots.is_sorted());
        let elide_below = snapshots.first().map_or(elide_below, |&oldest| elide_below.min(oldest));
        Retention { snapshots, elide_below, deeper: deeper.map(Coverage::new), stripe: None, covered: None }
    }

    /// The versions of a greater key follow.
    pub(crate) fn start_key(&mut self) {
        self.stripe = None;
        self.covered = None;
    }

    /// The next version of the key, older than the one before.
    pub(crate) fn judge(&mut self, key: &[u8], sequence: u64, kind: Kind) -> Verdict {
        let stripe = self.snapshots.partition_point(|&snapshot| snapshot < sequence);
        if self.stripe == Some(stripe) {
            return Verdict::Drop;
        }
        self.stripe = Some(stripe);
        if kind == Kind::Delete {
            return Verdict::Hold;
        }
        if sequence <= self.elide_below && sequence > 0 && !self.is_covered(key) {
            return Verdict::Keep(0);
        }
        Verdict::Keep(sequence)
    }

    /// After the last version of a key: whether tombstones that are still held have to be written.
    pub(crate) fn tombstones_must_stay(&mut self, key: &[u8]) -> bool {
        self.is_covered(key) && !Bug::TombstoneDropped.is_planted()
    }

    fn is_covered(&mut self, key: &[u8]) -> bool {
        let deeper = &mut self.deeper;
        *self.covered.get_or_insert_with(|| deeper.as_mut().is_none_or(|deeper| deeper.contains(key)))
    }
}

/// A set of keys made of spans, asked in ascending order of key.
struct Coverage<'a> {
    /// Disjoint and ascending.
    spans: Vec<Span<'a>>,
    /// The first span that does not end below the last key asked for.
    place: usize,
}

impl<'a> Coverage<'a> {
    fn new(mut spans: Vec<Span<'a>>) -> Self {
        spans.sort_unstable_by_key(|span| span.smallest);
        let mut merged: Vec<Span<'a>> = Vec::new();
        for span in spans {
            match merged.last_mut() {
                Some(last) if last.overlaps(span) => *last = last.join(span),
                _ => merged.push(span),
            }
        }
        Coverage { spans: merged, place: 0 }
    }

    fn contains(&mut self, key: &[u8]) -> bool {
        while self.spans.get(self.place).is_some_and(|span| span.largest < key) {
            self.place += 1;
        }
        self.spans.get(self.place).is_some_and(|span| span.smallest <= key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the versions of one key through, as text: `9p 7d 3p` in, what is written out.
    fn retain(versions: &str, snapshots: &[u64], elide_below: u64, deeper: bool) -> String {
        let everything = vec![Span { smallest: b"a", largest: b"z" }];
        let spans = if deeper { everything } else { Vec::new() };
        let mut retention = Retention::new(snapshots, elide_below, Some(spans));
        let (mut kept, mut held) = (Vec::new(), Vec::new());
        retention.start_key();
        for version in versions.split(' ') {
            let (sequence, kind) = version.split_at(version.len() - 1);
            let sequence: u64 = sequence.parse().unwrap();
            let kind = if kind == "p" { Kind::Put } else { Kind::Delete };
            match retention.judge(b"k", sequence, kind) {
                Verdict::Drop => {}
                Verdict::Hold => held.push(format!("{sequence}d")),
                Verdict::Keep(sequence) => {
                    kept.append(&mut held);
                    kept.push(format!("{sequence}p"));
                }
            }
        }
        if retention.tombstones_must_stay(b"k") {
            kept.append(&mut held);
        }
        kept.join(" ")
    }

    #[test]
    fn the_newest_of_each_stripe_survives() {
        assert_eq!(retain("9p 7p 5p 3p", &[], 0, true), "9p");
        assert_eq!(retain("9p 7p 5p 3p", &[5], 0, true), "9p 5p");
        assert_eq!(retain("9p 7p 5p 3p", &[4, 6, 7, 8], 0, true), "9p 7p 5p 3p");
        assert_eq!(retain("9p 7p 5p 3p", &[7, 8], 0, true), "9p 7p");
        assert_eq!(retain("9p 7p 5p 3p", &[1, 2], 0, true), "9p");
        assert_eq!(retain("9p 7p 5p 3p", &[9], 0, true), "9p");
    }

    #[test]
    fn a_tombstone_stays_while_it_hides_something() {
        assert_eq!(retain("9d 7p", &[], 0, true), "9d");
        assert_eq!(retain("9d 7p", &[], 0, false), "");
        // The put stays for the snapshot, and hiding it from the present takes the tombstone.
        assert_eq!(retain("9d 7p", &[7], 0, false), "9d 7p");
        assert_eq!(retain("9p 7d 5p", &[8], 0, false), "9p");
        assert_eq!(retain("9d 7d 5d", &[5, 7], 0, false), "");
        assert_eq!(retain("9d 7d 5d", &[5, 7], 0, true), "9d 7d 5d");
        assert_eq!(retain("9d 7p 5d", &[5, 7], 0, false), "9d 7p");
    }

    #[test]
    fn only_the_oldest_survivor_loses_its_number() {
        assert_eq!(retain("9p", &[], 9, false), "0p");
        assert_eq!(retain("9p", &[], 8, false), "9p");
        assert_eq!(retain("9p", &[], 9, true), "9p");
        assert_eq!(retain("9p 5p", &[6], 9, false), "9p 0p");
        assert_eq!(retain("9p 5p", &[6], 4, false), "9p 5p");
        assert_eq!(retain("9d 5p", &[6], 6, false), "9d 0p");
        assert_eq!(retain("9p 0p", &[6], 6, false), "9p 0p");
        assert_eq!(retain("9p 0p", &[], 9, false), "0p");
    }

    #[test]
    fn nothing_is_known_to_be_deeper_or_not() {
        let mut retention = Retention::new(&[], 9, None);
        retention.start_key();
        assert_eq!(retention.judge(b"k", 5, Kind::Put), Verdict::Keep(5));
        assert!(retention.tombstones_must_stay(b"k"));
    }

    #[test]
    fn coverage_is_closed_and_merges_what_overlaps() {
        let span = |smallest: &'static str, largest: &'static str| Span {
            smallest: smallest.as_bytes(),
            largest: largest.as_bytes(),
        };
        let spans = vec![span("m", "p"), span("b", "d"), span("c", "f"), span("n", "n"), span("", "")];
        let mut coverage = Coverage::new(spans);
        let covered = ["", "a", "b", "e", "f", "fa", "l", "m", "o", "p", "q"]
            .map(|key| if coverage.contains(key.as_bytes()) { key } else { "-" });
        assert_eq!(covered, ["", "-", "b", "e", "f", "-", "-", "m", "o", "p", "-"]);
    }
}
