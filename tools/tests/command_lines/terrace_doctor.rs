//! `terrace doctor` on the machine that the tests run on: what it prints, what it leaves alone, and its exit codes.

use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Ended, Place};

/// A place with a database `db` that somebody has open.
fn open_database() -> (Place, terrace::Db) {
    let place = Place::new();
    let db = terrace::Db::open(place.path("db")).unwrap();
    (0..2000_u32).for_each(|number| db.put(number.to_be_bytes(), [7_u8; 100]).unwrap());
    db.flush().unwrap();
    (place, db)
}

/// Whatever this machine is like: the exit code is that of the findings, in both formats.
#[track_caller]
fn report(ended: Ended) -> Value {
    let report: Value =
        serde_json::from_slice(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let has_warnings =
        report["findings"].as_array().unwrap().iter().any(|finding| finding["state"] == "warn");
    assert_eq!(ended.code, i32::from(has_warnings), "{ended:?}");
    assert_eq!(report["ok"], !has_warnings);
    assert_eq!(ended.err.contains("warning"), has_warnings, "{ended:?}");
    report
}

#[track_caller]
fn finding<'r>(report: &'r Value, name: &str) -> &'r Value {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn a_database_that_is_open_is_looked_at_and_left_alone() {
    let (place, db) = open_database();
    let before = place.names("db");
    let tables = before.iter().filter(|name| name.ends_with(".sst")).count();
    let report = report(place.run("terrace", &["doctor", "db", "--format", "json"]));
    assert!(report["dir"].as_str().unwrap().ends_with("/db"), "{report}");
    let found = finding(&report, "database")["found"].as_str().unwrap();
    assert!(tables > 0 && found.starts_with(&format!("{tables} table")), "{found}");
    for finding in report["findings"].as_array().unwrap() {
        let state = finding["state"].as_str().unwrap();
        assert!(["ok", "note", "warn", "unknown"].contains(&state), "{finding}");
        for field in ["name", "found", "why"] {
            assert!(!finding[field].as_str().unwrap().is_empty(), "{finding}");
        }
        assert!(state != "warn" || finding["to_do"] != "", "{finding}");
    }
    assert_eq!(place.names("db"), before);
    db.put("it", "goes on").unwrap();
    db.close().unwrap();
}

#[test]
fn text_has_a_line_for_each_finding_and_a_sum() {
    let place = Place::new();
    let report = report(place.run("terrace", &["doctor", "--format", "json"]));
    let findings = report["findings"].as_array().unwrap();
    let ended = place.run("terrace", &["doctor"]);
    assert!(ended.code <= 1, "{ended:?}");
    let text = String::from_utf8(ended.out).unwrap();
    let is_of = |line: &str, finding: &Value| {
        let mut words = line.split_whitespace();
        let name = finding["name"].as_str();
        // The state may change between two runs: pressure does.
        words.next().is_some() && words.next() == name
    };
    let heads: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    let (sum, heads) = heads.split_last().unwrap();
    assert_eq!(heads.len(), findings.len(), "{text}");
    assert!(heads.iter().zip(findings).all(|(line, finding)| is_of(line, finding)), "{text}");
    assert!(sum.contains(" warn, ") && sum.ends_with(" ok"), "{text}");
    let advice = text.lines().filter(|line| line.trim_start().starts_with("to do: ")).count();
    assert!(advice <= findings.len());
    let is_aligned = |line: &str| line.starts_with("                    ") || !line.starts_with(' ');
    assert!(text.lines().all(is_aligned), "{text}");
    // Commands stay in one piece, and so do long words, as of a path.
    let has_long_word = |line: &str| line.split_whitespace().any(|word| word.len() > 60);
    let is_short =
        |line: &str| line.chars().count() <= 100 || line.contains("to do: ") || has_long_word(line);
    assert!(text.lines().all(is_short), "{text}");
}

#[test]
#[cfg(target_os = "linux")]
fn what_the_process_may_have_is_found_out() {
    let place = Place::new();
    let mut command = std::process::Command::new("sh");
    let script = "ulimit -n 64 && exec \"$0\" doctor --format json";
    command.args(["-c", script]).arg(crate::harness::binary("terrace")).current_dir(place.path(""));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let ended = Ended {
        code: output.status.code().unwrap(),
        out: output.stdout,
        err: String::from_utf8(output.stderr).unwrap(),
    };
    let report = report(ended);
    let files = finding(&report, "open-files");
    assert_eq!((&files["state"], &files["found"]), (&"warn".into(), &"64 descriptors".into()));
    assert!(files["to_do"].as_str().unwrap().contains("ulimit -n 1024"), "{files}");
}

#[test]
fn what_is_no_directory_is_refused() {
    let place = Place::new();
    std::fs::write(place.path("file"), "").unwrap();
    for wrong in ["nowhere", "file", "file/below"] {
        let ended = place.run("terrace", &["doctor", wrong]).fails("terrace", 2, &["cannot look at", wrong]);
        assert!(ended.out.is_empty());
    }
    for wrong in [&["doctor", ".", "."][..], &["doctor", "--format", "xml"]] {
        place.run("terrace", wrong).fails("terrace", 2, &["--help"]);
    }
    assert!(place.run("terrace", &["doctor", "--help"]).ok().contains("Exit code:"));
    assert_eq!(place.names(""), ["file"]);
}

#[test]
#[cfg(target_os = "linux")]
fn the_verdict_stands_if_nobody_reads_what_is_printed() {
    let place = Place::new();
    let script = "ulimit -n 64 && exec \"$0\" doctor";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).arg(crate::harness::binary("terrace")).current_dir(place.path(""));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
