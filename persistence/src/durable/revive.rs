//! `Reviver`: looks for sleeping actors of one type and shard that owe outbox messages, and wakes them.
//!
//! Invariant: an actor that owes messages is woken within a bounded number of rounds after its outbox was started, however
//! many there are, and a bounded number in each. Shard thread only.

use std::rc::Rc;
use std::time::Duration;

use shardstage::{Actor, BoxError, Context, Handler, Message, kind, message};

use super::EventSourced;
use super::actor::Durable;
use super::courier::OutboxRoutes;
use crate::limits::{REVIVE_ACTORS, REVIVE_NS};
use crate::store::{EntityId, Owing, StoreKind, with_store};

/// Activates an actor whose outbox is not empty.
#[message(id = "shardstage.outbox-wake")]
struct OutboxWake {}

impl<A: EventSourced> Handler<OutboxWake> for Durable<A> {
    fn handle(&mut self, _: OutboxWake, cx: &mut Context<Self>) {
        self.send_outbox(cx);
    }
}

/// Looks for actors of one shard that owe messages.
pub(super) struct Reviver<A: EventSourced> {
    routes: OutboxRoutes<A>,
    after: EntityId,
    /// The store looks.
    asked: bool,
}

#[derive(Clone)]
struct Look {}

impl Message for Look {
    type Reply = ();
}

impl<A: EventSourced> Actor for Reviver<A> {
    fn started(&mut self, cx: &mut Context<Self>) -> Result<(), BoxError> {
        let kind =
            StoreKind::find(cx).ok_or("an outbox needs a store on its engine, such as the `EventLog` service")?;
        let shared = with_store(kind, cx, |store| store.shared()).ok_or("the store is busy")?;
        shared.start_outbox(A::TYPE, Rc::new(self.routes.clone()));
        self.look(cx);
        cx.every::<Look, kind::Sync>(Duration::from_nanos(REVIVE_NS), Look {});
        Ok(())
    }
}

impl<A: EventSourced> Reviver<A> {
    pub(super) fn new(routes: OutboxRoutes<A>) -> Self {
        Self { routes, after: EntityId(0), asked: false }
    }

    fn look(&mut self, cx: &mut Context<Self>) {
        let Some(kind) = StoreKind::find(cx).filter(|_| !self.asked) else { return };
        let (after, me) = (self.after, cx.me());
        let on_found = Box::new(move |found: Vec<Owing>, next| {
            let found = found.into_iter().filter(|owing| *owing.type_name == *A::TYPE);
            let keys = found.map(|owing| owing.key).collect();
            // Nobody else sends so much to it that there is no room.
            let _refused = me.tell::<Found, kind::Sync>(Found { keys, next });
        });
        self.asked = with_store(kind, cx, |store| store.owing(after, REVIVE_ACTORS, on_found)).is_some();
    }
}

/// The store's answer.
struct Found {
    keys: Vec<Box<str>>,
    next: EntityId,
}

impl Message for Found {
    type Reply = ();
}

impl<A: EventSourced> Handler<Found> for Reviver<A> {
    fn handle(&mut self, Found { keys, next }: Found, cx: &mut Context<Self>) {
        (self.asked, self.after) = (false, next);
        for key in keys {
            // Refused where its shard is busy; the next round comes.
            let _refused = cx.actor::<Durable<A>>(&*key).tell::<OutboxWake, kind::Sync>(OutboxWake {});
        }
    }
}

impl<A: EventSourced> Handler<Look> for Reviver<A> {
    fn handle(&mut self, _: Look, cx: &mut Context<Self>) {
        self.look(cx);
    }
}
