//! Training and validation questions from one file: whole clips on either side.

use super::Question;
use super::clip_paths::without_ending;
use super::fragment::Fragment;
use super::shuffle::permutation;
use std::collections::BTreeMap;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

/// Questions of one file in two parts that share no clip, each in file order.
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) train: Vec<Question>,
    pub(crate) validation: Vec<Question>,
    /// Clips of each.
    pub(crate) train_clips: usize,
    pub(crate) validation_clips: usize,
}

/// Splits `questions` so that about `validation_share` of the clips, at least one and never all, are for validation. Parts of
/// one file are one clip. `None` where there is one clip only.
pub(crate) fn split_by_clip(
    questions: Vec<Question>,
    validation_share: f64,
    seed: u64,
) -> Option<Split> {
    let file_of = |question: &Question| normalized(&Fragment::split(&question.video).0);
    let mut numbers: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for question in &questions {
        let next = numbers.len();
        numbers.entry(file_of(question)).or_insert(next);
    }
    let clips = numbers.len();
    let most = clips.checked_sub(1).filter(|&most| most > 0)?;
    let validation_clips = ((clips as f64 * validation_share).round() as usize).clamp(1, most);
    let mut is_validation = vec![false; clips];
    for clip in permutation(&[seed], clips)
        .into_iter()
        .take(validation_clips)
    {
        is_validation[clip] = true;
    }
    let (validation, train) = questions
        .into_iter()
        .partition(|question| is_validation[numbers[&file_of(question)]]);
    Some(Split {
        train,
        validation,
        train_clips: clips - validation_clips,
        validation_clips,
    })
}

/// Without `.` and with `..` resolved by the names alone: `./a.mp4` and `x/../a.mp4` are `a.mp4`; with slashes, and
/// without the ending: `a` may be `a.mp4`, and of two endings both go to one side.
fn normalized(path: &Path) -> PathBuf {
    let path = path.to_string_lossy().replace('\\', "/");
    let path = Path::new(&path);
    let mut parts = Vec::new();
    for part in path.components() {
        match (part, parts.last()) {
            (Component::CurDir, _) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    without_ending(&parts.into_iter().collect::<PathBuf>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three questions about each of ten clips, some about a part.
    fn questions() -> Vec<Question> {
        let one = |index: usize| {
            let part = if index % 3 == 2 { "#t=1,2" } else { "" };
            let text = format!(
                r#"{{"id":"{index}","problem":"Q?","solution":"a","video":"{}.mp4{part}"}}"#,
                index / 3
            );
            serde_json::from_str(&text).unwrap()
        };
        (0..30).map(one).collect()
    }

    #[test]
    fn no_clip_is_on_both_sides_and_no_question_is_lost() {
        let ids = |questions: &[Question]| -> Vec<usize> {
            questions
                .iter()
                .map(|question| question.id.parse().unwrap())
                .collect()
        };
        for (share, wanted) in [(0.2, 2), (0.0, 1), (1.0, 9), (0.26, 3)] {
            let split = split_by_clip(questions(), share, 42).unwrap();
            assert_eq!(split.validation_clips, wanted);
            assert_eq!(split.train_clips, 10 - wanted);
            let (train, validation) = (ids(&split.train), ids(&split.validation));
            assert_eq!(validation.len(), 3 * wanted);
            assert!(train.is_sorted() && validation.is_sorted());
            assert!(
                train
                    .iter()
                    .all(|one| validation.iter().all(|other| one / 3 != other / 3))
            );
            let mut all = [train, validation].concat();
            all.sort_unstable();
            assert_eq!(all, (0..30).collect::<Vec<_>>());
        }
        let again = split_by_clip(questions(), 0.2, 42).unwrap();
        let other = split_by_clip(questions(), 0.2, 43).unwrap();
        let first = split_by_clip(questions(), 0.2, 42).unwrap();
        assert_eq!(again.validation, first.validation);
        assert_ne!(other.validation, first.validation);
    }

    #[test]
    fn one_clip_cannot_be_split() {
        let one: Vec<Question> = questions().into_iter().take(3).collect();
        assert!(split_by_clip(one, 0.5, 1).is_none());
        assert!(split_by_clip(Vec::new(), 0.5, 1).is_none());
    }

    #[test]
    fn a_clip_is_one_however_it_is_written() {
        for (one, other) in [
            ("a.mp4", "./a.mp4"),
            ("b/a.mp4", "b/../b/./a.mp4"),
            ("/x/a.mp4", "/x/y/../a.mp4"),
            ("a.mp4", "a"),
            ("v/a.MP4", "v\\a"),
        ] {
            assert_eq!(normalized(Path::new(one)), normalized(Path::new(other)));
        }
        assert_ne!(
            normalized(Path::new("../a.mp4")),
            normalized(Path::new("a.mp4"))
        );
    }
}
