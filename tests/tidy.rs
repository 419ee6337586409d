//! Keeps the workspace tidy. Goal: the rules of the house that a compiler does not check stay true. Method: reads the
//! manifests and every source file of the workspace, comments and strings told apart from code by a small lexer, and
//! lists each place that breaks a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Packages with what each may use of the others, directly. The arrows of the architecture, and only these.
const ARROWS: [(&str, &str, &[&str]); 8] = [
    ("io", "terrace-io", &[]),
    ("wal", "terrace-wal", &["terrace-io"]),
    ("sstable", "terrace-sstable", &["terrace-io"]),
    ("compaction", "terrace-compaction", &["terrace-io", "terrace-sstable"]),
    ("engine", "terrace", &["terrace-io", "terrace-sstable", "terrace-compaction", "terrace-wal"]),
    ("tools", "terrace-tools", &["terrace", "terrace-io", "terrace-sstable"]),
    (
        "tests",
        "terrace-tests",
        &["terrace", "terrace-io", "terrace-sstable", "terrace-wal", "terrace-compaction", "terrace-tools"],
    ),
    (
        "benches",
        "terrace-benches",
        &["terrace", "terrace-io", "terrace-sstable", "terrace-wal", "terrace-compaction"],
    ),
];

/// The only files with unsafe code.
const FENCED: [&str; 13] = [
    "io/src/processor.rs",
    "io/src/region.rs",
    "io/src/region/pin.rs",
    "io/src/region/resident_pages.rs",
    // One system call that no crate wraps.
    "io/src/residency.rs",
    "io/src/os.rs",
    "io/src/sigbus/handler.rs",
    "io/src/sigbus/tests.rs",
    "io/src/usage.rs",
    "engine/src/arena.rs",
    "engine/src/swap.rs",
    // Bindings to other engines, in a package that only compares them.
    "benches/compare/src/engines/leveldb.rs",
    "benches/compare/src/engines/lmdb.rs",
];

/// At this many lines without tests, a second idea has moved in.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// One source file.
struct Source {
    /// Relative to the workspace, with `/`.
    name: String,
    text: String,
    /// The same lines with comments, strings and characters blanked.
    code: String,
    /// For each line, whether it is compiled for tests only.
    is_test: Vec<bool>,
}

impl Source {
    /// The lines of code that are not for tests only, with their numbers from 1.
    fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(number, _)| !self.is_test[number - 1])
    }
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "testdata" {
                collect(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    for (folder, ..) in ARROWS {
        collect(&root.join(folder), &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 50, "the walk finds the workspace");
    let texts: BTreeMap<PathBuf, (String, String)> = paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code = blank(&text);
            (path, (text, code))
        })
        .collect();
    let test_files = test_only_files(&texts);
    texts
        .into_iter()
        .map(|(path, (text, code))| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            let whole = name.starts_with("tests/")
                || name.starts_with("benches/")
                || name.contains("/tests/")
                || test_files.iter().any(|file| path == *file || path.starts_with(file.with_extension("")));
            let is_test = if whole { vec![true; text.lines().count()] } else { test_lines(&code) };
            Source { name, text, code, is_test }
        })
        .collect()
}

/// Files that are modules behind `#[cfg(test)]`.
fn test_only_files(texts: &BTreeMap<PathBuf, (String, String)>) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for (path, (text, code)) in texts {
        let (lines, code): (Vec<_>, Vec<_>) = (text.lines().collect(), code.lines().collect());
        for start in (0..code.len()).filter(|&index| code[index].trim().starts_with("#[cfg(test)]")) {
            let directory = path.parent().unwrap();
            let mut named = None;
            let mut index = start;
            while code[index].trim().starts_with("#[") {
                let attribute = lines[index].trim();
                if let Some(file) = attribute.strip_prefix("#[path = \"") {
                    named = Some(directory.join(file.split('"').next().unwrap()));
                }
                index += 1;
            }
            let item = code[index].trim().trim_start_matches("pub(crate) ");
            if let Some(module) = item.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
                let stem = path.file_stem().unwrap();
                let below = if ["lib", "main", "mod"].iter().any(|name| stem == *name) {
                    directory.to_owned()
                } else {
                    directory.join(stem)
                };
                let file = below.join(format!("{module}.rs"));
                let file = if texts.contains_key(&file) { file } else { below.join(module).join("mod.rs") };
                files.insert(named.unwrap_or(file));
            }
        }
    }
    for file in &files {
        assert!(texts.contains_key(file), "{} is said to be a module of tests", file.display());
    }
    files
}

