//! The network against transformers (tests/golden/model), and checkpoints in every form.

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use videothinker::config::TextAfterVideo;
use videothinker::model::Qwen25Vl;
use videothinker::model::checkpoint_error::CheckpointError;
use videothinker::model::export;
use videothinker::model::packed::GroupLayout;
use videothinker::model::packed::PackedLayout;
use videothinker::model::positions::Positions;
use videothinker::model::positions::VideoSpan;
use videothinker::model::positions::prompt_positions;
use videothinker::model::spec::Spec;
use videothinker::model::vision_layout::VisionLayout;
use videothinker::model::weights;
use videothinker::model::weights::NamedTensors;

const GRIDS: [[usize; 3]; 2] = [[3, 6, 10], [1, 4, 4]];

/// A folder of tests/golden/model.
pub(crate) fn golden_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/model")
        .join(name)
}

/// The expected values.
pub(crate) fn reference() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden_folder("reference.safetensors"), &Device::Cpu).unwrap()
}

/// Rows `start..start + rows` of the made-up pixels: the murmur3 finaliser of each value's index.
pub(crate) fn pixels(start: usize, rows: usize) -> Tensor {
    let values: Vec<f32> = (start * 1176..(start + rows) * 1176)
        .map(|index| {
            let mut x = index as u32;
            x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
            x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
            x ^= x >> 16;
            ((f64::from(x) / 4_294_967_296.0 - 0.5) * 3.0) as f32
        })
        .collect();
    Tensor::from_vec(values, (rows, 1176), &Device::Cpu).unwrap()
}

/// Integers of the reference.
pub(crate) fn ids(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().unwrap().to_vec1::<i64>().unwrap();
    values.into_iter().map(|id| id as u32).collect()
}

/// The largest absolute difference.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar::<f32>().unwrap()
}

fn load(name: &str) -> Qwen25Vl {
    Qwen25Vl::load(&golden_folder(name), DType::F32, &Device::Cpu).unwrap()
}

fn video_rows(model: &Qwen25Vl, token_ids: &[u32]) -> Vec<u32> {
    (0u32..)
        .zip(token_ids)
        .filter(|&(_, &id)| id == model.spec.tokens.video_pad)
        .map(|(row, _)| row)
        .collect()
}

/// Embedded prompt followed by `completion`, its positions and layout.
fn inputs(
    model: &Qwen25Vl,
    prompt: &[u32],
    completion: &[u32],
) -> (Tensor, Positions, PackedLayout) {
    let span = VideoSpan {
        grid_thw: GRIDS[0],
        second_per_grid: 1.0,
        text_after: TextAfterVideo::default(),
    };
    let (mut positions, next) = prompt_positions(&model.spec, prompt, &[span]).unwrap();
    positions.extend(&Positions::text(next, completion.len()));
    let layout = VisionLayout::new(&model.spec.vision, &GRIDS[..1], &Device::Cpu).unwrap();
    let features = model.visual.forward(&pixels(0, 180), &layout).unwrap();
    let rows = video_rows(model, prompt);
    let all: Vec<u32> = prompt.iter().chain(completion).copied().collect();
    let embedded = model.embed(&all, &rows, Some(&features)).unwrap();
    let packed = PackedLayout::new(vec![GroupLayout {
        prompt_len: all.len(),
        completion_lens: vec![],
    }]);
    (embedded, positions, packed)
}

#[test]
fn vision_features_of_two_clips() {
    let (model, expected) = (load("tiny"), reference());
    let layout = VisionLayout::new(&model.spec.vision, &GRIDS, &Device::Cpu).unwrap();
    let (features, _) = model
        .visual
        .forward_traced(&pixels(0, 196), &layout)
        .unwrap();
    assert!(difference(&features, &expected["vision.features"]) < 1e-4);
    let alone = VisionLayout::new(&model.spec.vision, &GRIDS[1..], &Device::Cpu).unwrap();
    let second = model.visual.forward(&pixels(180, 16), &alone).unwrap();
    assert_eq!(alone.num_tokens(), 4);
    assert!(difference(&second, &features.narrow(0, 45, 4).unwrap()) < 1e-5);
}

