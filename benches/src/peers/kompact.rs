//! The workloads on kompact: its own pool with one thread, whose core it inherits from the thread that builds the system.
//!
//! The far side of two shards is a dedicated component, which has a thread of its own, as a second pool would not: a thread
//! of a pool queues what it wakes on its own pool. `big` on two shards is a pool of two threads. Mailboxes are unbounded.
//! References are strong ones, which spare it an upgrade a message.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kompact::prelude::*;

use super::Library;
use crate::census::{Resident, last_gone};
use crate::laps::Laps;
use crate::limits::{BIG_ACTORS, YIELD_EVERY};
use crate::message::{Either, Partners, numbered, sum_to};
use crate::place::{on_core, pin};
use crate::resident::resident_bytes;
use crate::sizes::{big_elapsed, big_pings, fibonacci_for};
use crate::workload::Place;

/// The library.
pub(super) struct Kompact;

/// Runs `work` beside a system whose pool has so many threads.
fn with_system<R: Send>(threads: usize, work: impl FnOnce(&KompactSystem) -> R + Send) -> R {
    let run = || {
        let mut config = KompactConfig::default();
        config.set_config_value(&kompact::config_keys::system::THREADS, threads);
        let system = config.build().wait().expect("the system starts");
        let result = work(&system);
        system.shutdown().wait().expect("the system stops");
        result
    };
    if threads == 1 {
        on_core(0, run)
    } else {
        std::thread::scope(|scope| scope.spawn(run).join().expect("a workload does not panic"))
    }
}

