//! A call that comes back to an actor that waits for it ends at once, with the cycle; one that does not wait goes on.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;

/// Asks along the list, the last first, and answers what it heard; says when a chain would wait for itself.
#[derive(Default)]
struct Link {
    heard: u32,
}
impl Actor for Link {}
impl VirtualActor for Link {
    const TYPE: &'static str = "test.link";
    fn activate(_key: &str) -> Self {
        Self::default()
    }
}

#[message(reply = Result<u32, AskError>)]
#[derive(Clone)]
struct Await(Vec<ActorRef<Link>>);

#[message(reply = Result<u32, AskError>)]
#[derive(Clone)]
struct Free(Vec<ActorRef<Link>>);

#[message(reply = u32)]
struct Heard;

impl AsyncHandler<Await> for Link {
    async fn handle(&mut self, Await(mut among): Await, _cx: &mut Context<Self>) -> Result<u32, AskError> {
        self.heard += 1;
        let Some(next) = among.pop() else { return Ok(1) };
        next.ask(Await(among)).await?.map(|hops| hops + 1)
    }
}

impl DeferredHandler<Free> for Link {
    fn handle(&mut self, Free(mut among): Free, reply: Reply<Result<u32, AskError>>, cx: &mut Context<Self>) {
        self.heard += 1;
        let Some(next) = among.pop() else { return reply.send(Ok(1)) };
        cx.ask(next, Free(among)).then(|_, hops, _| {
            reply.send(hops.unwrap_or_else(Err).map(|hops| hops + 1));
        });
    }
}

impl Handler<Heard> for Link {
    fn handle(&mut self, _: Heard, _cx: &mut Context<Self>) -> u32 {
        self.heard
    }
}

#[message(id = "test.round", reply = Vec<String>)]
#[derive(Debug, Clone)]
struct Round {
    keys: Vec<String>,
}

impl AsyncHandler<Round> for Link {
    async fn handle(&mut self, mut round: Round, cx: &mut Context<Self>) -> Vec<String> {
        let Some(next) = round.keys.pop() else { return Vec::new() };
        match cx.actor::<Self>(next).ask(round).await {
            Ok(said) => said,
            Err(error) => vec![error.to_string()],
        }
    }
}

fn links<const N: usize>(kit: &TestKit) -> [ActorRef<Link>; N] {
    std::array::from_fn(|_| kit.engine().spawn_on(0, Link::default).unwrap())
}

/// The ask failed before any time passed, and says these names in this order.
fn is_cycle(kit: &TestKit, began: Duration, answer: Result<Result<u32, AskError>, AskError>, ids: &[ActorRef<Link>]) {
    let Ok(Err(AskError::Deadlock(cycle))) = answer else { panic!("no cycle: {answer:?}") };
    let names: Vec<&str> = cycle.0.split(" -> ").collect();
    assert_eq!(names.len(), ids.len(), "{cycle:?}");
    for (name, link) in names.iter().zip(ids) {
        assert!(name.contains(&format!("{:?}", link.id())) && name.contains("Link"), "{name} in {cycle:?}");
    }
    assert!(kit.now() - began < Duration::from_millis(10), "took {:?}", kit.now() - began);
}

#[test]
fn a_cycle_of_waiting_calls_is_refused_at_once_and_shown() {
    let kit = TestKit::new();
    let [a, b, c] = links(&kit);
    let began = kit.now();
    // To itself, back from the next, and from the one behind that.
    is_cycle(&kit, began, a.ask(Await(vec![a])).wait(), &[a, a]);
    is_cycle(&kit, began, a.ask(Await(vec![a, b])).wait(), &[a, b, a]);
    is_cycle(&kit, began, a.ask(Await(vec![a, c, b])).wait(), &[a, b, c, a]);
    // Not the first, but one on the way.
    is_cycle(&kit, began, a.ask(Await(vec![b, c, b])).wait(), &[b, c, b]);
    // What was refused was not executed, and everybody goes on.
    assert_eq!([a, b, c].map(|link| link.ask(Heard).wait().unwrap()), [4, 3, 2]);
    assert_eq!(a.ask(Await(vec![c, b])).wait(), Ok(Ok(3)));
}

#[test]
fn a_call_that_does_not_wait_may_come_back() {
    let kit = TestKit::new();
    let [a, b, c] = links(&kit);
    for among in [vec![a], vec![a, b], vec![a, c, b], vec![a, b, a, b, a, b, a, b]] {
        let hops = u32::try_from(among.len()).unwrap() + 1;
        assert_eq!(a.ask(Free(among)).wait(), Ok(Ok(hops)));
    }
}

#[test]
fn two_chains_that_meet_are_no_cycle() {
    let kit = TestKit::new();
    let [a, b, c] = links(&kit);
    let both = kit.block_on(async {
        let first = a.ask(Await(vec![c]));
        let second = b.ask(Await(vec![c]));
        (first.await, second.await)
    });
    assert_eq!(both, (Ok(Ok(2)), Ok(Ok(2))));
    // One that is busy for somebody else is only busy.
    let asked = kit.block_on(async { (a.ask(Await(vec![b, c])).await, c.ask(Await(vec![b, a])).await) });
    assert_eq!(asked, (Ok(Ok(3)), Ok(Ok(3))));
}

#[test]
fn a_cycle_of_virtual_actors_is_shown_by_keys() {
    let kit =
        TestKit::builder().shards(1).engine(|engine| engine.register::<Link>(|link| link.accept::<Round, _>())).start();
    let keys = ["alice", "bob"].map(str::to_owned).to_vec();
    let said = kit.engine().actor::<Link>("alice").ask(Round { keys }).wait().unwrap();
    assert_eq!(said.len(), 1);
    let (alice, bob) = (said[0].find("(\"alice\")").unwrap(), said[0].find("(\"bob\")").unwrap());
    assert!(alice < bob && said[0].rfind("(\"alice\")").unwrap() > bob, "{said:?}");
    assert!(said[0].contains("would wait for itself"), "{said:?}");
}

#[test]
fn across_shards_a_cycle_is_found_and_shown_long_before_its_deadline() {
    let kit = TestKit::new();
    let a = kit.engine().spawn_on(0, Link::default).unwrap();
    let b = kit.engine().spawn_on(1, Link::default).unwrap();
    let began = kit.now();
    let answer = a.ask(Await(vec![a, b])).wait();
    let Ok(Err(AskError::Deadlock(cycle))) = answer else { panic!("no cycle: {answer:?}") };
    let names: Vec<&str> = cycle.0.split(" -> ").collect();
    let is = |name: &str, link: ActorRef<Link>| name.contains(&format!("{:?}", link.id())) && name.contains("Link");
    assert!(names.len() == 3 && is(names[0], a) && is(names[1], b) && is(names[2], a), "{cycle:?}");
    assert!(kit.now() - began < Duration::from_millis(300), "took {:?}", kit.now() - began);
    // Both are free again; what closed the cycle was not executed.
    assert_eq!([a, b].map(|link| link.ask(Heard).wait().unwrap()), [1, 1]);
    assert_eq!(kit.block_on(async { b.ask(Await(vec![a])).await }), Ok(Ok(2)));
}
