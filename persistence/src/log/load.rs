//! `Loader`: reads one entity's snapshot and later events back from the log, verified record by record.
//!
//! A load walks the entity's list from its last record back to the snapshot that it wants. One read of this list is in flight,
//! larger ones where the records turn out to lie close together, and beside it the one of the entity's name, unless that comes
//! with a record; at most [`LOAD_DEPTH`] reads of all loads.
//!
//! Invariant: what a load delivers is exactly what the index says is durable: the entity's name, each record's checksum, entity
//! and place in the list, and that no sequence is missing, are checked. Payloads start at multiples of 16 in memory, so that
//! archives are read in place. Shard thread only.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::FileCompletion;

use super::index::Entity;
use super::table::Entry;
use crate::format::position::Position;
use crate::format::record::{KeyDef, RECORD_ALIGN_BYTES, RecordHeader, RecordKind, RecordView};
use crate::limits::{BLOCK_BYTES, LOAD_DEPTH, LOAD_GAP_BYTES, LOAD_PAGE_BYTES, LOAD_READ_BYTES};
use crate::store::{EntityId, LoadError, LoadFrom, LoadedBytes, LoadedEntity, LoadedRecord, OnLoaded};

/// Blocks of a segment that were read.
struct Window {
    segment: u64,
    start: u64,
    buffer: IoBuffer,
    /// Bytes that the read gave.
    len: usize,
    /// The segment has nothing behind them.
    ends: bool,
}

impl Window {
    /// The bytes from `position` to the window's end; `None` when it does not lie in the window.
    fn at(&self, position: Position) -> Option<&[u8]> {
        let (from, to) = position.blocks();
        let inside = position.segment() == self.segment && from >= self.start && from < self.start + self.len as u64;
        // The last blocks of a position are a bound: the segment may end before them.
        let whole = to <= self.start + self.len as u64 || self.ends;
        if !inside || !whole {
            return None;
        }
        let at = usize::try_from(position.offset() - self.start).expect("it lies in the window");
        Some(&self.buffer[at.min(self.len)..self.len])
    }
}

/// A record that the walk has passed and the load delivers.
struct Passed {
    header: RecordHeader,
    position: Position,
    /// Where its payload was copied to: page and range; `None` for a snapshot that is only passed.
    payload: Option<(usize, Range<usize>)>,
}

/// Payloads of one load, at multiples of 16, without the gaps between them.
#[derive(Default)]
struct Pages {
    pages: Vec<IoBuffer>,
    used: usize,
}

impl Pages {
    fn keep(&mut self, payload: &[u8]) -> (usize, Range<usize>) {
        let room = self.pages.last().map_or(0, |page| page.len() - self.used);
        if self.pages.is_empty() || payload.len() > room {
            let next = self.pages.last().map_or(BLOCK_BYTES, |page| (page.len() * 2).min(LOAD_PAGE_BYTES));
            self.pages.push(IoBuffer::zeroed(next.max(payload.len())));
            self.used = 0;
        }
        let range = self.used..self.used + payload.len();
        let page = self.pages.len() - 1;
        self.pages[page][range.clone()].copy_from_slice(payload);
        self.used = range.end.next_multiple_of(RECORD_ALIGN_BYTES);
        (page, range)
    }
}

struct Job {
    entity: EntityId,
    type_name: Box<str>,
    key: Box<str>,
    from: LoadFrom,
    last_seq: u64,
    /// The key definition to be compared; `None` when that is done.
    key_at: Option<Position>,
    /// Whether it has a read of its own.
    key_is_read: bool,
    /// The record to be taken next.
    next: Option<Position>,
    /// How many bytes before the next record are read with it.
    ahead: u64,
    window: Option<Window>,
    /// Newest first.
    passed: Vec<Passed>,
    pages: Pages,
    on_loaded: OnLoaded,
}

/// A read to submit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadRead {
    pub(crate) token: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// The segment ends there.
    ends: bool,
}

/// What a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// The next record, with what lies close before it.
    Record,
    /// The key definition alone.
    Key,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Loader {
    jobs: BTreeMap<u64, Job>,
    /// Jobs that want a read.
    queue: VecDeque<(u64, Want)>,
    /// Reads in flight, by token: the job, what for, and what was asked for.
    reads: BTreeMap<u64, (u64, Want, LoadRead)>,
    next: u64,
}

