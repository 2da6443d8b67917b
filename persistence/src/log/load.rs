//! `Loader`: reads one entity's snapshot and later events back from the log, verified record by record.
//!
//! A load walks the entity's list from its last record back to the snapshot that it wants. One read of each load is in flight,
//! larger ones where the records turn out to lie close together, and at most [`LOAD_DEPTH`] of all loads.
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

/// See the module's head.
#[derive(Default)]
pub(crate) struct Loader {
    jobs: BTreeMap<u64, Job>,
    /// Jobs that want their next read.
    queue: VecDeque<u64>,
    /// Reads in flight, by token: the job, and what was asked for.
    reads: BTreeMap<u64, (u64, LoadRead)>,
    next: u64,
}

impl Loader {
    /// Begins the load of an entity whose records are all durable. Answers at once when there is nothing to read.
    pub(crate) fn begin(&mut self, id: EntityId, entity: &Entity, entry: &Entry, from: LoadFrom, on_loaded: OnLoaded) {
        let job = Job {
            entity: id,
            type_name: entity.type_name.clone(),
            key: entity.key.clone(),
            from,
            last_seq: entry.seq(),
            key_at: entry.key_at(),
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
        self.jobs.insert(self.next, job);
        self.queue.push_back(self.next);
    }

    /// The next read to submit, if there is one and room for it.
    pub(crate) fn next_read(&mut self) -> Option<LoadRead> {
        if self.reads.len() >= LOAD_DEPTH {
            return None;
        }
        loop {
            let number = self.queue.pop_front()?;
            let Some(job) = self.jobs.get(&number) else { continue };
            let Some((segment, start, end)) = job.wanted() else { continue };
            self.next += 1;
            let len = usize::try_from(end - start).expect("a read is bounded");
            let read = LoadRead { token: self.next, segment, offset: start, len, ends: false };
            self.reads.insert(read.token, (number, read));
            return Some(read);
        }
    }

    /// The read goes no further than its segment.
    pub(crate) fn shorten(&mut self, token: u64, len: usize) {
        if let Some((_, read)) = self.reads.get_mut(&token) {
            read.ends |= len < read.len;
            read.len = len;
        }
    }

    /// One read ended.
    pub(crate) fn completed(&mut self, token: u64, completion: FileCompletion) {
        let Some((number, read)) = self.reads.remove(&token) else { return };
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let LoadRead { segment, offset, len: wanted, ends, .. } = read;
        match (completion.result, completion.buffer) {
            (Ok(len), Some(buffer)) if len == wanted => {
                job.window = Some(Window { segment, start: offset, buffer, len, ends });
            }
            (result, _) => {
                let why = match result {
                    Ok(read) => format!("segment {segment:016x}: read {read} of {wanted} bytes"),
                    Err(error) => format!("segment {segment:016x}: {error}"),
                };
                return self.end(number, Err(LoadError::Io(why)));
            }
        }
        match job.walk() {
            Ok(true) => self.end(number, Ok(())),
            Ok(false) => self.queue.push_back(number),
            Err(error) => self.end(number, Err(error)),
        }
    }

    /// A read could not even be submitted.
    pub(crate) fn refused(&mut self, token: u64, why: String) {
        if let Some((job, _)) = self.reads.remove(&token) {
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

impl Job {
    /// Segment and bytes of the next read.
    fn wanted(&self) -> Option<(u64, u64, u64)> {
        let key = self.key_at.map(|at| (at.segment(), at.blocks()));
        let Some(next) = self.next else { return key.map(|(segment, (start, end))| (segment, start, end)) };
        let (start, end) = next.blocks();
        let segment = next.segment();
        // The key definition is fetched with the record if it lies just before it.
        if let Some((key_segment, (key_start, _))) = key
            && key_segment == segment
            && key_start <= start
            && start - key_start <= LOAD_GAP_BYTES
        {
            return Some((segment, key_start, end));
        }
        Some((segment, start.saturating_sub(self.ahead.min(LOAD_READ_BYTES.saturating_sub(end - start))), end))
    }

    /// Takes what the window has; whether the load is finished.
    fn walk(&mut self) -> Result<bool, LoadError> {
        self.check_key()?;
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
        if self.key_at.is_some() {
            return Ok(false);
        }
        Ok(true)
    }

    /// Compares the entity's name if the window has its definition.
    fn check_key(&mut self) -> Result<(), LoadError> {
        let Some(position) = self.key_at else { return Ok(()) };
        let Some(bytes) = self.window.as_ref().and_then(|window| window.at(position)) else { return Ok(()) };
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
