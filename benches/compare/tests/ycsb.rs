//! Goal: `ycsb` works on every engine that is built in. Method: it loads and runs all workloads, with every value
//! checked.

use std::process::{Command, Output};

use terrace_benches::scratch_directory;
use terrace_compare::engines::EngineName;

fn ycsb(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ycsb")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn all_workloads_run_on_every_engine() {
    for engine in EngineName::built() {
        let directory = scratch_directory().unwrap();
        let dir = directory.path().to_str().unwrap();
        let common = ["--engine", engine.name(), "--dir", dir, "--verify"];
        let load = [&["load", "--records", "2000", "--batch", "100"], &common[..]].concat();
        let output = ycsb(&load);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(ycsb(&load).status.code(), Some(2), "it was loaded before");

        let json = directory.path().join("figures.json");
        let run =
            ["run", "--workload", "a,b,c,f,d,e", "--operations", "2000", "--json", json.to_str().unwrap()];
        // Twice: the second one must know of the records that the first one inserted.
        for _ in 0..2 {
            let output = ycsb(&[&run[..], &common[..]].concat());
            assert!(output.status.success(), "{}", text(&output.stderr));
            assert!(text(&output.stdout).contains("read-modify-write"), "{}", text(&output.stdout));
        }
        let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!(figures.as_array().unwrap().len(), 6);

        let other = if engine == EngineName::Terrace { "raw" } else { "terrace" };
        let output = ycsb(&["run", "--workload", "c", "--engine", other, "--dir", dir]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("was loaded by"), "{}", text(&output.stderr));
    }
}
