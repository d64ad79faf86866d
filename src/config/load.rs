//! From a TOML file and `--set` arguments to a [`Config`], with every mistake named by where it stands and its key.

use super::Config;
use super::Protocol;
use super::Setting;
use super::Verb;
use super::foreign;
use super::schema;
use super::trained::Departure;
use super::trained::TrainedWith;
use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use toml::Table;
use toml::Value;
use toml::de::DeString;
use toml::de::DeTable;
use toml::de::DeValue;

/// A mistake in a config file or in a `--set` argument.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the config {path}: {}",
        if system.kind() == ErrorKind::NotFound {
            "there is no such file; `videothinker init` writes one".to_owned()
        } else {
            system.to_string()
        }
    )]
    Read {
        /// The config file.
        path: PathBuf,
        /// Why.
        system: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{origin}: not valid TOML: {message}")]
    Syntax {
        /// File and line.
        origin: Origin,
        /// The parser's words.
        message: String,
    },
    /// A model's `videothinker.json` is none.
    #[error(
        "{origin}: not what a training writes: {message}; a newer videothinker may have written it, or remove it to ask with the defaults"
    )]
    Trained {
        /// File and line.
        origin: Origin,
        /// The reader's words.
        message: String,
    },
    /// A key that no setting has.
    #[error("{origin}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// File and line, or the argument.
        origin: Origin,
        /// The key as written, with its table.
        key: String,
        /// What it may have been meant to be, such as `; did you mean …`; empty where nothing is like it.
        hint: String,
    },
    /// A value of the wrong type, or a word that is none of the choices.
    #[error("{origin}: `{key}`: {message}")]
    WrongType {
        /// File and line, or the argument.
        origin: Origin,
        /// The key.
        key: String,
        /// What was found and what is expected.
        message: String,
    },
    /// More than one of these.
    #[error("{}", lines(.mistakes))]
    Several {
        /// In the order in which they stand.
        mistakes: Vec<ConfigError>,
    },
    /// A `--set` argument without `=`.
    #[error("--set {argument}: expected KEY=VALUE, for example --set kl.coefficient=0.02")]
    MalformedOverride {
        /// The argument.
        argument: String,
    },
    /// A value outside its range, or one that contradicts another.
    #[error("{}`{key}`: {problem}", before(.origin))]
    Invalid {
        /// Where the value comes from.
        origin: Origin,
        /// The key.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

/// Each mistake on a line.
fn lines(mistakes: &[ConfigError]) -> String {
    let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    mistakes.join("\n")
}

impl ConfigError {
    /// The line that it is about, where it is about one.
    fn line(&self) -> usize {
        match self {
            Self::UnknownKey { origin, .. } | Self::WrongType { origin, .. } => match origin {
                Origin::Line(_, line) => *line,
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Whether it is a key of another trainer's.
    fn is_explained(&self) -> bool {
        matches!(self, Self::UnknownKey { key, .. } if foreign::in_words(key).is_some())
    }
}

/// The place of a value, where it has one.
fn before(origin: &Origin) -> String {
    match origin {
        Origin::Default => String::new(),
        origin => format!("{origin}: "),
    }
}

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the config file, counted from 1.
    Line(PathBuf, usize),
    /// A `--set` argument.
    Argument(String),
    /// What a model's folder says of its training.
    Model(PathBuf),
    /// `eval.protocol`, which sets others.
    Protocol(Protocol),
    /// Nowhere: the default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Argument(argument) => write!(f, "--set {argument}"),
            Self::Model(path) => write!(f, "{}", path.display()),
            Self::Protocol(protocol) => write!(f, "eval.protocol = {:?}", protocol.as_str()),
            Self::Default => write!(f, "default value"),
        }
    }
}

/// Where each setting that is not a default was written.
#[derive(Debug, Clone, Default)]
pub struct Origins(BTreeMap<&'static str, Origin>);

impl Origins {
    /// Where a dotted key was written.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Whether the user wrote this key.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        debug_assert!(schema::find(key).is_some(), "no setting {key}");
        let origin = self.0.get(key);
        origin.is_some_and(|origin| !matches!(origin, Origin::Model(_)))
    }
}

impl Config {
    /// Reads `path` (the defaults when absent), applies `--set KEY=VALUE` overrides in order, and validates for `verb`.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, the line and the key; for an unknown key also the nearest valid one.
    pub fn load(
        path: Option<&Path>,
        overrides: &[String],
        verb: Verb,
    ) -> Result<Self, ConfigError> {
        let (config, _) = Self::load_for_model(path, overrides, verb, None)?;
        Ok(config)
    }

    /// The same for asking a model: what its training says ([`TrainedWith`]) stands in place of the defaults. Also returns
    /// what is another than in training, because the file, an argument or a protocol says so.
    ///
    /// # Errors
    /// [`ConfigError`], as [`Config::load`].
    pub(crate) fn load_for_model(
        path: Option<&Path>,
        overrides: &[String],
        verb: Verb,
        trained: Option<&TrainedWith>,
    ) -> Result<(Self, Vec<Departure>), ConfigError> {
        let mut written = Written::default();
        if let Some(trained) = trained {
            trained.begin(&mut written)?;
        }
        let mut mistakes = Vec::new();
        if let Some(path) = path {
            mistakes.extend(written.read_file(path).err());
        }
        for argument in overrides {
            mistakes.extend(written.read_override(argument).err());
        }
        all_at_once(mistakes)?;
        written.check_ranges()?;
        let mut config = written.config(Origin::Default)?;
        config.prepare(verb, &written.origins)?;
        let departures = trained.map(|trained| trained.departures(&config, &written.origins));
        Ok((config, departures.unwrap_or_default()))
    }

    /// The config as TOML, every value written out.
    ///
    /// # Errors
    /// When a value has no TOML form (an integer above `i64::MAX`).
    pub(crate) fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Reads a config that a run wrote itself, without checks of ranges or paths.
    ///
    /// # Errors
    /// [`ConfigError`] when the file cannot be read or holds something unknown.
    pub(crate) fn read_resolved(path: &Path) -> Result<Self, ConfigError> {
        let mut written = Written::default();
        written.read_file(path)?;
        // What a run did that was written before there was this setting.
        if written.values.keys().any(|key| key.starts_with("video.")) {
            let text_after = written.values.entry("video.text_after");
            text_after.or_insert_with(|| "spatial".into());
        }
        written.config(Origin::Line(path.to_path_buf(), 1))
    }

    /// Every setting as `(dotted key, value)`, in order of the keys; an absent one has no entry.
    pub fn flattened(&self) -> BTreeMap<String, String> {
        let mut leaves = BTreeMap::new();
        let table = Table::try_from(self).unwrap_or_default();
        flatten("", &table, &mut |key, value| {
            leaves.insert(key, value.to_string());
        });
        leaves
    }
}

pub(super) fn flatten(prefix: &str, table: &Table, visit: &mut impl FnMut(String, &Value)) {
    for (name, value) in table {
        let key = schema::join(prefix, name);
        match value {
            Value::Table(inner) => flatten(&key, inner, visit),
            leaf => visit(key, leaf),
        }
    }
}

/// The settings that a file and `--set` arguments give, each of its type.
#[derive(Default)]
pub(super) struct Written {
    values: BTreeMap<&'static str, Value>,
    origins: Origins,
}

impl Written {
    fn insert(&mut self, setting: &'static Setting, value: Value, origin: Origin) {
        self.values.insert(&setting.key, value);
        self.origins.0.insert(&setting.key, origin);
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|system| ConfigError::Read {
            path: path.to_path_buf(),
            system,
        })?;
        let origin = |span: Range<usize>| {
            let before = text.get(..span.start).unwrap_or(&text);
            Origin::Line(path.to_path_buf(), 1 + before.matches('\n').count())
        };
        self.read_text(&text, &origin)
    }

    /// Reads settings as TOML, `origin` saying where a part of the text stands.
    pub(super) fn read_text(
        &mut self,
        text: &str,
        origin: &impl Fn(Range<usize>) -> Origin,
    ) -> Result<(), ConfigError> {
        let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            origin: origin(error.span().unwrap_or(0..0)),
            message: error.message().to_owned(),
        })?;
        let mut mistakes = Vec::new();
        self.read_table("", document.get_ref(), origin, &mut mistakes);
        mistakes.sort_by_key(ConfigError::line);
        all_at_once(mistakes)
    }

    /// Reads a table and those in it; what is wrong is left out and listed.
    fn read_table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        origin: &impl Fn(Range<usize>) -> Origin,
        mistakes: &mut Vec<ConfigError>,
    ) {
        for (name, value) in table {
            let key = schema::join(prefix, name.get_ref());
            let origin_of_key = || origin(name.span());
            let wrong = |message: String| ConfigError::WrongType {
                origin: origin_of_key(),
                key: key.clone(),
                message,
            };
            // A quoted name with a dot in it is not the setting of that key.
            let is_name = !name.get_ref().contains('.');
            match (value.get_ref(), schema::find(&key)) {
                (DeValue::Table(_), Some(_)) if is_name => {
                    mistakes.push(wrong(format!("is no table: write {key} = …")));
                }
                (value, Some(setting)) if is_name => match setting.read(value) {
                    Ok(value) => self.insert(setting, value, origin_of_key()),
                    Err(message) => mistakes.push(wrong(message)),
                },
                (DeValue::Table(inner), None) if is_name && schema::is_table(&key) => {
                    self.read_table(&key, inner, origin, mistakes);
                }
                (_, None) if is_name && schema::is_table(&key) => {
                    mistakes.push(wrong(format!("is a table: write its keys below [{key}]")));
                }
                (DeValue::Table(inner), _) => {
                    mistakes.extend(unknown_table(name, &key, inner, origin));
                }
                _ => mistakes.push(unknown(origin_of_key(), &key)),
            }
        }
    }

    /// Reads one `KEY=VALUE`.
    fn read_override(&mut self, argument: &str) -> Result<(), ConfigError> {
        let origin = || Origin::Argument(argument.to_owned());
        let (key, text) =
            argument
                .split_once('=')
                .ok_or_else(|| ConfigError::MalformedOverride {
                    argument: argument.to_owned(),
                })?;
        let (key, text) = (key.trim(), text.trim());
        let wrong = |message: String| ConfigError::WrongType {
            origin: origin(),
            key: key.to_owned(),
            message,
        };
        let Some(setting) = schema::find(key) else {
            return Err(if schema::is_table(key) {
                wrong(format!("is a table: set one of its keys, {key}.NAME=VALUE"))
            } else {
                unknown(origin(), key)
            });
        };
        let value = setting.parse(text).map_err(wrong)?;
        self.insert(setting, value, origin());
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        for setting in Config::settings() {
            if let Some(value) = self.values.get(setting.key.as_str()) {
                setting
                    .check(value)
                    .map_err(|problem| ConfigError::Invalid {
                        origin: self.origins.origin(&setting.key),
                        key: setting.key.clone(),
                        problem,
                    })?;
            }
        }
        Ok(())
    }

    /// These settings, the others by default. What does not fit the types although it fits their schema is said to be at
    /// `origin`.
    fn config(&self, origin: Origin) -> Result<Config, ConfigError> {
        let mut table = Table::new();
        for (key, value) in &self.values {
            insert(&mut table, key, value.clone());
        }
        table
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::WrongType {
                origin,
                key: String::new(),
                message: error.message().to_owned(),
            })
    }
}

