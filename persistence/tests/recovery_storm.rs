//! Many actors recovered at once: live messages go on, in turns that are counted, and what waits for an actor is bounded and
//! stays in order.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

mod either;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use either::{Bench, SECOND, on_both};
use shardstage::EngineBuilder;
use shardstage::port::driver::FileCompletion;
use shardstage::port::service::{Service, ServiceContext, ServiceError, ServiceFactory, ServiceSeat, Started};
use shardstage::prelude::*;
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, Fold, SnapshotPolicy};

#[message(id = "storm.note", reply = u64)]
struct Note {
    number: u64,
}

#[message(id = "storm.read", reply = Vec<u64>)]
struct Read {}

#[wire(id = "storm.noted")]
struct Noted {
    number: u64,
}

#[wire]
#[derive(Clone, Default)]
struct Notes {
    numbers: Vec<u64>,
}

impl Fold for Notes {
    const NAME: &'static str = "storm.notes";
    const POLICY: SnapshotPolicy = SnapshotPolicy::NEVER;
    type Event = Noted;

    fn apply(&mut self, event: &Noted) {
        self.numbers.push(event.number);
    }
}

impl CommandHandler<Note> for Notes {
    fn handle(&self, Note { number }: Note, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist(Noted { number }).reply(number)
    }
}

impl CommandHandler<Read> for Notes {
    fn handle(&self, _: Read, _cx: &CommandContext<'_, Self>) -> Effect<Self, Vec<u64>> {
        Effect::none().reply(self.numbers.clone())
    }
}

/// Counts the turns of each shard.
#[derive(Clone, Default)]
struct Turns([Arc<AtomicU64>; 2]);

struct TurnCounter(Arc<AtomicU64>);

impl ServiceFactory for Turns {
    fn make(&self, seat: &ServiceSeat) -> io::Result<Box<dyn Service>> {
        Ok(Box::new(TurnCounter(Arc::clone(&self.0[usize::from(seat.shard.get())]))))
    }
}

impl Service for TurnCounter {
    fn name(&self) -> &'static str {
        "turns"
    }

    fn start(&mut self, _cx: &mut ServiceContext<'_>) -> Result<Started, ServiceError> {
        Ok(Started::Ready)
    }

    fn completed(&mut self, _completion: FileCompletion, _cx: &mut ServiceContext<'_>) {}

    fn poll(&mut self, _cx: &mut ServiceContext<'_>) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst);
        false
    }

    fn flush(&mut self, _cx: &mut ServiceContext<'_>) {}

    fn next_deadline_ns(&self) -> Option<u64> {
        None
    }

    fn commit_in_flight(&self) -> bool {
        false
    }

    fn stop(&mut self, _cx: &mut ServiceContext<'_>) -> bool {
        true
    }
}

/// Asks a live actor on its own shard again and again, and keeps the most turns that an answer took.
struct Live {
    target: ActorRef<Durable<Notes>>,
    turns: Arc<AtomicU64>,
    asked_in: u64,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    answers: u64,
    most_turns: u64,
}

impl Actor for Live {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), shardstage::BoxError> {
        self.ask(cx);
        Ok(())
    }
}

impl Live {
    fn ask(&mut self, cx: &mut Context<Self>) {
        self.asked_in = self.turns.load(Ordering::SeqCst);
        cx.ask(self.target, Read {}).then(|live, answer, cx| {
            answer.unwrap();
            let mut seen = live.seen.lock().unwrap();
            seen.answers += 1;
            seen.most_turns = seen.most_turns.max(live.turns.load(Ordering::SeqCst) - live.asked_in);
            drop(seen);
            live.ask(cx);
        });
    }
}

static TURNS: Mutex<Option<Turns>> = Mutex::new(None);

fn counted(builder: EngineBuilder) -> EngineBuilder {
    let turns = TURNS.lock().unwrap().get_or_insert_default().clone();
    builder.service(turns).register::<Durable<Notes>>(|notes| notes)
}

fn key(nth: u64) -> String {
    format!("sleeper-{nth}")
}

/// Tells as soon as there is room.
fn told(bench: &Bench, sleeper: &VirtualRef<Durable<Notes>>, number: u64) {
    while sleeper.tell(Note { number }).is_err() {
        assert!(bench.world.step());
    }
}

