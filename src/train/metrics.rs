//! The numbers of a step: one definition for `metrics.jsonl`, TensorBoard, the progress bar and the report.
//!
//! What a clock or the allocator says goes to `timings.jsonl` instead, so that two equal runs give equal
//! `metrics.jsonl`.

use super::tensorboard::EventFile;
use crate::policy::GraphUse;
use crate::util::json_lines;
use crate::util::json_lines::JsonLines;
use crate::util::json_lines::LinesError;
use candle_core::Device;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// A line of `metrics.jsonl`. Names follow TRL where TRL has one; what does not apply is left out, and a number that is
/// not finite is `null`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct StepMetrics {
    /// Steps done, counted from 1.
    pub(crate) step: usize,
    /// The objective that was minimised; the mean where a step has several updates.
    pub(crate) loss: f64,
    /// Global gradient norm before clipping; the mean where a step has several updates.
    pub(crate) grad_norm: f64,
    /// Learning rate of this step.
    pub(crate) learning_rate: f64,
    /// Prompt and completion tokens processed so far.
    pub(crate) num_tokens: u64,
    /// Updates left out because loss or gradient was not finite.
    pub(crate) skipped_update: usize,
    /// Questions left out so far because their clip cannot be used.
    pub(crate) skipped_videos: usize,
    /// Mean entropy over the tokens learned from, nats, before the step's updates; absent in a step without questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entropy: Option<f64>,
    /// What only the RL verbs have.
    #[serde(flatten)]
    pub(crate) rl: Option<RlMetrics>,
}

/// The RL part of a line.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct RlMetrics {
    /// Mean of R over all completions of the step.
    pub(crate) reward: f64,
    /// Standard deviation of R within a group, mean over groups.
    pub(crate) reward_std: f64,
    /// Mean accuracy.
    #[serde(rename = "rewards/accuracy/mean")]
    pub(crate) accuracy: f64,
    /// Share of completions that name an option as only the strict rule reads it (`**B**`).
    #[serde(rename = "answers/read_only_strictly")]
    pub(crate) read_only_strictly: f64,
    /// Mean format reward.
    #[serde(rename = "rewards/format/mean")]
    pub(crate) format: f64,
    /// Mean accuracy on observational questions; absent when the step has none.
    #[serde(
        rename = "rewards/accuracy/observational",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) accuracy_observational: Option<f64>,
    /// Mean accuracy on inferential questions; absent when the step has none.
    #[serde(
        rename = "rewards/accuracy/inferential",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) accuracy_inferential: Option<f64>,
    /// Share of groups whose rewards are all equal.
    pub(crate) frac_reward_zero_std: f64,
    /// Tokens per completion.
    #[serde(rename = "completions/mean_length")]
    pub(crate) mean_length: f64,
    /// Share of completions cut off at the longest length.
    #[serde(rename = "completions/clipped_ratio")]
    pub(crate) clipped_ratio: f64,
    /// Share of tokens whose ratio is clipped from below (0 with one update per step), mean over the updates.
    #[serde(rename = "clip_ratio/low_mean")]
    pub(crate) clip_low: f64,
    /// Share of tokens whose ratio is clipped from above.
    #[serde(rename = "clip_ratio/high_mean")]
    pub(crate) clip_high: f64,
    /// Mean divergence from the bias model per token, before the step's updates; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kl: Option<f64>,
    /// The same on observational questions.
    #[serde(rename = "kl/observational", skip_serializing_if = "Option::is_none")]
    pub(crate) kl_observational: Option<f64>,
    /// The same on inferential questions.
    #[serde(rename = "kl/inferential", skip_serializing_if = "Option::is_none")]
    pub(crate) kl_inferential: Option<f64>,
    /// Share of tokens on which the KL term acts; absent where it acts on all. `kl` is the mean over all tokens all the same.
    #[serde(rename = "kl/acting_ratio", skip_serializing_if = "Option::is_none")]
    pub(crate) kl_acting_ratio: Option<f64>,
    /// The KL coefficient in force; absent without a bias model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kl_coefficient: Option<f64>,
    /// Largest |sampler's log-prob − trainer's log-prob| of a sampled token; absent in a replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sampler_logp_gap: Option<f64>,
}

