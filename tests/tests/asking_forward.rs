//! Hazard: an ask whose answer comes from somebody else than the one who was asked must end once, with a true answer.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, AskError, Panicked, Reason};

/// What the worker does with a job.
#[derive(Clone, Copy, Debug)]
enum How {
    Answer,
    Panic,
    Keep,
    Drop,
}

/// Larger than what leaves room for a deadline in its envelope when `PAD` is 4.
struct Job<const PAD: usize> {
    how: How,
    _pad: [u64; PAD],
}

impl<const PAD: usize> Message for Job<PAD> {
    type Reply = u64;
}

fn job<const PAD: usize>(how: How) -> Job<PAD> {
    Job { how, _pad: [0; PAD] }
}

#[derive(Default)]
struct Worker {
    kept: Vec<Reply<u64>>,
    handled: u64,
}
impl Actor for Worker {}

impl<const PAD: usize> DeferredHandler<Job<PAD>> for Worker {
    fn handle(&mut self, job: Job<PAD>, reply: Reply<u64>, _cx: &mut Context<Self>) {
        self.handled += 1;
        match job.how {
            How::Answer => reply.send(7),
            How::Panic => panic!("the worker's hands slip"),
            How::Keep => self.kept.push(reply),
            How::Drop => drop(reply),
        }
    }
}

#[message(reply = (u64, Vec<(bool, Option<Duration>)>))]
struct Look;

impl Handler<Look> for Worker {
    fn handle(&mut self, _: Look, _cx: &mut Context<Self>) -> (u64, Vec<(bool, Option<Duration>)>) {
        (self.handled, self.kept.iter().map(|reply| (reply.is_wanted(), reply.deadline())).collect())
    }
}

/// Hands every job on.
struct Desk {
    worker: ActorRef<Worker>,
    stops: bool,
}
impl Actor for Desk {}

impl<const PAD: usize> DeferredHandler<Job<PAD>> for Desk {
    fn handle(&mut self, job: Job<PAD>, reply: Reply<u64>, cx: &mut Context<Self>) {
        assert!(reply.is_wanted() && reply.deadline().is_some());
        reply.forward(self.worker, job);
        if self.stops {
            cx.stop();
        }
    }
}

/// Asks in an actor's turn.
#[message(reply = Result<u64, AskError>)]
struct AskDesk {
    desk: ActorRef<Desk>,
    how: How,
    large: bool,
    ttl: Duration,
}

#[derive(Default)]
struct Asker;
impl Actor for Asker {}

impl DeferredHandler<AskDesk> for Asker {
    fn handle(&mut self, ask: AskDesk, reply: Reply<Result<u64, AskError>>, cx: &mut Context<Self>) {
        if ask.large {
            cx.ask(ask.desk, job::<4>(ask.how)).deadline(ask.ttl).then(|_, answer, _| reply.send(answer));
        } else {
            cx.ask(ask.desk, job::<0>(ask.how)).deadline(ask.ttl).then(|_, answer, _| reply.send(answer));
        }
    }
}

const TTL: Duration = Duration::from_secs(2);

/// Every way from asker over desk to worker, on shards 0 and 1, and from the test's thread.
fn every_way(kit: &TestKit, how: How, stops: bool, check: impl Fn(Result<u64, AskError>, ActorRef<Worker>)) {
    for (desk_on, worker_on) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for asker in 0..4 {
            let worker = kit.spawn_on(worker_on, Worker::default).unwrap();
            let desk = kit.spawn_on(desk_on, move || Desk { worker, stops }).unwrap();
            let answer = if asker == 3 {
                desk.ask(job::<1>(how)).deadline(TTL).wait()
            } else {
                let ask = AskDesk { desk, how, large: asker == 2, ttl: TTL };
                kit.spawn_on(asker % 2, Asker::default).unwrap().ask(ask).wait().unwrap()
            };
            check(answer, worker);
            worker.stop().wait();
            desk.stop().wait();
        }
    }
    kit.run_until_idle();
    assert_eq!(kit.census().asks, 0, "no slot is left");
}

#[test]
fn whoever_it_was_forwarded_to_answers() {
    TestKit::check_seeds(0..10, |kit| every_way(kit, How::Answer, false, |answer, _| assert_eq!(answer, Ok(7))));
}

#[test]
fn the_forwarder_may_stop_before_the_answer() {
    TestKit::check_seeds(0..10, |kit| every_way(kit, How::Answer, true, |answer, _| assert_eq!(answer, Ok(7))));
}

#[test]
fn a_panic_of_the_target_reaches_the_asker() {
    TestKit::check_seeds(0..5, |kit| {
        kit.allow_panics();
        let failed = Err(AskError::Failed(Panicked("the worker's hands slip".into())));
        every_way(kit, How::Panic, false, |answer, _| assert_eq!(answer, failed));
    });
}

