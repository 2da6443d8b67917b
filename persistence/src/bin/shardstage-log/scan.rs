//! One pass over a log: the verdict of recovery's own rule, and beside it the survey that goes on behind damage.
//!
//! Invariant: a log is called damaged exactly when an engine would refuse it, or when a checksum or sequence of something
//! that the log relies on does not match.

use std::io::IsTerminal;

use shardstage_persistence::format::manifest::SegmentState;
use shardstage_persistence::inspect::{Damage, Names, OutOfPlace, Seen, Survey};
use shardstage_persistence::limits::{BLOCK_BYTES, SCAN_CHUNK_BYTES};
use shardstage_persistence::recovery::{GroupTail, Refusal, Scan};

use crate::directory::{LOCK, LogDir, MANIFESTS, NODE, Stranger, segment_name};
use crate::json::Object;
use crate::reader::{Hole, SegmentReader};
use crate::{Failure, Health};

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) health: Health,
    /// File name in the log's directory.
    pub(crate) file: String,
    /// Bytes of that file, when it is about some.
    pub(crate) bytes: Option<(u64, u64)>,
    /// First LSN and the one after the last.
    pub(crate) lsns: Option<(u64, u64)>,
    pub(crate) what: String,
}

impl Finding {
    fn file(health: Health, file: &str, what: impl Into<String>) -> Self {
        Self { health, file: file.into(), bytes: None, lsns: None, what: what.into() }
    }

