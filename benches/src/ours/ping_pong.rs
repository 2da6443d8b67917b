//! Two actors that hand one message to and fro.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use shardstage::prelude::*;

use super::{Go, engine_for, parked, spinning};
use crate::laps::Laps;
use crate::workload::{Entry, Place, Run, Work};

/// Ping-pong on the engine.
pub const ENTRIES: &[Entry] = &[
    parked(Work::PingPong(Place::SameShard), Run::Time(mean)),
    spinning(Work::PingPong(Place::OtherShard), Run::Figure(|n| p50(IdleStrategy::Spin, n))),
    parked(Work::PingPongParked, Run::Figure(|n| p50(IdleStrategy::Park, n))),
];

fn mean(n: u64) -> Duration {
    rally(Place::SameShard, IdleStrategy::Park, Laps::total, n).elapsed()
}

fn p50(idle: IdleStrategy, n: u64) -> f64 {
    rally(Place::OtherShard, idle, Laps::each, n).p50_ns()
}

fn rally(place: Place, idle: IdleStrategy, laps: fn(u64) -> Laps, n: u64) -> Laps {
    let (engine, far) = engine_for(place, idle);
    let pair = Pair::spawn(&engine, 0, far, laps, n);
    pair.start();
    pair.finish()
}

/// The two actors of one rally.
pub(super) struct Pair {
    client: ActorRef<Client>,
    done: Receiver<Laps>,
}

impl Pair {
    pub(super) fn spawn(engine: &Engine, near: u16, far: u16, laps: fn(u64) -> Laps, n: u64) -> Self {
        let (end, done) = mpsc::channel();
        let peer = engine.spawn_on(far, || Pong).expect("the engine runs");
        let client = engine.spawn_on(near, move || Client { peer, laps: laps(n), end: end.clone() });
        Self { client: client.expect("the engine runs"), done }
    }

    pub(super) fn start(&self) {
        self.client.tell(Go).expect("its mailbox is empty");
    }

    pub(super) fn finish(&self) -> Laps {
        self.done.recv().expect("the rally ends")
    }
}

struct Ping {
    from: ActorRef<Client>,
    words: [u64; 2],
}

impl Message for Ping {
    type Reply = ();
}

const _: () = assert!(size_of::<Ping>() == 32);

struct Pong;

impl Actor for Pong {}

impl Handler<Ping> for Pong {
    fn handle(&mut self, ping: Ping, _cx: &mut Context<Self>) {
        ping.from.tell(Back([ping.words[0], 1, 2, 3])).expect("one message in flight fits");
    }
}

#[message]
struct Back([u64; 4]);

struct Client {
    peer: ActorRef<Pong>,
    laps: Laps,
    end: Sender<Laps>,
}

impl Actor for Client {}

impl Client {
    fn serve(&mut self, word: u64, cx: &mut Context<Self>) {
        self.peer.tell(Ping { from: cx.me(), words: [word, 1] }).expect("one message in flight fits");
    }
}

impl Handler<Go> for Client {
    fn handle(&mut self, _: Go, cx: &mut Context<Self>) {
        self.laps.start();
        self.serve(0, cx);
    }
}

impl Handler<Back> for Client {
    fn handle(&mut self, back: Back, cx: &mut Context<Self>) {
        if self.laps.lap() {
            let _gone = self.end.send(std::mem::take(&mut self.laps));
        } else {
            self.serve(back.0[0], cx);
        }
    }
}
