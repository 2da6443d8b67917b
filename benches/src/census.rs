//! `Resident`: the state of a spawned actor, whose drop is counted, so that a run ends when the last one is gone.
//!
//! Invariant: all residents of a run are dropped on one thread. Every run has threads of its own, so counts begin at 0.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

thread_local! {
    static GONE: Cell<u64> = const { Cell::new(0) };
}

static END: Mutex<Option<Sender<Instant>>> = Mutex::new(None);

/// One of so many.
#[derive(Debug)]
pub struct Resident {
    of: u64,
}

impl Resident {
    /// One of `of`.
    #[must_use]
    pub fn new(of: u64) -> Self {
        Self { of }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let gone = GONE.get() + 1;
        GONE.set(gone);
        if gone == self.of
            && let Some(end) = END.lock().expect("nobody panics with it").take()
        {
            let _nobody_waits = end.send(Instant::now());
        }
    }
}

/// Gets the moment at which the last resident of the next run is gone.
///
/// # Panics
/// When another thread panicked while it counted.
#[must_use]
pub fn last_gone() -> Receiver<Instant> {
    let (end, ended) = channel();
    *END.lock().expect("nobody panics with it") = Some(end);
    ended
}
