//! Messages of the outbox: to durable and to volatile actors, refused, waiting, and found again after a restart.
#![allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
#![forbid(unsafe_code)]

mod either;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use either::{Bench, SECOND, on_both};
use shardstage::EngineBuilder;
use shardstage::prelude::*;
use shardstage_persistence::limits::OUTBOX_MESSAGES;
use shardstage_persistence::{
    CommandContext, CommandHandler, Durable, Effect, EventLog, EventSourced, Idempotent, NotRun, OutboxRoutes,
};

/// Sends `count` notes to `to`.
#[message(id = "outbox.send")]
#[derive(Clone)]
struct Send {
    to: Vec<String>,
    count: u64,
}

/// The same to a volatile actor.
#[message(id = "outbox.post")]
struct Post {
    to: String,
    count: u64,
}

#[message(id = "outbox.note")]
struct Note {
    from: String,
    number: u64,
}

/// A note without a route.
#[message(id = "outbox.lost", reply = ())]
struct Lost {}

/// Notes that came, in order.
#[message(id = "outbox.notes", reply = Vec<(String, u64)>)]
struct Notes {}

#[wire(id = "outbox.event")]
enum Event {
    Sent { count: u64 },
    Came { from: String, number: u64 },
}

#[derive(Default)]
struct Desk {
    sent: u64,
    came: Vec<(String, u64)>,
}

impl EventSourced for Desk {
    const TYPE: &'static str = "outbox.desk";
    type Event = Event;
    type Snapshot = ();

    fn new(_key: &str) -> Self {
        Self::default()
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Sent { count } => self.sent += count,
            Event::Came { from, number } => self.came.push((from.clone(), *number)),
        }
    }
}

impl CommandHandler<Send> for Desk {
    fn handle(&self, Send { to, count }: Send, cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        let mut effect = Effect::persist(Event::Sent { count });
        for number in self.sent + 1..=self.sent + count {
            for to in &to {
                let note = Note { from: cx.key().to_owned(), number };
                effect = effect.send(&cx.actor::<Durable<Self>>(to.clone()), &note);
            }
        }
        effect
    }
}

impl CommandHandler<Post> for Desk {
    fn handle(&self, Post { to, count }: Post, cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        let mut effect = Effect::persist(Event::Sent { count });
        for number in self.sent + 1..=self.sent + count {
            effect = effect.send(&cx.actor::<Board>(to.clone()), &Note { from: cx.key().to_owned(), number });
        }
        effect
    }
}

impl CommandHandler<Note> for Desk {
    fn handle(&self, Note { from, number }: Note, _cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        Effect::persist(Event::Came { from, number })
    }
}

impl CommandHandler<Lost> for Desk {
    fn handle(&self, _: Lost, cx: &CommandContext<'_, Self>) -> Effect<Self, ()> {
        Effect::persist(Event::Sent { count: 1 }).send(&cx.actor::<Durable<Self>>("b"), &Lost {})
    }
}

impl CommandHandler<Notes> for Desk {
    fn handle(&self, _: Notes, _cx: &CommandContext<'_, Self>) -> Effect<Self, Vec<(String, u64)>> {
        Effect::none().reply(self.came.clone())
    }
}

/// A volatile actor: it sees who sent what under which number.
#[derive(Default)]
struct Board;

/// What the boards saw: (client, number within the line, note). Tests that look at it run one after the other.
static SEEN: Mutex<Vec<(String, u64, u64)>> = Mutex::new(Vec::new());
static BOARD_TESTS: Mutex<()> = Mutex::new(());

fn seen() -> std::sync::MutexGuard<'static, Vec<(String, u64, u64)>> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Actor for Board {}

impl VirtualActor for Board {
    const TYPE: &'static str = "outbox.board";

    fn activate(_key: &str) -> Self {
        Self
    }
}

impl Handler<Idempotent<Note>> for Board {
    fn handle(&mut self, note: Idempotent<Note>, _cx: &mut Context<Self>) -> Result<(), NotRun> {
        seen().push((note.client, note.seq, note.command.number));
        Ok(())
    }
}

type Actor_ = Durable<Desk>;

fn register(builder: EngineBuilder) -> EngineBuilder {
    builder
        .register::<Actor_>(|desk| desk.idle_timeout(Duration::from_millis(400)).mailbox_capacity(64))
        .register::<Board>(|board| board)
}

fn without_boards(builder: EngineBuilder) -> EngineBuilder {
    builder.register::<Actor_>(|desk| desk)
}

fn start(bench: &Bench) {
    let routes = OutboxRoutes::<Desk>::new().to::<Actor_, Note, _>().to::<Board, Note, _>();
    routes.start(&bench.engine).unwrap();
    bench.counter("outbox_sent");
}

fn notes(bench: &Bench, key: &str) -> Vec<(String, u64)> {
    bench.ask::<Actor_, _, _>(key, Notes {}).unwrap()
}

fn from(key: &str, numbers: std::ops::RangeInclusive<u64>) -> Vec<(String, u64)> {
    numbers.map(|number| (key.to_owned(), number)).collect()
}

#[test]
fn many_messages_to_many_receivers_arrive_in_order() {
    on_both(1, register, |bench| {
        start(&bench);
        let to: Vec<String> = ["b", "c", "d", "a"].map(str::to_owned).to_vec();
        for _ in 0..10 {
            bench.ask::<Actor_, _, _>("a", Send { to: to.clone(), count: 20 }).unwrap();
        }
        bench.world.run_for(3 * SECOND);
        for key in &to {
            assert_eq!(notes(&bench, key), from("a", 1..=200), "{key}");
        }
        assert_eq!(bench.counter("outbox_arrived"), 800);
        assert_eq!(bench.counter("outbox_lost"), 0);
    });
}

