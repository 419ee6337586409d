//! `sst-dump`: what it says about tables of chosen contents, whole and damaged.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use terrace_io::{FileSystem, OsFileSystem};
use terrace_sstable::{Cause, Compression, Kind, TableIdentity, TableOptions, TableWriter};

use crate::harness::{Place, evict};

type Entry = (Vec<u8>, u64, Kind, Vec<u8>);

/// Writes `000007.sst` with these entries.
fn write_table(place: &Place, compression: Compression, entries: &[Entry]) -> PathBuf {
    let fs: Arc<dyn FileSystem> = Arc::new(OsFileSystem);
    let identity = TableIdentity {
        database_id: *b"sixteen bytes id",
        keyspace_id: 3,
        keyspace_name: "plants".to_owned(),
        number: 7,
        level: 2,
        cause: Cause::Compaction,
    };
    let options = TableOptions { compression, ..TableOptions::default() };
    let dir = place.path("");
    let mut writer = TableWriter::create(&fs, &dir, identity, &options).unwrap();
    for (key, sequence, kind, value) in entries {
        writer.add(key, *sequence, *kind, value).unwrap();
    }
    writer.finish().unwrap();
    place.path("000007.sst")
}

/// Versions, tombstones, bytes that are no text, one value of several pages.
fn small_entries() -> Vec<Entry> {
    vec![
        (b"a\x00\\".to_vec(), 9, Kind::Put, b"\xff".to_vec()),
        (b"apple".to_vec(), 12, Kind::Delete, Vec::new()),
        (b"apple".to_vec(), 5, Kind::Put, b"red".to_vec()),
        (b"banana".to_vec(), 7, Kind::Put, b"yellow".to_vec()),
        (b"banana".to_vec(), 3, Kind::Put, b"green".to_vec()),
        (b"big".to_vec(), 8, Kind::Put, vec![b'v'; 10_000]),
        ("käse".as_bytes().to_vec(), 2, Kind::Put, "gelb".as_bytes().to_vec()),
    ]
}

fn many_entries() -> Vec<Entry> {
    let value = |number: u64| format!("value of {number} and more of it").into_bytes();
    (0..5_000).map(|number| (format!("key {number:06}").into_bytes(), 0, Kind::Put, value(number))).collect()
}

fn small_table(place: &Place) {
    write_table(place, Compression::None, &small_entries());
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn properties_are_those_that_were_written() {
    let place = Place::new();
    small_table(&place);
    let text = place.run("sst-dump", &["properties", "000007.sst"]).ok();
    let value = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name}  ")))
            .unwrap_or_else(|| panic!("{text}"));
        line[name.len()..].trim().to_owned()
    };
    assert_eq!(value("table number"), "7");
    assert_eq!(value("keyspace"), "\"plants\"");
    assert_eq!(value("entries"), "7");
    assert_eq!(value("deletes"), "1");
    assert_eq!(value("smallest sequence"), "2");
    assert_eq!(value("largest sequence"), "12");
    assert_eq!(value("smallest key"), r"a\x00\\");
    assert_eq!(value("largest key"), "käse");
    assert_eq!(value("cause"), "compaction");
    assert!(value("locator").starts_with("5 keys in 1 bucket, "), "{text}");
    assert!(value("created").starts_with("20") && value("created").ends_with("UTC"));

    let object = json(&place.run("sst-dump", &["properties", "000007.sst", "--format", "json"]).ok());
    assert_eq!(object["database_id"], "7369787465656e206279746573206964");
    assert_eq!((&object["level"], &object["keyspace_id"]), (&2.into(), &3.into()));
    assert_eq!((&object["locator"]["keys"], &object["locator"]["buckets"]), (&5.into(), &1.into()));
    assert_eq!(object["raw_key_bytes"], small_entries().iter().map(|entry| entry.0.len()).sum::<usize>());
    assert_eq!(object["raw_value_bytes"], small_entries().iter().map(|entry| entry.3.len()).sum::<usize>());
    assert_eq!(object["file_bytes"], fs::metadata(place.path("000007.sst")).unwrap().len());
    let hex = json(&place.run("sst-dump", &["properties", "000007.sst", "--format", "json", "--hex"]).ok());
    assert_eq!(hex["smallest_key_hex"], "61005c");
}

