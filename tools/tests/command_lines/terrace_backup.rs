//! `terrace backup`, `terrace restore` and `terrace backups`: what they make, print and refuse, and their exit codes.

use std::fs::File;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Place, binary};

/// A place with a closed database `db` of two keyspaces.
fn sample() -> Place {
    let place = Place::new();
    let lines: String = (0..2000).map(|number| format!("key {number:05}\tvalue {number:060}\n")).collect();
    place.run_with("terrace", &["load", "db"], lines.as_bytes()).ok();
    place.run("terrace", &["put", "db", "oak", "tree", "--keyspace", "plants"]).ok();
    place
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn backups_are_made_listed_restored_and_deleted() {
    let place = sample();
    let first = place.run("terrace", &["backup", "db", "deep/backups"]).ok();
    assert!(first.starts_with("backup 1\n") && first.contains("copied"), "{first}");
    let whole = place.run("terrace", &["scan", "db"]).ok();
    place.run("terrace", &["put", "db", "key 00001", "changed"]).ok();
    let second = json(&place.run("terrace", &["backup", "db", "deep/backups", "--format", "json"]).ok());
    assert_eq!((&second["number"], &second["tables_copied"]), (&2.into(), &1.into()), "{second}");
    assert!(second["tables_shared"].as_u64() >= Some(2), "{second}");

    let list = place.run("terrace", &["backups", "list", "deep/backups"]).ok();
    let lines: Vec<Vec<&str>> = list.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
    assert!(lines.iter().map(|line| line[0]).eq(["1", "2"]), "{list}");
    let list = json(&place.run("terrace", &["backups", "list", "deep/backups", "--format", "json"]).ok());
    assert!(list["backups"][1]["bytes_own"].as_u64() > Some(0), "{list}");
    let verified = place.run("terrace", &["backups", "verify", "deep/backups"]).ok();
    assert!(verified.contains("2,001 entries") || verified.ends_with("all right; 0 notes\n"), "{verified}");

    place.run("terrace", &["restore", "deep/backups", "old", "--number", "1"]).ok();
    let report = json(&place.run("terrace", &["restore", "deep/backups", "new", "--format", "json"]).ok());
    assert!(report["tables"].as_u64() >= Some(3), "{report}");
    assert_eq!(place.run("terrace", &["scan", "old"]).ok(), whole);
    assert_eq!(place.run("terrace", &["scan", "new"]).ok(), place.run("terrace", &["scan", "db"]).ok());
    assert_eq!(place.run("terrace", &["get", "old", "oak", "--keyspace", "plants"]).ok(), "tree");
    place.run("terrace", &["verify", "old"]).ok();

    place.run("terrace", &["backups", "delete", "deep/backups", "1"]).ok();
    place.run("terrace", &["backups", "delete", "deep/backups", "1"]).fails("terrace", 2, &["no backup 1"]);
    place.run("terrace", &["backup", "db", "deep/backups"]).ok();
    assert_eq!(place.run("terrace", &["backups", "keep", "deep/backups", "1"]).ok(), "deleted 2\n");
    place.run("terrace", &["restore", "deep/backups", "newest"]).ok();
    place.run("terrace", &["verify", "newest"]).ok();
}

#[test]
fn damaged_backups_are_told_by_the_exit_code() {
    let place = sample();
    place.run("terrace", &["backup", "db", "backups"]).ok();
    let table = place.names("backups").into_iter().find(|name| name.ends_with(".sst")).unwrap();
    let path = place.path("backups").join(&table);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let ended = place.run("terrace", &["backups", "verify", "backups"]).fails("terrace", 3, &["lost"]);
    let text = String::from_utf8(ended.out).unwrap();
    assert!(text.contains(&format!("loss: backups/{table}, offset 0")), "{text}");
    assert!(text.contains("to do: remove the file"), "{text}");
    place.run("terrace", &["restore", "backups", "new"]).fails("terrace", 2, &[&table, "offset 0"]);
    place.run("terrace", &["get", "new", "oak"]).fails("terrace", 2, &["not a Terrace database"]);
    std::fs::write(place.path("backups/000001.backup"), "nothing").unwrap();
    place.run("terrace", &["backups", "list", "backups"]).fails("terrace", 1, &["cannot be read"]);
}

#[test]
fn a_stream_goes_from_command_to_command() {
    let place = sample();
    let pipe = |send: &[&str], receive: &[&str]| {
        let mut sender = place.command("terrace");
        let mut sender = sender.args(send).stdout(Stdio::piped()).spawn().unwrap();
        let mut receiver = place.command("terrace");
        receiver.args(receive).stdin(sender.stdout.take().unwrap());
        let received = receiver.output().unwrap();
        assert!(sender.wait().unwrap().success() && received.status.success(), "{received:?}");
    };
    pipe(&["backup", "db", "--stream"], &["restore", "--stream", "new"]);
    assert_eq!(place.run("terrace", &["scan", "new"]).ok(), place.run("terrace", &["scan", "db"]).ok());
    pipe(&["backup", "db", "--stream"], &["backups", "receive", "backups"]);
    place.run("terrace", &["put", "db", "later", "one"]).ok();
    let since = ["backup", "db", "--stream", "--since", "backups/000001.backup"];
    pipe(&since, &["backups", "receive", "backups"]);
    place.run("terrace", &["restore", "backups", "later"]).ok();
    assert_eq!(place.run("terrace", &["get", "later", "later"]).ok(), "one");

    // To a file, cut off.
    let file = File::create(place.path("stream")).unwrap();
    let status = place.command("terrace").args(["backup", "db", "--stream"]).stdout(file).status().unwrap();
    assert!(status.success());
    let stream = std::fs::read(place.path("stream")).unwrap();
    place.run_with("terrace", &["restore", "--stream", "cut"], &stream[..stream.len() - 1]).fails(
        "terrace",
        2,
        &["the stream", "not whole"],
    );
    place.run("terrace", &["get", "cut", "later"]).fails("terrace", 2, &["not a Terrace database"]);
    place.run_with("terrace", &["restore", "--stream", "cut"], &stream).ok();
    assert_eq!(place.run("terrace", &["get", "cut", "later"]).ok(), "one");
    place.run_with("terrace", &["restore", "--stream", "x"], b"").fails("terrace", 2, &["the stream"]);
    // Who stops listening is told that it is no backup.
    let mut sender = place.command("terrace");
    let sender = sender.args(["backup", "db", "--stream"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sender = sender.spawn().unwrap();
    drop(sender.stdout.take());
    assert_eq!(sender.wait().unwrap().code(), Some(2));
}

/// `script` gives a command a terminal.
#[test]
fn a_terminal_is_refused() {
    let place = sample();
    let terrace = binary("terrace");
    let run = |arguments: &str| {
        let command = format!("{} {arguments}", terrace.display());
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).current_dir(place.path("")).stdin(Stdio::null()).output()
    };
    match run("backup db --stream") {
        Ok(ended) => {
            let text = String::from_utf8_lossy(&ended.stdout).into_owned();
            assert!(text.contains("is a terminal") && !text.contains("TERRASTR"), "{text}");
            assert_eq!(ended.status.code(), Some(2));
        }
        Err(error) => println!("skipped: a_terminal_is_refused: script: {error}"),
    }
}

#[test]
fn wrong_usage_and_wrong_places_are_refused() {
    let place = sample();
    for arguments in [
        &["backup", "db"][..],
        &["backup", "db", "backups", "--stream"],
        &["backup", "db", "backups", "--since", "x"],
        &["restore", "backups"],
        &["restore", "backups", "new", "--stream"],
        &["restore", "--stream", "new", "--number", "1"],
        &["backups", "keep", "backups", "0"],
        &["backups", "delete", "backups"],
        &["backups"],
    ] {
        assert_eq!(place.run("terrace", arguments).code, 2, "{arguments:?}");
    }
    place.run("terrace", &["backup", "db", "db"]).fails("terrace", 2, &["lies in db"]);
    place.run("terrace", &["backup", "nowhere", "new"]).fails("terrace", 2, &["not a Terrace database"]);
    place.run("terrace", &["restore", "db", "new"]).fails("terrace", 2, &["no directory of backups"]);
    place.run("terrace", &["backups", "verify", "db"]).fails("terrace", 4, &["nothing was verified"]);
    place.run("terrace", &["backup", "db", "backups"]).ok();
    place.run("terrace", &["restore", "backups", "db"]).fails("terrace", 2, &["not empty"]);
    let db = terrace::Db::open(place.path("db")).unwrap();
    place.run("terrace", &["backup", "db", "backups"]).fails("terrace", 2, &["db", "in use"]);
    db.close().unwrap();
    assert_eq!(place.names(""), ["backups", "db"]);
}
