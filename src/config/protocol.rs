//! The protocols of `eval`: wording, extraction, frames, pixels and lengths that are set together.

use super::Benchmark;
use super::Config;
use super::ConfigError;
use super::Extraction;
use super::FramePositions;
use super::Origins;
use super::Protocol;
use super::SecondsPerGrid;
use super::TextAfterVideo;
use super::Wording;
use serde::Serialize;

/// What a protocol fixes.
struct Preset {
    wording: Wording,
    extraction: Extraction,
    positions: FramePositions,
    min_frames: usize,
    max_frames: usize,
    max_pixels: usize,
    max_new_tokens: usize,
    temperature: f64,
    clip_bounds: bool,
}

impl Preset {
    fn new(protocol: Protocol, benchmark: Option<Benchmark>) -> Self {
        let official = Self {
            wording: Wording::None,
            extraction: Extraction::Official,
            positions: FramePositions::Ends,
            min_frames: 4,
            max_frames: 32,
            max_pixels: 256 * 28 * 28,
            max_new_tokens: 1024,
            temperature: 0.0,
            clip_bounds: true,
        };
        match (protocol, benchmark) {
            // Temperature 0.01 with top-p 0.001 leaves the likeliest token. VIDEO_MAX_PIXELS is read as the whole
            // clip's budget, so that what remains per frame is min_pixels and a twentieth: 105,369 pixels.
            (Protocol::Authors, _) => Self {
                wording: Wording::Evaluation,
                extraction: Extraction::Authors,
                max_pixels: 105_369,
                clip_bounds: false,
                ..official
            },
            // One frame of each of 16 segments, however short the clip is.
            (Protocol::Official, Some(Benchmark::Mvbench)) => Self {
                positions: FramePositions::Segments,
                min_frames: 16,
                max_frames: 16,
                max_new_tokens: 100,
                ..official
            },
            (
                Protocol::Official,
                Some(
                    Benchmark::Tempcompass
                    | Benchmark::TempcompassFlat
                    | Benchmark::TempcompassCaptioning,
                ),
            ) => Self {
                max_new_tokens: 128,
                ..official
            },
            (Protocol::Official, Some(Benchmark::Mmvu | Benchmark::MmvuOpen)) => Self {
                temperature: 1.0,
                ..official
            },
            // CLEVRER's own evaluator reads no text: its answers are asked for and read as here.
            (Protocol::Official, Some(Benchmark::Clevrer)) => Self {
                wording: Wording::Evaluation,
                extraction: Extraction::Strict,
                ..official
            },
            (Protocol::Official, _) => official,
        }
    }
}

/// Longest prompt under a protocol: the authors' model length of 32,768 tokens less the answer.
const PROTOCOL_PROMPT_TOKENS: usize = 32_768 - 1024;

impl Config {
    /// Writes the protocol's values where none was given; one that was given and differs is an error.
    pub(super) fn apply_protocol(&mut self, origins: &Origins) -> Result<(), ConfigError> {
        let Some(protocol) = self.eval.protocol else {
            return Ok(());
        };
        let preset = Preset::new(protocol, self.eval.benchmark);
        let fix = Fix { protocol, origins };
        let (eval, video) = (&mut self.eval, &mut self.video);
        fix.set("eval.wording", &mut eval.wording, preset.wording)?;
        fix.set("eval.extraction", &mut eval.extraction, preset.extraction)?;
        fix.set(
            "eval.temperature",
            &mut eval.temperature,
            preset.temperature,
        )?;
        fix.set(
            "eval.clip_bounds",
            &mut eval.clip_bounds,
            preset.clip_bounds,
        )?;
        fix.set("eval.samples", &mut eval.samples, 1)?;
        fix.set("video.fps", &mut video.fps, 2.0)?;
        fix.set("video.positions", &mut video.positions, preset.positions)?;
        fix.set("video.min_frames", &mut video.min_frames, preset.min_frames)?;
        fix.set("video.max_frames", &mut video.max_frames, preset.max_frames)?;
        fix.set("video.min_pixels", &mut video.min_pixels, 128 * 28 * 28)?;
        fix.set("video.max_pixels", &mut video.max_pixels, preset.max_pixels)?;
        // The authors' evaluation hands every clip's sampled frame rate on to vLLM, which places the text behind the largest
        // position: of their trainer's one second a grid there is nothing in it.
        fix.set(
            "video.text_after",
            &mut video.text_after,
            TextAfterVideo::Largest,
        )?;
        fix.set(
            "video.seconds_per_grid",
            &mut video.seconds_per_grid,
            SecondsPerGrid::Sampled,
        )?;
        let sampling = &mut self.sampling;
        fix.set(
            "sampling.max_new_tokens",
            &mut sampling.max_new_tokens,
            preset.max_new_tokens,
        )?;
        if !origins.is_set("sampling.max_prompt_tokens") {
            sampling.max_prompt_tokens = PROTOCOL_PROMPT_TOKENS;
        }
        Ok(())
    }
}

struct Fix<'a> {
    protocol: Protocol,
    origins: &'a Origins,
}

impl Fix<'_> {
    fn set<T: PartialEq + Serialize>(
        &self,
        key: &str,
        setting: &mut T,
        value: T,
    ) -> Result<(), ConfigError> {
        if self.origins.is_set(key) && *setting != value {
            let protocol = self.protocol.as_str();
            return Err(ConfigError::Invalid {
                origin: self.origins.origin(key),
                key: key.to_owned(),
                problem: format!(
                    "is {}, but eval.protocol = \"{protocol}\" means {}: remove one of the two",
                    written(setting),
                    written(&value)
                ),
            });
        }
        *setting = value;
        Ok(())
    }
}

/// A setting as a file has it.
fn written(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Verb;

    fn load(settings: &[&str]) -> Result<Config, ConfigError> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        Config::load(None, &settings, Verb::Inspect)
    }

    #[test]
    fn a_protocol_sets_what_is_not_given() {
        let authors = load(&["eval.protocol=authors"]).unwrap();
        assert_eq!(authors.eval.extraction, Extraction::Authors);
        assert_eq!(authors.eval.wording, Wording::Evaluation);
        assert_eq!(authors.video.max_pixels, 105_369);
        assert_eq!(authors.video.max_frames, 32);
        assert_eq!(authors.sampling.max_new_tokens, 1024);
        assert!(!authors.eval.clip_bounds);
        let official = load(&["eval.protocol=official", "eval.benchmark=mvbench"]).unwrap();
        let video = &official.video;
        assert_eq!((video.min_frames, video.max_frames), (16, 16));
        assert_eq!(video.positions, FramePositions::Segments);
        assert_eq!(official.eval.extraction, Extraction::Official);
        assert!(official.eval.clip_bounds);
        let open = load(&["eval.protocol=official", "eval.benchmark=mmvu_open"]).unwrap();
        assert!((open.eval.temperature - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_setting_against_its_protocol_is_refused() {
        load(&["eval.protocol=authors", "video.max_frames=32"]).expect("the same value");
        let error = load(&["eval.protocol=authors", "video.max_frames=16"]).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("`video.max_frames`: is 16") && message.contains("means 32"),
            "{message}"
        );
        for setting in ["video.text_after=spatial", "video.seconds_per_grid=authors"] {
            load(&["eval.protocol=authors", setting]).unwrap_err();
            load(&[setting]).unwrap();
        }
    }
}
