//! The maps do not lie: every file and every test that `ARCHITECTURE.md`, `docs/guarantees.md` and `docs/parity.md` name
//! exists, every row of parity names a test, every example is on the ladder, the README's quickstart is the example, and the list of files with unsafe code
//! is whole.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const PARITY: &str = "docs/parity.md";
const LADDER: &str = "engine/examples/README.md";
const MAPS: [&str; 5] = ["ARCHITECTURE.md", "docs/guarantees.md", PARITY, LADDER, "docs/actors.md"];

/// Before the list of the engine's files with unsafe code, which ends with its paragraph.
const UNSAFE_LIST: &str = "`unsafe` stands in:";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a map names: a file or folder, and a test in it or none.
#[derive(Debug, PartialEq)]
struct Named {
    line: usize,
    /// The folder that the section's heading names, where one does.
    base: String,
    path: String,
    test: Option<String>,
}

/// The code spans of a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// `path` or `path::test`, if the span has the form of one.
fn parse(span: &str) -> Option<(&str, Option<&str>)> {
    let (path, test) = match span.split_once(".rs::") {
        Some((_, test)) => (&span[..span.len() - test.len() - 2], Some(test)),
        None => (span, None),
    };
    let is_word = |text: &str, more: &[char]| text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c));
    let is_file = [".rs", ".md", ".toml"].iter().any(|end| path.ends_with(end)) || path.contains('/');
    let fits = is_file && is_word(path, &['_', '-', '.', '/']) && test.is_none_or(|test| is_word(test, &['_']));
    fits.then_some((path, test))
}

/// Everything that a map names outside its drawings.
fn named(map: &str) -> Vec<Named> {
    let (mut found, mut base, mut drawing) = (Vec::new(), String::new(), false);
    for (line, text) in (1..).zip(map.lines()) {
        if text.starts_with("```") {
            drawing = !drawing;
        }
        if drawing {
            continue;
        }
        if text.starts_with('#') {
            base = spans(text).find(|span| span.ends_with('/')).unwrap_or_default().to_owned();
        }
        for (path, test) in spans(text).filter_map(parse) {
            let (path, test) = (path.to_owned(), test.map(str::to_owned));
            found.push(Named { line, base: base.clone(), path, test });
        }
    }
    found
}

/// Whether `source` has a function of this name right below `#[test]`.
fn has_test(source: &str, test: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let starts = format!("fn {test}(");
    let is_test = |at: usize| {
        lines[..at].iter().rev().take_while(|above| above.starts_with('#')).any(|above| above.contains("test"))
    };
    (0..lines.len()).any(|at| lines[at].starts_with(&starts) && is_test(at))
}

/// What is wrong with a map, by line.
fn lies(name: &str, map: &str) -> Vec<String> {
    let mut lies = Vec::new();
    for Named { line, base, path, test } in named(map) {
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        let candidates = [root().join(&path), root().join(&base).join(&path), root().join(folder).join(&path)];
        let Some(found) = candidates.iter().find(|candidate| candidate.exists()) else {
            lies.push(format!("{name}:{line}: there is no {path}"));
            continue;
        };
        if let Some(test) = test {
            let source = fs::read_to_string(found).expect("a source file is readable");
            if !has_test(&source, &test) {
                lies.push(format!("{name}:{line}: {path} has no test {test}"));
            }
        }
    }
    lies
}

#[test]
fn every_file_and_test_on_the_maps_exists() {
    let found: Vec<String> = MAPS.iter().flat_map(|name| lies(name, &read(name))).collect();
    assert!(found.is_empty(), "{} lies:\n{}", found.len(), found.join("\n"));
    for name in &MAPS[..3] {
        let tests = named(&read(name)).iter().filter(|named| named.test.is_some()).count();
        assert!(tests >= 20, "{name} names only {tests} tests: is it still read?");
    }
}

#[test]
fn a_planted_lie_is_found() {
    let truth =
        "## Hazards, `tests/`\n`tests/map.rs` `tests/tests/map.rs::a_planted_lie_is_found` `a::b` `x / y` `f(a/b)`\n";
    assert_eq!(lies("m", truth), Vec::<String>::new());
    assert_eq!(named(truth).len(), 3, "{:?}", named(truth));
    let drawn = "```text\n`tests/gone.rs`\n```\n";
    assert_eq!(named(drawn), []);
    let planted = "# A map\n`tests/tests/gone.rs`\n`tests/tests/map.rs::gone`, `tests/tests/map.rs::root`\n`map.rs`\n";
    assert_eq!(
        lies("m", planted),
        [
            "m:2: there is no tests/tests/gone.rs",
            "m:3: tests/tests/map.rs has no test gone",
            "m:3: tests/tests/map.rs has no test root",
            "m:4: there is no map.rs"
        ]
    );
}

