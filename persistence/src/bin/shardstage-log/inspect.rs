//! `inspect`: what a log consists of.

use std::collections::BTreeMap;
use std::io::Write;

use shardstage_persistence::format::frame::{FLAG_HEARTBEAT, FLAG_OPEN, FLAG_SEGMENT_END};
use shardstage_persistence::format::manifest::{Manifest, SegmentState};
use shardstage_persistence::inspect::{Seen, SeenFrame};
use shardstage_persistence::limits::BLOCK_BYTES;

use crate::args::Args;
use crate::directory::{Lock, LogDir, MANIFESTS, logs};
use crate::export::kind_word;
use crate::json::Object;
use crate::scan::{Verdict, pass};
use crate::{Failure, Health};

/// What one segment holds.
#[derive(Default)]
struct Stats {
    incarnations: Option<(u64, u64)>,
    lsns: Option<(u64, u64)>,
    frames: u64,
    control: u64,
    records: BTreeMap<String, u64>,
    used_bytes: u64,
    stored_bytes: u64,
    listed: Vec<SeenFrame>,
}

pub(crate) fn run(args: &Args, frames: bool, out: &mut dyn Write) -> Result<Health, Failure> {
    let mut worst = Health::Clean;
    let mut objects = Vec::new();
    for path in logs(&args.dir)? {
        let log = LogDir::open(path, true)?;
        let mut stats: BTreeMap<u64, Stats> = BTreeMap::new();
        let verdict = pass(&log, true, &mut |seen| note(seen, frames, &mut stats))?;
        worst = worst.max(verdict.health);
        if args.json {
            objects.push(json(&log, &verdict, &stats));
        } else {
            text(&log, &verdict, &stats, out)?;
        }
    }
    if args.json {
        writeln!(out, "{}", Object::new().text("health", worst.word()).list("logs", objects.into_iter()).end())?;
    }
    Ok(worst)
}

fn note(seen: &Seen<'_>, keep: bool, stats: &mut BTreeMap<u64, Stats>) {
    match seen {
        Seen::Frame(frame) => {
            let stats = stats.entry(frame.segment).or_default();
            let header = &frame.header;
            let (first, end) = (header.first_lsn, header.first_lsn + header.lsn_count());
            stats.lsns.get_or_insert((first, end)).1 = end;
            stats.incarnations.get_or_insert((header.incarnation, 0)).1 = header.incarnation;
            stats.frames += 1;
            stats.control += u64::from(header.record_count == 0);
            stats.used_bytes += u64::from(header.len);
            stats.stored_bytes += frame.stored_bytes;
            if keep {
                stats.listed.push(*frame);
            }
        }
        Seen::Record(record) => {
            let kind = kind_word(record.view.header.kind);
            *stats.entry(record.segment).or_default().records.entry(kind).or_default() += 1;
        }
        Seen::Damage(_) => {}
    }
}

fn state(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Ready => "ready",
        SegmentState::Sealed => "sealed",
    }
}

fn flags(flags: u16) -> String {
    let names = [(FLAG_OPEN, "open"), (FLAG_HEARTBEAT, "heartbeat"), (FLAG_SEGMENT_END, "segment-end")];
    let set: Vec<&str> = names.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect();
    set.join("+")
}

fn lock_word(lock: &Lock) -> &'static str {
    match lock {
        Lock::Ours(_) => "free",
        Lock::Engine => "held by a running engine",
        Lock::Absent => "absent",
    }
}

fn range(range: Option<(u64, u64)>) -> String {
    range.map_or_else(|| "-".into(), |(first, end)| format!("{first}..{end}"))
}

