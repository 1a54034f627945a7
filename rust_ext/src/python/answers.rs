//! Extraction and comparison of answers.

use arrow_array::BooleanArray;
use pyo3::prelude::*;

use super::column::Column;
use super::run::{run, to_py_error};
use super::to_pyarrow;
use crate::answers::{Closed, Kind, ambiguous, equal, extract};
use crate::labels::Labels;
use crate::numbers::DecimalMark;
use crate::pattern::Pattern;
use crate::written::written;

/// The canonical answer of each text; null where it holds none, or two different ones.
///
/// `pattern` (Rust regex syntax) narrows a text to its last match's last group that took part; a
/// text without a match is taken whole. Then, by `kind`:
///
/// - "multiple_choice": the letter (A ... Z, AA ...) of the option that is picked by its letter
///   ("B", "(b)", "B) text", "The answer is B"), its text, or its number alone. `options` holds the
///   options of each row; without it a letter alone counts. A text that names two options, or
///   denies the one it names, has none.
/// - "label": the one of `labels` that the text is after normalisation, or the only one that it
///   contains in whole words (at each word the longest).
/// - "numeric": a number in canonical decimal spelling: what the last \\boxed{} holds alone; else one
///   that the text states as its answer ("#### 42", "The answer is 42.", <answer>, JSON's "answer")
///   with nothing but a remark behind it; else the last one. "45%" is 0.45, "(3.2)" is -3.2,
///   "3x10^5" is 300000. `decimal_mark` is "." or ","; what can be read in two ways ("1,5" with
///   ".", "1/2") is null, and `ambiguous_numbers` says so.
/// - "text": the text, out of \\boxed{}, <answer> and "Answer:", in NFKC and folded case, without
///   punctuation, articles and what nobody sees; null when empty.
///
/// Raises ValueError for a pattern that does not compile, for labels that are equal after
/// normalisation, and for options or labels that are missing or of no use to the kind.
#[pyfunction]
#[pyo3(signature = (texts, *, kind, pattern=None, options=None, labels=None, decimal_mark="."))]
pub fn extract_answers<'py>(
    py: Python<'py>,
    texts: &Bound<'py, PyAny>,
    kind: &str,
    pattern: Option<&str>,
    options: Option<&Bound<'py, PyAny>>,
    labels: Option<Vec<String>>,
    decimal_mark: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let texts = Column::new("texts", texts)?;
    let options = Column::optional("options", options)?;
    let kind: Kind = kind.parse().map_err(to_py_error)?;
    let mark: DecimalMark = decimal_mark.parse().map_err(to_py_error)?;
    let size = options.iter().fold(texts.size(), |size, options| size + options.size());
    let answers = run(py, size, |control| {
        let pattern = pattern.map(Pattern::new).transpose()?;
        let options = options.as_ref().map(|options| options.text_lists(control)).transpose()?;
        let labels = labels.map(Labels::new).transpose()?;
        let closed = Closed::new(kind, options.as_ref(), labels.as_ref())?;
        extract(&texts.texts(control)?, kind, mark, pattern.as_ref(), &closed, control)
    })?;
    to_pyarrow(py, answers)
}

/// The answer of each text as it is written, for the kinds "numeric" and "text"; null where
/// `extract_answers`, with the same arguments, is null.
///
/// Of a number its digits with sign, currency and percent; a text that begins with its number and
/// has three words at most is taken whole ("5 million dollars"), and so is every other text, but for
/// white space around it. Raises ValueError for another kind.
#[pyfunction]
#[pyo3(signature = (texts, *, kind, pattern=None, decimal_mark="."))]
pub fn written_answers<'py>(
    py: Python<'py>,
    texts: &Bound<'py, PyAny>,
    kind: &str,
    pattern: Option<&str>,
    decimal_mark: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let texts = Column::new("texts", texts)?;
    let kind: Kind = kind.parse().map_err(to_py_error)?;
    let mark: DecimalMark = decimal_mark.parse().map_err(to_py_error)?;
    let answers = run(py, texts.size(), |control| {
        let pattern = pattern.map(Pattern::new).transpose()?;
        written(&texts.texts(control)?, kind, mark, pattern.as_ref(), control)
    })?;
    to_pyarrow(py, answers)
}

/// For each text whether its last number can be read in two ways, such as "1,5" or "1.234,5" with a
/// decimal point: `extract_answers` gives null for it. `pattern` and `decimal_mark` as there.
#[pyfunction]
#[pyo3(signature = (texts, *, pattern=None, decimal_mark="."))]
pub fn ambiguous_numbers<'py>(
    py: Python<'py>,
    texts: &Bound<'py, PyAny>,
    pattern: Option<&str>,
    decimal_mark: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let texts = Column::new("texts", texts)?;
    let mark: DecimalMark = decimal_mark.parse().map_err(to_py_error)?;
    let flags = run(py, texts.size(), |control| {
        let pattern = pattern.map(Pattern::new).transpose()?;
        let texts = texts.texts(control)?;
        ambiguous(&texts, mark, pattern.as_ref(), control).map(BooleanArray::from)
    })?;
    to_pyarrow(py, flags)
}

/// Whether two columns of answers say the same, row by row; null equals nothing.
///
/// "multiple_choice" compares letters, "label" and "text" normalised texts, "numeric" numbers: equal
/// where |a - b| <= relative_tolerance * max(|a|, |b|), which is not transitive above 0; answers that
/// are no numbers are compared as texts. Raises ValueError for columns of different lengths.
#[pyfunction]
#[pyo3(signature = (left, right, *, kind, relative_tolerance=0.0))]
pub fn answers_equal<'py>(
    py: Python<'py>,
    left: &Bound<'py, PyAny>,
    right: &Bound<'py, PyAny>,
    kind: &str,
    relative_tolerance: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let (left, right) = (Column::new("left", left)?, Column::new("right", right)?);
    let kind: Kind = kind.parse().map_err(to_py_error)?;
    let same = run(py, left.size() + right.size(), |control| {
        let (left, right) = (left.texts(control)?, right.texts(control)?);
        equal(&left, &right, kind, relative_tolerance, control).map(BooleanArray::from)
    })?;
    to_pyarrow(py, same)
}
