//! The cast of `reentrancy_settings.rs`: actors of each setting that ask each other, and those whom they ask.
#![allow(unreachable_pub, reason = "a module of one test file")]

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{AskHandle, Deadlock, Reentrancy};

use super::LONG;

/// Asks on along a list with `then`, and writes down what it handles. `D` says its setting: 0 is `Full`, 1 is `Off`, and more are
/// `Chain` of that depth.
#[derive(Default)]
pub struct Link<const D: u16> {
    pub log: Vec<String>,
    pub handle: Option<AskHandle>,
}
impl<const D: u16> Actor for Link<D> {
    const REENTRANCY: Reentrancy = match D {
        0 => Reentrancy::Full,
        1 => Reentrancy::Off,
        depth => Reentrancy::Chain { depth },
    };
}

/// Asks the last of the list, with the rest; tells how many hops there were.
#[message(reply = Result<u32, AskError>)]
#[derive(Clone, Debug)]
pub struct Walk(pub Vec<Recipient<Walk>>);

/// Asks a probe, and writes the answer down.
#[message]
#[derive(Clone, Copy)]
pub struct Hold(pub Recipient<Question>, pub Duration);

/// Asks it and fails before there is an answer.
#[message]
pub struct HoldAndFail(pub Recipient<Question>);

/// Asks it so that the ask can be given up.
#[message]
pub struct HoldLoosely(pub Recipient<Question>);

/// The same, with somebody else to give it up.
#[message]
pub struct HoldFor(pub ActorRef<Link<0>>, pub Recipient<Question>);

#[message]
pub struct Keep(pub AskHandle);

#[message]
pub struct LetGo;

/// Asks a probe, and waits for a future beside it.
#[message]
pub struct HoldAndWork(pub Recipient<Question>);

/// Asks several at once.
#[message]
pub struct HoldMany(pub Vec<Recipient<Question>>);

#[message(reply = u32)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question;

#[message]
pub struct Note(pub u32);

#[message(reply = Vec<String>)]
pub struct Read;

impl<const D: u16> DeferredHandler<Walk> for Link<D> {
    fn handle(&mut self, Walk(mut among): Walk, reply: Reply<Result<u32, AskError>>, cx: &mut Context<Self>) {
        assert!(cx.request().is_none(), "who waits is nobody's request");
        self.log.push("walk".into());
        let Some(next) = among.pop() else { return reply.send(Ok(1)) };
        cx.ask(next, Walk(among)).then(|_, hops, _| {
            reply.send(hops.unwrap_or_else(Err).map(|hops| hops + 1));
        });
    }
}

impl<const D: u16> Handler<Hold> for Link<D> {
    fn handle(&mut self, Hold(whom, ttl): Hold, cx: &mut Context<Self>) {
        self.log.push("hold".into());
        cx.ask(whom, Question).deadline(ttl).then(|this, answer, _| match answer {
            Ok(13) => panic!("unlucky"),
            answer => this.log.push(format!("{answer:?}")),
        });
    }
}

impl<const D: u16> Handler<HoldAndFail> for Link<D> {
    fn handle(&mut self, HoldAndFail(whom): HoldAndFail, cx: &mut Context<Self>) {
        cx.ask(whom, Question).deadline(LONG).then(|this, answer, _| this.log.push(format!("{answer:?}")));
        panic!("planted");
    }
}

impl<const D: u16> Handler<HoldLoosely> for Link<D> {
    fn handle(&mut self, HoldLoosely(whom): HoldLoosely, cx: &mut Context<Self>) {
        let handle = cx.ask(whom, Question).deadline(LONG).then_unless_dropped(|this, answer, _| {
            this.log.push(format!("{answer:?}"));
        });
        self.handle = Some(handle);
        // A timer's message is held like any other.
        cx.after(Duration::from_millis(1), LetGo);
    }
}

impl<const D: u16> Handler<HoldFor> for Link<D> {
    fn handle(&mut self, HoldFor(keeper, whom): HoldFor, cx: &mut Context<Self>) {
        let handle = cx.ask(whom, Question).deadline(LONG).then_unless_dropped(|this, answer, _| {
            this.log.push(format!("{answer:?}"));
        });
        keeper.tell(Keep(handle)).unwrap();
    }
}

impl<const D: u16> Handler<Keep> for Link<D> {
    fn handle(&mut self, Keep(handle): Keep, _cx: &mut Context<Self>) {
        self.handle = Some(handle);
    }
}

impl<const D: u16> Handler<LetGo> for Link<D> {
    fn handle(&mut self, _: LetGo, _cx: &mut Context<Self>) {
        self.handle = None;
        self.log.push("let go".into());
    }
}

