//! `terrace verify` and `terrace salvage`: what they print, what they leave alone, and their exit codes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::harness::Place;

/// A place with a closed database `db` of two keyspaces.
fn sample() -> Place {
    let place = Place::new();
    let lines: String = (0..3000).map(|number| format!("key {number:05}\tvalue {number:060}\n")).collect();
    place.run_with("terrace", &["load", "db"], lines.as_bytes()).ok();
    place.run("terrace", &["put", "db", "oak", "tree", "--keyspace", "plants"]).ok();
    place
}

/// Every file of a directory with its bytes.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// The largest table of the database.
fn table(place: &Place) -> PathBuf {
    let files =
        bytes(&place.path("db")).into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "sst"));
    files.max_by_key(|(_, bytes)| bytes.len()).unwrap().0
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn json(out: &[u8]) -> Value {
    serde_json::from_slice(out).unwrap()
}

#[test]
fn a_sound_database_verifies_with_code_zero() {
    let place = sample();
    let before = bytes(&place.path("db"));
    let text = place.run("terrace", &["verify", "db"]).ok();
    assert!(text.contains("3,001 entries") && text.ends_with("all right; 0 notes\n"), "{text}");
    let report =
        json(place.run("terrace", &["verify", "db", "--format", "json", "--threads", "2"]).ok().as_bytes());
    assert_eq!(
        (&report["ok"], &report["entries"], &report["severity"]),
        (&true.into(), &3001.into(), &Value::Null)
    );
    assert_eq!(bytes(&place.path("db")), before, "verify changes nothing");
    std::fs::write(place.path("db/000900.sst.tmp"), "unfinished").unwrap();
    let text = place.run("terrace", &["verify", "db"]).ok();
    assert!(text.contains("note: db/000900.sst.tmp") && text.ends_with("all right; 1 notes\n"), "{text}");
}

#[test]
fn verify_says_how_bad_it_is() {
    let place = sample();
    let table = table(&place);
    flip(&table, 5000);
    let ended = place.run("terrace", &["verify", "db"]).fails("terrace", 3, &["lost"]);
    let text = String::from_utf8(ended.out).unwrap();
    let name = table.file_name().unwrap().to_str().unwrap();
    assert!(text.contains(&format!("loss: db/{name}, offset 4096: the checksum")), "{text}");
    assert!(text.contains("to do: restore the file from a backup"), "{text}");
    let ended = place.run("terrace", &["verify", "db", "--format", "json"]).fails("terrace", 3, &[]);
    let report = json(&ended.out);
    assert_eq!((&report["ok"], &report["severity"]), (&false.into(), &"loss".into()));
    let finding = &report["findings"][0];
    assert_eq!((&finding["offset"], &finding["severity"]), (&4096.into(), &"loss".into()));
    flip(&table, 5000);

    // Metadata: what it is that is hit decides how bad it is.
    let len = std::fs::metadata(&table).unwrap().len() as usize;
    let codes: Vec<i32> = (1..6)
        .map(|page| {
            let at = len - page * 1000;
            flip(&table, at);
            let code = place.run("terrace", &["verify", "db"]).code;
            flip(&table, at);
            code
        })
        .collect();
    assert!(codes.iter().all(|code| matches!(code, 1 | 3)), "{codes:?}");
    std::fs::remove_file(place.path("db/MANIFEST")).unwrap();
    place.run("terrace", &["verify", "db"]).fails("terrace", 3, &["lost"]);
}

#[test]
fn the_verdict_stands_if_nobody_reads_what_is_printed() {
    let place = sample();
    let table = table(&place);
    flip(&table, 5000);
    let table = table.to_str().unwrap();
    for (tool, arguments, code) in [
        ("terrace", &["verify", "db"][..], 3),
        ("terrace", &["salvage", "db", "new"], 3),
        ("sst-dump", &["verify", table], 1),
    ] {
        let mut command = place.command(tool);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{tool} {arguments:?}");
    }
}

#[test]
fn damage_without_loss_is_code_one() {
    let place = Place::new();
    let lines: String = (0..20_000).map(|number| format!("key {number:05}\t{number}\n")).collect();
    place.run_with("terrace", &["load", "db"], lines.as_bytes()).ok();
    let table = table(&place);
    let len = std::fs::metadata(&table).unwrap().len() as usize;
    // The middle of a filter of 25,000 bytes.
    flip(&table, len - 12_000);
    let ended = place.run("terrace", &["verify", "db"]).fails("terrace", 1, &["nothing is lost"]);
    assert!(
        String::from_utf8(ended.out).unwrap().contains("no entry is lost, but gets that need this part fail")
    );
    let text = place.run("terrace", &["salvage", "db", "new"]).ok();
    assert!(text.contains("damage: db/"), "{text}");
    let scanned = place.run("terrace", &["scan", "new", "--keys-only"]).ok();
    assert_eq!(scanned.lines().count(), 20_000);
}

