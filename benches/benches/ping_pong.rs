//! Ping-pong on the same shard and between two that spin or park, beside the peers and the limit.

use criterion::{Criterion, criterion_group, criterion_main};
use shardstage_benches::suite::measure;
use shardstage_benches::workload::{Place, Work};

fn ping_pong(criterion: &mut Criterion) {
    let works = [Work::PingPong(Place::SameShard), Work::PingPong(Place::OtherShard), Work::PingPongParked];
    measure(criterion, &works);
}

criterion_group!(benches, ping_pong);
criterion_main!(benches);
