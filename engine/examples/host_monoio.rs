//! A shard inside a monoio runtime: one thread runs actors, and tasks of the runtime tell and ask them.
//!
//! `cargo run --example host_monoio --features host-monoio`

use std::time::Duration;

use shardstage::prelude::*;

#[derive(Default)]
struct Counter {
    total: i64,
}
impl Actor for Counter {}

#[message(reply = i64)]
struct Add {
    amount: i64,
}

impl Handler<Add> for Counter {
    fn handle(&mut self, add: Add, _cx: &mut Context<Self>) -> i64 {
        self.total += add.amount;
        self.total
    }
}

fn main() -> shardstage::Result<()> {
    let mut config = Config::default();
    config.shards = Some(1);
    let (engine, mut shards) = Engine::builder().config(config).build_hosted()?;
    let shard = shards.pop().expect("one was configured");
    // The shard sleeps on the runtime's timers.
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .with_entries(256)
        .enable_timer()
        .build()
        .map_err(shardstage::StartError::Driver)?;
    let total = runtime.block_on(async move {
        let hosted = monoio::spawn(shardstage::host::monoio::run(shard));
        // The shard is open once it has had its first turn.
        let counter = loop {
            match engine.spawn(Counter::default) {
                Ok(counter) => break counter,
                Err(_) => monoio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        counter.tell(Add { amount: 40 })?;
        let total = counter.ask(Add { amount: 2 }).await?;
        // On this thread nothing may wait for the shard by blocking, which `shutdown` does.
        engine.begin_stop();
        hosted.await?;
        Ok::<_, shardstage::Error>(total)
    })?;
    assert_eq!(total, 42);
    Ok(())
}
