//! A string column made block by block, on all threads, copied once.

use std::ops::Range;

use arrow_array::StringArray;
use arrow_buffer::{
    BooleanBuffer, BooleanBufferBuilder, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer,
};

use crate::error::{Error, Result};
use crate::parallel::{self, BLOCK_ROWS, Control};

/// The texts of one block.
pub struct Block {
    bytes: Vec<u8>,
    /// Where each text ends among the bytes; it may wrap where there are far too many of them.
    ends: Vec<u32>,
    valid: Vec<bool>,
}

impl Block {
    #[inline]
    pub fn push(&mut self, text: Option<&str>) {
        self.bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
        self.ends.push(self.bytes.len() as u32);
        self.valid.push(text.is_some());
    }
}

/// The column of these many rows; `work` pushes a text, or null, for each row of a block.
///
/// Raises an error where the texts take more than the 2 GiB of a string array.
pub fn column(
    rows: usize,
    control: &Control,
    work: impl Fn(Range<usize>, &mut Block) -> Result<()> + Sync,
) -> Result<StringArray> {
    let parts = parallel::map(rows, control, |range| {
        let n = range.len();
        let mut block = Block {
            bytes: Vec::with_capacity(8 * n),
            ends: Vec::with_capacity(n),
            valid: Vec::with_capacity(n),
        };
        work(range, &mut block)?;
        assert_eq!((block.ends.len(), block.valid.len()), (n, n), "a text for each row");
        let valid = BooleanBuffer::from(block.valid);
        Ok(Part { bytes: block.bytes, ends: block.ends, valid })
    })?;
    concat(rows, &parts, control)
}

/// A block that is done.
struct Part {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    valid: BooleanBuffer,
}

fn concat(rows: usize, blocks: &[Part], control: &Control) -> Result<StringArray> {
    let mut starts = Vec::with_capacity(blocks.len());
    let mut size = 0;
    for block in blocks {
        starts.push(size);
        size += block.bytes.len();
    }
    if i32::try_from(size).is_err() {
        return Err(Error::input(format!(
            "the texts take {size} bytes, over the 2 GiB of a string array: pass fewer rows"
        )));
    }
    let mut offsets = vec![0i32; rows + 1];
    parallel::fill(&mut offsets[1..], control, |start, out| {
        let block = start / BLOCK_ROWS;
        let Some(ends) = blocks.get(block).map(|block| &block.ends) else { return Ok(()) };
        for (out, end) in out.iter_mut().zip(ends) {
            *out = starts[block] as i32 + *end as i32;
        }
        Ok(())
    })?;
    let mut bytes = Vec::with_capacity(size);
    let mut valid = BooleanBufferBuilder::new(rows);
    for block in blocks {
        bytes.extend_from_slice(&block.bytes);
        valid.append_buffer(&block.valid);
    }
    let nulls = Some(NullBuffer::new(valid.finish())).filter(|nulls| nulls.null_count() > 0);
    // SAFETY: the offsets begin at 0, never fall (a block's ends do not, and the next block starts
    // where it ended) and fit into an i32, as checked above. The bytes between two of them were one
    // `&str` each, so they are UTF-8, and there are as many of them as the last offset says.
    unsafe {
        let offsets = OffsetBuffer::new_unchecked(ScalarBuffer::from(offsets));
        Ok(StringArray::new_unchecked(offsets, Buffer::from_vec(bytes), nulls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::Array;

    #[test]
    fn the_column_is_that_of_one_pass() {
        for rows in [0, 1, BLOCK_ROWS, BLOCK_ROWS + 3] {
            let text = |row: usize| (row % 3 != 1).then(|| "é".repeat(row % 4));
            let got = column(rows, &Control::default(), |range, block| {
                range.for_each(|row| block.push(text(row).as_deref()));
                Ok(())
            });
            let got = got.unwrap();
            got.to_data().validate_full().unwrap();
            assert_eq!(got, (0..rows).map(text).collect::<StringArray>());
        }
    }
}
