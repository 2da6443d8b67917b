//! What a log does beside its commits: spare segments, loads, the age of the frame in flight, closing.
//!
//! Invariant: none of it delays a commit by more than one bounded background write. Shard thread only.

use std::path::PathBuf;
use std::task::Poll;

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::FileOp;
use shardstage::port::service::ServiceContext;

use crate::format::manifest::SegmentState;
use crate::limits::{BLOCK_BYTES, DEAD_COMMIT_NS, SLOW_COMMIT_NS, SPARE_RETRY_NS, SPARE_SEGMENTS};
use crate::log::files::{PrepareError, Unlisted, list_segment, prepare_segment};
use crate::log::open::seal_entries;
use crate::log::token::{Token, TokenKind};
use crate::store::LoadError;

use super::{Listed, LogShard, State, Task};

impl LogShard {
    pub(super) fn keep_spares(&mut self, cx: &mut ServiceContext<'_>) {
        if let Some(task) = self.preparing.as_mut()
            && let Poll::Ready(prepared) = self.desk.serve(task, cx)
        {
            self.preparing = None;
            self.prepared(prepared, cx);
        }
        self.keep_listed(cx);
        let Some(log) = self.log.as_ref() else { return };
        let wanted = matches!(self.state, State::Running)
            && (!self.stopping || log.active_ended && log.ready.is_empty())
            && !self.prepares()
            && log.ready.len() < SPARE_SEGMENTS
            && cx.now_ns() >= self.spare_retry_ns;
        if !wanted {
            return;
        }
        let (desk, dir, manifest) = (self.desk.clone(), self.directory(), log.manifest.clone());
        let (directory, mode) = (log.directory, log.mode);
        let blocks = u32::try_from(self.options.segment_bytes / BLOCK_BYTES as u64).expect("checked at the start");
        let mut task: Task<_> =
            Box::pin(async move { prepare_segment(&desk, &dir, directory, mode, blocks, &manifest).await });
        match self.desk.serve(&mut task, cx) {
            Poll::Ready(prepared) => self.prepared(prepared, cx),
            Poll::Pending => self.preparing = Some(task),
        }
    }

    /// Whether a spare or the manifest is being written.
    pub(super) fn prepares(&self) -> bool {
        self.preparing.is_some() || self.unlisted.is_some() || self.listing.is_some()
    }

    /// Writes the manifest when a spare is to be listed, or the segment before the active one to be sealed: at once when the log
    /// goes on to the next segment, since frames may have to wait for it.
    pub(super) fn keep_listed(&mut self, cx: &mut ServiceContext<'_>) {
        if let Some(task) = self.listing.as_mut()
            && let Poll::Ready(listed) = self.desk.serve(task, cx)
        {
            self.listing = None;
            self.listed(listed, cx);
        }
        let Some(log) = self.log.as_ref() else { return };
        let wanted = self.unlisted.is_some() || !log.begun_is_listed;
        if !matches!(self.state, State::Running) || self.listing.is_some() || !wanted {
            return;
        }
        let mut manifest = log.manifest.clone();
        seal_entries(&mut manifest.segments, &log.spans, log.active.id);
        let (desk, dir, segment) = (self.desk.clone(), self.directory(), self.unlisted.take());
        let (directory, mode) = (log.directory, log.mode);
        let mut task: Task<_> =
            Box::pin(async move { list_segment(&desk, &dir, directory, mode, segment, manifest).await });
        match self.desk.serve(&mut task, cx) {
            Poll::Ready(listed) => self.listed(listed, cx),
            Poll::Pending => self.listing = Some(task),
        }
    }

    fn prepared(&mut self, prepared: Result<Unlisted, PrepareError>, cx: &mut ServiceContext<'_>) {
        match prepared {
            Ok(segment) => {
                self.unlisted = Some(segment);
                self.spare_error = None;
            }
            Err(error) => self.unprepared(error, cx),
        }
    }

