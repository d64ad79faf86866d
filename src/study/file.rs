//! The file of a study: what is compared, written before the runs, so that the tests are named before their results.

use crate::config::ConfigError;
use crate::config::Origin;
use crate::config::QuestionKind;
use regex::Regex;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;

/// A study as it is planned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StudyFile {
    pub(super) title: String,
    /// An answer that contains this text thinks; absent: nothing is said of thinking.
    pub(super) thinks: Option<String>,
    /// How many seeds are planned: with fewer, what is shown is said to be interim.
    pub(super) seeds: Option<Spanned<usize>>,
    /// Steps that a point of a curve is the mean of, and that the beginning and the end of a training are.
    pub(super) window: Spanned<usize>,
    /// In the order of the table.
    pub(super) rows: Vec<Row>,
    /// The first is the primary test.
    #[serde(default)]
    pub(super) comparisons: Vec<ComparisonPlan>,
    #[serde(default)]
    pub(super) curves: Vec<CurvePlan>,
    #[serde(default)]
    pub(super) sweeps: Vec<SweepPlan>,
    pub(super) ratios: Option<RatioPlan>,
    /// The file as it is written.
    #[serde(skip)]
    pub(super) source: String,
}

/// A model of the study: what is trained and evaluated once for each seed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// Its folders' name.
    pub(super) name: Spanned<String>,
    /// What readers see.
    pub(super) label: String,
}

/// A test: the first row's accuracy less the second's.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ComparisonPlan {
    pub(super) first: Spanned<String>,
    pub(super) second: Spanned<String>,
    pub(super) kind: Kind,
    #[serde(default)]
    pub(super) answers: Answers,
    /// Absent: an estimate without a claim.
    pub(super) expected: Option<Spanned<Expected>>,
    /// How far below is not yet below, in percentage points.
    pub(super) margin: Option<f64>,
}

/// Which evaluation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answers {
    #[default]
    Greedy,
    Sampled,
}

/// Which questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Observational,
    Inferential,
    All,
}

impl Kind {
    pub(super) const EVERY: [Self; 3] = [Self::Observational, Self::Inferential, Self::All];

    /// Whether a question of `kind` is one of these.
    pub(super) fn includes(self, kind: Option<QuestionKind>) -> bool {
        match self {
            Self::Observational => kind == Some(QuestionKind::Observational),
            Self::Inferential => kind == Some(QuestionKind::Inferential),
            Self::All => true,
        }
    }

    /// Its place in [`Self::EVERY`].
    pub(super) fn place(self) -> usize {
        self as usize
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Observational => QuestionKind::Observational.as_str(),
            Self::Inferential => QuestionKind::Inferential.as_str(),
            Self::All => "all",
        }
    }
}

/// What is claimed of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Expected {
    Above,
    Below,
    NotBelow,
}

/// Rows that are drawn over the steps.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CurvePlan {
    pub(super) rows: Vec<Spanned<String>>,
}

/// Rows that differ in one setting.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SweepPlan {
    pub(super) title: String,
    /// The setting.
    pub(super) axis: String,
    #[serde(default)]
    pub(super) scale: SweepScale,
    pub(super) series: Vec<SweepSeries>,
}

/// How the values of a setting are laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SweepScale {
    #[default]
    Linear,
    /// A value of 0 has a place of its own at the left.
    Log,
}

/// Rows that are joined.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SweepSeries {
    pub(super) label: String,
    /// The setting's value, and the row that has it.
    pub(super) points: Vec<(Spanned<f64>, Spanned<String>)>,
}

/// Where repulsion acts: log-ratios to the bias model by kind of token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RatioPlan {
    pub(super) row: Spanned<String>,
    /// A token belongs to the first kind that has it.
    pub(super) kinds: Vec<TokenKind>,
}

/// Tokens that a pattern finds in a completion.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenKind {
    pub(super) label: String,
    /// A capture group, if one takes part, is what counts, else the whole match.
    pub(super) pattern: Pattern,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Pattern(pub(super) Regex);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let invalid = |error: regex::Error| format!("not a regular expression: {error}");
        Ok(Self(Regex::new(&text).map_err(invalid)?))
    }
}

