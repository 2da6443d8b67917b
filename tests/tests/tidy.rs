//! House rules as a test over the source files: who may name what, and what stands nowhere.
//!
//! Each rule is a value; `every_rule_fires` plants one offence for each and sees it found, `the_house_is_tidy` reads every
//! source file of the workspace.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// Which part of a file a rule reads.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// Code outside unit tests and test crates.
    Production,
    /// Unit tests and test crates.
    Tests,
    /// Both.
    All,
}

struct Rule {
    says: &'static str,
    /// Any of these in the code, comments left out, is an offence...
    words: &'static [&'static str],
    part: Part,
    /// ...unless the file's path starts with one of these.
    except: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        says: "only transport-quic knows quinn-proto",
        words: &["quinn_proto"],
        part: Part::All,
        except: &["transport-quic/"],
    },
    Rule {
        says: "only the real drivers know io_uring and quinn-udp",
        words: &["io_uring::", "quinn_udp"],
        part: Part::All,
        // The bare disk that the log is held against, without the engine.
        except: &["engine/src/driver/", "benches/src/log/device.rs"],
    },
    Rule {
        says: "files are reached through a driver",
        words: &["std::fs", "tokio::fs", "File::open", "File::create"],
        part: Part::Production,
        except: &[
            "engine/src/driver/",
            "transport-quic/src/certs.rs",
            // A program of its own that reads logs which no engine runs.
            "persistence/src/bin/",
            "loadgen/",
            "benches/",
            "persistence/examples/",
        ],
    },
    Rule {
        says: "time comes from a driver",
        words: &["Instant::now", "SystemTime::now"],
        part: Part::Production,
        except: &[
            "engine/src/driver/",
            // A foreign thread that waits for a reply or an event stands outside every shard.
            "engine/src/until.rs",
            // quinn-proto takes `Instant`s: one origin, to which driver time is added.
            "transport-quic/src/clock.rs",
            "transport-quic/src/certs.rs",
            "loadgen/",
            "benches/",
        ],
    },
    Rule {
        says: "bytes are validated in codec and nowhere else",
        words: &["rkyv::access", "rkyv::from_bytes", "rkyv::api", "access_unchecked"],
        part: Part::All,
        except: &["codec/"],
    },
    Rule {
        says: "no sleep stands for synchronisation in a test",
        words: &["thread::sleep", "time::sleep"],
        part: Part::Tests,
        except: &[],
    },
    Rule {
        says: "nothing is left to do",
        words: &["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX:"],
        part: Part::All,
        except: &[],
    },
];

/// Roots of crates without `unsafe`.
const SAFE_CRATES: &[&str] =
    &["codec/src/lib.rs", "transport-quic/src/lib.rs", "loadgen/src/", "tests/", "persistence/src/bin/"];

const LINES_MAX: usize = 600;

/// A file longer than [`LINES_MAX`] says this, with the reason, in its first comment.
const LONG_FILE_WORDS: &str = "One file because";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// `(path from the root, text)` of every source file.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the workspace is readable") {
            let path = entry.expect("its entries too").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                let short = path.strip_prefix(&root).expect("found below the root").to_string_lossy().into_owned();
                found.push((short, text));
            }
        }
    }
    found.sort();
    found
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/fuzz/")
}

/// The lines of `part`, numbered from 1, without comments. Unit tests stand at the end of a file.
fn lines<'a>(path: &str, text: &'a str, part: Part) -> Vec<(usize, &'a str)> {
    let all: Vec<&str> = text.lines().collect();
    let is_module = |line: &str| line.starts_with("mod ") || line.starts_with("pub(crate) mod ");
    let tests_from = if is_test_file(path) {
        0
    } else {
        let starts =
            |at: &usize| all[*at].starts_with("#[cfg(test)]") && all.get(at + 1).is_some_and(|next| is_module(next));
        (0..all.len()).find(starts).unwrap_or(all.len())
    };
    let range = match part {
        Part::Production => 0..tests_from,
        Part::Tests => tests_from..all.len(),
        Part::All => 0..all.len(),
    };
    range.map(|at| (at + 1, without_comment(all[at]))).collect()
}

fn without_comment(line: &str) -> &str {
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) }
}

