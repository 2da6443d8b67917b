//! The workloads as hand-written tokio tasks with bounded channels: no library, but what many programs use for actors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;

use super::{Library, breathe, grown_by};
use crate::census::{Resident, last_gone};
use crate::laps::Laps;
use crate::limits::{BIG_ACTORS, MAILBOX_CAPACITY};
use crate::message::{Either, Partners, numbered, sum_to};
use crate::place::{Side, Sides};
use crate::sizes::{big_elapsed, big_pings, fibonacci_for};
use crate::workload::Place;

/// Tasks and channels.
pub(super) struct Tokio;

/// A tell, or an ask with the place of its reply.
enum Request {
    Tell(Either),
    Ask(Either, oneshot::Sender<u64>),
}

/// Counts, answers with the sum, and says when it has seen everything.
fn counter(side: &Side, n: u64) -> (Sender<Request>, oneshot::Receiver<u64>) {
    let (done, finished) = oneshot::channel();
    let (counter, mut mailbox) = mpsc::channel(MAILBOX_CAPACITY);
    side.handle().spawn(async move {
        let mut sum = 0_u64;
        for _ in 0..n {
            match mailbox.recv().await.expect("a sender lives until all are counted") {
                Request::Tell(message) => sum = sum.wrapping_add(message.words()[0]),
                Request::Ask(message, reply) => {
                    sum = sum.wrapping_add(message.words()[0]);
                    let _gone = reply.send(sum);
                }
            }
        }
        let _gone = done.send(sum);
    });
    (counter, finished)
}

async fn send<M>(to: &Sender<M>, message: M) {
    match to.try_send(message) {
        Ok(()) => {}
        Err(TrySendError::Full(message)) => _ = to.send(message).await,
        Err(TrySendError::Closed(_)) => unreachable!("the task outlives the run"),
    }
}

impl Library for Tokio {
    const NAME: &'static str = "tokio tasks";