#[test]
fn who_owes_messages_is_woken_after_a_restart() {
    let _alone = BOARD_TESTS.lock().unwrap_or_else(PoisonError::into_inner);
    on_both(2, without_boards, |mut bench| {
        seen().clear();
        start(&bench);
        for sender in 0..40 {
            let post = Post { to: "board".into(), count: 1 };
            bench.ask::<Actor_, _, _>(&format!("sender-{sender}"), post).unwrap();
        }
        bench.upgrade(register);
        start(&bench);
        bench.world.run_for(10 * SECOND);
        let mut came: Vec<String> = seen().iter().map(|(client, ..)| client.clone()).collect();
        came.sort();
        let mut expected: Vec<String> = (0..40).map(|sender| format!("outbox.desk\0sender-{sender}")).collect();
        expected.sort();
        assert_eq!(came, expected, "nobody said a word to the senders");
        seen().clear();
        bench.crash();
        start(&bench);
        bench.world.run_for(10 * SECOND);
        assert_eq!(*seen(), Vec::new(), "what arrived is recorded");
        assert_eq!(bench.counter("outbox_sent"), 0);
    });
}

#[test]
fn a_volatile_receiver_sees_numbers_and_order() {
    let _alone = BOARD_TESTS.lock().unwrap_or_else(PoisonError::into_inner);
    on_both(3, register, |bench| {
        seen().clear();
        start(&bench);
        for _ in 0..5 {
            bench.ask::<Actor_, _, _>("a", Post { to: "board".into(), count: 10 }).unwrap();
        }
        bench.world.run_for(3 * SECOND);
        let expected: Vec<(String, u64, u64)> =
            (1..=50).map(|number| ("outbox.desk\0a".to_owned(), number, number)).collect();
        assert_eq!(*seen(), expected);
    });
}

#[test]
fn messages_wait_for_a_receiver_that_is_not_there_and_then_push_back() {
    let _alone = BOARD_TESTS.lock().unwrap_or_else(PoisonError::into_inner);
    on_both(4, without_boards, |mut bench| {
        seen().clear();
        start(&bench);
        let per_command = 64;
        let mut sent = 0;
        let refused = loop {
            match bench.ask::<Actor_, _, _>("a", Post { to: "board".into(), count: per_command }) {
                Ok(()) => sent += per_command,
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, AskError::Rejected(Rejected::Full));
        assert_eq!(sent, OUTBOX_MESSAGES as u64);
        assert!(bench.counter("outbox_failed") > 0);
        bench.world.run_for(60 * SECOND);
        let attempts = bench.counter("outbox_sent");
        assert!(attempts < 60, "{attempts} attempts in a minute: they are paced");
        bench.upgrade(register);
        start(&bench);
        bench.world.run_for(20 * SECOND);
        let numbers: Vec<u64> = seen().iter().map(|(_, _, number)| *number).collect();
        assert_eq!(numbers, (1..=sent).collect::<Vec<u64>>());
        assert_eq!(bench.ask::<Actor_, _, _>("a", Post { to: "board".into(), count: 1 }), Ok(()));
    });
}

#[test]
fn an_outbox_that_cannot_send_refuses_the_command() {
    on_both(5, register, |bench| {
        let send = Send { to: vec!["b".into()], count: 1 };
        let refused = bench.ask::<Actor_, _, _>("a", send.clone());
        assert_eq!(refused, Err(AskError::Rejected(Rejected::Unavailable)), "not started");
        start(&bench);
        let Err(AskError::Failed(why)) = bench.ask::<Actor_, _, _>("a", Lost {}) else { panic!("no route") };
        assert!(why.0.contains("no route"), "{}", why.0);
        let spawned = bench.engine.spawn_on(0, || Actor_::new("plain")).unwrap();
        let answer = bench.world.block_on(spawned.ask(send.clone()), 10 * SECOND).unwrap();
        let Err(AskError::Failed(why)) = answer else { panic!("{answer:?}") };
        assert!(why.0.contains("only a virtual actor has an outbox"), "{}", why.0);
        assert_eq!(bench.ask::<Actor_, _, _>("a", send), Ok(()));
        bench.world.run_for(SECOND);
        assert_eq!(notes(&bench, "b"), from("a", 1..=1), "nothing of what was refused");
    });
}

#[test]
fn a_shutdown_and_a_start_lose_nothing_on_real_files() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for round in 1..=4 {
        let mut config = Config::default();
        config.shards = Some(2);
        config.pin = false;
        let log = EventLog::open(dir.path()).segment_bytes(512 * 1024);
        let engine = register(Engine::builder().config(config).service(log)).start().unwrap();
        OutboxRoutes::<Desk>::new().to::<Actor_, Note, _>().start(&engine).unwrap();
        let sender = engine.actor::<Actor_>("a");
        // Refused until the outbox is up on the actor's shard.
        while sender.ask(Send { to: vec!["b".into(), "c".into()], count: 10 }).wait().is_err() {}
        while round == 4 && engine.actor::<Actor_>("b").ask(Notes {}).wait().unwrap().len() < 40 {}
        while round == 4 && engine.actor::<Actor_>("c").ask(Notes {}).wait().unwrap().len() < 40 {}
        if round == 4 {
            assert_eq!(engine.actor::<Actor_>("b").ask(Notes {}).wait().unwrap(), from("a", 1..=40));
            assert_eq!(engine.actor::<Actor_>("c").ask(Notes {}).wait().unwrap(), from("a", 1..=40));
        }
        engine.shutdown().unwrap();
    }
}
