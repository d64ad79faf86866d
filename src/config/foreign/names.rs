//! The names themselves: what TRL, transformers, ms-swift, verl, EasyR1 and the authors' script call what a GRPO run sets.

use super::Meaning;
use super::Meaning::Nothing;
use super::Meaning::Setting;

const CLIPPING: &str = "the ratio is clipped at 1 − objective.clip_low and 1 + objective.clip_high; AdamW's ε is optimizer.epsilon";
pub(super) const LORA: &str = "LoRA is not supported: all weights are trained; optimizer.memory = \"compact\" or \"host\" fits small cards";
const REWARDS: &str = "rewards are built in, accuracy and format: reward.accuracy, reward.accuracy_weight and reward.format_weight";
const LOGS: &str = "every run writes metrics.jsonl, rollouts.jsonl and TensorBoard files into its output_dir; nothing is sent anywhere";
pub(super) const VLLM: &str = "completions are sampled by this program itself, without vLLM; sampling.max_rows says how many at once";
pub(super) const SHARDING: &str = "weights are not sharded: optimizer.memory = \"compact\" or \"host\" and model.bias_placement fit small cards, \
                                   --ranks N or torchrun share a step's questions among GPUs";
const OFFLOADED: &str = "optimizer.memory = \"host\" keeps masters and moments in the machine's memory, model.bias_placement = \"host\" the bias \
                         model";
const RECOMPUTED: &str = "always so: layers are computed again on the way back";
const QUANTISED: &str = "weights that are trained are not quantised: optimizer.memory = \"compact\" and model.bias_placement = \"int8\" \
                         take less memory";
const ATTENTION: &str =
    "there is one implementation for CPUs and one for GPUs; nothing is to be chosen";
const TEMPLATE: &str =
    "the words of training are fixed (the authors'); for evaluations eval.wording or eval.template";
pub(super) const VALIDATION: &str = "training does not evaluate: `videothinker eval run` does, of any checkpoint, also while a run goes on";
const MINI_BATCHES: &str = "a step samples its questions anew (train.questions_per_step), learns from all of them at once, and does so \
                            train.updates_per_rollout times";
const MICRO_BATCHES: &str = "how many questions go through the model at once changes no number and is not set: train.questions_per_step is the \
                             batch, sampling.max_rows how many completions are sampled at once";
const TOKEN_RATIO: &str =
    "the ratio is that of single tokens; that of whole completions (GSPO) is not supported";
const CUT_OFF: &str = "completions that reach sampling.max_new_tokens are learnt from like all others: they earn what they have said \
                       until there; completions/clipped_ratio in metrics.jsonl is their share";
const PENALTIES: &str = "completions are drawn from the model's own probabilities, cut by sampling.top_k and sampling.top_p alone: there is \
                         no such penalty (evaluations can have sampling.repetition_penalty)";
const MIN_P: &str = "there is no min_p: sampling.top_p and sampling.top_k cut off what is unlikely";
const ENTROPY: &str = "there is no entropy term in the loss";
const FROZEN: &str =
    "the reference, model.bias_model, is frozen for the whole run: it is never synchronised";
const TERM: &str = "the KL term is a part of the loss: kl.coefficient is its weight, 0 (or train-grpo) leaves it out";
const ADVANTAGES: &str = "advantages are GRPO's, a reward less the mean of its group; objective.loss says whether divided by its deviation; \
                          there is no critic";
const WITHOUT_RESAMPLING: &str =
    "groups whose rewards are all equal are kept and teach nothing: there is no dynamic sampling";
const RESUME: &str = "--resume auto, the default, goes on from the last checkpoint in output_dir; to begin with another run's model, \
                      model.path is its checkpoint";
const WHOLE_CHECKPOINTS: &str = "a checkpoint is a model folder with the training's state in trainer/; `videothinker export` copies the model alone";
const LOADING: &str =
    "clips are decoded ahead on the machine's cores: train.prefetch_mib says how far";