#[test]
fn positions_of_long_short_and_several_clips() {
    let (model, expected) = (load("tiny"), reference());
    let manifest = std::fs::read_to_string(golden_folder("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let cases = manifest["positions"].as_object().unwrap();
    assert_eq!(cases.len(), 3);
    for (name, case) in cases {
        let grids: Vec<[usize; 3]> = serde_json::from_value(case["grids"].clone()).unwrap();
        let seconds: Vec<f64> = serde_json::from_value(case["second_per_grid"].clone()).unwrap();
        let spans: Vec<VideoSpan> = grids
            .iter()
            .zip(seconds)
            .map(|(&grid_thw, second_per_grid)| VideoSpan {
                grid_thw,
                second_per_grid,
                // These were written by transformers 5.
                text_after: TextAfterVideo::Spatial,
            })
            .collect();
        let token_ids = ids(&expected[&format!("positions.{name}.ids")]);
        let (positions, next) = prompt_positions(&model.spec, &token_ids, &spans).unwrap();
        assert_eq!(
            positions.axes.concat(),
            ids(&expected[&format!("positions.{name}")])
        );
        assert_eq!(next, positions.axes[0][token_ids.len() - 1] + 1);
    }
    let prompt = ids(&expected["prompt_ids"]);
    let (_, positions, _) = inputs(&model, &prompt, &[]);
    assert_eq!(positions.axes.concat(), ids(&expected["position_ids"]));
}

#[test]
fn text_follows_the_largest_position() {
    let (model, expected) = (load("tiny"), reference());
    let token_ids = ids(&expected["positions.long.ids"]);
    let span = VideoSpan {
        grid_thw: [6, 4, 4],
        second_per_grid: 1.0,
        text_after: TextAfterVideo::default(),
    };
    let (positions, next) = prompt_positions(&model.spec, &token_ids, &[span]).unwrap();
    // Three text tokens, then time runs to 3 + 5 · 2: text goes on at 14.
    assert_eq!(positions.axes[1][token_ids.len() - 3..], [14, 15, 16]);
    assert_eq!(next, 17);
}

#[test]
fn placeholders_and_clips_must_agree() {
    let model = load("tiny");
    let pad = model.spec.tokens.video_pad;
    let span = VideoSpan {
        grid_thw: [1, 4, 4],
        second_per_grid: 1.0,
        text_after: TextAfterVideo::default(),
    };
    let positions = |ids: &[u32], spans: &[VideoSpan]| prompt_positions(&model.spec, ids, spans);
    let short = positions(&[1, pad, pad, pad, 2], &[span]).unwrap_err();
    assert!(short.to_string().contains("3 <|video_pad|>"), "{short}");
    let none = positions(&[1, pad, pad, pad, pad, 2], &[]).unwrap_err();
    assert!(
        none.to_string().contains("1 videos, 0 were given"),
        "{none}"
    );
}

#[test]
fn hidden_states_of_every_layer_and_logits() {
    let (model, expected) = (load("tiny"), reference());
    let prompt = ids(&expected["prompt_ids"]);
    let (mut x, positions, layout) = inputs(&model, &prompt, &[]);
    let normed = model.hidden(&x, &positions, &layout).unwrap();
    let (cos, sin) = model.rotary(&positions).unwrap();
    for (index, layer) in model.layers.iter().enumerate() {
        assert!(difference(&x, &expected[&format!("hidden.{index}")]) < 1e-4);
        x = layer.forward_packed(&x, &cos, &sin, &layout).unwrap();
    }
    // transformers gives the last state after the norm.
    assert!(difference(&normed, &expected["hidden.3"]) < 1e-4);
    assert!(difference(&model.norm(&x).unwrap(), &normed) < 1e-6);
    let logits = normed.matmul(&model.head.t().unwrap()).unwrap();
    assert!(difference(&logits, &expected["logits"]) < 1e-4);
}

#[test]
fn log_probabilities_of_both_folders() {
    let expected = reference();
    let prompt = ids(&expected["prompt_ids"]);
    for (folder, name) in [("tiny", "logprobs"), ("bias", "bias_logprobs")] {
        let model = load(folder);
        for index in 0..3 {
            let completion = ids(&expected[&format!("completion.{index}.ids")]);
            let (x, positions, layout) = inputs(&model, &prompt, &completion);
            let hidden = model.hidden(&x, &positions, &layout).unwrap();
            let rows = hidden
                .narrow(0, prompt.len() - 1, completion.len())
                .unwrap();
            let logits = rows.matmul(&model.head.t().unwrap()).unwrap();
            let logits = logits.to_vec2::<f32>().unwrap();
            let wanted = expected[&format!("completion.{index}.{name}")]
                .to_vec1::<f32>()
                .unwrap();
            for ((row, &token), wanted) in logits.iter().zip(&completion).zip(wanted) {
                let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
                let logprob = f64::from(row[token as usize]) - total.ln();
                assert!((logprob - f64::from(wanted)).abs() < 1e-4);
            }
        }
    }
}

/// Each tensor's gradient, its finite difference along itself and along a fixed direction.
#[test]
fn vision_gradients_agree_with_finite_differences() {
    let folder = golden_folder("tiny");
    let spec = Spec::load(&folder).unwrap();
    let tensors = weights::load(&folder, &spec, DType::F32, &Device::Cpu).unwrap();
    let layout = VisionLayout::new(&spec.vision, &GRIDS, &Device::Cpu).unwrap();
    let pixels = pixels(0, 196);
    let weighting = reference()["vision.features"].sin().unwrap();
    let loss = |tensors: &NamedTensors| -> f64 {
        let model = Qwen25Vl::new(&spec, tensors).unwrap();
        let features = model.visual.forward(&pixels, &layout).unwrap();
        let product = (features * &weighting).unwrap().flatten_all().unwrap();
        product
            .to_vec1::<f32>()
            .unwrap()
            .into_iter()
            .map(f64::from)
            .sum()
    };
    let model = Qwen25Vl::new(&spec, &tensors).unwrap();
    let (_, trace) = model.visual.forward_traced(&pixels, &layout).unwrap();
    let mut gradients = BTreeMap::new();
    model
        .visual
        .backward(
            &pixels,
            &layout,
            trace,
            &weighting,
            &mut |name, gradient| {
                assert!(gradients.insert(name.to_owned(), gradient).is_none());
                Ok(())
            },
        )
        .unwrap();
    let names: Vec<&str> = tensors
        .iter()
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("visual."))
        .collect();
    assert_eq!(gradients.len(), names.len());
    for name in names {
        let (weight, gradient) = (tensors.get(name).unwrap(), &gradients[name]);
        let wave: Vec<f32> = (0..weight.elem_count())
            .map(|i| (i as f32 * 1.7).sin())
            .collect();
        let wave = Tensor::from_vec(wave, weight.shape(), &Device::Cpu).unwrap();
        let norm = |x: &Tensor| {
            let sum = x.sqr().unwrap().sum_all().unwrap();
            f64::from(sum.to_scalar::<f32>().unwrap()).sqrt()
        };
        for direction in [gradient, &wave] {
            let unit = (direction / norm(direction)).unwrap();
            let step = 2e-3 * norm(&weight).max(1.0);
            let at = |sign: f64| {
                let moved = (&weight + (&unit * (sign * step)).unwrap()).unwrap();
                let mut tensors = tensors.clone();
                tensors.insert(name, moved);
                loss(&tensors)
            };
            let measured = (at(1.0) - at(-1.0)) / (2.0 * step);
            let along = (gradient * &unit).unwrap().sum_all().unwrap();
            let stated = f64::from(along.to_scalar::<f32>().unwrap());
            let error = (measured - stated).abs();
            assert!(
                error < 0.02 * stated.abs() + 0.01 * norm(gradient),
                "{name}: stated {stated}, measured {measured}"
            );
        }
    }
}

fn equal(a: &NamedTensors, b: &NamedTensors) {
    assert_eq!(a.len(), b.len());
    for ((name, tensor), (other, same)) in a.iter().zip(b.iter()) {
        assert_eq!(name, other);
        assert_eq!(difference(tensor, same).to_bits(), 0, "{name}");
    }
}

#[test]
fn saving_and_loading_changes_nothing() {
    let cpu = Device::Cpu;
    for (folder, shard_bytes, files) in [("tiny", export::SHARD_BYTES, 1), ("bias", 60_000, 0)] {
        let source = golden_folder(folder);
        let spec = Spec::load(&source).unwrap();
        let tensors = weights::load(&source, &spec, DType::F32, &cpu).unwrap();
        let target = tempfile::tempdir().unwrap();
        export::save_folder(&tensors, &source, target.path(), shard_bytes).unwrap();
        assert_eq!(Spec::load(target.path()).unwrap(), spec);
        equal(
            &weights::load(target.path(), &spec, DType::F32, &cpu).unwrap(),
            &tensors,
        );
        assert!(target.path().join("generation_config.json").exists());
        let shards = std::fs::read_dir(target.path())
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_str().unwrap().ends_with(".safetensors")
            })
            .count();
        assert!(if files == 1 { shards == 1 } else { shards > 2 });
    }
}

