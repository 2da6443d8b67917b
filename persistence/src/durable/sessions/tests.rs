//! The dedup table against a model that forgets nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shardstage_codec::{AlignedBytes, decode, encode};

use super::*;

fn mark(client: &str, opened: u64, seq: u64, acked: u64) -> Mark {
    Mark { client: client.to_owned(), opened, seq, after: 0, acked, message: 7 }
}

fn run(sessions: &mut Sessions, mark: &Mark, reply: &[u8], most: usize) {
    assert_eq!(sessions.admit(mark), Admission::Run);
    let Mark { client, opened, seq, acked, message, .. } = mark.clone();
    sessions.ran(Ran { client, opened, seq, acked, message, reply: reply.to_vec() }, most);
}

/// A session for the client, as the actor would open one.
fn open(sessions: &Sessions, client: &str) -> u64 {
    match sessions.admit(&mark(client, 0, 1, 0)) {
        Admission::No(NotRun::Open { opened }) => opened,
        other => panic!("{other:?}"),
    }
}

fn through_a_snapshot(sessions: &Sessions) -> Sessions {
    let mut restored = Sessions::default();
    for table in sessions.image(300) {
        let mut bytes = AlignedBytes::new();
        let len = encode(&DedupRecord::Table(table), &mut bytes).expect("it fits");
        match decode::<DedupRecord>(&bytes[bytes.len() - len..]).expect("just encoded") {
            DedupRecord::Table(table) => restored.restore(table),
            DedupRecord::Ran(_) => panic!("a table was encoded"),
        }
    }
    restored
}

#[test]
fn a_repetition_gets_the_recorded_reply_until_it_is_acknowledged() {
    let mut sessions = Sessions::default();
    let opened = open(&sessions, "a");
    run(&mut sessions, &mark("a", opened, 1, 0), b"one", 8);
    run(&mut sessions, &mark("a", opened, 2, 0), b"two", 8);
    assert_eq!(sessions.admit(&mark("a", opened, 1, 0)), Admission::Again(b"one"));
    assert_eq!(sessions.admit(&mark("a", opened, 2, 1)), Admission::Again(b"two"));
    run(&mut sessions, &mark("a", opened, 3, 2), b"three", 8);
    assert_eq!(sessions.admit(&mark("a", opened, 1, 0)), Admission::No(NotRun::Acknowledged));
    assert_eq!(sessions.admit(&mark("a", opened, 3, 2)), Admission::Again(b"three"));
}

#[test]
fn clients_do_not_see_each_others_replies() {
    let mut sessions = Sessions::default();
    let (a, b) = (open(&sessions, "a"), open(&sessions, "b"));
    run(&mut sessions, &mark("a", a, 1, 0), b"for a", 8);
    run(&mut sessions, &mark("b", b, 1, 0), b"for b", 8);
    assert_eq!(sessions.admit(&mark("a", a, 1, 0)), Admission::Again(b"for a"));
    assert_eq!(sessions.admit(&mark("b", b, 1, 0)), Admission::Again(b"for b"));
}

#[test]
fn another_command_under_the_same_number_is_refused() {
    let mut sessions = Sessions::default();
    let opened = open(&sessions, "a");
    run(&mut sessions, &mark("a", opened, 1, 0), b"one", 8);
    let other = Mark { message: 8, ..mark("a", opened, 1, 0) };
    assert_eq!(sessions.admit(&other), Admission::No(NotRun::Misnumbered));
    for wrong in [mark("a", opened, 0, 0), mark("a", opened, 2, 2), mark("", opened, 2, 0)] {
        assert_eq!(sessions.admit(&wrong), Admission::No(NotRun::Misnumbered));
    }
    let long = "x".repeat(CLIENT_BYTES + 1);
    assert_eq!(sessions.admit(&mark(&long, opened, 2, 0)), Admission::No(NotRun::Misnumbered));
}

#[test]
fn a_forgotten_client_is_refused_and_can_begin_anew() {
    let mut sessions = Sessions::default();
    let first = open(&sessions, "a");
    run(&mut sessions, &mark("a", first, 1, 0), b"one", 2);
    for client in ["b", "c"] {
        let opened = open(&sessions, client);
        run(&mut sessions, &mark(client, opened, 1, 0), b"", 2);
    }
    assert_eq!(sessions.clients(), 2);
    assert_eq!(sessions.admit(&mark("a", first, 1, 0)), Admission::No(NotRun::SessionExpired));
    assert_eq!(sessions.admit(&mark("a", first, 2, 1)), Admission::No(NotRun::SessionExpired));
    let second = open(&sessions, "a");
    assert!(second > first);
    run(&mut sessions, &mark("a", second, 1, 0), b"anew", 2);
    assert_eq!(sessions.admit(&mark("a", first, 1, 0)), Admission::No(NotRun::SessionExpired));
}

#[test]
fn a_command_whose_predecessor_has_not_run_waits() {
    let mut sessions = Sessions::default();
    let opened = open(&sessions, "a");
    let after = |seq, after, acked| Mark { after, ..mark("a", opened, seq, acked) };
    assert_eq!(sessions.admit(&after(2, 1, 0)), Admission::No(NotRun::Gap));
    run(&mut sessions, &after(1, 0, 0), b"", 8);
    assert_eq!(sessions.admit(&after(3, 2, 0)), Admission::No(NotRun::Gap));
    run(&mut sessions, &after(2, 1, 0), b"", 8);
    // One that its client gave up counts as acknowledged.
    assert_eq!(sessions.admit(&after(5, 4, 4)), Admission::Run);
}

