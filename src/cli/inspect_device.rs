//! `inspect device`: what the device computes and how fast, as JSON; `scripts/gpu_check.sh` makes a table of it.
//!
//! Each part is a command of its own, so that one that fails, or takes the process with it, does not stop the others.

use super::ConfigArgs;
use super::Outcome;
use super::eval::model_folder;
use super::output;
use crate::config::Config;
use crate::config::Verb;
use crate::model::Qwen25Vl;
use crate::model::device;
use crate::policy::GraphUse;
use crate::prompt::Processor;
use crate::selfcheck::Workload;
use crate::selfcheck::kernels::KernelComparison;
use crate::selfcheck::kernels::ProblemSizes;
use crate::selfcheck::kernels::compare_kernels;
use crate::selfcheck::speed::DecodeSpeed;
use crate::selfcheck::speed::LearningSpeed;
use crate::selfcheck::speed::decode_speed;
use crate::selfcheck::speed::learning_speed;
use crate::selfcheck::step::StepComparison;
use crate::selfcheck::step::compare_step;
use crate::train::estimate::DeviceRates;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use candle_core::Device;
use clap::Args;
use clap::Subcommand;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `inspect device`.
#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Its name, bytes a second of a copy, operations a second of large bf16 and f32 products
    Rates(ConfigArgs),
    /// Every operation that has a kernel on the device against its definition
    Kernels(KernelsArgs),
    /// A small model on the device against the CPU: log-probabilities, loss and gradients of a CDPO step, sampling
    Parity(ParityArgs),
    /// Tokens a second of sampling, against what reading weights and cache at the copy rate allows
    Decode(DecodeArgs),
    /// Time and memory of learning from a step's completions, against the product rate and `estimate`
    Train(TrainArgs),
}

#[derive(Debug, Args)]
struct KernelsArgs {
    /// Few rows and a small vocabulary: for tools that watch every access to memory
    #[arg(long)]
    small: bool,
    #[command(flatten)]
    settings: ConfigArgs,
}

#[derive(Debug, Args)]
struct ParityArgs {
    /// A small model folder
    #[arg(long, value_name = "DIR")]
    model: String,
    #[command(flatten)]
    settings: ConfigArgs,
}

/// A model and the size of its work.
#[derive(Debug, Args)]
struct WorkArgs {
    /// A model folder, whose weights may be random
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Temporal grids, patch rows and patch columns of a clip [default: 16 frames of 480 × 320 pixels, resized]
    #[arg(long, value_name = "T,H,W", value_delimiter = ',', default_values_t = [8, 22, 34])]
    grid: Vec<usize>,
    /// Tokens of a prompt beside its clip's
    #[arg(long, value_name = "N", default_value_t = 200)]
    text_tokens: usize,
    /// Tokens of a completion
    #[arg(long, value_name = "N", default_value_t = 300)]
    completion_tokens: usize,
    /// Runs of each phase that are timed after one that warms up; the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeats: usize,
    #[command(flatten)]
    settings: ConfigArgs,
}

#[derive(Debug, Args)]
struct DecodeArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Completions that decode together, for each measurement; multiples of sampling.group_size
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [8, 32, 64])]
    rows: Vec<usize>,
    /// The same, but each step is one CUDA graph, as with sampling.cuda_graph=true
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    graph_rows: Vec<usize>,
}

#[derive(Debug, Args)]
struct TrainArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// A safetensors file for the prompts, clips and completions and their log-probabilities under the model
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// What `inspect device rates` prints.
#[derive(Debug, Serialize)]
struct RatesView {
    device: String,
    #[serde(flatten)]
    rates: DeviceRates,
}

/// What `inspect device kernels` prints.
#[derive(Debug, Serialize)]
struct KernelsView {
    agrees: bool,
    kernels: Vec<KernelView>,
}

/// One operation in one format.
#[derive(Debug, Serialize)]
struct KernelView {
    kernel: &'static str,
    dtype: &'static str,
    max_error: f64,
    bound: f64,
}

/// What `inspect device parity` prints.
#[derive(Debug, Serialize)]
struct ParityView {
    agrees: bool,
    #[serde(flatten)]
    graph_use: GraphUse,
    differences: Vec<StepComparison>,
}

/// What `inspect device decode` prints.
#[derive(Debug, Serialize)]
struct DecodeView {
    rates: DeviceRates,
    batches: Vec<DecodeSpeed>,
}

/// What `inspect device train` prints.
#[derive(Debug, Serialize)]
struct TrainView {
    rates: DeviceRates,
    #[serde(flatten)]
    speed: LearningSpeed,
}

pub(super) fn run(args: &DeviceArgs) -> Result<Outcome> {
    match &args.what {
        What::Rates(settings) => {
            let device = device_of(&settings.load(Verb::Inspect)?)?;
            output::json(&RatesView {
                device: device::name(&device)?,
                rates: DeviceRates::measure(&device)?,
            })?;
        }
        What::Kernels(args) => return kernels(args),
        What::Parity(args) => return parity(args),
        What::Decode(args) => decode(args)?,
        What::Train(args) => train(args)?,
    }
    Ok(Outcome::Done)
}

fn device_of(config: &Config) -> Result<Device> {
    Ok(device::device(&config.model)?)
}

