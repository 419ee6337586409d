//! Goal: every engine that is built in does what the rows assume of it. Method: the same operations on each, compared
//! with a map.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Barrier;

use terrace_benches::{Records, scratch_directory};
use terrace_compare::engine::{Direction, Durability, Engine, OpenOptions, Span, sum};
use terrace_compare::engines::EngineName;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Runs a check on each engine.
fn for_each_engine(check: impl Fn(EngineName, &Path)) {
    let built = EngineName::built();
    assert!(built.contains(&EngineName::Terrace));
    for engine in built {
        let dir = scratch_directory().unwrap();
        println!("{}", engine.name());
        check(engine, &dir.path().join("db"));
    }
}

fn open(name: EngineName, dir: &Path, durability: Durability) -> Box<dyn Engine> {
    let options = OpenOptions { durability, ..OpenOptions::buffered(10_000) };
    name.open(dir, &options).unwrap()
}

/// Everything that can be asked of an engine, compared with a map.
fn compare(engine: &dyn Engine, model: &Model) {
    let entries = |span: Span<'_>| {
        let mut found = Vec::new();
        engine.scan(span, &mut |key, value| found.push((key.to_vec(), value.to_vec()))).unwrap();
        let bytes =
            found.iter().fold(0_u64, |all, (key, value)| all.wrapping_add(sum(key)).wrapping_add(sum(value)));
        let touched = engine.touch(span).unwrap();
        assert_eq!((touched.entries, touched.sum), (found.len() as u64, bytes), "{span:?}");
        found
    };
    let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
    let forward: Vec<_> = model.iter().map(owned).collect();
    assert_eq!(entries(Span::all(Direction::Forward)), forward);
    let reverse: Vec<_> = model.iter().rev().map(owned).collect();
    assert_eq!(entries(Span::all(Direction::Reverse)), reverse);

    let records = Records::new(1);
    let mut value = b"what was here before".to_vec();
    // Half of these keys are there, at most.
    for number in 0..2_000 {
        let key = records.key(number);
        let expected = model.get(key.as_slice());
        assert_eq!(engine.get(&key).unwrap(), expected.map(|value| sum(value)));
        assert_eq!(engine.read(&key, &mut value).unwrap(), expected.is_some());
        assert_eq!(value, expected.cloned().unwrap_or_default());
    }
    for number in (0..2_000).step_by(97) {
        let from = records.key(number);
        let limited = |direction| Span { from: Some(&from), direction, limit: 10 };
        let up: Vec<_> = model.range(from.to_vec()..).take(10).map(owned).collect();
        assert_eq!(entries(limited(Direction::Forward)), up);
        let down: Vec<_> = model.range(..=from.to_vec()).rev().take(10).map(owned).collect();
        assert_eq!(entries(limited(Direction::Reverse)), down);
    }
}

/// Puts, batches, overwrites and deletes, with a look at all of it after each, also when it was opened again.
fn operations(name: EngineName, dir: &Path, durability: Durability) {
    let records = Records::new(1_000);
    let mut model = Model::new();
    let engine = open(name, dir, durability);
    assert!(!engine.settings().is_empty());
    compare(&*engine, &model);

    for number in 0..500 {
        let (key, value) = (records.key(number), records.value(number));
        engine.put(&key, &value).unwrap();
        model.insert(key.to_vec(), value.to_vec());
    }
    let batch: Vec<_> = (500..1_000)
        .map(|number| (records.key(number), records.value(number)[..number as usize % 100].to_vec()))
        .collect();
    engine.put_batch(&batch).unwrap();
    model.extend(batch.into_iter().map(|(key, value)| (key.to_vec(), value)));
    compare(&*engine, &model);

    let before = model.clone();
    let overwrite = || {
        overwrite_and_delete(&*engine, &mut model);
        compare(&*engine, &model);
    };
    while_viewed(&*engine, &before, overwrite);

    engine.settle().unwrap();
    compare(&*engine, &model);
    engine.close().unwrap();

    let mut engine = open(name, dir, durability);
    compare(&*engine, &model);
    engine.put(b"last", b"").unwrap();
    model.insert(b"last".to_vec(), Vec::new());
    engine.compact().unwrap();
    compare(&*engine, &model);
    engine.close().unwrap();
    let engine = open(name, dir, durability);
    compare(&*engine, &model);
    engine.close().unwrap();
}

fn overwrite_and_delete(engine: &dyn Engine, model: &mut Model) {
    let records = Records::new(1_000);
    for number in (0..1_000).step_by(3) {
        let (key, value) = (records.key(number), records.value(number + 1_000_000));
        engine.put(&key, &value).unwrap();
        model.insert(key.to_vec(), value.to_vec());
    }
    for number in (0..1_000).step_by(7) {
        engine.delete(&records.key(number)).unwrap();
        model.remove(records.key(number).as_slice());
    }
    engine.delete(&records.key(5_000)).unwrap();
}

/// Calls `change` while another thread has a view, which must not see it.
fn while_viewed(engine: &dyn Engine, before: &Model, change: impl FnOnce()) {
    let (viewed, changed) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        let viewer = scope.spawn(|| {
            let view = engine.view().unwrap();
            viewed.wait();
            changed.wait();
            for (key, value) in before {
                assert_eq!(view.get(key).unwrap(), Some(sum(value)), "a view stays as it was");
            }
            assert_eq!(view.get(b"nothing").unwrap(), None);
        });
        viewed.wait();
        change();
        changed.wait();
        viewer.join().unwrap();
    });
}

#[test]
fn every_engine_keeps_what_it_was_given() {
    for_each_engine(|name, dir| operations(name, dir, Durability::Buffered));
}

#[test]
fn every_engine_does_so_with_synced_writes() {
    for_each_engine(|name, dir| operations(name, dir, Durability::Synced));
}

#[test]
fn every_engine_serves_several_threads() {
    for_each_engine(|name, dir| {
        let engine = open(name, dir, Durability::Buffered);
        let records = Records::new(4_000);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let engine = &*engine;
                scope.spawn(move || {
                    for number in (thread..4_000).step_by(4) {
                        engine.put(&records.key(number), &records.value(number)).unwrap();
                        let found = engine.get(&records.key(number)).unwrap();
                        assert_eq!(found, Some(sum(&records.value(number))));
                    }
                });
            }
        });
        assert_eq!(engine.touch(Span::all(Direction::Forward)).unwrap().entries, 4_000);
        engine.close().unwrap();
    });
}

#[test]
fn what_is_not_built_in_names_its_feature() {
    let dir = scratch_directory().unwrap();
    for name in [EngineName::Lmdb, EngineName::Rocksdb, EngineName::RocksdbMmap, EngineName::Leveldb] {
        if !name.is_built() {
            let error = name.open(dir.path(), &OpenOptions::buffered(1)).err().expect("it is refused");
            assert!(
                error.to_string().contains(&format!("--features {}", name.feature().unwrap())),
                "{error}"
            );
        }
    }
}

#[test]
fn bytes_are_summed_whole() {
    assert_eq!(sum(b""), 0);
    assert_eq!(sum(&[1, 0, 0, 0, 0, 0, 0, 0, 5]), 6);
    let value = Records::new(1).value(1);
    for at in 0..value.len() {
        let mut other = value;
        other[at] ^= 1;
        assert_ne!(sum(&other), sum(&value), "byte {at} was not read");
    }
}
