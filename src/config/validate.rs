//! What a verb requires of a config: ranges, files, and settings that contradict each other. Checked once.

use super::{Benchmark, Config, ConfigError, Extraction, Origins, Protocol, QuestionKind};
use std::path::Path;

/// What the config is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Supervised warm start.
    TrainSft,
    /// Stage 1: GRPO on observational questions.
    TrainBias,
    /// Stage 2: GRPO with the KL term against the bias model.
    TrainCdpo,
    /// Answers a benchmark; the model comes from the command line.
    Eval,
    /// Looks at one clip or prompt; only ranges are checked.
    Inspect,
}

impl Verb {
    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TrainSft => "train-sft",
            Self::TrainBias => "train-bias",
            Self::TrainCdpo => "train-cdpo",
            Self::Eval => "eval",
            Self::Inspect => "inspect",
        }
    }

    /// Whether it samples groups and learns from their rewards.
    pub fn is_rl(self) -> bool {
        matches!(self, Self::TrainBias | Self::TrainCdpo)
    }

    /// Whether it trains a model.
    pub fn is_training(self) -> bool {
        self.is_rl() || self == Self::TrainSft
    }
}

/// Whether `name` is a hub id such as `Qwen/Qwen2.5-VL-3B-Instruct` and not a path: `owner/name`, nothing of that
/// name here, and no local folder `owner` (a misspelt local path should not go to the network).
pub fn is_hub_id(name: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c))
    };
    match name.split_once('/') {
        Some((owner, model)) => {
            word(owner) && word(model) && !Path::new(name).exists() && !Path::new(owner).exists()
        }
        None => false,
    }
}

struct Check<'a> {
    origins: &'a Origins,
}

impl Check<'_> {
    fn require(&self, ok: bool, key: &str, problem: impl Into<String>) -> Result<(), ConfigError> {
        if ok {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            place: self.origins.place(key),
            key: key.to_owned(),
            problem: problem.into(),
        })
    }

    fn at_least(&self, key: &str, value: f64, bound: f64) -> Result<(), ConfigError> {
        self.require(
            value.is_finite() && value >= bound,
            key,
            format!("is {value}, must be at least {bound}"),
        )
    }

    fn positive(&self, key: &str, value: f64) -> Result<(), ConfigError> {
        self.require(
            value.is_finite() && value > 0.0,
            key,
            format!("is {value}, must be above 0"),
        )
    }

    fn fraction(&self, key: &str, value: f64) -> Result<(), ConfigError> {
        self.require(
            (0.0..1.0).contains(&value),
            key,
            format!("is {value}, must be at least 0 and below 1"),
        )
    }

    fn count(&self, key: &str, value: usize, bound: usize) -> Result<(), ConfigError> {
        self.require(
            value >= bound,
            key,
            format!("is {value}, must be at least {bound}"),
        )
    }

    fn file(&self, key: &str, path: &Path) -> Result<(), ConfigError> {
        self.require(
            !path.as_os_str().is_empty(),
            key,
            "is missing; name a .json or .jsonl file of questions",
        )?;
        self.require(
            path.is_file(),
            key,
            format!("there is no file {}{}", path.display(), relative_to(path)),
        )
    }

    fn folder(&self, key: &str, path: &Path) -> Result<(), ConfigError> {
        self.require(
            path.as_os_str().is_empty() || path.is_dir(),
            key,
            format!("there is no folder {}{}", path.display(), relative_to(path)),
        )
    }

    fn model(&self, key: &str, name: &str) -> Result<(), ConfigError> {
        self.require(
            !name.is_empty(),
            key,
            "is empty; name a model folder or a hub id",
        )?;
        if is_hub_id(name) {
            return Ok(());
        }
        let path = Path::new(name);
        self.require(
            path.is_dir(),
            key,
            format!(
                "there is no model folder {name}{}, and it is no hub id (owner/name)",
                relative_to(path)
            ),
        )?;
        self.require(
            path.join("config.json").is_file(),
            key,
            format!("the folder {name} has no config.json, so it is no model"),
        )
    }
}

/// Relative paths count from the current directory; the message says which that is.
fn relative_to(path: &Path) -> String {
    if path.is_absolute() {
        return String::new();
    }
    std::env::current_dir().map_or_else(
        |_| String::new(),
        |directory| format!(" (relative to {})", directory.display()),
    )
}