const WHOLE_PROMPTS: &str = "a prompt longer than sampling.max_prompt_tokens is an error, never cut or left out: `videothinker data check` finds \
                             such questions";
const FIELDS: &str = "the fields of a question have fixed names: `videothinker data import --columns problem=…` renames them";
const RANKS: &str =
    "--ranks N starts a process for each GPU of this machine; torchrun and srun do it on several";
const COMPILED: &str =
    "its kernels are built in: nothing is compiled or chosen, and batches are not padded";
const HUB: &str =
    "`videothinker export RUN --out DIR --push OWNER/NAME` uploads what a run has learnt";
const COMMANDS: &str =
    "the command says what is done: train-sft, train-bias, train-grpo, train-cdpo, eval run";
const LEVEL: &str = "the environment's RUST_LOG says how much is logged: RUST_LOG=warn";
const REVISION: &str = "a revision stands behind the hub id: model.path = \"OWNER/NAME@REVISION\"";
const NO_CODE: &str = "no code of a model is run, and nothing is to be trusted";
const FREEZING: &str = "only the vision tower can be frozen, by model.train_vision = false; all else learns with one optimizer.learning_rate";

pub(super) const COEFFICIENT: Meaning = Setting(
    "kl.coefficient",
    "TRL's beta pulls towards the reference: kl.direction = \"attract\"; CDPO repels; never negative",
);
const ESTIMATOR: Meaning = Setting(
    "kl.estimator",
    "\"k1\", \"k2\", \"k3\" or \"full\"; verl's low_var_kl is k3, its kl k1, its mse k2",
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
pub(super) const GROUP: Meaning = Setting("sampling.group_size", "");
const COMPLETION: Meaning = Setting("sampling.max_new_tokens", "");
const PROMPT: Meaning = Setting(
    "sampling.max_prompt_tokens",
    "the clip's tokens included; a longer prompt is an error, never cut",
);
const REFERENCE: Meaning = Setting(
    "model.bias_model",
    "the frozen model of the KL term, for train-cdpo; model.bias_placement says where it is kept",
);
const FRAMES: Meaning = Setting("video.max_frames", "even");
pub(super) const LEARNING_RATE: Meaning = Setting("optimizer.learning_rate", "");
const VISION: Meaning = Setting("model.train_vision", "false freezes the vision tower");
const UPDATES: Meaning = Setting("train.updates_per_rollout", "");
const EVERY: Meaning = Setting("checkpoint.every", "in steps; 0 writes none");
const KEEP: Meaning = Setting("checkpoint.keep", "0 keeps all");
const MODEL: Meaning = Setting("model.path", "");
const QUESTIONS: Meaning = Setting("data.questions", "a .json or .jsonl file");
const CLIPS: Meaning = Setting("data.video_root", "");
const DRAWN: Meaning = Setting("data.samples", "");
const ORDER: Meaning = Setting("data.order", "always drawn with seed");
const WARMUP: Meaning = Setting("optimizer.warmup_steps", "");
const SCHEDULE: Meaning = Setting(
    "optimizer.schedule",
    "\"linear\", \"constant\" or \"cosine\"",
);
const DEVICE: Meaning = Setting("model.device", "\"cpu\" or \"cuda:N\"");
const TIMEOUT: Meaning = Setting("train.rank_timeout", "of the start, in seconds");

/// Names in lower case with underscores, parted by blanks. One with a dot stands for the end of a dotted name, one without
/// for its last part.
pub(super) const NAMES: &[(&str, Meaning)] = &[
    // The objective.
    (
        "beta kl_coef kl_beta kl_loss_coef init_kl_coef",
        COEFFICIENT,
    ),
    ("kl_loss_type kl_penalty kl_estimator", ESTIMATOR),
    (
        "target_kl kl_target",
        Setting("kl.target", "nats per token"),
    ),
    (
        "use_kl_loss use_kl_in_reward disable_kl kl_ctrl kl_type kl_horizon use_bias_correction_kl",
        Nothing(TERM),
    ),
    ("epsilon cliprange clip_ratio clip_range", Nothing(CLIPPING)),
    (
        "epsilon_low clip_ratio_low",
        Setting("objective.clip_low", ""),
    ),
    (
        "epsilon_high clip_ratio_high",
        Setting("objective.clip_high", ""),
    ),
    (
        "delta clip_ratio_c clip_ratio_dual",
        Nothing(
            "there is no second bound of the ratio: objective.clip_low and objective.clip_high are all",
        ),
    ),
    (
        "loss_type loss_agg_mode loss_avg_mode",
        Setting("objective.loss", ""),
    ),
    ("importance_sampling_level loss_mode", Nothing(TOKEN_RATIO)),
    (
        "mask_truncated_completions overlong_filter",
        Nothing(CUT_OFF),
    ),
    (
        "entropy_coef entropy_coeff use_adaptive_entropy entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target \
         top_entropy_quantile",
        Nothing(ENTROPY),
    ),
    (
        "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps",
        Nothing(FROZEN),
    ),
    (
        "scale_rewards norm_adv_by_std_in_grpo",
        Nothing(
            "objective.loss decides it: \"dr_grpo\" does not divide advantages by their deviation, the others do",
        ),
    ),
    (
        "adv_estimator advantage_estimator gamma lam vf_coef cliprange_value critic critic_warmup",
        Nothing(ADVANTAGES),
    ),
    (
        "reward_funcs reward_func reward_function reward_model reward_weights score_function custom_reward_function reward_fn_key \
         reward_manager reward_type reward_plugin external_plugins reward_function_kwargs soft_cache_length overlong_buffer \
         multi_objective_aggregation",
        Nothing(REWARDS),
    ),
    (
        "online_filtering filter_key filter_low filter_high filter_groups dynamic_sample max_resample_times max_try_make_batch",
        Nothing(WITHOUT_RESAMPLING),
    ),
    // Sampling.
    (
        "num_generations rollout.n n n_samples_per_prompt num_return_sequences",
        GROUP,
    ),
    (
        "max_completion_length max_response_length response_length max_tokens",
        COMPLETION,
    ),
    (
        "max_prompt_length max_length max_seq_length model_max_length prompt_length",
        PROMPT,
    ),
    (
        "temperature",
        Setting("sampling.temperature", "for evaluations eval.temperature"),
    ),
    ("top_k", Setting("sampling.top_k", "0 keeps all")),
    ("top_p", Setting("sampling.top_p", "")),
    ("min_p", Nothing(MIN_P)),
    (
        "repetition_penalty",
        Setting(
            "sampling.repetition_penalty",
            "for evaluations, `ask` and `label`; training has none",
        ),
    ),
    (
        "presence_penalty frequency_penalty no_repeat_ngram_size",
        Nothing(PENALTIES),
    ),
    (
        "generation_batch_size steps_per_generation gen_batch_size ppo_mini_batch_size mini_batch_size",
        Nothing(MINI_BATCHES),
    ),
    (
        "use_vllm vllm tensor_parallel_size gpu_memory_utilization rollout.name rollout.mode max_num_batched_tokens max_num_seqs \
         max_model_len enforce_eager free_cache_engine enable_chunked_prefill enable_prefix_caching load_format sleep_level \
         engine_kwargs sglang cache_implementation use_transformers_paged limit_images",
        Nothing(VLLM),
    ),
    // A step.
    (
        "per_device_train_batch_size train_batch_size rollout_batch_size global_batch_size batch_size",
        QUESTIONS_PER_STEP,
    ),
    (
        "gradient_accumulation_steps",
        Nothing("a step is one update from all its questions: train.questions_per_step"),
    ),
    (
        "ppo_micro_batch_size ppo_micro_batch_size_per_gpu log_prob_micro_batch_size log_prob_micro_batch_size_per_gpu \
         micro_batch_size micro_batch_size_per_device_for_update micro_batch_size_per_device_for_experience use_dynamic_bsz \
         dynamic_batching ppo_max_token_len_per_gpu auto_find_batch_size",
        Nothing(MICRO_BATCHES),
    ),
    ("num_iterations ppo_epochs num_ppo_epochs", UPDATES),
    (
        "num_train_epochs total_epochs num_epochs epochs max_epochs",
        EPOCHS,
    ),
    ("max_steps total_training_steps training_steps", STEPS),
    ("lr actor_lr", LEARNING_RATE),
    ("adam_epsilon", Setting("optimizer.epsilon", "")),
    ("adam_beta1", Setting("optimizer.beta1", "")),
    ("adam_beta2", Setting("optimizer.beta2", "")),
    (
        "clip_grad grad_clip",
        Setting("optimizer.max_grad_norm", ""),
    ),
    (
        "warmup_ratio lr_warmup_ratio lr_warmup_steps_ratio",
        Setting(
            "optimizer.warmup_steps",
            "in steps: the ratio × train.steps",
        ),
    ),
    ("lr_warmup_steps num_warmup_steps", WARMUP),
    ("lr_scheduler_type lr_scheduler warmup_style", SCHEDULE),
    (
        "lr_scheduler_kwargs min_lr_ratio min_lr",
        Nothing("optimizer.schedule falls to 0 at the last step, or stays"),
    ),
    (
        "optim optim_args optimizer_type",
        Nothing("the optimizer is AdamW, always: [optimizer] has its settings"),
    ),
    // The model.
    ("model_name_or_path model_name model_id model_path", MODEL),
    ("model_revision", Nothing(REVISION)),
    ("trust_remote_code", Nothing(NO_CODE)),
    (
        "ref ref_model_path ref_model ref_model_name_or_path reference_model",
        REFERENCE,
    ),
    (
        "bf16 fp16 torch_dtype mixed_precision tf32",
        Setting("model.dtype", "\"bf16\" or \"f32\""),
    ),
    ("use_cpu no_cuda device_map", DEVICE),
    (
        "freeze_vision_tower freeze_vit freeze_vision_modules",
        VISION,
    ),
    (
        "freeze_llm freeze_aligner freeze_parameters trainable_parameters vit_lr aligner_lr",
        Nothing(FREEZING),
    ),
    (
        "lora lora_rank lora_r lora_alpha lora_dropout lora.rank lora.alpha use_peft use_lora peft_config target_modules \
         lora_target_modules lora_task_type train_type tuner_type qlora use_dora use_rslora adapters",
        Nothing(LORA),
    ),
    (
        "load_in_4bit load_in_8bit quant_bits quant_method quantization_config quantization",
        Nothing(QUANTISED),
    ),
    (
        "gradient_checkpointing gradient_checkpointing_kwargs enable_gradient_checkpointing vit_gradient_checkpointing \
         activation_checkpointing",
        Nothing(RECOMPUTED),
    ),
    (
        "deepspeed fsdp fsdp_config zero_stage strategy tensor_model_parallel_size pipeline_model_parallel_size \
         sequence_parallel_size ulysses_sequence_parallel_size ulysses_size ds3_gather_for_generation parallelism_config",
        Nothing(SHARDING),
    ),
    (
        "offload_params offload_optimizer offload_model param_offload optimizer_offload enable_cpu_offload offload_policy",
        Nothing(OFFLOADED),
    ),
    (
        "attn_implementation use_flash_attn attn_impl",
        Nothing(ATTENTION),
    ),
    (
        "torch_compile use_torch_compile use_liger_kernel use_fused_kernels use_remove_padding padding_free padding_side packing \
         pad_to_multiple_of",
        Nothing(COMPILED),
    ),
    // Questions and clips.
    (
        "dataset dataset_name train_files data_path jsonl_path data_files",
        QUESTIONS,
    ),
    (
        "image_folders video_folder video_dir data_root image_dir image_root",
        CLIPS,
    ),
    (
        "num_samples max_samples max_train_samples train_max_samples",
        DRAWN,
    ),
    (
        "shuffle shuffle_dataset dataset_shuffle train_dataloader_shuffle",
        ORDER,
    ),
    (
        "prompt_key answer_key image_key video_key columns",
        Nothing(FIELDS),
    ),
    (
        "system system_prompt prompt_template template format_prompt chat_template chat_template_kwargs",
        Nothing(TEMPLATE),
    ),
    (
        "filter_overlong_prompts filter_overlong_prompts_workers truncation truncation_strategy",
        Nothing(WHOLE_PROMPTS),
    ),
    (
        "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataset_num_proc \
         num_workers preprocessing_num_workers",
        Nothing(LOADING),
    ),
    (
        "max_pixels video_max_pixels",
        Setting("video.max_pixels", "of a frame"),
    ),
    (
        "min_pixels video_min_pixels",
        Setting("video.min_pixels", "of a frame"),
    ),
    (
        "video_max_token_num image_max_token_num",
        Setting("video.max_pixels", "of a frame, 28 × 28 a token"),
    ),
    (
        "total_pixels video_total_pixels",
        Nothing("there is no limit of all frames together: video.max_frames × video.max_pixels"),
    ),
    ("fps video_fps", Setting("video.fps", "")),
    ("nframes num_frames fps_max_frames video_maxlen", FRAMES),
    ("fps_min_frames", Setting("video.min_frames", "even")),
    (
        "video_reader_backend force_qwenvl_video_reader",
        Nothing("FFmpeg decodes every clip; there is no other reader"),
    ),
    // A run.
    (
        "output_dir default_local_dir save_path save_checkpoint_path",
        Setting("output_dir", "at the top, outside the tables"),
    ),
    (
        "seed data_seed",
        Setting("seed", "at the top, outside the tables"),
    ),
    ("save_steps save_freq save_interval save_strategy", EVERY),
    ("save_total_limit save_limit max_actor_ckpt_to_keep", KEEP),
    (
        "save_only_model save_model_only save_contents load_contents save_on_each_node safe_serialization max_shard_size",
        Nothing(WHOLE_CHECKPOINTS),
    ),
    (
        "resume_from_checkpoint resume resume_mode resume_from_path load_checkpoint_path find_last_checkpoint resume_only_model \
         ignore_data_skip",
        Nothing(RESUME),
    ),
    (
        "report_to logger wandb wandb_project wandb_entity swanlab_project run_name project project_name experiment_name logging_steps \
         logging_dir logging_strategy logging_first_step log_completions log_rollout num_completions_to_print rollout_data_dir \
         disable_tqdm",
        Nothing(LOGS),
    ),
    ("log_level logging_level", Nothing(LEVEL)),
    (
        "eval_steps eval_strategy evaluation_strategy eval_on_start eval_delay do_eval val_files val_dataset val_freq \
         val_before_train val_only test_freq val_generations_to_log log_val_generations load_best_model_at_end \
         metric_for_best_model greater_is_better num_generations_eval val_max_samples",
        Nothing(VALIDATION),
    ),
    (
        "per_device_eval_batch_size val_batch_size",
        Setting(
            "eval.batch_size",
            "of `videothinker eval run`; training does not evaluate",
        ),
    ),
    (
        "split_dataset_ratio",
        Nothing("`videothinker data split` makes the questions of training and validation"),
    ),
    ("do_train do_predict rlhf_type", Nothing(COMMANDS)),
    (
        "n_gpus_per_node num_gpus nnodes nproc_per_node num_processes ray_kwargs",
        Nothing(RANKS),
    ),
    ("ddp_timeout nccl_timeout", TIMEOUT),
    (
        "push_to_hub hub_model_id hub_private_repo hub_strategy hub_token",
        Nothing(HUB),
    ),
    (
        "remove_unused_columns",
        Nothing("fields of a question that are not known are kept, and nothing is made of them"),
    ),
];
