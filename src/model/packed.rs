//! How rows of several prompts and their completions lie behind each other in one tensor.
//!
//! A group is a prompt followed by its completions, without padding. Prompt rows attend causally to the
//! prompt; a completion's rows attend to the whole prompt and causally to themselves, never to a sibling.

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
    pub fn num_rows(&self) -> usize {
        self.prompt_len + self.completion_lens.iter().sum::<usize>()
    }
}

/// The groups of one packed tensor `[N, hidden]`, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackedLayout {
    /// The groups.
    pub groups: Vec<GroupLayout>,
}

impl PackedLayout {
    /// All rows (N).
    pub fn num_rows(&self) -> usize {
        self.groups.iter().map(GroupLayout::num_rows).sum()
    }
}
