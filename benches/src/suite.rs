//! Runs all entries of some workloads under criterion, side by side in one group.

use std::time::Duration;

use criterion::{Criterion, Throughput};

use crate::workload::{Work, entries};

/// One criterion group a workload, one function an entry. For workloads whose figure is a time.
pub fn measure(criterion: &mut Criterion, works: &[Work]) {
    for &work in works {
        let mut group = criterion.benchmark_group(work.to_string());
        group.sample_size(10);
        group.warm_up_time(Duration::from_millis(500));
        group.measurement_time(Duration::from_secs(2));
        let batch = work.operations() / BATCHES;
        group.throughput(Throughput::Elements(batch));
        for entry in entries(work) {
            group.bench_function(entry.name, |bencher| {
                bencher.iter_custom(|iterations| {
                    let operations = iterations * batch;
                    Duration::from_secs_f64(entry.figure(operations) * operations as f64 / 1e9)
                })
            });
        }
        group.finish();
    }
}

/// A criterion iteration is so small a part of what `compare` runs at a time: enough operations to amortise the threads and
/// runtimes that every call starts anew.
const BATCHES: u64 = 200;
