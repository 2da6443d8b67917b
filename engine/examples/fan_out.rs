//! Everybody who looks at a map hears of every move: one message to many actors, allocated once for each shard.

use shardstage::prelude::*;
use shardstage::{Audience, Shared};

#[message]
struct Moved {
    ship: u32,
    path: Vec<(f64, f64)>,
}

/// Looks at the map.
#[derive(Default)]
struct Viewer {
    points: usize,
}

impl Actor for Viewer {}

impl Handler<Shared<Moved>> for Viewer {
    fn handle(&mut self, moved: Shared<Moved>, _cx: &mut Context<Self>) {
        assert_eq!(moved.ship, 7);
        self.points += moved.path.len();
    }
}

#[message(reply = usize)]
struct Points;

impl Handler<Points> for Viewer {
    fn handle(&mut self, _: Points, _cx: &mut Context<Self>) -> usize {
        self.points
    }
}

/// Knows who looks, and tells them.
#[derive(Default)]
struct Map {
    viewers: Audience<ActorRef<Viewer>>,
}

impl Actor for Map {}

#[message]
struct Look {
    viewer: ActorRef<Viewer>,
}

impl Handler<Look> for Map {
    fn handle(&mut self, look: Look, _cx: &mut Context<Self>) {
        self.viewers.join(&look.viewer);
    }
}

#[message(reply = usize)]
struct Sail;

impl Handler<Sail> for Map {
    fn handle(&mut self, _: Sail, cx: &mut Context<Self>) -> usize {
        let moved = Moved { ship: 7, path: vec![(1.0, 2.0), (1.5, 2.5)] };
        cx.tell_many(&mut self.viewers, moved).accepted
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let map = engine.spawn(Map::default)?;
    let viewers = (0..1000).map(|_| engine.spawn(Viewer::default)).collect::<Result<Vec<_>, _>>()?;
    for viewer in &viewers {
        map.ask(Look { viewer: *viewer }).wait()?;
    }
    assert_eq!(map.ask(Sail).wait()?, 1000);
    let points = viewers.iter().map(|viewer| viewer.ask(Points).wait()).sum::<Result<usize, _>>()?;
    assert_eq!(points, 2000);
    let allocated: u64 = engine.stats().iter().map(|shard| shard.fan_out_shared).sum();
    assert!(allocated <= u64::from(engine.shard_count()), "once for each shard, not for each viewer");
    engine.shutdown()
}