impl Loader {
    /// Begins the load of an entity whose records are all durable. Answers at once when there is nothing to read.
    pub(crate) fn begin(&mut self, id: EntityId, entity: &Entity, entry: &Entry, from: LoadFrom, on_loaded: OnLoaded) {
        let mut job = Job {
            entity: id,
            type_name: entity.type_name.clone(),
            key: entity.key.clone(),
            from,
            last_seq: entry.seq(),
            key_at: entry.key_at(),
            key_is_read: false,
            next: entry.tail(),
            ahead: 0,
            window: None,
            passed: Vec::new(),
            pages: Pages::default(),
            on_loaded,
        };
        if job.next.is_none() && job.key_at.is_none() {
            return job.end(Ok(()));
        }
        self.next += 1;
        let number = self.next;
        if job.next.is_some() {
            self.queue.push_back((number, Want::Record));
        }
        if job.key_at.is_some() && job.key_beside_record().is_none() {
            job.key_is_read = true;
            self.queue.push_back((number, Want::Key));
        }
        self.jobs.insert(number, job);
    }

    /// The next read to submit, if there is one and room for it.
    pub(crate) fn next_read(&mut self) -> Option<LoadRead> {
        if self.reads.len() >= LOAD_DEPTH {
            return None;
        }
        loop {
            let (number, want) = self.queue.pop_front()?;
            let Some(job) = self.jobs.get(&number) else { continue };
            let Some((segment, start, end)) = job.wanted(want) else { continue };
            self.next += 1;
            let len = usize::try_from(end - start).expect("a read is bounded");
            let read = LoadRead { token: self.next, segment, offset: start, len, ends: false };
            self.reads.insert(read.token, (number, want, read));
            return Some(read);
        }
    }

    /// The read goes no further than its segment.
    pub(crate) fn shorten(&mut self, token: u64, len: usize) {
        if let Some((.., read)) = self.reads.get_mut(&token) {
            read.ends |= len < read.len;
            read.len = len;
        }
    }

    /// One read ended.
    pub(crate) fn completed(&mut self, token: u64, completion: FileCompletion) {
        let Some((number, want, read)) = self.reads.remove(&token) else { return };
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let LoadRead { segment, offset, len: wanted, ends, .. } = read;
        let window = match (completion.result, completion.buffer) {
            (Ok(len), Some(buffer)) if len == wanted => Window { segment, start: offset, buffer, len, ends },
            (result, _) => {
                let why = match result {
                    Ok(read) => format!("segment {segment:016x}: read {read} of {wanted} bytes"),
                    Err(error) => format!("segment {segment:016x}: {error}"),
                };
                return self.end(number, Err(LoadError::Io(why)));
            }
        };
        match job.take(want, window) {
            Ok(Step::Done) => self.end(number, Ok(())),
            Ok(Step::Reads(want)) => self.queue.push_back((number, want)),
            Ok(Step::Waits) => {}
            Err(error) => self.end(number, Err(error)),
        }
    }

    /// A read could not even be submitted.
    pub(crate) fn refused(&mut self, token: u64, why: String) {
        if let Some((job, ..)) = self.reads.remove(&token) {
            self.end(job, Err(LoadError::Io(why)));
        }
    }

    /// Ends every load.
    pub(crate) fn close(&mut self) {
        self.queue.clear();
        for (_, job) in std::mem::take(&mut self.jobs) {
            job.end(Err(LoadError::Closed));
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.reads.is_empty()
    }

    fn end(&mut self, number: u64, result: Result<(), LoadError>) {
        if let Some(job) = self.jobs.remove(&number) {
            job.end(result);
        }
    }
}

/// How a load goes on after a read.
enum Step {
    Done,
    Reads(Want),
    /// Its other read is on its way.
    Waits,
}

impl Job {
    /// Segment and bytes of a read; `None` when it is not needed any more.
    fn wanted(&self, want: Want) -> Option<(u64, u64, u64)> {
        if want == Want::Key {
            let at = self.key_at?;
            let (start, end) = at.blocks();
            return Some((at.segment(), start, end));
        }
        let next = self.next?;
        let (start, end) = next.blocks();
        let ahead = self.ahead.min(LOAD_READ_BYTES.saturating_sub(end - start));
        let start = self.key_beside_record().unwrap_or_else(|| start.saturating_sub(ahead));
        Some((next.segment(), start, end))
    }

    /// Where the key definition's blocks begin, if they lie just before the next record: then one read fetches both.
    fn key_beside_record(&self) -> Option<u64> {
        let (key, next) = (self.key_at?, self.next?);
        let (start, key_start) = (next.blocks().0, key.blocks().0);
        let near = key.segment() == next.segment() && key_start <= start && start - key_start <= LOAD_GAP_BYTES;
        near.then_some(key_start)
    }

    /// Takes what was read.
    fn take(&mut self, want: Want, window: Window) -> Result<Step, LoadError> {
        self.check_key(&window)?;
        if want == Want::Key {
            return match self.key_at {
                Some(at) => Err(LoadError::Damaged { segment: at.segment(), offset: at.offset(), snapshot: None }),
                None => Ok(if self.next.is_none() { Step::Done } else { Step::Waits }),
            };
        }
        self.window = Some(window);
        if !self.walk()? {
            return Ok(Step::Reads(Want::Record));
        }
        if self.key_at.is_none() {
            return Ok(Step::Done);
        }
        if self.key_is_read {
            return Ok(Step::Waits);
        }
        self.key_is_read = true;
        Ok(Step::Reads(Want::Key))
    }