/// Runs live actors on both shards while `storm` actors are asked for the first time; the most turns that a live answer took.
fn most_turns(bench: &mut Bench, storm: u64) -> u64 {
    for nth in 0..storm {
        let sleeper = bench.engine.actor::<Durable<Notes>>(key(nth));
        (0..3).for_each(|number| told(bench, &sleeper, number));
    }
    bench.world.run_for(SECOND);
    bench.crash();
    let turns = TURNS.lock().unwrap().clone().unwrap();
    let seen: Vec<Arc<Mutex<Seen>>> = (0..2).map(|_| Arc::default()).collect();
    for (shard, seen) in (0..2).zip(&seen) {
        let target = bench.engine.spawn_on(shard, move || Durable::new(&format!("live-{shard}"))).unwrap();
        bench.world.block_on(target.ask(Note { number: 0 }), SECOND).unwrap().unwrap();
        let (seen, turns) = (Arc::clone(seen), Arc::clone(&turns.0[usize::from(shard)]));
        let live = move || Live { target, turns: Arc::clone(&turns), asked_in: 0, seen: Arc::clone(&seen) };
        bench.engine.spawn_on(shard, live).unwrap();
    }
    bench.world.run_for(SECOND / 100);
    for seen in &seen {
        let mut seen = seen.lock().unwrap();
        assert!(seen.answers > 100, "{} answers in calm", seen.answers);
        *seen = Seen::default();
    }
    for nth in 0..storm {
        told(bench, &bench.engine.actor::<Durable<Notes>>(key(nth)), 3);
    }
    let last = bench.engine.actor::<Durable<Notes>>(key(storm - 1)).ask(Read {});
    assert_eq!(bench.world.block_on(last, 100 * SECOND).unwrap().unwrap(), [0, 1, 2, 3]);
    let during: Vec<u64> = seen.iter().map(|seen| seen.lock().unwrap().answers).collect();
    for nth in (0..storm).step_by(97) {
        assert_eq!(bench.ask::<Durable<Notes>, _, _>(&key(nth), Read {}), Ok(vec![0, 1, 2, 3]));
    }
    println!("{storm} actors: {during:?} live answers on the way");
    assert!(during.iter().all(|answers| *answers >= storm / 20), "{during:?}");
    seen.iter().map(|seen| seen.lock().unwrap().most_turns).max().unwrap()
}

#[test]
fn live_asks_go_on_while_ten_thousand_actors_are_recovered() {
    on_both(1, counted, |mut bench| {
        let most = most_turns(&mut bench, 10_000);
        println!("a live answer took {most} turns at most");
        assert!(most <= 32, "a live answer took {most} turns");
        assert!(bench.counter("recoveries_waited") > 5_000, "the storm was one");
    });
}

fn bounded(builder: EngineBuilder) -> EngineBuilder {
    builder.register::<Durable<Notes>>(|notes| notes.mailbox_capacity(16))
}

/// Tells one actor many notes in one handler, before that can have read its records.
struct Eager;

impl Actor for Eager {}

/// How many notes were taken.
#[message(reply = u64)]
struct Flood {
    notes: u64,
}

impl Handler<Flood> for Eager {
    fn handle(&mut self, Flood { notes }: Flood, cx: &mut Context<Self>) -> u64 {
        let sleeper = cx.actor::<Durable<Notes>>("sleeper");
        (0..notes).filter(|number| sleeper.tell(Note { number: 100 + number }).is_ok()).count() as u64
    }
}

#[test]
fn what_waits_for_a_recovery_is_bounded_and_in_order() {
    on_both(2, bounded, |mut bench| {
        for number in 0..8 {
            bench.ask::<Durable<Notes>, _, _>("sleeper", Note { number }).unwrap();
        }
        bench.crash();
        // On the actor's own shard every refusal is known at once; on the other one they bounce.
        let mut local = 0;
        for shard in 0..2 {
            bench.crash();
            let before = bench.ask::<Durable<Notes>, _, _>("other", Read {}).map(|_| ());
            assert_eq!(before, Ok(()), "the shards are up");
            let eager = bench.engine.spawn_on(shard, || Eager).unwrap();
            let taken = bench.world.block_on(eager.ask(Flood { notes: 40 }), SECOND).unwrap().unwrap();
            bench.world.run_for(SECOND);
            let numbers = bench.ask::<Durable<Notes>, _, _>("sleeper", Read {}).unwrap();
            let waited = &numbers[8 + usize::from(shard) * 16..];
            assert_eq!(waited, (100..116).collect::<Vec<u64>>(), "sixteen waited, in order");
            if taken == 16 {
                local += 1;
            } else {
                assert_eq!(taken, 40);
            }
        }
        assert_eq!(local, 1);
    });
}
