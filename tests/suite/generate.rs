//! Generation: it agrees with the training path, and a completion depends on nothing but its own question and seed.

use candle_core::{DType, Device};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use videothinker::config::{SamplingConfig, TextAfterVideo, Wording};
use videothinker::model::Qwen25Vl;
use videothinker::model::spec::{Spec, SpecialTokens, TextSpec, VisionSpec};
use videothinker::model::weights::init_weights;
use videothinker::policy::generate::{
    Completion, Finish, GenerateError, Observer, generate, generate_side_by_side, unobserved,
};
use videothinker::policy::inputs::{PackedGroup, PackedInputs};
use videothinker::policy::logprobs;
use videothinker::policy::sampler::QuestionSeed;
use videothinker::prompt::{Processor, Prompt};
use videothinker::video::VideoPatches;

fn processor() -> Processor {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Processor::load(&root.join("tests/golden/prompt/tokenizer")).unwrap()
}

/// A random network around the small tokenizer of the prompt tests.
fn model(processor: &Processor) -> Qwen25Vl {
    let id = |token: &str| processor.tokenizer().id(token).unwrap();
    let spec = Spec {
        text: TextSpec {
            hidden_size: 32,
            num_layers: 3,
            num_heads: 4,
            num_kv_heads: 2,
            intermediate_size: 48,
            vocab_size: processor.tokenizer().vocab_size(),
            rope_theta: 100.0,
            rms_norm_eps: 1e-6,
            mrope_section: [2, 1, 1],
        },
        vision: VisionSpec {
            depth: 2,
            hidden_size: 16,
            num_heads: 2,
            intermediate_size: 24,
            patch_size: 14,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
            window_size: 56,
            fullatt_block_indexes: vec![1],
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
    let weights = init_weights(&spec, 0.05, 5, DType::F32, &Device::Cpu).unwrap();
    Qwen25Vl::new(&spec, &weights).unwrap()
}

/// The same tokenizer, to which 40 more tokens end a turn: an untrained model's turns then have all lengths.
fn terse_processor() -> Processor {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/prompt/tokenizer");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut ends = processor().eos_ids().to_vec();
    ends.extend((40..360).step_by(8));
    let settings = serde_json::json!({ "eos_token_id": ends });
    let file = folder.path().join("generation_config.json");
    std::fs::write(file, settings.to_string()).unwrap();
    Processor::load(folder.path()).unwrap()
}

fn clip(grid_thw: [usize; 3], phase: f32) -> Arc<VideoPatches> {
    let count = grid_thw.iter().product::<usize>() * VideoPatches::PATCH_DIM;
    Arc::new(VideoPatches {
        values: (0..count)
            .map(|i| (i as f32 * 0.013 + phase).sin())
            .collect(),
        grid_thw,
        second_per_grid: 1.0,
        text_after: TextAfterVideo::default(),
    })
}

/// Prompts of different lengths: two clips of different sizes, and none.
fn prompts(processor: &Processor) -> Vec<Prompt> {
    let ask = |text, video| processor.prompt(text, Wording::Training, video).unwrap();
    vec![
        ask("What would happen?", Some(clip([2, 4, 6], 0.0))),
        ask(
            "What would happen without the red cube?",
            Some(clip([3, 4, 4], 1.0)),
        ),
        ask("Which of the following?", None),
    ]
}

fn seeds() -> Vec<QuestionSeed> {
    (0..3)
        .map(|i| QuestionSeed::new(42, 7, &format!("q{i}")))
        .collect()
}

fn sampling(group_size: usize, max_new_tokens: usize) -> SamplingConfig {
    SamplingConfig {
        group_size,
        max_new_tokens,
        ..SamplingConfig::default()
    }
}

fn run(
    model: &Qwen25Vl,
    which: &[usize],
    config: &SamplingConfig,
    observer: &mut Observer,
) -> Result<Vec<Vec<Completion>>, GenerateError> {
    let processor = processor();
    let all = prompts(&processor);
    let chosen: Vec<&Prompt> = which.iter().map(|&i| &all[i]).collect();
    let seeds: Vec<QuestionSeed> = which.iter().map(|&i| seeds()[i]).collect();
    generate(model, &processor, &chosen, &seeds, config, observer)
}

#[test]
fn the_samplers_log_probabilities_are_those_of_the_training_path() {
    let processor = processor();
    let model = model(&processor);
    // Over the whole vocabulary, so that an untrained model's turns sometimes end.
    let config = SamplingConfig {
        top_k: 0,
        ..sampling(6, 120)
    };
    let groups = run(&model, &[0, 1, 2], &config, &mut unobserved).unwrap();
    let all = prompts(&processor);
    let packed: Vec<PackedGroup> = all
        .iter()
        .zip(&groups)
        .map(|(prompt, group)| {
            PackedGroup::of_completions(prompt, group.iter().map(|c| c.token_ids.as_slice()))
        })
        .collect();
    let inputs = PackedInputs::new(&model.spec, &packed).unwrap();
    let scores = logprobs::score(&model, &inputs, None).unwrap();
    let sampled: Vec<f32> = groups
        .iter()
        .flatten()
        .flat_map(|c| c.logprobs.clone())
        .collect();
    assert_eq!(sampled.len(), scores.logprob.len());
    let worst = sampled
        .iter()
        .zip(&scores.logprob)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 1e-4, "off by {worst}");

    let banned = processor.banned_ids();
    let flat: Vec<&Completion> = groups.iter().flatten().collect();
    let stopped = flat.iter().filter(|c| c.finish == Finish::Stop).count();
    assert!(
        0 < stopped && stopped < flat.len(),
        "both endings: {stopped}"
    );
    for completion in flat {
        let (last, before) = completion.token_ids.split_last().unwrap();
        let ends = |id: &u32| processor.eos_ids().contains(id);
        assert!(!before.iter().any(ends));
        assert_eq!(ends(last), completion.finish == Finish::Stop);
        assert!(completion.finish == Finish::Stop || completion.token_ids.len() == 120);
        assert!(completion.token_ids.iter().all(|id| !banned.contains(id)));
        assert_eq!(
            completion.text,
            processor.decode(&completion.token_ids).unwrap()
        );
    }
}

#[test]
fn completions_do_not_depend_on_what_runs_together() {
    let model = model(&processor());
    let together = run(&model, &[0, 1, 2], &sampling(4, 40), &mut unobserved).unwrap();
    let turned = run(&model, &[2, 0], &sampling(4, 40), &mut unobserved).unwrap();
    let fewer = run(&model, &[1], &sampling(2, 40), &mut unobserved).unwrap();
    let ids = |group: &[Completion]| -> Vec<Vec<u32>> {
        group.iter().map(|c| c.token_ids.clone()).collect()
    };
    assert_eq!(ids(&together[2]), ids(&turned[0]));
    assert_eq!(ids(&together[0]), ids(&turned[1]));
    assert_eq!(ids(&together[1][..2]), ids(&fewer[0]));
    assert_ne!(together[0][0].token_ids, together[0][1].token_ids);
}

fn ids_of(groups: &[Vec<Completion>]) -> Vec<Vec<u32>> {
    let all = groups.iter().flatten();
    all.map(|completion| completion.token_ids.clone()).collect()
}

#[test]
fn completions_do_not_depend_on_how_many_rows_run_at_once() {
    let (model, processor) = (model(&processor()), terse_processor());
    // Seven questions in three prompts' words.
    let which = [0, 1, 2, 1, 0, 2, 2];
    for (group_size, max_new_tokens) in [(3, 60), (1, 60), (2, 1)] {
        let with = |max_rows| {
            let config = SamplingConfig {
                top_k: 0,
                max_rows,
                ..sampling(group_size, max_new_tokens)
            };
            let all = prompts(&processor);
            let prompts: Vec<&Prompt> = which.iter().map(|&i| &all[i]).collect();
            let seeds: Vec<QuestionSeed> = (0..which.len())
                .map(|i| QuestionSeed::new(11, 1, &format!("question {i}")))
                .collect();
            let mut seen = vec![vec![Vec::new(); group_size]; which.len()];
            let groups = generate(
                &model,
                &processor,
                &prompts,
                &seeds,
                &config,
                &mut |token| {
                    seen[token.prompt][token.completion].push(token.id);
                    ControlFlow::Continue(())
                },
            )
            .unwrap();
            for (group, seen) in groups.iter().zip(&seen) {
                let ids: Vec<&Vec<u32>> = group.iter().map(|c| &c.token_ids).collect();
                assert_eq!(ids, seen.iter().collect::<Vec<_>>());
            }
            let beside = generate_side_by_side(&model, &processor, &prompts, &seeds, &config)
                .unwrap()
                .completions;
            assert_eq!(ids_of(&groups), ids_of(&beside));
            groups
        };
        let all_at_once = with(0);
        let lens: Vec<usize> = ids_of(&all_at_once).iter().map(Vec::len).collect();
        assert_eq!(lens.len(), which.len() * group_size);
        if max_new_tokens > 1 && group_size > 1 {
            assert!(
                lens.contains(&1) && lens.iter().any(|&len| len > 12),
                "{lens:?}"
            );
        }
        for max_rows in [1, 2, 4, 5, 20, 1000] {
            let groups = with(max_rows);
            assert_eq!(ids_of(&groups), ids_of(&all_at_once), "{max_rows} rows");
            for (a, b) in groups.iter().flatten().zip(all_at_once.iter().flatten()) {
                assert_eq!(a.finish, b.finish);
                for (a, b) in a.logprobs.iter().zip(&b.logprobs) {
                    assert!((a - b).abs() < 1e-5, "{max_rows} rows: {a} != {b}");
                }
            }
        }
    }
}

#[test]
fn greedy_completions_follow_the_best_token_of_a_whole_pass() {
    let processor = processor();
    let model = model(&processor);
    let config = SamplingConfig {
        temperature: 0.0,
        ..sampling(1, 10)
    };
    let groups = run(&model, &[0, 1], &config, &mut unobserved).unwrap();
    let all = prompts(&processor);
    for (prompt, group) in all.iter().zip(&groups) {
        let ids = &group[0].token_ids;
        for end in 0..ids.len() {
            // The drawn token must beat every other allowed token after the same beginning.
            let score = |id: u32| {
                let mut tried = ids[..end].to_vec();
                tried.push(id);
                let packed = [PackedGroup::of_completions(prompt, [tried.as_slice()])];
                let inputs = PackedInputs::new(&model.spec, &packed).unwrap();
                logprobs::score(&model, &inputs, None).unwrap().logprob[end]
            };
            let best = score(ids[end]);
            let rivals = [0, 65, 120, 300, 377]
                .into_iter()
                .filter(|id| *id != ids[end]);
            assert!(rivals.into_iter().all(|id| score(id) <= best + 1e-5));
        }
    }
}

#[test]
fn the_observer_sees_every_token_and_may_stop() {
    let model = model(&processor());
    let mut seen = vec![vec![Vec::new(); 2]; 2];
    let groups = run(&model, &[0, 2], &sampling(2, 9), &mut |token| {
        seen[token.prompt][token.completion].push(token.id);
        ControlFlow::Continue(())
    })
    .unwrap();
    for (group, seen) in groups.iter().zip(&seen) {
        for (completion, seen) in group.iter().zip(seen) {
            assert_eq!(&completion.token_ids, seen);
        }
    }
    let mut left = 3;
    let stopped = run(&model, &[0], &sampling(2, 9), &mut |_| {
        left -= 1;
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(matches!(stopped, Err(GenerateError::Interrupted)));
    assert_eq!(left, 0);
}

#[test]
fn given_completions_end_as_they_are_said_to() {
    let processor = processor();
    let text = "<think>x</think><answer>A</answer>";
    let prompt = processor.prompt("Why?", Wording::Training, None).unwrap();
    let given = |finish| Completion::given(&processor, &prompt, text, finish).unwrap();
    let (stop, length) = (given(Finish::Stop), given(Finish::Length));
    assert_eq!(
        stop.token_ids.split_last(),
        Some((&processor.end_of_turn(), length.token_ids.as_slice()))
    );
    assert_eq!(processor.decode(&stop.token_ids).unwrap(), text);
}
