//! `Outbox`: the messages of one actor that left, or will leave, after their command is durable, until they have arrived.
//!
//! One line a receiver: a [`Lane`] of messages in the order of their commands. It is a fold of the actor's outbox records, live
//! and in recovery; what arrived is recorded later, with the next command or when the outbox has been quiet, so a restart may
//! send again what the receiver then recognises by number.
//!
//! Invariant: a message leaves only when its record is durable, under a session whose number is durable too, and always under
//! the number in its record. No thread, no clock, no I/O.

use std::collections::BTreeMap;
use std::rc::Rc;

use shardstage::wire;

use super::lane::{Attempt, Lane, Outcome, Step};
use crate::limits::{OUTBOX_BYTES, OUTBOX_LINES, OUTBOX_MESSAGES};
use crate::store::Ticket;

/// The payload of an outbox record.
#[wire]
#[derive(Clone, Debug)]
pub(crate) enum OutboxRecord {
    /// A message.
    Message(Message),
    /// The session's number at a receiver: recorded before anything is sent under it.
    Opened {
        /// The receiver's type.
        to_type: String,
        /// Its key.
        to: String,
        /// The number.
        opened: u64,
    },
}

/// A message of a command.
#[wire]
#[derive(Clone, Debug)]
pub(crate) struct Message {
    to_type: String,
    to: String,
    seq: u64,
    message: u64,
    version: u16,
    bytes: Vec<u8>,
}

/// The payload of a record of arrivals.
#[wire]
#[derive(Clone, Debug)]
pub(crate) enum DoneRecord {
    /// Messages arrived.
    Arrived(Vec<Arrived>),
    /// As [`Image`](Self::Image), without the numbers of the next messages. Read, not written.
    Lines(Vec<LineImage>),
    /// All lines, behind a snapshot; their outstanding messages follow as records of their own.
    Image(Vec<NumberedLine>),
}

/// How far the messages to one receiver have arrived.
#[wire]
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    to_type: String,
    to: String,
    upto: u64,
    /// The session is forgotten.
    closed: bool,
}

/// A line without its messages.
#[wire]
#[derive(Clone, Debug)]
pub(crate) struct LineImage {
    to_type: String,
    to: String,
    opened: u64,
    /// Number of its first outstanding message, or of the next one.
    first: u64,
}

/// A line without its messages, and how far its numbers went.
#[wire]
#[derive(Clone, Debug)]
pub(crate) struct NumberedLine {
    line: LineImage,
    /// Number of the next message: those before it that do not follow have arrived.
    next: u64,
}

/// A message that an effect sends.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) to_type: &'static str,
    pub(crate) to: Box<str>,
    pub(crate) message: u64,
    pub(crate) version: u16,
    pub(crate) bytes: Vec<u8>,
}

/// A message in a line.
#[derive(Clone, Debug)]
struct Parcel {
    message: u64,
    version: u16,
    bytes: Rc<[u8]>,
    /// The commit to wait for; none when the record was loaded.
    ticket: Option<Ticket>,
}

#[derive(Debug)]
struct Line {
    to_type: Rc<str>,
    to: Rc<str>,
    lane: Lane<Parcel>,
    /// The commit that records the session's number.
    opening: Option<Ticket>,
    /// Arrivals up to this number are recorded.
    recorded: u64,
}

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(crate) line: u64,
    pub(crate) to_type: Rc<str>,
    pub(crate) to: Rc<str>,
    pub(crate) attempt: Attempt,
    pub(crate) message: u64,
    pub(crate) version: u16,
    pub(crate) bytes: Rc<[u8]>,
}

/// What an answer means for the caller.
#[derive(Debug)]
pub(crate) enum Answered {
    /// Nothing beyond the outbox.
    Noted,
    /// The message arrived.
    Arrived,
    /// Nobody will ever know whether it arrived.
    Lost,
    /// Append this record; [`Outbox::opening`] says when.
    Record(OutboxRecord),
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    lines: BTreeMap<u64, Line>,
    by_receiver: BTreeMap<(Rc<str>, Rc<str>), u64>,
    next_line: u64,
    messages: usize,
    bytes: usize,
    /// Something was recorded since the actor exists.
    used: bool,
    /// The latest commit with a message or a session.
    latest: Option<Ticket>,
}

impl Outbox {
    // ---- the fold ----

