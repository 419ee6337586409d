//! `terrace residency`: what was in memory before it looked, and still is.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Place, evict};

/// A place with a database `db` of a few megabytes in one level.
fn filled() -> Place {
    let place = Place::new();
    let lines: String = (0..30_000).map(|number| format!("{number:06}\t{number:0100}\n")).collect();
    place.run_with("terrace", &["load", "db"], lines.as_bytes()).ok();
    place.run("terrace", &["compact", "db"]).ok();
    place
}

fn tables(place: &Place) -> Vec<PathBuf> {
    let names = place.names("db").into_iter().filter(|name| name.ends_with(".sst"));
    names.map(|name| place.path("db").join(name)).collect()
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    let text = place.run("terrace", &[&["residency", "db", "--format", "json"][..], arguments].concat()).ok();
    serde_json::from_str(&text).unwrap()
}

fn resident(pages: &Value) -> u64 {
    pages["resident"].as_u64().unwrap()
}

#[test]
fn what_was_read_is_warm_and_looking_warms_nothing() {
    let place = filled();
    if !tables(&place).iter().all(|path| evict(path)) {
        return;
    }
    let cold = json(&place, &[]);
    let row = &cold["keyspaces"][0]["rows"][0];
    for part in ["data", "locator", "filter", "fences"] {
        assert_eq!(resident(&row["pages"][part]), 0, "{part}: {row}");
        assert!(row["pages"][part]["total"].as_u64() > Some(0), "{part}: {row}");
    }
    assert_eq!(json(&place, &[]), cold, "a look brings nothing in");
    let text = place.run("terrace", &["residency", "db"]).ok();
    assert!(text.contains("none of it in memory"), "{text}");

    assert!(place.run("terrace", &["get", "db", "015000"]).ok().ends_with("15000"));
    let warm = json(&place, &[]);
    let row = &warm["keyspaces"][0]["rows"][0];
    let pages = &row["pages"];
    assert_eq!(resident(&pages["data"]), 1, "one block: {pages}");
    assert!((1..10).contains(&resident(&pages["locator"])) && resident(&pages["fences"]) > 0, "{pages}");
    let cells = row["cells"].as_array().unwrap();
    assert_eq!(cells.len(), warm["keyspaces"][0]["columns"].as_array().unwrap().len());
    let total: u64 = cells.iter().map(|cell| cell["data"]["total"].as_u64().unwrap()).sum();
    assert_eq!(Some(total), pages["data"]["total"].as_u64(), "the cells are the whole");
    let warm_cells: Vec<usize> =
        (0..cells.len()).filter(|index| resident(&cells[*index]["data"]) > 0).collect();
    let [column] = *warm_cells else { panic!("{warm_cells:?}") };
    let from = |column: usize| warm["keyspaces"][0]["columns"][column]["from"].as_str();
    assert!(from(column) <= Some("015000") && from(column + 1) > Some("015000"), "column {column}");
    assert_eq!(json(&place, &[]), warm, "a look lets nothing go");

    let text = place.run("terrace", &["residency", "db", "--width", "60", "--tables"]).ok();
    let map: Vec<&str> = text.lines().filter(|line| line.get(11..15) == Some("data")).collect();
    assert_eq!(map.len(), 1, "{text}");
    assert_eq!(map[0].matches('1').count() - map[0][53..].matches('1').count(), 1, "{text}");
    assert!(map[0].chars().count() <= 60 && !text.contains('\x1b'), "{text}");
    for path in tables(&place) {
        assert!(text.contains(path.file_name().unwrap().to_str().unwrap()), "{text}");
    }
}

#[test]
fn a_database_in_use_is_shown_and_left_alone() {
    let place = Place::new();
    let db = terrace::Db::open(place.path("db")).unwrap();
    for round in ["first", "second"] {
        for number in 0..1000 {
            db.put(format!("{number:04}"), round).unwrap();
        }
        db.flush().unwrap();
    }
    let before = place.names("db");
    let text = place.run("terrace", &["residency", "db"]).ok();
    assert!(text.contains("in 2 tables") && text.contains("L0 00000"), "{text}");
    let rows = json(&place, &[])["keyspaces"][0]["rows"].clone();
    assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
    let number = |row: usize| rows[row]["tables"][0]["file"].as_str().unwrap().to_owned();
    assert!(number(0) > number(1), "the newest first");
    assert_eq!(place.names("db"), before);
    db.close().unwrap();
}

