//! `repair`: a new log with everything of the old one that is verifiably intact, and an exact account of the rest.
//!
//! What is kept of an entity is a prefix of its history: behind a missing event nothing can be applied. A torn tail is cut
//! as an engine would cut it; that counts as nothing left behind.
//!
//! Invariant: the old directory is only read; the new one is verified before the command says that it is good.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use shardstage_codec::{Epoch, GroupId};
use shardstage_persistence::format::node::NodeFile;
use shardstage_persistence::format::record::{FLAG_LAST_OF_COMMAND, RecordKind};
use shardstage_persistence::inspect::{Names, Seen, SeenRecord};

use crate::args::Args;
use crate::directory::{LogDir, MANIFESTS, NODE, logs};
use crate::json::Object;
use crate::rewrite::{Records, Rewriter, sync_dir};
use crate::scan::{Verdict, pass};
use crate::{Failure, Health};

pub(crate) fn run(args: &Args, into: &Path, out: &mut dyn Write) -> Result<Health, Failure> {
    if into.symlink_metadata().is_ok() {
        let why = format!("{}: exists already; repair writes into a new directory only", into.display());
        return Err(Failure::Refused(why));
    }
    let paths = logs(&args.dir)?;
    let many = paths != [args.dir.clone()];
    let found = paths.into_iter().map(|path| LogDir::open(path, false)).collect::<Result<Vec<_>, _>>()?;
    let nodes = found.iter().map(|log| identity(log, &found)).collect::<Result<Vec<_>, _>>()?;
    if many {
        fs::create_dir(into).map_err(Failure::io(into, "make the directory"))?;
    }
    let mut worst = Health::Clean;
    let mut objects = Vec::new();
    for (log, node) in found.iter().zip(nodes) {
        let target = if many { into.join(log.name()) } else { into.to_path_buf() };
        let account = copy(log, node, &target).inspect_err(|_| {
            eprintln!("{}: incomplete; an engine refuses it; remove it before another try", into.display());
        })?;
        if account.left_behind() {
            worst = Health::Damaged;
        }
        if args.json {
            objects.push(account.json(log, &target));
        } else {
            account.text(log, &target, out)?;
        }
    }
    if many {
        sync_dir(into)?;
        into.parent().filter(|above| !above.as_os_str().is_empty()).map_or(Ok(()), sync_dir)?;
    }
    if args.json {
        writeln!(out, "{}", Object::new().list("logs", objects.into_iter()).end())?;
    }
    Ok(worst)
}

/// Whose log the new one is: with an id of its own, since its frames are others.
fn identity(log: &LogDir, all: &[LogDir]) -> Result<NodeFile, Failure> {
    if log.node.is_err() && !log.has_manifest() {
        return Err(Failure::Refused(format!(
            "{}: neither {NODE} nor {} nor {} can be read, so that no checksum of this log can be checked",
            log.path.display(),
            MANIFESTS[0],
            MANIFESTS[1]
        )));
    }
    let sibling = || {
        let shard = log.name().strip_prefix("log-")?.parse().ok()?;
        let sibling = all.iter().find_map(|other| other.node.as_ref().ok())?;
        Some(NodeFile { shard, ..*sibling })
    };
    let node = log.node.as_ref().ok().copied().or_else(sibling).ok_or_else(|| {
        Failure::Refused(format!(
            "{}: {NODE} cannot be read, and no other log of the same engine lies beside it; give the directory above",
            log.path.display()
        ))
    })?;
    Ok(NodeFile { log_id: random()?, ..node })
}