#[test]
fn a_layout_covers_the_whole_file() {
    for compression in [Compression::None, Compression::Snappy] {
        let place = Place::new();
        let file_bytes = fs::metadata(write_table(&place, compression, &many_entries())).unwrap().len();
        let object = json(&place.run("sst-dump", &["layout", "000007.sst", "--format", "json"]).ok());
        let blocks = object["blocks"].as_array().unwrap();
        let mut end = 0;
        for block in blocks {
            assert_eq!(block["offset"], end);
            end += block["bytes"].as_u64().unwrap();
            assert_eq!(block["compressed"], compression == Compression::Snappy);
            assert!(block["separator"].as_str() <= block["first_key"].as_str());
        }
        assert_eq!(object["data_bytes"], end);
        assert_eq!(blocks[0]["first_key"], "key 000000");
        assert_eq!(blocks.iter().map(|block| block["entries"].as_u64().unwrap()).sum::<u64>(), 5_000);
        let mut names: Vec<&str> = object["metadata"]
            .as_array()
            .unwrap()
            .iter()
            .map(|block| block["name"].as_str().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["blocked filter", "fences", "locator", "properties"]);
        for block in object["metadata"].as_array().unwrap() {
            let (offset, bytes) = (block["offset"].as_u64().unwrap(), block["bytes"].as_u64().unwrap());
            assert!(offset >= end && offset + bytes <= file_bytes);
        }
        let text = place.run("sst-dump", &["layout", "000007.sst"]).ok();
        assert!(text.lines().count() > blocks.len() && text.contains("key 000000"), "{text}");
    }
}

#[test]
fn a_scan_shows_newest_values_or_all_versions() {
    let place = Place::new();
    small_table(&place);
    let scan =
        |arguments: &[&str]| place.run("sst-dump", &[&["scan", "000007.sst"][..], arguments].concat()).ok();
    let big = "v".repeat(10_000);
    assert_eq!(scan(&[]), format!("a\\x00\\\\\t\\xff\nbanana\tyellow\nbig\t{big}\nkäse\tgelb\n"));
    assert_eq!(
        scan(&["--versions", "--to", "big"]),
        "a\\x00\\\\\t9\tput\t\\xff\napple\t12\tdelete\t\napple\t5\tput\tred\n\
         banana\t7\tput\tyellow\nbanana\t3\tput\tgreen\n"
    );
    assert_eq!(scan(&["--prefix", "b", "--limit", "1"]), "banana\tyellow\n");
    assert_eq!(scan(&["--prefix", r"a\x00"]), "a\\x00\\\\\t\\xff\n");
    assert_eq!(scan(&["--from", "bi", "--to", "c", "--versions"]), format!("big\t8\tput\t{big}\n"));
    assert_eq!(scan(&["--from", "x"]), "");
    assert_eq!(scan(&["--hex", "--to", "6170"]), "61005c\tff\n");
    assert_eq!(
        scan(&["--versions", "--prefix", "apple", "--format", "json"]),
        "{\"key\":\"apple\",\"kind\":\"delete\",\"sequence\":12}\n\
         {\"key\":\"apple\",\"kind\":\"put\",\"sequence\":5,\"value\":\"red\"}\n"
    );
    assert_eq!(
        scan(&["--limit", "1", "--format", "json"]),
        "{\"key\":\"a\\u0000\\\\\",\"value_hex\":\"ff\"}\n"
    );
    place.run("sst-dump", &["scan", "000007.sst", "--from", "b", "--to", "a"]).fails(
        "sst-dump",
        2,
        &["reversed"],
    );
    place.run("sst-dump", &["scan", "000007.sst", "--from", r"\n"]).fails(
        "sst-dump",
        2,
        &["--from", "no escape"],
    );
}

