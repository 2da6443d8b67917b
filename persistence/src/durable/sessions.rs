//! `Sessions`: which commands of which clients an actor has run, and what it answered. The dedup table.
//!
//! It is a fold of the actor's dedup records: [`admit`](Sessions::admit) decides and changes nothing, [`ran`](Sessions::ran)
//! takes what was recorded, live and in recovery. Bounded: answers are forgotten when the client has acknowledged them, clients
//! in order of last use when there are too many or they were silent for too long, counted in commands, never in time.
//!
//! Forgetting is safe because a session's number tells when it was opened, in commands of this actor: a client that is not
//! known, with a session no newer than the newest one that was ever forgotten, is refused.
//!
//! Invariant: of all attempts under one (client, opened, seq), at most one is admitted and recorded. No thread, no clock, no
//! I/O: callable from anywhere.

use std::collections::BTreeMap;

use shardstage::wire;

use super::idempotent::NotRun;
use crate::limits::{CLIENT_BYTES, SESSION_BYTES, SESSION_COMMANDS, SESSION_WINDOW, SESSIONS_BYTES};

/// What is known of a command before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) client: String,
    pub(crate) opened: u64,
    pub(crate) seq: u64,
    pub(crate) after: u64,
    pub(crate) acked: u64,
    /// The command's message id.
    pub(crate) message: u64,
}

/// Whether a command runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission<'a> {
    /// Now, for the first time.
    Run,
    /// It has run; this was the reply.
    Again(&'a [u8]),
    /// No.
    No(NotRun),
}

/// The payload of a dedup record.
#[wire]
#[derive(Debug)]
pub(crate) enum DedupRecord {
    /// A command ran.
    Ran(Ran),
    /// Part of the whole table, behind a snapshot.
    Table(Table),
}

/// A command that ran.
#[wire]
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) client: String,
    pub(crate) opened: u64,
    pub(crate) seq: u64,
    pub(crate) acked: u64,
    pub(crate) message: u64,
    pub(crate) reply: Vec<u8>,
}

/// Part of a table.
#[wire]
#[derive(Debug)]
pub(crate) struct Table {
    clock: u64,
    horizon: u64,
    sessions: Vec<SessionImage>,
}

#[wire]
#[derive(Debug)]
struct SessionImage {
    client: String,
    opened: u64,
    acked: u64,
    last: u64,
    used: u64,
    answers: Vec<AnswerImage>,
}

#[wire]
#[derive(Debug)]
struct AnswerImage {
    seq: u64,
    message: u64,
    reply: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    message: u64,
    reply: Box<[u8]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Session {
    opened: u64,
    /// The client wants no answers up to this.
    acked: u64,
    /// The highest number that ran.
    last: u64,
    /// The clock when a command ran last.
    used: u64,
    answers: BTreeMap<u64, Answer>,
    /// What the answers count against the bounds.
    bytes: usize,
}

/// What a session and an answer cost beside their texts, bytes: their numbers in a record.
const SESSION_FIXED_BYTES: usize = 64;
const ANSWER_FIXED_BYTES: usize = 32;

/// See the module's head.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Sessions {
    /// Commands that ran, ever.
    clock: u64,
    /// The highest number of a session that was forgotten.
    horizon: u64,
    clients: BTreeMap<Box<str>, Session>,
    /// Clients by last use; each use has its own time.
    by_use: BTreeMap<u64, Box<str>>,
    bytes: usize,
}

impl Sessions {
    /// Takes a command that was recorded: the same live and in recovery. Keeps at most `most` clients.
    pub(crate) fn ran(&mut self, ran: Ran, most: usize) {
        self.clock += 1;
        let Ran { client, opened, seq, acked, message, reply } = ran;
        let client = client.into_boxed_str();
        let mut session = self.take(&client).filter(|session| session.opened == opened).unwrap_or(Session {
            opened,
            acked: 0,
            last: 0,
            used: 0,
            answers: BTreeMap::new(),
            bytes: 0,
        });
        session.acked = session.acked.max(acked);
        session.last = session.last.max(seq);
        session.used = self.clock;
        let kept = session.answers.split_off(&(session.acked + 1));
        for forgotten in std::mem::replace(&mut session.answers, kept).values() {
            session.bytes -= answer_bytes(forgotten);
        }
        let answer = Answer { message, reply: reply.into_boxed_slice() };
        session.bytes += answer_bytes(&answer);
        session.answers.insert(seq, answer);
        self.put(client, session);
        self.forget(most.max(1));
    }

