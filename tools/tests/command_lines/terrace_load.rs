//! `terrace load`: real input gets in, and what cannot be understood is named.

use std::collections::BTreeMap;

use crate::harness::Place;

fn scan(place: &Place, dir: &str) -> String {
    place.run("terrace", &["scan", dir]).ok()
}

#[test]
fn lines_become_entries_and_the_last_of_a_key_wins() {
    let place = Place::new();
    let mut lines = String::new();
    let mut expected = BTreeMap::new();
    for number in 0..30_000_u64 {
        let (key, value) =
            (format!("usr/share/{}", number * 7919 % 20_011), format!("sum {number}\twith tab"));
        lines += &format!("{key}\t{value}\n");
        expected.insert(key, value);
    }
    // A last line need not be ended.
    lines += "last\tline";
    expected.insert("last".to_owned(), "line".to_owned());
    let expected: String = expected.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();

    let ended = place.run_with("terrace", &["load", "piped"], lines.as_bytes());
    assert!(ended.err.starts_with("terrace: loaded 30,001 lines ("), "{ended:?}");
    assert!(ended.err.trim_end().ends_with("lines/s"), "{ended:?}");
    assert_eq!(ended.ok(), "");
    assert!(scan(&place, "piped") == expected);

    std::fs::write(place.path("lines.txt"), &lines).unwrap();
    for (dir, batch, durability) in [("a", "1000000", "sync"), ("b", "77", "buffered")] {
        place.run("terrace", &["load", dir, "lines.txt", "--batch", batch, "--durability", durability]).ok();
        assert!(scan(&place, dir) == expected);
    }
}

#[test]
fn what_a_scan_prints_can_be_loaded() {
    let place = Place::new();
    let keys = [&b""[..], b"\x00", b"a\tb", b"a\nb", b"plain", "ümlaut \"quoted\"".as_bytes(), b"\xff\xfe"];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: String = keys
        .iter()
        .zip(keys.iter().rev())
        .map(|(key, value)| format!("{}\t{}\n", hex(key), hex(value)))
        .collect();
    place.run_with("terrace", &["load", "one", "--hex"], lines.as_bytes()).ok();
    assert_eq!(place.run("terrace", &["scan", "one", "--hex"]).ok(), lines);

    let json = place.run("terrace", &["scan", "one", "--format", "json"]).ok();
    std::fs::write(place.path("backup.jsonl"), &json).unwrap();
    place.run("terrace", &["load", "two", "backup.jsonl"]).ok();
    place.run_with("terrace", &["load", "three", "--format", "json"], json.as_bytes()).ok();
    for dir in ["two", "three"] {
        assert_eq!(place.run("terrace", &["scan", dir, "--hex"]).ok(), lines);
    }
    let hex_json = place.run("terrace", &["scan", "one", "--format", "json", "--hex"]).ok();
    place.run_with("terrace", &["load", "four", "-", "--format", "json"], hex_json.as_bytes()).ok();
    assert_eq!(place.run("terrace", &["scan", "four", "--hex"]).ok(), lines);
}

#[test]
fn a_bad_line_is_named_and_those_before_it_stay() {
    let long_key = "k".repeat(65_537);
    let cases: [(&[&str], String, &str); 10] = [
        (&[], "no tab here".into(), "no tab"),
        (&[], String::new(), "no tab"),
        (&[], format!("{long_key}\tvalue"), "65"),
        (&["--hex"], "61\t6".into(), "odd number"),
        (&["--hex"], "xx\t61".into(), "no hex digit at character 1"),
        (&["--format", "json"], "{\"key\":\"a\",".into(), "no JSON object"),
        (&["--format", "json"], "[1]".into(), "no JSON object"),
        (&["--format", "json"], "{\"key\":\"a\"}".into(), "\"value\" is missing"),
        (&["--format", "json"], "{\"key\":\"a\",\"value\":7}".into(), "\"value\" is not a string"),
        (
            &["--format", "json"],
            "{\"key\":\"a\",\"value\":\"b\",\"values\":\"c\"}".into(),
            "unknown field \"values\"",
        ),
    ];
    for (options, bad, what) in cases {
        let good = |number: u32| match options {
            ["--hex"] => format!("{number:04}\t62\n"),
            ["--format", "json"] => format!("{{\"value\":\"b\",\"key\":\"{number:04}\"}}\n"),
            _ => format!("{number:04}\tb\n"),
        };
        for (before, batch) in [(0, "1000"), (1, "1000"), (25, "10"), (25, "1000")] {
            let mut input: String = (0..before).map(good).collect();
            input += &format!("{bad}\n{}", good(9999));
            let place = Place::new();
            let arguments = [&["load", "db", "--batch", batch][..], options].concat();
            let line = format!("standard input, line {}: ", before + 1);
            let loaded = match before {
                0 => "nothing was loaded".to_owned(),
                1 => "the line before it is loaded".to_owned(),
                before => format!("the {before} lines before it are loaded"),
            };
            place.run_with("terrace", &arguments, input.as_bytes()).fails(
                "terrace",
                2,
                &[&line, what, &loaded],
            );
            assert_eq!(scan(&place, "db").lines().count(), before as usize, "{bad} after {before}");
        }
    }
}

#[test]
fn an_input_that_cannot_be_read_creates_no_database() {
    let place = Place::new();
    place.run("terrace", &["load", "db", "missing.txt"]).fails("terrace", 2, &["cannot open missing.txt"]);
    assert!(place.names("").is_empty());
    std::fs::create_dir(place.path("folder")).unwrap();
    place.run("terrace", &["load", "db", "folder"]).fails("terrace", 2, &["folder"]);
}

#[test]
fn an_empty_input_loads_nothing() {
    let place = Place::new();
    let ended = place.run("terrace", &["load", "db"]);
    assert!(ended.err.starts_with("terrace: loaded 0 lines"), "{ended:?}");
    ended.ok();
    assert_eq!(scan(&place, "db"), "");
}

#[test]
fn a_line_may_be_longer_than_any_buffer() {
    let place = Place::new();
    let value = "v".repeat(3 << 20);
    place.run_with("terrace", &["load", "db"], format!("a\tb\nlong\t{value}\nz\ty\n").as_bytes()).ok();
    assert!(place.run("terrace", &["get", "db", "long"]).ok() == value);
    assert_eq!(place.run("terrace", &["scan", "db", "--keys-only"]).ok(), "a\nlong\nz\n");
}