/// The rows of a page's tables, by line: a table's first two lines are its head.
fn rows(page: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_table = 0;
    (1..).zip(page.lines()).filter(move |(_, line)| {
        in_table = if line.starts_with('|') { in_table + 1 } else { 0 };
        in_table > 2
    })
}

/// What is wrong with the rows of parity: one of any table but the last says three things, whose peers know the capability in
/// parentheses first, and a test last.
fn unproven(parity: &str) -> Vec<String> {
    let proven = parity.rsplit_once("\n## ").map_or("", |(proven, _)| proven);
    let mut wrong = Vec::new();
    for (line, row) in rows(proven) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [capability, meaning, test] = cells[..] else {
            wrong.push(format!("{PARITY}:{line}: {} cells", cells.len()));
            continue;
        };
        if !capability.ends_with(')') || meaning.is_empty() {
            wrong.push(format!("{PARITY}:{line}: no labels, or no meaning"));
        }
        if !spans(test).filter_map(parse).any(|(_, test)| test.is_some()) {
            wrong.push(format!("{PARITY}:{line}: no test"));
        }
    }
    wrong
}

#[test]
fn every_row_of_parity_names_a_test() {
    let page = read(PARITY);
    let found = unproven(&page);
    assert!(found.is_empty(), "{} rows:\n{}", found.len(), found.join("\n"));
    assert!(rows(&page).count() >= 20, "only {} rows: are they still read?", rows(&page).count());
    let head = "## A\n\n| capability | meaning | test |\n|---|---|---|\n";
    let planted = format!(
        "{head}| a (A1) | b | `x/y.rs::z` |\n| a | b | `x.rs::z` |\n| a (A1) | b | `x.rs` |\n| a (A1) | b |\n\n\
         ## Left out\n\n| a | b |\n|---|---|\n| c | d |\n"
    );
    assert_eq!(
        unproven(&planted),
        [
            format!("{PARITY}:6: no labels, or no meaning"),
            format!("{PARITY}:7: no test"),
            format!("{PARITY}:8: 2 cells")
        ]
    );
}

/// The Rust files below `folder`, from the root.
fn rust_files(folder: &str) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder of the workspace is readable") {
            let entry = entry.expect("its entries too");
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                open.push(path);
            } else if path.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found
}

fn has_unsafe_code(source: &str) -> bool {
    let production = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code = production.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.into_iter().any(|line| ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| line.contains(word)))
}

#[test]
fn the_list_of_files_with_unsafe_code_is_whole() {
    let map = read("ARCHITECTURE.md");
    let list = map.split_once(UNSAFE_LIST).expect("the map has the list").1.split("\n\n").next().unwrap_or_default();
    let listed: BTreeSet<String> = spans(list).map(|path| format!("engine/src/{path}")).collect();
    let crates = ["codec/src", "engine/src", "engine/macros/src", "persistence/src", "transport-quic/src"];
    let real: BTreeSet<String> = crates
        .iter()
        .flat_map(|folder| rust_files(folder))
        .filter(|path| !path.ends_with("/tests.rs") && !path.contains("/tests/") && has_unsafe_code(&read(path)))
        .collect();
    let (unlisted, listed_only) = (real.difference(&listed), listed.difference(&real));
    let (unlisted, listed_only): (Vec<_>, Vec<_>) = (unlisted.collect(), listed_only.collect());
    assert!(unlisted.is_empty() && listed_only.is_empty(), "not listed: {unlisted:?}; wrongly listed: {listed_only:?}");
}

/// What is wrong with an example.
fn missteps(path: &str, source: &str, ladder: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = path.strip_prefix("engine/examples/").unwrap_or(path);
    if !spans(ladder).any(|span| span == name) {
        wrong.push(format!("{path} is not on the ladder, {LADDER}"));
    }
    if source.lines().count() >= 80 {
        wrong.push(format!("{path} has {} lines; 79 are allowed", source.lines().count()));
    }
    if !source.starts_with("//! ") {
        wrong.push(format!("{path} does not begin by saying what it shows"));
    }
    if !source.contains("assert") {
        wrong.push(format!("{path} asserts nothing"));
    }
    wrong
}

#[test]
fn every_example_is_on_the_ladder_short_and_asserts_something() {
    let ladder = read(LADDER);
    let examples: Vec<String> =
        ["engine/examples", "persistence/examples"].iter().flat_map(|folder| rust_files(folder)).collect();
    assert!(examples.len() >= 15, "{examples:?}");
    let wrong: Vec<String> = examples.iter().flat_map(|path| missteps(path, &read(path), &ladder)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let long = "let nothing = 0;\n".repeat(80);
    assert_eq!(missteps("engine/examples/planted.rs", &long, &ladder).len(), 4);
}

#[test]
fn the_quickstart_of_the_readme_is_the_example() {
    let example = read("engine/examples/quickstart.rs");
    let code = example.split_once("\n\n").expect("a head comment, then code").1;
    assert!(read("README.md").contains(&format!("```rust\n{code}```")), "the README's quickstart is another");
}
