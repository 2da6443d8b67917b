//! The cast: nodes of the spawn tree, which do whatever they are told, and the registrar, who hears of their ends.
//!
//! Invariant: everything that an actor does is in the [ledger](super::ledger) before the engine can say anything about it.

use std::time::Duration;

use shardstage::prelude::*;
use shardstage::{ActorId, Backoff, BoxError, ChildSpec, Directive, Failure, RegisterError, Supervision, TimerId};

use super::ledger::{Kind, Slip, Timer, Wait, name, saw, with};
use super::virtual_cast::{Chore, Hand, Page, page_notes};

pub(crate) const SILENCE: Duration = Duration::from_millis(300);
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
pub(crate) const NAMES: [&str; 4] = ["north", "east", "south", "west"];

/// What a node is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Make {
    pub(crate) policy: u64,
    pub(crate) flaky: bool,
}

/// How a node of this policy looks after its children; a root may be looked after like this too.
pub(crate) fn supervision(policy: u64) -> Supervision {
    let strategy = match policy / 4 % 3 {
        0 => Supervision::one_for_one(),
        1 => Supervision::all_for_one(),
        _ => Supervision::rest_for_one(),
    };
    let counted = strategy.at_most(limit(policy), WINDOW);
    if waits(policy) { counted.backoff(Backoff::exponential(ms(10), ms(1000))) } else { counted }
}

/// How often it lets a child restart within the window.
pub(crate) fn limit(policy: u64) -> u32 {
    (policy % 4) as u32
}

/// Whether restarts come later than they are counted.
pub(crate) fn waits(policy: u64) -> bool {
    policy / 12 % 2 == 1
}

pub(crate) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) struct Node {
    make: Make,
    me: Option<(String, u64)>,
    timers: Vec<(usize, TimerId)>,
}

impl Node {
    pub(crate) fn factory(make: Make) -> impl Fn() -> Self + Send + Clone + 'static {
        move || Self { make, me: None, timers: Vec::new() }
    }

    fn id(&self) -> String {
        self.me.as_ref().map_or_else(String::new, |me| me.0.clone())
    }

    fn spoken(&self, cx: &Context<Self>) -> String {
        with(|ledger| ledger.spoken(&self.id(), cx.now_ns()));
        self.id()
    }

    fn wait(&self, slip: Option<usize>, ttl: Duration, cx: &Context<Self>) -> Wait {
        let until_ns = cx.now_ns() + u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        Wait::new(self.me.clone().unwrap_or_default(), slip, until_ns)
    }

    fn set(&mut self, delay: Duration, repeats: bool, cx: &Context<Self>) -> usize {
        let (owner, life) = self.me.clone().unwrap_or_default();
        let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        let timer = Timer { owner, life, set_ns: cx.now_ns(), delay_ns, repeats, fired: 0, cancelled_ns: None };
        with(|ledger| {
            ledger.timers.push(timer);
            ledger.timers.len() - 1
        })
    }
}