fn unknown(origin: Origin, key: &str) -> ConfigError {
    ConfigError::UnknownKey {
        origin,
        key: key.to_owned(),
        hint: schema::hint(key),
    }
}

/// A table that there is not: what other trainers mean by the keys in it is said of each, else the nearest table is named.
fn unknown_table(
    name: &toml::Spanned<DeString<'_>>,
    key: &str,
    table: &DeTable<'_>,
    origin: &impl Fn(Range<usize>) -> Origin,
) -> Vec<ConfigError> {
    let mut inner = Vec::new();
    let mut is_foreign = false;
    for (name, value) in table {
        let key = schema::join(key, name.get_ref());
        is_foreign |= foreign::in_words(&key).is_some();
        match value.get_ref() {
            DeValue::Table(table) => inner.extend(unknown_table(name, &key, table, origin)),
            _ => inner.push(unknown(origin(name.span()), &key)),
        }
    }
    if is_foreign || inner.iter().any(ConfigError::is_explained) {
        return inner;
    }
    vec![ConfigError::UnknownKey {
        origin: origin(name.span()),
        key: key.to_owned(),
        hint: schema::hint_of_table(key).unwrap_or_else(|| schema::hint(key)),
    }]
}

/// One mistake as it is, several together.
fn all_at_once(mut mistakes: Vec<ConfigError>) -> Result<(), ConfigError> {
    match mistakes.len() {
        0 => Ok(()),
        1 => Err(mistakes.remove(0)),
        _ => Err(ConfigError::Several { mistakes }),
    }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((head, rest)) => {
            let inner = table
                .entry(head.to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Benchmark, Protocol, QuestionKind, TextAfterVideo};

    fn load(text: &str, overrides: &[&str]) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        Config::load(Some(file.path()), &overrides, Verb::Inspect)
    }

    fn message(text: &str, overrides: &[&str]) -> String {
        load(text, overrides).unwrap_err().to_string()
    }

    #[test]
    fn unknown_key_names_line_and_nearest() {
        let error = message("seed = 1\n[kl]\n# a comment\ncoeficient = 0.1\n", &[]);
        assert!(error.contains(":4: unknown key `kl.coeficient`"), "{error}");
        assert!(error.contains("did you mean `kl.coefficient`?"), "{error}");
    }

    #[test]
    fn key_in_the_wrong_table_is_found() {
        let error = message("learning_rate = 1e-6\n", &[]);
        assert!(error.contains(":1: unknown key `learning_rate`"), "{error}");
        assert!(error.contains("`optimizer.learning_rate`"), "{error}");
    }

    #[test]
    fn unknown_table_is_an_unknown_key() {
        let error = message("[samplng]\ngroup_size = 4\n", &[]);
        assert!(
            error.contains(":1: unknown key `samplng`; did you mean the table `[sampling]`?"),
            "{error}"
        );
        let error = message("[train]\n[trian]\nsteps = 4\n", &[]);
        assert!(error.contains(":2: "), "{error}");
        assert!(error.contains("the table `[train]`?"), "{error}");
        let error = message("[zzz]\n", &[]);
        assert!(error.ends_with("unknown key `zzz`"), "{error}");
    }

    #[test]
    fn names_of_other_trainers_are_understood() {
        for (text, said) in [
            (
                "[kl]\nbeta = 0.04\n",
                "here it is `kl.coefficient` (TRL's beta pulls",
            ),
            ("beta = 0.04\n", "here it is `kl.coefficient`"),
            (
                "[optimizer]\nlr = 1e-6\n",
                "here it is `optimizer.learning_rate`",
            ),
            ("num_generations = 8\n", "here it is `sampling.group_size`"),
            ("[lora]\nrank = 8\n", "LoRA is not supported"),
            ("report_to = \"wandb\"\n", "TensorBoard"),
            ("[train]\nseed = 1\n", "here it is `seed` (at the top"),
            ("[deepspeed]\nstage = 3\n", "not sharded"),
            ("[rollout]\nn = 3\n", "`sampling.group_size`"),
            (
                "kl_loss_type = \"low_var_kl\"\n",
                "here it is `kl.estimator`",
            ),
            ("[trainer]\nsave_limit = 3\n", "`checkpoint.keep`"),
            ("[trainer]\nresume_mode = \"auto\"\n", "--resume auto"),
            ("[rollout]\nname = \"vllm\"\n", "without vLLM"),
            ("[worker.ref.fsdp]\nfull = true\n", "not sharded"),
            ("[sampling]\nn = 4\n", "`sampling.group_size`"),
            ("[sampling]\nmin_p = 0.1\n", "there is no min_p"),
            ("eval_steps = 50\n", "`videothinker eval run`"),
            ("[ref]\n", "`model.bias_model`"),
        ] {
            let error = message(text, &[]);
            assert!(error.contains(said), "{text}: {error}");
        }
        let error = message("", &["lora.rank=8"]);
        assert!(error.contains("LoRA is not supported"), "{error}");
    }

    #[test]
    fn every_mistake_is_said_at_once() {
        let text = "seed = 1\nzzz = 2\n[trainer]\ntotal_epochs = 1\nproject_name = \"x\"\nown = 3\n[train]\nsteps = \"many\"\n\
                    [actor.optim]\nlr = 1e-6\n";
        let error = message(text, &["beta=0.1", "kl.x"]);
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 8, "{error}");
        for (line, said) in lines.iter().zip([
            ":2: unknown key `zzz`",
            ":4: unknown key `trainer.total_epochs`; here it is `train.steps` (steps, not epochs",
            ":5: unknown key `trainer.project_name`; every run writes",
            ":6: unknown key `trainer.own`",
            ":8: `train.steps`: is \"many\"",
            ":10: unknown key `actor.optim.lr`; here it is `optimizer.learning_rate`",
            "--set beta=0.1: unknown key `beta`; here it is `kl.coefficient`",
            "--set kl.x: expected KEY=VALUE",
        ]) {
            assert!(line.contains(said), "{line} lacks {said}");
        }
    }

    #[test]
    fn wrong_type_names_line_key_and_expectation() {
        let error = message("[train]\n\nsteps = \"many\"\n", &[]);
        assert!(error.contains(":3: `train.steps`"), "{error}");
        assert!(
            error.contains("is \"many\", must be a whole number of at least 1 and at most 1000000"),
            "{error}"
        );
        let error = message("[kl]\ndirection = \"push\"\n", &[]);
        assert!(error.contains(":2: `kl.direction`"), "{error}");
        assert!(
            error.contains("`repel`") && error.contains("`attract`"),
            "{error}"
        );
        let error = message("[train]\nsteps = -3\n", &[]);
        assert!(error.contains(":2: `train.steps`"), "{error}");
        let error = message("video = 3\n", &[]);
        assert!(error.contains(":1: `video`"), "{error}");
    }

    #[test]
    fn tables_and_values_are_told_apart() {
        for (text, said) in [
            ("kl = []\n", ":1: `kl`: is a table"),
            ("kl = [\"attract\", 0.7]\n", ":1: `kl`: is a table"),
            ("seed = 1\n[[data]]\n", ":2: `data`: is a table"),
            ("[seed]\n", ":1: `seed`: is no table"),
            (
                "[kl.direction]\nrepel = {}\n",
                ":1: `kl.direction`: is no table",
            ),
        ] {
            let error = message(text, &["kl.coefficient=0.5"]);
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn syntax_error_names_the_line() {
        let error = message("seed = 1\n[kl\ncoefficient = 0\n", &[]);
        assert!(error.contains(":2: not valid TOML"), "{error}");
    }

    #[test]
    fn missing_file_is_named() {
        let error = Config::load(Some(Path::new("absent.toml")), &[], Verb::Inspect).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("cannot read the config absent.toml")
        );
    }

    #[test]
    fn overrides_are_typed() {
        let config = load(
            "[kl]\ncoefficient = 0.5\n",
            &[
                "kl.coefficient=0.25",
                "kl.direction=attract",
                "train.steps = 7",
                "optimizer.learning_rate=1",
                "output_dir=123",
                "model.path=runs/a/b",
                "data.kinds=observational,inferential",
                "data.samples=5",
                "model.train_vision=false",
            ],
        )
        .unwrap();
        assert_eq!(config.kl.coefficient.to_bits(), 0.25_f64.to_bits());
        assert_eq!(config.kl.direction, super::super::KlDirection::Attract);
        assert_eq!(config.train.steps, 7);
        assert_eq!(config.optimizer.learning_rate.to_bits(), 1f64.to_bits());
        assert_eq!(config.output_dir, PathBuf::from("123"));
        assert_eq!(config.model.path, "runs/a/b");
        assert_eq!(config.data.kinds.len(), 2);
        assert_eq!(config.data.samples, Some(5));
        assert!(!config.model.train_vision);
    }

    #[test]
    fn wrong_overrides_are_named() {
        let error = message("", &["kl.coeficient=1"]);
        assert!(
            error.contains("--set kl.coeficient=1: unknown key")
                && error.contains("did you mean `kl.coefficient`?"),
            "{error}"
        );
        let error = message("", &["train.steps=many"]);
        assert!(
            error.contains("--set train.steps=many: `train.steps`: is \"many\", must be a whole"),
            "{error}"
        );
        assert!(message("", &["kl"]).contains("expected KEY=VALUE"));
        assert!(message("", &["kl=3"]).contains("is a table"));
        assert!(message("", &["seed.x=3"]).contains("unknown key `seed.x`"));
    }

    #[test]
    fn resolved_config_round_trips() {
        let mut config = Config::default();
        config.model.bias_model = Some("runs/bias".into());
        config.data.samples = Some(3);
        config.data.kinds = vec![QuestionKind::Inferential];
        config.data.assume_kind = Some(QuestionKind::Observational);
        config.data.video_strip = Some("/CLEVRER".into());
        config.data.cache_dir = Some("frames".into());
        config.data.manifest = Some("manifest.json".into());
        config.train.stop_after = Some(2);
        config.checkpoint.keep_steps = vec![1, 2];
        config.kl.target = Some(0.5);
        config.kl.token_cap = Some(2.5);
        config.kl.max_bias_entropy = Some(0.5);
        config.kl.bias_answers = Some("runs/bias/answers".into());
        config.eval.benchmark = Some(Benchmark::Videomme);
        config.eval.protocol = Some(Protocol::Official);
        config.eval.protocol_from = Some("clone".into());
        config.eval.template = Some("{question}".into());
        config.eval.subtitles = Some("srt".into());
        config.optimizer.learning_rate = 1.23e-7;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config.to_toml().unwrap()).unwrap();
        assert_eq!(Config::read_resolved(file.path()).unwrap(), config);
        let written = config.flattened();
        // What a run wrote before there was the setting did as transformers 5 does.
        std::fs::write(file.path(), "seed = 1\n[video]\nfps = 2.0\n").unwrap();
        let older = Config::read_resolved(file.path()).unwrap();
        assert_eq!(older.video.text_after, TextAfterVideo::Spatial);
        let keys = Config::settings().iter().map(|setting| &setting.key);
        let absent: Vec<&String> = keys.filter(|key| !written.contains_key(*key)).collect();
        assert!(
            absent.is_empty(),
            "absent by default, so that this test needs a value of each above: {absent:?}"
        );
        assert_eq!(written.len(), Config::settings().len(), "{written:?}");
    }
}