#[test]
fn a_page_stands_alone() {
    let place = filled();
    let name = "a<b>&\"c\"";
    place.run("terrace", &["put", "db", "<key>&", "value", "--keyspace", name]).ok();
    place.run("terrace", &["residency", "db", "--html", "page.html"]).ok();
    let page = std::fs::read_to_string(place.path("page.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    for foreign in ["http:", "https:", "<script", "<link", "url(", "src="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
    assert!(page.contains("a&lt;b&gt;&amp;&quot;c&quot;") && !page.contains(name));
    assert!(page.contains("&lt;key&gt;&amp;") && !page.contains("<key>"));
    assert!(page.contains("keys 000000 to ") && page.contains("pages in memory"));
    assert!(page.matches("<rect class=").count() > 100);
    let one = place.run("terrace", &["residency", "db", "--keyspace", name, "--hex"]).ok();
    assert!(one.contains("3c6b65793e26") && !one.contains("default"), "{one}");
}

#[test]
fn a_damaged_table_is_one_table() {
    let place = filled();
    place.run("terrace", &["put", "db", "key", "value", "--keyspace", "other"]).ok();
    let paths = tables(&place);
    let whole = std::fs::read(&paths[0]).unwrap();
    let name = paths[0].file_name().unwrap().to_str().unwrap();
    let footer = whole.len() - 64;
    for at in [footer + 3, footer - 10] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&paths[0], &bytes).unwrap();
        let text = place.run("terrace", &["residency", "db"]).ok();
        let trouble = text.lines().find(|line| line.starts_with("not known: ")).unwrap();
        assert!(trouble.contains(name) && trouble.contains("damaged at offset"), "{text}");
        assert!(text.contains("data  ?") && text.contains("keyspace other"), "{text}");
        assert_eq!(json(&place, &[])["troubles"].as_array().unwrap().len(), 1);
    }
    std::fs::write(&paths[0], &whole[..100]).unwrap();
    assert!(place.run("terrace", &["residency", "db"]).ok().contains("has 100 bytes and should have"));
    std::fs::remove_file(&paths[0]).unwrap();
    let text = place.run("terrace", &["residency", "db", "--html", "page.html"]).ok();
    assert!(text.contains("not known: cannot open ") && text.contains(name), "{text}");
    let page = std::fs::read_to_string(place.path("page.html")).unwrap();
    assert!(page.contains("class=\"trouble\"") && page.contains("<rect class=\"cx\""));
}

#[test]
fn another_table_in_its_place_is_not_it() {
    let place = Place::new();
    for keyspace in ["one", "two"] {
        place.run("terrace", &["put", "db", "key", "value", "--keyspace", keyspace]).ok();
    }
    let [one, two] = &*tables(&place) else { panic!("{:?}", place.names("db")) };
    std::fs::copy(one, two).unwrap();
    let text = place.run("terrace", &["residency", "db"]).ok();
    assert!(text.contains("not known: ") && text.contains("this is table "), "{text}");
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let place = Place::new();
    place.run("terrace", &["put", "db", "key", "value"]).ok();
    place.run("terrace", &["residency", "nowhere"]).fails("terrace", 2, &["nowhere", "no such directory"]);
    place.run("terrace", &["residency", "db", "--keyspace", "x"]).fails(
        "terrace",
        2,
        &["no keyspace \"x\"", "default"],
    );
    place.run("terrace", &["residency", "db", "--html", "no/page.html"]).fails(
        "terrace",
        2,
        &["cannot write no/page.html"],
    );
    for wrong in
        [&["--width", "5"][..], &["--width", "wide"], &["--format", "xml"], &["--html"], &["--at", "7"]]
    {
        place.run("terrace", &[&["residency", "db"][..], wrong].concat()).fails("terrace", 2, &["--help"]);
    }
    place.run("terrace", &["residency"]).fails("terrace", 2, &["--help"]);
    std::fs::create_dir(place.path("photos")).unwrap();
    std::fs::write(place.path("photos/cat.jpg"), "meow").unwrap();
    place.run("terrace", &["residency", "photos"]).fails("terrace", 2, &["not a Terrace database"]);
    let manifest = place.path("db/MANIFEST");
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    place.run("terrace", &["residency", "db"]).fails("terrace", 2, &["MANIFEST", "damaged at offset"]);
    assert_eq!(place.names("").len(), 2, "nothing was written");
}

#[test]
fn an_empty_database_has_an_empty_map() {
    let place = Place::new();
    terrace::Db::open(place.path("db")).unwrap().close().unwrap();
    let text = place.run("terrace", &["residency", "db", "--html", "page.html"]).ok();
    assert_eq!(text, "keyspace default: no tables\n\n");
    assert!(std::fs::read_to_string(place.path("page.html")).unwrap().contains("no tables"));
    assert_eq!(json(&place, &[])["keyspaces"][0]["rows"], Value::Array(Vec::new()));
}