    fn listed(&mut self, listed: Listed, cx: &mut ServiceContext<'_>) {
        let Some(log) = self.log.as_mut() else { return };
        match listed {
            Ok((segment, manifest)) => {
                log.ready.extend(segment);
                log.manifest = manifest;
                // The active segment may be another one than when the manifest was made.
                let before = log.manifest.segments.iter().rfind(|entry| entry.id < log.active.id);
                log.begun_is_listed = before.is_none_or(|entry| entry.state == SegmentState::Sealed);
            }
            Err(error) => self.unprepared(error, cx),
        }
    }

    fn unprepared(&mut self, error: PrepareError, cx: &mut ServiceContext<'_>) {
        match error {
            PrepareError::Space(error) => {
                self.spare_error = Some(error.to_string());
                self.spare_retry_ns = cx.now_ns() + SPARE_RETRY_NS;
            }
            PrepareError::Sync(error) => self.poison(format!("the log's directory could not be synced: {error}"), cx),
            PrepareError::Manifest(error) => self.poison(format!("the manifest could not be written: {error}"), cx),
        }
    }

    fn directory(&self) -> PathBuf {
        self.options.dir.join(format!("log-{}", self.seat.shard.get()))
    }

    pub(super) fn serve_loads(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        let mut did = false;
        for _ in 0..self.loads.len() {
            let Some((id, from, on_loaded)) = self.loads.pop_front() else { break };
            let Some(entity) = self.index.find(id) else {
                on_loaded(Err(LoadError::Closed));
                continue;
            };
            if entity.batch > self.durable_batch {
                self.loads.push_back((id, from, on_loaded));
                continue;
            }
            did = true;
            self.counters.loads += 1;
            let entry = self.index.durable(id).expect("entities in use have their entry");
            self.loader.begin(id, entity, entry, from, on_loaded);
        }
        while let Some(read) = self.loader.next_read() {
            did = true;
            let Some(log) = self.log.as_mut() else { break };
            let dir = self.options.dir.join(format!("log-{}", self.seat.shard.get()));
            let room = log.segment_bytes(read.segment).saturating_sub(read.offset);
            let len = read.len.min(usize::try_from(room).unwrap_or(usize::MAX));
            if len == 0 {
                let why = format!("segment {:016x} has no byte {}", read.segment, read.offset);
                self.loader.refused(read.token, why);
                continue;
            }
            self.loader.shorten(read.token, len);
            match log.reader(read.segment, &dir, cx) {
                Ok(file) => {
                    let token = Token { kind: TokenKind::Load, value: read.token }.pack();
                    cx.submit(token, file, FileOp::Read { offset: read.offset, buffer: IoBuffer::zeroed(len) });
                }
                Err(error) => self.loader.refused(read.token, format!("segment {:016x}: {error}", read.segment)),
            }
        }
        did
    }

    pub(super) fn check_age(&mut self, cx: &mut ServiceContext<'_>) {
        let now_ns = cx.now_ns();
        let Some(frame) = self.log.as_mut().and_then(|log| log.in_flight.as_mut()) else { return };
        let age_ns = now_ns.saturating_sub(frame.since_ns);
        if age_ns >= SLOW_COMMIT_NS && !frame.slow {
            frame.slow = true;
            self.counters.slow_commits += 1;
        }
        if age_ns >= DEAD_COMMIT_NS {
            self.poison(format!("a frame's write did not end within {} s", DEAD_COMMIT_NS / 1_000_000_000), cx);
        }
    }

    pub(super) fn close(&mut self, cx: &mut ServiceContext<'_>) {
        if let Some(log) = self.log.take() {
            let files = [log.active.file, log.directory, log.lock];
            let ready = log.ready.iter().map(|segment| segment.file);
            for file in files.into_iter().chain(ready).chain(log.readers.into_values()) {
                cx.driver().close(file);
            }
        }
        for (.., on_loaded) in std::mem::take(&mut self.loads) {
            on_loaded(Err(LoadError::Closed));
        }
        if !matches!(self.state, State::Poisoned(_)) {
            self.state = State::Closed;
        }
    }
}
