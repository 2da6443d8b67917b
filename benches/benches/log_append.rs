//! Durable appends of one writer and of 64, beside raw blocks and the standard library.

use criterion::{Criterion, criterion_group, criterion_main};
use shardstage_benches::log::LogWork;
use shardstage_benches::suite::measure;
use shardstage_benches::workload::Work;

fn log_append(criterion: &mut Criterion) {
    measure(criterion, &[Work::Log(LogWork::OneParked), Work::Log(LogWork::Writers)]);
}

criterion_group!(benches, log_append);
criterion_main!(benches);
