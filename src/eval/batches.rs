//! Which questions are answered together: those about one clip, so that it is decoded and seen once.

use crate::data::Question;
use std::collections::BTreeMap;

/// Batches of at most `size` questions. Questions about one clip stand together, clips in the order of their first
/// question; a batch is filled with whole clips, and only a clip with more than `size` questions is cut.
pub(super) fn batches(questions: &[Question], size: usize) -> Vec<Vec<&Question>> {
    let mut place: BTreeMap<&std::path::Path, usize> = BTreeMap::new();
    let mut clips: Vec<Vec<&Question>> = Vec::new();
    for question in questions {
        let clip = *place.entry(&question.video).or_insert_with(|| {
            clips.push(Vec::new());
            clips.len() - 1
        });
        clips[clip].push(question);
    }
    let size = size.max(1);
    let mut batches: Vec<Vec<&Question>> = Vec::new();
    for part in clips.iter().flat_map(|clip| clip.chunks(size)) {
        match batches.last_mut() {
            Some(batch) if batch.len() + part.len() <= size => batch.extend(part),
            _ => batches.push(part.to_vec()),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(videos: &str) -> Vec<Question> {
        let numbered = videos.chars().enumerate();
        numbered
            .map(|(index, video)| {
                let line = format!(
                    r#"{{"id":"{index}","problem":"Why?","solution":"A","video":"{video}.mp4"}}"#
                );
                serde_json::from_str(&line).unwrap()
            })
            .collect()
    }

    fn ids(videos: &str, size: usize) -> Vec<String> {
        batches(&questions(videos), size)
            .iter()
            .map(|batch| batch.iter().map(|question| question.id.as_str()).collect())
            .collect()
    }

    #[test]
    fn questions_about_a_clip_stand_together() {
        assert_eq!(ids("abab", 4), ["0213"]);
        assert_eq!(ids("abab", 2), ["02", "13"]);
        assert_eq!(ids("aabbb", 4), ["01", "234"]);
        assert_eq!(ids("aaaaab", 4), ["0123", "45"]);
        assert_eq!(ids("abc", 1), ["0", "1", "2"]);
        assert_eq!(ids("abc", 0), ["0", "1", "2"]);
    }
}