#[test]
fn what_cannot_be_verified_or_salvaged_is_code_four() {
    let place = sample();
    std::fs::create_dir(place.path("empty")).unwrap();
    for dir in ["nowhere", "empty"] {
        place.run("terrace", &["verify", dir]).fails("terrace", 4, &["nothing was verified", dir]);
        place.run("terrace", &["salvage", dir, "new"]).fails("terrace", 4, &["nothing was salvaged", dir]);
    }
    let db = terrace::Db::open(place.path("db")).unwrap();
    place.run("terrace", &["verify", "db"]).fails("terrace", 4, &["in use"]);
    place.run("terrace", &["salvage", "db", "new"]).fails("terrace", 4, &["in use"]);
    db.close().unwrap();
    place.run("terrace", &["salvage", "db", "db/new"]).fails("terrace", 4, &["must not be changed"]);
    place.run("terrace", &["salvage", "db", "db"]).fails("terrace", 4, &["must not be changed"]);
    std::fs::write(place.path("empty/file"), "").unwrap();
    place.run("terrace", &["salvage", "db", "empty"]).fails("terrace", 4, &["not empty"]);
    for wrong in [
        &["verify"][..],
        &["verify", "db", "--threads", "0"],
        &["salvage", "db"],
        &["verify", "db", "--format", "xml"],
    ] {
        place.run("terrace", wrong).fails("terrace", 2, &["--help"]);
    }
    for command in ["verify", "salvage"] {
        assert!(place.run("terrace", &[command, "--help"]).ok().contains("Exit code:"));
    }
    assert_eq!(place.names(""), ["db", "empty"]);
}

#[test]
fn salvage_saves_the_rest_and_says_what_was_lost() {
    let place = sample();
    let table = table(&place);
    flip(&table, 5000);
    std::fs::remove_file(place.path("db/MANIFEST")).unwrap();
    let before = bytes(&place.path("db"));
    let dry = ["salvage", "db", "new", "--dry-run", "--format", "json"];
    let dry = place.run("terrace", &dry).fails("terrace", 3, &["something was lost, in 1 place"]);
    assert_eq!(place.names(""), ["db"], "a dry run writes nothing");
    let real = place.run("terrace", &["salvage", "db", "new", "--format", "json"]).fails("terrace", 3, &[]);
    assert_eq!(json(&dry.out), json(&real.out), "a dry run says the same");
    assert_eq!(bytes(&place.path("db")), before, "the old database is not changed");

    let report = json(&real.out);
    let lost = &report["lost"][0];
    assert_eq!((&lost["from_byte"], &lost["to_byte"]), (&4096.into(), &8192.into()));
    assert_eq!((&report["manifest"], &report["deleted_keys_may_return"]), (&"missing".into(), &true.into()));
    let entries = lost["entries"].as_u64().unwrap();
    assert!(entries > 10 && entries < 100, "{lost}");
    let kept = &report["keyspaces"][0]["keys_kept"];
    assert_eq!(kept.as_u64(), Some(3000 - entries));
    let (from, to) = (lost["keys_from"].as_str().unwrap(), lost["keys_to"].as_str().unwrap());
    let scanned = place.run("terrace", &["scan", "new", "--keys-only"]).ok();
    let kept: Vec<&str> = scanned.lines().collect();
    assert!(kept.iter().all(|key| *key <= from || *key >= to), "{from} to {to}");
    assert_eq!(kept.len() as u64, 3000 - entries);
    assert_eq!(place.run("terrace", &["get", "new", "oak", "--keyspace", "plants"]).ok(), "tree");
    place.run("terrace", &["verify", "new"]).ok();

    let again = place.run("terrace", &["salvage", "db", "new2"]).fails("terrace", 3, &[]);
    let text = String::from_utf8(again.out).unwrap();
    for words in ["lost: db/", "bytes 4096 to 8192", "keys from \"key ", "beware", "plants"] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
}

#[test]
fn a_sound_database_is_salvaged_with_code_zero() {
    let place = sample();
    let text = place.run("terrace", &["salvage", "db", "deep/in/new"]).ok();
    assert!(text.contains("manifest    intact") && !text.contains("beware"), "{text}");
    let scan = |db: &str| place.run("terrace", &["scan", db]).ok();
    assert_eq!(scan("db"), scan("deep/in/new"));
}