/// Starts a component in the pool, or on a thread of its own on core 1.
fn start<C>(system: &KompactSystem, place: Place, make: impl FnOnce() -> C + Send + 'static) -> Strong<C>
where
    C: ComponentDefinition + ActorRaw + 'static,
{
    let component = if place == Place::SameShard {
        system.create(make)
    } else {
        pin(1);
        let component = system.create_dedicated(make);
        pin(0);
        component
    };
    system.start_notify(&component).wait();
    component.actor_ref().hold().expect("it lives")
}

type Strong<C> = ActorRefStrong<<C as ActorRaw>::Message>;

/// What a component without a life of its own needs.
macro_rules! plain {
    ($($component:ty),*) => {
        $(ignore_lifecycle!($component);)*
    };
}

plain!(Counter, Producer, Pong, Client, Node, Child, Idle, Spawner, Fibonacci);

fn counter(system: &KompactSystem, place: Place, n: u64) -> (Strong<Counter>, Receiver<u64>) {
    let (done, finished) = channel();
    let make = move || Counter { ctx: ComponentContext::uninitialised(), sum: 0, remaining: n, done };
    (start(system, place, make), finished)
}

impl Library for Kompact {
    const NAME: &'static str = "kompact";

    fn tell(place: Place, producers: u64, n: u64) -> Duration {
        with_system(1, |system| {
            let (counter, finished) = counter(system, place, n);
            let producers: Vec<_> = (0..producers)
                .map(|producer| {
                    let (next, end) = (n * producer / producers, n * (producer + 1) / producers);
                    let counter = counter.clone();
                    let make = move || Producer { ctx: ComponentContext::uninitialised(), counter, next, end };
                    start(system, Place::SameShard, make)
                })
                .collect();
            let start = Instant::now();
            producers.iter().for_each(|producer| producer.tell(Produce));
            assert_eq!(finished.recv(), Ok(sum_to(n)), "all are counted");
            start.elapsed()
        })
    }

    fn ask(place: Place, in_flight: u64, n: u64) -> Duration {
        with_system(1, |system| {
            let (counter, finished) = counter(system, place, n);
            let start = Instant::now();
            let (done, askers) = channel();
            for asker in 0..in_flight {
                let (counter, done) = (counter.clone(), done.clone());
                let _joined_below = system.spawn(async move {
                    for number in (asker..n).step_by(in_flight as usize) {
                        let ask = |reply| Request::Ask(Ask::new(reply, numbered(number)));
                        let _sum: u64 = counter.ask_with(ask).await.expect("the component answers");
                    }
                    let _gone = done.send(Instant::now());
                });
            }
            drop(done);
            let elapsed = askers.iter().max().expect("there is an asker") - start;
            assert_eq!(finished.recv(), Ok(sum_to(n)), "all are answered");
            elapsed
        })
    }

    fn ping_pong(place: Place, laps: Laps) -> Laps {
        with_system(1, |system| {
            let peer = start(system, place, || Pong { ctx: ComponentContext::uninitialised() });
            let (done, finished) = channel();
            let make = move || Client { ctx: ComponentContext::uninitialised(), peer, me: None, laps, done };
            let client = start(system, Place::SameShard, make);
            client.tell(ToClient::Serve(client.clone()));
            finished.recv().expect("the actors finish")
        })
    }

    fn big(place: Place, n: u64) -> Duration {
        with_system(if place == Place::SameShard { 1 } else { 2 }, |system| {
            let (done, finished) = channel();
            let nodes: Arc<[Strong<Node>]> = (0..BIG_ACTORS)
                .map(|number| {
                    let done = done.clone();
                    start(system, Place::SameShard, move || Node {
                        ctx: ComponentContext::uninitialised(),
                        partners: Partners::of(number),
                        me: number as usize,
                        all: Arc::new([]),
                        missing: 0,
                        done,
                    })
                })
                .collect();
            let start = Instant::now();
            nodes.iter().for_each(|node| node.tell(ToNode::Play(nodes.clone(), big_pings(n))));
            for _ in 0..BIG_ACTORS {
                finished.recv().expect("every node ends");
            }
            let elapsed = start.elapsed();
            // They hold each other.
            nodes.iter().for_each(|node| node.tell(ToNode::Forget));
            big_elapsed(elapsed, n)
        })
    }

    fn spawn_stop(n: u64) -> Duration {
        with_system(1, |system| {
            let gone = last_gone();
            let make = move || Spawner { ctx: ComponentContext::uninitialised(), n, spawned: 0 };
            let spawner = start(system, Place::SameShard, make);
            let start = Instant::now();
            spawner.tell(Produce);
            gone.recv().expect("the last child is dropped") - start
        })
    }

    fn fibonacci(n: u64) -> Duration {
        let task = fibonacci_for(n);
        with_system(1, |system| {
            let (root, result) = channel();
            let start_of_tree = Instant::now();
            let root = start(system, Place::SameShard, move || Fibonacci::new(AnswerTo::Root(root)));
            root.tell(ToBranch::Compute(task.index));
            let sum = result.recv().expect("the root answers");
            task.elapsed(start_of_tree.elapsed(), sum, n)
        })
    }

    fn idle_bytes(n: u64) -> u64 {
        with_system(1, |system| {
            let before = resident_bytes();
            let idle: Vec<_> = (0..n)
                .map(|state| {
                    let make = move || Idle { ctx: ComponentContext::uninitialised(), _state: state };
                    start(system, Place::SameShard, make)
                })
                .collect();
            let grown = resident_bytes().saturating_sub(before);
            drop(idle);
            grown
        })
    }
}

/// A tell, or an ask with the place of its reply.
#[derive(Debug)]
enum Request {
    Tell(Either),
    Ask(Ask<Either, u64>),
}

/// Counts, answers with the sum, and says when it has seen everything.
#[derive(ComponentDefinition)]
struct Counter {
    ctx: ComponentContext<Self>,
    sum: u64,
    remaining: u64,
    done: Sender<u64>,
}

impl Actor for Counter {
    type Message = Request;

    fn receive_local(&mut self, request: Request) -> HandlerResult {
        match request {
            Request::Tell(message) => self.sum = self.sum.wrapping_add(message.words()[0]),
            Request::Ask(ask) => {
                let (reply, message) = ask.take();
                self.sum = self.sum.wrapping_add(message.words()[0]);
                let _gone = reply.fulfil(self.sum);
            }
        }
        self.remaining -= 1;
        if self.remaining == 0 {
            let _gone = self.done.send(self.sum);
        }
        Handled::OK
    }
}

/// Begin, or go on.
#[derive(Clone, Copy, Debug)]
struct Produce;

#[derive(ComponentDefinition)]
struct Producer {
    ctx: ComponentContext<Self>,
    counter: ActorRefStrong<Request>,
    next: u64,
    end: u64,
}

impl Actor for Producer {
    type Message = Produce;

    fn receive_local(&mut self, _: Produce) -> HandlerResult {
        let until = self.end.min(self.next + YIELD_EVERY);
        for number in self.next..until {
            self.counter.tell(Request::Tell(numbered(number)));
        }
        self.next = until;
        if until < self.end {
            self.ctx.actor_ref().tell(Produce);
        }
        Handled::OK
    }
}

#[derive(Debug)]
struct Ping {
    from: ActorRefStrong<ToClient>,
    words: [u64; 3],
}

#[derive(ComponentDefinition)]
struct Pong {
    ctx: ComponentContext<Self>,
}

impl Actor for Pong {
    type Message = Ping;

    fn receive_local(&mut self, ping: Ping) -> HandlerResult {
        ping.from.tell(ToClient::Back([ping.words[0], 1, 2, 3]));
        Handled::OK
    }
}

#[derive(Debug)]
enum ToClient {
    Serve(ActorRefStrong<ToClient>),
    Back([u64; 4]),
}

#[derive(ComponentDefinition)]
struct Client {
    ctx: ComponentContext<Self>,
    peer: ActorRefStrong<Ping>,
    me: Option<ActorRefStrong<ToClient>>,
    laps: Laps,
    done: Sender<Laps>,
}

impl Client {
    fn serve(&self, word: u64) {
        let from = self.me.clone().expect("it was told to serve");
        self.peer.tell(Ping { from, words: [word, 1, 2] });
    }
}

impl Actor for Client {
    type Message = ToClient;

    fn receive_local(&mut self, message: ToClient) -> HandlerResult {
        match message {
            ToClient::Serve(me) => {
                self.me = Some(me);
                self.laps.start();
                self.serve(0);
            }
            ToClient::Back(words) => {
                if self.laps.lap() {
                    self.me = None;
                    let _gone = self.done.send(std::mem::take(&mut self.laps));
                } else {
                    self.serve(words[0]);
                }
            }
        }
        Handled::OK
    }
}

#[derive(Debug)]
enum ToNode {
    Play(Arc<[ActorRefStrong<ToNode>]>, u64),
    Ping { from: ActorRefStrong<ToNode>, words: [u64; 3] },
    Pong([u64; 4]),
    Forget,
}

#[derive(ComponentDefinition)]
struct Node {
    ctx: ComponentContext<Self>,
    partners: Partners,
    me: usize,
    all: Arc<[ActorRefStrong<ToNode>]>,
    missing: u64,
    done: Sender<()>,
}

impl Node {
    fn ping(&mut self) {
        let partner = &self.all[self.partners.next(self.all.len())];
        partner.tell(ToNode::Ping { from: self.all[self.me].clone(), words: [self.missing, 1, 2] });
    }
}

impl Actor for Node {
    type Message = ToNode;

    fn receive_local(&mut self, message: ToNode) -> HandlerResult {
        match message {
            ToNode::Play(all, pings) => {
                (self.all, self.missing) = (all, pings);
                self.ping();
            }
            ToNode::Ping { from, words } => from.tell(ToNode::Pong([words[0], 1, 2, 3])),
            ToNode::Pong(words) => {
                assert_eq!(words[0], self.missing, "the pong answers the ping");
                self.missing -= 1;
                if self.missing > 0 {
                    self.ping();
                } else {
                    let _gone = self.done.send(());
                }
            }
            ToNode::Forget => self.all = Arc::new([]),
        }
        Handled::OK
    }
}

#[derive(ComponentDefinition, Actor)]
struct Child {
    ctx: ComponentContext<Self>,
    _state: Resident,
}

#[derive(ComponentDefinition)]
struct Spawner {
    ctx: ComponentContext<Self>,
    n: u64,
    spawned: u64,
}

impl Actor for Spawner {
    type Message = Produce;

    fn receive_local(&mut self, _: Produce) -> HandlerResult {
        let (system, n) = (self.ctx.system(), self.n);
        for _ in 0..YIELD_EVERY.min(n - self.spawned) {
            let make = move || Child { ctx: ComponentContext::uninitialised(), _state: Resident::new(n) };
            let child = system.create(make);
            system.start(&child);
            system.kill(child);
            self.spawned += 1;
        }
        if self.spawned < n {
            self.ctx.actor_ref().tell(Produce);
        }
        Handled::OK
    }
}

#[derive(ComponentDefinition)]
struct Idle {
    ctx: ComponentContext<Self>,
    _state: u64,
}

impl Actor for Idle {
    type Message = u64;

    fn receive_local(&mut self, _: u64) -> HandlerResult {
        Handled::OK
    }
}

enum AnswerTo {
    Parent(ActorRef<ToBranch>),
    Root(Sender<u64>),
}

#[derive(Debug)]
enum ToBranch {
    Compute(u32),
    Computed(u64),
}

#[derive(ComponentDefinition)]
struct Fibonacci {
    ctx: ComponentContext<Self>,
    answer_to: AnswerTo,
    sum: u64,
    missing: u8,
}

impl Fibonacci {
    fn new(answer_to: AnswerTo) -> Self {
        Self { ctx: ComponentContext::uninitialised(), answer_to, sum: 0, missing: 0 }
    }

    fn answer(&self, sum: u64) {
        match &self.answer_to {
            AnswerTo::Parent(parent) => parent.tell(ToBranch::Computed(sum)),
            AnswerTo::Root(root) => _ = root.send(sum),
        }
        self.ctx.suicide();
    }
}

impl Actor for Fibonacci {
    type Message = ToBranch;

    fn receive_local(&mut self, message: ToBranch) -> HandlerResult {
        match message {
            ToBranch::Compute(index) if index <= 2 => self.answer(1),
            ToBranch::Compute(index) => {
                self.missing = 2;
                let system = self.ctx.system();
                for index in [index - 1, index - 2] {
                    let me = self.ctx.actor_ref();
                    let child = system.create(move || Self::new(AnswerTo::Parent(me)));
                    system.start(&child);
                    child.actor_ref().tell(ToBranch::Compute(index));
                }
            }
            ToBranch::Computed(sum) => {
                self.sum += sum;
                self.missing -= 1;
                if self.missing == 0 {
                    self.answer(self.sum);
                }
            }
        }
        Handled::OK
    }
}
