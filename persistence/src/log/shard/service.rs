//! The log as a [`Service`]: how a shard's turns drive it.
//!
//! Invariant: frames are submitted at the end of a turn only, so that all of its appends share one. Shard thread only.

use std::rc::Rc;
use std::task::Poll;

use shardstage::port::driver::FileCompletion;
use shardstage::port::service::{Service, ServiceContext, ServiceError, Started};

use crate::limits::{DEAD_COMMIT_NS, SLOW_COMMIT_NS};
use crate::log::open::open;
use crate::log::token::{Token, TokenKind};

use super::{LogShard, NAME, State};

impl Service for LogShard {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start(&mut self, cx: &mut ServiceContext<'_>) -> Result<Started, ServiceError> {
        if matches!(self.state, State::Created) {
            self.state = State::Opening(Box::pin(open(self.desk.clone(), self.plan())));
        }
        if let State::Opening(task) = &mut self.state
            && let Poll::Ready(result) = self.desk.serve(task, cx)
        {
            match result {
                Ok(opened) => self.begin(opened, cx),
                Err(error) => {
                    self.state = State::Closed;
                    return Err(ServiceError { service: NAME, reason: error.to_string() });
                }
            }
        }
        match &self.state {
            State::Running => Ok(Started::Ready),
            State::Poisoned(why) => Err(ServiceError { service: NAME, reason: why.clone() }),
            State::Closed => Err(ServiceError { service: NAME, reason: "the log was closed".into() }),
            _ => Ok(Started::Pending),
        }
    }

    fn completed(&mut self, completion: FileCompletion, cx: &mut ServiceContext<'_>) {
        let (_, token) = ServiceContext::split_token(completion.token);
        match Token::unpack(token) {
            Some(Token { kind: TokenKind::FrameWrite, .. }) => self.frame_written(completion, cx),
            Some(Token { kind: TokenKind::FrameSync, .. }) => self.frame_synced(completion.result, cx),
            Some(Token { kind: TokenKind::Task, value }) => self.desk.answer(value, completion),
            Some(Token { kind: TokenKind::Load, value }) => self.loader.completed(value, completion),
            None => debug_assert!(false, "a completion with a token that the log never used"),
        }
    }

    fn poll(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        self.keep_spares(cx);
        self.keep_checkpoints(cx);
        self.check_age(cx);
        let shared = Rc::clone(&self.shared);
        let paced = shared.pace(self);
        self.serve_owing(cx) | self.serve_loads(cx) | paced
    }

    fn flush(&mut self, cx: &mut ServiceContext<'_>) {
        let shared = Rc::clone(&self.shared);
        shared.begin_loads(self);
        self.serve_loads(cx);
        self.serve_owing(cx);
        self.submit_next(cx);
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        let frame = self.log.as_ref().and_then(|log| log.in_flight.as_ref());
        let age = frame.map(|frame| frame.since_ns + if frame.slow { DEAD_COMMIT_NS } else { SLOW_COMMIT_NS });
        let retry = self.spare_error.as_ref().filter(|_| self.preparing.is_none()).map(|_| self.spare_retry_ns);
        let behind = (self.shared.is_behind() || self.desk.wants_turn()).then_some(0);
        // A heartbeat that has no place yet waits for the segment, not for the clock.
        let has_place =
            self.log.as_ref().is_some_and(|log| (!log.active_ended || !log.ready.is_empty()) && log.may_write(1));
        let heartbeat = self.heartbeat_due_ns.filter(|_| has_place && frame.is_none());
        [heartbeat, age, retry, behind].into_iter().flatten().min()
    }

    fn commit_in_flight(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.in_flight.is_some())
    }

    fn stop(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        self.stopping = true;
        self.keep_spares(cx);
        self.keep_checkpoints(cx);
        self.serve_loads(cx);
        self.serve_owing(cx);
        self.end_with_checkpoint(cx.now_ns());
        self.submit_next(cx);
        self.end_without_room();
        let waits = self.commit_in_flight()
            || !self.batches.is_empty()
            || self.heartbeat_due_ns.is_some()
            || self.checkpoints.are_busy()
            || self.naming.is_some();
        let done = match self.state {
            State::Running => !waits && !self.prepares() && self.loads.is_empty() && self.loader.is_idle(),
            State::Beginning => false,
            // Nothing was promised yet: the next start opens again, wherever this one got to.
            State::Created | State::Opening(_) | State::Poisoned(_) | State::Closed => true,
        };
        if done {
            self.close(cx);
        }
        done
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        let mut counters = vec![
            ("events", c.events),
            ("snapshots", c.snapshots),
            ("ledger_records", c.ledger_records),
            ("frames", c.frames),
            ("bytes", c.bytes),
            ("commit_ns", c.commit_ns),
            ("slow_commits", c.slow_commits),
            ("heartbeats", c.heartbeats),
            ("segments_ended", c.segments_ended),
            ("appends_fenced", c.appends_fenced),
            ("loads", c.loads),
            ("recovered_records", c.recovered_records),
            ("recovered_frames", c.recovered_frames),
            ("torn_tails_cut", c.torn_tails_cut),
            ("recovered_bytes", c.recovered_bytes),
            ("checkpoints_used", c.checkpoints_used),
            ("checkpoints", c.checkpoints),
            ("checkpoints_failed", c.checkpoints_failed),
        ];
        counters.extend(self.shared.counters());
        counters
    }
}
