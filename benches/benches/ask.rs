//! `ask` on the same shard and on another one, beside the peers and the limit.

use criterion::{Criterion, criterion_group, criterion_main};
use shardstage_benches::suite::measure;
use shardstage_benches::workload::{Place, Work};

fn ask(criterion: &mut Criterion) {
    measure(criterion, &[Work::Ask(Place::SameShard), Work::Ask(Place::OtherShard)]);
}

criterion_group!(benches, ask);
criterion_main!(benches);
