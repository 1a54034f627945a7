//! Read-only views of text columns, and of lists of texts; see `arrays`.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowDictionaryKeyType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, LargeStringArray, PrimitiveArray, StringArray, StringViewArray,
};
use arrow_schema::DataType;

use crate::arrays::{Chunked, Lists};
use crate::error::{Error, Result};
use crate::parallel::Control;
use crate::validate::{self, Index};

/// Texts of any of Arrow's string types, dictionary-encoded ones too.
pub enum Texts {
    Small(StringArray),
    Large(LargeStringArray),
    View(StringViewArray),
    Dictionary { keys: Vec<Option<usize>>, values: Box<Texts> },
    Null,
}

impl Texts {
    /// Raises an error with the row for what is no UTF-8, or points to nothing.
    pub fn new(array: &ArrayRef, control: &Control) -> Result<Self> {
        match array.data_type() {
            DataType::Utf8 => {
                let texts: &StringArray = array.as_string();
                validate::texts(texts.offsets(), texts.value_data(), texts.nulls(), control)?;
            }
            DataType::LargeUtf8 => {
                let texts: &LargeStringArray = array.as_string();
                validate::texts(texts.offsets(), texts.value_data(), texts.nulls(), control)?;
            }
            DataType::Utf8View => validate::text_views(array.as_string_view(), control)?,
            DataType::Dictionary(keys, _) => {
                return match keys.as_ref() {
                    DataType::Int8 => dictionary::<Int8Type>(array, control),
                    DataType::Int16 => dictionary::<Int16Type>(array, control),
                    DataType::Int32 => dictionary::<Int32Type>(array, control),
                    DataType::Int64 => dictionary::<Int64Type>(array, control),
                    DataType::UInt8 => dictionary::<UInt8Type>(array, control),
                    DataType::UInt16 => dictionary::<UInt16Type>(array, control),
                    DataType::UInt32 => dictionary::<UInt32Type>(array, control),
                    _ => dictionary::<UInt64Type>(array, control),
                };
            }
            _ => {}
        }
        Self::unchecked(array)
    }

    /// A view of texts of which none that is not UTF-8 is ever read.
    fn unchecked(array: &ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Utf8 => Self::Small(array.as_string().clone()),
            DataType::LargeUtf8 => Self::Large(array.as_string().clone()),
            DataType::Utf8View => Self::View(array.as_string_view().clone()),
            DataType::Null => Self::Null,
            other => return Err(Error::input(format!("expected texts, got {other}"))),
        })
    }

    /// The texts among which rows have theirs: those that no row has, as in a slice of a larger
    /// column, may be anything. `uses` gives each row with the place of a text of it.
    fn shared(
        array: &ArrayRef,
        uses: impl Iterator<Item = (usize, usize)>,
        control: &Control,
    ) -> Result<Self> {
        match Self::new(array, control) {
            Err(Error::Row { .. }) => {}
            all => return all,
        }
        for (row, place) in uses {
            Self::new(&array.slice(place, 1), control).map_err(|error| match error {
                Error::Row { message, .. } => Error::row(row, format!("value {place}: {message}")),
                other => other,
            })?;
        }
        Self::unchecked(array)
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

fn dictionary<K: ArrowDictionaryKeyType>(array: &ArrayRef, control: &Control) -> Result<Texts>
where
    K::Native: Index,
{
    let dictionary = array.as_dictionary::<K>();
    let (keys, values): (&PrimitiveArray<K>, _) = (dictionary.keys(), dictionary.values());
    validate::keys(keys.values(), keys.nulls(), values.len(), control)?;
    let keys: Vec<Option<usize>> = keys.iter().map(|key| key.and_then(Index::place)).collect();
    let uses = keys.iter().enumerate().filter_map(|(row, key)| Some((row, (*key)?)));
    let values = Box::new(Texts::shared(values, uses, control)?);
    Ok(Texts::Dictionary { keys, values })
}

pub fn texts(arrays: &[ArrayRef], control: &Control) -> Result<Chunked<Texts>> {
    Chunked::new(arrays, |array| Texts::new(array, control))
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
    pub fn new(array: &ArrayRef, control: &Control) -> Result<Self> {
        let lists = Lists::new(array, control)?;
        let Some(values) = &lists.values else { return Ok(Self { lists, values: Texts::Null }) };
        let span = |row| lists.span(row).unwrap_or(0..0);
        let uses = (0..lists.rows).flat_map(|row| span(row).map(move |place| (row, place)));
        let values = Texts::shared(values, uses, control)?;
        Ok(Self { lists, values })
    }
}

pub fn text_lists(arrays: &[ArrayRef], control: &Control) -> Result<Chunked<TextLists>> {
    Chunked::new(arrays, |array| TextLists::new(array, control))
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
