//! Generation and one whole CDPO step on the untrained miniature model: 2 questions, 8 completions each.

#![expect(
    missing_docs,
    reason = "criterion_group! makes functions without documentation"
)]

mod miniature;

use criterion::{Criterion, criterion_group, criterion_main};
use miniature::Miniature;

fn steps(criterion: &mut Criterion) {
    let mut setup = match Miniature::new() {
        Ok(setup) => setup,
        Err(error) => panic!("{error:#}"),
    };
    let mut group = criterion.benchmark_group("miniature");
    group.sample_size(10);
    group.bench_function("generate_2x8x64", |bencher| {
        bencher.iter(|| setup.generate());
    });
    group.bench_function("cdpo_step_2x8x64", |bencher| bencher.iter(|| setup.step()));
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
