//! Work split into blocks of rows: over the threads of the rayon pool it runs in, or one block
//! after another outside of any pool. How it is split never changes a result.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Rows a block holds: large enough to hide scheduling, small enough to cancel quickly.
pub const BLOCK_ROWS: usize = 8192;

/// Lets the caller stop the work between two blocks.
#[derive(Default)]
pub struct Control(AtomicBool);

impl Control {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Bytes that a kernel reads between two looks at the control.
const PACE_BYTES: usize = 1 << 20;

/// Looks at the control now and then: a block of few rows may hold very long texts.
pub struct Pace<'a> {
    control: &'a Control,
    left: usize,
}

impl<'a> Pace<'a> {
    pub fn new(control: &'a Control) -> Self {
        Self { control, left: PACE_BYTES }
    }

    /// To be called before so many bytes are read.
    #[inline]
    pub fn spend(&mut self, bytes: usize) -> Result<()> {
        if bytes < self.left {
            self.left -= bytes;
            return Ok(());
        }
        self.left = PACE_BYTES;
        self.control.check()
    }
}

fn in_pool() -> bool {
    rayon::current_thread_index().is_some()
}

/// Rows to be filled: a slice, or several of one length.
pub trait Rows: Send + Sized {
    fn rows(&self) -> usize;
    /// The rows before `row`, and those from it on.
    fn split(self, row: usize) -> (Self, Self);
}

impl<T: Send> Rows for &mut [T] {
    fn rows(&self) -> usize {
        self.len()
    }

    fn split(self, row: usize) -> (Self, Self) {
        self.split_at_mut(row)
    }
}

/// Fills `out` block by block: `work` gets the first row of a block and the block itself.
pub fn fill<R: Rows>(
    out: R,
    control: &Control,
    work: impl Fn(usize, R) -> Result<()> + Sync,
) -> Result<()> {
    let mut blocks = Vec::with_capacity(out.rows().div_ceil(BLOCK_ROWS));
    let mut rest = out;
    while rest.rows() > BLOCK_ROWS {
        let (block, after) = rest.split(BLOCK_ROWS);
        blocks.push(block);
        rest = after;
    }
    blocks.push(rest);
    let block = |(i, rows): (usize, R)| {
        control.check()?;
        work(i * BLOCK_ROWS, rows)
    };
    if in_pool() && blocks.len() > 1 {
        blocks.into_par_iter().enumerate().map(block).reduce(|| Ok(()), first_error)
    } else {
        blocks.into_iter().enumerate().try_for_each(block)
    }
}

/// So many values, each block of which `work` fills. It finds defaults there: memory is touched by
/// the thread that writes to it, a block at a time, and not by one thread before all others.
pub fn filled<T: Copy + Default + Send>(
    rows: usize,
    control: &Control,
    work: impl Fn(usize, &mut [T]) -> Result<()> + Sync,
) -> Result<Vec<T>> {
    let mut values = Vec::with_capacity(rows);
    fill(&mut values.spare_capacity_mut()[..rows], control, |start, block: &mut [_]| {
        block.fill(MaybeUninit::new(T::default()));
        // SAFETY: every value of the block was just set, and a MaybeUninit<T> lies as a T does.
        work(start, unsafe { slice::from_raw_parts_mut(block.as_mut_ptr().cast(), block.len()) })
    })?;
    // SAFETY: without an error every block was set, and together they are the `rows`.
    unsafe { values.set_len(rows) };
    Ok(values)
}

/// The value of `work` for each block of `0..rows`, in order.
pub fn map<T: Send>(
    rows: usize,
    control: &Control,
    work: impl Fn(Range<usize>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    each(rows.div_ceil(BLOCK_ROWS), control, |i| {
        work(i * BLOCK_ROWS..rows.min((i + 1) * BLOCK_ROWS))
    })
}

/// The value of `work` for each of `0..parts`, in order.
pub fn each<T: Send>(
    parts: usize,
    control: &Control,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let part = |i: usize| {
        control.check()?;
        work(i)
    };
    let results: Vec<Result<T>> = if in_pool() && parts > 1 {
        (0..parts).into_par_iter().map(part).collect()
    } else {
        (0..parts).map(part).collect()
    };
    let mut values = Vec::with_capacity(parts);
    let mut failed: Option<Error> = None;
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(error) => failed = Some(failed.map_or(error.clone(), |f| f.first(error))),
        }
    }
    failed.map_or(Ok(values), Err)
}

fn first_error(a: Result<()>, b: Result<()>) -> Result<()> {
    match (a, b) {
        (Err(a), Err(b)) => Err(a.first(b)),
        (Err(e), Ok(())) | (Ok(()), Err(e)) => Err(e),
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// Whether any value is such.
pub fn any<T: Sync>(values: &[T], such: impl Fn(&T) -> bool + Sync) -> bool {
    // Without an exit within a block, which would keep the compiler from comparing many at once.
    let block = |values: &[T]| values.iter().fold(false, |any, value| any | such(value));
    if in_pool() && values.len() > BLOCK_ROWS {
        values.par_chunks(BLOCK_ROWS).any(block)
    } else {
        values.chunks(BLOCK_ROWS).any(block)
    }
}

/// Sorts, with ties in their order.
pub fn sort<T: Ord + Send>(items: &mut [T]) {
    if in_pool() { items.par_sort() } else { items.sort() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_is_whole_or_an_error() {
        let control = Control::default();
        for rows in [0, 1, BLOCK_ROWS, BLOCK_ROWS + 3] {
            let found = filled(rows, &control, |start, block: &mut [usize]| {
                assert!(block.iter().all(|x| *x == 0));
                block.iter_mut().enumerate().for_each(|(i, x)| *x = start + i);
                Ok(())
            });
            assert_eq!(found.unwrap(), (0..rows).collect::<Vec<_>>());
        }
        let failed = filled(BLOCK_ROWS + 3, &control, |start, _: &mut [f64]| {
            if start == 0 { Ok(()) } else { Err(Error::row(start, "is none".to_owned())) }
        });
        assert!(failed.unwrap_err().to_string().contains(&BLOCK_ROWS.to_string()));
    }
}
