//! Calls that block, beside an actor: they run on a small pool of threads, and what they return is a turn of the actor.

use shardstage::prelude::*;

/// How many lines a file has.
#[message(reply = Option<usize>)]
struct Lines(&'static str);

#[derive(Default)]
struct Files {
    read: u32,
}
impl Actor for Files {}

impl DeferredHandler<Lines> for Files {
    fn handle(&mut self, Lines(path): Lines, reply: Reply<Option<usize>>, cx: &mut Context<Self>) {
        let started = cx.spawn_blocking(move || std::fs::read_to_string(path)).then(|this, text, _cx| {
            this.read += 1;
            // Twice: the call may have panicked, and the file may not be there.
            reply.send(text.ok().and_then(Result::ok).map(|text| text.lines().count()));
        });
        if started.is_err() {
            cx.stop(); // the pool is full, and the reply was dropped: the asker hears `Failed` at once
        }
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let files = engine.spawn(Files::default)?;
    assert_eq!(files.ask(Lines("/no/such/file")).wait()?, None);
    assert!(files.ask(Lines(file!())).wait()?.is_none_or(|lines| lines > 10));
    engine.shutdown()
}
