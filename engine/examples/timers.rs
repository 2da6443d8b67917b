//! Timers: a 60 Hz tick at a fixed rate that counts what it missed, a poll at a fixed delay that never overlaps itself, a
//! timer that is cancelled in time, and an actor that ends by itself. `cargo run --example timers`

use std::time::Duration;

use shardstage::TimerId;
use shardstage::prelude::*;
use shardstage::testkit::TestKit;

const TICK: Duration = Duration::from_nanos(16_666_667);

/// A room of a game.
#[derive(Default)]
struct Room {
    tick: Option<TimerId>,
    frames: u64,
    polls: u64,
}

#[message]
#[derive(Clone)]
struct Tick;
#[message]
#[derive(Clone)]
struct Poll;
#[message]
struct TooLate;
#[message(reply = (u64, u64, u64))]
struct Report;

impl Actor for Room {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        self.tick = Some(cx.every(TICK, Tick));
        cx.every_with_delay(Duration::from_secs(1), Poll);
        cx.stop_after(Duration::from_secs(60));
        let never = cx.after(Duration::from_secs(5), TooLate);
        assert!(cx.cancel(never), "in time");
        Ok(())
    }
}

impl Handler<Tick> for Room {
    fn handle(&mut self, _: Tick, _cx: &mut Context<Self>) {
        self.frames += 1;
    }
}

impl Handler<Poll> for Room {
    fn handle(&mut self, _: Poll, _cx: &mut Context<Self>) {
        self.polls += 1;
    }
}

impl Handler<TooLate> for Room {
    fn handle(&mut self, _: TooLate, _cx: &mut Context<Self>) {
        unreachable!("it was cancelled");
    }
}

impl Handler<Report> for Room {
    fn handle(&mut self, _: Report, cx: &mut Context<Self>) -> (u64, u64, u64) {
        (self.frames, cx.missed_ticks(self.tick.expect("set at the start")), self.polls)
    }
}

fn main() -> shardstage::Result<()> {
    let kit = TestKit::new(); // an engine on virtual time: the minute passes at once
    let room = kit.spawn(Room::default)?;
    kit.advance(Duration::from_secs(5));
    kit.stall_shard(room.id().shard().get(), Duration::from_millis(100)); // something blocks the room's shard
    kit.advance(Duration::from_secs(5));
    let (frames, missed, polls) = room.ask(Report).wait()?;
    assert_eq!((frames + missed, polls), (606, 9)); // none is lost uncounted, and none comes twice
    assert!((4..=6).contains(&missed));
    kit.advance(Duration::from_secs(50));
    assert!(kit.engine().stats().iter().all(|shard| shard.actors == 0), "its minute is over");
    Ok(())
}
