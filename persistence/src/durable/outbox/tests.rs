//! The outbox against receivers that recognise repetitions, with crashes that lose what was not durable.

use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use shardstage_codec::{AlignedBytes, WireValue, decode, encode};

use super::super::idempotent::NotRun;
use super::super::sessions::{Admission, Mark, Ran, Sessions};
use super::*;

/// A record as it lies in the log.
#[derive(Clone)]
enum Record {
    Outbox(Vec<u8>),
    Done(Vec<u8>),
    /// A load may begin here.
    Snapshot,
}

fn bytes<T: WireValue>(value: &T) -> Vec<u8> {
    let mut out = AlignedBytes::new();
    let len = encode(value, &mut out).expect("it fits");
    out[out.len() - len..].to_vec()
}

fn read<T: WireValue>(bytes: &[u8]) -> T {
    let mut aligned = AlignedBytes::new();
    aligned.extend_from_slice(bytes);
    decode(&aligned).expect("just encoded")
}

fn recover(records: &[Record]) -> Outbox {
    let mut outbox = Outbox::default();
    for record in records {
        match record {
            Record::Outbox(bytes) => outbox.take(read(bytes), None),
            Record::Done(bytes) => outbox.take_done(read(bytes)),
            Record::Snapshot => {}
        }
    }
    outbox.recovered();
    outbox
}

const RECEIVERS: usize = 3;

#[derive(Default)]
struct Receiver {
    sessions: Sessions,
    ran: Vec<u32>,
}

struct World {
    outbox: Outbox,
    /// The log: each with its commit.
    log: Vec<(u64, Record)>,
    commit: u64,
    durable: u64,
    in_flight: Vec<Departure>,
    late: Vec<Departure>,
    receivers: Vec<Receiver>,
    /// Messages whose commands were acknowledged, by receiver.
    durable_messages: Vec<Vec<u32>>,
    waiting_messages: Vec<(u64, usize, u32)>,
    next: u32,
    now_ns: u64,
}

impl World {
    fn new() -> Self {
        Self {
            outbox: Outbox::default(),
            log: Vec::new(),
            commit: 1,
            durable: 0,
            in_flight: Vec::new(),
            late: Vec::new(),
            receivers: (0..RECEIVERS).map(|_| Receiver::default()).collect(),
            durable_messages: vec![Vec::new(); RECEIVERS],
            waiting_messages: Vec::new(),
            next: 0,
            now_ns: 0,
        }
    }

    fn append(&mut self, record: OutboxRecord) {
        self.log.push((self.commit, Record::Outbox(bytes(&record))));
        self.outbox.take(record, Some(Ticket(self.commit)));
    }

    fn append_done(&mut self, record: DoneRecord) {
        self.log.push((self.commit, Record::Done(bytes(&record))));
        self.outbox.take_done(record);
    }

    /// A command with messages to one or two receivers.
    fn command(&mut self, to: usize, both: bool) {
        let to = if both { vec![to, (to + 1) % RECEIVERS, to] } else { vec![to] };
        let mut outgoing = Vec::new();
        for to in to {
            let name = format!("receiver-{to}").into_boxed_str();
            let message = self.next;
            self.next += 1;
            self.waiting_messages.push((self.commit, to, message));
            let bytes = message.to_le_bytes().to_vec();
            outgoing.push(Outgoing { to_type: "test", to: name, message: 1, version: 1, bytes });
        }
        if let Some((arrivals, _)) = self.outbox.arrivals(false) {
            self.append_done(arrivals);
        }
        for record in self.outbox.plan(&outgoing).expect("there is room") {
            self.append(record);
        }
    }

    fn sync(&mut self) {
        self.durable = self.commit;
        self.commit += 1;
        for (_, to, message) in std::mem::take(&mut self.waiting_messages) {
            self.durable_messages[to].push(message);
        }
    }

    fn send(&mut self) {
        let durable = self.durable;
        for line in self.outbox.waiting_lines() {
            while let Some(departure) = self.outbox.depart(line, self.now_ns, |ticket| ticket.0 <= durable) {
                self.in_flight.push(departure);
            }
        }
    }