/// A line of `timings.jsonl`: what differs between two equal runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct StepTimings {
    pub(crate) step: usize,
    /// Seconds since 1970.
    pub(crate) wall_time: f64,
    /// Seconds of the whole step.
    pub(crate) step_time: f64,
    /// Highest resident memory of the process so far; of a run on a GPU, that of its tensors there (0 where the driver does
    /// not tell it).
    #[serde(rename = "memory/peak_bytes")]
    pub(crate) peak_bytes: u64,
    /// What [`super::estimate`] gives for the largest step so far, as `memory/peak_bytes` counts (a GPU's tensors, without
    /// CUDA's own); absent until a step has questions.
    #[serde(
        rename = "memory/estimate_bytes",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) estimate_bytes: Option<u64>,
    /// How completions were sampled by all ranks, where `sampling.cuda_graph` is set.
    #[serde(flatten)]
    pub(crate) decoding: Option<DecodingSteps>,
    /// Seconds of each phase, `time/<phase>`. `time/video` is what the step waited for clips, `time/video_work` what
    /// the video threads worked meanwhile, added up.
    #[serde(flatten)]
    pub(crate) phases: BTreeMap<String, f64>,
}

/// The steps of a step's decodings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct DecodingSteps {
    /// Replayed from a CUDA graph.
    #[serde(rename = "decode/graph_steps")]
    pub(crate) graph: u64,
    /// Launched kernel by kernel: without a graph all, with one the first of each decoding.
    #[serde(rename = "decode/plain_steps")]
    pub(crate) plain: u64,
    /// Why there was no graph; absent where there was one.
    #[serde(rename = "decode/no_graph", skip_serializing_if = "Option::is_none")]
    pub(crate) no_graph: Option<String>,
}

impl From<GraphUse> for DecodingSteps {
    fn from(used: GraphUse) -> Self {
        Self {
            graph: used.captured,
            plain: used.plain,
            no_graph: used.refused,
        }
    }
}

/// Measures the phases of one step.
pub(crate) struct Stopwatch {
    start: Instant,
    phases: BTreeMap<String, f64>,
    /// Returns when all that the phases have queued is done.
    wait: Box<dyn Fn() -> candle_core::Result<()>>,
}

impl Stopwatch {
    /// For phases that work on `device`.
    ///
    /// A GPU's work is only queued by the calls that ask for it: without waiting for it, the next phase that reads a
    /// result would be given its time. Phases depend on each other, so that waiting between them costs no more than what
    /// the host would do beside the last one's tail; what overlaps on purpose (copies from and to host memory) does so
    /// within a phase.
    pub(crate) fn on(device: &Device) -> Self {
        let device = device.clone();
        Self::waiting(move || device.synchronize())
    }

    fn waiting(wait: impl Fn() -> candle_core::Result<()> + 'static) -> Self {
        Self {
            start: Instant::now(),
            phases: BTreeMap::new(),
            wait: Box::new(wait),
        }
    }

    /// Runs `work`, waits for what it has queued, and adds the time to the phase.
    ///
    /// # Errors
    /// Those of `work`, and those with which the queued work failed.
    pub(crate) fn time<T, E: From<candle_core::Error>>(
        &mut self,
        phase: &str,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let result = work()?;
        (self.wait)()?;
        self.add(phase, start.elapsed().as_secs_f64());
        Ok(result)
    }

    /// Adds seconds that were measured elsewhere to the phase.
    pub(crate) fn add(&mut self, phase: &str, seconds: f64) {
        *self.phases.entry(format!("time/{phase}")).or_default() += seconds;
    }

