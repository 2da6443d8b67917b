//! Hazard: failures of children. Each ends in one decision; references and mailboxes outlive states; nothing restarts for ever.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod supervision_cast;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, Backoff, BoxError, ChildSpec, Directive, FailureKind, Reason, Supervision};
use shardstage_tests::kit_actors::Log;
use supervision_cast::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn strategies_restart_the_one_all_or_the_rest() {
    for (policy, reset) in [
        (Supervision::default as fn() -> _, [false, true, false]),
        (|| Supervision::one_for_one(), [false, true, false]),
        (|| Supervision::all_for_one(), [true, true, true]),
        (|| Supervision::rest_for_one(), [false, true, true]),
    ] {
        let office = Office::three(policy);
        assert_eq!(office.counts(), [Some(0); 3]);
        office.fail(1, "planted");
        let expected = reset.map(|reset| Some(u32::from(!reset)));
        assert_eq!(office.counts(), expected, "references stay valid, states are fresh");
        let log = office.log.take();
        // Those beside the failed one end in order, with their hooks; then all start again, oldest first.
        let restarted: Vec<_> = log.iter().filter(|line| line.ends_with("started")).cloned().collect();
        let names = ["a", "b", "c"].iter().zip(reset).filter(|(_, reset)| *reset).map(|(name, _)| *name);
        assert_eq!(restarted, names.clone().map(|name| format!("{name} started")).collect::<Vec<_>>(), "{log:?}");
        for name in names.clone().filter(|name| *name != "b") {
            let at = |line: String| log.iter().position(|other| *other == line).unwrap();
            let (stopping, stopped) =
                (at(format!("{name} stopping Restarting")), at(format!("{name} stopped Restarting")));
            let first_start = log.iter().position(|line| line.ends_with("started")).unwrap();
            assert!(stopping < stopped && stopped < first_start, "all are down before one starts: {log:?}");
        }
        assert!(names.clone().all(|name| log.contains(&format!("{name} restarted for Panicked"))));
        assert!(!log.iter().any(|line| line.starts_with("b stop")), "no hook after a panic");
        assert_eq!(log.len(), names.clone().count() * 4 - 2);
        assert_eq!(office.taken(), [Directive::Restart]);
        office.end();
    }
}

#[test]
fn mailboxes_are_kept_in_order_across_all_restarts() {
    for policy in [
        (|| Supervision::one_for_one()) as fn() -> Supervision,
        || Supervision::all_for_one().at_most(6, 10 * SECOND),
        || Supervision::rest_for_one().at_most(6, 100 * SECOND).backoff(Backoff::exponential(SECOND, SECOND)),
    ] {
        let office = Office::three(policy);
        for number in 0..30 {
            for child in &office.children {
                if number % 10 == 5 && *child != office.children[0] {
                    child.tell(Boom("planted")).unwrap();
                }
                child.tell(Note(number)).unwrap();
            }
        }
        office.kit.advance(20 * SECOND);
        let log = office.log.take();
        for name in ["a", "b", "c"] {
            let notes = log.iter().filter_map(|line| line.strip_prefix(&format!("{name} note ")));
            assert!(notes.map(|note| note.parse::<u32>().unwrap()).eq(0..30), "{name}: {log:#?}");
        }
        assert_eq!(office.taken(), [Directive::Restart; 6]);
        office.end();
    }
}

#[test]
fn who_comes_back_says_the_child_and_why_it_ended() {
    let specs = [ChildSpec::permanent(), ChildSpec::transient(), ChildSpec::never()];
    // Panics; stops itself; is stopped; is drained.
    for (how, lives) in
        [(0, [true, true, false]), (1, [true, false, false]), (2, [true, false, false]), (3, [true, false, false])]
    {
        let office = Office::new(Supervision::one_for_one, &specs);
        for child in office.children.clone() {
            child.ask(Count).wait().unwrap();
            match how {
                0 => child.tell(Boom("planted")).unwrap(),
                1 => child.tell(Leave).unwrap(),
                2 => assert_eq!(child.stop().wait(), StopReason::Stopped),
                _ => assert_eq!(child.drain().wait(), StopReason::Drained, "the result of a stop comes at once"),
            }
        }
        office.kit.run_until_idle();
        assert_eq!(office.counts(), lives.map(|lives| lives.then_some(0)), "{how}");
        office.end();
    }
}

