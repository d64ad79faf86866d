//! The command line as a whole, and what is wrong with an argument in words.

use super::Cli;
use super::examples;
use super::setup::shell_quoted;
use crate::config::Config;
use crate::config::foreign;
use clap::Arg;
use clap::Command;
use clap::CommandFactory;
use clap::Error;
use clap::FromArgMatches;
use clap::error::ContextKind;
use clap::error::ContextValue;
use clap::error::ErrorKind;
use std::error::Error as _;
use std::ffi::OsString;
use std::num::IntErrorKind;
use std::num::ParseFloatError;
use std::num::ParseIntError;

/// Every command with its examples.
pub(super) fn command() -> Command {
    negative_numbers_are_values(examples::added(Cli::command(), ""))
}

/// `--max-tokens -1` has a value that is wrong; it is not an option called `-1`.
fn negative_numbers_are_values(command: Command) -> Command {
    let command = command.mut_args(|argument: Arg| {
        let has_value = argument.get_long().is_some() && argument.get_action().takes_values();
        if has_value {
            argument.allow_negative_numbers(true)
        } else {
            argument
        }
    });
    command.mut_subcommands(negative_numbers_are_values)
}

/// What the arguments of this process ask for; ends the process where they are wrong, or ask for help.
pub(super) fn parse() -> Cli {
    parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

fn parse_from(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Error> {
    let command = command();
    let parsed = command.clone().try_get_matches_from(arguments);
    parsed
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| in_words(error, &command))
}

fn in_words(error: Error, command: &Command) -> Error {
    match error.kind() {
        ErrorKind::ValueValidation => value_in_words(error, command),
        ErrorKind::UnknownArgument => with_setting(error, command),
        ErrorKind::InvalidSubcommand => with_command(error),
        _ => error,
    }
}

fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::StyledStr(text) => Some(text.to_string()),
        _ => None,
    }
}

/// A number that is none, without Rust's words for it.
fn value_in_words(error: Error, command: &Command) -> Error {
    let number = error.source().and_then(number_in_words);
    let (Some(wanted), Some(argument)) = (number, text(&error, ContextKind::InvalidArg)) else {
        return error;
    };
    let value = text(&error, ContextKind::InvalidValue).unwrap_or_default();
    let message = format!(
        "invalid value '{value}' for '{argument}': it must be {wanted}\n\nFor more information, try '--help'.\n"
    );
    Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
}

fn number_in_words(source: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if source.is::<ParseFloatError>() {
        return Some("a number, such as 0.5");
    }
    let source: &ParseIntError = source.downcast_ref()?;
    Some(match source.kind() {
        IntErrorKind::Zero => "a whole number of at least 1",
        IntErrorKind::PosOverflow => "a smaller whole number",
        _ => "a whole number, not negative",
    })
}

/// A command by another program's name for it.
fn with_command(mut error: Error) -> Error {
    let named = text(&error, ContextKind::InvalidSubcommand).unwrap_or_default();
    let named = named.to_lowercase().replace('_', "-");
    let Some((_, tip)) = COMMANDS
        .iter()
        .find(|(names, _)| names.split_whitespace().any(|name| name == named))
    else {
        return error;
    };
    error.remove(ContextKind::SuggestedSubcommand);
    error.insert(
        ContextKind::Suggested,
        ContextValue::StyledStrs(vec![(*tip).into()]),
    );
    error
}

/// What others call a command, and what it is here.
const COMMANDS: &[(&str, &str)] = &[
    (
        "train rlhf rl finetune fine-tune fit",
        "`train-grpo` is plain GRPO; `train-bias`, then `train-cdpo` is the paper's; `train-sft` learns worked answers",
    ),
    (
        "grpo ppo reinforce",
        "`train-grpo` is plain GRPO; with a KL term to a frozen model it is `train-cdpo`",
    ),
    (
        "sft pt pretrain warmup",
        "`train-sft` learns worked answers",
    ),
    (
        "cdpo dpo",
        "`train-cdpo`, after `train-bias` or with any frozen model as model.bias_model",
    ),
    ("bias", "`train-bias`"),
    (
        "evaluate test benchmark val validate score",
        "`eval run` answers questions and scores the answers",
    ),
    (
        "infer inference chat generate predict run",
        "`ask` asks one question about one clip, `eval run` those of a file",
    ),
    (
        "import convert",
        "`data import` makes questions of other projects' files",
    ),
    ("download", "`data download` fetches datasets by name"),
    (
        "check split label stats",
        "it is a command of `data`: `data check`, `data split`, `data label`, `data stats`",
    ),
    (
        "merge push upload publish save",
        "`export` writes a run's model as a folder and uploads it",
    ),
    (
        "config configure setup new",
        "`init` writes a config, `inspect config` prints one with every default",
    ),
    (
        "env version info check-env",
        "`doctor` says what this machine has and lacks; `--version` prints the version",
    ),
    (
        "compare report",
        "`eval compare` compares two evaluations, `study` many runs",
    ),
];