impl<const D: u16> Handler<HoldAndWork> for Link<D> {
    fn handle(&mut self, HoldAndWork(whom): HoldAndWork, cx: &mut Context<Self>) {
        cx.ask(whom, Question).deadline(LONG).then(|this, answer, _| this.log.push(format!("{answer:?}")));
        cx.reenter_after(std::future::ready(5), |this, five, _| this.log.push(format!("work {five}")));
        cx.reenter_after(std::future::pending::<u32>(), |_, _, _| ());
    }
}

impl<const D: u16> Handler<HoldMany> for Link<D> {
    fn handle(&mut self, HoldMany(whom): HoldMany, cx: &mut Context<Self>) {
        for one in &whom {
            cx.ask(*one, Question).deadline(LONG).then(|this, answer, _| this.log.push(format!("{answer:?}")));
        }
        cx.ask_all(whom, Question)
            .deadline(LONG)
            .then(|this, answers, _| this.log.push(format!("all {}", answers.len())));
    }
}

impl<const D: u16> Handler<Note> for Link<D> {
    fn handle(&mut self, Note(number): Note, _cx: &mut Context<Self>) {
        self.log.push(number.to_string());
    }
}

impl<const D: u16> Handler<Read> for Link<D> {
    fn handle(&mut self, _: Read, _cx: &mut Context<Self>) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

/// Asks the first of them, and when it has answered a probe.
#[message]
pub struct HoldAfter(pub Recipient<Walk>, pub Recipient<Question>);

impl<const D: u16> Handler<HoldAfter> for Link<D> {
    fn handle(&mut self, HoldAfter(first, then): HoldAfter, cx: &mut Context<Self>) {
        cx.ask(first, Walk(Vec::new())).then(move |_, _, cx| {
            cx.ask(then, Question).deadline(LONG).then(|this, answer, _| this.log.push(format!("{answer:?}")));
        });
    }
}

/// Calls back, but not for the sake of its answer: before it answers, from the handler of a tell; or after it has answered.
pub struct Aside {
    pub back: Recipient<Walk>,
    pub first_answers: bool,
    pub heard: Recipient<Heard>,
}
impl Actor for Aside {}

#[message]
#[derive(Debug, PartialEq)]
pub struct Heard(pub Result<Result<u32, AskError>, AskError>);

#[message]
pub struct CallBack;

#[message]
pub struct Answers(pub Reply<Result<u32, AskError>>);

impl DeferredHandler<Walk> for Aside {
    fn handle(&mut self, _: Walk, reply: Reply<Result<u32, AskError>>, cx: &mut Context<Self>) {
        if self.first_answers {
            reply.send(Ok(1));
            Handler::handle(self, CallBack, cx);
        } else {
            cx.me().tell(CallBack).unwrap();
            cx.after(Duration::from_secs(1), Answers(reply));
        }
    }
}

impl Handler<CallBack> for Aside {
    fn handle(&mut self, _: CallBack, cx: &mut Context<Self>) {
        cx.ask(self.back, Walk(Vec::new())).deadline(LONG).then(|this, said, _| this.heard.tell(Heard(said)).unwrap());
    }
}

impl Handler<Answers> for Aside {
    fn handle(&mut self, Answers(reply): Answers, _cx: &mut Context<Self>) {
        reply.send(Ok(1));
    }
}

/// Keeps its shard from being idle.
pub struct Busy;
impl Actor for Busy {}

#[message]
pub struct Spin;

impl Handler<Spin> for Busy {
    fn handle(&mut self, _: Spin, cx: &mut Context<Self>) {
        cx.me().tell(Spin).unwrap();
    }
}

/// Waits for the next of the list in an async handler.
pub struct Sleeper;
impl Actor for Sleeper {}

impl AsyncHandler<Walk> for Sleeper {
    async fn handle(&mut self, Walk(mut among): Walk, _cx: &mut Context<Self>) -> Result<u32, AskError> {
        let Some(next) = among.pop() else { return Ok(1) };
        next.ask(Walk(among)).await?.map(|hops| hops + 1)
    }
}

pub fn link<const D: u16>(kit: &TestKit, shard: u16) -> ActorRef<Link<D>> {
    kit.engine().spawn_on(shard, Link::<D>::default).unwrap()
}

pub fn walk<const N: usize>(kit: &TestKit, among: [Recipient<Walk>; N]) -> Result<u32, AskError> {
    let mut among = among.to_vec();
    let first = among.remove(0);
    among.reverse();
    kit.block_on(async { first.ask(Walk(among)).deadline(LONG).await.unwrap_or_else(Err) })
}

/// The names in the text of a cycle.
pub fn names(refused: Result<u32, AskError>) -> Vec<String> {
    let Err(AskError::Deadlock(Deadlock(text))) = refused else { panic!("no cycle: {refused:?}") };
    let ways = text.rsplit(": ").next().unwrap();
    ways.split(" -> ").map(str::to_owned).collect()
}

pub fn shows<A: Actor>(name: &str, actor: ActorRef<A>) -> bool {
    name.contains(&format!("{:?}", actor.id()))
}
