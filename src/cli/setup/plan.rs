//! Settings that fit: the recipe's, made smaller step by step until the estimate is below the card's memory.

use super::Stage;
use super::Target;
use super::wishes::Wishes;
use crate::config::BiasPlacement;
use crate::config::Config;
use crate::config::ConfigError;
use crate::config::DTypeName;
use crate::config::OptimizerMemory;
use crate::config::QuestionKind;
use crate::config::TrainedWith;
use crate::config::Verb;
use crate::config::VideoConfig;
use crate::config::Wording;
use crate::train::estimate::MemoryEstimate;
use crate::train::estimate::RunEstimate;
use crate::train::estimate::RunSizes;
use crate::train::estimate::THREE_BILLION;
use crate::train::estimate::on_this_machine;
use crate::util::machine;
use anyhow::Result;
use std::path::Path;

/// A model of fewer weights is one that is made to be tried on a CPU, such as the miniature.
const SMALL: u64 = 50_000_000;
/// The share of a memory that an estimate may take: allocators lose some to gaps.
const USABLE: f64 = 0.95;

/// Settings of one command and what they take.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) config: Config,
    /// `None` where the model's sizes are not known.
    pub(super) fit: Option<Fit>,
    /// Bytes of a checkpoint.
    pub(super) checkpoint: Option<u64>,
    /// Whether the video settings are those that the model was trained with.
    pub(super) view_is_known: bool,
}

/// What a run takes and what there is.
#[derive(Debug, Clone)]
pub(super) struct Fit {
    pub(super) memory: MemoryEstimate,
    /// Bytes there are.
    pub(super) capacity: u64,
    /// Hours of all steps, on a card whose data sheet is known.
    pub(super) seconds: Option<f64>,
}

impl Fit {
    pub(super) fn fits(&self) -> bool {
        self.memory.peak as f64 <= USABLE * self.capacity as f64
    }
}

/// Whether a model is here and small.
pub(super) fn is_small(model: &str) -> bool {
    let config = Config {
        model: crate::config::ModelConfig {
            path: model.to_owned(),
            ..crate::config::ModelConfig::default()
        },
        ..Config::default()
    };
    let sizes = on_this_machine(model).map(|_| RunSizes::read(&config, Verb::TrainGrpo, &[]));
    matches!(sizes, Some(Ok(sizes)) if sizes.parameters() < SMALL)
}

impl Plan {
    /// # Errors
    /// A model folder that is there and broken.
    pub(super) fn new(wishes: &Wishes, verb: Verb) -> Result<Self> {
        let here = on_this_machine(&wishes.model);
        let mut config = recipe(wishes, verb);
        let is_known = here.is_some() || wishes.model == THREE_BILLION;
        if !is_known {
            return Ok(Self {
                config,
                fit: None,
                checkpoint: None,
                view_is_known: false,
            });
        }
        let sizes = RunSizes::read(&config, verb, &wishes.questions)?;
        if sizes.parameters() < SMALL {
            suit_a_small_model(&mut config, wishes.questions.len());
        }
        let view = here.as_deref().map(view_of).transpose()?.flatten();
        let view_is_known = view.is_some();
        if let Some(view) = view {
            config.video = view;
        }
        let capacity = capacity(wishes.target);
        let fit = |config: &Config| {
            let mut there = config.clone();
            if wishes.target != Target::Cpu {
                // `auto` is what this program is built for, not what it is planned for.
                there.model.device = "cuda:0".into();
            }
            Fit {
                memory: sizes.memory(&there, verb),
                capacity,
                seconds: None,
            }
        };
        let mut smaller = candidates(&config, wishes.target, verb).into_iter();
        while !fit(&config).fits() {
            match smaller.next() {
                Some(next) => config = next,
                None => break,
            }
        }
        let mut fit = fit(&config);
        if let Target::Gpu(card) = wishes.target {
            let plan = RunEstimate::new(&config, verb, &wishes.questions, card, 1)?;
            fit.seconds = plan.duration.map(|duration| duration.total());
        }
        let per_weight = match config.model.dtype {
            DTypeName::Bf16 => 14,
            DTypeName::F32 => 12,
        };
        // A machine that fails costs half a run at most.
        config.checkpoint.every = config.checkpoint.every.min(config.train.steps.div_ceil(2));
        let checkpoint = sizes.parameters() * per_weight;
        // One is enough to go on from, and one of a large model fills a disk.
        if sizes.parameters() >= SMALL {
            config.checkpoint.keep = 1;
        }
        Ok(Self {
            config,
            fit: Some(fit),
            checkpoint: Some(checkpoint),
            view_is_known,
        })
    }
}

