//! The cast of `supervision.rs`: a supervisor with children that fail in all ways.
#![allow(unreachable_pub, reason = "a module of one test file")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{BoxError, ChildSpec, Directive, Failure, Reason, Supervision};
use shardstage_tests::kit_actors::Log;

/// Counts what it is told; fails in all ways.
pub struct Worker {
    pub name: String,
    pub log: Log,
    pub count: u32,
    /// Starts that fail from now on.
    pub bad_starts: Arc<AtomicU32>,
    pub wish: Directive,
}

impl Worker {
    pub fn make(name: &str, log: &Log, bad_starts: &Arc<AtomicU32>) -> impl Fn() -> Self + Send + Clone + 'static {
        let (name, log, bad_starts) = (name.to_owned(), log.clone(), Arc::clone(bad_starts));
        move || {
            let (name, log, bad_starts) = (name.clone(), log.clone(), Arc::clone(&bad_starts));
            Self { name, log, count: 0, bad_starts, wish: Directive::Escalate }
        }
    }
}

impl Actor for Worker {
    fn started(&mut self, _cx: &mut Context<Self>) -> Result<(), BoxError> {
        let bad = self.bad_starts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        self.log.push(format!("{} {}", self.name, if bad.is_ok() { "fails to start" } else { "started" }));
        if bad.is_ok() { Err("no room".into()) } else { Ok(()) }
    }

    fn panicked(&mut self, _: &Failure, _: &mut Context<Self>) -> Directive {
        self.wish
    }

    fn restarted(&mut self, failure: &Failure, _: &mut Context<Self>) {
        self.log.push(format!("{} restarted for {:?}", self.name, failure.kind));
    }

    fn stopping(&mut self, reason: &StopReason, _: &mut Context<Self>) {
        self.log.push(format!("{} stopping {reason:?}", self.name));
    }

    fn stopped(&mut self, reason: &StopReason, _: &mut Context<Self>) {
        self.log.push(format!("{} stopped {reason:?}", self.name));
    }
}

/// Answers how many came before it to this state.
#[message(reply = u32)]
pub struct Count;

#[message]
pub struct Boom(pub &'static str);

#[message]
pub struct Note(pub u32);

#[message]
#[derive(Clone)]
pub struct Tick;

/// Notes something later, and again and again.
#[message]
pub struct NoteLater(pub Duration, pub u32);

#[message]
pub struct Leave;

#[message]
pub struct SlowBoom(pub ActorRef<Worker>);

#[message]
pub struct ThenBoom(pub ActorRef<Worker>);

#[message]
pub struct Wish(pub Directive);

impl Handler<Count> for Worker {
    fn handle(&mut self, _: Count, _: &mut Context<Self>) -> u32 {
        self.count += 1;
        self.count - 1
    }
}

impl Handler<Boom> for Worker {
    fn handle(&mut self, boom: Boom, _: &mut Context<Self>) {
        panic!("{}", boom.0);
    }
}

impl Handler<Note> for Worker {
    fn handle(&mut self, note: Note, _: &mut Context<Self>) {
        self.log.push(format!("{} note {}", self.name, note.0));
    }
}

impl Handler<NoteLater> for Worker {
    fn handle(&mut self, later: NoteLater, cx: &mut Context<Self>) {
        cx.after(later.0, Note(later.1));
        cx.every(later.0, Tick);
    }
}

impl Handler<Tick> for Worker {
    fn handle(&mut self, _: Tick, _: &mut Context<Self>) {
        self.log.push(format!("{} tick", self.name));
    }
}

impl Handler<Leave> for Worker {
    fn handle(&mut self, _: Leave, cx: &mut Context<Self>) {
        cx.stop();
    }
}

impl Handler<Wish> for Worker {
    fn handle(&mut self, wish: Wish, _: &mut Context<Self>) {
        self.wish = wish.0;
    }
}

impl AsyncHandler<SlowBoom> for Worker {
    async fn handle(&mut self, boom: SlowBoom, _: &mut Context<Self>) {
        boom.0.ask(Count).await.unwrap();
        panic!("after await");
    }
}

impl Handler<ThenBoom> for Worker {
    fn handle(&mut self, boom: ThenBoom, cx: &mut Context<Self>) {
        cx.ask(boom.0, Count).then(|_, _, _| panic!("in then"));
    }
}

/// Has the children that a test wants.
pub struct Boss {
    pub policy: Supervision,
    pub children: Vec<ActorRef<Worker>>,
    pub specs: Vec<ChildSpec>,
    pub log: Log,
    pub failures: Arc<Mutex<Vec<(Failure, Directive)>>>,
    pub bad_starts: Arc<AtomicU32>,
}

impl Actor for Boss {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        self.log.push("boss started".into());
        for (name, spec) in ["a", "b", "c"].into_iter().zip(&self.specs) {
            self.children.push(cx.spawn_with(*spec, Worker::make(name, &self.log, &self.bad_starts))?);
        }
        Ok(())
    }

    fn supervision(&self) -> Supervision {
        self.policy.clone()
    }

    fn child_failed(&mut self, failure: &Failure, taken: Directive, _: &mut Context<Self>) {
        self.failures.lock().unwrap().push((failure.clone(), taken));
    }

    fn restarted(&mut self, failure: &Failure, _: &mut Context<Self>) {
        self.log.push(format!("boss restarted for {:?}", failure.kind));
    }

    fn stopped(&mut self, reason: &StopReason, _: &mut Context<Self>) {
        self.log.push(format!("boss stopped {reason:?}"));
    }
}

