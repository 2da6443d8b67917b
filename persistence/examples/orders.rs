//! Events only, and events of an older program: `cargo run -p shardstage-persistence --example orders`.

use shardstage::prelude::*;
use shardstage_persistence::prelude::*;

#[wire(id = "shop.placed", version = 1)]
struct PlacedV1 {
    euros: u32,
}
#[wire(id = "shop.placed", version = 2)]
struct Placed {
    cents: u64,
}

impl From<PlacedV1> for Placed {
    fn from(old: PlacedV1) -> Self {
        Self { cents: u64::from(old.euros) * 100 }
    }
}

#[message(id = "shop.place", reply = u64)]
struct Place {
    amount: u32,
}

#[wire]
#[derive(Clone, Default)]
struct Old {
    cents: u64,
}

impl Fold for Old {
    const NAME: &'static str = "shop.orders";
    const POLICY: SnapshotPolicy = SnapshotPolicy::NEVER;
    type Event = PlacedV1;
    fn apply(&mut self, placed: &PlacedV1) {
        self.cents += u64::from(placed.euros) * 100;
    }
}

impl CommandHandler<Place> for Old {
    fn handle(&self, Place { amount }: Place, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist(PlacedV1 { euros: amount }).reply(self.cents + u64::from(amount) * 100)
    }
}

#[wire]
#[derive(Clone, Default)]
struct Orders {
    cents: u64,
}

impl Fold for Orders {
    const NAME: &'static str = "shop.orders";
    const POLICY: SnapshotPolicy = SnapshotPolicy::NEVER;
    type Event = Placed;
    fn apply(&mut self, placed: &Placed) {
        self.cents += placed.cents;
    }
    fn upcast(stored: Stored<'_>) -> Upcast<'_, Placed> {
        stored.read::<PlacedV1>().then::<Placed>()
    }
}

impl CommandHandler<Place> for Orders {
    fn handle(&self, Place { amount }: Place, _cx: &CommandContext<'_, Self>) -> Effect<Self, u64> {
        Effect::persist(Placed { cents: amount.into() }).reply(self.cents + u64::from(amount))
    }
}

fn main() -> shardstage::Result<()> {
    let store = MemoryStore::new();
    let old = Engine::builder().service(store.clone()).register::<Durable<Old>>(|orders| orders).start()?;
    assert_eq!(old.actor::<Durable<Old>>("alice").ask(Place { amount: 2 }).wait()?, 200);
    old.shutdown()?;
    let new = Engine::builder().service(store).register::<Durable<Orders>>(|orders| orders).start()?;
    assert_eq!(new.actor::<Durable<Orders>>("alice").ask(Place { amount: 50 }).wait()?, 250);
    new.shutdown()
}
