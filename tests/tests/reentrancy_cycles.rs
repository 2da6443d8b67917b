//! Actors that wait for each other across shards: every cycle is found, long before its deadline, has one victim and is shown;
//! waits that form none are never taken for one.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Deadlock, Reentrancy};

const LONG: Duration = Duration::from_secs(50);

/// Asks the last of the list, with the rest; answers how many hops there were.
#[message(reply = Result<u32, AskError>)]
#[derive(Clone, Debug)]
struct Walk(Vec<Recipient<Walk>>);

/// Asks two, one after the other or at once, and answers what they said in all.
#[message(reply = Result<u32, AskError>)]
#[derive(Clone, Debug)]
struct Both(Vec<Recipient<Walk>>, Vec<Recipient<Walk>>);

/// Asks the first, and after it the second.
#[message(reply = Result<u32, AskError>)]
#[derive(Clone, Debug)]
struct Twice(Recipient<Walk>, Recipient<Walk>);

/// Waits in an async handler.
struct Sleeper;
impl Actor for Sleeper {}

impl AsyncHandler<Walk> for Sleeper {
    async fn handle(&mut self, Walk(mut among): Walk, _cx: &mut Context<Self>) -> Result<u32, AskError> {
        let Some(next) = among.pop() else { return Ok(1) };
        next.ask(Walk(among)).deadline(LONG).await?.map(|hops| hops + 1)
    }
}

impl AsyncHandler<Twice> for Sleeper {
    async fn handle(&mut self, Twice(first, second): Twice, _cx: &mut Context<Self>) -> Result<u32, AskError> {
        let before = first.ask(Walk(Vec::new())).deadline(LONG).await??;
        second.ask(Walk(Vec::new())).deadline(LONG).await?.map(|hops| before + hops)
    }
}

impl AsyncHandler<Both> for Sleeper {
    async fn handle(&mut self, Both(one, other): Both, _cx: &mut Context<Self>) -> Result<u32, AskError> {
        let asks = [one, other].into_iter().filter_map(|mut among| {
            let next = among.pop()?;
            Some(Box::pin(next.ask(Walk(among)).deadline(LONG)) as Pin<Box<dyn Future<Output = Answer>>>)
        });
        all(asks.collect()).await.into_iter().map(Result::flatten).sum()
    }
}

/// Waits by a `then` that lets nothing in.
struct Strict;
impl Actor for Strict {
    const REENTRANCY: Reentrancy = Reentrancy::Off;
}

impl DeferredHandler<Walk> for Strict {
    fn handle(&mut self, Walk(mut among): Walk, reply: Reply<Result<u32, AskError>>, cx: &mut Context<Self>) {
        let Some(next) = among.pop() else { return reply.send(Ok(1)) };
        cx.ask(next, Walk(among)).deadline(LONG).then(|_, hops, _| {
            reply.send(hops.unwrap_or_else(Err).map(|hops| hops + 1));
        });
    }
}

impl DeferredHandler<Twice> for Strict {
    fn handle(&mut self, twice: Twice, reply: Reply<Result<u32, AskError>>, cx: &mut Context<Self>) {
        let Twice(first, second) = twice;
        cx.ask(first, Walk(Vec::new())).deadline(LONG).then(move |_, before, cx| {
            cx.ask(second, Walk(Vec::new())).deadline(LONG).then(move |_, hops, _| {
                reply.send(hops.unwrap_or_else(Err).and_then(|hops| Ok(before?? + hops)));
            });
        });
    }
}

/// Answers after a while, and takes others meanwhile.
struct Slow(Duration);
impl Actor for Slow {}

#[message]
struct Answers(Reply<Result<u32, AskError>>);

impl DeferredHandler<Walk> for Slow {
    fn handle(&mut self, _: Walk, reply: Reply<Result<u32, AskError>>, cx: &mut Context<Self>) {
        cx.after(self.0, Answers(reply));
    }
}

