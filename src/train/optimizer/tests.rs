//! Updates, resumed states and refusals, in every format of `optimizer.memory`.

use super::*;
use candle_core::DType;

const MEMORIES: [OptimizerMemory; 3] = [
    OptimizerMemory::Full,
    OptimizerMemory::Compact,
    OptimizerMemory::Host,
];

fn config() -> OptimizerConfig {
    OptimizerConfig {
        learning_rate: 1e-2,
        weight_decay: 0.1,
        max_grad_norm: 1.0,
        ..OptimizerConfig::default()
    }
}

fn wave(count: usize, phase: f64) -> Vec<f32> {
    (0..count)
        .map(|i| (i as f64 * 0.7 + phase).sin() as f32)
        .collect()
}

fn tensor(count: usize, phase: f64) -> Tensor {
    Tensor::from_vec(wave(count, phase), count, &Device::Cpu).unwrap()
}

/// Of `config`, over 300 weights: more than a block, less than two.
fn optimizer_of(dtype: DType, config: &OptimizerConfig) -> (AdamW, Var) {
    let var = Var::from_tensor(&tensor(300, 0.0).to_dtype(dtype).unwrap()).unwrap();
    let adamw = AdamW::new([("w".to_owned(), var.clone())], config).unwrap();
    (adamw, var)
}

fn optimizer(dtype: DType, memory: OptimizerMemory) -> (AdamW, Var) {
    let config = OptimizerConfig { memory, ..config() };
    optimizer_of(dtype, &config)
}

