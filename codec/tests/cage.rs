//! Hazard: a type crosses the wire whose validation can loop, recurse without bound or follow shared pointers.
//!
//! Each file in `cage/` is a small user program. Its first line says, behind `//~`, a text that an error of the
//! compiler in that file must contain; without one the program must compile. Only our own words are
//! compared, so that another compiler's phrasing does not break the test.

use std::{env, fmt::Write, fs, path::Path, process::Command};

#[test]
fn what_must_not_cross_the_wire_does_not_compile() {
    let codec = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = codec.join("tests/cage");
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cage");
    let bins = project.join("src/bin");
    let _ = fs::remove_dir_all(&bins);
    fs::create_dir_all(&bins).expect("the target folder can be written");
    let manifest = format!(
        "[package]\nname = \"shardstage\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n\
         shardstage-codec.path = {codec:?}\nshardstage-macros.path = {:?}\n",
        codec.join("../engine/macros"),
    );
    fs::write(project.join("Cargo.toml"), manifest).expect("a manifest");
    // The same versions as the workspace's, which are on this machine already.
    fs::copy(codec.join("../Cargo.lock"), project.join("Cargo.lock")).expect("the lock file");
    fs::copy(cases.join("engine.rs"), project.join("src/lib.rs")).expect("the engine's stand-in");

    let mut expected = Vec::new();
    for entry in fs::read_dir(&cases).expect("the cases") {
        let path = entry.expect("a case").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
        if name == "engine.rs" {
            continue;
        }
        let source = fs::read_to_string(&path).expect("a case can be read");
        fs::write(bins.join(&name), &source).expect("a case can be written");
        let first = source.lines().next().unwrap_or_default();
        expected.push((name, first.strip_prefix("//~ ").map(str::to_owned)));
    }
    assert!(expected.len() >= 24, "the cases are found");

    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["check", "--bins", "--keep-going", "--offline", "--message-format=json"])
        .current_dir(&project)
        .env("CARGO_TARGET_DIR", project.join("target"))
        .output()
        .expect("cargo runs, as it runs this test");
    // One message a line. The texts hold nothing that JSON escapes, so there is no need to parse it.
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut wrong = String::new();
    for (name, text) in &expected {
        let target = format!("\"name\":\"{}\"", name.trim_end_matches(".rs"));
        let mut errors = messages.lines().filter(|line| line.contains(&target) && line.contains("\"level\":\"error\""));
        let is_right = match text {
            Some(text) => errors.any(|line| line.contains(text.as_str())),
            None => errors.next().is_none(),
        };
        if !is_right {
            let _ = writeln!(wrong, "{name}: expected {text:?}");
        }
    }
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(wrong.is_empty(), "{wrong}\n{told}");
}