#[test]
fn a_get_says_where_it_looked() {
    let place = Place::new();
    small_table(&place);
    let text = place.run("sst-dump", &["get", "000007.sst", "banana"]).ok();
    for line in [
        "key range  the key lies in",
        "locator    bucket 0: block 0, slot 3: a get stops here",
        "filter     the key may be there (a get does not ask",
        "fences     block 0 at offset 0",
        "* sequence 7 put yellow",
        "  sequence 3 put green",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    let object =
        json(&place.run("sst-dump", &["get", "000007.sst", "banana", "--at", "6", "--format", "json"]).ok());
    assert_eq!((&object["visible"], &object["versions"][1]["value"]), (&1.into(), &"green".into()));
    assert_eq!(object["versions"].as_array().unwrap().len(), 2);
    assert_eq!((&object["locator"]["block"], &object["locator"]["slot"]), (&0.into(), &3.into()));
    let text = place.run("sst-dump", &["get", "000007.sst", "banana", "--at", "6"]).ok();
    assert!(text.contains("slot 3, which is too new: a get goes on with the fences"), "{text}");
    let object = json(&place.run("sst-dump", &["get", "000007.sst", "big", "--format", "json"]).ok());
    assert!(object["block"]["offset"].as_u64() > Some(0) && object["block"]["bytes"].as_u64() > Some(10_000));
    let text = place.run("sst-dump", &["get", "000007.sst", "--hex", "61005c"]).ok();
    assert!(text.contains("sequence 9 put ff"), "{text}");

    place.run("sst-dump", &["get", "000007.sst", "apple"]).fails("sst-dump", 1, &["apple", "deleted"]);
    assert!(place.run("sst-dump", &["get", "000007.sst", "apple", "--at", "5"]).ok().contains("put red"));
    place.run("sst-dump", &["get", "000007.sst", "banana", "--at", "2"]).fails("sst-dump", 1, &["not found"]);
    let ended =
        place.run("sst-dump", &["get", "000007.sst", "zebra"]).fails("sst-dump", 1, &["zebra", "not found"]);
    let text = String::from_utf8(ended.out).unwrap();
    assert!(text.contains("outside of the table's key range"), "{text}");
    assert!(text.contains("locator    bucket 0") && text.contains("the key is not there: a get stops here"));
}

#[test]
fn an_explanation_says_what_was_in_memory_before_it() {
    let place = Place::new();
    let path = write_table(&place, Compression::None, &many_entries());
    let file = "000007.sst";
    let explained = |key: &str| {
        let arguments = ["get", file, key, "--explain", "--format", "json"];
        json(&place.run("sst-dump", &arguments).ok())
    };
    let layout = json(&place.run("sst-dump", &["layout", file, "--format", "json"]).ok());
    let is_evicted = evict(&path);
    let first = explained("key 000777");
    let looked_at = &first["looked_at"];
    let block = &layout["blocks"][first["block"]["index"].as_u64().unwrap() as usize];
    assert_eq!(
        (&looked_at["block"]["offset"], &looked_at["block"]["bytes"]),
        (&block["offset"], &block["bytes"])
    );
    assert_eq!(looked_at["block_entries"], block["entries"]);
    let metadata = |name: &str| {
        let blocks = layout["metadata"].as_array().unwrap();
        let block = blocks.iter().find(|block| block["name"] == name).unwrap();
        let start = block["offset"].as_u64().unwrap();
        start..start + block["bytes"].as_u64().unwrap()
    };
    let start = |place: &Value| place["offset"].as_u64().unwrap();
    assert!(metadata("locator").contains(&start(&looked_at["locator"]["places"][0])), "{first}");
    assert_eq!(looked_at["locator"]["places"][0]["bytes"], 64);
    assert!(metadata("blocked filter").contains(&start(&looked_at["filter"]["place"])), "{first}");
    assert_eq!(start(&looked_at["fences"])..metadata("fences").end, metadata("fences"));
    if !is_evicted {
        return;
    }
    for place in ["block", "fences"] {
        assert_eq!(looked_at[place]["resident"], 0, "{first}");
    }
    assert_eq!(looked_at["locator"]["places"][0]["resident"], 0, "{first}");
    let second = explained("key 000777");
    let looked_at = &second["looked_at"];
    assert_eq!((&looked_at["block"]["resident"], &looked_at["block"]["pages"]), (&1.into(), &1.into()));
    assert_eq!(looked_at["locator"]["places"][0]["resident"], 1, "{second}");

    assert!(evict(&path));
    let text = place.run("sst-dump", &["get", file, "key 000777", "--explain"]).ok();
    let line = |start: &str| {
        let at = text.lines().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{text}"));
        text.lines().skip(at).take(2).collect::<Vec<_>>().join("\n")
    };
    let page = start(&looked_at["block"]) / 4096;
    assert!(line("block").contains(&format!("page {page}: not in memory")), "{text}");
    assert!(line("block").contains("checksum right, not compressed, "), "{text}");
    assert!(
        line("locator").contains("fingerprint 0x") && line("locator").contains(": not in memory"),
        "{text}"
    );
    assert!(line("key range").contains("key 000000 to key 004999: the key lies in it"), "{text}");
    assert!(
        line("entries").contains("found: sequence ")
            && line("entries").contains("27 bytes: value of 777 and"),
        "{text}"
    );
    assert!(line("memory").contains("before this look, asked by "), "{text}");
    let again = place.run("sst-dump", &["get", file, "key 000777", "--explain"]).ok();
    assert!(again.contains(&format!("page {page}: in memory")), "{again}");

    let ended = place.run("sst-dump", &["get", file, "no such key", "--explain"]);
    let text = String::from_utf8(ended.fails("sst-dump", 1, &["not found"]).out).unwrap();
    assert!(text.contains("outside of it: a get stops here") && text.contains("none has this key"), "{text}");
    place.run("sst-dump", &["get", "--explain", file]).fails("sst-dump", 2, &["--help"]);
    place.run("sst-dump", &["get", "missing.sst", "x", "--explain"]).fails("sst-dump", 2, &["missing.sst"]);

    // Whatever is damaged: an error with its place, or the right answer.
    let whole = fs::read(&path).unwrap();
    let block = start(&looked_at["block"]) as usize;
    for at in [block + 100, metadata("fences").start as usize, whole.len() - 30] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let arguments = ["get", file, "key 000777", "--explain"];
        place.run("sst-dump", &arguments).fails("sst-dump", 2, &[".sst is damaged at offset"]);
    }
}