    fn deliver(&mut self, departure: &Departure) -> Outcome {
        let to: usize = departure.to.strip_prefix("receiver-").and_then(|to| to.parse().ok()).expect("a receiver");
        let message = u32::from_le_bytes(departure.bytes[..].try_into().expect("four bytes"));
        let Attempt { opened, seq, after, acked } = departure.attempt;
        let receiver = &mut self.receivers[to];
        let mark = Mark { client: "sender".into(), opened, seq, after, acked, message: 1 };
        match receiver.sessions.admit(&mark) {
            Admission::Run => {
                let reply = message.to_le_bytes().to_vec();
                let ran = Ran { client: "sender".into(), opened, seq, acked, message: 1, reply };
                receiver.sessions.ran(ran, 8);
                receiver.ran.push(message);
                Outcome::Ran
            }
            Admission::Again(reply) => {
                assert_eq!(reply, message.to_le_bytes(), "the reply to another message");
                Outcome::Ran
            }
            Admission::No(why) => Outcome::NotRun(why),
        }
    }

    fn end(&mut self, which: usize, fate: u8) {
        if self.in_flight.is_empty() {
            return;
        }
        let departure = self.in_flight.remove(which % self.in_flight.len());
        let outcome = match fate {
            0..=3 => self.deliver(&departure),
            4 => Outcome::Refused,
            5 => {
                self.deliver(&departure);
                Outcome::Unknown
            }
            _ => Outcome::Unknown,
        };
        let (line, seq) = (departure.line, departure.attempt.seq);
        if fate > 5 {
            self.late.push(departure);
        }
        match self.outbox.answered(line, seq, outcome, self.now_ns, u64::from(fate)) {
            Answered::Noted | Answered::Arrived => {}
            Answered::Lost => panic!("no session was forgotten"),
            Answered::Record(record) => self.append(record),
        }
    }

    fn arrive_late(&mut self, which: usize) {
        if !self.late.is_empty() {
            let departure = self.late.remove(which % self.late.len());
            self.deliver(&departure);
        }
    }

    /// The sender's node dies: what was not durable is gone, what was in flight may still arrive. The load begins at the last
    /// snapshot, if `at_snapshot`, and otherwise with the first record.
    fn crash(&mut self, at_snapshot: bool) {
        let durable = self.durable;
        self.log.retain(|(commit, _)| *commit <= durable);
        if at_snapshot && let Some(at) = self.log.iter().rposition(|(_, record)| matches!(record, Record::Snapshot)) {
            self.log.drain(..at);
        }
        self.waiting_messages.clear();
        self.late.append(&mut self.in_flight);
        let records: Vec<Record> = self.log.iter().map(|(_, record)| record.clone()).collect();
        self.outbox = recover(&records);
    }

    /// A snapshot: the log begins with the image.
    fn snapshot(&mut self) {
        let Some((lines, settled, messages)) = self.outbox.image() else { return };
        assert_eq!(settled, messages.is_empty());
        let mut image = vec![Record::Snapshot, Record::Done(bytes(&lines))];
        image.extend(messages.iter().map(|message| Record::Outbox(bytes(message))));
        self.log.extend(image.into_iter().map(|record| (self.commit, record)));
        self.outbox.imaged();
    }

