//! Weights in 8 bits: blocks of [`BLOCK`] weights share a scale, and a weight is an integer from −127 to 127 times it.
//!
//! Each integer is the nearest one, so a weight is off by at most 1/254 of its block's largest magnitude. Vectors (norms
//! and biases) stay as they are: they are few, and count for every row.

use crate::model::weights::NamedTensors;
use candle_core::{DType, Device, Result, Shape, Tensor};

/// Weights that share a scale.
pub(crate) const BLOCK: usize = 128;
/// Added to an integer to make it unsigned.
const ZERO: f64 = 128.0;

/// The tensors of a layer, its matrices in 8 bits.
#[derive(Debug)]
pub(crate) struct Int8Layer {
    matrices: Vec<(String, Int8)>,
    vectors: NamedTensors,
}

/// One tensor: `codes [⌈n / BLOCK⌉, BLOCK]` (u8), `scales [⌈n / BLOCK⌉, 1]` (f32).
#[derive(Debug)]
struct Int8 {
    codes: Tensor,
    scales: Tensor,
    shape: Shape,
    dtype: DType,
}

impl Int8Layer {
    /// Encodes `tensors`, which are on the CPU, for use on `device`.
    pub(crate) fn new(tensors: NamedTensors, device: &Device) -> Result<Self> {
        let (mut matrices, mut vectors) = (Vec::new(), NamedTensors::default());
        for (name, tensor) in tensors {
            if tensor.rank() == 1 {
                vectors.insert(name, tensor.to_device(device)?);
            } else {
                matrices.push((name, Int8::new(&tensor, device)?));
            }
        }
        Ok(Self { matrices, vectors })
    }

    /// The tensors in the format they had.
    pub(crate) fn decode(&self) -> Result<NamedTensors> {
        let mut tensors = self.vectors.clone();
        for (name, matrix) in &self.matrices {
            tensors.insert(name.clone(), matrix.decode()?);
        }
        Ok(tensors)
    }
}

impl Int8 {
    fn new(tensor: &Tensor, device: &Device) -> Result<Self> {
        let values = tensor
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for block in values.chunks(BLOCK) {
            let largest = block.iter().fold(0f32, |most, x| most.max(x.abs()));
            let scale = largest / 127.0;
            let code = |x: f32| {
                let steps = if scale > 0.0 { x / scale } else { 0.0 };
                (steps.round() + ZERO as f32) as u8
            };
            codes.extend(block.iter().map(|x| code(*x)));
            scales.push(scale);
        }
        codes.resize(scales.len() * BLOCK, ZERO as u8);
        let blocks = scales.len();
        Ok(Self {
            codes: Tensor::from_vec(codes, (blocks, BLOCK), device)?,
            scales: Tensor::from_vec(scales, (blocks, 1), device)?,
            shape: tensor.shape().clone(),
            dtype: tensor.dtype(),
        })
    }

    fn decode(&self) -> Result<Tensor> {
        let steps = (self.codes.to_dtype(DType::F32)? - ZERO)?;
        let values = steps.broadcast_mul(&self.scales)?.to_dtype(self.dtype)?;
        let values = values
            .flatten_all()?
            .narrow(0, 0, self.shape.elem_count())?;
        values.reshape(&self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_off_by_half_a_step() -> Result<()> {
        let matrix = Tensor::randn(0f32, 0.02, (7, 50), &Device::Cpu)?;
        let vector = Tensor::randn(0f32, 1.0, 50, &Device::Cpu)?;
        let mut tensors = NamedTensors::default();
        tensors.insert("matrix", matrix.clone());
        tensors.insert("vector", vector.clone());
        tensors.insert("zeros", matrix.zeros_like()?);
        let got = Int8Layer::new(tensors, &Device::Cpu)?.decode()?;
        let values = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        assert_eq!(values(&got.get("vector")?)?, values(&vector)?);
        assert_eq!(values(&got.get("zeros")?)?, [0.0; 350]);
        assert_eq!(got.get("matrix")?.dims(), [7, 50]);
        let (got, want) = (values(&got.get("matrix")?)?, values(&matrix)?);
        let mut off = false;
        for (got, want) in got.chunks(BLOCK).zip(want.chunks(BLOCK)) {
            let largest = want.iter().fold(0f32, |most, x| most.max(x.abs()));
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() <= largest / 253.9, "{got} != {want}");
                off |= (got - want).abs() > largest / 300.0;
            }
        }
        assert!(off);
        Ok(())
    }
}
