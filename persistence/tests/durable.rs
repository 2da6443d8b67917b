//! Event-sourced actors on a real engine with real files.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use shardstage::prelude::*;
use shardstage_persistence::{CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced, LogShard};

#[message(id = "test.add", reply = i64)]
struct Add {
    by: i64,
}

#[message(id = "test.read", reply = i64)]
struct Read {}

#[message(id = "test.explode", reply = ())]
struct Explode {}

#[message(id = "test.add-and-tell", reply = ())]
struct AddAndTell {
    by: i64,
}

#[message(id = "test.version", reply = u64)]
struct Version {}

#[wire(id = "test.added")]
struct Added {
    by: i64,
}

/// Applied while it is allowed; see [`Bombs`].
const BOMB: i64 = 13_000;

struct Total {
    total: i64,
}

static BOMBS_EXPLODE: AtomicU64 = AtomicU64::new(0);
static BOMB_APPLIED: AtomicU64 = AtomicU64::new(0);
/// Tests that change the two above run one after the other.
static BOMB_TESTS: Mutex<()> = Mutex::new(());

impl EventSourced for Total {
    const TYPE: &'static str = "test.total";
    const SNAPSHOT_EVERY: u64 = 50;
    type Event = Added;
    type Snapshot = i64;

    fn new(_key: &str) -> Self {
        Self { total: 0 }
    }

    fn apply(&mut self, event: &Added) {
        self.total += event.by;
        if event.by == BOMB {
            BOMB_APPLIED.fetch_add(1, Ordering::SeqCst);
            assert_eq!(BOMBS_EXPLODE.load(Ordering::SeqCst), 0, "the bomb went off");
        }
    }

    fn snapshot(&self) -> Option<i64> {
        Some(self.total)
    }

    fn restore(&mut self, total: i64) {
        self.total = total;
    }
}

impl CommandHandler<Add> for Total {
    fn handle(&self, Add { by }: Add, _cx: &CommandContext<'_, Self>) -> Effect<Self, i64> {
        Effect::persist(Added { by }).reply(self.total + by)
    }
}

impl CommandHandler<Read> for Total {
    fn handle(&self, _: Read, _cx: &CommandContext<'_, Self>) -> Effect<Self, i64> {
        Effect::none().reply(self.total)
    }
}

impl CommandHandler<Version> for Total {
    fn handle(&self, _: Version, cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::none().reply(cx.version())
    }
}

impl CommandHandler<Explode> for Total {
    fn handle(&self, _: Explode, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        panic!("the handler exploded")
    }
}

impl CommandHandler<AddAndTell> for Total {
    fn handle(&self, AddAndTell { by }: AddAndTell, cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        let other = cx.actor::<Durable<Self>>(format!("{}-mirror", cx.key()));
        Effect::persist_all([Added { by }, Added { by: 1 }]).tell(other, Add { by })
    }
}

type Actor = Durable<Total>;

/// Looks at its shard's log.
struct Looker;

impl shardstage::Actor for Looker {}

/// How many names the log keeps in memory.
#[message(reply = u64)]
struct NamesInUse;

impl Handler<NamesInUse> for Looker {
    fn handle(&mut self, _: NamesInUse, cx: &mut Context<Self>) -> u64 {
        cx.service::<LogShard, _>(|log| log.entity_counts().1 as u64).unwrap()
    }
}

fn engine(dir: &Path) -> Engine {
    let mut config = Config::default();
    config.shards = Some(2);
    config.pin = false;
    let log = EventLog::open(dir).segment_bytes(512 * 1024);
    Engine::builder().config(config).service(log).register::<Actor>(|total| total).start().unwrap()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn state_survives_restarts_with_and_without_snapshots() {
    let dir = directory();
    let mut expected = [0i64; 8];
    for round in 1..=4 {
        let engine = engine(dir.path());
        for (key, expected) in expected.iter_mut().enumerate() {
            let actor = engine.actor::<Actor>(format!("key-{key}"));
            assert_eq!(actor.ask(Read {}).wait().unwrap(), *expected, "round {round}, key {key}");
            for by in 0..key as i64 * 9 {
                *expected += by;
                assert_eq!(actor.ask(Add { by }).wait().unwrap(), *expected);
            }
        }
        engine.shutdown().unwrap();
    }
    let engine = engine(dir.path());
    let versions: Vec<u64> =
        (0..8).map(|key| engine.actor::<Actor>(format!("key-{key}")).ask(Version {}).wait().unwrap()).collect();
    assert_eq!(versions, [0, 36, 72, 108, 144, 180, 216, 252]);
}

#[test]
fn many_askers_share_frames_and_see_their_own_writes() {
    let dir = directory();
    let engine = engine(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                let actor = engine.actor::<Actor>(format!("thread-{thread}"));
                for nth in 1..=100 {
                    assert_eq!(actor.ask(Add { by: 1 }).wait().unwrap(), nth);
                    assert_eq!(actor.ask(Read {}).wait().unwrap(), nth);
                }
            });
        }
    });
    engine.shutdown().unwrap();
}

