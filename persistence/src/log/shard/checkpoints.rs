//! When checkpoints are begun, and how far the one that is being written is.
//!
//! A frame that is about to be sealed becomes the anchor of the next checkpoint when enough was written since the last one; the
//! writing begins when that frame is durable. Nothing here delays a commit by more than one background write of a chunk.
//!
//! Invariant: a failed checkpoint changes nothing but a counter. Shard thread only.

use std::io;
use std::rc::Rc;
use std::task::Poll;

use shardstage::port::service::ServiceContext;

use crate::format::checkpoint::CheckpointHead;
use crate::format::frame::FLAG_OPEN;
use crate::limits::{CHECKPOINT_RATIO, CHECKPOINT_RETRY_NS};
use crate::log::checkpoint::{Copying, Feed, write};
use crate::log::table::ENTRY_BYTES;
use crate::recovery::ScanPoint;

use super::{LogShard, State, Task};

/// See the module's head.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// Bytes of frames since the newest anchor.
    pub(super) since_bytes: u64,
    /// State before the frame that is in flight, which becomes the anchor.
    anchor: Option<ScanPoint>,
    /// The anchor is durable: the writing may begin.
    ready: Option<ScanPoint>,
    writing: Option<(Task<io::Result<()>>, Copying)>,
    retry_ns: u64,
    last: Last,
}

/// The checkpoint at an orderly end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Last {
    #[default]
    NotYet,
    /// The next frame is to be its anchor.
    Wanted,
    /// It is being written, was written, could not be, or was not needed.
    Settled,
}

impl Checkpoints {
    pub(super) fn are_busy(&self) -> bool {
        self.last == Last::Wanted || self.anchor.is_some() || self.ready.is_some() || self.writing.is_some()
    }

    /// When the next attempt is due, if there is one to be made.
    fn is_due(&self, every_bytes: u64, now_ns: u64) -> bool {
        let free = self.anchor.is_none() && self.ready.is_none() && self.writing.is_none();
        free && (self.last == Last::Wanted || self.since_bytes >= every_bytes && now_ns >= self.retry_ns)
    }
}

impl LogShard {
    /// The frame that is sealed next may become an anchor. Called before it is.
    pub(super) fn anchor_checkpoint(&mut self, flags: u16) {
        let Some(log) = self.log.as_ref() else { return };
        let table_bytes = self.index.table().len() as u64 * ENTRY_BYTES as u64;
        let every_bytes = self.options.checkpoint_bytes.max(table_bytes * CHECKPOINT_RATIO);
        let wanted = self.options.checkpoint_bytes > 0 && flags & FLAG_OPEN == 0;
        if wanted && self.checkpoints.is_due(every_bytes, self.turn_ns) {
            self.checkpoints.anchor = Some(log.point());
            if self.checkpoints.last == Last::Wanted {
                self.checkpoints.last = Last::Settled;
            }
        }
    }

    /// A frame is durable.
    pub(super) fn anchor_is_durable(&mut self, stored_bytes: usize) {
        self.checkpoints.since_bytes += stored_bytes as u64;
        if let Some(point) = self.checkpoints.anchor.take() {
            self.checkpoints.ready = Some(point);
            self.checkpoints.since_bytes = stored_bytes as u64;
        }
    }

    /// Begins the writing, and goes on with it.
    pub(super) fn keep_checkpoints(&mut self, cx: &mut ServiceContext<'_>) {
        self.turn_ns = cx.now_ns();
        let Some(log) = self.log.as_ref() else { return };
        if let Some(point) = self.checkpoints.ready.take() {
            let entries = self.index.table().last();
            let head = CheckpointHead {
                log_id: log.manifest.log_id,
                check: self.index.check(),
                entries: u64::from(entries),
                point,
            };
            let feed = Rc::new(Feed::default());
            let copying = Copying::new(&feed, entries);
            let dir = self.options.dir.join(format!("log-{}", self.seat.shard.get()));
            let task = Box::pin(write(self.desk.clone(), dir, log.directory, log.mode, head, feed));
            self.checkpoints.writing = Some((task, copying));
        }
        let Some((task, copying)) = self.checkpoints.writing.as_mut() else { return };
        let end_lsn = log.next_lsn;
        let written = loop {
            match self.desk.serve(task, cx) {
                Poll::Ready(written) => break written,
                Poll::Pending if copying.feed(self.index.table(), end_lsn) => {}
                Poll::Pending => return,
            }
        };
        self.checkpoints.writing = None;
        match written {
            Ok(()) => self.counters.checkpoints += 1,
            Err(_) => {
                self.counters.checkpoints_failed += 1;
                self.checkpoints.retry_ns = cx.now_ns() + CHECKPOINT_RETRY_NS;
                // The next frame that is due may be an anchor again.
                self.checkpoints.since_bytes = u64::MAX / 2;
            }
        }
    }

    /// At an orderly end without room for another frame: nothing that was accepted waits for one, and the rest is not needed.
    pub(super) fn end_without_room(&mut self) {
        let full =
            self.log.as_ref().is_some_and(|log| log.active_ended && log.ready.is_empty() && log.in_flight.is_none());
        if full && self.batches.is_empty() && !self.prepares() && self.spare_error.is_some() {
            self.checkpoints.last = Last::Settled;
            self.heartbeat_due_ns = None;
        }
    }

    /// At an orderly end: one more frame as the anchor of a last checkpoint, if something was written since the newest one.
    pub(super) fn end_with_checkpoint(&mut self, now_ns: u64) {
        let running = matches!(self.state, State::Running) && self.options.checkpoint_bytes > 0;
        let in_flight = self.log.as_ref().is_some_and(|log| log.in_flight.is_some());
        if running && self.checkpoints.last == Last::Wanted && !in_flight {
            // The frame that was to be its anchor went while another checkpoint was being written.
            self.heartbeat_due_ns = Some(now_ns).filter(|_| self.checkpoints.is_due(u64::MAX, now_ns));
        }
        if self.checkpoints.last != Last::NotYet || !self.batches.is_empty() {
            return;
        }
        // A heartbeat and the incarnation's first frame alone are not worth it.
        let changed = self.counters.events + self.counters.snapshots + self.counters.ledger_records > 0
            || self.counters.recovered_records > 0 && self.counters.checkpoints_used == 0;
        let (state, due) =
            if running && changed { (Last::Wanted, Some(now_ns)) } else { (Last::Settled, self.heartbeat_due_ns) };
        self.checkpoints.last = state;
        self.heartbeat_due_ns = due;
    }
}
