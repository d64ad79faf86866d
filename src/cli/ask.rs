//! `ask`: one question about one clip, the answer printed as it is written.

use super::BadArgument;
use super::ConfigArgs;
use super::Outcome;
use super::eval::model_folder;
use super::output;
use crate::config::Verb;
use crate::config::Wording;
use crate::data::placeholder;
use crate::eval::responder::Responder;
use crate::policy::generate::Finish;
use crate::prompt::tokenizer::TextStream;
use crate::video;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// A model folder or hub id
    #[arg(long, value_name = "DIR")]
    model: String,
    /// The clip
    #[arg(long, value_name = "FILE")]
    video: PathBuf,
    /// The question
    #[arg(long, value_name = "TEXT")]
    question: String,
    /// Which words follow the question
    #[arg(long, value_enum, default_value = "training")]
    wording: Wording,
    /// Always take the most likely token
    #[arg(long)]
    greedy: bool,
    /// Longest answer in tokens [default: sampling.max_new_tokens]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_tokens: Option<usize>,
    /// Print {text, token_ids, finish} instead of the bare answer
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: ConfigArgs,
}

fn at_least_one(text: &str) -> Result<usize, &'static str> {
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or("must be a whole number of at least 1")
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    text: &'a str,
    token_ids: &'a [u32],
    finish: Finish,
}

pub(super) fn run(args: &AskArgs) -> Result<Outcome> {
    // What is wrong with the settings is said before a model is downloaded.
    args.settings.load(Verb::Inspect)?;
    let folder = model_folder(&args.model)?;
    let mut config = args.settings.load_for_model(Verb::Inspect, &folder)?;
    if let Some(limit) = args.max_tokens {
        config.sampling.max_new_tokens = limit;
    }
    let temperature = if args.greedy {
        0.0
    } else {
        config.sampling.temperature
    };
    let (_, patches) = video::load_patches(&args.video, &config.video)?;
    let responder = Responder::load(&folder, &config, temperature, 1)?;
    let processor = responder.processor();
    processor.begun()?;
    let question = placeholder::taken_out(&args.question)
        .map_err(|problem| BadArgument(format!("--question: {problem}")))?;
    let question = question.as_deref().unwrap_or(&args.question);
    let prompt = processor.prompt(question, args.wording, Some(patches))?;
    let mut stream = TextStream::new(processor.tokenizer());
    let mut shown = Ok(());
    if !args.json {
        output::text(&prompt.begun)?;
    }
    let completion = responder.answer(&prompt, &args.question, &mut |token| {
        if args.json {
            return ControlFlow::Continue(());
        }
        shown = stream
            .push(token.id)
            .map_err(anyhow::Error::from)
            .and_then(|text| output::text(&text));
        if shown.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    shown?;
    let completion = completion?;
    if let Some(words) = responder.decoding_in_words() {
        tracing::info!("{words}");
    }
    if args.json {
        output::json(&Answer {
            text: &completion.text,
            token_ids: &completion.token_ids,
            finish: completion.finish,
        })?;
    } else {
        output::text("\n")?;
    }
    if completion.finish == Finish::Length {
        tracing::warn!(
            "the answer was cut off at {} tokens: --max-tokens allows more",
            config.sampling.max_new_tokens
        );
    }
    Ok(Outcome::Done)
}
