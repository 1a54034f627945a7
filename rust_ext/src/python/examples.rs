//! Kernels over the rows of each example.

use std::ffi::CString;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    StringArray, UInt64Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field};
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;

use super::column::Column;
use super::run::{Size, run};
use super::{batch_to_pyarrow, nullable_floats, to_pyarrow};
use crate::arrays::Chunked;
use crate::consensus::{Verdicts, Votes};
use crate::distribution::{self, Distributions};
use crate::error::{Error, Result};
use crate::scores::{Score, score};
use crate::texts::Texts;
use crate::{alignment, consensus as votes, groups, ranks};

/// The rows of a table by example: examples in the byte order of their ids, the rows of one example
/// in the order of the table, wherever in the table they lie.
///
/// Raises ValueError with the row for a null id.
#[pyclass(frozen, module = "semievol_ray._native")]
pub struct Groups {
    pub groups: groups::Groups,
    ids: Chunked<Texts>,
}

impl Groups {
    fn size(&self) -> Size {
        let rows = self.groups.rows();
        Size { rows, bytes: rows }
    }
}

#[pymethods]
impl Groups {
    #[new]
    fn new(py: Python<'_>, example_ids: &Bound<'_, PyAny>) -> PyResult<Self> {
        let column = Column::new("example_ids", example_ids)?;
        run(py, column.size(), |control| {
            let ids = column.ids(control)?;
            Ok(Self { groups: column.named(groups::Groups::new(&ids, control))?, ids })
        })
    }

    /// The id of each example, as strings.
    fn ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let ids = run(py, self.size(), |control| self.groups.ids(&self.ids, control))?;
        to_pyarrow(py, ids)
    }

    /// How many examples there are.
    fn __len__(&self) -> usize {
        self.groups.len()
    }

    /// The first row of each example, as int64.
    fn first_rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_pyarrow(py, Int64Array::from_iter_values(self.groups.first_rows().map(|row| row as i64)))
    }

    /// Whether any row of each example has true, or a number above 0; null is false.
    fn any<'py>(&self, py: Python<'py>, values: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let values = Column::new("values", values)?;
        let any = run(py, values.size(), |control| {
            let flags = self.flags(&values)?;
            Ok(BooleanArray::from(self.groups.any(&flags, control)?))
        })?;
        to_pyarrow(py, any)
    }

    /// For each example the first row that it has in `others`, as int64; null where it has none.
    ///
    /// Raises ValueError for an example of `others` that is none of these.
    fn rows_in<'py>(&self, py: Python<'py>, others: &Groups) -> PyResult<Bound<'py, PyAny>> {
        let rows = run(py, self.size() + others.size(), |_| {
            let (rows, stray) = self.groups.rows_in(&self.ids, &others.groups, &others.ids);
            match stray {
                Some(id) => Err(Error::input(format!("example '{id}' has no responses"))),
                None => Ok(rows),
            }
        })?;
        let rows: Int64Array = rows.into_iter().map(|row| row.map(|row| row as i64)).collect();
        to_pyarrow(py, rows)
    }

    /// All that is known of each example from its responses, in one pass: `example_id`, the columns
    /// of `consensus` over `answers` and the mean NLL of `token_logprobs`, and `responded`, whether
    /// any of its rows has `tokens` (null is none). Errors are those of the parts.
    #[pyo3(signature = (answers, tokens, token_logprobs, *, tolerance=0.0))]
    fn examples<'py>(
        &self,
        py: Python<'py>,
        answers: &Bound<'py, PyAny>,
        tokens: &Bound<'py, PyAny>,
        token_logprobs: &Bound<'py, PyAny>,
        tolerance: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (answers, tokens) = (Column::new("answer", answers)?, Column::new("tokens", tokens)?);
        let logprobs = Column::new("token_logprobs", token_logprobs)?;
        let columns = run(py, self.size() + answers.size() + logprobs.size(), |control| {
            let nll = score(&logprobs.float_lists(control)?, Score::MeanNll, control);
            let (nll, answers) = (logprobs.named(nll)?.values, answers.texts(control)?);
            let given = Votes { answers: &answers, nll: &nll, weights: None, tolerance };
            let verdicts = votes::consensus(&self.groups, &given, control)?;
            let winners = votes::winners(&verdicts, &answers, control)?;
            let responded = self.groups.any(&self.flags(&tokens)?, control)?;
            let mut columns = verdict_columns(verdicts, winners);
            columns.push(("example_id", Arc::new(self.groups.ids(&self.ids, control)?)));
            columns.push(("responded", Arc::new(BooleanArray::from(responded))));
            Ok(columns)
        })?;
        batch_to_pyarrow(py, columns)
    }
}

