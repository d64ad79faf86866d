//! What `init` prints: what was written, what it takes, and the commands that come next, ready to be pasted.

use super::Stage;
use super::Written;
use super::plan::Fit;
use super::plan::Plan;
use super::wishes::Wishes;
use crate::data::locate;
use crate::util::console::duration;
use std::path::Path;
use std::path::PathBuf;

/// All of it.
pub(super) fn in_words(wishes: &Wishes, files: &[Written]) -> String {
    let mut text = String::new();
    for file in files {
        let path = file.path.display();
        text.push_str(&format!(
            "wrote {path}: {}\n",
            memory_in_words(&file.plan, wishes)
        ));
    }
    if files.iter().any(|file| file.plan.fit.is_none()) {
        text.push_str(&format!(
            "Once {} is downloaded, `videothinker estimate --config FILE` says what it takes.\n",
            wishes.model
        ));
    }
    if !files.iter().all(Written::may_fit) {
        text.push_str(
            "That is too much, although it is the least that these settings can be made to take: name a larger card (--card), or a smaller \
             model (--model)\n",
        );
        return text;
    }
    text.push_str("\nNext:\n");
    for command in commands(wishes, files) {
        text.push_str(&format!("  videothinker {command}\n"));
    }
    if validation(wishes).is_none() {
        text.push_str(
            "(eval asks the questions of training again: name others by --set data.questions=FILE)\n",
        );
    }
    text
}

fn memory_in_words(plan: &Plan, wishes: &Wishes) -> String {
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let steps = plan.config.train.steps;
    let Some(fit) = &plan.fit else {
        return format!(
            "{steps} steps; how much memory they take is not known, for {} is not on this machine",
            wishes.model
        );
    };
    let Fit {
        memory,
        capacity,
        seconds,
    } = fit;
    let time = seconds.map_or_else(String::new, |seconds| {
        format!(", {} by its data sheet", duration(seconds))
    });
    let host = if memory.cuda > 0 && memory.host > capacity / 4 {
        format!(" and {:.1} GB of the machine's", gb(memory.host))
    } else {
        String::new()
    };
    format!(
        "{steps} steps take {} {:.1} of {:.1} GB on {}{host}{time}",
        if memory.cuda > 0 { "at most" } else { "about" },
        gb(memory.peak),
        gb(*capacity),
        wishes.target.in_words()
    )
}

/// The commands in their order, without the program's name.
fn commands(wishes: &Wishes, files: &[Written]) -> Vec<String> {
    let Some(last) = files.last() else {
        return Vec::new();
    };
    let config = shell(&last.path);
    let run = &last.plan.config.output_dir;
    let model = shell(&run.join("checkpoints/latest"));
    let mut commands = vec![format!("data check --config {config}")];
    for file in files {
        // Of two stages the second needs what the first trains.
        if commands.len() == 1 {
            commands.push(format!(
                "{} --config {} --dry-run",
                file.verb.as_str(),
                shell(&file.path)
            ));
        }
        commands.push(format!(
            "{} --config {}",
            file.verb.as_str(),
            shell(&file.path)
        ));
    }
    let questions = validation(wishes).map_or_else(String::new, |file| {
        format!(" --set data.questions={}", shell(&file))
    });
    for (name, model) in [("base", quoted(&wishes.model)), ("trained", model.clone())] {
        commands.push(format!(
            "eval run --config {config} --model {model}{questions} --out {}",
            shell(&run.join("eval").join(name))
        ));
    }
    if let Some(question) = wishes.questions.first() {
        let mut question = question.clone();
        // A clip that is not found keeps its name; that it is missing was said before.
        let _ = locate(std::slice::from_mut(&mut question), &last.plan.config.data);
        let clip = wishes.video_root.join(&question.video);
        commands.push(format!(
            "ask --model {model} --config {config} --video {} --question={}",
            shell(&clip),
            quoted(&question.text())
        ));
    }
    commands.push(format!("export {} --out my-model --card", shell(run)));
    if wishes.stage == Stage::Bias {
        commands.retain(|command| !command.starts_with("ask") && !command.starts_with("export"));
    }
    commands
}

/// The other half of what `data split` divides, where it lies beside the question file.
fn validation(wishes: &Wishes) -> Option<PathBuf> {
    let other = wishes.questions_file.with_file_name("validation.jsonl");
    (other != wishes.questions_file && other.is_file()).then_some(other)
}

pub(in crate::cli) fn shell(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// A word as a shell reads it.
pub(in crate::cli) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quoted("runs/own-1/a.mp4"), "runs/own-1/a.mp4");
        assert_eq!(quoted("What's this?"), "'What'\\''s this?'");
        assert_eq!(quoted(""), "''");
    }
}