#[test]
fn unacknowledged_replies_are_bounded() {
    let mut sessions = Sessions::default();
    let opened = open(&sessions, "a");
    for seq in 1..=SESSION_WINDOW as u64 {
        run(&mut sessions, &mark("a", opened, seq, 0), b"", 8);
    }
    let next = SESSION_WINDOW as u64 + 1;
    assert_eq!(sessions.admit(&mark("a", opened, next, 0)), Admission::No(NotRun::WindowFull));
    assert_eq!(sessions.admit(&mark("a", opened, next, 1)), Admission::Run);

    let mut sessions = Sessions::default();
    for client in 0..40 {
        let name = format!("client-{client}");
        let opened = open(&sessions, &name);
        run(&mut sessions, &mark(&name, opened, 1, 0), &vec![0; SESSION_BYTES], 1000);
        assert_eq!(sessions.admit(&mark(&name, opened, 2, 0)), Admission::No(NotRun::WindowFull));
        assert!(sessions.bytes <= SESSIONS_BYTES, "{}", sessions.bytes);
    }
    assert!(sessions.clients() < 5);
}

#[test]
fn a_client_that_was_silent_for_too_long_is_forgotten() {
    let mut sessions = Sessions::default();
    let (silent, busy) = (open(&sessions, "silent"), open(&sessions, "busy"));
    run(&mut sessions, &mark("silent", silent, 1, 0), b"", 8);
    for seq in 1..=SESSION_COMMANDS {
        run(&mut sessions, &mark("busy", busy, seq, seq - 1), b"", 8);
        assert_eq!(sessions.clients(), if seq < SESSION_COMMANDS + 1 { 2 } else { 1 });
    }
    run(&mut sessions, &mark("busy", busy, SESSION_COMMANDS + 1, SESSION_COMMANDS), b"", 8);
    assert_eq!(sessions.admit(&mark("silent", silent, 1, 0)), Admission::No(NotRun::SessionExpired));
}

/// A client as it keeps its numbers.
#[derive(Default)]
struct Peer {
    opened: u64,
    next: u64,
    acked: u64,
}

#[derive(Default)]
struct World {
    sessions: Sessions,
    peers: Vec<Peer>,
    attempts: Vec<Mark>,
    /// Replies by (client, opened, seq): never forgotten.
    ran: BTreeMap<(String, u64, u64), Vec<u8>>,
    /// Clients in order of last use, latest last.
    recent: Vec<String>,
    records: Vec<Ran>,
    acked: BTreeMap<(String, u64), u64>,
}

const MOST: usize = 3;

impl World {
    fn attempt(&mut self, mark: &Mark) -> Result<(), TestCaseError> {
        let key = (mark.client.clone(), mark.opened, mark.seq);
        let known = self.ran.get(&key);
        match self.sessions.admit(mark) {
            Admission::Run => {
                prop_assert!(known.is_none(), "{mark:?} runs twice");
                let reply = format!("{} of {:?}", self.records.len(), key).into_bytes();
                let Mark { client, opened, seq, acked, message, .. } = mark.clone();
                let ran = Ran { client, opened, seq, acked, message, reply: reply.clone() };
                self.sessions.ran(ran.clone(), MOST);
                self.records.push(ran);
                self.ran.insert(key, reply);
                self.recent.retain(|client| *client != mark.client);
                self.recent.push(mark.client.clone());
                let acked = self.acked.entry((mark.client.clone(), mark.opened)).or_default();
                *acked = mark.acked.max(*acked);
            }
            Admission::Again(reply) => prop_assert_eq!(Some(reply), known.map(Vec::as_slice)),
            Admission::No(why) => {
                // What it must not have forgotten yet: the last clients' unacknowledged replies.
                let kept = self.recent.iter().rev().take(MOST).any(|client| *client == mark.client);
                let newest = self.ran.keys().filter(|key| key.0 == mark.client).map(|key| key.1).max();
                let acked = self.acked.get(&(mark.client.clone(), mark.opened)).copied().unwrap_or(0);
                let must_know = kept && newest == Some(mark.opened) && mark.seq > acked && known.is_some();
                prop_assert!(!must_know, "{:?} was refused as {:?}", mark, why);
            }
        }
        Ok(())
    }

    fn step(&mut self, kind: u8, who: usize, which: usize) -> Result<(), TestCaseError> {
        let client = format!("client-{who}");
        match kind {
            0..=4 => {
                let opened = self.peers[who].opened;
                if opened == 0 {
                    self.peers[who] = Peer { opened: open(&self.sessions, &client), next: 1, acked: 0 };
                }
                let peer = &mut self.peers[who];
                let mark = mark(&client, peer.opened, peer.next, peer.acked);
                peer.next += 1;
                self.attempts.push(mark.clone());
                self.attempt(&mark)?;
            }
            5 | 6 if !self.attempts.is_empty() => {
                let mark = self.attempts[which % self.attempts.len()].clone();
                self.attempt(&mark)?;
            }
            7 => self.peers[who].acked = self.peers[who].next.saturating_sub(1 + which as u64 % 3),
            8 => self.peers[who] = Peer::default(),
            9 => self.sessions = through_a_snapshot(&self.sessions),
            _ => {}
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_runs_twice_and_replies_are_those_of_the_command(
        steps in proptest::collection::vec((0u8..10, 0usize..5, 0usize..1000), 1..200)
    ) {
        let mut world = World { peers: (0..5).map(|_| Peer::default()).collect(), ..World::default() };
        for (kind, who, which) in steps {
            world.step(kind, who, which)?;
        }
        let mut replayed = Sessions::default();
        for ran in &world.records {
            replayed.ran(ran.clone(), MOST);
        }
        prop_assert_eq!(&replayed, &world.sessions, "live and replayed tables differ");
        prop_assert_eq!(&through_a_snapshot(&replayed), &replayed);
    }
}
