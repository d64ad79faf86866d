//! A study's tables, for the terminal and the page alike.

use super::Study;
use super::file::Kind;
use super::interval::Covers;
use super::interval::Estimate;
use super::summary::AnswerSummary;
use super::summary::Estimates;
use super::summary::RowSummary;
use super::summary::TrainingSummary;
use super::summary::WindowSummary;
use super::words;
use super::words::NONE;
use crate::eval::table;
use crate::eval::table::TableStyle;
use serde::Serialize;

/// A table with its title.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Table {
    pub(super) title: String,
    pub(super) head: Vec<String>,
    pub(super) lines: Vec<Vec<String>>,
}

impl Table {
    /// Whether it has more than the models' names.
    fn has_values(&self) -> bool {
        self.head.len() > 1
    }
}

type Column = (String, Box<dyn Fn(&RowSummary) -> String>);

/// All that is printed.
pub(super) fn text(study: &Study, style: TableStyle) -> String {
    let mut text = format!("{}\n\n{}\n", study.title, study.summary);
    let mut tables = vec![rows(study)];
    tables.extend(comparisons(study));
    tables.extend(thinking(study));
    tables.extend(details(study));
    tables.extend(ratios(study));
    for one in tables {
        let lines: Vec<Vec<String>> = [one.head].into_iter().chain(one.lines).collect();
        text.push_str(&format!(
            "\n{}\n\n{}",
            one.title,
            table::render(&lines, style)
        ));
    }
    text.push_str(&format!("\n{}\n", legend(study)));
    for (title, lines) in [("missing", &study.missing), ("note", &study.notes)] {
        for line in lines {
            text.push_str(&format!("{title}: {line}\n"));
        }
    }
    text
}

/// How the figures are meant.
pub(super) fn legend(study: &Study) -> String {
    let seeds: Vec<String> = study.seeds.iter().map(u64::to_string).collect();
    let mut text = format!(
        "Means over seeds ({}) with 95 % Student t intervals over seeds; accuracies and shares in %, differences in points.",
        seeds.join(", ")
    );
    if has_one_seed(study) {
        text.push_str(" * one seed: the interval covers the choice of questions only.");
    }
    text
}

fn has_one_seed(study: &Study) -> bool {
    let of_rows = study
        .rows
        .iter()
        .flat_map(|row| [&row.greedy, &row.sampled]);
    let of_rows = of_rows
        .flatten()
        .filter_map(|one| one.accuracy.all.as_ref());
    let of_tests = study
        .comparisons
        .iter()
        .filter_map(|one| one.difference.as_ref());
    of_rows
        .chain(of_tests)
        .any(|one| one.covers == Covers::Questions)
}

/// Accuracy and thinking of each row.
pub(super) fn rows(study: &Study) -> Table {
    let mut columns: Vec<Column> =
        vec![("seeds".to_owned(), Box::new(|row| row.seeds.to_string()))];
    for kind in Kind::EVERY {
        columns.push(answers(
            kind.as_str(),
            false,
            move |one| Some(&one.accuracy),
            kind,
        ));
    }
    for kind in [Kind::Observational, Kind::Inferential] {
        let head = format!("sampled {}", kind.as_str());
        columns.push(answers(&head, true, move |one| Some(&one.accuracy), kind));
    }
    of_columns(
        "Accuracy on the evaluation's questions, greedy unless it says sampled",
        study,
        columns,
    )
}

/// How many answers think, where the study says what thinks.
pub(super) fn thinking(study: &Study) -> Option<Table> {
    let mut columns: Vec<Column> = Vec::new();
    for (is_sampled, how) in [(false, "greedy"), (true, "sampled")] {
        for kind in Kind::EVERY {
            columns.push(answers(
                &format!("{how}, {}", kind.as_str()),
                is_sampled,
                |one| Some(&one.thinking.as_ref()?.share),
                kind,
            ));
        }
    }
    Some(of_columns("Share of answers that think", study, columns)).filter(Table::has_values)
}

/// What is behind the first table: accuracy by thinking, and the trainings.
pub(super) fn details(study: &Study) -> Vec<Table> {
    let mut by_thinking: Vec<Column> = Vec::new();
    for (is_sampled, how) in [(false, "greedy"), (true, "sampled")] {
        for kind in [Kind::Observational, Kind::Inferential] {
            for thinks in [true, false] {
                let head = if thinks { "thinks" } else { "does not" };
                let head = format!("{how} {}, {head}", short(kind));
                by_thinking.push(answers(
                    &head,
                    is_sampled,
                    move |one| accuracy_given(one, thinks),
                    kind,
                ));
            }
        }
    }
    let window = study.window;
    let tables = [
        of_columns(
            "Accuracy of the answers that think and of those that do not",
            study,
            by_thinking,
        ),
        of_columns(
            &format!("Training: sampled completions of the first and the last {window} steps"),
            study,
            training_columns(),
        ),
        of_columns(
            &format!(
                "Training: what it costs. At equal tokens: the last {window} steps before as many are processed as the \
                 shortest training of the compared models has in all"
            ),
            study,
            cost_columns(),
        ),
    ];
    tables.into_iter().filter(Table::has_values).collect()
}

