//! `terrace`: get, put, delete, scan, stats, compact.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::Value;

use crate::harness::Place;

/// A place with a database `db` of a few fruit.
fn fruit() -> Place {
    let place = Place::new();
    let lines = "banana\tyellow\napple\tred\ncherry\tdark red\napricot\torange\nb\t\n\tnothing\n";
    place.run_with("terrace", &["load", "db"], lines.as_bytes()).ok();
    place
}

#[test]
fn a_value_is_printed_bare() {
    let place = fruit();
    assert_eq!(place.run("terrace", &["get", "db", "apple"]).ok(), "red");
    assert_eq!(place.run("terrace", &["get", "db", "b"]).ok(), "");
    assert_eq!(place.run("terrace", &["get", "db", ""]).ok(), "nothing");
    assert_eq!(place.run("terrace", &["get", "db", "--hex", "6170706c65"]).ok(), "726564");
    let json = place.run("terrace", &["get", "db", "apple", "--format", "json"]).ok();
    assert_eq!(json, "{\"key\":\"apple\",\"value\":\"red\"}\n");
}

#[test]
fn a_missing_key_is_exit_code_one() {
    let place = fruit();
    let ended = place.run("terrace", &["get", "db", "durian"]).fails("terrace", 1, &["durian", "not found"]);
    assert!(ended.out.is_empty());
}

#[test]
fn put_delete_and_get_go_together() {
    let place = Place::new();
    place.run("terrace", &["put", "db", "key", "value"]).ok();
    assert_eq!(place.run("terrace", &["get", "db", "key"]).ok(), "value");
    place.run_with("terrace", &["put", "db", "key"], b"from\nstandard\0input").ok();
    assert_eq!(place.run("terrace", &["get", "db", "key"]).ok(), "from\nstandard\0input");
    place.run("terrace", &["put", "db", "--hex", "00ff", "0a09"]).ok();
    assert_eq!(place.run("terrace", &["get", "db", "--hex", "00FF"]).ok(), "0a09");
    place.run("terrace", &["put", "db", "--", "-dash", "-value"]).ok();
    assert_eq!(place.run("terrace", &["get", "db", "--", "-dash"]).ok(), "-value");
    place.run("terrace", &["delete", "db", "key", "--durability", "buffered"]).ok();
    place.run("terrace", &["delete", "db", "key"]).ok();
    place.run("terrace", &["get", "db", "key"]).fails("terrace", 1, &["not found"]);
    assert_eq!(place.run("terrace", &["scan", "db", "--hex"]).ok(), "00ff\t0a09\n2d64617368\t2d76616c7565\n");
}

#[test]
fn keyspaces_are_apart() {
    let place = fruit();
    place.run("terrace", &["put", "db", "apple", "tree", "--keyspace", "plants"]).ok();
    assert_eq!(place.run("terrace", &["get", "db", "apple"]).ok(), "red");
    assert_eq!(place.run("terrace", &["scan", "db", "--keyspace", "plants"]).ok(), "apple\ttree\n");
    let words = ["no keyspace \"animals\"", "default", "plants"];
    for arguments in [
        &["get", "db", "apple", "--keyspace", "animals"][..],
        &["scan", "db", "--keyspace", "animals"],
        &["stats", "db", "--keyspace", "animals"],
        &["delete", "db", "apple", "--keyspace", "animals"],
        &["compact", "db", "--keyspace", "animals"],
    ] {
        place.run("terrace", arguments).fails("terrace", 2, &words);
    }
    // Asking for it did not create it.
    assert!(!place.run("terrace", &["stats", "db"]).ok().contains("animals"));
}

#[test]
fn a_wrong_path_creates_nothing() {
    let place = Place::new();
    for arguments in [
        &["get", "nowhere", "key"][..],
        &["scan", "nowhere"],
        &["stats", "nowhere"],
        &["delete", "nowhere", "key"],
        &["compact", "nowhere"],
    ] {
        place.run("terrace", arguments).fails("terrace", 2, &["nowhere"]);
    }
    assert!(place.names("").is_empty());

    std::fs::create_dir(place.path("photos")).unwrap();
    std::fs::write(place.path("photos/cat.jpg"), "meow").unwrap();
    for arguments in [&["scan", "photos"][..], &["put", "photos", "key", "value"], &["load", "photos"]] {
        place.run("terrace", arguments).fails("terrace", 2, &["photos", "not a Terrace database"]);
    }
    assert_eq!(place.names("photos"), ["cat.jpg"]);
    place.run("terrace", &["scan", "photos/cat.jpg"]).fails("terrace", 2, &["cat.jpg"]);
}