/// An option that is a setting, by our name or another trainer's, is given by `--set`.
fn with_setting(mut error: Error, command: &Command) -> Error {
    let usage = text(&error, ContextKind::Usage).unwrap_or_default();
    let argument = text(&error, ContextKind::InvalidArg).unwrap_or_default();
    if !takes_settings(command, &usage) {
        return error;
    }
    let Some(tip) = tip(&argument) else {
        return error;
    };
    error.remove(ContextKind::SuggestedArg);
    error.insert(
        ContextKind::Suggested,
        ContextValue::StyledStrs(vec![tip.into()]),
    );
    error
}

/// Whether the command whose usage this is has `--set`.
fn takes_settings(command: &Command, usage: &str) -> bool {
    let mut at = command;
    for word in usage.split_whitespace() {
        at = at.find_subcommand(word).unwrap_or(at);
    }
    at.get_arguments().any(|one| one.get_long() == Some("set"))
}

fn tip(argument: &str) -> Option<String> {
    let Some(option) = argument.strip_prefix("--") else {
        let is_config = std::path::Path::new(argument)
            .extension()
            .is_some_and(|end| end == "toml");
        return is_config.then(|| {
            let argument = shell_quoted(argument);
            format!("a file with settings is given as --config {argument}")
        });
    };
    let name = option.split('=').next().unwrap_or_default();
    let name = name.replace('-', "_");
    let own = Config::settings().iter().find(|setting| {
        setting.key == name || setting.key.rsplit('.').next() == Some(name.as_str())
    });
    if let Some(setting) = own {
        return Some(format!(
            "settings are given by --set: --set {}=…",
            setting.key
        ));
    }
    let foreign = foreign::in_words(&name)?;
    Some(format!("settings are given by --set KEY=VALUE; {foreign}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(line: &str) -> String {
        let words = line.split_whitespace().map(OsString::from);
        let error = parse_from(words).err().map(|error| error.to_string());
        error.unwrap_or_else(|| panic!("{line} is right"))
    }

    #[test]
    fn numbers_are_asked_for_in_words() {
        for (line, said) in [
            (
                "videothinker train-grpo --ranks x",
                "'--ranks <N>': it must be a whole number",
            ),
            ("videothinker train-grpo --ranks 0", "of at least 1"),
            (
                "videothinker train-grpo --ranks -1",
                "'-1' for '--ranks <N>'",
            ),
            ("videothinker train-grpo --ranks 1.5", "a whole number"),
            ("videothinker data mini --out x --seed y", "a whole number"),
            (
                "videothinker data mini --out x --thinker-noise much",
                "such as 0.5",
            ),
            (
                "videothinker ask --model m --video v --question q --max-tokens -1",
                "'-1' for '--max-tokens <N>'",
            ),
            (
                "videothinker data mini --out x --train 99999999999999999999999",
                "a smaller whole number",
            ),
        ] {
            let message = message(line);
            assert!(message.contains(said), "{line}: {message}");
            for word in [
                "digit",
                "literal",
                "usize",
                "f64",
                "invalid type",
                "non-zero",
            ] {
                assert!(!message.contains(word), "{line}: {message}");
            }
        }
    }

    #[test]
    fn commands_of_other_programs_are_explained() {
        for (line, said) in [
            ("videothinker grpo", "`train-grpo` is plain GRPO"),
            ("videothinker train --config x.toml", "`train-grpo`"),
            ("videothinker sft", "`train-sft`"),
            ("videothinker rlhf", "`train-cdpo`"),
            ("videothinker infer", "`ask`"),
            ("videothinker import a.json", "`data import`"),
            ("videothinker eval compar a b", "compare"),
        ] {
            let message = message(line);
            assert!(message.contains(said), "{line}: {message}");
        }
        // Each command that is named is one, and no name of others is one of ours.
        let command = command();
        for (names, tip) in COMMANDS {
            for quoted in tip
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|one| !one.starts_with('-'))
            {
                let mut at = &command;
                for word in quoted.split(' ') {
                    at = at
                        .find_subcommand(word)
                        .unwrap_or_else(|| panic!("no {quoted}"));
                }
            }
            for name in names.split_whitespace() {
                assert!(command.find_subcommand(name).is_none(), "{name}");
            }
        }
    }

    #[test]
    fn options_that_are_settings_are_explained() {
        for (line, said) in [
            (
                "videothinker train-cdpo --beta 0.04",
                "here it is `kl.coefficient`",
            ),
            (
                "videothinker train-grpo --num_generations=8",
                "`sampling.group_size`",
            ),
            ("videothinker train-grpo --use-vllm", "without vLLM"),
            ("videothinker train-grpo --steps 5", "--set train.steps=…"),
            ("videothinker train-grpo own.toml", "--config own.toml"),
        ] {
            let message = message(line);
            assert!(message.contains(said), "{line}: {message}");
        }
        let without = message("videothinker eval compare a b --beta 1");
        assert!(!without.contains("kl.coefficient"), "{without}");
    }
}