    /// Takes the records that the window has; whether they are all there.
    fn walk(&mut self) -> Result<bool, LoadError> {
        while let Some(position) = self.next {
            let Some(bytes) = self.window.as_ref().and_then(|window| window.at(position)) else { return Ok(false) };
            let damaged =
                |snapshot| LoadError::Damaged { segment: position.segment(), offset: position.offset(), snapshot };
            let (header, _) = RecordHeader::decode(bytes).map_err(|_| damaged(None))?;
            let follows = header.prev.is_none_or(|prev| prev < position);
            if header.entity != self.entity.0 || header.kind == RecordKind::KeyDef || !follows {
                return Err(damaged(None));
            }
            let snapshot = (header.kind == RecordKind::Snapshot).then_some(header.seq);
            let starts = snapshot.is_some_and(|seq| match self.from {
                LoadFrom::Newest => true,
                LoadFrom::Before(limit) => seq < limit,
                LoadFrom::Start => false,
            });
            // A snapshot that is only passed may be damaged: its head tells what is before it.
            let payload = if snapshot.is_some() && !starts {
                None
            } else {
                let view = RecordView::decode(bytes).map_err(|_| damaged(snapshot))?;
                Some(self.pages.keep(view.payload))
            };
            self.passed.push(Passed { header, position, payload });
            let near = header.prev.is_some_and(|prev| {
                prev.segment() == position.segment()
                    && position.offset() - prev.offset() <= LOAD_GAP_BYTES.max(self.ahead)
            });
            self.ahead = if near { (self.ahead * 2).clamp(LOAD_GAP_BYTES, LOAD_READ_BYTES) } else { 0 };
            self.next = if starts { None } else { header.prev };
        }
        Ok(true)
    }

    /// Compares the entity's name if the window has its definition.
    fn check_key(&mut self, window: &Window) -> Result<(), LoadError> {
        let Some(position) = self.key_at else { return Ok(()) };
        let Some(bytes) = window.at(position) else { return Ok(()) };
        let (segment, offset) = (position.segment(), position.offset());
        let damaged = LoadError::Damaged { segment, offset, snapshot: None };
        let view = RecordView::decode(bytes).map_err(|_| damaged.clone())?;
        if view.header.kind != RecordKind::KeyDef || view.header.entity != self.entity.0 {
            return Err(damaged);
        }
        let def = KeyDef::decode(view.payload).ok_or(damaged)?;
        if *def.type_name != *self.type_name || *def.key != *self.key {
            return Err(LoadError::SameFingerprint);
        }
        self.key_at = None;
        Ok(())
    }

    fn end(self, result: Result<(), LoadError>) {
        let Self { entity, last_seq, passed, pages, on_loaded, .. } = self;
        on_loaded(result.and_then(|()| assemble(entity, passed, pages, last_seq)));
    }
}

/// Puts what a walk passed in order, and checks that nothing is missing.
fn assemble(entity: EntityId, passed: Vec<Passed>, pages: Pages, last_seq: u64) -> Result<LoadedEntity, LoadError> {
    let pages: Vec<Rc<IoBuffer>> = pages.pages.into_iter().map(Rc::new).collect();
    let mut loaded = LoadedEntity { entity, snapshot: None, events: Vec::new(), ledger: Vec::new(), last_seq };
    let mut seq = 0;
    for (nth, Passed { header, position, payload }) in passed.into_iter().rev().enumerate() {
        let (segment, offset) = (position.segment(), position.offset());
        let before = seq;
        let starts = nth == 0 && header.kind == RecordKind::Snapshot;
        seq = match header.kind.follows(before, header.seq) {
            _ if starts => header.seq,
            Ok(seq) => seq,
            Err(_) => return Err(LoadError::Damaged { segment, offset, snapshot: None }),
        };
        let Some((page, range)) = payload else {
            // A state that was saved as a whole: no events lead past it.
            if seq != before {
                return Err(LoadError::NotKept);
            }
            continue;
        };
        let payload = LoadedBytes::new(Rc::clone(&pages[page]), range);
        let record = LoadedRecord { header, payload, segment, offset };
        match header.kind {
            RecordKind::Snapshot => loaded.snapshot = Some(record),
            RecordKind::Event => loaded.events.push(record),
            _ => loaded.ledger.push(record),
        }
    }
    if seq == last_seq {
        return Ok(loaded);
    }
    Err(LoadError::Io(format!("the entity's records end at {seq}, its index says {last_seq}")))
}
