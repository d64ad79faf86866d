//! Scores as a table for people: one model by question kind, or several models side by side.

use super::compare::Comparison;
use super::score::ConstantAnswer;
use super::score::MeanEstimate;
use super::score::SplitScores;
use super::score_file::ScoreFile;
use crate::config::QuestionKind;
use crate::data::answer::ReadBy;
use crate::util::console;
use crate::util::words::counted;

/// A row of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableRow {
    /// What the row is called.
    pub(crate) label: String,
    /// What it shows.
    pub(crate) scores: ScoreFile,
}

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableStyle {
    /// Aligned columns.
    Text,
    /// A Markdown table.
    Markdown,
}

/// The kinds of questions that any row has; the columns of others would be empty.
fn kinds(rows: &[TableRow]) -> Vec<&'static str> {
    let kinds = [QuestionKind::Observational, QuestionKind::Inferential].map(QuestionKind::as_str);
    let is_there = |kind: &&str| rows.iter().any(|row| row.scores.splits.contains_key(*kind));
    kinds.into_iter().filter(is_there).collect()
}

/// Models side by side: accuracy (exactly the right options) by question kind with 95 % intervals, format rate, and below
/// the best constant answers of the same questions.
pub(crate) fn comparison(rows: &[TableRow], style: TableStyle) -> String {
    let kinds = kinds(rows);
    let columns = kinds.iter().copied().chain(["all"]);
    let head = ["model"].into_iter().chain(columns.clone());
    let head = head.chain(["format", "questions"]).map(str::to_owned);
    let mut lines = vec![head.collect::<Vec<_>>()];
    for row in rows {
        let shown = columns
            .clone()
            .map(|name| cell(&row.scores, name, accuracy));
        let judge = row.scores.settings.judge.as_ref();
        let judged = judge.map_or_else(String::new, |by| format!(" (judged by {})", by.model));
        let mut line = vec![row.label.clone() + &judged];
        line.extend(shown);
        line.push(cell(&row.scores, "all", |split| {
            format!("{:.1}", 100.0 * split.format.mean)
        }));
        line.push(row.scores.questions_answered.to_string());
        lines.push(line);
    }
    if let Some(first) = rows.first() {
        let best = |name: &str| {
            cell(&first.scores, name, |split| {
                constant(&split.best_constant_exact)
            })
        };
        let mut line = vec!["best constant".to_owned()];
        line.extend(columns.map(best));
        line.extend([String::new(), String::new()]);
        lines.push(line);
    }
    render_in(&lines, style, &[&["questions"], &["format"]])
}

