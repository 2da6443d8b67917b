//! Moving an actor to another shard while it is in use: references, timers and names go on as before.

use std::rc::Rc;

use shardstage::prelude::*;
use shardstage::{MoveError, Moving, ShardId};

/// A room of a game. Its map is not `Send`, so it goes over as what it can be made of.
struct Room {
    tiles: Rc<[u8]>,
    visits: u32,
}

impl Actor for Room {
    fn moving() -> Moving<Self> {
        Moving::state(
            |room: &mut Self| (room.tiles.to_vec(), room.visits),
            |(tiles, visits)| Self { tiles: tiles.into(), visits },
        )
    }

    fn moved(&mut self, from: Result<ShardId, MoveError>, cx: &mut Context<Self>) {
        println!("from shard {:?} to shard {}", from, cx.me().id().shard());
    }
}

#[message(reply = u32)]
struct Visit;

#[message(reply = Result<(), MoveError>)]
struct GoTo(u16);

impl Handler<Visit> for Room {
    fn handle(&mut self, _: Visit, _: &mut Context<Self>) -> u32 {
        self.visits += 1;
        self.visits
    }
}

impl Handler<GoTo> for Room {
    fn handle(&mut self, to: GoTo, cx: &mut Context<Self>) -> Result<(), MoveError> {
        cx.move_to(to.0) // after this message
    }
}

/// Says nothing about moving: stays where it is.
struct Clerk;
impl Actor for Clerk {}

fn main() -> shardstage::Result<()> {
    let mut config = Config::default();
    config.shards = Some(2);
    let engine = Engine::start(config)?;
    let room = engine.spawn_on(0, || Room { tiles: vec![0; 4096].into(), visits: 0 })?;
    assert_eq!(room.ask(Visit).wait()?, 1);

    let there = room.move_to(1).wait().expect("rooms move");
    assert_eq!(there.id().shard().get(), 1);
    assert_eq!(room.ask(Visit).wait()?, 2); // the old reference, by way of its shard
    assert_eq!(there.ask(Visit).wait()?, 3);

    assert_eq!(there.ask(GoTo(0)).wait()?, Ok(())); // the actor itself, back to where it was
    assert_eq!(room.ask(Visit).wait()?, 4);

    let clerk = engine.spawn_on(0, || Clerk)?;
    assert_eq!(clerk.move_to(1).wait(), Err(MoveError::Stays));
    engine.shutdown()
}