    /// Takes a record; `ticket` is its commit, none when it was loaded.
    pub(crate) fn take(&mut self, record: OutboxRecord, ticket: Option<Ticket>) {
        self.used = true;
        self.latest = self.latest.max(ticket);
        match record {
            OutboxRecord::Message(Message { to_type, to, seq, message, version, bytes }) => {
                let line = self.line(&to_type, &to);
                let len = bytes.len();
                let parcel = Parcel { message, version, bytes: bytes.into(), ticket };
                // A snapshot repeats what is outstanding.
                if line.lane.insert(seq, parcel) {
                    self.messages += 1;
                    self.bytes += len;
                }
            }
            OutboxRecord::Opened { to_type, to, opened } => {
                let line = self.line(&to_type, &to);
                line.lane.open(opened);
                line.opening = ticket;
            }
        }
    }

    /// Takes a record of arrivals.
    pub(crate) fn take_done(&mut self, record: DoneRecord) {
        self.used = true;
        match record {
            DoneRecord::Arrived(all) => {
                for Arrived { to_type, to, upto, closed } in all {
                    let id = self.arrived(&to_type, &to, upto);
                    let line = &self.lines[&id];
                    if closed && line.lane.is_empty() {
                        self.by_receiver.remove(&(Rc::clone(&line.to_type), Rc::clone(&line.to)));
                        self.lines.remove(&id);
                    }
                }
            }
            DoneRecord::Lines(images) => {
                for image in images {
                    let next = image.first;
                    self.resume(image, next);
                }
            }
            DoneRecord::Image(images) => {
                for NumberedLine { line, next } in images {
                    self.resume(line, next);
                }
            }
        }
    }

    /// Goes on with a line as it was at a snapshot.
    fn resume(&mut self, LineImage { to_type, to, opened, first }: LineImage, next: u64) {
        let line = self.line(&to_type, &to);
        if line.lane.next() == 1 {
            line.lane = Lane::resumed(opened, next);
        }
        self.arrived(&to_type, &to, first.saturating_sub(1));
    }

    /// Messages to this receiver have arrived up to the number `upto`; the line.
    fn arrived(&mut self, to_type: &str, to: &str, upto: u64) -> u64 {
        let id = self.line_id(to_type, to);
        let line = self.lines.get_mut(&id).expect("made a moment ago");
        line.recorded = line.recorded.max(upto);
        while !line.lane.is_empty() && line.lane.acked() < upto {
            let (parcel, _) = line.lane.give_up(line.lane.acked() + 1).expect("the first one is there");
            self.messages -= 1;
            self.bytes -= parcel.bytes.len();
        }
        id
    }

    /// All records were taken: what was outstanding may have been sent before.
    pub(crate) fn recovered(&mut self) {
        for line in self.lines.values_mut() {
            line.lane.assume_sent();
        }
    }

    // ---- records to append ----

    /// The records of a command's messages; `None` when too much is outstanding already. Changes nothing.
    pub(crate) fn plan(&self, outgoing: &[Outgoing]) -> Option<Vec<OutboxRecord>> {
        let bytes: usize = outgoing.iter().map(|message| message.bytes.len()).sum();
        if self.messages + outgoing.len() > OUTBOX_MESSAGES || self.bytes + bytes > OUTBOX_BYTES {
            return None;
        }
        let mut next: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let records = outgoing.iter().map(|Outgoing { to_type, to, message, version, bytes }| {
            let seq = next.entry((to_type, to)).or_insert_with(|| {
                let line = self.by_receiver.get(&(Rc::from(*to_type), Rc::from(&**to)));
                line.map_or(1, |line| self.lines[line].lane.next())
            });
            let number = *seq;
            *seq += 1;
            OutboxRecord::Message(Message {
                to_type: (*to_type).to_owned(),
                to: to.to_string(),
                seq: number,
                message: *message,
                version: *version,
                bytes: bytes.clone(),
            })
        });
        Some(records.collect())
    }

    /// What arrived and is not recorded, as a record, and whether nothing is outstanding behind it. With `close`, sessions with
    /// too many idle receivers are forgotten.
    pub(crate) fn arrivals(&self, close: bool) -> Option<(DoneRecord, bool)> {
        let mut idle = if close { self.lines.values().filter(|line| line.lane.is_empty()).count() } else { 0 };
        let mut arrived = Vec::new();
        for line in self.lines.values() {
            let closed = line.lane.is_empty() && idle > OUTBOX_LINES;
            idle -= usize::from(closed);
            if closed || line.lane.acked() > line.recorded {
                arrived.push(Arrived {
                    to_type: line.to_type.to_string(),
                    to: line.to.to_string(),
                    upto: line.lane.acked(),
                    closed,
                });
            }
        }
        (!arrived.is_empty()).then_some((DoneRecord::Arrived(arrived), self.messages == 0))
    }

