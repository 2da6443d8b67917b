//! Instructions a message, counted by callgrind: the same workload at two sizes, their difference by the messages between.
//! Start-up and shutdown are in both and cancel out. A count does not care how busy the machine is.
//!
//! Needs valgrind (package `valgrind`), which nothing else here does. The engine runs on its poll driver, since valgrind does
//! not know all of io_uring; within a shard no message touches the driver.

use std::fmt::Write;
use std::process::Command;

use crate::interleave::finished;
use crate::ours::PARKED;
use crate::workload::{Place, Work};

/// The word that makes this program do one cell's work once: its two names and the operations follow.
pub const COUNT: &str = "--count";

/// Operations of the two runs.
const SIZES: [u64; 2] = [20_000, 120_000];

/// What is counted, and how many messages an operation is.
const WORKS: [(Work, u64, &str); 3] = [
    (Work::Tell(Place::SameShard), 1, "a tell"),
    (Work::PingPong(Place::SameShard), 2, "a message of ping-pong, half a round trip"),
    (Work::Ask(Place::SameShard), 1, "an ask, its answer included"),
];

/// Counts ours and returns a table.
///
/// # Errors
/// When valgrind is not there or fails.
pub fn table() -> Result<String, String> {
    finished(Command::new("valgrind").arg("--version"))
        .map_err(|why| format!("valgrind does not run, install the package `valgrind`: {why}"))?;
    let mut out = String::from("| within a shard | instructions |\n|---|---:|\n");
    for (work, messages, what) in WORKS {
        let [few, many] = SIZES.map(|operations| count(work, operations));
        let slope = (many? as f64 - few? as f64) / ((SIZES[1] - SIZES[0]) * messages) as f64;
        writeln!(out, "| {what} | {slope:.1} |").expect("writing to a string does not fail");
    }
    Ok(out)
}

/// Instructions of a whole process that does so many operations.
fn count(work: Work, operations: u64) -> Result<u64, String> {
    let me = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    let text = finished(
        Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(me)
            .args([COUNT, &work.to_string(), PARKED, &operations.to_string()])
            .env("SHARDSTAGE_DRIVER", "poll"),
    )?;
    collected(&text).ok_or_else(|| format!("valgrind did not say how many it collected: {text}"))
}

fn collected(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read() {
        assert_eq!(collected("==1== Events    : Ir\n==1== Collected : 771143\n==1==\n"), Some(771_143));
        assert_eq!(collected("==1== nothing"), None);
    }
}