    pub(crate) fn json(&self) -> String {
        let mut object = Object::new().text("severity", self.health.word()).text("file", &self.file);
        if let Some((from, end)) = self.bytes {
            object = object.number("from_byte", from).number("end_byte", end);
        }
        if let Some((first, end)) = self.lsns {
            object = object.number("first_lsn", first).number("end_lsn", end);
        }
        object.text("what", &self.what).end()
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.health.word(), self.file)?;
        if let Some((from, end)) = self.bytes {
            write!(f, ", bytes {from}..{end}")?;
        }
        if let Some((first, end)) = self.lsns {
            write!(f, ", LSN {first}..{end}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What a pass found.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) health: Health,
    pub(crate) findings: Vec<Finding>,
    pub(crate) frames: u64,
    pub(crate) records: u64,
    /// The LSN after the last one that is there.
    pub(crate) end_lsn: u64,
    /// Where the groups stand; empty when the log is refused.
    pub(crate) groups: Vec<GroupTail>,
    /// Bytes that cannot be read where frames may stand.
    pub(crate) unread_bytes: u64,
    pub(crate) names: Names,
}

/// Stands for a file's name where a finding is about no single one.
const ALL: &str = "all segments";
/// Most findings that are kept; more are only counted.
const FINDINGS: usize = 1_000;
/// Progress is said each time so much was read, bytes.
const PROGRESS_BYTES: u64 = 256 * 1024 * 1024;

struct Pass<'a> {
    log: &'a LogDir,
    findings: Vec<Finding>,
    unsaid: u64,
    damaged: bool,
    frames: u64,
    records: u64,
    names: Names,
    /// Whether entity names are learnt and sequences checked.
    track: bool,
    /// Consequences of damage: records whose predecessors are gone.
    orphans: u64,
    unread_bytes: u64,
    /// Per listed segment: first LSN and the one after the last.
    spans: Vec<Option<(u64, u64)>>,
    at: usize,
}

/// Reads the whole log once. With `track`, entity sequences are checked and `Verdict::names` filled.
pub(crate) fn pass(log: &LogDir, track: bool, sink: &mut dyn FnMut(&Seen<'_>)) -> Result<Verdict, Failure> {
    let mut pass = Pass {
        log,
        findings: Vec::new(),
        unsaid: 0,
        damaged: false,
        frames: 0,
        records: 0,
        names: Names::default(),
        track,
        orphans: 0,
        unread_bytes: 0,
        spans: vec![None; log.segments.len()],
        at: 0,
    };
    pass.files();
    let mut scan = Scan::new(log.salt(), log.manifest.incarnation);
    let mut survey = Survey::new(log.salt());
    let mut whole = true;
    let mut read = 0;
    for (at, segment) in log.segments.iter().enumerate() {
        pass.at = at;
        let entry = segment.entry;
        scan.begin_segment(entry.id, entry.blocks);
        survey.begin_segment(entry.id, entry.blocks);
        let wanted = u64::from(entry.blocks) * BLOCK_BYTES as u64;
        whole &= segment.len.is_some_and(|len| len >= wanted);
        if segment.len.is_some() {
            pass.segment(entry.id, wanted, &mut scan, &mut survey, &mut read, sink)?;
        }
        scan.end_segment(&mut |_| {});
        survey.end_segment();
    }
    pass.judge(scan, survey, whole, sink)
}

impl Pass<'_> {
    fn say(&mut self, finding: Finding) {
        self.damaged |= finding.health == Health::Damaged;
        if self.findings.len() < FINDINGS { self.findings.push(finding) } else { self.unsaid += 1 }
    }

    /// Identity, manifests, files that are missing, too short or unlisted.
    fn files(&mut self) {
        let log = self.log;
        if let Err(why) = &log.node {
            self.say(Finding::file(Health::Damaged, NODE, format!("the log's identity is {why}")));
        }
        match (&log.slots[0], &log.slots[1]) {
            (Err(one), Err(two)) => {
                let what = format!(
                    "no manifest: it is {one}, {} is {two}; the segment files are taken as they are",
                    MANIFESTS[1]
                );
                self.say(Finding::file(Health::Damaged, MANIFESTS[0], what));
            }
            (Ok(one), Ok(two)) if one != two => {
                let older = usize::from(one.generation > two.generation);
                let what = format!("an update did not reach this slot; {} has it", MANIFESTS[1 - older]);
                self.say(Finding::file(Health::Unfinished, MANIFESTS[older], what));
            }
            (Ok(_), Ok(_)) => {}
            (one, two) => {
                let (at, why) = match (one, two) {
                    (Err(why), _) => (0, why),
                    (_, Err(why)) => (1, why),
                    _ => return,
                };
                let what =
                    format!("this slot is {why}; {} alone suffices, and the next start mends it", MANIFESTS[1 - at]);
                self.say(Finding::file(Health::Unfinished, MANIFESTS[at], what));
            }
        }
        for segment in &log.segments {
            let name = segment_name(segment.entry.id);
            let wanted = u64::from(segment.entry.blocks) * BLOCK_BYTES as u64;
            match segment.len {
                None => self.say(Finding::file(
                    Health::Damaged,
                    &name,
                    "the manifest lists this segment, but it is missing",
                )),
                Some(len) if len < wanted => {
                    let what = format!("the segment has {len} bytes, the manifest says {wanted}");
                    self.say(Finding::file(Health::Damaged, &name, what));
                }
                Some(_) => {}
            }
        }
        for (name, _, found) in &log.strangers {
            let (health, what) = match found {
                Stranger::Used => (Health::Damaged, "the segment holds data, but no manifest lists it".to_owned()),
                Stranger::Empty => {
                    (Health::Unfinished, "an unlisted, empty segment: its making was interrupted".to_owned())
                }
                Stranger::Unreadable(why) => {
                    (Health::Damaged, format!("no manifest lists it, and it cannot be read: {why}"))
                }
            };
            self.say(Finding::file(health, name, what));
        }
        for (name, _, head) in &log.checkpoints {
            if let Err(why) = head {
                let what = format!("the checkpoint is {why}: a derived file, which the next start passes over");
                self.say(Finding::file(Health::Unfinished, name, what));
            }
        }
        if matches!(log.lock, crate::directory::Lock::Engine) {
            let what = "a running engine has the log open: its end may look unfinished while it is being written";
            self.say(Finding::file(Health::Unfinished, LOCK, what));
        }
    }

    fn segment(
        &mut self,
        id: u64,
        wanted: u64,
        scan: &mut Scan,
        survey: &mut Survey,
        read: &mut u64,
        sink: &mut dyn FnMut(&Seen<'_>),
    ) -> Result<(), Failure> {
        let mut reader = SegmentReader::open(self.log.segment_path(id))?;
        let mut chunk = vec![0; SCAN_CHUNK_BYTES];
        let mut holes = Holes { segment: id, open: None };
        let mut offset = 0;
        while offset < wanted {
            let size = usize::try_from(wanted - offset).unwrap_or(usize::MAX).min(SCAN_CHUNK_BYTES);
            let mut found = Vec::new();
            let got = reader.fill(offset, &mut chunk[..size], &mut found);
            let blocks = &chunk[..got / BLOCK_BYTES * BLOCK_BYTES];
            // For the rule of opening, a block that cannot be read is one where the log ends, unless a later frame proves more.
            scan.push(blocks, &mut |_| {});
            let mut at = 0;
            for hole in found {
                let from = within(hole.bytes.start, offset);
                let end = within(hole.bytes.end, offset);
                survey.push(&blocks[at..from], &mut |seen| self.take(&seen, sink));
                let count = u32::try_from((end - from) / BLOCK_BYTES).expect("a chunk has few blocks");
                let frames_may_stand = survey.push_unreadable(count, &mut |seen| self.take(&seen, sink));
                holes.add(hole, frames_may_stand, self);
                at = end;
            }
            survey.push(&blocks[at..], &mut |seen| self.take(&seen, sink));
            offset += size as u64;
            *read += got as u64;
            if read.is_multiple_of(PROGRESS_BYTES) && std::io::stderr().is_terminal() {
                eprintln!("{}: {} MiB read, LSN {}", self.log.name(), *read >> 20, survey.next_lsn());
            }
            if got < size {
                break;
            }
        }
        holes.end(self);
        Ok(())
    }

    /// A whole range that cannot be read. An engine refuses a log of which it cannot read a block.
    fn hole(&mut self, segment: u64, hole: &Hole, frames_may_stand: bool) {
        let consequence = match frames_may_stand {
            true => "what stood there is lost to every reader",
            false => "the segment's last frame stands before it, so that no record is concerned",
        };
        if frames_may_stand {
            self.unread_bytes += hole.bytes.end - hole.bytes.start;
        }
        self.say(Finding {
            health: Health::Damaged,
            file: segment_name(segment),
            bytes: Some((hole.bytes.start, hole.bytes.end)),
            lsns: None,
            what: format!("cannot be read: {}; {consequence}", hole.why),
        });
    }

    fn take(&mut self, seen: &Seen<'_>, sink: &mut dyn FnMut(&Seen<'_>)) {
        match seen {
            Seen::Frame(frame) => {
                self.frames += 1;
                let (first, end) = (frame.header.first_lsn, frame.header.first_lsn + frame.header.lsn_count());
                let span = self.spans[self.at].get_or_insert((first, end));
                span.1 = end;
            }
            Seen::Record(record) => {
                self.records += 1;
                if self.track
                    && let Err(why) = self.names.admit(record.segment, record.offset, &record.view)
                {
                    self.orphan(record.segment, record.offset, record.lsn, why);
                }
            }
            Seen::Damage(damage) => self.damage(damage),
        }
        sink(seen);
    }

    fn damage(&mut self, damage: &Damage) {
        self.say(Finding {
            health: Health::Damaged,
            file: segment_name(damage.segment),
            bytes: Some((damage.bytes.start, damage.bytes.end)),
            lsns: damage.lsns.as_ref().map(|lsns| (lsns.start, lsns.end)),
            what: damage.what.into(),
        });
    }

    /// A record that does not continue its entity: behind damage a consequence, else damage itself.
    fn orphan(&mut self, segment: u64, offset: u64, lsn: u64, why: OutOfPlace) {
        if self.damaged {
            self.orphans += 1;
            return;
        }
        let what = match why {
            OutOfPlace::Nameless => "a record's entity has no key definition before it".to_owned(),
            OutOfPlace::Gap { last_seq } => format!("an entity's records have a gap after number {last_seq}"),
            OutOfPlace::KeyDefinition => "a key definition contradicts an earlier one, or cannot be read".to_owned(),
        };
        self.say(Finding {
            health: Health::Damaged,
            file: segment_name(segment),
            bytes: Some((offset, offset)),
            lsns: Some((lsn, lsn + 1)),
            what,
        });
    }

    fn judge(
        mut self,
        scan: Scan,
        mut survey: Survey,
        whole: bool,
        sink: &mut dyn FnMut(&Seen<'_>),
    ) -> Result<Verdict, Failure> {
        let sealed_lsn = self.log.manifest.segments.iter().map(|entry| entry.end_lsn).max().unwrap_or(0);
        let verdict = scan.finish(sealed_lsn);
        let refused = match &verdict {
            Err(Refusal::Damaged { end_lsn, .. }) => Some(*end_lsn),
            _ => None,
        };
        survey.finish(refused, &mut |seen| self.take(&seen, sink));
        let mut groups = Vec::new();
        match verdict {
            Ok(tail) => {
                groups = tail.groups;
                if self.unread_bytes > 0 {
                    self.say(uncertain_end(tail.next_lsn, tail.at));
                } else if tail.torn
                    && let Some((segment, block)) = tail.at
                {
                    self.say(Finding {
                        health: Health::Unfinished,
                        file: segment_name(segment),
                        bytes: Some((u64::from(block) * BLOCK_BYTES as u64, u64::from(block + 1) * BLOCK_BYTES as u64)),
                        lsns: None,
                        what: format!("a torn tail behind LSN {}: a frame that nobody was told of", tail.next_lsn),
                    });
                }
            }
            // The survey has said it with more precision, unless it is about a file.
            Err(refusal) if whole && !self.damaged => {
                let segment = match &refusal {
                    Refusal::Damaged { segment, .. } | Refusal::Malformed { segment, .. } => *segment,
                };
                self.say(Finding::file(Health::Damaged, &segment_name(segment), refusal.to_string()));
            }
            Err(_) => {}
        }
        self.sealed();
        if self.orphans > 0 {
            let what = format!("{} later records continue entities whose records are among the damaged", self.orphans);
            self.say(Finding::file(Health::Damaged, ALL, what));
        }
        if self.unsaid > 0 {
            let what = format!("{} more findings", self.unsaid);
            let health = if self.damaged { Health::Damaged } else { Health::Unfinished };
            self.findings.push(Finding::file(health, ALL, what));
        }
        let health = self.findings.iter().map(|finding| finding.health).max().unwrap_or(Health::Clean);
        Ok(Verdict {
            health,
            findings: self.findings,
            frames: self.frames,
            records: self.records,
            end_lsn: survey.next_lsn(),
            groups,
            unread_bytes: self.unread_bytes,
            names: self.names,
        })
    }

    /// Sealed segments must hold what the manifest says. Said only when nothing else was: else it is a consequence.
    fn sealed(&mut self) {
        if self.damaged {
            return;
        }
        let log = self.log;
        for (segment, span) in log.segments.iter().zip(self.spans.clone()) {
            let entry = segment.entry;
            if entry.state == SegmentState::Sealed && span != Some((entry.first_lsn, entry.end_lsn)) {
                let what = format!("the manifest says LSN {}..{}", entry.first_lsn, entry.end_lsn);
                self.say(Finding {
                    health: Health::Damaged,
                    file: segment_name(entry.id),
                    bytes: None,
                    lsns: span,
                    what,
                });
            }
        }
    }
}

/// Puts holes together that reads of one chunk each found.
struct Holes {
    segment: u64,
    open: Option<(Hole, bool)>,
}

impl Holes {
    fn add(&mut self, hole: Hole, frames_may_stand: bool, pass: &mut Pass<'_>) {
        match self.open.as_mut() {
            Some((open, stands))
                if (open.bytes.end, &open.why, *stands) == (hole.bytes.start, &hole.why, frames_may_stand) =>
            {
                open.bytes.end = hole.bytes.end;
            }
            _ => {
                self.end(pass);
                self.open = Some((hole, frames_may_stand));
            }
        }
    }

    fn end(&mut self, pass: &mut Pass<'_>) {
        if let Some((hole, frames_may_stand)) = self.open.take() {
            pass.hole(self.segment, &hole, frames_may_stand);
        }
    }
}

/// Where a byte of the segment lies in the chunk that begins at `offset`.
fn within(byte: u64, offset: u64) -> usize {
    usize::try_from(byte - offset).expect("a chunk fits usize")
}

/// With blocks that cannot be read, a log may seem to end before them.
fn uncertain_end(next_lsn: u64, at: Option<(u64, u32)>) -> Finding {
    let what = format!(
        "the log seems to end at LSN {next_lsn}; whether acknowledged records stood in what cannot be read is not known"
    );
    Finding::file(Health::Damaged, &at.map_or_else(|| ALL.to_owned(), |(segment, _)| segment_name(segment)), what)
}