fn gradients(phase: f64) -> Gradients {
    Gradients::from([("w".to_owned(), tensor(300, phase))])
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

fn state_of(adamw: &AdamW) -> BTreeMap<String, Tensor> {
    let copy = |(name, tensor): (String, Tensor)| (name, tensor.copy().unwrap());
    adamw.state().unwrap().into_iter().map(copy).collect()
}

/// Cosine of the movements from `start`, and the ratio of their lengths.
fn agreement(start: &[f32], got: &[f32], want: &[f32]) -> (f64, f64) {
    let moves = |to: &[f32]| -> Vec<f64> {
        let pairs = to.iter().zip(start);
        pairs
            .map(|(to, from)| f64::from(*to) - f64::from(*from))
            .collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (got, want) = (moves(got), moves(want));
    let lengths = [&got, &want].map(|x| dot(x, x).sqrt());
    (
        dot(&got, &want) / (lengths[0] * lengths[1]),
        lengths[0] / lengths[1],
    )
}

#[test]
fn the_update_is_the_one_written_in_tensor_operations() {
    for (dtype, memory) in [
        (DType::F32, OptimizerMemory::Full),
        (DType::BF16, OptimizerMemory::Full),
        (DType::F32, OptimizerMemory::Host),
        (DType::BF16, OptimizerMemory::Host),
    ] {
        let (mut adamw, _) = optimizer(dtype, memory);
        let mut weight = tensor(300, 0.0).to_dtype(dtype).unwrap();
        weight = weight.to_dtype(DType::F32).unwrap();
        let (mut m, mut v) = (weight.zeros_like().unwrap(), weight.zeros_like().unwrap());
        for t in 1..5 {
            let gradient = tensor(300, f64::from(t));
            let mut unclipped = config();
            unclipped.max_grad_norm = 1e9;
            let parameter = &mut adamw.parameters[0];
            let moved = parameter.update(&gradient, 0.3, 1e-2, &unclipped);
            upload(&mut [moved].into_iter()).unwrap();
            let g = (gradient * 0.3).unwrap();
            m = ((m * 0.9).unwrap() + (&g * 0.1).unwrap()).unwrap();
            v = ((v * 0.999).unwrap() + (g.sqr().unwrap() * 0.001).unwrap()).unwrap();
            let root = (v.sqrt().unwrap() / (1.0 - 0.999f64.powi(t)).sqrt()).unwrap();
            let size = 1e-2 / (1.0 - 0.9f64.powi(t));
            let moved = ((&m / (root + 1e-8).unwrap()).unwrap() * size).unwrap();
            weight = ((weight * (1.0 - 1e-3)).unwrap() - moved).unwrap();
        }
        let got = parameter_master(&adamw);
        for (a, b) in got.iter().zip(values(&weight)) {
            assert!((a - b).abs() < 1e-6, "{dtype:?} {memory:?}: {a} != {b}");
        }
    }
}

fn parameter_master(adamw: &AdamW) -> Vec<f32> {
    adamw.parameters[0].master()
}

#[test]
fn in_host_memory_the_numbers_are_the_same() {
    for dtype in [DType::F32, DType::BF16] {
        let (mut full, a) = optimizer(dtype, OptimizerMemory::Full);
        let (mut host, b) = optimizer(dtype, OptimizerMemory::Host);
        for step in 0..5 {
            let full = full.step(&gradients(f64::from(step)), 1e-2).unwrap();
            let host = host.step(&gradients(f64::from(step)), 1e-2).unwrap();
            assert_eq!(full, host);
        }
        assert_eq!(values(&a), values(&b));
        let (full, host) = (state_of(&full), state_of(&host));
        for name in ["first.w", "second.w"] {
            assert_eq!(values(&full[name]), values(&host[name]), "{name}");
        }
        assert_eq!(
            values(full.get("master.w").unwrap_or(&a)),
            values(&host["master.w"])
        );
    }
}

#[test]
fn a_split_master_moves_exactly_like_an_f32_weight() {
    let start = tensor(300, 0.0).to_dtype(DType::BF16).unwrap();
    let adamw = |start: &Tensor| {
        let config = OptimizerConfig {
            memory: OptimizerMemory::Compact,
            ..config()
        };
        let var = Var::from_tensor(start).unwrap();
        (
            AdamW::new([("w".to_owned(), var.clone())], &config).unwrap(),
            var,
        )
    };
    let (mut split, narrow) = adamw(&start);
    let (mut plain, wide) = adamw(&start.to_dtype(DType::F32).unwrap());
    for step in 0..20 {
        split.step(&gradients(f64::from(step)), 1e-5).unwrap();
        plain.step(&gradients(f64::from(step)), 1e-5).unwrap();
        assert_eq!(parameter_master(&split), values(&wide));
    }
    let nearest = wide.to_dtype(DType::BF16).unwrap();
    assert_eq!(values(&narrow), values(&nearest));
    assert_ne!(values(&narrow), values(&wide));
}

/// Gradients whose sizes differ by 10⁴ within a block, with a mean below their deviation, as in training.
fn noisy(count: usize, step: u32) -> Tensor {
    let uniform = |seed, i| f64::from(compact::hash(seed, i)) / f64::from(u32::MAX);
    let values: Vec<f32> = (0..count as u32)
        .map(|i| {
            let size = 10f64.powf(-4.0 * uniform(1, i));
            let mean = uniform(2, i) - 0.5;
            let noise: f64 = (3..7).map(|k| uniform(k + 16 * step, i) - 0.5).sum();
            (size * (mean + 2.0 * noise)) as f32
        })
        .collect();
    Tensor::from_vec(values, count, &Device::Cpu).unwrap()
}

#[test]
fn moments_in_8_bits_move_weights_as_f32_does() {
    let count = 4096;
    let start = vec![0f32; count];
    let run = |memory| {
        let zeros = Tensor::zeros(count, DType::F32, &Device::Cpu).unwrap();
        let var = Var::from_tensor(&zeros).unwrap();
        let config = OptimizerConfig {
            memory,
            ..OptimizerConfig::default()
        };
        let mut adamw = AdamW::new([("w".to_owned(), var.clone())], &config).unwrap();
        let at = |step: u32, adamw: &mut AdamW| {
            let gradients = Gradients::from([("w".to_owned(), noisy(count, step))]);
            adamw.step(&gradients, 1e-6).unwrap();
            values(&var)
        };
        let early = (0..10).map(|step| at(step, &mut adamw)).last().unwrap();
        let late = (10..500).map(|step| at(step, &mut adamw)).last().unwrap();
        (early, late)
    };
    let (early, late) = run(OptimizerMemory::Full);
    let (compact_early, compact_late) = run(OptimizerMemory::Compact);
    for (steps, got, want) in [(10, compact_early, early), (500, compact_late, late)] {
        let (cosine, ratio) = agreement(&start, &got, &want);
        println!("{steps} steps: cosine {cosine:.5}, length {ratio:.5}");
        assert!(cosine > 0.99, "{steps}: {cosine}");
        assert!((ratio - 1.0).abs() < 0.02, "{steps}: {ratio}");
    }
}

#[test]
fn bf16_weights_move_at_a_small_rate() {
    for memory in MEMORIES {
        let slow = OptimizerConfig {
            memory,
            ..OptimizerConfig::default()
        };
        let start = Tensor::full(0.02f32, 64, &Device::Cpu).unwrap();
        let var = Var::from_tensor(&start.to_dtype(DType::BF16).unwrap()).unwrap();
        let before = values(&var)[0];
        let mut adamw = AdamW::new([("w".to_owned(), var.clone())], &slow).unwrap();
        let ones = Tensor::ones(64, DType::BF16, &Device::Cpu).unwrap();
        for _ in 0..200 {
            let gradients = Gradients::from([("w".to_owned(), ones.clone())]);
            adamw.step(&gradients, 1e-6).unwrap();
        }
        let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
        let moved = before - mean(&values(&var));
        assert!((moved - 2e-4).abs() < 7e-5, "{memory:?}: {moved}");
        let moved = before - mean(&parameter_master(&adamw));
        let bound = if memory == OptimizerMemory::Compact {
            4e-6
        } else {
            1e-6
        };
        assert!((moved - 2e-4).abs() < bound, "{memory:?}: {moved}");
    }
}

#[test]
fn a_resumed_optimizer_goes_on_as_if_never_stopped() {
    for (dtype, memory) in [DType::F32, DType::BF16]
        .into_iter()
        .flat_map(|dtype| MEMORIES.map(|memory| (dtype, memory)))
    {
        let (mut whole, a) = optimizer(dtype, memory);
        let (mut first, b) = optimizer(dtype, memory);
        for step in 0..2 {
            whole.step(&gradients(f64::from(step)), 1e-2).unwrap();
            first.step(&gradients(f64::from(step)), 1e-2).unwrap();
        }
        let var = Var::from_tensor(&b.as_detached_tensor()).unwrap();
        let config = OptimizerConfig { memory, ..config() };
        let mut second = AdamW::new([("w".to_owned(), var.clone())], &config).unwrap();
        second.load_state(&first.state().unwrap()).unwrap();
        let untouched = state_of(&first);
        whole.step(&gradients(9.0), 1e-2).unwrap();
        second.step(&gradients(9.0), 1e-2).unwrap();
        assert_eq!(values(&a), values(&var), "{dtype:?} {memory:?}");
        for (name, tensor) in first.state().unwrap() {
            assert_eq!(values(&tensor), values(&untouched[&name]), "{name}");
        }
    }
}

#[test]
fn a_state_goes_on_in_another_format() {
    for dtype in [DType::F32, DType::BF16] {
        for (from, to) in [
            (OptimizerMemory::Full, OptimizerMemory::Host),
            (OptimizerMemory::Host, OptimizerMemory::Full),
            (OptimizerMemory::Full, OptimizerMemory::Compact),
            (OptimizerMemory::Compact, OptimizerMemory::Full),
            (OptimizerMemory::Compact, OptimizerMemory::Host),
            (OptimizerMemory::Host, OptimizerMemory::Compact),
        ] {
            let (mut before, a) = optimizer(dtype, from);
            for step in 0..3 {
                before.step(&gradients(f64::from(step)), 1e-2).unwrap();
            }
            let var = Var::from_tensor(&a.as_detached_tensor()).unwrap();
            let config = OptimizerConfig {
                memory: to,
                ..config()
            };
            let mut after = AdamW::new([("w".to_owned(), var.clone())], &config).unwrap();
            after.load_state(&before.state().unwrap()).unwrap();
            let what = format!("{dtype:?} {from:?} to {to:?}");
            assert_eq!(values(&a), values(&var), "{what}");
            assert_eq!(
                parameter_master(&before),
                parameter_master(&after),
                "{what}"
            );
            let start = values(&var);
            before.step(&gradients(9.0), 1e-2).unwrap();
            after.step(&gradients(9.0), 1e-2).unwrap();
            let (want, got) = (parameter_master(&before), parameter_master(&after));
            let (cosine, _) = agreement(&start, &got, &want);
            assert!(cosine > 0.995, "{what}: {cosine}");
            let exact = to != OptimizerMemory::Compact && from != OptimizerMemory::Compact;
            assert!(!exact || got == want, "{what}");
        }
    }
}

#[test]
fn a_state_that_does_not_fit_is_named() {
    for (memory, second) in [
        (OptimizerMemory::Full, "second.w"),
        (OptimizerMemory::Compact, "second_scales.w"),
    ] {
        let (mut adamw, _) = optimizer(DType::F32, memory);
        let whole = adamw.state().unwrap();
        let mut missing = whole.clone();
        missing.remove(second);
        let error = adamw.load_state(&missing).unwrap_err().to_string();
        assert!(error.contains(&format!("`{second}` is missing")), "{error}");
        let mut wrong = whole.clone();
        wrong.insert(second.to_owned(), tensor(3, 0.0));
        let error = adamw.load_state(&wrong).unwrap_err().to_string();
        assert!(error.contains("has shape [3]"), "{error}");
        let mut more = whole;
        more.insert("first.x".to_owned(), tensor(300, 0.0));
        let error = adamw.load_state(&more).unwrap_err().to_string();
        assert!(error.contains("`first.x` is not a tensor"), "{error}");
    }
    let (mut narrow, _) = optimizer(DType::BF16, OptimizerMemory::Full);
    let mut state = narrow.state().unwrap();
    state.remove("master.w");
    let error = narrow.load_state(&state).unwrap_err().to_string();
    assert!(error.contains("`master.w` is missing"), "{error}");
}

#[test]
fn a_bad_gradient_changes_nothing() {
    let (mut adamw, var) = optimizer(DType::F32, OptimizerMemory::Full);
    let before = values(&var);
    let mut bad = wave(300, 1.0);
    bad[17] = f32::NAN;
    let bad = Tensor::from_vec(bad, 300, &Device::Cpu).unwrap();
    let update = adamw
        .step(&Gradients::from([("w".to_owned(), bad)]), 1e-2)
        .unwrap();
    assert!(!update.applied);
    assert_eq!(before, values(&var));
    assert_eq!(adamw.parameters[0].updates(), 0);
    let stranger = Gradients::from([("x".to_owned(), tensor(300, 0.0))]);
    assert!(adamw.step(&stranger, 1e-2).is_err());
}