#[test]
fn scans_are_bounded_as_asked() {
    let place = fruit();
    let keys = |arguments: &[&str]| {
        let arguments = [&["scan", "db", "--keys-only"][..], arguments].concat();
        let out = place.run("terrace", &arguments).ok();
        out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(keys(&[]), ["", "apple", "apricot", "b", "banana", "cherry"]);
    assert_eq!(keys(&["--reverse"]), ["cherry", "banana", "b", "apricot", "apple", ""]);
    assert_eq!(keys(&["--from", "apple", "--to", "banana"]), ["apple", "apricot", "b"]);
    assert_eq!(keys(&["--from", "az"]), ["b", "banana", "cherry"]);
    assert_eq!(keys(&["--to", "apple"]), [""]);
    assert_eq!(keys(&["--prefix", "ap"]), ["apple", "apricot"]);
    assert_eq!(keys(&["--prefix", "b", "--from", "ba"]), ["banana"]);
    assert_eq!(keys(&["--prefix", "b", "--to", "ba", "--reverse"]), ["b"]);
    assert_eq!(keys(&["--prefix", "b", "--from", "c"]), [""; 0]);
    assert_eq!(keys(&["--limit", "2"]), ["", "apple"]);
    assert_eq!(keys(&["--limit", "2", "--reverse"]), ["cherry", "banana"]);
    assert_eq!(keys(&["--limit", "0"]), [""; 0]);
    assert_eq!(keys(&["--from", "b", "--to", "b"]), [""; 0]);
    assert_eq!(keys(&["--hex", "--prefix", "6170"]), ["6170706c65", "61707269636f74"]);
    place.run("terrace", &["scan", "db", "--from", "z", "--to", "a"]).fails("terrace", 2, &["reversed", "z"]);
    place.run("terrace", &["scan", "db", "--hex", "--from", "7g"]).fails("terrace", 2, &["--from", "hex"]);
}

#[test]
fn scans_print_lines_or_objects() {
    let place = fruit();
    let lines = place.run("terrace", &["scan", "db", "--prefix", "ap"]).ok();
    assert_eq!(lines, "apple\tred\napricot\torange\n");
    let objects = place.run("terrace", &["scan", "db", "--prefix", "ap", "--format", "json"]).ok();
    let expected = "{\"key\":\"apple\",\"value\":\"red\"}\n{\"key\":\"apricot\",\"value\":\"orange\"}\n";
    assert_eq!(objects, expected);
    let keys = place.run("terrace", &["scan", "db", "--format", "json", "--keys-only", "--limit", "2"]).ok();
    assert_eq!(keys, "{\"key\":\"\"}\n{\"key\":\"apple\"}\n");
}

#[test]
fn a_closed_pipe_ends_a_scan_quietly() {
    let place = Place::new();
    let lines: String = (0..200_000).map(|number| format!("{number:08}\tvalue of {number}\n")).collect();
    place.run_with("terrace", &["load", "db", "--durability", "buffered"], lines.as_bytes()).ok();
    let mut child = place
        .command("terrace")
        .args(["scan", "db"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "00000000\tvalue of 0\n");
    // The reader is gone now, and with it the pipe.
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let place = fruit();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = place.command("terrace").args(["scan", "db"]).stdout(full).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.starts_with("terrace: cannot write to standard output: No space left"), "{said}");
}

/// The names and bytes of all files in a directory.
fn files(place: &Place, dir: &str) -> Vec<(String, Vec<u8>)> {
    let names = place.names(dir).into_iter();
    names.map(|name| (name.clone(), std::fs::read(place.path(dir).join(name)).unwrap())).collect()
}

#[test]
fn a_database_in_use_can_be_read_and_no_more() {
    let place = fruit();
    let db = terrace::Db::open(place.path("db")).unwrap();
    db.put("date", "brown").unwrap();
    let before = files(&place, "db");
    assert_eq!(place.run("terrace", &["get", "db", "date"]).ok(), "brown");
    assert_eq!(place.run("terrace", &["get", "db", "apple"]).ok(), "red");
    let lines = place.run("terrace", &["scan", "db", "--from", "c"]).ok();
    assert_eq!(lines, "cherry\tdark red\ndate\tbrown\n");
    assert!(place.run("terrace", &["stats", "db"]).ok().contains("all right"));
    for arguments in [&["put", "db", "apple", "green"][..], &["delete", "db", "apple"], &["compact", "db"]] {
        place.run("terrace", arguments).fails("terrace", 2, &["db", "in use"]);
    }
    assert!(files(&place, "db") == before, "nothing has changed");

    // As a crash would leave it: what is in the log is shown, and stays there.
    std::fs::create_dir(place.path("left")).unwrap();
    for (name, bytes) in before {
        std::fs::write(place.path("left").join(name), bytes).unwrap();
    }
    db.close().unwrap();
    let before = files(&place, "left");
    assert_eq!(place.run("terrace", &["get", "left", "date"]).ok(), "brown");
    assert_eq!(place.run("terrace", &["scan", "left", "--keys-only"]).ok().lines().count(), 7);
    place.run("terrace", &["stats", "left"]).ok();
    assert!(files(&place, "left") == before, "nothing has changed");
    place.run("terrace", &["put", "left", "fig", "violet"]).ok();
    assert_eq!(place.run("terrace", &["get", "left", "date"]).ok(), "brown");
}

#[test]
fn stats_count_what_is_there() {
    let place = fruit();
    place.run("terrace", &["put", "db", "oak", "tree", "--keyspace", "plants"]).ok();
    place.run("terrace", &["compact", "db"]).ok();
    place.run("terrace", &["compact", "db", "--keyspace", "plants"]).ok();
    let text = place.run("terrace", &["stats", "db"]).ok();
    assert!(text.contains("plants") && text.contains("all right"), "{text}");
    let stats: Value =
        serde_json::from_str(&place.run("terrace", &["stats", "db", "--format", "json"]).ok()).unwrap();
    let entries = |stats: &Value, name: &str| {
        let keyspaces = stats["keyspaces"].as_array().unwrap();
        keyspaces.iter().find(|keyspace| keyspace["name"] == name).map(|found| found["table_entries"].clone())
    };
    assert_eq!(entries(&stats, "default"), Some(6.into()));
    assert_eq!(entries(&stats, "plants"), Some(1.into()));
    assert_eq!(stats["healthy"], true);
    let in_levels: u64 =
        stats["levels"].as_array().unwrap().iter().map(|level| level["bytes"].as_u64().unwrap()).sum();
    assert_eq!(Some(in_levels), stats["on_disk"]["table_bytes"].as_u64());
    assert!(in_levels > 0);
    let one = place.run("terrace", &["stats", "db", "--keyspace", "plants", "--format", "json"]).ok();
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!((entries(&one, "plants"), entries(&one, "default")), (Some(1.into()), None));
}

#[test]
fn compaction_drops_what_is_deleted() {
    let place = Place::new();
    let lines: String = (0..20_000).map(|number| format!("{number:06}\t{number:0100}\n")).collect();
    place.run_with("terrace", &["load", "db"], lines.as_bytes()).ok();
    let before = place.run("terrace", &["scan", "db", "--to", "010000"]).ok();
    for number in (0..20_000).step_by(2000) {
        place.run("terrace", &["delete", "db", &format!("{number:06}")]).ok();
    }
    let ended = place.run("terrace", &["compact", "db"]);
    assert!(ended.err.starts_with("terrace: compacted; tables "), "{ended:?}");
    ended.ok();
    let stats = place.run("terrace", &["stats", "db", "--format", "json"]).ok();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(
        (&stats["keyspaces"][0]["table_entries"], &stats["keyspaces"][0]["table_deletes"]),
        (&19_990.into(), &0.into())
    );
    let after = place.run("terrace", &["scan", "db", "--to", "010000"]).ok();
    let kept: String = before
        .lines()
        .filter(|line| line[..6].parse::<u32>().unwrap() % 2000 != 0)
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(after, kept);
    place.run("terrace", &["compact", "db", "--from", "b", "--to", "a"]).fails("terrace", 2, &["reversed"]);
}

#[test]
fn a_checkpoint_is_a_database_of_its_own() {
    let place = fruit();
    place.run("terrace", &["put", "db", "oak", "tree", "--keyspace", "plants"]).ok();
    let text = place.run("terrace", &["checkpoint", "db", "deep/in/copy"]).ok();
    let lines: Vec<Vec<&str>> = text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
    // Everything was written to tables when the commands before it ended. They are linked, or copied where they cannot be.
    let tables = |line: usize| lines[line][1].parse::<u64>().unwrap();
    assert_eq!((lines[0][0], lines[1][0], lines[2][0]), ("linked", "copied", "written"));
    assert!(tables(0) + tables(1) >= 2 && tables(2) == 0, "{text}");
    place.run("terrace", &["put", "db", "apple", "green"]).ok();
    place.run("terrace", &["delete", "deep/in/copy", "banana"]).ok();
    let get = |db: &str, key: &str| place.run("terrace", &["get", db, key]);
    assert_eq!((get("db", "apple").ok(), get("deep/in/copy", "apple").ok()), ("green".into(), "red".into()));
    assert_eq!(get("db", "banana").ok(), "yellow");
    get("deep/in/copy", "banana").fails("terrace", 1, &["not found"]);
    let plants = ["get", "deep/in/copy", "oak", "--keyspace", "plants"];
    assert_eq!(place.run("terrace", &plants).ok(), "tree");
    place.run("terrace", &["verify", "deep/in/copy"]).ok();
    std::fs::remove_dir_all(place.path("db")).unwrap();
    assert_eq!(place.run("terrace", &plants).ok(), "tree");
    let json = place.run("terrace", &["checkpoint", "deep/in/copy", "again", "--format", "json"]).ok();
    let report: Value = serde_json::from_str(&json).unwrap();
    let sum = |name: &str| {
        ["linked", "copied"].map(|how| report[format!("{name}_{how}")].as_u64().unwrap()).iter().sum::<u64>()
    };
    assert!(sum("tables") >= 2 && sum("bytes") > 0 && report["sequence"].as_u64() > Some(6), "{json}");
    assert_eq!(
        place.run("terrace", &["scan", "again"]).ok(),
        place.run("terrace", &["scan", "deep/in/copy"]).ok()
    );
}

#[test]
fn a_checkpoint_that_cannot_be_is_refused() {
    let place = fruit();
    place.run("terrace", &["put", "other", "key", "value"]).ok();
    std::fs::create_dir(place.path("empty")).unwrap();
    std::fs::write(place.path("file"), "text").unwrap();
    let before = (place.names("db"), place.names("other"));
    for (to, word) in
        [("other", "not empty"), ("db", "lies in db"), ("db/copy", "lies in db"), ("file", "cannot list")]
    {
        place.run("terrace", &["checkpoint", "db", to]).fails("terrace", 2, &[word]);
    }
    for from in ["nowhere", "empty"] {
        place.run("terrace", &["checkpoint", from, "new"]).fails("terrace", 2, &["not a Terrace database"]);
    }
    let db = terrace::Db::open(place.path("db")).unwrap();
    place.run("terrace", &["checkpoint", "db", "new"]).fails("terrace", 2, &["db", "in use"]);
    db.close().unwrap();
    place.run("terrace", &["checkpoint", "db"]).fails("terrace", 2, &["--help"]);
    assert_eq!((place.names("db"), place.names("other")), before);
    assert_eq!(place.names(""), ["db", "empty", "file", "other"]);
    place.run("terrace", &["checkpoint", "db", "empty"]).ok();
    assert_eq!(place.run("terrace", &["get", "empty", "apple"]).ok(), "red");
}

#[test]
fn wrong_usage_is_exit_code_two() {
    let place = Place::new();
    for arguments in [
        &["fetch", "db"][..],
        &["get", "db"],
        &["scan"],
        &["scan", "db", "--limit", "many"],
        &["load", "db", "--durability", "maybe"],
    ] {
        let ended = place.run("terrace", arguments).fails("terrace", 2, &["--help"]);
        assert!(ended.out.is_empty(), "{ended:?}");
    }
    let ended = place.run("terrace", &[]);
    assert!(ended.code == 2 && ended.err.contains("Usage: terrace "), "{ended:?}");
    for tool in ["terrace", "sst-dump", "ycsb"] {
        let help = place.run(tool, &["--help"]).ok();
        assert!(help.contains("Examples:") && help.contains("Exit code:"), "{help}");
        assert!(place.run(tool, &["--version"]).ok().starts_with(tool));
    }
    assert!(place.names("").is_empty());
}

/// Without the guard of `terrace::sigbus` it would be killed by a signal. The scan waits for its reader while the tables
/// are cut.
#[test]
#[cfg(target_os = "linux")]
fn a_table_that_is_cut_under_a_scan_is_an_error() {
    let place = Place::new();
    let lines: String = (0..30_000).map(|index| format!("{index:08}\t{}\n", "v".repeat(100))).collect();
    place.run_with("terrace", &["load", "db"], lines.as_bytes()).ok();
    place.run("terrace", &["compact", "db"]).ok();
    let mut scan = place.command("terrace");
    let mut scan = scan.args(["scan", "db"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(scan.stdout.take().unwrap());
    let mut printed = String::new();
    out.read_line(&mut printed).unwrap();
    for name in place.names("db").iter().filter(|name| name.ends_with(".sst")) {
        let table = std::fs::OpenOptions::new().write(true).open(place.path("db").join(name)).unwrap();
        table.set_len(4096).unwrap();
    }
    out.read_to_string(&mut printed).unwrap();
    assert!(lines.starts_with(&printed) && printed.len() < lines.len(), "{} bytes", printed.len());
    let ended = scan.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}: {said}", ended.status);
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("terrace: ") && last.contains(".sst is damaged"), "{said}");
    assert!(said.contains("a mapped page of this table could not be read"), "{said}");
}