#[test]
fn a_spawned_durable_actor_finds_its_history_on_its_shard() {
    let dir = directory();
    for round in 1..=3 {
        let engine = engine(dir.path());
        let actor = engine.spawn_on(1, || Actor::new("plain")).unwrap();
        assert_eq!(actor.ask(Add { by: 5 }).wait().unwrap(), round * 5);
        engine.shutdown().unwrap();
    }
}

#[test]
fn messages_leave_after_the_events_are_durable() {
    let dir = directory();
    let running = engine(dir.path());
    let actor = running.actor::<Actor>("source");
    for _ in 0..20 {
        actor.ask(AddAndTell { by: 2 }).wait().unwrap();
    }
    assert_eq!(actor.ask(Read {}).wait().unwrap(), 60);
    running.shutdown().unwrap();
    let running = engine(dir.path());
    let mirrored = running.actor::<Actor>("source-mirror").ask(Read {}).wait().unwrap();
    assert_eq!(mirrored, 40, "a shutdown drains what effects have sent");
    running.shutdown().unwrap();
}

#[test]
fn a_panic_in_a_command_persists_nothing_and_keeps_the_state() {
    let dir = directory();
    let engine = engine(dir.path());
    let actor = engine.actor::<Actor>("exploding");
    assert_eq!(actor.ask(Add { by: 7 }).wait().unwrap(), 7);
    let failed = actor.ask(Explode {}).wait().unwrap_err();
    assert!(matches!(failed, AskError::Failed(_)), "{failed:?}");
    assert_eq!(actor.ask(Add { by: 1 }).wait().unwrap(), 8);
}

#[test]
fn a_panic_in_apply_stops_the_actor_and_persists_nothing() {
    let _alone = BOMB_TESTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = directory();
    let engine = engine(dir.path());
    let actor = engine.actor::<Actor>("bomb");
    assert_eq!(actor.ask(Add { by: 7 }).wait().unwrap(), 7);
    BOMBS_EXPLODE.store(1, Ordering::SeqCst);
    let failed = actor.ask(Add { by: BOMB }).wait().unwrap_err();
    BOMBS_EXPLODE.store(0, Ordering::SeqCst);
    let AskError::Failed(text) = failed else { panic!("{failed:?}") };
    assert!(text.0.contains("test.total \"bomb\", event 2 (not persisted): apply panicked"), "{}", text.0);
    assert_eq!(actor.ask(Read {}).wait().unwrap(), 7, "activated again, from the log");
}

#[test]
fn a_panic_in_apply_during_recovery_stops_the_actor_without_a_loop() {
    let _alone = BOMB_TESTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = directory();
    let running = engine(dir.path());
    for by in [1, BOMB, 2] {
        running.actor::<Actor>("sleeper").ask(Add { by }).wait().unwrap();
    }
    running.shutdown().unwrap();
    BOMBS_EXPLODE.store(1, Ordering::SeqCst);
    BOMB_APPLIED.store(0, Ordering::SeqCst);
    let running = engine(dir.path());
    let spawned = running.spawn_on(0, || Actor::new("other")).unwrap();
    for _ in 0..3 {
        let failed = running.actor::<Actor>("sleeper").ask(Add { by: 3 }).wait().unwrap_err();
        assert!(matches!(failed, AskError::Rejected(Rejected::Closed)), "{failed:?}");
    }
    assert_eq!(BOMB_APPLIED.load(Ordering::SeqCst), 1, "the event is tried once");
    assert_eq!(spawned.ask(Add { by: 1 }).wait().unwrap(), 1, "others go on");
    let in_use = (0..2).map(|shard| running.spawn_on(shard, || Looker).unwrap().ask(NamesInUse).wait().unwrap());
    assert_eq!(in_use.sum::<u64>(), 1, "only the other one's name is in memory");
    running.shutdown().unwrap();
    BOMBS_EXPLODE.store(0, Ordering::SeqCst);
    let running = engine(dir.path());
    assert_eq!(running.actor::<Actor>("sleeper").ask(Read {}).wait().unwrap(), BOMB + 3, "nothing was lost");
}

#[test]
fn without_a_log_the_actor_does_not_start() {
    let mut config = Config::default();
    config.shards = Some(1);
    config.pin = false;
    let engine = Engine::start(config).unwrap();
    let actor = engine.spawn(|| Actor::new("homeless")).unwrap();
    let refused = actor.ask(Read {}).wait().unwrap_err();
    assert_eq!(refused, AskError::Rejected(Rejected::Closed));
}
