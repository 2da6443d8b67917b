//! The workloads on actix, one arbiter a pinned thread. Tells use `do_send`, its fastest send, which has no bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, Addr, Arbiter, ArbiterHandle, AsyncContext, Context, Handler, Message, System};
use tokio::sync::{mpsc, oneshot};

use super::{Library, breathe, grown_by};
use crate::census::{Resident, last_gone};
use crate::laps::Laps;
use crate::limits::BIG_ACTORS;
use crate::message::{Either, Even, Odd, Partners, numbered, sum_to};
use crate::place::{current_thread_runtime, on_core, pin};
use crate::sizes::{big_elapsed, big_pings, fibonacci_for};
use crate::workload::Place;

/// The library.
pub(super) struct Actix;

/// Runs `client` as a task of a system on core 0; `server` is that system's own arbiter or one on core 1.
fn with_arbiters<F>(place: Place, client: impl FnOnce(ArbiterHandle) -> F + Send) -> F::Output
where
    F: Future<Output: Send> + 'static,
{
    on_core(0, || {
        let system = System::with_tokio_rt(current_thread_runtime);
        let other = (place == Place::OtherShard).then(|| {
            let arbiter = Arbiter::with_tokio_rt(current_thread_runtime);
            arbiter.spawn_fn(|| pin(1));
            arbiter
        });
        let output = system.block_on(async {
            let server = other.as_ref().map_or_else(Arbiter::current, Arbiter::handle);
            actix::spawn(client(server)).await.expect("a workload does not panic")
        });
        if let Some(arbiter) = other {
            arbiter.stop();
            let _panicked = arbiter.join();
        }
        output
    })
}

fn counter(server: &ArbiterHandle, n: u64) -> (Addr<Counter>, oneshot::Receiver<u64>) {
    let (done, finished) = oneshot::channel();
    (Counter::start_in_arbiter(server, move |_| Counter { sum: 0, remaining: n, done: Some(done) }), finished)
}

impl Library for Actix {
    const NAME: &'static str = "actix";

