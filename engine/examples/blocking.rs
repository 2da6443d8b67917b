//! Calls that take long, beside an actor: they run on a small pool of threads, and what they return is a turn of the actor.

use shardstage::prelude::*;

/// The n-th Fibonacci number, the slow way.
#[message(reply = u64)]
struct Fibonacci(u32);

/// Stands for a library that blocks, and that has a bug.
fn slow_library(n: u32) -> u64 {
    assert!(n < 40, "{n} is too large");
    if n < 2 { u64::from(n) } else { slow_library(n - 1) + slow_library(n - 2) }
}

#[derive(Default)]
struct Calculator {
    done: u32,
}
impl Actor for Calculator {}

impl DeferredHandler<Fibonacci> for Calculator {
    fn handle(&mut self, Fibonacci(n): Fibonacci, reply: Reply<u64>, cx: &mut Context<Self>) {
        let started = cx.spawn_blocking(move || slow_library(n)).then(|this, number, _cx| {
            this.done += 1;
            match number {
                Ok(number) => reply.send(number),
                Err(panic) => reply.fail(AskError::Failed(panic)), // the call panicked, not the actor
            }
        });
        if started.is_err() {
            self.done += 1; // the pool is full, and the reply was dropped: the asker hears `Failed` at once
        }
    }
}

#[message(reply = u32)]
struct Done;

impl Handler<Done> for Calculator {
    fn handle(&mut self, _: Done, _cx: &mut Context<Self>) -> u32 {
        self.done
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let calculator = engine.spawn(Calculator::default)?;
    assert_eq!(calculator.ask(Fibonacci(20)).wait()?, 6765);
    assert!(matches!(calculator.ask(Fibonacci(50)).wait(), Err(AskError::Failed(_))));
    assert_eq!(calculator.ask(Done).wait()?, 2);
    engine.shutdown()
}