#[test]
fn a_target_that_never_answers_runs_into_the_askers_deadline() {
    TestKit::check_seeds(0..5, |kit| {
        every_way(kit, How::Keep, false, |answer, worker| {
            assert_eq!(answer, Err(AskError::Unknown(Unknown::Deadline)));
            let (handled, kept) = worker.ask(Look).wait().unwrap();
            assert_eq!((handled, kept.len(), kept[0].0), (1, 1, false), "and whoever kept the reply sees it");
        });
    });
}

#[test]
fn a_reply_dropped_by_the_target_fails_at_once() {
    TestKit::check_seeds(0..5, |kit| {
        let before = kit.now();
        every_way(kit, How::Drop, false, |answer, _| assert!(matches!(answer, Err(AskError::Failed(_))), "{answer:?}"));
        assert!(kit.now() - before < TTL, "nobody waited for a deadline");
    });
}

#[test]
fn a_target_that_is_gone_rejects_the_asker() {
    let kit = TestKit::new();
    kit.allow_dead_letters(|letter| letter.reason == Reason::Closed);
    for (desk_on, worker_on) in [(0, 0), (0, 1), (1, 0)] {
        let worker = kit.spawn_on(worker_on, Worker::default).unwrap();
        let desk = kit.spawn_on(desk_on, move || Desk { worker, stops: false }).unwrap();
        let asker = kit.spawn_on(0, Asker::default).unwrap();
        worker.stop().wait();
        let ask = AskDesk { desk, how: How::Answer, large: false, ttl: TTL };
        assert_eq!(asker.ask(ask).wait().unwrap(), Err(AskError::Rejected(Rejected::Closed)), "{desk_on} {worker_on}");
    }
    kit.run_until_idle();
    assert_eq!(kit.census().asks, 0);
}

/// Keeps its reply past a deadline, then looks at what is left of it.
#[test]
fn the_callee_sees_how_long_the_asker_still_waits() {
    TestKit::check_seeds(0..5, |kit| {
        for (asker_on, worker_on) in [(0, 0), (0, 1)] {
            let worker = kit.spawn_on(worker_on, Worker::default).unwrap();
            let desk = kit.spawn_on(worker_on, move || Desk { worker, stops: false }).unwrap();
            for large in [false, true] {
                let asker = kit.spawn_on(asker_on, Asker::default).unwrap();
                let asked = asker.ask(AskDesk { desk, how: How::Keep, large, ttl: TTL });
                let mut asked = Box::pin(asked);
                kit.block_on(std::future::poll_fn(|cx| {
                    assert!(asked.as_mut().poll(cx).is_pending());
                    std::task::Poll::Ready(())
                }));
                kit.advance(TTL / 2);
                let (_, kept) = worker.ask(Look).wait().unwrap();
                let (wanted, left) = *kept.last().unwrap();
                let left = left.unwrap();
                assert!(wanted && left <= TTL / 2 && left > TTL / 3, "{left:?}");
                kit.advance(TTL);
                let (_, kept) = worker.ask(Look).wait().unwrap();
                assert!(!kept.last().unwrap().0, "it has given up");
            }
        }
    });
}

#[message]
#[derive(Debug, PartialEq)]
struct Note(u64);

/// Tells who sent it what.
#[derive(Default)]
struct Clerk {
    from: Vec<Option<ActorId>>,
}
impl Actor for Clerk {}

impl Handler<Note> for Clerk {
    fn handle(&mut self, _: Note, cx: &mut Context<Self>) {
        self.from.push(cx.sender());
    }
}

#[message(reply = Vec<Option<ActorId>>)]
struct Senders;

impl Handler<Senders> for Clerk {
    fn handle(&mut self, _: Senders, _cx: &mut Context<Self>) -> Vec<Option<ActorId>> {
        self.from.clone()
    }
}

/// Forwards notes.
struct Postman {
    to: ActorRef<Clerk>,
}
impl Actor for Postman {}

impl Handler<Note> for Postman {
    fn handle(&mut self, note: Note, cx: &mut Context<Self>) {
        let refused = cx.forward(self.to, note).is_err();
        if refused {
            cx.stop();
        }
    }
}

#[message]
struct Write(ActorRef<Postman>);

impl Handler<Write> for Asker {
    fn handle(&mut self, write: Write, _cx: &mut Context<Self>) {
        write.0.tell(Note(1)).unwrap();
    }
}

#[test]
fn a_forwarded_tell_keeps_its_sender_and_comes_back_when_refused() {
    TestKit::check_seeds(0..5, |kit| {
        for (postman_on, clerk_on) in [(0, 0), (0, 1), (1, 0)] {
            let clerk = kit.spawn_on(clerk_on, Clerk::default).unwrap();
            let postman = kit.spawn_on(postman_on, move || Postman { to: clerk }).unwrap();
            let author = kit.spawn_on(0, Asker::default).unwrap();
            author.tell(Write(postman)).unwrap();
            kit.run_until_idle();
            postman.tell(Note(2)).unwrap();
            kit.run_until_idle();
            assert_eq!(clerk.ask(Senders).wait().unwrap(), [Some(author.id()), None]);
            if clerk_on == postman_on {
                clerk.stop().wait();
                postman.tell(Note(3)).unwrap();
                assert_eq!(postman.stopped().wait(), StopReason::Stopped, "the message came back");
            }
        }
    });
}

