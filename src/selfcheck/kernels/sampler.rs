//! The device's sampler against the CPU's.

use super::KernelCheck;
use crate::config::SamplingConfig;
use crate::model::ops::Ops;
use crate::policy::sampler::Draw;
use crate::policy::sampler::QuestionSeed;
use crate::policy::sampler::Sampler;
use candle_core::Result;

impl KernelCheck<'_> {
    /// The CPU's sampler is the definition.
    pub(super) fn sampler(&mut self) -> Result<()> {
        let rows = 16;
        let vocabulary = self.sizes.vocabulary as u32;
        let logits = self.random(&[rows, self.sizes.vocabulary])?;
        // Four times as large in every format.
        let (here, wide) = ((&logits.on_device * 4.0)?, (&logits.exact * 4.0)?);
        let seed = QuestionSeed::new(1, 2, "parity");
        let seeds: Vec<_> = (0..rows).map(|row| seed.completion(row)).collect();
        let positions: Vec<usize> = (0..rows).collect();
        for (ids, logprobs, temperature, top_k, top_p) in [
            ("sampler ids", "sampler", 1.0, 0, 1.0),
            ("sampler top-k ids", "sampler top-k", 1.0, 50, 1.0),
            ("sampler top-p ids", "sampler top-p", 0.7, 0, 0.9),
            ("sampler greedy ids", "sampler greedy", 0.0, 0, 1.0),
        ] {
            let config = SamplingConfig {
                temperature,
                top_k,
                top_p,
                ..SamplingConfig::default()
            };
            let sampler = Sampler::new(&config, &[vocabulary - 281, vocabulary - 280]);
            let (got, want) = (
                sampler.draw_rows(self.ops, &here, &seeds, &positions)?,
                sampler.draw_rows(Ops::Cpu, &wide, &seeds, &positions)?,
            );
            let of_ids = |draws: &[Draw]| -> Vec<f64> {
                draws.iter().map(|draw| f64::from(draw.id)).collect()
            };
            self.compare_values(ids, &of_ids(&got), &of_ids(&want), &vec![0.0; rows]);
            let of_logprobs = |draws: &[Draw]| -> Vec<f64> {
                draws.iter().map(|draw| f64::from(draw.logprob)).collect()
            };
            // Distances of up to 20 from the largest logit in f32, and exponentials of theirs, which add up in f64.
            let bounds = vec![64.0 / f64::from(1 << 24); rows];
            self.compare_values(logprobs, &of_logprobs(&got), &of_logprobs(&want), &bounds);
        }
        Ok(())
    }
}
