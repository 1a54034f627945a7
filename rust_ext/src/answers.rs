//! Answers out of responses: what a text says, in the one canonical spelling of its kind.
//!
//! A text that holds no answer, or two different ones, gives null: it is never a vote.

use arrow_array::StringArray;

use crate::arrays::Chunked;
use crate::choice::{self, Options};
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::numbers::{self, DecimalMark};
use crate::parallel::{self, Control, Pace};
use crate::pattern::Pattern;
use crate::strings;
use crate::text::normalize;
use crate::texts::{TextLists, Texts};
use crate::wrapping::unwrapped;

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A letter: A for the row's first option, … Z, AA, …
    MultipleChoice,
    /// One of a closed list of labels.
    Label,
    /// A number in canonical decimal spelling.
    Numeric,
    /// Normalised text.
    Text,
}

impl std::str::FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "multiple_choice" => Self::MultipleChoice,
            "label" => Self::Label,
            "numeric" => Self::Numeric,
            "text" => Self::Text,
            _ => {
                return Err(Error::input(format!(
                    "kind: {name:?} is none of multiple_choice, label, numeric, text"
                )));
            }
        })
    }
}

/// What the answers of a column are compared with.
pub enum Closed<'a> {
    None,
    /// The options of each row (multiple choice).
    Options(&'a Chunked<TextLists>),
    /// The labels of the task.
    Labels(&'a Labels),
}

impl<'a> Closed<'a> {
    /// Raises an error for what the kind lacks or cannot use.
    pub fn new(
        kind: Kind,
        options: Option<&'a Chunked<TextLists>>,
        labels: Option<&'a Labels>,
    ) -> Result<Self> {
        match (kind, options, labels) {
            (Kind::MultipleChoice, Some(options), None) => Ok(Self::Options(options)),
            (Kind::Label, None, Some(labels)) => Ok(Self::Labels(labels)),
            (Kind::Label, _, None) => Err(Error::input("kind label needs labels")),
            (_, None, None) => Ok(Self::None),
            _ => Err(Error::input("options are for multiple_choice alone, labels for label")),
        }
    }
}

/// The canonical answer of each text; numbers are read by the decimal mark.
pub fn extract(
    texts: &Chunked<Texts>,
    kind: Kind,
    mark: DecimalMark,
    pattern: Option<&Pattern>,
    closed: &Closed<'_>,
    control: &Control,
) -> Result<StringArray> {
    if let Closed::Options(options) = closed
        && options.len() != texts.len()
    {
        let (have, need) = (options.len(), texts.len());
        return Err(Error::input(format!("options has {have} rows, texts has {need}")));
    }
    strings::column(texts.len(), control, |rows, answers| {
        let mut pattern = pattern.cloned();
        let mut reader = Reader::new(kind, mark, closed);
        let mut pace = Pace::new(control);
        for row in rows {
            let Some(text) = texts.get(row) else {
                answers.push(None);
                continue;
            };
            pace.spend(text.len())?;
            let candidate = Pattern::narrow(&mut pattern, text, control)?;
            answers.push(reader.read(candidate, row));
        }
        Ok(())
    })
}

/// Whether the last number of each text can be read in two ways; see `numbers::read`.
pub fn ambiguous(
    texts: &Chunked<Texts>,
    mark: DecimalMark,
    pattern: Option<&Pattern>,
    control: &Control,
) -> Result<Vec<bool>> {
    let mut out = vec![false; texts.len()];
    parallel::fill(&mut out[..], control, |start, rows| {
        let mut pattern = pattern.cloned();
        let mut pace = Pace::new(control);
        for (i, out) in rows.iter_mut().enumerate() {
            let Some(text) = texts.get(start + i) else { continue };
            pace.spend(text.len())?;
            let candidate = Pattern::narrow(&mut pattern, text, control)?;
            *out = numbers::read(candidate, mark) == numbers::Reading::Ambiguous;
        }
        Ok(())
    })?;
    Ok(out)
}

/// Reads one text after another; keeps the last answer.
struct Reader<'a> {
    kind: Kind,
    mark: DecimalMark,
    closed: &'a Closed<'a>,
    options: Options<'a>,
    answer: String,
}

impl<'a> Reader<'a> {
    fn new(kind: Kind, mark: DecimalMark, closed: &'a Closed<'a>) -> Self {
        let options = match closed {
            Closed::Options(options) => Some(*options),
            _ => None,
        };
        Self { kind, mark, closed, options: Options::new(options), answer: String::new() }
    }

    fn read(&mut self, text: &str, row: usize) -> Option<&str> {
        self.answer = match (self.kind, self.closed) {
            (Kind::MultipleChoice, _) => {
                let index = self.options.choose(text, row)?;
                choice::letter_into(index, &mut self.answer);
                return Some(&self.answer);
            }
            (Kind::Label, Closed::Labels(labels)) => return labels.find(text),
            (Kind::Label, _) => return None,
            (Kind::Numeric, _) => numbers::read(text, self.mark).number()?,
            (Kind::Text, _) => normalize(unwrapped(text)),
        };
        Some(self.answer.as_str()).filter(|text| !text.is_empty())
    }
}

/// Whether two answers of a kind say the same.
pub fn same(a: &str, b: &str, kind: Kind, tolerance: f64) -> bool {
    match kind {
        Kind::MultipleChoice => a.trim().eq_ignore_ascii_case(b.trim()),
        Kind::Label | Kind::Text => a == b || normalize(a) == normalize(b),
        Kind::Numeric => match (numbers::last_number(a), numbers::last_number(b)) {
            (Some(a), Some(b)) if a == b => true,
            (Some(a), Some(b)) if tolerance > 0.0 => {
                let values = numbers::value(&a).zip(numbers::value(&b));
                values.is_some_and(|(a, b)| numbers::close(a, b, tolerance))
            }
            (Some(_), Some(_)) => false,
            // A gold answer of a numeric task may be a word ("none").
            (None, None) => normalize(a) == normalize(b),
            _ => false,
        },
    }
}

/// `same` for each row; null equals nothing.
pub fn equal(
    left: &Chunked<Texts>,
    right: &Chunked<Texts>,
    kind: Kind,
    tolerance: f64,
    control: &Control,
) -> Result<Vec<bool>> {
    if left.len() != right.len() {
        return Err(Error::input(format!("left has {} rows, right {}", left.len(), right.len())));
    }
    if !(tolerance >= 0.0 && tolerance.is_finite()) {
        return Err(Error::input(format!("relative_tolerance: {tolerance} is not a share")));
    }
    let mut out = vec![false; left.len()];
    parallel::fill(&mut out[..], control, |start, rows| {
        let mut pace = Pace::new(control);
        for (i, out) in rows.iter_mut().enumerate() {
            if let Some((a, b)) = left.get(start + i).zip(right.get(start + i)) {
                pace.spend(a.len() + b.len())?;
                *out = same(a, b, kind, tolerance);
            }
        }
        Ok(())
    })?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_follows_the_kind() {
        assert!(same("b", " B ", Kind::MultipleChoice, 0.0));
        assert!(same("45%", "0.450", Kind::Numeric, 0.0));
        assert!(!same("100", "101", Kind::Numeric, 0.0));
        assert!(same("100", "101", Kind::Numeric, 0.01));
        assert!(same("The cat", "cat.", Kind::Text, 0.0));
        assert!(same("None", "none", Kind::Numeric, 0.0));
        assert!(!same("1e9999", "2e9999", Kind::Numeric, 0.0));
    }
}
