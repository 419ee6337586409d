//! Whether what several threads have seen can be explained by one order of their calls (Herlihy and Wing, 1990): each
//! call takes effect at one moment between its start and its end, and each read sees the effects before it.
//!
//! The history is walked through in time, with all the ways in which it can have gone so far: what is in the keys, and
//! which of the calls that still run have taken effect. When a call ends, those ways are left in which it has, after
//! as many of the others as it needs (just-in-time linearization: Lowe, "Testing for linearizability", 2017). No
//! way left: the history is refused. Calls that do not overlap cost nothing, so histories may be long.
//!
//! Keys are not looked at one by one, as a register at a time could be: batches and snapshots span them.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// How many keys there are.
pub const KEYS: usize = 4;

/// What is in each key: a number that was written once only, or 0 for nothing.
pub type Contents = [u64; KEYS];

/// What a call did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Wrote these keys, all at once. 0 deletes.
    Wrote(Vec<(usize, u64)>),
    /// Read these keys, all at once. 0 is nothing.
    Read(Vec<(usize, u64)>),
}

/// A call, from before its start to after its end on a clock that all threads share. No two calls share a stamp.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which thread made it.
    pub thread: usize,
    /// The clock before it.
    pub start: u64,
    /// The clock after it.
    pub end: u64,
    /// What it did.
    pub action: Action,
}

/// No order explains the history.
#[derive(Debug)]
pub struct Refused {
    calls: Vec<Call>,
    /// What the keys can have held before the last of them.
    possible: Vec<Contents>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no order of the calls explains what the last of these saw or did:")?;
        for Call { thread, start, end, action } in &self.calls {
            writeln!(f, "  thread {thread} from {start} to {end}: {action:?}")?;
        }
        write!(f, "before its end the keys can have held any of {:?}", self.possible)
    }
}

/// One way in which the history can have gone: what is in the keys, and the running calls that have taken effect, as
/// bits.
type Way = (Contents, u64);

/// The most calls that run at one time.
const RUNNING_MAX: usize = 64;
/// How many calls are shown before the one that cannot be explained.
const SHOWN: usize = 20;

/// Checks a history that begins with `first` in the keys. Says what can be in them at its end.
///
/// # Errors
///
/// If it cannot be explained.
///
/// # Panics
///
/// If more than 64 calls run at one time.
pub fn check(first: Contents, history: &[Call]) -> Result<Vec<Contents>, Box<Refused>> {
    let starts = history.iter().enumerate().map(|(index, call)| (call.start, (index, true)));
    let ends = history.iter().enumerate().map(|(index, call)| (call.end, (index, false)));
    let events: BTreeMap<u64, (usize, bool)> = starts.chain(ends).collect();
    assert_eq!(events.len(), 2 * history.len(), "each stamp is given once");
    let mut running: [Option<usize>; RUNNING_MAX] = [None; RUNNING_MAX];
    let mut ways: HashSet<Way> = HashSet::from([(first, 0)]);
    for &(index, starts) in events.values() {
        if starts {
            let free =
                running.iter().position(Option::is_none).expect("no more than 64 calls run at one time");
            running[free] = Some(index);
            continue;
        }
        let slot = running.iter().position(|&known| known == Some(index)).expect("it has started");
        let after = let_end(history, &running, slot, &ways);
        if after.is_empty() {
            return Err(Box::new(refuse(history, index, &ways)));
        }
        running[slot] = None;
        ways = after;
    }
    let contents: HashSet<Contents> = ways.into_iter().map(|(contents, _)| contents).collect();
    Ok(contents.into_iter().collect())
}

/// The ways that are left when the call in `slot` ends.
fn let_end(history: &[Call], running: &[Option<usize>], slot: usize, ways: &HashSet<Way>) -> HashSet<Way> {
    let mut after = HashSet::new();
    let mut seen: HashSet<Way> = ways.clone();
    let mut unexplored: Vec<Way> = ways.iter().copied().collect();
    while let Some((contents, done)) = unexplored.pop() {
        if done & 1 << slot != 0 {
            // What may have taken effect behind it can wait for its own end.
            after.insert((contents, done & !(1 << slot)));
            continue;
        }
        let others = running.iter().enumerate().filter_map(|(slot, index)| Some((slot, (*index)?)));
        for (other, index) in others.filter(|(other, _)| done & 1 << other == 0) {
            let next = apply(&history[index].action, contents).map(|contents| (contents, done | 1 << other));
            unexplored.extend(next.filter(|next| seen.insert(*next)));
        }
    }
    after
}

/// What is in the keys after a call, if it can have taken effect.
fn apply(action: &Action, mut contents: Contents) -> Option<Contents> {
    match action {
        Action::Wrote(writes) => writes.iter().for_each(|&(key, value)| contents[key] = value),
        Action::Read(reads) => {
            if reads.iter().any(|&(key, value)| contents[key] != value) {
                return None;
            }
        }
    }
    Some(contents)
}

