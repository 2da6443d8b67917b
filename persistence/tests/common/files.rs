//! A simulated log as real files, and the tool run on them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use shardstage::sim::SimWorld;
use shardstage_persistence::format::node::NodeFile;
use shardstage_persistence::format::salt;
use shardstage_persistence::inspect::{Seen, SeenFrame, Survey};

use crate::common::NODE;

/// The log's directory in the simulated world.
pub const LOG: &str = "/data/log-0";

/// Content by file name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Every file of the simulated log.
pub fn files(world: &SimWorld) -> Files {
    world
        .list(NODE, LOG)
        .into_iter()
        .filter_map(|name| world.file_bytes(NODE, format!("{LOG}/{name}")).map(|bytes| (name, bytes)))
        .collect()
}

/// Writes them to `dir/log-0` and returns that.
pub fn write(files: &Files, dir: &Path) -> PathBuf {
    let log = dir.join("log-0");
    fs::create_dir_all(&log).unwrap();
    for (name, bytes) in files {
        fs::write(log.join(name), bytes).unwrap();
    }
    log
}

/// Everything below `dir`, to see that nothing changed.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { drop(found.insert(path.clone(), fs::read(&path).unwrap())) }
        }
    }
    found
}

/// How a run of the tool ended.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs the real binary.
pub fn tool(args: &[&str]) -> Ran {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_shardstage-log")).args(args).output().unwrap();
    Ran {
        code: status.code().expect("the tool ends by itself"),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// The value of a field in one line of JSON without nested objects.
pub fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let start = line.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} in {line}")) + name.len() + 3;
    let rest = &line[start..];
    match rest.strip_prefix('"') {
        Some(text) => &text[..text.find('"').unwrap()],
        None => &rest[..rest.find([',', '}', ']']).unwrap()],
    }
}

/// The bytes of a base64 text.
pub fn from_base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for chunk in text.as_bytes().chunks(4) {
        let word = chunk.iter().fold(0u32, |word, c| word << 6 | if *c == b'=' { 0 } else { u32::from(digit(*c)) });
        let padding = chunk.iter().filter(|c| **c == b'=').count();
        bytes.extend_from_slice(&word.to_be_bytes()[1..4 - padding]);
    }
    bytes
}

/// Every frame of the log, in log order, as the survey sees them.
pub fn frames(files: &Files) -> Vec<SeenFrame> {
    let node = NodeFile::decode(&files["NODE"]).unwrap();
    let mut survey = Survey::new(salt(node.log_id));
    let mut found = Vec::new();
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".seg")) {
        let id = u64::from_str_radix(name.trim_end_matches(".seg"), 16).unwrap();
        survey.begin_segment(id, u32::try_from(bytes.len() / 4096).unwrap());
        survey.push(bytes, &mut |seen| {
            if let Seen::Frame(frame) = seen {
                found.push(frame);
            }
        });
        survey.end_segment();
    }
    found
}

/// The file name of a segment.
pub fn segment(id: u64) -> String {
    format!("{id:016x}.seg")
}
