//! What other trainers call a setting (TRL, ms-swift, verl and EasyR1, the authors' script), and what it is here.

/// What a name of another program means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// This setting, and what is different about it, if anything.
    Setting(&'static str, &'static str),
    /// No setting: the words say what there is instead.
    Nothing(&'static str),
}

use Meaning::Nothing;
use Meaning::Setting;

const CLIPPING: &str = "the ratio is clipped at 1 − objective.clip_low and 1 + objective.clip_high; AdamW's ε is optimizer.epsilon";
const LORA: &str = "LoRA is not supported: all weights are trained; optimizer.memory = \"compact\" or \"host\" fits small cards";
const REWARDS: &str = "rewards are built in, accuracy and format: reward.accuracy, reward.accuracy_weight and reward.format_weight";
const LOGS: &str = "every run writes metrics.jsonl, rollouts.jsonl and TensorBoard files into its output_dir; nothing is sent anywhere";
const VLLM: &str = "completions are sampled by this program itself, without vLLM; sampling.max_rows says how many at once";
const SHARDING: &str = "weights are not sharded: optimizer.memory = \"compact\" or \"host\" and model.bias_placement fit small cards, \
                        --ranks N or torchrun share a step's questions among GPUs";
const RECOMPUTED: &str = "always so: layers are computed again on the way back";
const QUANTISED: &str = "weights that are trained are not quantised: optimizer.memory = \"compact\" and model.bias_placement = \"int8\" \
                         take less memory";
const ATTENTION: &str =
    "there is one implementation for CPUs and one for GPUs; nothing is to be chosen";
const TEMPLATE: &str =
    "the words of training are fixed (the authors'); for evaluations eval.wording or eval.template";

const COEFFICIENT: Meaning = Setting(
    "kl.coefficient",
    "TRL's beta pulls towards the reference: kl.direction = \"attract\"; CDPO repels; never negative",
);
const QUESTIONS_PER_STEP: Meaning = Setting(
    "train.questions_per_step",
    "questions a step of all GPUs together, each with sampling.group_size completions",
);
const STEPS: Meaning = Setting("train.steps", "");
const EPOCHS: Meaning = Setting(
    "train.steps",
    "steps, not epochs: an epoch is as many as there are questions / train.questions_per_step",
);
const GROUP: Meaning = Setting("sampling.group_size", "");
const COMPLETION: Meaning = Setting("sampling.max_new_tokens", "");
const PROMPT: Meaning = Setting(
    "sampling.max_prompt_tokens",
    "the clip's tokens included; a longer prompt is an error, never cut",
);
const REFERENCE: Meaning = Setting(
    "model.bias_model",
    "the frozen model of the KL term, for train-cdpo",
);
const FRAMES: Meaning = Setting("video.max_frames", "even");
const LEARNING_RATE: Meaning = Setting("optimizer.learning_rate", "");
const VISION: Meaning = Setting("model.train_vision", "false freezes the vision tower");
const UPDATES: Meaning = Setting("train.updates_per_rollout", "");
const EVERY: Meaning = Setting("checkpoint.every", "in steps");
const MODEL: Meaning = Setting("model.path", "");
const QUESTIONS: Meaning = Setting("data.questions", "a .json or .jsonl file");
const CLIPS: Meaning = Setting("data.video_root", "");
const DRAWN: Meaning = Setting("data.samples", "");

