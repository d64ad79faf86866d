//! The text of an SVG picture.

use std::fmt::Display;

/// Width of a letter of a picture's text, about: 12.5 pixels of a system's sans-serif.
const LETTER: f64 = 7.2;
/// How much wider bold text is.
const BOLD: f64 = 1.15;

/// How wide a text is, about.
pub(super) fn text_width(text: &str) -> f64 {
    LETTER * text.chars().count() as f64
}

/// The same of bold text.
pub(super) fn bold_width(text: &str) -> f64 {
    BOLD * text_width(text)
}

/// As [`fitting`], for bold text.
pub(super) fn fitting_bold(text: &str, width: f64) -> String {
    fitting(text, width / BOLD)
}

/// A text that fits into `width`; the end of a longer one is left out.
pub(super) fn fitting(text: &str, width: f64) -> String {
    let letters = (width / LETTER).floor().max(1.0) as usize;
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let kept: String = text.chars().take(letters - 1).collect();
    format!("{}…", kept.trim_end())
}

/// Text as it stands in XML.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // No XML has these, not even escaped.
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {
                safe.push(' ');
            }
            letter => safe.push(letter),
        }
    }
    safe
}

/// Where a text stands from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture that is being drawn.
#[derive(Debug)]
pub(super) struct Svg(Picture);

/// A picture that is drawn.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    id: String,
    width: f64,
    height: f64,
    head: String,
    body: String,
}

impl Picture {
    /// Its own in the page, and a name for its file.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// It as an element of a page that has [`super::STYLE`].
    pub(crate) fn element(&self) -> String {
        self.svg("", "")
    }

    /// It as a file of its own on paper of its own, light or dark as the reader's screen is.
    pub(crate) fn file(&self) -> String {
        let (width, height) = (number(self.width), number(self.height));
        let size = format!(".chart {{ width: {width}px; height: {height}px; }}");
        let style = format!("{}{size}\n.paper {{ fill: var(--paper); }}", super::STYLE);
        self.svg(
            &format!(
                "xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" "
            ),
            &format!(
                "<style>\n{style}\n</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
            ),
        )
    }

    fn svg(&self, attributes: &str, first: &str) -> String {
        let (width, height) = (number(self.width), number(self.height));
        format!(
            "<svg {attributes}class=\"chart\" viewBox=\"0 0 {width} {height}\" {}{first}{}</svg>\n",
            self.head, self.body
        )
    }
}

impl Svg {
    /// An empty picture. `id` is its own in the page; title and description are what a screen reader reads.
    pub(super) fn new(width: f64, height: f64, id: &str, title: &str, description: &str) -> Self {
        let (own, title, description) = (escaped(id), escaped(title), escaped(description));
        let head = format!(
            "role=\"img\" aria-labelledby=\"{own}-title {own}-description\">\n<title id=\"{own}-title\">{title}</title>\n\
             <desc id=\"{own}-description\">{description}</desc>\n"
        );
        Self(Picture {
            id: id.to_owned(),
            width,
            height,
            head,
            body: String::new(),
        })
    }

    pub(super) fn finish(self) -> Picture {
        self.0
    }

    fn push(&mut self, element: &str) {
        self.0.body.push_str(element);
        self.0.body.push('\n');
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.path(class, &[from, to], false);
    }

    /// A line through points, or the area that they enclose.
    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)], is_closed: bool) {
        let steps = points.iter().enumerate().map(|(index, (x, y))| {
            let step = if index == 0 { 'M' } else { 'L' };
            format!("{step}{} {}", number(*x), number(*y))
        });
        let steps: String = steps.collect();
        let end = if is_closed { "Z" } else { "" };
        self.push(&format!("<path class=\"{class}\" d=\"{steps}{end}\"/>"));
    }

    pub(super) fn rectangle(&mut self, class: &str, at: (f64, f64), width: f64, height: f64) {
        self.push(&format!(
            "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>",
            number(at.0),
            number(at.1),
            number(width.max(0.0)),
            number(height.max(0.0))
        ));
    }

    /// Text whose middle line is at the height of `at`.
    pub(super) fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        // Not dominant-baseline, which not every viewer knows.
        let (x, y) = (number(at.0), number(at.1 + 4.3));
        let text = escaped(text);
        self.push(&format!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    /// The mark of a series: each style has a shape of its own.
    pub(super) fn mark(&mut self, style: usize, (x, y): (f64, f64)) {
        let class = format!("mark {}", series_class(style));
        let corners: &[(f64, f64)] = match shape(style) {
            1 => &[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)],
            2 => &[(0.0, -5.0), (5.0, 4.0), (-5.0, 4.0)],
            3 => &[(0.0, -5.5), (5.5, 0.0), (0.0, 5.5), (-5.5, 0.0)],
            4 => &[(0.0, 5.0), (5.0, -4.0), (-5.0, -4.0)],
            5 => &[(-5.0, -2.0), (5.0, -2.0), (5.0, 2.0), (-5.0, 2.0)],
            _ => {
                let (x, y) = (number(x), number(y));
                return self.push(&format!(
                    "<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"4.5\"/>"
                ));
            }
        };
        let points: Vec<(f64, f64)> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
        self.path(&class, &points, true);
    }
}

/// Looks that series have by turns.
const STYLES: usize = 6;

/// The classes that give a series its look: a colour, and a dash that is another when the colours come again.
pub(super) fn series_class(style: usize) -> String {
    format!("series-{} dash-{}", style % STYLES, shape(style))
}

fn shape(style: usize) -> usize {
    (style + style / STYLES) % STYLES
}

/// A coordinate. What is no number would make the whole path disappear.
fn number(value: f64) -> impl Display {
    let value = if value.is_finite() { value } else { 0.0 };
    (value * 100.0).round() / 100.0 + 0.0
}
