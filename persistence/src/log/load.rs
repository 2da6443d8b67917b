//! `Loader`: reads one entity's snapshot and later events back from the log, verified record by record.
//!
//! Reads are asynchronous, gathered where records lie close together, and at most [`LOAD_DEPTH`] are in flight.
//!
//! Invariant: what a load delivers is exactly what the index says is durable: each record's checksum, entity and sequence
//! are checked. Payloads start at multiples of 16 in memory, so that archives are read in place. Shard thread only.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::FileCompletion;

use super::index::{Entity, Position};
use crate::format::record::{RECORD_HEADER_BYTES, RecordKind, RecordView};
use crate::limits::{BLOCK_BYTES, LOAD_DEPTH, LOAD_GAP_BYTES, LOAD_READ_BYTES};
use crate::store::{EntityId, LoadError, LoadFrom, LoadedBytes, LoadedEntity, LoadedRecord, OnLoaded};

/// A read of one stretch of one segment, and the records in it.
struct Stretch {
    segment: u64,
    start: u64,
    end: u64,
    wanted: Vec<(RecordKind, u64, Position)>,
    buffer: Option<Rc<IoBuffer>>,
}

struct Job {
    entity: EntityId,
    stretches: Vec<Stretch>,
    missing: usize,
    last_seq: u64,
    on_loaded: OnLoaded,
}

/// A read to submit.
pub(crate) struct LoadRead {
    pub(crate) token: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Loader {
    jobs: BTreeMap<u64, Job>,
    /// (job, stretch) of reads to submit.
    queue: VecDeque<(u64, usize)>,
    /// (job, stretch) of reads in flight, by token.
    reads: BTreeMap<u64, (u64, usize)>,
    next: u64,
}

impl Loader {
    /// Plans the load of an entity whose records are all durable. Answers at once when there is nothing to read.
    pub(crate) fn begin(&mut self, id: EntityId, entity: &Entity, from: LoadFrom, on_loaded: OnLoaded) {
        let Some(wanted) = entity.records(from) else {
            on_loaded(Err(LoadError::NotKept));
            return;
        };
        let stretches = plan(wanted);
        let last_seq = entity.durable_seq();
        if stretches.is_empty() {
            let (snapshot, events, ledger) = (None, Vec::new(), Vec::new());
            on_loaded(Ok(LoadedEntity { entity: id, snapshot, events, ledger, last_seq }));
            return;
        }
        self.next += 1;
        let job = self.next;
        self.queue.extend((0..stretches.len()).map(|stretch| (job, stretch)));
        let missing = stretches.len();
        self.jobs.insert(job, Job { entity: id, stretches, missing, last_seq, on_loaded });
    }

    /// The next read to submit, if there is one and room for it.
    pub(crate) fn next_read(&mut self) -> Option<LoadRead> {
        if self.reads.len() >= LOAD_DEPTH {
            return None;
        }
        loop {
            let (job, at) = self.queue.pop_front()?;
            // A job that failed is gone; its reads are not worth making.
            let Some(stretch) = self.jobs.get(&job).map(|job| &job.stretches[at]) else { continue };
            self.next += 1;
            self.reads.insert(self.next, (job, at));
            let len = usize::try_from(stretch.end - stretch.start).expect("a stretch is bounded");
            return Some(LoadRead { token: self.next, segment: stretch.segment, offset: stretch.start, len });
        }
    }

    /// One read ended.
    pub(crate) fn completed(&mut self, token: u64, completion: FileCompletion) {
        let Some((number, at)) = self.reads.remove(&token) else { return };
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let stretch = &mut job.stretches[at];
        let wanted = usize::try_from(stretch.end - stretch.start).expect("a stretch is bounded");
        match (completion.result, completion.buffer) {
            (Ok(read), Some(buffer)) if read == wanted => stretch.buffer = Some(Rc::new(buffer)),
            (result, _) => {
                let why = match result {
                    Ok(read) => format!("segment {:016x}: read {read} of {wanted} bytes", stretch.segment),
                    Err(error) => format!("segment {:016x}: {error}", stretch.segment),
                };
                self.fail(number, LoadError::Io(why));
                return;
            }
        }
        job.missing -= 1;
        if job.missing == 0 {
            let job = self.jobs.remove(&number).expect("looked up above");
            (job.on_loaded)(assemble(job.entity, &job.stretches, job.last_seq));
        }
    }

    /// A read could not even be submitted.
    pub(crate) fn refused(&mut self, token: u64, why: String) {
        if let Some((job, _)) = self.reads.remove(&token) {
            self.fail(job, LoadError::Io(why));
        }
    }

    /// Ends every load.
    pub(crate) fn close(&mut self) {
        self.queue.clear();
        for (_, job) in std::mem::take(&mut self.jobs) {
            (job.on_loaded)(Err(LoadError::Closed));
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.reads.is_empty()
    }

    fn fail(&mut self, job: u64, error: LoadError) {
        if let Some(job) = self.jobs.remove(&job) {
            (job.on_loaded)(Err(error));
        }
    }
}

/// Gathers records that lie close together into single reads.
fn plan(wanted: impl Iterator<Item = (RecordKind, u64, Position)>) -> Vec<Stretch> {
    let block = BLOCK_BYTES as u64;
    let mut stretches: Vec<Stretch> = Vec::new();
    for (kind, seq, position) in wanted {
        let start = position.offset() / block * block;
        let end = (position.offset() + u64::from(position.stored_bytes)).next_multiple_of(block);
        match stretches.last_mut() {
            Some(last)
                if last.segment == position.segment()
                    && start >= last.start
                    && start <= last.end + LOAD_GAP_BYTES
                    && end - last.start <= LOAD_READ_BYTES =>
            {
                last.end = last.end.max(end);
                last.wanted.push((kind, seq, position));
            }
            _ => stretches.push(Stretch {
                segment: position.segment(),
                start,
                end,
                wanted: vec![(kind, seq, position)],
                buffer: None,
            }),
        }
    }
    stretches
}

fn assemble(entity: EntityId, stretches: &[Stretch], last_seq: u64) -> Result<LoadedEntity, LoadError> {
    let mut loaded = LoadedEntity { entity, snapshot: None, events: Vec::new(), ledger: Vec::new(), last_seq };
    for stretch in stretches {
        let buffer = stretch.buffer.as_ref().expect("a finished job has every buffer");
        for (kind, seq, position) in &stretch.wanted {
            let (segment, offset) = (position.segment(), position.offset());
            let at = usize::try_from(offset - stretch.start).expect("a stretch is bounded");
            let snapshot = (*kind == RecordKind::Snapshot).then_some(*seq);
            let damaged = LoadError::Damaged { segment, offset, snapshot };
            let view = RecordView::decode(&buffer[at..]).map_err(|_| damaged.clone())?;
            if view.header.entity != entity.0 || view.header.seq != *seq || view.header.kind != *kind {
                return Err(damaged);
            }
            let start = at + RECORD_HEADER_BYTES;
            let payload = LoadedBytes::new(Rc::clone(buffer), start..start + view.payload.len());
            let record = LoadedRecord { header: view.header, payload, segment, offset };
            match kind {
                RecordKind::Snapshot => loaded.snapshot = Some(record),
                RecordKind::Event => loaded.events.push(record),
                _ => loaded.ledger.push(record),
            }
        }
    }
    Ok(loaded)
}
