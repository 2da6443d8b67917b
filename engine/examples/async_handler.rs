//! An async handler waits without blocking its shard: the actor takes no other message meanwhile, others go on.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;

use shardstage::prelude::*;

/// What another thread works on: a stand-in for a database client, or any other future.
async fn answer_of_a_thread(question: u32) -> u32 {
    type Desk = Arc<Mutex<(Option<u32>, Option<Waker>)>>;
    let desk: Desk = Arc::default();
    let of_thread = Arc::clone(&desk);
    thread::spawn(move || {
        let mut desk = of_thread.lock().expect("nobody panics with it");
        desk.0 = Some(question * 2);
        if let Some(waker) = desk.1.take() {
            waker.wake(); // from any thread
        }
    });
    poll_fn(move |cx| {
        let mut desk = desk.lock().expect("nobody panics with it");
        desk.1 = Some(cx.waker().clone());
        desk.0.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

struct Sage {
    asked: u32,
}
impl Actor for Sage {}

#[message(reply = u32)]
struct Question(u32);

impl AsyncHandler<Question> for Sage {
    async fn handle(&mut self, Question(question): Question, _cx: &mut Context<Self>) -> u32 {
        self.asked += 1; // the state is this message's alone, across every await
        let answer = answer_of_a_thread(question).await;
        answer + self.asked
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let sage = engine.spawn(|| Sage { asked: 0 })?;
    assert_eq!(sage.ask(Question(10)).wait()?, 21);
    assert_eq!(sage.ask(Question(20)).wait()?, 42);
    engine.shutdown()
}
