//! Virtual actors: a key is an actor for as long as anybody speaks to it. Idle ones leave, the next message makes them again, and
//! whoever looks wakes nobody.

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Activity, VirtualSettings};

/// A player's seat at a table. What must outlive an activation belongs into a durable actor.
struct Player {
    hands: u32,
}
impl Actor for Player {}

impl VirtualActor for Player {
    const TYPE: &'static str = "example.player";

    fn activate(_key: &str) -> Self {
        Self { hands: 0 }
    }

    fn settings() -> VirtualSettings {
        VirtualSettings::default().idle_timeout(Duration::from_secs(30))
    }
}

#[message(id = "example.deal", reply = u32)]
struct Deal;

impl Handler<Deal> for Player {
    fn handle(&mut self, _: Deal, _cx: &mut Context<Self>) -> u32 {
        self.hands += 1;
        self.hands
    }
}

fn main() -> shardstage::Result<()> {
    // An engine on virtual time; `Engine::builder()` takes the same lines.
    let kit = TestKit::builder()
        .engine(|builder| {
            let mut config = Config::default();
            config.shards = Some(1);
            config.virtual_actors_per_shard = 100; // more than these and the least recently used leave
            builder.config(config).register::<Player>(|player| player.accept::<Deal, _>())
        })
        .start();

    let alice = kit.actor::<Player>("alice");
    assert_eq!(alice.activity().wait(), Activity::Asleep);
    assert_eq!(alice.ask(Deal).wait()?, 1);
    assert_eq!(alice.ask(Deal).wait()?, 2);

    kit.advance(Duration::from_secs(40));
    assert_eq!(alice.activity().wait(), Activity::Asleep);
    assert_eq!(alice.ask(Deal).wait()?, 1);

    for number in 0..500 {
        kit.actor::<Player>(format!("guest-{number}")).ask(Deal).wait()?;
    }
    kit.advance(Duration::from_secs(1));
    let stats = kit.stats()[0];
    assert_eq!(stats.activated - stats.passivated, 100);

    let left = alice.passivate().expect("this node hosts players");
    assert_eq!(left.wait(), StopReason::Passivated);
    Ok(())
}
