//! The part of the cast that comes and leaves by itself: pages, which are virtual, and hands, which are workers.
//!
//! Invariant: as of the [cast](super::cast).

use shardstage::prelude::*;

use super::ledger::{Slip, saw, with};

/// A virtual actor.
pub(crate) struct Page {
    key: String,
    life: u64,
}
impl Actor for Page {}

impl VirtualActor for Page {
    const TYPE: &'static str = "everything.page";

    fn activate(key: &str) -> Self {
        let life = with(|ledger| {
            let states = ledger.pages.entry(key.to_owned()).or_default();
            *states += 1;
            let states = *states;
            ledger.expect(states == 1, || format!("{states} pages of {key} at a time"));
            let life = ledger.lives.entry(key.to_owned()).or_default();
            *life += 1;
            *life
        });
        Self { key: key.to_owned(), life }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        with(|ledger| *ledger.pages.entry(self.key.clone()).or_default() -= 1);
    }
}

#[message(id = "everything.note")]
pub(crate) struct PageNote {
    pub(crate) from: u64,
    pub(crate) number: u64,
}
#[message(id = "everything.query", reply = u64)]
pub(crate) struct PageQuery(pub u64);

impl Handler<PageNote> for Page {
    fn handle(&mut self, note: PageNote, cx: &mut Context<Self>) {
        let at = (self.key.clone(), note.from);
        with(|ledger| {
            ledger.notes_handled += 1;
            let before = ledger.noted.insert(at.clone(), (self.life, note.number));
            let now = (self.life, note.number);
            let in_order = before.is_none_or(|before| before.0 <= now.0 && before.1 < now.1);
            ledger.expect(in_order, || format!("{at:?}: {now:?} after {before:?}"));
        });
        assert!(!cx.random_u64().is_multiple_of(40), "planted");
    }
}

impl Handler<PageQuery> for Page {
    fn handle(&mut self, query: PageQuery, cx: &mut Context<Self>) -> u64 {
        if query.0.is_multiple_of(3) {
            cx.passivate();
        }
        query.0
    }
}

/// A stateless worker.
pub(crate) struct Hand(String);
impl Actor for Hand {}

impl VirtualActor for Hand {
    const TYPE: &'static str = "everything.hand";

    fn activate(number: &str) -> Self {
        with(|ledger| {
            let states = ledger.hands.entry(number.to_owned()).or_default();
            *states += 1;
            let states = *states;
            ledger.expect(states <= 3, || format!("{states} hands of number {number} on three shards"));
        });
        Self(number.to_owned())
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        with(|ledger| *ledger.hands.entry(self.0.clone()).or_default() -= 1);
    }
}

#[message]
pub(crate) struct Chore(pub(crate) Slip);

impl Handler<Chore> for Hand {
    fn handle(&mut self, chore: Chore, cx: &mut Context<Self>) {
        chore.0.handled("");
        assert!(!cx.random_u64().is_multiple_of(30), "planted");
    }
}

/// Notes for a virtual actor.
pub(crate) fn page_notes(page: &VirtualRef<Page>, from: u64, count: u64) {
    for _ in 0..count {
        let number = with(|ledger| {
            ledger.notes_written += 1;
            ledger.notes_written
        });
        match page.tell(PageNote { from, number }) {
            Ok(()) => with(|ledger| ledger.notes_accepted += 1),
            Err(_) => saw("a page had no room"),
        }
    }
}
