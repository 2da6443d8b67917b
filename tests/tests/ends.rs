//! Hazard: ends that meet something else: a start that fails with children, a second reason, news of another one's end, a last
//! hook that begins something. Whoever is to end ends, once and for the right reason, and leaves nothing to the next state.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, Backoff, BoxError, ChildSpec, DeferredHandler, Reply, SpawnError, Supervision};
use shardstage_tests::kit_actors::Log;

const SECOND: Duration = Duration::from_secs(1);

type Hook<R> = Arc<dyn Fn(&mut Subject, &mut Context<Subject>) -> R + Send + Sync>;

/// What a subject does in its hooks.
#[derive(Clone, Default)]
struct Script {
    log: Log,
    start: Option<Hook<Result<(), BoxError>>>,
    last: Option<Hook<()>>,
    policy: Supervision,
}

impl Script {
    fn make(&self) -> impl Fn() -> Subject + Send + Sync + Clone + 'static {
        let script = self.clone();
        move || Subject { script: script.clone(), asked: Vec::new() }
    }
}

/// Does what its script and its messages say.
struct Subject {
    script: Script,
    asked: Vec<Reply<u32>>,
}

impl Actor for Subject {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        self.script.log.push("started".into());
        self.script.start.clone().map_or(Ok(()), |start| start(self, cx))
    }

    fn supervision(&self) -> Supervision {
        self.script.policy.clone()
    }

    fn terminated(&mut self, _: ActorId, reason: &StopReason, _: &mut Context<Self>) {
        self.script.log.push(format!("heard {reason:?}"));
    }

    fn stopped(&mut self, reason: &StopReason, cx: &mut Context<Self>) {
        self.script.log.push(format!("stopped {reason:?}"));
        if let Some(last) = self.script.last.clone() {
            last(self, cx);
        }
    }
}

type Work = Box<dyn FnOnce(&mut Subject, &mut Context<Subject>) + Send>;

#[message]
struct Do(Work);

#[message(reply = ActorRef<Subject>)]
struct Spawn(ChildSpec, Script);

