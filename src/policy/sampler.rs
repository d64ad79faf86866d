//! Our own sampler: exact, all rows at once, one uniform number per (run, step, question, completion, token).
//!
//! The number comes from a counter-based generator, so a completion does not depend on what else is in its batch, on
//! which rank draws it, or on how many tokens others have.

use crate::config::SamplingConfig;
use crate::model::ops::Ops;
use crate::model::ops::cuda::sampler::DeviceSampler;
use crate::model::ops::cuda::sampler::NOT_FINITE;
use crate::util::hash::Fnv;
use candle_core::{DType, Device, Result, Tensor, bail};
use rand::RngCore;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::sync::OnceLock;

/// ChaCha words in one block: each token reads a block of its own.
const WORDS_PER_BLOCK: u128 = 16;

/// A row that has drawn a token and is to draw the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pending {
    /// The token it has drawn.
    pub(crate) token: u32,
    /// What names its draws.
    pub(crate) seed: CompletionSeed,
    /// Index of the next token in its completion.
    pub(crate) index: usize,
}

/// Names a question's draws within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuestionSeed {
    run_seed: u64,
    step: u64,
    question: u64,
}

impl QuestionSeed {
    /// From the run's seed, the optimizer step (0 outside training) and the question's id.
    pub fn new(run_seed: u64, step: u64, question_id: &str) -> Self {
        Self {
            run_seed,
            step,
            question: Fnv::of(question_id.as_bytes()).value(),
        }
    }

    /// The draws of the question's `index`-th completion.
    pub fn completion(self, index: usize) -> CompletionSeed {
        let mut key = [0u8; 32];
        let words = [self.run_seed, self.step, self.question, index as u64];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        CompletionSeed { key }
    }
}

/// Names one completion's draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletionSeed {
    key: [u8; 32],
}

