//! Encoding, checked access and rebuilding of two messages, beside copying as many bytes.
#![allow(missing_docs, reason = "what the wire derive writes carries none")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shardstage_codec::wire::AlignedBytes;
use shardstage_codec::{FrameHeader, FrameKind, MessageId, WireValue, access, decode, encode};

/// Flat: 64 bytes without a pointer.
#[shardstage::wire]
pub struct Flat {
    pub words: [u64; 8],
}

/// With text and a list: about 1 KiB.
#[shardstage::wire]
pub struct Nested {
    pub name: String,
    pub samples: Vec<u64>,
    pub note: Option<String>,
}

fn one<T: WireValue>(criterion: &mut Criterion, name: &str, value: &T) {
    let mut bytes = AlignedBytes::new();
    encode(value, &mut bytes).expect("the value fits");
    let mut group = criterion.benchmark_group(format!("codec, {name}, {} bytes", bytes.len()));
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let mut out = AlignedBytes::new();
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode(black_box(value), &mut out).expect("the value fits")
        });
    });
    group.bench_function("access", |bencher| {
        bencher.iter(|| {
            black_box(access::<T>(black_box(&bytes)).expect("just encoded"));
        });
    });
    group.bench_function("decode", |bencher| bencher.iter(|| decode::<T>(black_box(&bytes)).expect("just encoded")));
    let mut copy = vec![0_u8; bytes.len()];
    group.bench_function("memcpy", |bencher| {
        bencher.iter(|| {
            copy.copy_from_slice(black_box(&bytes));
            black_box(&mut copy);
        });
    });
    group.finish();
}

fn header(criterion: &mut Criterion) {
    let header = FrameHeader { message_id: MessageId::of("bench.message"), ..FrameHeader::new(FrameKind::Tell) };
    let mut bytes = [0; shardstage_codec::limits::HEADER_BYTES];
    criterion.bench_function("frame header, encode", |bencher| {
        bencher.iter(|| black_box(&header).encode(black_box(&mut bytes)));
    });
}

fn codec(criterion: &mut Criterion) {
    one(criterion, "flat", &Flat { words: [7; 8] });
    let nested = Nested { name: "x".repeat(100), samples: vec![7; 100], note: Some("y".repeat(100)) };
    one(criterion, "nested", &nested);
    header(criterion);
}

criterion_group!(benches, codec);
criterion_main!(benches);
