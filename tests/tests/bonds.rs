//! Hazard: watches and links. News come once and from everywhere, nobody hears what it gave up, and neither side keeps a bond with
//! one that is gone.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, ChildSpec, SpawnError};

/// Hears of ends, and has bonds as it is told to.
#[derive(Default)]
struct Peer {
    heard: Arc<Mutex<Vec<(ActorId, StopReason)>>>,
    /// Ends, hooks and all.
    ended: Arc<Mutex<Vec<StopReason>>>,
}

impl Actor for Peer {
    fn terminated(&mut self, who: ActorId, reason: &StopReason, _: &mut Context<Self>) {
        self.heard.lock().unwrap().push((who, reason.clone()));
    }

    fn stopped(&mut self, reason: &StopReason, _: &mut Context<Self>) {
        self.ended.lock().unwrap().push(reason.clone());
    }
}

#[message]
enum Bond {
    Watch(ActorId),
    Unwatch(ActorId),
    Link(ActorId),
    Unlink(ActorId),
    Trap(bool),
}

#[message]
struct Boom;

#[message(reply = u32)]
struct Ping;

#[message(reply = Result<ActorRef<Peer>, SpawnError>)]
struct Spawn(ChildSpec);

impl Handler<Bond> for Peer {
    fn handle(&mut self, bond: Bond, cx: &mut Context<Self>) {
        match bond {
            Bond::Watch(other) => cx.watch(other),
            Bond::Unwatch(other) => cx.unwatch(other),
            Bond::Link(other) => cx.link(other),
            Bond::Unlink(other) => cx.unlink(other),
            Bond::Trap(traps) => cx.trap_links(traps),
        }
    }
}

/// Ends a watch when the news have come, while it waited itself.
#[message]
struct UnwatchAtItsEnd(ActorRef<Peer>);

impl AsyncHandler<UnwatchAtItsEnd> for Peer {
    async fn handle(&mut self, end: UnwatchAtItsEnd, cx: &mut Context<Self>) {
        end.0.stop().await;
        // An answer from its shard comes after the news from there.
        let _ = end.0.ask(Ping).await;
        cx.unwatch(end.0.id());
    }
}

/// Waits for an answer.
#[message]
struct AwaitPing(ActorRef<Peer>);

impl AsyncHandler<AwaitPing> for Peer {
    async fn handle(&mut self, of: AwaitPing, _: &mut Context<Self>) {
        let _ = of.0.ask(Ping).await;
    }
}

type Heard = Arc<Mutex<Vec<(ActorId, StopReason)>>>;

/// Spawns a child that is restarted always, and says what it hears in all its lives.
#[message(reply = ActorRef<Peer>)]
struct Raise(Heard);

impl Handler<Raise> for Peer {
    fn handle(&mut self, raise: Raise, cx: &mut Context<Self>) -> ActorRef<Self> {
        let make = move || Self { heard: Arc::clone(&raise.0), ..Self::default() };
        cx.spawn_with(ChildSpec::permanent(), make).unwrap()
    }
}

impl Handler<Boom> for Peer {
    fn handle(&mut self, _: Boom, _: &mut Context<Self>) {
        panic!("planted");
    }
}

impl Handler<Ping> for Peer {
    fn handle(&mut self, _: Ping, _: &mut Context<Self>) -> u32 {
        7
    }
}

impl Handler<Spawn> for Peer {
    fn handle(&mut self, spawn: Spawn, cx: &mut Context<Self>) -> Result<ActorRef<Self>, SpawnError> {
        cx.spawn_with(spawn.0, Self::default)
    }
}

struct Pair {
    kit: TestKit,
    one: ActorRef<Peer>,
    other: ActorRef<Peer>,
    heard: Arc<Mutex<Vec<(ActorId, StopReason)>>>,
    ended: Arc<Mutex<Vec<StopReason>>>,
}

impl Pair {
    /// `one` on shard 0, `other` on the given one; what `one` hears, and how it ends.
    fn on(shard: u16) -> Self {
        let kit = TestKit::new();
        kit.allow_panics();
        kit.allow_dead_letters(|_| true);
        let (heard, ended): (Arc<Mutex<_>>, Arc<Mutex<_>>) = Default::default();
        let (its_heard, its_ended) = (Arc::clone(&heard), Arc::clone(&ended));
        let one = kit.spawn_on(0, move || Peer { heard: Arc::clone(&its_heard), ended: Arc::clone(&its_ended) });
        let other = kit.spawn_on(shard, Peer::default).unwrap();
        Self { one: one.unwrap(), other, kit, heard, ended }
    }

