//! The strict rule, in this order:
//! 1. Only what follows the last `</think>` counts. Thinking that never ends has no answer, unless the tags of an answer
//!    stand in it.
//! 2. The answer stands between `<answer>` and `</answer>`, in any case of letters. Several must agree; one that is
//!    opened and never closed makes the whole unreadable. Without tags, all that is written must be an answer, or its
//!    last line must announce one ("Therefore, the final answer is: C").
//! 3. Emphasis, quotes, `\boxed{}`, a full stop, a list's mark (`- A`) and words such as "The final answer is:" around it do not
//!    count; full-width letters and signs (`Ａ`, `（A）`, `A。`) are as good as others.
//! 4. An answer is an option as it is listed, mark and text; or the text of an option; or letters (`A`, `a`, `(A)`, `A.`, `Option A`, `Option 1`) separated by commas,
//!    spaces or "and"; or texts of options separated by commas or "and"; or an option's letter with a mark and other text behind it, which must neither be another option's nor
//!    take it back ("A. No"); or several of these on lines of their own. A single letter is never an option's text.
//! 5. Where it is none of these but a sentence that names exactly one option, announced or by its text ([`super::prose`]
//!    says how), that option is the answer; how often that was so is counted. A bare letter inside a sentence is never
//!    searched for.
//! 6. Questions without options: `yes` or `no` as the first word without the other one anywhere; else the whole answer,
//!    compared without regard to case and spaces, numbers as numbers.

use super::option::is_option_word;
use super::option::letter;
use super::option::letter_index;
use super::option::option_mark;
use super::parsed::AnswerForm;
use super::parsed::ParsedAnswer;
use super::parsed::ReadBy;
use super::parsed::Unreadable;
use super::parsed::option_count;
use super::prose;
use super::set::CLOSE;
use super::set::OPEN;
use super::spelling::behind_bullet;
use super::spelling::half_width;
use super::spelling::normalised;
use super::spelling::unwrapped;
use std::collections::BTreeSet;

/// Reads the answer in a text.
pub(crate) fn read(text: &str, form: AnswerForm) -> ParsedAnswer {
    match read_text(text, form) {
        Ok((answer, read_by)) => ParsedAnswer::read(answer, read_by),
        Err(problem) => ParsedAnswer::unread(problem),
    }
}

/// The answer in a text and where it was found.
fn read_text(text: &str, form: AnswerForm) -> Result<(String, ReadBy), Unreadable> {
    // Byte positions stay valid: only ASCII letters change.
    let lower = text.to_ascii_lowercase();
    let start = lower
        .rfind("</think>")
        .map_or(0, |at| at + "</think>".len());
    let thinking = start == 0 && lower.contains("<think>");
    let (spoken, lower) = (&text[start..], &lower[start..]);
    let mut answers = BTreeSet::new();
    let mut rest = 0;
    while let Some(open) = lower[rest..].find(OPEN) {
        let begin = rest + open + OPEN.len();
        let Some(length) = lower[begin..].find(CLOSE) else {
            return Err(Unreadable::Unclosed);
        };
        let inside = &spoken[begin..begin + length];
        answers.insert(or_prose(
            read_whole(inside, form),
            inside,
            form,
            ReadBy::Tags,
        )?);
        rest = begin + length + CLOSE.len();
    }
    let different: BTreeSet<&str> = answers.iter().map(|(answer, _)| answer.as_str()).collect();
    if different.len() > 1 {
        return Err(Unreadable::Contradiction);
    }
    match answers.pop_first() {
        Some(answer) => Ok(answer),
        None if thinking => Err(Unreadable::Thinking),
        None => or_prose(read_untagged(spoken, form), spoken, form, ReadBy::Whole),
    }
}

/// What was `read`, found by `read_by`; a sentence that names one option where it was none.
fn or_prose(
    read: Result<String, Unreadable>,
    text: &str,
    form: AnswerForm,
    read_by: ReadBy,
) -> Result<(String, ReadBy), Unreadable> {
    match (read, form) {
        (
            Err(problem @ (Unreadable::NoOption | Unreadable::NoTags)),
            AnswerForm::Options(options),
        ) => match prose::named_option(text, options) {
            Ok(index) => letter(index)
                .map(|letter| (letter.into(), ReadBy::Prose))
                .ok_or(problem),
            Err(Unreadable::NoTags) => Err(problem),
            Err(other) => Err(other),
        },
        (read, _) => read.map(|answer| (answer, read_by)),
    }
}