impl Groups {
    /// A flag for each row.
    fn flags(&self, values: &Column) -> Result<Vec<bool>> {
        let flags = values.booleans()?;
        let (have, need) = (flags.len(), self.groups.rows());
        if have != need {
            return Err(Error::input(format!("{need} example ids, but {have} {}", values.name)));
        }
        Ok(flags)
    }
}

/// What the collaborators of each example agree on: a record batch with a row for each example.
///
/// `winner` is the winning answer, `winner_row` the row of its vote with the lowest NLL and
/// `winner_nll` that NLL, `first_nll` the NLL of the first vote (all null without votes), `n_valid`
/// the number of votes, `agreement` the winner's share of their weight, `margin` that less the
/// runner-up's, `vote_entropy` -sum(p ln p) in nats.
/// Null answers and weights of 0 are no votes. The winner has the largest weight; ties go to the
/// lower NLL, then to the answer given first. Numbers within `tolerance` (relative), or linked by
/// a chain of such, count as one answer. Raises ValueError with the row for a negative weight.
#[pyfunction]
#[pyo3(signature = (groups, answers, nll, *, weights=None, tolerance=0.0))]
pub fn consensus<'py>(
    py: Python<'py>,
    groups: &Groups,
    answers: &Bound<'py, PyAny>,
    nll: &Bound<'py, PyAny>,
    weights: Option<&Bound<'py, PyAny>>,
    tolerance: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let (answers, nll) = (Column::new("answers", answers)?, Column::new("nll", nll)?);
    let weights = Column::optional("weights", weights)?;
    let columns = run(py, groups.size() + answers.size(), |control| {
        let (answers, nll) = (answers.texts(control)?, nll.floats()?);
        let weights = weights.as_ref().map(Column::floats).transpose()?;
        let nll = nll.as_ref();
        let given = Votes { answers: &answers, nll, weights: weights.as_deref(), tolerance };
        let verdicts = votes::consensus(&groups.groups, &given, control)?;
        let winners = votes::winners(&verdicts, &answers, control)?;
        Ok(verdict_columns(verdicts, winners))
    })?;
    batch_to_pyarrow(py, columns)
}

fn verdict_columns(verdicts: Verdicts, winners: StringArray) -> Vec<(&'static str, ArrayRef)> {
    let float = |values: Vec<f64>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
    let voted = NullBuffer::from_iter(verdicts.winner_row.iter().map(|row| *row >= 0));
    let winner_row = Int64Array::new(verdicts.winner_row.into(), Some(voted));
    vec![
        ("winner", Arc::new(winners)),
        ("winner_row", Arc::new(winner_row)),
        ("winner_nll", Arc::new(nullable_floats(verdicts.winner_nll))),
        ("first_nll", Arc::new(nullable_floats(verdicts.first_nll))),
        ("n_valid", Arc::new(Int32Array::from(verdicts.n_valid))),
        ("agreement", float(verdicts.agreement)),
        ("margin", float(verdicts.margin)),
        ("vote_entropy", float(verdicts.vote_entropy)),
    ]
}

/// For each example the mean over its rows of softmax(option_logprobs), as list<float32>.
///
/// Null and empty lists are left out, and the result is null where all are; a null in a list is a
/// probability of 0. Raises ValueError with the row for NaN, for values above 0, for lists of
/// different lengths within an example, and for more options than `classes`.
#[pyfunction]
pub fn average_options<'py>(
    py: Python<'py>,
    groups: &Groups,
    option_logprobs: &Bound<'py, PyAny>,
    classes: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let logprobs = Column::new("option_logprobs", option_logprobs)?;
    let lists = run(py, groups.size() + logprobs.size(), |control| {
        let lists = logprobs.float_lists(control)?;
        let mean = distribution::combine(&groups.groups, &lists, None, classes, control);
        logprobs.named(mean).and_then(to_lists)
    })?;
    to_pyarrow(py, lists)
}