    /// Everything, as records behind a snapshot, and whether nothing is outstanding; none when it was never used.
    pub(crate) fn image(&self) -> Option<(DoneRecord, bool, Vec<OutboxRecord>)> {
        if !self.used {
            return None;
        }
        let lines = self.lines.values().map(|line| NumberedLine {
            line: LineImage {
                to_type: line.to_type.to_string(),
                to: line.to.to_string(),
                opened: line.lane.opened(),
                first: line.lane.acked() + 1,
            },
            next: line.lane.next(),
        });
        let messages = self.lines.values().flat_map(|line| {
            line.lane.iter().map(|(seq, parcel)| {
                OutboxRecord::Message(Message {
                    to_type: line.to_type.to_string(),
                    to: line.to.to_string(),
                    seq,
                    message: parcel.message,
                    version: parcel.version,
                    bytes: parcel.bytes.to_vec(),
                })
            })
        });
        Some((DoneRecord::Image(lines.collect()), self.messages == 0, messages.collect()))
    }

    /// The image was appended: it has all arrivals.
    pub(crate) fn imaged(&mut self) {
        for line in self.lines.values_mut() {
            line.recorded = line.lane.acked();
        }
    }

    // ---- sending ----

    /// The next message of a line that may leave, marked as on its way.
    pub(crate) fn depart(&mut self, id: u64, now_ns: u64, durable: impl Fn(Ticket) -> bool) -> Option<Departure> {
        let line = self.lines.get_mut(&id)?;
        if line.opening.is_some_and(|ticket| !durable(ticket)) {
            return None;
        }
        line.opening = None;
        let ready = |parcel: &Parcel| parcel.ticket.is_none_or(&durable);
        let (attempt, parcel) = line.lane.attempt(now_ns, ready)?;
        let Parcel { message, version, bytes, .. } = parcel.clone();
        let (to_type, to) = (Rc::clone(&line.to_type), Rc::clone(&line.to));
        Some(Departure { line: id, to_type, to, attempt, message, version, bytes })
    }

    /// An attempt ended.
    pub(crate) fn answered(&mut self, id: u64, seq: u64, outcome: Outcome, now_ns: u64, jitter: u64) -> Answered {
        let Some(line) = self.lines.get_mut(&id) else { return Answered::Noted };
        let (parcel, answered) = match line.lane.answered(seq, outcome, now_ns, jitter) {
            Step::Again => return Answered::Noted,
            Step::Opened(opened) => {
                let (to_type, to) = (line.to_type.to_string(), line.to.to_string());
                return Answered::Record(OutboxRecord::Opened { to_type, to, opened });
            }
            Step::Settled(parcel) => (parcel, Answered::Arrived),
            Step::Lost(parcel) => (parcel, Answered::Lost),
        };
        self.messages -= 1;
        self.bytes -= parcel.bytes.len();
        answered
    }

    /// The record of a line's session was refused: ask again for one.
    pub(crate) fn not_opened(&mut self, id: u64) {
        if let Some(line) = self.lines.get_mut(&id) {
            line.lane.open(0);
        }
    }

    /// Lines with messages.
    pub(crate) fn waiting_lines(&self) -> Vec<u64> {
        self.lines.iter().filter(|(_, line)| !line.lane.is_empty()).map(|(id, _)| *id).collect()
    }

    /// When the first pause of a line ends.
    pub(crate) fn resume_ns(&self, now_ns: u64) -> Option<u64> {
        self.lines.values().filter_map(|line| line.lane.resume_ns(now_ns)).min()
    }

    /// The latest commit with a message or a session; none when all were loaded.
    pub(crate) fn latest(&self) -> Option<Ticket> {
        self.latest
    }

    /// Messages that have not arrived.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.messages
    }

    /// Whether nothing is outstanding and that is recorded.
    pub(crate) fn is_settled(&self) -> bool {
        self.messages == 0 && self.lines.values().all(|line| line.lane.acked() == line.recorded)
    }

    fn line(&mut self, to_type: &str, to: &str) -> &mut Line {
        let id = self.line_id(to_type, to);
        self.lines.get_mut(&id).expect("looked up or made")
    }

    fn line_id(&mut self, to_type: &str, to: &str) -> u64 {
        let receiver: (Rc<str>, Rc<str>) = (to_type.into(), to.into());
        if let Some(id) = self.by_receiver.get(&receiver) {
            return *id;
        }
        let id = self.next_line;
        self.next_line += 1;
        let (to_type, to) = receiver.clone();
        self.lines.insert(id, Line { to_type, to, lane: Lane::default(), opening: None, recorded: 0 });
        self.by_receiver.insert(receiver, id);
        id
    }
}

#[cfg(test)]
mod tests;
