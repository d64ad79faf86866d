//! The config as it is written: what differs from the defaults, each with its reason.

use super::Target;
use super::differing;
use super::next::shell;
use super::plan::Plan;
use super::wishes::Wishes;
use crate::cli::output::one_line;
use crate::config::BiasPlacement;
use crate::config::OptimizerMemory;
use crate::config::Verb;
use crate::util::words::counted;
use std::path::Path;

/// The text of the config for `verb` that is to stand at `path`.
pub(super) fn config(plan: &Plan, wishes: &Wishes, verb: Verb, path: &Path) -> String {
    let what = match verb {
        Verb::TrainBias => "Stage 1, the bias model: GRPO on the observational questions",
        Verb::TrainCdpo => "Stage 2, CDPO: GRPO on all questions, repelled from the bias model",
        _ => "Plain GRPO on all questions",
    };
    let mut text = format!(
        "# {what}, on {}: videothinker {} --config {}\n",
        wishes.target.in_words(),
        verb.as_str(),
        one_line(&shell(path))
    );
    if let Some(schema) = schema_beside(path) {
        text.push_str(&format!("#:schema {schema}\n"));
    }
    let mut table = "";
    for (key, value) in differing(&plan.config) {
        let (of, name) = key.split_once('.').unwrap_or(("", key));
        if of != table {
            table = of;
            text.push_str(&format!("\n[{table}]\n"));
        }
        let reason = reason(key, plan, wishes, verb);
        text.push_str(&format!("{name} = {value}  # {reason}\n"));
    }
    text
}

/// The path of the schema for editors as the file at `path` may name it; `None` where there is none near.
fn schema_beside(path: &Path) -> Option<String> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let near = [
        "schema.json",
        "../schema.json",
        "configs/schema.json",
        "../configs/schema.json",
    ];
    let is_ours = |name: &&&str| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        text.contains("bias_placement")
    };
    near.iter().find(is_ours).map(|name| (*name).to_owned())
}

fn reason(key: &str, plan: &Plan, wishes: &Wishes, verb: Verb) -> String {
    let config = &plan.config;
    let where_it_runs = wishes.target.in_words();
    let to_fit = format!("so that it fits {where_it_runs}");
    let of_small = "for a small model";
    let as_trained = if plan.view_is_known {
        "as the model was trained"
    } else if plan.config.video.max_pixels < 128 * 28 * 28 {
        of_small
    } else {
        &to_fit
    };
    match key {
        "output_dir" => {
            "metrics, completions and checkpoints; the same command goes on from there".into()
        }
        "model.path" => "a folder or a hub id".into(),
        "model.bias_model" => "what stage 1 ended with".into(),
        "model.device" => "without a GPU".into(),
        "model.dtype" => format!("exact, {of_small}"),
        "model.bias_placement" => match config.model.bias_placement {
            BiasPlacement::Int8 => format!("in 8 bits, {to_fit}"),
            _ => format!("in the machine's memory, {to_fit}; slower"),
        },
        "data.questions" => questions_in_words(wishes, verb),
        "data.video_root" => match wishes.clips.missing {
            0 => format!("{}, all there", counted(wishes.clips.count, "clip")),
            missing => format!(
                "{missing} of {} missing below it",
                counted(wishes.clips.count, "clip")
            ),
        },
        "optimizer.memory" => match config.optimizer.memory {
            OptimizerMemory::Host => format!("in the machine's memory, {to_fit}; slower"),
            _ => format!("4 bytes a weight instead of 12, {to_fit}"),
        },
        "train.steps" => format!(
            "{} each; 500 of 2 in the paper",
            counted(config.train.questions_per_step, "question")
        ),
        "train.questions_per_step" if config.train.questions_per_step == 1 => to_fit,
        "train.questions_per_step" => format!("steadier steps, {of_small}"),
        "sampling.max_new_tokens" if config.sampling.max_new_tokens > 128 => {
            format!("the longest completion, in tokens, {to_fit}")
        }
        "sampling.max_new_tokens" => format!("the longest completion, in tokens, {of_small}"),
        "sampling.group_size" => format!("completions per question, {to_fit}"),
        "checkpoint.every" => "steps: what a machine that fails costs at most".into(),
        "eval.wording" => "evaluations ask as training did".into(),
        "checkpoint.keep" => plan.checkpoint.map_or_else(String::new, |bytes| {
            format!("only the newest: one takes {:.0} GB", bytes as f64 / 1e9)
        }),
        _ if key.starts_with("video.") => as_trained.into(),
        _ if wishes.target == Target::Cpu || key.starts_with("optimizer.") => of_small.into(),
        _ => to_fit,
    }
}

fn questions_in_words(wishes: &Wishes, verb: Verb) -> String {
    use crate::config::QuestionKind::Observational;
    let all = wishes.questions.len();
    match verb {
        Verb::TrainBias => format!(
            "{} of its {all} are observational",
            wishes.count(Observational)
        ),
        _ => counted(all, "question"),
    }
}
