//! Faults found in a configuration, and how they are shown.
//!
//! A [`Fault`] says what is wrong, where, and what would be right; [`ConfigErrors`] holds all that
//! one reading found, together with the text they point into, and renders them with the offending
//! words underlined. Nothing here knows what any word means.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, renderer::DecorStyle};

/// Where in the text a word stands, in bytes.
pub type Span = Range<usize>;

/// How many faults are shown at once: nobody reads more, and a hostile file could hold a million.
const SHOWN_MAX: usize = 50;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    title: String,
    primary: Option<(Span, String)>,
    related: Vec<(Span, String)>,
    help: Option<String>,
}

impl Fault {
    /// A fault at a place in the text.
    pub fn at(span: Span, title: impl Into<String>) -> Fault {
        Fault {
            primary: Some((span, String::new())),
            ..Fault::new(title)
        }
    }

    /// A fault that has no place in a text, such as a file that cannot be read.
    pub fn new(title: impl Into<String>) -> Fault {
        Fault {
            title: title.into(),
            primary: None,
            related: Vec::new(),
            help: None,
        }
    }

    /// Says more, right at the underlined words.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Fault {
        if let Some((_, text)) = &mut self.primary {
            *text = label.into();
        }
        self
    }

    /// Shows another place that has to do with it.
    #[must_use]
    pub fn with(mut self, span: Span, label: impl Into<String>) -> Fault {
        self.related.push((span, label.into()));
        self
    }

    /// Says what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }

    /// What is wrong, in one sentence.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Where it is wrong, if it has a place.
    pub fn span(&self) -> Option<Span> {
        self.primary.as_ref().map(|(span, _)| span.clone())
    }
}

/// Everything that one reading of a configuration found wrong; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    origin: String,
    text: String,
    faults: Vec<Fault>,
}

impl ConfigErrors {
    /// Sorts the faults by place and drops those that repeat one (a template that expands to
    /// many ports makes the same mistake many times).
    pub(super) fn new(origin: &str, text: &str, mut faults: Vec<Fault>) -> ConfigErrors {
        faults.sort_by_key(|f| f.span().map_or(usize::MAX, |s| s.start));
        let mut seen = HashSet::new();
        faults.retain(|f| {
            let place = f.span().map(|s| {
                (
                    s,
                    f.related.iter().map(|(s, _)| s.clone()).collect::<Vec<_>>(),
                )
            });
            let words = if f.related.is_empty() {
                f.title.clone()
            } else {
                String::new()
            };
            seen.insert((place, words))
        });
        ConfigErrors {
            origin: origin.to_owned(),
            text: text.to_owned(),
            faults,
        }
    }

    /// The faults, in the order of the text.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The faults as text for a person: file, line, the words underlined, and a help line.
    pub fn render(&self, coloured: bool) -> String {
        let renderer = if coloured {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for fault in self.faults.iter().take(SHOWN_MAX) {
            if !out.is_empty() {
                out.push_str("\n\n");
            }
            out.push_str(&renderer.render(&[self.group(fault)]));
        }
        if let Some(more) = self
            .faults
            .len()
            .checked_sub(SHOWN_MAX)
            .filter(|more| *more > 0)
        {
            let title = Level::ERROR.primary_title(format!("{more} more like these"));
            out.push_str("\n\n");
            out.push_str(&renderer.render(&[Group::with_title(title)]));
        }
        out
    }

    fn group<'a>(&'a self, fault: &'a Fault) -> Group<'a> {
        let mut group = Group::with_title(Level::ERROR.primary_title(fault.title.as_str()));
        if let Some((span, label)) = &fault.primary {
            let mut snippet = Snippet::source(self.text.as_str())
                .path(self.origin.as_str())
                .annotation(
                    AnnotationKind::Primary
                        .span(self.within(span))
                        .label(some(label)),
                );
            for (span, label) in &fault.related {
                snippet = snippet.annotation(
                    AnnotationKind::Context
                        .span(self.within(span))
                        .label(some(label)),
                );
            }
            group = group.element(snippet);
        }
        if let Some(help) = &fault.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        group
    }

    /// The span cut to the text and to whole characters, as the renderer needs it.
    fn within(&self, span: &Span) -> Span {
        let floor = |at: usize| {
            let at = at.min(self.text.len());
            (0..=at)
                .rev()
                .find(|&i| self.text.is_char_boundary(i))
                .unwrap_or(0)
        };
        let start = floor(span.start);
        start..floor(span.end).max(start)
    }
}

fn some(label: &str) -> Option<&str> {
    (!label.is_empty()).then_some(label)
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for ConfigErrors {}

/// "did you mean …?" for a misspelt name, or the names there are.
pub fn suggest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    known.dedup();
    let close = known
        .iter()
        .map(|name| (distance(wrong, name), *name))
        .filter(|(d, name)| *d <= name.chars().count().max(3) / 3)
        .min();
    if let Some((_, name)) = close {
        return Some(format!("did you mean `{name}`?"));
    }
    match known.as_slice() {
        [] => None,
        [only] => Some(format!("there is only `{only}`")),
        many if many.len() <= 12 => Some(format!("there are `{}`", many.join("`, `"))),
        many => Some(format!(
            "there are `{}` and {} more",
            many[..8].join("`, `"),
            many.len() - 8
        )),
    }
}

/// Edit distance with swapped neighbours as one edit, without regard to case. Long names are not
/// compared: their cost is quadratic and nobody mistypes them by a letter.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