impl Handler<Answers> for Slow {
    fn handle(&mut self, Answers(reply): Answers, _cx: &mut Context<Self>) {
        reply.send(Ok(1));
    }
}

type Answer = Result<Result<u32, AskError>, AskError>;

/// All futures at once, in their order.
async fn all<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T>>>>) -> Vec<T> {
    let mut outputs: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

fn boxed(to: Recipient<Walk>, among: Vec<Recipient<Walk>>) -> Pin<Box<dyn Future<Output = Answer>>> {
    Box::pin(to.ask(Walk(among)).deadline(LONG))
}

/// Draws by seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// An actor of either kind on any shard, with its id.
fn some(kit: &TestKit, draw: &mut Draw) -> ((Recipient<Walk>, Recipient<Twice>), String) {
    let shard = u16::try_from(draw.below(3)).unwrap();
    if draw.below(2) == 0 {
        let actor = kit.engine().spawn_on(shard, || Sleeper).unwrap();
        ((actor.recipient(), actor.recipient()), format!("{:?}", actor.id()))
    } else {
        let actor = kit.engine().spawn_on(shard, || Strict).unwrap();
        ((actor.recipient(), actor.recipient()), format!("{:?}", actor.id()))
    }
}

/// The text of the cycle names these actors, in this order up to where it begins, and the first once more.
fn is_shown(answer: &Answer, ids: &[String]) {
    let (Ok(Err(AskError::Deadlock(Deadlock(text)))) | Err(AskError::Deadlock(Deadlock(text)))) = answer else {
        panic!("no cycle: {answer:?}")
    };
    let names: Vec<&str> = text.split(" -> ").collect();
    assert_eq!(names.len(), ids.len() + 1, "{text}");
    assert_eq!(names[0], names[ids.len()], "{text}");
    let first = ids.iter().position(|id| names[0].contains(id.as_str())).unwrap_or_else(|| panic!("{ids:?}: {text}"));
    for (name, id) in names.iter().zip(ids.iter().cycle().skip(first)) {
        assert!(name.contains(id.as_str()), "{name} should be {id}: {text}");
    }
}

#[test]
fn a_chain_that_comes_back_is_found_wherever_it_has_been() {
    TestKit::builder().shards(3).check_seeds(0..200, |kit| {
        let mut draw = Draw(kit.seed());
        let count = 2 + draw.below(5);
        let (actors, ids): (Vec<_>, Vec<_>) = (0..count).map(|_| some(kit, &mut draw)).unzip();
        let actors: Vec<_> = actors.into_iter().map(|actor| actor.0).collect();
        let mut among = vec![actors[0]];
        among.extend(actors[1..].iter().rev());
        let began = kit.now();
        let answer = kit.block_on(boxed(actors[0], among));
        is_shown(&answer, &ids);
        assert!(kit.now() - began < Duration::from_millis(500), "took {:?}", kit.now() - began);
        // Everybody is free again, and what closed the cycle was not executed.
        let answers = kit.block_on(all(actors.iter().map(|actor| boxed(*actor, Vec::new())).collect()));
        assert!(answers.iter().all(|answer| *answer == Ok(Ok(1))), "{answers:?}");
        assert_eq!(kit.census().suspended(), 0);
    });
}

#[test]
fn of_actors_that_wait_for_each_other_one_is_told_and_the_rest_go_on() {
    TestKit::builder().shards(3).check_seeds(0..200, |kit| {
        let mut draw = Draw(kit.seed());
        let count = 2 + draw.below(5);
        let (actors, ids): (Vec<_>, Vec<_>) = (0..count).map(|_| some(kit, &mut draw)).unzip();
        let pause = kit.engine().spawn_on(2, || Slow(Duration::from_millis(1))).unwrap().recipient();
        let began = kit.now();
        // Each begins by itself, and asks the next when all have begun.
        let asks = (0..count).map(|at| {
            let twice = Twice(pause, actors[(at + 1) % count].0);
            Box::pin(actors[at].1.ask(twice).deadline(LONG)) as Pin<Box<dyn Future<Output = Answer>>>
        });
        let answers = kit.block_on(all(asks.collect()));
        let (fine, told): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| *answer == Ok(Ok(2)));
        assert!(kit.now() - began < Duration::from_millis(600), "took {:?}", kit.now() - began);
        assert_eq!((fine.len(), told.len()), (count - 1, 1), "one victim: {told:?}");
        is_shown(&told[0], &ids);
        assert_eq!(kit.census().suspended(), 0);
    });
}

