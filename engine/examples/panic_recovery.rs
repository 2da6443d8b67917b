//! A panic ends one message: the asker hears of it, the actor is built anew and keeps its mailbox.

use shardstage::prelude::*;

struct Divider {
    done: u32,
}
impl Actor for Divider {}

#[message(reply = u32)]
struct Divide(u32, u32);

impl Handler<Divide> for Divider {
    fn handle(&mut self, Divide(a, b): Divide, _cx: &mut Context<Self>) -> u32 {
        self.done += 1;
        a / b // panics when b is 0
    }
}

/// How many divisions this state has seen.
#[message(reply = u32)]
struct Done;

impl Handler<Done> for Divider {
    fn handle(&mut self, _: Done, _cx: &mut Context<Self>) -> u32 {
        self.done
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let divider = engine.spawn(|| Divider { done: 0 })?; // the factory is kept, to build it again
    assert_eq!(divider.ask(Divide(6, 3)).wait()?, 2);

    let failed = divider.ask(Divide(1, 0)).wait();
    assert!(matches!(failed, Err(AskError::Failed(why)) if why.0.contains("divide by zero")));

    // The same reference, a fresh state: nothing half-changed is left of the old one.
    assert_eq!(divider.ask(Done).wait()?, 0);
    assert_eq!(divider.ask(Divide(8, 2)).wait()?, 4);

    // An actor that was made of what can be used once stops instead.
    let once = engine.spawn_once(|| Divider { done: 0 })?;
    let end = once.stopped();
    assert!(once.ask(Divide(1, 0)).wait().is_err());
    assert!(matches!(end.wait(), StopReason::Panicked(_)));
    engine.shutdown()
}
