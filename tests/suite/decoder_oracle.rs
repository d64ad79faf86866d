//! The decoder against candle-transformers' Qwen2, which is the same network where there is text only: there the three
//! axes of the multimodal rotary positions agree.

use crate::golden_model::folder;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::qwen2::{Config, ModelForCausalLM};
use videothinker::model::Qwen25Vl;
use videothinker::policy::inputs::{PackedGroup, PackedInputs, Suffix};
use videothinker::policy::logprobs::score;

/// Log-probabilities of `ids[1..]` from candle-transformers, one prefix after the other.
fn oracle(model: &Qwen25Vl, ids: &[u32]) -> Vec<f32> {
    let text = &model.spec.text;
    let config = Config {
        vocab_size: text.vocab_size,
        hidden_size: text.hidden_size,
        intermediate_size: text.intermediate_size,
        num_hidden_layers: text.num_layers,
        num_attention_heads: text.num_heads,
        num_key_value_heads: text.num_kv_heads,
        max_position_embeddings: 64,
        sliding_window: 64,
        max_window_layers: text.num_layers,
        tie_word_embeddings: true,
        rope_theta: text.rope_theta,
        rms_norm_eps: text.rms_norm_eps,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    };
    let file = folder("tiny").join("model.safetensors");
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut qwen2 = ModelForCausalLM::new(&config, weights).unwrap();
    (1..ids.len())
        .map(|length| {
            qwen2.clear_kv_cache();
            let prefix = Tensor::new(&ids[..length], &Device::Cpu).unwrap();
            let logits = qwen2.forward(&prefix.unsqueeze(0).unwrap(), 0).unwrap();
            let logits = logits.flatten_all().unwrap();
            let logprobs = candle_nn::ops::log_softmax(&logits, 0).unwrap();
            logprobs.to_vec1::<f32>().unwrap()[ids[length] as usize]
        })
        .collect()
}

#[test]
fn text_is_scored_as_by_candle_transformers() {
    let model = Qwen25Vl::load(&folder("tiny"), DType::F32, &Device::Cpu).unwrap();
    let ids: Vec<u32> = (0..24u32).map(|i| (i * 37 + 11) % 200).collect();
    let group = PackedGroup {
        prefix: &ids[..5],
        video: None,
        suffixes: vec![Suffix {
            token_ids: &ids[5..],
            first_target: 0,
        }],
    };
    let inputs = PackedInputs::new(&model.spec, &[group]).unwrap();
    let ours = score(&model, &inputs, None).unwrap().logprob;
    let theirs = oracle(&model, &ids);
    assert_eq!(ours.len(), 19);
    for (ours, theirs) in ours.iter().zip(&theirs[4..]) {
        assert!((ours - theirs).abs() < 1e-4, "{ours} is not {theirs}");
    }
}