#[test]
fn waits_without_a_cycle_are_never_taken_for_one() {
    let waited = Cell::new(Duration::ZERO);
    TestKit::builder().shards(3).check_seeds(0..200, |kit| {
        let mut draw = Draw(kit.seed());
        let slow = kit.engine().spawn_on(1, || Slow(Duration::from_millis(350))).unwrap();
        let count = 4 + draw.below(8);
        let actors: Vec<_> = (0..count).map(|_| some(kit, &mut draw).0.0).collect();
        let sleepers: Vec<_> = (0..2).map(|_| kit.engine().spawn_on(0, || Sleeper).unwrap()).collect();
        // Each way goes up, and ends at the slow one; many ways cross.
        let mut way = |from: usize| {
            let mut up: Vec<_> = (from..count).filter(|_| draw.below(3) == 0).map(|at| actors[at]).collect();
            up.push(slow.recipient());
            up.reverse();
            up
        };
        let mut asks: Vec<Pin<Box<dyn Future<Output = Answer>>>> = Vec::new();
        for number in 0..6 {
            let mut among = way(0);
            let first = among.pop().unwrap();
            asks.push(boxed(first, among));
            let both = sleepers[number % 2].ask(Both(way(0), way(0))).deadline(LONG);
            asks.push(Box::pin(both));
        }
        // Two that ask each other in turn, never at once.
        for pair in [[0, 1], [2, 3]] {
            let [one, other] = pair.map(|at| some(kit, &mut Draw(kit.seed() + at)).0.0);
            let end = slow.recipient();
            asks.push(Box::pin(async move {
                for _ in 0..3 {
                    boxed(one, vec![end, other]).await??;
                    boxed(other, vec![end, one]).await??;
                }
                Ok(Ok(0))
            }));
        }
        let began = kit.now();
        let answers = kit.block_on(all(asks));
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Ok(_)))), "{answers:?}");
        waited.set(waited.get().max(kit.now() - began));
    });
    assert!(waited.get() > Duration::from_secs(1), "they waited for long: {:?}", waited.get());
}

#[test]
fn a_wait_that_is_given_up_is_no_part_of_a_cycle() {
    let kit = TestKit::builder().shards(2).start();
    let a = kit.engine().spawn_on(0, || Sleeper).unwrap();
    let b = kit.engine().spawn_on(1, move || Impatient(a)).unwrap();
    // `b` waits for `a` no longer than 50 ms, and `a` for `b`: nobody is told of a cycle.
    let answers = kit.block_on(all(vec![
        boxed(a.recipient(), vec![b.recipient()]),
        Box::pin(b.ask(Walk(Vec::new())).deadline(LONG)),
    ]));
    let told = |answer: &Answer| matches!(answer, Ok(Err(AskError::Deadlock(_))) | Err(AskError::Deadlock(_)));
    assert!(!answers.iter().any(told), "{answers:?}");
    assert_eq!(answers[0], Ok(Ok(8)));
}

/// Waits for another one for a short time.
struct Impatient(ActorRef<Sleeper>);
impl Actor for Impatient {}

impl AsyncHandler<Walk> for Impatient {
    async fn handle(&mut self, _: Walk, _cx: &mut Context<Self>) -> Result<u32, AskError> {
        let gave_up = self.0.ask(Walk(Vec::new())).deadline(Duration::from_millis(50)).await;
        Ok(if gave_up.is_err() { 7 } else { 0 })
    }
}