impl Config {
    /// Applies the stage's rules and checks everything once; nothing after it checks again.
    pub(super) fn prepare(&mut self, verb: Verb, origins: &Origins) -> Result<(), ConfigError> {
        let check = Check { origins };
        check.require(
            self.eval.protocol.is_none() || !verb.is_training(),
            "eval.protocol",
            "fixes frames and pixels for eval and not for training; remove it",
        )?;
        self.apply_protocol(origins)?;
        self.check_ranges(&check)?;
        if verb == Verb::TrainBias {
            self.prepare_bias(&check)?;
        }
        if verb.is_rl() {
            self.check_rl(&check)?;
        } else if verb == Verb::TrainSft {
            check.require(
                self.model.bias_model.is_none(),
                "model.bias_model",
                "train-sft uses no bias model; remove it",
            )?;
        }
        if verb == Verb::TrainCdpo {
            check.require(
                self.kl.coefficient == 0.0 || self.model.bias_model.is_some(),
                "model.bias_model",
                format!(
                    "is missing: kl.coefficient is {}, which needs a bias model to measure against; name the result of \
                     train-bias, or set kl.coefficient = 0 for plain GRPO",
                    self.kl.coefficient
                ),
            )?;
        }
        if verb.is_training() {
            check.model("model.path", &self.model.path)?;
            if let Some(bias_model) = &self.model.bias_model {
                check.model("model.bias_model", bias_model)?;
            }
        }
        if verb != Verb::Inspect {
            // Some benchmarks are published as a folder of files.
            if self.eval.benchmark.is_none() || !self.data.questions.is_dir() {
                check.file("data.questions", &self.data.questions)?;
            }
            check.folder("data.video_root", &self.data.video_root)?;
            if let Some(manifest) = &self.data.manifest {
                check.require(
                    manifest.is_file(),
                    "data.manifest",
                    format!(
                        "there is no file {}{}; `data check --manifest` writes it",
                        manifest.display(),
                        relative_to(manifest)
                    ),
                )?;
            }
        }
        Ok(())
    }

    /// Stage 1 has no KL term and sees observational questions only.
    fn prepare_bias(&mut self, check: &Check) -> Result<(), ConfigError> {
        check.require(
            self.model.bias_model.is_none(),
            "model.bias_model",
            "train-bias makes the bias model and uses none; remove it, or use train-cdpo",
        )?;
        check.require(
            self.kl.coefficient == 0.0 || !check.origins.is_set("kl.coefficient"),
            "kl.coefficient",
            "train-bias has no KL term; remove it, or use train-cdpo",
        )?;
        check.require(
            !self.data.kinds.contains(&QuestionKind::Inferential),
            "data.kinds",
            "train-bias takes observational questions only; for plain GRPO on all, use train-cdpo with kl.coefficient = 0",
        )?;
        self.kl.coefficient = 0.0;
        self.data.kinds = vec![QuestionKind::Observational];
        Ok(())
    }

    fn check_rl(&self, check: &Check) -> Result<(), ConfigError> {
        check.count("sampling.group_size", self.sampling.group_size, 2)?;
        check.positive("sampling.temperature", self.sampling.temperature)
    }

    fn check_ranges(&self, check: &Check) -> Result<(), ConfigError> {
        self.check_inputs(check)?;
        self.check_objective(check)?;
        let optimizer = &self.optimizer;
        check.positive("optimizer.learning_rate", optimizer.learning_rate)?;
        check.fraction("optimizer.beta1", optimizer.beta1)?;
        check.fraction("optimizer.beta2", optimizer.beta2)?;
        check.positive("optimizer.epsilon", optimizer.epsilon)?;
        check.at_least("optimizer.weight_decay", optimizer.weight_decay, 0.0)?;
        check.positive("optimizer.max_grad_norm", optimizer.max_grad_norm)?;
        check.count("train.steps", self.train.steps, 1)?;
        check.require(
            optimizer.warmup_steps <= self.train.steps,
            "optimizer.warmup_steps",
            format!(
                "is {}, more than train.steps = {}",
                optimizer.warmup_steps, self.train.steps
            ),
        )?;
        if let Some(stop) = self.train.stop_after {
            check.count("train.stop_after", stop, 1)?;
            check.require(
                stop <= self.train.steps,
                "train.stop_after",
                format!(
                    "is {stop}, more than train.steps = {}: lower it, or leave it out to do all",
                    self.train.steps
                ),
            )?;
        }
        check.count("train.questions_per_step", self.train.questions_per_step, 1)?;
        check.count(
            "train.updates_per_rollout",
            self.train.updates_per_rollout,
            1,
        )?;
        check.count("train.max_bad_steps", self.train.max_bad_steps, 1)?;
        check.count("train.prefetch_mib", self.train.prefetch_mib, 1)?;
        check.count("train.rank_timeout", self.train.rank_timeout as usize, 1)?;
        check.at_least("sft.grounding_weight", self.sft.grounding_weight, 0.0)?;
        check.at_least("sft.emphasis", self.sft.emphasis, 0.0)?;
        self.check_eval(check)
    }

