//! Hazard: overload. A bounded mailbox hands the message back from everywhere, and what overran it on arrival is counted
//! with sender, receiver and reason. Every message is handled, handed back or counted.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use shardstage::prelude::*;
use shardstage::{MessageName, Reason, limits};
use support::{Echo, Fill, Item, Ping, Sender0, Sink, block, engine_with_mailboxes, hold, on_tokio, seen, settle};

#[test]
fn same_shard_hands_the_message_back() {
    let engine = engine_with_mailboxes(1, 4);
    let (sink, sender) = (engine.spawn(Sink::default).unwrap(), engine.spawn(Sender0::default).unwrap());
    let (accepted, refused) = sender.ask(Fill { sink, from: 0, to: 10 }).wait().unwrap();
    assert_eq!((accepted, refused), (4, (4..10).collect()));
    assert_eq!(seen(sink), [0, 1, 2, 3]);
    assert_eq!(engine.dead_letters().total(), 0, "handed back is not a dead letter");
    engine.shutdown().unwrap();
}

#[test]
fn other_shard_bounces_once_and_then_hands_back() {
    let engine = engine_with_mailboxes(2, 4);
    let sender = engine.spawn_on(0, Sender0::default).unwrap();
    let (sink, echo) = (engine.spawn_on(1, Sink::default).unwrap(), engine.spawn_on(1, Echo::default).unwrap());
    let held = hold(sink);
    assert_eq!(sender.ask(Fill { sink, from: 0, to: 6 }).wait().unwrap(), (6, vec![]), "the ring had room");
    settle(sender, echo);
    assert_eq!(engine.dead_letters().count(Reason::Full), 2, "two overran the mailbox on arrival");
    for _ in 0..2 {
        let letter = engine.dead_letters().take().unwrap();
        assert_eq!((letter.receiver, letter.sender), (Some(sink.id()), Some(sender.id())));
        assert_eq!(letter.reason, Reason::Full);
        assert_eq!(letter.message, MessageName::Type(std::any::type_name::<Item>()));
    }
    let (accepted, refused) = sender.ask(Fill { sink, from: 6, to: 9 }).wait().unwrap();
    assert_eq!((accepted, refused), (0, vec![6, 7, 8]), "the sender's shard knows by now");
    drop(held);
    assert_eq!(seen(sink), [0, 1, 2, 3]);
    assert_eq!(sender.ask(Fill { sink, from: 9, to: 10 }).wait().unwrap(), (1, vec![]), "room again");
    settle(sender, echo);
    assert_eq!(seen(sink), [0, 1, 2, 3, 9]);
    assert_eq!(engine.dead_letters().total(), 2);
    engine.shutdown().unwrap();
}

#[test]
fn a_full_ring_hands_back_and_nothing_is_lost() {
    let engine = engine_with_mailboxes(2, 4);
    let sender = engine.spawn_on(0, Sender0::default).unwrap();
    let (sink, echo) = (engine.spawn_on(1, Sink::default).unwrap(), engine.spawn_on(1, Echo::default).unwrap());
    let blocked = block(echo);
    let total = limits::RING_SLOTS as u64 + 10;
    let (accepted, refused) = sender.ask(Fill { sink, from: 0, to: total }).wait().unwrap();
    assert_eq!(accepted, limits::RING_SLOTS as u64, "as many as the ring holds");
    assert_eq!(refused, (accepted..total).collect::<Vec<_>>());
    drop(blocked);
    settle(sender, echo);
    let handled = seen(sink);
    assert!(handled.is_sorted_by(|a, b| a < b));
    assert_eq!(handled.len() as u64 + engine.dead_letters().count(Reason::Full), accepted);
    engine.shutdown().unwrap();
}

#[test]
fn foreign_thread_bounces_once_and_then_gets_the_message_back() {
    let engine = engine_with_mailboxes(1, 4);
    let (sink, echo) = (engine.spawn(Sink::default).unwrap(), engine.spawn(Echo::default).unwrap());
    let held = hold(sink);
    let blocked = block(echo);
    for value in 0..6 {
        sink.tell(Item(value)).unwrap();
    }
    drop(blocked);
    // The first answer may come before the turn reports its dead letters, the second comes from a later turn.
    echo.ask(Ping(0)).wait().unwrap();
    echo.ask(Ping(1)).wait().unwrap();
    assert_eq!(engine.dead_letters().count(Reason::Full), 2);
    assert_eq!(engine.dead_letters().take().unwrap().sender, None, "no actor sent it");
    assert_eq!(sink.tell(Item(6)), Err(TellError::Full(Item(6))));
    drop(held);
    assert_eq!(seen(sink), [0, 1, 2, 3]);
    engine.shutdown().unwrap();
}

