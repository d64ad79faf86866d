//! GPUs by their data sheets, for estimates on a machine that does not have them.

use super::rates::DeviceRates;
use clap::ValueEnum;
use serde::Serialize;
use std::str::FromStr;

/// A GPU whose data sheet is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GpuKind {
    /// NVIDIA H200 SXM (141 GB).
    H200,
    /// NVIDIA H100 SXM (80 GB).
    H100,
    /// NVIDIA A100 SXM (80 GB).
    A100,
    /// NVIDIA RTX A6000 (48 GB), the authors' card.
    A6000,
}

impl GpuKind {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H200 => "NVIDIA H200",
            Self::H100 => "NVIDIA H100",
            Self::A100 => "NVIDIA A100",
            Self::A6000 => "NVIDIA RTX A6000",
        }
    }

    /// Bytes of its memory, as `nvidia-smi` counts them.
    pub(crate) fn memory(self) -> u64 {
        let mib: u64 = match self {
            Self::H200 => 143_771,
            Self::H100 => 81_559,
            Self::A100 => 81_920,
            Self::A6000 => 49_140,
        };
        mib << 20
    }

    /// Memory bandwidth, and products of bf16 (tensor cores, without sparsity) and f32 in NVIDIA's data sheets.
    pub(crate) fn rates(self) -> DeviceRates {
        let (copy, bf16, f32) = match self {
            Self::H200 => (4.8e12, 989e12, 67e12),
            Self::H100 => (3.35e12, 989e12, 67e12),
            Self::A100 => (2.039e12, 312e12, 19.5e12),
            Self::A6000 => (0.768e12, 154.8e12, 38.7e12),
        };
        DeviceRates { copy, bf16, f32 }
    }
}

/// A GPU as a person names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum PlannedGpu {
    /// One whose data sheet is known.
    Kind(GpuKind),
    /// One of which only the memory is known, in bytes.
    Memory(u64),
}

impl PlannedGpu {
    /// Bytes of its memory.
    pub(crate) fn memory(self) -> u64 {
        match self {
            Self::Kind(kind) => kind.memory(),
            Self::Memory(bytes) => bytes,
        }
    }
}

impl FromStr for PlannedGpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.trim().to_lowercase();
        if let Ok(kind) = GpuKind::from_str(&name, true) {
            return Ok(Self::Kind(kind));
        }
        let number = name.trim_end_matches("gib").trim_end_matches("gb");
        // 4090 is the name of a card.
        let most = if number == name { 1000.0 } else { 10_000.0 };
        match number.trim().parse::<f64>() {
            Ok(gb) if (1.0..=most).contains(&gb) => Ok(Self::Memory((gb * 1e9) as u64)),
            _ => Err(format!(
                "{text} is none of h200, h100, a100, a6000 or a card's memory such as 24GB"
            )),
        }
    }
}