    /// The step's line.
    pub(crate) fn finish(self, step: usize) -> StepTimings {
        StepTimings {
            step,
            wall_time: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |time| time.as_secs_f64()),
            step_time: self.start.elapsed().as_secs_f64(),
            peak_bytes: peak_resident_bytes(),
            estimate_bytes: None,
            decoding: None,
            phases: self.phases,
        }
    }
}

/// The process's highest resident memory, from the kernel; 0 where it does not say.
pub(crate) fn peak_resident_bytes() -> u64 {
    process_status("VmHWM:")
}

/// The process's resident memory now, from the kernel; 0 where it does not say.
pub fn resident_bytes() -> u64 {
    process_status("VmRSS:")
}

fn process_status(key: &str) -> u64 {
    // Other systems than Linux do not have it.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = status.lines().find_map(|line| {
        let value = line.strip_prefix(key)?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kibibytes.unwrap_or(0) * 1024
}

/// Writes the numbers of every step.
#[derive(Debug)]
pub(crate) struct MetricsLog {
    metrics: JsonLines,
    timings: JsonLines,
    events: EventFile,
}

impl MetricsLog {
    /// Opens the logs of a run directory at `step`: what later steps wrote before is dropped.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn open_at(run: &Path, step: usize) -> anyhow::Result<Self> {
        let metrics = JsonLines::open_at(&run.join("metrics.jsonl"), step)?;
        let timings = JsonLines::open_at(&run.join("timings.jsonl"), step)?;
        let mut events = EventFile::create(run)?;
        let past_timings = lines_by_step(&run.join("timings.jsonl"))?;
        for (step, line) in lines_by_step(&run.join("metrics.jsonl"))? {
            let timing = past_timings.get(&step).cloned().unwrap_or_default();
            let wall_time = timing.get("wall_time").and_then(Value::as_f64);
            let both = scalars(&line).chain(scalars(&timing));
            events.scalars(step, wall_time.unwrap_or(0.0), both)?;
        }
        Ok(Self {
            metrics,
            timings,
            events,
        })
    }

    /// Appends one step to both files and to TensorBoard.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn append(
        &mut self,
        metrics: &StepMetrics,
        timings: &StepTimings,
    ) -> anyhow::Result<()> {
        self.metrics.append(metrics)?;
        self.timings.append(timings)?;
        let (line, timing) = (as_map(metrics)?, as_map(timings)?);
        let both = scalars(&line).chain(scalars(&timing));
        self.events.scalars(metrics.step, timings.wall_time, both)?;
        Ok(())
    }
}

type Line = serde_json::Map<String, Value>;

fn as_map(line: &impl Serialize) -> anyhow::Result<Line> {
    match serde_json::to_value(line)? {
        Value::Object(map) => Ok(map),
        _ => Ok(Line::new()),
    }
}

fn scalars(line: &Line) -> impl Iterator<Item = (&str, f64)> {
    line.iter()
        .filter(|(name, _)| !matches!(name.as_str(), "step" | "wall_time"))
        .filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)))
}

/// A line as it is read again.
#[derive(Deserialize)]
struct OfStep {
    step: usize,
    #[serde(flatten)]
    numbers: Line,
}

