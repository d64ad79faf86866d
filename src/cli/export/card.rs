//! The model card: README.md with the metadata that the hub reads at its head.

use super::curve;
use super::facts::Facts;
use super::facts::Training;
use super::facts::public_name;
use crate::cli::output::one_line;
use crate::cli::setup::shell_quoted;
use crate::config::Verb;
use crate::eval::ScoreFile;
use crate::train::objective_in_words;
use anyhow::Result;
use serde_json::Value;
use std::fmt::Write as _;

/// The paper whose method this is.
const CITATION: &str = "\
@inproceedings{videothinker2026,
  title     = {Beyond Perceptual Shortcuts: Causal-Inspired Debiasing Optimization for Generalizable Video Reasoning in Lightweight MLLMs},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2026},
  note      = {arXiv:2605.01324}
}
";

/// Asks a checkpoint in transformers as it was trained.
const IN_TRANSFORMERS: &str = include_str!("transformers.py");

/// What a card is made of.
pub(super) struct Card<'a> {
    /// The model's name, `OWNER/NAME` where it goes to the hub.
    pub(super) name: &'a str,
    pub(super) license: Option<&'a str>,
    pub(super) facts: &'a Facts,
    /// Whether a picture of the rewards lies beside the card.
    pub(super) has_picture: bool,
}

/// An evaluation's result, as table and metadata tell it.
struct Score<'a> {
    benchmark: String,
    questions: usize,
    /// In percent.
    mean: f64,
    half_width: Option<f64>,
    scores: &'a ScoreFile,
}

