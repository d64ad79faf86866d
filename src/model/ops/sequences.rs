//! Which rows of a packed tensor see which.

use std::ops::Range;

/// Consecutive rows that see each other, and what else they see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Of the packed tensor.
    pub rows: Range<usize>,
    /// Rows that all of them see entirely; they lie before `rows`, or there are none.
    pub before: Range<usize>,
    /// One past the last row that sees these rows: the end of `rows`, or of the last sequence with these in its `before`.
    pub seen_until: usize,
}

/// Sequences behind each other, which cover all rows of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceLayout {
    /// The sequences. One with nothing before it begins rows that see none of those above.
    pub(crate) sequences: Vec<Sequence>,
    /// A row sees of its own sequence itself and what is before; else all of it.
    pub(crate) causal: bool,
}

impl SequenceLayout {
    /// Each row sees itself and the rows before it in its sequence, and its prefix.
    pub fn causal(sequences: Vec<Sequence>) -> Self {
        Self {
            sequences,
            causal: true,
        }
    }

    /// Sequences of these lengths whose rows see all of their own and nothing else.
    pub fn bidirectional(lens: &[usize]) -> Self {
        let mut start = 0;
        let sequence = |&len: &usize| {
            let rows = start..start + len;
            start = rows.end;
            Sequence {
                before: rows.start..rows.start,
                seen_until: rows.end,
                rows,
            }
        };
        Self {
            sequences: lens.iter().map(sequence).collect(),
            causal: false,
        }
    }

    /// All rows (N).
    pub(crate) fn num_rows(&self) -> usize {
        let ends = self.sequences.iter().map(|sequence| sequence.rows.end);
        ends.max().unwrap_or(0)
    }
}
