//! One clip from file to patches, and the stages after decoding by themselves.

#![expect(
    missing_docs,
    reason = "criterion_group! makes functions without documentation"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::PathBuf;
use videothinker::config::VideoConfig;
use videothinker::video::resize::Resizer;
use videothinker::video::{load, load_patches};

fn clip_to_patches(criterion: &mut Criterion) {
    let clip = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/video/clips/large.mp4");
    let config = VideoConfig::default();
    let mut group = criterion.benchmark_group("video");
    group.bench_function("decode_resize_patches", |bencher| {
        bencher.iter(|| load_patches(black_box(&clip), &config));
    });
    match load(&clip, &config) {
        Ok((_, frames)) => {
            group.throughput(Throughput::Bytes(frames.values.len() as u64));
            group.bench_function("patches", |bencher| {
                bencher.iter(|| black_box(&frames).patches());
            });
        }
        Err(error) => panic!("{error}"),
    }
    group.finish();
}

/// A CLEVRER frame to the paper's size.
fn resize(criterion: &mut Criterion) {
    let frame: Vec<u8> = (0..320 * 480 * 3u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut resizer = Resizer::new([320, 480], [308, 476]);
    criterion.bench_function("video/resize_480x320", |bencher| {
        bencher.iter_batched_ref(
            || vec![0; 308 * 476 * 3],
            |output| resizer.resize(black_box(&frame), output),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, clip_to_patches, resize);
criterion_main!(benches);
