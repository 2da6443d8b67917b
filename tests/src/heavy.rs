//! Messages that weigh something, and who tells them; for tests of mailboxes that are bounded by bytes.

use shardstage::prelude::*;
use shardstage::testkit::TestKit;
use shardstage::{ActorId, TellError};

/// The bound of the mailboxes in these tests, bytes.
pub const BYTES: u32 = 1000;

/// Weighs what its body is long.
#[message(id = "heavy.blob", weight = Blob::weight)]
#[derive(Debug)]
pub struct Blob {
    /// Which one it is.
    pub number: u64,
    /// What is heavy.
    pub body: Vec<u8>,
}

impl Blob {
    /// One with a body of so many bytes.
    #[must_use]
    pub fn new(number: u64, bytes: usize) -> Self {
        Self { number, body: vec![0; bytes] }
    }

    fn weight(&self) -> usize {
        self.body.len()
    }
}

/// Tells blobs of these weights, numbered from `first` on; answers which were taken.
#[message(reply = Vec<bool>)]
#[derive(Debug)]
pub struct Tell {
    /// To whom.
    pub to: Recipient<Blob>,
    /// The first one's number.
    pub first: u64,
    /// What they weigh.
    pub weights: Vec<usize>,
}

/// Sends such blobs, and waits for room for each.
#[message]
#[derive(Debug)]
pub struct SendAll {
    /// To whom.
    pub to: Recipient<Blob>,
    /// The first one's number.
    pub first: u64,
    /// What they weigh.
    pub weights: Vec<usize>,
}

/// Tells and sends.
#[derive(Debug, Default)]
pub struct Teller;
impl Actor for Teller {}

impl Handler<Tell> for Teller {
    fn handle(&mut self, order: Tell, _cx: &mut Context<Self>) -> Vec<bool> {
        tell(order.to, order.first, &order.weights)
    }
}

impl AsyncHandler<SendAll> for Teller {
    async fn handle(&mut self, order: SendAll, _cx: &mut Context<Self>) {
        for (number, bytes) in (order.first..).zip(order.weights) {
            order.to.send(Blob::new(number, bytes)).await.expect("the receiver lives");
        }
    }
}

fn tell(to: Recipient<Blob>, first: u64, weights: &[usize]) -> Vec<bool> {
    let tell = |(number, bytes): (u64, &usize)| match to.tell(Blob::new(number, *bytes)) {
        Ok(()) => true,
        Err(TellError::Full(blob)) => {
            assert_eq!((blob.number, blob.body.len()), (number, *bytes), "what comes back is what was told");
            false
        }
        Err(error) => panic!("{error}"),
    };
    (first..).zip(weights).map(tell).collect()
}

/// Has blobs told from a shard, or from outside, and waits until all is quiet; which of them were taken.
///
/// # Panics
/// When they are refused for another reason than want of room.
#[track_caller]
pub fn told(kit: &TestKit, shard: Option<u16>, to: Recipient<Blob>, first: u64, weights: &[usize]) -> Vec<bool> {
    let taken = match shard {
        Some(shard) => {
            let teller = kit.spawn_on(shard, Teller::default).expect("it runs");
            let weights = weights.to_vec();
            kit.block_on(teller.ask(Tell { to, first, weights })).expect("it answers")
        }
        None => tell(to, first, weights),
    };
    kit.run_until_idle();
    taken
}

/// (messages, bytes) that wait for an actor with a mailbox of [`BYTES`].
///
/// # Panics
/// When it is not there, or its mailbox has another bound.
#[must_use]
#[track_caller]
pub fn queued(kit: &TestKit, id: impl Into<ActorId>) -> (u32, u64) {
    let id = id.into();
    let found = kit.engine().introspect().wait();
    let actor = found.actors.iter().find(|actor| actor.id == id).expect("it lives");
    assert_eq!(actor.capacity_bytes, Some(BYTES));
    (actor.queued, actor.queued_bytes)
}