impl Actor for Node {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        match cx.random_u64() % 6 {
            0 if self.make.flaky => {
                saw("a start failed");
                return Err("planted".into());
            }
            1 if self.make.flaky => panic!("planted"),
            _ => {}
        }
        let id = name(cx.me().id());
        let (parent, policy, now_ns) = (cx.parent().map(name), self.make.policy, cx.now_ns());
        saw("a start");
        let number = with(|ledger| ledger.begins(&id, parent, policy, now_ns));
        self.me = Some((id, number));
        Ok(())
    }

    fn supervision(&self) -> Supervision {
        supervision(self.make.policy)
    }

    fn panicked(&mut self, _: &Failure, cx: &mut Context<Self>) -> Directive {
        if cx.random_u64().is_multiple_of(5) {
            saw("a state went on after a panic");
            return Directive::Resume;
        }
        Directive::Escalate
    }

    fn restarted(&mut self, _: &Failure, cx: &mut Context<Self>) {
        saw("a restart");
        let now_ns = cx.now_ns();
        with(|ledger| ledger.restarts.entry(self.id()).or_default().push(now_ns));
    }

    fn child_failed(&mut self, _: &Failure, taken: Directive, _: &mut Context<Self>) {
        match taken {
            Directive::Escalate => saw("a failure went up"),
            Directive::Stop => saw("a failed child was stopped"),
            Directive::Restart | Directive::Resume => {}
        }
    }

    fn stopped(&mut self, _: &StopReason, _: &mut Context<Self>) {
        let id = self.id();
        with(|ledger| {
            let orphans = ledger.live.keys().any(|one| ledger.parents.get(one) == Some(&id));
            ledger.expect(!orphans, || format!("{id} stops before its children"));
        });
    }

    fn terminated(&mut self, who: ActorId, _: &StopReason, _: &mut Context<Self>) {
        let (me, who) = (self.id(), name(who));
        saw("a watcher was told");
        with(|ledger| {
            let lives = ledger.live.contains_key(&who);
            ledger.expect(!lives, || format!("{me} hears of the end of {who}, which lives"));
            let watched = ledger.watches.remove(&(me.clone(), who.clone()));
            let linked = ledger.linked_once.contains(&(me.clone(), who.clone()));
            ledger.expect(watched || linked, || format!("{me} hears of {who} unasked, or twice"));
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((id, number)) = self.me.take() {
            saw("an end");
            with(|ledger| {
                let life = ledger.live.remove(&id);
                ledger.expect(life.as_ref().is_some_and(|life| life.number == number), || format!("{id}: {life:?}"));
            });
        }
    }
}

#[message]
pub(crate) struct Note(pub(crate) Slip);
#[message(priority = High)]
pub(crate) struct Dear(pub(crate) Slip);
/// Sent by whoever waits for room.
#[message]
pub(crate) struct Patient(pub(crate) Slip);
#[message(reply = u64)]
pub(crate) struct Query(pub(crate) Slip);
#[derive(Clone)]
#[message]
pub(crate) struct Tick(usize);
#[derive(Clone)]
#[message]
pub(crate) struct Idle;

impl Handler<Note> for Node {
    fn handle(&mut self, note: Note, cx: &mut Context<Self>) {
        note.0.handled(&self.spoken(cx));
        assert!(!cx.random_u64().is_multiple_of(60), "planted");
    }
}

impl Handler<Dear> for Node {
    fn handle(&mut self, dear: Dear, cx: &mut Context<Self>) {
        dear.0.handled(&self.spoken(cx));
    }
}

impl Handler<Patient> for Node {
    fn handle(&mut self, patient: Patient, cx: &mut Context<Self>) {
        patient.0.handled(&self.spoken(cx));
    }
}

impl Handler<Query> for Node {
    fn handle(&mut self, query: Query, cx: &mut Context<Self>) -> u64 {
        let number = query.0.number() as u64;
        query.0.handled(&self.spoken(cx));
        assert!(!cx.random_u64().is_multiple_of(8), "planted");
        number
    }
}

impl Handler<Tick> for Node {
    fn handle(&mut self, tick: Tick, cx: &mut Context<Self>) {
        saw("a timer fired");
        with(|ledger| ledger.ticks(&self.id(), tick.0, cx.now_ns()));
    }
}

impl Handler<Idle> for Node {
    fn handle(&mut self, _: Idle, cx: &mut Context<Self>) {
        saw("an idle timeout");
        let (id, now_ns) = (self.id(), cx.now_ns());
        with(|ledger| {
            let spoken_ns = ledger.live.get(&id).map_or(u64::MAX, |life| life.spoken_ns);
            let silent = now_ns.saturating_sub(spoken_ns) >= SILENCE.as_nanos() as u64;
            ledger.expect(silent, || format!("{id} is idle at {now_ns}, spoken to at {spoken_ns}"));
        });
    }
}

/// What a node does when it is told to.
#[message]
pub(crate) enum Order {
    Breed(u64, Make, Option<&'static str>),
    Dismiss,
    Fail,
    Leave,
    /// So many notes, every other one dear.
    Flood(ActorRef<Node>, u64),
    /// A question, answered within so long or not.
    Ask(ActorRef<Node>, Duration),
    After(Duration),
    Every(Duration, bool),
    Cancel,
    Silence(bool),
    Until(Duration, bool),
    Watch(ActorId, bool),
    Link(ActorId, bool),
    Trap(bool),
    Take(&'static str, ActorRef<Node>),
    GetOrSpawn(&'static str, Make),
    Drop(&'static str),
    Look(&'static str),
    Await(&'static str, Duration),
    Page(&'static str, u64),
    Chores(u64),
}

impl Handler<Order> for Node {
    fn handle(&mut self, order: Order, cx: &mut Context<Self>) {
        let me = self.spoken(cx);
        match order {
            Order::Breed(spec, make, taken) => self.breed(spec, make, taken, cx),
            Order::Dismiss => {
                if let Some(child) = cx.children().first() {
                    cx.stop_child(*child);
                }
            }
            Order::Fail => panic!("planted"),
            Order::Leave => cx.stop(),
            Order::Flood(to, count) => flood(&me, to, count),
            Order::Ask(to, ttl) => {
                let slip = Slip::new(Kind::Query, &me, &name(to.id()));
                let wait = self.wait(Some(slip.number()), ttl, cx);
                cx.ask(to, Query(slip)).deadline(ttl).then(|_, answer, cx| wait.ends(answer, cx.now_ns()));
            }
            Order::After(_) | Order::Every(..) | Order::Cancel | Order::Silence(_) | Order::Until(..) => {
                self.timer(&me, &order, cx);
            }
            Order::Watch(..) | Order::Link(..) | Order::Trap(_) => bond(me, &order, cx),
            Order::Take(..) | Order::GetOrSpawn(..) | Order::Drop(_) | Order::Look(_) | Order::Await(..) => {
                self.name(&order, cx);
            }
            Order::Page(key, count) => page_notes(&cx.actor::<Page>(key), u64::from(cx.shard().get()), count),
            Order::Chores(count) => {
                for _ in 0..count {
                    let told = cx.workers::<Hand>().tell(Chore(Slip::new(Kind::Chore, &me, "")));
                    if let Err(error) = told {
                        error.into_message().0.back();
                    }
                }
            }
        }
    }
}

/// Tells notes, from an actor or from `outside`.
pub(crate) fn flood(me: &str, to: ActorRef<Node>, count: u64) {
    let receiver = name(to.id());
    for number in 0..count {
        if number % 2 == 0 {
            if let Err(error) = to.tell(Note(Slip::new(Kind::Note, me, &receiver))) {
                error.into_message().0.back();
            }
        } else if let Err(error) = to.tell(Dear(Slip::new(Kind::Dear, me, &receiver))) {
            error.into_message().0.back();
        }
    }
}

impl Node {
    fn breed(&self, spec: u64, make: Make, taken: Option<&'static str>, cx: &mut Context<Self>) {
        let child = if let Some(key) = taken {
            match cx.spawn_named(key, Self::factory(make)) {
                Ok(child) => {
                    with(|ledger| ledger.holds(key, &name(child.id()), true));
                    child
                }
                Err(RegisterError::Taken { holder, .. }) => {
                    return with(|ledger| ledger.holds(key, &name(holder), false));
                }
                Err(_) => return,
            }
        } else {
            let specs = [ChildSpec::permanent(), ChildSpec::transient(), ChildSpec::never()];
            let spec = if spec < 9 { specs[spec as usize / 3] } else { specs[spec as usize % 3].significant() };
            let Ok(child) = cx.spawn_with(spec, Self::factory(make)) else { return };
            child
        };
        know(child);
    }

    fn timer(&mut self, me: &str, order: &Order, cx: &mut Context<Self>) {
        match *order {
            Order::After(delay) => {
                let number = self.set(delay, false, cx);
                self.timers.push((number, cx.after(delay, Tick(number))));
            }
            Order::Every(period, at_rate) => {
                let number = self.set(period, true, cx);
                let tick = Tick(number);
                let timer = if at_rate { cx.every(period, tick) } else { cx.every_with_delay(period, tick) };
                self.timers.push((number, timer));
            }
            Order::Cancel => {
                let Some((number, timer)) = self.timers.pop() else { return };
                let (in_time, now_ns) = (cx.cancel(timer), cx.now_ns());
                saw(if in_time { "a timer was cancelled" } else { "a timer was cancelled too late" });
                with(|ledger| {
                    if in_time {
                        ledger.timers[number].cancelled_ns = Some(now_ns);
                    }
                });
            }
            Order::Silence(set) => {
                with(|ledger| ledger.live.get_mut(me).expect("it handles this").idle = set);
                if set {
                    cx.set_idle_timeout(SILENCE, Idle);
                } else {
                    cx.clear_idle_timeout();
                }
            }
            Order::Until(delay, kill) => {
                let at_ns = cx.now_ns() + u64::try_from(delay.as_nanos()).expect("seconds");
                let first = !with(|ledger| ledger.until.contains_key(me));
                if first {
                    with(|ledger| ledger.until.insert(me.to_owned(), at_ns));
                    let _ = if kill { cx.kill_after(delay) } else { cx.stop_after(delay) };
                }
            }
            _ => unreachable!("not about timers"),
        }
    }

    fn name(&self, order: &Order, cx: &mut Context<Self>) {
        match *order {
            Order::Take(key, whose) => match cx.register(key, whose) {
                Ok(()) => with(|ledger| ledger.holds(key, &name(whose.id()), true)),
                Err(RegisterError::Taken { holder, .. }) => {
                    saw("a name was taken");
                    with(|ledger| ledger.holds(key, &name(holder), false));
                }
                Err(_) => saw("a name was not given"),
            },
            Order::GetOrSpawn(key, make) => {
                if let Ok(found) = cx.get_or_spawn(key, Self::factory(make)) {
                    with(|ledger| ledger.holds(key, &name(found.id()), true));
                    know(found);
                }
            }
            Order::Drop(key) => {
                let held = cx.unregister(key).map(name);
                with(|ledger| ledger.let_go(key, held));
            }
            Order::Look(key) => {
                let found = cx.lookup::<Self>(key).ok().map(|found| name(found.id()));
                with(|ledger| match found {
                    Some(found) => ledger.holds(key, &found, false),
                    None => ledger.is_free(key),
                });
            }
            Order::Await(key, ttl) => {
                let wait = self.wait(None, ttl, cx);
                cx.when_named::<Self>(key).deadline(ttl).then(move |_, found, cx| {
                    let outcome = match found {
                        Ok(found) => {
                            saw("a name appeared");
                            let pair = (key.to_owned(), name(found.id()));
                            with(|ledger| {
                                let held = ledger.held.contains(&pair);
                                ledger.expect(held, || format!("{pair:?} never was"));
                            });
                            Ok(0)
                        }
                        Err(_) => Err(AskError::Unknown(Unknown::Deadline)),
                    };
                    wait.ends(outcome, cx.now_ns());
                });
            }
            _ => unreachable!("not about names"),
        }
    }
}

fn bond(me: String, order: &Order, cx: &mut Context<Node>) {
    match *order {
        Order::Watch(who, on) => {
            let pair = (me, name(who));
            if on {
                with(|ledger| ledger.watches.insert(pair));
                cx.watch(who);
            } else {
                with(|ledger| ledger.watches.remove(&pair));
                cx.unwatch(who);
            }
        }
        Order::Link(who, on) if name(who) != me => {
            let (here, there) = ((me.clone(), name(who)), (name(who), me));
            with(|ledger| {
                for pair in [here, there] {
                    ledger.linked_once.insert(pair.clone());
                    let _ = if on { ledger.links.insert(pair) } else { ledger.links.remove(&pair) };
                }
            });
            if on { cx.link(who) } else { cx.unlink(who) }
        }
        Order::Trap(traps) => {
            with(|ledger| if traps { ledger.traps.insert(me) } else { ledger.traps.remove(&me) });
            cx.trap_links(traps);
        }
        _ => {}
    }
}

thread_local! {
    /// Every node that somebody has a reference to.
    pub(crate) static KNOWN: std::cell::RefCell<Vec<ActorRef<Node>>> = const { std::cell::RefCell::new(Vec::new()) };
}

pub(crate) fn know(node: ActorRef<Node>) {
    KNOWN.with_borrow_mut(|known| {
        if !known.iter().any(|one| one.id() == node.id()) {
            known.push(node);
        }
    });
}

/// Waits for an answer, and keeps its messages meanwhile.
#[message]
pub(crate) struct Chat(pub(crate) ActorRef<Node>, pub(crate) Duration);
/// Waits for room for so many.
#[message]
pub(crate) struct Deliver(pub(crate) ActorRef<Node>, pub u64);

impl AsyncHandler<Chat> for Node {
    async fn handle(&mut self, chat: Chat, cx: &mut Context<Self>) {
        let me = self.spoken(cx);
        let slip = Slip::new(Kind::Query, &me, &name(chat.0.id()));
        let wait = self.wait(Some(slip.number()), chat.1, cx);
        let answer = chat.0.ask(Query(slip)).deadline(chat.1).await;
        if matches!(answer, Err(AskError::Deadlock(_))) {
            saw("a deadlock was refused");
        }
        wait.ends(answer, cx.now_ns());
    }
}

impl AsyncHandler<Deliver> for Node {
    async fn handle(&mut self, order: Deliver, cx: &mut Context<Self>) {
        let me = self.spoken(cx);
        for _ in 0..order.1 {
            let slip = Slip::new(Kind::Patient, &me, &name(order.0.id()));
            match order.0.send(Patient(slip)).await {
                Ok(()) => saw("a patient message was sent"),
                Err(error) => error.into_message().0.back(),
            }
        }
    }
}

/// Hears of everybody's end.
pub(crate) struct Registrar;
impl Actor for Registrar {
    fn terminated(&mut self, who: ActorId, reason: &StopReason, _: &mut Context<Self>) {
        saw(match reason {
            StopReason::Stopped => "an end: stopped",
            StopReason::Drained => "an end: drained",
            StopReason::Killed => "an end: killed",
            StopReason::Panicked(_) => "an end: panicked",
            StopReason::StartFailed(_) => "an end: not started",
            StopReason::LinkBroken(_) => "an end: link broken",
            StopReason::ParentStopped => "an end: parent stopped",
            _ => "an end: of another kind",
        });
        let who = name(who);
        with(|ledger| {
            let lives = ledger.live.contains_key(&who);
            ledger.expect(!lives, || format!("{who} ended by {reason:?} and has a state"));
            let twice = ledger.ended.insert(who.clone(), reason.clone());
            ledger.expect(twice.is_none(), || format!("{who} ended twice: {twice:?} and {reason:?}"));
        });
    }
}

#[message]
pub(crate) struct Enrol(pub(crate) Vec<ActorId>);
impl Handler<Enrol> for Registrar {
    fn handle(&mut self, enrol: Enrol, cx: &mut Context<Self>) {
        enrol.0.into_iter().for_each(|who| cx.watch(who));
        with(|ledger| ledger.now_ns = cx.now_ns());
    }
}
