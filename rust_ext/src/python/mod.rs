//! The module `semievol_ray._native`: each function takes Arrow data of any library that speaks the
//! PyCapsule interface, releases the GIL, calls one kernel and gives pyarrow data back.

mod answers;
mod column;
mod corpus;
mod examples;
mod run;
mod scores;

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::{Field, Schema};
use pyo3::prelude::*;
use pyo3_arrow::{PyArray, PyRecordBatch};

use crate::error::Error;
use crate::parallel;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(scores::mean_nll, module)?)?;
    module.add_function(wrap_pyfunction!(scores::sequence_score, module)?)?;
    module.add_function(wrap_pyfunction!(scores::token_entropy, module)?)?;
    module.add_function(wrap_pyfunction!(scores::_check, module)?)?;
    module.add_function(wrap_pyfunction!(scores::_read, module)?)?;
    module.add_function(wrap_pyfunction!(scores::_way, module)?)?;
    module.add_function(wrap_pyfunction!(corpus::collaborator_agreement, module)?)?;
    module.add_function(wrap_pyfunction!(corpus::minhash, module)?)?;
    module.add_function(wrap_pyfunction!(corpus::near_duplicates, module)?)?;
    module.add_function(wrap_pyfunction!(answers::extract_answers, module)?)?;
    module.add_function(wrap_pyfunction!(answers::written_answers, module)?)?;
    module.add_function(wrap_pyfunction!(answers::ambiguous_numbers, module)?)?;
    module.add_function(wrap_pyfunction!(answers::answers_equal, module)?)?;
    module.add_class::<examples::Groups>()?;
    module.add_function(wrap_pyfunction!(examples::consensus, module)?)?;
    module.add_function(wrap_pyfunction!(examples::average_options, module)?)?;
    module.add_function(wrap_pyfunction!(examples::pool_options, module)?)?;
    module.add_function(wrap_pyfunction!(examples::alignment_weights, module)?)?;
    module.add_function(wrap_pyfunction!(examples::align_options, module)?)?;
    module.add_function(wrap_pyfunction!(examples::hash_ids, module)?)?;
    module.add_function(wrap_pyfunction!(run::_panic, module)?)?;
    module.add_function(wrap_pyfunction!(run::num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(run::set_num_threads, module)?)?;
    Ok(())
}

fn to_pyarrow(py: Python<'_>, array: impl Array + 'static) -> PyResult<Bound<'_, PyAny>> {
    let array = PyArray::from_array_ref(Arc::new(array));
    py.import("pyarrow")?.getattr("array")?.call1((array,))
}

fn batch_to_pyarrow<'py>(
    py: Python<'py>,
    columns: Vec<(&str, ArrayRef)>,
) -> PyResult<Bound<'py, PyAny>> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, a)| Field::new(*name, a.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|error| Error::input(error.to_string()))
        .map_err(run::to_py_error)?;
    PyRecordBatch::new(batch).into_pyarrow(py)
}

/// Floats with null for NaN.
fn nullable_floats(values: Vec<f64>) -> Float64Array {
    let any = parallel::any(&values, |x| x.is_nan());
    nullable(values, any)
}

/// The same where it is known whether there is any.
fn nullable(values: Vec<f64>, any: bool) -> Float64Array {
    let nulls = any.then(|| {
        NullBuffer::new(BooleanBuffer::collect_bool(values.len(), |i| !values[i].is_nan()))
    });
    Float64Array::new(values.into(), nulls)
}
