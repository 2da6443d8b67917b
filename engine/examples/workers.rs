//! Stateless workers: one name for as many activations a shard as there is work, up to a bound. Who sends stays on its shard.

use shardstage::prelude::*;

/// Checks signatures; has nothing to remember between two of them.
struct Checker;
impl Actor for Checker {}

impl VirtualActor for Checker {
    const TYPE: &'static str = "example.checker";

    fn activate(_number: &str) -> Self {
        Self
    }
}

/// Whether the text is signed, and on which shard that was found out.
#[message(reply = (bool, u16))]
struct Check {
    text: &'static str,
}

impl Handler<Check> for Checker {
    fn handle(&mut self, check: Check, cx: &mut Context<Self>) -> (bool, u16) {
        (check.text.ends_with("signed"), cx.shard().get())
    }
}

/// Takes letters on its shard and has them checked there.
struct Desk;
impl Actor for Desk {}

#[message(reply = bool)]
struct Letter {
    text: &'static str,
}

impl AsyncHandler<Letter> for Desk {
    async fn handle(&mut self, letter: Letter, cx: &mut Context<Self>) -> bool {
        let checked = cx.workers::<Checker>().ask(Check { text: letter.text }).await;
        checked.is_ok_and(|(signed, shard)| signed && shard == cx.shard().get())
    }
}

fn main() -> shardstage::Result<()> {
    let mut config = Config::default();
    config.shards = Some(2);
    let engine = Engine::builder()
        .config(config)
        .register::<Checker>(|checker| checker.workers_per_shard(4).mailbox_capacity(64))
        .start()?;
    for shard in 0..engine.shard_count() {
        let desk = engine.spawn_on(shard, || Desk)?;
        assert_eq!(desk.ask(Letter { text: "yours, signed" }).wait(), Ok(true));
        assert_eq!(desk.ask(Letter { text: "yours" }).wait(), Ok(false));
    }
    let (signed, _) = engine.workers::<Checker>().ask(Check { text: "signed" }).wait()?;
    assert!(signed);
    engine.shutdown()
}
