//! What stands in a question's text for its clip: other programs put the clip there, here it comes before the text.

use super::impossible::PLACEHOLDERS;

/// Each of these, alone or between `<|vision_start|>` and `<|vision_end|>`, stands for a clip; `<image>` for one that was
/// asked about as an image.
const ONE_EACH: [&str; 2] = ["<video>", "<image>"];
/// Several in a row stand for one clip.
const TOKENS: [&str; 2] = ["<|video_pad|>", "<|image_pad|>"];
const START: &str = "<|vision_start|>";

/// A text without the placeholder of its clip; `None` where it has none.
///
/// # Errors
/// It has several.
pub(crate) fn taken_out(text: &str) -> Result<Option<String>, String> {
    if !PLACEHOLDERS.iter().any(|word| text.contains(word)) {
        return Ok(None);
    }
    let words = ONE_EACH.map(|word| text.matches(word).count());
    let runs = TOKENS.map(|token| {
        let starts = text.match_indices(token).map(|(start, _)| start);
        starts
            .filter(|&start| !text[..start].ends_with(token))
            .count()
    });
    let count: usize = words.iter().chain(&runs).sum();
    let count = count.max(text.matches(START).count());
    if count > 1 {
        return Err(format!(
            "the text holds {count} placeholders of clips: a question is about one clip, leave one of them or none"
        ));
    }
    let mut text = text.to_owned();
    for word in PLACEHOLDERS {
        while let Some(start) = text.find(word) {
            let end = start + word.len();
            // Inside a sentence one of the two spaces goes with it.
            let both = text[..start].ends_with(' ') && text[end..].starts_with(' ');
            text.replace_range(start..end + usize::from(both), "");
        }
    }
    Ok(Some(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_placeholder_is_the_clip_wherever_it_stands() {
        for text in [
            "<video>\nWhy?",
            "<image>Why?",
            "Why?\n<video>",
            "<|vision_start|><|video_pad|><|vision_end|>Why?",
            "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>\nWhy?",
            "<|video_pad|>Why?",
        ] {
            assert_eq!(taken_out(text), Ok(Some("Why?".into())), "{text}");
        }
        let inside = taken_out("In <video> why?").unwrap();
        assert_eq!(inside.as_deref(), Some("In why?"));
        // What begins and ends a turn is none.
        for text in ["Why?", "Why is <b>?", "Why?<|im_end|>"] {
            assert_eq!(taken_out(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn several_are_several_clips() {
        for text in [
            "<video><video>Why?",
            "<image> and <video>: why?",
            "<|vision_start|><|video_pad|><|vision_end|><|vision_start|><|video_pad|><|vision_end|>Why?",
            "<|video_pad|> and <|video_pad|>",
        ] {
            let error = taken_out(text).unwrap_err();
            assert!(error.contains("2 placeholders"), "{text}: {error}");
        }
    }
}
