//! Hazard: passivation. Virtual actors leave when they are idle, too many or told to; who has something to do stays, and no
//! message is lost, repeated or overtaken through any number of lives.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{Activity, BoxError, EngineBuilder, Happening, StartError, VirtualSettings};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(3600);

/// One message that met its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handled {
    life: u32,
    from: u32,
    number: u32,
}

#[derive(Default)]
struct Book {
    lives: HashMap<String, u32>,
    handled: HashMap<String, Vec<Handled>>,
    stays: bool,
    /// Whom a page tells something when it leaves.
    heirs: HashMap<String, &'static str>,
    /// How it ends the heir before, once; what came of it, and whether the heir took what it was told.
    end: Option<fn(ActorRef<Page>) -> Happening<StopReason>>,
    ended: Option<(Happening<StopReason>, bool)>,
    refs: HashMap<String, ActorRef<Page>>,
}

thread_local! {
    /// What actors of this test's thread, on which the simulated engine runs, have done.
    static BOOK: RefCell<Book> = RefCell::default();
}

fn lives(key: &str) -> u32 {
    BOOK.with_borrow(|book| book.lives.get(key).copied().unwrap_or(0))
}

fn handled(key: &str) -> Vec<Handled> {
    BOOK.with_borrow(|book| book.handled.get(key).cloned().unwrap_or_default())
}

fn clear() {
    BOOK.with_borrow_mut(|book| *book = Book::default());
}

/// A page of the book.
struct Page {
    life: u32,
}

#[message(id = "passivation.note", reply = u32)]
struct Note {
    from: u32,
    number: u32,
}

/// Asks somebody who does not answer, and waits for it.
#[message(id = "passivation.wait", reply = u32)]
struct Wait;

/// Asks somebody who answers late, and goes on meanwhile.
#[message(id = "passivation.later")]
struct Later;

/// Sets a timer.
#[message(id = "passivation.timer")]
struct Timer {
    after_ms: u64,
}

/// Leaves when it has nothing else to do.
#[message(id = "passivation.leave")]
struct Leave;

#[message(reply = u32)]
#[derive(Debug)]
struct Question;

impl Actor for Page {
    fn may_passivate(&self) -> bool {
        BOOK.with_borrow(|book| !book.stays)
    }

    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        BOOK.with_borrow_mut(|book| book.refs.insert(cx.key().unwrap().to_string(), cx.me()));
        Ok(())
    }

    fn stopped(&mut self, _reason: &StopReason, cx: &mut Context<Self>) {
        let heir = BOOK.with_borrow_mut(|book| book.heirs.remove(&*cx.key().unwrap()));
        let end = BOOK.with_borrow_mut(|book| book.end.take().zip(heir.map(|heir| book.refs[heir])));
        if let (Some((end, its_ref)), Some(heir)) = (end, heir) {
            let ended = end(its_ref);
            let told = cx.actor::<Self>(heir).tell(Note { from: 97, number: 0 });
            BOOK.with_borrow_mut(|book| book.ended = Some((ended, told.is_ok())));
        } else if let Some(heir) = heir {
            cx.actor::<Self>(heir).tell(Note { from: 97, number: 0 }).unwrap();
        }
    }
}

impl VirtualActor for Page {
    const TYPE: &'static str = "passivation.page";

    fn activate(key: &str) -> Self {
        let life = BOOK.with_borrow_mut(|book| {
            let lives = book.lives.entry(key.to_owned()).or_default();
            *lives += 1;
            *lives
        });
        Self { life }
    }

    fn settings() -> VirtualSettings {
        VirtualSettings::default().idle_timeout(10 * SECOND)
    }
}

impl Handler<Note> for Page {
    fn handle(&mut self, note: Note, cx: &mut Context<Self>) -> u32 {
        let handled = Handled { life: self.life, from: note.from, number: note.number };
        BOOK.with_borrow_mut(|book| book.handled.entry(cx.key().unwrap().to_string()).or_default().push(handled));
        self.life
    }
}

impl AsyncHandler<Wait> for Page {
    async fn handle(&mut self, _: Wait, cx: &mut Context<Self>) -> u32 {
        let clerk = cx.lookup::<Clerk>("clerk").unwrap();
        clerk.ask(Question).deadline(LONG).await.unwrap_or(0)
    }
}