fn random() -> Result<u64, Failure> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(Failure::io(path, "read"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// What happened to an entity that lost something.
#[derive(Default)]
struct Loss {
    last_seq: u64,
    records: u64,
}

/// Records of one command until its last one was seen.
struct OpenCommand {
    group: GroupId,
    epoch: Epoch,
    entity: u64,
    records: Records,
    lsns: Vec<u64>,
}

struct Copier {
    target: Rewriter,
    names: Names,
    command: Option<OpenCommand>,
    losses: BTreeMap<u64, Loss>,
    /// LSNs that are in the new log, or that held nothing but the log's own bookkeeping.
    kept: Vec<(u64, u64)>,
    copied: u64,
    salvaged: u64,
    failed: Option<Failure>,
}

/// What was copied and what was not.
struct Account {
    verdict: Verdict,
    names: Names,
    losses: BTreeMap<u64, Loss>,
    dropped: Vec<(u64, u64)>,
    copied: u64,
    salvaged: u64,
}

fn copy(log: &LogDir, node: NodeFile, target: &Path) -> Result<Account, Failure> {
    let blocks = log.segments.iter().map(|segment| segment.entry.blocks).max().unwrap_or(0).max(16);
    let mut copier = Copier {
        target: Rewriter::begin(target, node, blocks)?,
        names: Names::default(),
        command: None,
        losses: BTreeMap::new(),
        kept: Vec::new(),
        copied: 0,
        salvaged: 0,
        failed: None,
    };
    let verdict = pass(log, false, &mut |seen| {
        if copier.failed.is_none()
            && let Err(failure) = copier.take(seen)
        {
            copier.failed = Some(failure);
        }
    })?;
    copier.end_command()?;
    if let Some(failure) = copier.failed.take() {
        return Err(failure);
    }
    copier.target.finish()?;
    let dropped = complement(copier.kept, verdict.end_lsn);
    verify(target)?;
    Ok(Account {
        verdict,
        names: copier.names,
        losses: copier.losses,
        dropped,
        copied: copier.copied,
        salvaged: copier.salvaged,
    })
}

/// The new log must be clean.
fn verify(target: &Path) -> Result<(), Failure> {
    let log = LogDir::open(PathBuf::from(target), false)?;
    let verdict = pass(&log, true, &mut |_| {})?;
    match verdict.findings.first() {
        None => Ok(()),
        Some(finding) => {
            Err(Failure::Refused(format!("{}: the new log is not clean: {finding}; do not use it", target.display())))
        }
    }
}

impl Copier {
    fn take(&mut self, seen: &Seen<'_>) -> Result<(), Failure> {
        match seen {
            Seen::Frame(frame) => {
                self.end_command()?;
                self.target.end_frame()?;
                if frame.header.record_count == 0 {
                    self.keep(frame.header.first_lsn);
                }
            }
            Seen::Record(record) => self.record(record)?,
            Seen::Damage(_) => self.end_command()?,
        }
        Ok(())
    }

    fn record(&mut self, record: &SeenRecord<'_>) -> Result<(), Failure> {
        let header = record.view.header;
        let lost = self.losses.contains_key(&header.entity);
        if header.kind == RecordKind::KeyDef {
            if self.names.admit(record.segment, record.offset, &record.view).is_ok() {
                self.keep(record.lsn);
            }
            return Ok(());
        }
        if lost || self.names.admit(record.segment, record.offset, &record.view).is_err() {
            let last_seq = self.names.get(header.entity).map_or(0, |entity| entity.last_seq);
            let loss = self.losses.entry(header.entity).or_default();
            (loss.last_seq, loss.records) = (last_seq, loss.records + 1);
            return Ok(());
        }
        let continues =
            |open: &OpenCommand| (open.group, open.epoch, open.entity) == (record.group, record.epoch, header.entity);
        if !self.command.as_ref().is_some_and(continues) {
            self.end_command()?;
        }
        let (group, epoch, entity) = (record.group, record.epoch, header.entity);
        let empty = || OpenCommand { group, epoch, entity, records: Records::default(), lsns: Vec::new() };
        let open = self.command.get_or_insert_with(empty);
        open.records.push(&record.view);
        open.lsns.push(record.lsn);
        self.salvaged += u64::from(record.salvaged);
        if header.flags & FLAG_LAST_OF_COMMAND != 0 {
            self.end_command()?;
        }
        Ok(())
    }

    fn end_command(&mut self) -> Result<(), Failure> {
        let Some(open) = self.command.take() else { return Ok(()) };
        let Some(entity) = self.names.get(open.entity) else { return Ok(()) };
        let count = u32::try_from(open.lsns.len()).expect("a frame holds fewer than 2^32 records");
        self.target.add(open.group, open.epoch, open.entity, entity, &open.records)?;
        self.copied += u64::from(count);
        for lsn in open.lsns {
            self.keep(lsn);
        }
        Ok(())
    }

    fn keep(&mut self, lsn: u64) {
        match self.kept.last_mut() {
            Some(last) if last.1 == lsn => last.1 = lsn + 1,
            _ => self.kept.push((lsn, lsn + 1)),
        }
    }
}

/// The gaps of `kept` in `0..end`.
fn complement(mut kept: Vec<(u64, u64)>, end: u64) -> Vec<(u64, u64)> {
    kept.sort_unstable();
    let mut gaps = Vec::new();
    let mut next = 0;
    for (first, after) in kept.iter().chain(&[(end, end)]) {
        if *first > next {
            gaps.push((next, *first));
        }
        next = next.max(*after);
    }
    gaps
}

impl Account {
    fn left_behind(&self) -> bool {
        !self.dropped.is_empty() || self.verdict.unread_bytes > 0
    }

    fn text(&self, log: &LogDir, target: &Path, out: &mut dyn Write) -> Result<(), Failure> {
        writeln!(out, "{} -> {}", log.path.display(), target.display())?;
        let entities = self.names.iter().count();
        writeln!(out, "  copied {} records of {entities} entities; the new log was verified", self.copied)?;
        if self.salvaged > 0 {
            writeln!(out, "  {} of them from intact sections of damaged frames", self.salvaged)?;
        }
        for finding in &self.verdict.findings {
            writeln!(out, "  {finding}")?;
        }
        if !self.left_behind() {
            writeln!(out, "  nothing was left behind")?;
            return Ok(());
        }
        if self.verdict.unread_bytes > 0 {
            let unread = self.verdict.unread_bytes;
            writeln!(
                out,
                "  left behind: {unread} bytes that cannot be read; the LSN that they held are below, as far as known"
            )?;
        }
        let ranges: Vec<String> = self.dropped.iter().map(|(first, end)| format!("{first}..{end}")).collect();
        let ranges = if ranges.is_empty() { "none that is known".to_owned() } else { ranges.join(", ") };
        writeln!(out, "  left behind: LSN {ranges}")?;
        for (number, loss) in &self.losses {
            match self.names.get(*number) {
                Some(entity) => writeln!(
                    out,
                    "  {} {:?}: intact up to number {}; {} later records left behind",
                    entity.type_name, entity.key, loss.last_seq, loss.records
                )?,
                None => writeln!(out, "  entity {number}: its name is lost; {} records left behind", loss.records)?,
            }
        }
        writeln!(
            out,
            "  an entity whose last records were in the damaged LSN, and which has none behind, is not listed"
        )?;
        Ok(())
    }

    fn json(&self, log: &LogDir, target: &Path) -> String {
        let dropped = self
            .dropped
            .iter()
            .map(|(first, end)| Object::new().number("first_lsn", *first).number("end_lsn", *end).end());
        let losses = self.losses.iter().map(|(number, loss)| {
            let entity = self.names.get(*number);
            Object::new()
                .number("entity", *number)
                .text_or_null("type", entity.map(|entity| &*entity.type_name))
                .text_or_null("key", entity.map(|entity| &*entity.key))
                .number("last_intact_seq", loss.last_seq)
                .number("records_left_behind", loss.records)
                .end()
        });
        Object::new()
            .text("log", &log.path.display().to_string())
            .text("into", &target.display().to_string())
            .number("copied_records", self.copied)
            .number("salvaged_records", self.salvaged)
            .number("unread_bytes", self.verdict.unread_bytes)
            .list("left_behind", dropped)
            .list("entities", losses)
            .list("findings", self.verdict.findings.iter().map(crate::scan::Finding::json))
            .end()
    }
}
