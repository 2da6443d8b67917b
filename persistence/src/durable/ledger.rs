//! `Ledger`: what an actor keeps beside its state, in the same record groups: the commands it has run, and its outbox.
//!
//! Every change is an [`Entry`] that was appended as a record; the same [`take`](Ledger::take) folds it in, live and in recovery.
//!
//! Invariant: the ledger is the fold of its records, and a snapshot is followed by all of it. Shard thread only.

use shardstage_codec::{AlignedBytes, EncodeError, decode, encode};

use super::outbox::{DoneRecord, Outbox, OutboxRecord, Outgoing};
use super::sessions::{DedupRecord, Mark, Ran, Sessions};
use crate::format::record::RecordKind;
use crate::limits::{IMAGE_BYTES, REPLY_BYTES};
use crate::store::{LoadedRecord, Ticket, Written};

/// Version of the payloads of all ledger records.
const SCHEMA_VERSION: u16 = 1;

/// What a command adds beside its events: nothing, for most.
#[derive(Default)]
pub(crate) struct Extra {
    /// Its client and number, and the encoded reply.
    pub(crate) ran: Option<(Mark, Result<Vec<u8>, EncodeError>)>,
    pub(crate) outgoing: Vec<Outgoing>,
    /// A message does not fit.
    pub(crate) too_large: bool,
}

/// One record of the ledger.
#[derive(Debug)]
pub(crate) enum Entry {
    Dedup(DedupRecord),
    Outbox(OutboxRecord),
    /// With whether nothing is outstanding behind it.
    Done(DoneRecord, bool),
}

/// Why a command's entries cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtraError {
    /// Reply or message are too large, and always will be.
    TooLarge,
    /// Too many messages have not arrived yet.
    OutboxFull,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) sessions: Sessions,
    pub(crate) outbox: Outbox,
}

impl Extra {
    pub(crate) fn is_empty(&self) -> bool {
        self.ran.is_none() && self.outgoing.is_empty() && !self.too_large
    }
}

impl Ledger {
    /// Takes what was loaded, in order.
    ///
    /// # Errors
    /// Which record cannot be read.
    pub(crate) fn recover<'a>(
        &mut self,
        records: &'a [LoadedRecord],
        most: usize,
    ) -> Result<(), (&'a LoadedRecord, String)> {
        for record in records {
            if let Some(entry) = Entry::read(record).map_err(|why| (record, why))? {
                self.take(entry, None, most);
            }
        }
        self.outbox.recovered();
        Ok(())
    }

    /// The entries of a command, with what has arrived since. Changes nothing.
    ///
    /// # Errors
    /// See [`ExtraError`].
    pub(crate) fn plan(&self, extra: Extra) -> Result<Vec<Entry>, ExtraError> {
        let Extra { ran, outgoing, too_large } = extra;
        let mut entries = Vec::new();
        if let Some((Mark { client, opened, seq, acked, message, .. }, reply)) = ran {
            let reply = reply.ok().filter(|reply| reply.len() <= REPLY_BYTES).ok_or(ExtraError::TooLarge)?;
            entries.push(Entry::Dedup(DedupRecord::Ran(Ran { client, opened, seq, acked, message, reply })));
        }
        if too_large {
            return Err(ExtraError::TooLarge);
        }
        if !outgoing.is_empty() {
            // Before the messages: they are outstanding behind it.
            entries.extend(self.arrivals(false));
            let messages = self.outbox.plan(&outgoing).ok_or(ExtraError::OutboxFull)?;
            entries.extend(messages.into_iter().map(Entry::Outbox));
        }
        Ok(entries)
    }

    /// What has arrived and is not recorded; see [`Outbox::arrivals`].
    pub(crate) fn arrivals(&self, close: bool) -> Option<Entry> {
        self.outbox.arrivals(close).map(|(done, settled)| Entry::Done(done, settled))
    }

    /// All of it, to stand behind a snapshot.
    pub(crate) fn image(&self) -> Vec<Entry> {
        let tables = self.sessions.image(IMAGE_BYTES);
        let mut entries: Vec<Entry> = tables.into_iter().map(|table| Entry::Dedup(DedupRecord::Table(table))).collect();
        if let Some((lines, settled, messages)) = self.outbox.image() {
            entries.push(Entry::Done(lines, settled));
            entries.extend(messages.into_iter().map(Entry::Outbox));
        }
        entries
    }

    /// The image was appended.
    pub(crate) fn imaged(&mut self) {
        self.outbox.imaged();
    }

    /// Takes an entry that was appended.
    pub(crate) fn take(&mut self, entry: Entry, ticket: Option<Ticket>, most: usize) {
        match entry {
            Entry::Dedup(DedupRecord::Ran(ran)) => self.sessions.ran(ran, most),
            Entry::Dedup(DedupRecord::Table(table)) => self.sessions.restore(table),
            Entry::Outbox(record) => self.outbox.take(record, ticket),
            Entry::Done(record, _) => self.outbox.take_done(record),
        }
    }
}

impl Entry {
    fn kind(&self) -> RecordKind {
        match self {
            Self::Dedup(_) => RecordKind::Dedup,
            Self::Outbox(_) => RecordKind::Outbox,
            Self::Done(_, false) => RecordKind::OutboxDone,
            Self::Done(_, true) => RecordKind::OutboxSettled,
        }
    }

    /// Encodes it behind `bytes`, as a record at the entity's version `seq`.
    ///
    /// # Errors
    /// It is larger than any record may be.
    pub(crate) fn write(&self, seq: u64, bytes: &mut AlignedBytes) -> Result<Written, EncodeError> {
        let len = match self {
            Self::Dedup(record) => encode(record, bytes),
            Self::Outbox(record) => encode(record, bytes),
            Self::Done(record, _) => encode(record, bytes),
        }?;
        Ok(Written::last(self.kind(), seq, SCHEMA_VERSION, len, bytes))
    }

    /// Reads a loaded record; `None` when it is not the ledger's.
    fn read(record: &LoadedRecord) -> Result<Option<Self>, String> {
        let header = &record.header;
        let mine = matches!(
            header.kind,
            RecordKind::Dedup | RecordKind::Outbox | RecordKind::OutboxDone | RecordKind::OutboxSettled
        );
        if !mine {
            return Ok(None);
        }
        if header.schema_version != SCHEMA_VERSION {
            return Err(format!("it has version {}, this program reads {SCHEMA_VERSION}", header.schema_version));
        }
        let entry = match header.kind {
            RecordKind::Dedup => decode(&record.payload).map(Self::Dedup),
            RecordKind::Outbox => decode(&record.payload).map(Self::Outbox),
            kind => decode(&record.payload).map(|done| Self::Done(done, kind == RecordKind::OutboxSettled)),
        };
        entry.map(Some).map_err(|error| error.to_string())
    }
}