fn capacity(target: Target) -> u64 {
    match target {
        Target::Gpu(gpu) => gpu.memory(),
        Target::Cpu => {
            let there = machine::memory().map_or(u64::MAX, |memory| memory.available);
            machine::memory_limit().map_or(there, |limit| limit.min(there))
        }
    }
}

/// The defaults, with what was asked for.
fn recipe(wishes: &Wishes, verb: Verb) -> Config {
    let output_dir = match (wishes.stage, verb) {
        (Stage::Cdpo, Verb::TrainBias) => wishes.out.join("bias"),
        (Stage::Cdpo, _) => wishes.out.join("cdpo"),
        _ => wishes.out.clone(),
    };
    let mut config = Config {
        output_dir,
        ..Config::default()
    };
    config.model.path.clone_from(&wishes.model);
    if wishes.target == Target::Cpu {
        config.model.device = "cpu".into();
    }
    config.data.questions.clone_from(&wishes.questions_file);
    config.data.video_root.clone_from(&wishes.video_root);
    config.eval.wording = Wording::Training;
    let questions = if verb == Verb::TrainBias {
        wishes.count(QuestionKind::Observational)
    } else {
        wishes.questions.len()
    };
    if verb == Verb::TrainCdpo {
        let bias = wishes.out.join("bias/checkpoints/latest");
        config.model.bias_model = Some(bias.display().to_string());
    }
    config.train.steps = steps(questions, config.train.questions_per_step);
    config
}

/// Each question once, within what is worth starting and what the paper does.
fn steps(questions: usize, per_step: usize) -> usize {
    questions.div_ceil(per_step).clamp(50, 500)
}

/// What the miniature learns with: it has seen eight small frames, and needs larger and more even steps.
fn suit_a_small_model(config: &mut Config, questions: usize) {
    config.model.dtype = DTypeName::F32;
    config.video.min_frames = 8;
    config.video.max_frames = 8;
    config.video.min_pixels = 16 * 28 * 28;
    config.video.max_pixels = 16 * 28 * 28;
    config.sampling.max_new_tokens = 128;
    config.optimizer.learning_rate = 1e-4;
    config.optimizer.max_grad_norm = 1.0;
    config.train.questions_per_step = questions.clamp(1, 16);
    config.train.steps = steps(questions, config.train.questions_per_step).min(100);
}

/// The frames and pixels that a model was trained with, where its folder says so.
fn view_of(folder: &Path) -> Result<Option<VideoConfig>, ConfigError> {
    let Some(trained) = TrainedWith::read(folder)? else {
        return Ok(None);
    };
    let (asked, _) = Config::load_for_model(None, &[], Verb::Inspect, Some(&trained))?;
    Ok(Some(asked.video))
}

/// What to try when the settings do not fit: first where things are kept, then how much there is, largest first.
fn candidates(config: &Config, target: Target, verb: Verb) -> Vec<Config> {
    use BiasPlacement::Device;
    use BiasPlacement::Host;
    use BiasPlacement::Int8;
    use OptimizerMemory::Compact;
    use OptimizerMemory::Full;
    let mut kept = vec![(Full, Device), (Compact, Device)];
    if verb == Verb::TrainCdpo {
        kept.push((Compact, Int8));
    }
    // A CPU's device memory and host memory are one.
    if target != Target::Cpu {
        let bias = if verb == Verb::TrainCdpo {
            Host
        } else {
            Device
        };
        kept.extend([
            (OptimizerMemory::Host, Device),
            (OptimizerMemory::Host, bias),
        ]);
    }
    let mut sizes = vec![config.clone()];
    let mut smaller = |change: fn(&mut Config)| {
        let mut next = sizes.last().unwrap_or(config).clone();
        change(&mut next);
        sizes.push(next);
    };
    smaller(|config| halve_frames(&mut config.video, 8));
    smaller(|config| {
        let video = &mut config.video;
        video.max_pixels = video.max_pixels.min(128 * 28 * 28).max(video.min_pixels);
    });
    smaller(|config| {
        let sampling = &mut config.sampling;
        sampling.max_new_tokens = sampling.max_new_tokens.min(512);
    });
    smaller(|config| config.sampling.group_size = config.sampling.group_size.min(4));
    smaller(|config| config.train.questions_per_step = 1);
    let mut all = Vec::new();
    for size in sizes {
        for (memory, placement) in &kept {
            let mut next = size.clone();
            next.optimizer.memory = *memory;
            next.model.bias_placement = *placement;
            all.push(next);
        }
    }
    all
}

