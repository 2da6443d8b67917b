//! `ping_pong` on the same shard and on another one, beside the peers and the limit.

use criterion::{Criterion, criterion_group, criterion_main};
use shardstage_benches::suite::measure;
use shardstage_benches::workload::{Place, Work};

fn ping_pong(criterion: &mut Criterion) {
    measure(criterion, &[Work::PingPong(Place::SameShard), Work::PingPong(Place::OtherShard)]);
}

criterion_group!(benches, ping_pong);
criterion_main!(benches);
