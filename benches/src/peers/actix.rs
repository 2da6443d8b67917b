//! The workloads on actix, one arbiter a pinned thread. Tells use `do_send`, its fastest send, which has no bound.

use std::time::{Duration, Instant};

use actix::{Actor, Addr, Arbiter, ArbiterHandle, AsyncContext, Context, Handler, Message, System};
use tokio::sync::oneshot;

use crate::limits::{ASKS_IN_FLIGHT, YIELD_EVERY};
use crate::message::{Either, Even, Odd, numbered};
use crate::place::{current_thread_runtime, on_core, pin};
use crate::workload::{Entry, Place, Role, Work};

/// actix' share of the table.
pub const ENTRIES: &[Entry] = &[
    entry(Work::Tell(Place::SameShard), |n| tell(Place::SameShard, n)),
    entry(Work::Tell(Place::OtherShard), |n| tell(Place::OtherShard, n)),
    entry(Work::Ask(Place::SameShard), |n| ask(Place::SameShard, 1, n)),
    entry(Work::Ask(Place::OtherShard), |n| ask(Place::OtherShard, ASKS_IN_FLIGHT, n)),
    entry(Work::PingPong(Place::SameShard), |n| ping_pong(Place::SameShard, n)),
    entry(Work::PingPong(Place::OtherShard), |n| ping_pong(Place::OtherShard, n)),
];

const fn entry(work: Work, run: fn(u64) -> Duration) -> Entry {
    Entry { work, name: "actix", role: Role::Peer, run }
}

struct Counter {
    sum: u64,
    remaining: u64,
    done: Option<oneshot::Sender<()>>,
}

impl Actor for Counter {
    type Context = Context<Self>;
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

impl Message for Even {
    type Result = u64;
}

impl Message for Odd {
    type Result = u64;
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

/// Runs `client` as a task of a system on core 0; `server` is that system's own arbiter or one on core 1.
fn with_arbiters<F>(place: Place, client: impl FnOnce(ArbiterHandle) -> F + Send) -> Duration
where
    F: Future<Output = Duration> + 'static,
{
    on_core(0, || {
        let system = System::with_tokio_rt(current_thread_runtime);
        let other = (place == Place::OtherShard).then(|| {
            let arbiter = Arbiter::with_tokio_rt(current_thread_runtime);
            arbiter.spawn_fn(|| pin(1));
            arbiter
        });
        let elapsed = system.block_on(async {
            let server = other.as_ref().map_or_else(Arbiter::current, Arbiter::handle);
            actix::spawn(client(server)).await.expect("a workload does not panic")
        });
        if let Some(arbiter) = other {
            arbiter.stop();
            let _panicked = arbiter.join();
        }
        elapsed
    })
}

fn counter(server: &ArbiterHandle, n: u64) -> (Addr<Counter>, oneshot::Receiver<()>) {
    let (done, finished) = oneshot::channel();
    (Counter::start_in_arbiter(server, move |_| Counter { sum: 0, remaining: n, done: Some(done) }), finished)
}

fn tell(place: Place, n: u64) -> Duration {
    with_arbiters(place, move |server| async move {
        let (counter, finished) = counter(&server, n);
        let start = Instant::now();
        for number in 0..n {
            match numbered(number) {
                Either::Even(message) => counter.do_send(message),
                Either::Odd(message) => counter.do_send(message),
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
    with_arbiters(place, move |server| async move {
        let (counter, _finished) = counter(&server, n);
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
        start.elapsed()
    })
}

struct Pong;

impl Actor for Pong {
    type Context = Context<Self>;
}

struct Ping {
    from: Addr<Client>,
    words: [u64; 3],
}

impl Message for Ping {
    type Result = ();
}

impl Handler<Ping> for Pong {
    type Result = ();

    fn handle(&mut self, ping: Ping, _cx: &mut Context<Self>) {
        ping.from.do_send(Back([ping.words[0], 1, 2, 3]));
    }
}

struct Back([u64; 4]);

impl Message for Back {
    type Result = ();
}

struct Client {
    peer: Addr<Pong>,
    remaining: u64,
    done: Option<oneshot::Sender<()>>,
}

impl Actor for Client {
    type Context = Context<Self>;
}

impl Handler<Back> for Client {
    type Result = ();

    fn handle(&mut self, back: Back, cx: &mut Context<Self>) {
        if self.remaining == 0 {
            if let Some(done) = self.done.take() {
                let _gone = done.send(());
            }
            return;
        }
        self.remaining -= 1;
        self.peer.do_send(Ping { from: cx.address(), words: [back.0[0], 1, 2] });
    }
}

fn ping_pong(place: Place, n: u64) -> Duration {
    with_arbiters(place, move |server| async move {
        let pong = Pong::start_in_arbiter(&server, |_| Pong);
        let (done, finished) = oneshot::channel();
        let client = Client { peer: pong, remaining: n, done: Some(done) }.start();
        let start = Instant::now();
        client.do_send(Back([0; 4]));
        finished.await.expect("the actors finish");
        start.elapsed()
    })
}