/// Which lines belong to an item behind `#[cfg(test)]`.
fn test_lines(code: &str) -> Vec<bool> {
    let lines: Vec<&str> = code.lines().collect();
    let mut is_test = vec![false; lines.len()];
    let mut index = 0;
    while index < lines.len() {
        if !lines[index].trim().starts_with("#[cfg(test)]") {
            index += 1;
            continue;
        }
        let mut depth = 0_i64;
        let mut ended = false;
        while index < lines.len() && !ended {
            is_test[index] = true;
            for character in lines[index].chars() {
                match character {
                    '{' | '(' | '[' => depth += 1,
                    '}' | ')' | ']' => {
                        depth -= 1;
                        ended |= depth == 0 && character == '}';
                    }
                    ';' => ended |= depth == 0,
                    _ => {}
                }
            }
            index += 1;
        }
    }
    is_test
}

/// Replaces comments and the insides of strings and characters by spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut index = 0;
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let hide = |out: &mut String, character: char| out.push(if character == '\n' { '\n' } else { ' ' });
    while index < chars.len() {
        let character = chars[index];
        let after_word = index > 0 && (chars[index - 1].is_alphanumeric() || chars[index - 1] == '_');
        if character == '/' && at(index + 1) == '/' {
            while index < chars.len() && chars[index] != '\n' {
                hide(&mut out, chars[index]);
                index += 1;
            }
        } else if character == '/' && at(index + 1) == '*' {
            let mut depth = 0;
            loop {
                if at(index) == '/' && at(index + 1) == '*' {
                    depth += 1;
                    out.push_str("  ");
                    index += 2;
                } else if at(index) == '*' && at(index + 1) == '/' {
                    depth -= 1;
                    out.push_str("  ");
                    index += 2;
                } else {
                    hide(&mut out, at(index));
                    index += 1;
                }
                if depth == 0 || index >= chars.len() {
                    break;
                }
            }
        } else if character == 'r' && !after_word && raw_hashes(&chars, index + 1).is_some() {
            let hashes = raw_hashes(&chars, index + 1).unwrap();
            let closing: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            (0..hashes + 2).for_each(|_| out.push(' '));
            index += hashes + 2;
            let rest: String = chars[index..].iter().collect();
            let inside =
                rest.find(&closing).map_or(rest.chars().count(), |byte| rest[..byte].chars().count());
            chars[index..index + inside].iter().for_each(|&c| hide(&mut out, c));
            index += inside;
            let skipped = closing.len().min(chars.len() - index);
            (0..skipped).for_each(|_| out.push(' '));
            index += skipped;
        } else if character == '"' {
            out.push('"');
            index += 1;
            while index < chars.len() && chars[index] != '"' {
                if chars[index] == '\\' {
                    out.push(' ');
                    index += 1;
                }
                hide(&mut out, at(index));
                index += 1;
            }
            out.push('"');
            index += 1;
        } else if character == '\'' && (at(index + 1) == '\\' || at(index + 2) == '\'') {
            out.push('\'');
            index += 1;
            if chars[index] == '\\' {
                out.push(' ');
                index += 1;
            }
            while index < chars.len() && (out.ends_with('\'') || chars[index] != '\'') {
                hide(&mut out, chars[index]);
                index += 1;
                if at(index) == '\'' {
                    break;
                }
            }
            out.push('\'');
            index += 1;
        } else {
            out.push(character);
            index += 1;
        }
    }
    out
}

/// How many `#` stand before a quotation mark from `index` on, if one follows.
fn raw_hashes(chars: &[char], index: usize) -> Option<usize> {
    let hashes = chars[index.min(chars.len())..].iter().take_while(|&&c| c == '#').count();
    (chars.get(index + hashes) == Some(&'"')).then_some(hashes)
}

/// Whether a line of code has `word` as a whole word.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        !line[..start].ends_with(is_part) && !line[start + word.len()..].starts_with(is_part)
    })
}

fn assert_none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn the_lexer_tells_code_from_the_rest() {
    let text = "let a = \"unsafe \\\" {\"; // unsafe\n\
                let b = 'x'; let c: &'static str = r#\"unsafe \" \"#; /* a /* b */ unsafe */ end\n\
                let d = ['\\'', '\"', '{']; unsafe";
    let code = blank(text);
    assert_eq!(code.lines().count(), 3);
    assert_eq!(code.matches("unsafe").count(), 1, "{code}");
    assert!(code.contains("end") && code.contains("&'static str") && !code.contains('{'), "{code}");
    let tests =
        test_lines("a\n#[cfg(test)]\n#[path = \"\"]\nmod t;\nb\n#[cfg(test)]\nmod u {\n fn x() {}\n}\nc\n");
    assert_eq!(tests, [false, true, true, true, false, true, true, true, true, false]);
    assert!(has_word("x unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
}

#[test]
fn dependencies_point_one_way() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    let known: Vec<&str> = ARROWS.iter().map(|(folder, ..)| *folder).collect();
    assert_eq!(BTreeSet::from_iter(members), BTreeSet::from_iter(known), "every package has its place");

    let mut broken = Vec::new();
    for (folder, package, allowed) in ARROWS {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let mut section = "";
        let mut named = "";
        for line in manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            }
            let name = line.split(['=', '.', ' ']).next().unwrap().trim_matches('"');
            if section == "[package]" && name == "name" {
                named = line.split('"').nth(1).unwrap();
            }
            let is_ours = ARROWS.iter().any(|(_, known, _)| *known == name);
            if section.contains("dependencies") && is_ours && !allowed.contains(&name) {
                broken.push(format!("{folder} uses {name} ({section})"));
            }
        }
        assert_eq!(named, package, "{folder}");
    }
    assert_none("arrows that point the wrong way", broken);
}