#[message]
struct Say(&'static str);

/// Answered when it is told to.
#[message(reply = u32)]
#[derive(Debug)]
struct Later;

#[message]
struct AskLater(ActorRef<Subject>);

impl Handler<Do> for Subject {
    fn handle(&mut self, work: Do, cx: &mut Context<Self>) {
        (work.0)(self, cx);
    }
}

impl Handler<Spawn> for Subject {
    fn handle(&mut self, spawn: Spawn, cx: &mut Context<Self>) -> ActorRef<Self> {
        cx.spawn_with(spawn.0, spawn.1.make()).unwrap()
    }
}

impl Handler<Say> for Subject {
    fn handle(&mut self, say: Say, _: &mut Context<Self>) {
        self.script.log.push(say.0.into());
    }
}

impl DeferredHandler<Later> for Subject {
    fn handle(&mut self, _: Later, reply: Reply<u32>, _: &mut Context<Self>) {
        self.asked.push(reply);
    }
}

impl AsyncHandler<AskLater> for Subject {
    async fn handle(&mut self, ask: AskLater, _: &mut Context<Self>) {
        let answer = ask.0.ask(Later).deadline(100 * SECOND).await;
        self.script.log.push(format!("{answer:?}"));
    }
}

fn work(f: impl FnOnce(&mut Subject, &mut Context<Subject>) + Send + 'static) -> Do {
    Do(Box::new(f))
}

fn answer() -> Do {
    work(|this, _| this.asked.drain(..).for_each(|reply| reply.send(7)))
}

fn kit() -> TestKit {
    let kit = TestKit::new();
    kit.allow_panics();
    kit.allow_dead_letters(|_| true);
    kit
}

fn spawn(kit: &TestKit, script: &Script) -> ActorRef<Subject> {
    kit.spawn_on(0, script.make()).unwrap()
}

#[test]
fn a_second_start_that_fails_after_it_spawned_children_is_an_end() {
    let backoff = || Supervision::one_for_one().backoff(Backoff::exponential(SECOND, SECOND));
    for panics in [false, true] {
        // Stops at once; tries again; escalates at the second failure. Who lives then, and how much the boss has lived through.
        for (policy, lives, boss_lines) in
            [(Supervision::default(), 1, 1), (backoff(), 3, 1), (backoff().at_most(1, 100 * SECOND), 1, 3)]
        {
            let kit = kit();
            let starts = AtomicU32::new(0);
            let start: Hook<_> = Arc::new(move |_, cx| {
                cx.spawn(Script::default().make())?;
                match (starts.fetch_add(1, Ordering::Relaxed), panics) {
                    (1, true) => panic!("no room"),
                    (1, false) => Err("no room".into()),
                    _ => Ok(()),
                }
            });
            let boss_log = Log::default();
            let boss = spawn(&kit, &Script { policy, log: boss_log.clone(), ..Script::default() });
            let script = Script { start: Some(start), ..Script::default() };
            let child = boss.ask(Spawn(ChildSpec::transient(), script)).wait().unwrap();
            kit.run_until_idle();
            child.tell(work(|_, _| panic!("planted"))).unwrap();
            kit.advance(20 * SECOND);
            assert_eq!(kit.census().of::<Subject>(), lives);
            assert_eq!(boss_log.take().len(), boss_lines);
            boss.stop().wait();
            kit.assert_no_leaks();
        }
    }
}

#[test]
fn who_ends_a_child_for_good_wins_over_who_stopped_or_killed_it_before() {
    for kills in [false, true] {
        let kit = kit();
        let boss = spawn(&kit, &Script::default());
        let script = Script::default();
        let child = boss.ask(Spawn(ChildSpec::permanent().significant(), script.clone())).wait().unwrap();
        let ended = child.stopped();
        boss.tell(work(move |_, cx| {
            drop(if kills { child.kill() } else { child.stop() });
            cx.stop_child(child);
        }))
        .unwrap();
        assert_eq!(ended.wait(), if kills { StopReason::Killed } else { StopReason::ParentStopped });
        kit.advance(SECOND);
        let hooks = if kills { vec!["started"] } else { vec!["started", "stopped ParentStopped"] };
        assert_eq!(script.log.take(), hooks, "it does not come back, and one that was killed runs no hook");
        assert_eq!(kit.census().of::<Subject>(), 1, "its parent wanted this end");
        boss.stop().wait();
        kit.assert_no_leaks();
    }
}

#[test]
fn a_link_that_breaks_ends_the_wait_of_a_stopped_child_and_does_not_bring_it_back() {
    let kit = kit();
    let (boss, other) = (spawn(&kit, &Script::default()), spawn(&kit, &Script::default()));
    let script = Script::default();
    let child = boss.ask(Spawn(ChildSpec::transient(), script.clone())).wait().unwrap();
    child.ask(work(move |_, cx| cx.link(other.id()))).wait().unwrap();
    child.tell(AskLater(boss)).unwrap();
    kit.run_until_idle();
    let stopped = child.stop();
    kit.run_until_idle();
    assert_eq!(script.log.take(), ["started"], "its handler comes to its end first");
    kit.kill(other);
    assert_eq!(stopped.wait(), StopReason::Stopped);
    kit.run_until_idle();
    assert_eq!(script.log.take(), ["stopped Stopped"]);
    assert_eq!(kit.census().of::<Subject>(), 1);
    boss.stop().wait();
    kit.assert_no_leaks();
}

#[test]
fn a_stop_after_a_broken_link_is_a_stop() {
    for stops in [false, true] {
        let kit = kit();
        let [boss, other, helper] = [(); 3].map(|()| spawn(&kit, &Script::default()));
        let script = Script::default();
        let child = boss.ask(Spawn(ChildSpec::transient(), script.clone())).wait().unwrap();
        child.ask(work(move |_, cx| cx.link(other.id()))).wait().unwrap();
        kit.run_until_idle();
        // One after the other in one turn: the other dies and breaks the link, the helper stops the child, the child ends.
        let both = work(move |_, _| {
            drop(other.kill());
            helper.tell(work(move |_, _| drop(stops.then(|| child.stop())))).unwrap();
        });
        boss.tell(both).unwrap();
        kit.run_until_idle();
        let broken = format!("stopped LinkBroken(\"{:?}: Killed\")", other.id());
        let expected = if stops { vec!["started", "stopped Stopped"] } else { vec!["started", &broken, "started"] };
        assert_eq!(script.log.take(), expected);
        helper.stop().wait();
        boss.stop().wait();
        kit.assert_no_leaks();
    }
}

#[test]
fn news_that_come_while_a_watcher_stops_reach_its_next_state() {
    for traps in [false, true] {
        let kit = kit();
        let (boss, other) = (spawn(&kit, &Script::default()), spawn(&kit, &Script::default()));
        let script = Script::default();
        let child = boss.ask(Spawn(ChildSpec::permanent(), script.clone())).wait().unwrap();
        let bond = work(move |_, cx| {
            if traps {
                cx.trap_links(true);
                cx.link(other.id());
            } else {
                cx.watch(other.id());
            }
        });
        child.ask(bond).wait().unwrap();
        // It waits for its handler when the news come.
        child.tell(AskLater(boss)).unwrap();
        kit.run_until_idle();
        let stopped = child.stop();
        kit.run_until_idle();
        kit.kill(other);
        kit.run_until_idle();
        assert_eq!(script.log.take(), ["started"], "one that stops hears no news");
        boss.tell(answer()).unwrap();
        assert_eq!(stopped.wait(), StopReason::Stopped);
        kit.run_until_idle();
        let news = "heard Panicked(\"killed by the test\")";
        assert_eq!(script.log.take(), ["Ok(7)", "stopped Stopped", "started", news]);
        assert_eq!(kit.census().watches(), 0);
        boss.stop().wait();
        kit.assert_no_leaks();
    }
}

#[test]
fn news_for_one_that_does_not_come_back_end_with_it() {
    let kit = kit();
    let (boss, other) = (spawn(&kit, &Script::default()), spawn(&kit, &Script::default()));
    let script = Script::default();
    let child = boss.ask(Spawn(ChildSpec::transient(), script.clone())).wait().unwrap();
    child.ask(work(move |_, cx| cx.watch(other.id()))).wait().unwrap();
    child.tell(AskLater(boss)).unwrap();
    kit.run_until_idle();
    let stopped = child.stop();
    kit.kill(other);
    boss.tell(answer()).unwrap();
    stopped.wait();
    kit.run_until_idle();
    assert_eq!(script.log.take(), ["started", "Ok(7)", "stopped Stopped"]);
    boss.stop().wait();
    kit.assert_no_leaks();
}

#[test]
fn what_the_last_hook_of_a_state_begins_ends_with_that_state() {
    // Taken down with a child, and without one but with a wait.
    for has_child in [false, true] {
        let kit = kit();
        let policy = Supervision::all_for_one().backoff(Backoff::exponential(SECOND, SECOND));
        let boss = spawn(&kit, &Script { policy, ..Script::default() });
        let log = Log::default();
        let its_log = log.clone();
        let last: Hook<()> = Arc::new(move |_, cx| {
            cx.after(2 * SECOND, Say("a timer of the last state"));
            cx.ask(boss, Later).deadline(100 * SECOND).then(|this, _, _| this.script.log.push("a late answer".into()));
            cx.reenter_after(std::future::ready(()), |this, (), _| this.script.log.push("late work".into()));
            let _resume = cx.suspend();
            let spawned = cx.spawn(Script::default().make());
            its_log.push(format!("spawns: {}", matches!(spawned, Err(SpawnError::Closed))));
        });
        let script = Script { log: log.clone(), last: Some(last), ..Script::default() };
        let one = boss.ask(Spawn(ChildSpec::transient(), script)).wait().unwrap();
        let other = boss.ask(Spawn(ChildSpec::transient(), Script::default())).wait().unwrap();
        if has_child {
            one.ask(Spawn(ChildSpec::transient(), Script::default())).wait().unwrap();
        }
        kit.run_until_idle();
        log.take();
        other.tell(work(|_, _| panic!("planted"))).unwrap();
        kit.advance(20 * SECOND);
        boss.ask(answer()).wait().unwrap();
        kit.advance(20 * SECOND);
        one.ask(Say("alive")).wait().unwrap();
        assert_eq!(log.take(), ["stopped Restarting", "spawns: true", "started", "alive"]);
        assert_eq!(kit.census().of::<Subject>(), 3);
        boss.stop().wait();
        kit.assert_no_leaks();
    }
}
