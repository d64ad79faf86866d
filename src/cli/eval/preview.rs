//! `eval run --dry-run`: what would be asked, as the model reads it, before any weights are loaded.

use super::shared::read_askable;
use crate::cli::output;
use crate::config::BadVideoPolicy;
use crate::config::Benchmark;
use crate::config::Config;
use crate::data::DataError;
use crate::data::Dataset;
use crate::data::JudgeTask;
use crate::data::Question;
use crate::data::draw;
use crate::data::locate;
use crate::eval::prompt_format::PromptFormat;
use crate::model::spec::Spec;
use crate::model::weights;
use crate::model::weights::Depth;
use crate::prompt::Processor;
use crate::util::words::number_of;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `eval run --dry-run`.
#[derive(Debug, Args)]
pub(super) struct PreviewArgs {
    /// Print the first question of each kind of task as the model will read it (with --model in its chat template), check
    /// that all can be asked and that their clips exist, and stop; `data check` decodes the clips
    #[arg(long)]
    pub(super) dry_run: bool,
    /// With --dry-run: print so many questions of each kind of task
    #[arg(long, value_name = "N", default_value = "1", requires = "dry_run")]
    pub(super) show: usize,
}

/// What an evaluation would ask.
#[derive(Debug, Serialize)]
struct Preview<'a> {
    questions: usize,
    questions_published: Option<usize>,
    protocol: &'static str,
    wording: String,
    wording_hash: String,
    extraction: &'static str,
    remarks: Vec<String>,
    tasks: Vec<PreviewTask<'a>>,
}

#[derive(Debug, Serialize)]
struct PreviewTask<'a> {
    #[serde(rename = "task")]
    name: String,
    questions: usize,
    /// The first of them.
    first: Vec<PreviewQuestion<'a>>,
}

#[derive(Debug, Serialize)]
struct PreviewQuestion<'a> {
    id: &'a str,
    video: PathBuf,
    #[serde(flatten)]
    turn: PreviewTurn,
    /// All of it in the model's chat template; only with a model.
    prompt: Option<String>,
    solution: &'a str,
    /// What a judge is asked about a caption; the solution is the right answer to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    judge: Option<&'a str>,
}

/// Who says what.
#[derive(Debug, Serialize)]
struct PreviewTurn {
    system: Option<String>,
    user: String,
    answer_begun: String,
}

/// Prints the first `count` questions of each kind of task, in the chat template of `model` where one is given, and checks
/// that all can be asked and their clips exist.
pub(super) fn preview(
    config: &Config,
    model: Option<&Path>,
    count: usize,
    json: bool,
) -> Result<()> {
    let mut questions = draw(read_askable(config)?, &config.data, config.seed)?;
    locate(&mut questions, &config.data)?;
    let format = PromptFormat::new(&config.eval)?;
    if let Some(model) = model {
        weights::inspect(model, &Spec::load(model)?, Depth::Headers)?;
    }
    let processor = model.map(Processor::load).transpose()?;
    let shown = describe(config, &questions, &format, processor.as_ref(), count)?;
    if json {
        output::json(&shown)?;
    } else {
        output::text(&in_words(&shown))?;
    }
    match Dataset::new(questions, &config.data, config.seed) {
        Err(error @ DataError::Empty { .. })
            if config.data.on_bad_video == BadVideoPolicy::Skip =>
        {
            tracing::warn!("{error}");
        }
        checked => drop(checked?),
    }
    Ok(())
}

