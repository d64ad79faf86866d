//! The examples that the end of each command's `--help` shows. A test parses every one.

use clap::Command;

/// Commands as they are typed, and their examples without the program's name.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "doctor",
            "init --questions questions.jsonl --video-root videos",
            "train-grpo --config config.toml",
            "eval run --config config.toml --model runs/own/checkpoints/latest --out runs/own/eval",
        ],
    ),
    (
        "init",
        &[
            "init",
            "init --questions questions.jsonl --video-root videos --card h100 --yes",
            "init paper --questions train.json --video-root videos --stage cdpo --yes",
        ],
    ),
    ("doctor", &["doctor", "doctor --network --json"]),
    (
        "completions",
        &["completions bash > ~/.local/share/bash-completion/completions/videothinker"],
    ),
    ("man", &["man --out ~/.local/share/man/man1"]),
    (
        "train-sft",
        &["train-sft --config configs/mini/sft.toml --set model.path=data/mini"],
    ),
    (
        "train-bias",
        &[
            "train-bias --config bias.toml --dry-run",
            "train-bias --config bias.toml",
        ],
    ),
    (
        "train-grpo",
        &[
            "train-grpo --config config.toml --dry-run",
            "train-grpo --config config.toml --set train.steps=1000 --ranks 2",
        ],
    ),
    (
        "train-cdpo",
        &[
            "train-cdpo --config cdpo.toml --dry-run",
            "train-cdpo --config cdpo.toml --set kl.coefficient=0.02",
        ],
    ),
    (
        "data mini",
        &[
            "data mini --out world",
            "data mini --out world --train 8 --validation 2 --sft 4 --model untrained",
        ],
    ),
    (
        "data clevrer",
        &["data clevrer --questions train.json --annotations annotations --out questions.json"],
    ),
    (
        "data import",
        &[
            "data import train.json --out questions.jsonl",
            "data import table.parquet --columns problem=query,solution=label,video=clip --out questions.jsonl",
        ],
    ),
    (
        "data split",
        &["data split questions.jsonl --out own --validation 0.2"],
    ),
    (
        "data label",
        &[
            "data label questions.jsonl --out labelled.jsonl --by shuffled --model data/mini --video-root videos",
            "data label questions.jsonl --out labelled.jsonl --by field --field type --observational what --inferential why",
        ],
    ),
    ("data stats", &["data stats questions.jsonl"]),
    (
        "data download",
        &[
            "data download --list",
            "data download mmvu tempcompass --dry-run",
        ],
    ),
    (
        "export",
        &[
            "export runs/own --out model --card --eval runs/own/eval",
            "export runs/own --out model --merge --dtype bf16 --push OWNER/NAME --dry-run",
        ],
    ),
    (
        "data check",
        &[
            "data check --config config.toml",
            "data check --questions questions.jsonl --video-root videos --manifest clips.json",
        ],
    ),
    (
        "eval run",
        &[
            "eval run --config config.toml --model runs/own/checkpoints/latest --dry-run",
            "eval run --config config.toml --model runs/own/checkpoints/latest --out runs/own/eval",
            "eval run --config config.toml --model Qwen/Qwen2.5-VL-3B-Instruct --out runs/base/eval",
        ],
    ),
    ("eval merge", &["eval merge runs/own/eval"]),
    (
        "eval rescore",
        &["eval rescore runs/own/eval --extraction training"],
    ),
    (
        "eval judge",
        &["eval judge runs/own/eval --url http://localhost:8000/v1 --model NAME"],
    ),
    (
        "eval compare",
        &["eval compare runs/base/eval runs/own/eval"],
    ),
    (
        "eval table",
        &[
            "eval table base=runs/base/eval own=runs/own/eval",
            "eval table --grid base/CLEVRER=runs/a base/MMVU=52.8 own/CLEVRER=runs/b",
        ],
    ),
    ("study", &["study study.toml --runs runs --out page.html"]),
    (
        "ask",
        &[
            "ask --model runs/own/checkpoints/latest --video clip.mp4 --question 'Which object enters last?'",
        ],
    ),
    (
        "inspect video",
        &["inspect video clip.mp4 --set video.max_frames=8"],
    ),
    (
        "inspect prompt",
        &[
            "inspect prompt --model runs/own/checkpoints/latest --video clip.mp4 --question 'What happens?'",
        ],
    ),
    (
        "inspect logprobs",
        &[
            "inspect logprobs --model runs/own/checkpoints/latest --video clip.mp4 --question 'Which?' --completion '<answer>A</answer>'",
        ],
    ),
    ("inspect reward", &["inspect reward completions.jsonl"]),
    (
        "inspect answers",
        &["inspect answers lines.jsonl --extraction training"],
    ),
    (
        "inspect config",
        &[
            "inspect config --keys",
            "inspect config --config config.toml",
        ],
    ),
    (
        "inspect model",
        &["inspect model runs/own/checkpoints/latest"],
    ),
    ("inspect device rates", &["inspect device rates"]),
    (
        "inspect device kernels",
        &["inspect device kernels --small"],
    ),
    (
        "inspect device parity",
        &["inspect device parity --model untrained"],
    ),
    (
        "inspect device decode",
        &["inspect device decode --model untrained --rows 8,64"],
    ),
    (
        "inspect device train",
        &["inspect device train --model untrained --repeats 1"],
    ),
    (
        "estimate",
        &[
            "estimate --config config.toml",
            "estimate --config cdpo.toml --card a6000 --ranks 2",
        ],
    ),
];

