//! Read-only views of Arrow columns, without copying: lists of floats, and texts.
//!
//! A column comes in chunks; rows are counted over all of them. A column of Arrow's null type is a
//! column of nulls of whatever was expected. Making a view checks what its reader relies on (see
//! `validate`), so a view of a foreign array is as safe as one of our own.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType;
use half::f16;

use crate::error::{Error, Result};
use crate::parallel::Control;
use crate::validate;

/// A column in chunks.
pub struct Chunked<C> {
    pub chunks: Vec<C>,
    /// First row of each chunk, then the number of rows.
    starts: Vec<usize>,
}

impl<C> Chunked<C> {
    pub fn new(arrays: &[ArrayRef], view: impl Fn(&ArrayRef) -> Result<C>) -> Result<Self> {
        let mut starts = vec![0];
        for array in arrays {
            starts.push(starts[starts.len() - 1] + array.len());
        }
        let view = |(array, start): (_, &usize)| view(array).map_err(|e| e.shifted(*start));
        let chunks = arrays.iter().zip(&starts).map(view).collect::<Result<_>>()?;
        Ok(Self { chunks, starts })
    }

    pub fn len(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chunk that holds `row`, and the row within it.
    #[inline]
    pub fn locate(&self, row: usize) -> (&C, usize) {
        if self.chunks.len() == 1 {
            return (&self.chunks[0], row);
        }
        // The last chunk that starts at or before the row: empty chunks before it hold nothing.
        let i = self.starts.partition_point(|&start| start <= row) - 1;
        (&self.chunks[i], row - self.starts[i])
    }

    /// Each chunk with its first row.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &C)> {
        self.starts.iter().copied().zip(&self.chunks)
    }
}

/// Where each list of a chunk lies among the chunk's values.
pub enum Spans {
    Small(OffsetBuffer<i32>),
    Large(OffsetBuffer<i64>),
    View(ScalarBuffer<i32>, ScalarBuffer<i32>),
    LargeView(ScalarBuffer<i64>, ScalarBuffer<i64>),
    Fixed(usize),
    /// Every list is null.
    None,
}

impl Spans {
    #[inline]
    pub fn get(&self, row: usize) -> Range<usize> {
        // Checked: offsets are not negative and lie within the values.
        match self {
            Self::Small(offsets) => offsets[row] as usize..offsets[row + 1] as usize,
            Self::Large(offsets) => offsets[row] as usize..offsets[row + 1] as usize,
            Self::View(starts, sizes) => {
                let start = starts[row] as usize;
                start..start + sizes[row] as usize
            }
            Self::LargeView(starts, sizes) => {
                let start = starts[row] as usize;
                start..start + sizes[row] as usize
            }
            Self::Fixed(size) => row * size..(row + 1) * size,
            Self::None => 0..0,
        }
    }
}

/// Lists of any of Arrow's list types: where they lie, and what they hold.
pub struct Lists {
    pub rows: usize,
    pub spans: Spans,
    pub nulls: Option<NullBuffer>,
    pub values: Option<ArrayRef>,
}

impl Lists {
    pub fn new(array: &ArrayRef, control: &Control) -> Result<Self> {
        let (rows, nulls) = (array.len(), array.nulls());
        let (spans, values) = match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                validate::offsets(list.offsets(), list.values().len(), control)?;
                (Spans::Small(list.offsets().clone()), list.values())
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                validate::offsets(list.offsets(), list.values().len(), control)?;
                (Spans::Large(list.offsets().clone()), list.values())
            }
            DataType::ListView(_) => {
                let list = array.as_list_view::<i32>();
                let (starts, sizes) = (list.offsets(), list.sizes());
                validate::spans(starts, sizes, nulls, list.values().len(), control)?;
                (Spans::View(starts.clone(), sizes.clone()), list.values())
            }
            DataType::LargeListView(_) => {
                let list = array.as_list_view::<i64>();
                let (starts, sizes) = (list.offsets(), list.sizes());
                validate::spans(starts, sizes, nulls, list.values().len(), control)?;
                (Spans::LargeView(starts.clone(), sizes.clone()), list.values())
            }
            DataType::FixedSizeList(_, _) => {
                let list = array.as_fixed_size_list();
                let size = list.value_length() as usize;
                if rows * size > list.values().len() {
                    return Err(Error::input(format!("{rows} lists of {size}, but fewer values")));
                }
                (Spans::Fixed(size), list.values())
            }
            DataType::Null => {
                let nulls = Some(NullBuffer::new_null(rows));
                return Ok(Self { rows, spans: Spans::None, nulls, values: None });
            }
            other => return Err(Error::input(format!("expected lists, got {other}"))),
        };
        Ok(Self { rows, spans, nulls: nulls.cloned(), values: Some(values.clone()) })
    }

    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    #[inline]
    pub fn span(&self, row: usize) -> Option<Range<usize>> {
        if self.is_null(row) { None } else { Some(self.spans.get(row)) }
    }
}

/// The values of float lists, at the width they came in.
pub enum Floats {
    F16(ScalarBuffer<f16>),
    F32(ScalarBuffer<f32>),
    F64(ScalarBuffer<f64>),
}

impl Floats {
    #[inline]
    pub fn get(&self, i: usize) -> f64 {
        match self {
            Self::F16(values) => values[i].to_f64(),
            Self::F32(values) => f64::from(values[i]),
            Self::F64(values) => values[i],
        }
    }
}

/// Lists of floats.
pub struct FloatLists {
    pub lists: Lists,
    pub values: Floats,
    pub value_nulls: Option<NullBuffer>,
}

impl FloatLists {
    pub fn new(array: &ArrayRef, control: &Control) -> Result<Self> {
        let lists = Lists::new(array, control)?;
        let Some(inner) = &lists.values else {
            return Ok(Self { lists, values: Floats::F32(vec![].into()), value_nulls: None });
        };
        let values = match inner.data_type() {
            DataType::Float16 => Floats::F16(inner.as_primitive::<Float16Type>().values().clone()),
            DataType::Float32 => Floats::F32(inner.as_primitive::<Float32Type>().values().clone()),
            DataType::Float64 => Floats::F64(inner.as_primitive::<Float64Type>().values().clone()),
            // An engine that has no logprobs at all writes lists of Arrow's null type.
            DataType::Null => Floats::F32(vec![0.0; inner.len()].into()),
            other => return Err(Error::input(format!("expected lists of floats, got {other}"))),
        };
        let value_nulls = inner.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        Ok(Self { lists, values, value_nulls })
    }

    #[inline]
    pub fn value(&self, i: usize) -> Option<f64> {
        if self.value_nulls.as_ref().is_some_and(|nulls| nulls.is_null(i)) {
            None
        } else {
            Some(self.values.get(i))
        }
    }
}

/// Lists of anything.
pub fn lists(arrays: &[ArrayRef], control: &Control) -> Result<Chunked<Lists>> {
    Chunked::new(arrays, |array| Lists::new(array, control))
}

pub fn float_lists(arrays: &[ArrayRef], control: &Control) -> Result<Chunked<FloatLists>> {
    Chunked::new(arrays, |array| FloatLists::new(array, control))
}