impl Handler<Later> for Page {
    fn handle(&mut self, _: Later, cx: &mut Context<Self>) {
        let clerk = cx.lookup::<Clerk>("clerk").unwrap();
        cx.ask(clerk, Question).deadline(LONG).then(|this, answer, cx| {
            assert_eq!(answer, Ok(7));
            Handler::handle(this, Note { from: 99, number: 0 }, cx);
        });
    }
}

impl Handler<Timer> for Page {
    fn handle(&mut self, timer: Timer, cx: &mut Context<Self>) {
        cx.after(Duration::from_millis(timer.after_ms), Note { from: 98, number: 0 });
    }
}

impl Handler<Leave> for Page {
    fn handle(&mut self, _: Leave, cx: &mut Context<Self>) {
        cx.passivate();
    }
}

/// Answers when it is told to.
#[derive(Default)]
struct Clerk {
    waiting: Vec<Reply<u32>>,
}
impl Actor for Clerk {}

#[message]
struct Answer;

impl DeferredHandler<Question> for Clerk {
    fn handle(&mut self, _: Question, reply: Reply<u32>, _cx: &mut Context<Self>) {
        self.waiting.push(reply);
    }
}

impl Handler<Answer> for Clerk {
    fn handle(&mut self, _: Answer, _cx: &mut Context<Self>) {
        self.waiting.drain(..).for_each(|reply| reply.send(7));
    }
}

fn hosted(builder: EngineBuilder, ceiling: u32, settings: VirtualSettings) -> EngineBuilder {
    let mut config = Config::default();
    config.shards = Some(1);
    config.virtual_actors_per_shard = ceiling;
    builder.config(config).register::<Page>(move |page| {
        page.accept::<Note, _>().accept::<Wait, _>().accept::<Later, _>().settings(settings)
    })
}

fn kit(ceiling: u32, settings: VirtualSettings) -> TestKit {
    clear();
    TestKit::builder().engine(move |builder| hosted(builder, ceiling, settings.clone())).start()
}

fn page(kit: &TestKit, key: &str) -> VirtualRef<Page> {
    kit.actor::<Page>(key)
}

fn note(kit: &TestKit, key: &str) -> u32 {
    page(kit, key).ask(Note { from: 0, number: 0 }).wait().unwrap()
}

fn is_active(kit: &TestKit, key: &str) -> bool {
    matches!(page(kit, key).activity().wait(), Activity::Active { .. })
}

#[test]
fn the_type_says_its_settings_and_the_registration_may_say_otherwise() {
    clear();
    let of_type = TestKit::builder().engine(|builder| builder.register::<Page>(|page| page)).start();
    note(&of_type, "a");
    of_type.advance(9 * SECOND);
    assert!(is_active(&of_type, "a"));
    of_type.advance(4 * SECOND);
    assert!(!is_active(&of_type, "a"), "ten seconds and a quarter of them");
    let never = kit(10, VirtualSettings::default().never_idle());
    note(&never, "a");
    never.advance(1000 * LONG);
    assert!(is_active(&never, "a"));
    let refused = Engine::builder().register::<Page>(|page| page.mailbox_capacity(0)).start();
    match refused {
        Err(StartError::Config(why)) => assert!(why.contains("passivation.page") && why.contains("mailbox"), "{why}"),
        other => panic!("{other:?}"),
    }
    let mut config = Config::default();
    config.virtual_actors_per_shard = 0;
    assert!(matches!(Engine::start(config), Err(StartError::Config(_))));
}

