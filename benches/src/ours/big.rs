//! 1,000 actors that each ping a random one and wait for its pong, over and over; on two shards they live by turns.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use shardstage::prelude::*;

use super::{Clock, Go, engine_for, parked, spinning};
use crate::limits::BIG_ACTORS;
use crate::message::Partners;
use crate::sizes::{big_elapsed, big_pings};
use crate::workload::{Entry, Place, Run, Work};

/// `big` on the engine.
pub const ENTRIES: &[Entry] = &[
    parked(Work::Big(Place::SameShard), Run::Time(|n| big(Place::SameShard, IdleStrategy::Park, n))),
    spinning(Work::Big(Place::OtherShard), Run::Time(|n| big(Place::OtherShard, IdleStrategy::Spin, n))),
    parked(Work::Big(Place::OtherShard), Run::Time(|n| big(Place::OtherShard, IdleStrategy::Park, n))),
];

struct Node {
    partners: Partners,
    all: Arc<[ActorRef<Node>]>,
    referee: Option<ActorRef<Referee>>,
    pings: u64,
    missing: u64,
}

impl Actor for Node {}

/// Play so many pings with these.
#[message]
struct Play {
    all: Arc<[ActorRef<Node>]>,
    referee: ActorRef<Referee>,
    pings: u64,
}

struct Ping {
    from: ActorRef<Node>,
    words: [u64; 2],
}

impl Message for Ping {
    type Reply = ();
}

#[message]
struct Pong([u64; 4]);

const _: () = assert!(size_of::<Ping>() == 32 && size_of::<Pong>() == 32);

impl Node {
    fn ping(&mut self, cx: &mut Context<Self>) {
        let partner = self.all[self.partners.next(self.all.len())];
        partner.tell(Ping { from: cx.me(), words: [self.missing, 0] }).expect("every mailbox holds a ping of everyone");
    }

    /// Says so until it is heard: a thousand that end at once overrun the referee.
    fn finish(&mut self, cx: &mut Context<Self>) {
        let referee = self.referee.expect("it was told to play");
        cx.ask(referee, Done).then(|_, heard, cx| {
            if heard.is_err() {
                cx.me().tell(Again).expect("nobody pings more than once at a time");
            }
        });
    }
}

impl Handler<Play> for Node {
    fn handle(&mut self, play: Play, cx: &mut Context<Self>) {
        self.all = play.all;
        self.referee = Some(play.referee);
        self.missing = play.pings;
        self.ping(cx);
    }
}

impl Handler<Ping> for Node {
    fn handle(&mut self, ping: Ping, _cx: &mut Context<Self>) {
        self.pings += 1;
        ping.from.tell(Pong([ping.words[0], 1, 2, 3])).expect("it waits for one pong only");
    }
}

impl Handler<Pong> for Node {
    fn handle(&mut self, pong: Pong, cx: &mut Context<Self>) {
        assert_eq!(pong.0[0], self.missing, "the pong answers the ping");
        self.missing -= 1;
        if self.missing > 0 {
            return self.ping(cx);
        }
        self.finish(cx);
    }
}

/// The referee did not take this node's `Done`.
#[message]
struct Again;

impl Handler<Again> for Node {
    fn handle(&mut self, _: Again, cx: &mut Context<Self>) {
        self.finish(cx);
    }
}

/// A node has all its pongs.
#[message]
struct Done;

/// Starts the game and sees its end.
struct Referee {
    nodes: Arc<[ActorRef<Node>]>,
    pings: u64,
    playing: u64,
    begin: Sender<Instant>,
    end: Sender<Instant>,
}

impl Actor for Referee {}

impl Handler<Go> for Referee {
    fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        let _gone = self.begin.send(Instant::now());
        for node in self.nodes.iter() {
            let play = Play { all: self.nodes.clone(), referee: cx.me(), pings: self.pings };
            node.tell(play).expect("its mailbox is empty");
        }
    }
}

impl Handler<Done> for Referee {
    fn handle(&mut self, _: Done, _cx: &mut Context<Self>) {
        self.playing -= 1;
        if self.playing == 0 {
            let _gone = self.end.send(Instant::now());
        }
    }
}

/// How many pings did you answer?
#[message(reply = u64)]
struct Answered;

impl Handler<Answered> for Node {
    fn handle(&mut self, _: Answered, _cx: &mut Context<Self>) -> u64 {
        self.pings
    }
}

fn big(place: Place, idle: IdleStrategy, n: u64) -> Duration {
    let (engine, far) = engine_for(place, idle);
    let (clock, begin, end) = Clock::new();
    let pings = big_pings(n);
    let nodes: Arc<[ActorRef<Node>]> = (0..BIG_ACTORS)
        .map(|number| {
            let shard = if number.is_multiple_of(2) { 0 } else { far };
            let node = move || {
                let all = Arc::new([]);
                Node { partners: Partners::of(number), all, referee: None, pings: 0, missing: 0 }
            };
            engine.spawn_on(shard, node).expect("the engine runs")
        })
        .collect();
    let all = nodes.clone();
    let referee = engine.spawn_on(0, move || {
        let (nodes, begin, end) = (all.clone(), begin.clone(), end.clone());
        Referee { nodes, pings, playing: BIG_ACTORS, begin, end }
    });
    referee.expect("the engine runs").tell(Go).expect("its mailbox is empty");
    let elapsed = clock.elapsed();
    let answered: u64 = nodes.iter().map(|node| node.ask(Answered).wait().expect("it answers")).sum();
    assert_eq!(answered, pings * BIG_ACTORS, "every ping was answered");
    big_elapsed(elapsed, n)
}