fn lines_by_step(path: &Path) -> Result<BTreeMap<usize, Line>, LinesError> {
    let lines = json_lines::read::<OfStep>(path)?.into_iter();
    Ok(lines.map(|line| (line.step, line.numbers)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    fn metrics(step: usize) -> StepMetrics {
        StepMetrics {
            step,
            loss: 0.1 * step as f64,
            entropy: Some(0.5),
            rl: Some(RlMetrics {
                reward: 1.5,
                kl: Some(0.25),
                ..RlMetrics::default()
            }),
            ..StepMetrics::default()
        }
    }

    #[test]
    fn names_are_those_of_trl() {
        let line = serde_json::to_value(metrics(1)).unwrap();
        for name in [
            "step",
            "loss",
            "grad_norm",
            "learning_rate",
            "num_tokens",
            "reward",
            "reward_std",
            "rewards/accuracy/mean",
            "rewards/format/mean",
            "frac_reward_zero_std",
            "completions/mean_length",
            "completions/clipped_ratio",
            "entropy",
            "kl",
        ] {
            assert!(line.get(name).is_some(), "{name}");
        }
        assert!(line.get("rewards/accuracy/inferential").is_none());
        assert!(line.get("step_time").is_none());
        let sft = serde_json::to_value(StepMetrics::default()).unwrap();
        assert!(sft.get("reward").is_none());
    }

    #[test]
    fn a_resumed_log_equals_an_uninterrupted_one() {
        let write = |run: &Path, from: usize, to: usize| {
            let mut log = MetricsLog::open_at(run, from).unwrap();
            for step in from + 1..=to {
                let timings = StepTimings {
                    step,
                    wall_time: step as f64,
                    ..StepTimings::default()
                };
                log.append(&metrics(step), &timings).unwrap();
            }
        };
        let (once, twice) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(once.path(), 0, 5);
        write(twice.path(), 0, 4);
        write(twice.path(), 2, 5);
        for name in [
            "metrics.jsonl",
            "timings.jsonl",
            "tensorboard/events.out.tfevents.0.videothinker",
        ] {
            let read = |run: &Path| std::fs::read(run.join(name)).unwrap();
            assert!(read(once.path()) == read(twice.path()), "{name}");
        }
    }

    #[test]
    fn timings_say_how_completions_were_sampled() {
        let line = |decoding| {
            let timings = StepTimings {
                decoding,
                ..StepTimings::default()
            };
            serde_json::to_value(timings).unwrap()
        };
        assert!(line(None).get("decode/plain_steps").is_none());
        let used = GraphUse {
            captured: 40,
            plain: 2,
            refused: None,
        };
        let used = line(Some(used.into()));
        assert_eq!(used["decode/graph_steps"], 40);
        assert_eq!(used["decode/plain_steps"], 2);
        assert!(used.get("decode/no_graph").is_none());
        let refused = GraphUse {
            plain: 42,
            refused: Some("no memory".to_owned()),
            ..GraphUse::default()
        };
        assert_eq!(line(Some(refused.into()))["decode/no_graph"], "no memory");
    }

    #[test]
    fn phases_add_up() {
        let mut watch = Stopwatch::on(&Device::Cpu);
        let time = |watch: &mut Stopwatch, value: u32| -> anyhow::Result<u32> {
            watch.time("bias", || Ok(value))
        };
        assert_eq!(time(&mut watch, 3).unwrap(), 3);
        time(&mut watch, 4).unwrap();
        let timings = watch.finish(1);
        assert!(timings.phases["time/bias"] <= timings.step_time);
        assert!(timings.peak_bytes > 0);
    }

    /// A device that only queues, as a GPU does: what a phase has queued is done before it ends, and on its time.
    #[test]
    fn queued_work_is_on_the_time_of_its_own_phase() {
        let queue = Rc::new(Cell::new(0u64));
        let waits = Rc::clone(&queue);
        let mut watch = Stopwatch::waiting(move || {
            std::thread::sleep(Duration::from_millis(waits.take()));
            Ok(())
        });
        for (phase, milliseconds) in [("backward", 40), ("update", 0)] {
            let queued = || -> candle_core::Result<u64> { Ok(queue.replace(milliseconds)) };
            assert_eq!(watch.time(phase, queued).unwrap(), 0, "left for {phase}");
            assert_eq!(queue.get(), 0, "left by {phase}");
        }
        let phases = watch.finish(1).phases;
        assert!(phases["time/backward"] >= 0.04, "{phases:?}");
    }

    #[test]
    fn an_error_of_queued_work_is_the_phases() {
        let mut watch = Stopwatch::waiting(|| candle_core::bail!("out of memory"));
        let ended = watch.time("update", || candle_core::Result::Ok(3));
        assert!(ended.unwrap_err().to_string().contains("out of memory"));
    }
}