#[test]
fn a_whole_table_is_all_right() {
    for compression in [Compression::None, Compression::Snappy] {
        let place = Place::new();
        write_table(&place, compression, &many_entries());
        let text = place.run("sst-dump", &["verify", "000007.sst"]).ok();
        assert!(text.starts_with("000007.sst: all right: 5,000 entries in "), "{text}");
        let object = json(&place.run("sst-dump", &["verify", "000007.sst", "--format", "json"]).ok());
        assert_eq!((&object["ok"], &object["entries"]), (&true.into(), &5000.into()));
        assert_eq!(place.names(""), ["000007.sst"], "nothing is left behind");
    }
}

#[test]
fn every_damage_is_listed_with_its_place() {
    let place = Place::new();
    let path = write_table(&place, Compression::None, &many_entries());
    let whole = fs::read(&path).unwrap();
    let layout = json(&place.run("sst-dump", &["layout", "000007.sst", "--format", "json"]).ok());
    let block = |index: usize| layout["blocks"][index]["offset"].as_u64().unwrap();

    let mut bytes = whole.clone();
    for index in [1, 4, 9] {
        bytes[block(index) as usize + 100] ^= 0x10;
    }
    fs::write(&path, &bytes).unwrap();
    let ended = place.run("sst-dump", &["verify", "000007.sst"]).fails("sst-dump", 1, &["damaged"]);
    let text = String::from_utf8(ended.out).unwrap();
    assert!(text.contains("damaged in 3 places"), "{text}");
    for index in [1, 4, 9] {
        assert!(text.contains(&format!("  offset {}: ", block(index))), "{text}");
    }
    let ended = place.run("sst-dump", &["verify", "000007.sst", "--format", "json"]);
    assert_eq!(ended.code, 1);
    let object = json(std::str::from_utf8(&ended.out).unwrap());
    let offsets: Vec<Value> =
        object["damages"].as_array().unwrap().iter().map(|damage| damage["offset"].clone()).collect();
    assert_eq!(offsets, [block(1), block(4), block(9)].map(Value::from));
    // What is whole can still be read, and what is not says where it is.
    assert!(place.run("sst-dump", &["get", "000007.sst", "key 000000"]).ok().contains("value of 0"));
    let words = ["000007.sst", &format!("offset {}", block(1))];
    place.run("sst-dump", &["scan", "000007.sst"]).fails("sst-dump", 2, &words);
}

