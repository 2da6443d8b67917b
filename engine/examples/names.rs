//! Names: who asks for a room by its name gets the one actor of that name, whoever was first; who comes too early waits.

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::{LookupError, RegisterError};

#[derive(Default)]
struct Room {
    guests: u32,
}
impl Actor for Room {}

#[message(reply = u32)]
struct Enter;

impl Handler<Enter> for Room {
    fn handle(&mut self, _: Enter, _cx: &mut Context<Self>) -> u32 {
        self.guests += 1;
        self.guests
    }
}

/// Shows guests to rooms that it knows by name only.
struct Porter;
impl Actor for Porter {}

#[message(reply = u32)]
struct Guide {
    room: &'static str,
}

impl AsyncHandler<Guide> for Porter {
    async fn handle(&mut self, guide: Guide, cx: &mut Context<Self>) -> u32 {
        let room = cx.get_or_spawn(guide.room, Room::default).expect("a room, wherever it is");
        room.ask(Enter).await.expect("it takes guests")
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::start(Config::default())?;
    let early = engine.when_named::<Room>("lobby").deadline(Duration::from_secs(60));
    let lobby = engine.spawn_named("lobby", Room::default)?;
    assert_eq!(early.wait(), Ok(lobby));
    assert_eq!(engine.lookup::<Room>("lobby"), Ok(lobby));

    // A name has one actor, of one type.
    assert!(matches!(engine.spawn_named("lobby", Room::default), Err(RegisterError::Taken { .. })));
    assert!(matches!(engine.lookup::<Porter>("lobby"), Err(LookupError::WrongType { .. })));
    let porters = [engine.spawn(|| Porter)?, engine.spawn(|| Porter)?];
    assert_eq!(porters[0].ask(Guide { room: "lobby" }).wait(), Ok(1));
    assert_eq!(porters[1].ask(Guide { room: "bar" }).wait(), Ok(1));
    assert_eq!(porters[0].ask(Guide { room: "bar" }).wait(), Ok(2));

    // Whoever has waited for an actor's end finds its name free.
    lobby.stop().wait();
    let next = engine.spawn_named("lobby", Room::default)?;
    assert_ne!(next, lobby);
    engine.shutdown()?;
    Ok(())
}
