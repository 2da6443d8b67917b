//! The workloads on kameo, without its tracing feature.
//!
//! Tells use `try_send` and fall back to the waiting `send` when the mailbox is full: the fastest of its bounded sends.

use std::time::{Duration, Instant};

use kameo::actor::{ActorRef, Spawn};
use kameo::error::SendError;
use kameo::mailbox;
use kameo::message::{Context, Message};
use tokio::sync::oneshot;

use crate::limits::{ASKS_IN_FLIGHT, MAILBOX_CAPACITY, YIELD_EVERY};
use crate::message::{Either, Even, Odd, numbered};
use crate::place::{Side, Sides};
use crate::workload::{Entry, Place, Role, Work};

/// kameo's share of the table.
pub const ENTRIES: &[Entry] = &[
    entry(Work::Tell(Place::SameShard), |n| tell(Place::SameShard, n)),
    entry(Work::Tell(Place::OtherShard), |n| tell(Place::OtherShard, n)),
    entry(Work::Ask(Place::SameShard), |n| ask(Place::SameShard, 1, n)),
    entry(Work::Ask(Place::OtherShard), |n| ask(Place::OtherShard, ASKS_IN_FLIGHT, n)),
    entry(Work::PingPong(Place::SameShard), |n| ping_pong(Place::SameShard, n)),
    entry(Work::PingPong(Place::OtherShard), |n| ping_pong(Place::OtherShard, n)),
];

const fn entry(work: Work, run: fn(u64) -> Duration) -> Entry {
    Entry { work, name: "kameo", role: Role::Peer, run }
}

/// Counts, answers with the sum, and says when it has seen everything.
#[derive(kameo::Actor)]
struct Counter {
    sum: u64,
    remaining: u64,
    done: Option<oneshot::Sender<()>>,
}

impl Counter {
    fn count(&mut self, words: [u64; 4]) -> u64 {
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

impl Message<Even> for Counter {
    type Reply = u64;

    async fn handle(&mut self, message: Even, _cx: &mut Context<Self, u64>) -> u64 {
        self.count(message.0)
    }
}

impl Message<Odd> for Counter {
    type Reply = u64;

    async fn handle(&mut self, message: Odd, _cx: &mut Context<Self, u64>) -> u64 {
        self.count(message.0)
    }
}

fn spawn_on<A: kameo::Actor<Args = A>>(side: &Side, actor: A) -> ActorRef<A> {
    let _runtime = side.handle().enter();
    A::spawn_with_mailbox(actor, mailbox::bounded(MAILBOX_CAPACITY))
}

fn counter(sides: &Sides, n: u64) -> (ActorRef<Counter>, oneshot::Receiver<()>) {
    let (done, finished) = oneshot::channel();
    (spawn_on(sides.server(), Counter { sum: 0, remaining: n, done: Some(done) }), finished)
}

async fn send<A, M>(actor: &ActorRef<A>, message: M)
where
    A: Message<M>,
    M: Send + 'static,
{
    match actor.tell(message).try_send() {
        Ok(()) => {}
        Err(SendError::MailboxFull(message)) => {
            let _stopped = actor.tell(message).send().await;
        }
        Err(_) => unreachable!("the counting actor outlives the run"),
    }
}

fn tell(place: Place, n: u64) -> Duration {
    let sides = Sides::start(place);
    let (counter, finished) = counter(&sides, n);
    sides.client().run(async move {
        let start = Instant::now();
        for number in 0..n {
            match numbered(number) {
                Either::Even(message) => send(&counter, message).await,
                Either::Odd(message) => send(&counter, message).await,
            }
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
                        let reply = match numbered(number) {
                            Either::Even(message) => counter.ask(message).send().await.ok(),
                            Either::Odd(message) => counter.ask(message).send().await.ok(),
                        };
                        reply.expect("the actor answers");
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

#[derive(kameo::Actor)]
struct Pong;

struct Ping {
    from: ActorRef<Client>,
    words: [u64; 3],
}

impl Message<Ping> for Pong {
    type Reply = ();

    async fn handle(&mut self, ping: Ping, _cx: &mut Context<Self, ()>) {
        let Ping { from, words } = ping;
        from.tell(Back([words[0], 1, 2, 3])).try_send().expect("one message in flight fits");
    }
}

struct Back([u64; 4]);

#[derive(kameo::Actor)]
struct Client {
    peer: ActorRef<Pong>,
    remaining: u64,
    done: Option<oneshot::Sender<()>>,
}

impl Message<Back> for Client {
    type Reply = ();

    async fn handle(&mut self, back: Back, cx: &mut Context<Self, ()>) {
        if self.remaining == 0 {
            if let Some(done) = self.done.take() {
                let _gone = done.send(());
            }
            return;
        }
        self.remaining -= 1;
        let ping = Ping { from: cx.actor_ref().clone(), words: [back.0[0], 1, 2] };
        self.peer.tell(ping).try_send().expect("one message in flight fits");
    }
}

fn ping_pong(place: Place, n: u64) -> Duration {
    let sides = Sides::start(place);
    let pong = spawn_on(sides.server(), Pong);
    let (done, finished) = oneshot::channel();
    let client = spawn_on(sides.client(), Client { peer: pong, remaining: n, done: Some(done) });
    sides.client().run(async move {
        let start = Instant::now();
        client.tell(Back([0; 4])).send().await.expect("the actor lives");
        finished.await.expect("the actors finish");
        start.elapsed()
    })
}
