//! Hazard: what comes for a virtual actor in the moment in which it leaves, or in which the epoch of its name rises: timers,
//! messages that were under way, and the tokens they took.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{BoxError, Epoch, Reason, StopReason, VirtualSettings};

#[derive(Default)]
struct Book {
    asked: usize,
    lives: BTreeMap<String, u32>,
    /// (key, life) of those whose timer's message came, and of those that somebody spoke to.
    rung: BTreeSet<(String, u32)>,
    spoken: BTreeSet<(String, u32)>,
    refs: BTreeMap<String, ActorRef<Sleeper>>,
    /// Whether whoever leaves tells its neighbour.
    tells: bool,
}

thread_local! {
    /// What the actors of this test's thread, on which the simulated engine runs, have done.
    static BOOK: RefCell<Book> = RefCell::default();
}

/// Numbered by its key.
struct Sleeper {
    key: String,
    life: u32,
}

impl Actor for Sleeper {
    fn may_passivate(&self) -> bool {
        BOOK.with_borrow_mut(|book| book.asked += 1);
        true
    }

    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        BOOK.with_borrow_mut(|book| book.refs.insert(self.key.clone(), cx.me()));
        Ok(())
    }

    fn stopped(&mut self, _reason: &StopReason, cx: &mut Context<Self>) {
        if BOOK.with_borrow(|book| book.tells) {
            let neighbour: u32 = self.key.parse::<u32>().unwrap() + 1;
            cx.actor::<Self>(neighbour.to_string()).tell(Hello).unwrap();
        }
    }
}

impl VirtualActor for Sleeper {
    const TYPE: &'static str = "edges.sleeper";

    fn activate(key: &str) -> Self {
        let life = BOOK.with_borrow_mut(|book| {
            let lives = book.lives.entry(key.to_owned()).or_default();
            *lives += 1;
            *lives
        });
        Self { key: key.to_owned(), life }
    }
}

#[message(id = "edges.hello", reply = u32)]
struct Hello;
/// Rings in so many microseconds.
#[message(id = "edges.set")]
struct Set {
    after_us: u64,
}
#[message(id = "edges.ring")]
struct Ring;
/// Leaves once this is handled, whatever is queued.
#[message(id = "edges.leave")]
struct Leave;

impl Handler<Hello> for Sleeper {
    fn handle(&mut self, _: Hello, _cx: &mut Context<Self>) -> u32 {
        BOOK.with_borrow_mut(|book| book.spoken.insert((self.key.clone(), self.life)));
        self.life
    }
}

impl Handler<Set> for Sleeper {
    fn handle(&mut self, set: Set, cx: &mut Context<Self>) {
        cx.after(Duration::from_micros(set.after_us), Ring);
    }
}

impl Handler<Ring> for Sleeper {
    fn handle(&mut self, _: Ring, _cx: &mut Context<Self>) {
        BOOK.with_borrow_mut(|book| book.rung.insert((self.key.clone(), self.life)));
    }
}

impl Handler<Leave> for Sleeper {
    fn handle(&mut self, _: Leave, cx: &mut Context<Self>) {
        cx.passivate();
    }
}

fn kit(shards: u16, settings: VirtualSettings) -> TestKit {
    BOOK.take();
    TestKit::builder()
        .engine(move |builder| {
            let mut config = Config::default();
            config.shards = Some(shards);
            let settings = settings.clone();
            builder.config(config).register::<Sleeper>(move |it| {
                it.accept::<Hello, _>().accept::<Set, _>().accept::<Leave, _>().settings(settings)
            })
        })
        .start()
}

const SLEEPERS: u32 = 300;

/// Wakes all, has each ring after as long as `after_us` says, and waits until the first of them is asked to leave. Returns
/// when that was.
fn until_they_leave(kit: &TestKit, after_us: impl Fn(u32) -> u64) -> Duration {
    for number in 0..SLEEPERS {
        kit.actor::<Sleeper>(number.to_string()).tell(Set { after_us: after_us(number) }).unwrap();
    }
    kit.run_until_idle();
    kit.run_until(|| BOOK.with_borrow(|book| book.asked > 0));
    kit.now()
}

#[test]
fn a_timer_that_is_due_while_its_actor_leaves_is_not_lost() {
    let settings = VirtualSettings::default().idle_timeout(Duration::from_secs(1));
    let never_us = 3_600_000_000;
    let at = {
        let kit = kit(1, settings.clone());
        let at = until_they_leave(&kit, |_| never_us);
        kit.advance(Duration::from_secs(2));
        at
    };
    let mut kept = 0;
    for round in 0..4 {
        let kit = kit(1, settings.clone());
        BOOK.with_borrow_mut(|book| book.tells = true);
        // All leave at once, which takes some turns, and meanwhile one after the other rings.
        let at_us = u64::try_from(at.as_micros()).unwrap();
        until_they_leave(&kit, |number| at_us + 10 * round + u64::from(number) / 8);
        kit.advance(Duration::from_millis(100));
        let book = BOOK.take();
        for (key, life) in book.spoken.iter().filter(|(_, life)| *life == 1) {
            kept += 1;
            assert!(book.rung.contains(&(key.clone(), *life)), "round {round}: {key} goes on without its timer");
        }
        drop(kit);
    }
    assert!(kept > 100, "hardly anybody was kept: the test is blind");
}