/// An answer without tags: the whole text, or a last line that announces it.
fn read_untagged(spoken: &str, form: AnswerForm) -> Result<String, Unreadable> {
    let last = spoken.trim_end().lines().last().map(unwrapped);
    let announced = last.filter(|last| without_lead_in(last) != *last);
    match (read_whole(spoken, form), announced) {
        (Ok(_), Some(last)) if form == AnswerForm::Words => read_whole(last, form),
        (Err(Unreadable::NoOption), Some(last)) => {
            read_whole(last, form).or(Err(Unreadable::NoTags))
        }
        (Err(Unreadable::NoOption), None) => Err(Unreadable::NoTags),
        (result, _) => result,
    }
}

/// Reads a text that is an answer and nothing else.
fn read_whole(text: &str, form: AnswerForm) -> Result<String, Unreadable> {
    let text = without_lead_in(unwrapped(text));
    if text.is_empty() {
        return Err(Unreadable::Empty);
    }
    match form {
        AnswerForm::Options(options) => read_options(&half_width(text), options),
        AnswerForm::YesNo => read_yes_no(text),
        AnswerForm::Words => Ok(text.to_owned()),
    }
}

fn read_options(text: &str, options: &[String]) -> Result<String, Unreadable> {
    let mut chosen = BTreeSet::new();
    // An option may have several lines.
    let several_lines = text.contains('\n');
    let as_listed = displayed_option(text, options).filter(|_| several_lines);
    if let Some(index) = as_listed {
        chosen.insert(index);
    } else if several_lines && let Some(index) = option_with_text(text, options)? {
        chosen.insert(index);
    } else {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            chosen.extend(read_entry(unwrapped(line), options)?);
        }
    }
    if chosen.is_empty() {
        return Err(Unreadable::Empty);
    }
    let letters = chosen.into_iter().filter_map(letter);
    let letters: Vec<String> = letters.map(String::from).collect();
    Ok(letters.join(","))
}

/// The options that one line names, which may be an entry of a list.
fn read_entry(line: &str, options: &[String]) -> Result<Vec<usize>, Unreadable> {
    match (read_line(line, options), behind_bullet(line)) {
        (Err(Unreadable::NoOption), Some(entry)) => read_line(entry, options),
        (read, _) => read,
    }
}

/// The options that one line names.
fn read_line(line: &str, options: &[String]) -> Result<Vec<usize>, Unreadable> {
    if let Some(index) = displayed_option(line, options) {
        return Ok(vec![index]);
    }
    let count = option_count(options);
    let within = |indices: Vec<usize>| {
        let exist = indices.iter().all(|index| *index < count);
        exist.then_some(indices).ok_or(Unreadable::NoOption)
    };
    let listed = listed_letters(line);
    if let Some([index]) = listed.as_deref() {
        return within(vec![*index]);
    }
    if let Some(index) = option_with_text(line, options)? {
        return Ok(vec![index]);
    }
    if let Some(indices) = listed {
        return within(indices);
    }
    if let Some(indices) = listed_texts(line, options) {
        return Ok(indices);
    }
    let Some((index, text)) = option_mark(line) else {
        return Err(Unreadable::NoOption);
    };
    match option_with_text(unwrapped(text), options)? {
        Some(other) if other != index => Err(Unreadable::Contradiction),
        _ if is_doubted(text, options.get(index)) => Err(Unreadable::NoOption),
        _ => within(vec![index]),
    }
}

/// The option that is written as it is listed: its mark and all of its text.
fn displayed_option(text: &str, options: &[String]) -> Option<usize> {
    let (index, text) = option_mark(text)?;
    let is_own = normalised(options.get(index)?) == normalised(text);
    is_own.then_some(index)
}