/// The accuracy of those answers that think, or of those that do not.
fn accuracy_given(answers: &AnswerSummary, thinks: bool) -> Option<&Estimates> {
    let thinking = answers.thinking.as_ref()?;
    Some(if thinks {
        &thinking.accuracy_thinking
    } else {
        &thinking.accuracy_not_thinking
    })
}

fn training_columns() -> Vec<Column> {
    let mut columns = vec![training("seeds", |one| one.seeds.to_string())];
    for (what, is_thinking) in [("accuracy", false), ("thinks", true)] {
        for kind in [Kind::Observational, Kind::Inferential] {
            for (when, is_last) in [("first", false), ("last", true)] {
                let head = format!("{what}, {}, {when}", short(kind));
                columns.push(training(&head, move |one| {
                    let window = if is_last { &one.last } else { &one.first };
                    in_window(window, is_thinking, kind)
                }));
            }
        }
    }
    for kind in [Kind::Observational, Kind::Inferential] {
        columns.push(training(
            &format!("KL, {}, last", short(kind)),
            move |one| words::estimate(one.kl.get(kind).as_ref(), 1.0, 3),
        ));
    }
    columns
}

fn cost_columns() -> Vec<Column> {
    let mut columns = vec![
        training("tokens a completion, first", |one| {
            words::estimate(one.first.tokens_per_completion.all.as_ref(), 1.0, 1)
        }),
        training("last", |one| {
            words::estimate(one.last.tokens_per_completion.all.as_ref(), 1.0, 1)
        }),
        training("completion tokens a step", |one| {
            words::estimate(one.completion_tokens_per_step.as_ref(), 1.0, 0)
        }),
        training("million tokens in all", |one| {
            words::estimate(one.total_tokens.as_ref(), 1e-6, 2)
        }),
    ];
    for is_thinking in [false, true] {
        for kind in [Kind::Observational, Kind::Inferential] {
            let what = if is_thinking { "thinks" } else { "accuracy" };
            let head = format!("equal tokens: {what}, {}", short(kind));
            columns.push(training(&head, move |one| {
                let window = one.equal_tokens.as_ref();
                window.map_or_else(
                    || NONE.to_owned(),
                    |window| in_window(window, is_thinking, kind),
                )
            }));
        }
    }
    columns
}

fn in_window(window: &WindowSummary, is_thinking: bool, kind: Kind) -> String {
    let estimates = if is_thinking {
        window.thinking.as_ref()
    } else {
        Some(&window.accuracy)
    };
    words::estimate(estimates.and_then(|one| one.get(kind).as_ref()), 100.0, 1)
}

fn answers(
    head: &str,
    is_sampled: bool,
    of: impl Fn(&AnswerSummary) -> Option<&Estimates> + 'static,
    kind: Kind,
) -> Column {
    let cell = move |row: &RowSummary| {
        let answers = if is_sampled {
            &row.sampled
        } else {
            &row.greedy
        };
        let estimates = answers.as_ref().and_then(&of);
        let estimate = estimates.and_then(|one| one.get(kind).as_ref());
        let fewer = estimate.filter(|one| one.values.len() != row.seeds);
        let seeds = fewer.map_or_else(String::new, |one| format!(" ({})", seeds(one.values.len())));
        format!("{}{seeds}", words::estimate(estimate, 100.0, 1))
    };
    (head.to_owned(), Box::new(cell))
}

fn training(head: &str, cell: impl Fn(&TrainingSummary) -> String + 'static) -> Column {
    let cell = move |row: &RowSummary| {
        let training = row.training.as_ref();
        training.map_or_else(|| NONE.to_owned(), &cell)
    };
    (head.to_owned(), Box::new(cell))
}

fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::Observational => "obs.",
        Kind::Inferential => "inf.",
        Kind::All => "all",
    }
}

fn seeds(count: usize) -> String {
    match count {
        1 => "1 seed".to_owned(),
        count => format!("{count} seeds"),
    }
}