/// Asks the worker and has the answer sent to the probe as a note.
#[message]
struct Pipe {
    worker: ActorRef<Worker>,
    how: How,
    to: Recipient<Note>,
    map_panics: bool,
}

impl Handler<Pipe> for Asker {
    fn handle(&mut self, pipe: Pipe, cx: &mut Context<Self>) {
        let panics = pipe.map_panics;
        cx.ask(pipe.worker, job::<0>(pipe.how)).deadline(TTL).pipe_to(pipe.to, move |answer| {
            assert!(!panics, "no map today");
            Note(answer.unwrap_or(0))
        });
        cx.stop();
    }
}

#[test]
fn an_answer_is_piped_to_a_third_actor_also_when_the_asker_is_gone() {
    TestKit::check_seeds(0..5, |kit| {
        kit.allow_panics();
        for (asker_on, worker_on) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let probe = kit.probe::<Note>();
            let to = probe.recipient();
            let worker = kit.spawn_on(worker_on, Worker::default).unwrap();
            for (how, note) in [(How::Answer, 7), (How::Drop, 0), (How::Keep, 0)] {
                let asker = kit.spawn_on(asker_on, Asker::default).unwrap();
                asker.tell(Pipe { worker, how, to, map_panics: false }).unwrap();
                asker.stopped().wait();
                if matches!(how, How::Keep) {
                    probe.expect_no_msg(TTL / 2);
                    kit.advance(TTL);
                }
                probe.expect_msg_eq(Note(note));
            }
            let asker = kit.spawn_on(asker_on, Asker::default).unwrap();
            asker.tell(Pipe { worker, how: How::Answer, to, map_panics: true }).unwrap();
            probe.expect_no_msg(TTL);
        }
        kit.run_until_idle();
        assert_eq!(kit.census().asks, 0);
        assert_eq!(kit.stats().iter().map(|shard| shard.panics).sum::<u64>(), 4, "maps that panicked are counted");
    });
}

#[test]
fn a_piped_answer_that_finds_no_room_is_a_dead_letter() {
    let kit = TestKit::new();
    let worker = kit.spawn(Worker::default).unwrap();
    let asker = kit.spawn(Asker::default).unwrap();
    let clerk = kit.spawn(Clerk::default).unwrap();
    let gone = clerk.recipient::<Note, _>();
    clerk.stop().wait();
    asker.tell(Pipe { worker, how: How::Answer, to: gone, map_panics: false }).unwrap();
    let letter = kit.expect_dead_letter(|letter| letter.receiver == Some(clerk.id()));
    assert_eq!((letter.reason, letter.sender), (Reason::Closed, Some(asker.id())));
}

/// Gives its place of an answer away.
#[message(reply = u64)]
struct Delegate {
    to: Whom,
}

/// To whom.
enum Whom {
    /// Another actor, in a message.
    Actor(ActorRef<Worker>),
    /// A continuation of an ask.
    Then(ActorRef<Worker>),
    /// A thread.
    Thread,
}

#[message]
struct Take(Reply<u64>, How);

impl Handler<Take> for Worker {
    fn handle(&mut self, Take(reply, how): Take, _cx: &mut Context<Self>) {
        match how {
            How::Answer => reply.send(8),
            _ => drop(reply),
        }
    }
}

#[derive(Default)]
struct Delegator;
impl Actor for Delegator {}

impl DeferredHandler<Delegate> for Delegator {
    fn handle(&mut self, delegate: Delegate, reply: Reply<u64>, cx: &mut Context<Self>) {
        match delegate.to {
            Whom::Actor(worker) => worker.tell(Take(reply, How::Answer)).unwrap(),
            Whom::Then(worker) => {
                cx.ask(worker, job::<0>(How::Answer)).then(|_, answer, _| reply.send(answer.unwrap() + 1));
            }
            Whom::Thread => drop(std::thread::spawn(move || reply.send(9)).join()),
        }
    }
}

#[test]
fn a_reply_may_be_answered_by_another_actor_a_continuation_or_a_thread() {
    TestKit::check_seeds(0..5, |kit| {
        for (delegator_on, worker_on) in [(0, 0), (0, 1), (1, 0)] {
            let worker = kit.spawn_on(worker_on, Worker::default).unwrap();
            let delegator = kit.spawn_on(delegator_on, Delegator::default).unwrap();
            assert_eq!(delegator.ask(Delegate { to: Whom::Actor(worker) }).wait(), Ok(8));
            assert_eq!(delegator.ask(Delegate { to: Whom::Then(worker) }).wait(), Ok(8));
            assert_eq!(delegator.ask(Delegate { to: Whom::Thread }).wait(), Ok(9));
        }
        assert_eq!(kit.census().asks, 0);
    });
}