fn kernels(args: &KernelsArgs) -> Result<Outcome> {
    let sizes = if args.small {
        ProblemSizes::SMALL
    } else {
        ProblemSizes::FULL
    };
    let device = device_of(&args.settings.load(Verb::Inspect)?)?;
    let found = compare_kernels(&device, sizes)?;
    let agrees = found.iter().all(KernelComparison::holds);
    output::json(&KernelsView {
        agrees,
        kernels: found
            .into_iter()
            .map(|one| KernelView {
                kernel: one.kernel,
                dtype: one.dtype.as_str(),
                max_error: one.max_error,
                bound: one.bound,
            })
            .collect(),
    })?;
    Ok(answer(agrees))
}

fn answer(agrees: bool) -> Outcome {
    if agrees {
        Outcome::Done
    } else {
        Outcome::Failed
    }
}

fn parity(args: &ParityArgs) -> Result<Outcome> {
    let device = device_of(&args.settings.load(Verb::Inspect)?)?;
    let found = compare_step(&model_folder(&args.model)?, &device)?;
    let agrees = found.comparisons.iter().all(StepComparison::holds);
    output::json(&ParityView {
        agrees,
        graph_use: found.graph_use.clone(),
        differences: found.comparisons,
    })?;
    // Without a graph its comparison would be of the same with the same; a CPU has none.
    if device.is_cuda() {
        require_graph(&found.graph_use)?;
    }
    Ok(answer(agrees))
}

/// Fails where steps did not run from a CUDA graph, in one format or after a while.
fn require_graph(used: &GraphUse) -> Result<()> {
    match used.without_graph() {
        None => Ok(()),
        Some(why) => bail!("decoding did not run from a CUDA graph: {why}"),
    }
}

/// More of anything is a slip: a clip has fewer sides, a prompt and a completion fewer tokens, a batch fewer rows.
const MOST: usize = 1 << 17;

/// Refuses a number that nothing can be measured with.
fn in_range(option: &str, number: usize) -> Result<()> {
    if (1..=MOST).contains(&number) {
        return Ok(());
    }
    let problem = format!("{option}: expected a number from 1 to {MOST}, got {number}");
    Err(super::BadArgument(problem).into())
}

impl WorkArgs {
    fn workload(&self, questions: usize, group_size: usize) -> Result<Workload> {
        let grid = self.grid.as_slice().try_into();
        let even = |grid: &[usize; 3]| grid[1..].iter().all(|side| side.is_multiple_of(2));
        let Some(grid_thw) = grid.ok().filter(even) else {
            let problem = "--grid: expected three numbers, the last two even".into();
            return Err(super::BadArgument(problem).into());
        };
        for side in grid_thw {
            in_range("--grid", side)?;
        }
        in_range("--text-tokens", self.text_tokens)?;
        in_range("--completion-tokens", self.completion_tokens)?;
        in_range("--repeats", self.repeats)?;
        Ok(Workload {
            questions,
            group_size,
            grid_thw,
            text_tokens: self.text_tokens,
            completion_tokens: self.completion_tokens,
        })
    }
}

fn decode(args: &DecodeArgs) -> Result<()> {
    let config = args.work.settings.load(Verb::Inspect)?;
    let group_size = config.sampling.group_size;
    let plain = args
        .rows
        .iter()
        .map(|&rows| (rows, config.sampling.cuda_graph));
    let by_graph = args.graph_rows.iter().map(|&rows| (rows, true));
    let asked: Vec<(usize, bool)> = plain.chain(by_graph).collect();
    let workloads = asked.iter().map(|&(rows, _)| {
        in_range("--rows", rows)?;
        args.work.workload(rows.div_ceil(group_size), group_size)
    });
    let workloads = workloads.collect::<Result<Vec<_>>>()?;
    let device = device_of(&config)?;
    let rates = DeviceRates::measure(&device)?;
    let folder = model_folder(&args.work.model)?;
    let processor = Processor::load(&folder)?;
    let model = Qwen25Vl::load(&folder, device::dtype(&config.model), &device)?;
    let mut batches = Vec::new();
    for (workload, &(_, cuda_graph)) in workloads.iter().zip(&asked) {
        batches.push(decode_speed(
            &model,
            &processor,
            workload,
            &rates,
            args.work.repeats,
            cuda_graph,
        )?);
    }
    let view = DecodeView { rates, batches };
    output::json(&view)?;
    for (batch, (rows, cuda_graph)) in view.batches.iter().zip(asked) {
        if cuda_graph {
            require_graph(&batch.graph_use)
                .with_context(|| format!("{rows} rows by a CUDA graph"))?;
        }
    }
    Ok(())
}

fn train(args: &TrainArgs) -> Result<()> {
    let config = args.work.settings.load(Verb::Inspect)?;
    let questions = config.train.questions_per_step;
    let workload = args.work.workload(questions, config.sampling.group_size)?;
    // A device or a pipe would be replaced by a file.
    if let Some(path) = args
        .record
        .as_ref()
        .filter(|path| path.exists() && !path.is_file())
    {
        let problem = format!(
            "--record {}: that is no file, and would be replaced",
            path.display()
        );
        return Err(super::BadArgument(problem).into());
    }
    let rates = DeviceRates::measure(&device_of(&config)?)?;
    let folder = model_folder(&args.work.model)?;
    let speed = learning_speed(
        &folder,
        &config,
        &workload,
        &rates,
        args.work.repeats,
        args.record.as_deref(),
    )?;
    output::json(&TrainView { rates, speed })
}