#[test]
fn damage_anywhere_is_found() {
    let place = Place::new();
    let path = write_table(&place, Compression::Snappy, &many_entries());
    let whole = fs::read(&path).unwrap();
    let length = whole.len();
    let layout = json(&place.run("sst-dump", &["layout", "000007.sst", "--format", "json"]).ok());
    let data = layout["data_bytes"].as_u64().unwrap() as usize;
    let metadata = layout["metadata_offset"].as_u64().unwrap() as usize;
    let mut places: Vec<usize> = (0..data).step_by(data / 7).collect();
    places.extend((metadata..length).step_by((length - metadata) / 15));
    places.extend([length - 1, length - 9, length - 20, length - 40, length - 64]);
    for at in places {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x01;
        fs::write(&path, &bytes).unwrap();
        let ended = place.run("sst-dump", &["verify", "000007.sst"]).fails("sst-dump", 1, &["damaged"]);
        assert!(String::from_utf8(ended.out).unwrap().contains("  offset "), "byte {at}");
    }
    for cut in [0, 1, 63, 64, 100, data, metadata, length - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        place.run("sst-dump", &["verify", "000007.sst"]).fails("sst-dump", 1, &["damaged"]);
        for command in ["properties", "layout", "scan"] {
            place.run("sst-dump", &[command, "000007.sst"]).fails("sst-dump", 2, &["000007.sst", "damaged"]);
        }
    }
}

#[test]
fn what_is_no_table_is_refused() {
    let place = Place::new();
    fs::write(
        place.path("notes.txt"),
        "not a table, but long enough to have a footer of sixty-four bytes or more\n",
    )
    .unwrap();
    place.run("sst-dump", &["properties", "notes.txt"]).fails("sst-dump", 2, &["notes.txt"]);
    place.run("sst-dump", &["verify", "notes.txt"]).fails("sst-dump", 1, &["damaged"]);
    place.run("sst-dump", &["verify", "missing.sst"]).fails("sst-dump", 2, &["cannot open missing.sst"]);
    place.run("sst-dump", &["scan", "missing.sst"]).fails("sst-dump", 2, &["missing.sst"]);
    place.run("sst-dump", &["properties", "."]).fails("sst-dump", 2, &[]);

    small_table(&place);
    let ended = place.run("sst-dump", &["verify", "notes.txt", "missing.sst", "000007.sst"]);
    let text = String::from_utf8(ended.out.clone()).unwrap();
    assert!(text.contains("000007.sst: all right") && text.contains("notes.txt: damaged"), "{ended:?}");
    assert_eq!(ended.code, 2);
    assert_eq!(place.run("sst-dump", &["explode", "000007.sst"]).code, 2);
}

#[test]
fn a_newer_format_is_named() {
    let place = Place::new();
    small_table(&place);
    let path = place.path("000007.sst");
    let mut bytes = fs::read(&path).unwrap();
    let footer = bytes.len() - 64;
    bytes[footer + 48..footer + 52].copy_from_slice(&2_u32.to_le_bytes());
    let checksum = terrace_io::Checksum::new().bytes(&bytes[footer..footer + 52]).finish();
    bytes[footer + 52..footer + 56].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    for command in ["properties", "layout", "scan"] {
        let words = ["000007.sst", "version 2", "up to 1"];
        place.run("sst-dump", &[command, "000007.sst"]).fails("sst-dump", 2, &words);
    }
}

#[test]
fn tables_of_a_database_can_be_read() {
    let place = Place::new();
    let lines: String = (0..3_000).map(|number| format!("{number:05}\t{number}\n")).collect();
    place.run_with("terrace", &["load", "db"], lines.as_bytes()).ok();
    place.run("terrace", &["compact", "db"]).ok();
    let tables: Vec<String> = place
        .names("db")
        .into_iter()
        .filter(|name| name.ends_with(".sst"))
        .map(|name| format!("db/{name}"))
        .collect();
    assert!(!tables.is_empty());
    let mut scanned = String::new();
    for table in &tables {
        scanned += &place.run("sst-dump", &["scan", table]).ok();
    }
    assert_eq!(scanned, lines);
    let arguments: Vec<&str> = ["verify"].into_iter().chain(tables.iter().map(String::as_str)).collect();
    assert_eq!(place.run("sst-dump", &arguments).ok().matches("all right").count(), tables.len());
}
