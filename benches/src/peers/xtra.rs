//! The workloads on xtra, on tokio. Mailboxes are bounded; a tell is a detached send, which waits for room only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use xtra::prelude::*;

use super::{Library, breathe, grown_by};
use crate::census::{Resident, last_gone};
use crate::laps::Laps;
use crate::limits::{BIG_ACTORS, MAILBOX_CAPACITY};
use crate::message::{Either, Even, Odd, Partners, numbered, sum_to};
use crate::place::{Side, Sides};
use crate::sizes::{big_elapsed, big_pings, fibonacci_for};
use crate::workload::Place;

/// The library.
pub(super) struct Xtra;

/// Counts, answers with the sum, and says when it has seen everything.
#[derive(xtra::Actor)]
struct Counter {
    sum: u64,
    remaining: u64,
    done: Option<oneshot::Sender<u64>>,
}

impl Counter {
    fn count(&mut self, words: [u64; 4]) -> u64 {
        self.sum = self.sum.wrapping_add(words[0]);
        self.remaining -= 1;
        if self.remaining == 0
            && let Some(done) = self.done.take()
        {
            let _gone = done.send(self.sum);
        }
        self.sum
    }
}

impl Handler<Even> for Counter {
    type Return = u64;

    async fn handle(&mut self, message: Even, _cx: &mut Context<Self>) -> u64 {
        self.count(message.0)
    }
}

impl Handler<Odd> for Counter {
    type Return = u64;

    async fn handle(&mut self, message: Odd, _cx: &mut Context<Self>) -> u64 {
        self.count(message.0)
    }
}

/// In the runtime of the calling task.
fn spawn<A: xtra::Actor<Stop = ()>>(actor: A) -> Address<A> {
    xtra::spawn_tokio(actor, Mailbox::bounded(MAILBOX_CAPACITY))
}

fn spawn_on<A: xtra::Actor<Stop = ()>>(side: &Side, actor: A) -> Address<A> {
    let _runtime = side.handle().enter();
    spawn(actor)
}

fn counter(sides: &Sides, n: u64) -> (Address<Counter>, oneshot::Receiver<u64>) {
    let (done, finished) = oneshot::channel();
    (spawn_on(sides.server(), Counter { sum: 0, remaining: n, done: Some(done) }), finished)
}

async fn send<A: Handler<M>, M: Send + 'static>(actor: &Address<A>, message: M) {
    // Its answer is not waited for.
    drop(actor.send(message).detach().await.expect("the actor outlives the run"));
}

impl Library for Xtra {
    const NAME: &'static str = "xtra";

    fn tell(place: Place, producers: u64, n: u64) -> Duration {
        let sides = Sides::start(place);
        let (counter, finished) = counter(&sides, n);
        sides.client().run(async move {
            let start = Instant::now();
            for producer in 0..producers {
                let counter = counter.clone();
                tokio::spawn(async move {
                    for number in n * producer / producers..n * (producer + 1) / producers {
                        match numbered(number) {
                            Either::Even(message) => send(&counter, message).await,
                            Either::Odd(message) => send(&counter, message).await,
                        }
                        breathe(number).await;
                    }
                });
            }
            assert_eq!(finished.await, Ok(sum_to(n)), "all are counted");
            start.elapsed()
        })
    }

    fn ask(place: Place, in_flight: u64, n: u64) -> Duration {
        let sides = Sides::start(place);
        let (counter, finished) = counter(&sides, n);
        sides.client().run(async move {
            let start = Instant::now();
            let askers: Vec<_> = (0..in_flight)
                .map(|asker| {
                    let counter = counter.clone();
                    tokio::spawn(async move {
                        for number in (asker..n).step_by(in_flight as usize) {
                            let reply = match numbered(number) {
                                Either::Even(message) => counter.send(message).await,
                                Either::Odd(message) => counter.send(message).await,
                            };
                            reply.expect("the actor answers");
                        }
                    })
                })
                .collect();
            for asker in askers {
                asker.await.expect("askers do not panic");
            }
            let elapsed = start.elapsed();
            assert_eq!(finished.await, Ok(sum_to(n)), "all are answered");
            elapsed
        })
    }

    fn ping_pong(place: Place, laps: Laps) -> Laps {
        let sides = Sides::start(place);
        let peer = spawn_on(sides.server(), Pong);
        let (done, finished) = oneshot::channel();
        let client = spawn_on(sides.client(), Client { peer, laps, done: Some(done) });
        sides.client().run(async move {
            send(&client, Serve(client.clone())).await;
            finished.await.expect("the actors finish")
        })
    }

    fn big(place: Place, n: u64) -> Duration {
        let sides = Sides::start(place);
        let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
        let nodes: Arc<[Address<Node>]> = (0..BIG_ACTORS)
            .map(|number| {
                let side = if number.is_multiple_of(2) { sides.client() } else { sides.server() };
                let (all, done) = (Arc::new([]), done.clone());
                spawn_on(side, Node { partners: Partners::of(number), all, me: number as usize, missing: 0, done })
            })
            .collect();
        sides.client().run(async move {
            let start = Instant::now();
            for node in nodes.iter() {
                send(node, Play { all: nodes.clone(), pings: big_pings(n) }).await;
            }
            for _ in 0..BIG_ACTORS {
                finished.recv().await.expect("every node ends");
            }
            big_elapsed(start.elapsed(), n)
        })
    }

    fn spawn_stop(n: u64) -> Duration {
        let sides = Sides::start(Place::SameShard);
        let gone = last_gone();
        let start = sides.client().run(async move {
            let start = Instant::now();
            for number in 0..n {
                // An actor stops when its last address is dropped.
                drop(spawn(Child { _state: Resident::new(n) }));
                breathe(number).await;
            }
            start
        });
        gone.recv().expect("the last child is dropped") - start
    }