/// For each example the log-linear pool of its rows, as list<float32>: proportional to the product
/// of softmax(option_logprobs)^w over the rows, w of `weights`.
///
/// A probability counts as 1e-6 at least: no voter rules an option out. Null and empty lists, and
/// rows of weight 0, are left out; the result is null where all are. Raises ValueError as
/// `average_options` does, and with the row for a weight that is negative or not finite.
#[pyfunction]
pub fn pool_options<'py>(
    py: Python<'py>,
    groups: &Groups,
    option_logprobs: &Bound<'py, PyAny>,
    weights: &Bound<'py, PyAny>,
    classes: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let logprobs = Column::new("option_logprobs", option_logprobs)?;
    let weights = Column::new("weights", weights)?;
    let lists = run(py, groups.size() + logprobs.size(), |control| {
        let lists = logprobs.float_lists(control)?;
        let weights = weights.floats()?;
        let pool = distribution::combine(&groups.groups, &lists, Some(&weights), classes, control);
        logprobs.named(pool).and_then(to_lists)
    })?;
    to_pyarrow(py, lists)
}

/// The class weights w with which the mean over the rows of p_c w_c / sum_k p_k w_k is the prior, by
/// iterated scaling: w_c becomes w_c * prior_c / mean_c until the means are within 1e-9 of it.
///
/// `distributions` holds lists of probabilities, a null list is left out. `prior` is normalised over
/// the classes that some row can be; without any of them all weights are 1. Rows that rule classes
/// out may put the prior out of reach: then the weights are those that came nearest (never further
/// from it than no weights), and a UserWarning says how far that is. The largest weight is 1, all
/// are finite, and 0 is that of a class of prior 0. Raises ValueError for a prior with a share that
/// is negative or not finite, or without a positive one.
#[pyfunction]
pub fn alignment_weights(
    py: Python<'_>,
    distributions: &Bound<'_, PyAny>,
    prior: Vec<f64>,
) -> PyResult<Vec<f64>> {
    let lists = Column::new("distributions", distributions)?;
    let found = run(py, lists.size(), |control| {
        let given = distribution::from_lists(&lists.float_lists(control)?, prior.len());
        alignment::alignment(&lists.named(given)?, &prior, control)
    })?;
    if found.distance > FAR && lists.rows() > 0 {
        let message = format!(
            "the prior is out of reach: the rows rule classes out, and their mean stays {:.2} % of \
             the probability away from it",
            100.0 * found.distance
        );
        let warning = py.get_type::<PyUserWarning>();
        PyErr::warn(py, &warning, &CString::new(message)?, 1)?;
    }
    Ok(found.weights)
}

/// Means that stay this far from the prior are worth a warning.
const FAR: f64 = 1e-4;

/// Each distribution under class weights, normalised anew: a record batch of `distribution`, the
/// most probable `class` (the first of equal ones, as int32) and its `probability` (float32).
///
/// All three are null where there is no distribution, or none of its mass has a weight. Raises
/// ValueError for weights that are negative, not finite, or all 0.
#[pyfunction]
pub fn align_options<'py>(
    py: Python<'py>,
    distributions: &Bound<'py, PyAny>,
    weights: Vec<f64>,
) -> PyResult<Bound<'py, PyAny>> {
    let lists = Column::new("distributions", distributions)?;
    let columns = run(py, lists.size(), |control| {
        let given = distribution::from_lists(&lists.float_lists(control)?, weights.len());
        let given = lists.named(given)?;
        let (scaled, best) = alignment::apply(&given, &weights, control)?;
        let class: Int32Array = best.iter().map(|best| best.map(|b| b.0 as i32)).collect();
        let probability: Float32Array = best.iter().map(|best| best.map(|b| b.1)).collect();
        Ok(vec![
            ("distribution", Arc::new(to_lists(scaled)?) as ArrayRef),
            ("class", Arc::new(class) as ArrayRef),
            ("probability", Arc::new(probability) as ArrayRef),
        ])
    })?;
    batch_to_pyarrow(py, columns)
}

fn to_lists(p: Distributions) -> Result<ListArray> {
    let valid = NullBuffer::from_iter((0..p.len()).map(|i| !p.get(i).is_empty()));
    let offsets = p.offsets.iter().map(|&offset| i32::try_from(offset));
    let offsets: Vec<i32> = offsets
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| Error::input("more than 2^31 probabilities: pass fewer rows"))?;
    let field = Arc::new(Field::new("item", DataType::Float32, true));
    let values = Arc::new(Float32Array::from(p.values));
    Ok(ListArray::new(field, OffsetBuffer::new(offsets.into()), values, Some(valid)))
}

/// A hash of each id, as uint64: the same on every machine and in every version.
#[pyfunction]
pub fn hash_ids<'py>(
    py: Python<'py>,
    example_ids: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let ids = Column::new("example_ids", example_ids)?;
    let hashes =
        run(py, ids.size(), |control| ids.named(ranks::hashes(&ids.ids(control)?, control)))?;
    to_pyarrow(py, UInt64Array::from(hashes))
}
