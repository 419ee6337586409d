//! The tree against a sorted map, and readers against a writer that keeps splitting what they read.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;

/// The same entries, the way a reader would like to have them.
type Model = BTreeMap<(Vec<u8>, Reverse<u64>), Vec<u8>>;

fn insert(tree: &Tree, model: &mut Model, key: &[u8], sequence: u64) {
    let value = sequence.to_string().into_bytes();
    tree.insert(&[key, &value].concat(), key.len(), sequence, Kind::Put);
    model.insert((key.to_vec(), Reverse(sequence)), value);
}

fn at(tree: &Tree, position: &Position) -> Option<(Vec<u8>, u64)> {
    position.id().map(|id| {
        let entry = tree.entry(id);
        assert_eq!(entry.value, entry.sequence().to_string().as_bytes());
        (entry.key.to_vec(), entry.sequence())
    })
}

fn check(tree: &Tree, model: &Model, probes: &[Vec<u8>]) {
    let expected: Vec<(Vec<u8>, u64)> = model.keys().map(|(key, Reverse(s))| (key.clone(), *s)).collect();
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    let mut position = tree.first();
    while let Some(entry) = at(tree, &position) {
        forward.push(entry);
        tree.advance(&mut position);
    }
    let mut position = tree.last();
    while let Some(entry) = at(tree, &position) {
        backward.push(entry);
        tree.retreat(&mut position);
    }
    assert_eq!(forward, expected);
    backward.reverse();
    assert_eq!(backward, expected);

    let last = model.len() as u64 + 1;
    for key in probes.iter().chain(model.keys().map(|(key, _)| key)) {
        for sequence in [0, last / 3, last / 2, last, u64::MAX] {
            let place = Place { key, sequence };
            let from = (key.clone(), Reverse(sequence));
            let next = model.range(from.clone()..).next().map(|((key, s), _)| (key.clone(), s.0));
            let before = model.range(..from).next_back().map(|((key, s), _)| (key.clone(), s.0));
            let found = tree.get(key, sequence).map(|id| tree.entry(id).sequence());
            assert_eq!(found, next.as_ref().filter(|next| next.0 == *key).map(|next| next.1));
            let mut position = tree.seek(place);
            assert_eq!(at(tree, &position), next);
            // One back from there, and forth again.
            if next.is_some() {
                tree.retreat(&mut position);
                assert_eq!(at(tree, &position), before);
                if before.is_some() {
                    tree.advance(&mut position);
                    assert_eq!(at(tree, &position), next);
                }
            }
            assert_eq!(at(tree, &tree.seek_before(place)), before);
        }
    }
}

#[test]
fn an_empty_tree_has_nothing() {
    check(&Tree::new(), &Model::new(), &[vec![], vec![1]]);
}

#[test]
fn long_keys_and_empty_ones_are_found() {
    let (tree, mut model) = (Tree::new(), Model::new());
    for sequence in 1..=200 {
        let mut key = vec![b'k'; if sequence % 3 == 0 { 64 << 10 } else { sequence as usize % 7 }];
        if let Some(last) = key.last_mut() {
            *last = (sequence / 7) as u8;
        }
        insert(&tree, &mut model, &key, sequence);
    }
    check(&tree, &model, &[vec![b'k'; 100], vec![b'k'; 65 << 10], vec![0xff]]);
}

#[test]
fn keys_that_come_in_order_or_in_reverse_are_found() {
    for reverse in [false, true] {
        let (tree, mut model) = (Tree::new(), Model::new());
        let count = 40_000;
        for i in 0..count {
            let number = if reverse { count - i } else { i };
            insert(&tree, &mut model, format!("user{number:012}").as_bytes(), i + 1);
        }
        check(&tree, &model, &[b"user".to_vec(), b"user000000000100x".to_vec(), b"v".to_vec()]);
        if !reverse {
            let leaves = tree.writer.lock().leaves as usize;
            assert_eq!(leaves, count as usize / FANOUT, "leaves are full");
        }
    }
}