#[test]
fn a_child_that_its_parent_dismisses_is_gone_for_good() {
    let office = Office::new(Supervision::one_for_one, &[ChildSpec::permanent(); 3]);
    let stopped = office.children[1].stopped();
    office.boss.tell(Dismiss(office.children[1])).unwrap();
    assert_eq!(stopped.wait(), StopReason::ParentStopped);
    assert_eq!(office.counts(), [Some(0), None, Some(0)]);
    // A stranger is not dismissed.
    for shard in [0, 1] {
        let other = office.kit.spawn_on(shard, Worker::make("root", &office.log, &office.bad_starts)).unwrap();
        office.boss.ask(Dismiss(other)).wait().unwrap();
        assert_eq!(other.ask(Count).wait(), Ok(0));
        other.stop().wait();
    }
    office.end();
}

#[test]
fn the_second_failure_too_many_within_the_window_goes_up() {
    for policy in [(|| Supervision::one_for_one().at_most(2, 10 * SECOND)) as fn() -> Supervision, || {
        Supervision::all_for_one().at_most(2, 10 * SECOND)
    }] {
        let office = Office::three(policy);
        office.fail(0, "first");
        office.kit.advance(9 * SECOND);
        office.fail(0, "second");
        // The first has left the window meanwhile.
        office.kit.advance(2 * SECOND);
        office.fail(0, "third");
        assert_eq!(office.taken(), [Directive::Restart; 3]);
        office.log.take();
        let old = office.children[0].stopped();
        office.fail(0, "fourth");
        assert_eq!(old.wait(), StopReason::Panicked("fourth".into()), "it ended for good");
        let log = office.log.take();
        assert!(
            log.contains(&"boss stopped Restarting".into()) && log.contains(&"boss restarted for Escalated".into()),
            "{log:?}"
        );
        let at = |line: &str| log.iter().position(|other| other == line).unwrap();
        assert!(at("c stopped ParentStopped") < at("boss stopped Restarting"), "children first: {log:?}");
        assert_eq!(office.counts(), [None; 3], "the old children are gone");
        let children = office.boss.ask(Children).wait().unwrap();
        assert!(children.iter().all(|child| child.ask(Count).wait() == Ok(0)), "the supervisor has new ones");
        assert_eq!(office.kit.census().of::<Worker>(), 3);
        office.end();
    }
}

#[test]
fn children_of_one_supervisor_are_counted_each_for_itself_or_as_a_group() {
    for (policy, expected) in [
        ((|| Supervision::one_for_one().at_most(1, 10 * SECOND)) as fn() -> Supervision, Directive::Restart),
        (|| Supervision::rest_for_one().at_most(1, 10 * SECOND), Directive::Escalate),
    ] {
        let office = Office::three(policy);
        office.fail(1, "first");
        office.fail(2, "second");
        let failures = office.failures.lock().unwrap().clone();
        assert_eq!(failures.last().unwrap().1, expected);
        assert_eq!(failures.last().unwrap().0.restarts, u32::from(expected == Directive::Escalate));
        office.end();
    }
}

#[test]
fn escalation_climbs_until_somebody_may_restart_and_a_root_ends() {
    // No restarts at all: the supervisor is a root, under the default for roots.
    let office = Office::three(|| Supervision::one_for_one().at_most(0, SECOND));
    for round in 0..1000 {
        let children = office.boss.ask(Children).wait().unwrap();
        children[0].tell(Boom("planted")).unwrap();
        office.kit.run_until_idle();
        assert_eq!(office.kit.census().of::<Worker>(), 3, "round {round}");
    }
    let (children, stopped) = (office.boss.ask(Children).wait().unwrap(), office.boss.stopped());
    children[0].tell(Boom("the last")).unwrap();
    assert_eq!(stopped.wait(), StopReason::Panicked("the last".into()), "1,000 restarts in 10 s are enough");
    assert!(office.taken().iter().all(|taken| *taken == Directive::Escalate));
    office.kit.assert_no_leaks();
}

#[test]
fn a_root_that_panics_at_every_message_is_stopped_at_last() {
    let kit = TestKit::new();
    kit.allow_panics();
    kit.allow_dead_letters(|letter| letter.reason == Reason::Closed);
    let (log, none) = (Log::default(), Arc::new(AtomicU32::new(0)));
    let root = kit.spawn(Worker::make("root", &log, &none)).unwrap();
    for _ in 0..1000 {
        assert!(matches!(root.ask(Boom("planted")).wait(), Err(AskError::Failed(_))));
    }
    kit.advance(10 * SECOND);
    for _ in 0..1000 {
        assert!(matches!(root.ask(Boom("planted")).wait(), Err(AskError::Failed(_))), "the window has moved on");
    }
    let stopped = root.stopped();
    assert!(matches!(root.ask(Boom("one more")).wait(), Err(AskError::Failed(_))));
    assert_eq!(stopped.wait(), StopReason::Panicked("one more".into()));
    assert_eq!(root.ask(Count).wait(), Err(AskError::Rejected(Rejected::Closed)));
    kit.assert_no_leaks();
}

