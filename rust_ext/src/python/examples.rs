//! Kernels over the rows of each example.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    StringArray, UInt64Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field};
use pyo3::prelude::*;
use pyo3_arrow::input::AnyArray;

use super::run::run;
use super::{batch_to_pyarrow, booleans, chunks, floats, nullable, rows, to_pyarrow};
use crate::arrays::{float_lists, texts};
use crate::consensus::{Verdicts, Votes};
use crate::distribution::{self, Distributions};
use crate::error::{Error, Result};
use crate::{consensus as votes, groups, ranks};

/// The rows of a table by example: examples in the byte order of their ids, the rows of one example
/// in the order of the table, wherever in the table they lie.
///
/// Raises ValueError with the row for a null id.
#[pyclass(frozen, module = "semievol_ray._native")]
pub struct Groups {
    pub groups: groups::Groups,
    ids: Vec<ArrayRef>,
}

#[pymethods]
impl Groups {
    #[new]
    fn new(py: Python<'_>, example_ids: AnyArray) -> PyResult<Self> {
        let ids = chunks(example_ids)?;
        let groups = run(py, rows(&ids), |control| groups::Groups::new(&texts(&ids)?, control))?;
        Ok(Self { groups, ids })
    }

    /// The id of each example, as strings.
    fn ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let ids =
            run(py, self.groups.rows(), |control| self.groups.ids(&texts(&self.ids)?, control))?;
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

    /// Whether any row of each example has true; null is false.
    fn any<'py>(&self, py: Python<'py>, values: AnyArray) -> PyResult<Bound<'py, PyAny>> {
        let values = chunks(values)?;
        let any = run(py, self.groups.rows(), |_| {
            let flags = booleans(&values)?;
            if flags.len() != self.groups.rows() {
                let (have, need) = (flags.len(), self.groups.rows());
                return Err(Error::input(format!("{need} example ids, but {have} values")));
            }
            let any = (0..self.groups.len()).map(|g| self.groups.rows_of(g).any(|row| flags[row]));
            Ok(BooleanArray::from_iter(any.map(Some)))
        })?;
        to_pyarrow(py, any)
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
    answers: AnyArray,
    nll: AnyArray,
    weights: Option<AnyArray>,
    tolerance: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let (answers, nll) = (chunks(answers)?, chunks(nll)?);
    let weights = weights.map(chunks).transpose()?;
    let columns = run(py, groups.groups.rows(), |control| {
        let (answers, nll) = (texts(&answers)?, floats(&nll)?);
        let weights = weights.as_deref().map(floats).transpose()?;
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
        ("winner_nll", Arc::new(nullable(verdicts.winner_nll))),
        ("first_nll", Arc::new(nullable(verdicts.first_nll))),
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
    option_logprobs: AnyArray,
    classes: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let logprobs = chunks(option_logprobs)?;
    let lists = run(py, groups.groups.rows(), |control| {
        distribution::average(&groups.groups, &float_lists(&logprobs)?, classes, control)
            .and_then(to_lists)
    })?;
    to_pyarrow(py, lists)
}

/// The class weights w with which the mean over the rows of p_c w_c / sum_k p_k w_k is the prior, by
/// iterated scaling: w_c becomes w_c * prior_c / mean_c until no mean is off by 1e-9.
///
/// `distributions` holds lists of probabilities, a null list is left out; `prior` is normalised.
/// A class of prior 0 gets the weight 0. Raises ValueError for a prior with a negative share, or
/// without a positive one.
#[pyfunction]
pub fn alignment_weights(
    py: Python<'_>,
    distributions: AnyArray,
    prior: Vec<f64>,
) -> PyResult<Vec<f64>> {
    let lists = chunks(distributions)?;
    run(py, rows(&lists), |control| {
        let given = distribution::from_lists(&float_lists(&lists)?, prior.len())?;
        distribution::alignment(&given, &prior, control)
    })
}

/// Each distribution under class weights, normalised anew: a record batch of `distribution`, the
/// most probable `class` (the first of equal ones, as int32) and its `probability` (float32).
///
/// All three are null where there is no distribution, or none of its mass has a weight.
#[pyfunction]
pub fn align_options<'py>(
    py: Python<'py>,
    distributions: AnyArray,
    weights: Vec<f64>,
) -> PyResult<Bound<'py, PyAny>> {
    let lists = chunks(distributions)?;
    let columns = run(py, rows(&lists), |control| {
        let given = distribution::from_lists(&float_lists(&lists)?, weights.len())?;
        let (scaled, best) = distribution::apply(&given, &weights, control)?;
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
pub fn hash_ids(py: Python<'_>, example_ids: AnyArray) -> PyResult<Bound<'_, PyAny>> {
    let ids = chunks(example_ids)?;
    let hashes = run(py, rows(&ids), |control| ranks::hashes(&texts(&ids)?, control))?;
    to_pyarrow(py, UInt64Array::from(hashes))
}