    fn tell(place: Place, producers: u64, n: u64) -> Duration {
        with_arbiters(place, move |server| async move {
            let (counter, finished) = counter(&server, n);
            let start = Instant::now();
            for producer in 0..producers {
                let counter = counter.clone();
                actix::spawn(async move {
                    for number in n * producer / producers..n * (producer + 1) / producers {
                        match numbered(number) {
                            Either::Even(message) => counter.do_send(message),
                            Either::Odd(message) => counter.do_send(message),
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
        with_arbiters(place, move |server| async move {
            let (counter, finished) = counter(&server, n);
            let start = Instant::now();
            let askers: Vec<_> = (0..in_flight)
                .map(|asker| {
                    let counter = counter.clone();
                    actix::spawn(async move {
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
        with_arbiters(place, move |server| async move {
            let peer = Pong::start_in_arbiter(&server, |_| Pong);
            let (done, finished) = oneshot::channel();
            let client = Client { peer, laps, done: Some(done) }.start();
            client.do_send(Serve);
            finished.await.expect("the actors finish")
        })
    }

    fn big(place: Place, n: u64) -> Duration {
        with_arbiters(place, move |server| async move {
            let (done, mut finished) = mpsc::unbounded_channel();
            let nodes: Arc<[Addr<Node>]> = (0..BIG_ACTORS)
                .map(|number| {
                    let arbiter = if number.is_multiple_of(2) { Arbiter::current() } else { server.clone() };
                    let (all, done) = (Arc::new([]), done.clone());
                    let node = Node { partners: Partners::of(number), all, missing: 0, done };
                    Node::start_in_arbiter(&arbiter, move |_| node)
                })
                .collect();
            let start = Instant::now();
            for node in nodes.iter() {
                node.do_send(Play { all: nodes.clone(), pings: big_pings(n) });
            }
            for _ in 0..BIG_ACTORS {
                finished.recv().await.expect("every node ends");
            }
            big_elapsed(start.elapsed(), n)
        })
    }

    fn spawn_stop(n: u64) -> Duration {
        let gone = last_gone();
        with_arbiters(Place::SameShard, move |_| async move {
            let start = Instant::now();
            for number in 0..n {
                Child { _state: Resident::new(n) }.start().do_send(Leave);
                breathe(number).await;
            }
            loop {
                if let Ok(end) = gone.try_recv() {
                    return end - start;
                }
                tokio::task::yield_now().await;
            }
        })
    }

    fn fibonacci(n: u64) -> Duration {
        let task = fibonacci_for(n);
        with_arbiters(Place::SameShard, move |_| async move {
            let (root, result) = oneshot::channel();
            let start = Instant::now();
            let actor = Fibonacci { answer_to: AnswerTo::Root(Some(root)), sum: 0, missing: 0 }.start();
            actor.do_send(Compute(task.index));
            let sum = result.await.expect("the root answers");
            task.elapsed(start.elapsed(), sum, n)
        })
    }

    fn idle_bytes(n: u64) -> u64 {
        with_arbiters(Place::SameShard, move |_| async move {
            grown_by(|| (0..n).map(|state| Idle { _state: state }.start()).collect::<Vec<_>>()).await
        })
    }
}

/// Gives an actor type its context, a message type its result.
macro_rules! plain {
    (actors: $($actor:ty),*; messages: $($message:ty => $result:ty),* $(,)?) => {
        $(impl Actor for $actor {
            type Context = Context<Self>;
        })*
        $(impl Message for $message {
            type Result = $result;
        })*
    };
}

plain! {
    actors: Counter, Pong, Client, Node, Child, Idle, Fibonacci;
    messages: Even => u64, Odd => u64, Ping => (), Serve => (), Back => (), Play => (), NodePing => (), NodePong => (),
        Leave => (), Compute => (), Computed => (),
}

/// Counts, answers with the sum, and says when it has seen everything.
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
    type Result = u64;

    fn handle(&mut self, message: Even, _cx: &mut Context<Self>) -> u64 {
        self.count(message.0)
    }
}

impl Handler<Odd> for Counter {
    type Result = u64;

    fn handle(&mut self, message: Odd, _cx: &mut Context<Self>) -> u64 {
        self.count(message.0)
    }
}

struct Pong;

struct Ping {
    from: Addr<Client>,
    words: [u64; 3],
}

impl Handler<Ping> for Pong {
    type Result = ();

    fn handle(&mut self, ping: Ping, _cx: &mut Context<Self>) {
        ping.from.do_send(Back([ping.words[0], 1, 2, 3]));
    }
}

/// Begin.
struct Serve;

struct Back([u64; 4]);

struct Client {
    peer: Addr<Pong>,
    laps: Laps,
    done: Option<oneshot::Sender<Laps>>,
}

impl Handler<Serve> for Client {
    type Result = ();

    fn handle(&mut self, _: Serve, cx: &mut Context<Self>) {
        self.laps.start();
        self.peer.do_send(Ping { from: cx.address(), words: [0, 1, 2] });
    }
}

impl Handler<Back> for Client {
    type Result = ();

    fn handle(&mut self, back: Back, cx: &mut Context<Self>) {
        if !self.laps.lap() {
            self.peer.do_send(Ping { from: cx.address(), words: [back.0[0], 1, 2] });
        } else if let Some(done) = self.done.take() {
            let _gone = done.send(std::mem::take(&mut self.laps));
        }
    }
}

struct Node {
    partners: Partners,
    all: Arc<[Addr<Node>]>,
    missing: u64,
    done: mpsc::UnboundedSender<()>,
}

struct Play {
    all: Arc<[Addr<Node>]>,
    pings: u64,
}

struct NodePing {
    from: Addr<Node>,
    words: [u64; 3],
}

struct NodePong([u64; 4]);

impl Node {
    fn ping(&mut self, cx: &Context<Self>) {
        let partner = &self.all[self.partners.next(self.all.len())];
        partner.do_send(NodePing { from: cx.address(), words: [self.missing, 1, 2] });
    }
}

impl Handler<Play> for Node {
    type Result = ();

    fn handle(&mut self, play: Play, cx: &mut Context<Self>) {
        (self.all, self.missing) = (play.all, play.pings);
        self.ping(cx);
    }
}

impl Handler<NodePing> for Node {
    type Result = ();

    fn handle(&mut self, ping: NodePing, _cx: &mut Context<Self>) {
        ping.from.do_send(NodePong([ping.words[0], 1, 2, 3]));
    }
}

impl Handler<NodePong> for Node {
    type Result = ();

    fn handle(&mut self, pong: NodePong, cx: &mut Context<Self>) {
        assert_eq!(pong.0[0], self.missing, "the pong answers the ping");
        self.missing -= 1;
        if self.missing > 0 {
            self.ping(cx);
        } else {
            let _gone = self.done.send(());
        }
    }
}

struct Child {
    _state: Resident,
}

struct Leave;

impl Handler<Leave> for Child {
    type Result = ();

    fn handle(&mut self, _: Leave, cx: &mut Context<Self>) {
        cx.stop();
    }
}

struct Idle {
    _state: u64,
}

enum AnswerTo {
    Parent(Addr<Fibonacci>),
    Root(Option<oneshot::Sender<u64>>),
}

struct Fibonacci {
    answer_to: AnswerTo,
    sum: u64,
    missing: u8,
}

struct Compute(u32);

struct Computed(u64);

impl Fibonacci {
    fn answer(&mut self, sum: u64, cx: &mut Context<Self>) {
        match &mut self.answer_to {
            AnswerTo::Parent(parent) => parent.do_send(Computed(sum)),
            AnswerTo::Root(root) => _ = root.take().expect("the root answers once").send(sum),
        }
        cx.stop();
    }
}

impl Handler<Compute> for Fibonacci {
    type Result = ();

    fn handle(&mut self, compute: Compute, cx: &mut Context<Self>) {
        let index = compute.0;
        if index <= 2 {
            return self.answer(1, cx);
        }
        self.missing = 2;
        for index in [index - 1, index - 2] {
            let child = Self { answer_to: AnswerTo::Parent(cx.address()), sum: 0, missing: 0 }.start();
            child.do_send(Compute(index));
        }
    }
}

impl Handler<Computed> for Fibonacci {
    type Result = ();

    fn handle(&mut self, computed: Computed, cx: &mut Context<Self>) {
        self.sum += computed.0;
        self.missing -= 1;
        if self.missing == 0 {
            self.answer(self.sum, cx);
        }
    }
}