    fn fibonacci(n: u64) -> Duration {
        let sides = Sides::start(Place::SameShard);
        let task = fibonacci_for(n);
        sides.client().run(async move {
            let (root, result) = oneshot::channel();
            let start = Instant::now();
            let actor = spawn(Fibonacci { answer_to: AnswerTo::Root(Some(root)), sum: 0, missing: 0 });
            send(&actor, Compute { index: task.index, me: actor.clone() }).await;
            let sum = result.await.expect("the root answers");
            task.elapsed(start.elapsed(), sum, n)
        })
    }

    fn idle_bytes(n: u64) -> u64 {
        let sides = Sides::start(Place::SameShard);
        sides.client().run(async move {
            let idle = || (0..n).map(|state| spawn(Idle { _state: state })).collect::<Vec<_>>();
            grown_by(idle).await
        })
    }
}

#[derive(xtra::Actor)]
struct Pong;

struct Ping {
    from: Address<Client>,
    words: [u64; 3],
}

impl Handler<Ping> for Pong {
    type Return = ();

    async fn handle(&mut self, ping: Ping, _cx: &mut Context<Self>) {
        let Ping { from, words } = ping;
        send(&from, Back { me: from.clone(), words: [words[0], 1, 2] }).await;
    }
}

/// Begin.
struct Serve(Address<Client>);

struct Back {
    me: Address<Client>,
    words: [u64; 3],
}

#[derive(xtra::Actor)]
struct Client {
    peer: Address<Pong>,
    laps: Laps,
    done: Option<oneshot::Sender<Laps>>,
}

impl Handler<Serve> for Client {
    type Return = ();

    async fn handle(&mut self, serve: Serve, _cx: &mut Context<Self>) {
        self.laps.start();
        send(&self.peer, Ping { from: serve.0, words: [0, 1, 2] }).await;
    }
}

impl Handler<Back> for Client {
    type Return = ();

    async fn handle(&mut self, back: Back, _cx: &mut Context<Self>) {
        if !self.laps.lap() {
            send(&self.peer, Ping { from: back.me, words: back.words }).await;
        } else if let Some(done) = self.done.take() {
            let _gone = done.send(std::mem::take(&mut self.laps));
        }
    }
}

#[derive(xtra::Actor)]
struct Node {
    partners: Partners,
    all: Arc<[Address<Node>]>,
    me: usize,
    missing: u64,
    done: tokio::sync::mpsc::UnboundedSender<()>,
}

struct Play {
    all: Arc<[Address<Node>]>,
    pings: u64,
}

struct NodePing {
    from: Address<Node>,
    words: [u64; 3],
}

struct NodePong([u64; 4]);

impl Node {
    async fn ping(&mut self) {
        let ping = NodePing { from: self.all[self.me].clone(), words: [self.missing, 1, 2] };
        send(&self.all[self.partners.next(self.all.len())], ping).await;
    }
}

impl Handler<Play> for Node {
    type Return = ();

    async fn handle(&mut self, play: Play, _cx: &mut Context<Self>) {
        (self.all, self.missing) = (play.all, play.pings);
        self.ping().await;
    }
}

impl Handler<NodePing> for Node {
    type Return = ();

    async fn handle(&mut self, ping: NodePing, _cx: &mut Context<Self>) {
        send(&ping.from, NodePong([ping.words[0], 1, 2, 3])).await;
    }
}

impl Handler<NodePong> for Node {
    type Return = ();

    async fn handle(&mut self, pong: NodePong, _cx: &mut Context<Self>) {
        assert_eq!(pong.0[0], self.missing, "the pong answers the ping");
        self.missing -= 1;
        if self.missing > 0 {
            self.ping().await;
        } else {
            let _gone = self.done.send(());
        }
    }
}

#[derive(xtra::Actor)]
struct Child {
    _state: Resident,
}

#[derive(xtra::Actor)]
struct Idle {
    _state: u64,
}

enum AnswerTo {
    Parent(Address<Fibonacci>),
    Root(Option<oneshot::Sender<u64>>),
}

#[derive(xtra::Actor)]
struct Fibonacci {
    answer_to: AnswerTo,
    sum: u64,
    missing: u8,
}

/// Compute this one; an actor knows its address only from others.
struct Compute {
    index: u32,
    me: Address<Fibonacci>,
}

struct Computed(u64);

impl Fibonacci {
    async fn answer(&mut self, sum: u64, cx: &mut Context<Self>) {
        match &mut self.answer_to {
            AnswerTo::Parent(parent) => send(parent, Computed(sum)).await,
            AnswerTo::Root(root) => _ = root.take().expect("the root answers once").send(sum),
        }
        cx.stop_self();
    }
}

impl Handler<Compute> for Fibonacci {
    type Return = ();

    async fn handle(&mut self, compute: Compute, cx: &mut Context<Self>) {
        let Compute { index, me } = compute;
        if index <= 2 {
            return self.answer(1, cx).await;
        }
        self.missing = 2;
        for index in [index - 1, index - 2] {
            let child = spawn(Self { answer_to: AnswerTo::Parent(me.clone()), sum: 0, missing: 0 });
            send(&child, Compute { index, me: child.clone() }).await;
        }
    }
}

impl Handler<Computed> for Fibonacci {
    type Return = ();

    async fn handle(&mut self, computed: Computed, cx: &mut Context<Self>) {
        self.sum += computed.0;
        self.missing -= 1;
        if self.missing == 0 {
            self.answer(self.sum, cx).await;
        }
    }
}
