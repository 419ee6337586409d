//! `ycsb`: the demonstration, and load and run on a directory. Figures are never judged, only that they are there
//! and add up.

use serde_json::Value;

use crate::harness::Place;

fn report(place: &Place, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place.path(file)).unwrap()).unwrap()
}

fn phase<'a>(report: &'a Value, name: &str) -> &'a Value {
    let phases = report["phases"].as_array().unwrap();
    phases
        .iter()
        .find(|phase| phase["name"] == name)
        .unwrap_or_else(|| panic!("no phase {name} in {report:#}"))
}

fn count(phase: &Value, operation: &str) -> u64 {
    let operations = phase["by_operation"].as_array().unwrap();
    let found = operations.iter().find(|found| found["operation"] == operation);
    found.map_or(0, |found| found["count"].as_u64().unwrap())
}

#[test]
fn the_demonstration_runs_all_workloads() {
    let place = Place::new();
    let arguments = ["--records", "3000", "--operations", "2000", "--verify", "--json", "report.json"];
    let text = place.run("ycsb", &arguments).ok();
    for words in [
        "machine ",
        "kernel ",
        "directory ",
        "buffered: a write is acknowledged once the kernel",
        "closed loop",
    ] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    for words in
        ["p99.9", "read-modify-write", "write amplification", "space used, loaded", "stalls", "page faults"]
    {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }

    let report = report(&place, "report.json");
    let names: Vec<&str> =
        report["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["load", "settle", "A", "B", "C", "F", "D", "E", "settle"]);
    assert_eq!(count(phase(&report, "load"), "insert"), 3000);
    let mut inserted = 0;
    for (name, operations) in [
        ("A", ["read", "update"]),
        ("B", ["read", "update"]),
        ("C", ["read", "read"]),
        ("F", ["read", "read-modify-write"]),
        ("D", ["read", "insert"]),
        ("E", ["scan", "insert"]),
    ] {
        let phase = phase(&report, name);
        let counts = operations.map(|operation| count(phase, operation));
        assert!(counts.iter().all(|&count| count > 0), "{phase:#}");
        let total = if operations[0] == operations[1] { counts[0] } else { counts[0] + counts[1] };
        assert_eq!((total, &phase["operations"]), (2000, &2000.into()));
        assert_eq!((&phase["missing"], &phase["wrong"]), (&0.into(), &0.into()));
        inserted += count(phase, "insert");
        for operation in phase["by_operation"].as_array().unwrap() {
            let at = |name: &str| operation[name].as_u64().unwrap();
            let ascending = [at("min_ns"), at("p50_ns"), at("p99_ns"), at("p999_ns"), at("max_ns")];
            assert!(ascending.is_sorted() && ascending[0] > 0, "{operation}");
        }
    }
    assert_eq!(report["space"]["records"], 3000 + inserted);
    assert_eq!(report["space"]["user_bytes"], 116 * (3000 + inserted));
    assert!(report["space"]["allocated_bytes"].as_u64() > Some(116 * 3000));
    let engine = &report["engine"];
    assert!(engine["disk_bytes_written"].as_u64() > engine["user_bytes_written"].as_u64());
    assert_eq!((&report["durability"], &report["threads"]), (&"buffered".into(), &2.into()));
    // The temporary directory is here, and gone.
    assert_eq!(place.names(""), ["report.json"]);
}

#[test]
fn a_directory_is_loaded_once_and_run_often() {
    let place = Place::new();
    let load = [
        "load",
        "--dir",
        "db",
        "--records",
        "1000",
        "--fields",
        "4",
        "--field-length",
        "25",
        "--insert-order",
        "ordered",
        "--threads",
        "3",
        "--batch",
        "16",
    ];
    let text = place.run("ycsb", &load).ok();
    assert!(text.contains("1,000 of 16 B + 4 x 25 B, inserted in key order"), "{text}");
    assert_eq!(place.run("terrace", &["scan", "db", "--keys-only"]).ok().lines().count(), 1000);
    let first = place.run("terrace", &["scan", "db", "--keys-only", "--limit", "1"]).ok();
    assert_eq!(first, "user000000000000\n");

    for distribution in ["uniform", "zipfian", "latest", "hotspot"] {
        let arguments = [
            "run",
            "--dir",
            "db",
            "--workload",
            "a,E",
            "--operations",
            "500",
            "--request-distribution",
            distribution,
            "--verify",
            "--json",
            "r.json",
        ];
        place.run("ycsb", &arguments).ok();
        let report = report(&place, "r.json");
        assert_eq!(
            (phase(&report, "A")["operations"].clone(), phase(&report, "E")["operations"].clone()),
            (500.into(), 500.into())
        );
    }
    // What was inserted is remembered, and may be left out.
    let arguments = ["run", "--dir", "db", "--workload", "d", "--operations", "500", "--json", "r.json"];
    place.run("ycsb", &arguments).ok();
    let records = report(&place, "r.json")["records"]["records"].as_u64().unwrap();
    assert!(records > 1000);
    assert_eq!(place.run("terrace", &["scan", "db", "--keys-only"]).ok().lines().count() as u64, records);
    let arguments =
        ["run", "--dir", "db", "--records", "1000", "--workload", "c", "--operations", "500", "--verify"];
    place.run("ycsb", &arguments).ok();
    // Loading goes on behind what is there.
    place
        .run(
            "ycsb",
            &[
                "load",
                "--dir",
                "db",
                "--records",
                "10",
                "--fields",
                "4",
                "--field-length",
                "25",
                "--insert-order",
                "ordered",
            ],
        )
        .ok();
    assert_eq!(
        place.run("terrace", &["scan", "db", "--keys-only"]).ok().lines().count() as u64,
        records + 10
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let place = Place::new();
    place.run("ycsb", &["run", "--dir", "nowhere", "--workload", "a"]).fails("ycsb", 2, &["nowhere"]);
    assert!(place.names("").is_empty());
    place.run("ycsb", &["load", "--dir", "db", "--records", "100", "--value-size", "10"]).ok();
    let run = |more: &[&str]| {
        place.run(
            "ycsb",
            &[&["run", "--dir", "db", "--workload", "c", "--operations", "10"][..], more].concat(),
        )
    };
    run(&["--value-size", "10", "--insert-order", "hashed"]).ok();
    run(&["--value-size", "100"]).fails("ycsb", 2, &["db", "10 B", "100 B"]);
    run(&["--insert-order", "ordered"]).fails("ycsb", 2, &["db", "in key order"]);
    run(&["--records", "101"]).fails("ycsb", 2, &["100 records, not 101"]);
    place.run("ycsb", &["load", "--dir", "db", "--records", "5"]).fails("ycsb", 2, &["db", "10 B"]);
    place.run("ycsb", &["--dir", "db"]).fails("ycsb", 2, &["db", "not empty"]);
    place.run("terrace", &["put", "other", "key", "value"]).ok();
    place.run("ycsb", &["load", "--dir", "other"]).fails("ycsb", 2, &["other", "not loaded by ycsb"]);
    place.run("ycsb", &["run", "--dir", "other", "--workload", "a"]).fails(
        "ycsb",
        2,
        &["other", "no records"],
    );
    for (description, what) in [
        ("{", "EOF"),
        (r#"{"records":5,"fields":1,"field_length":1,"insert_order":"sideways"}"#, "sideways"),
        (
            r#"{"records":9000000000000000,"fields":1,"field_length":1,"insert_order":"hashed"}"#,
            "9000000000000000",
        ),
        (
            r#"{"records":5,"fields":4000000000,"field_length":4000000000,"insert_order":"hashed"}"#,
            "no value",
        ),
    ] {
        place.run("terrace", &["put", "odd", "--keyspace", "ycsb", "description", description]).ok();
        let arguments = ["run", "--dir", "odd", "--workload", "a"];
        place.run("ycsb", &arguments).fails("ycsb", 2, &["description", "odd", what]);
    }
    for arguments in [
        &["run", "--dir", "db"][..],
        &["run", "--dir", "db", "--workload", "g"],
        &["load", "--dir", "db", "--records", "0"],
        &["load", "--dir", "db", "--value-size", "5", "--fields", "2"],
        &["--threads", "0"],
        &["--target", "-5"],
    ] {
        assert_eq!(place.run("ycsb", arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn a_database_keeps_its_compression() {
    let place = Place::new();
    place.run("ycsb", &["load", "--dir", "db", "--records", "500", "--compression", "snappy"]).ok();
    let arguments =
        ["run", "--dir", "db", "--workload", "a", "--operations", "500", "--verify", "--json", "r.json"];
    assert!(place.run("ycsb", &arguments).ok().contains("compression snappy"));
    assert_eq!(report(&place, "r.json")["compression"], "snappy");
    let tables = place.names("db").into_iter().find(|name| name.ends_with(".sst"));
    let properties = place.run("sst-dump", &["properties", &format!("db/{}", tables.unwrap())]).ok();
    assert!(properties.lines().any(|line| line.starts_with("compression ") && line.ends_with("snappy")));
}

#[test]
fn lost_records_are_found_out() {
    let place = Place::new();
    place.run("ycsb", &["load", "--dir", "db", "--records", "50", "--insert-order", "ordered"]).ok();
    place.run("terrace", &["delete", "db", "user000000000007"]).ok();
    place.run("terrace", &["put", "db", "user000000000008", "something else"]).ok();
    let arguments = [
        "run",
        "--dir",
        "db",
        "--workload",
        "c",
        "--operations",
        "2000",
        "--request-distribution",
        "uniform",
        "--verify",
        "--json",
        "r.json",
    ];
    place.run("ycsb", &arguments).fails("ycsb", 1, &["missing or wrong"]);
    let report = report(&place, "r.json");
    let reads = phase(&report, "C");
    assert!(reads["missing"].as_u64() > Some(0) && reads["wrong"].as_u64() > Some(0), "{reads:#}");
}

#[test]
fn json_alone_goes_to_standard_output() {
    let place = Place::new();
    let arguments = [
        "--records",
        "200",
        "--operations",
        "100",
        "--threads",
        "1",
        "--durability",
        "sync",
        "--target",
        "5000",
        "--compression",
        "snappy",
        "--seed",
        "7",
        "--json",
        "-",
    ];
    let ended = place.run("ycsb", &arguments);
    assert!(ended.err.contains("survives power loss") && ended.err.contains("open loop"), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.ok()).unwrap();
    assert_eq!((&report["latency_from"], &report["seed"]), (&"intended".into(), &7.into()));
    assert_eq!((&report["durability"], &report["compression"]), (&"sync".into(), &"snappy".into()));
    // 200 operations that start 5,000 times a second cannot be done earlier.
    assert!(phase(&report, "load")["seconds"].as_f64().unwrap() >= 199.0 / 5000.0);
    assert!(place.names("").is_empty());
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    use std::process::{Command, Stdio};
    let place = Place::new();
    let mut child = place
        .command("ycsb")
        .args(["--records", "1000000000", "--target", "2000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let has_begun = || place.names("").first().is_some_and(|dir| place.names(dir).len() > 1);
    while !has_begun() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "ycsb: interrupted\n");
    assert!(place.names("").is_empty());
}