    fn one(&self, bond: Bond) {
        self.one.ask(bond).wait().unwrap();
        self.kit.run_until_idle();
    }

    fn heard(&self) -> Vec<StopReason> {
        self.kit.run_until_idle();
        self.heard.lock().unwrap().drain(..).map(|(_, reason)| reason).collect()
    }

    /// Nobody has a bond with anybody, and all ends well.
    fn end(self) {
        self.kit.run_until_idle();
        let census = self.kit.census();
        assert_eq!((census.watches(), census.stale_watches), (0, 0));
        self.one.stop().wait();
        self.other.stop().wait();
        self.kit.assert_no_leaks();
    }
}

#[test]
fn a_watcher_hears_of_each_end_once_with_its_reason() {
    for shard in [0, 1] {
        let pair = Pair::on(shard);
        pair.one(Bond::Watch(pair.other.id()));
        pair.one(Bond::Watch(pair.other.id()));
        assert_eq!(pair.kit.census().watches(), 1, "twice is once");
        pair.other.tell(Boom).unwrap();
        assert_eq!(pair.heard(), [], "a restart is no end");
        assert_eq!(pair.other.drain().wait(), StopReason::Drained);
        assert_eq!(pair.heard(), [StopReason::Drained]);
        pair.one(Bond::Watch(pair.other.id()));
        assert_eq!(pair.heard(), [StopReason::Stopped], "of one that is gone, at once");
        // The watcher's own restart is no end of the watch either.
        let next = pair.kit.spawn_on(shard, Peer::default).unwrap();
        pair.one(Bond::Watch(next.id()));
        pair.one.tell(Boom).unwrap();
        pair.kit.kill(next);
        assert_eq!(pair.heard(), [StopReason::Panicked("killed by the test".into())]);
        pair.end();
    }
}

#[test]
fn who_unwatches_hears_nothing_even_of_news_in_its_mailbox() {
    for shard in [0, 1] {
        let pair = Pair::on(shard);
        pair.one(Bond::Watch(pair.other.id()));
        pair.one(Bond::Unwatch(pair.other.id()));
        assert_eq!(pair.kit.census().watches(), 0);
        pair.one(Bond::Watch(pair.other.id()));
        pair.one.ask(UnwatchAtItsEnd(pair.other)).wait().unwrap();
        assert_eq!(pair.heard(), []);
        pair.end();
    }
}

#[test]
fn no_watch_is_left_after_either_end() {
    for shard in [0, 1] {
        let pair = Pair::on(shard);
        let watchers: Vec<_> = (0..20).map(|number| pair.kit.spawn_on(number % 2, Peer::default).unwrap()).collect();
        for watcher in &watchers {
            watcher.ask(Bond::Watch(pair.other.id())).wait().unwrap();
        }
        pair.kit.run_until_idle();
        assert_eq!(pair.kit.census().watches(), 20);
        for watcher in &watchers[..10] {
            watcher.stop().wait();
        }
        pair.kit.run_until_idle();
        let census = pair.kit.census();
        assert_eq!((census.watches(), census.stale_watches), (10, 0), "those that are gone watch nobody");
        pair.other.stop().wait();
        for watcher in &watchers[10..] {
            watcher.stop().wait();
        }
        pair.end();
    }
}

#[test]
fn a_failure_takes_linked_actors_along_and_a_plain_end_does_not() {
    for shard in [0, 1] {
        for (backwards, dies) in [(false, true), (true, true), (false, false), (true, false)] {
            let pair = Pair::on(shard);
            // A link is the same from both sides.
            if backwards {
                pair.other.ask(Bond::Link(pair.one.id())).wait().unwrap();
            } else {
                pair.one(Bond::Link(pair.other.id()));
            }
            pair.kit.run_until_idle();
            pair.other.tell(Boom).unwrap();
            assert_eq!(pair.one.ask(Ping).wait(), Ok(7), "a restart is no end");
            let stopped = pair.one.stopped();
            if !dies {
                pair.other.stop().wait();
                assert_eq!(pair.one.ask(Ping).wait(), Ok(7));
                pair.end();
                continue;
            }
            pair.kit.kill(pair.other);
            let reason = stopped.wait();
            let text = format!("{:?}: Panicked(\"killed by the test\")", pair.other.id());
            assert_eq!(reason, StopReason::LinkBroken(text));
            assert_eq!(*pair.ended.lock().unwrap(), [reason], "its state is sound, so its hook runs");
            pair.end();
        }
    }
}