/// Whether what stands behind an option's mark, other words than its own or more than these, takes it back: `A. No, B`.
fn is_doubted(text: &str, own: Option<&String>) -> bool {
    let words = |text: &str| {
        let words = text.to_lowercase().replace('’', "'");
        let words = words.split(|c: char| !c.is_alphanumeric() && c != '\'');
        let words = words.filter(|word| !word.is_empty());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let said = words(text);
    let own = own.map_or_else(Vec::new, |own| words(&half_width(own)));
    let takes_back = |word: &String| {
        let words = [
            "no",
            "not",
            "never",
            "wrong",
            "incorrect",
            "false",
            "cannot",
        ];
        words.contains(&word.as_str()) || word.ends_with("n't")
    };
    match said
        .strip_prefix(own.as_slice())
        .filter(|_| !own.is_empty())
    {
        // Its own text, and then what may be a reason: only a verdict right behind it counts.
        Some(rest) => rest.iter().take(2).any(takes_back),
        None => said.iter().any(takes_back),
    }
}

/// The option with exactly this text; two with the same text cannot be told apart.
fn option_with_text(text: &str, options: &[String]) -> Result<Option<usize>, Unreadable> {
    let wanted = normalised(text);
    let mut found = (0..options.len()).filter(|&index| normalised(&options[index]) == wanted);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(Unreadable::Contradiction),
        (index, _) => Ok(index),
    }
}

/// A list of letters and nothing else: `A, C`, `(a) and (c)`, `Option A`, `Options 1 and 3`.
pub(super) fn listed_letters(line: &str) -> Option<Vec<usize>> {
    let is_separator = |c: char| c.is_whitespace() || [',', ';', '&'].contains(&c);
    let mut indices = Vec::new();
    let mut named = false;
    for word in line.split(is_separator).filter(|word| !word.is_empty()) {
        if word.eq_ignore_ascii_case("and") && !indices.is_empty() {
            continue;
        }
        if is_option_word(word) || is_option_word(word.strip_suffix('s').unwrap_or(word)) {
            named = true;
            continue;
        }
        let label = unwrapped(word)
            .trim_start_matches(['(', '['])
            .trim_end_matches([')', ']', '.', ':']);
        let number = label.parse::<usize>().ok().filter(|_| named);
        indices.push(match number {
            Some(number) => number.checked_sub(1)?,
            None => letter_index(&label.to_ascii_uppercase())?,
        });
    }
    (!indices.is_empty()).then_some(indices)
}

/// A list of options' texts and nothing else: `red, green and blue`.
fn listed_texts(line: &str, options: &[String]) -> Option<Vec<usize>> {
    // The comma of `2,500` separates nothing.
    let line = line.replace(" and ", ", ") + " ";
    let parts = line.split(';').flat_map(|part| part.split(", "));
    let parts = parts.map(str::trim);
    let parts = parts.map(|part| part.strip_prefix("and ").unwrap_or(part));
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let indices = parts
        .iter()
        .map(|part| option_with_text(part, options).ok().flatten());
    (parts.len() > 1).then(|| indices.collect()).flatten()
}

fn read_yes_no(text: &str) -> Result<String, Unreadable> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let (yes, no) = (words.contains(&"yes"), words.contains(&"no"));
    match words.first() {
        _ if yes && no => Err(Unreadable::Contradiction),
        Some(first @ (&"yes" | &"no")) => Ok((*first).to_owned()),
        _ => Err(Unreadable::NoOption),
    }
}

/// Without words that announce an answer: `The final answer is: A` → `A`.
fn without_lead_in(text: &str) -> &str {
    const WORDS: [&str; 10] = [
        "so",
        "therefore",
        "thus",
        "hence",
        "the",
        "my",
        "final",
        "correct",
        "right",
        "best",
    ];
    const NOUNS: [&str; 6] = [
        "answer", "answers", "option", "options", "choice", "choices",
    ];
    let (mut rest, mut named) = (text, false);
    while let Some((word, behind)) = rest.split_once(char::is_whitespace) {
        let word = word.to_lowercase();
        let bare = word.trim_end_matches([',', ':']);
        let is_noun = NOUNS.contains(&bare);
        let is_known = is_noun || WORDS.contains(&bare);
        let ends = (word.ends_with(':') && is_known) || ["is", "are"].contains(&bare);
        if ends && (named || is_noun) {
            return unwrapped(behind);
        }
        if !is_known {
            break;
        }
        named |= is_noun;
        rest = behind.trim_start();
    }
    // Without a blank: `Answer:B`.
    if let Some((noun, behind)) = rest.split_once(':')
        && NOUNS.contains(&noun.to_lowercase().as_str())
    {
        return unwrapped(behind);
    }
    behind_chinese_lead_in(text).map_or(text, unwrapped)
}

