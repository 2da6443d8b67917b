//! A life from beginning to end: hooks, children that end before their parent, and a stop that is over when it says so.
//! `cargo run --example lifecycle`

use std::sync::{Arc, Mutex};

use shardstage::BoxError;
use shardstage::prelude::*;

type Log = Arc<Mutex<Vec<&'static str>>>;

/// Keeps a file open, and a writer below it.
struct Archive {
    log: Log,
}

struct Writer {
    log: Log,
}

impl Archive {
    fn note(&self, what: &'static str) {
        self.log.lock().expect("nobody panicked").push(what);
    }
}

impl Actor for Archive {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        self.note("archive opens");
        let log = Arc::clone(&self.log);
        cx.spawn(move || Writer { log: Arc::clone(&log) })?; // a child of this actor
        Ok(())
    }

    fn stopping(&mut self, _: &StopReason, cx: &mut Context<Self>) {
        assert_eq!(cx.children().len(), 1); // the writer still runs
        self.note("archive takes no more");
    }

    fn stopped(&mut self, reason: &StopReason, _: &mut Context<Self>) {
        assert_eq!(*reason, StopReason::Drained);
        self.note("archive closes");
    }
}

impl Actor for Writer {
    fn stopped(&mut self, reason: &StopReason, _: &mut Context<Self>) {
        assert_eq!(*reason, StopReason::ParentStopped);
        self.log.lock().expect("nobody panicked").push("writer flushes");
    }
}

#[message]
struct Store;

impl Handler<Store> for Archive {
    fn handle(&mut self, _: Store, _: &mut Context<Self>) {
        self.note("archive stores");
    }
}

fn main() -> shardstage::Result<()> {
    let engine = Engine::start(Config::default())?;
    let log = Log::default();
    let for_archive = Arc::clone(&log);
    let archive = engine.spawn(move || Archive { log: Arc::clone(&for_archive) })?;
    archive.started().wait().expect("it opens");
    archive.tell(Store)?;
    let reason = archive.drain().wait(); // what was sent is handled; then the writer stops, then the archive
    assert_eq!(reason, StopReason::Drained);
    assert_eq!(archive.ask(Store).wait(), Err(AskError::Rejected(Rejected::Closed)));
    let expected = ["archive opens", "archive stores", "archive takes no more", "writer flushes", "archive closes"];
    assert_eq!(*log.lock().expect("nobody panicked"), expected);
    engine.shutdown()
}