/// Names in lower case with underscores. One with a dot stands for the end of a dotted name, one without for its last part.
const NAMES: &[(&[&str], Meaning)] = &[
    (
        &["beta", "kl_coef", "kl_beta", "kl_loss_coef", "init_kl_coef"],
        COEFFICIENT,
    ),
    (
        &["num_generations", "rollout.n", "n_samples_per_prompt"],
        GROUP,
    ),
    (
        &[
            "max_completion_length",
            "max_response_length",
            "response_length",
            "max_tokens",
        ],
        COMPLETION,
    ),
    (
        &[
            "max_prompt_length",
            "max_length",
            "max_seq_length",
            "model_max_length",
        ],
        PROMPT,
    ),
    (
        &[
            "per_device_train_batch_size",
            "train_batch_size",
            "rollout_batch_size",
            "global_batch_size",
            "batch_size",
        ],
        QUESTIONS_PER_STEP,
    ),
    (
        &["gradient_accumulation_steps"],
        Nothing("a step is one update from all its questions: train.questions_per_step"),
    ),
    (
        &["num_train_epochs", "total_epochs", "num_epochs", "epochs"],
        EPOCHS,
    ),
    (
        &["max_steps", "total_training_steps", "training_steps"],
        STEPS,
    ),
    (&["save_steps", "save_freq", "save_interval"], EVERY),
    (
        &["save_total_limit"],
        Setting("checkpoint.keep", "0 keeps all"),
    ),
    (
        &[
            "report_to",
            "logger",
            "wandb",
            "wandb_project",
            "run_name",
            "project_name",
            "experiment_name",
        ],
        Nothing(LOGS),
    ),
    (
        &["logging_steps", "logging_dir", "log_completions"],
        Nothing(LOGS),
    ),
    (
        &[
            "lora",
            "lora_rank",
            "lora_r",
            "lora_alpha",
            "lora_dropout",
            "lora.rank",
            "lora.alpha",
            "use_peft",
            "use_lora",
            "peft_config",
            "target_modules",
            "train_type",
            "tuner_type",
            "qlora",
        ],
        Nothing(LORA),
    ),
    (
        &[
            "load_in_4bit",
            "load_in_8bit",
            "quant_bits",
            "quantization_config",
        ],
        Nothing(QUANTISED),
    ),
    (
        &["epsilon", "cliprange", "clip_ratio", "clip_range"],
        Nothing(CLIPPING),
    ),
    (
        &["epsilon_low", "clip_ratio_low"],
        Setting("objective.clip_low", ""),
    ),
    (
        &["epsilon_high", "clip_ratio_high"],
        Setting("objective.clip_high", ""),
    ),
    (&["adam_epsilon"], Setting("optimizer.epsilon", "")),
    (&["adam_beta1"], Setting("optimizer.beta1", "")),
    (&["adam_beta2"], Setting("optimizer.beta2", "")),
    (
        &["loss_type", "loss_agg_mode"],
        Setting("objective.loss", ""),
    ),
    (&["num_iterations", "ppo_epochs", "num_ppo_epochs"], UPDATES),
    (
        &["scale_rewards", "norm_adv_by_std_in_grpo"],
        Nothing(
            "objective.loss decides it: \"dr_grpo\" does not divide advantages by their deviation, the others do",
        ),
    ),
    (
        &[
            "reward_funcs",
            "reward_func",
            "reward_function",
            "reward_model",
            "reward_weights",
        ],
        Nothing(REWARDS),
    ),
    (
        &[
            "ref_model_path",
            "ref_model",
            "ref_model_name_or_path",
            "reference_model",
        ],
        REFERENCE,
    ),
    (
        &["model_name_or_path", "model_name", "model_id", "model_path"],
        MODEL,
    ),
    (
        &[
            "use_vllm",
            "vllm",
            "tensor_parallel_size",
            "gpu_memory_utilization",
        ],
        Nothing(VLLM),
    ),
    (
        &["bf16", "fp16", "torch_dtype"],
        Setting("model.dtype", "\"bf16\" or \"f32\""),
    ),
    (
        &["gradient_checkpointing", "enable_gradient_checkpointing"],
        Nothing(RECOMPUTED),
    ),
    (
        &["deepspeed", "fsdp", "fsdp_config", "zero_stage"],
        Nothing(SHARDING),
    ),
    (
        &["attn_implementation", "use_flash_attn", "attn_impl"],
        Nothing(ATTENTION),
    ),
    (
        &["temperature"],
        Setting("sampling.temperature", "for evaluations eval.temperature"),
    ),
    (&["top_k"], Setting("sampling.top_k", "0 keeps all")),
    (&["top_p"], Setting("sampling.top_p", "")),
    (
        &["max_pixels", "video_max_pixels"],
        Setting("video.max_pixels", "of a frame"),
    ),
    (
        &["min_pixels", "video_min_pixels"],
        Setting("video.min_pixels", "of a frame"),
    ),
    (
        &["total_pixels", "video_total_pixels"],
        Nothing("there is no limit of all frames together: video.max_frames × video.max_pixels"),
    ),
    (&["fps", "video_fps"], Setting("video.fps", "")),
    (
        &["nframes", "num_frames", "fps_max_frames", "video_maxlen"],
        FRAMES,
    ),
    (&["fps_min_frames"], Setting("video.min_frames", "even")),
    (
        &["output_dir", "default_local_dir", "save_path"],
        Setting("output_dir", "at the top, outside the tables"),
    ),
    (
        &["seed", "data_seed"],
        Setting("seed", "at the top, outside the tables"),
    ),
    (
        &["warmup_ratio", "lr_warmup_steps_ratio"],
        Setting(
            "optimizer.warmup_steps",
            "in steps: the ratio × train.steps",
        ),
    ),
    (&["lr_scheduler_type"], Setting("optimizer.schedule", "")),
    (&["lr", "actor_lr"], LEARNING_RATE),
    (
        &["clip_grad", "grad_clip"],
        Setting("optimizer.max_grad_norm", ""),
    ),
    (
        &["optim"],
        Nothing("the optimizer is AdamW, always: [optimizer] has its settings"),
    ),
    (
        &["freeze_vision_tower", "freeze_vit", "freeze_vision_modules"],
        VISION,
    ),
    (
        &[
            "dataset",
            "dataset_name",
            "train_files",
            "data_path",
            "jsonl_path",
        ],
        QUESTIONS,
    ),
    (
        &["image_folders", "video_folder", "video_dir", "data_root"],
        CLIPS,
    ),
    (&["num_samples", "max_samples", "max_train_samples"], DRAWN),
    (
        &["system_prompt", "prompt_template", "template"],
        Nothing(TEMPLATE),
    ),
    (
        &["resume_from_checkpoint"],
        Nothing("--resume auto, the default, goes on from the last checkpoint in output_dir"),
    ),
];

