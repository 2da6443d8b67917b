//! The workloads on kameo, without its tracing feature.
//!
//! Tells use `try_send` and fall back to the waiting `send` when the mailbox is full: the fastest of its bounded sends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kameo::actor::{ActorRef, Spawn};
use kameo::error::SendError;
use kameo::mailbox;
use kameo::message::{Context, Message};
use tokio::sync::oneshot;

use super::{Library, breathe, grown_by};
use crate::census::{Resident, last_gone};
use crate::laps::Laps;
use crate::limits::{BIG_ACTORS, MAILBOX_CAPACITY};
use crate::message::{Either, Even, Odd, Partners, numbered, sum_to};
use crate::place::{Side, Sides};
use crate::sizes::{big_elapsed, big_pings, fibonacci_for};
use crate::workload::Place;

/// The library.
pub(super) struct Kameo;

/// Counts, answers with the sum, and says when it has seen everything.
#[derive(kameo::Actor)]
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

/// In the runtime of the calling task.
fn spawn<A: kameo::Actor<Args = A>>(actor: A) -> ActorRef<A> {
    A::spawn_with_mailbox(actor, mailbox::bounded(MAILBOX_CAPACITY))
}

fn spawn_on<A: kameo::Actor<Args = A>>(side: &Side, actor: A) -> ActorRef<A> {
    let _runtime = side.handle().enter();
    spawn(actor)
}

fn counter(sides: &Sides, n: u64) -> (ActorRef<Counter>, oneshot::Receiver<u64>) {
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
        Err(_) => unreachable!("the actor outlives the run"),
    }
}

impl Library for Kameo {
    const NAME: &'static str = "kameo";

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
            client.tell(Serve).send().await.expect("the actor lives");
            finished.await.expect("the actors finish")
        })
    }

    fn big(place: Place, n: u64) -> Duration {
        let sides = Sides::start(place);
        let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
        let nodes: Arc<[ActorRef<Node>]> = (0..BIG_ACTORS)
            .map(|number| {
                let side = if number.is_multiple_of(2) { sides.client() } else { sides.server() };
                let (all, done) = (Arc::new([]), done.clone());
                spawn_on(side, Node { partners: Partners::of(number), all, missing: 0, done })
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
                let child = spawn(Child { _state: Resident::new(n) });
                child.stop_gracefully().await.expect("its mailbox is empty");
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
            send(&actor, Compute(task.index)).await;
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

/// Begin.
struct Serve;

struct Back([u64; 4]);

#[derive(kameo::Actor)]
struct Client {
    peer: ActorRef<Pong>,
    laps: Laps,
    done: Option<oneshot::Sender<Laps>>,
}

impl Client {
    fn serve(&self, word: u64, me: &ActorRef<Self>) {
        let ping = Ping { from: me.clone(), words: [word, 1, 2] };
        self.peer.tell(ping).try_send().expect("one message in flight fits");
    }
}

impl Message<Serve> for Client {
    type Reply = ();

    async fn handle(&mut self, _: Serve, cx: &mut Context<Self, ()>) {
        self.laps.start();
        self.serve(0, cx.actor_ref());
    }
}

impl Message<Back> for Client {
    type Reply = ();

    async fn handle(&mut self, back: Back, cx: &mut Context<Self, ()>) {
        if !self.laps.lap() {
            self.serve(back.0[0], cx.actor_ref());
        } else if let Some(done) = self.done.take() {
            let _gone = done.send(std::mem::take(&mut self.laps));
        }
    }
}

#[derive(kameo::Actor)]
struct Node {
    partners: Partners,
    all: Arc<[ActorRef<Node>]>,
    missing: u64,
    done: tokio::sync::mpsc::UnboundedSender<()>,
}

struct Play {
    all: Arc<[ActorRef<Node>]>,
    pings: u64,
}

struct NodePing {
    from: ActorRef<Node>,
    words: [u64; 3],
}

struct NodePong([u64; 4]);

impl Node {
    fn ping(&mut self, me: &ActorRef<Self>) {
        let partner = &self.all[self.partners.next(self.all.len())];
        let ping = NodePing { from: me.clone(), words: [self.missing, 1, 2] };
        partner.tell(ping).try_send().expect("every mailbox holds a ping of everyone");
    }
}

impl Message<Play> for Node {
    type Reply = ();

    async fn handle(&mut self, play: Play, cx: &mut Context<Self, ()>) {
        (self.all, self.missing) = (play.all, play.pings);
        self.ping(cx.actor_ref());
    }
}

impl Message<NodePing> for Node {
    type Reply = ();

    async fn handle(&mut self, ping: NodePing, _cx: &mut Context<Self, ()>) {
        ping.from.tell(NodePong([ping.words[0], 1, 2, 3])).try_send().expect("it waits for one pong only");
    }
}

impl Message<NodePong> for Node {
    type Reply = ();

    async fn handle(&mut self, pong: NodePong, cx: &mut Context<Self, ()>) {
        assert_eq!(pong.0[0], self.missing, "the pong answers the ping");
        self.missing -= 1;
        if self.missing > 0 {
            self.ping(cx.actor_ref());
        } else {
            let _gone = self.done.send(());
        }
    }
}

#[derive(kameo::Actor)]
struct Child {
    _state: Resident,
}

#[derive(kameo::Actor)]
struct Idle {
    _state: u64,
}

enum AnswerTo {
    Parent(ActorRef<Fibonacci>),
    Root(Option<oneshot::Sender<u64>>),
}

#[derive(kameo::Actor)]
struct Fibonacci {
    answer_to: AnswerTo,
    sum: u64,
    missing: u8,
}

struct Compute(u32);

struct Computed(u64);

impl Fibonacci {
    async fn answer(&mut self, sum: u64, cx: &mut Context<Self, ()>) {
        match &mut self.answer_to {
            AnswerTo::Parent(parent) => send(parent, Computed(sum)).await,
            AnswerTo::Root(root) => _ = root.take().expect("the root answers once").send(sum),
        }
        cx.stop();
    }
}

impl Message<Compute> for Fibonacci {
    type Reply = ();

    async fn handle(&mut self, compute: Compute, cx: &mut Context<Self, ()>) {
        let index = compute.0;
        if index <= 2 {
            return self.answer(1, cx).await;
        }
        self.missing = 2;
        for index in [index - 1, index - 2] {
            let child = spawn(Self { answer_to: AnswerTo::Parent(cx.actor_ref().clone()), sum: 0, missing: 0 });
            send(&child, Compute(index)).await;
        }
    }
}

impl Message<Computed> for Fibonacci {
    type Reply = ();

    async fn handle(&mut self, computed: Computed, cx: &mut Context<Self, ()>) {
        self.sum += computed.0;
        self.missing -= 1;
        if self.missing == 0 {
            self.answer(self.sum, cx).await;
        }
    }
}