impl Card<'_> {
    /// The whole file.
    pub(super) fn text(&self) -> Result<String> {
        let mut text = self.metadata()?;
        let title = self.name.rsplit('/').next().unwrap_or(self.name);
        writeln!(text, "\n# {}\n", prose(title))?;
        self.write_summary(&mut text)?;
        if let Some(training) = &self.facts.training {
            write_training(&mut text, training)?;
        }
        self.write_curve(&mut text)?;
        self.write_scores(&mut text)?;
        self.write_usage(&mut text)?;
        write!(text, "\n## Citation\n\n```bibtex\n{CITATION}```\n")?;
        Ok(text)
    }

    fn scores(&self) -> impl Iterator<Item = Score<'_>> {
        self.facts.evaluations.iter().filter_map(|scores| {
            let all = scores.splits.get("all")?;
            let settings = &scores.settings;
            let file = settings.questions.file_name().unwrap_or_default();
            Some(Score {
                benchmark: settings
                    .benchmark
                    .clone()
                    .unwrap_or_else(|| file.to_string_lossy().into_owned()),
                questions: all.questions,
                mean: 100.0 * all.exact.mean,
                half_width: all.exact.half_width.map(|half| 100.0 * half),
                scores,
            })
        })
    }

    /// The YAML between two lines of dashes. Texts stand in double quotes, as JSON writes them, which is YAML.
    fn metadata(&self) -> Result<String> {
        let mut yaml =
            String::from("---\nlibrary_name: transformers\npipeline_tag: video-text-to-text\n");
        if let Some(base) = &self.facts.base_model {
            writeln!(
                yaml,
                "base_model: {}\nbase_model_relation: finetune",
                quoted(base)
            )?;
        }
        if let Some(license) = self.license {
            writeln!(yaml, "license: {}", quoted(license))?;
        }
        yaml.push_str("tags:\n- videothinker\n- video\n- arxiv:2605.01324\n");
        let known: Vec<Score> = self
            .scores()
            .filter(|score| score.mean.is_finite())
            .collect();
        if !known.is_empty() {
            writeln!(
                yaml,
                "model-index:\n- name: {}\n  results:",
                quoted(self.name)
            )?;
            for score in known {
                writeln!(
                    yaml,
                    "  - task:\n      type: video-text-to-text\n      name: Video question answering\n    dataset:\n      name: {0}\n      type: {0}\n    metrics:\n    - type: accuracy\n      name: {1}\n      value: {2:.2}",
                    quoted(&score.benchmark),
                    quoted(&format!(
                        "exactly right answers, % ({})",
                        score.scores.settings.protocol
                    )),
                    score.mean
                )?;
            }
        }
        yaml.push_str("---\n");
        Ok(yaml)
    }

    fn write_summary(&self, text: &mut String) -> Result<()> {
        let base = match &self.facts.base_model {
            Some(base) => format!("[{base}](https://huggingface.co/{base})"),
            None => "a Qwen2.5-VL model".to_owned(),
        };
        let method =
            "with the method of [*Beyond Perceptual Shortcuts*](https://arxiv.org/abs/2605.01324)";
        let (how, method) = match self.facts.training.as_ref().map(|training| training.verb) {
            Some(Verb::TrainSft) => ("fine-tuned on worked answers", None),
            Some(Verb::TrainBias) => ("trained with GRPO on observational questions", Some(method)),
            Some(Verb::TrainGrpo) => ("trained with GRPO, without a KL term", None),
            Some(Verb::TrainCdpo) => (
                "trained with GRPO against a frozen bias model",
                Some(method),
            ),
            _ => ("written", None),
        };
        writeln!(
            text,
            "A video-language model: {base}, {how} by videothinker{}.",
            method.map_or_else(String::new, |method| format!(" {method}"))
        )?;
        if self.license.is_none() {
            writeln!(
                text,
                "\n<!-- No licence is named: add a line `license: NAME` to the head of this file. The base model's licence holds too. -->"
            )?;
        }
        Ok(())
    }

    fn write_curve(&self, text: &mut String) -> Result<()> {
        let rows = curve::rows(&self.facts.metrics);
        if rows.is_empty() {
            return Ok(());
        }
        text.push_str("\n## How it went\n\n");
        if self.has_picture {
            writeln!(text, "![Rewards over the steps]({})\n", curve::PICTURE)?;
        }
        text.push_str(
            "Means over steps.\n\n| steps | reward | accuracy | format | tokens | KL | loss |\n|---|---|---|---|---|---|---|\n",
        );
        for row in rows {
            let number = |value: Option<f64>, digits: usize| {
                let text = value.map_or_else(|| "–".into(), |value| format!("{value:.digits$}"));
                match text.strip_prefix('-') {
                    Some(zero) if zero.chars().all(|c| "0.".contains(c)) => zero.to_owned(),
                    _ => text,
                }
            };
            writeln!(
                text,
                "| {}–{} | {} | {} | {} | {} | {} | {} |",
                row.first,
                row.last,
                number(row.reward, 3),
                number(row.accuracy, 3),
                number(row.format, 3),
                number(row.length, 0),
                number(row.kl, 4),
                number(row.loss, 4)
            )?;
        }
        Ok(())
    }

    fn write_scores(&self, text: &mut String) -> Result<()> {
        if self.facts.evaluations.is_empty() {
            return Ok(());
        }
        text.push_str(
            "\n## Scores\n\nExactly right answers, %, with 95 % confidence intervals clustered by clip.\n\n\
             | benchmark | questions | accuracy | protocol | frames | answers read by |\n|---|---|---|---|---|---|\n",
        );
        for score in self.scores() {
            let settings = &score.scores.settings;
            let accuracy = match (score.mean.is_finite(), score.half_width) {
                (false, _) => "not judged".to_owned(),
                (true, Some(half)) => format!("{:.1} ± {half:.1}", score.mean),
                (true, None) => format!("{:.1}", score.mean),
            };
            writeln!(
                text,
                "| {} | {} | {accuracy} | {} | at most {} | {} |",
                cell(&score.benchmark),
                score.questions,
                cell(&settings.protocol),
                settings.video.max_frames,
                settings.extraction.as_str()
            )?;
        }
        let mut remarks: Vec<&String> = self
            .facts
            .evaluations
            .iter()
            .flat_map(|scores| &scores.settings.remarks)
            .collect();
        remarks.dedup();
        for remark in remarks {
            write!(text, "\n{}\n", prose(remark))?;
        }
        Ok(())
    }

    fn write_usage(&self, text: &mut String) -> Result<()> {
        let name = self.name;
        writeln!(
            text,
            "\n## How to ask it\n\n```sh\nvideothinker ask --model {} --video clip.mp4 --question \"What happens?\"\n```\n",
            one_line(&shell_quoted(name))
        )?;
        // It reads what the training has left.
        if self.facts.training.is_some() {
            let folder = format!(
                "folder = {}  # this folder; huggingface_hub.snapshot_download returns that of a model of the hub\n",
                quoted(name)
            );
            let named = |line: &str| {
                if line.starts_with("folder = ") {
                    folder.clone()
                } else {
                    format!("{line}\n")
                }
            };
            let code: String = IN_TRANSFORMERS.lines().map(named).collect();
            write!(
                text,
                "With transformers, as it was trained:\n\n```python\n{code}```\n"
            )?;
        }
        Ok(())
    }
}

