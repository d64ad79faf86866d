//! How rows of several prompts and their completions lie behind each other in one tensor.
//!
//! A group is a prompt followed by its completions, without padding. Prompt rows attend causally to the
//! prompt; a completion's rows attend to the whole prompt and causally to themselves, never to a sibling.

use crate::model::ops::attention::AttentionPlan;
use crate::model::ops::sequences::{Sequence, SequenceLayout};
use std::sync::OnceLock;

/// Rows of one prompt and the completions that share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLayout {
    /// Prompt rows (P).
    pub prompt_len: usize,
    /// Rows of each completion (C_i); a length may differ, and may be 1.
    pub completion_lens: Vec<usize>,
}

impl GroupLayout {
    /// All rows of the group.
    pub(crate) fn num_rows(&self) -> usize {
        self.prompt_len + self.completion_lens.iter().sum::<usize>()
    }
}

/// The groups of one packed tensor `[N, hidden]`, in order.
#[derive(Debug, Clone, Default)]
pub struct PackedLayout {
    groups: Vec<GroupLayout>,
    plan: OnceLock<AttentionPlan>,
}

impl PackedLayout {
    /// These groups behind each other.
    pub fn new(groups: Vec<GroupLayout>) -> Self {
        Self {
            groups,
            plan: OnceLock::new(),
        }
    }

    /// Adds a group behind the others.
    pub(crate) fn push(&mut self, group: GroupLayout) {
        self.groups.push(group);
        self.plan = OnceLock::new();
    }

    /// In the order of their rows.
    pub fn groups(&self) -> &[GroupLayout] {
        &self.groups
    }

    /// All rows (N).
    pub fn num_rows(&self) -> usize {
        self.groups.iter().map(GroupLayout::num_rows).sum()
    }

    /// Who sees whom.
    pub fn plan(&self) -> &AttentionPlan {
        self.plan
            .get_or_init(|| AttentionPlan::new(sequences(&self.groups)))
    }
}

/// Prompts and completions; the rows of a group up to its end see its prompt.
fn sequences(groups: &[GroupLayout]) -> SequenceLayout {
    let (mut sequences, mut start) = (Vec::new(), 0);
    for group in groups {
        let end = start + group.num_rows();
        let prompt = start..start + group.prompt_len;
        sequences.push(Sequence {
            rows: prompt.clone(),
            before: start..start,
            seen_until: end,
        });
        let mut first = prompt.end;
        for &len in &group.completion_lens {
            sequences.push(Sequence {
                rows: first..first + len,
                before: prompt.clone(),
                seen_until: first + len,
            });
            first += len;
        }
        start = end;
    }
    SequenceLayout::causal(sequences)
}
