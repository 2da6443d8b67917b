//! Hazard: of many that are asked at once each must have its own outcome, in its own place, and what is not wanted any more must
//! not go on.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Panicked, ask_all};

type Outcome = Result<u64, AskError>;

#[message(reply = u64)]
#[derive(Clone)]
struct Vote;

/// How many votes are still wanted, of how many.
#[message(reply = (usize, usize))]
struct Pending;

#[derive(Clone, Copy, Debug)]
enum How {
    Say(u64),
    Panic,
    Keep,
}

struct Voter {
    how: How,
    kept: Vec<Reply<u64>>,
}
impl Actor for Voter {}

impl DeferredHandler<Vote> for Voter {
    fn handle(&mut self, _: Vote, reply: Reply<u64>, _cx: &mut Context<Self>) {
        match self.how {
            How::Say(vote) => reply.send(vote),
            How::Panic => panic!("no vote"),
            How::Keep => self.kept.push(reply),
        }
    }
}

impl Handler<Pending> for Voter {
    fn handle(&mut self, _: Pending, _cx: &mut Context<Self>) -> (usize, usize) {
        (self.kept.iter().filter(|reply| reply.is_wanted()).count(), self.kept.len())
    }
}

const TTL: Duration = Duration::from_secs(2);

/// Asks all, in the way that is said, and answers with what came.
#[message(reply = Vec<Option<Outcome>>)]
#[derive(Clone)]
struct Poll_ {
    voters: Vec<ActorRef<Voter>>,
    first: Option<usize>,
}

#[derive(Default)]
struct Chair;
impl Actor for Chair {}

impl DeferredHandler<Poll_> for Chair {
    fn handle(&mut self, poll: Poll_, reply: Reply<Vec<Option<Outcome>>>, cx: &mut Context<Self>) {
        let all = cx.ask_all(poll.voters, Vote).deadline(TTL);
        match poll.first {
            None => all.then(move |_, votes, _| reply.send(votes.into_iter().map(Some).collect())),
            Some(answers) => all.first(answers).then(move |_, votes, _| reply.send(votes)),
        }
    }
}

struct AsyncChair;
impl Actor for AsyncChair {}

impl AsyncHandler<Poll_> for AsyncChair {
    async fn handle(&mut self, poll: Poll_, _cx: &mut Context<Self>) -> Vec<Option<Outcome>> {
        let all = ask_all(poll.voters, Vote).deadline(TTL);
        match poll.first {
            None => all.await.into_iter().map(Some).collect(),
            Some(answers) => all.first(answers).await,
        }
    }
}

fn voters(kit: &TestKit, how: &[How]) -> Vec<ActorRef<Voter>> {
    let spawn = |(number, how): (usize, &How)| {
        let how = *how;
        kit.spawn_on((number % 2) as u16, move || Voter { how, kept: Vec::new() }).unwrap()
    };
    let all: Vec<_> = how.iter().enumerate().map(spawn).collect();
    all.iter().for_each(|voter| voter.started().wait().unwrap());
    all
}

/// Asks from an actor's turn, from an async handler on either shard, from a thread, and in a future.
fn every_way(kit: &TestKit, poll: &Poll_, check: impl Fn(Vec<Option<Outcome>>)) {
    for shard in [0, 1] {
        check(kit.spawn_on(shard, Chair::default).unwrap().ask(poll.clone()).wait().unwrap());
        check(kit.spawn_on(shard, || AsyncChair).unwrap().ask(poll.clone()).wait().unwrap());
    }
    let all = || ask_all(poll.voters.clone(), Vote).deadline(TTL);
    match poll.first {
        None => {
            check(all().wait().into_iter().map(Some).collect());
            check(kit.block_on(all()).into_iter().map(Some).collect());
        }
        Some(answers) => {
            check(all().first(answers).wait());
            check(kit.block_on(all().first(answers)));
        }
    }
    kit.run_until_idle();
    assert_eq!(kit.census().asks, 0, "no slot is left");
}

#[test]
fn outcomes_come_in_the_order_of_the_list_each_with_its_own() {
    TestKit::check_seeds(0..10, |kit| {
        kit.allow_panics();
        kit.allow_dead_letters(|_| true);
        let voters = voters(kit, &[How::Say(1), How::Keep, How::Panic, How::Say(4), How::Say(5), How::Say(6)]);
        voters[4].stop().wait();
        let expected = [
            Ok(1),
            Err(AskError::Unknown(Unknown::Deadline)),
            Err(AskError::Failed(Panicked("no vote".into()))),
            Ok(4),
            Err(AskError::Rejected(Rejected::Closed)),
            Ok(6),
        ]
        .map(Some);
        every_way(kit, &Poll_ { voters, first: None }, |votes| assert_eq!(votes, expected));
    });
}