    fn tell(place: Place, producers: u64, n: u64) -> Duration {
        let sides = Sides::start(place);
        let (counter, finished) = counter(sides.server(), n);
        sides.client().run(async move {
            let start = Instant::now();
            for producer in 0..producers {
                let counter = counter.clone();
                tokio::spawn(async move {
                    for number in n * producer / producers..n * (producer + 1) / producers {
                        send(&counter, Request::Tell(numbered(number))).await;
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
        let (counter, finished) = counter(sides.server(), n);
        sides.client().run(async move {
            let start = Instant::now();
            let askers: Vec<_> = (0..in_flight)
                .map(|asker| {
                    let counter = counter.clone();
                    tokio::spawn(async move {
                        for number in (asker..n).step_by(in_flight as usize) {
                            let (reply, answer) = oneshot::channel();
                            send(&counter, Request::Ask(numbered(number), reply)).await;
                            answer.await.expect("the task answers");
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

    fn ping_pong(place: Place, mut laps: Laps) -> Laps {
        let sides = Sides::start(place);
        let (peer, mut pings) = mpsc::channel::<(Sender<[u64; 4]>, [u64; 3])>(MAILBOX_CAPACITY);
        sides.server().handle().spawn(async move {
            while let Some((from, words)) = pings.recv().await {
                send(&from, [words[0], 1, 2, 3]).await;
            }
        });
        let (me, mut backs) = mpsc::channel::<[u64; 4]>(MAILBOX_CAPACITY);
        sides.client().run(async move {
            laps.start();
            let mut word = 0;
            loop {
                send(&peer, (me.clone(), [word, 1, 2])).await;
                word = backs.recv().await.expect("the other side lives")[0];
                if laps.lap() {
                    return laps;
                }
            }
        })
    }

    fn big(place: Place, n: u64) -> Duration {
        let sides = Sides::start(place);
        let (done, mut finished) = mpsc::unbounded_channel();
        let (nodes, mailboxes): (Vec<_>, Vec<_>) =
            (0..BIG_ACTORS).map(|_| mpsc::channel::<ToNode>(MAILBOX_CAPACITY)).unzip();
        let nodes: Arc<[Sender<ToNode>]> = nodes.into();
        for (number, mailbox) in mailboxes.into_iter().enumerate() {
            let side = if number.is_multiple_of(2) { sides.client() } else { sides.server() };
            side.handle().spawn(node(number, nodes.clone(), mailbox, done.clone()));
        }
        sides.client().run(async move {
            let start = Instant::now();
            for node in nodes.iter() {
                send(node, ToNode::Play(big_pings(n))).await;
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
                // The task ends when its channel closes.
                let (child, mailbox) = mpsc::channel::<u64>(MAILBOX_CAPACITY);
                tokio::spawn(idle(mailbox, Resident::new(n)));
                drop(child);
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
            let (root, mut result) = mpsc::channel(2);
            let start = Instant::now();
            plant(root, task.index);
            let sum = result.recv().await.expect("the root answers");
            task.elapsed(start.elapsed(), sum.computed(), n)
        })
    }

    fn idle_bytes(n: u64) -> u64 {
        let sides = Sides::start(Place::SameShard);
        sides.client().run(async move {
            let one = |state| {
                let (address, mailbox) = mpsc::channel::<u64>(MAILBOX_CAPACITY);
                tokio::spawn(idle(mailbox, state));
                address
            };
            grown_by(|| (0..n).map(one).collect::<Vec<_>>()).await
        })
    }
}

async fn idle<S>(mut mailbox: Receiver<u64>, state: S) {
    while mailbox.recv().await.is_some() {}
    drop(state);
}

enum ToNode {
    Play(u64),
    Ping { from: Sender<ToNode>, words: [u64; 3] },
    Pong([u64; 4]),
}

async fn node(
    number: usize,
    all: Arc<[Sender<ToNode>]>,
    mut mailbox: Receiver<ToNode>,
    done: mpsc::UnboundedSender<()>,
) {
    let (mut partners, mut missing) = (Partners::of(number as u64), 0);
    while let Some(message) = mailbox.recv().await {
        match message {
            ToNode::Play(pings) => missing = pings,
            ToNode::Ping { from, words } => {
                send(&from, ToNode::Pong([words[0], 1, 2, 3])).await;
                continue;
            }
            ToNode::Pong(words) => {
                assert_eq!(words[0], missing, "the pong answers the ping");
                missing -= 1;
                if missing == 0 {
                    let _gone = done.send(());
                    continue;
                }
            }
        }
        let ping = ToNode::Ping { from: all[number].clone(), words: [missing, 1, 2] };
        send(&all[partners.next(all.len())], ping).await;
    }
}

enum ToBranch {
    Compute(u32),
    Computed(u64),
}

impl ToBranch {
    fn computed(self) -> u64 {
        match self {
            Self::Computed(sum) => sum,
            Self::Compute(_) => unreachable!("a parent is told results only"),
        }
    }
}

/// Spawns one node of the tree and tells it what to compute.
fn plant(parent: Sender<ToBranch>, index: u32) {
    let (me, mailbox) = mpsc::channel(MAILBOX_CAPACITY);
    tokio::spawn(branch(parent, me.clone(), mailbox));
    assert!(me.try_send(ToBranch::Compute(index)).is_ok(), "its mailbox is empty");
}

async fn branch(parent: Sender<ToBranch>, me: Sender<ToBranch>, mut mailbox: Receiver<ToBranch>) {
    let (mut sum, mut missing) = (0, 0);
    while let Some(message) = mailbox.recv().await {
        match message {
            ToBranch::Compute(index) if index <= 2 => sum = 1,
            ToBranch::Compute(index) => {
                missing = 2;
                plant(me.clone(), index - 1);
                plant(me.clone(), index - 2);
            }
            ToBranch::Computed(more) => {
                sum += more;
                missing -= 1;
            }
        }
        if missing == 0 {
            return send(&parent, ToBranch::Computed(sum)).await;
        }
    }
}
