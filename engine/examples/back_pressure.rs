//! A full mailbox hands the message back, or lets a sender wait for room. Nothing is queued without bound.

use std::sync::mpsc::{Receiver, channel};

use shardstage::prelude::*;

/// Works at the pace that somebody else sets.
struct Printer {
    paper: Receiver<()>,
    printed: Vec<u32>,
}
impl Actor for Printer {}

#[message]
#[derive(Debug)]
struct Print(u32);

impl Handler<Print> for Printer {
    fn handle(&mut self, Print(page): Print, _cx: &mut Context<Self>) {
        self.paper.recv().ok(); // blocks its shard: for the sake of the example only
        self.printed.push(page);
    }
}

#[message(reply = Vec<u32>)]
struct Printed;

impl Handler<Printed> for Printer {
    fn handle(&mut self, _: Printed, _cx: &mut Context<Self>) -> Vec<u32> {
        self.printed.clone()
    }
}

fn main() -> shardstage::Result<()> {
    let mut config = Config::default();
    config.mailbox_capacity = 4;
    let engine = Engine::start(config)?;
    let (refill, paper) = channel();
    let printer = engine.spawn_once(move || Printer { paper, printed: Vec::new() })?;

    // `tell` never waits: sooner or later the queue on the way to a busy actor is full, and the page comes back.
    let mut next = 0;
    let back = loop {
        match printer.tell(Print(next)) {
            Ok(()) => next += 1,
            Err(TellError::Full(Print(page))) => break page,
            Err(other) => return Err(other.into()),
        }
    };
    assert_eq!(back, next, "the one that was refused");
    drop(refill); // enough paper for all

    // `send` waits in line for room: `.await` it in async code, `.wait()` for it elsewhere.
    printer.send(Print(back)).wait()?;
    let printed = loop {
        match printer.ask(Printed).wait() {
            Err(AskError::Rejected(Rejected::Full)) => {} // an ask is handed back too: nothing was executed
            answer => break answer?,
        }
    };
    assert_eq!(printed.last(), Some(&back));

    // What was on its way when the mailbox first overran was counted, not lost in silence.
    let overran = usize::try_from(engine.dead_letters().total()).expect("a small number");
    assert_eq!(printed.len() + overran, next as usize + 1);
    engine.shutdown()
}