fn text(log: &LogDir, verdict: &Verdict, stats: &BTreeMap<u64, Stats>, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "{}", log.path.display())?;
    match &log.node {
        Ok(node) => writeln!(
            out,
            "  node {}, shard {} of {}, {} groups, log {:016x}",
            node.node, node.shard, node.shard_count, node.groups, node.log_id
        )?,
        Err(why) => writeln!(out, "  NODE is {why}")?,
    }
    writeln!(out, "  lock {}", lock_word(&log.lock))?;
    for (name, slot) in MANIFESTS.iter().zip(&log.slots) {
        match slot {
            Ok(Manifest { generation, incarnation, segments, .. }) => writeln!(
                out,
                "  {name}: generation {generation}, incarnation {incarnation}, {} segments",
                segments.len()
            )?,
            Err(why) => writeln!(out, "  {name} is {why}")?,
        }
    }
    writeln!(
        out,
        "  {:16} {:6} {:>10} {:>15} {:>17} {:>6} {:>4} {:>8} {:>9} {:>6} {:>10} {:>9}",
        "segment",
        "state",
        "bytes",
        "incarnations",
        "LSN",
        "frames",
        "ctrl",
        "events",
        "snapshots",
        "keys",
        "used",
        "padding"
    )?;
    let empty = Stats::default();
    for segment in &log.segments {
        let entry = segment.entry;
        let found = stats.get(&entry.id).unwrap_or(&empty);
        let count = |kind| found.records.get(kind).copied().unwrap_or(0);
        let bytes = segment.len.map_or_else(|| "missing".into(), |len| len.to_string());
        let state = if found.frames == 0 && entry.state == SegmentState::Ready { "spare" } else { state(entry.state) };
        writeln!(
            out,
            "  {:016x} {state:6} {bytes:>10} {:>15} {:>17} {:>6} {:>4} {:>8} {:>9} {:>6} {:>10} {:>9}",
            entry.id,
            found.incarnations.map_or_else(|| "-".into(), |(first, last)| format!("{first}..={last}")),
            range(found.lsns),
            found.frames,
            found.control,
            count("event"),
            count("snapshot"),
            count("key"),
            found.used_bytes,
            found.stored_bytes - found.used_bytes,
        )?;
        let others = found.records.iter().filter(|(kind, _)| !["event", "snapshot", "key"].contains(&kind.as_str()));
        for (kind, count) in others {
            writeln!(out, "    {count} {kind} records")?;
        }
        for frame in &found.listed {
            let header = &frame.header;
            writeln!(
                out,
                "    byte {:>9}  LSN {:>17}  incarnation {}  durable {}  {} records in {} sections  {} + {} bytes  {}",
                frame.offset,
                range(Some((header.first_lsn, header.first_lsn + header.lsn_count()))),
                header.incarnation,
                header.durable_lsn,
                header.record_count,
                header.section_count,
                header.len,
                frame.stored_bytes - u64::from(header.len),
                flags(header.flags),
            )?;
        }
    }
    for (number, group) in (0..).zip(&verdict.groups).filter(|(_, group): &(u32, _)| group.records > 0) {
        writeln!(out, "  group {number}: epoch {}, {} records", group.epoch, group.records)?;
    }
    writeln!(
        out,
        "  {} entities, {} records, LSN 0..{}",
        verdict.names.iter().count(),
        verdict.records,
        verdict.end_lsn
    )?;
    for (name, len, head) in &log.checkpoints {
        match head {
            Ok(head) => writeln!(
                out,
                "  {name}: {len} bytes, {} entities, a start scans from LSN {} in segment {:016x}",
                head.entries, head.point.next_lsn, head.point.segment
            )?,
            Err(why) => writeln!(out, "  {name} is {why}")?,
        }
    }
    for (name, len) in &log.others {
        writeln!(out, "  also here: {name}, {len} bytes")?;
    }
    writeln!(out, "  {}", verdict.health.word())?;
    for finding in &verdict.findings {
        writeln!(out, "  {finding}")?;
    }
    Ok(())
}

fn json(log: &LogDir, verdict: &Verdict, stats: &BTreeMap<u64, Stats>) -> String {
    let mut object = Object::new().text("log", &log.path.display().to_string()).text("lock", lock_word(&log.lock));
    if let Ok(node) = &log.node {
        object = object
            .number("node", u64::from(node.node))
            .number("shard", u64::from(node.shard))
            .number("shard_count", u64::from(node.shard_count))
            .text("log_id", &format!("{:016x}", node.log_id));
    }
    if log.has_manifest() {
        object = object.number("generation", log.manifest.generation).number("incarnation", log.manifest.incarnation);
    }
    let empty = Stats::default();
    let segments = log.segments.iter().map(|segment| {
        let entry = segment.entry;
        segment_json(entry.id, state(entry.state), segment.len, stats.get(&entry.id).unwrap_or(&empty))
    });
    let groups = (0..).zip(&verdict.groups).filter(|(_, group): &(u64, _)| group.records > 0).map(|(number, group)| {
        Object::new().number("group", number).number("epoch", group.epoch).number("records", group.records).end()
    });
    let checkpoints = log.checkpoints.iter().map(|(name, len, head)| {
        let object = Object::new().text("file", name).number("bytes", *len).bool("intact", head.is_ok());
        let Ok(head) = head else { return object.end() };
        object.number("lsn", head.point.next_lsn).number("entities", head.entries).end()
    });
    object
        .list("segments", segments)
        .list("groups", groups)
        .list("checkpoints", checkpoints)
        .number("entities", verdict.names.iter().count() as u64)
        .number("records", verdict.records)
        .number("end_lsn", verdict.end_lsn)
        .text("health", verdict.health.word())
        .list("findings", verdict.findings.iter().map(crate::scan::Finding::json))
        .end()
}

fn segment_json(id: u64, state: &str, len: Option<u64>, found: &Stats) -> String {
    let mut object = Object::new().text("segment", &format!("{id:016x}")).text("state", state);
    if let Some(len) = len {
        object =
            object.number("bytes", len).number("free_blocks", (len - found.stored_bytes.min(len)) / BLOCK_BYTES as u64);
    }
    if let Some((first, end)) = found.lsns {
        object = object.number("first_lsn", first).number("end_lsn", end);
    }
    if let Some((first, last)) = found.incarnations {
        object = object.number("first_incarnation", first).number("last_incarnation", last);
    }
    object = object.number("frames", found.frames).number("control_frames", found.control);
    let records = found.records.iter().fold(Object::new(), |object, (kind, count)| object.number(kind, *count)).end();
    object = object
        .raw("records", &records)
        .number("used_bytes", found.used_bytes)
        .number("padding_bytes", found.stored_bytes - found.used_bytes);
    if found.listed.is_empty() {
        return object.end();
    }
    let frames = found.listed.iter().map(|frame| {
        let header = &frame.header;
        Object::new()
            .number("byte", frame.offset)
            .number("first_lsn", header.first_lsn)
            .number("end_lsn", header.first_lsn + header.lsn_count())
            .number("durable_lsn", header.durable_lsn)
            .number("incarnation", header.incarnation)
            .number("records", u64::from(header.record_count))
            .number("sections", u64::from(header.section_count))
            .number("used_bytes", u64::from(header.len))
            .number("stored_bytes", frame.stored_bytes)
            .text("flags", &flags(header.flags))
            .end()
    });
    object.list("listed", frames).end()
}