/// One model: a line per split.
pub(crate) fn details(scores: &ScoreFile, style: TableStyle) -> String {
    let mut lines = vec![
        [
            "questions",
            "n",
            "accuracy",
            "partial credit",
            "format",
            "unreadable",
            "cut off",
            "tokens",
            "best constant",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    // The kinds first, all of them together last.
    let kinds = scores.splits.iter().filter(|(name, _)| *name != "all");
    for (name, split) in kinds.chain(scores.splits.get_key_value("all")) {
        lines.push(vec![
            name.clone(),
            split.questions.to_string(),
            accuracy(split),
            percent(split.soft),
            percent(split.format),
            split.unparsable.to_string(),
            split.truncated.to_string(),
            format!("{:.0}", split.mean_tokens),
            constant(&split.best_constant_exact),
        ]);
    }
    let dropped: [&[&str]; 6] = [
        &["best constant"],
        &["partial credit"],
        &["tokens"],
        &["cut off"],
        &["unreadable"],
        &["format"],
    ];
    render_in(&lines, style, &dropped)
}

/// Who has read the answers, the shares, and between what the accuracy lies while some wait for a judge; a line each.
pub(crate) fn how_read(scores: &ScoreFile) -> String {
    let Some(all) = scores.splits.get("all") else {
        return String::new();
    };
    let share = |count: usize| 100.0 * count as f64 / all.questions.max(1) as f64;
    let readers = all.read_by.iter().map(|(reader, count)| {
        let who = match reader {
            ReadBy::Tags => "in tags",
            ReadBy::Whole => "as all that is written",
            ReadBy::Prose => "in a sentence",
            ReadBy::BenchmarkRule => "by the benchmark's rule",
            ReadBy::Judge => "by the judge",
            ReadBy::Nobody => "by nobody",
        };
        format!("{who} {:.1} %", share(*count))
    });
    let readers: Vec<String> = readers.collect();
    let mut text = String::new();
    if !readers.is_empty() {
        text.push_str(&format!("answers read: {}\n", readers.join(", ")));
    }
    let left_out = scores.questions_skipped + scores.questions_missing;
    if left_out > 0 {
        text.push_str(&format!(
            "left out, for their clips cannot be used: {}\n",
            counted(left_out, "question")
        ));
    }
    if let Some([low, high]) = all.bounds {
        text.push_str(&format!(
            "accuracy: {:.1} if all that wait were wrong, {:.1} if all were right\n",
            100.0 * low,
            100.0 * high
        ));
    }
    text
}

/// Two evaluations, paired: a line per split with the difference in exact accuracy and its 95 % interval.
pub(crate) fn paired(comparison: &Comparison, style: TableStyle) -> String {
    let head = [
        "questions",
        "n",
        "first",
        "second",
        "difference",
        "only first right",
        "only second right",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    let splits = &comparison.splits;
    let parts = splits.iter().filter(|(name, _)| *name != "all");
    for (name, pair) in parts.chain(splits.get_key_value("all")) {
        lines.push(vec![
            name.clone(),
            pair.questions.to_string(),
            format!("{:.1}", 100.0 * pair.first),
            format!("{:.1}", 100.0 * pair.second),
            percent(pair.difference),
            pair.only_first_right.to_string(),
            pair.only_second_right.to_string(),
        ]);
    }
    render_in(
        &lines,
        style,
        &[&["only second right", "only first right"], &["n"]],
    )
}

fn cell(scores: &ScoreFile, name: &str, show: impl Fn(&SplitScores) -> String) -> String {
    scores.splits.get(name).map_or_else(|| "–".into(), show)
}

fn constant(best: &ConstantAnswer) -> String {
    if best.answer.is_empty() {
        return "–".into();
    }
    format!("{:.1} ({})", 100.0 * best.mean, best.answer)
}

/// Exact accuracy; while answers wait for a judge, between what it lies.
pub(super) fn accuracy(split: &SplitScores) -> String {
    match split.bounds {
        Some([low, high]) if !split.exact.mean.is_nan() => {
            format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high)
        }
        _ => percent(split.exact),
    }
}

/// A mean with its interval; without one where all values are equal, which says nothing about others.
pub(super) fn percent(mean: MeanEstimate) -> String {
    if mean.mean.is_nan() {
        return "unjudged".into();
    }
    let half = mean
        .half_width
        .filter(|half| *half > 0.0)
        .map_or_else(String::new, |half| format!(" ± {:.1}", 100.0 * half));
    format!("{:.1}{half}", 100.0 * mean.mean)
}

/// As [`render`], for the terminal that it goes to, if it goes to one: there the columns named in `dropped` are left out, one
/// group after the other, until a line fits, and it is said which.
pub(crate) fn render_in(lines: &[Vec<String>], style: TableStyle, dropped: &[&[&str]]) -> String {
    match (style, console::result_columns()) {
        (TableStyle::Text, Some(columns)) => fitted(lines, columns, dropped),
        _ => render(lines, style),
    }
}

fn fitted(lines: &[Vec<String>], columns: usize, dropped: &[&[&str]]) -> String {
    let mut lines = lines.to_vec();
    let mut without = Vec::new();
    let mut dropped = dropped.iter();
    let mut text = render(&lines, TableStyle::Text);
    while widest(&text) > columns
        && let Some(group) = dropped.next()
    {
        for &name in *group {
            let head = lines
                .first()
                .and_then(|head| head.iter().position(|one| one == name));
            if let Some(index) = head {
                without.push(name);
                for line in &mut lines {
                    if index < line.len() {
                        line.remove(index);
                    }
                }
            }
        }
        text = render(&lines, TableStyle::Text);
    }
    let excess = widest(&text).saturating_sub(columns);
    if excess > 0 {
        shorten_labels(&mut lines, excess);
        text = render(&lines, TableStyle::Text);
    }
    if !without.is_empty() {
        text.push_str(&console::wrapped(
            &format!("(not shown for lack of width: {})\n", without.join(", ")),
            Some(columns),
        ));
    }
    text
}

fn widest(text: &str) -> usize {
    text.lines()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0)
}

/// Takes `excess` characters out of the middle of the longest labels, but leaves some of each.
fn shorten_labels(lines: &mut [Vec<String>], excess: usize) {
    const SHORTEST: usize = 12;
    let labels = || lines.iter().filter_map(|line| line.first());
    let longest = labels()
        .map(|label| label.chars().count())
        .max()
        .unwrap_or(0);
    let most = longest.saturating_sub(excess).max(SHORTEST);
    for label in lines.iter_mut().filter_map(|line| line.first_mut()) {
        let characters: Vec<char> = label.chars().collect();
        if characters.len() > most {
            let end = (most - 1) / 2;
            let start = characters.len() - (most - 1 - end);
            *label = characters[..end]
                .iter()
                .chain(['…'].iter())
                .chain(&characters[start..])
                .collect();
        }
    }
}

/// Lays out cells; the first line is the head, the first column is text, the others are numbers.
pub(crate) fn render(lines: &[Vec<String>], style: TableStyle) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|text| text.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                let padding = " ".repeat(width - cell.chars().count());
                if column == 0 {
                    format!("{cell}{padding}")
                } else {
                    format!("{padding}{cell}")
                }
            })
            .collect();
        text += &match style {
            TableStyle::Text => format!("{}\n", cells.join("  ").trim_end()),
            // A bar would end its cell.
            TableStyle::Markdown => {
                let cells: Vec<String> =
                    cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
                format!("| {} |\n", cells.join(" | "))
            }
        };
        if index == 0 && style == TableStyle::Markdown {
            let rule: Vec<&str> = (0..columns)
                .map(|column| if column == 0 { "---" } else { "---:" })
                .collect();
            text += &format!("| {} |\n", rule.join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, exact: f64) -> TableRow {
        let split = serde_json::json!({
            "questions": 8, "videos": 4,
            "soft": {"mean": 0.875, "half_width": null},
            "exact": {"mean": exact, "half_width": 0.0512},
            "format": {"mean": 1.0, "half_width": 0.0},
            "unparsable": 0, "truncated": 1, "mean_tokens": 31.4,
            "best_constant_soft": {"answer": "A", "mean": 0.625},
            "best_constant_exact": {"answer": "A,B", "mean": 0.5},
        });
        let scores = serde_json::json!({
            "model": "m", "weights": "w", "questions": "q.json", "config_hash": "c",
            "protocol": "own", "questions_hash": "h", "questions_asked": 8, "subset": "all",
            "wording": "training", "wording_hash": "x", "extraction": "strict", "samples": 1,
            "temperature": 0.0, "max_new_tokens": 8, "clip_bounds": true, "subtitles": false, "decoder": "d",
            "video": {}, "questions_answered": 8, "questions_skipped": 0,
            "splits": {"all": split, "inferential": split},
        });
        TableRow {
            label: label.into(),
            scores: serde_json::from_value(scores).unwrap(),
        }
    }

    #[test]
    fn models_stand_side_by_side() {
        let rows = [row("base", 0.6), row("CDPO", 0.75)];
        assert_eq!(
            comparison(&rows, TableStyle::Text),
            "model          inferential         all  format  questions\n\
             base            60.0 ± 5.1  60.0 ± 5.1   100.0          8\n\
             CDPO            75.0 ± 5.1  75.0 ± 5.1   100.0          8\n\
             best constant   50.0 (A,B)  50.0 (A,B)\n"
        );
        let markdown = comparison(&rows[..1], TableStyle::Markdown);
        assert_eq!(
            markdown.lines().nth(1),
            Some("| --- | ---: | ---: | ---: | ---: |")
        );
        assert_eq!(markdown.lines().count(), 4);
    }

    #[test]
    fn what_is_not_judged_is_not_scored() {
        let mut waiting = row("base", 0.0);
        for split in waiting.scores.splits.values_mut() {
            split.exact.mean = f64::NAN;
            split.best_constant_exact.answer.clear();
        }
        let text = comparison(&[waiting], TableStyle::Text);
        assert!(text.contains("unjudged") && !text.contains("NaN"), "{text}");
        assert!(
            text.contains("best constant") && text.contains('–'),
            "{text}"
        );
    }

    #[test]
    fn columns_are_dropped_in_order_until_a_line_fits() {
        let lines = [
            ["model", "all", "format", "questions"],
            ["a long name of a run", "60.0 ± 5.1", "100.0", "1200"],
        ]
        .map(|line| line.map(str::to_owned).to_vec());
        let fit = |columns| fitted(&lines, columns, &[&["questions"], &["format"]]);
        assert_eq!(fit(80), render(&lines, TableStyle::Text));
        assert!(fit(45).contains("lack of width: questions)"), "{}", fit(45));
        for columns in [45, 40, 32, 24] {
            let text = fit(columns);
            assert!(widest(&text) <= columns.max(32), "{columns}: {text}");
            assert!(text.contains("60.0 ± 5.1"), "{text}");
        }
        assert!(fit(24).contains("a lon… a run"), "{}", fit(24));
        let pair = fitted(&lines, 45, &[&["format", "questions"]]);
        let head = pair.lines().next().unwrap();
        assert!(
            !head.contains("format") && !head.contains("questions"),
            "{pair}"
        );
        // It is too long for a line, and goes on in an indented one.
        let said = pair.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("lack of width: format, questions)"), "{pair}");
    }

    #[test]
    fn one_model_by_kind_with_everything_last() {
        let text = details(&row("base", 0.6).scores, TableStyle::Text);
        let first: Vec<&str> = text
            .lines()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(first, ["questions", "inferential", "all"]);
        assert!(text.contains("60.0 ± 5.1"), "{text}");
    }
}
