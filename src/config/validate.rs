//! What a verb requires of a config: files, and settings that do not contradict each other. Checked once, after the ranges.

use super::Benchmark;
use super::Config;
use super::ConfigError;
use super::Extraction;
use super::Origins;
use super::Protocol;
use super::QuestionKind;
use super::Schedule;
use super::Verb;
use super::instead_of_weights;
use super::is_hub_id;
use super::where_it_lies;
use crate::util::file::FileError;
use std::path::Path;

struct Check<'a> {
    origins: &'a Origins,
}

impl Check<'_> {
    fn require(&self, ok: bool, key: &str, problem: impl Into<String>) -> Result<(), ConfigError> {
        if ok {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            origin: self.origins.origin(key),
            key: key.to_owned(),
            problem: problem.into(),
        })
    }

    fn file(&self, key: &str, path: &Path) -> Result<(), ConfigError> {
        self.require(
            !path.as_os_str().is_empty(),
            key,
            "is missing; name a .json or .jsonl file of questions, in a file for --config or by --set (`videothinker init` writes one)",
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
        if is_hub_id(name) {
            return Ok(());
        }
        let path = Path::new(name);
        let latest = path.join("checkpoints/latest");
        self.require(
            !latest.exists(),
            key,
            format!(
                "{name} is the folder of a run: its model is {}",
                latest.display()
            ),
        )?;
        self.require(
            path.is_dir(),
            key,
            format!(
                "there is no model folder {name}{}, and it is no hub id (owner/name){}",
                relative_to(path),
                if key == "model.bias_model" {
                    "; train-bias makes a bias model"
                } else {
                    where_it_lies(name)
                }
            ),
        )?;
        self.require(
            path.join("config.json").is_file(),
            key,
            match instead_of_weights(path) {
                Some(found) => {
                    format!("the folder {name} has no config.json, so it is no model: it {found}")
                }
                None => format!("the folder {name} has no config.json, so it is no model"),
            },
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
        self.check_contradictions(&check)?;
        match verb {
            Verb::TrainBias => self.prepare_bias(&check)?,
            Verb::TrainGrpo => self.prepare_grpo(&check)?,
            _ => {}
        }
        if verb.is_rl() {
            check.require(
                self.sampling.repetition_penalty_in_force().is_none(),
                "sampling.repetition_penalty",
                "must be 1 in training, which learns from the model's own probabilities; evaluations, `ask` and `label` can have one",
            )?;
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
                     train-bias, or use train-grpo for plain GRPO",
                    self.kl.coefficient
                ),
            )?;
        }
        if verb.is_training() {
            self.check_kl(&check)?;
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
            "train-bias takes observational questions only; for plain GRPO on all, use train-grpo",
        )?;
        self.kl.coefficient = 0.0;
        self.data.kinds = vec![QuestionKind::Observational];
        Ok(())
    }

    /// Plain GRPO has no KL term, whatever the coefficient is by default.
    fn prepare_grpo(&mut self, check: &Check) -> Result<(), ConfigError> {
        check.require(
            self.model.bias_model.is_none(),
            "model.bias_model",
            "train-grpo measures against no model; remove it, or use train-cdpo",
        )?;
        check.require(
            self.kl.coefficient == 0.0 || !check.origins.is_set("kl.coefficient"),
            "kl.coefficient",
            "train-grpo has no KL term; remove it, or use train-cdpo with model.bias_model (kl.direction = \"attract\" pulls \
             towards that model, \"repel\" is CDPO)",
        )?;
        check.require(
            !check.origins.is_set("kl.direction"),
            "kl.direction",
            "does nothing in train-grpo, which has no KL term; remove it, or use train-cdpo",
        )?;
        self.kl.coefficient = 0.0;
        Ok(())
    }

    fn check_rl(&self, check: &Check) -> Result<(), ConfigError> {
        let sampling = &self.sampling;
        check.require(
            sampling.group_size >= 2,
            "sampling.group_size",
            format!(
                "is {}, must be at least 2: an advantage compares a completion with the others of its question",
                sampling.group_size
            ),
        )?;
        check.require(
            sampling.temperature > 0.0,
            "sampling.temperature",
            format!(
                "is {}, must be above 0: greedy completions are all the same",
                sampling.temperature
            ),
        )
    }

    /// What would do nothing is refused: a run without it looks the same.
    fn check_kl(&self, check: &Check) -> Result<(), ConfigError> {
        let kl = &self.kl;
        for (key, is_set) in [
            ("kl.target", kl.target.is_some()),
            ("kl.max_bias_entropy", kl.max_bias_entropy.is_some()),
            ("kl.bias_answers", kl.bias_answers.is_some()),
            ("kl.log_token_ratios", kl.log_token_ratios),
        ] {
            check.require(
                !is_set || self.model.bias_model.is_some(),
                key,
                "needs a bias model: name it in model.bias_model (train-cdpo), or remove this",
            )?;
        }
        if let Some(folder) = &kl.bias_answers {
            check.folder("kl.bias_answers", folder)?;
        }
        for (key, is_set) in [
            ("kl.schedule", kl.schedule != Schedule::Constant),
            ("kl.max_bias_entropy", kl.max_bias_entropy.is_some()),
            ("kl.bias_answers", kl.bias_answers.is_some()),
        ] {
            check.require(
                !is_set || self.model.bias_model.is_none() || kl.coefficient > 0.0,
                key,
                "does nothing while kl.coefficient is 0: set the coefficient, or remove this",
            )?;
        }
        check.require(
            kl.target.is_none() || kl.coefficient > 0.0,
            "kl.target",
            "steers kl.coefficient, which is 0 and stays so: set the largest it may be, or remove the target",
        )?;
        check.require(
            kl.target.is_none() || kl.schedule == Schedule::Constant,
            "kl.schedule",
            "must be \"constant\" with kl.target, which steers the coefficient: remove one of the two",
        )
    }

    fn check_contradictions(&self, check: &Check) -> Result<(), ConfigError> {
        let (video, steps) = (&self.video, self.train.steps);
        check.require(
            video.min_frames <= video.max_frames,
            "video.max_frames",
            format!(
                "is {}, below video.min_frames = {}",
                video.max_frames, video.min_frames
            ),
        )?;
        check.require(
            video.min_pixels <= video.max_pixels,
            "video.max_pixels",
            format!(
                "is {}, below video.min_pixels = {}",
                video.max_pixels, video.min_pixels
            ),
        )?;
        check.require(
            self.optimizer.warmup_steps <= steps,
            "optimizer.warmup_steps",
            format!(
                "is {}, more than train.steps = {steps}",
                self.optimizer.warmup_steps
            ),
        )?;
        if let Some(stop) = self.train.stop_after {
            check.require(
                stop <= steps,
                "train.stop_after",
                format!("is {stop}, more than train.steps = {steps}: lower it, or leave it out to do all"),
            )?;
        }
        self.check_eval(check)
    }

    fn check_eval(&self, check: &Check) -> Result<(), ConfigError> {
        let eval = &self.eval;
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
        match &eval.subtitles {
            Some(folder) => {
                check.folder("eval.subtitles", folder)?;
                let found = has_subtitles(folder);
                let problem = match &found {
                    Ok(_) => format!("holds no .srt file: {}", folder.display()),
                    Err(error) => error.to_string(),
                };
                check.require(matches!(found, Ok(true)), "eval.subtitles", problem)
            }
            None => Ok(()),
        }
    }
}

