//! How rows divide into heads.

use crate::model::spec::TextSpec;

/// How the width of queries, keys and values divides into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads (n).
    pub num_heads: usize,
    /// Key/value heads (m).
    pub num_kv_heads: usize,
    /// Width of a head (d).
    pub head_dim: usize,
}

impl Heads {
    /// The decoder's heads.
    pub(crate) fn of(spec: &TextSpec) -> Self {
        Self {
            num_heads: spec.num_heads,
            num_kv_heads: spec.num_kv_heads,
            head_dim: spec.head_dim(),
        }
    }

    /// Query heads per key/value head (r).
    pub(crate) fn group_size(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Scores are multiplied by 1/√d.
    pub(crate) fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}
