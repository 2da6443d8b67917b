//! The workloads on ractor, without span propagation and `async-trait`. Its mailboxes are unbounded; an actor takes one
//! message type, so the two types are variants of it.

use std::time::{Duration, Instant};

use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::oneshot;

use crate::limits::{ASKS_IN_FLIGHT, YIELD_EVERY};
use crate::message::{Either, numbered};
use crate::place::{Side, Sides};
use crate::workload::{Entry, Place, Role, Work};

/// ractor's share of the table.
pub const ENTRIES: &[Entry] = &[
    entry(Work::Tell(Place::SameShard), |n| tell(Place::SameShard, n)),
    entry(Work::Tell(Place::OtherShard), |n| tell(Place::OtherShard, n)),
    entry(Work::Ask(Place::SameShard), |n| ask(Place::SameShard, 1, n)),
    entry(Work::Ask(Place::OtherShard), |n| ask(Place::OtherShard, ASKS_IN_FLIGHT, n)),
    entry(Work::PingPong(Place::SameShard), |n| ping_pong(Place::SameShard, n)),
    entry(Work::PingPong(Place::OtherShard), |n| ping_pong(Place::OtherShard, n)),
];

const fn entry(work: Work, run: fn(u64) -> Duration) -> Entry {
    Entry { work, name: "ractor", role: Role::Peer, run }
}

/// A tell, or an ask with the place of its reply.
enum Request {
    Tell(Either),
    Ask(Either, RpcReplyPort<u64>),
}

struct Counter;

struct Count {
    sum: u64,
    remaining: u64,
    done: Option<oneshot::Sender<()>>,
}

impl Count {
    fn count(&mut self, message: Either) -> u64 {
        let words = match message {
            Either::Even(even) => even.0,
            Either::Odd(odd) => odd.0,
        };
        self.sum = self.sum.wrapping_add(words[0]);
        self.remaining -= 1;
        if self.remaining == 0
            && let Some(done) = self.done.take()
        {
            let _gone = done.send(());
        }
        self.sum
    }
}

impl Actor for Counter {
    type Msg = Request;
    type State = Count;
    type Arguments = Count;

    async fn pre_start(&self, _me: ActorRef<Request>, count: Count) -> Result<Count, ActorProcessingErr> {
        Ok(count)
    }

    async fn handle(
        &self,
        _me: ActorRef<Request>,
        request: Request,
        count: &mut Count,
    ) -> Result<(), ActorProcessingErr> {
        match request {
            Request::Tell(message) => {
                count.count(message);
            }
            Request::Ask(message, reply) => {
                let _gone = reply.send(count.count(message));
            }
        }
        Ok(())
    }
}

fn spawn_on<A: Actor>(side: &Side, actor: A, arguments: A::Arguments) -> ActorRef<A::Msg> {
    side.run(async move { Actor::spawn(None, actor, arguments).await.expect("the actor starts").0 })
}

fn counter(sides: &Sides, n: u64) -> (ActorRef<Request>, oneshot::Receiver<()>) {
    let (done, finished) = oneshot::channel();
    (spawn_on(sides.server(), Counter, Count { sum: 0, remaining: n, done: Some(done) }), finished)
}

fn tell(place: Place, n: u64) -> Duration {
    let sides = Sides::start(place);
    let (counter, finished) = counter(&sides, n);
    sides.client().run(async move {
        let start = Instant::now();
        for number in 0..n {
            counter.send_message(Request::Tell(numbered(number))).expect("the actor lives");
            if number % YIELD_EVERY == YIELD_EVERY - 1 {
                tokio::task::yield_now().await;
            }
        }
        finished.await.expect("the actor counts to the end");
        start.elapsed()
    })
}

fn ask(place: Place, in_flight: u64, n: u64) -> Duration {
    let sides = Sides::start(place);
    let (counter, _finished) = counter(&sides, n);
    sides.client().run(async move {
        let start = Instant::now();
        let askers: Vec<_> = (0..in_flight)
            .map(|asker| {
                let counter = counter.clone();
                tokio::spawn(async move {
                    for number in (asker..n).step_by(in_flight as usize) {
                        let reply = counter.call(|port| Request::Ask(numbered(number), port), None).await;
                        assert!(matches!(reply, Ok(CallResult::Success(_))), "the actor answers");
                    }
                })
            })
            .collect();
        for asker in askers {
            asker.await.expect("askers do not panic");
        }
        start.elapsed()
    })
}

struct Pong;

struct Ping {
    from: ActorRef<Back>,
    words: [u64; 3],
}

impl Actor for Pong {
    type Msg = Ping;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _me: ActorRef<Ping>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _me: ActorRef<Ping>, ping: Ping, (): &mut ()) -> Result<(), ActorProcessingErr> {
        ping.from.send_message(Back([ping.words[0], 1, 2, 3]))?;
        Ok(())
    }
}

struct Back([u64; 4]);

struct Client;

struct Rally {
    peer: ActorRef<Ping>,
    remaining: u64,
    done: Option<oneshot::Sender<()>>,
}

impl Actor for Client {
    type Msg = Back;
    type State = Rally;
    type Arguments = Rally;

    async fn pre_start(&self, _me: ActorRef<Back>, rally: Rally) -> Result<Rally, ActorProcessingErr> {
        Ok(rally)
    }

    async fn handle(&self, me: ActorRef<Back>, back: Back, rally: &mut Rally) -> Result<(), ActorProcessingErr> {
        if rally.remaining == 0 {
            if let Some(done) = rally.done.take() {
                let _gone = done.send(());
            }
            return Ok(());
        }
        rally.remaining -= 1;
        rally.peer.send_message(Ping { from: me, words: [back.0[0], 1, 2] })?;
        Ok(())
    }
}

fn ping_pong(place: Place, n: u64) -> Duration {
    let sides = Sides::start(place);
    let pong = spawn_on(sides.server(), Pong, ());
    let (done, finished) = oneshot::channel();
    let client = spawn_on(sides.client(), Client, Rally { peer: pong, remaining: n, done: Some(done) });
    sides.client().run(async move {
        let start = Instant::now();
        client.send_message(Back([0; 4])).expect("the actor lives");
        finished.await.expect("the actors finish");
        start.elapsed()
    })
}