/// A table with a line per row and the columns in which any row has a value.
fn of_columns(title: &str, study: &Study, columns: Vec<Column>) -> Table {
    let mut table = Table {
        title: title.to_owned(),
        head: vec!["model".to_owned()],
        lines: study
            .rows
            .iter()
            .map(|row| vec![row.label.clone()])
            .collect(),
    };
    for (head, cell) in columns {
        let cells: Vec<String> = study.rows.iter().map(cell).collect();
        if cells.iter().all(|cell| cell == NONE) {
            continue;
        }
        table.head.push(head);
        for (line, cell) in table.lines.iter_mut().zip(cells) {
            line.push(cell);
        }
    }
    // What has no runs yet is listed as missing.
    let is_known = |line: &Vec<String>| line[1..].iter().any(|cell| cell != NONE && cell != "0");
    table.lines.retain(is_known);
    table
}

/// The comparisons, if the study names any.
pub(super) fn comparisons(study: &Study) -> Option<Table> {
    let head = [
        "compared",
        "questions",
        "difference",
        "95 % interval",
        "p",
        "expected",
        "verdict",
        "seeds",
        "SD over seeds",
        "SD of questions",
    ];
    let points = |value: Option<f64>| {
        value.map_or_else(|| NONE.to_owned(), |value| words::number(100.0 * value, 1))
    };
    let line = |one: &super::Comparison| {
        let difference = one.difference.as_ref();
        vec![
            format!(
                "{}{}",
                words::compared(one),
                if one.primary { " (primary)" } else { "" }
            ),
            one.kind.as_str().to_owned(),
            difference.map_or_else(|| NONE.to_owned(), |one| words::signed(100.0 * one.mean, 1)),
            words::interval(difference),
            words::p(one.p),
            words::expected(one),
            one.verdict
                .map_or(NONE, super::comparison::Verdict::in_words)
                .to_owned(),
            one.seeds.to_string(),
            points(difference.and_then(|one| one.deviation)),
            points(one.deviation_questions),
        ]
    };
    let known = study.comparisons.iter();
    let known = known.filter(|one| one.primary || one.seeds > 0);
    let lines: Vec<Vec<String>> = known.map(line).collect();
    (!lines.is_empty()).then(|| Table {
        title: "Comparisons, paired by question within a seed: first less second, in points"
            .to_owned(),
        head: head.map(str::to_owned).to_vec(),
        lines,
    })
}

/// Where repulsion acts.
pub(super) fn ratios(study: &Study) -> Option<Table> {
    let ratios = study.ratios.as_ref()?;
    let window = study.window;
    let lines = ratios.kinds.iter().map(|kind| {
        vec![
            kind.label.clone(),
            words::estimate(kind.first.as_ref(), 1.0, 3),
            words::estimate(kind.last.as_ref(), 1.0, 3),
            words::estimate(kind.share.as_ref(), 100.0, 1),
        ]
    });
    Some(Table {
        title: format!(
            "{}: mean log-ratio to the bias model by kind of token, nats ({})",
            ratios.label,
            seeds(ratios.seeds)
        ),
        head: vec![
            "tokens".to_owned(),
            format!("first {window} steps"),
            format!("last {window} steps"),
            "share of tokens, last".to_owned(),
        ],
        lines: lines.collect(),
    })
}

/// Each seed's values: the rows' greedy accuracy and the tests' differences.
pub(super) fn by_seed(study: &Study) -> Vec<Table> {
    let values = |estimate: Option<&Estimate>, shown: fn(f64) -> String| {
        let of = |seed: &u64| Some(shown(100.0 * *estimate?.values.get(seed)?));
        let values = study.seeds.iter();
        let values: Vec<String> = values
            .map(|seed| of(seed).unwrap_or_else(|| NONE.to_owned()))
            .collect();
        values
    };
    let head = |first: &str| {
        let seeds = study.seeds.iter().map(|seed| format!("seed {seed}"));
        [first.to_owned(), "questions".to_owned()]
            .into_iter()
            .chain(seeds)
            .collect()
    };
    let mut accuracies = Vec::new();
    for row in &study.rows {
        for kind in Kind::EVERY {
            let estimate = row
                .greedy
                .as_ref()
                .and_then(|one| one.accuracy.get(kind).as_ref());
            let mut line = vec![row.label.clone(), kind.as_str().to_owned()];
            line.extend(values(estimate, |value| words::number(value, 1)));
            accuracies.push(line);
        }
    }
    let tests = study.comparisons.iter().map(|one| {
        let mut line = vec![
            format!("{} − {}", one.first, one.second),
            one.kind.as_str().to_owned(),
        ];
        line.extend(values(one.difference.as_ref(), |value| {
            words::signed(value, 1)
        }));
        line
    });
    let tests: Vec<Vec<String>> = tests.collect();
    let mut tables = vec![Table {
        title: "Greedy accuracy of each seed".to_owned(),
        head: head("model"),
        lines: accuracies,
    }];
    if !tests.is_empty() {
        tables.push(Table {
            title: "Difference of each seed, in points".to_owned(),
            head: head("compared"),
            lines: tests,
        });
    }
    tables
}
