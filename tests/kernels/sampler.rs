//! The device's draws are the CPU's.

use crate::DTYPES;
use crate::emulator::on_cpu;
use crate::random;
use candle_core::{DType, Device, Result, Tensor};
use videothinker::config::SamplingConfig;
use videothinker::model::ops::Ops;
use videothinker::policy::sampler::{CompletionSeed, QuestionSeed, Sampler};

fn config(temperature: f64, top_k: usize, top_p: f64) -> SamplingConfig {
    SamplingConfig {
        temperature,
        top_k,
        top_p,
        ..SamplingConfig::default()
    }
}

fn seeds(rows: usize) -> (Vec<CompletionSeed>, Vec<usize>) {
    let seed = QuestionSeed::new(7, 3, "q");
    let seeds = (0..rows).map(|row| seed.completion(row)).collect();
    (seeds, (0..rows).map(|row| row * 13).collect())
}

fn same_draws(logits: &Tensor, config: &SamplingConfig, banned: &[u32]) -> Result<Vec<u32>> {
    let (seeds, positions) = seeds(logits.dim(0)?);
    let draw = || {
        let ops = Ops::of(logits)?;
        Sampler::new(config, banned).draw_rows(ops, logits, &seeds, &positions)
    };
    let (got, want) = (on_cpu(draw)?, draw()?);
    for (row, (got, want)) in got.iter().zip(&want).enumerate() {
        let near = (got.logprob - want.logprob).abs() < 2e-6 * want.logprob.abs().max(1.0);
        assert!(
            got.id == want.id && near,
            "row {row}: {got:?}, {want:?}, {config:?}"
        );
    }
    Ok(got.into_iter().map(|draw| draw.id).collect())
}

#[test]
fn draws_are_those_of_the_cpu() -> Result<()> {
    for (dtype, vocabulary) in [(DTYPES[0], 1501), (DTYPES[0], 1024), (DTYPES[1], 1024)] {
        // Rounded, so that there are ties; spread as a model's logits are.
        let logits = (random(&[6, vocabulary], DType::F32)? * 3.0)?;
        let logits = ((logits * 8.0)?.round()? / 8.0)?.to_dtype(dtype)?;
        let banned = [0, 31, 32, vocabulary as u32 - 1];
        for (temperature, top_k, top_p) in [
            (1.0, 0, 1.0),
            (0.7, 50, 1.0),
            (1.3, 3, 1.0),
            (1.0, 0, 0.9),
            (1.0, 50, 0.5),
            (0.0, 50, 1.0),
            (1.0, vocabulary, 1.0),
            (1.0, 0, 0.0),
        ] {
            same_draws(&logits, &config(temperature, top_k, top_p), &banned)?;
        }
    }
    Ok(())
}

/// Draws of one row of logits at many positions, on the device and on the CPU.
fn many(logits: &[f32], config: &SamplingConfig, banned: &[u32]) -> Result<Vec<u32>> {
    let logits = Tensor::new(logits, &Device::Cpu)?.unsqueeze(0)?;
    same_draws(&logits.repeat((150, 1))?, config, banned)
}

#[test]
fn truncation_keeps_the_right_tokens_of_ties() -> Result<()> {
    let logits = [1.0, 3.0, 2.0, 2.0, 0.0, -0.0];
    let cases: [(usize, f64, &[u32], &[u32]); 7] = [
        (2, 1.0, &[], &[1, 2, 3]),
        (1, 1.0, &[], &[1]),
        (0, 0.5, &[], &[1]),
        (0, 0.65, &[], &[1, 2]),
        (3, 0.8, &[], &[1, 2, 3]),
        (2, 1.0, &[1, 4], &[2, 3]),
        (5, 1.0, &[], &[0, 1, 2, 3, 4, 5]),
    ];
    for (top_k, top_p, banned, kept) in cases {
        let mut drawn = many(&logits, &config(1.0, top_k, top_p), banned)?;
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, kept, "k {top_k} p {top_p}");
    }
    Ok(())
}

#[test]
fn extreme_logits_are_drawn_as_on_the_cpu() -> Result<()> {
    let hidden = f32::NEG_INFINITY;
    many(&[hidden, 0.0, hidden, 0.5], &config(1.0, 3, 1.0), &[])?;
    // What is banned is so far above that the weight of all else would be 0 in f32.
    let drawn = many(&[500.0, 1.0, 0.0], &config(1.0, 0, 1.0), &[0])?;
    assert!(drawn.contains(&1) && drawn.contains(&2) && !drawn.contains(&0));
    many(&[-1000.0, -1001.0, -1200.0], &config(1.0, 2, 0.9), &[])?;
    Ok(())
}

#[test]
fn non_finite_logits_are_an_error() {
    let (seeds, positions) = seeds(1);
    let draw = |values: &[f32], banned: &[u32]| {
        let logits = Tensor::new(values, &Device::Cpu)?.unsqueeze(0)?;
        let sampler = Sampler::new(&config(1.0, 0, 1.0), banned);
        on_cpu(|| sampler.draw_rows(Ops::Cuda, &logits, &seeds, &positions))
    };
    assert!(draw(&[0.0, f32::NAN], &[]).is_err());
    assert!(draw(&[0.0, f32::INFINITY], &[]).is_err());
    assert!(draw(&[f32::NEG_INFINITY; 3], &[]).is_err());
    assert!(draw(&[0.0, 1.0], &[0, 1]).is_err());
    assert!(draw(&[f32::NEG_INFINITY, 1.0], &[]).is_ok());
}

#[test]
fn a_whole_vocabulary_is_drawn_from() -> Result<()> {
    let logits = (random(&[2, 151_936], DType::F32)? * 2.5)?.to_dtype(DType::BF16)?;
    same_draws(&logits, &config(1.0, 50, 1.0), &[151_655, 151_656])?;
    Ok(())
}