impl StudyFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] with the line and the key, for what is no key, of the wrong type, or contradicts the rest.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|system| ConfigError::Read {
            path: path.to_owned(),
            system,
        })?;
        let place = Place { path, text: &text };
        let study: Self = toml::from_str(&text).map_err(|error| place.refused(&error))?;
        study.check(&place)?;
        Ok(Self {
            source: text,
            ..study
        })
    }

    pub(super) fn planned_seeds(&self) -> Option<usize> {
        self.seeds.as_ref().map(|seeds| *seeds.get_ref())
    }

    pub(super) fn window(&self) -> usize {
        *self.window.get_ref()
    }

    /// The place of a row in the table.
    pub(super) fn index(&self, name: &Spanned<String>) -> usize {
        let named = |row: &Row| row.name.get_ref() == name.get_ref();
        self.rows.iter().position(named).unwrap_or_default()
    }

    /// What readers call a row.
    pub(super) fn label(&self, name: &Spanned<String>) -> &str {
        &self.rows[self.index(name)].label
    }

    fn check(&self, place: &Place<'_>) -> Result<(), ConfigError> {
        if self.window() == 0 {
            return Err(place.invalid(&self.window, "window", "must be at least 1 step"));
        }
        if let Some(seeds) = self.seeds.as_ref().filter(|seeds| *seeds.get_ref() == 0) {
            return Err(place.invalid(seeds, "seeds", "must be at least 1"));
        }
        self.check_rows(place)?;
        self.check_texts(place)?;
        let known = |name: &Spanned<String>, key: &str| self.known(place, name, key);
        for plan in &self.comparisons {
            known(&plan.first, "comparisons.first")?;
            known(&plan.second, "comparisons.second")?;
            if plan.first.get_ref() == plan.second.get_ref() {
                let problem = "is the first row too: name two different rows";
                return Err(place.invalid(&plan.second, "comparisons.second", problem));
            }
            plan.check_margin(place)?;
        }
        for plan in &self.curves {
            let mut drawn = BTreeSet::new();
            for name in &plan.rows {
                known(name, "curves.rows")?;
                if !drawn.insert(name.get_ref()) {
                    return Err(place.invalid(name, "curves.rows", "is drawn twice: name it once"));
                }
            }
        }
        for sweep in &self.sweeps {
            for (value, name) in sweep.series.iter().flat_map(|series| &series.points) {
                known(name, "sweeps.series.points")?;
                let value_of = *value.get_ref();
                if !value_of.is_finite() || (sweep.scale == SweepScale::Log && value_of < 0.0) {
                    let problem = format!(
                        "{value_of} has no place on the axis: with scale = \"log\" values are 0 or above"
                    );
                    return Err(place.invalid(value, "sweeps.series.points", &problem));
                }
            }
        }
        match &self.ratios {
            Some(ratios) => known(&ratios.row, "ratios.row"),
            None => Ok(()),
        }
    }

    /// Texts that people are to read.
    fn check_texts(&self, place: &Place<'_>) -> Result<(), ConfigError> {
        let is_bad = |text: &str| text.trim().is_empty() || text.contains(char::is_control);
        let problem = "must be a text of one line, and not empty";
        if let Some(row) = self.rows.iter().find(|row| is_bad(&row.label)) {
            return Err(place.invalid(&row.name, "rows.label", problem));
        }
        let kinds = self.ratios.iter().flat_map(|ratios| &ratios.kinds);
        let series = self.sweeps.iter().flat_map(|sweep| &sweep.series);
        let texts = [
            ("title", Some(&self.title)),
            ("thinks", self.thinks.as_ref()),
        ]
        .into_iter()
        .filter_map(|(key, text)| Some((key, text?)))
        .chain(
            self.sweeps
                .iter()
                .map(|sweep| ("sweeps.title", &sweep.title)),
        )
        .chain(self.sweeps.iter().map(|sweep| ("sweeps.axis", &sweep.axis)))
        .chain(series.map(|series| ("sweeps.series.label", &series.label)))
        .chain(kinds.map(|kind| ("ratios.kinds.label", &kind.label)));
        for (key, text) in texts {
            if is_bad(text) {
                let last = key.rsplit('.').next().unwrap_or(key);
                let at = place.text.find(&format!("{last} = \"{text}\""));
                let at = at.unwrap_or_default();
                return Err(place.invalid_at(at..at, key, problem));
            }
        }
        Ok(())
    }

    fn check_rows(&self, place: &Place<'_>) -> Result<(), ConfigError> {
        let (mut names, mut labels) = (BTreeSet::new(), BTreeSet::new());
        for row in &self.rows {
            let name = row.name.get_ref().as_str();
            let is_folder =
                !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
            let problem = if !is_folder || matches!(name, "eval" | "sampled") {
                "is no name of a folder beside eval and sampled: use letters, digits, - and _"
            } else if !names.insert(name) {
                "is the name of two rows: give each its own"
            } else if !labels.insert(row.label.as_str()) {
                "has the label of another row: readers could not tell them apart"
            } else {
                continue;
            };
            let problem = format!("{name:?} {problem}");
            return Err(place.invalid(&row.name, "rows.name", &problem));
        }
        if self.rows.is_empty() {
            let problem = "a study has at least one row: [[rows]] with name and label";
            return Err(place.invalid(&self.window, "rows", problem));
        }
        Ok(())
    }

    fn known(
        &self,
        place: &Place<'_>,
        name: &Spanned<String>,
        key: &str,
    ) -> Result<(), ConfigError> {
        let names = || self.rows.iter().map(|row| row.name.get_ref().as_str());
        if names().any(|known| known == name.get_ref()) {
            return Ok(());
        }
        let names = names().collect::<Vec<_>>().join(", ");
        let problem = format!(
            "no row is called {:?}: name one of {names}, or add it to [[rows]]",
            name.get_ref()
        );
        Err(place.invalid(name, key, &problem))
    }
}

