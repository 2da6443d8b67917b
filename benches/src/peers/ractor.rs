//! The workloads on ractor, without span propagation and `async-trait`. Its mailboxes are unbounded; an actor takes one
//! message type, so the two types are variants of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::oneshot;

use super::{Library, breathe};
use crate::census::{Resident, last_gone};
use crate::laps::Laps;
use crate::limits::BIG_ACTORS;
use crate::message::{Either, Partners, numbered, sum_to};
use crate::place::{Side, Sides};
use crate::resident::resident_bytes;
use crate::sizes::{big_elapsed, big_pings, fibonacci_for};
use crate::workload::Place;

/// The library.
pub(super) struct Ractor;

/// A tell, or an ask with the place of its reply.
enum Request {
    Tell(Either),
    Ask(Either, RpcReplyPort<u64>),
}

/// In the runtime of the calling task.
async fn spawn<A: Actor>(actor: A, arguments: A::Arguments) -> ActorRef<A::Msg> {
    Actor::spawn(None, actor, arguments).await.expect("the actor starts").0
}

fn spawn_on<A: Actor>(side: &Side, actor: A, arguments: A::Arguments) -> ActorRef<A::Msg> {
    side.run(spawn(actor, arguments))
}

fn counter(sides: &Sides, n: u64) -> (ActorRef<Request>, oneshot::Receiver<u64>) {
    let (done, finished) = oneshot::channel();
    (spawn_on(sides.server(), Counter, Count { sum: 0, remaining: n, done: Some(done) }), finished)
}

impl Library for Ractor {
    const NAME: &'static str = "ractor";

