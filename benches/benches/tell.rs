//! `tell` on the same shard, from one producer and from eight, and on another one, beside the peers and the limit.

use criterion::{Criterion, criterion_group, criterion_main};
use shardstage_benches::suite::measure;
use shardstage_benches::workload::{Place, Work};

fn tell(criterion: &mut Criterion) {
    measure(criterion, &[Work::Tell(Place::SameShard), Work::FanIn, Work::Tell(Place::OtherShard)]);
}

criterion_group!(benches, tell);
criterion_main!(benches);