impl ComparisonPlan {
    /// The claim, if there is one.
    pub(super) fn expected(&self) -> Option<Expected> {
        self.expected.as_ref().map(|expected| *expected.get_ref())
    }

    fn check_margin(&self, place: &Place<'_>) -> Result<(), ConfigError> {
        let takes_margin = self.expected() == Some(Expected::NotBelow);
        let problem = match self.margin {
            None if takes_margin => {
                "not_below takes a margin: margin = 2.0 says that up to 2 points below is not yet below"
            }
            Some(_) if !takes_margin => {
                "only expected = \"not_below\" takes a margin: remove the margin"
            }
            Some(margin) if !(0.0..100.0).contains(&margin) => {
                "the margin is in percentage points, 0 or above and below 100"
            }
            _ => return Ok(()),
        };
        let span = self
            .expected
            .as_ref()
            .map_or(self.first.span(), Spanned::span);
        Err(place.invalid_at(span, "comparisons.margin", problem))
    }
}

/// The file, to say where in it something stands.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = self.text.get(..at).unwrap_or(self.text);
        Origin::Line(self.path.to_owned(), 1 + before.matches('\n').count())
    }

    fn invalid<T>(&self, at: &Spanned<T>, key: &str, problem: &str) -> ConfigError {
        self.invalid_at(at.span(), key, problem)
    }

    fn invalid_at(&self, span: Range<usize>, key: &str, problem: &str) -> ConfigError {
        ConfigError::Invalid {
            origin: self.origin(span.start),
            key: key.to_owned(),
            problem: problem.to_owned(),
        }
    }

    /// What the reader of TOML refuses, with the key of the line where it does.
    fn refused(&self, error: &toml::de::Error) -> ConfigError {
        let start = error.span().map_or(0, |span| span.start);
        let origin = self.origin(start);
        let line = self
            .text
            .get(..start)
            .unwrap_or_default()
            .matches('\n')
            .count();
        let line = self.text.lines().nth(line).unwrap_or_default();
        let key = line.split('=').next().unwrap_or_default();
        let key = key.trim_matches(|c: char| c.is_whitespace() || matches!(c, '[' | ']'));
        let message = error.message().trim().to_owned();
        let absent = message.strip_prefix("missing field `");
        if let Some(absent) = absent.and_then(|rest| rest.strip_suffix('`')) {
            return ConfigError::Invalid {
                origin,
                key: absent.to_owned(),
                problem: "is missing, and a study needs it".to_owned(),
            };
        }
        if self.text.parse::<toml::Table>().is_err() {
            return ConfigError::Syntax { origin, message };
        }
        ConfigError::WrongType {
            origin,
            key: key.to_owned(),
            message,
        }
    }
}
