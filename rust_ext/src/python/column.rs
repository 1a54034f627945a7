//! A column as a caller has it: any Arrow array or stream of arrays, or else what pyarrow makes an
//! array of (lists, numpy, pandas). The one way in, so that all errors name the argument.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_schema::DataType;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3_arrow::input::AnyArray;

use super::run::Size;
use crate::arrays::{self, Chunked, FloatLists, Lists};
use crate::error::{Error, Result};
use crate::parallel::Control;
use crate::texts::{self, TextLists, Texts};
use crate::token_entropy::{IntegerLists, integer_lists};

/// The chunks of a column, not copied where they are Arrow's already.
pub struct Column {
    pub name: &'static str,
    pub chunks: Vec<ArrayRef>,
}

impl Column {
    /// Raises ValueError, with the name of the argument, for what is no column.
    pub fn new(name: &'static str, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        // arrow-rs trusts a foreign array to be as long as it says, and panics where it is not.
        let chunks = catch_unwind(AssertUnwindSafe(|| import(data)))
            .unwrap_or_else(|_| Err(PyValueError::new_err("the array contradicts itself")));
        match chunks {
            Ok(chunks) => Ok(Self { name, chunks }),
            Err(error) if error.is_instance_of::<pyo3::exceptions::PyException>(data.py()) => {
                let got = data.get_type().fully_qualified_name()?;
                let why = error.value(data.py());
                Err(PyValueError::new_err(format!(
                    "{name}: got a {got}, wanted an Arrow array, or a list or numpy array of \
                     values that Arrow knows: {why}"
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// The same of an argument that may be left out.
    pub fn optional(name: &'static str, data: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Self>> {
        data.map(|data| Self::new(name, data)).transpose()
    }

    pub fn rows(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    pub fn size(&self) -> Size {
        let bytes = self.chunks.iter().map(|chunk| chunk.get_buffer_memory_size()).sum();
        Size { rows: self.rows(), bytes }
    }

    /// An error found in this column alone.
    pub fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.of(self.name))
    }

    pub fn texts(&self, control: &Control) -> Result<Chunked<Texts>> {
        self.named(texts::texts(&self.chunks, control))
    }

    /// Ids: texts, or integers, which are spelled out.
    pub fn ids(&self, control: &Control) -> Result<Chunked<Texts>> {
        let spelled: Vec<ArrayRef> = self.chunks.iter().map(spelled).collect();
        self.named(texts::texts(&spelled, control))
    }

    pub fn text_lists(&self, control: &Control) -> Result<Chunked<TextLists>> {
        self.named(texts::text_lists(&self.chunks, control))
    }

    pub fn float_lists(&self, control: &Control) -> Result<Chunked<FloatLists>> {
        self.named(arrays::float_lists(&self.chunks, control))
    }

    pub fn lists(&self, control: &Control) -> Result<Chunked<Lists>> {
        self.named(arrays::lists(&self.chunks, control))
    }

    pub fn integer_lists(&self, control: &Control) -> Result<Chunked<IntegerLists>> {
        self.named(integer_lists(&self.chunks, control))
    }

    /// Numbers as one slice of float64, NaN for null; not copied where they are one already.
    pub fn floats(&self) -> Result<Cow<'_, [f64]>> {
        if let [only] = self.chunks.as_slice()
            && let Some(array) = only.as_primitive_opt::<Float64Type>()
            && array.null_count() == 0
        {
            return Ok(Cow::Borrowed(array.values()));
        }
        let mut out = Vec::with_capacity(self.rows());
        for chunk in &self.chunks {
            self.named(push_floats(chunk, &mut out))?;
        }
        Ok(Cow::Owned(out))
    }

    /// For each row whether it is true, or above 0; false for null.
    pub fn booleans(&self) -> Result<Vec<bool>> {
        let mut out = Vec::with_capacity(self.rows());
        for chunk in &self.chunks {
            match chunk.data_type() {
                DataType::Boolean => out.extend(chunk.as_boolean().iter().map(|x| x == Some(true))),
                _ => {
                    let mut numbers = Vec::new();
                    self.named(push_floats(chunk, &mut numbers))?;
                    out.extend(numbers.into_iter().map(|x| x > 0.0));
                }
            }
        }
        Ok(out)
    }
}

fn import(data: &Bound<'_, PyAny>) -> PyResult<Vec<ArrayRef>> {
    let array: AnyArray =
        if data.hasattr("__arrow_c_array__")? || data.hasattr("__arrow_c_stream__")? {
            data.extract()?
        } else {
            let options = PyDict::new(data.py());
            options.set_item("from_pandas", true)?;
            let pyarrow = data.py().import("pyarrow")?;
            pyarrow.getattr("array")?.call((data,), Some(&options))?.extract()?
        };
    Ok(array.into_chunked_array()?.into_inner().0)
}

/// Calls a macro for each type of numbers.
macro_rules! numbers {
    ($do:ident, $array:expr, $($name:ident => $type:ty),*; $other:pat => $else:expr) => {
        match $array.data_type() {
            $(DataType::$name => $do!($array.as_primitive::<$type>()),)*
            $other => $else,
        }
    };
}

fn push_floats(chunk: &ArrayRef, out: &mut Vec<f64>) -> Result<()> {
    macro_rules! push {
        ($array:expr) => {
            out.extend($array.iter().map(|x| x.map_or(f64::NAN, |x| x as f64)))
        };
    }
    macro_rules! half {
        ($array:expr) => {
            out.extend($array.iter().map(|x| x.map_or(f64::NAN, |x| x.to_f64())))
        };
    }
    numbers!(push, chunk,
        Float64 => Float64Type, Float32 => Float32Type, Int8 => Int8Type, Int16 => Int16Type,
        Int32 => Int32Type, Int64 => Int64Type, UInt8 => UInt8Type, UInt16 => UInt16Type,
        UInt32 => UInt32Type, UInt64 => UInt64Type;
        other => match other {
            DataType::Float16 => half!(chunk.as_primitive::<Float16Type>()),
            DataType::Null => out.resize(out.len() + chunk.len(), f64::NAN),
            _ => return Err(Error::input(format!("expected numbers, got {other}"))),
        }
    );
    Ok(())
}

fn spelled(chunk: &ArrayRef) -> ArrayRef {
    macro_rules! spell {
        ($array:expr) => {
            Arc::new($array.iter().map(|x| x.map(|x| x.to_string())).collect::<StringArray>())
        };
    }
    numbers!(spell, chunk,
        Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type, Int64 => Int64Type,
        UInt8 => UInt8Type, UInt16 => UInt16Type, UInt32 => UInt32Type, UInt64 => UInt64Type;
        _ => chunk.clone()
    )
}
