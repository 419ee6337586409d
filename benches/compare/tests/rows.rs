//! Goal: every row can be measured on every engine that is built in, and the report shows it. Method: a run over few
//! records with the program itself, and a look at what it wrote.

use std::path::Path;
use std::process::{Command, Output};

use clap::ValueEnum;
use terrace_benches::scratch_directory;
use terrace_compare::engines::EngineName;
use terrace_compare::results::Results;
use terrace_compare::rows::Row;

fn compare(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compare")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read(path: &Path) -> Results {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_row_has_figures_for_every_engine() {
    let dir = scratch_directory().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (databases, results) = (path("databases"), path("results.json"));
    let mut engines = EngineName::built();
    engines.push(EngineName::Raw);
    let names: Vec<&str> = engines.iter().map(|engine| engine.name()).collect();
    let run = |more: &[&str]| {
        let mut arguments =
            vec!["run", "--records", "2000", "--seconds", "0.02", "--dir", &databases, "--output", &results];
        arguments.extend_from_slice(more);
        compare(&arguments)
    };
    let output = run(&["--rounds", "2", "--engines", &names.join(",")]);
    assert!(output.status.success(), "{}", text(&output.stderr));

    let found = read(Path::new(&results));
    assert!(found.failures.is_empty());
    assert_eq!(found.settings.len(), engines.len());
    for &row in Row::value_variants() {
        let figures = found.figures_of(row);
        assert!(!figures.is_empty(), "{}", row.name());
        for &engine in engines.iter().filter(|engine| row.admits(**engine)) {
            for (figure, _) in &figures {
                let median = found.median(row, figure, engine);
                let place = format!("{}, {figure}, {}", row.name(), engine.name());
                assert!(median.is_some_and(f64::is_finite), "{place}: {median:?}");
                if row != Row::Heap {
                    assert!(median.is_some_and(|value| value > 0.0), "{place}: {median:?}");
                }
            }
            let rounds =
                found.entries.iter().filter(|entry| (entry.engine, entry.measurement.row) == (engine, row));
            assert_eq!(rounds.count(), 2, "{}, {}", row.name(), engine.name());
        }
    }
    // Each round, engine by engine.
    let turns: Vec<EngineName> = found
        .entries
        .iter()
        .filter(|entry| entry.measurement.row == Row::ReadRandom)
        .map(|entry| entry.engine)
        .collect();
    assert_eq!(turns, [engines.clone(), engines].concat());

    let (markdown, plots) = (path("results.md"), path("plots"));
    let output = compare(&["report", &results, "--markdown", &markdown, "--plots", &plots]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let page = std::fs::read_to_string(&markdown).unwrap();
    for wanted in
        ["| readrandom, 1 thread |", "Writes, synced", "| ycsb, A |", "in batches of 1000", "- **terrace**"]
    {
        assert!(page.contains(wanted), "{wanted} is not in\n{page}");
    }
    let synced = page.split("## Writes, synced").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> =
        synced.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |")).collect();
    assert_eq!(rows.len(), 2, "nothing else stands beside synced puts: {synced}");
    let plots: Vec<_> = std::fs::read_dir(&plots).unwrap().collect();
    assert_eq!(plots.len(), 6, "{plots:?}");

    // The loaded databases are used again, unless there are to be others.
    let output = run(&["--rounds", "1", "--engines", "terrace", "--rows", "scan"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found = read(Path::new(&results));
    assert_eq!(found.entries.len(), 1);
    assert_eq!(found.arguments.rows, [Row::Scan]);
}

#[test]
fn wrong_usage_is_refused() {
    let refused = |arguments: &[&str], wanted: &str| {
        let output = compare(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(wanted), "{arguments:?}: {}", text(&output.stderr));
    };
    let run = ["run", "--dir", "nowhere", "--output", "nowhere.json"];
    refused(&[&run[..], &["--rows", "readbackwards"]].concat(), "readbackwards");
    refused(&[&run[..], &["--engines", "sqlite"]].concat(), "sqlite");
    refused(&[&run[..], &["--records", "0"]].concat(), "0 is not in");
    refused(&[&run[..], &["--seconds", "0"]].concat(), "above 0");
    refused(&["run"], "--dir");
    refused(&["report", "nowhere.json"], "nowhere.json");
    if !EngineName::Leveldb.is_built() {
        refused(&[&run[..], &["--engines", "leveldb"]].concat(), "--features leveldb");
    }
    assert!(!Path::new("nowhere").exists());
}

#[test]
fn the_list_names_everything() {
    let output = compare(&["list"]);
    let page = text(&output.stdout);
    for row in Row::value_variants() {
        assert!(page.contains(&row.name()), "{page}");
    }
    for engine in EngineName::value_variants() {
        assert!(page.contains(engine.name()), "{page}");
    }
}
