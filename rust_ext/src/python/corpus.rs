//! Kernels over a whole table: agreement of the collaborators, near-duplicates.

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{Array, ArrayRef, FixedSizeListArray, Int64Array, UInt32Array};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::Arc;

use super::column::Column;
use super::examples::Groups;
use super::run::run;
use super::to_pyarrow;
use crate::duplicates::{self, HASHES, Signature};
use crate::error::{Error, Result};

/// How far the collaborators agree with each other, as a dict: `collaborators` (names, in the order
/// in which they first occur), and in that order the square matrices `both` (examples that both
/// answered), `agreement` (the share of them with equal answers) and `kappa` (Cohen's), as lists of
/// rows; `fleiss_kappa` over the examples with two answers or more. NaN where undefined.
///
/// Raises ValueError with the row for a null collaborator, and for two rows of one in an example.
#[pyfunction]
pub fn collaborator_agreement<'py>(
    py: Python<'py>,
    groups: &Groups,
    collaborators: &Bound<'py, PyAny>,
    answers: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    let names = Column::new("collaborators", collaborators)?;
    let answers = Column::new("answers", answers)?;
    let found = run(py, names.size() + answers.size(), |control| {
        let (names, answers) = (names.texts(control)?, answers.texts(control)?);
        crate::agreement::agreement(&groups.groups, &names, &answers, control)
    })?;
    let n = found.collaborators.len().max(1);
    let out = PyDict::new(py);
    out.set_item("collaborators", found.collaborators)?;
    out.set_item("both", found.both.chunks(n).map(<[u64]>::to_vec).collect::<Vec<_>>())?;
    out.set_item("agreement", found.agreement.chunks(n).map(<[f64]>::to_vec).collect::<Vec<_>>())?;
    out.set_item("kappa", found.kappa.chunks(n).map(<[f64]>::to_vec).collect::<Vec<_>>())?;
    out.set_item("fleiss_kappa", found.fleiss_kappa)?;
    Ok(out)
}

/// The MinHash signature of each text, as fixed_size_list<uint32>[128], over the five-character
/// shingles of the normalised text; null for a null or empty one. Signatures of shards are merged
/// by appending.
#[pyfunction]
pub fn minhash<'py>(py: Python<'py>, texts: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let texts = Column::new("texts", texts)?;
    let signatures = run(py, texts.size(), |control| {
        let signatures = duplicates::signatures(&texts.texts(control)?, control)?;
        let valid = NullBuffer::from_iter(signatures.iter().map(Option::is_some));
        let words = signatures.iter().flat_map(|s| s.unwrap_or([0; HASHES]));
        let words: ArrayRef = Arc::new(UInt32Array::from_iter_values(words));
        let field = Arc::new(Field::new("item", DataType::UInt32, true));
        FixedSizeListArray::try_new(field, HASHES as i32, words, Some(valid))
            .map_err(|error| Error::input(error.to_string()))
    })?;
    to_pyarrow(py, signatures)
}

/// For each signature the first row that it is a near-duplicate of, as int64; its own where there is
/// none before it.
///
/// Rows whose estimated Jaccard similarity is at least `threshold`, and chains of such, are one
/// cluster; LSH finds a pair at the threshold with a probability of 95 % or more. The estimate has a
/// standard error of sqrt(s (1 - s) / 128). Rows without a signature are clusters of their own.
#[pyfunction]
#[pyo3(signature = (signatures, *, threshold=0.8))]
pub fn near_duplicates<'py>(
    py: Python<'py>,
    signatures: &Bound<'py, PyAny>,
    threshold: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let signatures = Column::new("signatures", signatures)?;
    let first = run(py, signatures.size(), |control| {
        let mut all = Vec::with_capacity(signatures.rows());
        for chunk in &signatures.chunks {
            all.extend(signatures.named(signatures_of(chunk))?);
        }
        duplicates::near_duplicates(&all, threshold, control)
    })?;
    to_pyarrow(py, Int64Array::from_iter_values(first.into_iter().map(|row| row as i64)))
}

fn signatures_of(chunk: &ArrayRef) -> Result<Vec<Option<Signature>>> {
    let wrong = || Error::input("expected the signatures that minhash gives");
    let list = chunk.as_fixed_size_list_opt().ok_or_else(wrong)?;
    let words = list.values().as_primitive_opt::<UInt32Type>().ok_or_else(wrong)?;
    if list.value_length() != HASHES as i32 {
        return Err(wrong());
    }
    let (words, _) = words.values().as_chunks::<HASHES>();
    if words.len() < list.len() {
        return Err(Error::input("the signatures are cut short"));
    }
    Ok((0..list.len()).map(|i| list.is_valid(i).then(|| words[i])).collect())
}
