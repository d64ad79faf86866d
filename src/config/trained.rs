//! How a model was trained to be asked: `videothinker.json` of its folder.
//!
//! A model answers best when it is shown what its training showed it: as many frames, as large, with the same words around the
//! question. A checkpoint says so itself, and whoever asks it begins with these settings instead of the defaults.

use super::Config;
use super::ConfigError;
use super::Origin;
use super::Origins;
use super::Verb;
use super::Wording;
use super::load::Written;
use crate::util::file;
use crate::util::json;
use serde::Deserialize;
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use toml::Table;
use toml::Value;

/// The settings of a model's training that decide what it is asked.
#[derive(Debug, Clone)]
pub(crate) struct TrainedWith {
    /// Where it stands.
    path: PathBuf,
    settings: Table,
}

/// What `videothinker.json` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The program that wrote it.
    videothinker: String,
    /// Steps of the training behind it.
    step: usize,
    /// The user's text, `{question}` standing for the question with its options.
    prompt: String,
    /// How answers were to be written.
    answer: String,
    /// As in a config file.
    settings: Table,
}

/// A setting that is another one than in the model's training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Departure {
    key: String,
    trained: String,
    now: String,
    by: Origin,
}

impl Departure {
    /// Whether a protocol is the reason, which it then is for every model.
    pub(crate) fn is_by_protocol(&self) -> bool {
        matches!(self.by, Origin::Protocol(_))
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            trained,
            now,
            by,
        } = self;
        write!(f, "{key} = {now} instead of {trained}")?;
        match by {
            Origin::Protocol(_) | Origin::Default => Ok(()),
            by => write!(f, " ({by})"),
        }
    }
}

/// Whether a setting decides what a model is asked and how long it may answer.
fn asks(key: &str) -> bool {
    const SINGLE: [&str; 4] = [
        "model.dtype",
        "sampling.max_prompt_tokens",
        "sampling.max_new_tokens",
        "eval.wording",
    ];
    key.starts_with("video.") || SINGLE.contains(&key)
}

impl TrainedWith {
    /// The file's name in a model folder.
    pub(crate) const FILE: &str = "videothinker.json";

    /// What the model in `folder` says of its training; for a checkpoint without the file, what its run's config says. `None`:
    /// it says nothing, as models from elsewhere.
    ///
    /// # Errors
    /// [`ConfigError`] where the file cannot be read or holds what no setting is.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, ConfigError> {
        let path = folder.join(Self::FILE);
        let failed = |system| ConfigError::Read {
            path: path.clone(),
            system,
        };
        if file::exists(&path).map_err(|error| failed(error.system))? {
            let text = std::fs::read(&path).map_err(failed)?;
            let file: File = json::read(&text).map_err(|error| ConfigError::Trained {
                origin: Origin::Line(path.clone(), error.line),
                message: error.problem,
            })?;
            return Self::only_asking(path, file.settings).map(Some);
        }
        let resolved = folder.join("trainer/config.toml");
        if !file::exists(&resolved).map_err(|error| failed(error.system))? {
            return Ok(None);
        }
        match Config::read_resolved(&resolved) {
            Ok(config) => Self::of(&config, resolved).map(Some),
            Err(error) => {
                tracing::warn!(
                    "how the model was trained cannot be read, so it is asked with the defaults: {error}"
                );
                Ok(None)
            }
        }
    }

    /// Refuses settings that say nothing of how a model is asked: a model's file must not choose where results go or what is
    /// drawn.
    fn only_asking(path: PathBuf, settings: Table) -> Result<Self, ConfigError> {
        let mut other = None;
        super::load::flatten("", &settings, &mut |key, _| {
            if super::schema::find(&key).is_some() && !asks(&key) {
                other.get_or_insert(key);
            }
        });
        match other {
            None => Ok(Self { path, settings }),
            Some(key) => Err(ConfigError::Invalid {
                origin: Origin::Model(path),
                key,
                problem: "says nothing of how a model is asked; a model's file must not set it: remove it there".into(),
            }),
        }
    }

    /// Where it stands.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn of(config: &Config, path: PathBuf) -> Result<Self, ConfigError> {
        let mut config = config.clone();
        // Questions of a training are in its wording, whatever an evaluation with the same file would ask.
        config.eval.wording = Wording::Training;
        let all = Table::try_from(&config).map_err(|error| ConfigError::WrongType {
            origin: Origin::Default,
            key: String::new(),
            message: error.to_string(),
        })?;
        Ok(Self {
            path,
            settings: kept("", &all),
        })
    }

    /// The text of `videothinker.json` for a checkpoint at `step` of a run of `verb` with `config`, which asked by `prompt`.
    ///
    /// # Errors
    /// A setting that TOML cannot hold.
    pub(crate) fn describe(
        config: &Config,
        verb: Verb,
        step: usize,
        prompt: String,
    ) -> Result<String, ConfigError> {
        let mut settings = Self::of(config, PathBuf::new())?.settings;
        // Worked answers are as long as they are: nothing was sampled, to no limit.
        if verb == Verb::TrainSft
            && let Some(Value::Table(sampling)) = settings.get_mut("sampling")
        {
            sampling.remove("max_new_tokens");
        }
        let file = File {
            videothinker: env!("CARGO_PKG_VERSION").to_owned(),
            step,
            prompt,
            answer: "<think>…</think><answer>A,C</answer>".to_owned(),
            settings,
        };
        let text = serde_json::to_string_pretty(&file).map_err(|error| ConfigError::WrongType {
            origin: Origin::Default,
            key: String::new(),
            message: error.to_string(),
        })?;
        Ok(text + "\n")
    }

    /// Puts its settings beneath those that a user writes.
    pub(super) fn begin(&self, written: &mut Written) -> Result<(), ConfigError> {
        let text = self.settings.to_string();
        written.read_text(&text, &|_| Origin::Model(self.path.clone()))
    }

    /// In which frames a training with `config` shows this model others than it has seen.
    pub(crate) fn other_frames(&self, config: &Config) -> Vec<Departure> {
        let mut departures = self.departures(config, &Origins::default());
        departures.retain(|departure| departure.key.starts_with("video."));
        departures
    }

    /// What `config` departs from it in.
    pub(super) fn departures(&self, config: &Config, origins: &Origins) -> Vec<Departure> {
        let now = config.flattened();
        let mut departures = Vec::new();
        super::load::flatten("", &self.settings, &mut |key, trained| {
            let trained = trained.to_string();
            // A prompt that is too long is refused, and the limit changes none that is not.
            let is_limit = key == "sampling.max_prompt_tokens";
            if let Some(now) = now.get(&key)
                && *now != trained
                && !is_limit
            {
                let by = match (origins.origin(&key), config.eval.protocol) {
                    (Origin::Model(_), Some(protocol)) => Origin::Protocol(protocol),
                    (by, _) => by,
                };
                departures.push(Departure {
                    now: now.clone(),
                    by,
                    key,
                    trained,
                });
            }
        });
        departures
    }
}