    /// Takes part of a table that was recorded behind a snapshot.
    pub(crate) fn restore(&mut self, table: Table) {
        self.clock = self.clock.max(table.clock);
        self.horizon = self.horizon.max(table.horizon);
        for image in table.sessions {
            let answers: BTreeMap<u64, Answer> = image
                .answers
                .into_iter()
                .map(|answer| (answer.seq, Answer { message: answer.message, reply: answer.reply.into() }))
                .collect();
            let bytes = answers.values().map(answer_bytes).sum();
            let SessionImage { client, opened, acked, last, used, .. } = image;
            let client = client.into_boxed_str();
            self.take(&client);
            self.put(client, Session { opened, acked, last, used, answers, bytes });
        }
    }

    /// The whole table in parts of about `part_bytes`; none when nothing ever ran.
    pub(crate) fn image(&self, part_bytes: usize) -> Vec<Table> {
        let mut parts: Vec<Table> = Vec::new();
        let mut room = 0;
        let empty = || Table { clock: self.clock, horizon: self.horizon, sessions: Vec::new() };
        if self.clock > 0 {
            parts.push(empty());
            room = part_bytes;
        }
        for (client, session) in &self.clients {
            let cost = session_bytes(client, session);
            if cost > room {
                parts.push(empty());
                room = part_bytes;
            }
            room = room.saturating_sub(cost);
            let answers = session.answers.iter().map(|(seq, answer)| AnswerImage {
                seq: *seq,
                message: answer.message,
                reply: answer.reply.to_vec(),
            });
            let image = SessionImage {
                client: client.to_string(),
                opened: session.opened,
                acked: session.acked,
                last: session.last,
                used: session.used,
                answers: answers.collect(),
            };
            parts.last_mut().expect("a table with clients has counted their commands").sessions.push(image);
        }
        parts
    }

    /// Whether the command runs. Changes nothing.
    pub(crate) fn admit(&self, mark: &Mark) -> Admission<'_> {
        let Mark { client, opened, seq, after, acked, message } = mark;
        if client.is_empty() || client.len() > CLIENT_BYTES || *seq == 0 || acked >= seq || after >= seq {
            return Admission::No(NotRun::Misnumbered);
        }
        // Higher than every session's number so far, and one that no answer before a crash can have named.
        let next = self.clock + 1;
        if *opened == 0 {
            return Admission::No(NotRun::Open { opened: next });
        }
        let known = self.clients.get(client.as_str());
        let (ran_to, unacked, bytes) = match known {
            Some(session) if *opened < session.opened => return Admission::No(NotRun::SessionExpired),
            Some(session) if *opened == session.opened => {
                if let Some(answer) = session.answers.get(seq) {
                    let same = answer.message == *message;
                    return if same { Admission::Again(&answer.reply) } else { Admission::No(NotRun::Misnumbered) };
                }
                if *seq <= session.acked {
                    return Admission::No(NotRun::Acknowledged);
                }
                let kept = session.answers.range(acked + 1..);
                let (unacked, bytes) =
                    kept.fold((0, 0), |(count, sum), (_, kept)| (count + 1, sum + answer_bytes(kept)));
                (session.last, unacked, bytes)
            }
            None if *opened <= self.horizon => return Admission::No(NotRun::SessionExpired),
            _ => (0, 0, 0),
        };
        if *opened > next {
            return Admission::No(NotRun::SessionExpired);
        }
        if *after > ran_to.max(*acked) {
            return Admission::No(NotRun::Gap);
        }
        if unacked >= SESSION_WINDOW || bytes >= SESSION_BYTES {
            return Admission::No(NotRun::WindowFull);
        }
        Admission::Run
    }

    /// How many clients are known.
    #[cfg(test)]
    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    fn take(&mut self, client: &str) -> Option<Session> {
        let (name, session) = self.clients.remove_entry(client)?;
        self.by_use.remove(&session.used);
        self.bytes -= session_bytes(&name, &session);
        Some(session)
    }

    fn put(&mut self, client: Box<str>, session: Session) {
        self.bytes += session_bytes(&client, &session);
        self.by_use.insert(session.used, client.clone());
        self.clients.insert(client, session);
    }

    /// Forgets the clients that were silent for longest, never the one that was used last.
    fn forget(&mut self, most: usize) {
        while let Some((used, client)) = self.by_use.first_key_value() {
            let over = self.clients.len() > most || self.bytes > SESSIONS_BYTES || self.clock - used > SESSION_COMMANDS;
            if !over || self.clients.len() == 1 {
                break;
            }
            let client = client.clone();
            let session = self.take(&client).expect("who was used is known");
            self.horizon = self.horizon.max(session.opened);
        }
        debug_assert_eq!(self.by_use.len(), self.clients.len());
    }
}

fn answer_bytes(answer: &Answer) -> usize {
    ANSWER_FIXED_BYTES + answer.reply.len()
}

fn session_bytes(client: &str, session: &Session) -> usize {
    SESSION_FIXED_BYTES + client.len() + session.bytes
}

#[cfg(test)]
mod tests;