#[test]
fn foreign_thread_meets_a_full_injector() {
    let engine = engine_with_mailboxes(1, limits::INJECTOR_SLOTS as u32 * 2);
    let (sink, echo) = (engine.spawn(Sink::default).unwrap(), engine.spawn(Echo::default).unwrap());
    let blocked = block(echo);
    let slots = limits::INJECTOR_SLOTS as u64;
    for value in 0..slots {
        sink.tell(Item(value)).unwrap();
    }
    assert_eq!(sink.tell(Item(slots)), Err(TellError::Full(Item(slots))));
    assert_eq!(sink.ask(Item(slots)).wait(), Err(AskError::Rejected(Rejected::Full)));
    drop(blocked);
    while sink.tell(Item(slots)).is_err() {
        std::thread::yield_now();
    }
    assert_eq!(seen(sink), (0..=slots).collect::<Vec<_>>());
    assert_eq!(engine.dead_letters().total(), 0);
    engine.shutdown().unwrap();
}

#[test]
fn tokio_task_gets_the_message_back() {
    let engine = engine_with_mailboxes(1, 4);
    let (sink, echo) = (engine.spawn(Sink::default).unwrap(), engine.spawn(Echo::default).unwrap());
    let held = hold(sink);
    on_tokio(async {
        let blocked = block(echo);
        for value in 0..6 {
            sink.tell(Item(value)).unwrap();
        }
        drop(blocked);
        echo.ask(Ping(0)).await.unwrap();
        echo.ask(Ping(1)).await.unwrap();
        assert_eq!(engine.dead_letters().count(Reason::Full), 2);
        assert_eq!(sink.tell(Item(6)), Err(TellError::Full(Item(6))));
        assert_eq!(sink.ask(Item(7)).await, Err(AskError::Rejected(Rejected::Full)));
    });
    drop(held);
    assert_eq!(seen(sink), [0, 1, 2, 3]);
    engine.shutdown().unwrap();
}

#[test]
fn an_ask_that_overruns_is_rejected_as_full() {
    let engine = engine_with_mailboxes(1, 1);
    let sink = engine.spawn(Sink::default).unwrap();
    let held = hold(sink);
    sink.tell(Item(0)).unwrap();
    assert_eq!(sink.ask(Item(1)).wait(), Err(AskError::Rejected(Rejected::Full)));
    drop(held);
    assert_eq!(seen(sink), [0]);
    engine.shutdown().unwrap();
}

#[test]
fn a_full_actor_stalls_no_neighbour() {
    let engine = engine_with_mailboxes(2, 4);
    let sender = engine.spawn_on(0, Sender0::default).unwrap();
    let (sink, echo) = (engine.spawn_on(1, Sink::default).unwrap(), engine.spawn_on(1, Echo::default).unwrap());
    let held = hold(sink);
    let mut accepted = 0;
    for round in 0..200 {
        accepted += sender.ask(Fill { sink, from: round * 10, to: round * 10 + 10 }).wait().unwrap().0;
        assert_eq!(sender.ask(support::Relay { echo, value: round }).wait(), Ok(Ok(round)), "over the same ring");
        assert_eq!(echo.ask(Ping(round)).wait(), Ok(round), "on the same shard");
    }
    drop(held);
    settle(sender, echo);
    assert_eq!(seen(sink).len() as u64 + engine.dead_letters().count(Reason::Full), accepted);
    engine.shutdown().unwrap();
}

#[test]
fn many_senders_overload_one_actor_and_the_sum_holds() {
    const EACH: u64 = 2000;
    let engine = engine_with_mailboxes(2, 8);
    let sink = engine.spawn_on(0, Sink::default).unwrap();
    let senders = [engine.spawn_on(0, Sender0::default).unwrap(), engine.spawn_on(1, Sender0::default).unwrap()];
    let echo = engine.spawn_on(0, Echo::default).unwrap();
    let from_threads: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| (0..EACH).filter(|value| sink.tell(Item(*value)).is_ok()).count() as u64))
            .collect();
        let mut accepted = 0;
        for from in (0..EACH).step_by(20) {
            for sender in senders {
                accepted += sender.ask(Fill { sink, from, to: from + 20 }).wait().unwrap().0;
            }
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>() + accepted
    });
    settle(senders[1], echo);
    echo.ask(Ping(0)).wait().unwrap();
    echo.ask(Ping(1)).wait().unwrap();
    assert_eq!(seen(sink).len() as u64 + engine.dead_letters().count(Reason::Full), from_threads);
    engine.shutdown().unwrap();
}