    fn check_eval(&self, check: &Check) -> Result<(), ConfigError> {
        let eval = &self.eval;
        check.at_least("eval.temperature", eval.temperature, 0.0)?;
        check.count("eval.batch_size", eval.batch_size, 1)?;
        check.count("eval.samples", eval.samples, 1)?;
        check.require(
            eval.samples == 1 || eval.temperature > 0.0,
            "eval.samples",
            format!(
                "is {}, but with eval.temperature = 0 all answers are the same: set a temperature",
                eval.samples
            ),
        )?;
        let captions = eval.benchmark == Some(Benchmark::TempcompassCaptioning);
        check.require(
            !captions || eval.samples == 1,
            "eval.samples",
            "must be 1 for tempcompass_captioning: captions cannot be voted on",
        )?;
        check.require(
            !captions || eval.protocol != Some(Protocol::Authors),
            "eval.protocol",
            "is \"authors\", who have no judge for tempcompass_captioning: use \"official\"",
        )?;
        check.require(
            eval.protocol != Some(Protocol::Official) || eval.benchmark.is_some(),
            "eval.protocol",
            "is \"official\", but eval.benchmark names no benchmark whose protocol that could be",
        )?;
        check.require(
            eval.protocol_from.is_none() || eval.protocol.is_some(),
            "eval.protocol_from",
            "is given without eval.protocol, whose words would be read there: set eval.protocol to \"authors\" or \"official\"",
        )?;
        if let Some(clone) = &eval.protocol_from {
            check.require(
                clone.exists(),
                "eval.protocol_from",
                format!(
                    "there is nothing at {}: name a clone of the protocol's repository",
                    clone.display()
                ),
            )?;
        }
        check.require(
            eval.extraction != Extraction::Official || eval.benchmark.is_some(),
            "eval.extraction",
            "is \"official\", but eval.benchmark names no benchmark whose rule that could be",
        )?;
        check.require(
            eval.template
                .as_ref()
                .is_none_or(|template| template.contains("{question}")),
            "eval.template",
            "has no {question}, so nothing would be asked",
        )?;
        match &eval.subtitles {
            Some(folder) => {
                check.folder("eval.subtitles", folder)?;
                let is_srt = |entry: std::fs::DirEntry| {
                    entry.path().extension().is_some_and(|end| end == "srt")
                };
                let mut files = std::fs::read_dir(folder).into_iter().flatten().flatten();
                check.require(
                    files.any(is_srt),
                    "eval.subtitles",
                    format!("holds no .srt file: {}", folder.display()),
                )
            }
            None => Ok(()),
        }
    }

