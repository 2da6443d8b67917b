//! Asks between two engines over loopback QUIC, one and 64 in flight, beside a raw UDP echo.

use criterion::{Criterion, criterion_group, criterion_main};
use shardstage_benches::limits::ASKS_IN_FLIGHT;
use shardstage_benches::suite::measure;
use shardstage_benches::workload::Work;

fn remote_ask(criterion: &mut Criterion) {
    measure(criterion, &[Work::RemoteAsk(1), Work::RemoteAsk(ASKS_IN_FLIGHT)]);
}

criterion_group!(benches, remote_ask);
criterion_main!(benches);
