//! The rows of each example: what every per-example kernel iterates over.

use arrow_array::StringArray;

use crate::arrays::Chunked;
use crate::dealt::Dealt;
use crate::error::{Error, Result};
use crate::ids::{self, Item};
use crate::parallel::{self, Control};
use crate::strings;
use crate::texts::Texts;

/// The rows of a table by example, examples in the byte order of their ids, the rows of one
/// example in the order of the table.
pub struct Groups {
    /// Null where the table's own order is the order of the groups.
    rows: Option<Vec<usize>>,
    /// `rows[offsets[g]..offsets[g + 1]]` is example `g`.
    offsets: Vec<usize>,
}

impl Groups {
    /// Rows that lie in order cost one comparison each; others are sorted by runs of one id.
    /// Raises an error for a null id.
    pub fn new(column: &Chunked<Texts>, control: &Control) -> Result<Self> {
        let blocks = parallel::map(column.len(), control, |rows| runs(column, rows))?;
        let sorted = blocks.iter().all(|block| block.1);
        let mut starts: Vec<usize> = blocks.into_iter().flat_map(|block| block.0).collect();
        if sorted {
            starts.push(column.len());
            return Ok(Self { rows: None, offsets: starts });
        }
        starts.push(column.len());
        let runs = u32::try_from(starts.len() - 1)
            .map_err(|_| Error::input("more than 2^32 runs of ids: pass fewer rows"))?;
        // Where no two rows of one id lie together a run is a row: one wait for memory less.
        let apart = runs as usize == column.len();
        let rows_of = |run: u32| {
            let run = run as usize;
            if apart { run..run + 1 } else { starts[run]..starts[run + 1] }
        };
        let dealt = Dealt::new(runs, control, &|run| {
            column.get(rows_of(run).start).unwrap_or_default().as_bytes()
        })?;
        let parts = parallel::each(dealt.parts(), control, |part| {
            let ids = dealt.ids(part);
            let mut order: Vec<Item> = (0..ids.places.len() as u32).map(Item::new).collect();
            ids::sort(&mut order, &|at| ids.get(at));
            let (mut rows, mut firsts) = (Vec::with_capacity(order.len()), Vec::new());
            for item in order {
                if item.is_new {
                    firsts.push(rows.len());
                }
                rows.extend(rows_of(ids.places[item.place as usize]));
            }
            Ok((rows, firsts))
        })?;
        let mut rows = Vec::with_capacity(column.len());
        let mut offsets = Vec::new();
        for (part, firsts) in parts {
            let start = rows.len();
            offsets.extend(firsts.into_iter().map(|first| start + first));
            rows.extend(part);
        }
        offsets.push(rows.len());
        Ok(Self { rows: Some(rows), offsets })
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many rows the table has.
    pub fn rows(&self) -> usize {
        self.offsets[self.len()]
    }

    /// The rows of an example, in the order of the table.
    #[inline]
    pub fn rows_of(&self, group: usize) -> impl ExactSizeIterator<Item = usize> + Clone {
        let range = self.offsets[group]..self.offsets[group + 1];
        range.map(|i| self.rows.as_ref().map_or(i, |rows| rows[i]))
    }

    /// Whether any row of each example is such.
    pub fn any(&self, rows: &[bool], control: &Control) -> Result<Vec<bool>> {
        let mut out = vec![false; self.len()];
        parallel::fill(&mut out[..], control, |start, out| {
            for (i, out) in out.iter_mut().enumerate() {
                *out = self.rows_of(start + i).any(|row| rows[row]);
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// For each example of these groups the first row that it has in others; null where it has none.
    /// Also the first of the others' examples that is none of these.
    pub fn rows_in<'a>(
        &self,
        ids: &Chunked<Texts>,
        others: &Groups,
        other_ids: &'a Chunked<Texts>,
    ) -> (Vec<Option<usize>>, Option<&'a str>) {
        let mut stray = None;
        let mut rest =
            others.first_rows().map(|row| (row, other_ids.get(row).unwrap_or_default())).peekable();
        let mut found = Vec::with_capacity(self.len());
        // Both come in the order of their ids.
        for row in self.first_rows() {
            let id = ids.get(row).unwrap_or_default();
            while let Some((_, other)) = rest.next_if(|(_, other)| *other < id) {
                stray = stray.or(Some(other));
            }
            found.push(rest.next_if(|(_, other)| *other == id).map(|(row, _)| row));
        }
        (found, stray.or(rest.next().map(|(_, other)| other)))
    }

    /// The id of each example.
    pub fn ids(&self, ids: &Chunked<Texts>, control: &Control) -> Result<StringArray> {
        strings::column(self.len(), control, |range, out| {
            for group in range {
                out.push(self.rows_of(group).next().and_then(|row| ids.get(row)));
            }
            Ok(())
        })
    }

    /// The first row of each example.
    pub fn first_rows(&self) -> impl ExactSizeIterator<Item = usize> {
        (0..self.len()).map(|group| {
            let start = self.offsets[group];
            self.rows.as_ref().map_or(start, |rows| rows[start])
        })
    }
}

/// Where a new id begins within `rows`, and whether each such id is above the one before it.
fn runs(ids: &Chunked<Texts>, rows: std::ops::Range<usize>) -> Result<(Vec<usize>, bool)> {
    let mut starts = Vec::new();
    let mut rising = true;
    let mut previous = rows.start.checked_sub(1).and_then(|row| ids.get(row));
    for row in rows {
        let id = ids.get(row);
        if id.is_none() {
            return Err(Error::row(row, "example_id is null"));
        }
        if id != previous {
            rising &= previous < id;
            starts.push(row);
            previous = id;
        }
    }
    Ok((starts, rising))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::texts;
    use arrow_array::{Array, ArrayRef, StringArray};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn many_ids_that_begin_alike_are_grouped_on_all_threads() {
        // Enough for several parts, and for words that are alike; one id has a third of the rows, and
        // a few do not begin as most do.
        let n = 60_000;
        let id = |i: usize| {
            match i {
                _ if i.is_multiple_of(3) => return "https://example.org/3".to_owned(),
                _ if i % 20_011 == 1 => return "~\u{10ffff}".to_owned(),
                _ if i % 20_011 == 2 => return String::new(),
                _ => {}
            }
            let i = i.wrapping_mul(2_654_435_761) % (n / 3);
            format!("https://example.org/{}/articles/{}{}", i % 7, i / 4, "\0".repeat(i % 4))
        };
        let ids: Vec<String> = (0..n).map(id).collect();
        let mut want: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (row, id) in ids.iter().enumerate() {
            want.entry(id).or_default().push(row);
        }
        let array: ArrayRef = Arc::new(StringArray::from(ids.clone()));
        let control = Control::default();
        let column = texts(&[array], &control).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for groups in
            [Groups::new(&column, &control), pool.install(|| Groups::new(&column, &control))]
        {
            let groups = groups.unwrap();
            let got: Vec<Vec<usize>> =
                (0..groups.len()).map(|g| groups.rows_of(g).collect()).collect();
            assert!(got.iter().eq(want.values()));
        }
    }

    proptest! {
        #[test]
        fn groups_are_those_of_an_ordered_map(
            ids in prop::collection::vec("[ab\0]{0,2}|[a-z]{8,10}|(https://)?[ab]{6,9}/[a\0]{0,20}", 0..60),
            sorted: bool, cut in 0usize..40)
        {
            let mut ids = ids;
            if sorted {
                ids.sort();
            }
            let mut want: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for (row, id) in ids.iter().enumerate() {
                want.entry(id).or_default().push(row);
            }
            let array: ArrayRef = Arc::new(StringArray::from(ids.clone()));
            let cut = cut.min(ids.len());
            let chunks = [array.slice(0, cut), array.slice(cut, ids.len() - cut)];
            let control = Control::default();
            let groups = Groups::new(&texts(&chunks, &control).unwrap(), &control).unwrap();
            let got: Vec<Vec<usize>> = (0..groups.len()).map(|g| groups.rows_of(g).collect()).collect();
            prop_assert_eq!(got, want.into_values().collect::<Vec<_>>());
        }
    }
}
