//! Engines whose shards run inside a runtime that is not the engine's own: one thread with one runtime for each shard.

use shardstage::host::HostedShard;
use shardstage::{Engine, EngineBuilder, StartError};

use super::on_tokio;

/// Starts an engine with its shards in `tokio`, `monoio` or `glommio`.
pub fn start_in(runtime: &str, builder: EngineBuilder) -> Result<Engine, StartError> {
    let host = match runtime {
        "tokio" => in_tokio,
        "monoio" => in_monoio,
        "glommio" => in_glommio,
        other => panic!("SHARDSTAGE_HOST={other}: known are thread, tokio, monoio and glommio"),
    };
    builder.start_hosted(|shard| std::thread::Builder::new().spawn(move || host(shard)))
}

fn in_tokio(shard: HostedShard) -> Result<(), StartError> {
    on_tokio(shardstage::host::tokio::run(shard))
}

fn in_monoio(shard: HostedShard) -> Result<(), StartError> {
    on_monoio(shardstage::host::monoio::run(shard))
}

fn in_glommio(shard: HostedShard) -> Result<(), StartError> {
    on_glommio(shardstage::host::glommio::run(shard))
}

/// Runs a future on a monoio runtime of this thread.
pub fn on_monoio<F: Future>(future: F) -> F::Output {
    let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(256).enable_timer();
    builder.build().unwrap().block_on(future)
}

/// Runs a future on a glommio executor of this thread, one with little locked memory.
pub fn on_glommio<F: Future>(future: F) -> F::Output {
    glommio::LocalExecutorBuilder::default().ring_depth(64).io_memory(64 * 1024).make().unwrap().run(future)
}
