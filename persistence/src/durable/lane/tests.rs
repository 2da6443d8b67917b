//! A lane against an actor that recognises repetitions, over a network that loses and delays.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::sessions::{Admission, Mark, Ran, Sessions};
use super::*;

/// What the network does with an attempt.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Delivered,
    Refused,
    Vanished,
    AnswerLost,
    /// It arrives after the sender took it for lost.
    Late,
}

fn fate(draw: u8) -> Fate {
    match draw {
        0..=3 => Fate::Delivered,
        4 => Fate::Refused,
        5 => Fate::Vanished,
        6 => Fate::AnswerLost,
        _ => Fate::Late,
    }
}

/// The actor: commands in the order in which they ran.
#[derive(Default)]
struct Receiver {
    sessions: Sessions,
    ran: Vec<u32>,
    most: usize,
}

impl Receiver {
    fn take(&mut self, attempt: Attempt, command: u32) -> Outcome {
        let Attempt { opened, seq, after, acked } = attempt;
        let mark = Mark { client: "lane".into(), opened, seq, after, acked, message: 1 };
        match self.sessions.admit(&mark) {
            Admission::Run => {
                let reply = command.to_le_bytes().to_vec();
                let client = "lane".to_owned();
                self.sessions.ran(Ran { client, opened, seq, acked, message: 1, reply }, self.most);
                self.ran.push(command);
                Outcome::Ran
            }
            Admission::Again(reply) => {
                assert_eq!(reply, command.to_le_bytes(), "the reply of another command");
                Outcome::Ran
            }
            Admission::No(why) => Outcome::NotRun(why),
        }
    }

    /// Enough commands of others that the lane's session is forgotten.
    fn forget(&mut self) {
        for other in 0..self.most {
            let client = format!("other-{other}");
            let mark = Mark { client: client.clone(), opened: 0, seq: 1, after: 0, acked: 0, message: 1 };
            let Admission::No(NotRun::Open { opened }) = self.sessions.admit(&mark) else { panic!("no session") };
            let ran = Ran { client, opened, seq: 1, acked: 0, message: 1, reply: Vec::new() };
            self.sessions.ran(ran, self.most);
        }
    }
}

struct World {
    lane: Lane<u32>,
    receiver: Receiver,
    in_flight: Vec<(Attempt, u32)>,
    late: Vec<(Attempt, u32)>,
    settled: Vec<u32>,
    lost: BTreeSet<u32>,
    now_ns: u64,
    next: u32,
}

impl World {
    fn new() -> Self {
        let receiver = Receiver { most: 3, ..Receiver::default() };
        Self {
            lane: Lane::default(),
            receiver,
            in_flight: Vec::new(),
            late: Vec::new(),
            settled: Vec::new(),
            lost: BTreeSet::new(),
            now_ns: 0,
            next: 0,
        }
    }

    fn push(&mut self) {
        self.lane.push(self.next);
        self.next += 1;
    }

    fn send(&mut self) {
        while let Some((attempt, command)) = self.lane.attempt(self.now_ns, |_| true) {
            self.in_flight.push((attempt, *command));
        }
        assert!(self.in_flight.len() <= LANE_WINDOW);
    }

    fn end(&mut self, which: usize, fate: Fate) {
        if self.in_flight.is_empty() {
            return;
        }
        let (attempt, command) = self.in_flight.remove(which % self.in_flight.len());
        let outcome = match fate {
            Fate::Delivered => self.receiver.take(attempt, command),
            Fate::Refused => Outcome::Refused,
            Fate::Vanished => Outcome::Unknown,
            Fate::AnswerLost => {
                self.receiver.take(attempt, command);
                Outcome::Unknown
            }
            Fate::Late => {
                self.late.push((attempt, command));
                Outcome::Unknown
            }
        };
        match self.lane.answered(attempt.seq, outcome, self.now_ns, command.into()) {
            Step::Again | Step::Opened(_) => {}
            Step::Settled(command) => self.settled.push(command),
            Step::Lost(command) => assert!(self.lost.insert(command)),
        }
    }

    fn arrive_late(&mut self, which: usize) {
        if !self.late.is_empty() {
            let (attempt, command) = self.late.remove(which % self.late.len());
            self.receiver.take(attempt, command);
        }
    }

