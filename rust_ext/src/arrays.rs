//! Read-only views of Arrow columns, without copying: lists of floats, and texts.
//!
//! A column comes in chunks; rows are counted over all of them. A column of Arrow's null type is a
//! column of nulls of whatever was expected.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, LargeStringArray, StringArray, StringViewArray};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::DataType;
use half::f16;

use crate::error::{Error, Result};

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
        let chunks = arrays.iter().map(view).collect::<Result<_>>()?;
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
        // Arrow's arrays guarantee that offsets are not negative and lie within the values.
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
    pub fn new(array: &ArrayRef) -> Result<Self> {
        let (spans, values) = match array.data_type() {
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                (Spans::Small(list.offsets().clone()), list.values())
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                (Spans::Large(list.offsets().clone()), list.values())
            }
            DataType::ListView(_) => {
                let list = array.as_list_view::<i32>();
                (Spans::View(list.offsets().clone(), list.sizes().clone()), list.values())
            }
            DataType::LargeListView(_) => {
                let list = array.as_list_view::<i64>();
                (Spans::LargeView(list.offsets().clone(), list.sizes().clone()), list.values())
            }
            DataType::FixedSizeList(_, _) => {
                let list = array.as_fixed_size_list();
                (Spans::Fixed(list.value_length() as usize), list.values())
            }
            DataType::Null => {
                let nulls = Some(NullBuffer::new_null(array.len()));
                return Ok(Self { rows: array.len(), spans: Spans::None, nulls, values: None });
            }
            other => return Err(Error::input(format!("expected lists, got {other}"))),
        };
        Ok(Self {
            rows: array.len(),
            spans,
            nulls: array.nulls().cloned(),
            values: Some(values.clone()),
        })
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
    pub fn new(array: &ArrayRef) -> Result<Self> {
        let lists = Lists::new(array)?;
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
pub fn lists(arrays: &[ArrayRef]) -> Result<Chunked<Lists>> {
    Chunked::new(arrays, Lists::new)
}

pub fn float_lists(arrays: &[ArrayRef]) -> Result<Chunked<FloatLists>> {
    Chunked::new(arrays, FloatLists::new)
}

/// Texts of any of Arrow's string types, dictionary-encoded ones too.
pub enum Texts {
    Small(StringArray),
    Large(LargeStringArray),
    View(StringViewArray),
    Dictionary { keys: Vec<Option<usize>>, values: Box<Texts> },
    Null,
}

impl Texts {
    pub fn new(array: &ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Utf8 => Self::Small(array.as_string().clone()),
            DataType::LargeUtf8 => Self::Large(array.as_string().clone()),
            DataType::Utf8View => Self::View(array.as_string_view().clone()),
            DataType::Dictionary(_, _) => {
                let dictionary = array.as_any_dictionary();
                let values = Box::new(Self::new(dictionary.values())?);
                let keys = if dictionary.values().is_empty() {
                    vec![None; array.len()]
                } else {
                    let keys = dictionary.normalized_keys();
                    keys.into_iter()
                        .enumerate()
                        .map(|(i, k)| array.is_valid(i).then_some(k))
                        .collect()
                };
                Self::Dictionary { keys, values }
            }
            DataType::Null => Self::Null,
            other => return Err(Error::input(format!("expected texts, got {other}"))),
        })
    }

    #[inline]
    pub fn get(&self, row: usize) -> Option<&str> {
        match self {
            Self::Small(array) => array.is_valid(row).then(|| array.value(row)),
            other => other.get_other(row),
        }
    }

    /// Apart, because it calls itself and so cannot be inlined.
    fn get_other(&self, row: usize) -> Option<&str> {
        match self {
            Self::Small(_) => self.get(row),
            Self::Large(array) => array.is_valid(row).then(|| array.value(row)),
            Self::View(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Dictionary { keys, values } => keys[row].and_then(|key| values.get(key)),
            Self::Null => None,
        }
    }
}

pub fn texts(arrays: &[ArrayRef]) -> Result<Chunked<Texts>> {
    Chunked::new(arrays, Texts::new)
}

impl Chunked<Texts> {
    #[inline]
    pub fn get(&self, row: usize) -> Option<&str> {
        let (chunk, row) = self.locate(row);
        chunk.get(row)
    }
}

/// Lists of texts, such as the options of each row.
pub struct TextLists {
    lists: Lists,
    values: Texts,
}

impl TextLists {
    pub fn new(array: &ArrayRef) -> Result<Self> {
        let lists = Lists::new(array)?;
        let values = lists.values.as_ref().map_or(Ok(Texts::Null), Texts::new)?;
        Ok(Self { lists, values })
    }
}

pub fn text_lists(arrays: &[ArrayRef]) -> Result<Chunked<TextLists>> {
    Chunked::new(arrays, TextLists::new)
}

impl Chunked<TextLists> {
    /// How many texts a row has; null where the list is.
    #[inline]
    pub fn count(&self, row: usize) -> Option<usize> {
        let (chunk, row) = self.locate(row);
        chunk.lists.span(row).map(|span| span.len())
    }

    /// The texts of a row; null where the list is, and an empty text for a null in it.
    pub fn get(&self, row: usize) -> Option<impl ExactSizeIterator<Item = &str> + Clone> {
        let (chunk, row) = self.locate(row);
        let span = chunk.lists.span(row)?;
        Some(span.map(|i| chunk.values.get(i).unwrap_or("")))
    }
}
