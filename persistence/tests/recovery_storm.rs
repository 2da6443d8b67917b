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
use shardstage_persistence::limits::RECOVERY_BYTES_PER_TURN;
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
        MOST_APPLIED.fetch_max(APPLIED.swap(0, Ordering::SeqCst), Ordering::SeqCst);
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

/// Tests that count turns, or what happens in one, run one after the other.
static COUNTING: Mutex<()> = Mutex::new(());

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
    let _alone = COUNTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    on_both(1, counted, |mut bench| {
        let most = most_turns(&mut bench, 10_000);
        println!("a live answer took {most} turns at most");
        assert!(most <= 32, "a live answer took {most} turns");
        assert!(bench.counter("recoveries_waited") > 5_000, "the storm was one");
    });
}

/// Events of [`Long`] that were applied since a turn began, and the most in one turn.
static APPLIED: AtomicU64 = AtomicU64::new(0);
static MOST_APPLIED: AtomicU64 = AtomicU64::new(0);

/// Has more events than one turn may replay.
#[wire]
#[derive(Clone, Default)]
struct Long {
    notes: u64,
}

impl Fold for Long {
    const NAME: &'static str = "storm.long";
    const POLICY: SnapshotPolicy = SnapshotPolicy::NEVER;
    type Event = Noted;

    fn apply(&mut self, event: &Noted) {
        assert_eq!(event.number, self.notes, "in order, each once");
        self.notes += 1;
        APPLIED.fetch_add(1, Ordering::SeqCst);
    }
}

impl CommandHandler<Flood> for Long {
    fn handle(&self, Flood { notes }: Flood, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist_all((self.notes..self.notes + notes).map(|number| Noted { number })).reply(self.notes + notes)
    }
}

fn with_long(builder: EngineBuilder) -> EngineBuilder {
    counted(builder).register::<Durable<Long>>(|long| long)
}

#[test]
fn a_long_replay_is_divided_over_turns() {
    const EVENTS: u64 = 30_000;
    let _alone = COUNTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    on_both(3, with_long, |mut bench| {
        for _ in 0..EVENTS / 1000 {
            bench.ask::<Durable<Long>, _, _>("long", Flood { notes: 1000 }).unwrap();
        }
        bench.ask::<Durable<Notes>, _, _>("other", Note { number: 7 }).unwrap();
        bench.crash();
        APPLIED.store(0, Ordering::SeqCst);
        MOST_APPLIED.store(0, Ordering::SeqCst);
        let long = bench.engine.actor::<Durable<Long>>("long").ask(Flood { notes: 0 });
        let other = bench.engine.actor::<Durable<Notes>>("other").ask(Read {});
        assert_eq!(bench.world.block_on(long, 100 * SECOND).unwrap(), Ok(EVENTS));
        assert_eq!(bench.world.block_on(other, 100 * SECOND).unwrap(), Ok(vec![7]), "others are recovered beside it");
        let most = MOST_APPLIED.load(Ordering::SeqCst);
        println!("{most} events in one turn at most");
        // A record takes 40 bytes or more of the share.
        assert!((1..=RECOVERY_BYTES_PER_TURN as u64 / 40 + 1).contains(&most), "{most}");
        // A crash in the middle of it is nothing special.
        bench.crash();
        let cut_short = bench.engine.actor::<Durable<Long>>("long").ask(Flood { notes: 0 });
        while MOST_APPLIED.load(Ordering::SeqCst) == 0 {
            assert!(bench.world.step());
        }
        drop(cut_short);
        bench.crash();
        assert_eq!(bench.ask::<Durable<Long>, _, _>("long", Flood { notes: 1 }), Ok(EVENTS + 1));
    });
}

fn bounded(builder: EngineBuilder) -> EngineBuilder {
    builder.register::<Durable<Notes>>(|notes| notes.mailbox_capacity(16))
}

/// Tells one actor many notes in one handler, before that can have read its records.
struct Eager;

impl Actor for Eager {}

/// How many notes were taken, or there are now.
#[message(id = "storm.flood", reply = u64)]
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
            let lost_before = bench.engine.dead_letters().total();
            let taken = bench.world.block_on(eager.ask(Flood { notes: 40 }), SECOND).unwrap().unwrap();
            bench.world.run_for(SECOND);
            let lost = bench.engine.dead_letters().total() - lost_before;
            let numbers = bench.ask::<Durable<Notes>, _, _>("sleeper", Read {}).unwrap();
            let waited = &numbers[8 + usize::from(shard) * 16..];
            assert_eq!(waited, (100..116).collect::<Vec<u64>>(), "sixteen waited, in order");
            let (handled, refused) = (waited.len() as u64, 40 - taken);
            assert_eq!(handled + refused + lost, 40, "every note is handled, handed back, or counted as lost");
            if taken == 16 {
                assert_eq!((refused, lost), (24, 0));
                local += 1;
            } else {
                assert_eq!((refused, lost), (0, 24));
            }
        }
        assert_eq!(local, 1);
    });
}
