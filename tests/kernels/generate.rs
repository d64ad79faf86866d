//! Generation whose steps stay on the device, against the CPU's token by token.

use crate::emulator::on_cpu;
use candle_core::{DType, Device};
use std::ops::ControlFlow;
use std::path::Path;
use videothinker::config::{SamplingConfig, Wording};
use videothinker::model::Qwen25Vl;
use videothinker::model::spec::{Spec, SpecialTokens, TextSpec, VisionSpec};
use videothinker::model::weights::init_weights;
use videothinker::policy::generate::{
    Completion, GenerateError, NewToken, Observer, generate, unobserved,
};
use videothinker::policy::sampler::QuestionSeed;
use videothinker::prompt::{Processor, Prompt};

/// The tokenizer of the prompt tests, to which one in twenty tokens ends a turn.
fn processor() -> Processor {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/prompt/tokenizer");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut ends = Processor::load(&source).unwrap().eos_ids().to_vec();
    ends.extend((40..360).step_by(20));
    let settings = serde_json::json!({ "eos_token_id": ends });
    let file = folder.path().join("generation_config.json");
    std::fs::write(file, settings.to_string()).unwrap();
    Processor::load(folder.path()).unwrap()
}

fn model(processor: &Processor, dtype: DType) -> Qwen25Vl {
    let id = |token: &str| processor.tokenizer().id(token).unwrap();
    let spec = Spec {
        text: TextSpec {
            hidden_size: 32,
            num_layers: 2,
            num_heads: 4,
            num_kv_heads: 2,
            intermediate_size: 48,
            vocab_size: processor.tokenizer().vocab_size(),
            rope_theta: 100.0,
            rms_norm_eps: 1e-6,
            mrope_section: [2, 1, 1],
        },
        vision: VisionSpec {
            depth: 1,
            hidden_size: 16,
            num_heads: 2,
            intermediate_size: 24,
            patch_size: 14,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
            window_size: 56,
            fullatt_block_indexes: vec![0],
            out_hidden_size: 32,
            tokens_per_second: 2.0,
        },
        tokens: SpecialTokens {
            vision_start: id("<|vision_start|>"),
            vision_end: id("<|vision_end|>"),
            image_pad: id("<|image_pad|>"),
            video_pad: id("<|video_pad|>"),
            eos: processor.eos_ids().to_vec(),
            pad: id("<|endoftext|>"),
        },
        tie_word_embeddings: true,
    };
    let weights = init_weights(&spec, 0.3, 5, dtype, &Device::Cpu).unwrap();
    Qwen25Vl::new(&spec, &weights).unwrap()
}

fn run(
    model: &Qwen25Vl,
    processor: &Processor,
    config: &SamplingConfig,
    observer: &mut Observer,
) -> Result<Vec<Vec<Completion>>, GenerateError> {
    let ask = |text| processor.prompt(text, Wording::Training, None).unwrap();
    let prompts = ["What?", "What would happen?", "Which of these?"].map(ask);
    let prompts: Vec<&Prompt> = prompts.iter().collect();
    let seeds = [1, 2, 3].map(|step| QuestionSeed::new(42, step, "q"));
    generate(model, processor, &prompts, &seeds, config, observer)
}

fn ids(groups: &[Vec<Completion>]) -> Vec<&[u32]> {
    let completions = groups.iter().flatten();
    completions.map(|c| c.token_ids.as_slice()).collect()
}

#[test]
fn steps_on_the_device_draw_what_single_steps_draw() {
    let processor = processor();
    let on_device = on_cpu(|| model(&processor, DType::F32));
    let model = model(&processor, DType::F32);
    // More than one copy to the host, no multiple of them; rows that end early, and rows that are cut off.
    for (temperature, max_rows, max_new_tokens) in [(1.0, 0, 19), (0.8, 4, 10), (0.0, 1, 3)] {
        let config = SamplingConfig {
            group_size: 2,
            temperature,
            max_rows,
            max_new_tokens,
            ..SamplingConfig::default()
        };
        let want = run(&model, &processor, &config, &mut unobserved).unwrap();
        let got = on_cpu(|| run(&on_device, &processor, &config, &mut unobserved)).unwrap();
        assert_eq!(ids(&got), ids(&want), "{max_rows} rows");
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert_eq!((got.finish, &got.text), (want.finish, &want.text));
            assert_eq!(got.logprobs.len(), got.token_ids.len());
            for (a, b) in got.logprobs.iter().zip(&want.logprobs) {
                assert!((a - b).abs() < 1e-4, "{a} != {b}");
            }
        }
        if max_new_tokens == 19 {
            let lens = ids(&want).into_iter().map(<[u32]>::len);
            let (shortest, longest) = (lens.clone().min(), lens.max());
            assert!(
                shortest < longest && longest > Some(9),
                "{shortest:?} {longest:?}"
            );
        }
    }
}

#[test]
fn in_bf16_a_completion_does_not_depend_on_its_batch() {
    let processor = processor();
    let model = on_cpu(|| model(&processor, DType::BF16));
    let with = |max_rows| {
        let config = SamplingConfig {
            group_size: 2,
            max_rows,
            max_new_tokens: 11,
            ..SamplingConfig::default()
        };
        on_cpu(|| run(&model, &processor, &config, &mut unobserved)).unwrap()
    };
    let all = with(0);
    assert_eq!(with(4), all);
}

#[test]
fn the_observer_hears_every_token_once_and_can_stop() {
    let processor = processor();
    let model = on_cpu(|| model(&processor, DType::F32));
    let config = SamplingConfig {
        group_size: 2,
        max_new_tokens: 12,
        ..SamplingConfig::default()
    };
    let mut heard: Vec<NewToken> = Vec::new();
    let groups = on_cpu(|| {
        run(&model, &processor, &config, &mut |token| {
            heard.push(token);
            ControlFlow::Continue(())
        })
    })
    .unwrap();
    for (prompt, group) in groups.iter().enumerate() {
        for (index, completion) in group.iter().enumerate() {
            let of_row = heard
                .iter()
                .filter(|t| (t.prompt, t.completion) == (prompt, index));
            let ids: Vec<u32> = of_row.map(|token| token.id).collect();
            assert_eq!(ids, completion.token_ids);
        }
    }
    let mut left = 9;
    let stopped = on_cpu(|| {
        run(&model, &processor, &config, &mut |_| {
            left -= 1;
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
    });
    assert!(matches!(stopped, Err(GenerateError::Interrupted)));
}