fn write_training(text: &mut String, training: &Training) -> Result<()> {
    let mut config = training.config.clone();
    let model = &mut config.model;
    model.bias_model = model.bias_model.as_deref().map(public_name);
    config.kl.bias_answers = config
        .kl
        .bias_answers
        .as_ref()
        .map(|folder| public_name(&folder.to_string_lossy()).into());
    text.push_str("\n## Training\n\n");
    for line in objective_in_words(&config, training.verb) {
        writeln!(text, "- {}", prose(&line))?;
    }
    let file = config.data.questions.file_name().unwrap_or_default();
    let count = training
        .questions
        .map_or_else(String::new, |count| format!(", {count} questions"));
    let drawn = config
        .data
        .samples
        .map_or_else(String::new, |samples| format!(", {samples} of them drawn"));
    write!(
        text,
        "\n| | |\n|---|---|\n| questions | {}{count}{drawn} |\n",
        cell(&file.to_string_lossy())
    )?;
    let flattened = config.flattened();
    let mut rows = vec![("steps".to_owned(), training.steps.to_string())];
    for (key, words) in shown_settings(training.verb) {
        if let Some(value) = flattened.get(*key) {
            rows.push(((*words).to_owned(), value.trim_matches('"').to_owned()));
        }
    }
    let environment = &training.environment;
    let commit = environment.commit.as_deref();
    let commit = commit.map_or_else(String::new, |commit| format!(" ({commit})"));
    let version = environment.videothinker.as_deref();
    let version = version.unwrap_or(env!("CARGO_PKG_VERSION"));
    rows.push(("videothinker".to_owned(), format!("{version}{commit}")));
    if let Some(device) = &environment.device {
        let ranks = environment.ranks.unwrap_or(1);
        rows.push(("device".to_owned(), format!("{ranks} × {device}")));
    }
    for (words, value) in rows {
        writeln!(text, "| {words} | {} |", cell(&value))?;
    }
    Ok(())
}

/// The settings that matter most, with words for each.
fn shown_settings(verb: Verb) -> &'static [(&'static str, &'static str)] {
    const ALL: [(&str, &str); 10] = [
        ("train.questions_per_step", "questions a step"),
        ("optimizer.learning_rate", "learning rate"),
        ("optimizer.schedule", "its schedule"),
        ("video.max_frames", "frames, at most"),
        ("video.max_pixels", "pixels of a frame, at most"),
        ("seed", "seed"),
        ("sampling.group_size", "completions a question"),
        ("sampling.max_new_tokens", "tokens of a completion, at most"),
        ("kl.coefficient", "KL coefficient"),
        ("kl.direction", "KL direction"),
    ];
    match verb {
        Verb::TrainSft => &ALL[..6],
        Verb::TrainBias | Verb::TrainGrpo => &ALL[..8],
        _ => &ALL,
    }
}

/// A text as a double-quoted scalar of YAML.
fn quoted(text: &str) -> String {
    let plain = one_line(text);
    Value::from(plain).to_string()
}

/// A text in a cell of a Markdown table.
fn cell(text: &str) -> String {
    prose(text).replace('|', "\\|")
}

/// A text in Markdown that is to be read as it is.
fn prose(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '*' | '_' | '`' | '[' | ']' | '\\' => {
                safe.push('\\');
                safe.push(c);
            }
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_cannot_leave_its_quotes() {
        assert_eq!(quoted("a: \"b\"\n---\nc\\"), r#""a: \"b\" --- c\\""#);
        assert_eq!(cell("a|b\n<i>*x*"), "a\\|b &lt;i>\\*x\\*");
    }

    #[test]
    fn a_card_of_nothing_but_a_model_is_whole() {
        let card = Card {
            name: "me/model",
            license: Some("apache-2.0"),
            facts: &Facts::default(),
            has_picture: false,
        };
        let text = card.text().unwrap();
        assert!(
            text.starts_with("---\nlibrary_name: transformers\n"),
            "{text}"
        );
        assert!(text.contains("license: \"apache-2.0\"\n") && text.contains("\n# model\n"));
        assert!(!text.contains("base_model") && !text.contains("model-index"));
        assert!(text.contains("--model me/model") && text.contains("arXiv:2605.01324"));
    }
}