#[test]
fn the_first_answers_are_enough_and_the_rest_is_given_up() {
    TestKit::check_seeds(0..10, |kit| {
        let voters = voters(kit, &[How::Keep, How::Say(2), How::Keep, How::Say(4), How::Keep]);
        let before = kit.now();
        every_way(kit, &Poll_ { voters: voters.clone(), first: Some(2) }, |votes| {
            assert_eq!(votes, [None, Some(Ok(2)), None, Some(Ok(4)), None]);
        });
        assert!(kit.now() - before < TTL, "nobody waited for a deadline");
        for silent in [voters[0], voters[2], voters[4]] {
            assert_eq!(silent.ask(Pending).wait().unwrap().0, 0, "whoever works on it sees that nobody waits");
        }
    });
}

#[test]
fn too_few_answers_end_when_nobody_is_left() {
    TestKit::check_seeds(0..10, |kit| {
        kit.allow_panics();
        let voters = voters(kit, &[How::Say(1), How::Panic]);
        let failed = Err(AskError::Failed(Panicked("no vote".into())));
        let before = kit.now();
        every_way(kit, &Poll_ { voters, first: Some(2) }, |votes| {
            assert_eq!(votes, [Some(Ok(1)), Some(failed.clone())]);
        });
        assert!(kit.now() - before < TTL);
    });
}

#[test]
fn the_deadline_is_common_and_keeps_what_has_come() {
    TestKit::check_seeds(0..5, |kit| {
        let voters = voters(kit, &[How::Keep, How::Say(2), How::Keep]);
        let late = || Some(Err(AskError::Unknown(Unknown::Deadline)));
        every_way(kit, &Poll_ { voters, first: Some(3) }, |votes| assert_eq!(votes, [late(), Some(Ok(2)), late()]));
    });
}

#[test]
fn nobody_to_ask_is_answered_with_nothing() {
    let kit = TestKit::new();
    for first in [None, Some(1)] {
        every_way(&kit, &Poll_ { voters: Vec::new(), first }, |votes| assert_eq!(votes, []));
    }
}

#[test]
fn dropping_the_future_gives_all_up() {
    TestKit::check_seeds(0..10, |kit| {
        let voters = voters(kit, &[How::Keep, How::Keep, How::Say(3)]);
        let mut all = Box::pin(ask_all(voters.clone(), Vote).deadline(TTL));
        kit.block_on(poll_fn(|cx| {
            assert!(all.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        }));
        kit.run_until_idle();
        assert_eq!(voters.iter().map(|voter| voter.ask(Pending).wait().unwrap().0).sum::<usize>(), 2);
        drop(all);
        kit.run_until_idle();
        assert_eq!(voters.iter().map(|voter| voter.ask(Pending).wait().unwrap().0).sum::<usize>(), 0);
        assert_eq!(kit.census().asks, 0);
    });
}

/// A clone that panics at the third.
#[derive(Debug)]
struct Brittle(u32);

impl Message for Brittle {
    type Reply = u64;
}

impl Clone for Brittle {
    fn clone(&self) -> Self {
        static CLONES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let clones = CLONES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert!(clones < 2, "it breaks");
        Self(self.0)
    }
}

impl DeferredHandler<Brittle> for Voter {
    fn handle(&mut self, _: Brittle, reply: Reply<u64>, _cx: &mut Context<Self>) {
        self.kept.push(reply);
    }
}

#[message]
struct Break(Vec<ActorRef<Voter>>);

impl Handler<Break> for Chair {
    fn handle(&mut self, Break(voters): Break, cx: &mut Context<Self>) {
        cx.ask_all(voters, Brittle(1)).then(|_, _, _| panic!("nobody is told"));
    }
}

#[test]
fn a_clone_that_panics_ends_what_was_begun() {
    let kit = TestKit::new();
    kit.allow_panics();
    let voters = voters(&kit, &[How::Keep, How::Keep, How::Keep]);
    let chair = kit.spawn_on(0, Chair::default).unwrap();
    chair.tell(Break(voters.clone())).unwrap();
    kit.run_until_idle();
    assert_eq!(kit.census().asks, 0);
    assert_eq!(voters.iter().map(|voter| voter.ask(Pending).wait().unwrap().0).sum::<usize>(), 0);
}
