//! Who owes outbox messages: entities are found in the table, their names where they were last defined.
//!
//! Invariant: one question at a time is answered, and none keeps the log from committing. Shard thread only.

use std::path::PathBuf;
use std::task::Poll;

use shardstage::port::buffer::IoBuffer;
use shardstage::port::service::ServiceContext;

use crate::format::position::Position;
use crate::format::record::{KeyDef, RecordView};
use crate::log::desk::Desk;
use crate::log::files::{WriteMode, segment_path};
use crate::store::{EntityId, OnOwing, Owing};

use super::{LogShard, State, Task};

/// A question that is being answered.
pub(super) struct Naming {
    task: Task<Vec<Owing>>,
    next: EntityId,
    on_found: OnOwing,
}

impl LogShard {
    /// Goes on with answering; whether anything happened.
    pub(super) fn serve_owing(&mut self, cx: &mut ServiceContext<'_>) -> bool {
        if let Some(mut naming) = self.naming.take() {
            match self.desk.serve(&mut naming.task, cx) {
                Poll::Ready(found) => {
                    (naming.on_found)(found, naming.next);
                    return true;
                }
                Poll::Pending => self.naming = Some(naming),
            }
            return false;
        }
        if !matches!(self.state, State::Running) || self.stopping {
            return false;
        }
        let Some((after, most, on_found)) = self.owing.pop_front() else { return false };
        let (ids, next) = self.index.owing(after, most);
        let mut found = Vec::new();
        let mut unnamed = Vec::new();
        for id in ids {
            match (self.index.find(id), self.index.durable(id).and_then(|entry| entry.key_at())) {
                (Some(entity), _) => {
                    found.push(Owing { type_name: entity.type_name.clone(), key: entity.key.clone() });
                }
                (None, Some(key_at)) => unnamed.push(key_at),
                (None, None) => debug_assert!(false, "an entity with records has a key definition"),
            }
        }
        let Some(log) = self.log.as_ref().filter(|_| !unnamed.is_empty()) else {
            on_found(found, next);
            return true;
        };
        let dir = self.options.dir.join(format!("log-{}", self.seat.shard.get()));
        let task: Task<Vec<Owing>> = Box::pin(name(self.desk.clone(), dir, log.mode, unnamed, found));
        self.naming = Some(Naming { task, next, on_found });
        true
    }
}

/// Reads names. One that cannot be read is left out: its actor says why when it is used.
async fn name(desk: Desk, dir: PathBuf, mode: WriteMode, unnamed: Vec<Position>, mut found: Vec<Owing>) -> Vec<Owing> {
    for key_at in unnamed {
        let Ok(file) = desk.open(segment_path(&dir, key_at.segment()), mode.read()).await else { continue };
        let (from, to) = key_at.blocks();
        let to = to.min(desk.length(file).await.unwrap_or(0));
        let len = usize::try_from(to.saturating_sub(from)).expect("a key definition is small");
        let bytes = if len > 0 { desk.read(file, from, IoBuffer::zeroed(len)).done().await.ok() } else { None };
        desk.close(file).await;
        let at = usize::try_from(key_at.offset() - from).expect("it lies in its first block");
        let view = bytes.as_ref().and_then(|bytes| RecordView::decode(bytes.get(at..)?).ok());
        if let Some(def) = view.and_then(|view| KeyDef::decode(view.payload)) {
            found.push(Owing { type_name: def.type_name.into(), key: def.key.into() });
        }
    }
    found
}