impl CompletionSeed {
    /// The words of the ChaCha key, as a device's sampler takes them.
    pub(crate) fn words(&self) -> [u32; 8] {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(self.key.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        words
    }

    /// The uniform number in [0, 1) that decides token `index`, with 53 random bits.
    pub(crate) fn uniform(&self, index: usize) -> f64 {
        let mut generator = ChaCha8Rng::from_seed(self.key);
        generator.set_word_pos(index as u128 * WORDS_PER_BLOCK);
        (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A sampled token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// The token.
    pub id: u32,
    /// Its log-probability under the whole softmax of logits / temperature (temperature 1 when greedy): before banned
    /// ids, top-k and top-p take effect. This is what the training path recomputes.
    pub logprob: f32,
}

/// Turns rows of logits into tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplingConfig,
    banned: Vec<u32>,
    /// The same on the device of the first logits that were on one.
    on_device: OnceLock<DeviceSampler>,
}

impl Sampler {
    /// As `config` says, never drawing an id of `banned`.
    pub fn new(config: &SamplingConfig, banned: &[u32]) -> Self {
        Self {
            config: config.clone(),
            banned: banned.to_vec(),
            on_device: OnceLock::new(),
        }
    }

    /// The same on `device`, for ids below `vocabulary`.
    pub(super) fn on_device(&self, vocabulary: usize, device: &Device) -> Result<&DeviceSampler> {
        if let Some(sampler) = self.on_device.get() {
            return Ok(sampler);
        }
        let new = DeviceSampler::new(&self.config, &self.banned, vocabulary, device)?;
        Ok(self.on_device.get_or_init(|| new))
    }

    /// One token per row of `logits` `[B, V]`; `seeds[b]` and `positions[b]` name row b's completion and token index.
    ///
    /// `ops`: those of the network that the logits come from.
    pub fn draw_rows(
        &self,
        ops: Ops,
        logits: &Tensor,
        seeds: &[CompletionSeed],
        positions: &[usize],
    ) -> Result<Vec<Draw>> {
        let (rows, vocab) = logits.dims2()?;
        if rows != seeds.len() || rows != positions.len() {
            bail!(
                "sampler: {rows} rows, {} seeds, {} positions",
                seeds.len(),
                positions.len()
            );
        }
        if ops == Ops::Cuda {
            return self.draw_on_device(logits, seeds, positions);
        }
        let values: Vec<f32> = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        values
            .par_chunks_exact(vocab)
            .zip(seeds.par_iter().zip(positions))
            .map(|(row, (seed, position))| self.draw(row, seed.uniform(*position)))
            .collect()
    }

    /// Whether decoding steps are to be captured.
    pub(super) fn cuda_graph(&self) -> bool {
        self.config.cuda_graph
    }

    /// As [`Self::draw_rows`]; only ids and log-probabilities are copied to the host.
    fn draw_on_device(
        &self,
        logits: &Tensor,
        seeds: &[CompletionSeed],
        positions: &[usize],
    ) -> Result<Vec<Draw>> {
        let device = logits.device();
        let sampler = self.on_device(logits.dim(1)?, device)?;
        let keys: Vec<u32> = seeds.iter().flat_map(CompletionSeed::words).collect();
        let keys = Tensor::from_vec(keys, (seeds.len(), 8), device)?;
        let positions: Vec<u32> = positions.iter().map(|&position| position as u32).collect();
        let positions = Tensor::new(positions, device)?;
        let (ids, logprobs) = sampler.draw(&logits.contiguous()?, &keys, &positions)?;
        let (ids, logprobs) = (ids.to_vec1::<u32>()?, logprobs.to_vec1::<f32>()?);
        if ids.contains(&NOT_FINITE) {
            bail!("sampler: the logits are not finite");
        }
        let draws = ids.into_iter().zip(logprobs);
        Ok(draws.map(|(id, logprob)| Draw { id, logprob }).collect())
    }

    /// The token that `uniform` in [0, 1) picks from one row of logits (inverse of the cumulative distribution over
    /// ascending ids); the best one, the lowest id on ties, when greedy.
    pub(crate) fn draw(&self, logits: &[f32], uniform: f64) -> Result<Draw> {
        let greedy = self.config.temperature == 0.0;
        let inverse = if greedy {
            1.0
        } else {
            self.config.temperature.recip()
        };
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> = logits
            .iter()
            .map(|&logit| (f64::from(logit - max) * inverse).exp())
            .collect();
        let partition: f64 = weights.iter().sum();
        if !partition.is_finite() {
            bail!("sampler: the logits are not finite");
        }
        let mut kept: Vec<u32> = (0..logits.len() as u32)
            .filter(|id| !self.banned.contains(id))
            .collect();
        if kept.is_empty() {
            bail!("sampler: every token is banned");
        }
        let id = if greedy {
            best(logits, &kept)
        } else {
            self.keep_top_k(logits, &mut kept);
            self.keep_top_p(&weights, &mut kept);
            pick(&weights, &kept, uniform)
        };
        let logprob = f64::from(logits[id as usize] - max) * inverse - partition.ln();
        Ok(Draw {
            id,
            logprob: logprob as f32,
        })
    }

    /// Keeps the k best, and whatever ties with the last of them (as transformers does).
    fn keep_top_k(&self, logits: &[f32], kept: &mut Vec<u32>) {
        if self.config.top_k == 0 || self.config.top_k >= kept.len() {
            return;
        }
        let mut values: Vec<f32> = kept.iter().map(|id| logits[*id as usize]).collect();
        let (_, threshold, _) =
            values.select_nth_unstable_by(self.config.top_k - 1, |a, b| b.total_cmp(a));
        let threshold = *threshold;
        kept.retain(|id| logits[*id as usize] >= threshold);
    }

    /// Keeps the shortest list of best tokens that holds `top_p` of what is left; the lower id first on ties.
    fn keep_top_p(&self, weights: &[f64], kept: &mut Vec<u32>) {
        if self.config.top_p >= 1.0 {
            return;
        }
        let mut ranked: Vec<(f64, u32)> =
            kept.iter().map(|id| (weights[*id as usize], *id)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let needed = self.config.top_p * ranked.iter().map(|(w, _)| w).sum::<f64>();
        let mut held = 0.0;
        let count = ranked
            .iter()
            .take_while(|(w, _)| {
                let more = held < needed;
                held += w;
                more
            })
            .count();
        ranked.truncate(count.max(1));
        *kept = ranked.into_iter().map(|(_, id)| id).collect();
        kept.sort_unstable();
    }
}

/// The id with the largest logit, the lowest id on ties.
fn best(logits: &[f32], kept: &[u32]) -> u32 {
    let mut best = kept[0];
    for id in &kept[1..] {
        if logits[*id as usize] > logits[best as usize] {
            best = *id;
        }
    }
    best
}

/// The first id whose cumulative weight exceeds `uniform` of the total.
fn pick(weights: &[f64], kept: &[u32], uniform: f64) -> u32 {
    let total: f64 = kept.iter().map(|id| weights[*id as usize]).sum();
    let mut left = uniform * total;
    let mut last = kept[0];
    for id in kept {
        let share = weights[*id as usize];
        if share > 0.0 {
            last = *id;
            if left < share {
                return last;
            }
            left -= share;
        }
    }
    // Rounding can leave a sliver beyond the last token.
    last
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact values are meant")]
mod tests {
    use super::*;

    const DRAWS: usize = 20_000;

    fn config(temperature: f64, top_k: usize, top_p: f64) -> SamplingConfig {
        SamplingConfig {
            temperature,
            top_k,
            top_p,
            ..SamplingConfig::default()
        }
    }

    fn counts(sampler: &Sampler, logits: &[f32]) -> Vec<usize> {
        let seed = QuestionSeed::new(7, 3, "q").completion(1);
        let mut counts = vec![0; logits.len()];
        for index in 0..DRAWS {
            counts[sampler.draw(logits, seed.uniform(index)).unwrap().id as usize] += 1;
        }
        counts
    }

    /// Pearson's statistic against probabilities; tokens of probability 0 must never appear.
    fn chi_square(counts: &[usize], probabilities: &[f64]) -> f64 {
        counts
            .iter()
            .zip(probabilities)
            .filter_map(|(count, p)| {
                assert!(*p > 0.0 || *count == 0, "an impossible token was drawn");
                let expected = p * DRAWS as f64;
                (*p > 0.0).then(|| (*count as f64 - expected).powi(2) / expected)
            })
            .sum()
    }

    fn softmax(logits: &[f32], temperature: f64, kept: &[usize]) -> Vec<f64> {
        let weight = |i: usize| (f64::from(logits[i]) / temperature).exp();
        let total: f64 = kept.iter().map(|i| weight(*i)).sum();
        (0..logits.len())
            .map(|i| {
                if kept.contains(&i) {
                    weight(i) / total
                } else {
                    0.0
                }
            })
            .collect()
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.3, -1.0, 2.0, 0.3, -4.0, 1.1];
        for temperature in [0.7, 1.0, 1.8] {
            let sampler = Sampler::new(&config(temperature, 0, 1.0), &[]);
            let all: Vec<usize> = (0..logits.len()).collect();
            let statistic = chi_square(
                &counts(&sampler, &logits),
                &softmax(&logits, temperature, &all),
            );
            // 99.9 % of a chi-square with 5 degrees of freedom.
            assert!(statistic < 20.52, "T = {temperature}: {statistic}");
        }
    }

    #[test]
    fn rare_tokens_keep_their_share() {
        // 1,000 tokens 8 nats below the best: together 25.1 % (candle's Gumbel noise is capped and gives 1.3 %).
        let mut logits = vec![-8.0f32; 1001];
        logits[500] = 0.0;
        let sampler = Sampler::new(&config(1.0, 0, 1.0), &[]);
        let rare = DRAWS - counts(&sampler, &logits)[500];
        let share = rare as f64 / DRAWS as f64;
        assert!((share - 0.2512).abs() < 0.01, "{share}");
    }

    #[test]
    fn truncation_keeps_the_right_tokens() {
        let logits = [1.0, 3.0, 2.0, 2.0, 0.0];
        let cases: [(usize, f64, &[u32], &[usize]); 6] = [
            (2, 1.0, &[], &[1, 2, 3]),
            (1, 1.0, &[], &[1]),
            (0, 0.5, &[], &[1]),
            (0, 0.7, &[], &[1, 2]),
            (3, 0.8, &[], &[1, 2, 3]),
            (2, 1.0, &[1, 4], &[2, 3]),
        ];
        for (top_k, top_p, banned, kept) in cases {
            let sampler = Sampler::new(&config(1.0, top_k, top_p), banned);
            let statistic = chi_square(&counts(&sampler, &logits), &softmax(&logits, 1.0, kept));
            assert!(statistic < 13.82, "k {top_k} p {top_p}: {statistic}");
        }
    }

    #[test]
    fn greedy_takes_the_lowest_best_id_that_is_allowed() {
        let logits = [0.0, 5.0, 7.0, 5.0];
        let greedy = |banned| Sampler::new(&config(0.0, 50, 1.0), banned).draw(&logits, 0.99);
        assert_eq!(greedy(&[]).unwrap().id, 2);
        assert_eq!(greedy(&[2]).unwrap().id, 1);
        assert!(greedy(&[0, 1, 2, 3]).is_err());
    }

    #[test]
    fn the_logprob_ignores_truncation() {
        let logits = [0.5f32, 1.5, -0.5];
        let sampler = Sampler::new(&config(2.0, 1, 1.0), &[0]);
        let draw = sampler.draw(&logits, 0.3).unwrap();
        let want = softmax(&logits, 2.0, &[0, 1, 2])[1].ln();
        assert_eq!(draw.id, 1);
        assert!((f64::from(draw.logprob) - want).abs() < 1e-6);
    }

    #[test]
    fn non_finite_logits_are_an_error() {
        let sampler = Sampler::new(&config(1.0, 0, 1.0), &[]);
        assert!(sampler.draw(&[0.0, f32::NAN], 0.5).is_err());
        assert!(sampler.draw(&[0.0, f32::INFINITY], 0.5).is_err());
        assert!(sampler.draw(&[f32::NEG_INFINITY, 1.0], 0.5).is_ok());
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let rows: Vec<f32> = (0..5 * 64)
            .map(|i| ((i * 37 % 101) as f32) / 20.0)
            .collect();
        let logits = Tensor::from_vec(rows, (5, 64), &Device::Cpu).unwrap();
        let sampler = Sampler::new(&config(1.0, 50, 1.0), &[3]);
        let seeds: Vec<_> = (0..5)
            .map(|i| QuestionSeed::new(42, 9, "q").completion(i))
            .collect();
        let positions = [0, 4, 4, 11, 700];
        let together = sampler
            .draw_rows(Ops::Cpu, &logits, &seeds, &positions)
            .unwrap();
        for row in 0..5 {
            let alone = sampler
                .draw_rows(
                    Ops::Cpu,
                    &logits.narrow(0, row, 1).unwrap(),
                    &seeds[row..=row],
                    &positions[row..=row],
                )
                .unwrap();
            assert_eq!(alone[0], together[row]);
        }
    }

    #[test]
    fn every_part_of_the_name_changes_the_number() {
        let base = QuestionSeed::new(1, 2, "a").completion(3).uniform(4);
        let others = [
            QuestionSeed::new(2, 2, "a").completion(3).uniform(4),
            QuestionSeed::new(1, 3, "a").completion(3).uniform(4),
            QuestionSeed::new(1, 2, "b").completion(3).uniform(4),
            QuestionSeed::new(1, 2, "a").completion(4).uniform(4),
            QuestionSeed::new(1, 2, "a").completion(3).uniform(5),
        ];
        assert!(others.iter().all(|other| *other != base));
        assert_eq!(base, QuestionSeed::new(1, 2, "a").completion(3).uniform(4));
    }
}