/// Of a table of settings those that [`asks`].
fn kept(prefix: &str, table: &Table) -> Table {
    let below = table.iter().filter_map(|(name, value)| {
        let key = super::schema::join(prefix, name);
        let value = match value {
            Value::Table(inner) => Value::Table(kept(&key, inner)),
            leaf if asks(&key) => leaf.clone(),
            _ => return None,
        };
        let is_empty = value.as_table().is_some_and(Table::is_empty);
        (!is_empty).then(|| (name.clone(), value))
    });
    below.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(TrainedWith::FILE), text).unwrap();
        folder
    }

    fn mini() -> Config {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/mini/cdpo.toml");
        Config::load(Some(&file), &[], Verb::Inspect).unwrap()
    }

    /// A folder of a model that was trained with `config`.
    fn trained(config: &Config) -> tempfile::TempDir {
        folder_with(
            &TrainedWith::describe(config, Verb::TrainCdpo, 7, "{question} Think.".into()).unwrap(),
        )
    }

    fn ask(folder: &Path, settings: &[&str]) -> (Config, Vec<String>) {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let trained = TrainedWith::read(folder).unwrap();
        let (config, departures) =
            Config::load_for_model(None, &settings, Verb::Inspect, trained.as_ref()).unwrap();
        let departures = departures.iter().map(ToString::to_string).collect();
        (config, departures)
    }

    #[test]
    fn a_model_is_asked_as_it_was_trained() {
        let config = mini();
        let folder = trained(&config);
        let (asked, departures) = ask(folder.path(), &[]);
        assert_eq!(asked.video, config.video);
        assert_eq!(asked.sampling.max_new_tokens, 128);
        assert_eq!(asked.model.dtype, config.model.dtype);
        assert_eq!(asked.eval.wording, Wording::Training);
        assert_eq!(departures, [""; 0]);
        // Nothing else of the training counts.
        let others = Config {
            video: config.video,
            sampling: crate::config::SamplingConfig {
                max_new_tokens: 128,
                ..Default::default()
            },
            ..Config::default()
        };
        assert_eq!(asked.optimizer, others.optimizer);
        assert_eq!(asked.kl, others.kl);
        assert_eq!(asked.sampling, others.sampling);
        assert_eq!(asked.output_dir, others.output_dir);
    }

    #[test]
    fn what_a_user_or_a_protocol_says_goes_first_and_is_told() {
        let folder = trained(&mini());
        let (asked, departures) = ask(
            folder.path(),
            &[
                "video.max_frames=16",
                "video.min_frames=8",
                "sampling.max_prompt_tokens=9",
            ],
        );
        assert_eq!((asked.video.min_frames, asked.video.max_frames), (8, 16));
        assert_eq!(
            departures,
            ["video.max_frames = 16 instead of 8 (--set video.max_frames=16)"]
        );
        let (asked, departures) = ask(folder.path(), &["eval.protocol=authors"]);
        assert_eq!(asked.video.max_frames, 32);
        assert_eq!(asked.eval.wording, Wording::Evaluation);
        let said = departures.join("\n");
        for key in [
            "video.max_frames = 32 instead of 8",
            "eval.wording",
            "sampling.max_new_tokens",
        ] {
            assert!(said.contains(key), "{said}");
        }
    }

    #[test]
    fn an_older_checkpoint_says_it_by_its_runs_config_and_a_model_from_elsewhere_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(TrainedWith::read(folder.path()).unwrap().is_none());
        std::fs::create_dir(folder.path().join("trainer")).unwrap();
        let resolved = folder.path().join("trainer/config.toml");
        std::fs::write(&resolved, mini().to_toml().unwrap()).unwrap();
        let (asked, departures) = ask(folder.path(), &["video.fps=4"]);
        assert_eq!(asked.video.max_pixels, mini().video.max_pixels);
        assert_eq!(asked.eval.wording, Wording::Training);
        assert_eq!(departures.len(), 1, "{departures:?}");
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let whole = TrainedWith::describe(&mini(), Verb::TrainCdpo, 7, String::new()).unwrap();
        for (text, said) in [
            ("{".to_owned(), "videothinker.json:1"),
            (whole.replace("\"step\"", "\"steps\""), "videothinker.json:"),
        ] {
            let folder = folder_with(&text);
            let error = TrainedWith::read(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains(said) && error.contains("remove it"),
                "{error}"
            );
            assert!(!error.contains("TOML"), "{error}");
        }
        for (from, to, said) in [
            (
                "max_frames",
                "most_frames",
                "unknown key `video.most_frames`",
            ),
            (
                "\"max_frames\": 8",
                "\"max_frames\": \"8\"",
                "`video.max_frames`",
            ),
            ("\"max_frames\": 8", "\"max_frames\": 7", "must be even"),
        ] {
            assert!(whole.contains(from), "{whole}");
            let folder = folder_with(&whole.replacen(from, to, 1));
            let trained = TrainedWith::read(folder.path()).unwrap();
            let loaded = Config::load_for_model(None, &[], Verb::Inspect, trained.as_ref());
            let error = loaded.unwrap_err().to_string();
            assert!(
                error.contains("videothinker.json: ") && error.contains(said),
                "{error}"
            );
        }
    }

    #[test]
    fn a_models_file_sets_nothing_else() {
        let whole = TrainedWith::describe(&mini(), Verb::TrainCdpo, 7, String::new()).unwrap();
        for other in [
            r#""output_dir": "elsewhere", "eval""#,
            r#""data": {"samples": 1}, "eval""#,
            r#""model": {"device": "cuda:7"}, "eval""#,
        ] {
            let text = whole.replacen("\"eval\"", other, 1);
            let text = if other.contains("device") {
                text.replacen("\"model\": {\n      \"dtype\": \"f32\"\n    },\n", "", 1)
            } else {
                text
            };
            let error = TrainedWith::read(folder_with(&text).path()).unwrap_err();
            assert!(error.to_string().contains("must not set it"), "{error}");
        }
        // A mark at the beginning is no fault.
        let marked = format!("\u{feff}{whole}");
        assert!(
            TrainedWith::read(folder_with(&marked).path())
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn the_miniatures_base_says_what_its_last_training_was() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = root.join("configs/mini/sft_styles.toml");
        let config = Config::load(Some(&file), &[], Verb::Inspect).unwrap();
        let text = std::fs::read_to_string(root.join("data/mini").join(TrainedWith::FILE)).unwrap();
        let file: File = serde_json::from_str(&text).unwrap();
        assert_eq!(file.step, config.train.steps);
        let again =
            TrainedWith::describe(&config, Verb::TrainSft, file.step, file.prompt.clone()).unwrap();
        assert_eq!(text, again);
    }

    #[test]
    fn the_miniatures_own_evaluation_departs_in_nothing() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let trained = TrainedWith::read(&root.join("data/mini")).unwrap();
        let file = root.join("configs/mini/eval.toml");
        let (config, departures) =
            Config::load_for_model(Some(&file), &[], Verb::Inspect, trained.as_ref()).unwrap();
        assert_eq!(departures, []);
        assert_eq!(config.sampling.max_new_tokens, 128);
    }
}