    fn tell(place: Place, producers: u64, n: u64) -> Duration {
        let sides = Sides::start(place);
        let (counter, finished) = counter(&sides, n);
        sides.client().run(async move {
            let start = Instant::now();
            for producer in 0..producers {
                let counter = counter.clone();
                tokio::spawn(async move {
                    for number in n * producer / producers..n * (producer + 1) / producers {
                        counter.send_message(Request::Tell(numbered(number))).expect("the actor lives");
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
                            let reply = counter.call(|port| Request::Ask(numbered(number), port), None).await;
                            assert!(matches!(reply, Ok(CallResult::Success(_))), "the actor answers");
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
        let peer = spawn_on(sides.server(), Pong, ());
        let (done, finished) = oneshot::channel();
        let client = spawn_on(sides.client(), Client, Rally { peer, laps, done: Some(done) });
        sides.client().run(async move {
            client.send_message(ToClient::Serve).expect("the actor lives");
            finished.await.expect("the actors finish")
        })
    }

    fn big(place: Place, n: u64) -> Duration {
        let sides = Sides::start(place);
        let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
        let nodes: Arc<[ActorRef<ToNode>]> = (0..BIG_ACTORS)
            .map(|number| {
                let side = if number.is_multiple_of(2) { sides.client() } else { sides.server() };
                let (all, done) = (Arc::new([]), done.clone());
                spawn_on(side, Node, Game { partners: Partners::of(number), all, missing: 0, done })
            })
            .collect();
        sides.client().run(async move {
            let start = Instant::now();
            for node in nodes.iter() {
                node.send_message(ToNode::Play(nodes.clone(), big_pings(n))).expect("the actor lives");
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
                spawn(Child, n).await.stop(None);
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
            let actor = spawn(Fibonacci, Branch { answer_to: AnswerTo::Root(Some(root)), sum: 0, missing: 0 }).await;
            actor.send_message(ToBranch::Compute(task.index)).expect("the actor lives");
            let sum = result.await.expect("the root answers");
            task.elapsed(start.elapsed(), sum, n)
        })
    }

    fn idle_bytes(n: u64) -> u64 {
        let sides = Sides::start(Place::SameShard);
        sides.client().run(async move {
            let before = resident_bytes();
            let mut idle = Vec::new();
            for state in 0..n {
                // A spawn returns when the actor has started.
                idle.push(spawn(Idle, state).await);
            }
            let grown = resident_bytes().saturating_sub(before);
            drop(idle);
            grown
        })
    }
}

/// Counts, answers with the sum, and says when it has seen everything.
struct Counter;

struct Count {
    sum: u64,
    remaining: u64,
    done: Option<oneshot::Sender<u64>>,
}

impl Count {
    fn count(&mut self, message: Either) -> u64 {
        self.sum = self.sum.wrapping_add(message.words()[0]);
        self.remaining -= 1;
        if self.remaining == 0
            && let Some(done) = self.done.take()
        {
            let _gone = done.send(self.sum);
        }
        self.sum
    }
}

type Done = Result<(), ActorProcessingErr>;

impl Actor for Counter {
    type Msg = Request;
    type State = Count;
    type Arguments = Count;

    async fn pre_start(&self, _me: ActorRef<Request>, count: Count) -> Result<Count, ActorProcessingErr> {
        Ok(count)
    }

    async fn handle(&self, _me: ActorRef<Request>, request: Request, count: &mut Count) -> Done {
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

struct Pong;

struct Ping {
    from: ActorRef<ToClient>,
    words: [u64; 3],
}

impl Actor for Pong {
    type Msg = Ping;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _me: ActorRef<Ping>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _me: ActorRef<Ping>, ping: Ping, (): &mut ()) -> Done {
        ping.from.send_message(ToClient::Back([ping.words[0], 1, 2, 3]))?;
        Ok(())
    }
}

enum ToClient {
    Serve,
    Back([u64; 4]),
}

struct Client;

struct Rally {
    peer: ActorRef<Ping>,
    laps: Laps,
    done: Option<oneshot::Sender<Laps>>,
}

impl Actor for Client {
    type Msg = ToClient;
    type State = Rally;
    type Arguments = Rally;

    async fn pre_start(&self, _me: ActorRef<ToClient>, rally: Rally) -> Result<Rally, ActorProcessingErr> {
        Ok(rally)
    }

    async fn handle(&self, me: ActorRef<ToClient>, message: ToClient, rally: &mut Rally) -> Done {
        let word = match message {
            ToClient::Serve => {
                rally.laps.start();
                0
            }
            ToClient::Back(words) => {
                if rally.laps.lap() {
                    if let Some(done) = rally.done.take() {
                        let _gone = done.send(std::mem::take(&mut rally.laps));
                    }
                    return Ok(());
                }
                words[0]
            }
        };
        rally.peer.send_message(Ping { from: me, words: [word, 1, 2] })?;
        Ok(())
    }
}

enum ToNode {
    Play(Arc<[ActorRef<ToNode>]>, u64),
    Ping { from: ActorRef<ToNode>, words: [u64; 3] },
    Pong([u64; 4]),
}

struct Node;

struct Game {
    partners: Partners,
    all: Arc<[ActorRef<ToNode>]>,
    missing: u64,
    done: tokio::sync::mpsc::UnboundedSender<()>,
}

impl Game {
    fn ping(&mut self, me: ActorRef<ToNode>) -> Done {
        let partner = &self.all[self.partners.next(self.all.len())];
        partner.send_message(ToNode::Ping { from: me, words: [self.missing, 1, 2] })?;
        Ok(())
    }
}

impl Actor for Node {
    type Msg = ToNode;
    type State = Game;
    type Arguments = Game;

    async fn pre_start(&self, _me: ActorRef<ToNode>, game: Game) -> Result<Game, ActorProcessingErr> {
        Ok(game)
    }

    async fn handle(&self, me: ActorRef<ToNode>, message: ToNode, game: &mut Game) -> Done {
        match message {
            ToNode::Play(all, pings) => {
                (game.all, game.missing) = (all, pings);
                game.ping(me)?;
            }
            ToNode::Ping { from, words } => from.send_message(ToNode::Pong([words[0], 1, 2, 3]))?,
            ToNode::Pong(words) => {
                assert_eq!(words[0], game.missing, "the pong answers the ping");
                game.missing -= 1;
                if game.missing > 0 {
                    game.ping(me)?;
                } else {
                    let _gone = game.done.send(());
                }
            }
        }
        Ok(())
    }
}

struct Child;

impl Actor for Child {
    type Msg = ();
    type State = Resident;
    type Arguments = u64;

    async fn pre_start(&self, _me: ActorRef<()>, of: u64) -> Result<Resident, ActorProcessingErr> {
        Ok(Resident::new(of))
    }
}

struct Idle;

impl Actor for Idle {
    type Msg = ();
    type State = u64;
    type Arguments = u64;

    async fn pre_start(&self, _me: ActorRef<()>, state: u64) -> Result<u64, ActorProcessingErr> {
        Ok(state)
    }
}

enum AnswerTo {
    Parent(ActorRef<ToBranch>),
    Root(Option<oneshot::Sender<u64>>),
}

enum ToBranch {
    Compute(u32),
    Computed(u64),
}

struct Fibonacci;

struct Branch {
    answer_to: AnswerTo,
    sum: u64,
    missing: u8,
}

impl Branch {
    fn answer(&mut self, sum: u64, me: &ActorRef<ToBranch>) -> Done {
        match &mut self.answer_to {
            AnswerTo::Parent(parent) => parent.send_message(ToBranch::Computed(sum))?,
            AnswerTo::Root(root) => _ = root.take().expect("the root answers once").send(sum),
        }
        me.stop(None);
        Ok(())
    }
}

impl Actor for Fibonacci {
    type Msg = ToBranch;
    type State = Branch;
    type Arguments = Branch;

    async fn pre_start(&self, _me: ActorRef<ToBranch>, branch: Branch) -> Result<Branch, ActorProcessingErr> {
        Ok(branch)
    }

    async fn handle(&self, me: ActorRef<ToBranch>, message: ToBranch, branch: &mut Branch) -> Done {
        match message {
            ToBranch::Compute(index) if index <= 2 => branch.answer(1, &me)?,
            ToBranch::Compute(index) => {
                branch.missing = 2;
                for index in [index - 1, index - 2] {
                    let answer_to = AnswerTo::Parent(me.clone());
                    let child = spawn(Self, Branch { answer_to, sum: 0, missing: 0 }).await;
                    child.send_message(ToBranch::Compute(index))?;
                }
            }
            ToBranch::Computed(sum) => {
                branch.sum += sum;
                branch.missing -= 1;
                if branch.missing == 0 {
                    branch.answer(branch.sum, &me)?;
                }
            }
        }
        Ok(())
    }
}
