//! Sequence scores.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, Float64Array, new_null_array};
use arrow_schema::DataType;
use pyo3::prelude::*;

use super::column::Column;
use super::run::{run, to_py_error};
use super::{batch_to_pyarrow, nullable, nullable_floats, to_pyarrow};
use crate::arrays::FloatLists;
use crate::error::Error;
use crate::parallel;
use crate::scores::{Score, Scores, score};
use crate::sums::{self, Way};
use crate::token_entropy::{Limits, token_entropy as bounds_of, token_entropy_by_position};

/// Length-normalised negative log-likelihood of each response, in nats: -(1/L) sum(r_k) (Eq. 6).
///
/// `logprobs` holds lists of float16, float32 or float64. Null for a null or empty list; a null in
/// a list is left out; -inf gives +inf. Raises ValueError with the row for NaN and for values above 0.
#[pyfunction]
pub fn mean_nll<'py>(py: Python<'py>, logprobs: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let logprobs = Column::new("logprobs", logprobs)?;
    let values = run(py, logprobs.size(), |control| {
        logprobs
            .named(score(&logprobs.float_lists(control)?, Score::MeanNll, control))
            .map(nullable_scores)
    })?;
    to_pyarrow(py, values)
}

/// A score of each response from the logprobs r_1 ... r_L of its tokens, in nats:
///
/// - "mean_nll": -(1/L) sum(r_k) (Eq. 6); "sum": sum(r_k); "perplexity": exp(mean_nll)
/// - "min": the least probable token's; "first": r_1
/// - "tail_mean_nll": mean_nll of the last `tail` tokens
///
/// Nulls, empty lists and errors as in `mean_nll`; the sum of an empty list is 0. float32 sums are
/// within 7.2e-7 (relative) of the exact ones, the same bits on every machine.
#[pyfunction]
#[pyo3(signature = (logprobs, *, kind="mean_nll", tail=8))]
pub fn sequence_score<'py>(
    py: Python<'py>,
    logprobs: &Bound<'py, PyAny>,
    kind: &str,
    tail: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let kind = match kind {
        "mean_nll" => Score::MeanNll,
        "sum" => Score::Sum,
        "perplexity" => Score::Perplexity,
        "min" => Score::Min,
        "first" => Score::First,
        "tail_mean_nll" => Score::TailMeanNll(tail),
        _ => return Err(to_py_error(Error::input(format!("kind: unknown score {kind:?}")))),
    };
    let logprobs = Column::new("logprobs", logprobs)?;
    let values = run(py, logprobs.size(), |control| {
        logprobs.named(score(&logprobs.float_lists(control)?, kind, control)).map(nullable_scores)
    })?;
    to_pyarrow(py, values)
}

/// Bounds of the mean entropy per token, in nats, from the top-k logprobs of each token: a record
/// batch of `low` and `high`.
///
/// `logprobs` holds a list of tokens for each response, a token being the list of its top-k
/// logprobs, in any order, with or without that of the sampled token beside them. What these leave
/// over is on tokens of at most the k-th probability: `low` packs it as tightly as that allows,
/// `high` spreads it over the rest of `vocabulary`. Without `k` the least of a token's logprobs is
/// taken for the sampled one's, which says nothing about the others: then `low` is lower. Null for
/// a response without tokens. Raises ValueError with the row for what is no distribution.
///
/// With `positions` the two are parallel lists: `logprobs` holds those of all tokens of a response
/// one after another, `positions` (int32, int64 or uint32) the place of each one's token, which
/// never falls. Raises ValueError with the row where the two do not fit.
#[pyfunction]
#[pyo3(signature = (logprobs, *, vocabulary, k=None, positions=None))]
pub fn token_entropy<'py>(
    py: Python<'py>,
    logprobs: &Bound<'py, PyAny>,
    vocabulary: usize,
    k: Option<usize>,
    positions: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let logprobs = Column::new("logprobs", logprobs)?;
    let positions = Column::optional("positions", positions)?;
    let limits = Limits { vocabulary, k };
    let size = positions.iter().fold(logprobs.size(), |size, column| size + column.size());
    let bounds = run(py, size, |control| {
        if let Some(positions) = &positions {
            let values = logprobs.float_lists(control)?;
            let positions = positions.integer_lists(control)?;
            return token_entropy_by_position(&values, &positions, limits, control);
        }
        let outer = logprobs.lists(control)?;
        let inner = outer.chunks.iter().map(|chunk| match &chunk.values {
            Some(values) => FloatLists::new(values, control),
            None => FloatLists::new(&new_null_array(&DataType::Null, 0), control),
        });
        let inner = logprobs.named(inner.collect::<crate::error::Result<Vec<_>>>())?;
        logprobs.named(bounds_of(&outer, &inner, limits, control))
    })?;
    let column = |values: Vec<f64>| -> ArrayRef { Arc::new(nullable_floats(values)) };
    let low = column(bounds.iter().map(|b| b.0).collect());
    let high = column(bounds.iter().map(|b| b.1).collect());
    batch_to_pyarrow(py, vec![("low", low), ("high", high)])
}

fn nullable_scores(scores: Scores) -> Float64Array {
    nullable(scores.values, scores.any_null)
}

/// Checks texts as every kernel does that takes them, and nothing else: for benchmarks/selection.py.
#[pyfunction]
pub fn _check(py: Python<'_>, texts: &Bound<'_, PyAny>) -> PyResult<()> {
    let texts = Column::new("texts", texts)?;
    run(py, texts.size(), |control| texts.texts(control).map(|_| ()))
}

/// Reads a float32 array once, on all threads: the yardstick of benchmarks/selection.py.
#[pyfunction]
pub fn _read(py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<u32> {
    let values = Column::new("values", values)?;
    run(py, values.size(), |control| {
        let mut all = 0;
        for chunk in &values.chunks {
            let chunk = chunk
                .as_primitive_opt::<Float32Type>()
                .ok_or_else(|| Error::input("expected float32"))?;
            let blocks = parallel::map(chunk.len().div_ceil(READ_STEP), control, |steps| {
                let end = chunk.len().min(steps.end * READ_STEP);
                Ok(sums::read(&chunk.values()[steps.start * READ_STEP..end]))
            })?;
            all ^= blocks.into_iter().fold(0, |a, b| a ^ b);
        }
        Ok(all)
    })
}

/// The way that float lists are added up ("avx512", "avx2" or "portable"), and which it goes on as
/// where one is named; "fastest" chooses again. For benchmarks/selection: all give the same bits.
/// Raises ValueError for a way that this machine has not.
#[pyfunction]
#[pyo3(signature = (name=None))]
pub fn _way(name: Option<&str>) -> PyResult<&'static str> {
    match name {
        None => {}
        Some("fastest") => sums::force(None),
        Some(name) => {
            let found = Way::ALL.into_iter().find(|way| way.name() == name && way.is_here());
            let missing = || to_py_error(Error::input(format!("{name:?}: no way of this machine")));
            sums::force(Some(found.ok_or_else(missing)?));
        }
    }
    Ok(sums::way().name())
}

/// Values that count as one row of `_read`, so that its blocks are as large as those of lists.
const READ_STEP: usize = 32;