fn refuse(history: &[Call], index: usize, ways: &HashSet<Way>) -> Refused {
    let last = &history[index];
    let is_shown = |call: &&Call| call.start < last.end && call.end != last.end;
    let mut calls: Vec<Call> = history.iter().filter(is_shown).cloned().collect();
    // Those that still run come last.
    calls.sort_unstable_by_key(|call| call.end);
    calls.push(last.clone());
    calls.drain(..calls.len().saturating_sub(SHOWN));
    let possible: HashSet<Contents> = ways.iter().map(|(contents, _)| *contents).collect();
    Refused { calls, possible: possible.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::{Read, Wrote};

    /// Calls from lines of `start end action`, each on a thread of its own, of keys that were empty.
    fn holds(calls: &[(u64, u64, Action)]) -> bool {
        let calls = calls.iter().enumerate();
        let history: Vec<Call> = calls
            .map(|(thread, (start, end, action))| Call {
                thread,
                start: *start,
                end: *end,
                action: action.clone(),
            })
            .collect();
        check([0; KEYS], &history).is_ok()
    }

    #[test]
    fn a_read_sees_the_last_write_before_it() {
        assert!(holds(&[(1, 2, Wrote(vec![(0, 7)])), (3, 4, Read(vec![(0, 7), (1, 0)]))]));
        assert!(!holds(&[(1, 2, Wrote(vec![(0, 7)])), (3, 4, Read(vec![(0, 0)]))]), "lost");
        assert!(!holds(&[(1, 2, Read(vec![(0, 7)])), (3, 4, Wrote(vec![(0, 7)]))]), "from the future");
        let two = [(1, 2, Wrote(vec![(0, 7)])), (3, 4, Wrote(vec![(0, 8)]))];
        assert!(!holds(&[two[0].clone(), two[1].clone(), (5, 6, Read(vec![(0, 7)]))]), "stale");
        assert!(!holds(&[two[0].clone(), (3, 4, Wrote(vec![(0, 0)])), (5, 6, Read(vec![(0, 7)]))]), "undead");
        assert!(!holds(&[two[0].clone(), (3, 4, Read(vec![(0, 9)]))]), "from nowhere");
    }

    #[test]
    fn calls_that_overlap_may_take_effect_in_any_order() {
        let write = (1, 10, Wrote(vec![(0, 7)]));
        for value in [0, 7] {
            assert!(holds(&[write.clone(), (2, 3, Read(vec![(0, value)]))]));
        }
        let other = (2, 9, Wrote(vec![(0, 8)]));
        for value in [7, 8] {
            assert!(holds(&[write.clone(), other.clone(), (11, 12, Read(vec![(0, value)]))]));
        }
        assert!(holds(&[
            write.clone(),
            other.clone(),
            (3, 4, Read(vec![(0, 8)])),
            (5, 6, Read(vec![(0, 7)]))
        ]));
        assert!(holds(&[write, other, (3, 8, Read(vec![(0, 8)])), (4, 7, Read(vec![(0, 7)]))]));
    }

    #[test]
    fn readers_agree_on_the_order() {
        let write = (1, 10, Wrote(vec![(0, 7)]));
        let reads = [(2, 3, Read(vec![(0, 7)])), (4, 5, Read(vec![(0, 0)]))];
        assert!(!holds(&[write, reads[0].clone(), reads[1].clone()]), "seen, and then not");
        let writes = [(1, 20, Wrote(vec![(0, 7)])), (2, 19, Wrote(vec![(1, 8)]))];
        let first = (3, 4, Read(vec![(0, 7), (1, 0)]));
        let second = (5, 6, Read(vec![(0, 0), (1, 8)]));
        let overlapping = (3, 6, Read(vec![(0, 7), (1, 0)]));
        for (first, second) in [(first, second.clone()), (overlapping, (4, 5, second.2))] {
            assert!(
                !holds(&[writes[0].clone(), writes[1].clone(), first, second]),
                "two orders of two writes"
            );
        }
    }

    #[test]
    fn batches_are_whole() {
        let batch = (1, 10, Wrote(vec![(0, 7), (2, 8)]));
        assert!(holds(&[batch.clone(), (2, 3, Read(vec![(0, 7), (2, 8)]))]));
        assert!(!holds(&[batch.clone(), (2, 3, Read(vec![(0, 7), (2, 0)]))]), "half of one in one read");
        let halves = [(2, 3, Read(vec![(2, 8)])), (4, 5, Read(vec![(0, 0)]))];
        assert!(!holds(&[batch, halves[0].clone(), halves[1].clone()]), "half of one in two reads");
    }

    #[test]
    fn what_is_refused_is_shown() {
        let call = |start, action| Call { thread: 0, start, end: start + 1, action };
        let history =
            [call(1, Wrote(vec![(0, 7)])), call(3, Read(vec![(0, 6)])), call(5, Read(vec![(0, 7)]))];
        let refused = check([0; KEYS], &history).unwrap_err().to_string();
        assert!(refused.contains("from 3 to 4") && !refused.contains("from 5"), "{refused}");
        assert!(refused.contains("[7, 0, 0, 0]"), "{refused}");
        assert_eq!(check([0; KEYS], &history[..1]).unwrap(), [[7, 0, 0, 0]]);
    }
}
