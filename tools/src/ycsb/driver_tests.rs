//! The driver over a map in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, RwLock};

use super::*;
use clap::ValueEnum;

#[derive(Default)]
struct MapStore {
    map: RwLock<BTreeMap<Key, Vec<u8>>>,
    batches: Mutex<Vec<usize>>,
    /// Each write takes this long.
    delay: Duration,
    /// Writes fail once there are this many records.
    full_at: Option<usize>,
}

impl Store for MapStore {
    type Error = terrace::Error;

    fn read(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool, terrace::Error> {
        let map = self.map.read().unwrap();
        value.clear();
        value.extend_from_slice(map.get(key).map_or(&[], |found| found));
        Ok(map.contains_key(key))
    }

    fn write(&self, key: &Key, value: &[u8]) -> Result<(), terrace::Error> {
        std::thread::sleep(self.delay);
        let mut map = self.map.write().unwrap();
        if self.full_at.is_some_and(|records| map.len() >= records) {
            return Err(terrace::Error::invalid("full"));
        }
        map.insert(*key, value.to_vec());
        Ok(())
    }

    fn write_batch(&self, records: &[(Key, Vec<u8>)]) -> Result<(), terrace::Error> {
        self.batches.lock().unwrap().push(records.len());
        records.iter().try_for_each(|(key, value)| self.write(key, value))
    }

    fn scan(
        &self,
        from: &Key,
        limit: u64,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), terrace::Error> {
        let map = self.map.read().unwrap();
        map.range(*from..).take(limit as usize).for_each(|(key, value)| visit(key, value));
        Ok(())
    }
}

const SHAPE: RecordShape = RecordShape { fields: 3, field_length: 20 };

fn phase(work: Work, operations: u64, threads: u32) -> Phase {
    Phase {
        work,
        operations,
        threads,
        target: None,
        seed: 1,
        order: InsertOrder::Hashed,
        shape: SHAPE,
        update_one_field: true,
        verify: true,
    }
}

fn loaded(records: u64) -> (MapStore, Sequence) {
    let (store, sequence) = (MapStore::default(), Sequence::new(0));
    run(&store, &phase(Work::Load { batch: 1 }, records, 2), &sequence, |_| {}).unwrap();
    (store, sequence)
}

fn mix(workload: Workload) -> Work {
    Work::Mix { workload, distribution: workload.distribution() }
}

#[test]
fn a_load_writes_each_record_once() {
    for (batch, threads) in [(1, 1), (1, 3), (7, 2), (1000, 2)] {
        let (store, sequence) = (MapStore::default(), Sequence::new(0));
        let mut last_seen = 0;
        let phase = phase(Work::Load { batch }, 1001, threads);
        let measured = run(&store, &phase, &sequence, |done| last_seen = done).unwrap();
        assert_eq!((measured.latencies.count(), last_seen, sequence.present()), (1001, 1001, 1001));
        let map = store.map.read().unwrap();
        assert_eq!(map.len(), 1001);
        for number in 0..1001 {
            assert!(SHAPE.check(number, &map[&InsertOrder::Hashed.key(number)]));
        }
        assert!(store.batches.lock().unwrap().iter().all(|&size| size as u64 <= batch));
    }
}

#[test]
fn each_workload_finds_all_it_asks_for() {
    for workload in Workload::value_variants() {
        for distribution in Distribution::value_variants() {
            let (store, sequence) = loaded(500);
            let work = Work::Mix { workload: *workload, distribution: *distribution };
            let measured = run(&store, &phase(work, 2000, 2), &sequence, |_| {}).unwrap();
            assert_eq!((measured.missing, measured.wrong), (0, 0), "{workload:?} {distribution:?}");
            assert_eq!(measured.latencies.count(), 2000);
            let summaries = measured.latencies.summaries(measured.elapsed);
            let kinds: Vec<OperationKind> = summaries.iter().map(|summary| summary.operation).collect();
            assert!(workload.mix().iter().all(|(operation, _)| kinds.contains(operation)));
            let inserted = summaries.iter().find(|summary| summary.operation == OperationKind::Insert);
            let records = 500 + inserted.map_or(0, |summary| summary.count);
            assert_eq!(store.map.read().unwrap().len() as u64, records);
            assert_eq!(measured.scanned > 0, *workload == Workload::E);
        }
    }
}

#[test]
fn updates_change_one_field_or_all() {
    for (update_one_field, least, most) in [(true, 1, 1), (false, 3, 3)] {
        let (store, sequence) = loaded(1);
        let before = store.map.read().unwrap().clone();
        let phase = Phase { update_one_field, ..phase(mix(Workload::F), 1, 1) };
        let is_update = |summary: &super::super::latency::Summary| summary.operation != OperationKind::Read;
        let seed = (0..100).find(|&seed| {
            let phase = Phase { seed, ..phase.clone() };
            let measured = run(&store, &phase, &sequence, |_| {}).unwrap();
            measured.latencies.summaries(measured.elapsed).iter().any(is_update)
        });
        assert!(seed.is_some(), "one of a hundred operations is a read-modify-write");
        let after = store.map.read().unwrap();
        let key = InsertOrder::Hashed.key(0);
        let changed = before[&key].chunks(20).zip(after[&key].chunks(20)).filter(|(a, b)| a != b).count();
        assert!((least..=most).contains(&changed), "{changed} fields changed");
    }
}

#[test]
fn lost_and_wrong_values_are_counted() {
    let (store, sequence) = loaded(100);
    let (lost, wrong) = (InsertOrder::Hashed.key(3), InsertOrder::Hashed.key(4));
    store.map.write().unwrap().remove(&lost);
    store.map.write().unwrap().get_mut(&wrong).unwrap()[0] ^= 1;
    let reads = Work::Mix { workload: Workload::C, distribution: Distribution::Uniform };
    let measured = run(&store, &phase(reads, 5000, 2), &sequence, |_| {}).unwrap();
    assert!(measured.missing > 10 && measured.wrong > 10, "{measured:?}");
    let trusting = Phase { verify: false, ..phase(reads, 5000, 2) };
    let measured = run(&store, &trusting, &sequence, |_| {}).unwrap();
    assert!(measured.missing > 10 && measured.wrong == 0);
    let scans = Work::Mix { workload: Workload::E, distribution: Distribution::Uniform };
    let measured = run(&store, &phase(scans, 2000, 1), &sequence, |_| {}).unwrap();
    assert!(measured.missing > 0, "a scan that does not start at its record lost it");
}

#[test]
fn a_run_can_be_repeated() {
    let outcome = || {
        let (store, sequence) = loaded(100);
        run(&store, &phase(mix(Workload::A), 500, 1), &sequence, |_| {}).unwrap();
        store.map.into_inner().unwrap()
    };
    // The load runs on two threads, but what it writes is decided by number and stamp; only workload A's single
    // thread decides what is overwritten. Fields that were not overwritten may differ in their stamps.
    let keys = |map: &BTreeMap<Key, Vec<u8>>| map.keys().copied().collect::<Vec<_>>();
    assert_eq!(keys(&outcome()), keys(&outcome()));
    let single = || {
        let (store, sequence) = (MapStore::default(), Sequence::new(0));
        run(&store, &phase(Work::Load { batch: 3 }, 100, 1), &sequence, |_| {}).unwrap();
        run(&store, &phase(mix(Workload::A), 500, 1), &sequence, |_| {}).unwrap();
        store.map.into_inner().unwrap()
    };
    assert!(single() == single(), "one thread and one seed make one outcome");
}

#[test]
fn the_first_error_ends_all_workers() {
    let store = MapStore { full_at: Some(50), ..MapStore::default() };
    let phase = phase(Work::Load { batch: 1 }, 1_000_000_000, 3);
    let error = run(&store, &phase, &Sequence::new(0), |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "full");
}

#[test]
fn a_target_holds_operations_back() {
    let phase = Phase { target: Some(1000.0), ..phase(Work::Load { batch: 1 }, 101, 2) };
    let measured = run(&MapStore::default(), &phase, &Sequence::new(0), |_| {}).unwrap();
    assert!(measured.elapsed >= Duration::from_millis(100), "the last operation is due after 100 ms");
}

#[test]
fn latencies_count_from_the_time_meant() {
    let store = MapStore { delay: Duration::from_millis(5), ..MapStore::default() };
    let phase = Phase { target: Some(1000.0), ..phase(Work::Load { batch: 1 }, 20, 1) };
    let measured = run(&store, &phase, &Sequence::new(0), |_| {}).unwrap();
    let longest = measured.latencies.summaries(measured.elapsed)[0].max_ns;
    // The last is due after 19 ms and can end no earlier than after 20 times 5 ms.
    assert!(longest >= 80_000_000, "{longest}");
}