    fn finish(&mut self) {
        for round in 0..10_000 {
            self.now_ns += crate::limits::LANE_PAUSE_MAX_NS;
            self.sync();
            self.send();
            self.end(round, 0);
            self.arrive_late(round);
            if self.outbox.len() == 0 && self.late.is_empty() {
                return;
            }
        }
        panic!("the outbox does not end: {:?}", self.outbox);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn durable_messages_arrive_once_and_in_order_whatever_crashes(
        steps in proptest::collection::vec((0u8..20, 0u8..9, 0usize..100), 1..200)
    ) {
        let mut world = World::new();
        for (kind, draw, which) in steps {
            match kind {
                0..=2 => world.command(which % RECEIVERS, draw == 0),
                3..=5 => world.sync(),
                6 => world.crash(which % 3 > 0),
                7 => world.snapshot(),
                8 => world.now_ns += crate::limits::LANE_PAUSE_NS,
                9 | 10 => world.arrive_late(which),
                11 => {
                    if let Some((arrivals, _)) = world.outbox.arrivals(true) {
                        world.append_done(arrivals);
                    }
                }
                _ => world.end(which, draw),
            }
            world.send();
        }
        world.finish();
        for (receiver, expected) in world.receivers.iter().zip(&world.durable_messages) {
            prop_assert_eq!(&receiver.ran, expected);
        }
        if let Some((arrivals, settled)) = world.outbox.arrivals(true) {
            prop_assert!(settled);
            world.append_done(arrivals);
        }
        world.sync();
        world.crash(false);
        prop_assert!(world.outbox.is_settled(), "what arrived is recorded");
    }
}

fn outgoing(bytes: usize) -> Outgoing {
    Outgoing { to_type: "test", to: "receiver".into(), message: 1, version: 1, bytes: vec![0; bytes] }
}

#[test]
fn too_many_outstanding_messages_are_refused() {
    let mut outbox = Outbox::default();
    for _ in 0..OUTBOX_MESSAGES {
        for record in outbox.plan(&[outgoing(1)]).expect("there is room") {
            outbox.take(record, Some(Ticket(1)));
        }
    }
    assert!(outbox.plan(&[outgoing(1)]).is_none());
    let outbox = Outbox::default();
    assert!(outbox.plan(&[outgoing(OUTBOX_BYTES)]).is_some());
    assert!(outbox.plan(&[outgoing(OUTBOX_BYTES), outgoing(1)]).is_none());
}

#[test]
fn nothing_leaves_before_its_commit_or_under_a_session_that_is_not_durable() {
    let mut outbox = Outbox::default();
    for record in outbox.plan(&[outgoing(1)]).expect("there is room") {
        outbox.take(record, Some(Ticket(1)));
    }
    let line = outbox.waiting_lines()[0];
    let durable = Cell::new(0);
    let is_durable = |ticket: Ticket| ticket.0 <= durable.get();
    assert!(outbox.depart(line, 0, is_durable).is_none(), "the message is not durable");
    durable.set(1);
    let probe = outbox.depart(line, 0, is_durable).expect("it is now").attempt;
    assert_eq!(probe.opened, 0);
    let Answered::Record(opened) = outbox.answered(line, 1, Outcome::NotRun(NotRun::Open { opened: 5 }), 0, 0) else {
        panic!("a session is recorded");
    };
    outbox.take(opened, Some(Ticket(2)));
    assert!(outbox.depart(line, 0, is_durable).is_none(), "the session is not durable");
    durable.set(2);
    assert_eq!(outbox.depart(line, 0, is_durable).expect("it is now").attempt.opened, 5);
}

#[test]
fn idle_sessions_beyond_a_number_are_forgotten_with_a_record() {
    let mut outbox = Outbox::default();
    let receivers = 2 * OUTBOX_LINES;
    for to in 0..receivers {
        let to = format!("receiver-{to}").into_boxed_str();
        for record in outbox.plan(&[Outgoing { to, ..outgoing(1) }]).expect("there is room") {
            outbox.take(record, None);
        }
    }
    for line in outbox.waiting_lines() {
        assert_eq!(outbox.depart(line, 0, |_| true).expect("it may leave").attempt.seq, 1);
        assert!(matches!(outbox.answered(line, 1, Outcome::Ran, 0, 0), Answered::Arrived));
    }
    assert!(!outbox.is_settled(), "the arrivals are not recorded");
    let (arrivals, settled) = outbox.arrivals(true).expect("all have arrived");
    assert!(settled);
    outbox.take_done(arrivals);
    assert!(outbox.is_settled());
    assert_eq!(outbox.lines.len(), OUTBOX_LINES);
    let kept: BTreeSet<&str> = outbox.lines.values().map(|line| &*line.to).collect();
    assert_eq!(kept.len(), OUTBOX_LINES);
}

/// Sends what may leave of the only line, and settles the messages that `settled` names; the others meet a full mailbox.
fn answer_some(outbox: &mut Outbox, settled: &[u64]) {
    let line = outbox.waiting_lines()[0];
    let mut sent = Vec::new();
    while let Some(departure) = outbox.depart(line, 0, |_| true) {
        sent.push(departure.attempt.seq);
    }
    for seq in sent {
        let outcome = if settled.contains(&seq) { Outcome::Ran } else { Outcome::Refused };
        outbox.answered(line, seq, outcome, 0, 0);
    }
}

/// An outbox with messages 1 to `count` to one receiver, in session 9.
fn in_session(count: usize) -> Outbox {
    let mut outbox = Outbox::default();
    for record in outbox.plan(&vec![outgoing(1); count]).expect("there is room") {
        outbox.take(record, Some(Ticket(1)));
    }
    outbox.take(OutboxRecord::Opened { to_type: "test".into(), to: "receiver".into(), opened: 9 }, Some(Ticket(1)));
    outbox
}

/// What a load that begins at the image makes.
fn from_image(outbox: &Outbox) -> Outbox {
    let (lines, _, messages) = outbox.image().expect("it was used");
    let mut records = vec![Record::Done(bytes(&lines))];
    records.extend(messages.iter().map(|message| Record::Outbox(bytes(message))));
    recover(&records)
}

fn numbers(records: &[OutboxRecord]) -> Vec<u64> {
    let number = |record: &OutboxRecord| match record {
        OutboxRecord::Message(message) => message.seq,
        OutboxRecord::Opened { .. } => panic!("no session is opened"),
    };
    records.iter().map(number).collect()
}

#[test]
fn a_number_that_was_used_before_a_snapshot_is_never_used_again_behind_it() {
    let mut outbox = in_session(2);
    answer_some(&mut outbox, &[2]);
    let again = from_image(&outbox);
    assert_eq!(again.len(), 1, "message 1 is outstanding");
    assert_eq!(numbers(&again.plan(&[outgoing(1)]).expect("there is room")), [3], "2 has run as another message");
}

#[test]
fn messages_keep_their_numbers_behind_a_snapshot_whatever_was_settled_between_them() {
    let mut outbox = in_session(3);
    answer_some(&mut outbox, &[2]);
    let again = from_image(&outbox);
    let (_, _, outstanding) = again.image().expect("it was used");
    assert_eq!(numbers(&outstanding), [1, 3]);
    assert_eq!(numbers(&again.plan(&[outgoing(1)]).expect("there is room")), [4]);
}

/// The payload of a record of arrivals as it was before images told the numbers of the next messages.
#[wire]
enum UnnumberedDone {
    Arrived(Vec<Arrived>),
    Lines(Vec<LineImage>),
}

#[test]
fn an_image_without_the_numbers_of_next_messages_is_still_read() {
    let receiver = || ("test".to_owned(), "receiver".to_owned());
    let (to_type, to) = receiver();
    let lines = UnnumberedDone::Lines(vec![LineImage { to_type, to, opened: 9, first: 5 }]);
    let message = |seq| {
        let (to_type, to) = receiver();
        OutboxRecord::Message(Message { to_type, to, seq, message: 1, version: 1, bytes: vec![0] })
    };
    let (to_type, to) = receiver();
    let arrived = UnnumberedDone::Arrived(vec![Arrived { to_type, to, upto: 5, closed: false }]);
    let mut records = vec![Record::Done(bytes(&lines))];
    records.extend([5, 7].map(|seq| Record::Outbox(bytes(&message(seq)))));
    records.push(Record::Done(bytes(&arrived)));
    let outbox = recover(&records);
    let (_, _, outstanding) = outbox.image().expect("it was used");
    assert_eq!(numbers(&outstanding), [7]);
    assert_eq!(numbers(&outbox.plan(&[outgoing(1)]).expect("there is room")), [8]);
}