#[test]
fn who_looks_does_not_activate() {
    let kit = kit(10, VirtualSettings::default().idle_timeout(10 * SECOND));
    assert_eq!(page(&kit, "a").activity().wait(), Activity::Asleep);
    assert_eq!(page(&kit, "a").touch().wait(), Activity::Asleep);
    assert_eq!(page(&kit, "a").passivate().unwrap().wait(), StopReason::Passivated);
    assert_eq!(lives("a"), 0);
    note(&kit, "a");
    kit.advance(8 * SECOND);
    let Activity::Active { idle, queued: 0, .. } = page(&kit, "a").touch().wait() else { panic!("it is active") };
    assert!(idle > 7 * SECOND && idle < 9 * SECOND, "{idle:?}");
    kit.advance(8 * SECOND);
    assert!(is_active(&kit, "a"), "touched meanwhile");
    kit.advance(8 * SECOND);
    assert!(!is_active(&kit, "a"));
    let elsewhere = TestKit::new();
    assert_eq!(elsewhere.actor::<Page>("a").activity().wait(), Activity::Elsewhere, "not hosted");
    assert!(elsewhere.actor::<Page>("a").passivate().is_none());
    let closed = page(&kit, "a");
    drop(kit);
    assert_eq!(closed.activity().wait(), Activity::Closed);
}

