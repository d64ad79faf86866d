//! One RL step, top to bottom: rollout → rewards and advantages → reference → loss and backward → update → record.

use super::Trainer;
use super::backward::Pass;
use super::backward::add_gradients;
use super::backward::backward;
use super::backward::side_by_side;
use super::data_loader::Example;
use super::metrics::Stopwatch;
use super::micro_batch::MicroBatch;
use super::objective::Objective;
use super::optimizer::Gradients;
use super::record::StepRecord;
use super::record::rollout_lines;
use super::replay::Replayed;
use super::step_stats::StepStats;
use crate::policy::inputs::PackedInputs;
use crate::rl::Group;
use crate::rl::loss::LossOutput;
use crate::rl::loss::policy_loss;
use anyhow::Context;
use anyhow::Result;

/// One step on `examples`, this rank's share of its questions; `replayed` gives completions instead of the sampler.
///
/// # Errors
/// A prompt that is too long, a tensor operation that fails, another rank that is lost.
pub(super) fn reinforced_step(
    trainer: &mut Trainer,
    objective: &Objective,
    examples: &[Example],
    replayed: Option<&[Replayed]>,
    watch: &mut Stopwatch,
) -> Result<StepRecord> {
    let (config, dist) = (trainer.config(), trainer.dist());
    let device = trainer.device().clone();

    // Rollout: G completions of each prompt.
    let prompted = trainer.prompts(examples)?;
    // A rank without questions goes on as long as another has some: what follows waits for all.
    if !dist.any(!prompted.is_empty())? {
        return Ok(StepRecord::empty(trainer.empty_metrics()));
    }
    let completions = match replayed {
        Some(lines) => trainer.replay(&prompted, lines)?,
        None => watch
            .time("generate", || trainer.sample(&prompted))
            .context("while completions were sampled")?,
    };

    // Rewards, and the advantages of a group's rollouts over each other.
    let groups: Vec<Group> = prompted
        .into_iter()
        .zip(completions)
        .map(|((question, prompt), completions)| {
            let loss = config.objective.loss;
            Group::score(question, prompt, completions, &config.reward, loss)
        })
        .collect();
    let mut batches = MicroBatch::split(&groups, trainer.policy().model(), config, dist)?;
    let inputs: Vec<&PackedInputs> = batches.iter().map(|batch| &batch.inputs).collect();
    // Before the passes take it: a step that runs out of memory says what it was expected to take.
    let sampling = replayed.is_none().then_some(&config.sampling);
    trainer.estimate_memory(&inputs, objective.reference_spec(), sampling);

    // Reference: what the frozen bias model gives the same tokens.
    let kl = trainer.kl(objective);
    let scores = watch
        .time("bias", || {
            side_by_side(&device, &batches, |batch| {
                objective.score_reference(&batch.inputs, kl.as_ref())
            })
        })
        .context("while the bias model was asked")?;
    for (batch, scores) in batches.iter_mut().zip(scores) {
        batch.keep_reference(scores, kl.as_ref(), objective.bias_answers());
    }

    // Loss and backward, then the update. The log-probabilities of the first pass are the old policy's in those that follow.
    let mut stats = StepStats::of_groups(&groups);
    for _ in 0..config.train.updates_per_rollout {
        let passes: Vec<Pass<LossOutput>> = watch
            .time("backward", || {
                side_by_side(&device, &batches, |batch| {
                    let (policy, placement) = (trainer.policy(), trainer.gradient_placement());
                    let rows = objective.reference_rows(&batch.reference);
                    backward(policy, &batch.inputs, placement, rows, |scores| {
                        let terms = batch.loss_terms(scores);
                        let longest = config.sampling.max_new_tokens;
                        let loss = policy_loss(&terms, &config.objective, kl.as_ref(), longest);
                        (loss.derivatives(batch.loss_weight), loss)
                    })
                })
            })
            .context("while gradients were computed")?;
        let (own, gradients) = add_up(trainer, &mut batches, passes)?;
        let (loss, update) = watch
            .time("update", || trainer.update(own.loss, gradients))
            .context("while the weights were updated")?;
        stats.add_update(loss, &own, &update);
        // The weights are as they were: further updates would fail alike.
        if !update.applied {
            break;
        }
    }

    // Record: the numbers and completions of all ranks.
    stats.add_tokens(&batches, config.sampling.temperature);
    trainer.count_tokens(groups.iter().map(Group::num_tokens).sum());
    let processor = config.kl.log_token_ratios.then(|| trainer.processor());
    let lines = rollout_lines(trainer.steps_done() + 1, &batches, processor)?;
    let (stats, lines) = stats.all_reduce_with(lines, dist)?;
    trainer.record(&stats, lines, kl.as_ref())
}

/// This rank's loss and gradients: those of its passes, in their order.
fn add_up(
    trainer: &Trainer,
    batches: &mut [MicroBatch],
    passes: Vec<Pass<LossOutput>>,
) -> Result<(LossOutput, Gradients)> {
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    for (batch, pass) in batches.iter_mut().zip(passes) {
        batch.keep_first_pass(&pass);
        losses.push((pass.loss, batch.loss_weight));
        gradients.push(pass.gradients);
    }
    let gradients = if gradients.is_empty() {
        trainer.zero_gradients()?
    } else {
        add_gradients(gradients)?
    };
    Ok((LossOutput::combine(losses), gradients))
}