#[test]
fn half_precision_is_named_in_the_saved_configuration() {
    let source = golden_folder("bias");
    let spec = Spec::load(&source).unwrap();
    let tensors = weights::load(&source, &spec, DType::BF16, &Device::Cpu).unwrap();
    let target = tempfile::tempdir().unwrap();
    export::save_folder(&tensors, &source, target.path(), export::SHARD_BYTES).unwrap();
    let config = std::fs::read_to_string(target.path().join("config.json")).unwrap();
    assert!(config.contains("bfloat16") && !config.contains("float32"));
    let again = weights::load(target.path(), &spec, DType::BF16, &Device::Cpu).unwrap();
    let f32s = |tensors: &NamedTensors| tensors.map(|_, t| t.to_dtype(DType::F32)).unwrap();
    equal(&f32s(&again), &f32s(&tensors));
}

#[test]
fn both_families_of_names_load() {
    let source = golden_folder("tiny");
    let spec = Spec::load(&source).unwrap();
    let tensors = weights::load(&source, &spec, DType::F32, &Device::Cpu).unwrap();
    let renamed: NamedTensors = tensors
        .clone()
        .into_iter()
        .map(|(name, tensor)| match name.strip_prefix("model.") {
            Some(rest) => (format!("model.language_model.{rest}"), tensor),
            None => (format!("model.{name}"), tensor),
        })
        .chain([(
            "lm_head.weight".to_owned(),
            tensors.get(Qwen25Vl::EMBEDDING).unwrap(),
        )])
        .collect();
    let folder = tempfile::tempdir().unwrap();
    export::save(&renamed, folder.path(), export::SHARD_BYTES).unwrap();
    equal(
        &weights::load(folder.path(), &spec, DType::F32, &Device::Cpu).unwrap(),
        &tensors,
    );
}

