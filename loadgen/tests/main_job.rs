//! The main job, small: two real node processes, a measured phase, a kill, and the ledger.
//!
//! Times and verdicts of a busy test machine mean nothing, so only what must hold anywhere is checked.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

fn loadgen(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_killed_node_loses_no_acknowledged_event_and_the_run_explains_itself() {
    let output = loadgen(&["--rate", "1500", "--seconds", "2"]).output().expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("acknowledged events of") && text.contains("are there, once, in order"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for part in [
        "positions are interpolated",
        "response time",
        "service time",
        "schedule lag",
        "durable events",
        "busy",
        "VALID",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    // Valid or not: that depends on what else the machine does.
    let code = output.status.code().expect("it ends by itself");
    assert_eq!(code == 0, !text.contains("INVALID") && !text.contains("NOT RECOVERED"), "{text}");
    assert!(code == 0 || code == 4, "{text}");
}

/// Node processes inherit the parent's standard error, so that pipe ends when the last of them is gone.
#[test]
fn nodes_do_not_outlive_a_killed_parent() {
    let mut parent = loadgen(&["--rate", "1500", "--seconds", "60"]).spawn().expect("the binary starts");
    let mut lines = BufReader::new(parent.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("measuring")), "the nodes serve");
    parent.kill().expect("it runs");
    parent.wait().expect("it is gone");
    let mut rest = String::new();
    parent.stderr.take().expect("piped").read_to_string(&mut rest).expect("the pipe ends");
}

#[test]
fn a_wrong_command_line_is_refused_with_the_usage() {
    for arguments in [&["--rate", "0"][..], &["--rate"], &["--seconds", "x"], &["--nonsense"], &["--shards", "0"]] {
        let output = loadgen(arguments).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage: loadgen"), "{arguments:?}");
    }
    let help = loadgen(&["--help"]).output().expect("the binary starts");
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("usage: loadgen"));
}