fn halve_frames(video: &mut VideoConfig, most: usize) {
    video.max_frames = video.max_frames.min(most).max(video.min_frames);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::setup::wishes::Clips;
    use crate::train::estimate::GpuKind;
    use crate::train::estimate::PlannedGpu;
    use std::path::PathBuf;

    fn plan(target: Target, verb: Verb) -> Plan {
        let question = serde_json::json!({
            "id": "a", "problem": "What?", "solution": "<answer>A</answer>", "video": "a.mp4", "kind": "observational",
        });
        let wishes = Wishes {
            questions_file: "q.json".into(),
            video_root: PathBuf::new(),
            model: THREE_BILLION.into(),
            target,
            stage: if verb == Verb::TrainGrpo {
                Stage::Grpo
            } else {
                Stage::Cdpo
            },
            out: "runs/own".into(),
            questions: vec![serde_json::from_value(question).unwrap()],
            clips: Clips {
                count: 1,
                missing: 0,
                example: None,
            },
        };
        Plan::new(&wishes, verb).unwrap()
    }

    #[test]
    fn settings_shrink_with_the_card_and_not_before() {
        let at = |target| plan(target, Verb::TrainGrpo).config;
        let large = at(Target::Gpu(PlannedGpu::Kind(GpuKind::H200)));
        assert_eq!(large.optimizer.memory, OptimizerMemory::Full);
        assert_eq!(large.video, VideoConfig::default());
        let a6000 = plan(
            Target::Gpu(PlannedGpu::Kind(GpuKind::A6000)),
            Verb::TrainGrpo,
        );
        assert_eq!(a6000.config.optimizer.memory, OptimizerMemory::Compact);
        assert_eq!(a6000.config.video, VideoConfig::default());
        let fit = a6000.fit.unwrap();
        assert!(fit.fits() && fit.seconds.unwrap() > 0.0);
        // As `estimate --card` says it, whatever this program is built for.
        let same = RunEstimate::new(
            &a6000.config,
            Verb::TrainGrpo,
            &[],
            PlannedGpu::Kind(GpuKind::A6000),
            1,
        )
        .unwrap();
        assert!(
            same.memory.peak.abs_diff(fit.memory.peak) < 100 << 20,
            "{same}"
        );
        let small = plan(
            Target::Gpu(PlannedGpu::Memory(24_000_000_000)),
            Verb::TrainGrpo,
        );
        assert_eq!(small.config.optimizer.memory, OptimizerMemory::Host);
        assert!(small.fit.unwrap().fits());
        let tiny = plan(
            Target::Gpu(PlannedGpu::Memory(4_000_000_000)),
            Verb::TrainGrpo,
        )
        .fit
        .unwrap();
        assert!(!tiny.fits(), "the weights alone take more");
    }

    #[test]
    fn stage_2_places_the_bias_model_where_it_fits() {
        let cdpo = plan(
            Target::Gpu(PlannedGpu::Kind(GpuKind::A6000)),
            Verb::TrainCdpo,
        );
        assert!(cdpo.fit.as_ref().unwrap().fits());
        assert_eq!(
            cdpo.config.model.bias_model.as_deref(),
            Some("runs/own/bias/checkpoints/latest")
        );
        assert_eq!(cdpo.config.output_dir, Path::new("runs/own/cdpo"));
        let small = plan(
            Target::Gpu(PlannedGpu::Memory(24_000_000_000)),
            Verb::TrainCdpo,
        );
        assert_eq!(small.config.optimizer.memory, OptimizerMemory::Host);
        assert!(small.fit.unwrap().fits());
        let smaller = plan(
            Target::Gpu(PlannedGpu::Memory(16_000_000_000)),
            Verb::TrainCdpo,
        );
        assert_eq!(smaller.config.model.bias_placement, BiasPlacement::Host);
    }

    #[test]
    fn each_question_is_asked_about_once() {
        assert_eq!([1, 200, 2000].map(|count| steps(count, 2)), [50, 100, 500]);
    }
}