fn has_subtitles(folder: &Path) -> Result<bool, FileError> {
    let failed = |error| FileError::reading(folder, error);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|end| end == "srt") {
            return Ok(true);
        }
    }
    Ok(false)
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
            ("kl.target=0", "above 0"),
            ("kl.max_bias_entropy=0", "above 0"),
            ("kl.bias_answers=", "must be the folder of an evaluation"),
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
            ("seed=18446744073709551615", "at most 9223372036854775807"),
            ("kl.coefficient=inf", "must be a number of at least 0"),
            ("output_dir=", "is empty"),
            ("data.kinds=observational,observational", "each once"),
            (
                "checkpoint.keep_steps=[5, 0]",
                "an item is 0, must be at least 1",
            ),
            ("model.device=cuda:+1", "must be `auto`"),
            (
                "sft.emphasized=[\"\"]",
                "an item is empty, must be at least a letter",
            ),
            ("train.steps=1000001", "at most 1000000"),
            ("sampling.max_new_tokens=1000000000000", "at most 262144"),
            ("video.max_pixels=100000000", "at most 12845056"),
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
        fails(Verb::TrainGrpo, &[&model], "or use train-cdpo");
        fails(
            Verb::TrainGrpo,
            &["kl.coefficient=0.01"],
            "train-grpo has no KL term",
        );
        fails(
            Verb::TrainGrpo,
            &["kl.direction=attract"],
            "which has no KL term",
        );
        for verb in [Verb::TrainBias, Verb::TrainGrpo, Verb::TrainSft] {
            for setting in [
                "kl.log_token_ratios=true",
                "kl.target=1",
                "kl.max_bias_entropy=1",
                "kl.bias_answers=answers",
            ] {
                fails(verb, &[setting], "needs a bias model");
            }
        }
        fails(Verb::TrainSft, &[&model], "train-sft uses no bias model");
        fails(
            Verb::TrainCdpo,
            &["kl.coefficient=0", "kl.target=1"],
            "`kl.target`: needs",
        );
        fails(
            Verb::TrainCdpo,
            &[&model, "kl.coefficient=0", "kl.target=1"],
            "`kl.target`: steers kl.coefficient, which is 0",
        );
        fails(
            Verb::TrainCdpo,
            &[&model, "kl.coefficient=0", "kl.schedule=cosine"],
            "`kl.schedule`: does nothing while kl.coefficient is 0",
        );
        fails(
            Verb::TrainCdpo,
            &[&model, "kl.target=1", "kl.schedule=linear"],
            "--set kl.schedule=linear: `kl.schedule`: must be \"constant\" with kl.target",
        );
        let bias = files.load(Verb::TrainBias, &[]).unwrap();
        assert_eq!(bias.kl.coefficient.to_bits(), 0f64.to_bits());
        assert_eq!(bias.data.kinds, [QuestionKind::Observational]);
        files
            .load(Verb::TrainCdpo, &["kl.coefficient=0"])
            .expect("plain GRPO needs no bias model");
        let by_name = files.load(Verb::TrainGrpo, &[]).unwrap();
        let by_coefficient = files.load(Verb::TrainCdpo, &["kl.coefficient=0"]).unwrap();
        assert_eq!(by_name, by_coefficient);
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
            ("kl.bias_answers=absent", "there is no folder absent"),
        ] {
            let model = format!("model.bias_model={}", files.path("model").display());
            let message = if setting.starts_with("kl.") {
                files.load(Verb::TrainCdpo, &[&model, setting])
            } else {
                files.load(Verb::TrainBias, &[setting])
            };
            let message = message.unwrap_err().to_string();
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
}