    fn check_inputs(&self, check: &Check) -> Result<(), ConfigError> {
        let device = self.model.device.as_str();
        let ordinal = device
            .strip_prefix("cuda:")
            .is_some_and(|n| n.parse::<usize>().is_ok());
        check.require(
            matches!(device, "auto" | "cpu" | "cuda") || ordinal,
            "model.device",
            format!("is `{device}`, must be `auto`, `cpu` or `cuda:N`"),
        )?;
        check.require(
            i64::try_from(self.seed).is_ok(),
            "seed",
            "must be below 2^63",
        )?;
        if let Some(samples) = self.data.samples {
            check.count("data.samples", samples, 1)?;
        }
        check.require(
            self.data.video_strip.as_ref().is_none_or(|text| !text.trim_matches(['/', '\\']).is_empty()),
            "data.video_strip",
            "names no folder: write the part of a path after which what is below data.video_root begins, such as /CLEVRER",
        )?;
        let video = &self.video;
        check.positive("video.fps", video.fps)?;
        check.count("video.min_frames", video.min_frames, 2)?;
        for (key, frames) in [
            ("video.min_frames", video.min_frames),
            ("video.max_frames", video.max_frames),
        ] {
            check.require(
                frames % 2 == 0,
                key,
                format!("is {frames}, must be even: two frames make one patch"),
            )?;
        }
        check.require(
            video.min_frames <= video.max_frames,
            "video.max_frames",
            format!(
                "is {}, below video.min_frames = {}",
                video.max_frames, video.min_frames
            ),
        )?;
        check.count("video.min_pixels", video.min_pixels, 28 * 28)?;
        check.require(
            video.min_pixels <= video.max_pixels,
            "video.max_pixels",
            format!(
                "is {}, below video.min_pixels = {}",
                video.max_pixels, video.min_pixels
            ),
        )
    }

    fn check_objective(&self, check: &Check) -> Result<(), ConfigError> {
        let sampling = &self.sampling;
        check.count("sampling.group_size", sampling.group_size, 1)?;
        check.at_least("sampling.temperature", sampling.temperature, 0.0)?;
        check.require(
            sampling.top_p > 0.0 && sampling.top_p <= 1.0,
            "sampling.top_p",
            format!("is {}, must be above 0 and at most 1", sampling.top_p),
        )?;
        check.count("sampling.max_new_tokens", sampling.max_new_tokens, 1)?;
        check.count("sampling.max_prompt_tokens", sampling.max_prompt_tokens, 1)?;
        check.at_least("reward.accuracy_weight", self.reward.accuracy_weight, 0.0)?;
        check.at_least("reward.format_weight", self.reward.format_weight, 0.0)?;
        check.fraction("objective.clip_low", self.objective.clip_low)?;
        check.at_least("objective.clip_high", self.objective.clip_high, 0.0)?;
        check.require(
            self.kl.coefficient.is_finite() && self.kl.coefficient >= 0.0,
            "kl.coefficient",
            format!(
                "is {}, must not be negative: the sign is the word kl.direction (`repel` or `attract`)",
                self.kl.coefficient
            ),
        )?;
        check.positive("kl.clamp", self.kl.clamp)?;
        if let Some(cap) = self.kl.token_cap {
            check.positive("kl.token_cap", cap)?;
        }
        check.at_least("kl.guard_format", self.kl.guard_format, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("model")).unwrap();
            std::fs::write(folder.path().join("model/config.json"), "{}").unwrap();
            std::fs::write(folder.path().join("questions.json"), "[]").unwrap();
            Self { folder }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn load(&self, verb: Verb, overrides: &[&str]) -> Result<Config, ConfigError> {
            let mut all = vec![
                format!("model.path={}", self.path("model").display()),
                format!("data.questions={}", self.path("questions.json").display()),
            ];
            all.extend(overrides.iter().map(ToString::to_string));
            Config::load(None, &all, verb)
        }
    }