#[test]
fn a_root_has_a_policy_of_its_own_where_it_says_so() {
    let kit = TestKit::new();
    kit.allow_panics();
    kit.allow_dead_letters(|letter| letter.reason == Reason::Closed);
    let (log, bad_starts) = (Log::default(), Arc::new(AtomicU32::new(1)));
    let policy = patient().at_most(3, 100 * SECOND);
    let root = kit.spawn_supervised(policy, Worker::make("root", &log, &bad_starts)).unwrap();
    assert_eq!(root.started().wait(), Ok(()), "the failed start is tried again");
    for wait in [2, 4] {
        let began = kit.now();
        root.tell(Boom("planted")).unwrap();
        assert_eq!(root.ask(Count).wait(), Ok(0));
        let took = kit.now() - began;
        assert!(took >= wait * SECOND && took < (wait + 1) * SECOND, "{took:?}");
    }
    let stopped = root.stopped();
    root.tell(Boom("one too many")).unwrap();
    assert_eq!(stopped.wait(), StopReason::Panicked("one too many".into()));
    kit.assert_no_leaks();
}

fn patient() -> Supervision {
    let backoff = Backoff::exponential(SECOND, 5 * SECOND).jitter(0.0);
    Supervision::one_for_one().at_most(10, 1000 * SECOND).backoff(backoff)
}

#[test]
fn waits_before_restarts_double_and_messages_wait_with_them() {
    let office = Office::three(patient);
    for wait in [1, 2, 4, 5, 5] {
        office.fail(1, "planted");
        let (child, began) = (office.children[1], office.kit.now());
        office.kit.advance(wait * SECOND - Duration::from_millis(1));
        assert!(office.log.take().is_empty(), "not yet");
        assert_eq!(office.children[0].ask(Count).wait().map(|_| ()), Ok(()), "the others go on");
        // Sent while there is no state; answered by the next one.
        assert_eq!(child.ask(Count).wait(), Ok(0));
        let took = office.kit.now() - began;
        assert!(took >= wait * SECOND && took < wait * SECOND + Duration::from_millis(1), "{took:?}");
        assert_eq!(office.log.take(), ["b started", "b restarted for Panicked"]);
    }
    // What stops or drains during the wait needs no restart for that.
    office.fail(1, "planted");
    let began = office.kit.now();
    assert_eq!(office.children[1].stop().wait(), StopReason::Stopped);
    assert!(office.kit.now() - began < Duration::from_millis(1));
    office.fail(2, "planted");
    let began = office.kit.now();
    office.children[2].tell(Leave).unwrap();
    assert_eq!(
        office.children[2].drain().wait(),
        StopReason::Stopped,
        "it drains after its restart: `Leave` is in its mailbox"
    );
    assert!(office.kit.now() - began >= SECOND);
    office.fail(0, "planted");
    office.end();
}

#[test]
fn no_timer_outlives_its_state_while_the_next_one_is_waited_for() {
    let office = Office::three(patient);
    let timers = || office.kit.stats().iter().map(|shard| shard.timers).sum::<u64>();
    // Due during the wait, and after it.
    office.children[1].tell(NoteLater(SECOND / 2, 1)).unwrap();
    office.children[1].tell(NoteLater(3 * SECOND, 2)).unwrap();
    office.kit.run_until_idle();
    assert_eq!(timers(), 4);
    office.fail(1, "planted");
    assert_eq!(timers(), 1, "the wait itself");
    office.kit.advance(10 * SECOND);
    assert_eq!(office.log.take(), ["b started", "b restarted for Panicked"]);
    // What its successor sets goes on.
    office.children[1].tell(NoteLater(SECOND, 3)).unwrap();
    office.kit.advance(SECOND + SECOND / 2);
    assert_eq!(office.log.take(), ["b note 3", "b tick"]);
    office.end();
}