    /// Faults are over: everything ends.
    fn finish(&mut self) {
        for round in 0..10_000 {
            self.now_ns += LANE_PAUSE_MAX_NS;
            self.send();
            self.end(0, Fate::Delivered);
            self.arrive_late(round);
            if self.lane.is_empty() && self.late.is_empty() {
                return;
            }
        }
        panic!("the lane does not end: {:?}", self.lane);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_command_runs_once_and_in_order(
        steps in proptest::collection::vec((0u8..6, 0u8..9, 0usize..100), 1..300)
    ) {
        let mut world = World::new();
        for (kind, draw, which) in steps {
            match kind {
                0 => world.push(),
                1 => world.now_ns += LANE_PAUSE_NS,
                2 => world.arrive_late(which),
                _ => world.end(which, fate(draw)),
            }
            world.send();
        }
        world.finish();
        let all: Vec<u32> = (0..world.next).collect();
        prop_assert_eq!(&world.receiver.ran, &all);
        world.settled.sort_unstable();
        prop_assert_eq!(&world.settled, &all);
    }

    #[test]
    fn a_forgotten_session_runs_nothing_twice(
        steps in proptest::collection::vec((0u8..20, 0u8..9, 0usize..100), 1..300)
    ) {
        let mut world = World::new();
        for (kind, draw, which) in steps {
            match kind {
                0..=3 => world.push(),
                4 | 5 => world.now_ns += LANE_PAUSE_NS,
                6 | 7 => world.arrive_late(which),
                8 => world.receiver.forget(),
                _ => world.end(which, fate(draw)),
            }
            world.send();
        }
        world.finish();
        let ran: BTreeSet<u32> = world.receiver.ran.iter().copied().collect();
        prop_assert_eq!(ran.len(), world.receiver.ran.len(), "{:?}", world.receiver.ran);
        prop_assert!(world.receiver.ran.is_sorted(), "{:?}", world.receiver.ran);
        for command in 0..world.next {
            let (settled, lost) = (world.settled.contains(&command), world.lost.contains(&command));
            prop_assert!(settled != lost, "{} settled: {}, lost: {}", command, settled, lost);
            prop_assert!(!settled || ran.contains(&command));
        }
    }
}

#[test]
fn pauses_grow_and_end_with_a_success() {
    let mut lane = Lane::default();
    lane.push("a");
    let mut now_ns = 0;
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let (attempt, _) = lane.attempt(now_ns, |_| true).expect("it may go");
        assert_eq!(lane.answered(attempt.seq, Outcome::Refused, now_ns, u64::MAX / 2), Step::Again);
        assert!(lane.attempt(now_ns, |_| true).is_none(), "not during the pause");
        let resume_ns = lane.resume_ns(now_ns).expect("it waits");
        pauses.push(resume_ns - now_ns);
        now_ns = resume_ns;
    }
    assert!(pauses.iter().all(|pause| (LANE_PAUSE_NS / 2..=LANE_PAUSE_MAX_NS).contains(pause)), "{pauses:?}");
    assert!(pauses[8] > 50 * pauses[0], "{pauses:?}");
    let (attempt, _) = lane.attempt(now_ns, |_| true).expect("it may go");
    assert_eq!(lane.answered(attempt.seq, Outcome::Ran, now_ns, 0), Step::Settled("a"));
    lane.push("b");
    assert!(lane.attempt(now_ns, |_| true).is_some(), "no pause is left");
}

#[test]
fn one_goes_alone_before_there_is_a_session_and_a_window_after() {
    let mut lane = Lane::default();
    for command in 0..100 {
        lane.push(command);
    }
    let (attempt, _) = lane.attempt(0, |_| true).expect("the first");
    assert_eq!(attempt, Attempt { opened: 0, seq: 1, after: 0, acked: 0 });
    assert!(lane.attempt(0, |_| true).is_none());
    assert_eq!(lane.answered(1, Outcome::NotRun(NotRun::Open { opened: 9 }), 0, 0), Step::Opened(9));
    let sent: Vec<Attempt> = std::iter::from_fn(|| lane.attempt(0, |_| true).map(|(attempt, _)| attempt)).collect();
    assert_eq!(sent.len(), LANE_WINDOW);
    assert!(sent.iter().all(|attempt| attempt.opened == 9 && attempt.after == attempt.seq - 1 && attempt.acked == 0));
}

#[test]
fn a_command_that_is_given_up_says_whether_an_attempt_may_have_run() {
    let mut lane = Lane::default();
    lane.push("a");
    lane.push("b");
    lane.open(9);
    for seq in [1, 2] {
        assert_eq!(lane.attempt(0, |_| true).map(|(attempt, _)| attempt.seq), Some(seq));
    }
    assert_eq!(lane.answered(1, Outcome::Unknown, 0, 0), Step::Again);
    assert_eq!(lane.answered(2, Outcome::Refused, 0, 0), Step::Again);
    assert_eq!((lane.give_up(1), lane.give_up(2), lane.give_up(2)), (Some(("a", true)), Some(("b", false)), None));
}