#[message(reply = Vec<ActorRef<Worker>>)]
pub struct Children;

#[message]
pub struct Dismiss(pub ActorRef<Worker>);

#[message]
pub struct TellBoom(pub ActorRef<Worker>);

/// Fails after a child has.
#[message]
pub struct BoomTwice(pub ActorRef<Worker>);

impl Handler<BoomTwice> for Boss {
    fn handle(&mut self, boom: BoomTwice, cx: &mut Context<Self>) {
        boom.0.tell(Boom("told")).unwrap();
        cx.me().tell(Boom("told")).unwrap();
    }
}

impl Handler<Boom> for Boss {
    fn handle(&mut self, boom: Boom, _: &mut Context<Self>) {
        panic!("{}", boom.0);
    }
}

impl Handler<Children> for Boss {
    fn handle(&mut self, _: Children, _: &mut Context<Self>) -> Vec<ActorRef<Worker>> {
        self.children.clone()
    }
}

impl Handler<Dismiss> for Boss {
    fn handle(&mut self, dismiss: Dismiss, cx: &mut Context<Self>) {
        cx.stop_child(dismiss.0);
    }
}

impl Handler<TellBoom> for Boss {
    fn handle(&mut self, boom: TellBoom, _: &mut Context<Self>) {
        boom.0.tell(Boom("told")).unwrap();
    }
}

/// A supervisor with three children in a kit of its own.
pub struct Office {
    pub kit: TestKit,
    pub boss: ActorRef<Boss>,
    pub children: Vec<ActorRef<Worker>>,
    pub log: Log,
    pub failures: Arc<Mutex<Vec<(Failure, Directive)>>>,
    pub bad_starts: Arc<AtomicU32>,
}

impl Office {
    pub fn new(policy: fn() -> Supervision, specs: &[ChildSpec]) -> Self {
        let kit = TestKit::new();
        kit.allow_panics();
        kit.allow_dead_letters(|letter| letter.reason == Reason::Closed);
        let (log, failures, bad_starts) = (Log::default(), Arc::default(), Arc::new(AtomicU32::new(0)));
        let (for_boss, its_failures, its_starts) = (log.clone(), Arc::clone(&failures), Arc::clone(&bad_starts));
        let specs = specs.to_vec();
        let make = move || Boss {
            policy: policy(),
            children: Vec::new(),
            specs: specs.clone(),
            log: for_boss.clone(),
            failures: Arc::clone(&its_failures),
            bad_starts: Arc::clone(&its_starts),
        };
        let boss = kit.spawn(make).unwrap();
        let children = boss.ask(Children).wait().unwrap();
        kit.run_until_idle();
        log.take();
        Self { kit, boss, children, log, failures, bad_starts }
    }

    pub fn three(policy: fn() -> Supervision) -> Self {
        Self::new(policy, &[ChildSpec::transient(); 3])
    }

    /// The counts of all children; `None` for those that are gone.
    pub fn counts(&self) -> Vec<Option<u32>> {
        self.children.iter().map(|child| child.ask(Count).wait().ok()).collect()
    }

    pub fn fail(&self, child: usize, text: &'static str) {
        self.children[child].tell(Boom(text)).unwrap();
        self.kit.run_until_idle();
    }

    pub fn taken(&self) -> Vec<Directive> {
        self.failures.lock().unwrap().drain(..).map(|(_, taken)| taken).collect()
    }

    pub fn end(self) {
        self.boss.stop().wait();
        self.kit.assert_no_leaks();
    }
}