#[test]
fn a_failed_start_reaches_the_supervisor() {
    // Without a wait it is final.
    let office = Office::three(Supervision::one_for_one);
    office.bad_starts.store(1, Ordering::Relaxed);
    let stopped = office.children[1].stopped();
    office.fail(1, "planted");
    assert_eq!(stopped.wait(), StopReason::StartFailed("no room".into()));
    let failures = std::mem::take(&mut *office.failures.lock().unwrap());
    let kinds: Vec<_> = failures.iter().map(|(failure, taken)| (failure.kind, *taken)).collect();
    assert_eq!(kinds, [(FailureKind::Panicked, Directive::Restart), (FailureKind::StartFailed, Directive::Stop)]);
    assert_eq!(
        failures[1].0.to_string(),
        format!("supervision::supervision_cast::Worker {:?} did not start: no room", office.children[1].id())
    );
    office.end();

    // With one it is tried again, within the window.
    let office = Office::three(patient);
    office.bad_starts.store(3, Ordering::Relaxed);
    office.fail(1, "planted");
    let began = office.kit.now();
    assert_eq!(office.children[1].started().wait(), Ok(()));
    let took = office.kit.now() - began;
    assert!(took >= 12 * SECOND && took < 13 * SECOND, "1 + 2 + 4 + 5 s: {took:?}");
    assert_eq!(office.children[1].ask(Count).wait(), Ok(0));
    office.end();
}

#[test]
fn a_decider_chooses_by_what_failed() {
    fn decide() -> Supervision {
        Supervision::one_for_one().decide(|failure| match &*failure.text {
            "resume" => Directive::Resume,
            "stop" => Directive::Stop,
            "escalate" => Directive::Escalate,
            "confused" => panic!("the decider itself"),
            _ => Directive::Restart,
        })
    }
    let office = Office::three(decide);
    for _ in 0..2 {
        office.counts();
    }
    office.fail(0, "resume");
    assert_eq!(office.children[0].ask(Count).wait(), Ok(2), "the state is kept");
    office.fail(0, "confused");
    assert_eq!(office.children[0].ask(Count).wait(), Ok(0), "the default decides");
    office.fail(0, "stop");
    assert_eq!(office.counts(), [None, Some(2), Some(2)]);
    assert_eq!(office.taken(), [Directive::Resume, Directive::Restart, Directive::Stop]);
    office.fail(1, "escalate");
    assert!(office.log.take().contains(&"boss restarted for Escalated".into()));
    assert_eq!(office.counts(), [None; 3]);
    office.end();
}

#[test]
fn an_actor_may_go_on_with_its_state_after_its_own_panic() {
    let office = Office::three(Supervision::all_for_one);
    let child = office.children[1];
    child.tell(Wish(Directive::Resume)).unwrap();
    office.counts();
    office.fail(1, "planted");
    assert_eq!(office.counts(), [Some(1), Some(1), Some(1)]);
    child.tell(SlowBoom(office.children[0])).unwrap();
    assert_eq!(child.ask(Count).wait(), Ok(2), "after an await too");
    child.tell(Wish(Directive::Stop)).unwrap();
    office.fail(1, "planted");
    assert_eq!(child.ask(Count).wait(), Err(AskError::Rejected(Rejected::Closed)));
    assert_eq!(office.taken(), [Directive::Resume, Directive::Resume, Directive::Stop]);
    assert!(!office.log.take().iter().any(|line| line.contains("restarted")));
    office.end();
}

#[test]
fn the_supervisor_hears_which_message_failed_and_who_sent_it() {
    let office = Office::three(Supervision::one_for_one);
    let (child, other) = (office.children[1], office.children[2]);
    office.boss.tell(TellBoom(child)).unwrap();
    office.kit.run_until_idle();
    child.tell(SlowBoom(other)).unwrap();
    office.kit.run_until_idle();
    child.tell(ThenBoom(other)).unwrap();
    office.kit.run_until_idle();
    assert_eq!(child.ask(Boom("asked")).wait().unwrap_err().to_string(), "begun, not finished: asked");
    let seen: Vec<_> = std::mem::take(&mut *office.failures.lock().unwrap());
    let seen: Vec<_> = seen.into_iter().map(|(failure, _)| failure).collect();
    assert!(seen.iter().all(|failure| failure.actor == child.id() && failure.origin == child.id()));
    assert!(seen.iter().all(|failure| failure.actor_type == std::any::type_name::<Worker>()));
    let lines: Vec<_> = seen.iter().map(|failure| (failure.message, failure.sender, &*failure.text)).collect();
    let (boom, slow) = (std::any::type_name::<Boom>(), std::any::type_name::<SlowBoom>());
    let boss: ActorId = office.boss.id();
    assert_eq!(lines[0], (Some(boom), Some(boss), "told"));
    assert_eq!(lines[1], (Some(slow), None, "after await"));
    assert_eq!(lines[2].2, "in then");
    assert_eq!(lines[3], (Some(boom), None, "asked"));
    assert_eq!(seen[3].restarts, 3);
    office.end();
}

