//! What a file of questions is like: counts, kinds, options, right letters, lengths, repetitions.

use super::Question;
use super::answer::option::letter_index;
use super::label::KindCounts;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Smallest, middle, largest and mean of some counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) least: usize,
    pub(crate) median: usize,
    pub(crate) most: usize,
    pub(crate) mean: f64,
}

impl Spread {
    fn of(mut counts: Vec<usize>) -> Self {
        counts.sort_unstable();
        let number = counts.len();
        if number == 0 {
            return Self::default();
        }
        Self {
            least: counts[0],
            median: counts[number / 2],
            most: counts[number - 1],
            mean: counts.iter().sum::<usize>() as f64 / number as f64,
        }
    }
}

/// Questions that say the same about the same clip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Repeated {
    /// Questions beyond the first of their kind.
    pub(crate) questions: usize,
    /// Ids of the first two of them.
    pub(crate) first: [String; 2],
    /// Of these: those whose right answers differ.
    pub(crate) contradicting: usize,
}

/// What a file of questions is like.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Stats {
    pub(crate) questions: usize,
    /// Different clips.
    pub(crate) clips: usize,
    pub(crate) questions_per_clip: Spread,
    pub(crate) kinds: KindCounts,
    /// Questions by `problem_type`, where they have one.
    pub(crate) problem_types: BTreeMap<String, usize>,
    /// Questions by what the source sorts them under: name, value, count.
    pub(crate) splits: BTreeMap<String, BTreeMap<String, usize>>,
    /// Questions by their number of options; 0 are those without.
    pub(crate) options: BTreeMap<usize, usize>,
    /// Questions with several right options.
    pub(crate) several_right: usize,
    /// How often each letter is right.
    pub(crate) right_letters: BTreeMap<String, usize>,
    /// Words of the question without its options.
    pub(crate) words: Spread,
    /// Questions with a worked answer.
    pub(crate) worked: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repeated: Option<Repeated>,
}

impl Stats {
    /// Of these questions.
    pub(crate) fn of(questions: &[Question]) -> Self {
        let mut clips: BTreeMap<&Path, usize> = BTreeMap::new();
        let mut problem_types = BTreeMap::new();
        let mut splits: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        let mut options = BTreeMap::new();
        let mut right_letters = BTreeMap::new();
        let (mut several_right, mut worked) = (0, 0);
        let mut words = Vec::with_capacity(questions.len());
        for question in questions {
            *clips.entry(&question.video).or_default() += 1;
            if let Some(kind) = &question.problem_type {
                *problem_types.entry(kind.clone()).or_default() += 1;
            }
            for (name, value) in question.splits() {
                let split = splits.entry(name.to_owned()).or_default();
                *split.entry(value.to_owned()).or_default() += 1;
            }
            let choices = question.choices().len();
            *options.entry(choices).or_default() += 1;
            let answer = question.answer();
            let is_option = |item: &str| letter_index(item).is_some_and(|index| index < choices);
            if answer.items().all(is_option) {
                several_right += usize::from(answer.len() > 1);
                for letter in answer.items() {
                    *right_letters.entry(letter.to_owned()).or_default() += 1;
                }
            }
            worked += usize::from(question.response.is_some());
            words.push(question.stem().split_whitespace().count());
        }
        Self {
            questions: questions.len(),
            clips: clips.len(),
            questions_per_clip: Spread::of(clips.into_values().collect()),
            kinds: KindCounts::of(questions),
            problem_types,
            splits,
            options,
            several_right,
            right_letters,
            words: Spread::of(words),
            worked,
            repeated: repeated(questions),
        }
    }
}

fn repeated(questions: &[Question]) -> Option<Repeated> {
    let mut seen: BTreeMap<(String, &Path), &Question> = BTreeMap::new();
    let mut found: Option<Repeated> = None;
    for question in questions {
        let key = (question.text(), question.video.as_path());
        let Some(first) = seen.get(&key) else {
            seen.insert(key, question);
            continue;
        };
        let repeated = found.get_or_insert_with(|| Repeated {
            questions: 0,
            first: [first.id.clone(), question.id.clone()],
            contradicting: 0,
        });
        repeated.questions += 1;
        repeated.contradicting += usize::from(first.answer() != question.answer());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_is_counted() {
        let question = |id: &str, problem: &str, solution: &str, clip: &str| -> Question {
            serde_json::from_value(json!({
                "id": id, "problem": problem, "solution": solution, "video": clip, "kind": "inferential",
                "problem_type": "choice", "splits": {"task": "order"},
            }))
            .unwrap()
        };
        let listed = "What comes first?\nA. red\nB. blue";
        let stats = Stats::of(&[
            question("1", listed, "A", "a.mp4"),
            question("2", listed, "A,B", "a.mp4"),
            question("3", listed, "A", "b.mp4"),
            question("4", "How many?", "A dozen", "a.mp4"),
        ]);
        assert_eq!((stats.questions, stats.clips), (4, 2));
        let per_clip = stats.questions_per_clip;
        assert_eq!((per_clip.least, per_clip.median, per_clip.most), (1, 3, 3));
        assert_eq!(stats.kinds.inferential, 4);
        assert_eq!(stats.options, [(0, 1), (2, 3)].into());
        assert_eq!(stats.several_right, 1);
        assert_eq!(
            stats.right_letters,
            [("A".to_owned(), 3), ("B".to_owned(), 1)].into()
        );
        assert_eq!((stats.words.least, stats.words.most), (2, 3));
        assert_eq!(stats.splits["task"]["order"], 4);
        let repeated = stats.repeated.unwrap();
        assert_eq!(repeated.first, ["1".to_owned(), "2".to_owned()]);
        assert_eq!((repeated.questions, repeated.contradicting), (1, 1));
    }
}
