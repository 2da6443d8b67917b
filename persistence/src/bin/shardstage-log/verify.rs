//! `verify`: every checksum, chain and sequence of every log, and what is wrong where.

use std::io::Write;

use crate::args::Args;
use crate::directory::{LogDir, logs};
use crate::json::Object;
use crate::scan::{Verdict, pass};
use crate::{Failure, Health};

pub(crate) fn run(args: &Args, out: &mut dyn Write) -> Result<Health, Failure> {
    let mut worst = Health::Clean;
    let mut objects = Vec::new();
    for path in logs(&args.dir)? {
        let log = LogDir::open(path, args.live)?;
        let verdict = pass(&log, true, &mut |_| {})?;
        worst = worst.max(verdict.health);
        if args.json {
            objects.push(json(&log, &verdict));
        } else {
            writeln!(
                out,
                "{}: {}: {} frames, {} records, {} entities, LSN 0..{}",
                log.path.display(),
                verdict.health.word(),
                verdict.frames,
                verdict.records,
                verdict.names.iter().count(),
                verdict.end_lsn
            )?;
            for finding in &verdict.findings {
                writeln!(out, "  {finding}")?;
            }
        }
    }
    if args.json {
        let report = Object::new().text("health", worst.word()).list("logs", objects.into_iter()).end();
        writeln!(out, "{report}")?;
    }
    Ok(worst)
}

/// One log's verdict as JSON.
pub(crate) fn json(log: &LogDir, verdict: &Verdict) -> String {
    Object::new()
        .text("log", &log.path.display().to_string())
        .text("health", verdict.health.word())
        .number("frames", verdict.frames)
        .number("records", verdict.records)
        .number("entities", verdict.names.iter().count() as u64)
        .number("end_lsn", verdict.end_lsn)
        .list("findings", verdict.findings.iter().map(crate::scan::Finding::json))
        .end()
}
