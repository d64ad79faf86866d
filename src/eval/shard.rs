//! One of several processes that answer a benchmark together.

use std::str::FromStr;

/// The `index`-th (from 1) of `count` parts of the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 1.
    pub(crate) index: usize,
    /// How many parts there are.
    pub(crate) count: usize,
}

impl Shard {
    /// This shard's part of `items`: equal lengths up to one, in order.
    pub(super) fn part<'a, T>(&self, items: &'a [T]) -> &'a [T] {
        let bound = |index: usize| items.len() * index / self.count;
        &items[bound(self.index - 1)..bound(self.index)]
    }

    /// The name of its log.
    pub(crate) fn outputs_file(&self) -> String {
        format!("outputs-{self}.jsonl")
    }

    /// The name of its scores, which show that it is finished.
    pub(crate) fn scores_file(&self) -> String {
        format!("scores-{self}.json")
    }

    /// The shard whose log has this name.
    pub(super) fn of_outputs_file(name: &str) -> Option<Self> {
        let (index, count) = name
            .strip_prefix("outputs-")?
            .strip_suffix(".jsonl")?
            .split_once("-of-")?;
        format!("{index}/{count}").parse().ok()
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-of-{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.parse::<usize>().ok();
        text.split_once('/')
            .and_then(|(index, count)| Some((number(index)?, number(count)?)))
            .filter(|(index, count)| (1..=*count).contains(index))
            .map(|(index, count)| Self { index, count })
            .ok_or_else(|| "expected I/N with I from 1 to N, for example 1/4".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_everything_out_in_order() {
        let items: Vec<usize> = (0..10).collect();
        for count in 1..=12 {
            let parts: Vec<usize> = (1..=count)
                .flat_map(|index| Shard { index, count }.part(&items).to_vec())
                .collect();
            assert_eq!(parts, items, "{count} shards");
        }
    }

    #[test]
    fn names_and_arguments_are_read_back() {
        let shard: Shard = "2/4".parse().unwrap();
        assert_eq!(shard.outputs_file(), "outputs-2-of-4.jsonl");
        assert_eq!(Shard::of_outputs_file(&shard.outputs_file()), Some(shard));
        for wrong in ["0/4", "5/4", "1", "a/b", "1/0", "-1/2"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
        assert_eq!(Shard::of_outputs_file("outputs.jsonl"), None);
    }
}