    #[test]
    fn every_range_is_checked() {
        for (setting, expected) in [
            ("kl.coefficient=-0.01", "must not be negative"),
            ("sampling.group_size=1", "at least 2"),
            ("sampling.temperature=0", "above 0"),
            ("sampling.top_p=0", "above 0"),
            ("sampling.max_new_tokens=0", "at least 1"),
            ("optimizer.learning_rate=0", "above 0"),
            ("optimizer.learning_rate=nan", "above 0"),
            ("optimizer.beta2=1", "below 1"),
            ("optimizer.max_grad_norm=0", "above 0"),
            ("optimizer.warmup_steps=501", "more than train.steps"),
            ("train.steps=0", "at least 1"),
            ("train.stop_after=0", "at least 1"),
            ("train.stop_after=501", "more than train.steps = 500"),
            ("data.video_strip=/", "names no folder"),
            ("train.questions_per_step=0", "at least 1"),
            ("train.updates_per_rollout=0", "at least 1"),
            ("train.max_bad_steps=0", "at least 1"),
            ("train.rank_timeout=0", "at least 1"),
            ("video.min_frames=3", "even"),
            ("video.max_frames=2", "below video.min_frames"),
            ("video.max_pixels=784", "below video.min_pixels"),
            ("video.fps=0", "above 0"),
            ("objective.clip_low=1.5", "below 1"),
            ("kl.clamp=0", "above 0"),
            ("kl.token_cap=0", "above 0"),
            ("reward.format_weight=-1", "at least 0"),
            ("model.device=tpu", "must be `auto`"),
            ("sft.grounding_weight=-1", "at least 0"),
            ("data.samples=0", "at least 1"),
            ("eval.samples=0", "at least 1"),
            ("eval.samples=3", "set a temperature"),
            ("eval.template=Why?", "has no {question}"),
            ("eval.subtitles=absent", "there is no folder absent"),
            ("eval.protocol_from=absent", "without eval.protocol"),
            ("eval.extraction=official", "names no benchmark whose rule"),
        ] {
            let error = Files::new().load(Verb::TrainBias, &[setting]).unwrap_err();
            let message = error.to_string();
            let key = setting.split('=').next().unwrap();
            assert!(
                message.starts_with(&format!("--set {setting}: `{key}`: "))
                    && message.contains(expected),
                "{setting}: {message}"
            );
        }
    }

    #[test]
    fn a_protocol_is_for_evaluation() {
        let files = Files::new();
        let fails = |verb, setting: &str, expected: &str| {
            let message = files.load(verb, &[setting]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        fails(Verb::TrainBias, "eval.protocol=authors", "not for training");
        fails(Verb::Eval, "eval.protocol=official", "names no benchmark");
        files
            .load(Verb::Eval, &["eval.protocol=authors"])
            .expect("the authors' protocol fits any question");
    }

    #[test]
    fn stage_rules() {
        let files = Files::new();
        let model = format!("model.bias_model={}", files.path("model").display());
        let fails = |verb, settings: &[&str], expected: &str| {
            let message = files.load(verb, settings).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        fails(Verb::TrainBias, &[&model], "uses none");
        fails(
            Verb::TrainBias,
            &["kl.coefficient=0.01"],
            "train-bias has no KL term",
        );
        fails(
            Verb::TrainBias,
            &["data.kinds=inferential"],
            "observational questions only",
        );
        fails(Verb::TrainCdpo, &[], "needs a bias model");
        fails(Verb::TrainSft, &[&model], "train-sft uses no bias model");
        let bias = files.load(Verb::TrainBias, &[]).unwrap();
        assert_eq!(bias.kl.coefficient.to_bits(), 0f64.to_bits());
        assert_eq!(bias.data.kinds, [QuestionKind::Observational]);
        files
            .load(Verb::TrainCdpo, &["kl.coefficient=0"])
            .expect("plain GRPO needs no bias model");
        files.load(Verb::TrainCdpo, &[&model]).expect("CDPO");
    }

    #[test]
    fn every_path_is_checked() {
        let files = Files::new();
        for (setting, expected) in [
            ("model.path=/no/such/model", "there is no model folder"),
            ("model.path=", "is empty"),
            ("data.questions=absent.json", "there is no file absent.json"),
            ("data.questions=", "is missing"),
            ("data.video_root=absent", "there is no folder absent"),
        ] {
            let message = files
                .load(Verb::TrainBias, &[setting])
                .unwrap_err()
                .to_string();
            assert!(message.contains(expected), "{setting}: {message}");
        }
        let empty = tempfile::tempdir().unwrap();
        let setting = format!("model.path={}", empty.path().display());
        let message = files
            .load(Verb::TrainBias, &[&setting])
            .unwrap_err()
            .to_string();
        assert!(message.contains("no config.json"), "{message}");
    }

    #[test]
    fn hub_ids_are_told_from_paths() {
        assert!(is_hub_id("Qwen/Qwen2.5-VL-3B-Instruct"));
        assert!(!is_hub_id("src/absent"), "a folder of that name exists");
        assert!(!is_hub_id("./model"));
        assert!(!is_hub_id("/model/x"));
        assert!(!is_hub_id("a/b/c"));
        assert!(!is_hub_id("model"));
    }
}
