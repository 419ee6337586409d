//! Run cursors against the entries of all their tables.

use proptest::prelude::*;

use super::*;
use crate::testing::*;
use crate::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_run_is_one_sorted_sequence(
        entries in entries(40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        steps in steps(150),
    ) {
        // Versions of one key are never cut between two tables.
        let starts_key = |at: usize| at > 0 && entries[at - 1].0 != entries[at].0;
        let mut cuts: Vec<usize> =
            cuts.iter().map(|cut| cut.index(entries.len())).filter(|at| starts_key(*at)).collect();
        cuts.extend([0, entries.len()]);
        cuts.sort_unstable();
        cuts.dedup();

        let tables = Tables::new();
        let run: Arc<[Arc<Table>]> = cuts
            .windows(2)
            .enumerate()
            .map(|(i, cut)| {
                let path = tables.write(i as u64, &options(Compression::None), &entries[cut[0]..cut[1]]);
                tables.table(&path)
            })
            .collect();
        for mode in MODES {
            compare_with_model(&mut RunCursor::new(run.clone(), mode), &entries, &steps);
        }
    }
}

#[test]
fn an_empty_run_has_no_entries() {
    let mut cursor = RunCursor::new(Arc::from([]), ScanMode::Auto);
    cursor.seek_to_first().unwrap();
    assert!(!cursor.valid());
    cursor.seek_to_last().unwrap();
    cursor.seek(b"a", 1).unwrap();
    cursor.seek_before(b"a").unwrap();
    assert!(!cursor.valid());
}

#[test]
fn tables_are_opened_when_they_are_reached() {
    let tables = Tables::new();
    let options = options(Compression::None);
    let metas =
        [tables.write(1, &options, &[put("a", 1, "1")]), tables.write(2, &options, &[put("b", 1, "2")])];
    tables.fs.remove_file(&tables.path(2)).unwrap();
    let run = metas.iter().map(|meta| tables.table(meta)).collect();
    let mut cursor = RunCursor::new(run, ScanMode::Auto);
    cursor.seek_to_first().unwrap();
    assert_eq!(cursor.key(), b"a");
    assert!(cursor.next().unwrap_err().is_not_found());
    assert!(!cursor.valid());
    cursor.seek(b"a", 1).unwrap();
    assert_eq!(cursor.value(), b"1");
}
