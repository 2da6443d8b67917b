//! The seat of a foreign ask: the first completion wins, whoever waits is told, nothing is delivered twice.

use std::sync::Arc;

use loom::thread;

use super::check;
use super::latch::block_on;
use crate::error::{AskError, Rejected};
use crate::reply::{ForeignAsker, ForeignReply, ReplyOps};

type Reply = ForeignReply<Arc<()>>;

fn reply() -> Arc<Reply> {
    ForeignReply::new(ReplyOps { fail: |_, _, _| {}, complete_bytes: None })
}

#[test]
fn an_answer_reaches_a_task() {
    check(|| {
        let (reply, token) = (reply(), Arc::new(()));
        let (answering, value) = (Arc::clone(&reply), Arc::clone(&token));
        let shard = thread::spawn(move || answering.complete(Ok(value)));
        let value = block_on(|cx| reply.poll(cx)).expect("answered");
        assert!(Arc::ptr_eq(&value, &token));
        shard.join().expect("the shard does not panic");
        drop((value, reply));
        assert_eq!(Arc::strong_count(&token), 1);
    });
}

#[test]
fn an_answer_reaches_a_thread() {
    check(|| {
        let reply = reply();
        let answering = Arc::clone(&reply);
        let shard = thread::spawn(move || answering.complete(Ok(Arc::new(()))));
        // As in `Ask::wait`.
        let value = loop {
            match reply.try_take() {
                Some(value) => break value,
                None => thread::park(),
            }
        };
        value.expect("answered");
        shard.join().expect("the shard does not panic");
    });
}

#[test]
fn of_an_answer_and_a_failure_one_counts() {
    check(|| {
        let (reply, token) = (reply(), Arc::new(()));
        let (answering, value) = (Arc::clone(&reply), Arc::clone(&token));
        let shard = thread::spawn(move || answering.complete(Ok(value)));
        let failing = Arc::clone(&reply);
        let other = thread::spawn(move || failing.fail(AskError::Rejected(Rejected::Closed)));
        let result = block_on(|cx| reply.poll(cx));
        shard.join().expect("the shard does not panic");
        other.join().expect("the other thread does not panic");
        assert_eq!(Arc::strong_count(&token), 1 + usize::from(result.is_ok()));
    });
}

#[test]
fn an_answer_to_an_asker_that_left_is_dropped_once() {
    check(|| {
        let (reply, token) = (reply(), Arc::new(()));
        let (answering, value) = (Arc::clone(&reply), Arc::clone(&token));
        let shard = thread::spawn(move || answering.complete(Ok(value)));
        reply.abandon();
        shard.join().expect("the shard does not panic");
        assert_eq!(Arc::strong_count(&token), 1);
    });
}