fn describe<'a>(
    config: &Config,
    questions: &'a [Question],
    format: &PromptFormat,
    processor: Option<&Processor>,
    count: usize,
) -> Result<Preview<'a>> {
    let mut by_task: BTreeMap<String, Vec<&Question>> = BTreeMap::new();
    for question in questions {
        by_task.entry(task_of(question)).or_default().push(question);
    }
    let subtitles = config.eval.subtitles.as_ref();
    let said = subtitles.map(|_| "(what is said around the clip's frames)");
    let show = |question: &&'a Question| -> Result<PreviewQuestion<'a>> {
        let turn = format.apply(question, said).turn;
        let prompt = processor
            .map(|processor| processor.text_of(&turn))
            .transpose()?;
        Ok(PreviewQuestion {
            id: &question.id,
            video: config.data.video_root.join(&question.video),
            turn: PreviewTurn {
                system: turn.system,
                user: turn.user,
                answer_begun: turn.begun,
            },
            prompt,
            solution: &question.solution,
            judge: match &question.judge {
                Some(JudgeTask::Caption(asked)) => Some(asked),
                Some(JudgeTask::Open(_)) | None => None,
            },
        })
    };
    let tasks = by_task.into_iter().map(|(task, members)| {
        Ok(PreviewTask {
            name: task,
            questions: members.len(),
            first: members
                .iter()
                .take(count)
                .map(show)
                .collect::<Result<_>>()?,
        })
    });
    let tasks = tasks.collect::<Result<Vec<PreviewTask>>>()?;
    let eval = &config.eval;
    Ok(Preview {
        questions: questions.len(),
        questions_published: eval.benchmark.and_then(Benchmark::published_questions),
        protocol: eval.protocol.map_or("own", |protocol| protocol.as_str()),
        wording: format.name(),
        wording_hash: format.hash(),
        extraction: eval.extraction.as_str(),
        remarks: format.remarks(),
        tasks,
    })
}

/// What a question is sorted under: its task, its type, its kind, or what kind of answer it wants.
fn task_of(question: &Question) -> String {
    let split = |wanted: &str| {
        let mut splits = question.splits();
        let found = splits.find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.to_owned())
    };
    split("task")
        .or_else(|| split("type"))
        .or_else(|| question.kind.map(|kind| kind.as_str().to_owned()))
        .unwrap_or_else(
            || match (&question.problem_type, question.choices().is_empty()) {
                (Some(kind), _) => kind.clone(),
                (None, true) => "open".to_owned(),
                (None, false) => "multiple choice".to_owned(),
            },
        )
}

fn in_words(shown: &Preview) -> String {
    let published = shown
        .questions_published
        .map_or_else(String::new, |count| format!(" of {count} published"));
    let kinds = match shown.tasks.len() {
        1 => "one kind of task".to_owned(),
        count => format!("{count} kinds of task"),
    };
    let mut text = format!(
        "{}{published} {}, {kinds}\nprotocol: {}; words: {}; answers are read by: {}\n",
        shown.questions,
        number_of(
            shown.questions_published.unwrap_or(shown.questions),
            "question"
        ),
        shown.protocol,
        shown.wording,
        shown.extraction
    );
    for remark in &shown.remarks {
        text.push_str(&format!("- {remark}\n"));
    }
    for task in &shown.tasks {
        for question in &task.first {
            let (name, count) = (&task.name, task.questions);
            text.push_str(&format!(
                "\n=== {name} (questions: {count}): {}\n",
                question.id
            ));
            text.push_str(&one_in_words(question));
        }
    }
    text
}

fn one_in_words(question: &PreviewQuestion) -> String {
    let mut text = format!("clip: {}\n", question.video.display());
    if let Some(prompt) = &question.prompt {
        text.push_str(&format!("--- the model reads\n{prompt}\n"));
    } else {
        if let Some(system) = &question.turn.system {
            text.push_str(&format!("--- system\n{system}\n"));
        }
        text.push_str(&format!(
            "--- user (after the clip)\n{}\n",
            question.turn.user
        ));
        if !question.turn.answer_begun.is_empty() {
            let begun = &question.turn.answer_begun;
            text.push_str(&format!("--- the answer begins with\n{begun}\n"));
        }
    }
    if let Some(judge) = &question.judge {
        text.push_str(&format!("--- a judge answers from the caption\n{judge}\n"));
    }
    text.push_str(&format!("--- right\n{}\n", question.solution));
    text
}