/// The manifest does not look for tests by itself, so one that it does not name would never be compiled.
#[test]
fn every_test_program_is_in_the_manifest() {
    let tests = root().join("tests");
    let manifest = fs::read_to_string(tests.join("Cargo.toml")).unwrap();
    let mut named = BTreeSet::new();
    for entry in manifest.split("\n[[").filter(|entry| entry.starts_with("test]]")) {
        let path = entry.lines().find_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
        named.insert(path.expect("every entry has a path").to_owned());
    }
    let entries =
        fs::read_dir(&tests).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let programs: BTreeSet<String> = entries.filter(|name| name.ends_with(".rs")).collect();
    assert!(programs.contains("tidy.rs"), "the tests are found");
    assert_eq!(programs, named, "the files in tests/, and those that its manifest names");
}

#[test]
fn every_file_says_what_it_is() {
    let heads = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    assert_none("these files do not open with `//!`", heads.map(|source| source.name).collect());
}

#[test]
fn nothing_is_unwrapped_outside_of_tests() {
    let mut broken = Vec::new();
    for source in sources() {
        for (number, line) in source.shipped() {
            if line.contains(".unwrap()") || line.contains(".unwrap_err()") {
                broken.push(format!("{}:{number}", source.name));
            }
        }
    }
    assert_none("`expect` says why it cannot fail, `unwrap` does not", broken);
}

#[test]
fn unsafe_code_is_fenced_and_explained() {
    let mut broken = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (index, line) in source.code.lines().enumerate().filter(|(_, line)| has_word(line, "unsafe")) {
            let place = format!("{}:{}", source.name, index + 1);
            if !FENCED.contains(&&*source.name) {
                broken.push(format!("{place}: outside of the fence"));
            }
            // The comment stands right above, or above the statement that the block is part of.
            let above = lines[..index].iter().rev().map(|line| line.trim());
            let comment: Vec<&str> = above
                .take(12)
                .take_while(|line| line.starts_with("//") || !line.is_empty() && !line.ends_with([';', '}']))
                .collect();
            let own = line.contains("unsafe fn") || line.contains("unsafe extern");
            let wanted = if own { "# Safety" } else { "SAFETY:" };
            let explained = comment.iter().any(|line| line.contains(wanted) || line.contains("SAFETY:"));
            if !explained {
                broken.push(format!("{place}: no {wanted}"));
            }
        }
    }
    assert_none("unsafe code", broken);
}

#[test]
fn every_other_crate_forbids_unsafe_code() {
    let mut broken = Vec::new();
    let mut roots = 0;
    for source in sources() {
        let is_library = source.name.ends_with("/src/lib.rs");
        let is_program = source.name.contains("/src/bin/") && source.name.ends_with("/main.rs");
        if !is_library && !is_program {
            continue;
        }
        roots += 1;
        let package = |name: &str| name.split_once("/src/").map(|(folder, _)| folder.to_owned());
        let has_fence = FENCED.iter().any(|fenced| package(fenced) == package(&source.name));
        let wanted = if has_fence { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
        if !source.code.lines().any(|line| line.trim() == wanted) {
            broken.push(format!("{} lacks {wanted}", source.name));
        }
    }
    assert!(roots >= ARROWS.len(), "every package has a root");
    assert_none("unsafe code is not ruled out", broken);
}

#[test]
fn no_file_holds_two_ideas() {
    let long = sources().into_iter().filter_map(|source| {
        let lines = source.shipped().count();
        (lines > LINES_MAX).then(|| format!("{} has {lines} lines without tests", source.name))
    });
    assert_none("files that are too long", long.collect());
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not break its own rule.
    let unfinished = [["to", "do!("], ["unimple", "mented!("], ["d", "bg!("]].map(|parts| parts.concat());
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"]].map(|parts| parts.concat());
    let mut broken = Vec::new();
    for source in sources() {
        for (index, (line, code)) in source.text.lines().zip(source.code.lines()).enumerate() {
            if unfinished.iter().any(|word| code.contains(&**word))
                || marks.iter().any(|mark| line.contains(&**mark))
            {
                broken.push(format!("{}:{}: {}", source.name, index + 1, line.trim()));
            }
        }
    }
    assert_none("unfinished work", broken);
}