#[test]
fn versions_of_one_key_go_on_over_leaves() {
    let (tree, mut model) = (Tree::new(), Model::new());
    for sequence in 1..=3_000 {
        let key: &[u8] = if sequence % 100 == 0 { b"other" } else { b"one" };
        insert(&tree, &mut model, key, sequence);
    }
    check(&tree, &model, &[b"on".to_vec(), b"one\0".to_vec()]);
    for snapshot in 1..=3_000 {
        let found = tree.get(b"one", snapshot).map(|id| tree.entry(id).sequence());
        assert_eq!(found, Some(snapshot - u64::from(snapshot % 100 == 0)).filter(|&s| s > 0));
    }
}

/// Keys that share much, and are prefixes of each other.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let alike = (0..3_usize, 0..2_u8, 0..40_u8, 0..9_usize).prop_map(|(front, middle, number, zeros)| {
        [&b"a long common beginning"[..8 * front], &[middle], &vec![0; zeros], &[number]].concat()
    });
    prop_oneof![4 => alike, 1 => prop::collection::vec(any::<u8>(), 0..12)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn it_is_a_sorted_map(keys in prop::collection::vec(key(), 1..1_500), probes in prop::collection::vec(key(), 20)) {
        let (tree, mut model) = (Tree::new(), Model::new());
        for (index, key) in keys.iter().enumerate() {
            insert(&tree, &mut model, key, index as u64 + 1);
        }
        check(&tree, &model, &probes);
    }
}

/// A number that looks like another one.
fn scatter(i: u64) -> u64 {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[test]
fn readers_see_all_that_was_there_when_they_came() {
    const ENTRIES: u64 = 150_000;
    let keys: [fn(u64) -> Vec<u8>; 3] = [
        |i| scatter(i).to_be_bytes().to_vec(),
        |i| format!("user{i:012}").into_bytes(),
        |i| format!("user{:012}", ENTRIES - i).into_bytes(),
    ];
    for key in keys {
        let (tree, visible) = (&Tree::new(), &AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for i in 1..=ENTRIES {
                    tree.insert(&[key(i), i.to_string().into_bytes()].concat(), key(i).len(), i, Kind::Put);
                    visible.store(i, Release);
                }
            });
            // Gets of what is there; walks both ways, which must meet everything that was there when they began.
            scope.spawn(move || {
                let mut asked = 0;
                while asked < ENTRIES {
                    let now = visible.load(Acquire);
                    for back in 0..now.min(50) {
                        let i = if asked % 2 == 0 { now - back } else { scatter(asked) % now + 1 };
                        let id = tree.get(&key(i), i).expect("it was visible");
                        assert_eq!(tree.entry(id).sequence(), i);
                        assert!(tree.get(&key(i), i - 1).is_none());
                        // There, one back, and forth again.
                        let mut position = tree.seek(Place { key: &key(i), sequence: i });
                        assert_eq!(at(tree, &position), Some((key(i), i)));
                        tree.retreat(&mut position);
                        let before = at(tree, &position);
                        assert!(before.as_ref().is_none_or(|(before, _)| *before < key(i)));
                        if let Some((before, sequence)) = before {
                            let near = tree.seek_before(Place { key: &key(i), sequence: u64::MAX });
                            let (near, _) = at(tree, &near).expect("one was before");
                            assert!(near >= before && near < key(i));
                            tree.advance(&mut position);
                            let (behind, _) = at(tree, &position).expect("one is behind");
                            assert!(behind > before && behind <= key(i), "{sequence}");
                        }
                        asked += 1;
                    }
                }
            });
            scope.spawn(move || {
                let mut round = 0;
                while visible.load(Acquire) < ENTRIES {
                    let now = visible.load(Acquire);
                    let ascending = round % 2 == 0;
                    let mut position = if ascending { tree.first() } else { tree.last() };
                    let (mut seen, mut last) = (0, None::<Vec<u8>>);
                    while let Some((key, sequence)) = at(tree, &position) {
                        if let Some(last) = &last {
                            assert!(if ascending { *last < key } else { *last > key });
                        }
                        seen += u64::from(sequence <= now);
                        last = Some(key);
                        if ascending { tree.advance(&mut position) } else { tree.retreat(&mut position) }
                    }
                    assert_eq!(seen, now);
                    round += 1;
                }
            });
        });
    }
}