fn offences(rule: &Rule, path: &str, text: &str) -> Vec<String> {
    // This file holds the words themselves.
    if path == "tests/tests/tidy.rs" || rule.except.iter().any(|except| path.starts_with(except)) {
        return Vec::new();
    }
    lines(path, text, rule.part)
        .into_iter()
        .filter_map(|(number, line)| {
            let word = rule.words.iter().find(|word| line.contains(**word))?;
            Some(format!("{path}:{number}: {word}: {}", rule.says))
        })
        .collect()
}

fn lacks_forbid(path: &str, text: &str) -> bool {
    let depth = path.matches('/').count();
    // Roots of crates: src/lib.rs and src/main.rs, and each file right in a `tests` folder of a crate.
    let root = path.ends_with("src/lib.rs")
        || path.ends_with("src/main.rs")
        || (path.contains("/src/bin/") && path.ends_with("/main.rs"))
        || (path.starts_with("tests/tests/") && depth == 2);
    let safe = SAFE_CRATES.iter().any(|safe| path.starts_with(safe));
    safe && root && !text.contains("#![forbid(unsafe_code)]")
}

fn is_long_without_reason(text: &str) -> bool {
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    text.lines().count() > LINES_MAX && !head.into_iter().any(|line| line.contains(LONG_FILE_WORDS))
}

#[test]
fn the_house_is_tidy() {
    let sources = sources();
    assert!(sources.len() > 50, "the workspace has more files than {}", sources.len());
    let mut found = Vec::new();
    for (path, text) in &sources {
        found.extend(RULES.iter().flat_map(|rule| offences(rule, path, text)));
        if lacks_forbid(path, text) {
            found.push(format!("{path}: a crate without unsafe code says #![forbid(unsafe_code)]"));
        }
        if is_long_without_reason(text) {
            found.push(format!("{path}: over {LINES_MAX} lines, and no {LONG_FILE_WORDS:?} in its head comment"));
        }
    }
    assert!(found.is_empty(), "{} offences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_rule_fires() {
    for rule in RULES {
        for word in rule.words {
            let planted = format!("//! Head.\nfn f() {{\n    let x = {word}();\n}}\n");
            let path = if rule.part == Part::Tests { "engine/src/tests.rs" } else { "engine/src/planted.rs" };
            assert_eq!(offences(rule, path, &planted).len(), 1, "{word}");
            for except in rule.except {
                assert_eq!(offences(rule, &format!("{except}x.rs"), &planted).len(), 0, "{word} in {except}");
            }
            let said = format!("//! Head.\n    // {word} in a comment\nfn f() {{}} // {word}\n");
            assert_eq!(offences(rule, path, &said).len(), 0, "{word} in a comment");
        }
    }
}

#[test]
fn unit_tests_are_told_from_production_code() {
    let text = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
    let files = &RULES[2];
    assert_eq!(offences(files, "engine/src/a.rs", text).len(), 0);
    assert_eq!(offences(files, "engine/src/a.rs", "#[cfg(test)]\nfn f() {}\nuse std::fs;\n").len(), 1);
    let sleeps =
        "fn f() { std::thread::sleep(d) }\n#[cfg(test)]\nmod tests {\n    fn g() { std::thread::sleep(d) }\n}\n";
    let found = offences(&RULES[5], "engine/src/a.rs", sleeps);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("engine/src/a.rs:4"), "{found:?}");
}

#[test]
fn missing_forbid_and_long_files_are_found() {
    let tool = "persistence/src/bin/x/main.rs";
    for path in ["codec/src/lib.rs", "loadgen/src/main.rs", "tests/tests/x.rs", "transport-quic/src/lib.rs", tool] {
        assert!(lacks_forbid(path, "//! Head.\n"), "{path}");
        assert!(!lacks_forbid(path, "//! Head.\n#![forbid(unsafe_code)]\n"), "{path}");
    }
    assert!(!lacks_forbid("engine/src/lib.rs", ""));
    assert!(!lacks_forbid("loadgen/src/geo.rs", ""));
    let long = "//! Head.\n".to_owned() + &"x\n".repeat(LINES_MAX);
    assert!(is_long_without_reason(&long));
    assert!(!is_long_without_reason(&long.replace("Head.", "One file because its parts share one invariant.")));
    assert!(!is_long_without_reason("x\n"));
}