/// `command` with its examples, and so all below it; `path` are the words that lead to it. Examples of its own are kept.
pub(super) fn added(command: Command, path: &str) -> Command {
    let own = EXAMPLES.iter().find(|(known, _)| *known == path);
    let command = match own {
        Some((_, lines)) if command.get_after_help().is_none() => {
            command.after_help(in_words(lines))
        }
        _ => command,
    };
    command.mut_subcommands(|below| {
        let path = format!("{path} {}", below.get_name());
        added(below, path.trim_start())
    })
}

fn in_words(lines: &[&str]) -> String {
    let lines = lines.iter().map(|line| format!("  videothinker {line}"));
    let title = if lines.len() == 1 {
        "Example:"
    } else {
        "Examples:"
    };
    let lines: Vec<String> = std::iter::once(title.to_owned()).chain(lines).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a line as a shell takes them, without what a redirection names.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" > ").next().unwrap();
        let mut words = Vec::new();
        for (index, part) in line.split('\'').enumerate() {
            if index % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    fn check(whole: &Command, command: &Command, path: &str) {
        let help = command.get_after_help().map(ToString::to_string);
        if command.has_subcommands() && !path.is_empty() {
            for below in command.get_subcommands() {
                check(whole, below, &format!("{path} {}", below.get_name()));
            }
            return;
        }
        let help = help.unwrap_or_else(|| panic!("{path} has no example"));
        assert!(help.lines().count() <= 6, "{path}: {help}");
        let lines = help
            .lines()
            .filter(|line| line.starts_with("  videothinker "));
        assert!(lines.clone().count() > 0, "{path}: {help}");
        for line in lines {
            assert!(line.contains(path), "{path}: {line}");
            let parsed = whole.clone().try_get_matches_from(words(line));
            parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        let whole = super::super::usage::command();
        check(&whole, &whole, "");
        for below in whole.get_subcommands() {
            check(&whole, below, below.get_name());
        }
        for (path, _) in EXAMPLES {
            let mut command = &whole;
            for word in path.split_whitespace() {
                let found = command.get_subcommands().find(|one| one.get_name() == word);
                command = found.unwrap_or_else(|| panic!("there is no command {path}"));
            }
        }
    }
}