#[test]
fn the_next_life_after_the_epoch_rose_is_of_the_new_one() {
    let kit = kit(1, VirtualSettings::default());
    kit.allow_dead_letters(|letter| matches!(letter.reason, Reason::Fenced | Reason::Unavailable));
    let sleeper = kit.actor::<Sleeper>("1");
    assert_eq!(kit.block_on(sleeper.ask(Hello)), Ok(1));
    let group = sleeper.slot().group();
    // It stands still; what it has taken by name and by reference is for its next life.
    let by_reference = BOOK.with_borrow(|book| book.refs["1"]);
    let stall = kit.stall(by_reference);
    sleeper.tell(Hello).unwrap();
    by_reference.tell(Set { after_us: 1 }).unwrap();
    kit.run_until_idle();
    kit.engine().raise_epoch(group, Epoch::new(2));
    let refused = kit.block_on(sleeper.ask(Hello));
    assert_eq!(refused, Err(AskError::Rejected(Rejected::Unavailable)), "the activation is of epoch 1");
    let left = sleeper.passivate().unwrap();
    kit.advance(Duration::from_secs(6));
    drop(stall);
    assert_eq!(left.wait(), StopReason::Passivated);
    kit.run_until_idle();
    assert_eq!(kit.dead_letters().count(Reason::Fenced), 2, "what was accepted under epoch 1 is not handled under 2");
    assert_eq!(BOOK.with_borrow(|book| book.lives["1"]), 1);
    assert_eq!(kit.block_on(sleeper.ask(Hello)), Ok(2), "the next life is of epoch 2");
    assert_eq!(kit.block_on(sleeper.ask(Hello)), Ok(2));
}

/// Tells a name, or a reference, so often; answers how often it was taken.
#[message(reply = u32)]
struct Tell {
    name: Option<String>,
    times: u32,
}

#[derive(Default)]
struct Teller;
impl Actor for Teller {}

impl Handler<Tell> for Teller {
    fn handle(&mut self, tell: Tell, cx: &mut Context<Self>) -> u32 {
        let by_reference = BOOK.with_borrow(|book| book.refs.values().next().copied().unwrap());
        let told = (0..tell.times).filter(|_| match &tell.name {
            Some(name) => cx.actor::<Sleeper>(name.as_str()).tell(Hello).is_ok(),
            None => by_reference.tell(Hello).is_ok(),
        });
        let told = u32::try_from(told.count()).unwrap();
        BOOK.with_borrow_mut(|book| book.asked += 1);
        told
    }
}

#[test]
fn a_message_that_is_fenced_gives_its_token_back() {
    let kit = kit(2, VirtualSettings::default().never_idle().mailbox_capacity(8));
    kit.allow_dead_letters(|letter| matches!(letter.reason, Reason::Fenced | Reason::Full));
    let sleeper = (0..)
        .map(|number: u32| kit.actor::<Sleeper>(number.to_string()))
        .find(|sleeper| sleeper.slot().get().is_multiple_of(2))
        .unwrap();
    assert_eq!(kit.block_on(sleeper.ask(Hello)), Ok(1));
    let (here, there) = (kit.spawn_on(0, Teller::default).unwrap(), kit.spawn_on(1, Teller::default).unwrap());
    let tell = |teller: ActorRef<Teller>, name: Option<&str>, times| {
        let name = name.map(str::to_owned);
        teller.ask(Tell { name, times })
    };
    let by_reference = BOOK.with_borrow(|book| *book.refs.values().next().unwrap());
    let name = sleeper.key().to_string();
    let stall = kit.stall(by_reference);
    // From now on whoever tells it from elsewhere needs a token.
    assert_eq!(kit.block_on(tell(there, Some(&name), 20)), Ok(20));
    kit.run_until_idle();
    drop(stall);
    kit.run_until_idle();
    BOOK.with_borrow_mut(|book| book.asked = 0);
    there.tell(Tell { name: Some(name), times: 3 }).unwrap();
    kit.run_until(|| BOOK.with_borrow(|book| book.asked > 0));
    kit.engine().raise_epoch(sleeper.slot().group(), Epoch::new(2));
    kit.run_until_idle();
    assert_eq!(kit.dead_letters().count(Reason::Fenced), 3, "they were under way");
    kit.advance(Duration::from_secs(1));
    let stall = kit.stall(by_reference);
    assert_eq!(kit.block_on(tell(here, None, 20)), Ok(8), "all of its room is there again");
    drop(stall);
    kit.run_until_idle();
}
