//! The log itself: [`EventLog`] makes one [`LogShard`] a shard.
//!
//! One event, from the actor to the disk: `LogShard::append` -> `batch::Batch::add` -> (end of turn) `Batch::seal` -> one
//! write -> completion -> held effects run.

mod batch;
mod checkpoint;
mod desk;
mod files;
mod index;
mod load;
mod open;
mod probe;
mod scan;
mod shard;
mod table;
mod token;

use std::io;
use std::path::PathBuf;

use shardstage::port::service::{Service, ServiceFactory, ServiceSeat};

pub use open::OpenError;
pub use probe::ProbeReport;
pub use shard::LogShard;

use crate::limits::{BLOCK_BYTES, CHECKPOINT_BYTES, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, SEGMENT_BYTES};

/// What a log does after its first write error, when every waiting effect has got [`CommitOutcome::Unknown`](crate::CommitOutcome::Unknown).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnPoison {
    /// Ends the process, so that the next start decides what is durable.
    #[default]
    Abort,
    /// Stays, refusing every append: for tests that look at it.
    Stay,
}

/// A fault that a test plants to see its checker fail.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PlantedBug {
    #[default]
    None,
    /// Effects run when the write is submitted.
    AckAtSubmit,
    /// Frames are written without `O_DSYNC` and without a sync.
    NoSync,
    /// Recovery stops at the first bad frame without looking further.
    CutAtFirstBad,
}

/// One event log per shard, below one directory.
///
/// ```no_run
/// use shardstage_persistence::EventLog;
/// let log = EventLog::open("/var/lib/app/log").segment_bytes(16 * 1024 * 1024);
/// ```
#[derive(Clone, Debug)]
pub struct EventLog {
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) on_poison: OnPoison,
    pub(crate) planted: PlantedBug,
}

impl EventLog {
    /// Logs in `dir/log-<shard>`; made when they are not there. Nothing is touched before the engine starts.
    #[must_use]
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self {
            dir,
            segment_bytes: SEGMENT_BYTES,
            checkpoint_bytes: CHECKPOINT_BYTES,
            on_poison: OnPoison::default(),
            planted: PlantedBug::None,
        }
    }

    /// Size of new segments, bytes; a multiple of 4,096 between 64 KiB and 4 GiB. Frames are at most a quarter of it.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Bytes of frames after which a checkpoint is written; one is written at an orderly stop, too. A restart reads what came
    /// after the newest one, without a checkpoint the whole log. 0 writes none.
    #[must_use]
    pub fn checkpoint_bytes(mut self, bytes: u64) -> Self {
        self.checkpoint_bytes = bytes;
        self
    }

    /// What happens after the first write error.
    #[must_use]
    pub fn on_poison(mut self, policy: OnPoison) -> Self {
        self.on_poison = policy;
        self
    }

    /// For tests of tests.
    #[doc(hidden)]
    #[must_use]
    pub fn planted(mut self, bug: PlantedBug) -> Self {
        self.planted = bug;
        self
    }

    /// The log of one shard, not started yet. The engine calls this through [`ServiceFactory::make`].
    ///
    /// # Errors
    /// `InvalidInput` when the segment size is out of range.
    pub fn shard(&self, seat: &ServiceSeat) -> io::Result<LogShard> {
        let fits = (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes);
        if !fits || !self.segment_bytes.is_multiple_of(BLOCK_BYTES as u64) {
            let why = format!(
                "segment_bytes is {}, but must be a multiple of {BLOCK_BYTES} in {MIN_SEGMENT_BYTES}..={MAX_SEGMENT_BYTES}",
                self.segment_bytes
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(LogShard::new(self, *seat))
    }
}

impl ServiceFactory for EventLog {
    fn make(&self, seat: &ServiceSeat) -> io::Result<Box<dyn Service>> {
        Ok(Box::new(self.shard(seat)?))
    }
}
