//! Hazard: what an actor puts aside is lost, or overtaken; a state's timeout comes when the state is over.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, Behaviours, Reason, StashFull, StateTimeout};

const SECOND: Duration = Duration::from_secs(1);

/// What the clerk has handled, and for whom.
#[message]
#[derive(Debug, Clone, PartialEq)]
struct Handled {
    number: u32,
    sender: Option<ActorId>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Clerk {
    Closed,
    Open,
}

/// Puts numbers aside while it is closed.
struct Desk {
    clerk: Behaviours<Clerk>,
    log: Recipient<Handled>,
}
impl Actor for Desk {}

impl Desk {
    fn new(log: Recipient<Handled>) -> Self {
        Self { clerk: Behaviours::new(Clerk::Closed), log }
    }

    fn log(&self, number: u32, cx: &Context<Self>) {
        self.log.tell(Handled { number, sender: cx.sender() }).unwrap();
    }
}

#[message]
#[derive(Debug, PartialEq)]
struct Number(u32);

impl Handler<Number> for Desk {
    fn handle(&mut self, number: Number, cx: &mut Context<Self>) {
        match self.clerk.current() {
            Clerk::Closed => {
                if let Err(StashFull(Number(back))) = cx.stash(number) {
                    self.log(1_000_000 + back, cx);
                }
            }
            Clerk::Open => self.log(number.0, cx),
        }
    }
}

/// Like a number; answers it.
#[message(reply = u32)]
struct Question(u32);

impl DeferredHandler<Question> for Desk {
    fn handle(&mut self, Question(number): Question, reply: Reply<u32>, cx: &mut Context<Self>) {
        match self.clerk.current() {
            Clerk::Closed => cx.stash_ask(Question(number), reply).map_err(|_| "full").unwrap(),
            Clerk::Open => {
                self.log(number, cx);
                reply.send(number);
            }
        }
    }
}

#[message(reply = usize)]
struct Open;

impl Handler<Open> for Desk {
    fn handle(&mut self, _: Open, cx: &mut Context<Self>) -> usize {
        self.clerk.become_(Clerk::Open, cx);
        cx.unstash()
    }
}

#[message(reply = usize)]
struct Stashed;

impl Handler<Stashed> for Desk {
    fn handle(&mut self, _: Stashed, cx: &mut Context<Self>) -> usize {
        cx.stashed()
    }
}

/// Panics while something is put aside.
#[message]
struct Boom;

impl Handler<Boom> for Desk {
    fn handle(&mut self, _: Boom, cx: &mut Context<Self>) {
        assert!(*self.clerk.current() == Clerk::Closed && cx.stashed() > 0);
        panic!("planted");
    }
}

/// Sends numbers on.
struct Client(ActorRef<Desk>);
impl Actor for Client {}
impl Handler<Number> for Client {
    fn handle(&mut self, number: Number, _cx: &mut Context<Self>) {
        self.0.tell(number).unwrap();
    }
}

#[test]
fn what_was_put_aside_comes_first_in_order_with_sender_and_answer() {
    TestKit::check_seeds(0..50, |kit| {
        let log = kit.probe::<Handled>();
        let to = log.recipient();
        let desk = kit.spawn(move || Desk::new(to)).unwrap();
        let client = kit.spawn(move || Client(desk)).unwrap();
        for number in 0..100 {
            desk.tell(Number(number)).unwrap();
        }
        kit.run_until_idle();
        client.tell(Number(100)).unwrap();
        kit.run_until_idle();
        let mut question = std::pin::pin!(desk.ask(Question(101)));
        kit.block_on(async {
            let poll =
                |cx: &mut std::task::Context<'_>| std::task::Poll::Ready(question.as_mut().poll(cx).is_pending());
            assert!(std::future::poll_fn(poll).await);
        });
        kit.run_until_idle();
        assert_eq!(desk.ask(Stashed).wait(), Ok(102));
        assert_eq!(kit.census().actors[0].stashed, 102);
        assert_eq!(desk.ask(Open).wait(), Ok(102));
        desk.tell(Number(102)).unwrap();
        for number in 0..=102 {
            let sender = (number == 100).then(|| client.id());
            log.expect_msg_eq(Handled { number, sender });
        }
        assert_eq!(kit.block_on(question), Ok(101));
        assert_eq!(kit.census().actors.iter().map(|actor| actor.stashed).sum::<u32>(), 0);
    });
}

/// The same while the mailbox holds more, so that both lie in the backlog.
#[test]
fn what_the_mailbox_holds_stays_behind_what_was_put_aside() {
    let kit = TestKit::new();
    let log = kit.probe::<Handled>();
    let to = log.recipient();
    let desk = kit.spawn(move || Desk::new(to)).unwrap();
    for number in 0..50 {
        desk.tell(Number(number)).unwrap();
    }
    kit.run_until_idle();
    let stalled = kit.stall(desk);
    desk.tell(Boom).unwrap();
    kit.allow_panics();
    for number in 50..60 {
        desk.tell(Number(number)).unwrap();
    }
    let mut open = std::pin::pin!(desk.ask(Open));
    assert!(open.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
    for number in 60..100 {
        desk.tell(Number(number)).unwrap();
    }
    drop(stalled);
    // The panic put all of them back in front, the rebuilt desk puts them aside again.
    assert_eq!(kit.block_on(open), Ok(60));
    for number in 0..100 {
        log.expect_msg_eq(Handled { number, sender: None });
    }
}

/// A rebuilt actor begins anew, so it must get back what its predecessor had put aside.
#[test]
fn a_rebuilt_actor_gets_what_was_put_aside() {
    let kit = TestKit::new();
    let log = kit.probe::<Handled>();
    let (to, opens) = (log.recipient(), Arc::new(AtomicBool::new(false)));
    let of_desk = Arc::clone(&opens);
    let desk = kit.spawn(move || {
        let clerk = if of_desk.load(Ordering::Relaxed) { Clerk::Open } else { Clerk::Closed };
        Desk { clerk: Behaviours::new(clerk), log: to }
    });
    let desk = desk.unwrap();
    for number in 0..20 {
        desk.tell(Number(number)).unwrap();
    }
    kit.run_until_idle();
    log.expect_no_msg(SECOND);
    opens.store(true, Ordering::Relaxed);
    desk.tell(Boom).unwrap();
    desk.tell(Number(20)).unwrap();
    for number in 0..=20 {
        log.expect_msg_eq(Handled { number, sender: None });
    }
    kit.allow_panics();
}

#[test]
fn an_actor_that_put_something_aside_is_not_idle() {
    struct Shelf;
    impl Actor for Shelf {}
    impl VirtualActor for Shelf {
        const TYPE: &'static str = "behaviours.shelf";
        fn activate(_key: &str) -> Self {
            Self
        }
    }
    #[message(id = "behaviours.put", reply = u32)]
    struct Put {
        takes_up: bool,
    }
    impl Handler<Put> for Shelf {
        fn handle(&mut self, put: Put, cx: &mut Context<Self>) -> u32 {
            if put.takes_up {
                return u32::try_from(cx.unstash()).unwrap();
            }
            // What is taken up says so the second time.
            cx.stash(Put { takes_up: true }).unwrap();
            0
        }
    }
    let kit = TestKit::builder().engine(|engine| engine.register::<Shelf>(|shelf| shelf.accept::<Put, _>())).start();
    let shelf = kit.actor::<Shelf>("a");
    shelf.ask(Put { takes_up: false }).wait().unwrap();
    kit.advance(300 * SECOND);
    assert_eq!(kit.census().actors[0].stashed, 1);
    assert_eq!(shelf.ask(Put { takes_up: true }).wait(), Ok(1));
    kit.advance(300 * SECOND);
    assert!(kit.census().actors.is_empty());
}

#[test]
fn a_full_stash_hands_the_message_back() {
    let engine = |engine: shardstage::EngineBuilder| {
        let mut config = Config::default();
        config.shards = Some(1);
        config.mailbox_capacity = 4;
        engine.config(config)
    };
    let kit = TestKit::builder().engine(engine).start();
    let log = kit.probe::<Handled>();
    let to = log.recipient();
    let desk = kit.spawn(move || Desk::new(to)).unwrap();
    for number in 0..6 {
        desk.tell(Number(number)).unwrap();
        kit.run_until_idle();
    }
    assert_eq!(log.expect_msg().number, 1_000_004);
    assert_eq!(log.expect_msg().number, 1_000_005);
    assert_eq!(desk.ask(Open).wait(), Ok(4));
    for number in 0..4 {
        assert_eq!(log.expect_msg().number, number);
    }
}

#[test]
fn what_a_stopped_actor_had_put_aside_are_dead_letters_and_refused_asks() {
    let kit = TestKit::new();
    let log = kit.probe::<Handled>();
    let to = log.recipient();
    let desk = kit.spawn(move || Desk::new(to)).unwrap();
    desk.tell(Number(1)).unwrap();
    let mut question = std::pin::pin!(desk.ask(Question(2)));
    assert!(question.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
    kit.run_until_idle();
    assert_eq!(desk.drain().wait(), StopReason::Drained);
    assert_eq!(kit.block_on(question), Err(AskError::Rejected(Rejected::Closed)));
    for _ in 0..2 {
        let letter = kit.expect_dead_letter(|letter| letter.reason == Reason::Closed);
        assert_eq!(letter.receiver, Some(desk.id()));
    }
    kit.assert_no_leaks();
}

/// An answer to an asker of another shard finds its way after a while aside, and one that gave up gets none.
#[test]
fn askers_of_other_shards_are_answered_too() {
    struct Asker(ActorRef<Desk>, Recipient<Handled>);
    impl Actor for Asker {}
    impl Handler<Number> for Asker {
        fn handle(&mut self, Number(number): Number, cx: &mut Context<Self>) {
            let ask = cx.ask(self.0, Question(number)).deadline(10 * SECOND);
            ask.then(|this, answer, _cx| {
                let number = answer.unwrap_or(0);
                this.1.tell(Handled { number, sender: None }).unwrap();
            });
        }
    }
    let kit = TestKit::new();
    let log = kit.probe::<Handled>();
    let answers = kit.probe::<Handled>().named("answers");
    let to = log.recipient();
    let desk = kit.spawn_on(0, move || Desk::new(to)).unwrap();
    for (shard, number) in [(0, 1), (1, 2)] {
        let to = answers.recipient();
        kit.spawn_on(shard, move || Asker(desk, to)).unwrap().tell(Number(number)).unwrap();
    }
    kit.advance(SECOND);
    desk.ask(Open).wait().unwrap();
    let mut got = [answers.expect_msg().number, answers.expect_msg().number];
    got.sort_unstable();
    assert_eq!(got, [1, 2]);

    let to = log.recipient();
    let desk = kit.spawn_on(0, move || Desk::new(to)).unwrap();
    let to = answers.recipient();
    kit.spawn_on(1, move || Asker(desk, to)).unwrap().tell(Number(3)).unwrap();
    kit.advance(20 * SECOND);
    assert_eq!(answers.expect_msg().number, 0);
    desk.ask(Open).wait().unwrap();
    kit.run_until_idle();
    answers.expect_no_msg(20 * SECOND);
}

/// Three states, one upon the other, each with a time limit.
struct Lift {
    floors: Behaviours<u32>,
    told: Recipient<Number>,
}
impl Actor for Lift {}

#[message(reply = Option<u32>)]
enum Go {
    Up(u64),
    Down,
    Stay(u64),
    Become(u32),
    Depth,
}

impl Handler<Go> for Lift {
    fn handle(&mut self, go: Go, cx: &mut Context<Self>) -> Option<u32> {
        match go {
            Go::Up(seconds) => {
                self.floors.push(*self.floors.current() + 1, cx);
                self.floors.timeout(Duration::from_secs(seconds), cx);
            }
            Go::Down => return self.floors.pop(cx),
            Go::Stay(seconds) => self.floors.timeout(Duration::from_secs(seconds), cx),
            Go::Become(floor) => return Some(self.floors.become_(floor, cx)),
            Go::Depth => return u32::try_from(self.floors.depth()).ok(),
        }
        Some(*self.floors.current())
    }
}

impl Handler<StateTimeout> for Lift {
    fn handle(&mut self, timeout: StateTimeout, _cx: &mut Context<Self>) {
        let late = if self.floors.is_due(timeout) { 0 } else { 1000 };
        *self.floors.current_mut() += late;
        let _ = self.told.tell(Number(*self.floors.current()));
    }
}

#[test]
fn behaviours_stack_and_time_out() {
    let kit = TestKit::new();
    let told = kit.probe::<Number>();
    let to = told.recipient();
    let lift = kit.spawn(move || Lift { floors: Behaviours::new(0), told: to }).unwrap();
    let go = |go: Go| lift.ask(go).wait().unwrap();
    assert_eq!(go(Go::Down), None, "nothing below");
    assert_eq!(go(Go::Up(10)), Some(1));
    assert_eq!(go(Go::Up(20)), Some(2));
    assert_eq!(go(Go::Depth), Some(2));
    kit.advance(19 * SECOND);
    assert_eq!(told.try_msg(), None, "the first floor's timeout went with it");
    kit.advance(SECOND);
    assert_eq!(told.try_msg(), Some(Number(2)));
    assert_eq!(go(Go::Down), Some(2));
    assert_eq!(go(Go::Stay(5)), Some(1));
    kit.advance(4 * SECOND);
    assert_eq!(go(Go::Stay(5)), Some(1), "begun anew");
    kit.advance(4 * SECOND);
    assert_eq!(told.try_msg(), None);
    kit.advance(SECOND);
    assert_eq!(told.try_msg(), Some(Number(1)));
    // One that is on its way when the behaviour changes is late.
    assert_eq!(go(Go::Stay(5)), Some(1));
    let stalled = kit.stall(lift);
    let mut change = std::pin::pin!(lift.ask(Go::Become(7)).deadline(60 * SECOND));
    assert!(change.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
    lift.tell(Go::Stay(50)).unwrap();
    kit.advance(6 * SECOND);
    drop(stalled);
    assert_eq!(kit.block_on(change), Ok(Some(1)));
    assert_eq!(told.expect_msg(), Number(1007), "late, though the new behaviour has a timeout of its own");
    kit.advance(50 * SECOND);
    assert_eq!(told.expect_msg(), Number(1007), "in time");
    lift.stop().wait();
    kit.assert_no_leaks();
}