#[test]
fn the_end_of_a_significant_child_ends_its_supervisor() {
    for spec in [ChildSpec::transient().significant(), ChildSpec::never().significant()] {
        let office = Office::new(Supervision::one_for_one, &[ChildSpec::transient(), spec]);
        office.fail(0, "planted");
        let stopped = office.boss.stopped();
        office.children[0].stop().wait();
        office.kit.run_until_idle();
        assert_eq!(office.kit.census().of::<Boss>(), 1, "one that is not significant");
        office.fail(1, "planted");
        let transient = spec == ChildSpec::transient().significant();
        assert_eq!(office.kit.census().of::<Boss>(), u32::from(transient) as usize, "a restart is no end");
        if transient {
            office.children[1].stop().wait();
        }
        assert_eq!(stopped.wait(), StopReason::Stopped);
        office.kit.assert_no_leaks();
    }
}

/// Has a child, and panics.
struct Parent {
    log: Log,
    none: Arc<AtomicU32>,
}

impl Actor for Parent {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        self.log.push("parent started".into());
        cx.spawn(Worker::make("child", &self.log, &self.none))?;
        cx.spawn_once(Worker::make("once", &self.log, &self.none))?;
        Ok(())
    }
}

impl Handler<Boom> for Parent {
    fn handle(&mut self, boom: Boom, _: &mut Context<Self>) {
        panic!("{}", boom.0);
    }
}

#[test]
fn a_parent_is_rebuilt_after_its_children_have_gone() {
    let kit = TestKit::new();
    kit.allow_panics();
    let (log, none) = (Log::default(), Arc::new(AtomicU32::new(0)));
    let for_parent = log.clone();
    let parent = kit.spawn(move || Parent { log: for_parent.clone(), none: Arc::clone(&none) }).unwrap();
    for _ in 0..3 {
        kit.run_until_idle();
        log.take();
        parent.tell(Boom("planted")).unwrap();
        kit.run_until_idle();
        let log = log.take();
        assert_eq!(log.len(), 7, "{log:?}");
        assert_eq!(log[4], "parent started", "{log:?}");
        assert!(log[..4].contains(&"child stopped ParentStopped".into()), "{log:?}");
        assert_eq!(kit.census().actors.len(), 3);
    }
    parent.stop().wait();
    kit.assert_no_leaks();
}

#[test]
fn a_group_that_ends_does_not_cut_short_the_wait_of_its_supervisor() {
    for group_waits in [false, true] {
        let kit = TestKit::new();
        kit.allow_panics();
        kit.allow_dead_letters(|letter| letter.reason == Reason::Closed);
        let log = Log::default();
        let for_boss = log.clone();
        let make = move || Boss {
            policy: match group_waits {
                false => Supervision::all_for_one(),
                true => Supervision::all_for_one().backoff(Backoff::exponential(SECOND, SECOND)),
            },
            children: Vec::new(),
            specs: vec![ChildSpec::transient(); 3],
            log: for_boss.clone(),
            failures: Arc::default(),
            bad_starts: Arc::default(),
        };
        let wait = Backoff::exponential(10 * SECOND, 10 * SECOND).jitter(0.0);
        let boss = kit.spawn_supervised(Supervision::one_for_one().backoff(wait), make).unwrap();
        let children = boss.ask(Children).wait().unwrap();
        kit.run_until_idle();
        log.take();
        // The group is about to start again when its supervisor fails itself.
        boss.tell(BoomTwice(children[0])).unwrap();
        kit.advance(9 * SECOND);
        let before = log.take();
        assert!(!before.contains(&"boss started".to_owned()), "{before:?}");
        assert_eq!(kit.census().timers(), 1, "its own");
        kit.advance(2 * SECOND);
        let after = log.take();
        assert_eq!(after.iter().filter(|line| *line == "boss started").count(), 1, "{after:?}");
        assert_eq!(kit.census().timers(), 0);
        boss.stop().wait();
        kit.assert_no_leaks();
    }
}