#[test]
fn every_tensor_that_does_not_fit_is_named_at_once() {
    let source = golden_folder("tiny");
    let spec = Spec::load(&source).unwrap();
    let mut tensors = weights::load(&source, &spec, DType::F32, &Device::Cpu).unwrap();
    tensors.remove("model.layers.1.mlp.up_proj.weight").unwrap();
    tensors.remove("visual.blocks.2.norm1.weight").unwrap();
    tensors.insert(
        "model.layers.9.mlp.up_proj.weight",
        tensors.get(Qwen25Vl::NORM).unwrap(),
    );
    tensors.insert(
        "visual.merger.ln_q.weight",
        tensors.get(Qwen25Vl::NORM).unwrap(),
    );
    let folder = tempfile::tempdir().unwrap();
    export::save(&tensors, folder.path(), export::SHARD_BYTES).unwrap();
    let error = weights::load(folder.path(), &spec, DType::F32, &Device::Cpu).unwrap_err();
    let text = error.to_string();
    let CheckpointError::Tensors {
        missing,
        unexpected,
        misshapen,
        ..
    } = error
    else {
        panic!("{text}");
    };
    assert_eq!(
        missing,
        [
            "model.layers.1.mlp.up_proj.weight",
            "visual.blocks.2.norm1.weight"
        ]
    );
    assert_eq!(unexpected, ["model.layers.9.mlp.up_proj.weight"]);
    assert_eq!(
        misshapen,
        ["visual.merger.ln_q.weight: expected [16], found [32]"]
    );
    assert!(
        text.contains("missing (2)") && text.contains("expected [16]"),
        "{text}"
    );
}
