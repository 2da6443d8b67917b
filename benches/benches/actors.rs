//! Many actors: a crowd that talks, actors that come and go, a tree of them; beside the peers and the limit.

use criterion::{Criterion, criterion_group, criterion_main};
use shardstage_benches::suite::measure;
use shardstage_benches::workload::{Place, Work};

fn actors(criterion: &mut Criterion) {
    let works = [Work::Big(Place::SameShard), Work::Big(Place::OtherShard), Work::SpawnStop, Work::Fibonacci];
    measure(criterion, &works);
}

criterion_group!(benches, actors);
criterion_main!(benches);
