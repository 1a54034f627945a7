//! What Arrow promises and a foreign buffer need not keep: offsets that rise and stay within the
//! values, views and keys that point to something, texts that are UTF-8.
//!
//! Arrays come through the C data interface as they are, and every reader in `arrays` relies on
//! these promises, so they are checked there, once, for all kernels. What lies beneath a null is
//! never read and may be anything.

use std::ops::Range;

use arrow_array::{Array, StringViewArray};
use arrow_buffer::NullBuffer;

use crate::error::{Error, Result};
use crate::parallel::{self, Control};

/// An offset, a size or a key.
pub trait Index: Copy + Sync + PartialOrd + std::fmt::Display {
    /// As a place in memory; none where it is negative.
    fn place(self) -> Option<usize>;
}

macro_rules! index {
    ($($type:ty),*) => {$(
        impl Index for $type {
            #[inline]
            fn place(self) -> Option<usize> {
                usize::try_from(self).ok()
            }
        }
    )*};
}

index!(i8, i16, i32, i64, u8, u16, u32, u64);

/// Whether this slot holds a value.
fn valid(nulls: Option<&NullBuffer>, row: usize) -> bool {
    nulls.is_none_or(|nulls| nulls.is_valid(row))
}

/// Offsets of lists or texts: they begin at 0 or above, never fall, and end within `len` values.
pub fn offsets<O: Index>(offsets: &[O], len: usize, control: &Control) -> Result<()> {
    let rows = offsets.len().saturating_sub(1);
    parallel::map(rows, control, |range| {
        let here = &offsets[range.start..=range.end];
        // Without an exit within the block, so that many are compared at once.
        let falls = here.windows(2).fold(false, |falls, pair| falls | (pair[0] > pair[1]));
        let ends = [here[0], here[here.len() - 1]].map(Index::place);
        if !falls && ends.iter().all(|end| end.is_some_and(|end| end <= len)) {
            return Ok(());
        }
        let bad = here.windows(2).position(|pair| {
            pair[0].place().is_none()
                || pair[0] > pair[1]
                || pair[1].place().is_none_or(|end| end > len)
        });
        let row = range.start + bad.unwrap_or_default();
        let (start, end) = (offsets[row], offsets[row + 1]);
        Err(Error::row(row, format!("offsets {start} to {end} do not lie among {len} values")))
    })?;
    Ok(())
}

/// The same of views: lists that say where they begin and how long they are.
pub fn spans<O: Index>(
    starts: &[O],
    sizes: &[O],
    nulls: Option<&NullBuffer>,
    len: usize,
    control: &Control,
) -> Result<()> {
    each(starts.len(), control, |row| {
        let span = starts[row].place().zip(sizes[row].place());
        let within =
            span.and_then(|(start, size)| start.checked_add(size)).is_some_and(|e| e <= len);
        if within || !valid(nulls, row) {
            return Ok(());
        }
        let (start, size) = (starts[row], sizes[row]);
        Err(format!("a list of {size} from {start} on does not lie among {len} values"))
    })
}

/// Keys of a dictionary of `len` values.
pub fn keys<K: Index>(
    keys: &[K],
    nulls: Option<&NullBuffer>,
    len: usize,
    control: &Control,
) -> Result<()> {
    each(keys.len(), control, |row| {
        if keys[row].place().is_some_and(|key| key < len) || !valid(nulls, row) {
            return Ok(());
        }
        Err(format!("key {} into a dictionary of {len} values", keys[row]))
    })
}

/// Texts that lie one after another: their offsets, and that each is UTF-8.
pub fn texts<O: Index>(
    ends: &[O],
    bytes: &[u8],
    nulls: Option<&NullBuffer>,
    control: &Control,
) -> Result<()> {
    offsets(ends, bytes.len(), control)?;
    let place = |row: usize| ends[row].place().unwrap_or_default();
    parallel::map(ends.len().saturating_sub(1), control, |range| {
        if all_utf8(&bytes[place(range.start)..place(range.end)], range.clone().map(place), bytes) {
            return Ok(());
        }
        for row in range {
            if valid(nulls, row) {
                utf8(&bytes[place(row)..place(row + 1)])
                    .map_err(|message| Error::row(row, message))?;
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// Whether a block of texts is UTF-8 as a whole and none begins within a character.
fn all_utf8(block: &[u8], mut starts: impl Iterator<Item = usize>, bytes: &[u8]) -> bool {
    let within = |start: usize| bytes.get(start).is_some_and(|b| b & 0xc0 == 0x80);
    block.is_ascii() || std::str::from_utf8(block).is_ok() && !starts.any(within)
}

fn utf8(text: &[u8]) -> std::result::Result<(), String> {
    match std::str::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("no UTF-8 at byte {}", error.valid_up_to())),
    }
}

/// Texts that are views into buffers.
pub fn text_views(array: &StringViewArray, control: &Control) -> Result<()> {
    let (views, buffers) = (array.views(), array.data_buffers());
    each(views.len(), control, |row| {
        if !valid(array.nulls(), row) {
            return Ok(());
        }
        let view = views[row];
        let length = view as u32 as usize;
        if length <= 12 {
            return utf8(&view.to_le_bytes()[4..4 + length]);
        }
        let (buffer, start) = ((view >> 64) as u32, (view >> 96) as u32 as usize);
        let text = buffers.get(buffer as usize).and_then(|b| b.get(start..start + length));
        match text {
            Some(text) => utf8(text),
            None => {
                Err(format!("a text of {length} bytes from {start} on is not in buffer {buffer}"))
            }
        }
    })
}

fn each(
    rows: usize,
    control: &Control,
    check: impl Fn(usize) -> std::result::Result<(), String> + Sync,
) -> Result<()> {
    parallel::map(rows, control, |range: Range<usize>| {
        for row in range {
            check(row).map_err(|message| Error::row(row, message))?;
        }
        Ok(())
    })?;
    Ok(())
}