#[test]
fn under_pressure_the_least_recently_used_leave() {
    let kit = kit(10, VirtualSettings::default().never_idle());
    for key in 0..20 {
        note(&kit, &key.to_string());
        kit.advance(Duration::from_millis(3));
        // Old, and used again and again.
        note(&kit, "0");
        kit.advance(Duration::from_millis(3));
    }
    kit.advance(Duration::from_millis(50));
    let active: Vec<_> = (0..20).filter(|key| is_active(&kit, &key.to_string())).collect();
    assert_eq!(active, [0, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    let stats = kit.stats()[0];
    assert_eq!((stats.activated, stats.passivated), (20, 10));
    // Who wants to stay stays, however many there are.
    BOOK.with_borrow_mut(|book| book.stays = true);
    for key in 0..30 {
        note(&kit, &key.to_string());
    }
    kit.advance(SECOND);
    assert_eq!((0..30).filter(|key| is_active(&kit, &key.to_string())).count(), 30);
    BOOK.with_borrow_mut(|book| book.stays = false);
    kit.advance(SECOND);
    assert_eq!((0..30).filter(|key| is_active(&kit, &key.to_string())).count(), 10);
}

#[test]
fn a_message_that_comes_while_an_actor_leaves_keeps_it() {
    let kit = kit(10, VirtualSettings::default().idle_timeout(SECOND));
    BOOK.with_borrow_mut(|book| book.heirs.extend([("a".to_owned(), "b"), ("b".to_owned(), "a")]));
    note(&kit, "a");
    note(&kit, "b");
    // Both leave in one turn: the first to go tells the other, which is about to.
    kit.advance(Duration::from_millis(1300));
    let of_first_life = ["a", "b"].map(|key| handled(key).contains(&Handled { life: 1, from: 97, number: 0 }));
    assert!(of_first_life[0] != of_first_life[1], "{of_first_life:?}");
    kit.advance(10 * SECOND);
    // The other tells the first, whose next life it begins.
    let of_second_life = ["a", "b"].map(|key| handled(key).contains(&Handled { life: 2, from: 97, number: 0 }));
    assert_eq!(of_second_life, of_first_life.map(|first| !first));
}

#[test]
fn a_stop_of_one_that_leaves_is_a_stop_though_a_message_comes_after_it() {
    // A drain that a last hook asks for comes after what the hook tells.
    type End = fn(ActorRef<Page>) -> Happening<StopReason>;
    let ends: [(End, StopReason, bool); 3] = [
        (ActorRef::stop, StopReason::Stopped, false),
        (ActorRef::kill, StopReason::Killed, false),
        (ActorRef::drain, StopReason::Drained, true),
    ];
    for (end, reason, takes) in ends {
        let kit = kit(10, VirtualSettings::default().idle_timeout(SECOND));
        BOOK.with_borrow_mut(|book| book.heirs.extend([("a".to_owned(), "b"), ("b".to_owned(), "a")]));
        BOOK.with_borrow_mut(|book| book.end = Some(end));
        note(&kit, "a");
        note(&kit, "b");
        // Both leave in one turn: the first to go ends the other, which is about to, and tells its name.
        kit.advance(Duration::from_millis(1300));
        let ended = BOOK.with_borrow_mut(|book| book.ended.take());
        let (ended, told) = ended.expect("the first to go has ended the other");
        assert_eq!(told, takes, "{reason:?}");
        let began = kit.now();
        assert_eq!(ended.wait(), reason);
        assert_eq!(kit.now(), began, "it has ended by now");
    }
}

#[test]
fn a_next_life_that_carried_messages_begin_answers_to_its_name() {
    // The first of them came by name, by a reference, from its own timer.
    for first in 0..3 {
        let kit = kit(10, VirtualSettings::default().never_idle().drain_timeout(5 * SECOND));
        kit.spawn_named("clerk", Clerk::default).unwrap();
        note(&kit, "a");
        let stuck = page(&kit, "a");
        stuck.tell(Timer { after_ms: 1 }).unwrap();
        stuck.tell(Wait).unwrap();
        kit.run_until_idle();
        let by_ref = BOOK.with_borrow(|book| book.refs["a"]);
        match first {
            0 => stuck.tell(Note { from: 1, number: 0 }).unwrap(),
            1 => by_ref.tell(Note { from: 1, number: 0 }).unwrap(),
            _ => kit.advance(Duration::from_millis(2)),
        }
        stuck.tell(Note { from: 2, number: 0 }).unwrap();
        stuck.passivate().unwrap().wait();
        kit.run_until_idle();
        assert_eq!(lives("a"), 2);
        assert_eq!(page(&kit, "a").ask(Note { from: 0, number: 1 }).wait(), Ok(2), "the {first} way");
        assert_eq!(page(&kit, "a").passivate().unwrap().wait(), StopReason::Passivated, "it can leave again");
        assert_eq!(note(&kit, "a"), 3);
    }
}

#[test]
fn who_waits_for_an_answer_or_a_timer_is_not_idle() {
    let kit = kit(1, VirtualSettings::default().idle_timeout(SECOND).stays_for_timers());
    let clerk = kit.spawn_named("clerk", Clerk::default).unwrap();
    page(&kit, "then").tell(Later).unwrap();
    page(&kit, "await").tell(Wait).unwrap();
    page(&kit, "timer").tell(Timer { after_ms: 60_000 }).unwrap();
    page(&kit, "idle").tell(Note { from: 0, number: 0 }).unwrap();
    kit.advance(50 * SECOND);
    let active: Vec<_> = ["then", "await", "timer", "idle"].into_iter().filter(|key| is_active(&kit, key)).collect();
    assert_eq!(active, ["then", "await", "timer"]);
    kit.advance(12 * SECOND);
    assert_eq!(handled("timer").len(), 1);
    clerk.tell(Answer).unwrap();
    kit.advance(3 * SECOND);
    assert_eq!(handled("then"), [Handled { life: 1, from: 99, number: 0 }]);
    assert!(["then", "await", "timer"].into_iter().all(|key| !is_active(&kit, key)));

    // Unless the type says so, its timers end with an activation.
    let kit = self::kit(1, VirtualSettings::default().idle_timeout(SECOND));
    page(&kit, "timer").tell(Timer { after_ms: 60_000 }).unwrap();
    kit.advance(100 * SECOND);
    assert_eq!(handled("timer"), []);
}

#[test]
fn told_to_leave_it_leaves_when_it_has_nothing_to_do_or_its_time_is_up() {
    let kit = kit(10, VirtualSettings::default().never_idle().drain_timeout(5 * SECOND));
    let clerk = kit.spawn_named("clerk", Clerk::default).unwrap();
    note(&kit, "a");
    assert_eq!(page(&kit, "a").passivate().unwrap().wait(), StopReason::Passivated);
    assert!(kit.now() < SECOND && !is_active(&kit, "a"));
    assert_eq!(note(&kit, "a"), 2);
    page(&kit, "a").tell(Leave).unwrap();
    kit.advance(Duration::from_millis(10));
    assert!(!is_active(&kit, "a"), "it told itself");

    // While it waits for an answer it stays, and what comes is handled in this life.
    let waiting = page(&kit, "b");
    waiting.tell(Wait).unwrap();
    kit.run_until_idle();
    let left = waiting.passivate().unwrap();
    waiting.tell(Note { from: 1, number: 0 }).unwrap();
    kit.advance(3 * SECOND);
    assert_eq!(handled("b"), []);
    clerk.tell(Answer).unwrap();
    left.wait();
    assert_eq!(handled("b"), [Handled { life: 1, from: 1, number: 0 }]);

    // Its time is up: the handler that waits is dropped, its asker is told, and what is queued is the next life's, in order.
    let stuck = page(&kit, "c");
    let mut answer = std::pin::pin!(stuck.ask(Wait).deadline(LONG));
    let first = kit.block_on(std::future::poll_fn(|cx| std::task::Poll::Ready(answer.as_mut().poll(cx))));
    assert!(first.is_pending());
    kit.run_until_idle();
    for number in 0..4 {
        stuck.tell(Note { from: 1, number }).unwrap();
    }
    let began = kit.now();
    stuck.passivate().unwrap().wait();
    let took = kit.now() - began;
    assert!(took >= 5 * SECOND && took < 6 * SECOND, "{took:?}");
    kit.run_until_idle();
    let of_next_life: Vec<_> = (0..4).map(|number| Handled { life: 2, from: 1, number }).collect();
    assert_eq!(handled("c"), of_next_life);
    assert!(matches!(kit.block_on(answer), Err(AskError::Failed(_))));
}

/// Tells a page as many notes.
#[message]
struct Feed {
    key: &'static str,
    notes: u32,
}

struct Feeder {
    from: u32,
    next: HashMap<&'static str, u32>,
}
impl Actor for Feeder {}

impl Handler<Feed> for Feeder {
    fn handle(&mut self, feed: Feed, cx: &mut Context<Self>) {
        let next = self.next.entry(feed.key).or_default();
        for _ in 0..feed.notes {
            cx.actor::<Page>(feed.key).tell(Note { from: self.from, number: *next }).unwrap();
            *next += 1;
        }
    }
}

const KEYS: [&str; 6] = ["red", "green", "blue", "cyan", "pink", "grey"];

#[test]
fn through_many_lives_every_message_is_handled_once_and_in_order() {
    let builder = TestKit::builder().engine(|builder| {
        let mut config = Config::default();
        config.shards = Some(2);
        config.virtual_actors_per_shard = 2;
        builder.config(config).register::<Page>(|page| {
            page.accept::<Note, _>().idle_timeout(Duration::from_millis(4)).drain_timeout(Duration::from_millis(2))
        })
    });
    let lives_seen = RefCell::new(0);
    builder.check_seeds(0..200, |kit| {
        clear();
        let mut random = kit.seed();
        let mut draw = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let feeders = [0, 1].map(|shard: u16| {
            kit.spawn_on(shard, move || Feeder { from: u32::from(shard), next: HashMap::new() }).unwrap()
        });
        // The model: a queue for each key and sender.
        let mut sent: HashMap<(&str, u32), u32> = HashMap::new();
        for _ in 0..120 {
            let key = KEYS[draw(6) as usize];
            match draw(8) {
                0..=2 => {
                    let (from, notes) = (draw(2) as u32, draw(6) as u32);
                    feeders[from as usize].tell(Feed { key, notes }).unwrap();
                    *sent.entry((key, from)).or_default() += notes;
                }
                3..=4 => {
                    let next = sent.entry((key, 2)).or_default();
                    page(kit, key).tell(Note { from: 2, number: *next }).unwrap();
                    *next += 1;
                }
                5 => drop(page(kit, key).passivate()),
                6 => drop(page(kit, key).touch()),
                _ => kit.advance(Duration::from_micros(draw(6000))),
            }
        }
        kit.advance(SECOND);
        for key in KEYS {
            let mut next: HashMap<u32, u32> = HashMap::new();
            let mut life = 0;
            for one in handled(key) {
                assert!(one.life >= life, "{key}: one life after the other");
                life = one.life;
                let expected = next.entry(one.from).or_default();
                assert_eq!(one.number, *expected, "{key} from {}", one.from);
                *expected += 1;
            }
            for from in 0..3 {
                let sent = sent.get(&(key, from)).copied().unwrap_or(0);
                assert_eq!(next.get(&from).copied().unwrap_or(0), sent, "{key} from {from}");
            }
            assert!(!is_active(kit, key));
            *lives_seen.borrow_mut() += lives(key);
        }
    });
    assert!(*lives_seen.borrow() > 3000, "only {} lives: do they still leave?", lives_seen.borrow());
}