/// The same in a sentence.
pub(crate) fn in_words(name: &str) -> Option<String> {
    Some(match meaning(name)? {
        Setting(key, "") => format!("here it is `{key}`"),
        Setting(key, note) => format!("here it is `{key}` ({note})"),
        Nothing(words) => words.to_owned(),
    })
}

/// What another trainer's `name`, dotted or not, in its file's spelling or a flag's, means here.
fn meaning(name: &str) -> Option<Meaning> {
    let name = name.to_lowercase().replace('-', "_");
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_named = |known: &str| {
        if known.contains('.') {
            name == known || name.ends_with(&format!(".{known}"))
        } else {
            last == known
        }
    };
    let found = NAMES
        .iter()
        .find(|(known, _)| known.iter().any(|known| is_named(known)));
    let of_family = || {
        let parts = || name.split('.');
        if parts().any(|part| part.starts_with("vllm")) {
            Some(Nothing(VLLM))
        } else if parts().any(|part| part == "lora" || part == "peft") {
            Some(Nothing(LORA))
        } else if parts().any(|part| part == "deepspeed" || part == "fsdp") {
            Some(Nothing(SHARDING))
        } else {
            None
        }
    };
    found.map(|(_, meaning)| *meaning).or_else(of_family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_named_here_is_a_setting_and_nothing_is_named_twice() {
        let keys: BTreeSet<&str> = Config::settings().iter().map(|s| s.key.as_str()).collect();
        let tables: BTreeSet<&str> = keys
            .iter()
            .filter_map(|key| Some(key.split_once('.')?.0))
            .collect();
        let mut seen = BTreeSet::new();
        for (names, meaning) in NAMES {
            for name in *names {
                assert!(seen.insert(name), "{name} twice");
                assert_eq!(*name, name.to_lowercase().replace('-', "_"));
            }
            let words = match meaning {
                Setting(key, note) => {
                    assert!(keys.contains(key), "{key}");
                    *note
                }
                Nothing(words) => words,
            };
            // Dotted words of the notes are settings too.
            for word in words.split([' ', ';', ',', ':', '(', ')']) {
                let table = word.split_once('.').map(|(table, _)| table);
                if table.is_some_and(|table| tables.contains(table)) {
                    assert!(keys.contains(word), "{word} in: {words}");
                }
            }
        }
    }

    #[test]
    fn spellings_of_files_and_flags_are_one() {
        assert_eq!(meaning("kl.beta"), Some(COEFFICIENT));
        assert_eq!(meaning("actor_rollout_ref.rollout.n"), Some(GROUP));
        assert_eq!(meaning("n"), None);
        assert_eq!(meaning("num-generations"), Some(GROUP));
        assert_eq!(
            meaning("VIDEO_MAX_PIXELS"),
            Some(Setting("video.max_pixels", "of a frame"))
        );
        assert_eq!(meaning("vllm_mode"), Some(Nothing(VLLM)));
        assert_eq!(meaning("lora.bias"), Some(Nothing(LORA)));
        assert_eq!(meaning("optimizer.lr"), Some(LEARNING_RATE));
    }
}
