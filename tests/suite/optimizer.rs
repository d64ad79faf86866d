//! AdamW, clipping and the linear schedule against five steps of torch (`scripts/make_golden_optimizer.py`).

use candle_core::{Device, Var};
use std::path::Path;
use videothinker::config::OptimizerConfig;
use videothinker::train::optimizer::{AdamW, Gradients, learning_rate};

const STEPS: usize = 5;

#[test]
fn five_steps_are_those_of_torch() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/optimizer/adamw.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let config = OptimizerConfig {
        learning_rate: 3e-3,
        beta2: 0.99,
        weight_decay: 0.1,
        max_grad_norm: 4.0,
        ..OptimizerConfig::default()
    };
    let names = ["a.weight", "b.bias", "c.weight"];
    let vars = names.map(|name| {
        let start = Var::from_tensor(&golden[&format!("start.{name}")]).unwrap();
        (name.to_owned(), start)
    });
    let mut adamw = AdamW::new(vars.clone(), &config).unwrap();
    let norms: Vec<f32> = golden["norms"].to_vec1().unwrap();
    assert!(
        norms[0] > 4.0 && norms[STEPS - 1] < 4.0,
        "both sides of the limit"
    );
    for step in 0..STEPS {
        let gradients: Gradients = names
            .iter()
            .map(|name| {
                (
                    (*name).to_owned(),
                    golden[&format!("gradient.{step}.{name}")].clone(),
                )
            })
            .collect();
        let update = adamw
            .step(&gradients, learning_rate(&config, step, STEPS))
            .unwrap();
        assert!(update.applied);
        let norm = f64::from(norms[step]);
        assert!((update.grad_norm - norm).abs() < 1e-5 * norm);
        for (name, var) in &vars {
            let want = &golden[&format!("after.{step}.{name}")];
            let difference = (var.as_tensor() - want).unwrap().abs().unwrap();
            let worst: f32 = difference.max_all().unwrap().to_scalar().unwrap();
            assert!(worst < 1e-6, "step {step}, {name}: off by {worst}");
        }
    }
}
