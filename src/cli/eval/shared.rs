//! What the verbs of `eval` have in common.

use crate::cli::BadArgument;
use crate::cli::output;
use crate::cli::setup::shell_path;
use crate::config::Config;
use crate::config::is_hub_id;
use crate::config::where_it_lies;
use crate::data::DataError;
use crate::data::Question;
use crate::data::benchmark;
use crate::data::read_questions;
use crate::eval::ScoreFile;
use crate::eval::table;
use crate::eval::table::TableStyle;
use crate::model::hub;
use crate::train::warn_of_impossible_answers;
use crate::util::file;
use crate::util::words::counted;
use anyhow::Result;
use clap::Args;
use std::path::Path;
use std::path::PathBuf;

/// How results are printed.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct PrintArgs {
    /// Write tables as Markdown
    #[arg(long)]
    pub(super) markdown: bool,
    /// Print the scores as JSON
    #[arg(long, conflicts_with = "markdown")]
    pub(super) json: bool,
}

impl PrintArgs {
    /// How tables are written.
    pub(super) fn style(self) -> TableStyle {
        if self.markdown {
            TableStyle::Markdown
        } else {
            TableStyle::Text
        }
    }
}

/// The folder of `--model`: a folder as it is, a hub id downloaded.
pub(in crate::cli) fn model_folder(name: &str) -> Result<PathBuf> {
    if !Path::new(name).is_dir() && !is_hub_id(name) {
        let problem = format!(
            "--model {name}: there is no such folder, and it is no hub id (owner/name){}",
            where_it_lies(name)
        );
        return Err(BadArgument(problem).into());
    }
    let last = Path::new(name).join("checkpoints/latest");
    if last.is_dir() && !file::exists(&Path::new(name).join("config.json"))? {
        let problem = format!(
            "--model {name}: is a run directory; the model of its last step is {}",
            last.display()
        );
        return Err(BadArgument(problem).into());
    }
    Ok(hub::resolve(name)?)
}

/// The questions of the benchmark, or of an ordinary question file.
pub(in crate::cli) fn read_all(config: &Config) -> Result<Vec<Question>, DataError> {
    let path = &config.data.questions;
    let Some(name) = config.eval.benchmark else {
        return read_questions(path);
    };
    let mut questions = benchmark::read(name, path, config.eval.clip_bounds)?;
    benchmark::refuse_too_many(name, questions.len(), path)?;
    benchmark::find_clips(name, &mut questions, &config.data.video_root);
    let published = name
        .published_questions()
        .map_or_else(String::new, |count| format!(" of {count} published"));
    tracing::info!(
        "{}: {}{published} questions",
        name.as_str(),
        questions.len()
    );
    Ok(questions)
}

/// The same, if each can be asked.
pub(super) fn read_askable(config: &Config) -> Result<Vec<Question>, DataError> {
    let questions = read_all(config)?;
    // A benchmark's reader knows its own answers.
    if config.eval.benchmark.is_none() {
        warn_of_impossible_answers(&questions);
    }
    match questions.iter().find(|question| question.lacks_options()) {
        None => Ok(questions),
        Some(question) => Err(DataError::Content {
            path: config.data.questions.clone(),
            place: format!("question {}", question.id),
            problem: "is multiple choice, but has no options: give them in a list `options` or as lines `A. …` of `problem`; if \
                      the letter is the answer itself, say so by `\"problem_type\": \"free-form\"`"
                .into(),
        }),
    }
}

/// Prints scores and says where they are.
pub(super) fn show(print: PrintArgs, scores: &ScoreFile, path: &Path) -> Result<()> {
    if print.json {
        return output::json(scores);
    }
    let mut text = table::details(scores, print.style());
    text.push('\n');
    text.push_str(&table::how_read(scores));
    let unjudged = scores.splits.get("all").map_or(0, |all| all.unjudged);
    if let Some(judge) = &scores.settings.judge {
        text.push_str(&format!("judged by {}", judge.model));
        if unjudged > 0 {
            text.push_str(&format!(
                ", which said nothing clear of {unjudged} answers: they count as wrong"
            ));
        }
        text.push('\n');
    } else if unjudged > 0 {
        let folder = path.parent().unwrap_or(path);
        text.push_str(&format!(
            "{} to be judged: videothinker eval judge {} --url URL --model NAME\n",
            counted(unjudged, "answer"),
            shell_path(folder)
        ));
    }
    output::text(&format!("{text}\nscores: {}\n", path.display()))
}

/// A folder that a verb is to work on.
///
/// # Errors
/// [`BadArgument`] where there is none.
pub(super) fn require_folder(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        let problem = format!("there is no folder {}", folder.display());
        return Err(BadArgument(problem).into());
    }
    Ok(())
}