/// What follows "the (final, right) answer is" or "the answer:" in Chinese.
fn behind_chinese_lead_in(text: &str) -> Option<&str> {
    const BEFORE: [&str; 7] = ["因此", "所以", "故", "最终", "正确", "最后", "的"];
    let mut rest = text;
    while let Some(behind) = BEFORE.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = behind.trim_start_matches([',', '，', ' ']);
    }
    let behind = ["答案", "选项", "选择"]
        .iter()
        .find_map(|noun| rest.strip_prefix(noun))?;
    let said = behind.trim_start_matches(['是', '为', ':', '：', ' ']);
    (said.len() < behind.len()).then_some(said)
}

#[cfg(test)]
mod tests {
    use super::super::accuracy;
    use super::*;
    use crate::config::AccuracyRule;
    use crate::config::Extraction;

    fn options() -> Vec<String> {
        [
            "The cube falls",
            "the sphere stops.",
            "A ball rolls",
            "Nothing",
        ]
        .map(String::from)
        .to_vec()
    }

    fn read_as(text: &str) -> Result<String, Unreadable> {
        let options = options();
        let form = AnswerForm::of(&options, "<answer>A</answer>");
        let extracted = read(text, form);
        match extracted.unreadable {
            Some(problem) => {
                assert!(extracted.answer.is_empty());
                Err(problem)
            }
            None => Ok(extracted.answer),
        }
    }