#[test]
fn links_break_one_after_the_other_around_a_ring_and_spare_who_unlinked() {
    let pair = Pair::on(1);
    let ring: Vec<_> = (0..8).map(|number| pair.kit.spawn_on(number % 2, Peer::default).unwrap()).collect();
    for (at, peer) in ring.iter().enumerate() {
        peer.ask(Bond::Link(ring[(at + 1) % ring.len()].id())).wait().unwrap();
    }
    pair.one(Bond::Link(ring[3].id()));
    pair.one(Bond::Unlink(ring[3].id()));
    pair.kit.kill(ring[0]);
    pair.kit.run_until_idle();
    assert_eq!(pair.kit.census().of::<Peer>(), 2, "all of the ring are gone");
    assert_eq!(pair.one.ask(Ping).wait(), Ok(7));
    pair.end();
}

#[test]
fn an_unlink_takes_the_link_off_both_sides_so_that_either_may_link_anew() {
    for shard in [0, 1] {
        for one_fails in [false, true] {
            let pair = Pair::on(shard);
            pair.one(Bond::Link(pair.other.id()));
            pair.one(Bond::Unlink(pair.other.id()));
            // Linked again from the side that did not unlink: a link like any other.
            pair.other.ask(Bond::Link(pair.one.id())).wait().unwrap();
            pair.kit.run_until_idle();
            let (fails, goes_along) = if one_fails { (pair.one, pair.other) } else { (pair.other, pair.one) };
            let stopped = goes_along.stopped();
            pair.kit.kill(fails);
            pair.kit.run_until_idle();
            assert!(goes_along.ask(Ping).wait().is_err(), "on shard {shard}, {one_fails}");
            let text = format!("{:?}: Panicked(\"killed by the test\")", fails.id());
            assert_eq!(stopped.wait(), StopReason::LinkBroken(text));
            pair.end();
        }
    }
}

#[test]
fn one_that_traps_is_told_and_lives() {
    for shard in [0, 1] {
        let pair = Pair::on(shard);
        pair.one(Bond::Trap(true));
        pair.one(Bond::Link(pair.other.id()));
        pair.one(Bond::Watch(pair.other.id()));
        pair.kit.kill(pair.other);
        let killed = StopReason::Panicked("killed by the test".into());
        assert_eq!(pair.heard(), [killed], "of one that is watched too, once");
        // Plain ends are told too, and of one that is gone already.
        let next = pair.kit.spawn_on(shard, Peer::default).unwrap();
        pair.one(Bond::Link(next.id()));
        next.stop().wait();
        assert_eq!(pair.heard(), [StopReason::Stopped]);
        pair.one(Bond::Link(next.id()));
        assert_eq!(pair.heard(), [StopReason::Stopped]);
        // Without the trap, that is a failure.
        pair.one(Bond::Trap(false));
        let stopped = pair.one.stopped();
        pair.one.tell(Bond::Link(next.id())).unwrap();
        assert!(matches!(stopped.wait(), StopReason::LinkBroken(_)));
        pair.end();
    }
}

#[test]
fn a_supervised_actor_that_a_link_took_along_comes_back() {
    for (spec, lives) in [(ChildSpec::transient(), true), (ChildSpec::permanent(), true), (ChildSpec::never(), false)] {
        let pair = Pair::on(1);
        let child = pair.one.ask(Spawn(spec)).wait().unwrap().unwrap();
        child.ask(Bond::Link(pair.other.id())).wait().unwrap();
        pair.kit.run_until_idle();
        pair.kit.kill(pair.other);
        pair.kit.run_until_idle();
        assert_eq!(child.ask(Ping).wait().is_ok(), lives, "{spec:?}");
        pair.end();
    }
}

#[test]
fn news_that_come_while_a_watcher_stops_reach_its_next_life() {
    for shard in [0, 1] {
        let pair = Pair::on(shard);
        let slow = pair.kit.spawn_on(1, Peer::default).unwrap();
        let heard = Heard::default();
        let child = pair.one.ask(Raise(Arc::clone(&heard))).wait().unwrap();
        child.ask(Bond::Watch(pair.other.id())).wait().unwrap();
        let stall = pair.kit.stall(slow);
        child.tell(AwaitPing(slow)).unwrap();
        pair.kit.run_until_idle();
        // It stops when its handler has ended, and the other one has by then.
        drop(child.stop());
        pair.other.stop().wait();
        pair.kit.run_until_idle();
        assert!(heard.lock().unwrap().is_empty());
        drop(stall);
        pair.kit.run_until_idle();
        assert_eq!(*heard.lock().unwrap(), [(pair.other.id(), StopReason::Stopped)], "a restart is no end");
        child.ask(Ping).wait().unwrap();
        slow.stop().wait();
        pair.end();
    }
}