    #[test]
    fn an_answer_in_any_usual_dress_is_read() {
        for (text, wanted) in [
            ("<think>so</think><answer>A</answer>", "A"),
            ("<think>so</think>\n<ANSWER>\n b \n</ANSWER>", "B"),
            ("<answer>A.</answer>", "A"),
            ("<answer>(A)</answer>", "A"),
            ("<answer>[C]</answer>", "C"),
            ("<answer>Option A</answer>", "A"),
            ("<answer>option 2</answer>", "B"),
            ("<answer>Option A: The cube falls</answer>", "A"),
            ("<answer>A. The cube falls</answer>", "A"),
            ("<answer>B) it comes to rest</answer>", "B"),
            ("<answer>the CUBE falls.</answer>", "A"),
            ("<answer>The sphere stops</answer>", "B"),
            ("<answer>A ball rolls</answer>", "C"),
            ("<answer>**D**</answer>", "D"),
            ("<answer>\\boxed{D}</answer>", "D"),
            ("<answer>$\\boxed{\\text{D}}$</answer>", "D"),
            ("<answer>The answer is (C).</answer>", "C"),
            ("<answer>Answer:B</answer>", "B"),
            ("<answer>答案：B</answer>", "B"),
            ("<answer>因此，正确答案是（Ｂ）。</answer>", "B"),
            ("<answer>答案：A，C</answer>", "A,C"),
            ("<answer>C,A</answer>", "A,C"),
            ("<answer>A, C and D</answer>", "A,C,D"),
            ("<answer>(a) & (c)</answer>", "A,C"),
            ("<answer>A C</answer>", "A,C"),
            ("<answer>Options 1 and 3</answer>", "A,C"),
            ("<answer>A. The cube falls\nD. Nothing</answer>", "A,D"),
            ("<answer>A,A</answer>", "A"),
            ("<answer>A</answer> or rather <answer>(A)</answer>", "A"),
            ("B", "B"),
            ("Therefore, the final answer is: C", "C"),
            (
                "First a cube moves.\nTherefore, the final answer is: $C$.",
                "C",
            ),
            ("<think>A? <answer>A</answer></think>The answer is B.", "B"),
            ("<think>cut <answer>A</answer>", "A"),
            ("The answer is A.\nOr is it?", "A"),
            (
                "<answer>The best option is B. It stops at last.</answer>",
                "B",
            ),
            ("I saw it all. A ball rolls, and that is that.", "C"),
        ] {
            assert_eq!(read_as(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_answer_is_not_read_as_one() {
        use Unreadable::{Contradiction, Empty, NoOption, NoTags, Thinking, Unclosed};
        for (text, why) in [
            ("", Empty),
            (" \n", Empty),
            ("<answer></answer>", Empty),
            ("<answer> . </answer>", Empty),
            ("<answer>,</answer>", Empty),
            ("<think>only thought</think>", Empty),
            ("<think>I see a cube and a sphere. So A", Thinking),
            ("<think>In <answer> tags I will", Unclosed),
            ("<think>x</think><answer>A", Unclosed),
            ("<answer>A</answer><answer>B</answer>", Contradiction),
            ("<answer>A. the sphere stops.</answer>", Contradiction),
            (
                "<answer>Option 1: the sphere stops.</answer>",
                Contradiction,
            ),
            ("Option B: The cube falls", Contradiction),
            ("The answer is A. No, it is C.", NoTags),
            ("A. The cube falls is wrong", NoTags),
            ("A. wrong", NoTags),
            ("A. No.\nB. Yes.\nC. No.", NoTags),
            ("<answer>E</answer>", NoOption),
            ("<answer>A,E</answer>", NoOption),
            ("<answer>AC</answer>", NoOption),
            ("<answer>A or C</answer>", NoOption),
            ("<answer>A/C</answer>", NoOption),
            ("<answer>not A</answer>", NoOption),
            ("<answer>none</answer>", NoOption),
            ("<answer>A because B is wrong</answer>", NoOption),
            ("<answer>a cube falls</answer>", NoOption),
            ("<answer>2</answer>", NoOption),
            ("<answer>letter</answer>", NoOption),
            ("A cube collides with a sphere.", NoTags),
            ("I think the answer could be A", NoTags),
            ("First.\nThe answer is E", NoTags),
        ] {
            assert_eq!(read_as(text), Err(why), "{text}");
        }
    }

    #[test]
    fn options_that_are_letters_are_told_apart_by_their_marks() {
        let letters = ["c", "a", "t"].map(String::from);
        let form = AnswerForm::of(&letters, "A");
        let read = |text: &str| super::read(text, form).answer;
        for (text, wanted) in [
            ("A", "A"),
            ("(B)", "B"),
            ("<answer>C</answer>", "C"),
            ("A. c", "A"),
            ("B. a", "B"),
            ("t", ""),
        ] {
            assert_eq!(read(text), wanted, "{text}");
        }
        let list = ["A", "B", "C", "none", "A, B, and C"].map(String::from);
        let form = AnswerForm::of(&list, "E");
        for text in ["E. A, B, and C", "A, B, and C", "E"] {
            assert_eq!(super::read(text, form).answer, "E", "{text}");
        }
    }

    #[test]
    fn options_with_one_text_cannot_be_told_apart() {
        let twice = ["same".to_owned(), "Same.".to_owned()];
        let form = AnswerForm::of(&twice, "A");
        let one = read("<answer>same</answer>", form);
        assert_eq!(one.unreadable, Some(Unreadable::Contradiction));
        assert_eq!(read("B. Same.", form).answer, "B");
    }

    #[test]
    fn yes_no_and_words() {
        let strict = |text: &str, solution: &str| {
            let form = AnswerForm::of(&[], solution);
            let one = read(text, form);
            accuracy(
                Extraction::Strict.into(),
                &one.answer,
                solution,
                form,
                AccuracyRule::Exact,
            )
        };
        for (text, solution, right) in [
            ("<answer>Yes</answer>", "<answer>yes</answer>", true),
            ("Yes, the ball rises.", "yes", true),
            ("No.", "yes", false),
            ("No, not yes", "no", false),
            ("Not at all", "no", false),
            ("", "no", false),
            (
                "<answer>Depth-First  search.</answer>",
                "depth-first search",
                true,
            ),
            ("<answer>search</answer>", "depth-first search", false),
            (
                "It is old.\nTherefore, the final answer is: Late Gothic.",
                "late Gothic",
                true,
            ),
            ("<answer>3.0</answer>", "3", true),
            ("<answer></answer>", "3", false),
            ("<answer>b</answer>", "B", true),
        ] {
            assert_eq!(
                strict(text, solution) > 0.5,
                right,
                "{text:?} for {solution:?}"
            );
        }
    }
}
